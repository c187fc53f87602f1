/* Edges that are not there, to hold against those that are in link prediction. A negative of an
 * edge u -> v is u' -> v or u -> v', each kind as often (Bordes et al., "Translating embeddings for
 * modeling multi-relational data", NIPS 2013, section 2), where the new end is one of the store's
 * own nodes and has the node type of the one it replaces. A pair with an edge of any type is none,
 * nor is a node with itself. Numbers are local ones of a store, targets of edges owned nodes. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "worker/graph/batch.h"
#include "worker/graph/store.h"

/* The store's own nodes, by type. */
struct negatives;
struct negatives *negatives_new(const struct store *store);    /* borrowed for its life */
struct negatives *negatives_free(struct negatives *negatives); /* takes NULL */
size_t negatives_bytes(const struct negatives *negatives);

/* What makes the draws of one batch different from those of all others. */
struct negative_key {
    uint64_t seed, epoch, batch;
};

/* Fills the negatives of links first to last - 1 of those whose ends stand in the first count
 * pairs. The same key gives the same, whatever range; the first negatives of many of a link are
 * those of few. New ends are drawn with replacement, equally likely among all that make a negative.
 * in_batch: among the sources, or the targets, of the batch's links, each as often as it is listed
 * (Karpukhin et al., "Dense passage retrieval", EMNLP 2020, section 3.2, and before); where that
 * finds none in many tries, among the store's own nodes. Both are -1 where the end to be replaced
 * leaves none. */
void negatives_fill(const struct negatives *negatives, struct negative_key key, bool in_batch,
                    uint64_t first, uint64_t last, const struct link_pairs *links);
/* A random pair of own nodes of the types that the ends of u -> v have, without an edge from the
 * first to the second; false: none was found in many tries. counter: which of the key's draws. */
bool negatives_pair(const struct negatives *negatives, struct negative_key key, uint64_t counter,
                    int32_t u, int32_t v, int32_t *ret_source, int32_t *ret_target);
/* Is there an edge? target: a node with a row. */
bool negatives_edge(const struct store *store, int32_t source, int32_t target);
