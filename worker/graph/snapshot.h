/* A snapshot: an immutable, versioned, checksummed graph in a directory of .npy files, and
 * manifest.json that names them with length and MD5.
 *
 *   <data.root>/snapshots/<name>@<version>/
 *     manifest.json   {"format": 1, "name", "version", "created", "nodes", "edges", "feature_dim",
 *                      "classes", "undirected" (every edge has its inverse), "class_names": [...]
 *                      or absent, "files": [{"name", "bytes", "md5"}], "digest": MD5 over the
 *                      files' MD5s}
 *     indptr.npy      int64 [n + 1]   row i: the neighbours whose messages node i gets (in-edges)
 *     indices.npy     int32 [m]       ascending within a row, no repeats, no self-loops
 *     features.npy    float32 [n, f]
 *     labels.npy      int32 [n]       -1: no label
 *     split.npy       uint8 [n]       enum split
 *     id_offsets.npy  int64 [n + 1]   the user's ids as text, one after the other; absent when they
 *     id_bytes.npy    uint8 [...]     are 0..n-1
 *     partitions/...  (partition.h)
 */
#pragma once

#include "common/npy.h"

enum split { SPLIT_NONE, SPLIT_TRAIN, SPLIT_VALID, SPLIT_TEST };

struct snapshot {
    char *dir, *name, *version, *digest; /* digest: 32 hex digits, of the contents */
    uint64_t nodes, edges;               /* edges: entries of indices */
    uint32_t feature_dim, classes;
    bool undirected;
    char **class_names; /* [classes] or NULL */
    struct npy indptr, indices, features, labels, split, id_offsets, id_bytes;
};

/* Finds name or name@version below root (a name alone: the newest semantic version) or takes a
 * directory path; *ret_dir: mem_free it. ERR_NOT_FOUND lists what is there. */
int snapshot_find(const char *root, const char *snapshot, char **ret_dir, struct error *reterr);
/* Maps it. verify: checks length and MD5 of every file (ERR_CHECKSUM names the file). */
int snapshot_open(const char *dir, bool verify, struct snapshot **ret, struct error *reterr);
struct snapshot *snapshot_close(struct snapshot *snapshot); /* takes NULL */
/* The user's id of a node, into buf (truncated to fit). */
const char *snapshot_id(const struct snapshot *snapshot, uint64_t node, char *buf,
                        size_t buf_bytes);
