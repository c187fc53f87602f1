/* Clipping by global norm, against norms worked out by hand. */
#include "tests/test.h"

#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "worker/clip.h"
#include "worker/kernels/kernels.h"

/* Promise: a longer gradient keeps its direction and gets just that length; one that is not longer
 * keeps its bits. */
START_TEST(by_hand) {
    float g[] = {3, 0, -4, 12, 0}; /* 9 + 16 + 144 = 13^2 */
    const float whole[] = {3, 0, -4, 12, 0}, half[] = {1.5F, 0, -2, 6, 0};
    ck_assert_double_eq(clip_gradient(g, 5, NULL, 0, 13), 13);
    ck_assert_mem_eq(g, whole, sizeof g);
    ck_assert_double_eq(clip_gradient(g, 5, NULL, 0, 6.5), 13);
    ck_assert_mem_eq(g, half, sizeof g);
    ck_assert_double_eq(clip_gradient(g, 5, NULL, 0, 6.5), 6.5);
    ck_assert_mem_eq(g, half, sizeof g);
    float zero[3] = {0};
    ck_assert_double_eq(clip_gradient(zero, 3, NULL, 0, 1e-9), 0);
    ck_assert(zero[0] == 0 && zero[2] == 0);
    float rows[2] = {-4, 0}, with[2] = {0, 3}; /* together (0, 3, -4, 0) */
    ck_assert_double_eq(clip_gradient(with, 2, rows, 2, 2.5), 5);
    ck_assert_float_eq(rows[0], -2);
    ck_assert_float_eq(with[1], 1.5F);
    float huge[] = {3e38F, -3e38F}; /* squares are beyond any float */
    ck_assert_double_eq_tol(clip_gradient(huge, 2, NULL, 0, 1) / 3e38, sqrt(2), 1e-6);
    ck_assert_float_eq_tol(huge[0], sqrtf(0.5F), 1e-3F);
}
END_TEST

/* Promise: the bits are the same whatever the number of threads. */
START_TEST(threads) {
    enum { N = 300001 };
    float *g[2] = {mem_array(N, sizeof(float)), mem_array(N, sizeof(float))};
    double norms[2], squares = 0;
    for (size_t i = 0; i < N; i++) {
        g[0][i] = g[1][i] = rng_float(rng_at(1, i)) * 2 - 1;
        squares += (double)g[0][i] * (double)g[0][i];
    }
    for (int i = 0; i < 2; i++) {
        kernels_set_threads(i == 0 ? 1 : 3);
        norms[i] = clip_gradient(g[i], N, NULL, 0, 0.75);
    }
    ck_assert_double_eq(norms[0], norms[1]);
    ck_assert_double_eq_tol(norms[0], sqrt(squares), 1e-9);
    ck_assert_mem_eq(g[0], g[1], N * sizeof(float));
    ck_assert_double_eq_tol(clip_gradient(g[0], N, NULL, 0, 1), 0.75, 1e-6);
    mem_free(g[0]);
    mem_free(g[1]);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("clip");
    TCase *tcase = tcase_create("clip");
    tcase_add_test(tcase, by_hand);
    tcase_add_test(tcase, threads);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
