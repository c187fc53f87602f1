/* How the kernels share rows among threads; inside worker/kernels only. Chunks hold about the same
 * number of edges, so one hub does not keep the other threads waiting, and there are several for
 * each thread, so a busy core does not either. Which thread takes a chunk never changes a result.
 */
#pragma once

#include "worker/kernels/kernels.h"

#ifdef _OPENMP
#include <omp.h>
#endif

/* The twins of kernels_ref for AVX2 with FMA and for AVX-512, defined where the build has them. */
extern const struct kernels kernels_avx2_table, kernels_avx512_table;

/* Below this many multiplications a loop is done before the threads have woken up. */
#define SHARE_WORK_MIN 32768

static inline int share_chunks(size_t n, size_t work) {
#ifdef _OPENMP
    int threads = omp_get_max_threads();
#else
    int threads = 1;
#endif
    size_t chunks = threads == 1 || work < SHARE_WORK_MIN ? 1 : (size_t)threads * 8;
    return (int)(chunks < n ? chunks : n ? n : 1);
}

/* The first row of chunk c of chunks: rows and edges before it are c/chunks of all of them. */
static inline size_t share_row(size_t n, const int64_t *indptr, int c, int chunks) {
    if (c >= chunks)
        return n;
    uint64_t total = (uint64_t)(indptr[n] - indptr[0]) + n;
    uint64_t goal = total / (uint64_t)chunks * (uint64_t)c;
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((uint64_t)(indptr[middle] - indptr[0]) + middle < goal)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* rng_float(bits) >= p exactly when bits >> 40 >= keep_from(p): both sides are 24-bit integers. */
static inline uint64_t share_keep_from(float p) {
    double scaled = (double)p * 0x1p24;
    uint64_t floor = (uint64_t)scaled;
    return (double)floor < scaled ? floor + 1 : floor;
}
