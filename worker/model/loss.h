/* The loss: softmax cross-entropy, its mean over the labelled training outputs; and accuracy.
 * Inside worker/model only. */
#pragma once

#include "worker/model/model.h"

/* Sums over all labelled outputs (label >= 0), by split. logits [n, classes]. smoothing: share of a
 * training label that is spread over all classes; other labels stay whole. */
void loss_forward(size_t n, size_t classes, const float *logits, const int32_t *labels,
                  const uint8_t *split, float smoothing, struct model_result *ret);
/* dlogits = (softmax - the smoothed label) * weight / train_count in rows of labelled training
 * outputs, 0 in the others. weights [n], NULL: 1. */
void loss_backward(size_t n, size_t classes, const float *logits, const int32_t *labels,
                   const uint8_t *split, const float *weights, uint32_t train_count,
                   float smoothing, float *dlogits);
