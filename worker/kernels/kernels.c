/* Choice of kernels, number of threads, and the door to OpenBLAS. */
#include "worker/kernels/share.h"

#include <cblas.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

const struct kernels *kernels_avx2(void) {
#ifdef KERNELS_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &kernels_avx2_table;
#endif
    return NULL;
}

const struct kernels *kernels(void) {
    /* Every thread that gets here first finds the same answer. */
    static const struct kernels *_Atomic chosen;
    const struct kernels *found = atomic_load_explicit(&chosen, memory_order_acquire);
    if (!found) {
        const char *wanted = getenv("GRAPHPS_KERNELS");
        found = kernels_avx2();
        if (!found || (wanted && strcmp(wanted, "ref") == 0))
            found = &kernels_ref;
        atomic_store_explicit(&chosen, found, memory_order_release);
    }
    return found;
}

void gemm(bool trans_a, bool trans_b, size_t m, size_t n, size_t k, float alpha, const float *a,
          size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc) {
    if (m == 0 || n == 0)
        return;
    cblas_sgemm(CblasRowMajor, trans_a ? CblasTrans : CblasNoTrans,
                trans_b ? CblasTrans : CblasNoTrans, (blasint)m, (blasint)n, (blasint)k, alpha, a,
                (blasint)lda, b, (blasint)ldb, beta, c, (blasint)ldc);
}

void kernels_set_threads(int threads) {
#ifdef _OPENMP
    omp_set_num_threads(threads);
#endif
    /* OpenBLAS built on OpenMP follows the line above for calls from this thread only; its own
     * count holds for all. */
    openblas_set_num_threads(threads);
}
