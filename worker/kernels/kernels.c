/* Choice of kernels, number of threads, and the door to OpenBLAS. */
#include "worker/kernels/share.h"

#include <cblas.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"

const struct kernels *kernels_avx2(void) {
#ifdef KERNELS_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &kernels_avx2_table;
#endif
    return NULL;
}

const struct kernels *kernels_avx512(void) {
#ifdef KERNELS_AVX2
    if (kernels_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return &kernels_avx512_table;
#endif
    return NULL;
}

/* Of the kernels for this processor the best ones, or those that are wanted by name. */
static const struct kernels *choose(const char *wanted) {
    const struct kernels *all[] = {kernels_avx512(), kernels_avx2(), &kernels_ref};
    const struct kernels *best = NULL;
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        if (all[i] && wanted && strcmp(wanted, all[i]->name) == 0)
            return all[i];
        best = best ? best : all[i];
    }
    return best;
}

const struct kernels *kernels(void) {
    /* Every thread that gets here first finds the same answer. */
    static const struct kernels *_Atomic chosen;
    const struct kernels *found = atomic_load_explicit(&chosen, memory_order_acquire);
    if (!found) {
        found = choose(getenv("GRAPHPS_KERNELS"));
        atomic_store_explicit(&chosen, found, memory_order_release);
    }
    return found;
}

/* Products of so many rows are shared among the threads in pieces, each multiplied by one thread:
 * OpenBLAS's own threads wait for each other within a product, and spin. */
#define GEMM_PIECE 1024
#define GEMM_PIECES_MAX 64

static void multiply(bool trans_a, bool trans_b, size_t m, size_t n, size_t k, float alpha,
                     const float *a, size_t lda, const float *b, size_t ldb, float beta, float *c,
                     size_t ldc) {
    cblas_sgemm(CblasRowMajor, trans_a ? CblasTrans : CblasNoTrans,
                trans_b ? CblasTrans : CblasNoTrans, (blasint)m, (blasint)n, (blasint)k, alpha, a,
                (blasint)lda, b, (blasint)ldb, beta, c, (blasint)ldc);
}

#ifdef _OPENMP
/* Partial sums. One lies ready from call to call: nothing is allocated once the largest product has
 * been seen, unless two threads multiply at once. */
struct sums {
    size_t count;
    float *items;
};
static struct sums *_Atomic sums_ready;

static struct sums *sums_take(size_t count) {
    struct sums *sums = atomic_exchange(&sums_ready, NULL);
    sums = sums ? sums : mem_alloc(sizeof *sums);
    if (count > sums->count) {
        mem_free(sums->items);
        sums->items = mem_array(count, sizeof *sums->items);
        sums->count = count;
    }
    return sums;
}

static void sums_give(struct sums *sums) {
    struct sums *other = atomic_exchange(&sums_ready, sums);
    if (other)
        mem_free(other->items);
    mem_free(other);
}

/* c = alpha a^T b + beta c with many more rows than a and b have columns: the rows are cut into a
 * number of pieces that depends on the threads alone, and so do the sums' bits. */
static void multiply_sums(size_t m, size_t n, size_t k, float alpha, const float *a, size_t lda,
                          const float *b, size_t ldb, float beta, float *c, size_t ldc,
                          int threads) {
    size_t pieces = (size_t)threads * 4 < GEMM_PIECES_MAX ? (size_t)threads * 4 : GEMM_PIECES_MAX;
    pieces = pieces * GEMM_PIECE < k ? pieces : k / GEMM_PIECE;
    struct sums *sums = sums_take(pieces * m * n);
    float *partial = sums->items;
#pragma omp parallel
    {
#pragma omp for schedule(dynamic, 1)
        for (size_t p = 0; p < pieces; p++) {
            size_t begin = k * p / pieces, end = k * (p + 1) / pieces;
            multiply(true, false, m, n, end - begin, alpha, a + begin * lda, lda, b + begin * ldb,
                     ldb, 0, partial + p * m * n, n);
        }
#pragma omp for schedule(static)
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < n; j++) {
                float sum = beta == 0 ? 0 : beta * c[i * ldc + j];
                for (size_t p = 0; p < pieces; p++)
                    sum += partial[p * m * n + i * n + j];
                c[i * ldc + j] = sum;
            }
    }
    sums_give(sums);
}
#endif

void gemm(bool trans_a, bool trans_b, size_t m, size_t n, size_t k, float alpha, const float *a,
          size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc) {
    if (m == 0 || n == 0)
        return;
#ifdef _OPENMP
    int threads = omp_get_max_threads();
    if (threads > 1 && !omp_in_parallel()) {
        if (!trans_a && m >= 2 * GEMM_PIECE) {
#pragma omp parallel for schedule(dynamic, 1)
            for (size_t i = 0; i < m; i += GEMM_PIECE)
                multiply(false, trans_b, m - i < GEMM_PIECE ? m - i : GEMM_PIECE, n, k, alpha,
                         a + i * lda, lda, b, ldb, beta, c + i * ldc, ldc);
            return;
        }
        if (trans_a && !trans_b && k >= 2 * GEMM_PIECE && k > 8 * m) {
            multiply_sums(m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, threads);
            return;
        }
    }
#endif
    multiply(trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

const char *kernels_blas(void) {
    return openblas_get_corename();
}

void kernels_set_threads(int threads) {
#ifdef _OPENMP
    omp_set_num_threads(threads);
#endif
    /* OpenBLAS built on OpenMP follows the line above for calls from this thread only; its own
     * count holds for all. */
    openblas_set_num_threads(threads);
}
