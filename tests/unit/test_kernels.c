/* Every kernel against plain loops in double precision, over awkward sizes. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "worker/kernels/kernels.h"

static const size_t sizes[] = {1,  2,  3,  5,  7,  8,  15,  16,  17,  31,
                               33, 40, 63, 64, 65, 72, 130, 200, 256, 259};
static const size_t row_counts[] = {0, 1, 2, 3, 7, 17, 130};

/* The twins present here: every test runs over each. */
static size_t variants(const struct kernels *ret[3]) {
    const struct kernels *all[] = {&kernels_ref, kernels_avx2(), kernels_avx512()};
    size_t count = 0;
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (all[i])
            ret[count++] = all[i];
    return count;
}

static float *random_floats(size_t count, uint64_t seed) {
    float *x = mem_array(count, sizeof *x);
    for (size_t i = 0; i < count; i++)
        x[i] = rng_float(rng_at(rng_key(seed, 1), i)) * 2 - 1;
    return x;
}

static void check_spmm(const struct kernels *twin, size_t n, size_t d, size_t ldx, size_t ldy,
                       bool with_self) {
    size_t sources = n + 9;
    int64_t *indptr = mem_array(n + 1, sizeof *indptr);
    indptr[0] = 5;
    for (size_t i = 0; i < n; i++)
        indptr[i + 1] = indptr[i] + (i == 1 ? 300 : (int64_t)(i * 7 % 5));
    size_t edges = (size_t)indptr[n];
    int32_t *indices = mem_array(edges, sizeof *indices);
    for (size_t e = 0; e < edges; e++)
        indices[e] = (int32_t)rng_below(rng_at(3, e), sources);
    float *weights = random_floats(edges, 4), *self = random_floats(n, 5);
    float *x = random_floats(sources * ldx, 6), *y = mem_array(n * ldy, sizeof *y);
    for (size_t i = 0; i < n * ldy; i++)
        y[i] = 77;

    twin->spmm(n, d, indptr, indices, weights, with_self ? self : NULL, x, ldx, y, ldy);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < ldy; j++) {
            double sum = with_self && j < d ? (double)self[i] * x[i * ldx + j] : 0;
            for (int64_t e = indptr[i]; e < indptr[i + 1] && j < d; e++)
                sum += (double)weights[e] * x[(size_t)indices[e] * ldx + j];
            double wanted = j < d ? sum : 77;
            ck_assert_msg(fabs(y[i * ldy + j] - wanted) < 2e-5,
                          "%s n=%zu d=%zu (%zu, %zu): %g, not %g", twin->name, n, d, i, j,
                          (double)y[i * ldy + j], wanted);
        }
    mem_free(indptr);
    mem_free(indices);
    mem_free(weights);
    mem_free(self);
    mem_free(x);
    mem_free(y);
}

/* Sums, rows without edges, a hub, an indptr that starts past 0, rows wider apart than they are
 * long; what lies between the rows of y stays untouched. */
START_TEST(spmm_sums_weighted_sources) {
    const struct kernels *twins[3];
    size_t twin_count = variants(twins);
    for (size_t v = 0; v < twin_count; v++)
        for (size_t r = 0; r < ARRAY_LEN(row_counts); r++)
            for (size_t s = 0; s < ARRAY_LEN(sizes); s++)
                for (int self = 0; self < 2; self++)
                    check_spmm(twins[v], row_counts[r], sizes[s], sizes[s] + s % 3,
                               sizes[s] + r % 4, self);
}
END_TEST

/* Returns how many elements dropout alone removed. */
static size_t check_activation(const struct kernels *twin, size_t d, float p, bool relu,
                               bool with_bias, bool with_mask) {
    enum { N = 23 };
    uint64_t key = rng_key(9, 9);
    float *before = random_floats(N * d, d), *bias = random_floats(d, 2);
    float *x = random_floats(N * d, d);
    uint8_t *mask = mem_array(N * d, 1);
    int64_t nodes[N];
    for (size_t i = 0; i < N; i++)
        nodes[i] = (int64_t)(rng_at(8, i) >> 33);

    size_t dropped = 0;
    twin->bias_act_dropout(N, d, x, with_bias ? bias : NULL, relu, p, key, nodes,
                           with_mask ? mask : NULL);
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < d; j++) {
            float value = before[i * d + j] + (with_bias ? bias[j] : 0);
            bool keep = p == 0 || rng_float(rng_at(key, (uint64_t)nodes[i] * d + j)) >= p;
            dropped += !keep;
            keep = keep && (!relu || value > 0);
            float wanted = keep ? value / (1 - p) : 0;
            ck_assert_int_eq(mask[i * d + j], with_mask && keep);
            ck_assert_float_eq_tol(x[i * d + j], wanted, 1e-6F * (1 + fabsf(wanted)));
        }
    mem_free(before);
    mem_free(bias);
    mem_free(x);
    mem_free(mask);
    return dropped;
}

/* The formula of kernels.h, literally; masks must agree bit for bit, or partitions would drop
 * different neurons of one node. */
START_TEST(bias_act_dropout_follows_its_formula) {
    const struct kernels *twins[3];
    size_t twin_count = variants(twins);
    const float ps[] = {0, 0.5F, 0.3F, 0.99F};
    for (size_t v = 0; v < twin_count; v++)
        for (size_t s = 0; s < ARRAY_LEN(sizes); s++)
            for (size_t k = 0; k < ARRAY_LEN(ps); k++)
                for (int flags = 0; flags < 8; flags++) {
                    size_t d = sizes[s];
                    size_t dropped =
                        check_activation(twins[v], d, ps[k], flags & 1, flags & 2, flags & 4);
                    double share = (double)dropped / (double)(23 * d);
                    if (d > 100)
                        ck_assert_msg(fabs(share - (double)ps[k]) < 0.05,
                                      "p = %g drops %.3f of all elements", (double)ps[k], share);
                }
}
END_TEST

/* A softmax's row: the first of the largest, wherever it stands, and exponentials within a few
 * units of the last place, of numbers of any size and of few. */
START_TEST(rows_of_a_softmax) {
    const struct kernels *twins[3];
    size_t count = variants(twins);
    for (size_t v = 0; v < count; v++)
        for (size_t k = 0; k < ARRAY_LEN(sizes); k++) {
            size_t n = sizes[k];
            float *x = random_floats(n, n), *out = mem_array(n + 1, sizeof *out);
            for (size_t place = 0; place < n; place++) {
                float before = x[place];
                x[place] = 1.5F;
                x[n - 1] = place % 2 ? x[n - 1] : 1.5F; /* as large, and not the first */
                ck_assert_uint_eq(twins[v]->largest(n, x), place);
                x[n - 1] = place == n - 1 ? x[n - 1] : -1;
                x[place] = before;
            }
            double wanted = 0;
            for (size_t i = 0; i < n; i++) {
                x[i] = i % 7 == 3 ? -70 : x[i] * (float)(1 + i % 20);
                wanted += exp((double)x[i] - 20.5);
            }
            out[n] = 77;
            double sum = twins[v]->exp_sum(n, x, 20.5F, out);
            for (size_t i = 0; i < n; i++) {
                double y = exp((double)(x[i] - 20.5F)); /* at least e^-87, or about nothing */
                ck_assert_msg(fabs(out[i] - y) <= 5e-7 * y + 2e-38, "%s n=%zu %zu: %g, not %g",
                              twins[v]->name, n, i, (double)out[i], y);
            }
            ck_assert_double_eq(out[n], 77);
            ck_assert_msg(fabs(sum - wanted) <= 3e-6 * wanted + 1e-36, "%s n=%zu: %g, not %g",
                          twins[v]->name, n, sum, wanted);
            ck_assert_double_eq(twins[v]->exp_sum(n, x, 20.5F, NULL), sum);
            mem_free(out);
            mem_free(x);
        }
}
END_TEST

START_TEST(mask_scale_undoes_what_was_dropped) {
    const struct kernels *twins[3];
    size_t twin_count = variants(twins);
    for (size_t v = 0; v < twin_count; v++)
        for (size_t s = 0; s < ARRAY_LEN(sizes); s++) {
            size_t count = sizes[s] * 3;
            float *before = random_floats(count, 1), *dx = random_floats(count, 1);
            uint8_t *mask = mem_array(count, 1);
            for (size_t i = 0; i < count; i++)
                mask[i] = rng_at(2, i) & 1;
            twins[v]->mask_scale(count, dx, mask, 0.25F);
            for (size_t i = 0; i < count; i++)
                ck_assert_float_eq_tol(dx[i], mask[i] ? before[i] / 0.75F : 0, 1e-6F);
            mem_free(before);
            mem_free(dx);
            mem_free(mask);
        }
}
END_TEST

static void check_gemm(bool trans_a, bool trans_b, size_t m, size_t k, float beta) {
    size_t n = 9;
    size_t lda = (trans_a ? m : k) + 2, ldb = (trans_b ? k : n) + 1, ldc = n + 3;
    float *a = random_floats(lda * ((trans_a ? k : m) + 1), 1);
    float *b = random_floats(ldb * ((trans_b ? n : k) + 1), 2);
    float *c = random_floats(m * ldc, 3), *old = random_floats(m * ldc, 3);
    gemm(trans_a, trans_b, m, n, k, 0.5F, a, lda, b, ldb, beta, c, ldc);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = 0;
            for (size_t l = 0; l < k; l++)
                sum += (double)(trans_a ? a[l * lda + i] : a[i * lda + l]) *
                       (trans_b ? b[j * ldb + l] : b[l * ldb + j]);
            ck_assert_double_eq_tol(c[i * ldc + j], 0.5 * sum + beta * old[i * ldc + j],
                                    1e-5 + 1e-6 * (double)k);
        }
    mem_free(a);
    mem_free(b);
    mem_free(c);
    mem_free(old);
}

/* All four ways round, alpha, beta, leading dimensions; a sum over nothing still applies beta. */
START_TEST(gemm_multiplies) {
    for (int flags = 0; flags < 8; flags++)
        for (size_t k = 0; k < 20; k += 4)
            check_gemm(flags & 1, flags & 2, 5, k, flags & 4 ? 1 : 0);
}
END_TEST

/* Threads share long products by rows, or by what is summed over: pieces that end anywhere. */
START_TEST(gemm_is_shared) {
    kernels_set_threads(3);
    for (int flags = 0; flags < 8; flags++) {
        check_gemm(flags & 1, flags & 2, 4099, 7, flags & 4 ? 1 : 0);
        check_gemm(flags & 1, flags & 2, 7, 4099, flags & 4 ? 1 : 0);
    }
}
END_TEST

/* More threads share the rows; the sums stay the same bits. */
START_TEST(threads_do_not_change_results) {
    size_t n = 3000, d = 24, degree = 11;
    int64_t *indptr = mem_array(n + 1, sizeof *indptr);
    for (size_t i = 0; i < n; i++)
        indptr[i + 1] = indptr[i] + (int64_t)(i == 5 ? 4000 : degree);
    int32_t *indices = mem_array((size_t)indptr[n], sizeof *indices);
    for (int64_t e = 0; e < indptr[n]; e++)
        indices[e] = (int32_t)rng_below(rng_at(3, (uint64_t)e), n);
    float *weights = random_floats((size_t)indptr[n], 1), *x = random_floats(n * d, 2);
    float *one = mem_array(n * d, sizeof *one), *many = mem_array(n * d, sizeof *many);
    kernels_set_threads(1);
    kernels()->spmm(n, d, indptr, indices, weights, NULL, x, d, one, d);
    kernels_set_threads(3);
    kernels()->spmm(n, d, indptr, indices, weights, NULL, x, d, many, d);
    ck_assert_mem_eq(one, many, n * d * sizeof *one);
    mem_free(indptr);
    mem_free(indices);
    mem_free(weights);
    mem_free(x);
    mem_free(one);
    mem_free(many);
}
END_TEST

/* GRAPHPS_KERNELS forces the reference or a twin for less than the processor has (each test is a
 * process of its own, so this is the first call). */
START_TEST(reference_can_be_forced) {
    setenv("GRAPHPS_KERNELS", "ref", 1);
    ck_assert_ptr_eq(kernels(), &kernels_ref);
}
END_TEST
START_TEST(avx2_can_be_forced) {
    setenv("GRAPHPS_KERNELS", "avx2", 1);
    ck_assert_ptr_eq(kernels(), kernels_avx2() ? kernels_avx2() : &kernels_ref);
}
END_TEST
START_TEST(fastest_twin_is_chosen) {
    const struct kernels *twins[3];
    unsetenv("GRAPHPS_KERNELS");
    ck_assert_ptr_eq(kernels(), twins[variants(twins) - 1]);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("kernels");
    TCase *tcase = tcase_create("kernels");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, spmm_sums_weighted_sources);
    tcase_add_test(tcase, bias_act_dropout_follows_its_formula);
    tcase_add_test(tcase, rows_of_a_softmax);
    tcase_add_test(tcase, mask_scale_undoes_what_was_dropped);
    tcase_add_test(tcase, gemm_multiplies);
    tcase_add_test(tcase, gemm_is_shared);
    tcase_add_test(tcase, threads_do_not_change_results);
    tcase_add_test(tcase, reference_can_be_forced);
    tcase_add_test(tcase, avx2_can_be_forced);
    tcase_add_test(tcase, fastest_twin_is_chosen);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
