/* Shards and ranks that a test moves by hand. */
#include "tests/unit/coord.h"

#include <string.h>

#include "tests/test.h"

struct coord coord;

void coord_begin(int mode) {
    coord.now = 1000;
    coord.config = seam_config(COORD_WORKERS, 2);
    coord.config->consistency_mode = mode;
    coord.config->consistency_staleness = 1;
    coord.server = seam_server(coord.config, 0, 77, &coord.disk);
    coord.c = coord.server->coordinator;
    coordinator_tick(coord.c, coord.now);
}

void coord_finish(void) {
    for (size_t i = 0; i < COORD_WORKERS; i++)
        coordinator_disconnected(coord.c, &coord.conns[i]);
    coordinator_disconnected(coord.c, &coord.peer_conn);
    coord.server = server_free(coord.server);
    for (size_t i = 0; i < COORD_WORKERS; i++)
        seam_conn_done(&coord.conns[i]);
    seam_conn_done(&coord.peer_conn);
    seam_disk_done(&coord.disk);
    config_free(coord.config);
}

/* --- the shards --- */

/* Orders that were sent unasked; the answers to reports say the same. */
static void orders_forget(void) {
    ProtobufCMessage *order;
    while ((order = seam_take(&coord.peer_conn, FRAME_PEER_ORDER)))
        wire_free(order);
}

void shard_report(uint32_t shard) {
    Graphps__PeerReport *r = &coord.shards[shard].report;
    struct error err;
    orders_forget();
    r->id++;
    r->job = "unit";
    r->shard = shard;
    r->shards = 2;
    coordinator_order_done(&coord.shards[shard].order);
    graphps__peer_order__init(&coord.shards[shard].order);
    ck_assert_msg(coordinator_report(coord.c, shard ? &coord.peer_conn : NULL, r, coord.now,
                                     &coord.shards[shard].order, &err) == 0,
                  "%s", error_text(&err));
}

void shards_reset(void) {
    for (uint32_t s = 0; s < 2; s++) {
        graphps__peer_report__init(&coord.shards[s].report);
        coord.shards[s].report.incarnation = 100 + s;
        coordinator_order_done(&coord.shards[s].order);
        graphps__peer_order__init(&coord.shards[s].order);
    }
}

void shards_done(void) {
    for (uint32_t s = 0; s < 2; s++)
        coordinator_order_done(&coord.shards[s].order);
}

void shard_obey(uint32_t shard) {
    for (int i = 0; i < 3; i++) {
        Graphps__PeerReport *r = &coord.shards[shard].report;
        const Graphps__PeerOrder *order = &coord.shards[shard].order;
        shard_report(shard);
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

void shards_obey(void) {
    for (int i = 0; i < 3; i++) {
        shard_obey(0);
        shard_obey(1);
    }
}

void shards_fresh(void) {
    shards_reset();
    shards_obey();
    ck_assert(coord.shards[0].report.restored && coord.shards[1].report.restored);
}

/* --- the workers --- */

int rank_try_hello(uint32_t rank, uint64_t incarnation, uint64_t attempt, uint64_t clock,
                   Graphps__Welcome *welcome, struct error *err) {
    Graphps__Hello hello = GRAPHPS__HELLO__INIT;
    hello.rank = rank;
    hello.incarnation = incarnation;
    hello.attempt = attempt;
    hello.clock = clock;
    hello.steps_per_epoch = 2;
    hello.http = "";
    graphps__welcome__init(welcome);
    return coordinator_hello(coord.c, &coord.conns[rank], &hello, coord.now, coord.now, welcome,
                             err);
}

Graphps__Welcome rank_hello(uint32_t rank, uint64_t incarnation, uint64_t attempt, uint64_t clock) {
    Graphps__Welcome welcome;
    struct error err;
    ck_assert_msg(rank_try_hello(rank, incarnation, attempt, clock, &welcome, &err) == 0, "%s",
                  error_text(&err));
    return welcome;
}

void ranks_join(void) {
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++)
        rank_hello(rank, 10 + rank, 0, 0);
    shards_obey();
}

int rank_clock(uint32_t rank, uint64_t value) {
    Graphps__Clock clock = GRAPHPS__CLOCK__INIT;
    struct error err;
    clock.id = 1000 + value;
    clock.rank = rank;
    clock.incarnation = 10 + rank;
    clock.clock = value;
    return coordinator_clock(coord.c, &coord.conns[rank], &clock, coord.now, &err);
}

void rank_expect_gate(uint32_t rank, uint64_t value, bool stop) {
    Graphps__Gate *gate = (Graphps__Gate *)seam_take(&coord.conns[rank], FRAME_GATE);
    ck_assert_msg(gate != NULL, "rank %u: no gate for step %d", rank, (int)value);
    ck_assert_uint_eq(gate->clock, value);
    ck_assert_uint_eq(gate->id, 1000 + value);
    ck_assert_int_eq(gate->stop, stop);
    wire_free(&gate->base);
}

void rank_expect_no_gate(uint32_t rank) {
    seam_expect_none(&coord.conns[rank], FRAME_GATE);
}

void ranks_pass(uint64_t value) {
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++)
        ck_assert_int_eq(rank_clock(rank, value), 0);
    for (uint32_t rank = 0; rank < COORD_WORKERS; rank++)
        rank_expect_gate(rank, value, false);
}

int rank_eval(uint32_t rank, uint32_t epoch, uint64_t valid_correct) {
    Graphps__Eval eval = GRAPHPS__EVAL__INIT;
    struct error err;
    eval.id = epoch;
    eval.rank = rank;
    eval.incarnation = 10 + rank;
    eval.epoch = epoch;
    eval.train_loss_sum = 5;
    eval.train_count = eval.valid_count = 10;
    eval.valid_correct = valid_correct;
    return coordinator_eval(coord.c, &coord.conns[rank], &eval, coord.now, &err);
}

void rank_eval_async(uint32_t rank, uint32_t epoch, bool candidate, uint64_t correct) {
    Graphps__Eval eval = GRAPHPS__EVAL__INIT;
    struct error err;
    eval.id = candidate ? 2 : 1;
    eval.rank = rank;
    eval.incarnation = 10 + rank;
    eval.epoch = epoch;
    eval.candidate = candidate;
    eval.train_count = candidate ? 0 : 10;
    eval.train_correct = candidate ? 0 : correct;
    eval.valid_count = candidate ? 10 : 0;
    eval.valid_correct = candidate ? correct : 0;
    ck_assert_int_eq(coordinator_eval(coord.c, &coord.conns[rank], &eval, coord.now, &err), 0);
}

bool rank_evaled(uint32_t rank, uint32_t epoch) {
    Graphps__Evaled *answer = (Graphps__Evaled *)seam_take(&coord.conns[rank], FRAME_EVALED);
    bool is = answer != NULL;
    if (is)
        ck_assert_uint_eq(answer->epoch, epoch);
    wire_free(answer ? &answer->base : NULL);
    return is;
}

void rank_bye(uint32_t rank, bool done) {
    Graphps__Bye bye = GRAPHPS__BYE__INIT;
    struct error err;
    bye.id = 9;
    bye.rank = rank;
    bye.incarnation = 10 + rank;
    bye.done = done;
    ck_assert_int_eq(coordinator_bye(coord.c, &coord.conns[rank], &bye, coord.now, &err), 0);
}

bool rank_goodbye(uint32_t rank) {
    ProtobufCMessage *answer = seam_take(&coord.conns[rank], FRAME_GOODBYE);
    wire_free(answer);
    return answer != NULL;
}

bool rank_told_to_stop(uint32_t rank) {
    Graphps__Heartbeat beat = GRAPHPS__HEARTBEAT__INIT;
    struct error err;
    beat.rank = rank;
    beat.incarnation = 10 + rank;
    ck_assert_int_eq(coordinator_heartbeat(coord.c, &coord.conns[rank], &beat, coord.now, &err), 0);
    Graphps__Alive *alive = (Graphps__Alive *)seam_take(&coord.conns[rank], FRAME_ALIVE);
    bool stop = alive && alive->stop;
    wire_free(alive ? &alive->base : NULL);
    return stop;
}

void rank_heartbeat(uint32_t rank) {
    (void)rank_told_to_stop(rank);
}

void coord_wait_ms(uint64_t ms, unsigned ranks) {
    for (uint64_t end = coord.now + ms; coord.now < end;) {
        coord.now += 50;
        for (uint32_t rank = 0; rank < COORD_WORKERS; rank++)
            if (ranks & (1u << rank))
                rank_heartbeat(rank);
        shard_report(0);
        shard_report(1);
        coordinator_tick(coord.c, coord.now);
        orders_forget();
    }
}

void coord_expect_status(const char *state, const char *waiting_for) {
    Graphps__Status status;
    coordinator_status(coord.c, coord.now, &status);
    ck_assert_str_eq(status.state, state);
    ck_assert_msg(strstr(status.waiting_for, waiting_for), "it waits for '%s', not for '%s'",
                  status.waiting_for, waiting_for);
    coordinator_status_done(&status);
}
