/* Scores: how well predictions agree with the truth. They come from sums that add up over nodes,
 * links, batches and workers, in the form in which an Eval message carries them, so that any number
 * of partitions gives the scores of one process. Classification of nodes:
 *
 *   accuracy   share of nodes that are right; with several labels a node, right in all classes
 *              (subset accuracy)
 *   micro-F1   2 tp / (2 tp + fp + fn) of all classes together: tp predicted and true, fp predicted
 *              and not true, fn true and not predicted. With one label a node it is the accuracy.
 *   macro-F1   the mean of each class's own F1 (not the F1 of mean precision and recall: Opitz &
 *              Burst, "Macro F1 and Macro F1", 2019), over the classes that are predicted or true
 *              of some node
 *
 * Of two classes (the second is the one that is looked for), of several labels a node (the mean
 * over the classes that some node has and some node has not), and of links, by histograms of the
 * outputs:
 *
 *   ROC-AUC    the share of pairs of a true and an untrue one in which the true one's output is the
 *              larger; equal ones count half (Hanley & McNeil, "The Meaning and Use of the Area
 *              under a ROC Curve", 1982)
 *   average precision   the mean, over the true ones, of the share of true ones among all whose
 *              output is at least as large
 *
 * Outputs that fall into one bin count as equal for ROC-AUC, which is off by at most half the share
 * of pairs that share a bin; and as evenly mixed for average precision, which lies between what the
 * best and the worst order within the bins would make of it (tests/unit/test_score.c reckons both).
 *
 * Regression (lower is better):
 *   RMSE       the root of the mean squared error, over nodes and targets
 *   MAE        the mean absolute error
 *
 * Links, by the rank of each among its rivals, from 1:
 *   MRR, Hits@1, Hits@3, Hits@10   mean of 1 / rank, shares of ranks up to 1, 3, 10
 * and by the ranks of all n links of a source, k = train.metric_k, the mean over sources:
 *   Recall@k   the share of the n links whose rank is at most k
 *   NDCG@k     sum of 1 / log2(rank + 1) of ranks up to k, over what ranks 1 to min(n, k) give
 *              (Jarvelin & Kekalainen, "Cumulated Gain-Based Evaluation of IR Techniques", 2002)
 *
 * Where a score is not known, or there is nothing that it could be of, it is -1. */
#pragma once

#include <stdbool.h>

#include "common/error.h"
#include "proto/graphps.pb-c.h"

/* In the order of train.metric's choices after auto. */
enum score {
    SCORE_ACCURACY,
    SCORE_MICRO_F1,
    SCORE_MACRO_F1,
    SCORE_ROC_AUC,
    SCORE_AVERAGE_PRECISION,
    SCORE_RMSE,
    SCORE_MAE,
    SCORE_MRR,
    SCORE_HITS_AT_1,
    SCORE_HITS_AT_3,
    SCORE_HITS_AT_10,
    SCORE_RECALL_AT_K,
    SCORE_NDCG_AT_K,
    SCORES
};
enum score_set { SCORE_TRAIN, SCORE_VALID, SCORE_TEST, SCORE_SETS };

/* "micro_f1": in options, JSON and logs; "micro-F1": for people; "valid_micro_f1": a field of JSON.
 */
const char *score_name(enum score score);
const char *score_title(enum score score);
const char *score_key(enum score_set set, enum score score);
/* False when no score is called so; name may be NULL. */
bool score_find(const char *name, enum score *ret);
/* An error, in the targets' own unit: lower is better. The others are shares, higher is better. */
bool score_is_error(enum score score);
/* Is it reckoned of the training nodes, too? */
bool score_of_training(enum score score);
/* Is a better than b, both known? */
bool score_better(enum score score, double a, double b);
/* "81.53 %" of a share, "0.0153" of an error (in as many digits as decimals + 2), "-": not known.
 */
struct score_text {
    char text[24];
};
struct score_text score_text(enum score score, double value, int decimals);

/* "single_label", "multi_label", "regression", "links". */
const char *score_task_name(Graphps__Task task);
bool score_task_find(const char *name, Graphps__Task *ret);
/* Can there be such a score of such a task? */
bool score_of_task(enum score score, Graphps__Task task);
/* What selects the best weights. train_metric: the option's choice, 0 for auto. */
enum score score_choose(int train_metric, Graphps__Task task);
/* Can the score be reckoned of that many classes? ERR_CONFIG says why not; snapshot: its name. */
int score_check_choice(enum score score, Graphps__Task task, uint32_t classes, const char *snapshot,
                       struct error *reterr);

/* A table of counts is [score_rows(classes), SCORE_CELLS] row-major: a row for each class or, where
 * there are more than SCORE_CLASSES_MAX of them, one row of all together. */
enum { SCORE_TP, SCORE_FP, SCORE_FN, SCORE_CELLS };
#define SCORE_CLASSES_MAX 1024u
size_t score_rows(uint32_t classes);
double score_micro_f1(size_t rows, const uint64_t *counts);
double score_macro_f1(size_t rows, const uint64_t *counts);

/* A histogram is [rows, bins, 2] row-major: of each bin how many are not true, and are; bins = 1 <<
 * score_bin_bits(rows). Rows: 1 of two classes (of the second one's logit less the first one's) and
 * of links, else one for each class. No histogram has more than SCORE_HISTOGRAM_MAX cells. */
#define SCORE_HISTOGRAM_MAX (1u << 17)
#define SCORE_HISTOGRAM_ROWS_MAX 128u
/* 0: there is none of such a task and so many classes. */
size_t score_histogram_rows(Graphps__Task task, uint32_t classes);
size_t score_histogram_cells(size_t rows);
unsigned score_bin_bits(size_t rows);
/* The first so many bits of the output as a 16-bit float, cut off, in ascending order: at 14 bits
 * two outputs in one bin differ by less than 1 part in 256 or less than 2^-22, at 9 bits by less
 * than 1 part in 8 or less than 2^-17, or else both are of one sign and 2^16 or more in size. */
size_t score_bin(float output, unsigned bits);
double score_roc_auc(size_t rows, const uint64_t *histogram);
double score_average_precision(size_t rows, const uint64_t *histogram);

/* --- links: adding to a report whose task is LINKS --- */

/* Makes the sums and histograms of validation and test that are not there, and sets them to 0. They
 * are the report's: score_sum_done frees them. */
void score_links_begin(Graphps__Eval *eval);
/* Where a link stands among rivals: so many are better, so many equal, which count half. From 1. */
double score_rank(uint64_t better, uint64_t equal);
/* One link of validation or test and its rank; counts it (valid_count, test_count). */
void score_rank_add(Graphps__Eval *eval, enum score_set set, uint64_t better, uint64_t equal);
/* One query: the ranks [n], n > 0, of all its links among all candidates (of those links too). */
void score_query_add(Graphps__Eval *eval, enum score_set set, size_t n, const double *ranks,
                     uint32_t k);
/* An output of a link, or of a pair that is none, for ROC-AUC and average precision. */
void score_auc_add(Graphps__Eval *eval, enum score_set set, float output, bool positive);

/* --- reports and their sums --- */

/* A report that cannot be: counts that exceed its nodes, tables of another shape. ERR_RANGE. */
int score_check(const Graphps__Eval *eval, struct error *reterr);
/* Adds the numbers of eval, which passed score_check and is of the same task with as many classes,
 * to sum; tables, histograms: also those of validation and test. The sum begins as
 * GRAPHPS__EVAL__INIT and owns its tables: score_sum_done frees them, and it is a beginning again.
 */
void score_sum_add(Graphps__Eval *sum, const Graphps__Eval *eval, bool tables, bool histograms);
/* With tables of its own. */
void score_sum_copy(const Graphps__Eval *eval, Graphps__Eval *ret);
void score_sum_done(Graphps__Eval *sum);
/* Nothing is known of any score. */
void score_forget(Graphps__EpochStatus *ret);
/* Loss and scores of a report or a sum, into the epoch's: of its training; of its validation and
 * test (a test accuracy of -1: there are no labelled test nodes). */
void score_training(const Graphps__Eval *eval, Graphps__EpochStatus *ret);
void score_validation(const Graphps__Eval *eval, Graphps__EpochStatus *ret);
/* Where an epoch keeps a score; NULL: of the training nodes it is not reckoned. */
double *score_field(Graphps__EpochStatus *epoch, enum score_set set, enum score score);
double score_of(const Graphps__EpochStatus *epoch, enum score_set set, enum score score);
