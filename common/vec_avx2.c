/* The flat vector operations on 8 floats at a time. Compiled with -mavx2 -mfma and entered only
 * after the processor was asked; each loop ends in the scalar tail of the reference's arithmetic.
 * Multiplies and adds separately (see vec.c): these loops wait for memory, not for the adder. */
#include "common/vec.h"

#include <immintrin.h>
#include <math.h>

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

static void avx2_minmax(const float *x, size_t n, float *ret_min, float *ret_max) {
    float min = x[0], max = x[0];
    size_t i = 0;
    if (n >= 8) {
        float mins[8], maxs[8];
        __m256 vmin = _mm256_loadu_ps(x), vmax = vmin;
        for (i = 8; i + 8 <= n; i += 8) {
            __m256 v = _mm256_loadu_ps(x + i);
            vmin = _mm256_min_ps(v, vmin);
            vmax = _mm256_max_ps(v, vmax);
        }
        _mm256_storeu_ps(mins, vmin);
        _mm256_storeu_ps(maxs, vmax);
        for (size_t j = 0; j < 8; j++) {
            min = mins[j] < min ? mins[j] : min;
            max = maxs[j] > max ? maxs[j] : max;
        }
    }
    for (; i < n; i++) {
        min = x[i] < min ? x[i] : min;
        max = x[i] > max ? x[i] : max;
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

const struct vec_ops vec_avx2_ops = {
    .name = "avx2",
    .axpy = avx2_axpy,
    .scale = avx2_scale,
    .dot = avx2_dot,
    .finite = avx2_finite,
    .minmax = avx2_minmax,
    .quantize = avx2_quantize,
    .dequantize_axpy = avx2_dequantize_axpy,
};
