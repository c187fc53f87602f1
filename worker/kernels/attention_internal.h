/* What both twins of the attention kernels share: how scratch is laid out, the dropout draw, how
 * sums over nodes are divided. Inside worker/kernels only. */
#pragma once

#include "common/rng.h"
#include "worker/kernels/attention.h"
#include "worker/kernels/share.h"

extern const struct attention_kernels attention_avx2_table;

/* Sums over all nodes (da) are made of so many sums over as many edges each, whatever the number of
 * threads: the same bits, and less rounding than one long sum. */
#define ATTENTION_SUMS 64

struct attention_scratch {
    float *node;    /* GAT [n_dst, 4, heads]: s_dst, max, 1 / sum, D; GATv2 [n_dst, 3, heads]:
                       max, 1 / sum, D: what the transposed pass reads of a destination, together */
    float *ds_src;  /* GAT [n_src, heads] */
    float *ds_dst;  /* GAT [parts, n_dst, heads] */
    float *da;      /* [ATTENTION_SUMS, GAT 2 d, GATv2 d] */
    uint64_t *keys; /* [n_dst] of the draws */
};

/* Places the arrays in scratch; with scratch NULL it only counts. Returns the floats. */
static inline size_t attention_scratch_place(const struct attention *at, bool gat, float *scratch,
                                             struct attention_scratch *ret) {
    size_t d = at->heads * at->width, used = 0;
    size_t node = at->n_dst * at->heads * (gat ? 4 : 3), source = gat ? at->n_src * at->heads : 0;
    size_t parts = gat ? at->parts * at->n_dst * at->heads : 0;
    size_t counts[] = {node, source, parts, ATTENTION_SUMS * d * (gat ? 2 : 1), 2 * at->n_dst};
    float *arrays[5];
    for (int i = 0; i < 5; i++) {
        arrays[i] = scratch ? scratch + used : NULL;
        used += (counts[i] + 15) / 16 * 16; /* each on a cache line of its own */
    }
    if (ret)
        *ret = (struct attention_scratch){arrays[0], arrays[1], arrays[2], arrays[3],
                                          (uint64_t *)(void *)arrays[4]};
    return used;
}

/* The counter of (source, head 0) under a destination's key, and how many counters a source has. */
static inline size_t attention_pairs(const struct attention *at) {
    return (at->heads + 1) / 2;
}

static inline uint64_t attention_row_key(const struct attention *at, size_t i) {
    return rng_key(at->key, (uint64_t)at->nodes[i]);
}

/* The literal form of the draw; keep_from = share_keep_from(p). */
static inline bool attention_kept(const struct attention *at, uint64_t row_key, size_t j, size_t h,
                                  uint64_t keep_from) {
    uint64_t bits = rng_at(row_key, (uint64_t)at->nodes[j] * attention_pairs(at) + h / 2);
    return (h % 2 ? bits >> 40 : (bits & 0xffffffff) >> 8) >= keep_from;
}

/* The first of the nodes of sum c: equal shares of n. */
static inline size_t attention_sum_begin(size_t n, size_t c) {
    return n / ATTENTION_SUMS * c + n % ATTENTION_SUMS * c / ATTENTION_SUMS;
}

/* out [d] = the sums [ATTENTION_SUMS, stride] added up. */
static inline void attention_sums_add(const float *sums, size_t stride, size_t d, float *out) {
    for (size_t c = 0; c < d; c++)
        out[c] = sums[c];
    for (size_t s = 1; s < ATTENTION_SUMS; s++)
        for (size_t c = 0; c < d; c++)
            out[c] += sums[s * stride + c];
}

/* Work below which threads are not woken, as in share.h. */
static inline bool attention_parallel(const struct attention *at) {
    return (size_t)at->indptr[at->n_dst] * at->heads * at->width >= SHARE_WORK_MIN;
}
