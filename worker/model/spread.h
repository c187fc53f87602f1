/* Outputs of nodes counted by their size, those of true classes apart from the others: the
 * histograms that ROC-AUC and average precision come from (proto/score.h). */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "worker/graph/snapshot.h"

/* Adds the labelled (label >= 0) ones of n outputs that are in a split to a histogram of
 * score_histogram_rows rows. logits [n, classes]; labels and split_of [n]. multi_labels [n,
 * classes] (0: no, else yes), a row for each class; or NULL and classes = 2: one row, of how much
 * larger the second class's logit is than the first's. */
void spread_add(size_t n, size_t classes, const float *logits, const int32_t *labels,
                const uint8_t *multi_labels, const uint8_t *split_of, enum split split,
                uint64_t *histogram);
