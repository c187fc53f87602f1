/* Predictions counted against labels, class by class: true positives, false positives, false
 * negatives (proto/score.h says what scores follow from them). */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "worker/graph/snapshot.h"

/* Adds the labelled (label >= 0) ones of n outputs that are in a split to counts [rows,
 * SCORE_CELLS]: rows is classes, or 1 for all classes together. logits [n, classes]; labels and
 * split_of [n]. Predicted is the class of the largest logit, the first of equal ones; with
 * multi_labels [n, classes] (0: no, else yes), else NULL, every class whose logit is above 0. */
void confusion_add(size_t n, size_t classes, const float *logits, const int32_t *labels,
                   const uint8_t *multi_labels, const uint8_t *split_of, enum split split,
                   size_t rows, uint64_t *counts);
