/* proto/codec: gradients as bytes, what each encoding loses, and what a receiver refuses. */
#include "tests/test.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
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
    ck_assert_uint_eq(codec_bytes(CODEC_FP32, 0, 16384), 65536);
    ck_assert_double_le((double)codec_bytes(CODEC_INT8, 0, 16384) / 65536, 0.27);
    for (size_t s = 0; s < ARRAY_LEN(sizes); s++) {
        ck_assert_uint_eq(codec_bytes(CODEC_INT8, 0, sizes[s]) % 4, 0);
        ck_assert_uint_ge(codec_bytes(CODEC_INT8, 0, sizes[s]), 8 + sizes[s]);
        ck_assert_uint_eq(codec_bytes(CODEC_FP16, 0, sizes[s]), (sizes[s] + 1) / 2 * 4);
    }
    ck_assert_uint_eq(codec_bytes(CODEC_TOPK, 0.01, 16384), 4 + 8 * 164);
    ck_assert_uint_eq(codec_bytes(CODEC_TOPK, 0.0001, 3), 4 + 8);
    ck_assert_uint_eq(codec_bytes(CODEC_TOPK, 0.5, 3), 4 + 8 * 2);
    ck_assert_uint_eq(codec_bytes(CODEC_TOPK, 1, 3), 4 + 8 * 3);
}
END_TEST

/* Promise: of every codec the sender's length, what is written, and what the receiver reads off are
 * one number; a byte less is refused, and nothing beyond it is written. */
START_TEST(lengths_agree) {
    static const double ratios[] = {0.0001, 0.01, 0.3, 1};
    for (enum codec codec = CODEC_FP32; codec < CODEC_END; codec++)
        for (size_t k = 0; k < ARRAY_LEN(ratios); k++)
            for (size_t s = 0; s < ARRAY_LEN(sizes); s++) {
                size_t n = sizes[s], len = codec_bytes(codec, ratios[k], n), read = 0;
                float *x = mem_array(n, sizeof *x), *residual = mem_array(n, sizeof *x);
                uint8_t *wire = mem_alloc(len + 8);
                fill(x, n, n);
                memset(wire, 0xee, len + 8);
                ck_assert_uint_eq(codec_encode(codec, ratios[k], x, n, residual, wire), len);
                ck_assert_uint_eq(len % 4, 0);
                for (size_t i = 0; i < 8; i++)
                    ck_assert_uint_eq(wire[len + i], 0xee);
                ck_assert_int_eq(codec_size(codec, wire, len + 8, n, &read), 0);
                ck_assert_uint_eq(read, len);
                ck_assert_int_eq(codec_size(codec, wire, len, n, &read), 0);
                ck_assert_int_eq(codec_size(codec, wire, len - 1, n, &read), ERR_PROTOCOL);
                ck_assert_int_eq(codec_size(codec, wire, 0, n, &read), ERR_PROTOCOL);
                ck_assert_int_eq(codec_check(codec, wire, n), 0);
                mem_free(x);
                mem_free(residual);
                mem_free(wire);
            }
}
END_TEST

/* Promise: fp32 arrives bit for bit; int8 within half a step, and what it lost is the residual. */
START_TEST(round_trip) {
    for (size_t s = 0; s < ARRAY_LEN(sizes); s++) {
        size_t n = sizes[s];
        float *x = mem_array(n, sizeof *x), *sum = mem_array(n, sizeof *sum);
        float *residual = mem_array(n, sizeof *residual);
        uint8_t *wire = mem_alloc(codec_bytes(CODEC_FP32, 0, n) + 64);
        fill(x, n, n);

        codec_encode(CODEC_FP32, 0, x, n, NULL, wire);
        ck_assert_int_eq(codec_check(CODEC_FP32, wire, n), 0);
        codec_add(CODEC_FP32, wire, n, 1, sum);
        ck_assert_mem_eq(sum, x, n * sizeof *x);

        memset(sum, 0, n * sizeof *sum);
        size_t len = codec_bytes(CODEC_INT8, 0, n);
        memset(wire, 0xee, len + 8);
        codec_encode(CODEC_INT8, 0, x, n, residual, wire);
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

        memset(sum, 0, n * sizeof *sum);
        memset(residual, 0, n * sizeof *residual);
        codec_encode(CODEC_FP16, 0, x, n, residual, wire);
        for (size_t i = 2 * n; i < codec_bytes(CODEC_FP16, 0, n); i++)
            ck_assert_uint_eq(wire[i], 0);
        codec_add(CODEC_FP16, wire, n, 1, sum);
        for (size_t i = 0; i < n; i++) {
            ck_assert(fabsf(sum[i] - x[i]) <= 0x1p-11f * fabsf(x[i]) + 0x1p-25f);
            ck_assert(sum[i] + residual[i] == x[i]);
        }
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
        codec_encode(CODEC_INT8, 0, x, N, residual, wire);
        codec_add(CODEC_INT8, wire, N, 1, decoded);
    }
    double step_size = 42.0 / 255;
    for (size_t i = 0; i < N; i++)
        ck_assert_msg(fabs((double)decoded[i] - truth[i]) <= step_size + 1e-5 * fabs(truth[i]),
                      "%zu: %f is not %f", i, (double)decoded[i], truth[i]);
    ck_assert(fabs(truth[1] - 2) < 1e-4);
}
END_TEST

/* The k largest by sorting, among equals the first. */
static const float *sorted_values;
static int by_size(const void *a, const void *b) {
    uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
    float x = fabsf(sorted_values[i]), y = fabsf(sorted_values[k]);
    return x != y ? (x < y) - (x > y) : (i > k) - (i < k);
}

static int by_index(const void *a, const void *b) {
    uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
    return (i > k) - (i < k);
}

enum { TOPK_N_MAX = 20000 };

/* Encodes x [n] over a residual and compares all that comes of it with the plain way. */
static void topk_compare(const float *x, const float *before, size_t n, double ratio) {
    static float v[TOPK_N_MAX], residual[TOPK_N_MAX], sum[TOPK_N_MAX];
    static uint32_t order[TOPK_N_MAX];
    size_t len = codec_bytes(CODEC_TOPK, ratio, n), k = (len - 4) / 8;
    for (size_t i = 0; i < n; i++) {
        v[i] = before ? x[i] + before[i] : x[i];
        order[i] = (uint32_t)i;
        sum[i] = 0;
    }
    sorted_values = v;
    qsort(order, n, sizeof *order, by_size);
    qsort(order, k, sizeof *order, by_index);

    if (before)
        memcpy(residual, before, n * sizeof *residual);
    uint8_t *wire = mem_alloc(len);
    codec_encode(CODEC_TOPK, ratio, x, n, before ? residual : NULL, wire);
    uint32_t count, *index = (uint32_t *)(void *)(wire + 4);
    const float *values = (const float *)(const void *)(index + k);
    memcpy(&count, wire, sizeof count);
    ck_assert_uint_eq(count, k);
    ck_assert_mem_eq(index, order, k * sizeof *order);
    ck_assert_int_eq(codec_check(CODEC_TOPK, wire, n), 0);
    codec_add(CODEC_TOPK, wire, n, 1, sum);
    size_t wrong = 0;
    for (size_t i = 0; i < k; i++)
        wrong += values[i] != v[order[i]];
    for (size_t i = 0; before && i < n; i++) /* not a bit is lost */
        wrong += sum[i] + residual[i] != v[i] || (sum[i] != 0 && residual[i] != 0);
    ck_assert_uint_eq(wrong, 0);
    mem_free(wire);
}

/* Promise: topk sends exactly the k largest, the first among equals, whatever the numbers look like
 * and whatever the size. */
START_TEST(topk_is_exact) {
    static const size_t counts[] = {1, 2, 7, 8, 9, 31, 33, 1000, 4095, 4096, 4097, 16384, 20000};
    static const double ratios[] = {0.0001, 0.001, 0.01, 0.2, 0.7, 1};
    static float x[TOPK_N_MAX], before[TOPK_N_MAX];
    for (int shape = 0; shape < 9; shape++)
        for (size_t s = 0; s < ARRAY_LEN(counts); s++)
            for (size_t r = 0; r < ARRAY_LEN(ratios); r++) {
                size_t n = counts[s];
                for (size_t i = 0; i < n; i++) {
                    float u = rng_float(rng_at((uint64_t)shape, i));
                    const float shapes[] = {
                        u - 0.5f,                                /* even */
                        (u - 0.5f) / (1.0001f - u),              /* a long tail */
                        i % 16 == 3 ? 1 + u : u * 1e-3f,         /* one column of sixteen */
                        (float)i,                                /* ascending */
                        -(float)(n - i),                         /* descending */
                        i % 3 ? 2.5f : -2.5f,                    /* all alike */
                        u > 0.998f ? u : 0,                      /* fewer than k are not zero */
                        floorf(u * 20) - 10,                     /* many alike */
                        ldexpf(u - 0.5f, (int)(i % 250) - 140)}; /* all magnitudes there are */
                    x[i] = shapes[shape];
                    before[i] = i % 2 ? shapes[shape] : -0.25f * u;
                }
                topk_compare(x, NULL, n, ratios[r]);
                topk_compare(x, before, n, ratios[r]);
            }
}
END_TEST

/* ... also where the sample that codec.c looks at first tells the wrong tale: it meets the largest
 * numbers only, or none of them. */
START_TEST(topk_misled) {
    enum { N = 16384 };
    static float x[N];
    for (int large = 0; large < 2; large++) {
        for (size_t i = 0; i < N; i++)
            x[i] = (large ? 1e-3f : 10) * (1 + rng_float(rng_at(5, i)));
        for (uint32_t i = 0; i < 512; i++) {
            uint32_t place = i * 2654435769u;
            x[(uint64_t)place * N >> 32] = 1 + (float)i * 1e-3f;
        }
        topk_compare(x, NULL, N, 0.01);
        topk_compare(x, NULL, N, 0.1);
    }
}
END_TEST

/* Promise: with feedback nothing is lost over many steps, whatever the encoding: what has arrived
 * and what is still in the residual are together what was pushed. */
START_TEST(nothing_is_lost) {
    enum { N = 1500, STEPS = 200 };
    for (enum codec codec = CODEC_INT8; codec < CODEC_END; codec++) {
        static float x[N], residual[N], decoded[N];
        static double truth[N], sizes_sum[N];
        static _Alignas(8) uint8_t wire[8 * N + 16];
        memset(residual, 0, sizeof residual);
        memset(decoded, 0, sizeof decoded);
        memset(truth, 0, sizeof truth);
        memset(sizes_sum, 0, sizeof sizes_sum);
        for (uint64_t step = 0; step < STEPS; step++) {
            fill(x, N, 1000 + step);
            for (size_t i = 0; i < N; i++) {
                truth[i] += (double)x[i];
                sizes_sum[i] += fabs((double)x[i]);
            }
            codec_encode(codec, 0.02, x, N, residual, wire);
            ck_assert_int_eq(codec_check(codec, wire, N), 0);
            codec_add(codec, wire, N, 1, decoded);
        }
        for (size_t i = 0; i < N; i++)
            ck_assert_msg(fabs((double)decoded[i] + (double)residual[i] - truth[i]) <=
                              1e-5 * sizes_sum[i],
                          "codec %d, %zu: %g + %g is not %g", codec, i, (double)decoded[i],
                          (double)residual[i], truth[i]);
        /* Everything has its turn: a value that stays behind grows until it is among the largest.
         */
        for (size_t i = 0; i < N; i++)
            ck_assert(fabs((double)residual[i]) < 60);
    }
}
END_TEST

/* A topk block written by hand, and what is thought of it. */
static void topk_block(uint8_t *wire, uint32_t count, const uint32_t *index, const float *values,
                       size_t items) {
    memcpy(wire, &count, 4);
    memcpy(wire + 4, index, items * 4);
    memcpy(wire + 4 + items * 4, values, items * 4);
}

/* Promise: whatever a peer writes into a topk block, it is refused before a number is used, or all
 * its indices lie within the block. */
START_TEST(topk_hostile) {
    enum { N = 10, LEN = 4 + 3 * 8 };
    _Alignas(8) uint8_t wire[LEN];
    static const float values[3] = {1, -2, 3};
    static const struct {
        uint32_t index[3];
        int r;
    } cases[] = {
        {{0, 1, 2}, 0},
        {{0, 5, 9}, 0},
        {{0, 5, 10}, ERR_PROTOCOL},
        {{0, 5, UINT32_MAX}, ERR_PROTOCOL},
        {{UINT32_MAX, 0, 1}, ERR_PROTOCOL},
        {{0, 0, 1}, ERR_PROTOCOL},
        {{0, 1, 1}, ERR_PROTOCOL},
        {{2, 1, 3}, ERR_PROTOCOL},
        {{0, 1u << 31, 9}, ERR_PROTOCOL},
        {{0, 3, 2}, ERR_PROTOCOL},
    };
    size_t len = 77;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        topk_block(wire, 3, cases[i].index, values, 3);
        ck_assert_int_eq(codec_size(CODEC_TOPK, wire, LEN, N, &len), 0);
        ck_assert_uint_eq(len, LEN);
        ck_assert_int_eq(codec_check(CODEC_TOPK, wire, N), cases[i].r);
    }

    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t b = 0; b < ARRAY_LEN(bad); b++)
        for (size_t i = 0; i < 3; i++) {
            float wrong[3] = {1, 2, 3};
            wrong[i] = bad[b];
            topk_block(wire, 3, cases[0].index, wrong, 3);
            ck_assert_int_eq(codec_check(CODEC_TOPK, wire, N), ERR_NOT_FINITE);
        }

    /* Counts that are not there, do not fit, or would overflow. */
    static const uint32_t counts[] = {4, 10, 11, 0x20000000, 0x7fffffff, 0xffffffff};
    len = 77;
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        topk_block(wire, counts[i], cases[0].index, values, 3);
        ck_assert_int_eq(codec_size(CODEC_TOPK, wire, LEN, N, &len), ERR_PROTOCOL);
    }
    for (size_t available = 0; available < 4; available++)
        ck_assert_int_eq(codec_size(CODEC_TOPK, wire, available, N, &len), ERR_PROTOCOL);
    ck_assert_uint_eq(len, 77); /* untouched */

    /* Nothing at all may be said. */
    uint32_t none = 0;
    float sum[N] = {0};
    memcpy(wire, &none, 4);
    ck_assert_int_eq(codec_size(CODEC_TOPK, wire, 4, N, &len), 0);
    ck_assert_uint_eq(len, 4);
    ck_assert_int_eq(codec_check(CODEC_TOPK, wire, N), 0);
    codec_add(CODEC_TOPK, wire, N, 1, sum);
    for (size_t i = 0; i < N; i++)
        ck_assert(sum[i] == 0);
}
END_TEST

/* Promise: noise, and blocks with noise in them, are refused or decode to finite numbers within the
 * block. The memory ends where the payload and the sum do, for a sanitizer to see. */
START_TEST(noise) {
    for (uint64_t round = 0; round < 20000; round++) {
        uint64_t key = rng_key(round, 9);
        enum codec codec = (enum codec)rng_below(rng_at(key, 0), CODEC_END);
        size_t n = 1 + rng_below(rng_at(key, 1), 40), len = codec_bytes(codec, 0.2, n), size;
        size_t there = round % 2 ? len : rng_below(rng_at(key, 2), 2 * len);
        uint8_t *wire = malloc(there ? there : 1);
        float *sum = calloc(n, sizeof *sum);
        ck_assert(wire && sum);
        for (size_t i = 0; i < there; i++)
            wire[i] = (uint8_t)rng_at(key, 10 + i);
        if (round % 2) {
            float x[40];
            fill(x, n, round);
            codec_encode(codec, 0.2, x, n, NULL, wire);
            wire[rng_below(rng_at(key, 3), len)] ^= (uint8_t)(1u << rng_at(key, 4) % 8);
        }
        if (codec_size(codec, wire, there, n, &size) == 0) {
            ck_assert_uint_le(size, there);
            if (codec_check(codec, wire, n) == 0) {
                codec_add(codec, wire, n, 0.5f, sum);
                for (size_t i = 0; i < n; i++)
                    ck_assert(isfinite(sum[i]));
            }
        }
        free(wire);
        free(sum);
    }
}
END_TEST

/* Promise: nothing that is not finite, and nothing that decodes to it, is admitted. */
START_TEST(not_finite) {
    float x[] = {1, 2, 3, 4, 5};
    _Alignas(8) uint8_t wire[64];
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t b = 0; b < ARRAY_LEN(bad); b++) {
        for (size_t i = 0; i < ARRAY_LEN(x); i++) {
            codec_encode(CODEC_FP32, 0, x, ARRAY_LEN(x), NULL, wire);
            memcpy(wire + 4 * i, &bad[b], 4);
            ck_assert_int_eq(codec_check(CODEC_FP32, wire, ARRAY_LEN(x)), ERR_NOT_FINITE);
        }
        for (size_t i = 0; i < 2; i++) {
            codec_encode(CODEC_INT8, 0, x, ARRAY_LEN(x), NULL, wire);
            memcpy(wire + 4 * i, &bad[b], 4);
            ck_assert_int_eq(codec_check(CODEC_INT8, wire, ARRAY_LEN(x)), ERR_NOT_FINITE);
        }
    }
    static const uint16_t bad_halves[] = {0x7c00, 0xfc00, 0x7e00, 0xfc01};
    for (size_t b = 0; b < ARRAY_LEN(bad_halves); b++)
        for (size_t i = 0; i < ARRAY_LEN(x); i++) {
            codec_encode(CODEC_FP16, 0, x, ARRAY_LEN(x), NULL, wire);
            memcpy(wire + 2 * i, &bad_halves[b], 2);
            ck_assert_int_eq(codec_check(CODEC_FP16, wire, ARRAY_LEN(x)), ERR_NOT_FINITE);
        }
    /* What a diverging worker encodes is not made finite on the way. */
    for (size_t b = 0; b < ARRAY_LEN(bad); b++)
        for (enum codec codec = CODEC_FP32; codec < CODEC_END; codec++) {
            float lost[] = {1, 2, bad[b], 4, 5};
            codec_encode(codec, 0.3, lost, ARRAY_LEN(lost), NULL, wire);
            ck_assert(codec == CODEC_INT8 ||
                      codec_check(codec, wire, ARRAY_LEN(lost)) == ERR_NOT_FINITE);
        }
    float huge = FLT_MAX / 2;
    codec_encode(CODEC_INT8, 0, x, ARRAY_LEN(x), NULL, wire);
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
    codec_encode(CODEC_INT8, 0, same, 3, residual, wire);
    codec_add(CODEC_INT8, wire, 3, 2, sum);
    for (size_t i = 0; i < 3; i++)
        ck_assert(sum[i] == 0.5f && residual[i] == 0);

    float got[3] = {0};
    codec_encode(CODEC_INT8, 0, wide, 3, NULL, wire);
    codec_add(CODEC_INT8, wire, 3, 1, got);
    for (size_t i = 0; i < 3; i++)
        ck_assert(fabsf(got[i] - wide[i]) <= 8e35f);

    wide[0] = -FLT_MAX;
    wide[2] = FLT_MAX;
    codec_encode(CODEC_INT8, 0, wide, 3, NULL, wire);
    ck_assert_int_eq(codec_check(CODEC_INT8, wire, 3), ERR_NOT_FINITE);

    /* fp16 sends 65504 of what is larger, again and again, and the rest waits. */
    float large[3] = {1e5f, -1e5f, 1}, arrived[3] = {0}, rest[3] = {0}, zeros[3] = {0};
    codec_encode(CODEC_FP16, 0, large, 3, rest, wire);
    codec_add(CODEC_FP16, wire, 3, 1, arrived);
    ck_assert(arrived[0] == 65504 && arrived[1] == -65504 && arrived[2] == 1);
    codec_encode(CODEC_FP16, 0, zeros, 3, rest, wire);
    codec_add(CODEC_FP16, wire, 3, 1, arrived);
    ck_assert(arrived[0] + rest[0] == 1e5f && arrived[1] + rest[1] == -1e5f);
    ck_assert(fabsf(rest[0]) <= 16);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("codec");
    TCase *tcase = tcase_create("codec");
    tcase_set_timeout(tcase, 60); /* under sanitizers, on a busy machine */
    tcase_add_test(tcase, bytes);
    tcase_add_test(tcase, lengths_agree);
    tcase_add_test(tcase, round_trip);
    tcase_add_test(tcase, error_feedback);
    tcase_add_test(tcase, topk_is_exact);
    tcase_add_test(tcase, topk_misled);
    tcase_add_test(tcase, nothing_is_lost);
    tcase_add_test(tcase, topk_hostile);
    tcase_add_test(tcase, noise);
    tcase_add_test(tcase, not_finite);
    tcase_add_test(tcase, edges);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
