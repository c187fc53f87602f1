/* An order of nodes that keeps neighbours close: groups of nodes that know each other, one after
 * the other, no larger than a cache holds the features of. Linear in the edges; memory grows with
 * the nodes only. */
#pragma once

#include "worker/graph/watch.h"

/* order [nodes] gets every node once. The graph need not be symmetric, and may have self-loops and
 * repeats. The same graph gives the same order. ERR_INTERRUPTED. */
int order_near(uint64_t nodes, const int64_t *indptr, const int32_t *indices,
               const struct watch *watch, int32_t *order, struct error *reterr);
