/* The flat vector operations on 8 floats at a time. Compiled with -mavx2 -mfma -mf16c and entered
 * only after the processor was asked; each loop ends in the scalar tail of the reference's
 * arithmetic. Multiplies and adds separately (see vec.c): these loops wait for memory, not for the
 * adder. */
#include "common/vec.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

static void avx2_axpy(float a, const float *x, float *y, size_t n) {
    __m256 va = _mm256_set1_ps(a);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256 p = _mm256_mul_ps(va, _mm256_loadu_ps(x + i));
        __m256 q = _mm256_mul_ps(va, _mm256_loadu_ps(x + i + 8));
        _mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_loadu_ps(y + i), p));
        _mm256_storeu_ps(y + i + 8, _mm256_add_ps(_mm256_loadu_ps(y + i + 8), q));
    }
    for (; i < n; i++)
        y[i] += a * x[i];
}

static void avx2_scale(float a, float *y, size_t n) {
    __m256 va = _mm256_set1_ps(a);
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_loadu_ps(y + i), va));
    for (; i < n; i++)
        y[i] *= a;
}

static double avx2_dot(const float *x, const float *y, size_t n) {
    __m256d sum[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(),
                      _mm256_setzero_pd()};
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (size_t j = 0; j < 4; j++)
            sum[j] = _mm256_fmadd_pd(_mm256_cvtps_pd(_mm_loadu_ps(x + i + 4 * j)),
                                     _mm256_cvtps_pd(_mm_loadu_ps(y + i + 4 * j)), sum[j]);
    __m256d all = _mm256_add_pd(_mm256_add_pd(sum[0], sum[1]), _mm256_add_pd(sum[2], sum[3]));
    double parts[4], total;
    _mm256_storeu_pd(parts, all);
    total = (parts[0] + parts[1]) + (parts[2] + parts[3]);
    for (; i < n; i++)
        total += (double)x[i] * (double)y[i];
    return total;
}

static bool avx2_finite(const float *x, size_t n) {
    /* Infinity and NaN are the numbers whose exponent bits are all ones. */
    const __m256i exponent = _mm256_set1_epi32(0x7f800000);
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256i bad = _mm256_setzero_si256();
        for (size_t j = 0; j < 4; j++) {
            __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(x + i + 8 * j));
            bad = _mm256_or_si256(bad,
                                  _mm256_cmpeq_epi32(_mm256_and_si256(bits, exponent), exponent));
        }
        if (!_mm256_testz_si256(bad, bad))
            return false;
    }
    for (; i < n; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

static void avx2_minmax(const float *x, const float *y, size_t n, float *ret_min, float *ret_max) {
    float min = y ? x[0] + y[0] : x[0], max = min;
    size_t i = 0;
    if (n >= 16) {
        __m256 first = _mm256_set1_ps(min), mins[2] = {first, first}, maxs[2] = {first, first};
        float lanes[2][8];
        for (; i + 16 <= n; i += 16)
            for (size_t j = 0; j < 2; j++) {
                __m256 v = _mm256_loadu_ps(x + i + 8 * j);
                if (y)
                    v = _mm256_add_ps(v, _mm256_loadu_ps(y + i + 8 * j));
                mins[j] = _mm256_min_ps(v, mins[j]);
                maxs[j] = _mm256_max_ps(v, maxs[j]);
            }
        _mm256_storeu_ps(lanes[0], _mm256_min_ps(mins[0], mins[1]));
        _mm256_storeu_ps(lanes[1], _mm256_max_ps(maxs[0], maxs[1]));
        for (size_t j = 0; j < 8; j++) {
            min = lanes[0][j] < min ? lanes[0][j] : min;
            max = lanes[1][j] > max ? lanes[1][j] : max;
        }
    }
    for (; i < n; i++) {
        float v = y ? x[i] + y[i] : x[i];
        min = v < min ? v : min;
        max = v > max ? v : max;
    }
    *ret_min = min;
    *ret_max = max;
}

static void avx2_quantize(const float *x, size_t n, float min, float scale, float *residual,
                          uint8_t *q) {
    /* scale 0 sends every level to 0; the mask does it without a branch in the loop. */
    const __m256 vmin = _mm256_set1_ps(min), vscale = _mm256_set1_ps(scale);
    const __m256 keep = _mm256_castsi256_ps(_mm256_set1_epi32(scale == 0 ? 0 : -1));
    const __m256 zero = _mm256_setzero_ps(), top = _mm256_set1_ps(255);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        if (residual)
            v = _mm256_add_ps(v, _mm256_loadu_ps(residual + i));
        __m256 level = _mm256_and_ps(_mm256_div_ps(_mm256_sub_ps(v, vmin), vscale), keep);
        /* max and min give their second operand when one is NaN: NaN becomes 0. */
        level = _mm256_min_ps(_mm256_max_ps(level, zero), top);
        __m256i integer = _mm256_cvtps_epi32(level);
        __m128i words =
            _mm_packs_epi32(_mm256_castsi256_si128(integer), _mm256_extracti128_si256(integer, 1));
        _mm_storel_epi64((__m128i *)(void *)(q + i), _mm_packus_epi16(words, words));
        if (residual) {
            __m256 back = _mm256_add_ps(vmin, _mm256_mul_ps(_mm256_cvtepi32_ps(integer), vscale));
            _mm256_storeu_ps(residual + i, _mm256_sub_ps(v, back));
        }
    }
    for (; i < n; i++) {
        float v = residual ? x[i] + residual[i] : x[i];
        float level = scale == 0 ? 0 : (v - min) / scale;
        level = level > 0 ? level : 0;
        level = level < 255 ? level : 255;
        level = (float)lrintf(level);
        q[i] = (uint8_t)level;
        if (residual)
            residual[i] = v - (min + level * scale);
    }
}

static void avx2_dequantize_axpy(float a, const uint8_t *q, size_t n, float min, float scale,
                                 float *y) {
    const __m256 va = _mm256_set1_ps(a), vmin = _mm256_set1_ps(min), vscale = _mm256_set1_ps(scale);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)(q + i));
        __m256 level = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
        __m256 value = _mm256_add_ps(vmin, _mm256_mul_ps(level, vscale));
        _mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_loadu_ps(y + i), _mm256_mul_ps(va, value)));
    }
    for (; i < n; i++)
        y[i] += a * (min + (float)q[i] * scale);
}

/* One vector of halves; v is the sum that they stand for. */
static inline __m128i halve8(__m256 v) {
    const __m256 most = _mm256_set1_ps(65504), least = _mm256_set1_ps(-65504);
    const __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
    const __m256 infinite = _mm256_cmp_ps(size, _mm256_set1_ps(INFINITY), _CMP_EQ_OQ);
    /* min and max give their second operand when one is NaN: NaN stays one. */
    __m256 near = _mm256_max_ps(least, _mm256_min_ps(most, v));
    return _mm256_cvtps_ph(_mm256_blendv_ps(near, v, infinite), _MM_FROUND_TO_NEAREST_INT);
}

static void avx2_halve(const float *x, size_t n, float *residual, uint16_t *h) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        if (residual)
            v = _mm256_add_ps(v, _mm256_loadu_ps(residual + i));
        __m128i halves = halve8(v);
        _mm_storeu_si128((__m128i *)(void *)(h + i), halves);
        if (residual)
            _mm256_storeu_ps(residual + i, _mm256_sub_ps(v, _mm256_cvtph_ps(halves)));
    }
    for (; i < n; i++) { /* in the lowest lane of a vector */
        __m256 v = _mm256_set1_ps(residual ? x[i] + residual[i] : x[i]);
        __m128i halves = halve8(v);
        h[i] = (uint16_t)_mm_extract_epi16(halves, 0);
        if (residual)
            residual[i] = _mm256_cvtss_f32(_mm256_sub_ps(v, _mm256_cvtph_ps(halves)));
    }
}

static bool avx2_half_finite(const uint16_t *h, size_t n) {
    const __m256i exponent = _mm256_set1_epi16(0x7c00);
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
        __m256i bad = _mm256_setzero_si256();
        for (size_t j = 0; j < 4; j++) {
            __m256i bits = _mm256_loadu_si256((const __m256i *)(const void *)(h + i + 16 * j));
            bad = _mm256_or_si256(bad,
                                  _mm256_cmpeq_epi16(_mm256_and_si256(bits, exponent), exponent));
        }
        if (!_mm256_testz_si256(bad, bad))
            return false;
    }
    for (; i < n; i++)
        if ((h[i] & 0x7c00) == 0x7c00)
            return false;
    return true;
}

static void avx2_half_axpy(float a, const uint16_t *h, size_t n, float *y) {
    const __m256 va = _mm256_set1_ps(a);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 value = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(h + i)));
        _mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_loadu_ps(y + i), _mm256_mul_ps(va, value)));
    }
    for (; i < n; i++)
        y[i] += a * _cvtsh_ss(h[i]);
}

static size_t avx2_collect(const float *x, size_t n, uint32_t floor, uint32_t *index) {
    const __m256i below = _mm256_set1_epi32((int32_t)(floor - 1));
    const __m256i size = _mm256_set1_epi32(0x7fffffff);
    size_t i = 0, count = 0;
    for (; i + 32 <= n; i += 32) {
        uint32_t found = 0;
        for (size_t j = 0; j < 32; j += 8) {
            __m256i bits = _mm256_loadu_si256((const __m256i *)(const void *)(x + i + j));
            __m256i large = _mm256_cmpgt_epi32(_mm256_and_si256(bits, size), below);
            found |= (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(large)) << j;
        }
        /* Few are expected: two places are written whether or not there are so many, which is
         * cheaper than a branch that nobody foresees. (They lie below n, since count <= i.) */
        size_t end = count + (size_t)__builtin_popcount(found);
        uint32_t rest = found & (found - 1);
        index[count] = (uint32_t)i + (uint32_t)__builtin_ctz(found | 1u << 31);
        index[count + 1] = (uint32_t)i + (uint32_t)__builtin_ctz(rest | 1u << 31);
        for (count += 2; count < end; count++) {
            rest &= rest - 1;
            index[count] = (uint32_t)i + (uint32_t)__builtin_ctz(rest);
        }
        count = end;
    }
    for (; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        if ((bits & 0x7fffffff) >= floor)
            index[count++] = (uint32_t)i;
    }
    return count;
}

static size_t avx2_count(const uint32_t *x, size_t n, uint32_t floor) {
    const __m256i below = _mm256_set1_epi32((int32_t)(floor - 1));
    __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (size_t j = 0; j < 2; j++) {
            __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(x + i + 8 * j));
            /* A lane where it holds is -1. */
            sums[j] = _mm256_sub_epi32(sums[j], _mm256_cmpgt_epi32(v, below));
        }
    uint32_t lanes[8];
    _mm256_storeu_si256((__m256i *)(void *)lanes, _mm256_add_epi32(sums[0], sums[1]));
    size_t count = 0;
    for (size_t j = 0; j < 8; j++)
        count += lanes[j];
    for (; i < n; i++)
        count += x[i] >= floor;
    return count;
}

static void avx2_scatter_axpy(float a, const uint32_t *index, const float *x, size_t n, float *y) {
    for (size_t i = 0; i < n; i++)
        y[index[i]] += a * x[i];
}

const struct vec_ops vec_avx2_ops = {
    .name = "avx2",
    .axpy = avx2_axpy,
    .scale = avx2_scale,
    .dot = avx2_dot,
    .finite = avx2_finite,
    .minmax = avx2_minmax,
    .quantize = avx2_quantize,
    .dequantize_axpy = avx2_dequantize_axpy,
    .halve = avx2_halve,
    .half_finite = avx2_half_finite,
    .half_axpy = avx2_half_axpy,
    .collect = avx2_collect,
    .count = avx2_count,
    .scatter_axpy = avx2_scatter_axpy,
};
