/* Opening a part: what is looked at, what is remembered of it, and the arrays that not every graph
 * has. What a part holds is test_partition's matter. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/npy.h"
#include "common/vec.h"
#include "tests/graphs.h"
#include "tests/test.h"
#include "worker/graph/manifest.h"
#include "worker/graph/partition.h"
#include "worker/graph/sampler.h"
#include "worker/graph/stamp.h"

enum { DIM = 5, EDGE_TYPES = 3 };
static const char *dir; /* of the snapshot */
static char *part;      /* directory of its second part */

static void make_graph(void) {
    dir = graphs_partitioned(test_tmpdir(), "g", 80, 3, 6, DIM, 1, 2, 1);
    part = mem_strdup(test_path(dir, "partitions/2x1/part-1"));
}

static void forget_graph(void) {
    mem_free(part);
}

static int open_part(bool verify, bool normalize, struct store **ret, struct error *reterr) {
    *ret = NULL;
    return store_open(dir, 2, 1, 1, verify, normalize, ret, reterr);
}

static struct store *must_open(bool verify, bool normalize) {
    struct store *store;
    struct error err;
    ck_assert_msg(open_part(verify, normalize, &store, &err) == 0, "%s", err.text);
    return store;
}

static json_t *read_manifest(void) {
    json_t *manifest;
    struct error err;
    ck_assert_msg(manifest_read(part, MANIFEST_ALONE, &manifest, &err) == 0, "%s", err.text);
    return manifest;
}

static void write_manifest(json_t *fields) {
    struct error err;
    ck_assert_msg(manifest_write(part, fields, &err) == 0, "%s", err.text);
    json_decref(fields);
}

static void write_array(const char *name, enum npy_type type, uint64_t rows, uint64_t cols,
                        const void *items) {
    struct error err;
    ck_assert_msg(npy_write(test_path(part, name), type, rows, cols, items, &err) == 0, "%s",
                  err.text);
}

/* The note says so for files as they are now. */
static void expect_note(enum stamp_level level) {
    json_t *manifest = read_manifest();
    char *state = stamp_state(part, manifest);
    ck_assert_int_eq(stamp_read(part, state), level);
    mem_free(state);
    json_decref(manifest);
}

static bool note_is_there(void) {
    return file_exists(test_path(part, ".verified"));
}

/* Opens it again and again until the files are old enough for a note. */
static void open_until_noted(bool verify) {
    do
        store_close(must_open(verify, false));
    while (!note_is_there());
}

static void flip_last_byte(const char *name) {
    size_t len;
    const char *path = test_path(part, name);
    char *bytes = test_read_file(path, &len);
    bytes[len - 1] ^= 1;
    test_write_file(path, bytes, len);
    free(bytes);
}

/* Files that have just been written leave no note; later ones do; any change is seen; and a note
 * that fits is believed, else opening would not be quick. */
START_TEST(what_was_verified_is_remembered) {
    struct store *store;
    struct error err = {0};
    flip_last_byte("features.npy");
    flip_last_byte("features.npy");
    store_close(must_open(true, false));
    ck_assert(!note_is_there());

    open_until_noted(false);
    expect_note(STAMP_CHECKED);
    store_close(must_open(true, false));
    expect_note(STAMP_VERIFIED);
    store_close(must_open(false, false)); /* does not take it back */
    expect_note(STAMP_VERIFIED);

    flip_last_byte("features.npy");
    ck_assert_int_eq(open_part(true, false, &store, &err), ERR_CHECKSUM);
    ck_assert_ptr_nonnull(strstr(err.text, "part-1/features.npy"));
    expect_note(STAMP_NONE);

    json_t *manifest = read_manifest();
    char *state = stamp_state(part, manifest);
    char *text = mem_printf("graphps 1: these files were verified\n%s", state);
    test_write_file(test_path(part, ".verified"), text, strlen(text));
    store_close(must_open(true, false)); /* a lie, believed */
    mem_free(text);
    mem_free(state);
    json_decref(manifest);

    flip_last_byte("features.npy");
    ck_assert_int_eq(remove(test_path(part, ".verified")), 0);
    open_until_noted(true);
    expect_note(STAMP_VERIFIED);
}
END_TEST

/* Without features a batch has none, full or sampled. */
START_TEST(features_may_be_missing) {
    json_t *manifest = read_manifest();
    ck_assert_int_eq(remove(test_path(part, "features.npy")), 0);
    json_object_set_new(manifest, "feature_dim", json_integer(0));
    write_manifest(manifest);
    struct store *store = must_open(true, false);
    ck_assert_uint_eq(store->feature_dim, 0);
    ck_assert_ptr_null(store->features);
    ck_assert_ptr_null(store->half_features);
    struct config *config = config_new();
    struct sampler *sampler = sampler_new(store, config, 0);
    ck_assert_uint_gt(sampler_next(sampler)->n_input, 0);
    sampler_free(sampler);
    full_batch_free(full_batch_new(store, &(struct hops){2, {GRAPH_SYM, GRAPH_SYM}}));
    config_free(config);
    store_close(store);
}
END_TEST

/* Halves and normalised rows come as floats, in a batch of either mode. */
START_TEST(features_may_be_halves) {
    struct store *store = must_open(true, false);
    size_t count = store->local * DIM;
    float *floats = mem_array(count, sizeof *floats), *sums = mem_array(store->local, 4);
    uint16_t *halves = mem_array(count, sizeof *halves);
    vec()->halve(store->features, count, NULL, halves);
    vec()->half_axpy(1, halves, count, floats);
    uint64_t local = store->local;
    for (uint64_t i = 0; i < count; i++)
        sums[i / DIM] += floats[i];
    store_close(store);
    write_array("features.npy", NPY_F2, local, DIM, halves);
    write_manifest(read_manifest());

    for (int normalize = 0; normalize < 2; normalize++) {
        store = must_open(true, normalize);
        ck_assert_ptr_null(store->features);
        struct config *config = config_new();
        struct sampler *sampler = sampler_new(store, config, 0);
        struct full_batch *full = full_batch_new(store, &(struct hops){2, {GRAPH_SYM, GRAPH_SYM}});
        const struct batch *batches[] = {full_batch_get(full), sampler_next(sampler)};
        for (int b = 0; b < 2; b++)
            for (uint32_t i = 0; i < batches[b]->n_input; i++) {
                uint64_t l = 0;
                while (store->nodes[l] != batches[b]->nodes[i])
                    l++;
                for (uint64_t j = 0; j < DIM; j++) {
                    float wanted = floats[l * DIM + j] / (normalize ? sums[l] : 1);
                    ck_assert_float_eq_tol(batches[b]->features[i * DIM + j], wanted,
                                           1e-5F * fabsf(wanted));
                }
            }
        full_batch_free(full);
        sampler_free(sampler);
        config_free(config);
        store_close(store);
    }
    mem_free(floats);
    mem_free(halves);
    mem_free(sums);
}
END_TEST

/* Types, weights and several labels are mapped when the manifest names them, and looked at. */
START_TEST(arrays_that_not_every_graph_has) {
    struct store *store = must_open(true, false);
    uint64_t local = store->local, edges = (uint64_t)store->indptr[store->rows];
    uint32_t classes = store->classes;
    ck_assert_ptr_null(store->edge_weights);
    ck_assert_ptr_null(store->edge_type);
    ck_assert_ptr_null(store->node_type);
    ck_assert_ptr_null(store->multi_labels);
    store_close(store);

    float *weights = mem_array(edges, sizeof *weights);
    int32_t *edge_types = mem_array(edges, sizeof *edge_types);
    uint8_t *node_types = mem_array(local, 1), *labels = mem_array(local * classes, 1);
    for (uint64_t e = 0; e < edges; e++) {
        weights[e] = (float)e * 0.5F;
        edge_types[e] = (int32_t)(e % EDGE_TYPES);
    }
    for (uint64_t l = 0; l < local; l++) {
        node_types[l] = (uint8_t)(l % 2);
        labels[l * classes + l % classes] = 1;
    }
    write_array("edge_weights.npy", NPY_F4, edges, 0, weights);
    write_array("edge_types.npy", NPY_I4, edges, 0, edge_types);
    write_array("node_types.npy", NPY_U1, local, 0, node_types);
    write_array("multi_labels.npy", NPY_U1, local, classes, labels);
    json_t *manifest = read_manifest();
    write_manifest(json_incref(manifest));
    struct error err;
    ck_assert_int_eq(open_part(true, false, &store, &err), ERR_FORMAT);
    ck_assert_ptr_nonnull(strstr(err.text, "types without"));

    json_object_set_new(manifest, "node_types", json_integer(2));
    json_object_set_new(manifest, "edge_types", json_integer(EDGE_TYPES));
    write_manifest(json_incref(manifest));
    store = must_open(true, false);
    ck_assert_uint_eq(store->node_types, 2);
    ck_assert_uint_eq(store->edge_types, EDGE_TYPES);
    ck_assert_mem_eq(store->edge_weights, weights, edges * sizeof *weights);
    ck_assert_mem_eq(store->edge_type, edge_types, edges * sizeof *edge_types);
    ck_assert_mem_eq(store->node_type, node_types, local);
    ck_assert_mem_eq(store->multi_labels, labels, local * classes);
    store_close(store);

    static const char *const keys[] = {"edge_types", "node_types"};
    for (int k = 0; k < 2; k++) { /* one too few */
        json_t *fewer = json_copy(manifest);
        json_object_set_new(
            fewer, keys[k],
            json_integer(json_integer_value(json_object_get(manifest, keys[k])) - 1));
        write_manifest(fewer);
        ck_assert_int_eq(open_part(true, false, &store, &err), ERR_FORMAT);
        ck_assert_ptr_nonnull(strstr(err.text, keys[k]));
    }
    json_decref(manifest);
    mem_free(weights);
    mem_free(edge_types);
    mem_free(node_types);
    mem_free(labels);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("store");
    TCase *tcase = tcase_create("store");
    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, make_graph, forget_graph);
    tcase_add_test(tcase, what_was_verified_is_remembered);
    tcase_add_test(tcase, features_may_be_missing);
    tcase_add_test(tcase, features_may_be_halves);
    tcase_add_test(tcase, arrays_that_not_every_graph_has);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
