/* What full and sampled batches share in making a layer's graph: the edge weights of batch.h and
 * the transpose. Inside worker/graph only. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "worker/graph/batch.h"

/* Weight of the edge into a node of whole degree degree_dst, of whose neighbours present are there,
 * from one of degree degree_src. kind: MODEL_GCN or MODEL_SAGE; present >= 1. */
float mfg_weight(int kind, int32_t degree_dst, int32_t degree_src, double ratio, int64_t present);
/* A GCN's self term. */
float mfg_self(int32_t degree);
/* Fills t_indptr [n_src + 1], t_indices and t_weights [edges]; destinations ascend in each row. */
void mfg_transpose(uint32_t n_dst, uint32_t n_src, const int64_t *indptr, const int32_t *indices,
                   const float *weights, int64_t *t_indptr, int32_t *t_indices, float *t_weights);
