/* The learning rate: the formulas, and that shards apply just these, whatever comes in which order,
 * across a restart. */
#include <math.h>
#include <string.h>

#include "common/log.h"
#include "tests/test.h"
#include "tests/unit/seam.h"

/* --- the formulas --- */

static struct schedule schedule_of(int kind, double warmup, uint32_t steps_per_epoch) {
    struct schedule schedule = {.kind = kind,
                                .lr = 0.3,
                                .lr_min = 0.02,
                                .warmup = warmup,
                                .step_gamma = 0.5,
                                .epochs = 6,
                                .step_every = 2};
    atomic_init(&schedule.steps_per_epoch, steps_per_epoch);
    return schedule;
}

/* What each says in words, worked out by hand. */
START_TEST(by_hand) {
    struct schedule s = schedule_of(SCHEDULE_CONSTANT, 0, 0);
    ck_assert(schedule_rate(&s, 0) == 0.3F && schedule_rate(&s, UINT64_MAX) == 0.3F);

    s = schedule_of(SCHEDULE_COSINE, 0, 10); /* 60 steps */
    ck_assert(schedule_rate(&s, 0) == 0.3F);
    ck_assert_float_eq_tol(schedule_rate(&s, 30), 0.16F, 1e-7F);
    ck_assert_float_eq_tol(schedule_rate(&s, 20), 0.02F + 0.14F * 1.5F, 1e-7F); /* cos 60 deg */
    ck_assert_float_eq_tol(schedule_rate(&s, 40), 0.02F + 0.14F * 0.5F, 1e-7F);
    ck_assert_float_eq_tol(schedule_rate(&s, 60), 0.02F, 1e-8F);
    ck_assert_float_eq_tol(schedule_rate(&s, UINT64_MAX), 0.02F, 1e-8F);

    s = schedule_of(SCHEDULE_STEP, 0, 10); /* halved after every 20 steps */
    const struct {
        uint64_t clock;
        float rate;
    } stairs[] = {{0, 0.3F},    {19, 0.3F},   {20, 0.15F},  {39, 0.15F},
                  {40, 0.075F}, {59, 0.075F}, {60, 0.0375F}};
    for (size_t i = 0; i < ARRAY_LEN(stairs); i++)
        ck_assert(schedule_rate(&s, stairs[i].clock) == stairs[i].rate);

    s = schedule_of(SCHEDULE_CONSTANT, 0.5, 10); /* fifths, then all of it */
    for (uint64_t clock = 0; clock < 8; clock++)
        ck_assert_float_eq_tol(schedule_rate(&s, clock), 0.06F * (float)(clock < 5 ? clock + 1 : 5),
                               1e-7F);
    s = schedule_of(SCHEDULE_COSINE, 2, 10); /* what is left after the warm-up: 40 steps */
    ck_assert_float_eq_tol(schedule_rate(&s, 0), 0.015F, 1e-7F);
    ck_assert(schedule_rate(&s, 19) == 0.3F && schedule_rate(&s, 20) == 0.3F);
    ck_assert_float_eq_tol(schedule_rate(&s, 40), 0.16F, 1e-7F);
    s = schedule_of(SCHEDULE_COSINE, 6, 10); /* nothing is left */
    ck_assert(schedule_rate(&s, 59) == 0.3F && schedule_rate(&s, 60) == 0.02F);
    s = schedule_of(SCHEDULE_STEP, 3, 10); /* both at once */
    ck_assert_float_eq_tol(schedule_rate(&s, 21), 0.15F * 22 / 30, 1e-7F);
}
END_TEST

/* Promise: in bsp an older step has its own rate whatever was merged before, else the newest one's.
 */
START_TEST(older_steps) {
    struct schedule s = schedule_of(SCHEDULE_COSINE, 0, 10);
    ck_assert(schedule_batch_rate(&s, 30, false) == schedule_rate(&s, 30));
    ck_assert(schedule_batch_rate(&s, 10, false) == schedule_rate(&s, 30));
    ck_assert(schedule_batch_rate(&s, 10, true) == schedule_rate(&s, 10));
    ck_assert(schedule_rate(&s, 10) > schedule_rate(&s, 30));
}
END_TEST

/* --- two shards --- */

enum { WORKERS = 2, SHARDS = 3, STEPS_PER_EPOCH = 3, EPOCHS = 6, STEPS = EPOCHS * STEPS_PER_EPOCH };

/* Shards 1 and 2 of three, so that what shard 0 tells them is the test's to say. */
static struct shard {
    struct server *server;
    struct seam_disk disk;
    struct seam_conn conns[WORKERS];
    struct session *sessions[WORKERS];
    uint64_t sequences[WORKERS];
} shards[SHARDS];

static struct config *config;
static struct layout *layout;
static struct tensor_spec tensor = {
    .name = "w", .rows = 16, .cols = 8, .init = TENSOR_GLOROT_UNIFORM};
static struct layout_table table = {.name = "t", .rows = 100, .dim = 2, .init_scale = 0.5F};

static void order(struct shard *shard, uint64_t number, uint64_t restore, uint64_t generation) {
    Graphps__PeerOrder message = GRAPHPS__PEER_ORDER__INIT;
    uint32_t roster[WORKERS] = {0, 1};
    uint64_t roster_from[WORKERS] = {0};
    message.order = number;
    message.restore = true;
    message.restore_generation = restore;
    message.run = 5;
    message.roster_epoch = 1;
    message.n_roster = message.n_roster_from = WORKERS;
    message.roster = roster;
    message.roster_from = roster_from;
    message.generation = generation;
    server_ordered(shard->server, &message, 1000);
    server_work(shard->server, 1000);
}

static void greet(struct shard *shard, uint32_t rank, uint32_t steps_per_epoch) {
    Graphps__Hello hello = GRAPHPS__HELLO__INIT;
    Graphps__TensorSpec tensor_spec = GRAPHPS__TENSOR_SPEC__INIT, *tensors = &tensor_spec;
    Graphps__TableSpec table_spec = GRAPHPS__TABLE_SPEC__INIT, *tables = &table_spec;
    tensor_spec.name = tensor.name;
    tensor_spec.rows = tensor.rows;
    tensor_spec.cols = tensor.cols;
    tensor_spec.init = GRAPHPS__TENSOR_SPEC__INIT__GLOROT_UNIFORM;
    table_spec.name = table.name;
    table_spec.rows = table.rows;
    table_spec.dim = table.dim;
    table_spec.init_scale = table.init_scale;
    hello.id = 1;
    hello.job = "unit";
    hello.rank = rank;
    hello.incarnation = 9 + rank;
    hello.attempt = 5;
    hello.workers = WORKERS;
    hello.shards = SHARDS;
    hello.layout_hash = layout->hash;
    hello.n_tensors = hello.n_tables = 1;
    hello.tensors = &tensors;
    hello.tables = &tables;
    hello.snapshot_digest = "digest";
    hello.seed = 1;
    hello.steps_per_epoch = steps_per_epoch;
    hello.http = "";
    seam_send(shard->sessions[rank], FRAME_HELLO, &hello.base, NULL, 0, 1000);
}

static void expect_welcome(struct shard *shard, uint32_t rank) {
    ProtobufCMessage *welcome = seam_take(&shard->conns[rank], FRAME_WELCOME);
    ck_assert_ptr_nonnull(welcome);
    wire_free(welcome);
}

/* From a generation, 0: fresh. */
static void shard_start(struct shard *shard, uint64_t generation) {
    uint32_t number = (uint32_t)(shard - shards);
    shard->server = seam_server(config, number, 70 + generation, &shard->disk);
    for (uint32_t rank = 0; rank < WORKERS; rank++)
        shard->sessions[rank] = session_new(shard->server, &shard->conns[rank], "test");
    order(shard, 1, generation, generation);
}

static void shard_end(struct shard *shard) {
    for (uint32_t rank = 0; rank < WORKERS; rank++) {
        session_free(shard->sessions[rank]);
        seam_conn_done(&shard->conns[rank]);
    }
    shard->server = server_free(shard->server);
}

static void begin(int mode, int schedule) {
    config = seam_config(WORKERS, SHARDS);
    config->consistency_mode = mode;
    config->optimizer_lr = 0.25;
    config->optimizer_schedule = schedule;
    config->optimizer_warmup = 1;
    config->optimizer_lr_min = 0.01;
    config->optimizer_step_every = 2;
    config->optimizer_step_gamma = 0.5;
    config->train_epochs = EPOCHS;
    ck_assert_int_eq(layout_new(&tensor, 1, 64, SHARDS, &layout, NULL), 0);
    ck_assert_int_eq(layout_add_tables(layout, &table, 1, NULL), 0);
    for (int k = 1; k < SHARDS; k++) {
        shards[k] = (struct shard){0};
        shard_start(&shards[k], 0);
        for (uint32_t rank = 0; rank < WORKERS; rank++) {
            greet(&shards[k], rank, STEPS_PER_EPOCH);
            expect_welcome(&shards[k], rank);
        }
    }
}

static void finish(void) {
    for (int k = 1; k < SHARDS; k++) {
        shard_end(&shards[k]);
        seam_disk_done(&shards[k].disk);
    }
    layout_free(layout);
    config_free(config);
}

/* A row of the table that this shard has. */
static uint64_t shard_row(const struct shard *shard) {
    uint64_t row = 0;
    while (layout_row_shard(row, SHARDS) != shard->server->shard)
        row++;
    return row;
}

/* A gradient of ones for all blocks and for one row. */
static void push(struct shard *shard, uint32_t rank, uint64_t clock) {
    float ones[128];
    uint32_t first = layout->shard_starts[shard->server->shard];
    uint64_t versions[64] = {0};
    struct {
        uint64_t row;
        float values[2];
    } rows = {shard_row(shard), {1, 1}};
    Graphps__Push message = GRAPHPS__PUSH__INIT;
    size_t floats = 0;
    for (size_t i = 0; i < ARRAY_LEN(ones); i++)
        ones[i] = 1;
    message.rank = rank;
    message.incarnation = 9 + rank;
    message.clock = clock;
    message.weight = 1;
    message.sequence = ++shard->sequences[rank];
    message.n_blocks = message.n_versions = shard->server->block_count;
    message.blocks = layout->shard_blocks + first;
    message.versions = versions;
    for (size_t i = 0; i < message.n_blocks; i++)
        floats += layout->blocks[message.blocks[i]].floats;
    ck_assert(floats > 0 && floats <= ARRAY_LEN(ones) && message.n_blocks <= ARRAY_LEN(versions));
    seam_send(shard->sessions[rank], FRAME_PUSH, &message.base, ones, floats * sizeof *ones, 1000);
    message.sequence = ++shard->sequences[rank];
    message.n_blocks = message.n_versions = 0;
    message.table = message.rows = 1;
    seam_send(shard->sessions[rank], FRAME_PUSH, &message.base, &rows, sizeof rows, 1000);
}

static void aggregate(struct shard *shard) {
    while (aggregator_run(shard->server->aggregator, 1000))
        ;
    for (uint32_t rank = 0; rank < WORKERS; rank++) {
        ProtobufCMessage *pushed;
        while ((pushed = seam_take(&shard->conns[rank], FRAME_PUSHED)))
            wire_free(pushed);
        ck_assert_uint_eq(shard->conns[rank].count, 0); /* no errors */
    }
}

struct seen {
    float weight, row[2];
};

static struct seen look(struct shard *shard) {
    struct seen seen;
    uint64_t row = shard_row(shard);
    seen.weight = *(const float *)(const void *)shard->server->blocks[0].weights->data;
    table_read(shard->server->tables[0], &row, 1, seen.row);
    return seen;
}

/* sgd on a gradient of 1: what a weight loses is the rate, to the bit. */
static void expect_rate(struct shard *shard, const struct seen *before, float rate) {
    struct seen now = look(shard);
    ck_assert_msg(now.weight == before->weight - rate, "shard %u: the rate was %g, not %g",
                  shard->server->shard, (double)(before->weight - now.weight), (double)rate);
    for (int i = 0; i < 2; i++)
        ck_assert_msg(now.row[i] == before->row[i] - rate, "shard %u: of rows it was %g, not %g",
                      shard->server->shard, (double)(before->row[i] - now.row[i]), (double)rate);
}

/* The rates by themselves, for one who knows where he is. */
static float rate_at(uint64_t clock) {
    struct schedule s;
    schedule_init(&s, config);
    atomic_init(&s.steps_per_epoch, STEPS_PER_EPOCH);
    return schedule_rate(&s, clock);
}

static void restart(struct shard *shard, uint32_t first_rank) {
    order(shard, 2, 0, 1);
    ck_assert_uint_eq(shard->disk.count, 1);
    shard_end(shard);
    shard_start(shard, 1);
    ck_assert_int_eq(atomic_load(&shard->server->state), SERVER_SERVING);
    for (uint32_t i = 0; i < WORKERS; i++) {
        greet(shard, (first_rank + i) % WORKERS, STEPS_PER_EPOCH);
        expect_welcome(shard, (first_rank + i) % WORKERS);
    }
}

/* Promise: in bsp every shard steps with the rate of the batch's clock, blocks and rows, also right
 * after a restart from a checkpoint in the middle. */
START_TEST(bsp_shards_agree) {
    begin(CONSISTENCY_BSP, _i);
    for (uint64_t clock = 0; clock < STEPS; clock++)
        for (int k = 1; k < SHARDS; k++) {
            if (clock == STEPS / 2 + 1)
                restart(&shards[k], 0);
            struct seen before = look(&shards[k]);
            for (uint32_t rank = 0; rank < WORKERS; rank++)
                push(&shards[k], rank, clock);
            aggregate(&shards[k]);
            expect_rate(&shards[k], &before, rate_at(clock));
        }
    ck_assert(_i == SCHEDULE_CONSTANT || rate_at(STEPS - 1) < 0.5F * rate_at(STEPS_PER_EPOCH));
    finish();
}
END_TEST

/* Promise: without waiting the fastest worker's clock is what counts: a slow one does not take the
 * rate back, not even as the first to push after a restart. */
START_TEST(async_does_not_go_back) {
    enum { BEHIND = 4 };
    begin(CONSISTENCY_ASYNC, _i);
    for (uint64_t clock = 0; clock < STEPS; clock++)
        for (int k = 1; k < SHARDS; k++)
            for (uint32_t slow = 0; slow < 2; slow++) {
                if (slow && clock == STEPS / 2)
                    restart(&shards[k], 1);
                struct seen before = look(&shards[k]);
                push(&shards[k], slow, !slow ? clock : clock < BEHIND ? 0 : clock - BEHIND);
                aggregate(&shards[k]);
                expect_rate(&shards[k], &before, rate_at(clock));
            }
    finish();
}
END_TEST

/* Promise: a rate that changes needs the length of an epoch, the same from all; a constant one does
 * not ask. */
START_TEST(epochs_are_of_one_length) {
    begin(CONSISTENCY_ASYNC, SCHEDULE_COSINE);
    greet(&shards[1], 1, STEPS_PER_EPOCH + 1);
    seam_expect_error(&shards[1].conns[1], ERR_CONFIG,
                      "rank 1 has 4 steps per epoch, the run has 3");
    greet(&shards[1], 1, 0);
    seam_expect_error(&shards[1].conns[1], ERR_RANGE, "0 steps per epoch");
    finish();

    struct schedule constant = schedule_of(SCHEDULE_CONSTANT, 0, 0);
    ck_assert_int_eq(schedule_learn_steps(&constant, 0, 3, NULL), 0);
    ck_assert_int_eq(schedule_learn_steps(&constant, 1, 4, NULL), 0);
}
END_TEST

int main(void) {
    log_init("test", -1, (enum log_level)(LOG_ERROR + 1), false);
    Suite *suite = suite_create("schedule");
    TCase *tcase = tcase_create("schedule");
    tcase_add_test(tcase, by_hand);
    tcase_add_test(tcase, older_steps);
    tcase_add_loop_test(tcase, bsp_shards_agree, SCHEDULE_CONSTANT, SCHEDULE_STEP + 1);
    tcase_add_loop_test(tcase, async_does_not_go_back, SCHEDULE_CONSTANT, SCHEDULE_STEP + 1);
    tcase_add_test(tcase, epochs_are_of_one_length);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
