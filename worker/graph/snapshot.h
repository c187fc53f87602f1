/* A snapshot: an immutable, versioned, checksummed graph in a directory of .npy files, and
 * manifest.json that names them with length and MD5.
 *
 *   <data.root>/snapshots/<name>@<version>/
 *     manifest.json   {"format": 1, "name", "version", "created", "nodes", "edges", "feature_dim",
 *                      "classes", "undirected" (every edge has its inverse), "valid_edges",
 *                      "test_edges" (how many are set aside), "class_names": [...], "node_types":
 *                      [...], "edge_types": [...] (names; each of the five absent when there are
 *                      none), "files": [{"name", "bytes", "md5"}], "digest": MD5
 *                      over the files' MD5s}
 *     indptr.npy        int64 [n + 1]  row i: the neighbours whose messages node i gets (in-edges)
 *     indices.npy       int32 [m]      ascending within a row; self-loops and repeats only when the
 *                                      import was told to keep them; with edge types a neighbour
 *                                      comes once for each type, types ascending
 *     labels.npy        int32 [n]      -1: no label; with several labels a node: 0, or -1
 *     split.npy         uint8 [n]      enum split
 *   and, where the graph has them:
 *     features.npy      float32 or float16 [n, f]
 *     multi_labels.npy  uint8 [n, c]   0 or 1; for graphs with several labels a node
 *     targets.npy       float32 [n, c] regression: c values a node; labels are 0, or -1: none
 *     node_types.npy    uint8 [n]      index of manifest's node_types
 *     edge_types.npy    int32 [m]      index of manifest's edge_types, in the order of indices
 *     edge_weights.npy  float32 [m]    in the order of indices
 *     valid_edges.npy test_edges.npy   int32 [k, 2] source, target; [k, 3] with the type: edges set
 *                                      aside for link prediction, not among indices, nor their
 *                                      inverses where an edge is as good as its inverse
 *     ids.npy           int64 [n]      the user's ids, when all are integers but not 0..n-1; or
 *     id_offsets.npy    int64 [n + 1]  as text, one after the other in
 *     id_bytes.npy      uint8 [...]
 *     partitions/...  (partition.h)
 */
#pragma once

#include "common/npy.h"

enum split { SPLIT_NONE, SPLIT_TRAIN, SPLIT_VALID, SPLIT_TEST };

struct snapshot {
    char *dir, *name, *version, *digest; /* digest: 32 hex digits, of the contents */
    uint64_t nodes, edges;               /* edges: entries of indices */
    uint32_t feature_dim, classes;       /* 0: no features; no labels */
    uint32_t node_types, edge_types;     /* 0: all alike */
    bool undirected;
    char **class_names;                        /* [classes] or NULL */
    char **node_type_names, **edge_type_names; /* [node_types], [edge_types] */
    struct npy indptr, indices, labels, split;
    /* data is NULL in those that are absent */
    struct npy features, multi_labels, targets, node_type, edge_type, edge_weights;
    struct npy valid_edges, test_edges, ids, id_offsets, id_bytes;
};

/* Finds name or name@version below root (a name alone: the newest semantic version) or takes a
 * directory path; *ret_dir: mem_free it. ERR_NOT_FOUND lists what is there. */
int snapshot_find(const char *root, const char *snapshot, char **ret_dir, struct error *reterr);
/* Maps it. verify: checks length and MD5 of every file (ERR_CHECKSUM names the file). */
int snapshot_open(const char *dir, bool verify, struct snapshot **ret, struct error *reterr);
/* Can the models there are be trained on it? learns_rows: with model.embedding; links: with
 * train.task links. ERR_CONFIG says what is missing. */
int snapshot_trainable(const struct snapshot *snapshot, bool learns_rows, bool links,
                       struct error *reterr);
struct snapshot *snapshot_close(struct snapshot *snapshot); /* takes NULL */
/* The user's id of a node, into buf (truncated to fit). */
const char *snapshot_id(const struct snapshot *snapshot, uint64_t node, char *buf,
                        size_t buf_bytes);
