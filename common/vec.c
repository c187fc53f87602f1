/* The portable reference of the flat vector operations, and the choice between it and a faster
 * twin. Compiled without contraction of a * b + c, as is the twin: all operations but dot give the
 * same bits in both, so that a run does not depend on the processor it lands on. */
#include "common/vec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef GRAPHPS_HAVE_AVX2
#include <cpuid.h>
#endif

static void ref_axpy(float a, const float *x, float *y, size_t n) {
    for (size_t i = 0; i < n; i++)
        y[i] += a * x[i];
}

static void ref_scale(float a, float *y, size_t n) {
    for (size_t i = 0; i < n; i++)
        y[i] *= a;
}

static double ref_dot(const float *x, const float *y, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)y[i];
    return sum;
}

static bool ref_finite(const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

static void ref_minmax(const float *x, const float *y, size_t n, float *ret_min, float *ret_max) {
    float min = y ? x[0] + y[0] : x[0], max = min;
    for (size_t i = 1; i < n; i++) {
        float v = y ? x[i] + y[i] : x[i];
        min = v < min ? v : min;
        max = v > max ? v : max;
    }
    *ret_min = min;
    *ret_max = max;
}

static void ref_quantize(const float *x, size_t n, float min, float scale, float *residual,
                         uint8_t *q) {
    for (size_t i = 0; i < n; i++) {
        float v = residual ? x[i] + residual[i] : x[i];
        float level = scale == 0 ? 0 : (v - min) / scale;
        /* Written so that a NaN becomes 0: lrintf of one is undefined. */
        level = level > 0 ? level : 0;
        level = level < 255 ? level : 255;
        level = (float)lrintf(level);
        q[i] = (uint8_t)level;
        if (residual)
            residual[i] = v - (min + level * scale);
    }
}

static void ref_dequantize_axpy(float a, const uint8_t *q, size_t n, float min, float scale,
                                float *y) {
    for (size_t i = 0; i < n; i++)
        y[i] += a * (min + (float)q[i] * scale);
}

/* --- halves: 1 bit of sign, 5 of exponent (bias 15), 10 of mantissa --- */

static uint32_t float_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float bits_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* x is at most 65504, or infinite, or a NaN (which becomes quiet and keeps its upper bits). */
static uint16_t half_from(float x) {
    uint32_t bits = float_bits(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (size >> 13 & 0x3ff));
    if (size == 0x7f800000)
        return (uint16_t)(sign | 0x7c00);
    if (size < 0x38800000) /* below 2^-14: a multiple of 2^-24 */
        return (uint16_t)(sign | (uint32_t)lrintf(bits_float(size) * 0x1p24f));
    /* Exponent from bias 127 to 15, then 13 bits rounded off; a carry goes into the exponent. */
    size -= 112u << 23;
    return (uint16_t)(sign | (size + 0xfff + (size >> 13 & 1)) >> 13);
}

static float half_value(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    if (exponent == 0)
        return bits_float(sign | float_bits((float)mantissa * 0x1p-24f));
    if (exponent == 31)
        return bits_float(sign | 0x7f800000 | mantissa << 13 | (mantissa ? 0x400000 : 0));
    return bits_float(sign | (exponent + 112) << 23 | mantissa << 13);
}

static void ref_halve(const float *x, size_t n, float *residual, uint16_t *h) {
    for (size_t i = 0; i < n; i++) {
        float v = residual ? x[i] + residual[i] : x[i], most = 65504, near = v;
        near = near > most && !isinf(v) ? most : near;
        near = near < -most && !isinf(v) ? -most : near;
        h[i] = half_from(near);
        if (residual)
            residual[i] = v - half_value(h[i]);
    }
}

static bool ref_half_finite(const uint16_t *h, size_t n) {
    for (size_t i = 0; i < n; i++)
        if ((h[i] & 0x7c00) == 0x7c00)
            return false;
    return true;
}

static void ref_half_axpy(float a, const uint16_t *h, size_t n, float *y) {
    for (size_t i = 0; i < n; i++)
        y[i] += a * half_value(h[i]);
}

/* --- the few that are large --- */

static size_t ref_collect(const float *x, size_t n, uint32_t floor, uint32_t *index) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        if ((float_bits(x[i]) & 0x7fffffff) >= floor)
            index[count++] = (uint32_t)i;
    return count;
}

static size_t ref_count(const uint32_t *x, size_t n, uint32_t floor) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += x[i] >= floor;
    return count;
}

static void ref_scatter_axpy(float a, const uint32_t *index, const float *x, size_t n, float *y) {
    for (size_t i = 0; i < n; i++)
        y[index[i]] += a * x[i];
}

const struct vec_ops vec_ref = {
    .name = "ref",
    .axpy = ref_axpy,
    .scale = ref_scale,
    .dot = ref_dot,
    .finite = ref_finite,
    .minmax = ref_minmax,
    .quantize = ref_quantize,
    .dequantize_axpy = ref_dequantize_axpy,
    .halve = ref_halve,
    .half_finite = ref_half_finite,
    .half_axpy = ref_half_axpy,
    .collect = ref_collect,
    .count = ref_count,
    .scatter_axpy = ref_scatter_axpy,
};

const struct vec_ops *vec_avx2(void) {
#ifdef GRAPHPS_HAVE_AVX2
    /* clang 14 knows no "f16c" here, so that one is asked of the processor itself. */
    unsigned a, b, c, d;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C)
        return &vec_avx2_ops;
#endif
    return NULL;
}

const struct vec_ops *vec(void) {
    /* Two threads that come first together choose the same. */
    static const struct vec_ops *_Atomic chosen;
    const struct vec_ops *ops = chosen;
    if (!ops) {
        const char *kernels = getenv("GRAPHPS_KERNELS");
        const struct vec_ops *fast = vec_avx2();
        ops = fast && !(kernels && strcmp(kernels, "ref") == 0) ? fast : &vec_ref;
        chosen = ops;
    }
    return ops;
}
