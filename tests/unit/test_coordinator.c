/* Shard 0's second half: who counts, who may go on, when the job ends, what all shards restore and
 * write. Driven by messages and a clock in the test's hands. */
#include <string.h>

#include "common/log.h"
#include "tests/test.h"
#include "tests/unit/seam.h"

#define WORKERS 3
#define LEASE_MS 1000

static struct config *config;
static struct seam_disk disk;
static struct server *server;
static struct coordinator *c;
static struct seam_conn conns[WORKERS], peer_conn;
static uint64_t now;

static void begin(int mode) {
    now = 1000;
    config = seam_config(WORKERS, 2);
    config->consistency_mode = mode;
    config->consistency_staleness = 1;
    server = seam_server(config, 0, 77, &disk);
    c = server->coordinator;
    coordinator_tick(c, now);
}

static void finish(void) {
    for (size_t i = 0; i < WORKERS; i++)
        coordinator_disconnected(c, &conns[i]);
    coordinator_disconnected(c, &peer_conn);
    server = server_free(server);
    for (size_t i = 0; i < WORKERS; i++)
        seam_conn_done(&conns[i]);
    seam_conn_done(&peer_conn);
    seam_disk_done(&disk);
    config_free(config);
}

/* --- the shards --- */

static struct shard {
    Graphps__PeerReport report;
    Graphps__PeerOrder order; /* the last one */
} shards[2];

/* Orders that were sent unasked; the answers to reports say the same. */
static void orders_forget(void) {
    ProtobufCMessage *order;
    while ((order = seam_take(&peer_conn, FRAME_PEER_ORDER)))
        wire_free(order);
}

static void report(uint32_t shard) {
    Graphps__PeerReport *r = &shards[shard].report;
    struct error err;
    orders_forget();
    r->id++;
    r->job = "unit";
    r->shard = shard;
    r->shards = 2;
    coordinator_order_done(&shards[shard].order);
    graphps__peer_order__init(&shards[shard].order);
    ck_assert_msg(
        coordinator_report(c, shard ? &peer_conn : NULL, r, now, &shards[shard].order, &err) == 0,
        "%s", error_text(&err));
}

static void shards_reset(void) {
    for (uint32_t s = 0; s < 2; s++) {
        graphps__peer_report__init(&shards[s].report);
        shards[s].report.incarnation = 100 + s;
        coordinator_order_done(&shards[s].order);
        graphps__peer_order__init(&shards[s].order);
    }
}

static void shards_done(void) {
    for (uint32_t s = 0; s < 2; s++)
        coordinator_order_done(&shards[s].order);
}

/* A shard carries out all that it is ordered: roster, best, candidate, generation. */
static void obey(uint32_t shard) {
    for (int i = 0; i < 3; i++) {
        Graphps__PeerReport *r = &shards[shard].report;
        const Graphps__PeerOrder *order = &shards[shard].order;
        report(shard);
        if (order->restore && !r->restored) {
            r->restored = true;
            r->generation = order->restore_generation;
            r->run = order->run ? order->run : 55;
            r->generations = NULL;
            r->n_generations = 0;
        }
        r->order = order->order;
        r->best_epoch = order->best_epoch;
        r->candidate_epoch = order->candidate_epoch;
        if (r->restored && order->generation > r->generation)
            r->generation = order->generation;
    }
}

static void obey_both(void) {
    for (int i = 0; i < 3; i++) {
        obey(0);
        obey(1);
    }
}

static void restore_fresh(void) {
    shards_reset();
    obey_both();
    ck_assert(shards[0].report.restored && shards[1].report.restored);
}

/* --- the workers --- */

static int try_hello(uint32_t rank, uint64_t incarnation, uint64_t attempt, uint64_t clock,
                     Graphps__Welcome *welcome, struct error *err) {
    Graphps__Hello hello = GRAPHPS__HELLO__INIT;
    hello.rank = rank;
    hello.incarnation = incarnation;
    hello.attempt = attempt;
    hello.clock = clock;
    hello.steps_per_epoch = 2;
    hello.http = "";
    graphps__welcome__init(welcome);
    return coordinator_hello(c, &conns[rank], &hello, now, now, welcome, err);
}

static Graphps__Welcome hello(uint32_t rank, uint64_t incarnation, uint64_t attempt,
                              uint64_t clock) {
    Graphps__Welcome welcome;
    struct error err;
    ck_assert_msg(try_hello(rank, incarnation, attempt, clock, &welcome, &err) == 0, "%s",
                  error_text(&err));
    return welcome;
}

/* All ranks join as processes 10, 11, 12. */
static void join_all(void) {
    for (uint32_t rank = 0; rank < WORKERS; rank++)
        hello(rank, 10 + rank, 0, 0);
    obey_both();
}

static int say_clock(uint32_t rank, uint64_t value) {
    Graphps__Clock clock = GRAPHPS__CLOCK__INIT;
    struct error err;
    clock.id = 1000 + value;
    clock.rank = rank;
    clock.incarnation = 10 + rank;
    clock.clock = value;
    return coordinator_clock(c, &conns[rank], &clock, now, &err);
}

static void expect_gate(uint32_t rank, uint64_t value, bool stop) {
    Graphps__Gate *gate = (Graphps__Gate *)seam_take(&conns[rank], FRAME_GATE);
    ck_assert_msg(gate != NULL, "rank %u: no gate for step %d", rank, (int)value);
    ck_assert_uint_eq(gate->clock, value);
    ck_assert_uint_eq(gate->id, 1000 + value);
    ck_assert_int_eq(gate->stop, stop);
    wire_free(&gate->base);
}

static void expect_no_gate(uint32_t rank) {
    seam_expect_none(&conns[rank], FRAME_GATE);
}

/* All ranks reach a clock and are let through. */
static void pass(uint64_t value) {
    for (uint32_t rank = 0; rank < WORKERS; rank++)
        ck_assert_int_eq(say_clock(rank, value), 0);
    for (uint32_t rank = 0; rank < WORKERS; rank++)
        expect_gate(rank, value, false);
}

static int say_eval(uint32_t rank, uint32_t epoch, uint64_t valid_correct) {
    Graphps__Eval eval = GRAPHPS__EVAL__INIT;
    struct error err;
    eval.id = epoch;
    eval.rank = rank;
    eval.incarnation = 10 + rank;
    eval.epoch = epoch;
    eval.train_loss_sum = 5;
    eval.train_count = eval.valid_count = 10;
    eval.valid_correct = valid_correct;
    return coordinator_eval(c, &conns[rank], &eval, now, &err);
}

static bool evaled(uint32_t rank, uint32_t epoch) {
    Graphps__Evaled *answer = (Graphps__Evaled *)seam_take(&conns[rank], FRAME_EVALED);
    bool is = answer != NULL;
    if (is)
        ck_assert_uint_eq(answer->epoch, epoch);
    wire_free(answer ? &answer->base : NULL);
    return is;
}

static void say_bye(uint32_t rank, bool done) {
    Graphps__Bye bye = GRAPHPS__BYE__INIT;
    struct error err;
    bye.id = 9;
    bye.rank = rank;
    bye.incarnation = 10 + rank;
    bye.done = done;
    ck_assert_int_eq(coordinator_bye(c, &conns[rank], &bye, now, &err), 0);
}

static bool goodbye(uint32_t rank) {
    ProtobufCMessage *answer = seam_take(&conns[rank], FRAME_GOODBYE);
    wire_free(answer);
    return answer != NULL;
}

/* By the answer to a heartbeat. */
static bool told_to_stop(uint32_t rank) {
    Graphps__Heartbeat beat = GRAPHPS__HEARTBEAT__INIT;
    struct error err;
    beat.rank = rank;
    beat.incarnation = 10 + rank;
    ck_assert_int_eq(coordinator_heartbeat(c, &conns[rank], &beat, now, &err), 0);
    Graphps__Alive *alive = (Graphps__Alive *)seam_take(&conns[rank], FRAME_ALIVE);
    bool stop = alive && alive->stop;
    wire_free(alive ? &alive->base : NULL);
    return stop;
}

static void heartbeat(uint32_t rank) {
    (void)told_to_stop(rank);
}

/* Time goes by in ticks, while shard 1 and the ranks in the mask are heard. */
static void wait_ms(uint64_t ms, unsigned ranks) {
    for (uint64_t end = now + ms; now < end;) {
        now += 50;
        for (uint32_t rank = 0; rank < WORKERS; rank++)
            if (ranks & (1u << rank))
                heartbeat(rank);
        report(0);
        report(1);
        coordinator_tick(c, now);
        orders_forget();
    }
}

static void expect_status(const char *state, const char *waiting_for) {
    Graphps__Status status;
    coordinator_status(c, now, &status);
    ck_assert_str_eq(status.state, state);
    ck_assert_msg(strstr(status.waiting_for, waiting_for), "it waits for '%s', not for '%s'",
                  status.waiting_for, waiting_for);
    coordinator_status_done(&status);
}

/* --- tests --- */

/* All shards restore the newest generation that all hold: shard 0 first, then the others, who learn
 * the run from it. */
START_TEST(test_restore) {
    uint64_t own[] = {2, 3, 5}, theirs[] = {1, 2, 3, 4};
    begin(CONSISTENCY_ASYNC);
    shards_reset();
    shards[0].report.generations = own;
    shards[0].report.n_generations = 3;
    shards[1].report.generations = theirs;
    shards[1].report.n_generations = 4;
    report(0);
    ck_assert(!shards[0].order.restore);
    expect_status("starting", "shard 1: not reported yet");
    report(1);
    ck_assert(!shards[1].order.restore);
    report(0);
    ck_assert(shards[0].order.restore);
    ck_assert_uint_eq(shards[0].order.restore_generation, 3);
    shards[0].report.restored = true;
    shards[0].report.run = 55;
    shards[0].report.generation = 3;
    report(0);
    report(1);
    ck_assert(shards[1].order.restore);
    ck_assert_uint_eq(shards[1].order.restore_generation, 3);
    ck_assert_uint_eq(shards[1].order.run, 55);
    obey_both();
    join_all();
    /* What comes next has a number that nobody has used. */
    shards[1].report.leaving = true;
    report(1);
    ck_assert_uint_eq(shards[1].order.generation, 6);
    shards_done();
    finish();
}
END_TEST

/* A run that goes on is joined: shard 0 takes its newest generation, but none beyond what the
 * others were ordered, for that is of another line; without one it starts fresh in the same run. */
START_TEST(test_restore_alone) {
    uint64_t own[] = {2, 3, 5};
    for (int with = 0; with < 2; with++) {
        begin(CONSISTENCY_ASYNC);
        shards_reset();
        shards[1].report.restored = true;
        shards[1].report.run = 44;
        shards[1].report.order = 900; /* of shard 0's life before */
        shards[1].report.ordered = with ? 4 : 1;
        report(1);
        ck_assert_uint_gt(shards[1].order.order, 900);
        shards[0].report.generations = own;
        shards[0].report.n_generations = 3;
        report(0);
        ck_assert(shards[0].order.restore);
        ck_assert_uint_eq(shards[0].order.restore_generation, with ? 3 : 0);
        ck_assert_uint_eq(shards[0].order.run, 44);
        shards_done();
        finish();
    }
}
END_TEST

/* bsp: nobody starts a step before all have finished the one before. */
START_TEST(test_bsp_gate) {
    begin(CONSISTENCY_BSP);
    restore_fresh();
    hello(0, 10, 0, 0);
    hello(1, 11, 0, 0);
    ck_assert_int_eq(say_clock(0, 0), 0);
    expect_no_gate(0);
    hello(2, 12, 0, 0);
    obey_both();
    expect_gate(0, 0, false);
    pass(0);
    ck_assert_int_eq(say_clock(0, 1), 0);
    ck_assert_int_eq(say_clock(1, 1), 0);
    wait_ms(400, 7);
    expect_no_gate(0);
    ck_assert_int_eq(say_clock(2, 1), 0);
    expect_gate(0, 1, false);
    expect_gate(1, 1, false);
    expect_gate(2, 1, false);
    shards_done();
    finish();
}
END_TEST

/* ssp: the fastest is at most so many steps ahead of the slowest. async: nobody waits. */
START_TEST(test_other_gates) {
    for (int mode = CONSISTENCY_ASYNC; mode <= CONSISTENCY_SSP; mode++) {
        begin(mode);
        restore_fresh();
        join_all();
        pass(0);
        ck_assert_int_eq(say_clock(0, 1), 0);
        expect_gate(0, 1, false);
        ck_assert_int_eq(say_clock(0, 2), 0);
        if (mode == CONSISTENCY_ASYNC) {
            expect_gate(0, 2, false);
        } else {
            ck_assert_int_eq(say_clock(1, 1), 0);
            expect_no_gate(0);
            ck_assert_int_eq(say_clock(2, 1), 0);
            expect_gate(0, 2, false);
        }
        shards_done();
        finish();
    }
}
END_TEST

/* A worker that is silent for its lease is lost; bsp goes on without it once every shard knows, and
 * it comes back at a step that the others have not begun. */
START_TEST(test_lease) {
    begin(CONSISTENCY_BSP);
    restore_fresh();
    join_all();
    pass(0);
    ck_assert_int_eq(say_clock(0, 1), 0);
    ck_assert_int_eq(say_clock(1, 1), 0);
    wait_ms(LEASE_MS * 3 / 4, 3);
    expect_status("training", "rank 2: silent for");
    wait_ms(LEASE_MS / 2, 3);
    expect_no_gate(0); /* shard 1 has reported, but not carried out the new roster */
    obey(0);
    expect_no_gate(0);
    obey(1);
    expect_gate(0, 1, false);
    expect_gate(1, 1, false);
    ck_assert_uint_eq(shards[1].order.n_roster, 2);
    ck_assert_int_eq(say_clock(2, 1), ERR_NOT_ATTACHED);

    Graphps__Welcome welcome = hello(2, 12, 0, 0);
    ck_assert_uint_eq(welcome.start_clock, 2);
    ck_assert_int_eq(say_clock(2, 2), 0);
    ck_assert_int_eq(say_clock(0, 2), 0);
    ck_assert_int_eq(say_clock(1, 2), 0);
    say_eval(0, 1, 5);
    say_eval(1, 1, 5);
    obey(0);
    expect_no_gate(0); /* it counts from 2 on: shard 1 must wait for its pushes first */
    expect_no_gate(2);
    obey(1);
    obey(0);
    ck_assert_uint_eq(shards[1].order.n_roster, 3);
    ck_assert_uint_eq(shards[1].order.roster_from[2], 2);
    expect_gate(0, 2, false);
    expect_gate(2, 2, false);
    shards_done();
    finish();
}
END_TEST

/* A new process of a rank within the lease goes on where the old one was, and fences it. */
START_TEST(test_takeover) {
    begin(CONSISTENCY_BSP);
    restore_fresh();
    join_all();
    pass(0);
    pass(1);
    Graphps__Welcome welcome = hello(2, 99, 0, 0);
    ck_assert_uint_eq(welcome.start_clock, 1);
    ck_assert_int_eq(say_clock(2, 2), ERR_FENCED);
    struct error err;
    Graphps__Welcome none;
    ck_assert_int_eq(try_hello(2, 12, welcome.attempt - 1, 2, &none, &err), ERR_FENCED);
    ck_assert_int_eq(try_hello(2, 12, welcome.attempt, 2, &none, &err), ERR_FENCED);
    ck_assert_int_eq(try_hello(2, 99, welcome.attempt, 1, &none, &err), 0);
    ck_assert_uint_eq(none.attempt, welcome.attempt);
    shards_done();
    finish();
}
END_TEST

/* The start waits for all ranks, then goes on with those that came. */
START_TEST(test_join_timeout) {
    begin(CONSISTENCY_BSP);
    restore_fresh();
    hello(0, 10, 0, 0);
    hello(1, 11, 0, 0);
    ck_assert_int_eq(say_clock(0, 0), 0);
    ck_assert_int_eq(say_clock(1, 0), 0);
    wait_ms(4000, 3);
    expect_no_gate(0);
    expect_status("starting", "rank 2: not joined yet");
    wait_ms(1500, 3);
    obey_both();
    expect_gate(0, 0, false);
    expect_status("training", "");
    shards_done();
    finish();
}
END_TEST

/* When nobody comes at all, the job is given up with "try again". */
START_TEST(test_nobody) {
    begin(CONSISTENCY_ASYNC);
    restore_fresh();
    wait_ms(20000, 0);
    ck_assert(!shards[1].order.finish);
    wait_ms(45000, 0);
    for (int i = 0; i < 4; i++) {
        obey_both();
        wait_ms(100, 0);
    }
    ck_assert(shards[1].order.finish && shards[0].order.finish);
    ck_assert_int_eq(-(int)shards[1].order.finish_code, ERR_TIMEOUT);
    shards_done();
    finish();
}
END_TEST

/* bsp: a report is answered when all are in and, if the epoch is the best so far, all shards have
 * kept its weights. A report that is repeated changes nothing. */
START_TEST(test_best) {
    begin(CONSISTENCY_BSP);
    restore_fresh();
    join_all();
    pass(0);
    pass(1);
    for (uint32_t rank = 0; rank < WORKERS; rank++)
        ck_assert_int_eq(say_clock(rank, 2), 0);
    ck_assert_int_eq(say_eval(0, 1, 6), 0);
    ck_assert_int_eq(say_eval(0, 1, 9), 0);
    ck_assert_int_eq(say_eval(1, 1, 6), 0);
    ck_assert(!evaled(0, 1));
    ck_assert_int_eq(say_eval(2, 1, 6), 0);
    report(0);
    ck_assert_uint_eq(shards[0].order.best_epoch, 1);
    obey(0);
    ck_assert(!evaled(0, 1));
    expect_no_gate(0);
    obey(1);
    ck_assert(evaled(0, 1) && evaled(1, 1) && evaled(2, 1));
    expect_gate(0, 2, false);
    Graphps__Status status;
    coordinator_status(c, now, &status);
    ck_assert_double_eq_tol(status.best->valid_accuracy, 0.6, 1e-9);
    ck_assert_double_eq_tol(status.last->train_loss, 0.5, 1e-9);
    coordinator_status_done(&status);
    struct error err;
    Graphps__Eval eval = GRAPHPS__EVAL__INIT;
    eval.incarnation = 10;
    eval.epoch = 11;
    ck_assert_int_eq(coordinator_eval(c, &conns[0], &eval, now, &err), ERR_RANGE);
    eval.epoch = 2;
    eval.train_loss_sum = 1.0 / 0.0;
    ck_assert_int_eq(coordinator_eval(c, &conns[0], &eval, now, &err), ERR_NOT_FINITE);
    shards_done();
    finish();
}
END_TEST

static void say_report(uint32_t rank, bool candidate, uint64_t correct) {
    Graphps__Eval eval = GRAPHPS__EVAL__INIT;
    struct error err;
    eval.id = candidate ? 2 : 1;
    eval.rank = rank;
    eval.incarnation = 10 + rank;
    eval.epoch = 1;
    eval.candidate = candidate;
    eval.train_count = candidate ? 0 : 10;
    eval.valid_count = candidate ? 10 : 0;
    eval.valid_correct = correct;
    ck_assert_int_eq(coordinator_eval(c, &conns[rank], &eval, now, &err), 0);
}

/* async: after the last epoch nobody is told to stop before all ranks have evaluated the weights
 * that all shards keep: an accuracy counts every rank's nodes. */
START_TEST(test_last_candidate) {
    begin(CONSISTENCY_ASYNC);
    config->train_epochs = 1;
    restore_fresh();
    join_all();
    pass(0);
    for (uint32_t rank = 0; rank < WORKERS; rank++) {
        ck_assert_int_eq(say_clock(rank, 2), 0);
        expect_gate(rank, 2, false);
        say_report(rank, false, 0);
    }
    for (uint32_t rank = 0; rank < WORKERS; rank++)
        ck_assert(!evaled(rank, 1));
    obey_both();
    for (uint32_t rank = 0; rank < WORKERS; rank++) {
        Graphps__Evaled *answer = (Graphps__Evaled *)seam_take(&conns[rank], FRAME_EVALED);
        ck_assert_ptr_nonnull(answer);
        ck_assert_uint_eq(answer->candidate, 1);
        wire_free(&answer->base);
    }
    say_report(0, true, 7);
    say_report(1, true, 5);
    ck_assert(!told_to_stop(2));
    say_report(2, true, 3);
    obey_both();
    ck_assert(told_to_stop(2));
    Graphps__Status status;
    coordinator_status(c, now, &status);
    ck_assert_uint_eq(status.best->epoch, 1);
    ck_assert_double_eq_tol(status.best->valid_accuracy, 0.5, 1e-9);
    coordinator_status_done(&status);
    ck_assert_uint_eq(shards[1].report.best_epoch, 1);
    shards_done();
    finish();
}
END_TEST

/* The job stops when so many epochs brought nothing better, all at the same step, and ends when the
 * last generation is on all disks: only then are the last workers let go and the shards told. */
START_TEST(test_early_stop) {
    begin(CONSISTENCY_BSP);
    config->train_patience = 2;
    restore_fresh();
    join_all();
    static const uint64_t correct[] = {0, 5, 7, 6, 7};
    pass(0);
    for (uint32_t epoch = 1; epoch <= 4; epoch++) {
        pass(2 * epoch - 1);
        for (uint32_t rank = 0; rank < WORKERS; rank++) {
            ck_assert_int_eq(say_clock(rank, 2 * epoch), 0);
            ck_assert_int_eq(say_eval(rank, epoch, correct[epoch]), 0);
        }
        obey_both();
        for (uint32_t rank = 0; rank < WORKERS; rank++) {
            ck_assert(evaled(rank, epoch));
            expect_gate(rank, 2 * epoch, epoch == 4);
        }
    }
    expect_status("draining", "rank 0");
    for (uint32_t rank = 0; rank < WORKERS; rank++)
        say_bye(rank, true);
    report(0);
    report(1);
    ck_assert_uint_eq(shards[1].order.generation, 1);
    ck_assert(!shards[1].order.finish && !goodbye(0));
    shards[0].report.generation = 1;
    report(0);
    ck_assert(!goodbye(0));
    shards[1].report.generation = 1;
    report(1);
    ck_assert(goodbye(0) && goodbye(1) && goodbye(2));
    ck_assert(shards[1].order.finish);
    ck_assert_uint_eq(shards[1].order.finish_code, 0);
    ck_assert_uint_eq(shards[1].order.best_epoch, 2);
    report(0);
    ck_assert(!shards[0].order.finish);
    obey(1);
    report(0);
    ck_assert(shards[0].order.finish);
    expect_status("done", "");
    shards_done();
    finish();
}
END_TEST

/* An interrupt: in bsp whoever was let into a step finishes it, then all are stopped at the same
 * one; the processes end with "try again". */
START_TEST(test_interrupt) {
    begin(CONSISTENCY_BSP);
    restore_fresh();
    join_all();
    pass(0);
    ck_assert_int_eq(say_clock(0, 1), 0);
    coordinator_interrupt(c, now);
    expect_gate(0, 1, true);
    ck_assert_int_eq(say_clock(1, 0), 0); /* its gate was lost on the way */
    expect_gate(1, 0, false);
    ck_assert_int_eq(say_clock(1, 1), 0);
    expect_gate(1, 1, true);
    say_bye(0, true);
    say_bye(1, true);
    say_bye(2, true);
    obey_both();
    ck_assert(shards[1].order.finish && shards[0].order.finish);
    ck_assert_int_eq(-(int)shards[1].order.finish_code, ERR_INTERRUPTED);
    shards_done();
    finish();
}
END_TEST

/* A shard that wants to leave gets a generation at once; one that cannot be written is given up and
 * the next one has another number. */
START_TEST(test_leave_and_fail) {
    begin(CONSISTENCY_ASYNC);
    config->checkpoint_every_s = 2;
    restore_fresh();
    join_all();
    wait_ms(2500, 7);
    ck_assert_uint_eq(shards[1].order.generation, 1);
    shards[0].report.generation = 1;
    shards[1].report.checkpoint_failed = 1;
    wait_ms(100, 7);
    ck_assert_uint_eq(shards[1].order.complete, 0);
    ck_assert_uint_eq(shards[1].order.generation, 1);
    wait_ms(2500, 7);
    ck_assert_uint_eq(shards[1].order.generation, 2);
    obey_both();
    ck_assert_uint_eq(shards[1].order.complete, 2);
    shards[1].report.leaving = true;
    report(1);
    ck_assert_uint_eq(shards[1].order.generation, 3);
    report(1);
    ck_assert_uint_eq(shards[1].order.generation, 3);
    shards_done();
    finish();
}
END_TEST

/* bsp: a checkpoint is ordered when all stand at a gate, and they stand until it is written, so
 * that all shards save the same step. */
START_TEST(test_bsp_checkpoint) {
    begin(CONSISTENCY_BSP);
    config->checkpoint_every_s = 2;
    restore_fresh();
    join_all();
    pass(0);
    wait_ms(2500, 7);
    ck_assert_uint_eq(shards[1].order.generation, 0);
    for (uint32_t rank = 0; rank < WORKERS; rank++)
        ck_assert_int_eq(say_clock(rank, 1), 0);
    report(1);
    ck_assert_uint_eq(shards[1].order.generation, 1);
    expect_no_gate(0);
    obey(0);
    expect_no_gate(0);
    obey(1);
    expect_gate(0, 1, false);
    json_t *state = coordinator_save(c);
    ck_assert_int_eq(json_integer_value(json_object_get(
                         json_array_get(json_object_get(state, "workers"), 0), "clock")),
                     1);
    json_decref(state);
    shards_done();
    finish();
}
END_TEST

/* What is saved comes back: clocks, attempts, best; a state that does not fit is refused. */
START_TEST(test_save_and_load) {
    begin(CONSISTENCY_BSP);
    restore_fresh();
    join_all();
    pass(0);
    pass(1);
    for (uint32_t rank = 0; rank < WORKERS; rank++) {
        say_clock(rank, 2);
        say_eval(rank, 1, 4);
    }
    obey_both();
    Graphps__Welcome before = hello(1, 11, 0, 2);
    json_t *state = coordinator_save(c);
    shards_done();
    finish();
    memset(conns, 0, sizeof conns);

    begin(CONSISTENCY_BSP);
    struct error err;
    ck_assert_msg(coordinator_load(c, state, &err) == 0, "%s", error_text(&err));
    restore_fresh();
    ck_assert_uint_eq(shards[1].order.best_epoch, 1);
    ck_assert_uint_eq(shards[1].order.roster_from[2], 2);
    Graphps__Welcome again = hello(1, 11, before.attempt, 2);
    ck_assert_uint_eq(again.start_clock, 2);
    ck_assert_uint_eq(hello(2, 50, 0, 0).start_clock, 2);
    Graphps__Welcome none;
    ck_assert_int_eq(try_hello(1, 51, before.attempt, 2, &none, &err), ERR_FENCED);
    coordinator_learn(c, 1, before.attempt + 5, 52);
    ck_assert_int_eq(try_hello(1, 11, before.attempt, 2, &none, &err), ERR_FENCED);

    json_array_clear(json_object_get(state, "workers"));
    ck_assert_int_eq(coordinator_load(c, state, &err), ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(err.text, "workers.count"));
    json_object_del(state, "best");
    ck_assert_int_eq(coordinator_load(c, state, &err), ERR_FORMAT);
    ck_assert_int_eq(coordinator_load(c, NULL, &err), ERR_FORMAT);
    json_decref(state);
    shards_done();
    finish();
}
END_TEST

/* A pause of our own process is nobody else's silence. */
START_TEST(test_own_pause) {
    begin(CONSISTENCY_BSP);
    restore_fresh();
    join_all();
    now += 20 * LEASE_MS;
    coordinator_tick(c, now);
    expect_status("training", "");
    for (uint32_t rank = 0; rank < WORKERS; rank++)
        heartbeat(rank); /* still counted */
    shards_done();
    finish();
}
END_TEST

/* A report of another job, or that a later one has overtaken, changes nothing. */
START_TEST(test_strange_report) {
    begin(CONSISTENCY_ASYNC);
    restore_fresh();
    struct error err;
    Graphps__PeerReport other = shards[1].report;
    Graphps__PeerOrder order = GRAPHPS__PEER_ORDER__INIT;
    other.job = "other";
    ck_assert_int_eq(coordinator_report(c, &peer_conn, &other, now, &order, &err), ERR_WRONG_JOB);
    other = shards[1].report;
    other.shards = 3;
    ck_assert_int_eq(coordinator_report(c, &peer_conn, &other, now, &order, &err), ERR_CONFIG);
    join_all();
    uint64_t generation = shards[1].report.generation;
    other = shards[1].report;
    other.id--;
    other.restored = false;
    ck_assert_int_eq(coordinator_report(c, &peer_conn, &other, now, &order, &err), 0);
    ck_assert(order.restore_generation == 0 && generation == 0);
    coordinator_order_done(&order);
    expect_status("training", "");
    shards_done();
    finish();
}
END_TEST

int main(void) {
    log_init("test", -1, (enum log_level)(LOG_ERROR + 1), false);
    Suite *suite = suite_create("coordinator");
    TCase *tcase = tcase_create("coordinator");
    tcase_add_test(tcase, test_restore);
    tcase_add_test(tcase, test_restore_alone);
    tcase_add_test(tcase, test_bsp_gate);
    tcase_add_test(tcase, test_other_gates);
    tcase_add_test(tcase, test_lease);
    tcase_add_test(tcase, test_takeover);
    tcase_add_test(tcase, test_join_timeout);
    tcase_add_test(tcase, test_nobody);
    tcase_add_test(tcase, test_best);
    tcase_add_test(tcase, test_early_stop);
    tcase_add_test(tcase, test_last_candidate);
    tcase_add_test(tcase, test_interrupt);
    tcase_add_test(tcase, test_leave_and_fail);
    tcase_add_test(tcase, test_bsp_checkpoint);
    tcase_add_test(tcase, test_save_and_load);
    tcase_add_test(tcase, test_own_pause);
    tcase_add_test(tcase, test_strange_report);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
