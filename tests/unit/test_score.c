/* Scores: by hand, against the plainest reckoning, and that they do not depend on how nodes are
 * dealt out to batches and workers. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config.h"
#include "common/mem.h"
#include "common/rng.h"
#include "proto/score.h"
#include "tests/test.h"
#include "worker/model/confusion.h"
#include "worker/model/spread.h"

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

/* --- ROC-AUC and average precision --- */

struct output {
    float value;
    bool positive;
};

static int output_compare(const void *a, const void *b) {
    float left = ((const struct output *)a)->value, right = ((const struct output *)b)->value;
    return (left < right) - (left > right); /* descending */
}

/* From the sorted outputs; equal ones are one threshold of average precision. Beside them how far a
 * histogram of `bits` may be off: half of the pairs that share a bin; and what the best and the
 * worst order within each bin make of average precision. */
struct curve {
    double auc, precision, auc_off, precision_least, precision_most;
};

static struct curve curve_of(struct output *outputs, size_t n, unsigned bits) {
    struct curve curve = {0};
    double positives = 0, seen_true = 0, seen = 0;
    qsort(outputs, n, sizeof *outputs, output_compare);
    for (size_t i = 0; i < n; i++)
        positives += outputs[i].positive;
    for (size_t i = 0, end; i < n; i = end) {
        double here_true = 0;
        for (end = i; end < n && outputs[end].value == outputs[i].value; end++)
            here_true += outputs[end].positive;
        double others = (double)(end - i) - here_true;
        double below = (double)n - seen - (positives - seen_true) - others;
        curve.auc += here_true * (below + others / 2);
        seen += (double)(end - i);
        seen_true += here_true;
        curve.precision += here_true * seen_true / seen;
    }
    curve.auc /= positives * ((double)n - positives);
    curve.precision /= positives;
    seen = seen_true = 0;
    for (size_t i = 0, end; i < n; i = end) {
        double p = 0, q = 0;
        size_t bin = score_bin(outputs[i].value, bits);
        for (end = i; end < n && score_bin(outputs[end].value, bits) == bin; end++)
            *(outputs[end].positive ? &p : &q) += 1;
        curve.auc_off += p * q / 2 / (positives * ((double)n - positives));
        for (double k = 1; k <= p; k++) {
            curve.precision_most += (seen_true + k) / (seen + k) / positives;
            curve.precision_least += (seen_true + k) / (seen + q + k) / positives;
        }
        seen += p + q;
        seen_true += p;
    }
    return curve;
}

/* Outputs of one class as a model gives them, from sure to hopeless, and some that are equal. */
static size_t outputs_make(struct output *outputs, size_t n, uint64_t seed) {
    static const float apart[] = {0, 0.3F, 2, 20, -1};
    float scale = seed % 2 ? 0.01F : 3;
    for (size_t i = 0; i < n; i++) {
        bool positive = rng_below(rng_at(seed, i), 4) == 0;
        float noise = rng_float(rng_at(seed + 1, i)) + rng_float(rng_at(seed + 2, i)) - 1;
        outputs[i].positive = positive;
        outputs[i].value = scale * (noise + (positive ? apart[seed % 5] : 0));
        if (seed % 3 == 2)
            outputs[i].value = roundf(outputs[i].value);
    }
    return n;
}

/* Promise: the histogram's ROC-AUC and average precision are those of the sorted outputs but for
 * what outputs within a bin can make, whose bound is reckoned from the outputs; by far less in
 * practice; and the same bits whatever the number of workers, since only whole numbers are added.
 */
START_TEST(curves_against_sorting) {
    enum { N_OUTPUTS = 5000 };
    static struct output outputs[N_OUTPUTS];
    static const size_t rows_of[] = {1, 128}; /* 14 bits, 9 bits */
    size_t rows = rows_of[_i % 2], row = rows - 1;
    unsigned bits = score_bin_bits(rows);
    ck_assert_uint_eq(bits, rows == 1 ? 14 : 9);
    size_t n = outputs_make(outputs, N_OUTPUTS, (uint64_t)_i / 2);
    size_t cells = score_histogram_cells(rows), bins = (size_t)1 << bits;
    ck_assert_uint_le(cells, SCORE_HISTOGRAM_MAX);
    uint64_t *whole = mem_array(cells, sizeof *whole), *sum = mem_array(cells, sizeof *sum);
    for (size_t i = 0; i < n; i++)
        whole[(row * bins + score_bin(outputs[i].value, bits)) * 2 + outputs[i].positive]++;
    for (size_t worker = 3; worker-- > 0;)
        for (size_t i = worker; i < n; i += 3)
            sum[(row * bins + score_bin(outputs[i].value, bits)) * 2 + outputs[i].positive]++;
    struct curve curve = curve_of(outputs, n, bits);
    double auc = score_roc_auc(rows, whole), precision = score_average_precision(rows, whole);
    ck_assert_double_le(fabs(auc - curve.auc), curve.auc_off + 1e-12);
    ck_assert_double_ge(precision, curve.precision_least - 1e-12);
    ck_assert_double_le(precision, curve.precision_most + 1e-12);
    ck_assert_double_le(fabs(auc - curve.auc), rows == 1 ? 2e-5 : 2e-3);
    if (_i / 2 % 3 != 2) { /* equal outputs are no longer told from near ones */
        ck_assert_double_le(curve.precision_most - curve.precision_least, rows == 1 ? 0.05 : 0.5);
        ck_assert_double_le(fabs(precision - curve.precision), rows == 1 ? 1e-3 : 5e-3);
    }
    ck_assert_double_eq(score_roc_auc(rows, sum), auc);
    ck_assert_double_eq(score_average_precision(rows, sum), precision);
    mem_free(whole);
    mem_free(sum);
}
END_TEST

/* Bins ascend with outputs, of whatever size and sign, and are as narrow as score.h says. */
START_TEST(bins) {
    for (unsigned bits = 9; bits <= 14; bits++) {
        ck_assert_uint_eq(score_bin(0.0F, bits), score_bin(-0.0F, bits));
        ck_assert_uint_lt(score_bin(INFINITY, bits), 1U << bits);
        size_t before = score_bin(-INFINITY, bits);
        float first = -3e38F, unit = ldexpf(1, 6 - (int)bits), least = ldexpf(1, -8 - (int)bits);
        for (uint32_t word = 0xff7fffff; word != 0x80000000;
             word -= 0x1003 < word - 0x80000000 ? 0x1003 : word - 0x80000000) {
            float value;
            memcpy(&value, &word, sizeof value);
            size_t bin = score_bin(value, bits), mirrored = score_bin(-value, bits);
            ck_assert_uint_ge(bin, before);
            ck_assert_uint_eq(mirrored, (1U << bits) - 1 - bin);
            if (bin != before) {
                before = bin;
                first = value;
            }
            if (value > -65536)
                ck_assert_float_lt(value - first, fmaxf(-first * unit, least));
        }
    }
}
END_TEST

/* Node classification: of two classes the second is looked for; of several labels it is the mean
 * over the classes that some have and some have not. */
START_TEST(curves_of_nodes) {
    const int32_t labels[] = {0, 1, 1, 0, -1, 1};
    const uint8_t split[] = {SPLIT_TEST, SPLIT_TEST, SPLIT_TEST,
                             SPLIT_TEST, SPLIT_TEST, SPLIT_VALID};
    const float two[] = {1, 0, 0, 3, 2, 1, 5, 2, 0, 9, 9, 0}; /* margins -1, 3, -1, -3 */
    uint64_t *histogram = mem_array(score_histogram_cells(4), sizeof *histogram);
    spread_add(6, 2, two, labels, NULL, split, SPLIT_TEST, histogram);
    ck_assert_double_eq_tol(score_roc_auc(1, histogram), 3.5 / 4, 1e-12);
    ck_assert_double_eq_tol(score_average_precision(1, histogram), (1 + 2.0 / 3) / 2, 1e-12);
    memset(histogram, 0, score_histogram_cells(4) * sizeof *histogram);

    /* Class 0: the one is last of three; 1: all have it; 2: none; 3: first of three. */
    const int32_t any[] = {0, 0, 0, -1};
    const uint8_t several[] = {0, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1, 1, 1, 1};
    const float four[] = {3, 1, 1, 4, -1, 2, 1, -2, 0.5F, 3, 1, 3.5F, 9, 9, 9, 9};
    spread_add(4, 4, four, any, several, split, SPLIT_TEST, histogram);
    ck_assert_double_eq_tol(score_roc_auc(4, histogram), (0 + 1.0) / 2, 1e-12);
    ck_assert_double_eq_tol(score_average_precision(4, histogram), (1.0 / 3 + 1) / 2, 1e-12);
    mem_free(histogram);
    uint64_t nothing[2 << 14] = {0};
    ck_assert_double_eq(score_roc_auc(1, nothing), -1);
    ck_assert_double_eq(score_average_precision(1, nothing), -1);
}
END_TEST

/* --- links --- */

/* Ranks, queries and outputs, by hand; the same bits in whatever order workers' sums come. */
START_TEST(links_by_hand) {
    Graphps__Eval parts[3], sums[2] = {GRAPHPS__EVAL__INIT, GRAPHPS__EVAL__INIT};
    struct error err;
    for (int i = 0; i < 3; i++) {
        graphps__eval__init(&parts[i]);
        score_links_begin(&parts[i]);
    }
    /* Ranks 1, 3, 2.5, 11. */
    score_rank_add(&parts[0], SCORE_TEST, 0, 0);
    score_rank_add(&parts[1], SCORE_TEST, 2, 0);
    score_rank_add(&parts[1], SCORE_TEST, 1, 1);
    score_rank_add(&parts[2], SCORE_TEST, 10, 0);
    /* k = 3: one of two within it, at rank 2; all three. */
    score_query_add(&parts[0], SCORE_TEST, 2, (const double[]){2, 4}, 3);
    score_query_add(&parts[2], SCORE_TEST, 3, (const double[]){3, 1, 2}, 3);
    score_auc_add(&parts[0], SCORE_TEST, 2, true);
    score_auc_add(&parts[0], SCORE_TEST, -1, false);
    score_auc_add(&parts[2], SCORE_TEST, 3, false);
    for (int i = 0; i < 3; i++) {
        ck_assert_msg(score_check(&parts[i], &err) == 0, "%s", err.text);
        score_sum_add(&sums[0], &parts[i], true, true);
        score_sum_add(&sums[1], &parts[2 - i], true, true);
    }
    for (int i = 0; i < 2; i++) {
        Graphps__EpochStatus epoch = GRAPHPS__EPOCH_STATUS__INIT;
        score_validation(&sums[i], &epoch);
        ck_assert_double_eq_tol(epoch.test_mrr, (1 + 1.0 / 3 + 0.4 + 1.0 / 11) / 4, 1e-9);
        ck_assert_double_eq(epoch.test_hits_at_1, 0.25);
        ck_assert_double_eq(epoch.test_hits_at_3, 0.75);
        ck_assert_double_eq(epoch.test_hits_at_10, 0.75);
        ck_assert_double_eq_tol(epoch.test_recall_at_k, 0.75, 1e-9);
        double ideal = 1 + 1 / log2(3);
        ck_assert_double_eq_tol(epoch.test_ndcg_at_k, (1 / log2(3) / ideal + 1) / 2, 1e-9);
        ck_assert_double_eq(epoch.test_roc_auc, 0.5);
        ck_assert_double_eq(epoch.test_average_precision, 0.5);
        ck_assert_double_eq(epoch.valid_mrr, -1);
        ck_assert_double_eq(epoch.test_accuracy, -1);
        ck_assert_double_eq(epoch.test_rmse, -1);
    }
    ck_assert_uint_eq(sums[0].test_links->reciprocal_ranks, sums[1].test_links->reciprocal_ranks);
    for (int i = 0; i < 3; i++)
        score_sum_done(&parts[i]);
    score_sum_done(&sums[0]);
    score_sum_done(&sums[1]);
}
END_TEST

/* Promise: train.metric names every score, in this order; and what cannot be reckoned of a task is
 * refused with its reason. */
START_TEST(choices) {
    struct config *config;
    struct error err;
    for (enum score score = 0; score < SCORES; score++) {
        enum score found;
        ck_assert(score_find(score_name(score), &found) && found == score);
        char assignment[64];
        snprintf(assignment, sizeof assignment, "train.metric=%s", score_name(score));
        config = config_new();
        ck_assert_msg(config_set(config, assignment, &err) == 0, "%s", err.text);
        ck_assert_int_eq(config->train_metric, (int)score + 1);
        config_free(config);
    }
    static const struct {
        enum score score;
        Graphps__Task task;
        uint32_t classes;
        const char *reason; /* NULL: it goes */
    } rows[] = {
        {SCORE_ACCURACY, GRAPHPS__TASK__SINGLE_LABEL, 1u << 20, NULL},
        {SCORE_MACRO_F1, GRAPHPS__TASK__SINGLE_LABEL, SCORE_CLASSES_MAX, NULL},
        {SCORE_MACRO_F1, GRAPHPS__TASK__SINGLE_LABEL, SCORE_CLASSES_MAX + 1,
         "at most 1024 classes"},
        {SCORE_ROC_AUC, GRAPHPS__TASK__SINGLE_LABEL, 2, NULL},
        {SCORE_ROC_AUC, GRAPHPS__TASK__SINGLE_LABEL, 3, "of two classes or of several labels"},
        {SCORE_AVERAGE_PRECISION, GRAPHPS__TASK__MULTI_LABEL, 128, NULL},
        {SCORE_AVERAGE_PRECISION, GRAPHPS__TASK__MULTI_LABEL, 129, "at most 128 classes"},
        {SCORE_RMSE, GRAPHPS__TASK__REGRESSION, 4096, NULL},
        {SCORE_RMSE, GRAPHPS__TASK__MULTI_LABEL, 2, "leave train.metric out for micro_f1"},
        {SCORE_ROC_AUC, GRAPHPS__TASK__REGRESSION, 1, "leave train.metric out for rmse"},
        {SCORE_ROC_AUC, GRAPHPS__TASK__LINKS, 1, NULL},
        {SCORE_ACCURACY, GRAPHPS__TASK__LINKS, 1, "leave train.metric out for mrr"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int r = score_check_choice(rows[i].score, rows[i].task, rows[i].classes, "graph", &err);
        ck_assert_int_eq(r, rows[i].reason ? ERR_CONFIG : 0);
        ck_assert_msg(!rows[i].reason || strstr(err.text, rows[i].reason), "%s", err.text);
    }
}
END_TEST

/* G5: and so are histograms, sums of links and errors that cannot be. */
START_TEST(wrong_sums) {
    struct error err;
    Graphps__Eval eval = GRAPHPS__EVAL__INIT;
    score_links_begin(&eval);
    score_rank_add(&eval, SCORE_VALID, 0, 0);
    score_query_add(&eval, SCORE_VALID, 1, (const double[]){1}, 10);
    score_auc_add(&eval, SCORE_VALID, 1, true);
    for (int i = 0; i < 9; i++)
        score_auc_add(&eval, SCORE_VALID, 2, false); /* more than links there may be */
    ck_assert_int_eq(score_check(&eval, &err), 0);
    uint64_t *const fields[] = {
        &eval.valid_links->reciprocal_ranks,
        &eval.valid_links->hits_at_1,
        &eval.valid_links->hits_at_10,
        &eval.valid_links->recalls,
        &eval.valid_links->ndcgs,
        &eval.valid_histogram[2 * score_bin(1, score_bin_bits(1)) + 1],
    };
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        uint64_t was = *fields[i];
        *fields[i] = was + 1;
        ck_assert_int_eq(score_check(&eval, &err), ERR_RANGE);
        *fields[i] = UINT64_MAX;
        ck_assert_int_eq(score_check(&eval, &err), ERR_RANGE);
        *fields[i] = was;
    }
    eval.n_valid_histogram--;
    ck_assert_int_eq(score_check(&eval, &err), ERR_RANGE);
    eval.n_valid_histogram++;
    eval.task = GRAPHPS__TASK__MULTI_LABEL; /* of as many classes it would have other cells */
    ck_assert_int_eq(score_check(&eval, &err), ERR_RANGE);
    eval.task = (Graphps__Task)17;
    ck_assert_int_eq(score_check(&eval, &err), ERR_RANGE);
    score_sum_done(&eval);

    eval.task = GRAPHPS__TASK__REGRESSION;
    eval.classes = 3;
    eval.test_count = 2;
    eval.test_loss_sum = 8;
    eval.test_absolute_sum = 3;
    ck_assert_int_eq(score_check(&eval, &err), 0);
    eval.test_loss_sum = NAN;
    ck_assert_int_eq(score_check(&eval, &err), ERR_NOT_FINITE);
    eval.test_loss_sum = -1;
    ck_assert_int_eq(score_check(&eval, &err), ERR_RANGE);
    eval.test_loss_sum = 8;
    Graphps__EpochStatus epoch = GRAPHPS__EPOCH_STATUS__INIT;
    score_validation(&eval, &epoch);
    ck_assert_double_eq(epoch.test_rmse, 2);
    ck_assert_double_eq(epoch.test_mae, 1.5);
    ck_assert_double_eq(epoch.valid_rmse, -1);
    ck_assert_double_eq(epoch.test_accuracy, -1);
    ck_assert(score_better(SCORE_RMSE, 1, 2) && score_better(SCORE_MRR, 0.2, 0.1));
    ck_assert_str_eq(score_text(SCORE_RMSE, 0.01234, 2).text, "0.01234");
    ck_assert_str_eq(score_text(SCORE_MRR, 0.01234, 2).text, "1.23 %");
    ck_assert_str_eq(score_text(SCORE_MAE, -1, 2).text, "-");
}
END_TEST

int main(void) {
    Suite *suite = suite_create("score");
    TCase *tcase = tcase_create("score");
    tcase_add_test(tcase, by_hand);
    tcase_add_loop_test(tcase, as_the_textbook, 0, 5);
    tcase_add_test(tcase, wrong_reports);
    tcase_add_loop_test(tcase, curves_against_sorting, 0, 20);
    tcase_add_test(tcase, bins);
    tcase_add_test(tcase, curves_of_nodes);
    tcase_add_test(tcase, links_by_hand);
    tcase_add_test(tcase, choices);
    tcase_add_test(tcase, wrong_sums);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
