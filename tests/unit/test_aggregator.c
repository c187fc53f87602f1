/* server/aggregator: every push merged exactly once, whatever threads do. */
#include "tests/test.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "common/metrics.h"
#include "common/rng.h"
#include "server/aggregator.h"

enum { WORKERS = 4, BLOCKS = 7, CLOCKS = 500, RUNNERS = 3, IDS = WORKERS * CLOCKS };
static const uint32_t sizes[BLOCKS] = {1, 16, 33, 7, 128, 1000, 3};

/* A shard's data plane, and what was reported of each push. */
struct bench {
    struct roster roster;
    struct block_rule rule;
    struct optimizer optimizer;
    struct schedule schedule;
    struct block blocks[BLOCKS];
    struct aggregator *aggregator;
    atomic_uint applied[IDS], late[IDS];
    atomic_uint admitted, reported;
    pthread_rwlock_t admission;
};

static void applied(void *ctx, const struct push *push) {
    struct bench *b = ctx;
    ck_assert_uint_eq(atomic_load(&push->remaining), 0);
    atomic_fetch_add(&b->applied[push->id], 1);
    atomic_fetch_add(&b->late[push->id], atomic_load(&push->late));
    atomic_fetch_add(&b->reported, 1);
}

static const struct aggregator_ops ops = {.applied = applied};

static struct bench *bench_new(bool bsp, uint32_t close_pushes, uint32_t max_wait_ms) {
    struct bench *b = mem_alloc(sizeof *b);
    roster_init(&b->roster, WORKERS);
    b->rule = (struct block_rule){
        .bsp = bsp, .close_pushes = close_pushes, .max_wait_ms = max_wait_ms, .roster = &b->roster};
    b->optimizer = (struct optimizer){.kind = OPTIMIZER_SGD};
    b->schedule.lr = 1;
    for (uint32_t i = 0; i < BLOCKS; i++) {
        struct buf *weights = buf_new(sizes[i] * sizeof(float));
        memset(weights->data, 0, weights->len);
        block_init(&b->blocks[i], i, sizes[i], true, weights, 0);
    }
    pthread_rwlock_init(&b->admission, NULL);
    b->aggregator =
        aggregator_new(b->blocks, BLOCKS, &b->rule, &b->optimizer, &b->schedule, &ops, b);
    return b;
}

static void bench_free(struct bench *b) {
    aggregator_free(b->aggregator);
    for (int i = 0; i < BLOCKS; i++)
        block_done(&b->blocks[i]);
    roster_done(&b->roster);
    pthread_rwlock_destroy(&b->admission);
    mem_free(b);
}

/* A push of gradient `value` in every element of blocks first to BLOCKS - 1. */
static void admit_from(struct bench *b, uint32_t first, uint32_t rank, uint64_t clock, float weight,
                       float value, uint64_t id, uint64_t now_ms) {
    uint32_t count = BLOCKS - first, index[BLOCKS];
    struct push *push = push_new(count);
    push->rank = rank;
    push->clock = clock;
    push->id = id;
    push->weight = weight;
    push->codec = CODEC_FP32;
    size_t floats = 0;
    for (uint32_t i = 0; i < count; i++)
        floats += sizes[first + i];
    push->buf = buf_new(floats * sizeof(float));
    float *at = (float *)(void *)push->buf->data;
    for (uint32_t i = 0; i < count; i++) {
        index[i] = first + i;
        push->parts[i].bytes = (const uint8_t *)at;
        push->parts[i].version = 1;
        for (uint32_t k = 0; k < sizes[first + i]; k++)
            *at++ = value;
    }
    aggregator_admit(b->aggregator, push, index, now_ms);
}

static void admit(struct bench *b, uint32_t rank, uint64_t clock, float weight, float value,
                  uint64_t id, uint64_t now_ms) {
    admit_from(b, 0, rank, clock, weight, value, id, now_ms);
}

static void run_all(struct bench *b) {
    while (aggregator_run(b->aggregator, 0))
        ;
}

/* Every element of the block is `value` (to tolerance), and its version is `version`. */
static void expect_near(struct bench *b, int block, double value, double tolerance,
                        uint64_t version) {
    uint64_t got;
    struct buf *weights = block_read(&b->blocks[block], &got);
    const float *w = (const float *)(const void *)weights->data;
    ck_assert_uint_eq(got, version);
    for (uint32_t i = 0; i < sizes[block]; i++)
        ck_assert_msg(fabs((double)w[i] - value) <= tolerance, "block %d[%u]: %.9g, not %.9g",
                      block, i, (double)w[i], value);
    buf_unref(weights);
}
static void expect(struct bench *b, int block, double value, uint64_t version) {
    expect_near(b, block, value, 0, version);
}

/* Promise: a batch is merged as the sample-weighted mean in one step; a push without samples counts
 * nothing but is acknowledged; staleness and batch size are told. */
START_TEST(weighted_mean) {
    struct bench *b = bench_new(false, 3, 50);
    admit(b, 0, 0, 1, 8, 0, 0);
    admit(b, 1, 0, 3, 4, 1, 0);
    ck_assert_uint_eq(aggregator_pending(b->aggregator), 2 * BLOCKS);
    ck_assert(!aggregator_run(b->aggregator, 0));
    admit(b, 2, 0, 0, 1000, 2, 0);
    run_all(b);
    for (int i = 0; i < BLOCKS; i++)
        expect(b, i, -(1 * 8 + 3 * 4) / 4.0, 2);
    for (int id = 0; id < 3; id++)
        ck_assert_uint_eq(b->applied[id], 1);
    ck_assert_uint_eq(aggregator_updates(b->aggregator), BLOCKS);
    ck_assert_uint_eq(b->blocks[3].steps, 1);

    /* Three more on version 1, at version 2: a staleness of 1. */
    for (uint32_t rank = 0; rank < 3; rank++)
        admit(b, rank, 1, 2, 1, 3 + rank, 0);
    run_all(b);
    expect(b, 5, -6, 3);
    struct histogram *h = mem_alloc(sizeof *h);
    metric_histogram(METRIC_STALENESS, h);
    ck_assert_uint_eq(h->count, (2 + 3) * BLOCKS);
    ck_assert_uint_eq(h->sum, 3 * BLOCKS);
    memset(h, 0, sizeof *h);
    metric_histogram(METRIC_BATCH, h);
    ck_assert_uint_eq(h->count, 2 * BLOCKS);
    ck_assert_uint_eq(h->sum, 6 * BLOCKS);
    ck_assert_uint_eq(metric_counter(METRIC_UPDATES), 2 * BLOCKS);
    mem_free(h);
    bench_free(b);
}
END_TEST

/* Promise: with damping a gradient counts 1 / (1 + staleness) of its weight, and one that is staler
 * than allowed nothing at all, but is acknowledged; in bsp both mean nothing. All parts carry
 * version 1, so the k-th update finds them k - 1 versions old. */
static void expect_stale(bool bsp, bool damped, uint32_t staleness_max, const double *weights) {
    struct bench *b = bench_new(bsp, 1, 50);
    b->rule.damped = damped;
    b->rule.staleness_max = staleness_max;
    for (int rank = 1; rank < WORKERS; rank++)
        atomic_store(&b->roster.from[rank], ROSTER_ABSENT);
    for (int id = 0; id < 4; id++) {
        admit(b, 0, (uint64_t)id, 2, 12, (uint64_t)id, 0);
        run_all(b);
        ck_assert_uint_eq(b->applied[id], 1);
        uint64_t version;
        struct buf *now = block_read(&b->blocks[2], &version);
        ck_assert_double_eq_tol(*(float *)(void *)now->data, weights[id], 1e-5);
        buf_unref(now);
    }
    bench_free(b);
}

START_TEST(stale) {
    expect_stale(false, false, 0, (const double[]){-12, -24, -36, -48});
    expect_stale(false, true, 0, (const double[]){-12, -18, -22, -25});
    expect_stale(false, false, 1, (const double[]){-12, -24, -24, -24});
    expect_stale(true, true, 1, (const double[]){-12, -24, -36, -48});
}
END_TEST

/* Promise: a statistic goes a share of the way to the mean of what is pushed, by number of samples;
 * neither the rate nor staleness shrinks it. */
START_TEST(statistics_are_followed) {
    for (int damped = 0; damped < 2; damped++) {
        struct bench *b = bench_new(false, 2, 50);
        b->rule.damped = damped;
        b->schedule.lr = 7;
        b->optimizer.average = 0.5F;
        b->blocks[2].statistic = true;
        static const double weights[] = {5, 7.5, 8.75};
        for (uint64_t step = 0; step < 3; step++) {
            admit(b, 0, step, 1, 4, 2 * step, 0);
            admit(b, 1, step, 3, 12, 2 * step + 1, 0);
            run_all(b);
            uint64_t version;
            struct buf *now = block_read(&b->blocks[2], &version);
            ck_assert_double_eq_tol(*(float *)(void *)now->data, weights[step], 1e-5);
            buf_unref(now);
        }
        bench_free(b);
    }
}
END_TEST

/* Promise: a batch without a single sample is acknowledged and changes nothing, and in bsp the
 * clock goes on. */
START_TEST(no_samples) {
    for (int bsp = 0; bsp < 2; bsp++) {
        struct bench *b = bench_new(bsp, WORKERS, 50);
        for (uint32_t rank = 0; rank < WORKERS; rank++)
            admit(b, rank, 0, 0, 5, rank, 0);
        run_all(b);
        for (int i = 0; i < BLOCKS; i++) {
            expect(b, i, 0, 1);
            ck_assert_uint_eq(b->blocks[i].steps, 0);
            ck_assert_uint_eq(b->blocks[i].clock, bsp ? 1 : 0);
        }
        ck_assert_uint_eq(b->reported, WORKERS);
        for (uint32_t rank = 0; rank < WORKERS; rank++)
            admit(b, rank, 1, 1, 5, WORKERS + rank, 0);
        run_all(b);
        expect(b, 4, -5, 2);
        bench_free(b);
    }
}
END_TEST

/* Promise: a batch that nobody fills is merged when its time comes, and the tick says when that is.
 */
START_TEST(time_comes) {
    struct bench *b = bench_new(false, 100, 50);
    ck_assert_uint_eq(aggregator_tick(b->aggregator, 900), UINT64_MAX);
    admit(b, 0, 0, 1, 1, 0, 1000);
    admit_from(b, 2, 1, 0, 1, 3, 1, 1020);
    ck_assert_uint_eq(aggregator_tick(b->aggregator, 1049), 1050);
    ck_assert(!aggregator_run(b->aggregator, 1049));
    ck_assert_uint_eq(aggregator_tick(b->aggregator, 1050), UINT64_MAX);
    run_all(b);
    expect(b, 0, -1, 2);
    expect(b, 2, -2, 2);
    admit(b, 0, 1, 1, 1, 2, 1100);
    ck_assert_uint_eq(aggregator_tick(b->aggregator, 1110), 1150);
    ck_assert_uint_eq(b->reported, 2);
    bench_free(b);
}
END_TEST

/* Promise: a part that comes while its block is worked on, and whose time a tick could not learn
 * for that reason, is merged all the same when its time has come. */
enum { LONG_FLOATS = 1 << 23 }; /* a step takes some 20 ms, what happens meanwhile some 20 us */

static void *run_one(void *aggregator) {
    return aggregator_run(aggregator, 0) ? aggregator : NULL;
}

static struct push *long_push(uint64_t id) {
    struct push *push = push_new(1);
    push->id = id;
    push->weight = 1;
    push->buf = buf_new(LONG_FLOATS * sizeof(float));
    memset(push->buf->data, 0, push->buf->len);
    push->parts[0].bytes = push->buf->data;
    push->parts[0].version = 1;
    return push;
}

START_TEST(time_comes_while_it_works) {
    struct bench *b = bench_new(false, 2, 5);
    struct buf *weights = buf_new(LONG_FLOATS * sizeof(float));
    memset(weights->data, 0, weights->len);
    struct block block;
    const uint32_t index = 0;
    block_init(&block, 0, LONG_FLOATS, true, weights, 0);
    struct aggregator *aggregator =
        aggregator_new(&block, 1, &b->rule, &b->optimizer, &b->schedule, &ops, b);
    for (uint64_t id = 0; id < 2; id++)
        aggregator_admit(aggregator, long_push(id), &index, 0);
    struct push *late = long_push(2);
    pthread_t thread;
    void *worked;
    pthread_create(&thread, NULL, run_one, aggregator);
    while (block_pending(&block) > 0)
        sched_yield();
    aggregator_admit(aggregator, late, &index, 1);
    aggregator_tick(aggregator, 10);
    pthread_join(thread, &worked);
    ck_assert_ptr_nonnull(worked);
    ck_assert_uint_eq(b->applied[2], 0);
    uint64_t next_ms = aggregator_tick(aggregator, 11);
    ck_assert_msg(aggregator_run(aggregator, 11), "nobody looks before %llu ms",
                  (unsigned long long)next_ms);
    ck_assert_uint_eq(b->applied[2], 1);
    aggregator_free(aggregator);
    block_done(&block);
    bench_free(b);
}
END_TEST

/* Promise (bsp): a late push is acknowledged and not merged; one that a newer process of its rank
 * repeats gives way; both say so. */
START_TEST(late_and_replaced) {
    struct bench *b = bench_new(true, 0, 50);
    admit(b, 0, 0, 1, 100, 0, 0);
    admit(b, 0, 0, 1, 8, 1, 0); /* the newer process */
    ck_assert_uint_eq(b->applied[0], 1);
    ck_assert_uint_eq(b->late[0], BLOCKS);
    for (uint32_t rank = 1; rank < WORKERS; rank++)
        admit(b, rank, 0, 1, 0, 1 + rank, 0);
    run_all(b);
    expect(b, 6, -2, 2);
    ck_assert_uint_eq(b->applied[1], 1);
    ck_assert_uint_eq(b->late[1], 0);
    admit(b, 2, 0, 1, 100, 10, 0);
    ck_assert_uint_eq(b->applied[10], 1);
    ck_assert_uint_eq(b->late[10], BLOCKS);
    run_all(b);
    expect(b, 6, -2, 2);
    ck_assert_uint_eq(aggregator_pending(b->aggregator), 0);

    /* A rank leaves: what waited for it goes on after a recheck. */
    for (uint32_t rank = 1; rank < WORKERS; rank++)
        admit(b, rank, 1, 1, 3, 10 + rank, 0);
    ck_assert(!aggregator_run(b->aggregator, 0));
    atomic_store(&b->roster.from[0], ROSTER_ABSENT);
    aggregator_recheck(b->aggregator, 0);
    run_all(b);
    expect(b, 6, -5, 3);
    bench_free(b);
}
END_TEST

/* Promise: weights that a reader holds never change, though buffers are used again. */
START_TEST(readers_keep_theirs) {
    struct bench *b = bench_new(false, 1, 50);
    struct buf *held[20];
    uint64_t version;
    for (int i = 0; i < 20; i++) {
        held[i] = block_read(&b->blocks[4], &version);
        admit(b, 0, 0, 1, 1, (uint64_t)i, 0);
        run_all(b);
        if (i % 3 == 2) /* some readers are quick */
            held[i] = buf_unref(held[i]);
    }
    for (int i = 0; i < 20; i++) {
        if (!held[i])
            continue;
        ck_assert_float_eq(((const float *)(const void *)held[i]->data)[100], (float)-i);
        buf_unref(held[i]);
    }
    expect(b, 4, -20, 21);
    bench_free(b);
}
END_TEST

/* Promise: what still waits when a shard ends is freed and not reported. */
START_TEST(freed_unapplied) {
    struct bench *b = bench_new(false, 3, 50);
    admit(b, 0, 0, 1, 1, 0, 0);
    admit_from(b, 3, 1, 0, 1, 1, 1, 0);
    admit_from(b, 5, 2, 0, 1, 1, 2, 0); /* blocks 5 and 6 are ready */
    ck_assert(aggregator_run(b->aggregator, 0));
    bench_free(b); /* the sanitizers see what is lost or freed twice */
}
END_TEST

static void *runner(void *arg) {
    struct bench *b = arg;
    while (aggregator_wait(b->aggregator))
        aggregator_run(b->aggregator, 0);
    return NULL;
}

struct sender {
    struct bench *b;
    uint32_t rank;
    pthread_t thread;
};

/* Exact in a float, so that the sum of all is, too. */
static float gradient(uint32_t rank, uint64_t clock) {
    return (float)rng_below(rng_at(rng_key(rank, 7), clock), 64) - 30;
}

static void *sender(void *arg) {
    struct sender *s = arg;
    for (uint64_t clock = 0; clock < CLOCKS; clock++) {
        pthread_rwlock_rdlock(&s->b->admission);
        atomic_fetch_add(&s->b->admitted, 1);
        admit(s->b, s->rank, clock, 1, s->b->rule.bsp ? gradient(s->rank, clock) : 1,
              s->rank * CLOCKS + clock, 0);
        pthread_rwlock_unlock(&s->b->admission);
        sched_yield();
    }
    return NULL;
}

/* Runs senders and runners; meanwhile stops the world several times as a checkpoint does. */
static void run_threads(struct bench *b) {
    pthread_t runners[RUNNERS];
    struct sender senders[WORKERS];
    for (int i = 0; i < RUNNERS; i++)
        pthread_create(&runners[i], NULL, runner, b);
    for (uint32_t i = 0; i < WORKERS; i++) {
        senders[i] = (struct sender){.b = b, .rank = i};
        pthread_create(&senders[i].thread, NULL, sender, &senders[i]);
    }
    uint64_t now_ms = 0;
    for (int cut = 0; cut < 20; cut++) {
        pthread_rwlock_rdlock(&b->admission);
        aggregator_tick(b->aggregator, ++now_ms);
        aggregator_recheck(b->aggregator, now_ms);
        pthread_rwlock_unlock(&b->admission);
        pthread_rwlock_wrlock(&b->admission);
        aggregator_drain(b->aggregator, now_ms);
        uint64_t versions = 0;
        for (int i = 0; i < BLOCKS; i++) { /* at rest: read without a lock */
            ck_assert(!b->blocks[i].queued);
            ck_assert_uint_eq(b->blocks[i].steps + 1, b->blocks[i].version);
            versions += b->blocks[i].steps;
        }
        ck_assert_uint_eq(versions, aggregator_updates(b->aggregator));
        if (!b->rule.bsp) {
            ck_assert_uint_eq(aggregator_pending(b->aggregator), 0);
            ck_assert_uint_eq(b->reported, b->admitted);
        }
        pthread_rwlock_unlock(&b->admission);
    }
    for (int i = 0; i < WORKERS; i++)
        pthread_join(senders[i].thread, NULL);
    aggregator_drain(b->aggregator, now_ms);
    aggregator_stop(b->aggregator);
    for (int i = 0; i < RUNNERS; i++)
        pthread_join(runners[i], NULL);
    ck_assert_uint_eq(aggregator_pending(b->aggregator), 0);
    for (int id = 0; id < IDS; id++) {
        ck_assert_uint_eq(b->applied[id], 1);
        ck_assert_uint_eq(b->late[id], 0);
    }
    /* Every part was in just one batch. */
    struct histogram *h = mem_alloc(sizeof *h);
    metric_histogram(METRIC_BATCH, h);
    ck_assert_uint_eq(h->sum, (uint64_t)IDS * BLOCKS);
    ck_assert_uint_eq(h->count, aggregator_updates(b->aggregator));
    mem_free(h);
}

/* Promise: threads that admit and threads that merge lose nothing and double nothing: in bsp, where
 * the batches are known, the weights are exactly the sum of all means. */
START_TEST(threads_bsp) {
    struct bench *b = bench_new(true, 0, 50);
    run_threads(b);
    double sum = 0;
    for (uint64_t clock = 0; clock < CLOCKS; clock++)
        for (uint32_t rank = 0; rank < WORKERS; rank++)
            sum += (double)gradient(rank, clock) / WORKERS;
    for (int i = 0; i < BLOCKS; i++)
        expect(b, i, -sum, CLOCKS + 1);
    bench_free(b);
}
END_TEST

/* Promise: the same in async with batches that close by count, and with batches that only a drain
 * or the time closes: each update moves the weights by the mean, here 1. */
START_TEST(threads_async) {
    struct bench *b = bench_new(false, _i == 0 ? 2 : 1000000, _i == 0 ? 1 : 60000);
    run_threads(b);
    for (int i = 0; i < BLOCKS; i++) {
        /* n times 1 / n need not be 1: half an ulp for each addition of a batch, which may be all.
         */
        double updates = (double)b->blocks[i].version - 1, tolerance = 6e-8 * IDS;
        expect_near(b, i, -updates, tolerance * updates, b->blocks[i].version);
    }
    bench_free(b);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("aggregator");
    TCase *tcase = tcase_create("aggregator");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, weighted_mean);
    tcase_add_test(tcase, stale);
    tcase_add_test(tcase, statistics_are_followed);
    tcase_add_test(tcase, no_samples);
    tcase_add_test(tcase, time_comes);
    tcase_add_test(tcase, time_comes_while_it_works);
    tcase_add_test(tcase, late_and_replaced);
    tcase_add_test(tcase, readers_keep_theirs);
    tcase_add_test(tcase, freed_unapplied);
    tcase_add_test(tcase, threads_bsp);
    tcase_add_loop_test(tcase, threads_async, 0, 2);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
