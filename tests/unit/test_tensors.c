/* Model files: what is written is read back, and what others write is refused with a reason. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "worker/model/tensors.h"

static const struct tensor_spec specs[] = {
    {"layer0.weight", 3, 4, TENSOR_GLOROT_UNIFORM, true},
    {"layer0.bias", 1, 4, TENSOR_ZEROS, false},
    {"layer1.weight", 4, 2, TENSOR_GLOROT_UNIFORM, true},
};
enum { FLOATS = 12 + 4 + 8 };

/* Names, shapes, order, numbers to the bit and metadata survive; the data is aligned. */
START_TEST(tensors_round_trip) {
    const char *path = test_path(test_tmpdir(), "model.safetensors");
    float weights[FLOATS];
    for (int i = 0; i < FLOATS; i++)
        weights[i] = (float)i / 7 - 1;
    weights[3] = -0.0F;
    struct error err = {0};
    json_t *metadata = json_pack("{s:s, s:s}", "kind", "gcn", "classes", "Grüße \"x\"\n");
    ck_assert_msg(tensors_write(path, specs, 3, weights, metadata, &err) == 0, "%s", err.text);

    struct tensor_spec *tensors;
    size_t count;
    float *read;
    json_t *got;
    ck_assert_msg(tensors_read(path, &tensors, &count, &read, &got, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(count, 3);
    for (size_t i = 0; i < 3; i++) {
        ck_assert_str_eq(tensors[i].name, specs[i].name);
        ck_assert_uint_eq(tensors[i].rows, specs[i].rows);
        ck_assert_uint_eq(tensors[i].cols, specs[i].cols);
    }
    ck_assert_mem_eq(read, weights, sizeof weights);
    ck_assert(json_equal(got, metadata));
    size_t len;
    char *bytes = test_read_file(path, &len);
    ck_assert_uint_eq((len - sizeof weights) % 64, 0);
    free(bytes);
    mem_free(tensors);
    mem_free(read);
    json_decref(got);
    json_decref(metadata);
}
END_TEST

/* Metadata that the format does not allow is not written, nor is anything else then. */
START_TEST(metadata_must_be_strings) {
    const char *path = test_path(test_tmpdir(), "model.safetensors");
    float weights[FLOATS] = {0};
    struct error err = {0};
    json_t *metadata = json_pack("{s:i}", "accuracy", 81);
    ck_assert_int_eq(tensors_write(path, specs, 3, weights, metadata, &err), ERR_FORMAT);
    ck_assert_msg(strstr(err.text, "accuracy") != NULL, "%s", err.text);
    ck_assert_ptr_null(fopen(path, "r"));
    json_decref(metadata);
}
END_TEST

/* A header with 16 bytes of data after it, and the word that the refusal must contain; NULL: it is
 * fine. claims: length written before the header when it is not the true one. */
static const struct {
    const char *header, *word;
    int64_t claims;
} cases[] = {
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}", NULL, -1},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}   ", NULL, -1},
    {"{\"b\":{\"dtype\":\"F32\",\"shape\":[1,3],\"data_offsets\":[4,16]},"
     "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
     NULL, -1},
    {"", "header is not JSON", -1},
    {"{", "header is not JSON", -1},
    {"[]", "not an object", -1},
    {"{}", "no tensor", -1},
    {"{\"__metadata__\":{\"a\":\"b\"}}", "no tensor", -1},
    {"{\"__metadata__\":[],\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
     "__metadata__", -1},
    {"{\"__metadata__\":{\"k\":1},\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
     "__metadata__.k", -1},
    {"{\"a\":1}", "dtype", -1},
    {"{\"a\":{\"dtype\":\"F16\",\"shape\":[8],\"data_offsets\":[0,16]}}", "F16", -1},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]},"
     "\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
     "duplicate", -1},
    {"{\"a/b\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", "name", -1},
    {"{\"\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", "name", -1},
    {"{\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\":"
     "{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
     "name", -1},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,16]}}", "shape", -1},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,4],\"data_offsets\":[0,16]}}", "shape", -1},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-4],\"data_offsets\":[0,16]}}", "shape", -1},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[0,16]}}", "shape", -1},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4.0],\"data_offsets\":[0,16]}}", "shape", -1},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999],\"data_offsets\":[0,16]}}", "shape", -1},
    /* rows * cols * 4 wraps round to 16 in 64 bits */
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2147483649,2147483652],\"data_offsets\":[0,16]}}",
     "bytes of data for a shape", -1},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,20]}}", "data_offsets", -1},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[16,0]}}", "data_offsets", -1},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[-16,0]}}", "data_offsets", -1},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[16]}}", "data_offsets", -1},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4]}}", "data_offsets", -1},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,16]}}", "for a shape", -1},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,15]}}", "for a shape", -1},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]}}", "16 bytes of data", -1},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[4,16]}}", "begins at byte 4", -1},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]},"
     "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}",
     "begins at byte 8", -1},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", "claims a header", 1000},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", "claims a header",
     INT64_MAX},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", "not JSON", 10},
};

START_TEST(strange_headers_are_refused) {
    const char *path = test_path(test_tmpdir(), "model.safetensors");
    size_t header = strlen(cases[_i].header);
    uint64_t length = cases[_i].claims < 0 ? header : (uint64_t)cases[_i].claims;
    char *bytes = mem_alloc(8 + header + 16);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, cases[_i].header, header);
    test_write_file(path, bytes, 8 + header + 16);

    struct tensor_spec *tensors = NULL;
    size_t count = 0;
    float *weights = NULL;
    json_t *metadata = NULL;
    struct error err = {0};
    int r = tensors_read(path, &tensors, &count, &weights, &metadata, &err);
    if (cases[_i].word) {
        ck_assert_int_eq(r, ERR_FORMAT);
        ck_assert_msg(strstr(err.text, cases[_i].word) != NULL, "'%s' lacks '%s'", err.text,
                      cases[_i].word);
        ck_assert_msg(strstr(err.text, path) != NULL, "'%s' does not name the file", err.text);
        ck_assert_ptr_null(tensors);
    } else {
        ck_assert_msg(r == 0, "%s", err.text);
        ck_assert_str_eq(tensors[0].name, "a"); /* in the order of the data */
        ck_assert_uint_eq(json_object_size(metadata), 0);
    }
    mem_free(tensors);
    mem_free(weights);
    json_decref(metadata);
    mem_free(bytes);
}
END_TEST

/* Cut anywhere, a file is refused. */
START_TEST(truncated_files_are_refused) {
    const char *dir = test_tmpdir();
    const char *path = test_path(dir, "model.safetensors"), *cut = test_path(dir, "cut");
    float weights[FLOATS] = {0};
    struct error err = {0};
    json_t *metadata = json_object();
    ck_assert_msg(tensors_write(path, specs, 3, weights, metadata, &err) == 0, "%s", err.text);
    json_decref(metadata);
    size_t len;
    char *bytes = test_read_file(path, &len);
    for (size_t n = 0; n < len; n++) {
        struct tensor_spec *tensors;
        size_t count;
        float *read;
        test_write_file(cut, bytes, n);
        ck_assert_int_eq(tensors_read(cut, &tensors, &count, &read, &metadata, &err), ERR_FORMAT);
    }
    free(bytes);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("tensors");
    TCase *tcase = tcase_create("tensors");
    tcase_add_test(tcase, tensors_round_trip);
    tcase_add_test(tcase, metadata_must_be_strings);
    tcase_add_loop_test(tcase, strange_headers_are_refused, 0, ARRAY_LEN(cases));
    tcase_add_test(tcase, truncated_files_are_refused);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
