/* Flat vectors: the fast twin against the reference over sizes that leave every kind of tail, at
 * every alignment, and what quantisation promises. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "common/vec.h"
#include "tests/test.h"

/* The double sums differ in order only: 1e4 terms lose at most 1e4 * 2^-53 of the sum of sizes. */
#define DOT_REL_TOL 1e-12

#define SIZE_MOST 1024
#define GUARD 16 /* floats behind each array that nobody may touch */
static const size_t sizes[] = {0,  1,  2,  3,  5,  7,  8,   9,   15,  16,   17,
                               31, 32, 33, 63, 64, 65, 100, 127, 255, 1000, 1024};

/* The twin to compare, or a plain word that there is none here. */
static const struct vec_ops *twin(void) {
    const struct vec_ops *ops = vec_avx2();
    if (!ops)
        printf("SKIPPED: this processor has no AVX2\n");
    return ops;
}

/* The reference, then the twin (NULL where there is none). */
static const struct vec_ops *ops_at(size_t i) {
    return i == 0 ? &vec_ref : vec_avx2();
}

static void fill(float *x, size_t n, uint64_t stream) {
    uint64_t key = rng_key(42, stream);
    for (size_t i = 0; i < n; i++)
        x[i] = (rng_float(rng_at(key, i)) - 0.5f) * (i % 7 == 0 ? 100.0f : 1.0f);
}

/* Elementwise operations give the same bits in both twins, and write nothing beyond n. */
START_TEST(test_same_bits) {
    const struct vec_ops *fast = twin();
    if (!fast)
        return;
    enum { ALL = SIZE_MOST + 8 + GUARD };
    static float x[ALL], y_ref[ALL], y_fast[ALL], res_ref[ALL], res_fast[ALL];
    static uint8_t q_ref[ALL], q_fast[ALL];
    for (size_t s = 0; s < ARRAY_LEN(sizes); s++)
        for (size_t shift = 0; shift < 8; shift++) {
            size_t n = sizes[s];
            fill(x, ALL, 1);
            fill(y_ref, ALL, 2);
            fill(y_fast, ALL, 2);
            fill(res_ref, ALL, 3);
            fill(res_fast, ALL, 3);
            memset(q_ref, 9, sizeof q_ref);
            memset(q_fast, 9, sizeof q_fast);

            vec_ref.axpy(0.3f, x + shift, y_ref + shift, n);
            fast->axpy(0.3f, x + shift, y_fast + shift, n);
            ck_assert_mem_eq(y_ref, y_fast, sizeof y_ref);
            vec_ref.scale(1.7f, y_ref + shift, n);
            fast->scale(1.7f, y_fast + shift, n);
            ck_assert_mem_eq(y_ref, y_fast, sizeof y_ref);

            float mins[2] = {0}, maxs[2] = {0};
            if (n > 0) {
                vec_ref.minmax(x + shift, NULL, n, &mins[0], &maxs[0]);
                fast->minmax(x + shift, NULL, n, &mins[1], &maxs[1]);
                ck_assert(mins[0] == mins[1] && maxs[0] == maxs[1]);
                vec_ref.minmax(x + shift, y_ref + shift, n, &mins[0], &maxs[0]);
                fast->minmax(x + shift, y_ref + shift, n, &mins[1], &maxs[1]);
                ck_assert(mins[0] == mins[1] && maxs[0] == maxs[1]);
            }
            float scales[] = {(maxs[0] - mins[0]) / 255, 0, 1e-3f};
            for (size_t k = 0; k < ARRAY_LEN(scales); k++) {
                vec_ref.quantize(x + shift, n, mins[0], scales[k], res_ref + shift, q_ref + shift);
                fast->quantize(x + shift, n, mins[0], scales[k], res_fast + shift, q_fast + shift);
                ck_assert_mem_eq(q_ref, q_fast, sizeof q_ref);
                ck_assert_mem_eq(res_ref, res_fast, sizeof res_ref);
                vec_ref.quantize(x + shift, n, mins[0], scales[k], NULL, q_ref + shift);
                fast->quantize(x + shift, n, mins[0], scales[k], NULL, q_fast + shift);
                ck_assert_mem_eq(q_ref, q_fast, sizeof q_ref);
                vec_ref.dequantize_axpy(0.7f, q_ref + shift, n, mins[0], scales[k], y_ref + shift);
                fast->dequantize_axpy(0.7f, q_fast + shift, n, mins[0], scales[k], y_fast + shift);
                ck_assert_mem_eq(y_ref, y_fast, sizeof y_ref);
            }
        }
}
END_TEST

/* The same for halves and for the choice of the few that are large; what is chosen is also what a
 * plain look at the numbers says. */
START_TEST(test_same_bits_halves_and_few) {
    const struct vec_ops *fast = twin();
    if (!fast)
        return;
    enum { ALL = SIZE_MOST + 8 + GUARD };
    static float x[ALL], y_ref[ALL], y_fast[ALL], res_ref[ALL], res_fast[ALL];
    static uint16_t h_ref[ALL], h_fast[ALL];
    static uint32_t index_ref[ALL], index_fast[ALL], words[ALL];
    for (size_t s = 0; s < ARRAY_LEN(sizes); s++)
        for (size_t shift = 0; shift < 8; shift++) {
            size_t n = sizes[s];
            fill(x, ALL, 1);
            for (size_t i = 0; i < ALL; i += 5) /* some that are clamped, some below 2^-14 */
                x[i] *= i % 2 ? 5000 : 1e-6f;
            fill(y_ref, ALL, 2);
            fill(y_fast, ALL, 2);
            fill(res_ref, ALL, 3);
            fill(res_fast, ALL, 3);
            memset(h_ref, 9, sizeof h_ref);
            memset(h_fast, 9, sizeof h_fast);
            vec_ref.halve(x + shift, n, NULL, h_ref + shift);
            fast->halve(x + shift, n, NULL, h_fast + shift);
            ck_assert_mem_eq(h_ref, h_fast, sizeof h_ref);
            vec_ref.halve(x + shift, n, res_ref + shift, h_ref + shift);
            fast->halve(x + shift, n, res_fast + shift, h_fast + shift);
            ck_assert_mem_eq(h_ref, h_fast, sizeof h_ref);
            ck_assert_mem_eq(res_ref, res_fast, sizeof res_ref);
            vec_ref.half_axpy(0.3f, h_ref + shift, n, y_ref + shift);
            fast->half_axpy(0.3f, h_ref + shift, n, y_fast + shift);
            ck_assert_mem_eq(y_ref, y_fast, sizeof y_ref);

            const float floors[] = {0, 0.1f, 0.45f, 40, 1e9f};
            for (size_t k = 0; k < ARRAY_LEN(floors); k++) {
                uint32_t floor;
                memcpy(&floor, &floors[k], sizeof floor);
                memset(index_ref, 9, sizeof index_ref);
                memset(index_fast, 9, sizeof index_fast);
                size_t plain = 0;
                for (size_t i = 0; i < n; i++)
                    plain += fabsf(x[shift + i]) >= floors[k];
                ck_assert_uint_eq(vec_ref.collect(x + shift, n, floor, index_ref), plain);
                ck_assert_uint_eq(fast->collect(x + shift, n, floor, index_fast), plain);
                ck_assert_mem_eq(index_ref, index_fast, plain * sizeof *index_ref);
                ck_assert(index_fast[n] == 0x09090909);
                for (size_t i = 0; i < plain; i++)
                    ck_assert(fabsf(x[shift + index_ref[i]]) >= floors[k] &&
                              (i == 0 || index_ref[i] > index_ref[i - 1]));
                for (size_t i = 0; i < ALL; i++) {
                    memcpy(&words[i], &x[i], sizeof words[i]);
                    words[i] &= 0x7fffffff;
                }
                floor = floor ? floor : 1;
                size_t count = vec_ref.count(words + shift, n, floor);
                ck_assert(k == 0 || count == plain);
                ck_assert_uint_eq(fast->count(words + shift, n, floor), count);
                ck_assert_uint_eq(fast->count(words + shift, n, 1u << 31), 0);

                vec_ref.scatter_axpy(0.7f, index_ref, x, plain, y_ref + shift);
                fast->scatter_axpy(0.7f, index_ref, x, plain, y_fast + shift);
                ck_assert_mem_eq(y_ref, y_fast, sizeof y_ref);
            }
        }
}
END_TEST

/* What a half stands for, by its definition. */
static double half_meaning(uint16_t h) {
    int exponent = h >> 10 & 31;
    double mantissa = h & 0x3ff;
    double size = exponent == 0 ? ldexp(mantissa, -24) : ldexp(mantissa + 1024, exponent - 25);
    return h & 0x8000 ? -size : size;
}

static uint16_t half_of(const struct vec_ops *ops, float x) {
    uint16_t h[9];
    float copies[9]; /* in a lane and in the tail */
    for (size_t i = 0; i < 9; i++)
        copies[i] = x;
    ops->halve(copies, 9, NULL, h);
    for (size_t i = 1; i < 9; i++)
        if (h[i] != h[0])
            ck_abort_msg("%s: %g in several lanes is %04x and %04x", ops->name, (double)x, h[0],
                         h[i]);
    return h[0];
}

/* Every half means what the standard says and comes back as itself; between two neighbours the
 * nearer one is taken, in the middle the even one. */
START_TEST(test_halves) {
    for (size_t k = 0; k < 2; k++) {
        const struct vec_ops *ops = ops_at(k);
        if (!ops)
            continue;
        for (unsigned bits = 0; bits < 0x7c00; bits++) {
            const uint16_t h = (uint16_t)bits, negative = (uint16_t)(bits | 0x8000);
            float value = 0, minus = 0;
            ops->half_axpy(1, &h, 1, &value);
            ops->half_axpy(1, &negative, 1, &minus);
            bool right = (double)value == half_meaning(h) && minus == -value &&
                         half_of(ops, value) == h && half_of(ops, -value) == negative &&
                         ops->half_finite(&h, 1) && ops->half_finite(&negative, 1);
            if (bits < 0x7bff) {
                float middle = (float)((half_meaning(h) + half_meaning((uint16_t)(h + 1))) / 2);
                right = right && half_of(ops, middle) == (bits % 2 ? bits + 1 : bits) &&
                        half_of(ops, nextafterf(middle, 0)) == bits &&
                        half_of(ops, nextafterf(middle, 1e9f)) == bits + 1;
            }
            if (!right)
                ck_abort_msg("%s: half %04x", ops->name, bits);
        }
        const float large[] = {65504, 65519, 65520, 1e6f, FLT_MAX};
        for (size_t i = 0; i < ARRAY_LEN(large); i++) {
            ck_assert_uint_eq(half_of(ops, large[i]), 0x7bff);
            ck_assert_uint_eq(half_of(ops, -large[i]), 0xfbff);
        }
        ck_assert_uint_eq(half_of(ops, INFINITY), 0x7c00); /* what is not finite is not hidden */
        ck_assert_uint_eq(half_of(ops, -INFINITY), 0xfc00);
        ck_assert_uint_gt(half_of(ops, NAN) & 0x7fff, 0x7c00);

        float x[9], residual[9];
        uint16_t h[9];
        for (size_t i = 0; i < 9; i++) {
            x[i] = 65000;
            residual[i] = 1000;
        }
        ops->halve(x, 9, residual, h);
        for (size_t i = 0; i < 9; i++)
            ck_assert(h[i] == 0x7bff && residual[i] == 66000 - 65504);
    }
}
END_TEST

/* One half that is not finite is found wherever it stands. */
START_TEST(test_half_finite) {
    const uint16_t bad[] = {0x7c00, 0xfc00, 0x7c01, 0xffff};
    for (size_t k = 0; k < 2; k++) {
        const struct vec_ops *ops = ops_at(k);
        if (!ops)
            continue;
        for (size_t s = 0; s < ARRAY_LEN(sizes) && sizes[s] <= 255; s++) {
            uint16_t h[256];
            size_t n = sizes[s];
            for (size_t i = 0; i < n; i++)
                h[i] = i % 2 ? 0x7bff : 0x83ff;
            h[n] = 0x7c00; /* not looked at */
            ck_assert(ops->half_finite(h, n));
            for (size_t i = 0; i < n; i++)
                for (size_t b = 0; b < ARRAY_LEN(bad); b++) {
                    uint16_t was = h[i];
                    h[i] = bad[b];
                    ck_assert(!ops->half_finite(h, n));
                    h[i] = was;
                }
        }
    }
}
END_TEST

/* What the operations compute, on numbers small enough to know. */
START_TEST(test_values) {
    for (size_t k = 0; k < 2; k++) {
        const struct vec_ops *ops = ops_at(k);
        if (!ops)
            continue;
        float x[19], y[19];
        for (int i = 0; i < 19; i++) {
            x[i] = (float)(i - 9);
            y[i] = (float)i;
        }
        ops->axpy(2, x, y, 19);
        for (int i = 0; i < 19; i++)
            ck_assert(y[i] == (float)(3 * i - 18));
        ops->scale(-1, y, 19);
        for (int i = 0; i < 19; i++)
            ck_assert(y[i] == (float)(18 - 3 * i));
        ck_assert(ops->dot(x, x, 19) == 570);
        ck_assert(ops->dot(x, x, 0) == 0);
        for (int low = 0; low < 19; low++) /* in every lane */
            for (int high = 0; high < 19; high++) {
                float min, max, z[19] = {0};
                z[low] = -5;
                z[high] = 6;
                ops->minmax(z, NULL, 19, &min, &max);
                ck_assert(min == (low == high ? 0 : -5) && max == 6);
                float moved[19];
                for (int i = 0; i < 19; i++) {
                    moved[i] = z[i] + 1;
                    z[i] = -1;
                }
                ops->minmax(z, moved, 19, &min, &max);
                ck_assert(min == (low == high ? 0 : -5) && max == 6);
            }
        float min, max;
        ops->minmax(x, NULL, 1, &min, &max);
        ck_assert(min == -9 && max == -9);
    }
}
END_TEST

/* dot agrees up to the order of its double sums, and keeps what floats would lose. */
START_TEST(test_dot) {
    static float x[SIZE_MOST + 1], y[SIZE_MOST + 1];
    fill(x, SIZE_MOST + 1, 1);
    fill(y, SIZE_MOST + 1, 2);
    const struct vec_ops *fast = twin();
    if (!fast)
        return;
    for (size_t s = 0; s < ARRAY_LEN(sizes); s++) {
        double size = 0;
        for (size_t i = 0; i < sizes[s]; i++)
            size += fabs((double)x[i + 1] * (double)y[i + 1]);
        double ref = vec_ref.dot(x + 1, y + 1, sizes[s]), got = fast->dot(x + 1, y + 1, sizes[s]);
        ck_assert_msg(fabs(ref - got) <= DOT_REL_TOL * size, "n=%zu: %.17g and %.17g", sizes[s],
                      ref, got);
    }
    static float large[4097], one[4097];
    for (size_t i = 0; i < 4097; i++)
        one[i] = large[i] = 1;
    large[0] = 1 << 25;
    ck_assert(vec_ref.dot(large, one, 4097) == (1 << 25) + 4096);
    ck_assert(fast->dot(large, one, 4097) == (1 << 25) + 4096);
}
END_TEST

/* One infinity or NaN is found wherever it stands; the largest and smallest numbers are no alarm.
 */
START_TEST(test_finite) {
    const float bad[] = {INFINITY, -INFINITY, NAN, -NAN};
    for (size_t k = 0; k < 2; k++) {
        const struct vec_ops *ops = ops_at(k);
        if (!ops)
            continue;
        for (size_t s = 0; s < ARRAY_LEN(sizes) && sizes[s] <= 127; s++) {
            static float x[SIZE_MOST + 1];
            size_t n = sizes[s];
            for (size_t i = 0; i < n; i++)
                x[i] = i % 3 == 0 ? FLT_MAX : i % 3 == 1 ? -FLT_MAX : FLT_TRUE_MIN;
            x[n] = NAN; /* not looked at */
            ck_assert(ops->finite(x, n));
            for (size_t i = 0; i < n; i++)
                for (size_t b = 0; b < ARRAY_LEN(bad); b++) {
                    float was = x[i];
                    x[i] = bad[b];
                    ck_assert_msg(!ops->finite(x, n), "%s misses %g at %zu of %zu", ops->name,
                                  (double)bad[b], i, n);
                    x[i] = was;
                }
        }
    }
}
END_TEST

/* The error of a round trip is at most half a level (and rounding); the ends are met. */
START_TEST(test_quantize_bound) {
    for (size_t k = 0; k < 2; k++) {
        const struct vec_ops *ops = ops_at(k);
        if (!ops)
            continue;
        enum { N = 1001 };
        static float x[N], back[N];
        static uint8_t q[N];
        float min, max;
        fill(x, N, 5);
        ops->minmax(x, NULL, N, &min, &max);
        float scale = (max - min) / 255;
        ops->quantize(x, N, min, scale, NULL, q);
        memset(back, 0, sizeof back);
        ops->dequantize_axpy(1, q, N, min, scale, back);
        double bound = 0.5 * (double)scale + 4 * (double)FLT_EPSILON * (double)fmaxf(-min, max);
        bool low = false, high = false;
        for (size_t i = 0; i < N; i++) {
            ck_assert_msg(fabs((double)x[i] - (double)back[i]) <= bound, "%zu: %g and %g", i,
                          (double)x[i], (double)back[i]);
            low = low || q[i] == 0;
            high = high || q[i] == 255;
        }
        ck_assert(low && high);
    }
}
END_TEST

/* Error feedback: over many pushes of one gradient nothing is lost; the mean of what arrives tends
 * to the gradient, while without feedback the same error is made each time. */
START_TEST(test_error_feedback) {
    for (size_t k = 0; k < 2; k++) {
        const struct vec_ops *ops = ops_at(k);
        if (!ops)
            continue;
        enum { N = 333, PUSHES = 200 };
        static float x[N], residual[N], sum[N];
        static uint8_t q[N];
        memset(residual, 0, sizeof residual);
        memset(sum, 0, sizeof sum);
        fill(x, N, 6);
        float min, max;
        ops->minmax(x, NULL, N, &min, &max);
        /* Wider than the gradient, so that gradient plus residual is never clamped. */
        float scale = (max - min) * 1.1f / 255;
        min -= scale * 10;
        for (int push = 0; push < PUSHES; push++) {
            ops->quantize(x, N, min, scale, residual, q);
            ops->dequantize_axpy(1, q, N, min, scale, sum);
        }
        for (size_t i = 0; i < N; i++) {
            /* sum + residual = PUSHES * x, up to rounding of the float sums. */
            double arrived = (double)sum[i] + (double)residual[i];
            double wanted = (double)PUSHES * (double)x[i];
            double rounding = PUSHES * (double)FLT_EPSILON * (fabs(wanted) + (double)(max - min));
            ck_assert_msg(fabs(arrived - wanted) <= rounding, "%zu: %g, not %g", i, arrived,
                          wanted);
            ck_assert(fabs((double)residual[i]) <= 0.5001 * (double)scale);
        }
    }
}
END_TEST

/* Nothing a peer could have caused makes a level undefined: NaN, infinities, a level of width 0. */
START_TEST(test_quantize_extremes) {
    const float x[9] = {NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, 0, 1, 2, 3};
    for (size_t k = 0; k < 2; k++) {
        const struct vec_ops *ops = ops_at(k);
        if (!ops)
            continue;
        for (size_t at = 0; at < 9; at++) { /* each value in a lane and in the tail */
            float turned[9];
            uint8_t q[9];
            for (size_t i = 0; i < 9; i++)
                turned[(i + at) % 9] = x[i];
            ops->quantize(turned, 9, 0, 1, NULL, q);
            const uint8_t wanted[9] = {0, 255, 0, 255, 0, 0, 1, 2, 3};
            for (size_t i = 0; i < 9; i++)
                ck_assert_uint_eq(q[(i + at) % 9], wanted[i]);
        }
        float same[9], residual[9] = {0};
        uint8_t q[9];
        for (size_t i = 0; i < 9; i++)
            same[i] = 2.5f;
        ops->quantize(same, 9, 2.5f, 0, residual, q);
        for (size_t i = 0; i < 9; i++)
            ck_assert(q[i] == 0 && residual[i] == 0);
    }
}
END_TEST

/* The choice: the fast twin where there is one, unless the environment asks for the reference. */
START_TEST(test_choice) {
    unsetenv("GRAPHPS_KERNELS");
    ck_assert_ptr_eq(vec(), vec_avx2() ? vec_avx2() : &vec_ref);
    ck_assert_ptr_eq(vec(), vec());
}
END_TEST
START_TEST(test_choice_ref) {
    setenv("GRAPHPS_KERNELS", "ref", 1);
    ck_assert_ptr_eq(vec(), &vec_ref);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("vec");
    TCase *tcase = tcase_create("vec");
    tcase_add_test(tcase, test_same_bits);
    tcase_add_test(tcase, test_same_bits_halves_and_few);
    tcase_add_test(tcase, test_halves);
    tcase_add_test(tcase, test_half_finite);
    tcase_add_test(tcase, test_values);
    tcase_add_test(tcase, test_dot);
    tcase_add_test(tcase, test_finite);
    tcase_add_test(tcase, test_quantize_bound);
    tcase_add_test(tcase, test_error_feedback);
    tcase_add_test(tcase, test_quantize_extremes);
    tcase_add_test(tcase, test_choice);
    tcase_add_test(tcase, test_choice_ref);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
