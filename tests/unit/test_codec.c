/* proto/codec: gradients as bytes, and what int8 loses. */
#include "tests/test.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "proto/codec.h"

static const size_t sizes[] = {1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 1023, 1024, 1025, 16384};

static void fill(float *x, size_t n, uint64_t seed) {
    for (size_t i = 0; i < n; i++)
        x[i] = rng_float(rng_at(rng_key(seed, 0), i)) - 0.4f;
}

/* Promise: int8 takes at most 0.27 of the fp32 bytes of a 64 KiB block, and keeps blocks aligned.
 */
START_TEST(bytes) {
    ck_assert_uint_eq(codec_bytes(CODEC_FP32, 16384), 65536);
    ck_assert_double_le((double)codec_bytes(CODEC_INT8, 16384) / 65536, 0.27);
    for (size_t s = 0; s < ARRAY_LEN(sizes); s++) {
        ck_assert_uint_eq(codec_bytes(CODEC_INT8, sizes[s]) % 4, 0);
        ck_assert_uint_ge(codec_bytes(CODEC_INT8, sizes[s]), 8 + sizes[s]);
    }
}
END_TEST

/* Promise: fp32 arrives bit for bit; int8 within half a step, and what it lost is the residual. */
START_TEST(round_trip) {
    for (size_t s = 0; s < ARRAY_LEN(sizes); s++) {
        size_t n = sizes[s];
        float *x = mem_array(n, sizeof *x), *sum = mem_array(n, sizeof *sum);
        float *residual = mem_array(n, sizeof *residual);
        uint8_t *wire = mem_alloc(codec_bytes(CODEC_FP32, n) + 64);
        fill(x, n, n);

        codec_encode(CODEC_FP32, x, n, NULL, wire);
        ck_assert_int_eq(codec_check(CODEC_FP32, wire, n), 0);
        codec_add(CODEC_FP32, wire, n, 1, sum);
        ck_assert_mem_eq(sum, x, n * sizeof *x);

        memset(sum, 0, n * sizeof *sum);
        size_t len = codec_bytes(CODEC_INT8, n);
        memset(wire, 0xee, len + 8);
        codec_encode(CODEC_INT8, x, n, residual, wire);
        ck_assert_uint_eq(wire[len], 0xee); /* not a byte further */
        for (size_t i = 8 + n; i < len; i++)
            ck_assert_uint_eq(wire[i], 0);
        ck_assert_int_eq(codec_check(CODEC_INT8, wire, n), 0);
        codec_add(CODEC_INT8, wire, n, 1, sum);
        for (size_t i = 0; i < n; i++) {
            ck_assert(fabsf(sum[i] - x[i]) <= 0.5f / 255 + 1e-6f);
            ck_assert(fabsf(sum[i] + residual[i] - x[i]) <= 1e-6f);
        }
        /* weight */
        codec_add(CODEC_INT8, wire, n, -1, sum);
        for (size_t i = 0; i < n; i++)
            ck_assert(fabsf(sum[i]) <= 1e-6f);
        mem_free(x);
        mem_free(sum);
        mem_free(residual);
        mem_free(wire);
    }
}
END_TEST

/* Promise: over many steps the decoded gradients add up to the true ones, up to one residual;
 * without feedback they would drift. */
START_TEST(error_feedback) {
    enum { N = 1500, STEPS = 200 };
    static float x[N], residual[N], decoded[N];
    static double truth[N];
    static _Alignas(8) uint8_t wire[N + 16];
    for (uint64_t step = 0; step < STEPS; step++) {
        fill(x, N, 1000 + step);
        x[0] = 40;    /* a wide range, so that one step is much for the others */
        x[1] = 0.01f; /* always rounded away */
        for (size_t i = 0; i < N; i++)
            truth[i] += (double)x[i];
        codec_encode(CODEC_INT8, x, N, residual, wire);
        codec_add(CODEC_INT8, wire, N, 1, decoded);
    }
    double step_size = 42.0 / 255;
    for (size_t i = 0; i < N; i++)
        ck_assert_msg(fabs((double)decoded[i] - truth[i]) <= step_size + 1e-5 * fabs(truth[i]),
                      "%zu: %f is not %f", i, (double)decoded[i], truth[i]);
    ck_assert(fabs(truth[1] - 2) < 1e-4);
}
END_TEST

/* Promise: nothing that is not finite, and nothing that decodes to it, is admitted. */
START_TEST(not_finite) {
    float x[] = {1, 2, 3, 4, 5};
    _Alignas(8) uint8_t wire[64];
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t b = 0; b < ARRAY_LEN(bad); b++) {
        for (size_t i = 0; i < ARRAY_LEN(x); i++) {
            codec_encode(CODEC_FP32, x, ARRAY_LEN(x), NULL, wire);
            memcpy(wire + 4 * i, &bad[b], 4);
            ck_assert_int_eq(codec_check(CODEC_FP32, wire, ARRAY_LEN(x)), ERR_NOT_FINITE);
        }
        for (size_t i = 0; i < 2; i++) {
            codec_encode(CODEC_INT8, x, ARRAY_LEN(x), NULL, wire);
            memcpy(wire + 4 * i, &bad[b], 4);
            ck_assert_int_eq(codec_check(CODEC_INT8, wire, ARRAY_LEN(x)), ERR_NOT_FINITE);
        }
    }
    float huge = FLT_MAX / 2;
    codec_encode(CODEC_INT8, x, ARRAY_LEN(x), NULL, wire);
    memcpy(wire, &huge, 4);
    ck_assert_int_eq(codec_check(CODEC_INT8, wire, ARRAY_LEN(x)), ERR_NOT_FINITE);
}
END_TEST

/* Promise: constant blocks and wide ranges come through; a range that floats do not span is refused
 * by the receiver instead of becoming infinite there. */
START_TEST(edges) {
    float same[] = {0.25f, 0.25f, 0.25f}, wide[] = {-1e38f, 0, 1e38f}, sum[3] = {0};
    _Alignas(8) uint8_t wire[64];
    float residual[3] = {0};
    codec_encode(CODEC_INT8, same, 3, residual, wire);
    codec_add(CODEC_INT8, wire, 3, 2, sum);
    for (size_t i = 0; i < 3; i++)
        ck_assert(sum[i] == 0.5f && residual[i] == 0);

    float got[3] = {0};
    codec_encode(CODEC_INT8, wide, 3, NULL, wire);
    codec_add(CODEC_INT8, wire, 3, 1, got);
    for (size_t i = 0; i < 3; i++)
        ck_assert(fabsf(got[i] - wide[i]) <= 8e35f);

    wide[0] = -FLT_MAX;
    wide[2] = FLT_MAX;
    codec_encode(CODEC_INT8, wide, 3, NULL, wire);
    ck_assert_int_eq(codec_check(CODEC_INT8, wire, 3), ERR_NOT_FINITE);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("codec");
    TCase *tcase = tcase_create("codec");
    tcase_add_test(tcase, bytes);
    tcase_add_test(tcase, round_trip);
    tcase_add_test(tcase, error_feedback);
    tcase_add_test(tcase, not_finite);
    tcase_add_test(tcase, edges);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
