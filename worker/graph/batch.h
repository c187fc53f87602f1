/* A batch: what one forward and backward pass runs on; the same form for full mode and for sampled
 * mini-batches ("message flow graphs" in DGL's words). Arrays are borrowed from the batch's maker.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/model_spec.h"

/* One layer's bipartite graph: row i < n_dst gets messages from sources
 * indices[indptr[i]..indptr[i+1]], each in 0..n_src-1. Destination i is source i (sources start
 * with the destinations). No self-loops inside; weights and self carry the normalisation, as enum
 * graph_norm says: y_i = self_i x_i + sum_e weights_e x_src(e). Where neighbours are sampled, sums
 * over them are multiplied by d_i / (neighbours sampled), so that they stay unbiased. */
struct layer_graph {
    uint32_t n_dst, n_src;
    const int64_t *indptr; /* [n_dst + 1], indptr[0] = 0 */
    const int32_t *indices;
    const float *weights;
    const float *self; /* [n_dst]; NULL: no self term */
    /* The transpose, for the backward pass: row j < n_src, entries destinations. The first layer's
     * may be NULL (features get no gradient); with it, features wider than the layer can be
     * multiplied by the weights before they are propagated, which is cheaper. */
    const int64_t *t_indptr; /* [n_src + 1] */
    const int32_t *t_indices;
    const float *t_weights;
};

struct batch {
    uint64_t step;    /* counts optimizer steps; keys dropout */
    uint64_t version; /* batches of one version have the same graph and features, so what is made
                         of them may be kept (full mode); 0: this batch comes once (sampled) */
    size_t hops;      /* layers that propagate; a graph each */
    struct layer_graph graphs[HOPS_MAX]; /* [0] nearest the input */
    uint32_t n_input;                    /* graphs[0].n_src */
    uint32_t n_output;                   /* graphs[hops-1].n_dst; without hops n_input */
    const int64_t *nodes;  /* [n_input] global node numbers; the first n_output are the outputs */
    const float *features; /* [n_input, feature_dim] */
    const int32_t *labels; /* [n_output], -1: none */
    /* [n_output, classes] 0 or 1, where a node may have several labels, else NULL */
    const uint8_t *multi_labels;
    const float *targets; /* [n_output, classes], of regression, else NULL; labels are 0 or -1 */
    const uint8_t *split; /* [n_output] enum split */
    /* [n_output] what each output's loss counts for, where the sampler does not take all training
     * nodes equally often; NULL: 1 */
    const float *loss_weights;
    uint32_t train_count; /* outputs that are labelled training nodes: loss is their mean */
};
