/* The portable reference of the flat vector operations, and the choice between it and a faster
 * twin. Compiled without contraction of a * b + c, as is the twin: all operations but dot give the
 * same bits in both, so that a run does not depend on the processor it lands on. */
#include "common/vec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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

static void ref_minmax(const float *x, size_t n, float *ret_min, float *ret_max) {
    float min = x[0], max = x[0];
    for (size_t i = 1; i < n; i++) {
        min = x[i] < min ? x[i] : min;
        max = x[i] > max ? x[i] : max;
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

const struct vec_ops vec_ref = {
    .name = "ref",
    .axpy = ref_axpy,
    .scale = ref_scale,
    .dot = ref_dot,
    .finite = ref_finite,
    .minmax = ref_minmax,
    .quantize = ref_quantize,
    .dequantize_axpy = ref_dequantize_axpy,
};

const struct vec_ops *vec_avx2(void) {
#ifdef GRAPHPS_HAVE_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
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
