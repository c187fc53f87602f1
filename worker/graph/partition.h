/* Partitions: a snapshot cut by METIS (k-way, edge cut) into parts of about the same number of
 * nodes and of training nodes, each with the halo its owned nodes need. One part = the whole graph,
 * no METIS.
 *
 *   <snapshot>/partitions/<parts>x<halo>/manifest.json
 *       parts, halo, seed, edge_cut, snapshot digest; per part: owned, halo by hop, edges, train
 *   <snapshot>/partitions/<parts>x<halo>/part-<k>/
 *     manifest.json  files with length and MD5; counts
 *     nodes.npy      int64 [l]      global node numbers: owned first (ascending), then halo by hop
 *                                   (ascending within a hop)
 *     owner.npy      int32 [l]      the part that owns it
 *     degree.npy     int32 [l]      in-degree in the whole graph
 *     indptr.npy     int64 [r + 1]  rows of all nodes within halo - 1 hops; if halo is 0 rows of
 *                                   the owned ones with owned neighbours only
 *     indices.npy    int32 [...]    local node numbers, ascending
 *     features.npy labels.npy split.npy   as in the snapshot, for the l local nodes
 */
#pragma once

#include "worker/graph/snapshot.h"

#define HALO_MAX 8

/* Writes the partitioning unless it is there already (then returns 0 with *ret_existed true,
 * whatever seed it was made with; see partition_info_read). More than 2^31 - 1 nodes or edges:
 * ERR_LIMIT with a sentence. Every part owns a node, and a training node while there are as many.
 * Deterministic in seed. */
int partition_make(const struct snapshot *snapshot, uint32_t parts, uint32_t halo, uint64_t seed,
                   bool *ret_existed, struct error *reterr);
/* "<snapshot>/partitions/<parts>x<halo>"; mem_free it. */
char *partition_dir(const char *snapshot_dir, uint32_t parts, uint32_t halo);

/* What a partitioning's manifest says, for people. */
struct partition_info {
    uint32_t parts, halo;
    uint64_t seed;
    uint64_t edge_cut; /* edges between parts, counted as the snapshot counts edges */
    struct part_info {
        uint64_t owned, halo[HALO_MAX], edges, train; /* halo[h]: nodes h + 1 hops away */
    } * part;                                         /* [parts] */
};
/* dir as partition_dir says. verify: checks the MD5 of every part's files. ERR_NOT_FOUND. */
int partition_info_read(const char *dir, bool verify, struct partition_info *ret,
                        struct error *reterr);
void partition_info_done(struct partition_info *info);
