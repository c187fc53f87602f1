/* A connection to a shard: what is refused and with which words, that a refusal changes nothing,
 * and how a push is acknowledged. */
#include <math.h>
#include <string.h>

#include "common/log.h"
#include "tests/test.h"
#include "tests/unit/seam.h"

#define BLOCKS_MAX 16

/* One shard with one session; two tensors: 3 blocks of 16, 16, 8 floats and one of 4. */
static struct config *config;
static struct seam_disk disk;
static struct server *server;
static struct seam_conn conn, conn2;
static struct session *session;
static struct tensor_spec tensors[] = {
    {.name = "w", .rows = 5, .cols = 8, .init = TENSOR_GLOROT_UNIFORM, .decay = true},
    {.name = "b", .rows = 1, .cols = 4, .init = TENSOR_ZEROS},
};
static struct layout *layout;
static uint64_t now = 1000;

static void begin(uint32_t shard, int64_t shards) {
    struct error err;
    config = seam_config(2, shards);
    ck_assert_int_eq(layout_new(tensors, 2, 64, (size_t)shards, &layout, &err), 0);
    server = seam_server(config, shard, 77, &disk);
    session = session_new(server, &conn, "test");
}

/* The shard is told to start fresh: by itself, or by an order. */
static void start_fresh(void) {
    if (server->coordinator) {
        server_tick(server, now);
    } else {
        Graphps__PeerOrder order = GRAPHPS__PEER_ORDER__INIT;
        order.order = 1;
        order.restore = true;
        order.run = 5;
        server_ordered(server, &order, now);
    }
    server_work(server, now);
    ck_assert_int_eq(atomic_load(&server->state), SERVER_WAITING);
    if (server->coordinator)
        server_tick(server, now);
}

static void finish(void) {
    session = session_free(session);
    server = server_free(server);
    seam_conn_done(&conn);
    seam_conn_done(&conn2);
    seam_disk_done(&disk);
    layout_free(layout);
    config_free(config);
}

static Graphps__TensorSpec specs[2];
static Graphps__TensorSpec *spec_list[] = {&specs[0], &specs[1]};

static Graphps__Hello hello_of(uint32_t rank, uint64_t incarnation) {
    Graphps__Hello hello = GRAPHPS__HELLO__INIT;
    for (size_t i = 0; i < 2; i++) {
        graphps__tensor_spec__init(&specs[i]);
        specs[i].name = tensors[i].name;
        specs[i].rows = tensors[i].rows;
        specs[i].cols = tensors[i].cols;
        specs[i].init = tensors[i].init == TENSOR_ZEROS
                            ? GRAPHPS__TENSOR_SPEC__INIT__ZEROS
                            : GRAPHPS__TENSOR_SPEC__INIT__GLOROT_UNIFORM;
        specs[i].decay = tensors[i].decay;
    }
    hello.id = 1;
    hello.job = "unit";
    hello.rank = rank;
    hello.incarnation = incarnation;
    hello.workers = 2;
    hello.shards = server->shards;
    hello.layout_hash = layout->hash;
    hello.n_tensors = 2;
    hello.tensors = spec_list;
    hello.snapshot_digest = "digest";
    hello.seed = 1;
    hello.steps_per_epoch = 4;
    hello.http = "";
    return hello;
}

static void send_hello(struct session *to, const Graphps__Hello *hello) {
    seam_send(to, FRAME_HELLO, &hello->base, NULL, 0, now);
}

static Graphps__Welcome expect_welcome(struct seam_conn *at) {
    Graphps__Welcome *welcome = (Graphps__Welcome *)seam_take(at, FRAME_WELCOME);
    ck_assert_ptr_nonnull(welcome);
    Graphps__Welcome copy = *welcome;
    wire_free(&welcome->base);
    return copy;
}

static Graphps__Welcome greet(struct session *to, struct seam_conn *at, uint32_t rank,
                              uint64_t incarnation, uint64_t attempt) {
    Graphps__Hello hello = hello_of(rank, incarnation);
    hello.attempt = attempt;
    send_hello(to, &hello);
    return expect_welcome(at);
}

/* A push of every block of this shard, all gradients 1. */
static struct {
    Graphps__Push message;
    uint32_t blocks[BLOCKS_MAX];
    uint64_t versions[BLOCKS_MAX];
    float payload[256];
    size_t floats;
} push;

static void push_make(uint32_t rank, uint64_t incarnation, uint64_t sequence) {
    memset(&push, 0, sizeof push);
    graphps__push__init(&push.message);
    push.message.id = 100 + sequence;
    push.message.rank = rank;
    push.message.incarnation = incarnation;
    push.message.sequence = sequence;
    push.message.weight = 3;
    push.message.blocks = push.blocks;
    push.message.versions = push.versions;
    for (uint32_t i = layout->shard_starts[server->shard];
         i < layout->shard_starts[server->shard + 1]; i++) {
        push.blocks[push.message.n_blocks] = layout->shard_blocks[i];
        push.versions[push.message.n_blocks++] = 1;
        push.floats += layout->blocks[layout->shard_blocks[i]].floats;
    }
    push.message.n_versions = push.message.n_blocks;
    for (size_t i = 0; i < push.floats; i++)
        push.payload[i] = 1;
}

static void push_send(struct session *to) {
    seam_send(to, FRAME_PUSH, &push.message.base, push.payload, push.floats * sizeof(float), now);
}

static void aggregate(void) {
    while (aggregator_run(server->aggregator, now))
        ;
}

static void expect_pushed(struct seam_conn *at, uint64_t sequence, bool repeat) {
    Graphps__Pushed *pushed = (Graphps__Pushed *)seam_take(at, FRAME_PUSHED);
    ck_assert_msg(pushed != NULL, "push %d was not acknowledged", (int)sequence);
    ck_assert_uint_eq(pushed->sequence, sequence);
    ck_assert_uint_eq(pushed->id, 100 + sequence);
    ck_assert_int_eq(pushed->repeat, repeat);
    wire_free(&pushed->base);
}

static void expect_untouched(void) {
    aggregate();
    for (size_t i = 0; i < server->block_count; i++)
        ck_assert_uint_eq(server->blocks[i].version, 1);
    ck_assert_uint_eq(aggregator_pending(server->aggregator), 0);
    ck_assert_uint_eq(server->seats[0].ledger.counted, 0);
}

/* Whoever has not said hello is told so, and may say it then: the connection lives on. */
START_TEST(test_before_hello) {
    begin(0, 1);
    push_make(0, 9, 1);
    push_send(session);
    seam_expect_error(&conn, ERR_NOT_ATTACHED, "before hello");
    Graphps__Hello hello = hello_of(0, 9);
    send_hello(session, &hello);
    seam_expect_error(&conn, ERR_NOT_READY, "starting");
    start_fresh();
    Graphps__Welcome welcome = greet(session, &conn, 0, 9, 0);
    ck_assert_uint_gt(welcome.attempt, 0);
    ck_assert_uint_eq(welcome.shard_incarnation, 77);
    ck_assert_uint_eq(welcome.start_clock, 0);
    Graphps__Welcome again = greet(session, &conn, 0, 9, 0);
    ck_assert_uint_eq(again.attempt, welcome.attempt);
    finish();
}
END_TEST

/* Each thing that a wrong worker can have wrong is refused by name, and the layout stays open. */
START_TEST(test_wrong_hello) {
    begin(0, 1);
    start_fresh();
    Graphps__Hello hello = hello_of(0, 9);
    hello.job = "other";
    send_hello(session, &hello);
    seam_expect_error(&conn, ERR_WRONG_JOB, "other");
    hello = hello_of(0, 9);
    hello.workers = 3;
    send_hello(session, &hello);
    seam_expect_error(&conn, ERR_CONFIG, "workers.count");
    hello = hello_of(0, 9);
    hello.shards = 2;
    send_hello(session, &hello);
    seam_expect_error(&conn, ERR_CONFIG, "servers.count");
    hello = hello_of(2, 9);
    send_hello(session, &hello);
    seam_expect_error(&conn, ERR_RANGE, "rank 2");
    hello = hello_of(0, 9);
    hello.seed = 2;
    send_hello(session, &hello);
    seam_expect_error(&conn, ERR_CONFIG, "job.seed");
    hello = hello_of(0, 9);
    hello.layout_hash++;
    send_hello(session, &hello);
    seam_expect_error(&conn, ERR_WRONG_LAYOUT, "block_bytes");
    hello = hello_of(0, 9);
    hello.n_tensors = 0;
    send_hello(session, &hello);
    seam_expect_error(&conn, ERR_WRONG_LAYOUT, "no tensors");
    ck_assert_int_eq(atomic_load(&server->state), SERVER_WAITING);
    greet(session, &conn, 0, 9, 0);
    finish();
}
END_TEST

/* A shard whose model is too large to be made while everybody waits. */
static void begin_large(uint32_t shard, int64_t shards) {
    struct error err;
    tensors[0].rows = (uint32_t)shards * 17 << 10;
    tensors[0].cols = 1 << 10;
    config = seam_config(2, shards);
    config->servers_block_bytes = 8 << 20;
    ck_assert_int_eq(layout_new(tensors, 2, 8 << 20, (size_t)shards, &layout, &err), 0);
    server = seam_server(config, shard, 77, &disk);
    session = session_new(server, &conn, "test");
    start_fresh();
    Graphps__Hello hello = hello_of(0, 9);
    hello.attempt = 1;
    send_hello(session, &hello);
    seam_expect_error(&conn, ERR_NOT_READY, "building");
    ck_assert_int_eq(atomic_load(&server->state), SERVER_BUILDING);
}

/* Promise: a large model's first weights are made as slow work, once; meanwhile the shard talks,
 * and afterwards it serves just these weights to whoever declares the same. */
START_TEST(test_large_layout) {
    begin_large(0, 1);
    Graphps__Hello hello = hello_of(1, 10);
    send_hello(session, &hello);
    seam_expect_error(&conn, ERR_NOT_READY, "building");
    char why[100];
    ck_assert(!server_ready(server, why, sizeof why));
    Graphps__StatusRequest request = GRAPHPS__STATUS_REQUEST__INIT;
    request.id = 4;
    request.job = "unit";
    seam_send(session, FRAME_STATUS_REQUEST, &request.base, NULL, 0, now);
    wire_free(seam_take(&conn, FRAME_STATUS));
    server_tick(server, now);
    ck_assert_int_eq(atomic_load(&server->state), SERVER_BUILDING);

    server_work(server, now);
    ck_assert_int_eq(atomic_load(&server->state), SERVER_SERVING);
    hello = hello_of(0, 9);
    hello.layout_hash++;
    send_hello(session, &hello);
    seam_expect_error(&conn, ERR_WRONG_LAYOUT, "cut in another way");
    greet(session, &conn, 0, 9, 0);
    struct buf *blocks = server->blocks[0].weights;
    server_work(server, now);
    ck_assert_ptr_eq(server->blocks[0].weights, blocks);
    for (size_t i = 0; i < server->block_count; i++) {
        const struct block *block = &server->blocks[i];
        float *expected = mem_array(block->floats, sizeof *expected);
        layout_init_block(layout, block->id, 1, expected);
        ck_assert_mem_eq(block->weights->data, expected, block->floats * sizeof *expected);
        mem_free(expected);
    }
    finish();
}
END_TEST

/* Promise: a shard that is asked to end before they are made ends without them. */
START_TEST(test_large_layout_given_up) {
    begin_large(1, 2);
    server_leave(server, now);
    server_work(server, now);
    ck_assert_int_eq(atomic_load(&server->state), SERVER_FINISHED);
    ck_assert_ptr_null(server->blocks);
    finish();
}
END_TEST

/* Once there is a layout, another one is refused, naming the first difference. */
START_TEST(test_wrong_layout) {
    begin(0, 1);
    start_fresh();
    greet(session, &conn, 0, 9, 0);
    struct session *other = session_new(server, &conn2, "other");
    static const struct {
        const char *text;
        int change;
    } cases[] = {{"'v'", 0}, {"5 x 9", 1}, {"decay", 2}, {"1 tensors", 3}, {"block_bytes", 4}};
    for (int i = 0; i < (int)ARRAY_LEN(cases); i++) {
        Graphps__Hello hello = hello_of(1, 10);
        hello.layout_hash++;
        if (i == 0)
            specs[0].name = "v";
        else if (i == 1)
            specs[0].cols = 9;
        else if (i == 2)
            specs[0].decay = false;
        else if (i == 3)
            hello.n_tensors = 1;
        send_hello(other, &hello);
        seam_expect_error(&conn2, ERR_WRONG_LAYOUT, cases[i].text);
    }
    Graphps__Hello hello = hello_of(1, 10);
    hello.snapshot_digest = "another";
    send_hello(other, &hello);
    seam_expect_error(&conn2, ERR_CONFIG, "data.snapshot");
    session_free(other);
    finish();
}
END_TEST

/* A push is believed whole or not at all: whatever is wrong with it, no weight changes and it does
 * not count; the right one afterwards does. */
START_TEST(test_wrong_push) {
    begin(0, 1);
    start_fresh();
    greet(session, &conn, 0, 9, 0);
    push_make(0, 9, 1);
    push.payload[push.floats - 1] = NAN;
    push_send(session);
    seam_expect_error(&conn, ERR_NOT_FINITE, "block 3");
    push_make(0, 9, 1);
    push.message.weight = -1;
    push_send(session);
    seam_expect_error(&conn, ERR_NOT_FINITE, "weight");
    push.message.weight = 1e300;
    push_send(session);
    seam_expect_error(&conn, ERR_NOT_FINITE, "weight");
    push_make(0, 9, 1);
    push.floats--;
    push_send(session);
    seam_expect_error(&conn, ERR_PROTOCOL, "payload of");
    push_make(0, 9, 1);
    push.blocks[3] = 4;
    push_send(session);
    seam_expect_error(&conn, ERR_RANGE, "block 4");
    push_make(0, 9, 1);
    push.blocks[1] = 0;
    push_send(session);
    seam_expect_error(&conn, ERR_PROTOCOL, "ascending");
    push_make(0, 9, 1);
    push.message.n_versions--;
    push_send(session);
    seam_expect_error(&conn, ERR_PROTOCOL, "versions");
    push_make(0, 9, 0);
    push_send(session);
    seam_expect_error(&conn, ERR_PROTOCOL, "sequences");
    push_make(0, 9, 1);
    push.message.encoding = (Graphps__Encoding)7;
    push_send(session);
    seam_expect_error(&conn, ERR_PROTOCOL, "encoding");
    push_make(1, 9, 1);
    push_send(session);
    seam_expect_error(&conn, ERR_PROTOCOL, "rank 1");
    push_make(0, 9, 1);
    push.message.n_blocks = push.message.n_versions = 0;
    push.floats = 0;
    push_send(session);
    seam_expect_error(&conn, ERR_PROTOCOL, "0 blocks");
    expect_untouched();

    push_make(0, 9, 1);
    push_send(session);
    seam_expect_none(&conn, FRAME_PUSHED);
    aggregate();
    expect_pushed(&conn, 1, false);
    for (size_t i = 0; i < server->block_count; i++)
        ck_assert_uint_eq(server->blocks[i].version, 2);
    finish();
}
END_TEST

/* A repeat while the first waits gets its answer with it; a repeat afterwards is acknowledged at
 * once and not applied; beyond the ledger's window the sender is told to wait. */
START_TEST(test_repeats) {
    begin(0, 1);
    start_fresh();
    greet(session, &conn, 0, 9, 0);
    push_make(0, 9, 1);
    push_send(session);
    push_send(session);
    seam_expect_none(&conn, FRAME_PUSHED);
    aggregate();
    expect_pushed(&conn, 1, false);
    seam_expect_none(&conn, FRAME_PUSHED);
    push_send(session);
    expect_pushed(&conn, 1, true);
    aggregate();
    ck_assert_uint_eq(server->blocks[0].version, 2);
    push_make(0, 9, 2 + LEDGER_WINDOW);
    push_send(session);
    seam_expect_error(&conn, ERR_BUSY, "in flight");
    ck_assert_uint_eq(server->seats[0].ledger.counted, 1);
    finish();
}
END_TEST

/* The acknowledgement goes to the connection that the worker has then, not to the one on which the
 * push came. */
START_TEST(test_reconnect) {
    begin(0, 1);
    start_fresh();
    Graphps__Welcome welcome = greet(session, &conn, 0, 9, 0);
    push_make(0, 9, 1);
    push_send(session);
    session = session_free(session);
    session = session_new(server, &conn2, "again");
    greet(session, &conn2, 0, 9, welcome.attempt);
    aggregate();
    seam_expect_none(&conn, FRAME_PUSHED);
    expect_pushed(&conn2, 1, false);
    finish();
}
END_TEST

/* A newer process of a rank takes it: the older one is told, its pushes are refused, and what it
 * had sent before counts once. */
START_TEST(test_fenced) {
    begin(0, 1);
    start_fresh();
    Graphps__Welcome older = greet(session, &conn, 0, 9, 0);
    push_make(0, 9, 1);
    push_send(session);
    struct session *newer = session_new(server, &conn2, "newer");
    Graphps__Welcome welcome = greet(newer, &conn2, 0, 10, 0);
    ck_assert_uint_gt(welcome.attempt, older.attempt);
    seam_expect_error(&conn, ERR_FENCED, "newer process");
    push_make(0, 9, 2);
    push_send(session);
    seam_expect_error(&conn, ERR_FENCED, "rank 0");
    Graphps__Hello hello = hello_of(0, 9);
    hello.attempt = older.attempt;
    send_hello(session, &hello);
    seam_expect_error(&conn, ERR_FENCED, "newer process");
    aggregate();
    seam_expect_none(&conn, FRAME_PUSHED);
    seam_expect_none(&conn2, FRAME_PUSHED);
    push_make(0, 10, 1);
    push_send(newer);
    aggregate();
    expect_pushed(&conn2, 1, false);
    ck_assert_uint_eq(server->seats[0].ledger.counted, 2);
    session_free(newer);
    finish();
}
END_TEST

/* A pull brings the blocks whose version is another than the one held, whole, and no others. */
START_TEST(test_pull) {
    begin(0, 1);
    start_fresh();
    greet(session, &conn, 0, 9, 0);
    Graphps__Pull pull = GRAPHPS__PULL__INIT;
    uint32_t blocks[] = {0, 1, 2, 3};
    uint64_t versions[4] = {0};
    float before[64], after[64];
    size_t floats;
    pull.id = 7;
    pull.n_blocks = pull.n_versions = 4;
    pull.blocks = blocks;
    pull.versions = versions;
    seam_send(session, FRAME_PULL, &pull.base, NULL, 0, now);
    Graphps__Weights *weights =
        (Graphps__Weights *)seam_take_payload(&conn, FRAME_WEIGHTS, before, 64, &floats);
    ck_assert_uint_eq(weights->n_blocks, 4);
    ck_assert_uint_eq(floats, 44);
    ck_assert_uint_eq(weights->shard_incarnation, 77);
    float initial[16];
    layout_init_block(layout, 0, 1, initial);
    ck_assert_mem_eq(before, initial, sizeof initial);
    wire_free(&weights->base);

    push_make(0, 9, 1);
    push.message.n_blocks = push.message.n_versions = 1; /* block 0 alone */
    push.floats = 16;
    push_send(session);
    aggregate();
    expect_pushed(&conn, 1, false);
    for (size_t i = 0; i < 4; i++)
        versions[i] = 1;
    seam_send(session, FRAME_PULL, &pull.base, NULL, 0, now);
    weights = (Graphps__Weights *)seam_take_payload(&conn, FRAME_WEIGHTS, after, 64, &floats);
    ck_assert_uint_eq(weights->n_blocks, 1);
    ck_assert_uint_eq(weights->blocks[0], 0);
    ck_assert_uint_eq(weights->versions[0], 2);
    ck_assert_uint_eq(floats, 16);
    for (size_t i = 0; i < 16; i++)
        ck_assert_float_eq(after[i], before[i] - 1);
    wire_free(&weights->base);

    blocks[3] = 4;
    seam_send(session, FRAME_PULL, &pull.base, NULL, 0, now);
    seam_expect_error(&conn, ERR_RANGE, "block 4");
    finish();
}
END_TEST

/* Shards beyond 0 take numbered workers only, blocks of their own only, and nothing that is
 * shard 0's. */
START_TEST(test_other_shard) {
    begin(1, 2);
    start_fresh();
    Graphps__Hello hello = hello_of(0, 9);
    send_hello(session, &hello);
    seam_expect_error(&conn, ERR_PROTOCOL, "shard 0");
    greet(session, &conn, 0, 9, 5);
    push_make(0, 9, 1);
    push.blocks[0] = layout->shard_blocks[0];
    push_send(session);
    seam_expect_error(&conn, ERR_RANGE, "is shard 0's");
    Graphps__Clock clock = GRAPHPS__CLOCK__INIT;
    seam_send(session, FRAME_CLOCK, &clock.base, NULL, 0, now);
    seam_expect_error(&conn, ERR_PROTOCOL, "only shard 0");
    struct session *peer = session_new(server, &conn2, "peer");
    Graphps__PeerReport report = GRAPHPS__PEER_REPORT__INIT;
    report.job = "unit";
    seam_send(peer, FRAME_PEER_REPORT, &report.base, NULL, 0, now);
    seam_expect_error(&conn2, ERR_CONFIG, "servers.addresses");
    Graphps__Welcome stray = GRAPHPS__WELCOME__INIT;
    seam_send(peer, FRAME_WELCOME, &stray.base, NULL, 0, now);
    seam_expect_error(&conn2, ERR_PROTOCOL, "WELCOME");
    session_free(peer);
    finish();
}
END_TEST

/* Anyone may ask for the job's status, but for this job's only. */
START_TEST(test_status) {
    begin(0, 1);
    Graphps__StatusRequest request = GRAPHPS__STATUS_REQUEST__INIT;
    request.id = 3;
    request.job = "unit";
    seam_send(session, FRAME_STATUS_REQUEST, &request.base, NULL, 0, now);
    Graphps__Status *status = (Graphps__Status *)seam_take(&conn, FRAME_STATUS);
    ck_assert_ptr_nonnull(status);
    ck_assert_uint_eq(status->id, 3);
    ck_assert_str_eq(status->state, "starting");
    ck_assert_uint_eq(status->n_workers, 2);
    wire_free(&status->base);
    request.job = "other";
    seam_send(session, FRAME_STATUS_REQUEST, &request.base, NULL, 0, now);
    seam_expect_error(&conn, ERR_WRONG_JOB, "other");
    finish();
}
END_TEST

/* A shard that is asked to leave writes the generation it is given and then ends with "try again";
 * its successor goes on with the same weights and ledger. */
START_TEST(test_leave_and_restore) {
    begin(1, 2);
    start_fresh();
    greet(session, &conn, 0, 9, 5);
    push_make(0, 9, 1);
    push_send(session);
    aggregate();
    expect_pushed(&conn, 1, false);
    server_leave(server, now);
    ck_assert_int_eq(atomic_load(&server->state), SERVER_SERVING);
    Graphps__PeerOrder order = GRAPHPS__PEER_ORDER__INIT;
    order.order = 2;
    order.run = 5;
    order.generation = 1;
    server_ordered(server, &order, now);
    disk.full = true;
    server_work(server, now);
    ck_assert_int_eq(atomic_load(&server->state), SERVER_FINISHED);
    ck_assert_int_eq(server->finish.code, ERR_IO);
    finish();

    begin(1, 2);
    disk.full = false;
    start_fresh();
    greet(session, &conn, 0, 9, 5);
    push_make(0, 9, 1);
    push_send(session);
    aggregate();
    server_leave(server, now);
    server_ordered(server, &order, now);
    server_work(server, now);
    ck_assert_int_eq(server->finish.code, ERR_INTERRUPTED);
    ck_assert_uint_eq(disk.count, 1);
    float weights[16];
    memcpy(weights, server->blocks[0].weights->data, server->blocks[0].floats * sizeof(float));
    session = session_free(session);
    server = server_free(server);

    server = seam_server(config, 1, 78, &disk);
    session = session_new(server, &conn2, "test");
    order.order = 3;
    order.restore = true;
    order.restore_generation = 1;
    server_ordered(server, &order, now);
    server_work(server, now);
    ck_assert_int_eq(atomic_load(&server->state), SERVER_SERVING);
    ck_assert_mem_eq(weights, server->blocks[0].weights->data,
                     server->blocks[0].floats * sizeof(float));
    greet(session, &conn2, 0, 9, 5);
    push_send(session);
    expect_pushed(&conn2, 1, true);
    finish();
}
END_TEST

/* A checkpoint that the job file does not fit ends the shard with words; one of another run is not
 * offered any more. */
START_TEST(test_restore_refused) {
    begin(1, 2);
    start_fresh();
    greet(session, &conn, 0, 9, 5);
    Graphps__PeerOrder order = GRAPHPS__PEER_ORDER__INIT;
    order.order = 2;
    order.run = 5;
    order.generation = 1;
    server_ordered(server, &order, now);
    server_work(server, now);
    ck_assert_uint_eq(disk.count, 1);
    session = session_free(session);
    server = server_free(server);

    order.restore = true;
    order.restore_generation = 1;
    server = seam_server(config, 1, 78, &disk);
    order.run = 6;
    server_ordered(server, &order, now);
    server_work(server, now);
    ck_assert_int_eq(atomic_load(&server->state), SERVER_STARTING);
    ck_assert_uint_eq(server->generation_count, 0);
    server = server_free(server);

    config->job_seed = 2;
    server = seam_server(config, 1, 79, &disk);
    order.run = 5;
    server_ordered(server, &order, now);
    server_work(server, now);
    ck_assert_int_eq(atomic_load(&server->state), SERVER_FINISHED);
    ck_assert_int_eq(server->finish.code, ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(server->finish.text, "job.seed"));
    finish();
}
END_TEST

int main(void) {
    log_init("test", -1, (enum log_level)(LOG_ERROR + 1), false);
    Suite *suite = suite_create("session");
    TCase *tcase = tcase_create("session");
    tcase_set_timeout(tcase, 60); /* large layouts take a while under a sanitizer */
    tcase_add_test(tcase, test_before_hello);
    tcase_add_test(tcase, test_wrong_hello);
    tcase_add_test(tcase, test_large_layout);
    tcase_add_test(tcase, test_large_layout_given_up);
    tcase_add_test(tcase, test_wrong_layout);
    tcase_add_test(tcase, test_wrong_push);
    tcase_add_test(tcase, test_repeats);
    tcase_add_test(tcase, test_reconnect);
    tcase_add_test(tcase, test_fenced);
    tcase_add_test(tcase, test_pull);
    tcase_add_test(tcase, test_other_shard);
    tcase_add_test(tcase, test_status);
    tcase_add_test(tcase, test_leave_and_restore);
    tcase_add_test(tcase, test_restore_refused);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
