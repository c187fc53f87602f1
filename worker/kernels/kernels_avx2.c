/* The kernels for processors with AVX2 and FMA, also used where there is AVX-512. Each does what
 * its twin in kernels_ref.c does; sums may be rounded differently (FMA), masks are the same bits.
 */
#include "worker/kernels/share.h"

#include <immintrin.h>

#include "common/rng.h"
#include "worker/kernels/exp_avx2.h"

/* Edges ahead of the one being added whose source row is fetched from memory: rows of a graph lie
 * anywhere, so the processor cannot guess them. */
#define PREFETCH_EDGES 6

/* The edges of one row, and the last edge whose source may be looked at ahead of time. */
struct row {
    const int32_t *indices;
    const float *weights;
    int64_t begin, end, fetch_end;
};

/* y[8 * vectors] = self * self_x + sum of weights * x rows, held in registers throughout. vectors
 * is a constant wherever this is inlined. self_x may be NULL. */
static inline __attribute__((always_inline)) void row_vectors(int vectors, const struct row *row,
                                                              const float *x, size_t ldx,
                                                              const float *self_x, float self,
                                                              float *y) {
    __m256 sum[8];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++)
        sum[v] = self_x ? _mm256_mul_ps(_mm256_set1_ps(self), _mm256_loadu_ps(self_x + 8 * v))
                        : _mm256_setzero_ps();
    for (int64_t e = row->begin; e < row->end; e++) {
        if (e + PREFETCH_EDGES < row->fetch_end) {
            const float *ahead = x + (size_t)row->indices[e + PREFETCH_EDGES] * ldx;
#pragma GCC unroll 4
            for (int line = 0; line < (vectors + 1) / 2; line++)
                _mm_prefetch((const char *)(ahead + 16 * line), _MM_HINT_T0);
        }
        const float *source = x + (size_t)row->indices[e] * ldx;
        __m256 weight = _mm256_set1_ps(row->weights[e]);
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
            sum[v] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(source + 8 * v), sum[v]);
    }
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++)
        _mm256_storeu_ps(y + 8 * v, sum[v]);
}

static void row_some_vectors(size_t vectors, const struct row *row, const float *x, size_t ldx,
                             const float *self_x, float self, float *y) {
    switch (vectors) {
    case 1:
        return row_vectors(1, row, x, ldx, self_x, self, y);
    case 2:
        return row_vectors(2, row, x, ldx, self_x, self, y);
    case 3:
        return row_vectors(3, row, x, ldx, self_x, self, y);
    case 4:
        return row_vectors(4, row, x, ldx, self_x, self, y);
    case 5:
        return row_vectors(5, row, x, ldx, self_x, self, y);
    case 6:
        return row_vectors(6, row, x, ldx, self_x, self, y);
    case 7:
        return row_vectors(7, row, x, ldx, self_x, self, y);
    case 8:
        return row_vectors(8, row, x, ldx, self_x, self, y);
    }
}

/* The first rest elements of a vector, 1 to 7. */
static __m256i rest_mask(size_t rest) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)rest),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* The last d % 8 columns. */
static void row_rest(size_t rest, const struct row *row, const float *x, size_t ldx,
                     const float *self_x, float self, float *y) {
    __m256i mask = rest_mask(rest);
    __m256 sum = self_x ? _mm256_mul_ps(_mm256_set1_ps(self), _mm256_maskload_ps(self_x, mask))
                        : _mm256_setzero_ps();
    for (int64_t e = row->begin; e < row->end; e++) {
        if (e + PREFETCH_EDGES < row->fetch_end)
            _mm_prefetch((const char *)(x + (size_t)row->indices[e + PREFETCH_EDGES] * ldx),
                         _MM_HINT_T0);
        const float *source = x + (size_t)row->indices[e] * ldx;
        sum =
            _mm256_fmadd_ps(_mm256_set1_ps(row->weights[e]), _mm256_maskload_ps(source, mask), sum);
    }
    _mm256_maskstore_ps(y, mask, sum);
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
            struct row row = {indices, weights, indptr[i], indptr[i + 1], indptr[end]};
            float self_weight = self ? self[i] : 0;
            for (size_t j = 0; j < d;) {
                const float *self_x = self ? x + i * ldx + j : NULL;
                float *out = y + i * ldy + j;
                size_t vectors = (d - j) / 8;
                if (vectors == 0) {
                    row_rest(d - j, &row, x + j, ldx, self_x, self_weight, out);
                    break;
                }
                vectors = vectors < 8 ? vectors : 8;
                row_some_vectors(vectors, &row, x + j, ldx, self_x, self_weight, out);
                j += vectors * 8;
            }
        }
    }
}

/* Four products modulo 2^64, of which AVX2 has only 32 x 32 -> 64 bits. */
static inline __m256i multiply64(__m256i a, uint64_t factor) {
    __m256i low = _mm256_set1_epi64x((int64_t)(factor & 0xffffffff));
    __m256i high = _mm256_set1_epi64x((int64_t)(factor >> 32));
    __m256i cross = _mm256_add_epi64(_mm256_mul_epu32(_mm256_srli_epi64(a, 32), low),
                                     _mm256_mul_epu32(a, high));
    return _mm256_add_epi64(_mm256_mul_epu32(a, low), _mm256_slli_epi64(cross, 32));
}

/* rng_mix on four lanes, and of that the 24 bits that rng_float takes. */
static inline __m256i mix24(__m256i x) {
    x = _mm256_xor_si256(x, _mm256_srli_epi64(x, 30));
    x = multiply64(x, 0xbf58476d1ce4e5b9ULL);
    x = _mm256_xor_si256(x, _mm256_srli_epi64(x, 27));
    x = multiply64(x, 0x94d049bb133111ebULL);
    x = _mm256_xor_si256(x, _mm256_srli_epi64(x, 31));
    return _mm256_srli_epi64(x, 40);
}

#define WEYL 0x9e3779b97f4a7c15ULL /* rng_at's step from one counter to the next */

/* All ones in the lanes of the eight elements from counter on that dropout keeps. */
static inline __m256 kept(uint64_t key, uint64_t counter, __m256i below_keep) {
    __m256i first = _mm256_add_epi64(
        _mm256_set1_epi64x((int64_t)(key + (counter + 1) * WEYL)),
        _mm256_setr_epi64x(0, (int64_t)WEYL, (int64_t)(2 * WEYL), (int64_t)(3 * WEYL)));
    __m256i second = _mm256_add_epi64(first, _mm256_set1_epi64x((int64_t)(4 * WEYL)));
    __m256 a = _mm256_castsi256_ps(_mm256_cmpgt_epi64(mix24(first), below_keep));
    __m256 b = _mm256_castsi256_ps(_mm256_cmpgt_epi64(mix24(second), below_keep));
    /* One half of each 64-bit lane, then the lanes back in order. */
    __m256 both = _mm256_shuffle_ps(a, b, _MM_SHUFFLE(2, 0, 2, 0));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(both), _MM_SHUFFLE(3, 1, 2, 0)));
}

/* 1 for each lane of all ones. */
static inline void mask_store(uint8_t *mask, __m256 keep) {
    __m256i ones = _mm256_srli_epi32(_mm256_castps_si256(keep), 31);
    __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(ones), _mm256_extracti128_si256(ones, 1));
    _mm_storel_epi64((__m128i *)(void *)mask, _mm_packus_epi16(words, words));
}

static void bias_act_dropout(size_t n, size_t d, float *x, const float *bias, bool relu, float p,
                             uint64_t key, const int64_t *nodes, uint8_t *mask) {
    uint64_t keep_from = share_keep_from(p);
    __m256i below_keep = _mm256_set1_epi64x((int64_t)keep_from - 1);
    float scale = 1 / (1 - p);
    const __m256 all = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
#pragma omp parallel for schedule(static) if (n * d >= SHARE_WORK_MIN)
    for (size_t i = 0; i < n; i++) {
        float *row = x + i * d;
        uint8_t *row_mask = mask ? mask + i * d : NULL;
        uint64_t counter = p > 0 ? (uint64_t)nodes[i] * d : 0;
        size_t j = 0;
        for (; j + 8 <= d; j += 8) {
            __m256 value = _mm256_loadu_ps(row + j);
            if (bias)
                value = _mm256_add_ps(value, _mm256_loadu_ps(bias + j));
            __m256 keep = relu ? _mm256_cmp_ps(value, _mm256_setzero_ps(), _CMP_GT_OQ) : all;
            if (p > 0) {
                keep = _mm256_and_ps(keep, kept(key, counter + j, below_keep));
                value = _mm256_mul_ps(value, _mm256_set1_ps(scale));
            }
            _mm256_storeu_ps(row + j, _mm256_and_ps(value, keep));
            if (row_mask)
                mask_store(row_mask + j, keep);
        }
        for (; j < d; j++) {
            float value = row[j] + (bias ? bias[j] : 0);
            bool keep = !relu || value > 0;
            if (p > 0) {
                keep = keep && rng_at(key, counter + j) >> 40 >= keep_from;
                value *= scale;
            }
            row[j] = keep ? value : 0;
            if (row_mask)
                row_mask[j] = keep;
        }
    }
}

static void mask_scale(size_t count, float *dx, const uint8_t *mask, float p) {
    float scale = 1 / (1 - p);
    __m256 scales = _mm256_set1_ps(scale);
#pragma omp parallel for schedule(static) if (count >= SHARE_WORK_MIN)
    for (size_t i = 0; i < count / 8; i++) {
        __m256i ones =
            _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(mask + 8 * i)));
        __m256 keep = _mm256_castsi256_ps(_mm256_cmpgt_epi32(ones, _mm256_setzero_si256()));
        __m256 value = _mm256_mul_ps(_mm256_loadu_ps(dx + 8 * i), scales);
        _mm256_storeu_ps(dx + 8 * i, _mm256_and_ps(value, keep));
    }
    for (size_t i = count / 8 * 8; i < count; i++)
        dx[i] = mask[i] ? dx[i] * scale : 0;
}

static size_t largest(size_t n, const float *x) {
    size_t best = 0;
    if (n >= 8) {
        __m256 top = _mm256_loadu_ps(x);
        for (size_t i = 8; i + 8 <= n; i += 8)
            top = _mm256_max_ps(top, _mm256_loadu_ps(x + i));
        top = _mm256_max_ps(top, _mm256_loadu_ps(x + n - 8));
        top = _mm256_max_ps(top, _mm256_permute2f128_ps(top, top, 1));
        top = _mm256_max_ps(top, _mm256_shuffle_ps(top, top, 0x4e));
        top = _mm256_max_ps(top, _mm256_shuffle_ps(top, top, 0xb1));
        for (; best + 8 <= n; best += 8) {
            int found =
                _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(x + best), top, _CMP_EQ_OQ));
            if (found)
                return best + (size_t)__builtin_ctz((unsigned)found);
        }
        best = n - 8; /* among the last, or nowhere: numbers that are none */
    }
    for (size_t i = best + 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

static double exp_sum(size_t n, const float *x, float shift, float *out) {
    const __m256 shifts = _mm256_set1_ps(shift);
    __m256 sums = _mm256_setzero_ps();
    float lanes[8];
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 y = exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i), shifts));
        sums = _mm256_add_ps(sums, y);
        if (out)
            _mm256_storeu_ps(out + i, y);
    }
    if (i < n) {
        __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n - i)),
                                          _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        __m256 those = _mm256_castsi256_ps(mask);
        __m256 some = _mm256_blendv_ps(shifts, _mm256_maskload_ps(x + i, mask), those);
        __m256 y = exp8(_mm256_sub_ps(some, shifts));
        sums = _mm256_add_ps(sums, _mm256_and_ps(y, those));
        if (out)
            _mm256_maskstore_ps(out + i, mask, y);
    }
    _mm256_storeu_ps(lanes, sums);
    double sum = 0;
    for (int lane = 0; lane < 8; lane++)
        sum += (double)lanes[lane];
    return sum;
}

const struct kernels kernels_avx2_table = {
    .name = "avx2",
    .spmm = spmm,
    .bias_act_dropout = bias_act_dropout,
    .mask_scale = mask_scale,
    .largest = largest,
    .exp_sum = exp_sum,
};
