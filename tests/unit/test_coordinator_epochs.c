/* Reports of epochs: the best, what patience counts, what is told of epochs that some ranks' nodes
 * are missing from, and the end of a job that gets no better. */
#include <math.h>
#include <string.h>

#include "common/log.h"
#include "proto/score.h"
#include "tests/test.h"
#include "tests/unit/coord.h"

/* bsp: a report is answered when all are in and, if the epoch is the best so far, all shards have
 * kept its weights. A report that is repeated changes nothing. */
START_TEST(test_best) {
    coord_begin(CONSISTENCY_BSP);
    shards_fresh();
    ranks_join();
    ranks_pass(0);
    ranks_pass(1);
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++)
        ck_assert_int_eq(rank_clock(rank, 2), 0);
    ck_assert_int_eq(rank_eval(0, 1, 6), 0);
    ck_assert_int_eq(rank_eval(0, 1, 9), 0);
    ck_assert_int_eq(rank_eval(1, 1, 6), 0);
    ck_assert(!rank_evaled(0, 1));
    ck_assert_int_eq(rank_eval(2, 1, 6), 0);
    shard_report(0);
    ck_assert_uint_eq(coord.shards[0].order.best_epoch, 1);
    shard_obey(0);
    ck_assert(!rank_evaled(0, 1));
    rank_expect_no_gate(0);
    shard_obey(1);
    ck_assert(rank_evaled(0, 1) && rank_evaled(1, 1) && rank_evaled(2, 1));
    rank_expect_gate(0, 2, false);
    Graphps__Status status;
    coordinator_status(coord.c, coord.now, &status);
    ck_assert_double_eq_tol(status.best->valid_accuracy, 0.6, 1e-9);
    ck_assert_double_eq_tol(status.last->train_loss, 0.5, 1e-9);
    coordinator_status_done(&status);
    struct error err;
    Graphps__Eval eval = GRAPHPS__EVAL__INIT;
    eval.incarnation = 10;
    eval.epoch = 11;
    ck_assert_int_eq(coordinator_eval(coord.c, &coord.conns[0], &eval, coord.now, &err), ERR_RANGE);
    eval.epoch = 2;
    eval.train_loss_sum = 1.0 / 0.0;
    ck_assert_int_eq(coordinator_eval(coord.c, &coord.conns[0], &eval, coord.now, &err),
                     ERR_NOT_FINITE);
    shards_done();
    coord_finish();
}
END_TEST

/* async: after the last epoch nobody is told to stop before all ranks have evaluated the weights
 * that all shards keep: an accuracy counts every rank's nodes. */
START_TEST(test_last_candidate) {
    coord_begin(CONSISTENCY_ASYNC);
    coord.config->train_epochs = 1;
    shards_fresh();
    ranks_join();
    ranks_pass(0);
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++) {
        ck_assert_int_eq(rank_clock(rank, 2), 0);
        rank_expect_gate(rank, 2, false);
        rank_eval_async(rank, 1, false, 0);
    }
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++)
        ck_assert(!rank_evaled(rank, 1));
    shards_obey();
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++) {
        Graphps__Evaled *answer = (Graphps__Evaled *)seam_take(&coord.conns[rank], FRAME_EVALED);
        ck_assert_ptr_nonnull(answer);
        ck_assert_uint_eq(answer->candidate, 1);
        wire_free(&answer->base);
    }
    rank_eval_async(0, 1, true, 7);
    rank_eval_async(1, 1, true, 5);
    ck_assert(!rank_told_to_stop(2));
    rank_eval_async(2, 1, true, 3);
    shards_obey();
    ck_assert(rank_told_to_stop(2));
    Graphps__Status status;
    coordinator_status(coord.c, coord.now, &status);
    ck_assert_uint_eq(status.best->epoch, 1);
    ck_assert_double_eq_tol(status.best->valid_accuracy, 0.5, 1e-9);
    coordinator_status_done(&status);
    ck_assert_uint_eq(coord.shards[1].report.best_epoch, 1);
    shards_done();
    coord_finish();
}
END_TEST

/* The job stops when so many epochs brought nothing better, all at the same step, and ends when the
 * last generation is on all disks: only then are the last workers let go and the shards told. */
START_TEST(test_early_stop) {
    coord_begin(CONSISTENCY_BSP);
    coord.config->train_patience = 2;
    shards_fresh();
    ranks_join();
    static const uint64_t correct[] = {0, 5, 7, 6, 7};
    ranks_pass(0);
    for (uint32_t epoch = 1; epoch <= 4; epoch++) {
        ranks_pass(2 * epoch - 1);
        for (uint32_t rank = 0; rank < COORD_WORKERS; rank++) {
            ck_assert_int_eq(rank_clock(rank, 2 * epoch), 0);
            ck_assert_int_eq(rank_eval(rank, epoch, correct[epoch]), 0);
        }
        shards_obey();
        for (uint32_t rank = 0; rank < COORD_WORKERS; rank++) {
            ck_assert(rank_evaled(rank, epoch));
            rank_expect_gate(rank, 2 * epoch, epoch == 4);
        }
    }
    coord_expect_status("draining", "rank 0");
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++)
        rank_bye(rank, true);
    shard_report(0);
    shard_report(1);
    ck_assert_uint_eq(coord.shards[1].order.generation, 1);
    ck_assert(!coord.shards[1].order.finish && !rank_goodbye(0));
    coord.shards[0].report.generation = 1;
    shard_report(0);
    ck_assert(!rank_goodbye(0));
    coord.shards[1].report.generation = 1;
    shard_report(1);
    ck_assert(rank_goodbye(0) && rank_goodbye(1) && rank_goodbye(2));
    ck_assert(coord.shards[1].order.finish);
    ck_assert_uint_eq(coord.shards[1].order.finish_code, 0);
    ck_assert_uint_eq(coord.shards[1].order.best_epoch, 2);
    shard_report(0);
    ck_assert(!coord.shards[0].order.finish);
    shard_obey(1);
    shard_report(0);
    ck_assert(coord.shards[0].order.finish);
    coord_expect_status("done", "");
    shards_done();
    coord_finish();
}
END_TEST

static void expect_epochs(uint32_t last, uint32_t best, uint32_t idle) {
    Graphps__Status status;
    coordinator_status(coord.c, coord.now, &status);
    ck_assert_uint_eq(status.last ? status.last->epoch : 0, last);
    ck_assert_uint_eq(status.best ? status.best->epoch : 0, best);
    ck_assert_uint_eq(status.idle_epochs, idle);
    coordinator_status_done(&status);
}

static void expect_workers(uint32_t workers, uint32_t valid_workers, uint32_t valid_epoch) {
    Graphps__Status status;
    coordinator_status(coord.c, coord.now, &status);
    ck_assert_uint_eq(status.last->workers, workers);
    ck_assert_uint_eq(status.last->valid_workers, valid_workers);
    ck_assert_uint_eq(status.last->valid_epoch, valid_epoch);
    coordinator_status_done(&status);
}

/* bsp: the ranks in the mask go through the two steps of an epoch and report it. */
static void epoch_pass(uint32_t epoch, unsigned ranks, uint64_t correct) {
    for (uint64_t clock = 2 * epoch - 1; clock <= 2 * epoch; clock++)
        for (uint32_t rank = 0; rank < COORD_WORKERS; rank++)
            if (ranks & (1u << rank))
                ck_assert_int_eq(rank_clock(rank, clock), 0);
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++)
        if (ranks & (1u << rank))
            ck_assert_int_eq(rank_eval(rank, epoch, correct), 0);
    shards_obey();
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++) {
        coordinator_disconnected(coord.c, &coord.conns[rank]);
        seam_conn_done(&coord.conns[rank]); /* gates and answers are other tests' matter */
    }
}

/* Promise: patience counts the epochs that can be compared with the best. Those that a lost rank's
 * nodes are missing from are told as such, are no better one, and do not end the job; when the rank
 * is back, it goes on counting where it was. */
START_TEST(test_patience_of_a_part) {
    coord_begin(CONSISTENCY_BSP);
    coord.config->train_epochs = 100;
    coord.config->train_patience = 3;
    shards_fresh();
    ranks_join();
    ranks_pass(0);
    epoch_pass(1, 7, 5);
    expect_workers(3, 3, 1);
    epoch_pass(2, 7, 4);
    expect_epochs(2, 1, 1);
    coord_wait_ms(2 * COORD_LEASE_MS, 3);
    shards_obey();
    for (uint32_t epoch = 3; epoch <= 20; epoch++)
        epoch_pass(epoch, 3, 9);
    coord_expect_status("training", "");
    expect_epochs(20, 1, 1);
    expect_workers(2, 2, 20);
    rank_hello(2, 12, 0, 0);
    shards_obey();
    epoch_pass(21, 7, 4);
    expect_workers(3, 3, 21);
    coord_expect_status("training", "");
    expect_epochs(21, 1, 2);
    epoch_pass(22, 7, 4);
    coord_expect_status("draining", "");
    expect_epochs(22, 1, 3);
    shards_done();
    coord_finish();
}
END_TEST

/* Promise: the job can stop early with the workers it has: where one never came, the best is of the
 * others' nodes, and so is what is compared with it. */
START_TEST(test_patience_without_a_rank) {
    coord_begin(CONSISTENCY_BSP);
    coord.config->train_patience = 2;
    shards_fresh();
    rank_hello(0, 10, 0, 0);
    rank_hello(1, 11, 0, 0);
    coord_wait_ms(6000, 3);
    shards_obey();
    epoch_pass(1, 3, 5);
    epoch_pass(2, 3, 4);
    coord_expect_status("training", "");
    epoch_pass(3, 3, 4);
    coord_expect_status("draining", "");
    expect_epochs(3, 1, 2);
    shards_done();
    coord_finish();
}
END_TEST

/* async: all ranks in the mask evaluate the weights kept for an epoch. */
static void candidate_pass(uint32_t epoch, unsigned ranks, uint64_t correct) {
    shards_obey();
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++)
        if (ranks & (1u << rank))
            rank_eval_async(rank, epoch, true, correct);
    shards_obey();
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++) {
        coordinator_disconnected(coord.c, &coord.conns[rank]);
        seam_conn_done(&coord.conns[rank]);
    }
}

static void epoch_pass_async(uint32_t epoch, unsigned ranks, uint64_t correct) {
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++)
        if (ranks & (1u << rank)) {
            ck_assert_int_eq(rank_clock(rank, 2 * epoch), 0);
            rank_eval_async(rank, epoch, false, correct);
            coordinator_disconnected(coord.c, &coord.conns[rank]);
            seam_conn_done(&coord.conns[rank]);
        }
}

/* Promise (async, ssp): when the slowest rank is lost, the epochs that the others had reported are
 * complete at once, but none of them was evaluated: the job goes on. */
START_TEST(test_patience_after_a_jump) {
    coord_begin(CONSISTENCY_ASYNC);
    coord.config->train_epochs = 100;
    coord.config->train_patience = 3;
    shards_fresh();
    ranks_join();
    ranks_pass(0);
    epoch_pass_async(1, 7, 6);
    candidate_pass(1, 7, 5);
    expect_epochs(1, 1, 0);
    for (uint32_t epoch = 2; epoch <= 50; epoch++)
        epoch_pass_async(epoch, 3, 6);
    expect_epochs(1, 1, 0);
    coord_wait_ms(2 * COORD_LEASE_MS, 3);
    expect_epochs(50, 1, 0);
    expect_workers(2, 3, 1); /* training of two ranks, validation of all, of epoch 1 */
    coord_expect_status("training", "");
    candidate_pass(50, 3, 9);
    expect_epochs(50, 1, 0);
    expect_workers(2, 2, 50);
    coord_expect_status("training", "");
    rank_hello(2, 12, 0, 0);
    shards_obey();
    for (uint32_t epoch = 51; epoch <= 52; epoch++) {
        epoch_pass_async(epoch, 7, 6);
        candidate_pass(epoch, 7, 4);
    }
    expect_epochs(52, 1, 2);
    coord_expect_status("training", "");
    epoch_pass_async(53, 7, 6);
    coord_expect_status("training", ""); /* it is to be evaluated first */
    candidate_pass(53, 7, 4);
    coord_expect_status("draining", "");
    shards_done();
    coord_finish();
}
END_TEST

/* Promise: the last epoch told is the last that all had finished when the job was stopped, whatever
 * the faster ranks report until they leave. */
START_TEST(test_last_epoch) {
    coord_begin(CONSISTENCY_ASYNC);
    coord.config->train_epochs = 100;
    coord.config->train_patience = 1;
    shards_fresh();
    ranks_join();
    ranks_pass(0);
    epoch_pass_async(1, 7, 6);
    candidate_pass(1, 7, 5);
    for (uint32_t epoch = 2; epoch <= 9; epoch++)
        epoch_pass_async(epoch, 1, 9); /* far ahead */
    epoch_pass_async(2, 6, 6);
    candidate_pass(2, 7, 4);
    coord_expect_status("draining", "");
    epoch_pass_async(10, 1, 9);
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++)
        rank_bye(rank, true);
    shards_obey();
    expect_epochs(2, 1, 1);
    expect_workers(3, 3, 2);
    Graphps__Status status;
    coordinator_status(coord.c, coord.now, &status);
    ck_assert_str_eq(status.stop_reason, "early stop");
    ck_assert_double_eq_tol(status.last->train_accuracy, 21.0 / 30, 1e-9);
    coordinator_status_done(&status);
    json_t *state = coordinator_save(coord.c);
    const json_t *last = json_object_get(state, "last");
    ck_assert_int_eq(json_integer_value(json_object_get(last, "epoch")), 2);
    json_decref(state);
    shards_done();
    coord_finish();
}
END_TEST

/* Promise (async, ssp): the evaluation told beside a newer epoch says which one it is of, and the
 * best's training numbers are those of its own time. */
START_TEST(test_valid_epoch) {
    coord_begin(CONSISTENCY_ASYNC);
    shards_fresh();
    ranks_join();
    ranks_pass(0);
    epoch_pass_async(1, 7, 6);
    expect_workers(3, 0, 0);
    shards_obey();
    epoch_pass_async(2, 7, 8);
    epoch_pass_async(3, 7, 9);
    candidate_pass(1, 7, 5);
    expect_epochs(3, 1, 0);
    expect_workers(3, 3, 1);
    Graphps__Status status;
    coordinator_status(coord.c, coord.now, &status);
    ck_assert_double_eq_tol(status.last->train_accuracy, 0.9, 1e-9);
    ck_assert_double_eq_tol(status.best->train_accuracy, 0.6, 1e-9);
    ck_assert_double_eq_tol(status.best->valid_accuracy, 0.5, 1e-9);
    coordinator_status_done(&status);
    shards_done();
    coord_finish();
}
END_TEST

/* Promise: what patience has counted outlives shard 0, and so does what it does not count. */
START_TEST(test_patience_saved) {
    coord_begin(CONSISTENCY_BSP);
    coord.config->train_epochs = 100;
    coord.config->train_patience = 3;
    shards_fresh();
    ranks_join();
    ranks_pass(0);
    epoch_pass(1, 7, 5);
    epoch_pass(2, 7, 4);
    coord_wait_ms(2 * COORD_LEASE_MS, 3);
    shards_obey();
    for (uint32_t epoch = 3; epoch <= 9; epoch++)
        epoch_pass(epoch, 3, 9);
    json_t *state = coordinator_save(coord.c);
    shards_done();
    coord_finish();

    coord_begin(CONSISTENCY_BSP);
    coord.config->train_epochs = 100;
    coord.config->train_patience = 3;
    struct error err;
    ck_assert_int_eq(coordinator_load(coord.c, state, &err), 0);
    json_decref(state);
    shards_fresh();
    expect_epochs(9, 1, 1);
    expect_workers(2, 2, 9);
    ranks_join();
    epoch_pass(10, 7, 4);
    coord_expect_status("training", "");
    expect_epochs(10, 1, 2);
    epoch_pass(11, 7, 4);
    coord_expect_status("draining", "");
    shards_done();
    coord_finish();
}
END_TEST

/* A report of two classes, 10 validation nodes; counts [2, 3]. */
static int table_eval(uint32_t rank, uint32_t epoch, bool multi_label, uint64_t correct,
                      const uint64_t counts[6], struct error *reterr) {
    Graphps__Eval eval = GRAPHPS__EVAL__INIT;
    uint64_t copy[6];
    memcpy(copy, counts, sizeof copy);
    eval.id = epoch;
    eval.rank = rank;
    eval.incarnation = 10 + rank;
    eval.epoch = epoch;
    eval.train_count = eval.valid_count = 10;
    eval.valid_correct = correct;
    eval.classes = 2;
    eval.task = multi_label ? GRAPHPS__TASK__MULTI_LABEL : GRAPHPS__TASK__SINGLE_LABEL;
    eval.n_valid_counts = 6;
    eval.valid_counts = copy;
    return coordinator_eval(coord.c, &coord.conns[rank], &eval, coord.now, reterr);
}

/* All ranks' reports of a bsp epoch; rank 1 has other counts than the others. */
static void table_pass(uint32_t epoch, bool multi_label, uint64_t correct, const uint64_t most[6],
                       const uint64_t one[6]) {
    struct error err;
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++)
        ck_assert_int_eq(rank_clock(rank, 2 * epoch), 0);
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++)
        ck_assert_msg(table_eval(rank, epoch, multi_label, correct, rank == 1 ? one : most, &err) ==
                          0,
                      "%s", err.text);
    shards_obey();
}

static void expect_best(uint32_t epoch, const char *metric) {
    Graphps__Status status;
    coordinator_status(coord.c, coord.now, &status);
    ck_assert_uint_eq(status.best->epoch, epoch);
    ck_assert_str_eq(status.metric, metric);
    coordinator_status_done(&status);
}

/* Two epochs. The first is right more often; the second has a higher F1 of all classes, and a
 * higher one of the rare class. */
static const uint64_t first_most[] = {9, 1, 0, 0, 0, 1}, first_one[] = {5, 5, 0, 0, 0, 5};
static const uint64_t second_most[] = {8, 0, 1, 1, 1, 0}, second_one[] = {5, 2, 2, 3, 2, 2};

/* Promise: scores are of all ranks' nodes together (not means of the ranks' scores), and the best
 * epoch is the best by the score that was chosen: by default micro-F1 where nodes have several
 * labels, else accuracy. What was chosen outlives shard 0. */
START_TEST(test_metric) {
    static const struct {
        int option;
        bool multi_label;
        const char *name;
        uint32_t best;
    } rows[] = {
        {TRAIN_METRIC_AUTO, false, "accuracy", 1},  {TRAIN_METRIC_AUTO, true, "micro_f1", 2},
        {1 + SCORE_ACCURACY, true, "accuracy", 1},  {1 + SCORE_MACRO_F1, false, "macro_f1", 2},
        {1 + SCORE_MICRO_F1, false, "micro_f1", 2},
    };
    coord_begin(CONSISTENCY_BSP);
    coord.config->train_metric = rows[_i].option;
    shards_fresh();
    ranks_join();
    ranks_pass(0);
    table_pass(1, rows[_i].multi_label, 8, first_most, first_one);
    table_pass(2, rows[_i].multi_label, 7, second_most, second_one);
    expect_best(rows[_i].best, rows[_i].name);
    Graphps__Status status;
    coordinator_status(coord.c, coord.now, &status);
    /* Class 0: tp 21, fp 2, fn 4. Class 1: tp 5, fp 4, fn 2. */
    ck_assert_double_eq_tol(status.last->valid_accuracy, 0.7, 1e-12);
    ck_assert_double_eq_tol(status.last->valid_micro_f1, 52.0 / 64, 1e-12);
    ck_assert_double_eq_tol(status.last->valid_macro_f1, (42.0 / 48 + 10.0 / 16) / 2, 1e-12);
    ck_assert_double_eq(status.last->test_micro_f1, -1);
    coordinator_status_done(&status);
    json_t *state = coordinator_save(coord.c);
    shards_done();
    coord_finish();

    coord_begin(CONSISTENCY_BSP);
    coord.config->train_metric = rows[_i].option;
    struct error err;
    ck_assert_msg(coordinator_load(coord.c, state, &err) == 0, "%s", err.text);
    expect_best(rows[_i].best, rows[_i].name);
    coordinator_status(coord.c, coord.now, &status);
    ck_assert_double_eq_tol(status.last->valid_macro_f1, (42.0 / 48 + 10.0 / 16) / 2, 1e-12);
    coordinator_status_done(&status);
    json_decref(state);
    shards_done();
    coord_finish();
}
END_TEST

/* All ranks' reports of a bsp epoch of regression with that mean squared and absolute error. */
static void error_pass(uint32_t epoch, double squared, double absolute) {
    struct error err;
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++)
        ck_assert_int_eq(rank_clock(rank, 2 * epoch), 0);
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++) {
        Graphps__Eval eval = GRAPHPS__EVAL__INIT;
        eval.id = epoch;
        eval.rank = rank;
        eval.incarnation = 10 + rank;
        eval.epoch = epoch;
        eval.task = GRAPHPS__TASK__REGRESSION;
        eval.classes = 1;
        eval.valid_count = 10 + 2 * rank;
        eval.valid_loss_sum = (double)eval.valid_count * squared;
        eval.valid_absolute_sum = (double)eval.valid_count * absolute;
        ck_assert_msg(coordinator_eval(coord.c, &coord.conns[rank], &eval, coord.now, &err) == 0,
                      "%s", err.text);
    }
    shards_obey();
}

/* Promise: of an error the least is the best, for the weights that are kept and for patience, also
 * in shard 0's next life; which error, train.metric says. */
START_TEST(test_errors_go_down) {
    static const struct {
        int option;
        const char *name;
        uint32_t best;
    } rows[] = {{TRAIN_METRIC_AUTO, "rmse", 2}, {1 + SCORE_MAE, "mae", 3}};
    static const double errors[][2] = {{9, 2}, {4, 1.5}, {5, 1.25}, {6, 1.75}, {7, 1.75}};
    coord_begin(CONSISTENCY_BSP);
    coord.config->train_metric = rows[_i].option;
    coord.config->train_patience = 2;
    shards_fresh();
    ranks_join();
    ranks_pass(0);
    for (uint32_t epoch = 1; epoch <= 3; epoch++)
        error_pass(epoch, errors[epoch - 1][0], errors[epoch - 1][1]);
    expect_best(rows[_i].best, rows[_i].name);
    Graphps__Status status;
    coordinator_status(coord.c, coord.now, &status);
    ck_assert_double_eq_tol(status.last->valid_rmse, sqrt(5), 1e-12);
    ck_assert_double_eq_tol(status.last->valid_mae, 1.25, 1e-12);
    ck_assert_double_eq(status.last->valid_accuracy, -1);
    coordinator_status_done(&status);
    json_t *state = coordinator_save(coord.c);
    for (uint32_t epoch = 4; epoch <= rows[_i].best + 2; epoch++) {
        coord_expect_status("training", "");
        error_pass(epoch, errors[epoch - 1][0], errors[epoch - 1][1]);
    }
    expect_best(rows[_i].best, rows[_i].name);
    coord_expect_status("draining", "");
    shards_done();
    coord_finish();

    struct error err;
    coord_begin(CONSISTENCY_BSP);
    coord.config->train_metric = rows[_i].option;
    ck_assert_msg(coordinator_load(coord.c, state, &err) == 0, "%s", err.text);
    expect_best(rows[_i].best, rows[_i].name);
    json_decref(state);
    shards_done();
    coord_finish();
}
END_TEST

/* Promise: where there is nothing to validate on no epoch is the best, but how the last was tested
 * is known, and saved. */
START_TEST(test_without_validation) {
    coord_begin(CONSISTENCY_BSP);
    shards_fresh();
    ranks_join();
    ranks_pass(0);
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++)
        ck_assert_int_eq(rank_clock(rank, 2), 0);
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++) {
        Graphps__Eval eval = GRAPHPS__EVAL__INIT;
        struct error err;
        eval.id = eval.epoch = 1;
        eval.rank = rank;
        eval.incarnation = 10 + rank;
        eval.task = GRAPHPS__TASK__REGRESSION;
        eval.classes = 1;
        eval.test_count = 10;
        eval.test_loss_sum = 10 * 4.0;
        eval.test_absolute_sum = 10 * 1.5;
        ck_assert_msg(coordinator_eval(coord.c, &coord.conns[rank], &eval, coord.now, &err) == 0,
                      "%s", err.text);
    }
    shards_obey();
    Graphps__Status status;
    coordinator_status(coord.c, coord.now, &status);
    ck_assert_uint_eq(status.best ? status.best->epoch : 0, 0);
    ck_assert_uint_eq(status.last->valid_epoch, 1);
    ck_assert_double_eq_tol(status.last->test_rmse, 2, 1e-12);
    ck_assert_double_eq(status.last->valid_rmse, -1);
    coordinator_status_done(&status);
    json_t *state = coordinator_save(coord.c), *last = json_object_get(state, "last");
    ck_assert_double_eq_tol(json_number_value(json_object_get(last, "test_mae")), 1.5, 1e-12);
    json_decref(state);
    shards_done();
    coord_finish();
}
END_TEST

/* Promise: a report that cannot be, or is of another task than the others', is refused and counts
 * for nothing; the tables of one far ahead are not kept. */
START_TEST(test_wrong_tables) {
    coord_begin(CONSISTENCY_BSP);
    coord.config->train_epochs = 1000;
    shards_fresh();
    ranks_join();
    ranks_pass(0);
    struct error err;
    static const uint64_t too_many[] = {9, 2, 0, 0, 0, 0};
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++)
        ck_assert_int_eq(rank_clock(rank, 2), 0);
    ck_assert_int_eq(table_eval(0, 1, true, 5, too_many, &err), ERR_RANGE);
    ck_assert_int_eq(table_eval(0, 1, true, 5, first_most, &err), 0);
    ck_assert_int_eq(table_eval(1, 1, false, 5, first_most, &err), ERR_RANGE);
    ck_assert_int_eq(table_eval(1, 1, true, 5, first_one, &err), 0);
    ck_assert_int_eq(table_eval(2, 1, true, 5, first_most, &err), 0);
    shards_obey();
    Graphps__Status status;
    coordinator_status(coord.c, coord.now, &status);
    ck_assert_double_eq_tol(status.last->valid_micro_f1, 46.0 / (46 + 7 + 7), 1e-12);
    coordinator_status_done(&status);

    table_pass(100, true, 4, first_most, first_one);
    coordinator_status(coord.c, coord.now, &status);
    ck_assert_uint_eq(status.last->epoch, 100);
    ck_assert_double_eq_tol(status.last->valid_accuracy, 0.4, 1e-12);
    ck_assert_double_eq(status.last->valid_micro_f1, -1);
    ck_assert_uint_eq(status.best->epoch, 1);
    coordinator_status_done(&status);
    shards_done();
    coord_finish();
}
END_TEST

int main(void) {
    log_init("test", -1, (enum log_level)(LOG_ERROR + 1), false);
    Suite *suite = suite_create("coordinator_epochs");
    TCase *tcase = tcase_create("coordinator_epochs");
    tcase_add_test(tcase, test_best);
    tcase_add_test(tcase, test_early_stop);
    tcase_add_test(tcase, test_last_candidate);
    tcase_add_test(tcase, test_patience_of_a_part);
    tcase_add_test(tcase, test_patience_without_a_rank);
    tcase_add_test(tcase, test_patience_after_a_jump);
    tcase_add_test(tcase, test_last_epoch);
    tcase_add_test(tcase, test_valid_epoch);
    tcase_add_test(tcase, test_patience_saved);
    tcase_add_loop_test(tcase, test_metric, 0, 5);
    tcase_add_loop_test(tcase, test_errors_go_down, 0, 2);
    tcase_add_test(tcase, test_without_validation);
    tcase_add_test(tcase, test_wrong_tables);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
