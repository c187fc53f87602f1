/* Shard 0's second half: who counts, who may go on, what all shards restore and write, what the
 * whole run is known to have sent. Epochs are in test_coordinator_epochs.c. */
#include <string.h>

#include "common/log.h"
#include "tests/test.h"
#include "tests/unit/coord.h"

/* All shards restore the newest generation that all hold: shard 0 first, then the others, who learn
 * the run from it. */
START_TEST(test_restore) {
    uint64_t own[] = {2, 3, 5}, theirs[] = {1, 2, 3, 4};
    coord_begin(CONSISTENCY_ASYNC);
    shards_reset();
    coord.shards[0].report.generations = own;
    coord.shards[0].report.n_generations = 3;
    coord.shards[1].report.generations = theirs;
    coord.shards[1].report.n_generations = 4;
    shard_report(0);
    ck_assert(!coord.shards[0].order.restore);
    coord_expect_status("starting", "shard 1: not reported yet");
    shard_report(1);
    ck_assert(!coord.shards[1].order.restore);
    shard_report(0);
    ck_assert(coord.shards[0].order.restore);
    ck_assert_uint_eq(coord.shards[0].order.restore_generation, 3);
    coord.shards[0].report.restored = true;
    coord.shards[0].report.run = 55;
    coord.shards[0].report.generation = 3;
    shard_report(0);
    shard_report(1);
    ck_assert(coord.shards[1].order.restore);
    ck_assert_uint_eq(coord.shards[1].order.restore_generation, 3);
    ck_assert_uint_eq(coord.shards[1].order.run, 55);
    shards_obey();
    ranks_join();
    /* What comes next has a number that nobody has used. */
    coord.shards[1].report.leaving = true;
    shard_report(1);
    ck_assert_uint_eq(coord.shards[1].order.generation, 6);
    shards_done();
    coord_finish();
}
END_TEST

/* A run that goes on is joined: shard 0 takes its newest generation, but none beyond what the
 * others were ordered, for that is of another line; without one it starts fresh in the same run. */
START_TEST(test_restore_alone) {
    uint64_t own[] = {2, 3, 5};
    for (int with = 0; with < 2; with++) {
        coord_begin(CONSISTENCY_ASYNC);
        shards_reset();
        coord.shards[1].report.restored = true;
        coord.shards[1].report.run = 44;
        coord.shards[1].report.order = 900; /* of shard 0's life before */
        coord.shards[1].report.ordered = with ? 4 : 1;
        shard_report(1);
        ck_assert_uint_gt(coord.shards[1].order.order, 900);
        coord.shards[0].report.generations = own;
        coord.shards[0].report.n_generations = 3;
        shard_report(0);
        ck_assert(coord.shards[0].order.restore);
        ck_assert_uint_eq(coord.shards[0].order.restore_generation, with ? 3 : 0);
        ck_assert_uint_eq(coord.shards[0].order.run, 44);
        shards_done();
        coord_finish();
    }
}
END_TEST

/* bsp: nobody starts a step before all have finished the one before. */
START_TEST(test_bsp_gate) {
    coord_begin(CONSISTENCY_BSP);
    shards_fresh();
    rank_hello(0, 10, 0, 0);
    rank_hello(1, 11, 0, 0);
    ck_assert_int_eq(rank_clock(0, 0), 0);
    rank_expect_no_gate(0);
    rank_hello(2, 12, 0, 0);
    shards_obey();
    rank_expect_gate(0, 0, false);
    ranks_pass(0);
    ck_assert_int_eq(rank_clock(0, 1), 0);
    ck_assert_int_eq(rank_clock(1, 1), 0);
    coord_wait_ms(400, 7);
    rank_expect_no_gate(0);
    ck_assert_int_eq(rank_clock(2, 1), 0);
    rank_expect_gate(0, 1, false);
    rank_expect_gate(1, 1, false);
    rank_expect_gate(2, 1, false);
    shards_done();
    coord_finish();
}
END_TEST

/* ssp: the fastest is at most so many steps ahead of the slowest. async: nobody waits. */
START_TEST(test_other_gates) {
    for (int mode = CONSISTENCY_ASYNC; mode <= CONSISTENCY_SSP; mode++) {
        coord_begin(mode);
        shards_fresh();
        ranks_join();
        ranks_pass(0);
        ck_assert_int_eq(rank_clock(0, 1), 0);
        rank_expect_gate(0, 1, false);
        ck_assert_int_eq(rank_clock(0, 2), 0);
        if (mode == CONSISTENCY_ASYNC) {
            rank_expect_gate(0, 2, false);
        } else {
            ck_assert_int_eq(rank_clock(1, 1), 0);
            rank_expect_no_gate(0);
            ck_assert_int_eq(rank_clock(2, 1), 0);
            rank_expect_gate(0, 2, false);
        }
        shards_done();
        coord_finish();
    }
}
END_TEST

/* A worker that is silent for its lease is lost; bsp goes on without it once every shard knows, and
 * it comes back at a step that the others have not begun. */
START_TEST(test_lease) {
    coord_begin(CONSISTENCY_BSP);
    shards_fresh();
    ranks_join();
    ranks_pass(0);
    ck_assert_int_eq(rank_clock(0, 1), 0);
    ck_assert_int_eq(rank_clock(1, 1), 0);
    coord_wait_ms(COORD_LEASE_MS * 3 / 4, 3);
    coord_expect_status("training", "rank 2: silent for");
    coord_wait_ms(COORD_LEASE_MS / 2, 3);
    rank_expect_no_gate(0); /* shard 1 has reported, but not carried out the new roster */
    shard_obey(0);
    rank_expect_no_gate(0);
    shard_obey(1);
    rank_expect_gate(0, 1, false);
    rank_expect_gate(1, 1, false);
    ck_assert_uint_eq(coord.shards[1].order.n_roster, 2);
    ck_assert_int_eq(rank_clock(2, 1), ERR_NOT_ATTACHED);

    Graphps__Welcome welcome = rank_hello(2, 12, 0, 0);
    ck_assert_uint_eq(welcome.start_clock, 2);
    ck_assert_int_eq(rank_clock(2, 2), 0);
    ck_assert_int_eq(rank_clock(0, 2), 0);
    ck_assert_int_eq(rank_clock(1, 2), 0);
    rank_eval(0, 1, 5);
    rank_eval(1, 1, 5);
    shard_obey(0);
    rank_expect_no_gate(0); /* it counts from 2 on: shard 1 must wait for its pushes first */
    rank_expect_no_gate(2);
    shard_obey(1);
    shard_obey(0);
    ck_assert_uint_eq(coord.shards[1].order.n_roster, 3);
    ck_assert_uint_eq(coord.shards[1].order.roster_from[2], 2);
    rank_expect_gate(0, 2, false);
    rank_expect_gate(2, 2, false);
    shards_done();
    coord_finish();
}
END_TEST

/* A new process of a rank within the lease goes on where the old one was, and fences it. */
START_TEST(test_takeover) {
    coord_begin(CONSISTENCY_BSP);
    shards_fresh();
    ranks_join();
    ranks_pass(0);
    ranks_pass(1);
    Graphps__Welcome welcome = rank_hello(2, 99, 0, 0);
    ck_assert_uint_eq(welcome.start_clock, 1);
    ck_assert_int_eq(rank_clock(2, 2), ERR_FENCED);
    struct error err;
    Graphps__Welcome none;
    ck_assert_int_eq(rank_try_hello(2, 12, welcome.attempt - 1, 2, &none, &err), ERR_FENCED);
    ck_assert_int_eq(rank_try_hello(2, 12, welcome.attempt, 2, &none, &err), ERR_FENCED);
    ck_assert_int_eq(rank_try_hello(2, 99, welcome.attempt, 1, &none, &err), 0);
    ck_assert_uint_eq(none.attempt, welcome.attempt);
    shards_done();
    coord_finish();
}
END_TEST

/* The start waits for all ranks, then goes on with those that came. */
START_TEST(test_join_timeout) {
    coord_begin(CONSISTENCY_BSP);
    shards_fresh();
    rank_hello(0, 10, 0, 0);
    rank_hello(1, 11, 0, 0);
    ck_assert_int_eq(rank_clock(0, 0), 0);
    ck_assert_int_eq(rank_clock(1, 0), 0);
    coord_wait_ms(4000, 3);
    rank_expect_no_gate(0);
    coord_expect_status("starting", "rank 2: not joined yet");
    coord_wait_ms(1500, 3);
    shards_obey();
    rank_expect_gate(0, 0, false);
    coord_expect_status("training", "");
    shards_done();
    coord_finish();
}
END_TEST

/* When nobody comes at all, the job is given up with "try again". */
START_TEST(test_nobody) {
    coord_begin(CONSISTENCY_ASYNC);
    shards_fresh();
    coord_wait_ms(20000, 0);
    ck_assert(!coord.shards[1].order.finish);
    coord_wait_ms(45000, 0);
    for (int i = 0; i < 4; i++) {
        shards_obey();
        coord_wait_ms(100, 0);
    }
    ck_assert(coord.shards[1].order.finish && coord.shards[0].order.finish);
    ck_assert_int_eq(-(int)coord.shards[1].order.finish_code, ERR_TIMEOUT);
    shards_done();
    coord_finish();
}
END_TEST

/* An interrupt: in bsp whoever was let into a step finishes it, then all are stopped at the same
 * one; the processes end with "try again". */
START_TEST(test_interrupt) {
    coord_begin(CONSISTENCY_BSP);
    shards_fresh();
    ranks_join();
    ranks_pass(0);
    ck_assert_int_eq(rank_clock(0, 1), 0);
    coordinator_interrupt(coord.c, coord.now);
    rank_expect_gate(0, 1, true);
    ck_assert_int_eq(rank_clock(1, 0), 0); /* its gate was lost on the way */
    rank_expect_gate(1, 0, false);
    ck_assert_int_eq(rank_clock(1, 1), 0);
    rank_expect_gate(1, 1, true);
    rank_bye(0, true);
    rank_bye(1, true);
    rank_bye(2, true);
    shards_obey();
    ck_assert(coord.shards[1].order.finish && coord.shards[0].order.finish);
    ck_assert_int_eq(-(int)coord.shards[1].order.finish_code, ERR_INTERRUPTED);
    shards_done();
    coord_finish();
}
END_TEST

/* A shard that wants to leave gets a generation at once; one that cannot be written is given up and
 * the next one has another number. */
START_TEST(test_leave_and_fail) {
    coord_begin(CONSISTENCY_ASYNC);
    coord.config->checkpoint_every_s = 2;
    shards_fresh();
    ranks_join();
    coord_wait_ms(2500, 7);
    ck_assert_uint_eq(coord.shards[1].order.generation, 1);
    coord.shards[0].report.generation = 1;
    coord.shards[1].report.checkpoint_failed = 1;
    coord_wait_ms(100, 7);
    ck_assert_uint_eq(coord.shards[1].order.complete, 0);
    ck_assert_uint_eq(coord.shards[1].order.generation, 1);
    coord_wait_ms(2500, 7);
    ck_assert_uint_eq(coord.shards[1].order.generation, 2);
    shards_obey();
    ck_assert_uint_eq(coord.shards[1].order.complete, 2);
    coord.shards[1].report.leaving = true;
    shard_report(1);
    ck_assert_uint_eq(coord.shards[1].order.generation, 3);
    shard_report(1);
    ck_assert_uint_eq(coord.shards[1].order.generation, 3);
    shards_done();
    coord_finish();
}
END_TEST

/* bsp: a checkpoint is ordered when all stand at a gate, and they stand until it is written, so
 * that all shards save the same step. */
START_TEST(test_bsp_checkpoint) {
    coord_begin(CONSISTENCY_BSP);
    coord.config->checkpoint_every_s = 2;
    shards_fresh();
    ranks_join();
    ranks_pass(0);
    coord_wait_ms(2500, 7);
    ck_assert_uint_eq(coord.shards[1].order.generation, 0);
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++)
        ck_assert_int_eq(rank_clock(rank, 1), 0);
    shard_report(1);
    ck_assert_uint_eq(coord.shards[1].order.generation, 1);
    rank_expect_no_gate(0);
    shard_obey(0);
    rank_expect_no_gate(0);
    shard_obey(1);
    rank_expect_gate(0, 1, false);
    json_t *state = coordinator_save(coord.c);
    ck_assert_int_eq(json_integer_value(json_object_get(
                         json_array_get(json_object_get(state, "workers"), 0), "clock")),
                     1);
    json_decref(state);
    shards_done();
    coord_finish();
}
END_TEST

/* What is saved comes back: clocks, attempts, best; a state that does not fit is refused. */
START_TEST(test_save_and_load) {
    coord_begin(CONSISTENCY_BSP);
    shards_fresh();
    ranks_join();
    ranks_pass(0);
    ranks_pass(1);
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++) {
        rank_clock(rank, 2);
        rank_eval(rank, 1, 4);
    }
    shards_obey();
    Graphps__Welcome before = rank_hello(1, 11, 0, 2);
    json_t *state = coordinator_save(coord.c);
    shards_done();
    coord_finish();
    memset(coord.conns, 0, sizeof coord.conns);

    coord_begin(CONSISTENCY_BSP);
    struct error err;
    ck_assert_msg(coordinator_load(coord.c, state, &err) == 0, "%s", error_text(&err));
    shards_fresh();
    ck_assert_uint_eq(coord.shards[1].order.best_epoch, 1);
    ck_assert_uint_eq(coord.shards[1].order.roster_from[2], 2);
    Graphps__Welcome again = rank_hello(1, 11, before.attempt, 2);
    ck_assert_uint_eq(again.start_clock, 2);
    ck_assert_uint_eq(rank_hello(2, 50, 0, 0).start_clock, 2);
    Graphps__Welcome none;
    ck_assert_int_eq(rank_try_hello(1, 51, before.attempt, 2, &none, &err), ERR_FENCED);
    coordinator_learn(coord.c, 1, before.attempt + 5, 52);
    ck_assert_int_eq(rank_try_hello(1, 11, before.attempt, 2, &none, &err), ERR_FENCED);

    json_array_clear(json_object_get(state, "workers"));
    ck_assert_int_eq(coordinator_load(coord.c, state, &err), ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(err.text, "workers.count"));
    json_object_del(state, "best");
    ck_assert_int_eq(coordinator_load(coord.c, state, &err), ERR_FORMAT);
    ck_assert_int_eq(coordinator_load(coord.c, NULL, &err), ERR_FORMAT);
    json_decref(state);
    shards_done();
    coord_finish();
}
END_TEST

static void beat(uint32_t rank, uint64_t incarnation, uint64_t bytes) {
    Graphps__Heartbeat beat = GRAPHPS__HEARTBEAT__INIT;
    struct error err;
    beat.rank = rank;
    beat.incarnation = incarnation;
    beat.bytes_pushed = bytes;
    beat.bytes_pulled = 2 * bytes;
    beat.pushes = bytes / 10;
    ck_assert_int_eq(coordinator_heartbeat(coord.c, &coord.conns[rank], &beat, coord.now, &err), 0);
}

static void bye(uint32_t rank, uint64_t incarnation, uint64_t bytes) {
    Graphps__Bye bye = GRAPHPS__BYE__INIT;
    struct error err;
    bye.rank = rank;
    bye.incarnation = incarnation;
    bye.bytes_pushed = bytes;
    bye.bytes_pulled = 2 * bytes;
    bye.pushes = bytes / 10;
    ck_assert_int_eq(coordinator_bye(coord.c, &coord.conns[rank], &bye, coord.now, &err), 0);
}

static void expect_sent(uint32_t rank, uint64_t bytes) {
    Graphps__Status status;
    coordinator_status(coord.c, coord.now, &status);
    ck_assert_uint_eq(status.workers[rank]->bytes_pushed, bytes);
    ck_assert_uint_eq(status.workers[rank]->bytes_pulled, 2 * bytes);
    ck_assert_uint_eq(status.workers[rank]->pushes, bytes / 10);
    coordinator_status_done(&status);
}

/* Promise: what a rank has sent and fetched is told of the whole run, whichever of its processes
 * did it, over restarts of the worker and of shard 0; no byte is counted twice. */
START_TEST(test_traffic_of_the_run) {
    coord_begin(CONSISTENCY_ASYNC);
    shards_fresh();
    ranks_join();
    beat(0, 10, 100);
    beat(0, 10, 300);
    beat(0, 10, 200); /* late */
    expect_sent(0, 300);
    rank_hello(0, 20, 0, 0); /* the one before died */
    expect_sent(0, 300);
    beat(0, 20, 50);
    expect_sent(0, 350);
    bye(1, 11, 70);
    beat(2, 12, 40);
    rank_hello(1, 21, 0, 0);
    beat(1, 21, 10);
    expect_sent(1, 80);
    json_t *state = coordinator_save(coord.c);
    const json_t *saved = json_array_get(json_object_get(state, "workers"), 0);
    ck_assert_int_eq(json_integer_value(json_object_get(saved, "bytes_pushed")), 350);
    shards_done();
    coord_finish();

    coord_begin(CONSISTENCY_ASYNC);
    struct error err;
    ck_assert_int_eq(coordinator_load(coord.c, state, &err), 0);
    json_decref(state);
    shards_fresh();
    expect_sent(0, 350);
    coord.now += 1;
    rank_hello(0, 20, 0, 0); /* it lives on, and counts from its own start */
    beat(0, 20, 60);
    expect_sent(0, 360);
    coordinator_learn(coord.c, 1, UINT64_MAX / 2, 31); /* one came and went unseen */
    expect_sent(1, 80);
    rank_hello(1, 41, 0, 0);
    beat(1, 41, 30);
    expect_sent(1, 110);
    rank_hello(2, 22, 0, 0);
    bye(2, 22, 10);
    expect_sent(2, 50);
    shards_done();
    coord_finish();
}
END_TEST

/* Promise: the time told is that of the run, not of this life of shard 0. */
START_TEST(test_time_of_the_run) {
    Graphps__Status status;
    coord_begin(CONSISTENCY_ASYNC);
    shards_fresh();
    ranks_join();
    coord_wait_ms(3000, 7);
    json_t *state = coordinator_save(coord.c);
    shards_done();
    coord_finish();

    coord_begin(CONSISTENCY_ASYNC);
    coord.now += 500; /* until the run is found again */
    coordinator_tick(coord.c, coord.now);
    struct error err;
    ck_assert_int_eq(coordinator_load(coord.c, state, &err), 0);
    json_decref(state);
    shards_fresh();
    coord_wait_ms(1000, 0);
    coordinator_status(coord.c, coord.now, &status);
    ck_assert_uint_eq(status.uptime_ms, 4000);
    coordinator_status_done(&status);
    shards_done();
    coord_finish();
}
END_TEST

/* Promise: callers look at the clock before they wait for their turn; one that comes with an older
 * time than the one before it makes nobody lost. */
START_TEST(test_older_time) {
    coord_begin(CONSISTENCY_BSP);
    shards_fresh();
    ranks_join();
    coord.now += 10;
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++)
        rank_heartbeat(rank);
    shard_report(1);
    coordinator_tick(coord.c, coord.now - 3);
    coord_expect_status("training", "");
    ranks_pass(0);
    shards_done();
    coord_finish();
}
END_TEST

/* A pause of our own process is nobody else's silence. */
START_TEST(test_own_pause) {
    coord_begin(CONSISTENCY_BSP);
    shards_fresh();
    ranks_join();
    coord.now += 20 * COORD_LEASE_MS;
    coordinator_tick(coord.c, coord.now);
    coord_expect_status("training", "");
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++)
        rank_heartbeat(rank); /* still counted */
    shards_done();
    coord_finish();
}
END_TEST

/* A report of another job, or that a later one has overtaken, changes nothing. */
START_TEST(test_strange_report) {
    coord_begin(CONSISTENCY_ASYNC);
    shards_fresh();
    struct error err;
    Graphps__PeerReport other = coord.shards[1].report;
    Graphps__PeerOrder order = GRAPHPS__PEER_ORDER__INIT;
    other.job = "other";
    ck_assert_int_eq(coordinator_report(coord.c, &coord.peer_conn, &other, coord.now, &order, &err),
                     ERR_WRONG_JOB);
    other = coord.shards[1].report;
    other.shards = 3;
    ck_assert_int_eq(coordinator_report(coord.c, &coord.peer_conn, &other, coord.now, &order, &err),
                     ERR_CONFIG);
    ranks_join();
    uint64_t generation = coord.shards[1].report.generation;
    other = coord.shards[1].report;
    other.id--;
    other.restored = false;
    ck_assert_int_eq(coordinator_report(coord.c, &coord.peer_conn, &other, coord.now, &order, &err),
                     0);
    ck_assert(order.restore_generation == 0 && generation == 0);
    coordinator_order_done(&order);
    coord_expect_status("training", "");
    shards_done();
    coord_finish();
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
    tcase_add_test(tcase, test_interrupt);
    tcase_add_test(tcase, test_leave_and_fail);
    tcase_add_test(tcase, test_bsp_checkpoint);
    tcase_add_test(tcase, test_save_and_load);
    tcase_add_test(tcase, test_traffic_of_the_run);
    tcase_add_test(tcase, test_time_of_the_run);
    tcase_add_test(tcase, test_older_time);
    tcase_add_test(tcase, test_own_pause);
    tcase_add_test(tcase, test_strange_report);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
