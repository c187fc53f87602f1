/* Reports and their sums: what is added, what cannot be, and what follows from it. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "proto/score_internal.h"

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

/* --- one set's numbers of a report --- */

struct numbers {
    double loss_sum, absolute_sum;
    uint64_t correct, count;
    size_t n_counts, n_histogram;
    const uint64_t *counts, *histogram;
    const Graphps__LinkSums *links;
};

static struct numbers numbers_of(const Graphps__Eval *e, enum score_set set) {
    switch (set) {
    case SCORE_TRAIN:
        return (struct numbers){.loss_sum = e->train_loss_sum,
                                .absolute_sum = e->train_absolute_sum,
                                .correct = e->train_correct,
                                .count = e->train_count,
                                .n_counts = e->n_train_counts,
                                .counts = e->train_counts};
    case SCORE_VALID:
        return (struct numbers){.loss_sum = e->valid_loss_sum,
                                .absolute_sum = e->valid_absolute_sum,
                                .correct = e->valid_correct,
                                .count = e->valid_count,
                                .n_counts = e->n_valid_counts,
                                .n_histogram = e->n_valid_histogram,
                                .counts = e->valid_counts,
                                .histogram = e->valid_histogram,
                                .links = e->valid_links};
    default:
        return (struct numbers){.loss_sum = e->test_loss_sum,
                                .absolute_sum = e->test_absolute_sum,
                                .correct = e->test_correct,
                                .count = e->test_count,
                                .n_counts = e->n_test_counts,
                                .n_histogram = e->n_test_histogram,
                                .counts = e->test_counts,
                                .histogram = e->test_histogram,
                                .links = e->test_links};
    }
}

/* --- what cannot be --- */

static int check_counts(const Graphps__Eval *eval, enum score_set set, const struct numbers *n,
                        struct error *reterr) {
    /* Of training there are totals only. */
    size_t rows = set == SCORE_TRAIN ? 1 : score_rows(eval->classes);
    if (n->n_counts == 0)
        return 0;
    if (eval->classes == 0 || n->n_counts != rows * SCORE_CELLS || eval->task > 1)
        return error_set(reterr, ERR_RANGE,
                         "rank %u: %zu counts of predictions in epoch %u, with %u classes there "
                         "are %zu",
                         eval->rank, n->n_counts, eval->epoch, eval->classes, rows * SCORE_CELLS);
    /* What a row is of: one class of every node, or all of them. */
    double most = (double)n->count * (rows == eval->classes ? 1 : (double)eval->classes);
    for (size_t i = 0; i < n->n_counts; i += SCORE_CELLS) {
        double tp = (double)n->counts[i + SCORE_TP];
        if (tp + (double)n->counts[i + SCORE_FP] > most ||
            tp + (double)n->counts[i + SCORE_FN] > most)
            return error_set(reterr, ERR_RANGE, "rank %u: more predictions than nodes in epoch %u",
                             eval->rank, eval->epoch);
    }
    return 0;
}

static int check_histogram(const Graphps__Eval *eval, const struct numbers *n,
                           struct error *reterr) {
    if (n->n_histogram == 0)
        return 0;
    size_t rows = score_histogram_rows(eval->task, eval->classes);
    size_t cells = rows ? score_histogram_cells(rows) : 0;
    if (n->n_histogram != cells)
        return error_set(reterr, ERR_RANGE,
                         "rank %u: a histogram of %zu cells in epoch %u, of such a task it has %zu",
                         eval->rank, n->n_histogram, eval->epoch, cells);
    /* Of links every pair that is none is one more output. */
    bool links = eval->task == GRAPHPS__TASK__LINKS;
    for (size_t row = 0; row < rows; row++) {
        double sum = 0;
        for (size_t i = links; i < cells / rows; i += links ? 2 : 1)
            sum += (double)n->histogram[row * (cells / rows) + i];
        if (sum > (double)n->count)
            return error_set(reterr, ERR_RANGE,
                             "rank %u: a histogram of more than all outputs in epoch %u",
                             eval->rank, eval->epoch);
    }
    return 0;
}

static int check_links(const Graphps__Eval *eval, const struct numbers *n, struct error *reterr) {
    const Graphps__LinkSums *l = n->links;
    if (!l)
        return 0;
    if (eval->task != GRAPHPS__TASK__LINKS)
        return error_set(reterr, ERR_RANGE, "rank %u: ranks of links in epoch %u of another task",
                         eval->rank, eval->epoch);
    if ((double)l->reciprocal_ranks > (double)n->count * SCORE_LINK_UNIT ||
        l->hits_at_1 > l->hits_at_3 || l->hits_at_3 > l->hits_at_10 || l->hits_at_10 > n->count ||
        (double)l->recalls > (double)l->queries * SCORE_LINK_UNIT ||
        (double)l->ndcgs > (double)l->queries * SCORE_LINK_UNIT)
        return error_set(reterr, ERR_RANGE, "rank %u: sums of more than all links in epoch %u",
                         eval->rank, eval->epoch);
    return 0;
}

int score_check(const Graphps__Eval *eval, struct error *reterr) {
    if ((unsigned)eval->task > GRAPHPS__TASK__LINKS)
        return error_set(reterr, ERR_RANGE, "rank %u: task %u is not known", eval->rank,
                         (unsigned)eval->task);
    int r = 0;
    for (enum score_set set = 0; r == 0 && set < SCORE_SETS; set++) {
        struct numbers n = numbers_of(eval, set);
        if (n.correct > n.count)
            return error_set(reterr, ERR_RANGE,
                             "rank %u: more right answers than nodes in epoch %u", eval->rank,
                             eval->epoch);
        if (!isfinite(n.loss_sum) || !isfinite(n.absolute_sum))
            return error_set(reterr, ERR_NOT_FINITE,
                             "rank %u: the loss of epoch %u is not finite; a smaller optimizer.lr "
                             "may help",
                             eval->rank, eval->epoch);
        if (eval->task == GRAPHPS__TASK__REGRESSION && (n.loss_sum < 0 || n.absolute_sum < 0))
            return error_set(reterr, ERR_RANGE, "rank %u: an error below 0 in epoch %u", eval->rank,
                             eval->epoch);
        r = check_counts(eval, set, &n, reterr);
        if (r == 0)
            r = check_histogram(eval, &n, reterr);
        if (r == 0)
            r = check_links(eval, &n, reterr);
    }
    return r;
}

/* --- sums --- */

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

static void links_add(Graphps__LinkSums **sum, const Graphps__LinkSums *links) {
    if (!links)
        return;
    if (!*sum) {
        *sum = mem_alloc(sizeof **sum);
        graphps__link_sums__init(*sum);
    }
    (*sum)->reciprocal_ranks += links->reciprocal_ranks;
    (*sum)->hits_at_1 += links->hits_at_1;
    (*sum)->hits_at_3 += links->hits_at_3;
    (*sum)->hits_at_10 += links->hits_at_10;
    (*sum)->queries += links->queries;
    (*sum)->recalls += links->recalls;
    (*sum)->ndcgs += links->ndcgs;
}

void score_sum_add(Graphps__Eval *sum, const Graphps__Eval *eval, bool tables, bool histograms) {
    sum->train_loss_sum += eval->train_loss_sum;
    sum->train_absolute_sum += eval->train_absolute_sum;
    sum->train_correct += eval->train_correct;
    sum->train_count += eval->train_count;
    sum->valid_loss_sum += eval->valid_loss_sum;
    sum->valid_absolute_sum += eval->valid_absolute_sum;
    sum->valid_correct += eval->valid_correct;
    sum->valid_count += eval->valid_count;
    sum->test_loss_sum += eval->test_loss_sum;
    sum->test_absolute_sum += eval->test_absolute_sum;
    sum->test_correct += eval->test_correct;
    sum->test_count += eval->test_count;
    links_add(&sum->valid_links, eval->valid_links);
    links_add(&sum->test_links, eval->test_links);
    if (eval->classes == 0)
        return;
    sum->classes = eval->classes;
    sum->task = eval->task;
    counts_add(&sum->n_train_counts, &sum->train_counts, eval->n_train_counts, eval->train_counts);
    if (tables) {
        counts_add(&sum->n_valid_counts, &sum->valid_counts, eval->n_valid_counts,
                   eval->valid_counts);
        counts_add(&sum->n_test_counts, &sum->test_counts, eval->n_test_counts, eval->test_counts);
    }
    if (histograms) {
        counts_add(&sum->n_valid_histogram, &sum->valid_histogram, eval->n_valid_histogram,
                   eval->valid_histogram);
        counts_add(&sum->n_test_histogram, &sum->test_histogram, eval->n_test_histogram,
                   eval->test_histogram);
    }
}

static void *copy_of(const void *data, size_t bytes) {
    void *copy = data && bytes ? mem_alloc(bytes) : NULL;
    if (copy)
        memcpy(copy, data, bytes);
    return copy;
}

void score_sum_copy(const Graphps__Eval *eval, Graphps__Eval *ret) {
    *ret = *eval;
    ret->train_counts = copy_of(eval->train_counts, eval->n_train_counts * sizeof(uint64_t));
    ret->valid_counts = copy_of(eval->valid_counts, eval->n_valid_counts * sizeof(uint64_t));
    ret->test_counts = copy_of(eval->test_counts, eval->n_test_counts * sizeof(uint64_t));
    ret->valid_histogram =
        copy_of(eval->valid_histogram, eval->n_valid_histogram * sizeof(uint64_t));
    ret->test_histogram = copy_of(eval->test_histogram, eval->n_test_histogram * sizeof(uint64_t));
    ret->valid_links = copy_of(eval->valid_links, sizeof *eval->valid_links);
    ret->test_links = copy_of(eval->test_links, sizeof *eval->test_links);
}

void score_sum_done(Graphps__Eval *sum) {
    mem_free(sum->train_counts);
    mem_free(sum->valid_counts);
    mem_free(sum->test_counts);
    mem_free(sum->valid_histogram);
    mem_free(sum->test_histogram);
    mem_free(sum->valid_links);
    mem_free(sum->test_links);
    graphps__eval__init(sum);
}

/* --- what they say --- */

static double ratio(double sum, uint64_t count) {
    return count ? sum / (double)count : 0;
}

static double known(double sum, uint64_t count) {
    return count ? sum / (double)count : -1;
}

static void classes_say(const Graphps__Eval *eval, const struct numbers *n,
                        double ret[static SCORES]) {
    size_t rows = n->n_counts / SCORE_CELLS;
    ret[SCORE_ACCURACY] = known((double)n->correct, n->count);
    ret[SCORE_MICRO_F1] = score_micro_f1(rows, n->counts);
    /* Unless the only row is of several classes. */
    ret[SCORE_MACRO_F1] = rows == eval->classes ? score_macro_f1(rows, n->counts) : -1;
}

static void links_say(const struct numbers *n, double ret[static SCORES]) {
    const Graphps__LinkSums *l = n->links;
    ret[SCORE_MRR] = known((double)l->reciprocal_ranks / SCORE_LINK_UNIT, n->count);
    ret[SCORE_HITS_AT_1] = known((double)l->hits_at_1, n->count);
    ret[SCORE_HITS_AT_3] = known((double)l->hits_at_3, n->count);
    ret[SCORE_HITS_AT_10] = known((double)l->hits_at_10, n->count);
    ret[SCORE_RECALL_AT_K] = known((double)l->recalls / SCORE_LINK_UNIT, l->queries);
    ret[SCORE_NDCG_AT_K] = known((double)l->ndcgs / SCORE_LINK_UNIT, l->queries);
}

static void set_say(const Graphps__Eval *eval, enum score_set set, Graphps__EpochStatus *ret) {
    struct numbers n = numbers_of(eval, set);
    double values[SCORES];
    for (enum score score = 0; score < SCORES; score++)
        values[score] = -1;
    if (eval->task <= GRAPHPS__TASK__MULTI_LABEL)
        classes_say(eval, &n, values);
    if (n.n_histogram) {
        size_t rows = score_histogram_rows(eval->task, eval->classes);
        values[SCORE_ROC_AUC] = score_roc_auc(rows, n.histogram);
        values[SCORE_AVERAGE_PRECISION] = score_average_precision(rows, n.histogram);
    }
    if (eval->task == GRAPHPS__TASK__REGRESSION && n.count) {
        values[SCORE_RMSE] = sqrt(n.loss_sum / (double)n.count);
        values[SCORE_MAE] = n.absolute_sum / (double)n.count;
    }
    if (eval->task == GRAPHPS__TASK__LINKS && n.links)
        links_say(&n, values);
    for (enum score score = 0; score < SCORES; score++) {
        double *field = score_field(ret, set, score);
        if (field)
            *field = values[score];
    }
}

void score_training(const Graphps__Eval *eval, Graphps__EpochStatus *ret) {
    ret->train_loss = ratio(eval->train_loss_sum, eval->train_count);
    set_say(eval, SCORE_TRAIN, ret);
}

void score_validation(const Graphps__Eval *eval, Graphps__EpochStatus *ret) {
    ret->valid_loss = ratio(eval->valid_loss_sum, eval->valid_count);
    set_say(eval, SCORE_VALID, ret);
    set_say(eval, SCORE_TEST, ret);
}
