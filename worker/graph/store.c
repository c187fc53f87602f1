/* Opening a part and checking that its arrays fit together: kernels index without looking. */
#include "worker/graph/store.h"

#include <stdio.h>
#include <string.h>

#include "common/file.h"
#include "common/mem.h"
#include "common/vec.h"
#include "worker/graph/csr.h"
#include "worker/graph/manifest.h"
#include "worker/graph/stamp.h"

static void json_decref_p(json_t **json) {
    json_decref(*json);
}

static int read_counts(struct store *store, const json_t *manifest, const char *dir,
                       uint64_t *ret_edges, uint64_t *ret_nodes, struct error *reterr) {
    uint64_t part = 0, parts = 0, halo = 0, feature_dim = 0, classes = 0;
    uint64_t node_types = 0, edge_types = 0;
    const char *name = "", *digest = "";
    const struct {
        const char *key;
        uint64_t max, *value;
    } counts[] = {
        {"part", UINT32_MAX, &part},
        {"parts", UINT32_MAX, &parts},
        {"halo", HALO_MAX, &halo},
        {"snapshot_nodes", CSR_NODES_MAX, ret_nodes},
        {"feature_dim", UINT32_MAX, &feature_dim},
        {"classes", INT32_MAX, &classes},
        {"rows", CSR_NODES_MAX, &store->rows},
        {"edges", INT64_MAX, ret_edges},
        {"train_nodes", CSR_NODES_MAX, &store->train_nodes},
        {"train_nodes_max", CSR_NODES_MAX, &store->train_nodes_max},
        {"train_nodes_total", CSR_NODES_MAX, &store->train_nodes_total},
        {"node_types", UINT8_MAX + 1, &node_types},
        {"edge_types", INT32_MAX, &edge_types},
        {"owned_edges_max", INT64_MAX, &store->owned_edges_max},
        {"valid_links", CSR_NODES_MAX, &store->links[SPLIT_VALID].count},
        {"test_links", CSR_NODES_MAX, &store->links[SPLIT_TEST].count},
        {"valid_links_total", CSR_NODES_MAX, &store->links_total[SPLIT_VALID]},
        {"test_links_total", CSR_NODES_MAX, &store->links_total[SPLIT_TEST]},
    };
    /* The last are there if the graph has what they count, and the part is not of an old release.
     */
    const size_t needed = ARRAY_LEN(counts) - 7;
    int r = manifest_text(manifest, dir, "snapshot", &name, reterr);
    if (r == 0)
        r = manifest_text(manifest, dir, "snapshot_digest", &digest, reterr);
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(counts); i++)
        if (i < needed || json_object_get(manifest, counts[i].key))
            r = manifest_uint(manifest, dir, counts[i].key, counts[i].max, counts[i].value, reterr);
    if (r < 0)
        return r;
    if (part != store->part || parts != store->parts || halo != store->halo)
        return error_set(
            reterr, ERR_FORMAT,
            "%s/manifest.json: is part %llu of %llu with halo %llu, in the wrong place", dir,
            (unsigned long long)part, (unsigned long long)parts, (unsigned long long)halo);
    snprintf(store->snapshot_name, sizeof store->snapshot_name, "%s", name);
    snprintf(store->digest, sizeof store->digest, "%s", digest);
    store->feature_dim = (uint32_t)feature_dim;
    store->classes = (uint32_t)classes;
    store->node_types = (uint32_t)node_types;
    store->edge_types = (uint32_t)edge_types;

    const json_t *hops = json_object_get(manifest, "hop_nodes");
    bool ok = json_array_size(hops) == store->halo + 1;
    json_int_t before = 1;
    for (uint32_t h = 0; ok && h <= store->halo; h++) {
        json_int_t within = json_integer_value(json_array_get(hops, h));
        ok = within >= before && (uint64_t)within <= *ret_nodes;
        before = within;
        store->hop_nodes[h] = (uint64_t)within;
    }
    ok = ok && store->rows == store->hop_nodes[store->halo ? store->halo - 1 : 0];
    if (!ok)
        return error_set(reterr, ERR_FORMAT, "%s/manifest.json: \"hop_nodes\" or \"rows\" is wrong",
                         dir);
    store->owned = store->hop_nodes[0];
    store->local = store->hop_nodes[store->halo];
    return 0;
}

static int map_features(struct store *store, const char *path, struct npy *file,
                        struct error *reterr) {
    struct npy found = {0};
    int r = npy_open(path, &found, reterr);
    enum npy_type type = found.type == NPY_F2 ? NPY_F2 : NPY_F4;
    npy_close(&found);
    if (r == 0)
        r = npy_open_as(path, type, store->local, store->feature_dim, file, reterr);
    if (r < 0)
        return r;
    store->features = type == NPY_F4 ? file->data : NULL;
    store->half_features = type == NPY_F2 ? file->data : NULL;
    return 0;
}

static int map_arrays(struct store *store, const json_t *manifest, const char *dir, uint64_t edges,
                      struct error *reterr) {
    struct links *valid = &store->links[SPLIT_VALID], *test = &store->links[SPLIT_TEST];
    const struct {
        const char *name;
        enum npy_type type;
        uint64_t rows, cols;
        const void **to;
    } arrays[] = {
        {"nodes.npy", NPY_I8, store->local, 0, (const void **)&store->nodes},
        {"degree.npy", NPY_I4, store->local, 0, (const void **)&store->degree},
        {"indptr.npy", NPY_I8, store->rows + 1, 0, (const void **)&store->indptr},
        {"indices.npy", NPY_I4, edges, 0, (const void **)&store->indices},
        {"labels.npy", NPY_I4, store->local, 0, (const void **)&store->labels},
        {"split.npy", NPY_U1, store->local, 0, (const void **)&store->split},
        {"multi_labels.npy", NPY_U1, store->local, store->classes,
         (const void **)&store->multi_labels},
        {"node_types.npy", NPY_U1, store->local, 0, (const void **)&store->node_type},
        {"edge_types.npy", NPY_I4, edges, 0, (const void **)&store->edge_type},
        {"edge_weights.npy", NPY_F4, edges, 0, (const void **)&store->edge_weights},
        {"valid_sources.npy", NPY_I4, valid->count, 0, (const void **)&valid->sources},
        {"valid_targets.npy", NPY_I4, valid->count, 0, (const void **)&valid->targets},
        {"valid_relations.npy", NPY_I4, valid->count, 0, (const void **)&valid->relations},
        {"test_sources.npy", NPY_I4, test->count, 0, (const void **)&test->sources},
        {"test_targets.npy", NPY_I4, test->count, 0, (const void **)&test->targets},
        {"test_relations.npy", NPY_I4, test->count, 0, (const void **)&test->relations},
    };
    const size_t needed = 6; /* the others are there if the graph has them */
    _Static_assert(ARRAY_LEN(arrays) < ARRAY_LEN(store->files), "struct store has too few files");
    int r = 0;
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(arrays); i++) {
        if (i >= needed && !manifest_has_file(manifest, arrays[i].name))
            continue;
        _cleanup_(mem_free_p) char *path = mem_printf("%s/%s", dir, arrays[i].name);
        r = npy_open_as(path, arrays[i].type, arrays[i].rows, arrays[i].cols, &store->files[i],
                        reterr);
        if (r == 0)
            *arrays[i].to = store->files[i].data;
    }
    if (r < 0 || store->feature_dim == 0)
        return r;
    _cleanup_(mem_free_p) char *path = mem_printf("%s/features.npy", dir);
    return map_features(store, path, &store->files[ARRAY_LEN(arrays)], reterr);
}

/* Nodes lie in order of their distance, so a neighbour is at most one hop further out: a batch that
 * needs the rows of h hops sizes its arrays by that. */
static int check_hops(const struct store *store, const char *dir, struct error *reterr) {
    uint64_t l = 0;
    for (uint32_t h = 0; h <= store->halo && l < store->rows; h++) {
        int64_t end = (int64_t)store->hop_nodes[h < store->halo ? h + 1 : h];
        for (; l < store->rows && l < store->hop_nodes[h]; l++)
            for (int64_t e = store->indptr[l]; e < store->indptr[l + 1]; e++)
                if (store->indices[e] >= end)
                    return error_set(reterr, ERR_FORMAT,
                                     "%s: local node %llu, %u hops away, has a neighbour beyond "
                                     "the next hop",
                                     dir, (unsigned long long)l, h);
    }
    return 0;
}

static int check_types(const struct store *store, const char *dir, uint64_t edges,
                       struct error *reterr) {
    if ((store->node_types > 0) != (store->node_type != NULL) ||
        (store->edge_types > 0) != (store->edge_type != NULL))
        return error_set(reterr, ERR_FORMAT,
                         "%s/manifest.json: there are types without their array, or an array "
                         "without types",
                         dir);
    for (uint64_t l = 0; store->node_type && l < store->local; l++)
        if (store->node_type[l] >= store->node_types)
            return error_set(reterr, ERR_FORMAT, "%s/node_types.npy: entry %llu is out of range",
                             dir, (unsigned long long)l);
    for (uint64_t e = 0; store->edge_type && e < edges; e++)
        if (store->edge_type[e] < 0 || (uint32_t)store->edge_type[e] >= store->edge_types)
            return error_set(reterr, ERR_FORMAT, "%s/edge_types.npy: entry %llu is out of range",
                             dir, (unsigned long long)e);
    return 0;
}

static int check_links(const struct store *store, const char *dir, struct error *reterr) {
    uint64_t reach = store->hop_nodes[store->halo ? 1 : 0];
    for (int split = SPLIT_VALID; split <= SPLIT_TEST; split++) {
        const struct links *links = &store->links[split];
        const char *name = split == SPLIT_VALID ? "valid" : "test";
        if (links->count > 0 && (!links->sources || !links->targets ||
                                 (store->edge_types > 0) != (links->relations != NULL)))
            return error_set(reterr, ERR_FORMAT, "%s: the arrays of its %s links are not all there",
                             dir, name);
        for (size_t i = 0; i < links->count; i++)
            if (links->sources[i] < 0 || (uint64_t)links->sources[i] >= reach ||
                links->targets[i] < 0 || (uint64_t)links->targets[i] >= store->owned ||
                (links->relations &&
                 (links->relations[i] < 0 || (uint32_t)links->relations[i] >= store->edge_types)))
                return error_set(reterr, ERR_FORMAT, "%s: %s link %zu is out of range", dir, name,
                                 i);
    }
    return 0;
}

static int check_arrays(const struct store *store, const char *dir, uint64_t edges, uint64_t nodes,
                        struct error *reterr) {
    int r = csr_check(dir, store->indptr, store->indices, store->rows, edges, store->local, reterr);
    if (r == 0)
        r = check_hops(store, dir, reterr);
    if (r == 0)
        r = check_types(store, dir, edges, reterr);
    if (r == 0)
        r = check_links(store, dir, reterr);
    uint64_t train = 0;
    for (uint64_t l = 0; r == 0 && l < store->local; l++) {
        int64_t row_len = l < store->rows ? store->indptr[l + 1] - store->indptr[l] : 0;
        if (store->nodes[l] < 0 || (uint64_t)store->nodes[l] >= nodes || store->degree[l] < row_len)
            r = error_set(reterr, ERR_FORMAT, "%s: number or degree of local node %llu is wrong",
                          dir, (unsigned long long)l);
        else if (store->labels[l] < -1 ||
                 (store->labels[l] >= 0 && (uint32_t)store->labels[l] >= store->classes) ||
                 store->split[l] > SPLIT_TEST)
            r = error_set(reterr, ERR_FORMAT, "%s: label or split of local node %llu is wrong", dir,
                          (unsigned long long)l);
        train += l < store->owned && store->split[l] == SPLIT_TRAIN && store->labels[l] >= 0;
    }
    if (r == 0 && (train != store->train_nodes || train > store->train_nodes_max ||
                   store->train_nodes_max > store->train_nodes_total))
        r = error_set(reterr, ERR_FORMAT,
                      "%s/manifest.json: the counts of training nodes are wrong", dir);
    return r;
}

/* Was this part cut from the snapshot that lies there now? A machine that trains one part may have
 * that part alone. */
static int check_snapshot(const struct store *store, const char *snapshot_dir, const char *dir,
                          struct error *reterr) {
    _cleanup_(json_decref_p) json_t *manifest = NULL;
    const char *digest = NULL;
    _cleanup_(mem_free_p) char *path = mem_printf("%s/manifest.json", snapshot_dir);
    if (!file_exists(path))
        return 0;
    int r = manifest_read(snapshot_dir, MANIFEST_ALONE, &manifest, reterr);
    if (r == 0)
        r = manifest_text(manifest, snapshot_dir, "digest", &digest, reterr);
    if (r == 0 && strcmp(digest, store->digest) != 0)
        r = error_set(reterr, ERR_CHECKSUM,
                      "%s: was cut from another snapshot than the one in %s; remove it and run "
                      "graphps partition again",
                      dir, snapshot_dir);
    return r;
}

/* Divides a row by its sum. A node without any feature stays at zero. */
static void normalize_row(float *row, size_t dim) {
    double sum = 0;
    for (size_t j = 0; j < dim; j++)
        sum += row[j];
    float factor = sum != 0 ? (float)(1 / sum) : 1;
    for (size_t j = 0; j < dim; j++)
        row[j] *= factor;
}

bool store_features_plain(const struct store *store) {
    return !store->half_features && !store->normalize;
}

static void take_row(const struct store *store, size_t local, float *row) {
    size_t dim = store->feature_dim;
    if (store->half_features) {
        memset(row, 0, dim * sizeof *row);
        vec()->half_axpy(1, store->half_features + local * dim, dim, row);
    } else {
        memcpy(row, store->features + local * dim, dim * sizeof *row);
    }
    if (store->normalize)
        normalize_row(row, dim);
}

void store_take_features(const struct store *store, const int32_t *locals, size_t count,
                         float *ret) {
    for (size_t i = 0; i < count && store->feature_dim > 0; i++)
        take_row(store, (size_t)locals[i], ret + i * store->feature_dim);
}

void store_take_rows(const struct store *store, uint64_t first, size_t count, float *ret) {
    for (size_t i = 0; i < count && store->feature_dim > 0; i++)
        take_row(store, first + i, ret + i * store->feature_dim);
}

/* Maps the arrays and looks at what is in them, unless the note says that somebody did. */
static int open_arrays(struct store *store, const char *snapshot_dir, const char *dir, bool verify,
                       struct error *reterr) {
    _cleanup_(json_decref_p) json_t *manifest = NULL;
    uint64_t edges = 0, nodes = 0;
    int r = manifest_read(dir, MANIFEST_LENGTHS, &manifest, reterr);
    if (r < 0)
        return r;
    enum stamp_level wanted = verify ? STAMP_VERIFIED : STAMP_CHECKED;
    _cleanup_(mem_free_p) char *state = stamp_state(dir, manifest);
    bool known = stamp_read(dir, state) >= wanted;
    if (verify && !known) {
        json_t *again = NULL;
        r = manifest_read(dir, MANIFEST_MD5, &again, reterr);
        json_decref(again);
    }
    if (r == 0)
        r = read_counts(store, manifest, dir, &edges, &nodes, reterr);
    if (r == 0)
        r = check_snapshot(store, snapshot_dir, dir, reterr);
    if (r == 0)
        r = map_arrays(store, manifest, dir, edges, reterr);
    if (r < 0 || known)
        return r;
    r = check_arrays(store, dir, edges, nodes, reterr);
    _cleanup_(mem_free_p) char *after = stamp_state(dir, manifest);
    if (r == 0 && strcmp(state, after) == 0)
        stamp_write(dir, state, wanted);
    return r;
}

int store_open(const char *snapshot_dir, uint32_t parts, uint32_t halo, uint32_t part, bool verify,
               bool normalize, struct store **ret, struct error *reterr) {
    if (part >= parts || halo > HALO_MAX)
        return error_set(reterr, ERR_RANGE, "part %u of %u with a halo of %u hops: there is none",
                         part, parts, halo);
    _cleanup_(mem_free_p) char *all = partition_dir(snapshot_dir, parts, halo);
    _cleanup_(mem_free_p) char *dir = mem_printf("%s/part-%u", all, part);
    if (!file_exists(dir))
        return error_set(reterr, ERR_NOT_FOUND,
                         "%s is not there; make it with: graphps partition %s --parts %u --halo %u",
                         dir, snapshot_dir, parts, halo);
    struct store *store = mem_alloc(sizeof *store);
    store->part = part;
    store->parts = parts;
    store->halo = halo;
    store->normalize = normalize;
    int r = open_arrays(store, snapshot_dir, dir, verify, reterr);
    if (r < 0) {
        store_close(store);
        return r;
    }
    *ret = store;
    return 0;
}

/* The columns of an array of links, each in an array of its own. */
static void split_links(struct store *store, enum split split, const struct npy *array,
                        void **made) {
    size_t cols = store->edge_types ? 3 : 2, count = array->data ? array->count / cols : 0;
    const int32_t *items = array->data;
    struct links *links = &store->links[split];
    store->links_total[split] = count;
    if (count == 0)
        return;
    int32_t *columns[3] = {NULL};
    for (size_t column = 0; column < cols; column++) {
        columns[column] = made[column] = mem_array(count, sizeof **columns);
        for (size_t i = 0; i < count; i++)
            columns[column][i] = items[i * cols + column];
    }
    *links = (struct links){count, columns[0], columns[1], columns[2]};
}

struct store *store_from_snapshot(const struct snapshot *snapshot, bool normalize) {
    struct store *store = mem_alloc(sizeof *store);
    *store = (struct store){.parts = 1,
                            .owned = snapshot->nodes,
                            .local = snapshot->nodes,
                            .rows = snapshot->nodes,
                            .hop_nodes = {snapshot->nodes},
                            .feature_dim = snapshot->feature_dim,
                            .classes = snapshot->classes,
                            .indptr = snapshot->indptr.data,
                            .indices = snapshot->indices.data,
                            .node_types = snapshot->node_types,
                            .edge_types = snapshot->edge_types,
                            .normalize = normalize,
                            .multi_labels = snapshot->multi_labels.data,
                            .node_type = snapshot->node_type.data,
                            .edge_type = snapshot->edge_type.data,
                            .edge_weights = snapshot->edge_weights.data,
                            .labels = snapshot->labels.data,
                            .split = snapshot->split.data};
    if (snapshot->features.type == NPY_F2)
        store->half_features = snapshot->features.data;
    else
        store->features = snapshot->features.data;
    snprintf(store->snapshot_name, sizeof store->snapshot_name, "%s", snapshot->name);
    snprintf(store->digest, sizeof store->digest, "%s", snapshot->digest);
    int64_t *nodes = store->made[0] = mem_array(snapshot->nodes, sizeof *nodes);
    int32_t *degree = store->made[1] = mem_array(snapshot->nodes, sizeof *degree);
    store->nodes = nodes;
    store->degree = degree;
    for (uint64_t i = 0; i < snapshot->nodes; i++) {
        nodes[i] = (int64_t)i;
        degree[i] = (int32_t)(store->indptr[i + 1] - store->indptr[i]);
        store->train_nodes += store->split[i] == SPLIT_TRAIN && store->labels[i] >= 0;
    }
    store->train_nodes_max = store->train_nodes_total = store->train_nodes;
    store->owned_edges_max = snapshot->edges;
    split_links(store, SPLIT_VALID, &snapshot->valid_edges, store->made + 2);
    split_links(store, SPLIT_TEST, &snapshot->test_edges, store->made + 5);
    return store;
}

struct store *store_close(struct store *store) {
    if (!store)
        return NULL;
    for (size_t i = 0; i < ARRAY_LEN(store->files); i++)
        npy_close(&store->files[i]);
    for (size_t i = 0; i < ARRAY_LEN(store->made); i++)
        mem_free(store->made[i]);
    mem_free(store);
    return NULL;
}
