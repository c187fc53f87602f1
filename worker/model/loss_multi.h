/* The loss where a node may have several labels: sigmoid binary cross-entropy, its mean over
 * the labelled training outputs and their classes. Inside worker/model only. */
#pragma once

#include "worker/model/model.h"

/* Sums over all labelled outputs (label >= 0), by split, of the mean over the classes. logits,
 * multi_labels [n, classes], the latter 0: no, else yes; labels, split [n]. A node counts as
 * correct when the sign of every logit is right. */
void loss_multi_forward(size_t n, size_t classes, const float *logits, const int32_t *labels,
                        const uint8_t *multi_labels, const uint8_t *split,
                        struct model_result *ret);
/* dlogits [n, classes] = (sigmoid - label) * weight / (train_count * classes) in rows of labelled
 * training outputs, 0 in the others. weights [n], NULL: 1. */
void loss_multi_backward(size_t n, size_t classes, const float *logits, const int32_t *labels,
                         const uint8_t *multi_labels, const uint8_t *split, const float *weights,
                         uint32_t train_count, float *dlogits);
