/* A thread that sleeps until there is slow work, and threads that sleep in the aggregator. */
#include "server/threads.h"

#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/lock.h"
#include "common/mem.h"
#include "server/server.h"

#define QUIET_NICE 10 /* a tenth of the weight of a thread as any */

struct threads {
    /* set at start, never changed */
    struct server *server;
    pthread_t worker;
    size_t aggregator_max;

    /* the starting thread only */
    pthread_t *aggregators;
    size_t aggregator_count;

    /* guards: wanted, stop, ended */
    struct lock lock;
    pthread_cond_t changed;
    bool wanted, stop, ended; /* ended: the worker does no more work */
};

static void *threads_work(void *argument) {
    struct threads *threads = argument;
    for (;;) {
        lock_take(&threads->lock);
        while (!threads->wanted && !threads->stop)
            lock_wait(&threads->lock, &threads->changed, -1);
        bool stop = threads->stop;
        threads->wanted = false;
        threads->ended = stop;
        pthread_cond_broadcast(&threads->changed);
        lock_release(&threads->lock);
        if (stop)
            return NULL;
        server_work(threads->server, time_now_ms());
    }
}

static void *threads_run_aggregator(void *argument) {
    struct aggregator *aggregator = argument;
    while (aggregator_wait(aggregator))
        while (aggregator_run(aggregator, time_now_ms()))
            ;
    return NULL;
}

int threads_new(struct server *server, struct threads **ret, struct error *reterr) {
    struct threads *threads = mem_alloc(sizeof *threads);
    threads->server = server;
    threads->aggregator_max = (size_t)server->config->aggregation_threads;
    threads->aggregators = mem_array(threads->aggregator_max, sizeof *threads->aggregators);
    lock_init(&threads->lock, LOCK_CONN, "threads");
    lock_cond_init(&threads->changed);
    int r = pthread_create(&threads->worker, NULL, threads_work, threads);
    if (r != 0) {
        lock_done(&threads->lock);
        pthread_cond_destroy(&threads->changed);
        mem_free(threads->aggregators);
        mem_free(threads);
        return error_set(reterr, ERR_IO, "cannot start the thread for slow work: %s", strerror(r));
    }
    *ret = threads;
    return 0;
}

void threads_wake(struct threads *threads) {
    lock_take(&threads->lock);
    threads->wanted = true;
    pthread_cond_broadcast(&threads->changed);
    lock_release(&threads->lock);
}

/* The aggregator is made before the state says serving, and lives as long as the server. */
int threads_aggregate(struct threads *threads, struct error *reterr) {
    if (threads->aggregator_count > 0 || atomic_load(&threads->server->state) != SERVER_SERVING)
        return 0;
    while (threads->aggregator_count < threads->aggregator_max) {
        int r = pthread_create(&threads->aggregators[threads->aggregator_count], NULL,
                               threads_run_aggregator, threads->server->aggregator);
        if (r != 0)
            return error_set(reterr, ERR_IO, "cannot start aggregator thread %zu: %s",
                             threads->aggregator_count, strerror(r));
        threads->aggregator_count++;
    }
    return 0;
}

bool threads_end(struct threads *threads, int timeout_ms) {
    if (!threads)
        return true;
    uint64_t until_ms = time_now_ms() + (uint64_t)timeout_ms, now_ms;
    lock_take(&threads->lock);
    threads->stop = true;
    pthread_cond_broadcast(&threads->changed);
    while (!threads->ended && (now_ms = time_now_ms()) < until_ms)
        lock_wait(&threads->lock, &threads->changed, (int64_t)(until_ms - now_ms));
    bool ended = threads->ended;
    lock_release(&threads->lock);
    return ended;
}

struct quiet {
    int (*work)(void *argument);
    void *argument;
    int result;
};

static void *run_quietly(void *argument) {
    struct quiet *quiet = argument;
    setpriority(PRIO_PROCESS, (id_t)gettid(), QUIET_NICE); /* on Linux, of this thread */
    quiet->result = quiet->work(quiet->argument);
    return NULL;
}

/* Its own thread: one that has become nice may not become as others again. */
int threads_quietly(int (*work)(void *argument), void *argument) {
    struct quiet quiet = {.work = work, .argument = argument};
    pthread_t thread;
    if (pthread_create(&thread, NULL, run_quietly, &quiet) != 0)
        return work(argument);
    pthread_join(thread, NULL);
    return quiet.result;
}

struct threads *threads_free(struct threads *threads) {
    if (!threads)
        return NULL;
    threads_end(threads, 0);
    pthread_join(threads->worker, NULL);
    if (threads->aggregator_count > 0)
        aggregator_stop(threads->server->aggregator);
    for (size_t i = 0; i < threads->aggregator_count; i++)
        pthread_join(threads->aggregators[i], NULL);
    lock_done(&threads->lock);
    pthread_cond_destroy(&threads->changed);
    mem_free(threads->aggregators);
    mem_free(threads);
    return NULL;
}
