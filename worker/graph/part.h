/* One part of a partitioning: which nodes it needs, in which order, and its files (partition.h has
 * the format). Parts are written by several threads, each with a desk of its own. */
#pragma once

#include <jansson.h>
#include <stdatomic.h>

#include "worker/graph/partition.h"

/* Held-out links: of validation, and of test. */
enum { PART_LINKS = 2 };

/* Those of the snapshot by the part that owns their target: part k's are numbers order[starts[k]]
 * to order[starts[k + 1] - 1] of the snapshot's array, ascending. */
struct held_out {
    uint64_t *order, *starts;
};

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
    struct held_out held[PART_LINKS];
    /* For progress: bytes of the parts collected so far, those written, owned nodes of the former.
     */
    atomic_ullong expected, written, collected;
    atomic_bool stop; /* writing shall end: ERR_INTERRUPTED */
};

/* What is told of a part that is written. */
struct part {
    uint64_t owned, owned_edges, rows, edges, train;
    uint64_t links[PART_LINKS];
    uint64_t hop_nodes[HALO_MAX + 1];
};

/* The arrays that a thread needs for one part after the other. */
struct desk {
    int32_t *local_of; /* [nodes] local number in the part at hand, else -1 */
    int32_t *nodes;    /* [nodes] the part's, in local order */
};
void desk_init(struct desk *desk, uint64_t nodes);
void desk_done(struct desk *desk);

/* Writes items of an array of a part, and counts their bytes; ERR_INTERRUPTED when writing shall
 * end. */
int part_append(struct cut *cut, struct npy_writer *writer, enum npy_type type, const void *items,
                uint64_t count, struct error *reterr);
/* Commits the array, or abandons it when something has failed: r, which it returns. */
int part_finish(struct npy_writer *writer, int r, struct error *reterr);

/* Fills dir/part-<number>, which is made. */
int part_write(struct cut *cut, struct desk *desk, uint32_t number, const char *dir,
               struct part *ret, struct error *reterr);
