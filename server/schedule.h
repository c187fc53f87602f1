/* The learning rate of a step. With c the step's clock (steps that the worker had finished before
 * it), s the steps of an epoch, W = optimizer.warmup * s and T = train.epochs * s:
 *
 * constant: lr
 *
 * cosine: lr_min + (lr - lr_min) / 2 (1 + cos(pi (c - W) / (T - W))), and lr before W. Loshchilov &
 * Hutter, "SGDR", ICLR 2017, equation 5, without restarts.
 *
 * step: lr * step_gamma^floor(c / (step_every * s))
 *
 * In the first W steps that times (c + 1) / W: Goyal et al., "Accurate, Large Minibatch SGD", 2017,
 * section 2.2; the first step has a rate already, the last of them all of it.
 *
 * A shard knows no epochs. The clock comes with the pushes that are merged, the steps of an epoch
 * with the workers' Hello, so every shard has the same rate for the same step. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/config.h"
#include "common/error.h"

struct schedule {
    /* set at start, never changed */
    int kind; /* SCHEDULE_... */
    double lr, lr_min, warmup, step_gamma;
    uint64_t epochs, step_every;
    /* written by sessions and by whoever merges */
    _Atomic uint32_t steps_per_epoch; /* 0: no worker has said it yet */
    _Atomic uint64_t clock;           /* the highest that was merged; saved with the weights */
};

void schedule_init(struct schedule *schedule, const struct config *config);
/* The steps of an epoch, as a worker says them. Where the rate changes they must be the same on all
 * (ERR_CONFIG) and not 0 (ERR_RANGE). */
int schedule_learn_steps(struct schedule *schedule, uint32_t rank, uint32_t steps_per_epoch,
                         struct error *reterr);
/* The formulas above; a clock beyond the last step's counts as the end. */
float schedule_rate(const struct schedule *schedule, uint64_t clock);
/* The rate for a batch whose newest gradient is of this clock. bsp: of just that clock, so a step
 * that is repeated has its rate again. Else of the highest clock that this shard has merged, so the
 * gradients of slow workers do not take it back. */
float schedule_batch_rate(struct schedule *schedule, uint64_t clock, bool bsp);
