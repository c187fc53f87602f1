/* Which rows of a table a batch needs, and where they live: its nodes dealt out to shards, there to
 * stripes, there in ascending order. Made once for a batch, for the pull and for the push. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct row_plan {
    size_t count;
    const int64_t *nodes;    /* [count], borrowed; none twice */
    uint32_t *order;         /* [count] places in nodes, by shard, stripe and row */
    uint32_t *starts;        /* [shards * LAYOUT_STRIPES + 1] into order */
    uint32_t *other, *sums;  /* for sorting */
    size_t capacity, shards; /* of the arrays */
};

/* nodes NULL with count 0. Allocates when the batch is larger than all before. plan starts as
 * zeros. */
void row_plan_make(struct row_plan *plan, const int64_t *nodes, size_t count, size_t shards);
void row_plan_done(struct row_plan *plan);
