/* Scores: how well predictions agree with labels. They come from counts that add up over nodes,
 * batches and workers, in the form in which an Eval message carries them, so that any number of
 * partitions gives the scores of one process.
 *
 *   accuracy   share of nodes that are right; with several labels a node, right in all classes
 *              (subset accuracy)
 *   micro-F1   2 tp / (2 tp + fp + fn) of all classes together: tp predicted and true, fp predicted
 *              and not true, fn true and not predicted. With one label a node it is the accuracy.
 *   macro-F1   the mean of each class's own F1 (not the F1 of mean precision and recall: Opitz &
 *              Burst, "Macro F1 and Macro F1", 2019), over the classes that are predicted or true
 *              of some node
 *
 * Where a score is not known, or there is nothing that it could be of, it is -1. */
#pragma once

#include <stdbool.h>

#include "common/error.h"
#include "proto/graphps.pb-c.h"

enum score { SCORE_ACCURACY, SCORE_MICRO_F1, SCORE_MACRO_F1, SCORES };
enum score_set { SCORE_TRAIN, SCORE_VALID, SCORE_TEST, SCORE_SETS };

/* "micro_f1": in options, JSON and logs; "micro-F1": for people; "valid_micro_f1": a field of JSON.
 */
const char *score_name(enum score score);
const char *score_title(enum score score);
const char *score_key(enum score_set set, enum score score);
/* False when no score is called so; name may be NULL. */
bool score_find(const char *name, enum score *ret);
/* What selects the best weights. train_metric: the option's choice, TRAIN_METRIC_... */
enum score score_choose(int train_metric, bool multi_label);

/* A table of counts is [score_rows(classes), SCORE_CELLS] row-major: a row for each class or, where
 * there are more than SCORE_CLASSES_MAX of them, one row of all together. */
enum { SCORE_TP, SCORE_FP, SCORE_FN, SCORE_CELLS };
#define SCORE_CLASSES_MAX 1024u
size_t score_rows(uint32_t classes);
double score_micro_f1(size_t rows, const uint64_t *counts);
double score_macro_f1(size_t rows, const uint64_t *counts);

/* A report that cannot be: counts that exceed its nodes, tables of another shape. ERR_RANGE. */
int score_check(const Graphps__Eval *eval, struct error *reterr);
/* Adds the numbers of eval, which passed score_check and has as many classes, to sum; tables: also
 * those of validation and test. The sum begins as GRAPHPS__EVAL__INIT and owns its tables:
 * score_sum_done frees them, and it is a beginning again. */
void score_sum_add(Graphps__Eval *sum, const Graphps__Eval *eval, bool tables);
/* With tables of its own. */
void score_sum_copy(const Graphps__Eval *eval, Graphps__Eval *ret);
void score_sum_done(Graphps__Eval *sum);
/* Loss and scores of a report or a sum, into the epoch's: of its training; of its validation and
 * test (a test accuracy of -1: there are no labelled test nodes). */
void score_training(const Graphps__Eval *eval, Graphps__EpochStatus *ret);
void score_validation(const Graphps__Eval *eval, Graphps__EpochStatus *ret);
/* Where an epoch keeps a score. */
double *score_field(Graphps__EpochStatus *epoch, enum score_set set, enum score score);
double score_of(const Graphps__EpochStatus *epoch, enum score_set set, enum score score);
