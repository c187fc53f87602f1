/* What full and sampled batches share in making a layer's graph: the edge weights of enum
 * graph_norm and the transpose. Inside worker/graph, and for inference block by block. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "worker/graph/batch.h"

/* Weight of the edge into a node of whole degree degree_dst, of whose neighbours present (>= 1) are
 * there, from one of degree degree_src. */
float mfg_weight(int graph, int32_t degree_dst, int32_t degree_src, int64_t present);
bool mfg_has_self(int graph);
/* Of the node itself. */
float mfg_self(int graph, int32_t degree);
/* Fills t_indptr [n_src + 1], t_indices and, unless weights is NULL, t_weights [edges];
 * destinations ascend in each row. */
void mfg_transpose(uint32_t n_dst, uint32_t n_src, const int64_t *indptr, const int32_t *indices,
                   const float *weights, int64_t *t_indptr, int32_t *t_indices, float *t_weights);
