/* Attention over a graph's edges, forward and backward: GAT (Veličković et al., "Graph Attention
 * Networks", ICLR 2018) and GATv2 (Brody, Alon & Yahav, "How Attentive are Graph Attention
 * Networks?", ICLR 2022). attention_ref is portable and plain; attention_avx2 the fast twin;
 * attention_kernels() is chosen once for this processor (GRAPHPS_KERNELS=ref forces the reference).
 *
 * For destination i, head h and j in N(i) or i itself, d = heads * width, columns of head h
 * h * width..(h+1) * width - 1:
 *     GAT    e_ij = leaky(s_src[j] + s_dst[i]),  s_src[j] = a_src . z_j,  s_dst[i] = a_dst . z_i
 *     GATv2  e_ij = a . leaky(zl_j + zr_i)
 *     alpha_ij = exp(e_ij - max_i) / sum_i       the softmax of row i
 *     y_i = sum_j alpha'_ij z_j                  zl_j in GATv2
 *     alpha' = alpha, with dropout alpha kept / (1 - p)
 *     leaky(x) = x if x > 0, else slope * x
 * backward, with D_i = dy_i . y_i, which is sum_j alpha_ij dalpha_ij:
 *     dalpha_ij = dy_i . z_j kept / (1 - p)
 *     de_ij = alpha_ij (dalpha_ij - D_i)
 * Nothing is kept for an edge: backward computes alpha again from the scores and from max and sum,
 * as Dao et al., "FlashAttention", NeurIPS 2022, do for dense attention.
 *
 * Arrays are row-major; rows of those with an ld... are that many floats apart, others are dense.
 * No array overlaps another. Results do not depend on the number of threads; parts see below. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ATTENTION_HEADS_MAX 32

/* The edges and what the layer is told once. Borrowed. */
struct attention {
    size_t n_dst, n_src;      /* destination i < n_dst is source i */
    size_t heads, width;      /* heads 1..ATTENTION_HEADS_MAX, width >= 1 */
    const int64_t *indptr;    /* [n_dst + 1], indptr[0] = 0 */
    const int32_t *indices;   /* sources; none is the row itself, whose edge is implied */
    const int64_t *t_indptr;  /* [n_src + 1]: the transpose, read by backward alone */
    const int32_t *t_indices; /* destinations */
    float slope;              /* of leaky, 0..1 */
    /* Dropout of alpha: 0 <= p < 1; 0: none, key and nodes not read. The draw of (i, j, h) is
     * bits = rng_at(rng_key(key, nodes[i]), nodes[j] * ((heads + 1) / 2) + h / 2), of which even
     * heads take bits 8..31 and odd ones bits 40..63 as a number in [0, 1); kept when >= p. So it
     * depends on neither the order of edges nor how the graph is divided. */
    float p;
    uint64_t key;
    const int64_t *nodes; /* [n_src] global numbers */
    /* GAT's backward divides the sources into so many parts (>= 1, the number of threads is right),
     * which add up ds_dst separately: the same parts, the same bits. It takes n_dst * heads floats
     * of scratch for each. */
    size_t parts;
};

/* scratch: attention_*_scratch floats, 64-byte aligned, contents free between calls. */
struct attention_kernels {
    const char *name;
    /* s_src [n_src, heads] and s_dst [n_dst, heads] of z [n_src, d], a_src and a_dst [d]. */
    void (*gat_scores)(const struct attention *at, const float *z, size_t ldz, const float *a_src,
                       const float *a_dst, float *s_src, float *s_dst);
    /* y [n_dst, d]; max and sum [n_dst, heads] are for backward. */
    void (*gat_forward)(const struct attention *at, const float *z, size_t ldz, const float *s_src,
                        const float *s_dst, float *y, size_t ldy, float *max, float *sum);
    /* Overwrites dz [n_src, d] (through the scores too) and da_src, da_dst [d]. y, max, sum as
     * forward left them, dy the gradient of that y. */
    void (*gat_backward)(const struct attention *at, const float *z, size_t ldz, const float *a_src,
                         const float *a_dst, const float *s_src, const float *s_dst,
                         const float *max, const float *sum, const float *y, size_t ldy,
                         const float *dy, size_t lddy, float *scratch, float *dz, size_t lddz,
                         float *da_src, float *da_dst);
    /* zl [n_src, d], zr [n_dst, d], a [d]; y, max, sum as above. */
    void (*gatv2_forward)(const struct attention *at, const float *zl, size_t ldzl, const float *zr,
                          size_t ldzr, const float *a, float *y, size_t ldy, float *max,
                          float *sum);
    /* Overwrites dzl [n_src, d], dzr [n_dst, d], da [d]. */
    void (*gatv2_backward)(const struct attention *at, const float *zl, size_t ldzl,
                           const float *zr, size_t ldzr, const float *a, const float *max,
                           const float *sum, const float *y, size_t ldy, const float *dy,
                           size_t lddy, float *scratch, float *dzl, size_t lddzl, float *dzr,
                           size_t lddzr, float *da);
};

extern const struct attention_kernels attention_ref;
const struct attention_kernels *attention_avx2(void); /* NULL where there is none */
const struct attention_kernels *attention_kernels(void);

/* Floats of scratch that backward needs, of either twin. Only the sizes and parts are read. */
size_t attention_gat_scratch(const struct attention *at);
size_t attention_gatv2_scratch(const struct attention *at);
