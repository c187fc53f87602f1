/* Edges that are not there, to hold against those that are in link prediction. A negative of an
 * edge u -> v is u' -> v with another source. Numbers are local ones of a store. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "worker/graph/store.h"

/* What makes the draws of one edge different from those of all others. */
struct negative_key {
    uint64_t seed, epoch, batch, edge; /* edge: its number in the batch or in the graph */
};

/* Draws sources with replacement, each of the local nodes equally likely, but for the target itself
 * and its neighbours (a node with a row, which is ascending). The same key gives the same draws,
 * and the first of many are those of few. Returns count; 0, and nothing is drawn, when the target
 * has all others as neighbours. */
size_t negative_draw(const struct store *store, int32_t target, struct negative_key key,
                     size_t count, int32_t *ret_sources);

/* In-batch negatives: the sources of a batch's edges that are neither the target nor its
 * neighbours, each once for each time it is listed (Karpukhin et al., "Dense Passage Retrieval",
 * EMNLP 2020, section 3.2, and before). ret_sources has room for count; returns how many. */
size_t negative_in_batch(const struct store *store, int32_t target, const int32_t *sources,
                         size_t count, int32_t *ret_sources);
