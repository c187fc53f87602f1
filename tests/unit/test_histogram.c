/* The log-linear histogram: how wide a bucket may be, quantiles, merging. */
#include <string.h>

#include "common/histogram.h"
#include "common/rng.h"
#include "tests/test.h"

static struct histogram *fresh(void) {
    static struct histogram histogram;
    memset(&histogram, 0, sizeof histogram);
    return &histogram;
}

/* A value is told apart from one 6.3 % larger: the quantile of one value is that value or at most
 * 1/16 above, and exact below 16. */
START_TEST(test_width) {
    uint64_t key = rng_key(1, 1);
    for (uint64_t i = 0; i < 20000; i++) {
        uint64_t value = i < 5000 ? i : rng_at(key, i) >> (16 + i % 48);
        struct histogram *one = fresh();
        histogram_add(one, value);
        uint64_t shown = histogram_quantile(one, 0.5);
        ck_assert_uint_ge(shown, value);
        if (value < 16)
            ck_assert_uint_eq(shown, value);
        ck_assert_uint_le(shown - value, value / 16);
    }
}
END_TEST

/* Powers of two and their neighbours fall into different buckets, in order. */
START_TEST(test_order) {
    struct histogram *histogram = fresh();
    uint64_t count = 0;
    for (unsigned bit = 4; bit < 48; bit++) {
        histogram_add(histogram, (UINT64_C(1) << bit) - 1);
        histogram_add(histogram, UINT64_C(1) << bit);
        ck_assert_uint_eq(histogram_count_upto(histogram, (UINT64_C(1) << bit) - 1), ++count);
        ck_assert_uint_eq(histogram_count_upto(histogram, UINT64_C(1) << bit), ++count);
    }
}
END_TEST

/* Quantiles of 1..1000 are right within a bucket; 0 gives the smallest, 1 the largest. */
START_TEST(test_quantiles) {
    struct histogram *histogram = fresh();
    for (uint64_t value = 1000; value >= 1; value--)
        histogram_add(histogram, value);
    ck_assert_uint_eq(histogram_quantile(histogram, 0), 1);
    const double quantiles[] = {0.1, 0.25, 0.5, 0.9, 0.99, 1};
    for (size_t i = 0; i < sizeof quantiles / sizeof quantiles[0]; i++) {
        uint64_t exact = (uint64_t)(quantiles[i] * 1000 + 0.5);
        uint64_t shown = histogram_quantile(histogram, quantiles[i]);
        ck_assert_uint_ge(shown, exact);
        ck_assert_uint_le(shown, exact + exact / 16);
    }
    ck_assert(histogram_mean(histogram) == 500.5);
    ck_assert_uint_eq(histogram_count_upto(histogram, 15), 15);
    ck_assert_uint_eq(histogram_count_upto(histogram, UINT64_MAX), 1000);
}
END_TEST

/* Nothing recorded: zeros, no division by zero. */
START_TEST(test_empty) {
    struct histogram *histogram = fresh();
    ck_assert_uint_eq(histogram_quantile(histogram, 0.5), 0);
    ck_assert(histogram_mean(histogram) == 0);
    ck_assert_uint_eq(histogram_count_upto(histogram, UINT64_MAX), 0);
}
END_TEST

/* Values beyond 2^48 are counted in the last bucket. */
START_TEST(test_clamp) {
    struct histogram *histogram = fresh();
    histogram_add(histogram, UINT64_MAX);
    histogram_add(histogram, UINT64_C(1) << 48);
    ck_assert_uint_eq(histogram->count, 2);
    ck_assert_uint_eq(histogram_quantile(histogram, 1), (UINT64_C(1) << 48) - 1);
}
END_TEST

/* Merged histograms are the histogram of all values. */
START_TEST(test_merge) {
    static struct histogram parts[3], all, merged;
    uint64_t key = rng_key(2, 1);
    for (uint64_t i = 0; i < 3000; i++) {
        uint64_t value = rng_at(key, i) >> (20 + i % 40);
        histogram_add(&parts[i % 3], value);
        histogram_add(&all, value);
    }
    for (int i = 0; i < 3; i++)
        histogram_merge(&merged, &parts[i]);
    ck_assert_mem_eq(&merged, &all, sizeof all);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("histogram");
    TCase *tcase = tcase_create("histogram");
    tcase_add_test(tcase, test_width);
    tcase_add_test(tcase, test_order);
    tcase_add_test(tcase, test_quantiles);
    tcase_add_test(tcase, test_empty);
    tcase_add_test(tcase, test_clamp);
    tcase_add_test(tcase, test_merge);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
