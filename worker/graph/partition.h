/* Partitions: a snapshot cut by METIS (k-way, edge cut) into parts of about the same number of
 * nodes and of training nodes, each with the halo its owned nodes need. One part = the whole graph,
 * no METIS.
 *
 *   <snapshot>/partitions/<parts>x<halo>/manifest.json   parts, halo, edge_cut, snapshot digest,
 * per part: owned, halo by hop, edges <snapshot>/partitions/<parts>x<halo>/part-<k>/ manifest.json
 * (files with length, MD5; counts) and nodes.npy      int64 [l]      global node numbers: owned
 * first (ascending), then halo by hop (ascending within a hop) owner.npy      int32 [l]      the
 * part that owns it degree.npy     int32 [l]      in-degree in the whole graph indptr.npy     int64
 * [r + 1]  rows of all nodes within halo - 1 hops (owned if halo is 0: then only owned neighbours)
 *     indices.npy    int32 [...]    local node numbers, ascending
 *     features.npy labels.npy split.npy   as in the snapshot, for the l local nodes
 */
#pragma once

#include "worker/graph/snapshot.h"

#define HALO_MAX 8

/* Writes the partitioning unless it is there already (then returns 0 with *ret_existed true). More
 * than 2^31 - 1 nodes or edges: ERR_LIMIT with a sentence. Deterministic in seed. */
int partition_make(const struct snapshot *snapshot, uint32_t parts, uint32_t halo, uint64_t seed,
                   bool *ret_existed, struct error *reterr);
/* "<snapshot>/partitions/<parts>x<halo>"; mem_free it. */
char *partition_dir(const char *snapshot_dir, uint32_t parts, uint32_t halo);
