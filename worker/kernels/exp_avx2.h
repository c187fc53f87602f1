/* The exponential of eight floats. Inside worker/kernels only, for sources made for AVX2 and FMA.
 */
#pragma once

#include <immintrin.h>

/* exp for x <= 0, as Cephes (Moshier) does it: x = n ln 2 + r with ln 2 in two parts, |r| <= ln 2 /
 * 2, a polynomial for e^r, n added to the exponent. The polynomial is of degree 6 with the first
 * two coefficients 1, the others fitted by Lawson's iteration for the least relative error, 3e-9 in
 * exact arithmetic. Below -87 the result stays at e^-87; NaN stays NaN. */
static inline __attribute__((always_inline)) __m256 exp8(__m256 x) {
    x = _mm256_max_ps(_mm256_set1_ps(-87), x); /* gives x when that is NaN */
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504F)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693147182F), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-1.90465421e-9F), r);
    __m256 y = _mm256_set1_ps(0.00138145397F);
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(0.00836874514F));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(0.0416683908F));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(0.166665204F));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(0.499999934F));
    y = _mm256_fmadd_ps(y, _mm256_mul_ps(r, r), r);
    y = _mm256_add_ps(y, _mm256_set1_ps(1));
    __m256i power = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(y), power));
}
