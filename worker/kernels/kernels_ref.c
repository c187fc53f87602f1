/* The reference kernels: plain C for any processor, and the yardstick of the fast ones. */
#include "worker/kernels/share.h"

#include <math.h>
#include <string.h>

#include "common/rng.h"

static void spmm_row(size_t d, const int32_t *indices, const float *weights, int64_t count,
                     const float *x, size_t ldx, float *y) {
    for (int64_t e = 0; e < count; e++) {
        const float *row = x + (size_t)indices[e] * ldx;
        for (size_t j = 0; j < d; j++)
            y[j] += weights[e] * row[j];
    }
}

static void spmm(size_t n, size_t d, const int64_t *indptr, const int32_t *indices,
                 const float *weights, const float *self, const float *x, size_t ldx, float *y,
                 size_t ldy) {
    if (n == 0)
        return;
    int chunks = share_chunks(n, (size_t)(indptr[n] - indptr[0] + (int64_t)n) * d);
#pragma omp parallel for schedule(dynamic, 1) if (chunks > 1)
    for (int c = 0; c < chunks; c++) {
        size_t end = share_row(n, indptr, c + 1, chunks);
        for (size_t i = share_row(n, indptr, c, chunks); i < end; i++) {
            float *out = y + i * ldy;
            if (self)
                for (size_t j = 0; j < d; j++)
                    out[j] = self[i] * x[i * ldx + j];
            else
                memset(out, 0, d * sizeof *out);
            spmm_row(d, indices + indptr[i], weights + indptr[i], indptr[i + 1] - indptr[i], x, ldx,
                     out);
        }
    }
}

static void bias_act_dropout(size_t n, size_t d, float *x, const float *bias, bool relu, float p,
                             uint64_t key, const int64_t *nodes, uint8_t *mask) {
    uint64_t keep_from = share_keep_from(p);
    float scale = 1 / (1 - p);
#pragma omp parallel for schedule(static) if (n * d >= SHARE_WORK_MIN)
    for (size_t i = 0; i < n; i++) {
        float *row = x + i * d;
        uint64_t counter = p > 0 ? (uint64_t)nodes[i] * d : 0;
        for (size_t j = 0; j < d; j++) {
            float value = row[j] + (bias ? bias[j] : 0);
            bool keep = !relu || value > 0;
            if (p > 0) {
                keep = keep && rng_at(key, counter + j) >> 40 >= keep_from;
                value *= scale;
            }
            row[j] = keep ? value : 0;
            if (mask)
                mask[i * d + j] = keep;
        }
    }
}

static void mask_scale(size_t count, float *dx, const uint8_t *mask, float p) {
    float scale = 1 / (1 - p);
#pragma omp parallel for schedule(static) if (count >= SHARE_WORK_MIN)
    for (size_t i = 0; i < count; i++)
        dx[i] = mask[i] ? dx[i] * scale : 0;
}

static size_t largest(size_t n, const float *x) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

static double exp_sum(size_t n, const float *x, float shift, float *out) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        float y = expf(x[i] - shift);
        sum += (double)y;
        if (out)
            out[i] = y;
    }
    return sum;
}

const struct kernels kernels_ref = {
    .name = "ref",
    .spmm = spmm,
    .bias_act_dropout = bias_act_dropout,
    .mask_scale = mask_scale,
    .largest = largest,
    .exp_sum = exp_sum,
};
