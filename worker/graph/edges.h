/* Edges on their way to a CSR: kept in a nameless file while they are read, so that memory holds
 * the finished arrays and little else; then counted, placed, sorted and freed of repeats. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* What becomes of edges that are there several times (same ends, same type). */
enum dedup {
    DEDUP_FIRST,
    DEDUP_SUM,
    DEDUP_NONE
}; /* one with the first weight; with the sum; all */

struct edges;
/* dir: where the file is made. */
int edges_new(const char *dir, bool weights, bool types, struct edges **ret, struct error *reterr);
struct edges *edges_free(struct edges *edges); /* takes NULL */

/* n edges from[i] -> to[i]; weights and types [n], NULL as edges_new was told. */
struct edge_batch {
    size_t n;
    const int32_t *from, *to, *types;
    const float *weights;
};
int edges_add(struct edges *edges, const struct edge_batch *batch, struct error *reterr);
uint64_t edges_count(const struct edges *edges);

struct edges_rule {
    uint64_t nodes;
    int32_t *node_numbers, *type_numbers; /* new numbers of the old ones; NULL: the same */
    bool undirected;                      /* add the inverse of every edge */
    bool self_loops;                      /* keep them */
    enum dedup dedup;
};

/* Row i: the edges into node i, by source and type. */
struct edges_csr {
    int64_t *indptr;  /* [nodes + 1] */
    int32_t *indices; /* [indptr[nodes]] */
    int32_t *types;   /* as indices, or NULL */
    float *weights;
    uint64_t self_loops, repeats; /* edges of the file that are self-loops; entries dropped */
    bool symmetric;               /* every entry has its inverse */
};
/* Uses edges up: they can only be freed. Frees the rule's numbers, as soon as they are not needed.
 * The arrays are the caller's, to be mem_freed. */
int edges_build(struct edges *edges, struct edges_rule *rule, struct edges_csr *ret,
                struct error *reterr);
void edges_csr_done(struct edges_csr *csr);
