/* Partitions: a snapshot cut (assign.h) into parts of about the same number of nodes, edges and
 * training nodes, each with the halo its owned nodes need. One part = the whole graph.
 *
 *   <snapshot>/partitions/<parts>x<halo>/manifest.json
 *       parts, halo, method ("metis", "fennel", "random"; "none" for one part), seed, edge_cut,
 *       snapshot_digest, edges (of the snapshot);
 *       balance: {nodes, edges, train}: the largest part over the mean;
 *       part: for each {owned, owned_edges (into owned nodes), edges (all entries), train,
 *       hop_nodes [halo + 1], halo_share (of the part's nodes)}
 *   <snapshot>/partitions/<parts>x<halo>/part-<k>/     l local nodes, r rows, m entries
 *     manifest.json  files with length and MD5; snapshot (name@version), snapshot_digest, part,
 *                    parts, halo, snapshot_nodes, feature_dim, classes, rows (r), edges (m),
 *                    train_nodes, train_nodes_max, train_nodes_total, owned_edges_max,
 *                    hop_nodes [halo + 1];
 *                    node_types, edge_types (counts; absent when there are none)
 *     nodes.npy      int64 [l]      global node numbers: owned first, then halo by hop. Owned nodes
 *                                   are in an order that keeps neighbours close (order.h), those of
 *                                   a hop in the order in which the rows before them name them: not
 *                                   ascending
 *     owner.npy      int32 [l]      the part that owns it
 *     degree.npy     int32 [l]      in-degree in the whole graph: entries of its row there
 *     indptr.npy     int64 [r + 1]  rows of all nodes within halo - 1 hops; if halo is 0 rows of
 *                                   the owned ones with owned neighbours only
 *     indices.npy    int32 [m]      local node numbers, ascending within a row; repeats in the
 *                                   snapshot's order, so with edge types these ascend
 *     labels.npy split.npy          as in the snapshot, for the l local nodes
 *   and, where the snapshot has them, of the same type as there:
 *     features.npy      float32 or float16 [l, feature_dim]; absent when feature_dim is 0
 *     multi_labels.npy  uint8 [l, classes]
 *     node_types.npy    uint8 [l]
 *     edge_weights.npy  float32 [m]    in the order of indices
 *     edge_types.npy    int32 [m]      in the order of indices
 *     valid_sources.npy valid_targets.npy valid_relations.npy, test_...   int32 [k]: the held-out
 *                       links whose target is owned, local numbers; the manifest has valid_links,
 *                       test_links (k) and ..._total. Their sources count as neighbours of the
 *                       owned nodes in the halo, so that with one hop more than a model has both
 *                       ends of a link have complete rows; without a halo only links between owned
 *                       nodes are there. Relations: where edges have types
 *   Names of classes and types are in the snapshot's manifest alone.
 */
#pragma once

#include "worker/graph/assign.h"

#define HALO_MAX 16
#define PARTS_MAX 4096

struct partition_options {
    uint32_t parts, halo;
    uint64_t seed;
    enum assign_method method;
    bool overwrite;        /* replace one that is there; it stays until the new one is complete */
    uint64_t memory_bytes; /* see assign.h; 0 */
    struct watch watch;
};
struct partition_outcome {
    bool existed; /* it was there, and was left as it is: whatever method and seed it is of */
    enum assign_method method;
    char why[160]; /* why ASSIGN_AUTO came to another method than METIS, or "" */
};

/* Writes the partitioning unless it is there already. Whatever ends it, the partitioning is there
 * as a whole or not at all; what a process that was killed left is removed by the next. Processes
 * that cut the same snapshot wait for each other. Every part owns a node, and a training node while
 * there are as many. Deterministic in seed. ERR_RANGE, ERR_NO_MEMORY, ERR_INTERRUPTED;
 * ERR_IN_USE: a run reads the partitioning that would be replaced (claim.h). */
int partition_run(const struct snapshot *snapshot, const struct partition_options *options,
                  struct partition_outcome *ret, struct error *reterr);
/* The same with ASSIGN_AUTO, untold. */
int partition_make(const struct snapshot *snapshot, uint32_t parts, uint32_t halo, uint64_t seed,
                   bool *ret_existed, struct error *reterr);
/* "<snapshot>/partitions/<parts>x<halo>"; mem_free it. */
char *partition_dir(const char *snapshot_dir, uint32_t parts, uint32_t halo);

/* What a partitioning's manifest says, for people. */
struct partition_info {
    uint32_t parts, halo;
    uint64_t seed;
    char method[16];
    uint64_t edge_cut; /* edges between parts, counted as the snapshot counts edges */
    struct part_info {
        uint64_t owned, halo[HALO_MAX]; /* halo[h]: nodes h + 1 hops away */
        uint64_t owned_edges;           /* into owned nodes: what is balanced */
        uint64_t edges, train;          /* edges: with those into halo nodes */
    } * part;                           /* [parts] */
};
/* dir as partition_dir says. verify: checks the MD5 of every part's files. ERR_NOT_FOUND. */
int partition_info_read(const char *dir, bool verify, struct partition_info *ret,
                        struct error *reterr);
void partition_info_done(struct partition_info *info);
