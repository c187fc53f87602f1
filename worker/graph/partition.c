/* Cutting a snapshot and writing the parts. Who owns what is decided in assign.c; what a part needs
 * of its neighbours' nodes is decided here. */
#include "worker/graph/partition.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/file.h"
#include "common/mem.h"
#include "worker/graph/assign.h"
#include "worker/graph/csr.h"
#include "worker/graph/manifest.h"

#define PARTS_MAX 4096
#define COPY_BYTES (1u << 20)

static void json_decref_p(json_t **json) {
    json_decref(*json);
}

/* The graph and what holds for all its parts; arrays are borrowed. */
struct cut {
    const struct snapshot *snapshot;
    const int64_t *indptr;
    const int32_t *indices;
    const int32_t *owner; /* [nodes] */
    uint32_t parts, halo;
    uint64_t train_nodes_max, train_nodes_total;
    int32_t *local_of; /* [nodes] local number in the part being written, -1 */
};

/* One part being written: its nodes in local order, and how far each hop reaches. */
struct part {
    uint32_t number;
    int32_t *nodes; /* [nodes of the snapshot], local of them used */
    uint64_t local, rows, edges, train;
    uint64_t hop_nodes[HALO_MAX + 1];
};

static bool is_train(const struct snapshot *s, uint64_t node) {
    return ((const uint8_t *)s->split.data)[node] == SPLIT_TRAIN &&
           ((const int32_t *)s->labels.data)[node] >= 0;
}

static void part_collect(const struct cut *cut, struct part *part) {
    uint64_t n = cut->snapshot->nodes;
    for (uint64_t i = 0; i < n; i++) {
        cut->local_of[i] = -1;
        if ((uint32_t)cut->owner[i] == part->number) {
            cut->local_of[i] = (int32_t)part->local;
            part->nodes[part->local++] = (int32_t)i;
            part->train += is_train(cut->snapshot, i);
        }
    }
    part->hop_nodes[0] = part->local;
    uint64_t begin = 0;
    for (uint32_t hop = 1; hop <= cut->halo; hop++) {
        uint64_t end = part->local;
        for (uint64_t l = begin; l < end; l++)
            for (int64_t e = cut->indptr[part->nodes[l]]; e < cut->indptr[part->nodes[l] + 1]; e++)
                if (cut->local_of[cut->indices[e]] < 0) {
                    cut->local_of[cut->indices[e]] = 0; /* seen; numbered after sorting */
                    part->nodes[part->local++] = cut->indices[e];
                }
        qsort(part->nodes + end, part->local - end, sizeof *part->nodes, csr_compare);
        for (uint64_t l = end; l < part->local; l++)
            cut->local_of[part->nodes[l]] = (int32_t)l;
        begin = end;
        part->hop_nodes[hop] = part->local;
    }
    part->rows = part->hop_nodes[cut->halo ? cut->halo - 1 : 0];
}

static int write_rows(const struct cut *cut, struct part *part, const char *dir,
                      struct error *reterr) {
    _cleanup_(mem_free_p) int64_t *indptr = mem_array(part->rows + 1, sizeof *indptr);
    _cleanup_(mem_free_p) int32_t *row = mem_array(cut->snapshot->nodes, sizeof *row);
    _cleanup_(mem_free_p) char *indptr_path = mem_printf("%s/indptr.npy", dir);
    _cleanup_(mem_free_p) char *indices_path = mem_printf("%s/indices.npy", dir);
    struct npy_writer *writer = NULL;
    int r = npy_create(indices_path, NPY_I4, 0, &writer, reterr);
    for (uint64_t l = 0; r == 0 && l < part->rows; l++) {
        uint64_t len = 0;
        for (int64_t e = cut->indptr[part->nodes[l]]; e < cut->indptr[part->nodes[l] + 1]; e++)
            if (cut->local_of[cut->indices[e]] >= 0)
                row[len++] = cut->local_of[cut->indices[e]];
        qsort(row, len, sizeof *row, csr_compare);
        indptr[l + 1] = indptr[l] + (int64_t)len;
        r = npy_append(writer, row, len, reterr);
    }
    part->edges = (uint64_t)indptr[part->rows];
    if (r < 0) {
        npy_abandon(writer);
        return r;
    }
    r = npy_commit(writer, reterr);
    return r ? r : npy_write(indptr_path, NPY_I8, part->rows + 1, 0, indptr, reterr);
}

/* The part's rows of an array of the snapshot. */
static int write_copy(const struct part *part, const char *dir, const char *name,
                      const struct npy *from, uint64_t cols, struct error *reterr) {
    size_t row_bytes = (cols ? cols : 1) * npy_item_bytes(from->type);
    uint64_t chunk = row_bytes < COPY_BYTES ? COPY_BYTES / row_bytes : 1;
    _cleanup_(mem_free_p) char *path = mem_printf("%s/%s.npy", dir, name);
    _cleanup_(mem_free_p) char *buffer = mem_array(chunk, row_bytes);
    struct npy_writer *writer = NULL;
    int r = npy_create(path, from->type, cols, &writer, reterr);
    for (uint64_t l = 0; r == 0 && l < part->local; l += chunk) {
        uint64_t count = part->local - l < chunk ? part->local - l : chunk;
        for (uint64_t i = 0; i < count; i++)
            memcpy(buffer + i * row_bytes,
                   (const char *)from->data + (size_t)part->nodes[l + i] * row_bytes, row_bytes);
        r = npy_append(writer, buffer, count * (cols ? cols : 1), reterr);
    }
    if (r < 0) {
        npy_abandon(writer);
        return r;
    }
    return npy_commit(writer, reterr);
}

static int write_columns(const struct cut *cut, const struct part *part, const char *dir,
                         struct error *reterr) {
    _cleanup_(mem_free_p) int64_t *nodes = mem_array(part->local, sizeof *nodes);
    _cleanup_(mem_free_p) int32_t *column = mem_array(part->local, sizeof *column);
    _cleanup_(mem_free_p) char *nodes_path = mem_printf("%s/nodes.npy", dir);
    _cleanup_(mem_free_p) char *owner_path = mem_printf("%s/owner.npy", dir);
    _cleanup_(mem_free_p) char *degree_path = mem_printf("%s/degree.npy", dir);
    for (uint64_t l = 0; l < part->local; l++) {
        nodes[l] = part->nodes[l];
        column[l] = cut->owner[part->nodes[l]];
    }
    int r = npy_write(nodes_path, NPY_I8, part->local, 0, nodes, reterr);
    if (r == 0)
        r = npy_write(owner_path, NPY_I4, part->local, 0, column, reterr);
    for (uint64_t l = 0; l < part->local; l++)
        column[l] = (int32_t)(cut->indptr[part->nodes[l] + 1] - cut->indptr[part->nodes[l]]);
    if (r == 0)
        r = npy_write(degree_path, NPY_I4, part->local, 0, column, reterr);
    return r;
}

static json_t *hop_array(const struct cut *cut, const struct part *part) {
    json_t *hops = json_array();
    for (uint32_t h = 0; h <= cut->halo; h++)
        json_array_append_new(hops, json_integer((json_int_t)part->hop_nodes[h]));
    return hops;
}

static int write_part(const struct cut *cut, struct part *part, const char *tmp,
                      struct error *reterr) {
    const struct snapshot *s = cut->snapshot;
    _cleanup_(mem_free_p) char *dir = mem_printf("%s/part-%u", tmp, part->number);
    int r = dir_make(dir, reterr);
    if (r == 0)
        r = write_rows(cut, part, dir, reterr);
    if (r == 0)
        r = write_columns(cut, part, dir, reterr);
    if (r == 0)
        r = write_copy(part, dir, "features", &s->features, s->feature_dim, reterr);
    if (r == 0)
        r = write_copy(part, dir, "labels", &s->labels, 0, reterr);
    if (r == 0)
        r = write_copy(part, dir, "split", &s->split, 0, reterr);
    if (r < 0)
        return r;
    _cleanup_(mem_free_p) char *snapshot_name = mem_printf("%s@%s", s->name, s->version);
    _cleanup_(json_decref_p) json_t *manifest = json_object();
    json_object_set_new(manifest, "snapshot", json_string(snapshot_name));
    json_object_set_new(manifest, "snapshot_digest", json_string(s->digest));
    const struct {
        const char *key;
        uint64_t value;
    } counts[] = {
        {"part", part->number},
        {"parts", cut->parts},
        {"halo", cut->halo},
        {"snapshot_nodes", s->nodes},
        {"feature_dim", s->feature_dim},
        {"classes", s->classes},
        {"rows", part->rows},
        {"edges", part->edges},
        {"train_nodes", part->train},
        {"train_nodes_max", cut->train_nodes_max},
        {"train_nodes_total", cut->train_nodes_total},
    };
    for (size_t i = 0; i < ARRAY_LEN(counts); i++)
        json_object_set_new(manifest, counts[i].key, json_integer((json_int_t)counts[i].value));
    json_object_set_new(manifest, "hop_nodes", hop_array(cut, part));
    return manifest_write(dir, manifest, reterr);
}

static int write_parts(struct cut *cut, json_t *manifest, const char *tmp, struct error *reterr) {
    uint64_t n = cut->snapshot->nodes;
    _cleanup_(mem_free_p) uint64_t *train = mem_array(cut->parts, sizeof *train);
    uint64_t edge_cut = 0;
    for (uint64_t i = 0; i < n; i++) {
        train[cut->owner[i]] += is_train(cut->snapshot, i);
        for (int64_t e = cut->indptr[i]; e < cut->indptr[i + 1]; e++)
            edge_cut += cut->owner[i] != cut->owner[cut->indices[e]];
    }
    for (uint32_t k = 0; k < cut->parts; k++) {
        cut->train_nodes_total += train[k];
        if (train[k] > cut->train_nodes_max)
            cut->train_nodes_max = train[k];
    }
    _cleanup_(mem_free_p) int32_t *nodes = mem_array(n, sizeof *nodes);
    json_t *list = json_array();
    json_object_set_new(manifest, "edge_cut", json_integer((json_int_t)edge_cut));
    json_object_set_new(manifest, "part", list);
    int r = 0;
    for (uint32_t k = 0; r == 0 && k < cut->parts; k++) {
        struct part part = {.number = k, .nodes = nodes};
        part_collect(cut, &part);
        r = write_part(cut, &part, tmp, reterr);
        json_array_append_new(list,
                              json_pack("{s:I,s:o,s:I,s:I}", "owned", (json_int_t)part.hop_nodes[0],
                                        "hop_nodes", hop_array(cut, &part), "edges",
                                        (json_int_t)part.edges, "train", (json_int_t)part.train));
    }
    return r;
}

static int check_request(const struct snapshot *s, uint32_t parts, uint32_t halo,
                         struct error *reterr) {
    if (parts < 1 || parts > PARTS_MAX || parts > s->nodes)
        return error_set(reterr, ERR_RANGE,
                         "%u parts of %s@%s: there must be 1 to %llu (a part owns at least one "
                         "node, and %u is the most)",
                         parts, s->name, s->version,
                         (unsigned long long)(s->nodes < PARTS_MAX ? s->nodes : PARTS_MAX),
                         PARTS_MAX);
    if (halo > HALO_MAX)
        return error_set(reterr, ERR_RANGE, "halo of %u hops: there can be 0 to %u", halo,
                         HALO_MAX);
    return 0;
}

int partition_make(const struct snapshot *s, uint32_t parts, uint32_t halo, uint64_t seed,
                   bool *ret_existed, struct error *reterr) {
    int r = check_request(s, parts, halo, reterr);
    if (r < 0)
        return r;
    _cleanup_(mem_free_p) char *dir = partition_dir(s->dir, parts, halo);
    if (file_exists(dir)) {
        *ret_existed = true;
        return 0;
    }
    struct cut cut = {.snapshot = s,
                      .indptr = s->indptr.data,
                      .indices = s->indices.data,
                      .parts = parts,
                      .halo = halo};
    _cleanup_(mem_free_p) int32_t *owner = mem_array(s->nodes, sizeof *owner);
    r = assign_owners(s, parts, seed, owner, reterr);
    if (r < 0)
        return r;
    cut.owner = owner;

    _cleanup_(mem_free_p) char *all = mem_printf("%s/partitions", s->dir);
    _cleanup_(mem_free_p) char *tmp = NULL;
    r = dir_make(all, reterr);
    if (r == 0)
        r = dir_create(dir, &tmp, reterr);
    if (r < 0)
        return r;
    _cleanup_(mem_free_p) int32_t *local_of = mem_array(s->nodes, sizeof *local_of);
    cut.local_of = local_of;
    _cleanup_(json_decref_p) json_t *manifest =
        json_pack("{s:s,s:i,s:i,s:I}", "snapshot_digest", s->digest, "parts", (int)parts, "halo",
                  (int)halo, "seed", (json_int_t)seed);
    r = write_parts(&cut, manifest, tmp, reterr);
    if (r == 0)
        r = manifest_write(tmp, manifest, reterr);
    if (r == 0)
        r = dir_commit(tmp, dir, reterr);
    else
        (void)dir_remove(tmp, NULL); /* the first error is the one to tell */
    if (r == 0)
        *ret_existed = false;
    return r;
}

char *partition_dir(const char *snapshot_dir, uint32_t parts, uint32_t halo) {
    return mem_printf("%s/partitions/%ux%u", snapshot_dir, parts, halo);
}

static int info_part(const char *dir, const json_t *entry, uint32_t halo, struct part_info *ret,
                     struct error *reterr) {
    const json_t *hops = json_object_get(entry, "hop_nodes");
    int r = manifest_uint(entry, dir, "owned", INT32_MAX, &ret->owned, reterr);
    if (r == 0)
        r = manifest_uint(entry, dir, "edges", INT64_MAX, &ret->edges, reterr);
    if (r == 0)
        r = manifest_uint(entry, dir, "train", INT32_MAX, &ret->train, reterr);
    if (r == 0 && json_array_size(hops) != halo + 1)
        r = error_set(reterr, ERR_FORMAT,
                      "%s/manifest.json: \"hop_nodes\" does not have %u entries", dir, halo + 1);
    for (uint32_t h = 0; r == 0 && h < halo; h++)
        ret->halo[h] = (uint64_t)(json_integer_value(json_array_get(hops, h + 1)) -
                                  json_integer_value(json_array_get(hops, h)));
    return r;
}

static int verify_part(const char *dir, uint32_t part, struct error *reterr) {
    _cleanup_(json_decref_p) json_t *manifest = NULL;
    _cleanup_(mem_free_p) char *part_dir = mem_printf("%s/part-%u", dir, part);
    return manifest_read(part_dir, MANIFEST_MD5, &manifest, reterr);
}

int partition_info_read(const char *dir, bool verify, struct partition_info *ret,
                        struct error *reterr) {
    _cleanup_(json_decref_p) json_t *manifest = NULL;
    uint64_t parts = 0, halo = 0;
    struct partition_info info = {0};
    int r = manifest_read(dir, MANIFEST_ALONE, &manifest, reterr);
    if (r == 0)
        r = manifest_uint(manifest, dir, "parts", PARTS_MAX, &parts, reterr);
    if (r == 0)
        r = manifest_uint(manifest, dir, "halo", HALO_MAX, &halo, reterr);
    if (r == 0)
        r = manifest_uint(manifest, dir, "seed", INT64_MAX, &info.seed, reterr);
    if (r == 0)
        r = manifest_uint(manifest, dir, "edge_cut", INT64_MAX, &info.edge_cut, reterr);
    if (r < 0)
        return r;
    const json_t *list = json_object_get(manifest, "part");
    if (json_array_size(list) != parts)
        return error_set(reterr, ERR_FORMAT,
                         "%s/manifest.json: \"part\" does not have %llu entries", dir,
                         (unsigned long long)parts);
    info.parts = (uint32_t)parts;
    info.halo = (uint32_t)halo;
    info.part = mem_array(parts, sizeof *info.part);
    for (uint32_t k = 0; r == 0 && k < parts; k++) {
        r = info_part(dir, json_array_get(list, k), info.halo, &info.part[k], reterr);
        if (r == 0 && verify)
            r = verify_part(dir, k, reterr);
    }
    if (r < 0)
        partition_info_done(&info);
    else
        *ret = info;
    return r;
}

void partition_info_done(struct partition_info *info) {
    mem_free(info->part);
    *info = (struct partition_info){0};
}
