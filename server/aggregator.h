/* Takes closed batches, merges them (sample-weighted mean), runs the optimizer once, publishes.
 * Threads call aggregator_run; a simulation calls it from one thread. Locks: LOCK_QUEUE for the
 * queue alone; never held together with a block's. One block is in one thread's hands at a time. */
#pragma once

#include "server/block.h"
#include "server/optimizer.h"
#include "server/schedule.h"

struct aggregator;

struct aggregator_ops {
    /* All blocks of the push are applied (or were late, see push->late): once per push, from
     * aggregator_run, _drain or _admit. Called without a block's or the queue's lock; must not take
     * the admission lock, which a drain waits under; frees nothing: the aggregator frees the push
     * afterwards. */
    void (*applied)(void *ctx, const struct push *push);
    /* Whoever completes a batch of a push that has up to this many floats works on it himself; 0:
     * the threads do all. */
    uint32_t inline_floats;
};

/* All are borrowed. The rate of a step is the schedule's, not optimizer->lr. */
struct aggregator *aggregator_new(struct block *blocks, size_t block_count,
                                  const struct block_rule *rule, const struct optimizer *optimizer,
                                  struct schedule *schedule, const struct aggregator_ops *ops,
                                  void *ctx);
/* No thread may be inside. Pushes still pending are freed unapplied. */
struct aggregator *aggregator_free(struct aggregator *aggregator);

/* Hands a push over: its parts go to blocks[index[i]]. May call applied at once. */
void aggregator_admit(struct aggregator *aggregator, struct push *push, const uint32_t *index,
                      uint64_t now_ms);
/* Looks for batches whose time has come. Returns when to look again (absolute ms), UINT64_MAX:
 * never. */
uint64_t aggregator_tick(struct aggregator *aggregator, uint64_t now_ms);
/* The roster or a known clock changed: looks at all blocks (bsp). */
void aggregator_recheck(struct aggregator *aggregator, uint64_t now_ms);
/* Processes one ready block; false when there was none. now_ms: for the next batch's time. */
bool aggregator_run(struct aggregator *aggregator, uint64_t now_ms);
/* Waits until a block is ready or aggregator_stop was called (then false). */
bool aggregator_wait(struct aggregator *aggregator);
void aggregator_stop(struct aggregator *aggregator);
/* With nobody inside aggregator_admit, _tick or _recheck (the caller holds the admission lock for
 * writing, those hold it for reading; aggregator_run needs none): closes what may be closed (all in
 * async and ssp; in bsp only complete batches), helps, and returns when nothing is ready or in
 * work. Then every block is at rest and everything merged has been reported. */
void aggregator_drain(struct aggregator *aggregator, uint64_t now_ms);
/* Parts that wait now, over all blocks. */
size_t aggregator_pending(struct aggregator *aggregator);
uint64_t aggregator_updates(const struct aggregator *aggregator);
