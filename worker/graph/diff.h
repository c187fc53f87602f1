/* What differs between two snapshots. Nodes are the same when their ids are, wherever they stand;
 * classes and types when their names are (their numbers, where they have no names). Memory grows
 * with the nodes (some 20 bytes each, of both) and the edges set aside, not with the other edges.
 */
#pragma once

#include "worker/graph/snapshot.h"

#define DIFF_EXAMPLES 10

struct diff_edge {
    uint64_t source, target; /* node numbers: removed ones of a, added ones of b */
};
struct diff_node {
    uint64_t a, b; /* its numbers; what is removed has none in b, what is added none in a */
};
/* One kind of change, with the first of them. */
struct diff_nodes {
    uint64_t count;
    struct diff_node first[DIFF_EXAMPLES];
};
struct diff_edges {
    uint64_t count;
    struct diff_edge first[DIFF_EXAMPLES];
};

struct diff {
    bool order; /* the nodes stand in another order, or others are between them */
    uint64_t common;
    struct diff_nodes removed, added;
    /* Of the common nodes. Features are compared when both have as many; fp16 and fp32 by their
     * values. */
    struct diff_nodes labels, splits, features, types;
    struct diff_edges edges_removed, edges_added; /* a type is a part of an edge */
    uint64_t weights_changed; /* edges of both whose weights are not the same; none counts as 1 */
    /* Edges set aside for link prediction: [0] validation, [1] test. */
    uint64_t aside_removed[2], aside_added[2];
};

typedef void diff_tell(void *ctx, const char *what, uint64_t done, uint64_t total);
/* tell may be NULL. ERR_FORMAT when two nodes of a snapshot have one id. */
int diff_snapshots(const struct snapshot *a, const struct snapshot *b, diff_tell *tell, void *ctx,
                   struct diff *ret, struct error *reterr);
/* Is there none? */
bool diff_none(const struct diff *diff);
