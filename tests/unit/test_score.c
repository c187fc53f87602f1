/* Scores: by hand, against the plainest reckoning, and that they do not depend on how nodes are
 * dealt out to batches and workers. */
#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "proto/score.h"
#include "tests/test.h"
#include "worker/model/confusion.h"

/* Four nodes, three classes. Of class 0: tp 2, fp 1, fn 0; of class 1: tp 1, fn 1; of class 2:
 * fp 1, fn 1. So F1 is 4/5, 2/3, 0; of all together 2 * 3 / (6 + 2 + 2) = 3/5. */
START_TEST(by_hand) {
    const uint64_t counts[] = {2, 1, 0, 1, 0, 1, 0, 1, 1};
    ck_assert_double_eq_tol(score_micro_f1(3, counts), 0.6, 1e-12);
    ck_assert_double_eq_tol(score_macro_f1(3, counts), (4.0 / 5 + 2.0 / 3 + 0) / 3, 1e-12);

    const float logits[] = {1, -1, -1, 3, 0.5F, -2, 0.1F, -4, 2, -1, -1e30F, 0};
    const uint8_t several[] = {1, 0, 0, 1, 1, 0, 0, 1, 0, 0, 0, 1};
    const int32_t labels[] = {0, 0, 0, 0};
    const uint8_t split[] = {SPLIT_TEST, SPLIT_TEST, SPLIT_TEST, SPLIT_TEST};
    uint64_t counted[9] = {0};
    confusion_add(4, 3, logits, labels, several, split, SPLIT_TEST, 3, counted);
    ck_assert_mem_eq(counted, counts, sizeof counts); /* a logit of 0 is a no */

    /* A class that nobody has or is said to have is not of the mean; nothing at all has no F1. */
    const uint64_t with_empty[] = {2, 1, 0, 0, 0, 0};
    ck_assert_double_eq_tol(score_macro_f1(2, with_empty), 0.8, 1e-12);
    ck_assert_double_eq(score_macro_f1(1, with_empty + 3), -1);
    ck_assert_double_eq(score_micro_f1(1, with_empty + 3), -1);
}
END_TEST

enum { N = 4000, C = 13 };

struct data {
    float logits[N * C];
    int32_t labels[N];
    uint8_t several[N * C], split[N];
};

static struct data *data_new(uint64_t seed) {
    struct data *data = mem_alloc(sizeof *data);
    for (size_t i = 0; i < N; i++) {
        data->labels[i] = rng_below(rng_at(seed, i), 10) ? (int32_t)(rng_at(seed + 1, i) % C) : -1;
        data->split[i] = (uint8_t)rng_below(rng_at(seed + 2, i), 4);
        for (size_t c = 0; c < C; c++) {
            /* Classes of different frequency; the last one is never true. */
            bool yes = c + 1 < C && rng_below(rng_at(seed + 3, i * C + c), c + 2) == 0;
            data->several[i * C + c] = yes;
            data->logits[i * C + c] =
                rng_float(rng_at(seed + 4, i * C + c)) - 0.8F + 0.4F * (float)yes;
        }
    }
    return data;
}

/* F1 in its textbook form, node by node and class by class. */
static void naive(const struct data *data, bool several, double *ret_micro, double *ret_macro) {
    double all_hits = 0, all_said = 0, all_true = 0, f1_sum = 0;
    int seen = 0;
    for (size_t k = 0; k < C; k++) {
        double hits = 0, said = 0, is_true = 0;
        for (size_t i = 0; i < N; i++) {
            if (data->labels[i] < 0 || data->split[i] != SPLIT_VALID)
                continue;
            const float *z = data->logits + i * C;
            bool say = z[k] > 0, is = data->several[i * C + k];
            if (!several) {
                say = true;
                for (size_t c = 0; c < C; c++)
                    say = say && (c < k ? z[c] < z[k] : z[c] <= z[k]);
                is = (size_t)data->labels[i] == k;
            }
            hits += say && is;
            said += say;
            is_true += is;
        }
        if (said + is_true > 0) {
            double precision = said ? hits / said : 0, recall = is_true ? hits / is_true : 0;
            f1_sum += hits ? 2 * precision * recall / (precision + recall) : 0;
            seen++;
        }
        all_hits += hits;
        all_said += said;
        all_true += is_true;
    }
    double precision = all_hits / all_said, recall = all_hits / all_true;
    *ret_micro = 2 * precision * recall / (precision + recall);
    *ret_macro = f1_sum / seen;
}

/* Random predictions: the textbook's F1, whether counted at once or in pieces that are added up as
 * workers' reports are. One label a node: micro-F1 is the accuracy. */
START_TEST(as_the_textbook) {
    struct data *data = data_new(_i);
    for (int several = 0; several < 2; several++) {
        double micro, macro;
        naive(data, several, &micro, &macro);
        Graphps__Eval sum = GRAPHPS__EVAL__INIT;
        struct error err;
        for (size_t from = 0, piece = 0; from < N; piece++) {
            size_t n = piece % 2 ? N / 2 : N / 5;
            n = n < N - from ? n : N - from;
            uint64_t counts[C * SCORE_CELLS] = {0};
            Graphps__Eval eval = GRAPHPS__EVAL__INIT;
            eval.classes = C;
            eval.n_valid_counts = C * SCORE_CELLS;
            eval.valid_counts = counts;
            confusion_add(n, C, data->logits + from * C, data->labels + from,
                          several ? data->several + from * C : NULL, data->split + from,
                          SPLIT_VALID, C, counts);
            for (size_t i = from; i < from + n; i++)
                eval.valid_count += data->labels[i] >= 0 && data->split[i] == SPLIT_VALID;
            for (size_t c = 0; c < C && !several; c++)
                eval.valid_correct += counts[c * SCORE_CELLS + SCORE_TP];
            ck_assert_msg(score_check(&eval, &err) == 0, "%s", err.text);
            score_sum_add(&sum, &eval, true, true);
            from += n;
        }
        Graphps__EpochStatus epoch = GRAPHPS__EPOCH_STATUS__INIT;
        score_validation(&sum, &epoch);
        ck_assert_double_eq_tol(epoch.valid_micro_f1, micro, 1e-12);
        ck_assert_double_eq_tol(epoch.valid_macro_f1, macro, 1e-12);
        ck_assert_double_eq(epoch.test_macro_f1, -1);
        if (!several)
            ck_assert_double_eq_tol(epoch.valid_micro_f1, epoch.valid_accuracy, 1e-12);

        /* All classes in one row, as where there are too many. */
        uint64_t all[SCORE_CELLS] = {0};
        confusion_add(N, C, data->logits, data->labels, several ? data->several : NULL, data->split,
                      SPLIT_VALID, 1, all);
        ck_assert_double_eq_tol(score_micro_f1(1, all), micro, 1e-12);
        score_sum_done(&sum);
    }
    mem_free(data);
}
END_TEST

/* G5: a report whose counts cannot be is refused before anything is added. */
START_TEST(wrong_reports) {
    uint64_t counts[6] = {3, 1, 2, 0, 0, 0};
    Graphps__Eval eval = GRAPHPS__EVAL__INIT;
    struct error err;
    eval.classes = 2;
    eval.valid_count = 5;
    eval.valid_counts = counts;
    eval.n_valid_counts = 6;
    ck_assert_int_eq(score_check(&eval, &err), 0);
    counts[SCORE_FN] = 3; /* six nodes of a class */
    ck_assert_int_eq(score_check(&eval, &err), ERR_RANGE);
    counts[SCORE_FN] = UINT64_MAX;
    ck_assert_int_eq(score_check(&eval, &err), ERR_RANGE);
    counts[SCORE_FN] = 2;
    eval.n_valid_counts = 3;
    ck_assert_int_eq(score_check(&eval, &err), ERR_RANGE);
    eval.n_valid_counts = 6;
    eval.classes = 0;
    ck_assert_int_eq(score_check(&eval, &err), ERR_RANGE);
    /* Above the bound one row has the predictions of all classes. */
    eval.classes = SCORE_CLASSES_MAX + 1;
    ck_assert_int_eq(score_check(&eval, &err), ERR_RANGE);
    eval.n_valid_counts = 3;
    counts[SCORE_TP] = 5 * (SCORE_CLASSES_MAX + 1) - 2;
    ck_assert_int_eq(score_check(&eval, &err), 0);
    Graphps__EpochStatus epoch = GRAPHPS__EPOCH_STATUS__INIT;
    score_validation(&eval, &epoch);
    ck_assert_double_gt(epoch.valid_micro_f1, 0.99);
    ck_assert_double_eq(epoch.valid_macro_f1, -1);
    counts[SCORE_TP]++;
    ck_assert_int_eq(score_check(&eval, &err), ERR_RANGE);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("score");
    TCase *tcase = tcase_create("score");
    tcase_add_test(tcase, by_hand);
    tcase_add_loop_test(tcase, as_the_textbook, 0, 5);
    tcase_add_test(tcase, wrong_reports);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
