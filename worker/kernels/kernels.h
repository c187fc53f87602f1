/* Graph-shaped kernels: sparse times dense, dense times dense. kernels_ref is portable and plain;
 * kernels_avx2 and kernels_avx512 its fast twins; kernels() is chosen once for this processor
 * (GRAPHPS_KERNELS=ref or =avx2 forces another one). All loops over rows run under OpenMP. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kernels {
    const char *name;
    /* y[n, d] = diag(self) x[first n rows] + A x; A is CSR (indptr [n + 1], which need not start at
     * 0, indices, weights); self may be NULL. Rows of x and y are ldx and ldy floats apart. x and y
     * do not overlap. */
    void (*spmm)(size_t n, size_t d, const int64_t *indptr, const int32_t *indices,
                 const float *weights, const float *self, const float *x, size_t ldx, float *y,
                 size_t ldy);
    /* x = relu(x + bias), then dropout with inverted scaling: element (i, j) is kept when
     * rng_float(rng_at(key, nodes[i] * d + j)) >= p. mask[i * d + j] = 1 when kept (and positive,
     * if relu), else 0; mask may be NULL. p 0: no dropout, nodes not read; relu false: only bias
     * and dropout; bias may be NULL. nodes [n]: global numbers. */
    void (*bias_act_dropout)(size_t n, size_t d, float *x, const float *bias, bool relu, float p,
                             uint64_t key, const int64_t *nodes, uint8_t *mask);
    /* dx[n*d] *= mask / (1 - p) */
    void (*mask_scale)(size_t count, float *dx, const uint8_t *mask, float p);
    /* A row of a softmax, n > 0: the place of the first of the largest numbers; and the sum of
     * exp(x - shift), none of which is above 1, which are written to out unless it is NULL. */
    size_t (*largest)(size_t n, const float *x);
    double (*exp_sum)(size_t n, const float *x, float shift, float *out);
};

extern const struct kernels kernels_ref;
const struct kernels *kernels_avx2(void);   /* NULL where there is none */
const struct kernels *kernels_avx512(void); /* the same */
const struct kernels *kernels(void);

/* c[m, n] = alpha op(a) op(b) + beta c, row-major, by OpenBLAS. */
void gemm(bool trans_a, bool trans_b, size_t m, size_t n, size_t k, float alpha, const float *a,
          size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc);
/* The processor for which the kernels that OpenBLAS uses were written; OPENBLAS_CORETYPE forces
 * others. */
const char *kernels_blas(void);
/* Threads of OpenMP and OpenBLAS; called once at start. threads >= 1. */
void kernels_set_threads(int threads);
