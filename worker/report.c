/* The sums of an epoch. Its tables are made once, so that nothing is allocated while it trains. */
#include "worker/report.h"

#include <string.h>

#include "common/mem.h"
#include "worker/model/confusion.h"
#include "worker/model/spread.h"

void report_init(struct report *report, const struct store *store, Graphps__Task task,
                 bool histograms) {
    bool classes = task <= GRAPHPS__TASK__MULTI_LABEL;
    *report = (struct report){
        .store = store,
        .rows = classes ? score_rows(store->classes) : 0,
        .histogram_rows = classes && histograms ? score_histogram_rows(task, store->classes) : 0};
    Graphps__Eval *eval = &report->eval;
    graphps__eval__init(eval);
    eval->task = task;
    eval->classes = store->classes;
    if (report->rows) {
        eval->train_counts = mem_array(SCORE_CELLS, sizeof *eval->train_counts);
        eval->valid_counts = mem_array(report->rows * SCORE_CELLS, sizeof *eval->valid_counts);
        eval->test_counts = mem_array(report->rows * SCORE_CELLS, sizeof *eval->test_counts);
    }
    if (report->histogram_rows) {
        size_t cells = score_histogram_cells(report->histogram_rows);
        eval->valid_histogram = mem_array(cells, sizeof *eval->valid_histogram);
        eval->test_histogram = mem_array(cells, sizeof *eval->test_histogram);
    }
    if (task == GRAPHPS__TASK__LINKS)
        score_links_begin(eval);
}

void report_done(struct report *report) {
    score_sum_done(&report->eval);
}

void report_begin(struct report *report, uint32_t epoch) {
    Graphps__Eval before = report->eval, *eval = &report->eval;
    graphps__eval__init(eval);
    eval->epoch = epoch;
    eval->task = before.task;
    eval->classes = before.classes;
    eval->train_counts = before.train_counts;
    eval->valid_counts = before.valid_counts;
    eval->test_counts = before.test_counts;
    eval->valid_histogram = before.valid_histogram;
    eval->test_histogram = before.test_histogram;
    eval->valid_links = before.valid_links;
    eval->test_links = before.test_links;
    if (report->rows)
        memset(eval->train_counts, 0, SCORE_CELLS * sizeof *eval->train_counts);
    report_forget_validation(report);
}

void report_training(struct report *report, const struct batch *batch, const float *logits,
                     const struct model_result *result) {
    Graphps__Eval *eval = &report->eval;
    eval->train_loss_sum += result->loss_sum[SPLIT_TRAIN];
    eval->train_absolute_sum += result->absolute_sum[SPLIT_TRAIN];
    eval->train_correct += result->correct[SPLIT_TRAIN];
    eval->train_count += result->count[SPLIT_TRAIN];
    if (report->rows == 0)
        return;
    eval->n_train_counts = SCORE_CELLS;
    confusion_add(batch->n_output, report->store->classes, logits, batch->labels,
                  batch->multi_labels, batch->split, SPLIT_TRAIN, 1, eval->train_counts);
}

static void count(const struct report *report, const float *logits, enum split split, size_t *ret_n,
                  uint64_t *counts) {
    const struct store *store = report->store;
    *ret_n = report->rows * SCORE_CELLS;
    if (report->rows == 0)
        return;
    memset(counts, 0, *ret_n * sizeof *counts);
    confusion_add(store->owned, store->classes, logits, store->labels, store->multi_labels,
                  store->split, split, report->rows, counts);
}

static void spread(const struct report *report, const float *logits, enum split split,
                   size_t *ret_n, uint64_t *histogram) {
    const struct store *store = report->store;
    if (report->histogram_rows == 0)
        return;
    *ret_n = score_histogram_cells(report->histogram_rows);
    memset(histogram, 0, *ret_n * sizeof *histogram);
    spread_add(store->owned, store->classes, logits, store->labels, store->multi_labels,
               store->split, split, histogram);
}

void report_validation(struct report *report, const float *logits,
                       const struct model_result *result) {
    Graphps__Eval *eval = &report->eval;
    eval->valid_loss_sum = result->loss_sum[SPLIT_VALID];
    eval->valid_absolute_sum = result->absolute_sum[SPLIT_VALID];
    eval->valid_correct = result->correct[SPLIT_VALID];
    eval->valid_count = result->count[SPLIT_VALID];
    eval->test_loss_sum = result->loss_sum[SPLIT_TEST];
    eval->test_absolute_sum = result->absolute_sum[SPLIT_TEST];
    eval->test_correct = result->correct[SPLIT_TEST];
    eval->test_count = result->count[SPLIT_TEST];
    count(report, logits, SPLIT_VALID, &eval->n_valid_counts, eval->valid_counts);
    count(report, logits, SPLIT_TEST, &eval->n_test_counts, eval->test_counts);
    spread(report, logits, SPLIT_VALID, &eval->n_valid_histogram, eval->valid_histogram);
    spread(report, logits, SPLIT_TEST, &eval->n_test_histogram, eval->test_histogram);
}

Graphps__Eval *report_links(struct report *report) {
    report_forget_validation(report);
    score_links_begin(&report->eval);
    return &report->eval;
}

void report_forget_validation(struct report *report) {
    Graphps__Eval *eval = &report->eval;
    eval->valid_loss_sum = eval->valid_absolute_sum = 0;
    eval->test_loss_sum = eval->test_absolute_sum = 0;
    eval->valid_correct = eval->valid_count = eval->test_correct = eval->test_count = 0;
    eval->n_valid_counts = eval->n_test_counts = 0;
    eval->n_valid_histogram = eval->n_test_histogram = 0;
    if (eval->valid_links)
        graphps__link_sums__init(eval->valid_links);
    if (eval->test_links)
        graphps__link_sums__init(eval->test_links);
}

Graphps__Eval report_candidate(const struct report *report, uint32_t epoch) {
    Graphps__Eval eval = report->eval;
    eval.epoch = epoch;
    eval.candidate = true;
    eval.train_loss_sum = eval.train_absolute_sum = 0;
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
