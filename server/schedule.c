/* The formulas of the learning rate, in double, and the shard's place in them. */
#include "server/schedule.h"

#include <math.h>

void schedule_init(struct schedule *schedule, const struct config *config) {
    schedule->kind = config->optimizer_schedule;
    schedule->lr = config->optimizer_lr;
    schedule->lr_min = config->optimizer_lr_min;
    schedule->warmup = config->optimizer_warmup;
    schedule->step_gamma = config->optimizer_step_gamma;
    schedule->step_every = (uint64_t)config->optimizer_step_every;
    schedule->epochs = (uint64_t)config->train_epochs;
    atomic_init(&schedule->steps_per_epoch, 0);
    atomic_init(&schedule->clock, 0);
}

static bool changes(const struct schedule *schedule) {
    return schedule->kind != SCHEDULE_CONSTANT || schedule->warmup > 0;
}

int schedule_learn_steps(struct schedule *schedule, uint32_t rank, uint32_t steps_per_epoch,
                         struct error *reterr) {
    uint32_t known = 0;
    if (!changes(schedule))
        return 0;
    if (steps_per_epoch == 0)
        return error_set(reterr, ERR_RANGE, "rank %u: 0 steps per epoch", rank);
    if (!atomic_compare_exchange_strong(&schedule->steps_per_epoch, &known, steps_per_epoch) &&
        known != steps_per_epoch)
        return error_set(reterr, ERR_CONFIG,
                         "rank %u has %u steps per epoch, the run has %u; a learning rate that "
                         "changes with them needs the same on all",
                         rank, steps_per_epoch, known);
    return 0;
}

static double cosine(const struct schedule *schedule, double clock, double warm, double total) {
    double left = total - warm, done = left > 0 ? (clock - warm) / left : 1;
    if (clock < warm)
        return schedule->lr;
    return schedule->lr_min +
           (schedule->lr - schedule->lr_min) / 2 * (1 + cos(M_PI * (done < 1 ? done : 1)));
}

float schedule_rate(const struct schedule *schedule, uint64_t clock) {
    uint32_t steps = atomic_load(&schedule->steps_per_epoch);
    if (steps == 0) /* nothing was merged yet, or nothing changes */
        steps = 1;
    uint64_t end = schedule->epochs * steps, at = clock < end ? clock : end;
    double warm = schedule->warmup * steps, rate = schedule->lr;
    if (schedule->kind == SCHEDULE_COSINE)
        rate = cosine(schedule, (double)at, warm, (double)end);
    else if (schedule->kind == SCHEDULE_STEP)
        rate *= pow(schedule->step_gamma, (double)(at / (schedule->step_every * steps)));
    if ((double)at + 1 < warm)
        rate *= ((double)at + 1) / warm;
    return (float)rate;
}

float schedule_batch_rate(struct schedule *schedule, uint64_t clock, bool bsp) {
    uint64_t highest = atomic_load(&schedule->clock);
    while (highest < clock)
        if (atomic_compare_exchange_weak(&schedule->clock, &highest, clock))
            highest = clock;
    return schedule_rate(schedule, bsp ? clock : highest);
}
