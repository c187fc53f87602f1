/* Flat float vectors: what servers and workers both do to them. vec_ref is the portable reference,
 * vec_avx2 the fast twin; vec() is the one chosen once for this processor (GRAPHPS_KERNELS=ref
 * forces the reference). All operations but dot give the same bits in both. Arrays may be unaligned
 * and n may be 0 unless said otherwise. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vec_ops {
    const char *name;
    /* y[n] += a * x[n] */
    void (*axpy)(float a, const float *x, float *y, size_t n);
    /* y[n] *= a */
    void (*scale)(float a, float *y, size_t n);
    /* sum x[i] * y[i], accumulated in double */
    double (*dot)(const float *x, const float *y, size_t n);
    /* no infinity, no NaN */
    bool (*finite)(const float *x, size_t n);
    /* of x[i] + y[i]; y may be NULL: of x; n >= 1 */
    void (*minmax)(const float *x, const float *y, size_t n, float *ret_min, float *ret_max);
    /* x[i] ~ min + q[i] * scale; v = x[i] + residual[i]; q = round((v - min) / scale) in 0..255,
     * residual[i] = v - (min + q * scale); scale 0: q = 0. residual may be NULL (no feedback). */
    void (*quantize)(const float *x, size_t n, float min, float scale, float *residual, uint8_t *q);
    /* y[n] += a * (min + q[n] * scale) */
    void (*dequantize_axpy)(float a, const uint8_t *q, size_t n, float min, float scale, float *y);
    /* h = v = x[i] + residual[i] as IEEE half, to nearest even, finite ones clamped to +-65504 so
     * that they stay finite; residual[i] = v - h. residual may be NULL. */
    void (*halve)(const float *x, size_t n, float *residual, uint16_t *h);
    bool (*half_finite)(const uint16_t *h, size_t n);
    /* y[n] += a * h[n] */
    void (*half_axpy)(float a, const uint16_t *h, size_t n, float *y);
    /* The i in ascending order where x[i] without its sign has bits >= floor go to index [n]; their
     * count is returned. Such bits order numbers by magnitude, a NaN above infinity. */
    size_t (*collect)(const float *x, size_t n, uint32_t floor, uint32_t *index);
    /* How many of the x (below 2^31) are >= floor (at least 1). */
    size_t (*count)(const uint32_t *x, size_t n, uint32_t floor);
    /* y[index[i]] += a * x[i], n of them */
    void (*scatter_axpy)(float a, const uint32_t *index, const float *x, size_t n, float *y);
};

extern const struct vec_ops vec_ref;
/* For vec.c alone: not every processor can run it, so it is reached through vec_avx2(). */
extern const struct vec_ops vec_avx2_ops;
/* NULL where the compiler or the processor has none. */
const struct vec_ops *vec_avx2(void);
const struct vec_ops *vec(void);
