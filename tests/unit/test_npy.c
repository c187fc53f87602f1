/* NumPy arrays: what is written is what NumPy reads, what NumPy writes is read, anything else is
 * refused with a sentence. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/npy.h"
#include "common/vec.h"
#include "tests/test.h"

/* The bytes of a .npy file with this header text and so many bytes of data. */
static size_t make(uint8_t *to, int version, const char *text, size_t data_bytes) {
    size_t start = version == 1 ? 10 : 12, text_len = strlen(text);
    size_t padded = (start + text_len + 1 + 63) / 64 * 64 - start;
    memcpy(to, "\x93NUMPY", 6);
    to[6] = (uint8_t)version;
    to[7] = 0;
    memset(to + 8, 0, 4);
    to[8] = (uint8_t)padded;
    to[9] = (uint8_t)(padded >> 8);
    memset(to + start, ' ', padded);
    memcpy(to + start, text, text_len);
    to[start + padded - 1] = '\n';
    for (size_t i = 0; i < data_bytes; i++)
        to[start + padded + i] = (uint8_t)(i + 1);
    return start + padded + data_bytes;
}

/* Every type comes back with its values, as it was written and through the converting readers. */
START_TEST(test_types) {
    static const int64_t wanted[3] = {0, 1, 100};
    const char *path = test_path(test_tmpdir(), "a.npy");
    for (int type = 0; type < NPY_TYPE_END; type++) {
        uint8_t items[3 * 8] = {0};
        for (size_t i = 0; i < 3; i++) {
            float f4 = (float)wanted[i];
            double f8 = (double)wanted[i];
            uint16_t f2;
            vec()->halve(&f4, 1, NULL, &f2);
            const void *from = type == NPY_F2   ? (const void *)&f2
                               : type == NPY_F4 ? (const void *)&f4
                               : type == NPY_F8 ? (const void *)&f8
                                                : (const void *)&wanted[i];
            memcpy(items + i * npy_item_bytes(type), from, npy_item_bytes(type));
        }
        struct error err = {0};
        struct npy npy = {0};
        ck_assert_int_eq(npy_write(path, type, 3, 0, items, &err), 0);
        ck_assert_int_eq(npy_open_as(path, type, 3, 0, &npy, &err), 0);
        ck_assert_uint_eq(npy.dims, 1);
        ck_assert_uint_eq(npy.count, 3);
        ck_assert_mem_eq(npy.data, items, 3 * npy_item_bytes(type));
        ck_assert_uint_eq((uintptr_t)npy.data % 64, 0);
        for (size_t i = 0; i < 3; i++) {
            ck_assert_int_eq(npy_int(&npy, i), wanted[i]);
            ck_assert(npy_double(&npy, i) == (double)wanted[i]);
        }
        npy_close(&npy);
        npy_close(&npy);
    }
}
END_TEST

/* The header is the one of the format's description, to the byte. */
START_TEST(test_header_bytes) {
    const char *path = test_path(test_tmpdir(), "a.npy");
    float items[6] = {1, 2, 3, 4, 5, 6};
    ck_assert_int_eq(npy_write(path, NPY_F4, 2, 3, items, NULL), 0);
    size_t len;
    char *bytes = test_read_file(path, &len);
    ck_assert_uint_eq(len, 128 + sizeof items);
    ck_assert_mem_eq(bytes, "\x93NUMPY\x01\x00\x76\x00", 10);
    const char *text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
    ck_assert_mem_eq(bytes + 10, text, strlen(text));
    for (size_t i = 10 + strlen(text); i < 127; i++)
        ck_assert_int_eq(bytes[i], ' ');
    ck_assert_int_eq(bytes[127], '\n');
    ck_assert_mem_eq(bytes + 128, items, sizeof items);
    free(bytes);
    ck_assert_int_eq(npy_write(path, NPY_I8, 0, 0, NULL, NULL), 0);
    bytes = test_read_file(path, &len);
    ck_assert_uint_eq(len, 128);
    ck_assert_ptr_nonnull(
        strstr(bytes + 10, "'descr': '<i8', 'fortran_order': False, 'shape': (0,), }"));
    free(bytes);
}
END_TEST

/* A stream of unknown length gets its rows at the commit; half a row is refused, and leaves
 * nothing. */
START_TEST(test_stream) {
    const char *dir = test_tmpdir(), *path = test_path(dir, "a.npy");
    struct error err = {0};
    struct npy_writer *writer;
    ck_assert_int_eq(npy_create(path, NPY_I4, 3, &writer, &err), 0);
    for (int32_t i = 0; i < 30000; i++)
        ck_assert_int_eq(npy_append(writer, &i, 1, &err), 0);
    ck_assert(!file_exists(path));
    ck_assert_int_eq(npy_commit(writer, &err), 0);
    struct npy npy;
    ck_assert_int_eq(npy_open_as(path, NPY_I4, UINT64_MAX, 3, &npy, &err), 0);
    ck_assert_uint_eq(npy.shape[0], 10000);
    for (uint64_t i = 0; i < npy.count; i++)
        ck_assert_int_eq(npy_int(&npy, i), (int64_t)i);
    npy_close(&npy);

    const char *half = test_path(dir, "half.npy");
    ck_assert_int_eq(npy_create(half, NPY_I4, 3, &writer, &err), 0);
    ck_assert_int_eq(npy_append(writer, &(int32_t[2]){1, 2}, 2, &err), 0);
    ck_assert_int_eq(npy_commit(writer, &err), ERR_INTERNAL);
    ck_assert_int_eq(npy_create(half, NPY_I4, 3, &writer, &err), 0);
    ck_assert_ptr_null(npy_abandon(writer));
    ck_assert_ptr_null(npy_abandon(NULL));
    char **names;
    size_t count;
    ck_assert_int_eq(dir_list(dir, &names, &count, NULL), 0);
    ck_assert_uint_eq(count, 1);
    dir_list_free(names, count);
}
END_TEST

/* Headers as other versions and writers make them. */
START_TEST(test_accepted) {
    static const struct {
        int version;
        const char *text;
        size_t bytes;
        uint64_t count;
        size_t dims;
    } cases[] = {
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 24, 6, 2},
        {2, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 24, 6, 2},
        {3, "{\"shape\":(2,3),\"fortran_order\":False,\"descr\":\"<i8\"}", 48, 6, 2},
        {1, "{'shape': (3L,), 'fortran_order': True, 'descr': '<u2'}", 6, 3, 1},
        {1, "{'descr': '<b1', 'fortran_order': False, 'shape': (), }", 1, 1, 0},
        {1, "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 7), }", 0, 0, 2},
        {1, "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 1, 2, 1), }", 40, 4, 4},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _Alignas(64) uint8_t bytes[512];
        size_t len = make(bytes, cases[i].version, cases[i].text, cases[i].bytes);
        struct npy npy;
        struct error err = {0};
        ck_assert_msg(npy_parse(bytes, len, &npy, &err) == 0, "%zu: %s", i, err.text);
        ck_assert_uint_eq(npy.count, cases[i].count);
        ck_assert_uint_eq(npy.dims, cases[i].dims);
    }
}
END_TEST

/* An array that runs the other way is read by those who heed that, and by nobody else. */
START_TEST(test_fortran) {
    _Alignas(64) uint8_t bytes[512];
    const char *path = test_path(test_tmpdir(), "fortran.npy");
    size_t len = make(bytes, 1, "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", 24);
    struct npy npy;
    struct error err = {0};
    test_write_file(path, bytes, len);
    ck_assert_int_eq(npy_open_as(path, NPY_F4, 2, 3, &npy, &err), ERR_FORMAT);
    ck_assert_ptr_nonnull(strstr(err.text, "ascontiguousarray"));
    ck_assert_int_eq(npy_open(path, &npy, &err), 0);
    ck_assert(npy.fortran && npy.shape[0] == 2 && npy.shape[1] == 3);
    npy_close(&npy);
}
END_TEST

/* Each wrong header has a sentence of its own, and the result is untouched. */
START_TEST(test_refused) {
    static const struct {
        int version;
        const char *text;
        const char *says;
    } cases[] = {
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4), }", "cut off"},
        {1, "{'descr': '<f8', 'fortran_order': False, 'shape': (4,), }", "cut off"},
        {1, "{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }", "astype"},
        {1, "{'descr': '<c8', 'fortran_order': False, 'shape': (2,), }", "astype"},
        {1, "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", "astype"},
        {1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }", "records"},
        {1, "{'descr': '<f4', 'fortran_order': 0, 'shape': (2, 2), }", "fortran_order"},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': 2, }", "shape"},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }", "shape"},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2", "shape"},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1, 1, 1), }", "dimensions"},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551616,), }",
         "shape"},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387905,), }",
         "memory"},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 0), }",
         "memory"},
        {1, "{'descr': '<f4', 'fortran_order': False}", "lacks"},
        {1, "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", "twice"},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1}", "unknown name 'x'"},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} {}", "goes on"},
        {1, "['descr']", "dictionary"},
        {4, "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", "version 4.0"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _Alignas(64) uint8_t bytes[512];
        size_t len = make(bytes, cases[i].version, cases[i].text, 31);
        struct npy npy = {.count = 77};
        struct error err = {0};
        ck_assert_int_eq(npy_parse(bytes, len, &npy, &err), ERR_FORMAT);
        ck_assert_msg(strstr(err.text, cases[i].says), "%s: %s", cases[i].text, err.text);
        ck_assert_uint_eq(npy.count, 77);
    }
    /* A header that is shorter than it says, and one that leaves floats unaligned. */
    _Alignas(64) uint8_t bytes[512];
    size_t len = make(bytes, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", 4);
    struct npy npy;
    struct error err = {0};
    ck_assert_int_eq(npy_parse(bytes, 40, &npy, &err), ERR_FORMAT);
    ck_assert_ptr_nonnull(strstr(err.text, "within its header"));
    bytes[8] -= 1;
    memmove(bytes + len - 5, bytes + len - 4, 4);
    ck_assert_int_eq(npy_parse(bytes, len - 1, &npy, &err), ERR_FORMAT);
    ck_assert_ptr_nonnull(strstr(err.text, "unaligned"));
}
END_TEST

/* Bytes behind the array are counted, not read. */
START_TEST(test_extra) {
    _Alignas(64) uint8_t bytes[512];
    size_t len = make(bytes, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", 4 + 7);
    struct npy npy;
    struct error err = {0};
    ck_assert_int_eq(npy_parse(bytes, len, &npy, &err), 0);
    ck_assert_uint_eq(npy.count, 1);
    ck_assert_uint_eq(npy.extra, 7);
    ck_assert_int_eq(npy_parse(bytes, len - 7, &npy, &err), 0);
    ck_assert_uint_eq(npy.extra, 0);
}
END_TEST

/* The wrong file for a purpose: both shapes are named, with the path. */
START_TEST(test_open_as) {
    const char *dir = test_tmpdir(), *path = test_path(dir, "a.npy");
    struct error err = {0};
    struct npy npy = {0};
    double items[6] = {0};
    ck_assert_int_eq(npy_write(path, NPY_F8, 2, 3, items, &err), 0);
    ck_assert_int_eq(npy_open_as(path, NPY_F8, UINT64_MAX, UINT64_MAX, &npy, &err), 0);
    npy_close(&npy);
    ck_assert_int_eq(npy_open_as(path, NPY_F4, UINT64_MAX, 4, &npy, &err), ERR_FORMAT);
    ck_assert_msg(strstr(err.text, path) && strstr(err.text, "<f8 of shape (2, 3)") &&
                      strstr(err.text, "<f4 of shape (any, 4)"),
                  "%s", err.text);
    ck_assert_int_eq(npy_open_as(path, NPY_F8, 3, 3, &npy, &err), ERR_FORMAT);
    ck_assert_int_eq(npy_open_as(path, NPY_F8, 2, 0, &npy, &err), ERR_FORMAT);
    ck_assert_msg(strstr(err.text, "(2,)"), "%s", err.text);
    ck_assert_int_eq(npy_open(test_path(dir, "b.npy"), &npy, &err), ERR_NOT_FOUND);
    test_write_file(path, "PK", 2);
    ck_assert_int_eq(npy_open(path, &npy, &err), ERR_FORMAT);
    ck_assert_msg(strncmp(err.text, path, strlen(path)) == 0, "%s", err.text);
}
END_TEST

/* Numbers that the asked type cannot hold come out at its ends, never undefined. */
START_TEST(test_conversions) {
    const double doubles[] = {1e300, -1e300, NAN, 0x1p63, -0x1p63, 2.9};
    const int64_t wanted[] = {INT64_MAX, INT64_MIN, INT64_MIN, INT64_MAX, INT64_MIN, 2};
    struct npy npy = {.type = NPY_F8, .count = 6, .data = doubles};
    for (size_t i = 0; i < 6; i++)
        ck_assert_int_eq(npy_int(&npy, i), wanted[i]);
    const uint64_t large = UINT64_MAX;
    npy = (struct npy){.type = NPY_U8, .count = 1, .data = &large};
    ck_assert_int_eq(npy_int(&npy, 0), INT64_MAX);
    ck_assert(npy_double(&npy, 0) == 0x1p64);
    const int8_t small = -3;
    npy = (struct npy){.type = NPY_I1, .count = 1, .data = &small};
    ck_assert_int_eq(npy_int(&npy, 0), -3);
    ck_assert(npy_double(&npy, 0) == -3);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("npy");
    TCase *tcase = tcase_create("npy");
    tcase_add_test(tcase, test_types);
    tcase_add_test(tcase, test_header_bytes);
    tcase_add_test(tcase, test_stream);
    tcase_add_test(tcase, test_accepted);
    tcase_add_test(tcase, test_fortran);
    tcase_add_test(tcase, test_refused);
    tcase_add_test(tcase, test_extra);
    tcase_add_test(tcase, test_open_as);
    tcase_add_test(tcase, test_conversions);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
