/* Collecting a part's nodes and copying what belongs to them. Linear in what the part holds. */
#include "worker/graph/part.h"

#include <string.h>

#include "common/mem.h"
#include "worker/graph/balance.h"
#include "worker/graph/csr.h"
#include "worker/graph/manifest.h"
#include "worker/graph/part_links.h"

#define CHUNK_BYTES (4u << 20)
#define CHUNK_ENTRIES (1u << 18)

static void json_decref_p(json_t **json) {
    json_decref(*json);
}

void desk_init(struct desk *desk, uint64_t nodes) {
    desk->local_of = mem_array(nodes, sizeof *desk->local_of);
    desk->nodes = mem_array(nodes, sizeof *desk->nodes);
    memset(desk->local_of, 0xff, nodes * sizeof *desk->local_of);
}

void desk_done(struct desk *desk) {
    mem_free(desk->local_of);
    mem_free(desk->nodes);
}

/* Halo nodes are numbered as they are met, from the rows of the nodes before them: so those that
 * are needed together lie together. */
static void collect(const struct cut *cut, struct desk *desk, uint32_t number, struct part *part) {
    const int64_t *indptr = cut->snapshot->indptr.data;
    const int32_t *indices = cut->snapshot->indices.data;
    uint64_t local = 0, begin = 0;
    for (uint64_t at = cut->starts[number]; at < cut->starts[number + 1]; at++) {
        int32_t node = cut->listed[at];
        desk->local_of[node] = (int32_t)local;
        desk->nodes[local++] = node;
        part->train += balance_is_train(cut->snapshot, (uint64_t)node);
        part->owned_edges += (uint64_t)(indptr[node + 1] - indptr[node]);
    }
    part->owned = part->hop_nodes[0] = local;
    for (uint32_t hop = 1; hop <= cut->halo; hop++) {
        uint64_t end = local;
        for (uint64_t l = begin; l < end; l++)
            for (int64_t e = indptr[desk->nodes[l]]; e < indptr[desk->nodes[l] + 1]; e++)
                if (desk->local_of[indices[e]] < 0) {
                    desk->local_of[indices[e]] = (int32_t)local;
                    desk->nodes[local++] = indices[e];
                }
        if (hop == 1)
            local = part_links_collect(cut, desk, number, local);
        begin = end;
        part->hop_nodes[hop] = local;
    }
    part->rows = part->hop_nodes[cut->halo ? cut->halo - 1 : 0];
}

/* How many bytes its arrays will have; without a halo rows lose some of their entries. */
static uint64_t expect(const struct cut *cut, const struct desk *desk, uint32_t number,
                       const struct part *part) {
    const struct snapshot *s = cut->snapshot;
    const int64_t *indptr = s->indptr.data;
    uint64_t local = part->hop_nodes[cut->halo], entries = 0;
    for (uint64_t l = 0; l < part->rows; l++)
        entries += (uint64_t)(indptr[desk->nodes[l] + 1] - indptr[desk->nodes[l]]);
    uint64_t node_bytes = 8 + 4 + 4 + 4 + 1;
    if (s->features.data)
        node_bytes += s->feature_dim * npy_item_bytes(s->features.type);
    if (s->multi_labels.data)
        node_bytes += s->classes;
    if (s->node_type.data)
        node_bytes += 1;
    uint64_t entry_bytes = 4 + (s->edge_weights.data ? 4 : 0) + (s->edge_type.data ? 4 : 0);
    return local * node_bytes + (part->rows + 1) * 8 + entries * entry_bytes +
           part_links_bytes(cut, number);
}

int part_append(struct cut *cut, struct npy_writer *writer, enum npy_type type, const void *items,
                uint64_t count, struct error *reterr) {
    if (atomic_load_explicit(&cut->stop, memory_order_relaxed))
        return error_set(reterr, ERR_INTERRUPTED, "interrupted");
    int r = npy_append(writer, items, count, reterr);
    atomic_fetch_add_explicit(&cut->written, count * npy_item_bytes(type), memory_order_relaxed);
    return r;
}

int part_finish(struct npy_writer *writer, int r, struct error *reterr) {
    if (r == 0)
        return npy_commit(writer, reterr);
    npy_abandon(writer);
    return r;
}

/* The three arrays that go by entries. */
struct entries {
    struct npy_writer *indices, *weights, *types; /* NULL: the graph has none */
    uint64_t count;                               /* in the arrays below */
    int32_t *index, *type;
    float *weight;
    uint64_t *keys, *spare; /* a row being sorted */
};

static int entries_flush(struct cut *cut, struct entries *entries, struct error *reterr) {
    int r = part_append(cut, entries->indices, NPY_I4, entries->index, entries->count, reterr);
    if (r == 0 && entries->weights)
        r = part_append(cut, entries->weights, NPY_F4, entries->weight, entries->count, reterr);
    if (r == 0 && entries->types)
        r = part_append(cut, entries->types, NPY_I4, entries->type, entries->count, reterr);
    entries->count = 0;
    return r;
}

static int entries_open(const struct cut *cut, struct entries *entries, const char *dir,
                        struct error *reterr) {
    const struct snapshot *s = cut->snapshot;
    _cleanup_(mem_free_p) char *indices = mem_printf("%s/indices.npy", dir);
    _cleanup_(mem_free_p) char *weights = mem_printf("%s/edge_weights.npy", dir);
    _cleanup_(mem_free_p) char *types = mem_printf("%s/edge_types.npy", dir);
    int r = npy_create(indices, NPY_I4, 0, &entries->indices, reterr);
    if (r == 0 && s->edge_weights.data)
        r = npy_create(weights, NPY_F4, 0, &entries->weights, reterr);
    if (r == 0 && s->edge_type.data)
        r = npy_create(types, NPY_I4, 0, &entries->types, reterr);
    return r;
}

static int entries_close(struct entries *entries, int r, struct error *reterr) {
    struct npy_writer *writers[] = {entries->indices, entries->weights, entries->types};
    for (size_t i = 0; i < ARRAY_LEN(writers); i++)
        if (writers[i])
            r = part_finish(writers[i], r, reterr);
    mem_free(entries->index);
    mem_free(entries->weight);
    mem_free(entries->type);
    mem_free(entries->keys);
    mem_free(entries->spare);
    return r;
}

/* A node's entries whose other end is here, ascending by that; equal ones in the snapshot's order,
 * which is by type. */
static void entries_add(const struct cut *cut, const struct desk *desk, struct entries *entries,
                        int32_t node) {
    const struct snapshot *s = cut->snapshot;
    const int64_t *indptr = s->indptr.data;
    const int32_t *indices = s->indices.data;
    int64_t begin = indptr[node];
    uint64_t len = 0;
    for (int64_t e = begin; e < indptr[node + 1]; e++)
        if (desk->local_of[indices[e]] >= 0)
            entries->keys[len++] =
                (uint64_t)desk->local_of[indices[e]] << 32 | (uint64_t)(e - begin);
    csr_sort_keys(entries->keys, entries->spare, len);
    for (uint64_t k = 0; k < len; k++) {
        uint64_t out = entries->count + k, e = (uint64_t)begin + (uint32_t)entries->keys[k];
        entries->index[out] = (int32_t)(entries->keys[k] >> 32);
        if (entries->weights)
            entries->weight[out] = ((const float *)s->edge_weights.data)[e];
        if (entries->types)
            entries->type[out] = ((const int32_t *)s->edge_type.data)[e];
    }
    entries->count += len;
}

static int write_rows(struct cut *cut, const struct desk *desk, struct part *part, const char *dir,
                      struct error *reterr) {
    const int64_t *whole = cut->snapshot->indptr.data;
    _cleanup_(mem_free_p) int64_t *indptr = mem_array(part->rows + 1, sizeof *indptr);
    _cleanup_(mem_free_p) char *path = mem_printf("%s/indptr.npy", dir);
    uint64_t longest = 0, all = 0;
    for (uint64_t l = 0; l < part->rows; l++) {
        uint64_t len = (uint64_t)(whole[desk->nodes[l] + 1] - whole[desk->nodes[l]]);
        longest = len > longest ? len : longest;
        all += len;
    }
    /* Full after CHUNK_ENTRIES, at the latest with the row that goes beyond. */
    uint64_t room = all < CHUNK_ENTRIES + longest ? all : CHUNK_ENTRIES + longest;
    struct entries entries = {.index = mem_raw(room * sizeof *entries.index),
                              .weight = mem_raw(room * sizeof *entries.weight),
                              .type = mem_raw(room * sizeof *entries.type),
                              .keys = mem_raw(longest * sizeof *entries.keys),
                              .spare = mem_raw(longest * sizeof *entries.spare)};
    int r = entries_open(cut, &entries, dir, reterr);
    for (uint64_t l = 0; r == 0 && l < part->rows; l++) {
        uint64_t before = entries.count;
        entries_add(cut, desk, &entries, desk->nodes[l]);
        indptr[l + 1] = indptr[l] + (int64_t)(entries.count - before);
        if (entries.count >= CHUNK_ENTRIES)
            r = entries_flush(cut, &entries, reterr);
    }
    if (r == 0)
        r = entries_flush(cut, &entries, reterr);
    r = entries_close(&entries, r, reterr);
    part->edges = (uint64_t)indptr[part->rows];
    struct npy_writer *writer = NULL;
    if (r == 0)
        r = npy_create(path, NPY_I8, 0, &writer, reterr);
    if (r == 0)
        r = part_finish(writer, part_append(cut, writer, NPY_I8, indptr, part->rows + 1, reterr),
                        reterr);
    return r;
}

/* The part's rows of an array of the snapshot, when there is one. */
static int write_copy(struct cut *cut, const struct desk *desk, uint64_t local, const char *dir,
                      const char *name, const struct npy *from, uint64_t cols,
                      struct error *reterr) {
    if (!from->data)
        return 0;
    uint64_t width = cols ? cols : 1;
    size_t row_bytes = width * npy_item_bytes(from->type);
    uint64_t chunk = row_bytes < CHUNK_BYTES ? CHUNK_BYTES / row_bytes : 1;
    chunk = chunk < local ? chunk : local;
    _cleanup_(mem_free_p) char *path = mem_printf("%s/%s.npy", dir, name);
    _cleanup_(mem_free_p) char *buffer = mem_raw(chunk * row_bytes);
    struct npy_writer *writer = NULL;
    int r = npy_create(path, from->type, cols, &writer, reterr);
    if (r < 0)
        return r;
    for (uint64_t l = 0; r == 0 && l < local; l += chunk) {
        uint64_t count = local - l < chunk ? local - l : chunk;
        for (uint64_t i = 0; i < count; i++)
            memcpy(buffer + i * row_bytes,
                   (const char *)from->data + (size_t)desk->nodes[l + i] * row_bytes, row_bytes);
        r = part_append(cut, writer, from->type, buffer, count * width, reterr);
    }
    return part_finish(writer, r, reterr);
}

enum column { COLUMN_NODES, COLUMN_OWNER, COLUMN_DEGREE };

static int write_column(struct cut *cut, const struct desk *desk, uint64_t local, const char *dir,
                        enum column column, struct error *reterr) {
    static const char *const names[] = {"nodes", "owner", "degree"};
    const int64_t *indptr = cut->snapshot->indptr.data;
    enum npy_type type = column == COLUMN_NODES ? NPY_I8 : NPY_I4;
    _cleanup_(mem_free_p) char *path = mem_printf("%s/%s.npy", dir, names[column]);
    uint64_t chunk = local < CHUNK_ENTRIES ? local : CHUNK_ENTRIES;
    _cleanup_(mem_free_p) char *buffer = mem_raw(chunk * npy_item_bytes(type));
    int64_t *wide = (int64_t *)(void *)buffer;
    int32_t *narrow = (int32_t *)(void *)buffer;
    struct npy_writer *writer = NULL;
    int r = npy_create(path, type, 0, &writer, reterr);
    if (r < 0)
        return r;
    for (uint64_t l = 0; r == 0 && l < local; l += chunk) {
        uint64_t count = local - l < chunk ? local - l : chunk;
        for (uint64_t i = 0; i < count; i++) {
            int32_t node = desk->nodes[l + i];
            if (column == COLUMN_NODES)
                wide[i] = node;
            else if (column == COLUMN_OWNER)
                narrow[i] = cut->owner[node];
            else
                narrow[i] = (int32_t)(indptr[node + 1] - indptr[node]);
        }
        r = part_append(cut, writer, type, buffer, count, reterr);
    }
    return part_finish(writer, r, reterr);
}

static int write_manifest(const struct cut *cut, const struct part *part, uint32_t number,
                          const char *dir, struct error *reterr) {
    const struct snapshot *s = cut->snapshot;
    _cleanup_(mem_free_p) char *snapshot_name = mem_printf("%s@%s", s->name, s->version);
    _cleanup_(json_decref_p) json_t *manifest = json_object();
    json_object_set_new(manifest, "snapshot", json_string(snapshot_name));
    json_object_set_new(manifest, "snapshot_digest", json_string(s->digest));
    const struct {
        const char *key;
        uint64_t value;
        bool absent;
    } counts[] = {
        {"part", number, false},
        {"parts", cut->parts, false},
        {"halo", cut->halo, false},
        {"snapshot_nodes", s->nodes, false},
        {"feature_dim", s->feature_dim, false},
        {"classes", s->classes, false},
        {"node_types", s->node_types, s->node_types == 0},
        {"edge_types", s->edge_types, s->edge_types == 0},
        {"rows", part->rows, false},
        {"edges", part->edges, false},
        {"train_nodes", part->train, false},
        {"train_nodes_max", cut->train_max, false},
        {"train_nodes_total", cut->train_total, false},
        {"owned_edges_max", cut->edges_max, false},
        {"valid_links", part->links[0], !s->valid_edges.data},
        {"test_links", part->links[1], !s->test_edges.data},
        {"valid_links_total", cut->held[0].starts[cut->parts], !s->valid_edges.data},
        {"test_links_total", cut->held[1].starts[cut->parts], !s->test_edges.data},
    };
    for (size_t i = 0; i < ARRAY_LEN(counts); i++)
        if (!counts[i].absent)
            json_object_set_new(manifest, counts[i].key, json_integer((json_int_t)counts[i].value));
    json_t *hops = json_array();
    for (uint32_t h = 0; h <= cut->halo; h++)
        json_array_append_new(hops, json_integer((json_int_t)part->hop_nodes[h]));
    json_object_set_new(manifest, "hop_nodes", hops);
    return manifest_write(dir, manifest, reterr);
}

static int write_arrays(struct cut *cut, const struct desk *desk, struct part *part,
                        const char *dir, struct error *reterr) {
    const struct snapshot *s = cut->snapshot;
    uint64_t local = part->hop_nodes[cut->halo];
    const struct {
        const char *name;
        const struct npy *from;
        uint64_t cols;
    } copies[] = {
        {"features", &s->features, s->feature_dim},
        {"labels", &s->labels, 0},
        {"split", &s->split, 0},
        {"multi_labels", &s->multi_labels, s->classes},
        {"node_types", &s->node_type, 0},
    };
    int r = write_rows(cut, desk, part, dir, reterr);
    for (int column = COLUMN_NODES; r == 0 && column <= COLUMN_DEGREE; column++)
        r = write_column(cut, desk, local, dir, (enum column)column, reterr);
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(copies); i++)
        r = write_copy(cut, desk, local, dir, copies[i].name, copies[i].from, copies[i].cols,
                       reterr);
    return r;
}

int part_write(struct cut *cut, struct desk *desk, uint32_t number, const char *dir,
               struct part *ret, struct error *reterr) {
    _cleanup_(mem_free_p) char *part_dir = mem_printf("%s/part-%u", dir, number);
    struct part part = {0};
    collect(cut, desk, number, &part);
    atomic_fetch_add(&cut->expected, expect(cut, desk, number, &part));
    atomic_fetch_add(&cut->collected, part.owned);
    int r = dir_make(part_dir, reterr);
    if (r == 0)
        r = write_arrays(cut, desk, &part, part_dir, reterr);
    if (r == 0)
        r = part_links_write(cut, desk, number, part_dir, &part, reterr);
    if (r == 0)
        r = write_manifest(cut, &part, number, part_dir, reterr);
    for (uint64_t l = 0; l < part.hop_nodes[cut->halo]; l++)
        desk->local_of[desk->nodes[l]] = -1;
    if (r == 0)
        *ret = part;
    return r;
}
