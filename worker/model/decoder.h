/* What scores a link from the embeddings y [n, dim] of its ends. Decoders are functions over flat
 * arrays, forward and backward beside each other in a file of the decoder's name. Both are
 * symmetric in the ends. */
#pragma once

#include "proto/layout.h"
#include "worker/graph/batch.h"
#include "worker/model/incidence.h"

struct decoder {
    bool relational; /* its weights are [relations, dim], one tensor; else it has none */
    /* scores [pairs]; of a pair that there is not, 0. */
    void (*score)(const struct link_pairs *pairs, size_t dim, const float *y, const float *weights,
                  float *scores);
    /* dy [n, dim] and dweights are overwritten. incidence: of these pairs. */
    void (*backward)(const struct link_pairs *pairs, const struct incidence *incidence, size_t dim,
                     const float *y, const float *weights, const float *dscores, float *dy,
                     float *dweights);
    /* q [dim]: the score of a link of that type between a node of embedding y and another is q
     * times that one's embedding. */
    void (*query)(size_t dim, const float *y, const float *weights, int32_t relation, float *q);
};

/* By DECODER_* (common/config.h). */
const struct decoder *decoder_of(int kind);
/* Fills ret with the decoder's tensor, "decoder.relation"; returns how many there are, 0 or 1. */
size_t decoder_tensors(int kind, uint32_t relations, uint32_t dim, struct tensor_spec *ret);
