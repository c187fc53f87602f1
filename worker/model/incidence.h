/* Pairs by node: of each output, which pairs it is an end of. The gradient of its embedding is a
 * sum over these. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "worker/graph/batch.h"

struct incidence {
    size_t nodes;
    int64_t *indptr; /* [nodes + 1] */
    int32_t *others; /* the pair's other end */
    uint32_t *pairs; /* ascending within a node */
    float *weights;  /* see incidence_weigh */
    size_t node_room, pair_room;
};

/* Grows as needed; {0} at first. */
void incidence_make(struct incidence *incidence, const struct link_pairs *pairs, size_t nodes);
void incidence_done(struct incidence *incidence);
/* weights = those of the pairs, by entry. */
void incidence_weigh(const struct incidence *incidence, const float *of_pairs);
/* What it takes for so many. */
size_t incidence_bytes(uint64_t pairs, size_t nodes);
