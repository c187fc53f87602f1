/* The kernels for processors with AVX-512 (F, BW, DQ, VL): 32 registers of 16 floats hold rows of
 * 256 at once, masks take the columns that are left, and 64-bit products make dropout's random
 * numbers quicker. Each does what its twin in kernels_ref.c does; sums may be rounded differently
 * (FMA), masks are the same bits. */
#include "worker/kernels/share.h"

#include <immintrin.h>
#include <math.h>

#include "common/rng.h"

/* Source rows are fetched from memory ahead of the edge being added, as many as make about so many
 * lines of cache: rows of a graph lie anywhere, so the processor cannot guess them. */
#define PREFETCH_LINES 32
#define VECTORS_MAX 16

/* The edges of one row, and the last edge whose source may be looked at ahead of time. */
struct row {
    const int32_t *indices;
    const float *weights;
    int64_t begin, end, fetch_end;
};

/* y[16 * vectors] = self * self_x + sum of weights * x rows, held in registers throughout; of the
 * last vector only the columns in last. vectors is a constant wherever this is inlined. self_x may
 * be NULL. */
static inline __attribute__((always_inline)) void row_vectors(int vectors, const struct row *row,
                                                              const float *x, size_t ldx,
                                                              const float *self_x, float self,
                                                              __mmask16 last, float *y) {
    const int64_t ahead = PREFETCH_LINES / vectors + 2;
    __m512 sum[VECTORS_MAX];
#pragma GCC unroll 16
    for (int v = 0; v < vectors; v++) {
        __mmask16 mask = v + 1 < vectors ? 0xffff : last;
        sum[v] = self_x ? _mm512_mul_ps(_mm512_set1_ps(self),
                                        _mm512_maskz_loadu_ps(mask, self_x + 16 * v))
                        : _mm512_setzero_ps();
    }
    for (int64_t e = row->begin; e < row->end; e++) {
        if (e + ahead < row->fetch_end) {
            const float *next = x + (size_t)row->indices[e + ahead] * ldx;
#pragma GCC unroll 16
            for (int v = 0; v < vectors; v++)
                _mm_prefetch((const char *)(next + 16 * v), _MM_HINT_T0);
        }
        const float *source = x + (size_t)row->indices[e] * ldx;
        __m512 weight = _mm512_set1_ps(row->weights[e]);
#pragma GCC unroll 16
        for (int v = 0; v + 1 < vectors; v++)
            sum[v] = _mm512_fmadd_ps(weight, _mm512_loadu_ps(source + 16 * v), sum[v]);
        sum[vectors - 1] = _mm512_fmadd_ps(
            weight, _mm512_maskz_loadu_ps(last, source + 16 * (vectors - 1)), sum[vectors - 1]);
    }
#pragma GCC unroll 16
    for (int v = 0; v + 1 < vectors; v++)
        _mm512_storeu_ps(y + 16 * v, sum[v]);
    if (last == 0xffff)
        _mm512_storeu_ps(y + 16 * (vectors - 1), sum[vectors - 1]);
    else
        _mm512_mask_storeu_ps(y + 16 * (vectors - 1), last, sum[vectors - 1]);
}

typedef void row_function(const struct row *row, const float *x, size_t ldx, const float *self_x,
                          float self, __mmask16 last, float *y);

#define ROW(vectors)                                                                               \
    static void row_##vectors(const struct row *row, const float *x, size_t ldx,                   \
                              const float *self_x, float self, __mmask16 last, float *y) {         \
        row_vectors(vectors, row, x, ldx, self_x, self, last, y);                                  \
    }
ROW(1)
ROW(2)
ROW(3)
ROW(4)
ROW(5)
ROW(6)
ROW(7)
ROW(8)
ROW(9)
ROW(10)
ROW(11)
ROW(12)
ROW(13)
ROW(14)
ROW(15)
ROW(16)
#undef ROW

static row_function *const row_functions[VECTORS_MAX] = {
    row_1, row_2,  row_3,  row_4,  row_5,  row_6,  row_7,  row_8,
    row_9, row_10, row_11, row_12, row_13, row_14, row_15, row_16,
};

/* The first rest columns of a vector, 0 to 15. */
static __mmask16 rest_mask(size_t rest) {
    return (__mmask16)((1U << rest) - 1);
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
            for (size_t j = 0; j < d; j += VECTORS_MAX * 16) {
                size_t width = d - j < VECTORS_MAX * 16 ? d - j : VECTORS_MAX * 16;
                __mmask16 last = width % 16 ? rest_mask(width % 16) : 0xffff;
                row_functions[(width + 15) / 16 - 1](&row, x + j, ldx,
                                                     self ? x + i * ldx + j : NULL,
                                                     self ? self[i] : 0, last, y + i * ldy + j);
            }
        }
    }
}

/* rng_mix on eight lanes, and of that the 24 bits that rng_float takes. */
static inline __m512i mix24(__m512i x) {
    x = _mm512_xor_si512(x, _mm512_srli_epi64(x, 30));
    x = _mm512_mullo_epi64(x, _mm512_set1_epi64((int64_t)0xbf58476d1ce4e5b9ULL));
    x = _mm512_xor_si512(x, _mm512_srli_epi64(x, 27));
    x = _mm512_mullo_epi64(x, _mm512_set1_epi64((int64_t)0x94d049bb133111ebULL));
    x = _mm512_xor_si512(x, _mm512_srli_epi64(x, 31));
    return _mm512_srli_epi64(x, 40);
}

#define WEYL 0x9e3779b97f4a7c15ULL /* rng_at's step from one counter to the next */

/* Which of the sixteen elements from counter on dropout keeps. */
static inline __mmask16 kept(uint64_t key, uint64_t counter, __m512i keep_from) {
    const __m512i steps = _mm512_mullo_epi64(_mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0),
                                             _mm512_set1_epi64((int64_t)WEYL));
    __m512i first =
        _mm512_add_epi64(_mm512_set1_epi64((int64_t)(key + (counter + 1) * WEYL)), steps);
    __m512i second = _mm512_add_epi64(first, _mm512_set1_epi64((int64_t)(8 * WEYL)));
    return (__mmask16)(_mm512_cmpge_epu64_mask(mix24(first), keep_from) |
                       _mm512_cmpge_epu64_mask(mix24(second), keep_from) << 8);
}

/* What bias_act_dropout does to each element. */
struct finish {
    const float *bias;
    uint8_t *mask;
    bool relu;
    float p;
    uint64_t key;
    __m512i keep_from;
    __m512 scale;
};

/* Sixteen elements of a row from column j on, element at of the whole array; the last ones of a row
 * under a mask. A store under a mask takes this processor several times as long as a whole one. */
static inline __attribute__((always_inline)) void finish_some(const struct finish *finish,
                                                              bool whole, __mmask16 columns,
                                                              float *x, size_t j, size_t at,
                                                              uint64_t counter) {
    __mmask16 keep = columns;
    __m512 value = whole ? _mm512_loadu_ps(x + at) : _mm512_maskz_loadu_ps(columns, x + at);
    if (finish->bias)
        value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(columns, finish->bias + j));
    if (finish->relu)
        keep = _mm512_mask_cmp_ps_mask(keep, value, _mm512_setzero_ps(), _CMP_GT_OQ);
    if (finish->p > 0) {
        keep &= kept(finish->key, counter + j, finish->keep_from);
        value = _mm512_mul_ps(value, finish->scale);
    }
    value = _mm512_maskz_mov_ps(keep, value);
    __m128i ones = _mm_maskz_set1_epi8(keep, 1);
    if (whole)
        _mm512_storeu_ps(x + at, value);
    else
        _mm512_mask_storeu_ps(x + at, columns, value);
    if (finish->mask && whole)
        _mm_storeu_si128((__m128i *)(void *)(finish->mask + at), ones);
    else if (finish->mask)
        _mm_mask_storeu_epi8(finish->mask + at, columns, ones);
}

static void bias_act_dropout(size_t n, size_t d, float *x, const float *bias, bool relu, float p,
                             uint64_t key, const int64_t *nodes, uint8_t *mask) {
    const struct finish finish = {
        .bias = bias,
        .mask = mask,
        .relu = relu,
        .p = p,
        .key = key,
        .keep_from = _mm512_set1_epi64((int64_t)share_keep_from(p)),
        .scale = _mm512_set1_ps(1 / (1 - p)),
    };
#pragma omp parallel for schedule(static) if (n * d >= SHARE_WORK_MIN)
    for (size_t i = 0; i < n; i++) {
        uint64_t counter = p > 0 ? (uint64_t)nodes[i] * d : 0;
        size_t j = 0;
        for (; j + 16 <= d; j += 16)
            finish_some(&finish, true, 0xffff, x, j, i * d + j, counter);
        if (j < d)
            finish_some(&finish, false, rest_mask(d - j), x, j, i * d + j, counter);
    }
}

static void mask_scale(size_t count, float *dx, const uint8_t *mask, float p) {
    float scale = 1 / (1 - p);
    const __m512 scales = _mm512_set1_ps(scale);
#pragma omp parallel for schedule(static) if (count >= SHARE_WORK_MIN)
    for (size_t i = 0; i < count / 16; i++) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(mask + 16 * i));
        __mmask16 keep = _mm_test_epi8_mask(bytes, bytes);
        _mm512_storeu_ps(dx + 16 * i,
                         _mm512_maskz_mul_ps(keep, _mm512_loadu_ps(dx + 16 * i), scales));
    }
    for (size_t i = count / 16 * 16; i < count; i++)
        dx[i] = mask[i] ? dx[i] * scale : 0;
}

static size_t largest(size_t n, const float *x) {
    const __m512 least = _mm512_set1_ps(-INFINITY);
    __m512 tops = least;
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = n - i < 16 ? (__mmask16)((1u << (n - i)) - 1) : 0xffff;
        tops = _mm512_max_ps(tops, _mm512_mask_loadu_ps(least, mask, x + i));
    }
    const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(tops));
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = n - i < 16 ? (__mmask16)((1u << (n - i)) - 1) : 0xffff;
        __mmask16 found =
            _mm512_mask_cmp_ps_mask(mask, _mm512_maskz_loadu_ps(mask, x + i), top, _CMP_EQ_OQ);
        if (found)
            return i + (size_t)__builtin_ctz(found);
    }
    return 0; /* numbers that are none */
}

/* As exp8 of exp_avx2.h. */
static inline __m512 exp16(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-87), x);
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504F)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693147182F), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-1.90465421e-9F), r);
    __m512 y = _mm512_set1_ps(0.00138145397F);
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(0.00836874514F));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(0.0416683908F));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(0.166665204F));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(0.499999934F));
    y = _mm512_fmadd_ps(y, _mm512_mul_ps(r, r), r);
    return _mm512_scalef_ps(_mm512_add_ps(y, _mm512_set1_ps(1)), n);
}

static double exp_sum(size_t n, const float *x, float shift, float *out) {
    const __m512 shifts = _mm512_set1_ps(shift);
    __m512 sums = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = n - i < 16 ? (__mmask16)((1u << (n - i)) - 1) : 0xffff;
        __m512 y = exp16(_mm512_sub_ps(_mm512_mask_loadu_ps(shifts, mask, x + i), shifts));
        sums = _mm512_mask_add_ps(sums, mask, sums, y);
        if (out)
            _mm512_mask_storeu_ps(out + i, mask, y);
    }
    return _mm512_reduce_add_pd(_mm512_add_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(sums)),
                                              _mm512_cvtps_pd(_mm512_extractf32x8_ps(sums, 1))));
}

const struct kernels kernels_avx512_table = {
    .name = "avx512",
    .spmm = spmm,
    .bias_act_dropout = bias_act_dropout,
    .mask_scale = mask_scale,
    .largest = largest,
    .exp_sum = exp_sum,
};
