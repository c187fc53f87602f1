/* Names, tasks and choice of scores. What is predicted and counted is the worker's matter
 * (worker/report.c), what follows from a score is shard 0's. */
#include "proto/score.h"

#include <stdio.h>
#include <string.h>

#include "common/config.h"

#define OF(task) (1u << GRAPHPS__TASK__##task)
#define CLASSES (OF(SINGLE_LABEL) | OF(MULTI_LABEL))
#define NAMES(name, title)                                                                         \
    name, title, {                                                                                 \
        "train_" name, "valid_" name, "test_" name                                                 \
    }

static const struct {
    const char *name, *title, *keys[SCORE_SETS];
    unsigned tasks;
} scores[SCORES] = {
    [SCORE_ACCURACY] = {NAMES("accuracy", "accuracy"), CLASSES},
    [SCORE_MICRO_F1] = {NAMES("micro_f1", "micro-F1"), CLASSES},
    [SCORE_MACRO_F1] = {NAMES("macro_f1", "macro-F1"), CLASSES},
    [SCORE_ROC_AUC] = {NAMES("roc_auc", "ROC-AUC"), CLASSES | OF(LINKS)},
    [SCORE_AVERAGE_PRECISION] = {NAMES("average_precision", "average precision"),
                                 CLASSES | OF(LINKS)},
    [SCORE_RMSE] = {NAMES("rmse", "RMSE"), OF(REGRESSION)},
    [SCORE_MAE] = {NAMES("mae", "MAE"), OF(REGRESSION)},
    [SCORE_MRR] = {NAMES("mrr", "MRR"), OF(LINKS)},
    [SCORE_HITS_AT_1] = {NAMES("hits_at_1", "Hits@1"), OF(LINKS)},
    [SCORE_HITS_AT_3] = {NAMES("hits_at_3", "Hits@3"), OF(LINKS)},
    [SCORE_HITS_AT_10] = {NAMES("hits_at_10", "Hits@10"), OF(LINKS)},
    [SCORE_RECALL_AT_K] = {NAMES("recall_at_k", "Recall@k"), OF(LINKS)},
    [SCORE_NDCG_AT_K] = {NAMES("ndcg_at_k", "NDCG@k"), OF(LINKS)},
};

static const struct {
    const char *name, *what;
    enum score by_default;
} tasks[] = {
    [GRAPHPS__TASK__SINGLE_LABEL] = {"single_label", "one label a node", SCORE_ACCURACY},
    [GRAPHPS__TASK__MULTI_LABEL] = {"multi_label", "several labels a node", SCORE_MICRO_F1},
    [GRAPHPS__TASK__REGRESSION] = {"regression", "target values of nodes", SCORE_RMSE},
    [GRAPHPS__TASK__LINKS] = {"links", "links", SCORE_MRR},
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

bool score_is_error(enum score score) {
    return score == SCORE_RMSE || score == SCORE_MAE;
}

bool score_of_training(enum score score) {
    Graphps__EpochStatus epoch;
    return score_field(&epoch, SCORE_TRAIN, score) != NULL;
}

bool score_better(enum score score, double a, double b) {
    return score_is_error(score) ? a < b : a > b;
}

struct score_text score_text(enum score score, double value, int decimals) {
    struct score_text ret = {"-"};
    if (value >= 0 && score_is_error(score))
        snprintf(ret.text, sizeof ret.text, "%.*g", decimals + 2, value);
    else if (value >= 0)
        snprintf(ret.text, sizeof ret.text, "%.*f %%", decimals, 100 * value);
    return ret;
}

const char *score_task_name(Graphps__Task task) {
    return tasks[task].name;
}

bool score_task_find(const char *name, Graphps__Task *ret) {
    for (size_t task = 0; name && task < sizeof tasks / sizeof tasks[0]; task++)
        if (strcmp(name, tasks[task].name) == 0) {
            *ret = (Graphps__Task)task;
            return true;
        }
    return false;
}

bool score_of_task(enum score score, Graphps__Task task) {
    return scores[score].tasks >> task & 1;
}

enum score score_choose(int train_metric, Graphps__Task task) {
    return train_metric == TRAIN_METRIC_AUTO ? tasks[task].by_default
                                             : (enum score)(train_metric - 1);
}

int score_check_choice(enum score score, Graphps__Task task, uint32_t classes, const char *snapshot,
                       struct error *reterr) {
    const char *name = score_name(score);
    bool curve = score == SCORE_ROC_AUC || score == SCORE_AVERAGE_PRECISION;
    if (!score_of_task(score, task))
        return error_set(reterr, ERR_CONFIG,
                         "train.metric is %s, but what is learnt of %s is %s: leave train.metric "
                         "out for %s",
                         name, snapshot, tasks[task].what, score_name(tasks[task].by_default));
    if (score == SCORE_MACRO_F1 && classes > SCORE_CLASSES_MAX)
        return error_set(reterr, ERR_CONFIG,
                         "train.metric is macro_f1, which is reckoned for at most %u classes; "
                         "snapshot %s has %u",
                         SCORE_CLASSES_MAX, snapshot, classes);
    if (curve && task == GRAPHPS__TASK__SINGLE_LABEL && classes != 2)
        return error_set(reterr, ERR_CONFIG,
                         "train.metric is %s, which is of two classes or of several labels a node; "
                         "snapshot %s has one label of %u a node",
                         name, snapshot, classes);
    if (curve && score_histogram_rows(task, classes) == 0)
        return error_set(reterr, ERR_CONFIG,
                         "train.metric is %s, which is reckoned for at most %u classes; snapshot "
                         "%s has %u",
                         name, SCORE_HISTOGRAM_ROWS_MAX, snapshot, classes);
    return 0;
}

/* --- where an epoch keeps them --- */

double *score_field(Graphps__EpochStatus *epoch, enum score_set set, enum score score) {
    double *const fields[SCORES][SCORE_SETS] = {
        [SCORE_ACCURACY] = {&epoch->train_accuracy, &epoch->valid_accuracy, &epoch->test_accuracy},
        [SCORE_MICRO_F1] = {&epoch->train_micro_f1, &epoch->valid_micro_f1, &epoch->test_micro_f1},
        [SCORE_MACRO_F1] = {&epoch->train_macro_f1, &epoch->valid_macro_f1, &epoch->test_macro_f1},
        [SCORE_ROC_AUC] = {NULL, &epoch->valid_roc_auc, &epoch->test_roc_auc},
        [SCORE_AVERAGE_PRECISION] = {NULL, &epoch->valid_average_precision,
                                     &epoch->test_average_precision},
        [SCORE_RMSE] = {&epoch->train_rmse, &epoch->valid_rmse, &epoch->test_rmse},
        [SCORE_MAE] = {&epoch->train_mae, &epoch->valid_mae, &epoch->test_mae},
        [SCORE_MRR] = {NULL, &epoch->valid_mrr, &epoch->test_mrr},
        [SCORE_HITS_AT_1] = {NULL, &epoch->valid_hits_at_1, &epoch->test_hits_at_1},
        [SCORE_HITS_AT_3] = {NULL, &epoch->valid_hits_at_3, &epoch->test_hits_at_3},
        [SCORE_HITS_AT_10] = {NULL, &epoch->valid_hits_at_10, &epoch->test_hits_at_10},
        [SCORE_RECALL_AT_K] = {NULL, &epoch->valid_recall_at_k, &epoch->test_recall_at_k},
        [SCORE_NDCG_AT_K] = {NULL, &epoch->valid_ndcg_at_k, &epoch->test_ndcg_at_k},
    };
    return fields[score][set];
}

double score_of(const Graphps__EpochStatus *epoch, enum score_set set, enum score score) {
    Graphps__EpochStatus copy = *epoch;
    const double *field = score_field(&copy, set, score);
    return field ? *field : -1;
}

void score_forget(Graphps__EpochStatus *ret) {
    for (enum score_set set = 0; set < SCORE_SETS; set++)
        for (enum score score = 0; score < SCORES; score++)
            if (score_field(ret, set, score))
                *score_field(ret, set, score) = -1;
}
