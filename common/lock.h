/* A mutex with a rank. Locks are taken in the order of this enum, never two of one rank on one
 * thread; a build without NDEBUG checks order and ownership and aborts naming both locks. The wait
 * is timed on the contended path only. Which fields a lock guards is written where it is declared.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum lock_rank {
    LOCK_ADMISSION,   /* server: checkpoint's cut against pushes being admitted (a rwlock) */
    LOCK_COORDINATOR, /* server: registry, clocks, epochs */
    LOCK_LEDGER,      /* server: last sequences per worker */
    LOCK_ORDERS,      /* server: what shard 0 wants of this shard */
    LOCK_BLOCK,       /* server: one block's pending list, version and published buffer */
    LOCK_QUEUE,       /* server: blocks ready for an aggregator thread */
    LOCK_TRAINER,     /* worker: how far training is, for /stats */
    LOCK_CLIENT,      /* worker: client state shared by trainer and network thread */
    LOCK_SAMPLER,     /* worker: ring of batches sampled ahead */
    LOCK_ROWS,        /* import, generate: parts of a file on their way from making to use */
    LOCK_BUDGET,      /* proto: connections that wait until less memory is held */
    LOCK_CONN,        /* proto: frames posted to a connection's loop */
    LOCK_POOL,        /* common: one size class of the pool */
    LOCK_METRICS,     /* common: registration of a thread's cells */
};

struct lock {
    pthread_mutex_t mutex;
    enum lock_rank rank;
    const char *name;
};

void lock_init(struct lock *lock, enum lock_rank rank, const char *name);
void lock_done(struct lock *lock);
/* Returns the nanoseconds waited: 0 when it was free. */
uint64_t lock_take(struct lock *lock);
void lock_release(struct lock *lock);
/* Aborts unless this thread holds it. For *_locked functions. */
void lock_assert_held(struct lock *lock);
/* Waits on cond (CLOCK_MONOTONIC, see lock_cond_init) with the lock held; timeout_ms < 0: for ever.
 * Returns false on time-out. */
void lock_cond_init(pthread_cond_t *cond);
bool lock_wait(struct lock *lock, pthread_cond_t *cond, int64_t timeout_ms);

/* Monotonic time. Everything that takes "now" takes it in these units. */
uint64_t time_now_ms(void);
uint64_t time_now_ns(void);
