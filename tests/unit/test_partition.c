/* Partitions, held against a plain search through the whole graph. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "tests/graphs.h"
#include "tests/test.h"
#include "worker/graph/csr.h"
#include "worker/graph/import.h"
#include "worker/graph/partition.h"
#include "worker/graph/store.h"

static struct snapshot *open_snapshot(const char *dir) {
    struct snapshot *s = NULL;
    struct error err = {0};
    ck_assert_msg(snapshot_open(dir, true, &s, &err) == 0, "%s", err.text);
    return s;
}

static struct store *open_store(const char *dir, uint32_t parts, uint32_t halo, uint32_t part) {
    struct store *store = NULL;
    struct error err = {0};
    ck_assert_msg(store_open(dir, parts, halo, part, true, false, &store, &err) == 0, "%s",
                  err.text);
    return store;
}

static void make(const struct snapshot *s, uint32_t parts, uint32_t halo, uint64_t seed) {
    bool existed = true;
    struct error err = {0};
    ck_assert_msg(partition_make(s, parts, halo, seed, &existed, &err) == 0, "%s", err.text);
    ck_assert(!existed);
}

/* Imports a generated graph as it is listed: one direction only. */
static const char *directed_snapshot(const char *root, uint32_t n) {
    static struct import_summary summary;
    char source[300];
    struct error err = {0};
    snprintf(source, sizeof source, "%s/directed", root);
    graphs_make_community(source, n, 4, 5, 6, 3);
    const struct import_options options = {.format = IMPORT_CSV,
                                           .source = source,
                                           .root = root,
                                           .name = "directed",
                                           .version = "1.0.0"};
    ck_assert_msg(import_run(&options, NULL, NULL, &summary, &err) == 0, "%s", err.text);
    ck_assert(!summary.symmetric);
    return summary.dir;
}

/* hops [nodes]: how many steps along in-edges from an owned node; UINT32_MAX: out of reach. */
static void search(const struct snapshot *s, const struct store *store, uint32_t *hops) {
    const int64_t *indptr = s->indptr.data;
    const int32_t *indices = s->indices.data;
    memset(hops, 0xff, s->nodes * sizeof *hops);
    for (uint64_t l = 0; l < store->owned; l++)
        hops[store->nodes[l]] = 0;
    for (uint32_t hop = 0; hop < store->halo; hop++)
        for (uint64_t i = 0; i < s->nodes; i++)
            for (int64_t e = indptr[i]; hops[i] == hop && e < indptr[i + 1]; e++)
                if (hops[indices[e]] == UINT32_MAX)
                    hops[indices[e]] = hop + 1;
}

/* The local nodes are those that the search finds, by hop. */
static void check_nodes(const struct snapshot *s, const struct store *store, uint32_t *hops) {
    search(s, store, hops);
    uint64_t within[HALO_MAX + 1] = {0};
    for (uint64_t i = 0; i < s->nodes; i++)
        for (uint32_t h = hops[i]; h <= store->halo; h++)
            within[h]++;
    for (uint32_t h = 0; h <= store->halo; h++)
        ck_assert_uint_eq(store->hop_nodes[h], within[h]);
    ck_assert_uint_eq(store->owned, within[0]);
    ck_assert_uint_eq(store->local, within[store->halo]);
    for (uint64_t l = 1; l < store->local; l++) {
        uint32_t before = hops[store->nodes[l - 1]], here = hops[store->nodes[l]];
        ck_assert(before <= here);
    }
}

/* Rows, degrees, features, labels and splits are those of the snapshot. */
static void check_contents(const struct snapshot *s, const struct store *store,
                           const uint32_t *hops) {
    const int64_t *indptr = s->indptr.data;
    const int32_t *indices = s->indices.data;
    const float *features = s->features.data;
    ck_assert_uint_eq(store->rows, store->hop_nodes[store->halo ? store->halo - 1 : 0]);
    for (uint64_t l = 0; l < store->local; l++) {
        int64_t i = store->nodes[l];
        ck_assert_int_eq(store->degree[l], indptr[i + 1] - indptr[i]);
        ck_assert_int_eq(store->labels[l], ((const int32_t *)s->labels.data)[i]);
        ck_assert_int_eq(store->split[l], ((const uint8_t *)s->split.data)[i]);
        ck_assert_mem_eq(store->features + l * s->feature_dim,
                         features + (uint64_t)i * s->feature_dim, s->feature_dim * sizeof(float));
    }
    for (uint64_t l = 0; l < store->rows; l++) {
        int64_t i = store->nodes[l], expected = 0;
        for (int64_t e = indptr[i]; e < indptr[i + 1]; e++) {
            bool present = hops[indices[e]] <= store->halo;
            ck_assert(present || store->halo == 0); /* rows are complete */
            expected += present;
        }
        ck_assert_int_eq(store->indptr[l + 1] - store->indptr[l], expected);
        for (int64_t e = store->indptr[l]; e < store->indptr[l + 1]; e++) {
            ck_assert(e == store->indptr[l] || store->indices[e - 1] < store->indices[e]);
            int32_t neighbour = (int32_t)store->nodes[store->indices[e]];
            ck_assert_ptr_nonnull(bsearch(&neighbour, indices + indptr[i],
                                          (size_t)(indptr[i + 1] - indptr[i]), sizeof neighbour,
                                          csr_compare));
        }
    }
}

static void check_partitioning(const struct snapshot *s, uint32_t parts, uint32_t halo) {
    make(s, parts, halo, 1);
    struct partition_info info;
    struct error err = {0};
    _cleanup_(mem_free_p) char *dir = partition_dir(s->dir, parts, halo);
    ck_assert_msg(partition_info_read(dir, true, &info, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(info.parts, parts);
    ck_assert_uint_eq(info.halo, halo);
    _cleanup_(mem_free_p) int32_t *owner = mem_array(s->nodes, sizeof *owner);
    _cleanup_(mem_free_p) uint32_t *hops = mem_array(s->nodes, sizeof *hops);
    uint64_t train = 0, most = 0, total = 0;
    for (uint32_t k = 0; k < parts; k++) {
        struct store *store = open_store(s->dir, parts, halo, k);
        for (uint64_t l = 0; l < store->owned; l++) {
            ck_assert_int_eq(owner[store->nodes[l]], 0); /* nobody else's */
            owner[store->nodes[l]] = (int32_t)k + 1;
        }
        check_nodes(s, store, hops);
        check_contents(s, store, hops);
        train += store->train_nodes;
        most = store->train_nodes > most ? store->train_nodes : most;
        total = store->train_nodes_total;
        ck_assert_str_eq(store->digest, s->digest);
        ck_assert_uint_eq(info.part[k].owned, store->owned);
        ck_assert_uint_eq(info.part[k].train, store->train_nodes);
        ck_assert_uint_eq(info.part[k].edges, (uint64_t)store->indptr[store->rows]);
        for (uint32_t h = 0; h < halo; h++)
            ck_assert_uint_eq(info.part[k].halo[h], store->hop_nodes[h + 1] - store->hop_nodes[h]);
        ck_assert_uint_le(store->owned * parts, s->nodes * 11 / 10 + parts);
        ck_assert_uint_gt(store->train_nodes, 0);
        store_close(store);
    }
    ck_assert_uint_eq(train, total);
    struct store *first = open_store(s->dir, parts, halo, 0);
    ck_assert_uint_eq(first->train_nodes_max, most);
    store_close(first);
    uint64_t cut = 0;
    for (uint64_t i = 0; i < s->nodes; i++) {
        ck_assert_int_gt(owner[i], 0); /* somebody's */
        for (int64_t e = ((const int64_t *)s->indptr.data)[i];
             e < ((const int64_t *)s->indptr.data)[i + 1]; e++)
            cut += owner[i] != owner[((const int32_t *)s->indices.data)[e]];
    }
    ck_assert_uint_eq(info.edge_cut, cut);
    partition_info_done(&info);
}

/* Owned sets partition the nodes; the halo is exactly what is within the hops; rows within one hop
 * less are complete; degrees are the whole graph's. In undirected and directed graphs. */
START_TEST(test_parts) {
    static const uint32_t parts[] = {1, 2, 4};
    const char *root = test_tmpdir();
    const char *dirs[] = {graphs_snapshot(root, "undirected", 300, 4, 5, 6, 3),
                          directed_snapshot(root, 300)};
    /* graphs_snapshot and directed_snapshot each keep their own last directory. */
    for (size_t d = 0; d < ARRAY_LEN(dirs); d++) {
        struct snapshot *s = open_snapshot(dirs[d]);
        ck_assert(s->undirected == (d == 0));
        for (size_t p = 0; p < ARRAY_LEN(parts); p++)
            for (uint32_t halo = 0; halo <= 3; halo++)
                check_partitioning(s, parts[p], halo);
        snapshot_close(s);
    }
}
END_TEST

/* The same seed gives the same bytes; what is there already is left alone. */
START_TEST(test_deterministic) {
    char *digests[2];
    for (int i = 0; i < 2; i++) {
        struct snapshot *s = open_snapshot(graphs_snapshot(test_tmpdir(), "g", 200, 3, 6, 4, 9));
        make(s, 3, 2, 42);
        _cleanup_(mem_free_p) char *dir = partition_dir(s->dir, 3, 2);
        digests[i] = test_read_file(test_path(dir, "part-1/manifest.json"), NULL);
        struct error err = {0};
        bool existed = false;
        ck_assert_int_eq(partition_make(s, 3, 2, 43, &existed, &err), 0);
        ck_assert(existed);
        struct partition_info info;
        ck_assert_int_eq(partition_info_read(dir, true, &info, &err), 0);
        ck_assert_uint_eq(info.seed, 42);
        partition_info_done(&info);
        snapshot_close(s);
    }
    ck_assert_str_eq(digests[0], digests[1]);
    free(digests[0]);
    free(digests[1]);
}
END_TEST

static const char *write_and_import(const char *root, const char *edges, int train) {
    static struct import_summary summary;
    char dir[300];
    snprintf(dir, sizeof dir, "%s/small", root);
    ck_assert_int_eq(dir_make(dir, NULL), 0);
    char features[600] = "id,x\n", labels[600] = "id,label\n", trains[600] = "id\n";
    for (int i = 0; i < 12; i++) {
        sprintf(features + strlen(features), "v%d,%d\n", i, i);
        sprintf(labels + strlen(labels), "v%d,0\n", i);
        if (i < train)
            sprintf(trains + strlen(trains), "v%d\n", i);
    }
    const char *const files[][2] = {{"features.csv", features}, {"labels.csv", labels},
                                    {"train.csv", trains},      {"valid.csv", "id\n"},
                                    {"test.csv", "id\n"},       {"edges.csv", edges}};
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        test_write_file(test_path(dir, files[i][0]), files[i][1], strlen(files[i][1]));
    const struct import_options options = {.format = IMPORT_CSV,
                                           .source = dir,
                                           .root = root,
                                           .name = "small",
                                           .version = "1.0.0",
                                           .overwrite = true,
                                           .undirected = true};
    struct error err = {0};
    ck_assert_msg(import_run(&options, NULL, NULL, &summary, &err) == 0, "%s", err.text);
    return summary.dir;
}

static void check_spread(const char *root, const char *edges, int train, uint32_t parts) {
    struct snapshot *s = open_snapshot(write_and_import(root, edges, train));
    make(s, parts, 1, 1);
    for (uint32_t k = 0; k < parts; k++) {
        struct store *store = open_store(s->dir, parts, 1, k);
        ck_assert_uint_ge(store->owned, 1);
        ck_assert(train < (int)parts || store->train_nodes > 0);
        store_close(store);
    }
    snapshot_close(s);
}

/* Every part owns a node, and a training node while there are as many, also where METIS has little
 * to go by: no edges, a star, a clique with all the training nodes, as many parts as nodes. */
START_TEST(test_spread) {
    char star[600] = "source,target\n", clique[2000] = "source,target\n";
    for (int i = 1; i < 12; i++)
        sprintf(star + strlen(star), "v0,v%d\n", i);
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < i; j++)
            sprintf(clique + strlen(clique), "v%d,v%d\n", i, j);
    static const uint32_t parts[] = {2, 3, 4, 5, 12};
    const char *root = test_tmpdir();
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        check_spread(root, "source,target\n", 5, parts[i]);
        check_spread(root, star, 5, parts[i]);
        check_spread(root, clique, 5, parts[i]);
    }
}
END_TEST

/* The same where only nodes can be balanced. */
START_TEST(test_no_training_nodes) {
    check_spread(test_tmpdir(), "source,target\nv0,v1\nv1,v2\nv5,v6\n", 0, 4);
}
END_TEST

static void expect_store(const char *dir, uint32_t parts, uint32_t part, bool verify, int code,
                         const char *message) {
    struct store *store = NULL;
    struct error err = {0};
    int r = store_open(dir, parts, 1, part, verify, false, &store, &err);
    ck_assert_msg(r == code && strstr(err.text, message), "expected %s \"%s\", got %s \"%s\"",
                  error_name(code), message, error_name(r), err.text);
    ck_assert_ptr_null(store);
}

/* What is not there is answered with the command that makes it; a damaged or strange part is
 * refused with its path. */
START_TEST(test_refusals) {
    const char *root = test_tmpdir();
    char dir[512];
    snprintf(dir, sizeof dir, "%s", graphs_partitioned(root, "g", 60, 3, 4, 4, 1, 2, 1));
    struct snapshot *s = open_snapshot(dir);
    struct error err = {0};
    bool existed;
    ck_assert_int_eq(partition_make(s, 61, 1, 1, &existed, &err), ERR_RANGE);
    ck_assert_int_eq(partition_make(s, 0, 1, 1, &existed, &err), ERR_RANGE);
    ck_assert_int_eq(partition_make(s, 2, HALO_MAX + 1, 1, &existed, &err), ERR_RANGE);
    snapshot_close(s);
    expect_store(dir, 2, 2, true, ERR_RANGE, "part 2 of 2");
    expect_store(dir, 3, 0, true, ERR_NOT_FOUND, "graphps partition ");
    expect_store(dir, 3, 0, true, ERR_NOT_FOUND, " --parts 3 --halo 1");

    const char *part = test_path(dir, "partitions/2x1/part-1");
    const char *features = test_path(part, "features.npy");
    const char *indices = test_path(part, "indices.npy");
    size_t len;
    char *bytes = test_read_file(features, &len);
    bytes[len - 1] ^= 1;
    test_write_file(features, bytes, len);
    expect_store(dir, 2, 1, true, ERR_CHECKSUM, "part-1/features.npy: checksum mismatch");
    bytes[len - 1] ^= 1;
    test_write_file(features, bytes, len);
    free(bytes);
    bytes = test_read_file(indices, &len);
    bytes[len - 1] = 0x40;
    test_write_file(indices, bytes, len);
    expect_store(dir, 2, 1, false, ERR_FORMAT, "of indices is");
    bytes[len - 1] = 0;
    test_write_file(indices, bytes, len);
    free(bytes);

    /* A part in another's place. */
    ck_assert_int_eq(rename(part, test_path(dir, "partitions/2x1/aside")), 0);
    ck_assert_int_eq(rename(test_path(dir, "partitions/2x1/part-0"), part), 0);
    expect_store(dir, 2, 1, true, ERR_FORMAT, "in the wrong place");

    /* Parts of a snapshot that has been replaced. */
    const char *other = graphs_snapshot(test_tmpdir(), "g", 60, 3, 4, 4, 2);
    ck_assert_int_eq(rename(part, test_path(dir, "partitions/2x1/part-0")), 0);
    ck_assert_int_eq(rename(test_path(dir, "partitions"), test_path(other, "partitions")), 0);
    expect_store(other, 2, 0, true, ERR_CHECKSUM, "was cut from another snapshot");
}
END_TEST

/* An array that fits by its lengths and numbers, but whose rows reach further than their hop, is
 * refused: batches are sized by the hops. */
START_TEST(test_hops) {
    char path[600] = "source,target\n";
    for (int i = 1; i < 12; i++)
        sprintf(path + strlen(path), "v%d,v%d\n", i - 1, i);
    struct snapshot *s = open_snapshot(write_and_import(test_tmpdir(), path, 12));
    make(s, 2, 2, 1);
    struct store *store = NULL;
    struct error err = {0};
    ck_assert_int_eq(store_open(s->dir, 2, 2, 0, true, false, &store, &err), 0);
    ck_assert_uint_gt(store->local, store->hop_nodes[1]);
    size_t edges = (size_t)store->indptr[store->rows], at = (size_t)store->indptr[1] - 1, len;
    int32_t far = (int32_t)store->local - 1;
    store_close(TAKE_PTR(store));

    const char *indices = test_path(s->dir, "partitions/2x2/part-0/indices.npy");
    char *bytes = test_read_file(indices, &len);
    memcpy(bytes + len - (edges - at) * sizeof far, &far, sizeof far);
    test_write_file(indices, bytes, len);
    free(bytes);
    int r = store_open(s->dir, 2, 2, 0, false, false, &store, &err);
    ck_assert_int_eq(r, ERR_FORMAT);
    ck_assert_ptr_nonnull(strstr(err.text, "beyond the next hop"));
    snapshot_close(s);
}
END_TEST

/* Row-normalised features sum to one; a node without features stays at zero. */
START_TEST(test_normalize) {
    struct store *store = NULL;
    struct error err = {0};
    struct snapshot *s =
        open_snapshot(write_and_import(test_tmpdir(), "source,target\nv0,v1\n", 3));
    make(s, 1, 2, 1);
    ck_assert_int_eq(store_open(s->dir, 1, 2, 0, true, true, &store, &err), 0);
    for (uint64_t l = 0; l < store->local; l++) {
        float feature = -1;
        store_take_features(store, &(int32_t){(int32_t)l}, 1, &feature);
        ck_assert(feature == (store->nodes[l] == 0 ? 0.0f : 1.0f));
    }
    store_close(store);
    snapshot_close(s);
}
END_TEST

/* As many parts as nodes, and nearly: each owns some, about as many as the others, and METIS, which
 * would complain on standard output, is not asked. */
START_TEST(test_few_nodes_each) {
    enum { NODES = 24 };
    const char *root = test_tmpdir(), *printed = test_path(root, "printed");
    struct snapshot *s = open_snapshot(graphs_snapshot(root, "few", NODES, 3, 6, 4, 5));
    static const uint32_t parts[] = {NODES, NODES / 3};
    fflush(stdout);
    int saved = dup(STDOUT_FILENO), file = open(printed, O_WRONLY | O_CREAT, 0600);
    ck_assert_int_eq(dup2(file, STDOUT_FILENO), STDOUT_FILENO);
    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        make(s, parts[i], 0, 1);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    size_t len;
    char *text = test_read_file(printed, &len);
    ck_assert_str_eq(text, "");
    free(text);
    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        for (uint32_t k = 0; k < parts[i]; k++) {
            struct store *store = open_store(s->dir, parts[i], 0, k);
            ck_assert_uint_ge(store->owned, 1);
            ck_assert_uint_le(store->owned, NODES / parts[i] + 2);
            store_close(store);
        }
    snapshot_close(s);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("partition");
    TCase *tcase = tcase_create("partition");
    tcase_set_timeout(tcase, 100);
    tcase_add_test(tcase, test_parts);
    tcase_add_test(tcase, test_deterministic);
    tcase_add_test(tcase, test_spread);
    tcase_add_test(tcase, test_few_nodes_each);
    tcase_add_test(tcase, test_no_training_nodes);
    tcase_add_test(tcase, test_refusals);
    tcase_add_test(tcase, test_hops);
    tcase_add_test(tcase, test_normalize);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
