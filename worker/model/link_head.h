/* What stands on a model that learns links: decoder and loss over its outputs, the embeddings. */
#pragma once

#include "common/config.h"
#include "common/model_spec.h"
#include "proto/layout.h"
#include "worker/graph/batch.h"

struct link_head_spec {
    int decoder;        /* DECODER_* */
    int loss;           /* LINK_* */
    uint32_t dim;       /* of the embeddings */
    uint32_t relations; /* types of edges, at least 1 */
};

/* Of a job on a graph with so many types of edges (0: they have none). */
struct link_head_spec link_head_spec_from(const struct config *config, uint32_t edge_types);
/* The decoder's tensors, of link_head_floats in all, and behind them the model's (model_tensors),
 * whose statistics have to come last. *ret: mem_free it. */
size_t link_head_tensors(const struct link_head_spec *head, const struct model_spec *spec,
                         struct tensor_spec **ret);
/* Floats of the decoder's weights. */
size_t link_head_floats(const struct link_head_spec *head);

struct link_head;
struct link_head *link_head_new(const struct link_head_spec *spec);
struct link_head *link_head_free(struct link_head *head); /* takes NULL */
/* Bytes that it takes for so many pairs among so many outputs. */
size_t link_head_bytes(uint64_t pairs, size_t outputs);
/* y [n, dim]; weights: the decoder's. Returns the sum of the links' losses. */
double link_head_forward(struct link_head *head, const struct link_pairs *pairs, const float *y,
                         const float *weights);
/* After link_head_forward of the same: dy [n, dim], dweights = d(mean loss)/d(y, weights),
 * overwritten. */
void link_head_backward(struct link_head *head, const struct link_pairs *pairs, size_t n,
                        const float *y, const float *weights, float *dy, float *dweights);
