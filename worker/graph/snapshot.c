/* Finding, opening and checking snapshots. Making them is import.c's. */
#include "worker/graph/snapshot.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/file.h"
#include "common/mem.h"
#include "common/vec.h"
#include "worker/graph/csr.h"
#include "worker/graph/manifest.h"
#include "worker/graph/version.h"

#define CLASSES_MAX (1u << 20)
#define FEATURE_DIM_MAX (1u << 24)
#define NODE_TYPES_MAX 256u
#define EDGE_TYPES_MAX (1u << 20)

static void json_decref_p(json_t **json) {
    json_decref(*json);
}

static bool has_manifest(const char *dir) {
    _cleanup_(mem_free_p) char *path = mem_printf("%s/manifest.json", dir);
    return file_exists(path);
}

/* "name@version" of a complete snapshot: its version, else NULL. */
static const char *entry_version(const char *snapshots, const char *entry) {
    const char *at = strrchr(entry, '@');
    if (!at || !version_valid(at + 1))
        return NULL;
    _cleanup_(mem_free_p) char *dir = mem_printf("%s/%s", snapshots, entry);
    return has_manifest(dir) ? at + 1 : NULL;
}

static int find_failed(const char *snapshots, const char *snapshot, char *const *names,
                       size_t count, struct error *reterr) {
    char list[400] = "";
    size_t len = 0, complete = 0;
    for (size_t i = 0; i < count; i++)
        if (entry_version(snapshots, names[i])) {
            complete++;
            if (len < sizeof list - 130)
                len += (size_t)snprintf(list + len, sizeof list - len, "%s%.120s", len ? ", " : "",
                                        names[i]);
        }
    if (!complete)
        return error_set(reterr, ERR_NOT_FOUND,
                         "no snapshot \"%s\": there is none in %s; make one with graphps import",
                         snapshot, snapshots);
    return error_set(reterr, ERR_NOT_FOUND, "no snapshot \"%s\" in %s; there is: %s%s", snapshot,
                     snapshots, list, len < sizeof list - 130 ? "" : ", ...");
}

int snapshot_find(const char *root, const char *snapshot, char **ret_dir, struct error *reterr) {
    if (!*snapshot)
        return error_set(reterr, ERR_NOT_FOUND,
                         "no snapshot is named; give name, name@version or a directory");
    if (strchr(snapshot, '/')) {
        if (!has_manifest(snapshot))
            return error_set(reterr, ERR_NOT_FOUND, "%s: no snapshot there (no manifest.json)",
                             snapshot);
        *ret_dir = mem_strdup(snapshot);
        return 0;
    }
    _cleanup_(mem_free_p) char *snapshots = mem_printf("%s/snapshots", root);
    char **names = NULL;
    size_t count = 0;
    if (file_exists(snapshots)) {
        int r = dir_list(snapshots, &names, &count, reterr);
        if (r < 0)
            return r;
    }
    const char *best = NULL, *best_version = NULL;
    size_t name_len = strlen(snapshot);
    for (size_t i = 0; i < count; i++) {
        const char *version = entry_version(snapshots, names[i]);
        if (!version)
            continue;
        bool named = !strcmp(names[i], snapshot);
        bool same = !strncmp(names[i], snapshot, name_len) && names[i] + name_len == version - 1;
        if (named || (same && (!best || version_compare(version, best_version) > 0))) {
            best = names[i];
            best_version = version;
        }
    }
    int r = 0;
    if (best)
        *ret_dir = mem_printf("%s/%s", snapshots, best);
    else if (has_manifest(snapshot)) /* a directory here, named without ./ */
        *ret_dir = mem_strdup(snapshot);
    else
        r = find_failed(snapshots, snapshot, names, count, reterr);
    dir_list_free(names, count);
    return r;
}

/* A list of names in the manifest, absent: none. */
static int read_names(const struct snapshot *s, const json_t *manifest, const char *key,
                      uint32_t max, uint32_t *ret_count, char ***ret_names, struct error *reterr) {
    const json_t *names = json_object_get(manifest, key);
    if (!names)
        return 0;
    size_t count = json_array_size(names);
    if (count == 0 || count > max)
        return error_set(reterr, ERR_FORMAT,
                         "%s/manifest.json: \"%s\" is not a list of 1 to %u entries", s->dir, key,
                         max);
    *ret_count = (uint32_t)count;
    *ret_names = mem_array(count, sizeof **ret_names);
    for (size_t i = 0; i < count; i++) {
        const char *text = json_string_value(json_array_get(names, i));
        if (!text)
            return error_set(reterr, ERR_FORMAT,
                             "%s/manifest.json: entry %zu of \"%s\" is not a text", s->dir, i, key);
        (*ret_names)[i] = mem_strdup(text);
    }
    return 0;
}

static int read_manifest(struct snapshot *s, const json_t *manifest, struct error *reterr) {
    const char *name, *version, *digest;
    uint64_t feature_dim = 0, classes = 0;
    uint32_t named = 0;
    int r = manifest_text(manifest, s->dir, "name", &name, reterr);
    if (r == 0)
        r = manifest_text(manifest, s->dir, "version", &version, reterr);
    if (r == 0)
        r = manifest_text(manifest, s->dir, "digest", &digest, reterr);
    if (r == 0)
        r = manifest_uint(manifest, s->dir, "nodes", CSR_NODES_MAX, &s->nodes, reterr);
    if (r == 0)
        r = manifest_uint(manifest, s->dir, "edges", INT64_MAX, &s->edges, reterr);
    if (r == 0)
        r = manifest_uint(manifest, s->dir, "feature_dim", FEATURE_DIM_MAX, &feature_dim, reterr);
    if (r == 0)
        r = manifest_uint(manifest, s->dir, "classes", CLASSES_MAX, &classes, reterr);
    if (r < 0)
        return r;
    if (s->nodes == 0)
        return error_set(reterr, ERR_FORMAT, "%s/manifest.json: no nodes", s->dir);
    s->name = mem_strdup(name);
    s->version = mem_strdup(version);
    s->digest = mem_strdup(digest);
    s->feature_dim = (uint32_t)feature_dim;
    s->classes = (uint32_t)classes;
    s->undirected = json_is_true(json_object_get(manifest, "undirected"));
    r = read_names(s, manifest, "class_names", CLASSES_MAX, &named, &s->class_names, reterr);
    if (r == 0)
        r = read_names(s, manifest, "node_types", NODE_TYPES_MAX, &s->node_types,
                       &s->node_type_names, reterr);
    if (r == 0)
        r = read_names(s, manifest, "edge_types", EDGE_TYPES_MAX, &s->edge_types,
                       &s->edge_type_names, reterr);
    if (r == 0 && s->class_names && named != s->classes) {
        for (uint32_t i = 0; i < named; i++)
            mem_free(s->class_names[i]);
        mem_free(TAKE_PTR(s->class_names));
        r = error_set(reterr, ERR_FORMAT,
                      "%s/manifest.json: \"class_names\" does not have %u entries", s->dir,
                      s->classes);
    }
    return r;
}

static int open_array(const struct snapshot *s, const char *name, enum npy_type type, uint64_t rows,
                      uint64_t cols, struct npy *ret, struct error *reterr) {
    _cleanup_(mem_free_p) char *path = mem_printf("%s/%s.npy", s->dir, name);
    return npy_open_as(path, type, rows, cols, ret, reterr);
}

static int open_features(struct snapshot *s, struct error *reterr) {
    if (s->feature_dim == 0)
        return 0;
    _cleanup_(mem_free_p) char *path = mem_printf("%s/features.npy", s->dir);
    struct npy found = {0};
    int r = npy_open(path, &found, reterr);
    enum npy_type type = found.type == NPY_F2 ? NPY_F2 : NPY_F4;
    npy_close(&found);
    return r < 0 ? r : npy_open_as(path, type, s->nodes, s->feature_dim, &s->features, reterr);
}

static int open_text_ids(struct snapshot *s, struct error *reterr) {
    int r = open_array(s, "id_offsets", NPY_I8, s->nodes + 1, 0, &s->id_offsets, reterr);
    if (r == 0)
        r = open_array(s, "id_bytes", NPY_U1, UINT64_MAX, 0, &s->id_bytes, reterr);
    if (r < 0)
        return r;
    const int64_t *offsets = s->id_offsets.data;
    bool ok = offsets[0] == 0 && (uint64_t)offsets[s->nodes] == s->id_bytes.count;
    for (uint64_t i = 0; ok && i < s->nodes; i++)
        ok = offsets[i] <= offsets[i + 1];
    return ok ? 0
              : error_set(reterr, ERR_FORMAT, "%s/id_offsets.npy: does not fit id_bytes.npy",
                          s->dir);
}

/* Edges set aside: their ends and types are there. */
static int open_aside(struct snapshot *s, const char *name, struct npy *ret, struct error *reterr) {
    uint64_t cols = s->edge_types ? 3 : 2;
    int r = open_array(s, name, NPY_I4, UINT64_MAX, cols, ret, reterr);
    const int32_t *items = ret->data;
    for (uint64_t i = 0; r == 0 && i < ret->count; i++) {
        uint64_t end = i % cols == 2 ? s->edge_types : s->nodes;
        if (items[i] < 0 || (uint64_t)items[i] >= end)
            r = error_set(reterr, ERR_FORMAT, "%s/%s.npy: entry %llu is out of range", s->dir, name,
                          (unsigned long long)i);
    }
    return r;
}

static int open_optional(struct snapshot *s, const json_t *manifest, struct error *reterr) {
    int r = open_features(s, reterr);
    if (r == 0 && manifest_has_file(manifest, "multi_labels.npy"))
        r = open_array(s, "multi_labels", NPY_U1, s->nodes, s->classes, &s->multi_labels, reterr);
    if (r == 0 && manifest_has_file(manifest, "targets.npy"))
        r = open_array(s, "targets", NPY_F4, s->nodes, s->classes, &s->targets, reterr);
    if (r == 0 && s->node_types)
        r = open_array(s, "node_types", NPY_U1, s->nodes, 0, &s->node_type, reterr);
    if (r == 0 && s->edge_types)
        r = open_array(s, "edge_types", NPY_I4, s->edges, 0, &s->edge_type, reterr);
    if (r == 0 && manifest_has_file(manifest, "edge_weights.npy"))
        r = open_array(s, "edge_weights", NPY_F4, s->edges, 0, &s->edge_weights, reterr);
    if (r == 0 && manifest_has_file(manifest, "valid_edges.npy"))
        r = open_aside(s, "valid_edges", &s->valid_edges, reterr);
    if (r == 0 && manifest_has_file(manifest, "test_edges.npy"))
        r = open_aside(s, "test_edges", &s->test_edges, reterr);
    if (r == 0 && manifest_has_file(manifest, "ids.npy"))
        r = open_array(s, "ids", NPY_I8, s->nodes, 0, &s->ids, reterr);
    else if (r == 0 && manifest_has_file(manifest, "id_offsets.npy"))
        r = open_text_ids(s, reterr);
    return r;
}

static int check_nodes(const struct snapshot *s, struct error *reterr) {
    const int32_t *labels = s->labels.data;
    const uint8_t *split = s->split.data, *types = s->node_type.data;
    for (uint64_t i = 0; i < s->nodes; i++)
        if (labels[i] < -1 || (labels[i] >= 0 && (uint32_t)labels[i] >= s->classes) ||
            split[i] > SPLIT_TEST || (types && types[i] >= s->node_types))
            return error_set(reterr, ERR_FORMAT,
                             "%s: label %d, split %u or type of node %llu out of range", s->dir,
                             labels[i], split[i], (unsigned long long)i);
    const float *targets = s->targets.data;
    for (uint64_t i = 0; targets && i < s->nodes; i++)
        if (labels[i] > 0 ||
            (labels[i] == 0 && !vec()->finite(targets + i * s->classes, s->classes)))
            return error_set(reterr, ERR_FORMAT,
                             "%s/targets.npy: the targets of node %llu are wrong", s->dir,
                             (unsigned long long)i);
    return 0;
}

static int check_edges(const struct snapshot *s, struct error *reterr) {
    const int32_t *types = s->edge_type.data;
    for (uint64_t e = 0; types && e < s->edges; e++)
        if (types[e] < 0 || (uint32_t)types[e] >= s->edge_types)
            return error_set(reterr, ERR_FORMAT, "%s/edge_types.npy: entry %llu is out of range",
                             s->dir, (unsigned long long)e);
    return 0;
}

static int open_arrays(struct snapshot *s, const json_t *manifest, struct error *reterr) {
    int r = open_array(s, "indptr", NPY_I8, s->nodes + 1, 0, &s->indptr, reterr);
    if (r == 0)
        r = open_array(s, "indices", NPY_I4, s->edges, 0, &s->indices, reterr);
    if (r == 0)
        r = open_array(s, "labels", NPY_I4, s->nodes, 0, &s->labels, reterr);
    if (r == 0)
        r = open_array(s, "split", NPY_U1, s->nodes, 0, &s->split, reterr);
    if (r == 0)
        r = open_optional(s, manifest, reterr);
    if (r == 0)
        r = csr_check(s->dir, s->indptr.data, s->indices.data, s->nodes, s->edges, s->nodes,
                      reterr);
    if (r == 0)
        r = check_nodes(s, reterr);
    return r < 0 ? r : check_edges(s, reterr);
}

int snapshot_open(const char *dir, bool verify, struct snapshot **ret, struct error *reterr) {
    _cleanup_(json_decref_p) json_t *manifest = NULL;
    int r = manifest_read(dir, verify ? MANIFEST_MD5 : MANIFEST_LENGTHS, &manifest, reterr);
    if (r < 0)
        return r;
    struct snapshot *s = mem_alloc(sizeof *s);
    s->dir = mem_strdup(dir);
    r = read_manifest(s, manifest, reterr);
    if (r == 0)
        r = open_arrays(s, manifest, reterr);
    if (r < 0)
        snapshot_close(s);
    else
        *ret = s;
    return r;
}

int snapshot_trainable(const struct snapshot *s, bool learns_rows, bool links,
                       struct error *reterr) {
    if (s->feature_dim == 0 && !learns_rows)
        return error_set(reterr, ERR_CONFIG,
                         "%s@%s has no features: set model.embedding, so that a row is learned for "
                         "each node, or import it with --features",
                         s->name, s->version);
    if (links && s->edges == 0)
        return error_set(reterr, ERR_CONFIG, "%s@%s has no edges, of which links would be learnt",
                         s->name, s->version);
    if (!links && s->classes == 0)
        return error_set(
            reterr, ERR_CONFIG,
            "%s@%s has no labels and no targets for a model of nodes to learn; import it with "
            "--labels or --targets, or set train.task: links",
            s->name, s->version);
    return 0;
}

static void free_names(char **names, uint32_t count) {
    for (uint32_t i = 0; names && i < count; i++)
        mem_free(names[i]);
    mem_free(names);
}

struct snapshot *snapshot_close(struct snapshot *s) {
    if (!s)
        return NULL;
    struct npy *arrays[] = {&s->indptr,    &s->indices,      &s->labels,      &s->split,
                            &s->features,  &s->multi_labels, &s->targets,     &s->node_type,
                            &s->edge_type, &s->edge_weights, &s->valid_edges, &s->test_edges,
                            &s->ids,       &s->id_offsets,   &s->id_bytes};
    for (size_t i = 0; i < ARRAY_LEN(arrays); i++)
        npy_close(arrays[i]);
    free_names(s->class_names, s->classes);
    free_names(s->node_type_names, s->node_types);
    free_names(s->edge_type_names, s->edge_types);
    mem_free(s->dir);
    mem_free(s->name);
    mem_free(s->version);
    mem_free(s->digest);
    mem_free(s);
    return NULL;
}

float snapshot_weighted_degree(const struct snapshot *snapshot, int64_t node) {
    const int64_t *indptr = snapshot->indptr.data;
    const float *weights = snapshot->edge_weights.data;
    double sum = 0;
    for (int64_t e = indptr[node]; e < indptr[node + 1]; e++)
        sum += (double)weights[e];
    return (float)sum;
}

const char *snapshot_id(const struct snapshot *s, uint64_t node, char *buf, size_t buf_bytes) {
    if (!s->id_offsets.data) {
        const int64_t *ids = s->ids.data;
        snprintf(buf, buf_bytes, "%lld", ids ? (long long)ids[node] : (long long)node);
        return buf;
    }
    const int64_t *offsets = s->id_offsets.data;
    size_t len = (size_t)(offsets[node + 1] - offsets[node]);
    if (len >= buf_bytes)
        len = buf_bytes - 1;
    memcpy(buf, (const uint8_t *)s->id_bytes.data + offsets[node], len);
    buf[len] = 0;
    return buf;
}
