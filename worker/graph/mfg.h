/* What full and sampled batches share in making a layer's graph: the edge weights of enum
 * graph_norm and the transpose. Inside worker/graph, and for inference block by block. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "worker/graph/batch.h"
#include "worker/graph/store.h"

/* A node's degree in the whole graph, as its norm wants it: edges, or the sum of their weights. */
double mfg_degree(const struct store *store, int graph, uint64_t node);
/* What a mean over the row's edges begin to end - 1 of the store divides by. */
double mfg_total(const struct store *store, int graph, int64_t begin, int64_t end);
/* Weight of the store's edge e, into a node of degree degree_dst and whose row has that total, from
 * one of degree degree_src. */
float mfg_weight(const struct store *store, int graph, int64_t e, double degree_dst,
                 double degree_src, double total);
bool mfg_has_self(int graph);
/* Of the node itself. */
float mfg_self(int graph, double degree);
/* Has the store what these layers weigh edges by, in a form that they can use? ERR_CONFIG. */
int mfg_check(const struct store *store, const struct model_spec *spec, struct error *reterr);
/* Fills t_indptr [n_src + 1], t_indices and, unless weights is NULL, t_weights [edges];
 * destinations ascend in each row. */
void mfg_transpose(uint32_t n_dst, uint32_t n_src, const int64_t *indptr, const int32_t *indices,
                   const float *weights, int64_t *t_indptr, int32_t *t_indices, float *t_weights);
