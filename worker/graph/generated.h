/* A generated graph as a pure function: every edge, label, split and feature follows from (kind,
 * sizes, seed) and its number alone, so that any part of it can be made by any thread, in any
 * order, with no memory, and comes out the same to the bit. Integers only, but for one square root.
 *
 * Within, nodes have ranks 0 .. nodes-1; a bijection drawn by the seed turns ranks into the nodes'
 * numbers, which therefore say nothing. Of each `classes` ranks in a row one is of each class, in
 * an order that is drawn anew for every row: the classes are equally large and, but for chance,
 * equally linked.
 *
 * An edge's two ends are drawn as the kind says. In GENERATED_WITHIN_PERCENT of all cases the
 * second end then moves, within its row, to the first one's class: to a rank of nearly the same
 * degree. Loops are drawn anew; an edge may come twice.
 *
 *   rmat  Both ends by the recursive matrix with a, b, c, d = 0.57, 0.19, 0.19, 0.05 (Chakrabarti,
 *         Zhan, Faloutsos, "R-MAT: A Recursive Model for Graph Mining", SDM 2004): degrees follow a
 *         power law. Ends beyond the last node are drawn anew. A pure recursive matrix leaves half
 *         of a large graph's nodes without an edge; therefore, for half of the edges, the first end
 *         is each node in turn and only the second is drawn, from the first one's row of the
 * matrix. sbm   Both ends uniformly: the stochastic block model (Holland, Laskey, Leinhardt,
 * "Stochastic blockmodels: first steps", Social Networks 1983) with equal blocks, its edges drawn
 * one by one. Degrees follow a Poisson distribution.
 *
 * Features are the class's centroid, of length about GENERATED_SIGNAL, in noise of variance 1: a
 * node alone tells little of its class, the mean of its neighbours much. */
#pragma once

#include <stdint.h>

#include "worker/graph/snapshot.h"

enum generated_kind { GENERATED_RMAT, GENERATED_SBM };

#define GENERATED_WITHIN_PERCENT 50
#define GENERATED_SIGNAL 1.4
#define GENERATED_FEATURE_UNIT 10000 /* features are multiples of 1 / this, of less than 10 */

struct generated {
    enum generated_kind kind;
    uint32_t nodes, features, classes;
    uint64_t edges;

    uint64_t edge_key, row_key, split_key, noise_key, centroid_key;
    uint64_t even_edges; /* these begin at each rank in turn */
    int64_t signal;      /* a centroid's part of a feature, as a fixed-point factor */

    /* Ranks to nodes: rounds that are each a bijection on numbers of `bits` bits, and their
     * inverses. */
    uint32_t bits, mask, shift;
    struct {
        uint32_t factor, inverse, term;
    } rounds[4];
};

/* 2 <= nodes < 2^31, 1 <= classes <= nodes, 1 <= features: the caller has checked. */
void generated_init(struct generated *graph, enum generated_kind kind, uint32_t nodes,
                    uint64_t edges, uint32_t features, uint32_t classes, uint64_t seed);
/* The two ends of an edge, each edge of an undirected graph once. */
void generated_edge(const struct generated *graph, uint64_t edge, uint32_t ret_ends[2]);
uint32_t generated_label(const struct generated *graph, uint32_t node);
/* 60, 20 and 20 of 100 nodes. */
enum split generated_split(const struct generated *graph, uint32_t node);
/* count features from the first one on, in units of 1 / GENERATED_FEATURE_UNIT. label: the node's.
 */
void generated_features(const struct generated *graph, uint32_t node, uint32_t label,
                        uint32_t first, uint32_t count, int32_t *ret);

/* The bijection and its inverse. */
uint32_t generated_node(const struct generated *graph, uint32_t rank);
uint32_t generated_rank(const struct generated *graph, uint32_t node);
