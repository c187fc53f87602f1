/* Names, formulas and sums of scores. What is predicted and counted is the worker's matter
 * (worker/model/confusion.c), what follows from a score is shard 0's. */
#include "proto/score.h"

#include <assert.h>
#include <string.h>

#include "common/config.h"
#include "common/mem.h"

static const struct {
    const char *name, *title, *keys[SCORE_SETS];
} scores[SCORES] = {
    {"accuracy", "accuracy", {"train_accuracy", "valid_accuracy", "test_accuracy"}},
    {"micro_f1", "micro-F1", {"train_micro_f1", "valid_micro_f1", "test_micro_f1"}},
    {"macro_f1", "macro-F1", {"train_macro_f1", "valid_macro_f1", "test_macro_f1"}},
};

const char *score_name(enum score score) {
    return scores[score].name;
}

const char *score_title(enum score score) {
    return scores[score].title;
}

const char *score_key(enum score_set set, enum score score) {
    return scores[score].keys[set];
}

bool score_find(const char *name, enum score *ret) {
    for (enum score score = 0; name && score < SCORES; score++)
        if (strcmp(name, scores[score].name) == 0) {
            *ret = score;
            return true;
        }
    return false;
}

enum score score_choose(int train_metric, bool multi_label) {
    switch (train_metric) {
    case TRAIN_METRIC_ACCURACY:
        return SCORE_ACCURACY;
    case TRAIN_METRIC_MICRO_F1:
        return SCORE_MICRO_F1;
    case TRAIN_METRIC_MACRO_F1:
        return SCORE_MACRO_F1;
    default:
        return multi_label ? SCORE_MICRO_F1 : SCORE_ACCURACY;
    }
}

/* --- the formulas --- */

size_t score_rows(uint32_t classes) {
    return classes <= SCORE_CLASSES_MAX ? classes : 1;
}

static double f1(double tp, double fp, double fn) {
    double all = 2 * tp + fp + fn;
    return all > 0 ? 2 * tp / all : -1;
}

double score_micro_f1(size_t rows, const uint64_t *counts) {
    double sums[SCORE_CELLS] = {0};
    for (size_t i = 0; i < rows * SCORE_CELLS; i++)
        sums[i % SCORE_CELLS] += (double)counts[i];
    return f1(sums[SCORE_TP], sums[SCORE_FP], sums[SCORE_FN]);
}

double score_macro_f1(size_t rows, const uint64_t *counts) {
    double sum = 0;
    size_t seen = 0;
    for (size_t c = 0; c < rows; c++) {
        const uint64_t *row = counts + c * SCORE_CELLS;
        double own = f1((double)row[SCORE_TP], (double)row[SCORE_FP], (double)row[SCORE_FN]);
        if (own >= 0) {
            sum += own;
            seen++;
        }
    }
    return seen > 0 ? sum / (double)seen : -1;
}

/* --- sums --- */

static int check_set(const Graphps__Eval *eval, enum score_set set, uint64_t correct,
                     uint64_t count, size_t n, const uint64_t *counts, struct error *reterr) {
    /* Of training there are totals only. */
    size_t rows = set == SCORE_TRAIN ? 1 : score_rows(eval->classes);
    if (correct > count)
        return error_set(reterr, ERR_RANGE, "rank %u: more right answers than nodes in epoch %u",
                         eval->rank, eval->epoch);
    if (n == 0)
        return 0;
    if (eval->classes == 0 || n != rows * SCORE_CELLS)
        return error_set(reterr, ERR_RANGE,
                         "rank %u: %zu counts of predictions in epoch %u, with %u classes there "
                         "are %zu",
                         eval->rank, n, eval->epoch, eval->classes, rows * SCORE_CELLS);
    /* What a row is of: one class of every node, or all of them. */
    double most = (double)count * (rows == eval->classes ? 1 : (double)eval->classes);
    for (size_t i = 0; i < n; i += SCORE_CELLS) {
        double tp = (double)counts[i + SCORE_TP];
        if (tp + (double)counts[i + SCORE_FP] > most || tp + (double)counts[i + SCORE_FN] > most)
            return error_set(reterr, ERR_RANGE, "rank %u: more predictions than nodes in epoch %u",
                             eval->rank, eval->epoch);
    }
    return 0;
}

int score_check(const Graphps__Eval *eval, struct error *reterr) {
    int r = check_set(eval, SCORE_TRAIN, eval->train_correct, eval->train_count,
                      eval->n_train_counts, eval->train_counts, reterr);
    if (r == 0)
        r = check_set(eval, SCORE_VALID, eval->valid_correct, eval->valid_count,
                      eval->n_valid_counts, eval->valid_counts, reterr);
    if (r == 0)
        r = check_set(eval, SCORE_TEST, eval->test_correct, eval->test_count, eval->n_test_counts,
                      eval->test_counts, reterr);
    return r;
}

static void counts_add(size_t *sum_n, uint64_t **sum, size_t n, const uint64_t *counts) {
    if (n == 0)
        return;
    if (*sum_n == 0) {
        *sum = mem_array(n, sizeof **sum);
        *sum_n = n;
    }
    assert(*sum_n == n);
    for (size_t i = 0; i < n; i++)
        (*sum)[i] += counts[i];
}

void score_sum_add(Graphps__Eval *sum, const Graphps__Eval *eval, bool tables) {
    sum->train_loss_sum += eval->train_loss_sum;
    sum->train_correct += eval->train_correct;
    sum->train_count += eval->train_count;
    sum->valid_loss_sum += eval->valid_loss_sum;
    sum->valid_correct += eval->valid_correct;
    sum->valid_count += eval->valid_count;
    sum->test_correct += eval->test_correct;
    sum->test_count += eval->test_count;
    if (eval->classes == 0)
        return;
    sum->classes = eval->classes;
    counts_add(&sum->n_train_counts, &sum->train_counts, eval->n_train_counts, eval->train_counts);
    if (!tables)
        return;
    counts_add(&sum->n_valid_counts, &sum->valid_counts, eval->n_valid_counts, eval->valid_counts);
    counts_add(&sum->n_test_counts, &sum->test_counts, eval->n_test_counts, eval->test_counts);
}

static uint64_t *counts_copy(size_t n, const uint64_t *counts) {
    uint64_t *copy = n ? mem_array(n, sizeof *copy) : NULL;
    if (n)
        memcpy(copy, counts, n * sizeof *copy);
    return copy;
}

void score_sum_copy(const Graphps__Eval *eval, Graphps__Eval *ret) {
    *ret = *eval;
    ret->train_counts = counts_copy(eval->n_train_counts, eval->train_counts);
    ret->valid_counts = counts_copy(eval->n_valid_counts, eval->valid_counts);
    ret->test_counts = counts_copy(eval->n_test_counts, eval->test_counts);
}

void score_sum_done(Graphps__Eval *sum) {
    mem_free(sum->train_counts);
    mem_free(sum->valid_counts);
    mem_free(sum->test_counts);
    graphps__eval__init(sum);
}

/* --- what they say --- */

static double ratio(double sum, uint64_t count) {
    return count ? sum / (double)count : 0;
}

static double micro(size_t n, const uint64_t *counts) {
    return score_micro_f1(n / SCORE_CELLS, counts);
}

/* Unless the only row is of several classes. */
static double macro(uint32_t classes, size_t n, const uint64_t *counts) {
    return n / SCORE_CELLS == classes ? score_macro_f1(classes, counts) : -1;
}

void score_training(const Graphps__Eval *eval, Graphps__EpochStatus *ret) {
    ret->train_loss = ratio(eval->train_loss_sum, eval->train_count);
    ret->train_accuracy = ratio((double)eval->train_correct, eval->train_count);
    ret->train_micro_f1 = micro(eval->n_train_counts, eval->train_counts);
    ret->train_macro_f1 = macro(eval->classes, eval->n_train_counts, eval->train_counts);
}

void score_validation(const Graphps__Eval *eval, Graphps__EpochStatus *ret) {
    ret->valid_loss = ratio(eval->valid_loss_sum, eval->valid_count);
    ret->valid_accuracy = ratio((double)eval->valid_correct, eval->valid_count);
    ret->valid_micro_f1 = micro(eval->n_valid_counts, eval->valid_counts);
    ret->valid_macro_f1 = macro(eval->classes, eval->n_valid_counts, eval->valid_counts);
    ret->test_accuracy =
        eval->test_count ? ratio((double)eval->test_correct, eval->test_count) : -1;
    ret->test_micro_f1 = micro(eval->n_test_counts, eval->test_counts);
    ret->test_macro_f1 = macro(eval->classes, eval->n_test_counts, eval->test_counts);
}

double *score_field(Graphps__EpochStatus *epoch, enum score_set set, enum score score) {
    double *const fields[SCORES][SCORE_SETS] = {
        {&epoch->train_accuracy, &epoch->valid_accuracy, &epoch->test_accuracy},
        {&epoch->train_micro_f1, &epoch->valid_micro_f1, &epoch->test_micro_f1},
        {&epoch->train_macro_f1, &epoch->valid_macro_f1, &epoch->test_macro_f1},
    };
    return fields[score][set];
}

double score_of(const Graphps__EpochStatus *epoch, enum score_set set, enum score score) {
    Graphps__EpochStatus copy = *epoch;
    return *score_field(&copy, set, score);
}
