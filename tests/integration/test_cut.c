/* Cutting held against promises: on random graphs of every kind the parts put together again are
 * the snapshot; no method exceeds its limits; whatever ends the work leaves all or nothing. */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/lock.h"
#include "common/mem.h"
#include "common/rng.h"
#include "tests/child.h"
#include "tests/test.h"
#include "worker/graph/balance.h"
#include "worker/graph/claim.h"
#include "worker/graph/csr.h"
#include "worker/graph/manifest.h"
#include "worker/graph/order.h"
#include "worker/graph/partition.h"

enum { NODE_TYPES = 3, EDGE_TYPES = 4, CLASSES = 3, WAIT_MS = 120000 };

/* What a generated graph has. */
struct recipe {
    uint32_t nodes, communities; /* 0: neighbours are anywhere, some nodes have none */
    uint32_t degree, features, train_of_100;
    bool undirected, loops, repeats, weights, types, several_labels, half;
    uint64_t seed;
};

struct random {
    uint64_t key, at;
};

static uint64_t below(struct random *random, uint64_t n) {
    return rng_below(rng_at(random->key, random->at++), n);
}

static void write_array(const char *dir, const char *name, enum npy_type type, uint64_t rows,
                        uint64_t cols, const void *items) {
    struct error err;
    char path[600];
    snprintf(path, sizeof path, "%s/%s.npy", dir, name);
    ck_assert_msg(npy_write(path, type, rows, cols, items, &err) == 0, "%s", err.text);
}

static int32_t pick(struct random *random, const struct recipe *recipe, int32_t node) {
    uint32_t k = recipe->communities;
    if (!k || below(random, 10) == 0)
        return (int32_t)below(random, recipe->nodes);
    return (int32_t)(below(random, recipe->nodes / k) * k + (uint32_t)node % k);
}

/* Edges as keys: to, from, type; sorted they are the rows. */
static uint64_t *draw_edges(const struct recipe *recipe, struct random *random,
                            uint64_t *ret_count) {
    uint64_t most = 4 * (uint64_t)recipe->nodes * recipe->degree + 4, count = 0;
    uint64_t *keys = mem_array(most, sizeof *keys);
    for (uint32_t i = 0; i < recipe->nodes; i++) {
        uint64_t degree =
            recipe->communities ? recipe->degree / 2 + 1 : below(random, 2 * recipe->degree + 1);
        if (!recipe->communities && below(random, 4) == 0)
            degree = 0;
        for (uint64_t d = 0; d < degree; d++) {
            uint64_t from = (uint64_t)pick(random, recipe, (int32_t)i);
            uint64_t type = recipe->types ? below(random, EDGE_TYPES) : 0;
            if (from == i && !recipe->loops)
                continue;
            for (int copy = 0; copy < (recipe->repeats && below(random, 5) == 0 ? 2 : 1); copy++) {
                keys[count++] = (uint64_t)i << 36 | from << 8 | type;
                if (recipe->undirected && from != i)
                    keys[count++] = from << 36 | (uint64_t)i << 8 | type;
                if (count + 4 > most)
                    ck_abort_msg("too many edges");
            }
        }
    }
    *ret_count = count;
    return keys;
}

static int compare_keys(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static uint64_t write_edges(const char *dir, const struct recipe *recipe, struct random *random) {
    uint64_t drawn, count = 0;
    uint64_t *keys = draw_edges(recipe, random, &drawn);
    qsort(keys, drawn, sizeof *keys, compare_keys);
    int64_t *indptr = mem_array((size_t)recipe->nodes + 1, sizeof *indptr);
    int32_t *indices = mem_array(drawn, sizeof *indices), *types = mem_array(drawn, sizeof *types);
    float *weights = mem_array(drawn, sizeof *weights);
    for (uint64_t k = 0; k < drawn; k++) {
        if (k > 0 && keys[k] == keys[k - 1] && !recipe->repeats)
            continue;
        indices[count] = (int32_t)(keys[k] >> 8 & 0xfffffff);
        types[count] = (int32_t)(keys[k] & 255);
        weights[count] = (float)count + 0.5F; /* each another */
        indptr[(keys[k] >> 36) + 1] = (int64_t)++count;
    }
    for (uint32_t i = 0; i < recipe->nodes; i++)
        if (indptr[i + 1] < indptr[i])
            indptr[i + 1] = indptr[i];
    write_array(dir, "indptr", NPY_I8, (uint64_t)recipe->nodes + 1, 0, indptr);
    write_array(dir, "indices", NPY_I4, count, 0, indices);
    if (recipe->types)
        write_array(dir, "edge_types", NPY_I4, count, 0, types);
    if (recipe->weights)
        write_array(dir, "edge_weights", NPY_F4, count, 0, weights);
    mem_free(keys);
    mem_free(indptr);
    mem_free(indices);
    mem_free(types);
    mem_free(weights);
    return count;
}

static void write_nodes(const char *dir, const struct recipe *recipe, struct random *random) {
    uint64_t n = recipe->nodes, dim = recipe->features;
    int32_t *labels = mem_array(n, sizeof *labels);
    uint8_t *split = mem_array(n, 1), *types = mem_array(n, 1), *several = mem_array(n, CLASSES);
    float *features = mem_array(n * dim, sizeof *features);
    uint16_t *half = mem_array(n * dim, sizeof *half);
    for (uint64_t i = 0; i < n; i++) {
        labels[i] = (int32_t)below(random, 8) == 0 ? -1 : (int32_t)below(random, CLASSES);
        labels[i] = recipe->several_labels && labels[i] > 0 ? 0 : labels[i];
        split[i] = below(random, 100) < recipe->train_of_100 ? SPLIT_TRAIN
                                                             : (uint8_t)(2 * below(random, 2));
        types[i] = (uint8_t)below(random, NODE_TYPES);
        for (int c = 0; c < CLASSES; c++)
            several[i * CLASSES + (uint64_t)c] = (uint8_t)below(random, 2);
        for (uint64_t f = 0; f < dim; f++) {
            features[i * dim + f] = (float)(i * dim + f);
            half[i * dim + f] = (uint16_t)(i * dim + f);
        }
    }
    write_array(dir, "labels", NPY_I4, n, 0, labels);
    write_array(dir, "split", NPY_U1, n, 0, split);
    if (dim)
        write_array(dir, "features", recipe->half ? NPY_F2 : NPY_F4, n, dim,
                    recipe->half ? (const void *)half : features);
    if (recipe->types)
        write_array(dir, "node_types", NPY_U1, n, 0, types);
    if (recipe->several_labels)
        write_array(dir, "multi_labels", NPY_U1, n, CLASSES, several);
    mem_free(labels);
    mem_free(split);
    mem_free(types);
    mem_free(several);
    mem_free(features);
    mem_free(half);
}

/* Makes dir a snapshot and opens it. */
static struct snapshot *make_snapshot(const char *dir, const struct recipe *recipe) {
    struct random random = {.key = rng_key(recipe->seed, 0)};
    struct error err = {0};
    struct snapshot *s = NULL;
    ck_assert_msg(dir_make(dir, &err) == 0, "%s", err.text);
    uint64_t edges = write_edges(dir, recipe, &random);
    write_nodes(dir, recipe, &random);
    json_t *manifest =
        json_pack("{s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:b}", "name", "made", "version", "1.0.0",
                  "created", "1970-01-01T00:00:00Z", "nodes", (json_int_t)recipe->nodes, "edges",
                  (json_int_t)edges, "feature_dim", (json_int_t)recipe->features, "classes",
                  (json_int_t)CLASSES, "undirected", (int)recipe->undirected);
    if (recipe->types) {
        json_object_set_new(manifest, "node_types", json_pack("[s,s,s]", "a", "b", "c"));
        json_object_set_new(manifest, "edge_types", json_pack("[s,s,s,s]", "p", "q", "r", "s"));
    }
    ck_assert_msg(manifest_write(dir, manifest, &err) == 0, "%s", err.text);
    json_decref(manifest);
    ck_assert_msg(snapshot_open(dir, true, &s, &err) == 0, "%s", err.text);
    return s;
}

static void run(const struct snapshot *s, const struct partition_options *options,
                struct partition_outcome *ret) {
    struct error err = {0};
    ck_assert_msg(partition_run(s, options, ret, &err) == 0, "%s", err.text);
}

/* A part as it lies on disk. */
struct opened {
    char dir[600];
    json_t *manifest;
    uint64_t owned, local, rows, edges, within[HALO_MAX + 1];
    struct npy nodes, owner, degree, indptr, indices, labels, split;
    struct npy features, multi_labels, node_types, edge_weights, edge_types;
};

static void open_array(const struct opened *part, const char *name, enum npy_type type,
                       uint64_t rows, uint64_t cols, const struct npy *wanted, struct npy *ret) {
    char path[700];
    struct error err = {0};
    snprintf(path, sizeof path, "%s/%s.npy", part->dir, name);
    *ret = (struct npy){0};
    if (wanted && !wanted->data) {
        ck_assert_msg(!file_exists(path), "%s is there", path);
        return;
    }
    ck_assert_msg(npy_open_as(path, type, rows, cols, ret, &err) == 0, "%s", err.text);
}

static uint64_t count_of(const struct opened *part, const char *key) {
    uint64_t value = 0;
    struct error err = {0};
    ck_assert_msg(manifest_uint(part->manifest, part->dir, key, INT64_MAX, &value, &err) == 0, "%s",
                  err.text);
    return value;
}

static void open_part(const struct snapshot *s, uint32_t parts, uint32_t halo, uint32_t number,
                      struct opened *part) {
    struct error err = {0};
    *part = (struct opened){0};
    snprintf(part->dir, sizeof part->dir, "%s/partitions/%ux%u/part-%u", s->dir, parts, halo,
             number);
    ck_assert_msg(manifest_read(part->dir, MANIFEST_MD5, &part->manifest, &err) == 0, "%s",
                  err.text);
    part->rows = count_of(part, "rows");
    part->edges = count_of(part, "edges");
    const json_t *hops = json_object_get(part->manifest, "hop_nodes");
    ck_assert_uint_eq(json_array_size(hops), halo + 1);
    for (uint32_t h = 0; h <= halo; h++)
        part->within[h] = (uint64_t)json_integer_value(json_array_get(hops, h));
    part->owned = part->within[0];
    part->local = part->within[halo];
    ck_assert_uint_eq(count_of(part, "feature_dim"), s->feature_dim);
    ck_assert_uint_eq(count_of(part, "classes"), s->classes);
    ck_assert_uint_eq(count_of(part, "snapshot_nodes"), s->nodes);
    if (s->edge_types) {
        ck_assert_uint_eq(count_of(part, "edge_types"), s->edge_types);
        ck_assert_uint_eq(count_of(part, "node_types"), s->node_types);
    } else {
        ck_assert_ptr_null(json_object_get(part->manifest, "edge_types"));
        ck_assert_ptr_null(json_object_get(part->manifest, "node_types"));
    }
    uint64_t l = part->local, m = part->edges;
    open_array(part, "nodes", NPY_I8, l, 0, NULL, &part->nodes);
    open_array(part, "owner", NPY_I4, l, 0, NULL, &part->owner);
    open_array(part, "degree", NPY_I4, l, 0, NULL, &part->degree);
    open_array(part, "indptr", NPY_I8, part->rows + 1, 0, NULL, &part->indptr);
    open_array(part, "indices", NPY_I4, m, 0, NULL, &part->indices);
    open_array(part, "labels", NPY_I4, l, 0, NULL, &part->labels);
    open_array(part, "split", NPY_U1, l, 0, NULL, &part->split);
    open_array(part, "features", s->features.type, l, s->feature_dim, &s->features,
               &part->features);
    open_array(part, "multi_labels", NPY_U1, l, s->classes, &s->multi_labels, &part->multi_labels);
    open_array(part, "node_types", NPY_U1, l, 0, &s->node_type, &part->node_types);
    open_array(part, "edge_weights", NPY_F4, m, 0, &s->edge_weights, &part->edge_weights);
    open_array(part, "edge_types", NPY_I4, m, 0, &s->edge_type, &part->edge_types);
}

static void close_part(struct opened *part) {
    struct npy *arrays[] = {&part->nodes,      &part->owner,        &part->degree,
                            &part->indptr,     &part->indices,      &part->labels,
                            &part->split,      &part->features,     &part->multi_labels,
                            &part->node_types, &part->edge_weights, &part->edge_types};
    for (size_t i = 0; i < ARRAY_LEN(arrays); i++)
        npy_close(arrays[i]);
    json_decref(part->manifest);
}

static void check_row_equal(const struct npy *part, const struct npy *whole, uint64_t l,
                            uint64_t node, uint64_t cols) {
    size_t bytes = cols * npy_item_bytes(part->type);
    if (whole->data)
        ck_assert_mem_eq((const char *)part->data + l * bytes,
                         (const char *)whole->data + node * bytes, bytes);
}

/* The part's nodes are those within the hops along in-edges from the owned ones, by hop; what goes
 * by node is the snapshot's. local_of [nodes] gets their local numbers, -1. */
static void check_part_nodes(const struct snapshot *s, uint32_t halo, const struct opened *part,
                             int32_t *local_of) {
    const int64_t *indptr = s->indptr.data, *nodes = part->nodes.data;
    const int32_t *indices = s->indices.data;
    uint32_t *hops = mem_array(s->nodes, sizeof *hops);
    memset(hops, 0xff, s->nodes * sizeof *hops);
    memset(local_of, 0xff, s->nodes * sizeof *local_of);
    for (uint64_t l = 0; l < part->local; l++) {
        ck_assert(nodes[l] >= 0 && (uint64_t)nodes[l] < s->nodes);
        ck_assert_int_eq(local_of[nodes[l]], -1);
        local_of[nodes[l]] = (int32_t)l;
        if (l < part->owned)
            hops[nodes[l]] = 0;
    }
    for (uint32_t hop = 0; hop < halo; hop++)
        for (uint64_t i = 0; i < s->nodes; i++)
            for (int64_t e = indptr[i]; hops[i] == hop && e < indptr[i + 1]; e++)
                if (hops[indices[e]] == UINT32_MAX)
                    hops[indices[e]] = hop + 1;
    uint64_t found = 0;
    for (uint64_t i = 0; i < s->nodes; i++) {
        found += hops[i] <= halo;
        if (hops[i] > halo) {
            ck_assert_int_eq(local_of[i], -1);
            continue;
        }
        uint64_t l = (uint64_t)local_of[i];
        ck_assert_int_ge(local_of[i], 0);
        ck_assert(l < part->within[hops[i]] && (hops[i] == 0 || l >= part->within[hops[i] - 1]));
        ck_assert_int_eq(((const int32_t *)part->degree.data)[l], indptr[i + 1] - indptr[i]);
        check_row_equal(&part->labels, &s->labels, l, i, 1);
        check_row_equal(&part->split, &s->split, l, i, 1);
        check_row_equal(&part->features, &s->features, l, i, s->feature_dim);
        check_row_equal(&part->multi_labels, &s->multi_labels, l, i, s->classes);
        check_row_equal(&part->node_types, &s->node_type, l, i, 1);
    }
    ck_assert_uint_eq(found, part->local);
    mem_free(hops);
}

/* Rows are the snapshot's rows, whole when there is a halo: each entry with its weight and type,
 * repeats in order. */
static void check_part_rows(const struct snapshot *s, uint32_t halo, const struct opened *part,
                            const int32_t *local_of) {
    const int64_t *indptr = s->indptr.data, *nodes = part->nodes.data;
    const int64_t *mine = part->indptr.data;
    const int32_t *indices = s->indices.data, *index = part->indices.data;
    ck_assert_uint_eq(part->rows, part->within[halo ? halo - 1 : 0]);
    ck_assert_int_eq(mine[0], 0);
    ck_assert_int_eq(mine[part->rows], (int64_t)part->edges);
    bool *used = mem_array(s->edges, sizeof *used);
    for (uint64_t l = 0; l < part->rows; l++) {
        int64_t present = 0;
        for (int64_t e = indptr[nodes[l]]; e < indptr[nodes[l] + 1]; e++) {
            ck_assert(halo == 0 || local_of[indices[e]] >= 0);
            present += local_of[indices[e]] >= 0;
        }
        ck_assert_int_eq(mine[l + 1] - mine[l], present);
        for (int64_t k = mine[l]; k < mine[l + 1]; k++) {
            ck_assert(k == mine[l] || index[k - 1] <= index[k]);
            int64_t e = indptr[nodes[l]]; /* the first of that neighbour not met yet */
            while (e < indptr[nodes[l] + 1] && (used[e] || local_of[indices[e]] != index[k]))
                e++;
            ck_assert_int_lt(e, indptr[nodes[l] + 1]);
            used[e] = true;
            check_row_equal(&part->edge_weights, &s->edge_weights, (uint64_t)k, (uint64_t)e, 1);
            check_row_equal(&part->edge_types, &s->edge_type, (uint64_t)k, (uint64_t)e, 1);
        }
    }
    mem_free(used);
}

/* Who owns what, and what the top manifest says of it. */
static void check_whole(const struct snapshot *s, uint32_t parts, uint32_t halo,
                        const int32_t *owner) {
    struct partition_info info;
    struct balance balance;
    struct error err = {0};
    char dir[600];
    snprintf(dir, sizeof dir, "%s/partitions/%ux%u", s->dir, parts, halo);
    ck_assert_msg(partition_info_read(dir, true, &info, &err) == 0, "%s", err.text);
    balance_init(&balance, s, parts);
    balance_count(&balance, owner);
    uint64_t cut = 0;
    for (uint64_t i = 0; i < s->nodes; i++)
        for (int64_t e = ((const int64_t *)s->indptr.data)[i];
             e < ((const int64_t *)s->indptr.data)[i + 1]; e++)
            cut += owner[i] != owner[((const int32_t *)s->indices.data)[e]];
    ck_assert_uint_eq(info.edge_cut, cut);
    for (uint32_t k = 0; k < parts; k++) {
        ck_assert_uint_gt(balance.load[k][BALANCE_NODES], 0);
        ck_assert(balance.load[k][BALANCE_TRAIN] > 0 || balance.total[BALANCE_TRAIN] < parts);
        ck_assert_uint_eq(info.part[k].owned, balance.load[k][BALANCE_NODES]);
        ck_assert_uint_eq(info.part[k].owned_edges, balance.load[k][BALANCE_EDGES]);
        ck_assert_uint_eq(info.part[k].train, balance.load[k][BALANCE_TRAIN]);
        for (int c = 0; c < BALANCE_KINDS; c++)
            ck_assert_msg(balance.load[k][c] <= balance.limit[c],
                          "%s: part %u of %u has %llu of kind %d, the limit is %llu", info.method,
                          k, parts, (unsigned long long)balance.load[k][c], c,
                          (unsigned long long)balance.limit[c]);
    }
    balance_done(&balance);
    partition_info_done(&info);
}

static void check_partitioning(const struct snapshot *s, uint32_t parts, uint32_t halo) {
    int32_t *owner = mem_array(s->nodes, sizeof *owner);
    int32_t *local_of = mem_array(s->nodes, sizeof *local_of);
    struct opened part;
    memset(owner, 0xff, s->nodes * sizeof *owner);
    for (uint32_t k = 0; k < parts; k++) {
        open_part(s, parts, halo, k, &part);
        for (uint64_t l = 0; l < part.owned; l++) {
            int64_t node = ((const int64_t *)part.nodes.data)[l];
            ck_assert_int_eq(owner[node], -1); /* nobody else's */
            owner[node] = (int32_t)k;
        }
        close_part(&part);
    }
    for (uint64_t i = 0; i < s->nodes; i++)
        ck_assert_int_ge(owner[i], 0); /* somebody's */
    for (uint32_t k = 0; k < parts; k++) {
        open_part(s, parts, halo, k, &part);
        for (uint64_t l = 0; l < part.local; l++)
            ck_assert_int_eq(((const int32_t *)part.owner.data)[l],
                             owner[((const int64_t *)part.nodes.data)[l]]);
        check_part_nodes(s, halo, &part, local_of);
        check_part_rows(s, halo, &part, local_of);
        close_part(&part);
    }
    check_whole(s, parts, halo, owner);
    mem_free(owner);
    mem_free(local_of);
}

static const enum assign_method methods[] = {ASSIGN_METIS, ASSIGN_FENNEL, ASSIGN_RANDOM};

/* Random graphs of every kind, cut by every method into few and many parts. */
START_TEST(test_reassembly) {
    const char *root = test_tmpdir();
    for (uint64_t seed = 0; seed < TEST_REPEATS(30); seed++) {
        struct random random = {.key = rng_key(seed, 1)};
        uint64_t bits = rng_at(random.key, 1000);
        const struct recipe recipe = {
            .nodes = (uint32_t)(seed % 4 == 1 ? 1 + below(&random, 12) : 4 + below(&random, 90)),
            .degree = (uint32_t)below(&random, 6),
            .features = (uint32_t)below(&random, 4),
            .train_of_100 = (uint32_t)below(&random, 60),
            .undirected = bits & 1,
            .loops = bits & 2,
            .repeats = bits & 4,
            .weights = bits & 8,
            .types = bits & 16,
            .several_labels = bits & 32,
            .half = bits & 64,
            .seed = seed,
        };
        char dir[600];
        snprintf(dir, sizeof dir, "%s/%u", root, (unsigned)seed);
        struct snapshot *s = make_snapshot(dir, &recipe);
        /* As many parts as nodes where there are few: every file is synced. */
        uint32_t counts[] = {1, 2, 3, 5, 7, 12};
        uint32_t wanted = counts[seed % ARRAY_LEN(counts)], most = (uint32_t)s->nodes;
        struct partition_options options = {
            .parts = wanted < most ? wanted : most,
            .halo = (uint32_t)below(&random, 5),
            .seed = seed,
            .overwrite = true,
        };
        for (size_t m = 0; m < ARRAY_LEN(methods); m++) {
            struct partition_outcome outcome;
            options.method = methods[m];
            run(s, &options, &outcome);
            ck_assert(!outcome.existed);
            check_partitioning(s, options.parts, options.halo);
        }
        snapshot_close(s);
    }
}
END_TEST

static uint64_t cut_by(const struct snapshot *s, enum assign_method method, uint64_t seed,
                       char digest[33]) {
    struct partition_options options = {
        .parts = 4, .halo = 1, .method = method, .seed = seed, .overwrite = true};
    struct partition_outcome outcome;
    struct partition_info info;
    struct error err = {0};
    struct opened part;
    char dir[600];
    run(s, &options, &outcome);
    snprintf(dir, sizeof dir, "%s/partitions/4x1", s->dir);
    ck_assert_msg(partition_info_read(dir, true, &info, &err) == 0, "%s", err.text);
    ck_assert_str_eq(info.method, assign_method_name(method));
    ck_assert_uint_eq(info.seed, seed);
    uint64_t cut = info.edge_cut;
    partition_info_done(&info);
    open_part(s, 4, 1, 2, &part);
    snprintf(digest, 33, "%s", json_string_value(json_object_get(part.manifest, "digest")));
    close_part(&part);
    check_partitioning(s, 4, 1);
    return cut;
}

/* On four communities METIS and Fennel find most of what there is to find, also when all training
 * nodes are in a few places; the same seed gives the same bytes. */
START_TEST(test_methods) {
    char dir[600], digests[3][33];
    snprintf(dir, sizeof dir, "%s/planted", test_tmpdir());
    const struct recipe recipe = {.nodes = 4000,
                                  .communities = 4,
                                  .degree = 12,
                                  .features = 2,
                                  .train_of_100 = 10,
                                  .undirected = true,
                                  .seed = 5};
    struct snapshot *s = make_snapshot(dir, &recipe);
    uint64_t cut[3];
    for (size_t m = 0; m < ARRAY_LEN(methods); m++) {
        cut[m] = cut_by(s, methods[m], 1, digests[0]);
        ck_assert_uint_eq(cut_by(s, methods[m], 1, digests[1]), cut[m]);
        ck_assert_str_eq(digests[0], digests[1]);
        cut_by(s, methods[m], 2, digests[2]);
        ck_assert_str_ne(digests[0], digests[2]);
    }
    ck_assert_uint_gt(cut[2], s->edges * 7 / 10); /* three quarters */
    ck_assert_uint_lt(cut[0], s->edges * 15 / 100);
    ck_assert_uint_lt(cut[1], s->edges * 25 / 100);
    snapshot_close(s);
}
END_TEST

/* The training nodes are one community's: they are shared out all the same. */
START_TEST(test_uneven) {
    char dir[600], digest[33];
    snprintf(dir, sizeof dir, "%s/uneven", test_tmpdir());
    const struct recipe recipe = {
        .nodes = 2000, .communities = 4, .degree = 10, .undirected = true, .seed = 6};
    struct snapshot *s = make_snapshot(dir, &recipe);
    uint8_t *split = mem_array(s->nodes, 1);
    for (uint64_t i = 0; i < s->nodes; i++)
        split[i] = i % 4 == 1 && i > 100 ? SPLIT_TRAIN : SPLIT_TEST;
    s->split.data = split; /* the mapping is the snapshot's still */
    const void *mapped = s->split.map.data;
    ck_assert_ptr_nonnull(mapped);
    for (size_t m = 0; m < ARRAY_LEN(methods); m++)
        cut_by(s, methods[m], 1, digest);
    snapshot_close(s);
    mem_free(split);
}
END_TEST

/* METIS as long as it fits; who says otherwise is told why. */
START_TEST(test_auto) {
    char dir[600];
    snprintf(dir, sizeof dir, "%s/auto", test_tmpdir());
    const struct recipe recipe = {.nodes = 100, .degree = 3, .features = 1, .seed = 7};
    struct snapshot *s = make_snapshot(dir, &recipe);
    struct partition_options options = {.parts = 2, .halo = 1, .seed = 1};
    struct partition_outcome outcome;
    run(s, &options, &outcome);
    ck_assert(outcome.method == ASSIGN_METIS && !outcome.existed);
    ck_assert_str_eq(outcome.why, "");
    options.method = ASSIGN_RANDOM;
    run(s, &options, &outcome);
    ck_assert(outcome.existed);
    options.overwrite = true;
    options.method = ASSIGN_AUTO;
    options.memory_bytes = 1;
    run(s, &options, &outcome);
    ck_assert(outcome.method == ASSIGN_FENNEL && !outcome.existed);
    ck_assert_ptr_nonnull(strstr(outcome.why, "METIS would need about"));
    /* Not under a run that reads it. */
    char where[720];
    struct error err = {0};
    int claim;
    snprintf(where, sizeof where, "%s/partitions/2x1", dir);
    ck_assert_int_eq(claim_take(where, &claim, &err), 0);
    ck_assert_int_eq(partition_run(s, &options, &outcome, &err), ERR_IN_USE);
    close(claim);
    run(s, &options, &outcome);
    /* More edges than METIS can count. */
    uint64_t edges = s->edges;
    const struct assign_options assign = {.parts = 2};
    char why[160];
    s->edges = (uint64_t)1 << 30;
    ck_assert_int_eq(assign_choose(s, &assign, why, sizeof why), ASSIGN_FENNEL);
    ck_assert_ptr_nonnull(strstr(why, "2^31 - 1"));
    s->edges = edges;
    options.parts = 1;
    run(s, &options, &outcome);
    ck_assert(outcome.method == ASSIGN_NONE);
    snapshot_close(s);
}
END_TEST

/* Nothing but "<parts>x<halo>". */
static void check_no_leftovers(const char *partitions) {
    char **names = NULL;
    size_t count = 0;
    struct error err = {0};
    if (!file_exists(partitions))
        return;
    ck_assert_msg(dir_list(partitions, &names, &count, &err) == 0, "%s", err.text);
    for (size_t i = 0; i < count; i++)
        ck_assert_msg(!strchr(names[i], '.'), "%s was left", names[i]);
    dir_list_free(names, count);
}

/* Stops at the call that its counter says. */
static bool stop_later(void *ctx, const struct watch_step *step) {
    ck_assert_ptr_nonnull(step->what);
    return (*(int *)ctx)-- > 0;
}

/* Whenever the work is told to end, nothing is left of it, and one that was there is as before. */
START_TEST(test_interrupted) {
    char dir[600], where[720], partitions[700];
    snprintf(dir, sizeof dir, "%s/stopped", test_tmpdir());
    const struct recipe recipe = {
        .nodes = 3000, .degree = 6, .features = 40, .train_of_100 = 9, .seed = 8};
    struct snapshot *s = make_snapshot(dir, &recipe);
    snprintf(partitions, sizeof partitions, "%s/partitions", dir);
    snprintf(where, sizeof where, "%s/2x2", partitions);
    for (size_t m = 0; m < ARRAY_LEN(methods); m++) {
        int calls = 0, stopped = 0, r;
        struct partition_outcome outcome;
        do {
            int left = calls++;
            struct error err = {0};
            struct partition_options options = {.parts = 2,
                                                .halo = 2,
                                                .method = methods[m],
                                                .overwrite = m > 0,
                                                .watch = {stop_later, &left}};
            r = partition_run(s, &options, &outcome, &err);
            ck_assert_msg(r == 0 || r == ERR_INTERRUPTED, "%s", err.text);
            stopped += r < 0;
            check_no_leftovers(partitions);
            ck_assert(file_exists(where) == (r == 0 || m > 0));
            if (file_exists(where)) {
                struct partition_info info;
                ck_assert_msg(partition_info_read(where, true, &info, &err) == 0, "%s", err.text);
                ck_assert_str_eq(info.method, assign_method_name(methods[r == 0 ? m : m - 1]));
                partition_info_done(&info);
            }
        } while (r < 0 && calls < 1000);
        ck_assert_int_eq(r, 0);
        ck_assert_int_gt(stopped, 2);
    }
    check_partitioning(s, 2, 2);
    snapshot_close(s);
}
END_TEST

/* Bytes of all files below a directory; 0 when there is none. Files may vanish meanwhile. */
static uint64_t bytes_below(const char *path) {
    uint64_t sum = 0;
    DIR *dir = opendir(path);
    struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        char child[900];
        struct stat st;
        snprintf(child, sizeof child, "%s/%s", path, entry->d_name);
        if (entry->d_name[0] == '.' || lstat(child, &st) < 0)
            continue;
        sum += S_ISDIR(st.st_mode) ? 1 + bytes_below(child) : (uint64_t)st.st_size;
    }
    if (dir)
        closedir(dir);
    return sum;
}

/* The process that METIS works in, 0 when there is none. */
static pid_t child_of(pid_t pid) {
    char path[100], text[100] = "";
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pid, (int)pid);
    FILE *file = fopen(path, "r");
    if (file) {
        if (!fgets(text, sizeof text, file))
            text[0] = 0;
        fclose(file);
    }
    return (pid_t)atoi(text);
}

static bool is_running(pid_t pid) {
    char path[100], text[300] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "r");
    if (!file)
        return false;
    if (!fgets(text, sizeof text, file))
        text[0] = 0;
    fclose(file);
    const char *state = strrchr(text, ')');
    return state && state[2] != 'Z' && state[2] != 'X';
}

struct victim {
    struct snapshot *snapshot;
    char where[720], partitions[700];
    struct child child;
};

static void victim_init(struct victim *victim) {
    char dir[600];
    const char *root = test_tmpdir();
    snprintf(dir, sizeof dir, "%s/victim", root);
    const struct recipe recipe = {.nodes = 12000,
                                  .communities = 6,
                                  .degree = 8,
                                  .features = 60,
                                  .train_of_100 = 10,
                                  .weights = true,
                                  .seed = 9};
    victim->snapshot = make_snapshot(dir, &recipe);
    snprintf(victim->partitions, sizeof victim->partitions, "%s/partitions", dir);
    snprintf(victim->where, sizeof victim->where, "%s/2x1", victim->partitions);
    child_init(&victim->child, "partition", test_path(root, "log"));
}

static void victim_start(struct victim *victim, const char *method) {
    const char *argv[] = {child_program("graphps"),
                          "partition",
                          victim->snapshot->dir,
                          "--parts",
                          "2",
                          "--halo",
                          "1",
                          "--overwrite",
                          "--method",
                          method,
                          NULL};
    child_start(&victim->child, argv);
}

/* Until the files below partitions/ have grown to so many bytes, or the child has ended. */
static void victim_await_bytes(struct victim *victim, uint64_t bytes) {
    uint64_t until = time_now_ms() + WAIT_MS;
    while (bytes_below(victim->partitions) < bytes && is_running(victim->child.pid)) {
        ck_assert_uint_lt(time_now_ms(), until);
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
}

/* SIGKILL at many moments, told by how far the files have grown: either there is a partitioning,
 * which is whole, or there is none; and the next run finds nothing in its way. Over one that is
 * there: there always is one. */
START_TEST(test_killed) {
    struct victim victim;
    victim_init(&victim);
    victim_start(&victim, "fennel");
    child_expect(&victim.child, 0, WAIT_MS);
    uint64_t whole = bytes_below(victim.where);
    int before = 0, after = 0;
    enum { MOMENTS = TEST_REPEATS(12) };
    for (int moment = 0; moment <= MOMENTS; moment++) {
        struct error err = {0};
        struct partition_info info;
        bool over = moment % 2;
        if (!over)
            ck_assert_int_eq(dir_remove(victim.partitions, &err), 0);
        uint64_t there = bytes_below(victim.where);
        victim_start(&victim, over ? "random" : "fennel");
        victim_await_bytes(&victim, there + whole * (uint64_t)moment / MOMENTS + 1);
        child_stop(&victim.child);
        int r = partition_info_read(victim.where, true, &info, &err);
        if (r == 0) {
            partition_info_done(&info);
            check_partitioning(victim.snapshot, 2, 1);
        } else {
            ck_assert_msg(r == ERR_NOT_FOUND && !file_exists(victim.where) && !over, "%s",
                          err.text);
        }
        *(r == 0 ? &after : &before) += 1;
        victim_start(&victim, "fennel");
        child_expect(&victim.child, 0, WAIT_MS);
        check_no_leftovers(victim.partitions);
    }
    ck_assert_int_ge(before, TEST_REPEATS(3));
    ck_assert_int_ge(after, TEST_REPEATS(6));
    check_partitioning(victim.snapshot, 2, 1);
    snapshot_close(victim.snapshot);
}
END_TEST

/* Ctrl-C takes back what was written. */
START_TEST(test_ctrl_c) {
    struct victim victim;
    victim_init(&victim);
    int stopped = 0;
    for (int i = 0; i < TEST_REPEATS(8); i++) {
        victim_start(&victim, i % 2 ? "fennel" : "random");
        victim_await_bytes(&victim, 2 + 200000 * (uint64_t)i);
        child_signal(&victim.child, SIGINT);
        int code = child_wait(&victim.child, WAIT_MS);
        /* Too late, there is a partitioning, and it is whole. */
        bool there = file_exists(victim.where);
        ck_assert_msg(code == 75 || (there && (code == 0 || code == 128 + SIGINT)), "exit code %d",
                      code);
        check_no_leftovers(victim.partitions);
        if (there)
            check_partitioning(victim.snapshot, 2, 1);
        stopped += !there;
        ck_assert_int_eq(dir_remove(victim.where, NULL), 0);
    }
    ck_assert_int_ge(stopped, TEST_REPEATS(3));
    snapshot_close(victim.snapshot);
}
END_TEST

/* METIS' process ends with its parent. */
START_TEST(test_metis_alone) {
    struct victim victim;
    victim_init(&victim);
    uint64_t until = time_now_ms() + WAIT_MS;
    victim_start(&victim, "metis");
    pid_t metis;
    while ((metis = child_of(victim.child.pid)) == 0 && is_running(victim.child.pid))
        ck_assert_uint_lt(time_now_ms(), until);
    ck_assert_int_gt(metis, 0);
    child_stop(&victim.child);
    while (is_running(metis)) {
        ck_assert_uint_lt(time_now_ms(), until);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    ck_assert(!file_exists(victim.where));
    snapshot_close(victim.snapshot);
}
END_TEST

/* Two processes that want the same: one cuts, the other waits and finds it done. */
START_TEST(test_two_at_once) {
    struct victim victim;
    struct child other;
    victim_init(&victim);
    const char *argv[] = {child_program("graphps"),
                          "partition",
                          victim.snapshot->dir,
                          "--parts",
                          "2",
                          "--halo",
                          "1",
                          NULL};
    child_init(&other, "other", test_path(test_tmpdir(), "log"));
    child_start(&victim.child, argv);
    child_start(&other, argv);
    child_expect(&victim.child, 0, WAIT_MS);
    child_expect(&other, 0, WAIT_MS);
    char *first = child_log(&victim.child), *second = child_log(&other);
    ck_assert_int_eq(
        !!strstr(first, "it was there already") + !!strstr(second, "it was there already"), 1);
    free(first);
    free(second);
    check_no_leftovers(victim.partitions);
    check_partitioning(victim.snapshot, 2, 1);
    snapshot_close(victim.snapshot);
}
END_TEST

/* A ring of cliques whose numbers were shuffled: the order brings cliques together. */
START_TEST(test_order) {
    enum { NODES = 20000, CLIQUE = 10 };
    int32_t *number = mem_array(NODES, sizeof *number), *order = mem_array(NODES, sizeof *order);
    int32_t *place = mem_array(NODES, sizeof *place), *clique = mem_array(NODES, sizeof *clique);
    int64_t *indptr = mem_array(NODES + 1, sizeof *indptr);
    int32_t *indices = mem_array(NODES * CLIQUE, sizeof *indices);
    const struct watch untold = {0};
    for (int32_t i = 0; i < NODES; i++) {
        int32_t j = (int32_t)rng_below(rng_at(3, (uint64_t)i), (uint64_t)i + 1);
        number[i] = number[j];
        number[j] = i;
    }
    for (int32_t i = 0; i < NODES; i++)
        clique[number[i]] = i;
    for (int32_t i = 0; i < NODES; i++) { /* its clique, itself included, and the next one's */
        int32_t first = clique[i] / CLIQUE * CLIQUE;
        indptr[i + 1] = indptr[i];
        for (int32_t k = 0; k < CLIQUE; k++)
            indices[indptr[i + 1]++] =
                number[clique[i] == first + k ? (clique[i] + CLIQUE) % NODES : first + k];
    }
    ck_assert_int_eq(order_near(NODES, indptr, indices, &untold, order, NULL), 0);
    memset(place, 0xff, NODES * sizeof *place);
    for (int32_t l = 0; l < NODES; l++) {
        ck_assert_int_eq(place[order[l]], -1);
        place[order[l]] = l;
    }
    uint64_t near = 0;
    for (int32_t i = 0; i < NODES; i++)
        for (int64_t e = indptr[i]; e < indptr[i + 1]; e++)
            near += (uint64_t)(abs(place[i] - place[indices[e]]) < 8 * CLIQUE);
    ck_assert_uint_gt(near, NODES * CLIQUE * 8 / 10);
    int stop = 0;
    const struct watch stopped = {stop_later, &stop};
    ck_assert_int_eq(order_near(NODES, indptr, indices, &stopped, order, NULL), ERR_INTERRUPTED);
    mem_free(number);
    mem_free(order);
    mem_free(place);
    mem_free(clique);
    mem_free(indptr);
    mem_free(indices);
}
END_TEST

/* Long and short rows, with repeats: ascending, and equal ones in their order. */
START_TEST(test_sort_keys) {
    enum { MOST = 1000 };
    uint64_t keys[MOST], spare[MOST];
    for (uint64_t n = 0; n <= MOST; n += n < 60 ? 1 : 47)
        for (uint64_t range = 3; range < (uint64_t)1 << 31; range *= 1000) {
            uint64_t sum = 0;
            for (uint64_t i = 0; i < n; i++) {
                keys[i] = rng_below(rng_at(n, i), range) << 32 | i;
                sum += keys[i];
            }
            csr_sort_keys(keys, spare, n);
            for (uint64_t i = 0; i < n; i++) {
                ck_assert(i == 0 || keys[i - 1] < keys[i]);
                sum -= keys[i];
            }
            ck_assert_uint_eq(sum, 0);
        }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("cut");
    const struct {
        const char *name;
        const TTest *tests[4];
    } cases[] = {
        {"parts", {test_reassembly}},
        {"methods", {test_methods, test_uneven, test_auto}},
        {"ended", {test_interrupted, test_killed, test_ctrl_c, test_metis_alone}},
        {"together", {test_two_at_once}},
        {"pieces", {test_order, test_sort_keys}},
    };
    for (size_t c = 0; c < ARRAY_LEN(cases); c++) {
        TCase *tcase = tcase_create(cases[c].name);
        tcase_set_timeout(tcase, 300);
        for (size_t t = 0; t < ARRAY_LEN(cases[c].tests) && cases[c].tests[t]; t++)
            tcase_add_test(tcase, cases[c].tests[t]);
        suite_add_tcase(suite, tcase);
    }
    return test_run(suite);
}
