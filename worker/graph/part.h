/* One part of a partitioning: which nodes it needs, in which order, and its files (partition.h has
 * the format). Parts are written by several threads, each with a desk of its own. */
#pragma once

#include <jansson.h>
#include <stdatomic.h>

#include "worker/graph/partition.h"

/* What all parts are cut from; not changed while they are written, except by atomics. Arrays are
 * borrowed. */
struct cut {
    const struct snapshot *snapshot;
    uint32_t parts, halo;
    const int32_t *owner;   /* [nodes] */
    const int32_t *listed;  /* [nodes] part by part, in each the order of its owned nodes */
    const uint64_t *starts; /* [parts + 1] into listed */
    uint64_t train_max, train_total;
    uint64_t edges_max; /* edges into owned nodes, of the part that has most */
    /* For progress: bytes of the parts collected so far, those written, owned nodes of the former.
     */
    atomic_ullong expected, written, collected;
    atomic_bool stop; /* writing shall end: ERR_INTERRUPTED */
};

/* What is told of a part that is written. */
struct part {
    uint64_t owned, owned_edges, rows, edges, train;
    uint64_t hop_nodes[HALO_MAX + 1];
};

/* The arrays that a thread needs for one part after the other. */
struct desk {
    int32_t *local_of; /* [nodes] local number in the part at hand, else -1 */
    int32_t *nodes;    /* [nodes] the part's, in local order */
};
void desk_init(struct desk *desk, uint64_t nodes);
void desk_done(struct desk *desk);

/* Fills dir/part-<number>, which is made. */
int part_write(struct cut *cut, struct desk *desk, uint32_t number, const char *dir,
               struct part *ret, struct error *reterr);
