/* The sums of an epoch. Its tables are made once, so that nothing is allocated while it trains. */
#include "worker/report.h"

#include <string.h>

#include "common/mem.h"
#include "worker/model/confusion.h"

void report_init(struct report *report, const struct store *store) {
    *report = (struct report){.store = store, .rows = score_rows(store->classes)};
    Graphps__Eval *eval = &report->eval;
    graphps__eval__init(eval);
    eval->train_counts = mem_array(SCORE_CELLS, sizeof *eval->train_counts);
    eval->valid_counts = mem_array(report->rows * SCORE_CELLS, sizeof *eval->valid_counts);
    eval->test_counts = mem_array(report->rows * SCORE_CELLS, sizeof *eval->test_counts);
}

void report_done(struct report *report) {
    score_sum_done(&report->eval);
}

void report_begin(struct report *report, uint32_t epoch) {
    Graphps__Eval before = report->eval, *eval = &report->eval;
    graphps__eval__init(eval);
    eval->epoch = epoch;
    eval->classes = report->store->classes;
    eval->multi_label = report->store->multi_labels != NULL;
    eval->train_counts = before.train_counts;
    eval->valid_counts = before.valid_counts;
    eval->test_counts = before.test_counts;
    memset(eval->train_counts, 0, SCORE_CELLS * sizeof *eval->train_counts);
}

void report_training(struct report *report, const struct batch *batch, const float *logits,
                     const struct model_result *result) {
    Graphps__Eval *eval = &report->eval;
    eval->train_loss_sum += result->loss_sum[SPLIT_TRAIN];
    eval->train_correct += result->correct[SPLIT_TRAIN];
    eval->train_count += result->count[SPLIT_TRAIN];
    eval->n_train_counts = SCORE_CELLS;
    confusion_add(batch->n_output, report->store->classes, logits, batch->labels,
                  batch->multi_labels, batch->split, SPLIT_TRAIN, 1, eval->train_counts);
}

static void count(const struct report *report, const float *logits, enum split split, size_t *ret_n,
                  uint64_t *counts) {
    const struct store *store = report->store;
    *ret_n = report->rows * SCORE_CELLS;
    memset(counts, 0, *ret_n * sizeof *counts);
    confusion_add(store->owned, store->classes, logits, store->labels, store->multi_labels,
                  store->split, split, report->rows, counts);
}

void report_validation(struct report *report, const float *logits,
                       const struct model_result *result) {
    Graphps__Eval *eval = &report->eval;
    eval->valid_loss_sum = result->loss_sum[SPLIT_VALID];
    eval->valid_correct = result->correct[SPLIT_VALID];
    eval->valid_count = result->count[SPLIT_VALID];
    eval->test_correct = result->correct[SPLIT_TEST];
    eval->test_count = result->count[SPLIT_TEST];
    count(report, logits, SPLIT_VALID, &eval->n_valid_counts, eval->valid_counts);
    count(report, logits, SPLIT_TEST, &eval->n_test_counts, eval->test_counts);
}

void report_forget_validation(struct report *report) {
    Graphps__Eval *eval = &report->eval;
    eval->valid_loss_sum = 0;
    eval->valid_correct = eval->valid_count = eval->test_correct = eval->test_count = 0;
    eval->n_valid_counts = eval->n_test_counts = 0;
}

Graphps__Eval report_candidate(const struct report *report, uint32_t epoch) {
    Graphps__Eval eval = report->eval;
    eval.epoch = epoch;
    eval.candidate = true;
    eval.train_loss_sum = 0;
    eval.train_correct = eval.train_count = 0;
    eval.n_train_counts = 0;
    return eval;
}

Graphps__EpochStatus report_scores(const struct report *report) {
    Graphps__EpochStatus status = GRAPHPS__EPOCH_STATUS__INIT;
    status.epoch = report->eval.epoch;
    score_training(&report->eval, &status);
    score_validation(&report->eval, &status);
    return status;
}
