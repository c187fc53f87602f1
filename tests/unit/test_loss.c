/* The loss where its value is known, and where a careless one overflows. */
#include "tests/test.h"

#include <math.h>

#include "common/mem.h"
#include "common/rng.h"
#include "worker/graph/snapshot.h"
#include "worker/model/loss.h"

/* Equal logits: log of the number of classes, whatever their size; sums go to the right split, and
 * nodes without a label to none. */
START_TEST(equal_logits_cost_log_classes) {
    enum { N = 6, C = 5 };
    float logits[N * C];
    for (int i = 0; i < N * C; i++)
        logits[i] = i / C % 2 ? 1e30F : -3;
    const int32_t labels[N] = {0, 4, 2, -1, 3, 1};
    const uint8_t split[N] = {SPLIT_TRAIN, SPLIT_TRAIN, SPLIT_TEST,
                              SPLIT_TRAIN, SPLIT_VALID, SPLIT_NONE};
    struct model_result result;
    loss_forward(N, C, logits, labels, split, 0, &result);
    ck_assert_uint_eq(result.count[SPLIT_TRAIN], 2);
    ck_assert_uint_eq(result.count[SPLIT_VALID], 1);
    ck_assert_uint_eq(result.count[SPLIT_TEST], 1);
    ck_assert_double_eq_tol(result.loss_sum[SPLIT_TRAIN], 2 * log(5), 1e-6);
    ck_assert_double_eq_tol(result.loss_sum[SPLIT_TEST], log(5), 1e-6);
    ck_assert_uint_eq(result.correct[SPLIT_TRAIN], 1); /* the first class wins a tie */
    ck_assert_uint_eq(result.correct[SPLIT_TEST], 0);
}
END_TEST

/* Logits of any finite size: no infinity and no NaN; a sure and right answer costs nothing, a sure
 * and wrong one the distance. */
START_TEST(large_logits_do_not_overflow) {
    const float logits[] = {1e4F, 0, -1e4F, 0, 88, 89, -200, -200, -200};
    const int32_t labels[] = {0, 0, 2};
    const uint8_t split[] = {SPLIT_TRAIN, SPLIT_VALID, SPLIT_TEST};
    struct model_result result;
    loss_forward(3, 3, logits, labels, split, 0, &result);
    ck_assert_double_eq_tol(result.loss_sum[SPLIT_TRAIN], 0, 1e-9);
    ck_assert_double_eq_tol(result.loss_sum[SPLIT_VALID], 89 + log(1 + exp(-1)), 1e-5);
    ck_assert_double_eq_tol(result.loss_sum[SPLIT_TEST], log(3), 1e-6);
    ck_assert_uint_eq(result.correct[SPLIT_TRAIN], 1);
    ck_assert_uint_eq(result.correct[SPLIT_VALID], 0);

    float dlogits[9];
    const uint8_t all[] = {SPLIT_TRAIN, SPLIT_TRAIN, SPLIT_TRAIN};
    loss_backward(3, 3, logits, labels, all, NULL, 3, 0, dlogits);
    const float third = 1.0F / 3, e = 1 / (1 + expf(-1));
    const float wanted[] = {0,         0,         0,         -third,           third * (1 - e),
                            third * e, third / 3, third / 3, third / 3 - third};
    test_floats_equal("dlogits", dlogits, wanted, 9, 1e-5, 1e-7);
}
END_TEST

/* Softmax minus one-hot over the count, in rows of labelled training nodes; exactly 0 elsewhere. */
START_TEST(gradient_is_softmax_minus_onehot) {
    enum { N = 3000, C = 7 };
    float *logits = mem_array(N * C, sizeof *logits), *dlogits = mem_array(N * C, sizeof *dlogits);
    int32_t *labels = mem_array(N, sizeof *labels);
    uint8_t *split = mem_array(N, 1);
    uint32_t count = 0;
    for (size_t i = 0; i < N * C; i++) {
        logits[i] = rng_float(rng_at(1, i)) * 8 - 4;
        dlogits[i] = NAN;
    }
    for (size_t i = 0; i < N; i++) {
        labels[i] = (int32_t)rng_below(rng_at(2, i), C + 1) - 1;
        split[i] = (uint8_t)rng_below(rng_at(3, i), 4);
        count += labels[i] >= 0 && split[i] == SPLIT_TRAIN;
    }
    loss_backward(N, C, logits, labels, split, NULL, count, 0, dlogits);
    double loss = 0;
    for (size_t i = 0; i < N; i++) {
        bool trains = labels[i] >= 0 && split[i] == SPLIT_TRAIN;
        double total = 0;
        for (size_t c = 0; c < C; c++)
            total += exp(logits[i * C + c]);
        for (size_t c = 0; c < C; c++) {
            double wanted = (exp(logits[i * C + c]) / total - ((int32_t)c == labels[i])) / count;
            ck_assert(trains ? fabs(dlogits[i * C + c] - wanted) < 1e-9 : dlogits[i * C + c] == 0);
        }
        loss += trains ? log(total) - logits[i * C + (size_t)labels[i]] : 0;
    }
    /* A row counts for what its weight says. */
    float *weights = mem_array(N, sizeof *weights), *weighed = mem_array(N * C, sizeof *weighed);
    for (size_t i = 0; i < N; i++)
        weights[i] = rng_float(rng_at(4, i)) * 3;
    loss_backward(N, C, logits, labels, split, weights, count, 0, weighed);
    for (size_t i = 0; i < N * C; i++)
        ck_assert_float_eq_tol(weighed[i], weights[i / C] * dlogits[i],
                               1e-6F * fabsf(weighed[i]) + 1e-12F);
    mem_free(weights);
    mem_free(weighed);
    struct model_result result;
    loss_forward(N, C, logits, labels, split, 0, &result);
    ck_assert_double_eq_tol(result.loss_sum[SPLIT_TRAIN], loss, 1e-6 * loss);
    ck_assert_uint_eq(result.count[SPLIT_TRAIN], count);
    mem_free(logits);
    mem_free(dlogits);
    mem_free(labels);
    mem_free(split);
}
END_TEST

/* Label smoothing: the training loss is the cross-entropy to labels that keep 1 - e and share e
 * among all classes; the gradient is its derivative, by finite differences; other splits' labels
 * stay whole, and the class that wins the same. */
START_TEST(smoothed_labels) {
    enum { N = 40, C = 6 };
    const float e = 0.3F;
    float logits[N * C], dlogits[N * C], weights[N];
    int32_t labels[N];
    uint8_t split[N];
    uint32_t count = 0;
    double wanted[4] = {0};
    for (size_t i = 0; i < N; i++) {
        labels[i] = (int32_t)rng_below(rng_at(2, i), C + 1) - 1;
        split[i] = (uint8_t)(i % 4);
        weights[i] = 0.5F + rng_float(rng_at(4, i));
        count += labels[i] >= 0 && split[i] == SPLIT_TRAIN;
        double total = 0;
        for (size_t c = 0; c < C; c++) {
            logits[i * C + c] = rng_float(rng_at(1, i * C + c)) * 8 - 4;
            total += exp(logits[i * C + c]);
        }
        for (size_t c = 0; labels[i] >= 0 && c < C; c++) {
            double share = split[i] == SPLIT_TRAIN ? (double)e : 0;
            double target = (1 - share) * ((int32_t)c == labels[i]) + share / C;
            wanted[split[i]] -= target * log(exp(logits[i * C + c]) / total);
        }
    }
    struct model_result result, whole, above, below;
    loss_forward(N, C, logits, labels, split, e, &result);
    loss_forward(N, C, logits, labels, split, 0, &whole);
    for (int s = SPLIT_NONE; s <= SPLIT_TEST; s++) {
        ck_assert_double_eq_tol(result.loss_sum[s], wanted[s], 1e-5);
        ck_assert_uint_eq(result.correct[s], whole.correct[s]);
    }
    loss_backward(N, C, logits, labels, split, weights, count, e, dlogits);
    for (size_t i = 0; i < N * C; i++) {
        const float step = 1.0F / 64, at = logits[i];
        logits[i] = at + step;
        loss_forward(N, C, logits, labels, split, e, &above);
        logits[i] = at - step;
        loss_forward(N, C, logits, labels, split, e, &below);
        logits[i] = at;
        double slope = (above.loss_sum[SPLIT_TRAIN] - below.loss_sum[SPLIT_TRAIN]) / (2 * step);
        ck_assert_double_eq_tol(dlogits[i], slope * weights[i / C] / count, 2e-5);
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("loss");
    TCase *tcase = tcase_create("loss");
    tcase_add_test(tcase, equal_logits_cost_log_classes);
    tcase_add_test(tcase, large_logits_do_not_overflow);
    tcase_add_test(tcase, gradient_is_softmax_minus_onehot);
    tcase_add_test(tcase, smoothed_labels);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
