/* The ranked mutex. The per-thread list of held ranks is the whole of the order check. */
#include "common/lock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static _Thread_local const struct lock *lock_held[8];
static _Thread_local int lock_held_count;

/* Before the mutex is asked for, so that a wrong order is named instead of deadlocking. */
static void lock_check_order(const struct lock *lock) {
    for (int i = 0; i < lock_held_count; i++)
        if (lock_held[i]->rank >= lock->rank) {
            fprintf(stderr, "graphps: lock order broken: %s taken while %s is held\n", lock->name,
                    lock_held[i]->name);
            abort();
        }
}

static void lock_push(const struct lock *lock) {
    if (lock_held_count == (int)(sizeof lock_held / sizeof lock_held[0])) {
        fprintf(stderr, "graphps: too many locks held when taking %s\n", lock->name);
        abort();
    }
    lock_held[lock_held_count++] = lock;
}

static void lock_pop(const struct lock *lock) {
    for (int i = lock_held_count - 1; i >= 0; i--)
        if (lock_held[i] == lock) {
            for (int j = i; j + 1 < lock_held_count; j++)
                lock_held[j] = lock_held[j + 1];
            lock_held_count--;
            return;
        }
    fprintf(stderr, "graphps: lock %s released by a thread that does not hold it\n", lock->name);
    abort();
}

void lock_init(struct lock *lock, enum lock_rank rank, const char *name) {
    pthread_mutex_init(&lock->mutex, NULL);
    lock->rank = rank;
    lock->name = name;
}

void lock_done(struct lock *lock) {
    pthread_mutex_destroy(&lock->mutex);
}

uint64_t lock_take(struct lock *lock) {
    uint64_t waited_ns = 0;
    lock_check_order(lock);
    if (pthread_mutex_trylock(&lock->mutex) != 0) {
        uint64_t start = time_now_ns();
        pthread_mutex_lock(&lock->mutex);
        waited_ns = time_now_ns() - start;
    }
    lock_push(lock);
    return waited_ns;
}

void lock_release(struct lock *lock) {
    lock_pop(lock);
    pthread_mutex_unlock(&lock->mutex);
}

void lock_assert_held(struct lock *lock) {
    for (int i = 0; i < lock_held_count; i++)
        if (lock_held[i] == lock)
            return;
    fprintf(stderr, "graphps: lock %s is not held where it must be\n", lock->name);
    abort();
}

void lock_cond_init(pthread_cond_t *cond) {
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

bool lock_wait(struct lock *lock, pthread_cond_t *cond, int64_t timeout_ms) {
    lock_pop(lock);
    /* The wait takes the lock again: nothing of its rank or above may be held meanwhile. */
    lock_check_order(lock);
    int r;
    if (timeout_ms < 0) {
        r = pthread_cond_wait(cond, &lock->mutex);
    } else {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += timeout_ms / 1000;
        until.tv_nsec += timeout_ms % 1000 * 1000000;
        if (until.tv_nsec >= 1000000000) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000;
        }
        r = pthread_cond_timedwait(cond, &lock->mutex, &until);
    }
    lock_push(lock);
    return r != ETIMEDOUT;
}

uint64_t time_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t time_now_ms(void) {
    return time_now_ns() / 1000000u;
}
