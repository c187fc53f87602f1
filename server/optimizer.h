/* Update rules: pure functions on float arrays, one block or one row at a time. g is the gradient,
 * and where decay applies (but not in adamw and none) g + weight_decay * w.
 *
 * sgd: w -= lr g.
 *
 * momentum: v = mu v + g, w -= lr v; nesterov: w -= lr (g + mu v). Sutskever et al., ICML 2013, in
 * the form that PyTorch made common (the rate outside of v).
 *
 * adam: Kingma & Ba, ICLR 2015, algorithm 1.
 *
 * adamw: Loshchilov & Hutter, ICLR 2019, algorithm 2: decay beside the step, w -= lr weight_decay
 * w.
 *
 * adagrad: Duchi, Hazan & Singer, JMLR 2011: s += g^2, w -= lr g / (sqrt(s) + eps).
 *
 * none: w += g. Sums what is pushed (of a batch, its mean): for benchmarks, and for using the
 * shards as a plain reduction service. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/config.h"

struct optimizer {
    int kind; /* OPTIMIZER_... */
    float lr, momentum, beta1, beta2, eps, weight_decay;
    bool nesterov;
    float average; /* share of the new in a running mean */
};

void optimizer_init(struct optimizer *optimizer, const struct config *config);
/* Floats of state per weight: 0, 1 or 2. */
size_t optimizer_state_floats(const struct optimizer *optimizer);
/* next[n] = weights[n] updated with gradient[n]; state [state_floats * n] in place; step counts
 * from 1; decay: does weight_decay apply to this block? next and weights do not overlap. */
void optimizer_step(const struct optimizer *optimizer, size_t n, const float *weights,
                    const float *gradient, float *state, uint64_t step, bool decay, float *next);
/* next[n] = weights[n] moved towards the statistics of a batch by optimizer->average of the way:
 * the exponential running mean of Ioffe & Szegedy, ICML 2015, whatever kind and rate are. next and
 * weights do not overlap. */
void optimizer_average(const struct optimizer *optimizer, size_t n, const float *weights,
                       const float *statistics, float *next);
/* One row of a table in which only the rows that are met are updated: weights [dim] and state
 * [state_floats * dim] in place, with gradient[dim] * factor. step counts the row's own updates,
 * from 1. Nothing decays: a row's decay would depend on how often it is met. */
void optimizer_row(const struct optimizer *optimizer, size_t dim, float *weights,
                   const float *gradient, float factor, float *state, uint64_t step);
