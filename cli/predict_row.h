/* A line of what `graphps predict` writes: a node under the user's id, the class or classes
 * predicted for it and how probable they are, or the values, and what was known before. */
#pragma once

#include <stdio.h>

#include "worker/graph/snapshot.h"

/* "id,prediction,probability,label,split", or of targets "id,prediction,target,split". */
const char *predict_row_head(const struct snapshot *snapshot);

/* logits [classes]. One label a node: the class of the largest logit and its softmax. Several: all
 * classes whose logit is above 0, their sigmoids, and the node's labels, each joined by ";".
 * Classes go by name where they have names. Of targets the values, those of several joined by ";".
 * An error shows when out is flushed or closed. */
void predict_row(FILE *out, const struct snapshot *snapshot, uint64_t node, const float *logits);
