/* The reference attention kernels: plain C for any processor, and the yardstick of the fast ones.
 * Backward goes over the edges twice: by destination for what destinations get, by source for what
 * sources get. An edge number one before a row's first stands for the row's own edge. */
#include "worker/kernels/attention_internal.h"

#include <math.h>
#include <string.h>

/* For slopes of 0..1; a maximum needs no branch, of which the processor could not guess half. */
static float leaky(float x, float slope) {
    float low = slope * x;
    return x > low ? x : low;
}

static float dot(size_t n, const float *x, const float *y) {
    float sum = 0;
    for (size_t c = 0; c < n; c++)
        sum += x[c] * y[c];
    return sum;
}

/* y += a x */
static void add(size_t n, float a, const float *x, float *y) {
    for (size_t c = 0; c < n; c++)
        y[c] += a * x[c];
}

/* The other end of edge e of row i. */
static size_t other(const int64_t *indptr, const int32_t *indices, size_t i, int64_t e) {
    return e < indptr[i] ? i : (size_t)indices[e];
}

/* The source of edge e of destination i. */
static size_t source(const struct attention *at, size_t i, int64_t e) {
    return e < at->indptr[i] ? at->first + i : (size_t)at->indices[e];
}

/* e_ij by either formula. */
struct scores {
    const struct attention *at;
    const float *s_src, *s_dst; /* GAT */
    const float *zl, *zr, *a;   /* GATv2 */
    size_t ldzl, ldzr;
};

static float score_linear(const struct scores *s, size_t i, size_t j, size_t h) {
    size_t heads = s->at->heads;
    return s->s_src[j * heads + h] + s->s_dst[i * heads + h];
}

static float score(const struct scores *s, size_t i, size_t j, size_t h) {
    size_t width = s->at->width;
    if (s->s_src)
        return leaky(score_linear(s, i, j, h), s->at->slope);
    const float *zl = s->zl + j * s->ldzl + h * width, *zr = s->zr + i * s->ldzr + h * width;
    const float *a = s->a + h * width;
    float sum = 0;
    for (size_t c = 0; c < width; c++)
        sum += a[c] * leaky(zl[c] + zr[c], s->at->slope);
    return sum;
}

/* 1 / (1 - p), or 0 for what dropout takes. */
static float kept_scale(const struct attention *at, uint64_t row_key, size_t j, size_t h) {
    if (at->p <= 0)
        return 1;
    return attention_kept(at, row_key, j, h, share_keep_from(at->p)) ? 1 / (1 - at->p) : 0;
}

static void forward_row(const struct scores *s, size_t i, size_t h, const float *z, size_t ldz,
                        float *y, float *ret_max, float *ret_sum) {
    const struct attention *at = s->at;
    size_t width = at->width;
    uint64_t key = at->p > 0 ? attention_row_key(at, i) : 0;
    float max = -INFINITY, sum = 0;
    memset(y, 0, width * sizeof *y);
    for (int64_t e = at->indptr[i] - 1; e < at->indptr[i + 1]; e++)
        max = fmaxf(max, score(s, i, source(at, i, e), h));
    for (int64_t e = at->indptr[i] - 1; e < at->indptr[i + 1]; e++) {
        size_t j = source(at, i, e);
        float weight = expf(score(s, i, j, h) - max);
        sum += weight;
        add(width, weight * kept_scale(at, key, j, h), z + j * ldz + h * width, y);
    }
    for (size_t c = 0; c < width; c++)
        y[c] /= sum;
    *ret_max = max;
    *ret_sum = sum;
}

static void forward(const struct scores *s, const float *z, size_t ldz, float *y, size_t ldy,
                    float *max, float *sum) {
    const struct attention *at = s->at;
    size_t heads = at->heads, n = at->n_dst;
    if (n == 0)
        return;
    int chunks = share_chunks(n, (size_t)at->indptr[n] * heads * at->width);
#pragma omp parallel for schedule(dynamic, 1) if (chunks > 1)
    for (int c = 0; c < chunks; c++) {
        size_t end = share_row(n, at->indptr, c + 1, chunks);
        for (size_t i = share_row(n, at->indptr, c, chunks); i < end; i++)
            for (size_t h = 0; h < heads; h++)
                forward_row(s, i, h, z, ldz, y + i * ldy + h * at->width, max + i * heads + h,
                            sum + i * heads + h);
    }
}

/* What backward has of forward. */
struct saved {
    const float *z, *dy, *max, *sum;
    size_t ldz, lddy;
    const float *products; /* [n_dst, heads] D */
};

/* Of edge (i, j): de, and what y_i took of z_j. */
static float edge_back(const struct scores *s, const struct saved *saved, uint64_t row_key,
                       size_t i, size_t j, size_t h, float *ret_weight) {
    const struct attention *at = s->at;
    size_t head = i * at->heads + h, column = h * at->width;
    float alpha = expf(score(s, i, j, h) - saved->max[head]) / saved->sum[head];
    float scale = kept_scale(at, row_key, j, h);
    float dalpha = scale * dot(at->width, saved->dy + i * saved->lddy + column,
                               saved->z + j * saved->ldz + column);
    *ret_weight = alpha * scale;
    return alpha * (dalpha - saved->products[head]);
}

/* D and the draws' keys. */
static void products(const struct attention *at, const float *y, size_t ldy, const float *dy,
                     size_t lddy, float *ret_products, uint64_t *keys) {
#pragma omp parallel for schedule(static) if (attention_parallel(at))
    for (size_t i = 0; i < at->n_dst; i++) {
        keys[i] = at->p > 0 ? attention_row_key(at, i) : 0;
        for (size_t h = 0; h < at->heads; h++)
            ret_products[i * at->heads + h] =
                dot(at->width, y + i * ldy + h * at->width, dy + i * lddy + h * at->width);
    }
}

static void gat_scores(const struct attention *at, const float *z, size_t ldz, const float *a_src,
                       const float *a_dst, float *s_src, float *s_dst) {
    size_t heads = at->heads, width = at->width;
#pragma omp parallel for schedule(static) if (at->n_src * heads * width >= SHARE_WORK_MIN)
    for (size_t j = 0; j < at->n_src; j++)
        for (size_t h = 0; h < heads; h++) {
            const float *row = z + j * ldz + h * width;
            s_src[j * heads + h] = dot(width, row, a_src + h * width);
            if (j < at->n_dst)
                s_dst[j * heads + h] = dot(width, row, a_dst + h * width);
        }
}

static void gat_forward(const struct attention *at, const float *z, size_t ldz, const float *s_src,
                        const float *s_dst, float *y, size_t ldy, float *max, float *sum) {
    struct scores scores = {.at = at, .s_src = s_src, .s_dst = s_dst};
    forward(&scores, z, ldz, y, ldy, max, sum);
}

/* ds = de leaky'(s): ds_dst by destination. */
static void gat_back_dst(const struct scores *s, const struct saved *saved, const uint64_t *keys,
                         float *ds_dst) {
    const struct attention *at = s->at;
#pragma omp parallel for schedule(dynamic, 64) if (attention_parallel(at))
    for (size_t i = 0; i < at->n_dst; i++)
        for (size_t h = 0; h < at->heads; h++) {
            float total = 0, weight;
            for (int64_t e = at->indptr[i] - 1; e < at->indptr[i + 1]; e++) {
                size_t j = other(at->indptr, at->indices, i, e);
                float de = edge_back(s, saved, keys[i], i, j, h, &weight);
                total += score_linear(s, i, j, h) > 0 ? de : at->slope * de;
            }
            ds_dst[i * at->heads + h] = total;
        }
}

/* ds_src and the part of dz that came through y, by source. */
static void gat_back_src(const struct scores *s, const struct saved *saved, const uint64_t *keys,
                         float *ds_src, float *dz, size_t lddz) {
    const struct attention *at = s->at;
#pragma omp parallel for schedule(dynamic, 64) if (attention_parallel(at))
    for (size_t j = 0; j < at->n_src; j++)
        for (size_t h = 0; h < at->heads; h++) {
            float total = 0, *out = dz + j * lddz + h * at->width;
            memset(out, 0, at->width * sizeof *out);
            for (int64_t e = at->t_indptr[j] - (j < at->n_dst); e < at->t_indptr[j + 1]; e++) {
                size_t i = other(at->t_indptr, at->t_indices, j, e);
                float weight, de = edge_back(s, saved, keys[i], i, j, h, &weight);
                total += score_linear(s, i, j, h) > 0 ? de : at->slope * de;
                add(at->width, weight, saved->dy + i * saved->lddy + h * at->width, out);
            }
            ds_src[j * at->heads + h] = total;
        }
}

static void gat_backward(const struct attention *at, const float *z, size_t ldz, const float *a_src,
                         const float *a_dst, const float *s_src, const float *s_dst,
                         const float *max, const float *sum, const float *y, size_t ldy,
                         const float *dy, size_t lddy, float *scratch, float *dz, size_t lddz,
                         float *da_src, float *da_dst) {
    size_t heads = at->heads, width = at->width, d = heads * width;
    struct attention_scratch at_scratch;
    attention_scratch_place(at, true, scratch, &at_scratch);
    float *ds_src = at_scratch.ds_src, *ds_dst = at_scratch.ds_dst;
    struct scores scores = {.at = at, .s_src = s_src, .s_dst = s_dst};
    struct saved saved = {z, dy, max, sum, ldz, lddy, at_scratch.node};
    products(at, y, ldy, dy, lddy, at_scratch.node, at_scratch.keys);
    gat_back_dst(&scores, &saved, at_scratch.keys, ds_dst);
    gat_back_src(&scores, &saved, at_scratch.keys, ds_src, dz, lddz);
    memset(at_scratch.da, 0, ATTENTION_SUMS * 2 * d * sizeof *at_scratch.da);
#pragma omp parallel for schedule(static) if (attention_parallel(at))
    for (size_t part = 0; part < ATTENTION_SUMS; part++) {
        float *src = at_scratch.da + part * 2 * d, *dst = src + d;
        size_t end = attention_sum_begin(at->n_src, part + 1);
        for (size_t j = attention_sum_begin(at->n_src, part); j < end; j++)
            for (size_t h = 0; h < heads; h++) {
                size_t column = h * width;
                float *out = dz + j * lddz + column;
                add(width, ds_src[j * heads + h], a_src + column, out);
                add(width, ds_src[j * heads + h], z + j * ldz + column, src + column);
                if (j >= at->n_dst)
                    continue;
                add(width, ds_dst[j * heads + h], a_dst + column, out);
                add(width, ds_dst[j * heads + h], z + j * ldz + column, dst + column);
            }
    }
    attention_sums_add(at_scratch.da, 2 * d, d, da_src);
    attention_sums_add(at_scratch.da + d, 2 * d, d, da_dst);
}

static void gatv2_forward(const struct attention *at, const float *zl, size_t ldzl, const float *zr,
                          size_t ldzr, const float *a, float *y, size_t ldy, float *max,
                          float *sum) {
    struct scores scores = {.at = at, .zl = zl, .zr = zr, .a = a, .ldzl = ldzl, .ldzr = ldzr};
    forward(&scores, zl, ldzl, y, ldy, max, sum);
}

/* out += de a leaky'(zl_j + zr_i), the gradient of both of them; da += de leaky(zl_j + zr_i),
 * unless NULL. */
static void gatv2_back_score(const struct scores *s, size_t i, size_t j, size_t h, float de,
                             float *out, float *da) {
    size_t column = h * s->at->width;
    const float *zl = s->zl + j * s->ldzl + column, *zr = s->zr + i * s->ldzr + column;
    for (size_t c = 0; c < s->at->width; c++) {
        float u = zl[c] + zr[c];
        out[c] += de * s->a[column + c] * (u > 0 ? 1 : s->at->slope);
        if (da)
            da[column + c] += de * leaky(u, s->at->slope);
    }
}

static void gatv2_back_dst(const struct scores *s, const struct saved *saved, const uint64_t *keys,
                           float *dzr, size_t lddzr, float *sums) {
    const struct attention *at = s->at;
    size_t d = at->heads * at->width;
    memset(sums, 0, ATTENTION_SUMS * d * sizeof *sums);
#pragma omp parallel for schedule(dynamic, 1) if (attention_parallel(at))
    for (int part = 0; part < ATTENTION_SUMS; part++) {
        size_t end = share_row(at->n_dst, at->indptr, part + 1, ATTENTION_SUMS);
        for (size_t i = share_row(at->n_dst, at->indptr, part, ATTENTION_SUMS); i < end; i++) {
            memset(dzr + i * lddzr, 0, d * sizeof *dzr);
            for (int64_t e = at->indptr[i] - 1; e < at->indptr[i + 1]; e++)
                for (size_t h = 0; h < at->heads; h++) {
                    size_t j = other(at->indptr, at->indices, i, e);
                    float weight, de = edge_back(s, saved, keys[i], i, j, h, &weight);
                    gatv2_back_score(s, i, j, h, de, dzr + i * lddzr + h * at->width,
                                     sums + (size_t)part * d);
                }
        }
    }
}

static void gatv2_back_src(const struct scores *s, const struct saved *saved, const uint64_t *keys,
                           float *dzl, size_t lddzl) {
    const struct attention *at = s->at;
#pragma omp parallel for schedule(dynamic, 64) if (attention_parallel(at))
    for (size_t j = 0; j < at->n_src; j++) {
        memset(dzl + j * lddzl, 0, at->heads * at->width * sizeof *dzl);
        for (int64_t e = at->t_indptr[j] - (j < at->n_dst); e < at->t_indptr[j + 1]; e++)
            for (size_t h = 0; h < at->heads; h++) {
                size_t i = other(at->t_indptr, at->t_indices, j, e);
                float weight, de = edge_back(s, saved, keys[i], i, j, h, &weight);
                float *out = dzl + j * lddzl + h * at->width;
                add(at->width, weight, saved->dy + i * saved->lddy + h * at->width, out);
                gatv2_back_score(s, i, j, h, de, out, NULL);
            }
    }
}

static void gatv2_backward(const struct attention *at, const float *zl, size_t ldzl,
                           const float *zr, size_t ldzr, const float *a, const float *max,
                           const float *sum, const float *y, size_t ldy, const float *dy,
                           size_t lddy, float *scratch, float *dzl, size_t lddzl, float *dzr,
                           size_t lddzr, float *da) {
    size_t d = at->heads * at->width;
    struct attention_scratch at_scratch;
    attention_scratch_place(at, false, scratch, &at_scratch);
    struct scores scores = {.at = at, .zl = zl, .zr = zr, .a = a, .ldzl = ldzl, .ldzr = ldzr};
    struct saved saved = {zl, dy, max, sum, ldzl, lddy, at_scratch.node};
    products(at, y, ldy, dy, lddy, at_scratch.node, at_scratch.keys);
    gatv2_back_dst(&scores, &saved, at_scratch.keys, dzr, lddzr, at_scratch.da);
    gatv2_back_src(&scores, &saved, at_scratch.keys, dzl, lddzl);
    attention_sums_add(at_scratch.da, d, d, da);
}

const struct attention_kernels attention_ref = {
    .name = "ref",
    .gat_scores = gat_scores,
    .gat_forward = gat_forward,
    .gat_backward = gat_backward,
    .gatv2_forward = gatv2_forward,
    .gatv2_backward = gatv2_backward,
};
