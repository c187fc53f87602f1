/* The loss where its value is known, and where a careless one overflows. */
#include "tests/test.h"

#include <math.h>

#include "common/mem.h"
#include "common/rng.h"
#include "worker/graph/snapshot.h"
#include "worker/model/loss.h"
#include "worker/model/loss_multi.h"
#include "worker/model/loss_square.h"

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

/* The sum of the training losses in double, from the definition. */
static double naive_binary(size_t n, size_t classes, const float *logits, const int32_t *labels,
                           const uint8_t *several, const uint8_t *split, const float *weights) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < classes && labels[i] >= 0 && split[i] == SPLIT_TRAIN; c++) {
            double s = 1 / (1 + exp(-(double)logits[i * classes + c]));
            double node = several[i * classes + c] ? -log(s) : -log(1 - s);
            sum += node / (double)classes * (weights ? (double)weights[i] : 1);
        }
    return sum;
}

/* Several labels a node: forward is the definition's binary cross-entropy, its mean over classes;
 * backward is its slope by finite differences, times the node's weight over the count of training
 * nodes, and exactly 0 in rows that do not train. */
START_TEST(binary_cross_entropy) {
    enum { N = 900, C = 6 };
    float *logits = mem_array(N * C, sizeof *logits), *dlogits = mem_array(N * C, sizeof *dlogits);
    float *weights = mem_array(N, sizeof *weights);
    uint8_t *several = mem_array(N * C, 1), split[N];
    int32_t labels[N];
    uint32_t count = 0, right = 0;
    for (size_t i = 0; i < N * C; i++) {
        logits[i] = rng_float(rng_at(1, i)) * 12 - 6;
        /* Mostly as the logit says, so that some nodes are right in all classes. */
        several[i] = (logits[i] > 0) != (rng_below(rng_at(2, i), 8) == 0);
        dlogits[i] = NAN;
    }
    for (size_t i = 0; i < N; i++) {
        labels[i] = rng_below(rng_at(3, i), 5) ? 0 : -1;
        split[i] = (uint8_t)rng_below(rng_at(4, i), 4);
        weights[i] = 0.5F + rng_float(rng_at(5, i));
        bool trains = labels[i] >= 0 && split[i] == SPLIT_TRAIN, all = trains;
        for (size_t c = 0; c < C; c++)
            all = all && (logits[i * C + c] > 0) == several[i * C + c];
        count += trains;
        right += all;
    }
    ck_assert(right > 0 && right < count);
    struct model_result result;
    loss_multi_forward(N, C, logits, labels, several, split, &result);
    double wanted = naive_binary(N, C, logits, labels, several, split, NULL);
    ck_assert_double_eq_tol(result.loss_sum[SPLIT_TRAIN], wanted, 1e-6 * wanted);
    ck_assert_uint_eq(result.count[SPLIT_TRAIN], count);
    ck_assert_uint_eq(result.correct[SPLIT_TRAIN], right);

    loss_multi_backward(N, C, logits, labels, several, split, weights, count, dlogits);
    for (size_t i = 0; i < N * C; i++) {
        size_t row = i / C;
        if (labels[row] < 0 || split[row] != SPLIT_TRAIN) {
            ck_assert(dlogits[i] == 0);
            continue;
        }
        float z = logits[i], up = z + 1e-2F, down = z - 1e-2F;
        logits[i] = up;
        double slope = naive_binary(1, C, &logits[row * C], &labels[row], &several[row * C],
                                    &split[row], &weights[row]);
        logits[i] = down;
        slope -= naive_binary(1, C, &logits[row * C], &labels[row], &several[row * C], &split[row],
                              &weights[row]);
        logits[i] = z;
        slope /= ((double)up - (double)down) * count;
        /* The third derivative of log(1 + exp) is below 0.1. */
        ck_assert_double_eq_tol(dlogits[i], slope, 0.1 * 1e-4 / count);
    }
    mem_free(logits);
    mem_free(dlogits);
    mem_free(weights);
    mem_free(several);
}
END_TEST

/* Several labels a node, logits of any finite size: a sure and right answer costs nothing, a sure
 * and wrong one the logit's size, and the slope is 0 or 1. */
START_TEST(large_logits_of_several_labels) {
    const float logits[] = {1e4F, -1e4F, 1e4F, -1e4F, 3e38F, 0};
    const uint8_t several[] = {1, 0, 0, 1, 1, 1};
    const int32_t labels[] = {0, 0, 0};
    const uint8_t split[] = {SPLIT_TRAIN, SPLIT_VALID, SPLIT_TEST}, all[3] = {SPLIT_TRAIN, 1, 1};
    struct model_result result;
    loss_multi_forward(3, 2, logits, labels, several, split, &result);
    ck_assert_double_eq(result.loss_sum[SPLIT_TRAIN], 0);
    ck_assert_double_eq_tol(result.loss_sum[SPLIT_VALID], 1e4, 1e-3);
    ck_assert_double_eq_tol(result.loss_sum[SPLIT_TEST], log(2) / 2, 1e-6);
    ck_assert_uint_eq(result.correct[SPLIT_TRAIN], 1);
    ck_assert_uint_eq(result.correct[SPLIT_VALID] + result.correct[SPLIT_TEST], 0);
    float dlogits[6];
    const float wanted[] = {0, 0, 1.0F / 6, -1.0F / 6, 0, -0.5F / 6};
    loss_multi_backward(3, 2, logits, labels, several, all, NULL, 3, dlogits);
    test_floats_equal("dlogits", dlogits, wanted, 6, 1e-6, 0);
}
END_TEST

/* More classes than one logarithm sums: equal logits cost log 2 in each all the same. */
START_TEST(many_classes) {
    enum { C = 2500 };
    static const float logits[C];
    static const uint8_t several[C];
    const int32_t label = 0;
    const uint8_t split = SPLIT_VALID;
    struct model_result result;
    loss_multi_forward(1, C, logits, &label, several, &split, &result);
    ck_assert_double_eq_tol(result.loss_sum[SPLIT_VALID], log(2), 1e-12);
    ck_assert_uint_eq(result.correct[SPLIT_VALID], 1);
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

/* Regression: the mean over targets of squared and absolute errors, summed by split over nodes that
 * have targets; the gradient is the loss's derivative, by finite differences (exact of a parabola,
 * but for rounding), and 0 in rows that do not train. */
START_TEST(squared_errors) {
    enum { N = 1500, T = 3 }; /* enough for threads */
    float *outputs = mem_array(N * T, sizeof *outputs), *values = mem_array(N * T, sizeof *values);
    float *slopes = mem_array(N * T, sizeof *slopes), *weights = mem_array(N, sizeof *weights);
    int32_t labels[N];
    uint8_t split[N];
    uint32_t count = 0;
    double squares[4] = {0}, sizes[4] = {0};
    for (size_t i = 0; i < N; i++) {
        labels[i] = rng_below(rng_at(3, i), 5) ? 0 : -1;
        split[i] = (uint8_t)rng_below(rng_at(4, i), 4);
        weights[i] = 0.5F + rng_float(rng_at(5, i));
        count += labels[i] >= 0 && split[i] == SPLIT_TRAIN;
        for (size_t k = i * T; k < (i + 1) * T; k++) {
            outputs[k] = rng_float(rng_at(1, k)) * 6 - 3;
            values[k] = rng_float(rng_at(2, k)) * 6 - 3;
            slopes[k] = NAN;
            double error = labels[i] >= 0 ? (double)outputs[k] - (double)values[k] : 0;
            squares[split[i]] += error * error / T;
            sizes[split[i]] += fabs(error) / T;
        }
    }
    struct model_result result, above, below;
    loss_square_forward(N, T, outputs, labels, values, split, &result);
    for (int s = SPLIT_NONE; s <= SPLIT_TEST; s++) {
        ck_assert_double_eq_tol(result.loss_sum[s], squares[s], 1e-9 * squares[s]);
        ck_assert_double_eq_tol(result.absolute_sum[s], sizes[s], 1e-9 * sizes[s]);
        ck_assert_uint_eq(result.correct[s], 0);
    }
    ck_assert_uint_eq(result.count[SPLIT_TRAIN], count);
    loss_square_backward(N, T, outputs, labels, values, split, weights, count, slopes);
    for (size_t k = 0; k < N * T; k++) {
        float at = outputs[k];
        size_t i = k / T;
        outputs[k] = at + 0.25F;
        loss_square_forward(1, T, outputs + i * T, &labels[i], values + i * T, &split[i], &above);
        outputs[k] = at - 0.25F;
        loss_square_forward(1, T, outputs + i * T, &labels[i], values + i * T, &split[i], &below);
        outputs[k] = at;
        double slope = (above.loss_sum[SPLIT_TRAIN] - below.loss_sum[SPLIT_TRAIN]) / 0.5;
        ck_assert_double_eq_tol(slopes[k], slope * (double)weights[k / T] / count, 1e-6 / count);
        if (labels[k / T] < 0 || split[k / T] != SPLIT_TRAIN)
            ck_assert(slopes[k] == 0);
    }
    mem_free(outputs);
    mem_free(values);
    mem_free(slopes);
    mem_free(weights);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("loss");
    TCase *tcase = tcase_create("loss");
    tcase_add_test(tcase, equal_logits_cost_log_classes);
    tcase_add_test(tcase, large_logits_do_not_overflow);
    tcase_add_test(tcase, gradient_is_softmax_minus_onehot);
    tcase_add_test(tcase, binary_cross_entropy);
    tcase_add_test(tcase, large_logits_of_several_labels);
    tcase_add_test(tcase, many_classes);
    tcase_add_test(tcase, smoothed_labels);
    tcase_add_test(tcase, squared_errors);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
