/* The loss of regression: the squared error, its mean over the labelled training outputs and their
 * targets. Inside worker/model only. */
#pragma once

#include "worker/model/model.h"

/* Sums over all labelled outputs (label >= 0), by split, of the mean over the targets of squared
 * and absolute errors. outputs, values [n, targets]; labels, split [n]. No output counts as
 * correct. */
void loss_square_forward(size_t n, size_t targets, const float *outputs, const int32_t *labels,
                         const float *values, const uint8_t *split, struct model_result *ret);
/* doutputs [n, targets] = 2 (output - value) * weight / (train_count * targets) in rows of labelled
 * training outputs, 0 in the others. weights [n], NULL: 1. */
void loss_square_backward(size_t n, size_t targets, const float *outputs, const int32_t *labels,
                          const float *values, const uint8_t *split, const float *weights,
                          uint32_t train_count, float *doutputs);
