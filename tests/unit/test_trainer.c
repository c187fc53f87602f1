/* The training loop against a shard that the test plays: in what order it waits, computes and
 * pushes, and that what it computes learns. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "server/optimizer.h"
#include "tests/fake_shard.h"
#include "tests/graphs.h"
#include "tests/test.h"
#include "worker/graph/sampler.h"
#include "worker/model/model.h"
#include "worker/trainer.h"

#define EPOCHS 30

static const char *graph_dir;
static struct config *config;
static struct store *store;
static struct trainer *trainer;
static struct client *client;

/* The shard's model and habits. Its thread's own until it has ended. */
struct server {
    const struct layout *layout;
    struct optimizer optimizer;
    float *weights, *next, *state, *first_gradient;
    uint64_t version;
    uint64_t start_clock, stop_clock; /* the gate says stop from here on */
    uint64_t interrupt_at;            /* the push of this step interrupts the worker */
    bool late_acks;                   /* a push is acknowledged when the next one comes */
    uint64_t last_clock;              /* of the job: acknowledged at once */

    struct {
        bool held;
        uint64_t id, sequence;
    } owed;
    uint64_t pushes, first_clock, acknowledged, gates, evals, candidates;
    Graphps__Eval first, last, judged;
};

static void apply(struct server *server, const Graphps__Push *push, const struct frame_in *frame) {
    const struct layout *layout = server->layout;
    const uint8_t *at = frame->payload;
    ck_assert_uint_eq(push->n_blocks, layout->block_count);
    ck_assert(push->weight > 0);
    for (size_t i = 0; i < push->n_blocks; i++) {
        const struct layout_block *block = &layout->blocks[push->blocks[i]];
        float gradient[4096] = {0};
        ck_assert_uint_le(block->floats, 4096);
        codec_add(CODEC_FP32, at, block->floats, 1, gradient);
        at += codec_bytes(CODEC_FP32, 0, block->floats);
        if (server->pushes == 1)
            memcpy(server->first_gradient + block->offset, gradient, block->floats * sizeof(float));
        optimizer_step(&server->optimizer, block->floats, server->weights + block->offset, gradient,
                       server->state + 2 * block->offset, server->version, false,
                       server->next + block->offset);
    }
    memcpy(server->weights, server->next, layout->floats * sizeof(float));
    server->version++;
}

static void acknowledge(struct server *server, int fd, uint64_t id, uint64_t sequence) {
    Graphps__Pushed pushed = GRAPHPS__PUSHED__INIT;
    pushed.id = id;
    pushed.sequence = sequence;
    server->acknowledged++;
    fake_shard_reply(fd, FRAME_PUSHED, &pushed, NULL, 0);
}

static void on_push(struct server *server, int fd, const Graphps__Push *push,
                    const struct frame_in *frame) {
    if (server->pushes++ == 0)
        server->first_clock = push->clock;
    apply(server, push, frame);
    if (push->clock == server->interrupt_at)
        client_interrupt(client);
    if (server->owed.held)
        acknowledge(server, fd, server->owed.id, server->owed.sequence);
    server->owed.held = server->late_acks && push->clock != server->last_clock;
    server->owed.id = push->id;
    server->owed.sequence = push->sequence;
    if (!server->owed.held)
        acknowledge(server, fd, push->id, push->sequence);
}

static void on_pull(struct server *server, int fd, const Graphps__Pull *pull) {
    uint64_t versions[64];
    ck_assert_uint_le(pull->n_blocks, ARRAY_LEN(versions));
    Graphps__Weights weights = GRAPHPS__WEIGHTS__INIT;
    weights.id = pull->id;
    weights.shard_incarnation = 5;
    if (pull->versions[0] != server->version) {
        weights.n_blocks = weights.n_versions = pull->n_blocks;
        weights.blocks = pull->blocks;
        weights.versions = versions;
        for (size_t i = 0; i < pull->n_blocks; i++)
            versions[i] = server->version;
    }
    /* All blocks are of this shard, in the model's order. */
    fake_shard_reply(fd, FRAME_WEIGHTS, &weights, server->weights,
                     weights.n_blocks ? server->layout->floats : 0);
}

static bool answer(struct fake_shard *shard, int fd, const struct frame_in *frame,
                   const ProtobufCMessage *message) {
    struct server *server = shard->ctx;
    switch (frame->type) {
    case FRAME_HELLO: {
        Graphps__Welcome welcome = GRAPHPS__WELCOME__INIT;
        welcome.id = ((const Graphps__Hello *)message)->id;
        welcome.shard_incarnation = 5;
        welcome.lease_ms = 60000;
        welcome.attempt = 1;
        welcome.start_clock = server->start_clock;
        fake_shard_reply(fd, FRAME_WELCOME, &welcome, NULL, 0);
        return true;
    }
    case FRAME_PULL:
        on_pull(server, fd, (const Graphps__Pull *)message);
        return true;
    case FRAME_PUSH:
        on_push(server, fd, (const Graphps__Push *)message, frame);
        return true;
    case FRAME_CLOCK: {
        Graphps__Gate gate = GRAPHPS__GATE__INIT;
        gate.id = ((const Graphps__Clock *)message)->id;
        gate.clock = ((const Graphps__Clock *)message)->clock;
        gate.stop = gate.clock >= server->stop_clock;
        server->gates++;
        fake_shard_reply(fd, FRAME_GATE, &gate, NULL, 0);
        return true;
    }
    case FRAME_EVAL: {
        Graphps__Evaled evaled = GRAPHPS__EVALED__INIT;
        const Graphps__Eval *eval = (const Graphps__Eval *)message;
        if (eval->candidate) {
            server->candidates++;
        } else {
            if (server->evals++ == 0)
                server->first = *eval;
            server->last = *eval;
            /* Where nobody waits, weights are kept aside and are to be evaluated. */
            if (config->consistency_mode != CONSISTENCY_BSP && server->candidates < server->evals)
                evaled.candidate = eval->epoch;
        }
        if (eval->candidate || config->consistency_mode == CONSISTENCY_BSP)
            server->judged = *eval;
        evaled.id = eval->id;
        evaled.epoch = eval->epoch;
        fake_shard_reply(fd, FRAME_EVALED, &evaled, NULL, 0);
        return true;
    }
    case FRAME_HEARTBEAT: { /* of a run that takes a second */
        Graphps__Alive alive = GRAPHPS__ALIVE__INIT;
        alive.id = ((const Graphps__Heartbeat *)message)->id;
        fake_shard_reply(fd, FRAME_ALIVE, &alive, NULL, 0);
        return true;
    }
    default:
        ck_abort_msg("the shard got %s", frame_type_name(frame->type));
        return false;
    }
}

/* Before the tests' processes are forked. */
static void make_graph(void) {
    graph_dir = graphs_partitioned(test_tmpdir(), "community", 400, 4, 10, 16, 5, 1, 2);
}

static void set(const char *assignment) {
    struct error err;
    ck_assert_msg(config_set(config, assignment, &err) == 0, "%s", err.text);
}

static const char *sampler = "neighbor";

static struct server server_new(const char *mode, const char *more) {
    struct error err;
    struct server server = {.stop_clock = UINT64_MAX, .interrupt_at = UINT64_MAX, .version = 1};
    config = config_new();
    set(mode);
    set(more);
    char choice[40];
    snprintf(choice, sizeof choice, "train.sampler=%s", sampler);
    set(choice);
    set("train.clusters=10");
    set("train.clusters_per_batch=3");
    set("train.layer_nodes=100");
    set("servers.count=1");
    set("train.epochs=30");
    set("optimizer.lr=0.05");
    set("model.hidden=16");
    ck_assert_int_eq(config_finish(config, NULL, NULL, &err), 0);
    ck_assert_msg(store_open(graph_dir, 1, 2, 0, true, false, &store, &err) == 0, "%s", err.text);
    ck_assert_msg(trainer_new(config, 0, store, &trainer, &err) == 0, "%s", err.text);
    server.last_clock = (uint64_t)EPOCHS * trainer_steps_per_epoch(trainer) - 1;
    server.layout = trainer_layout(trainer);
    optimizer_init(&server.optimizer, config);
    server.weights = mem_array(server.layout->floats, sizeof(float));
    server.next = mem_array(server.layout->floats, sizeof(float));
    server.state = mem_array(server.layout->floats, 2 * sizeof(float));
    server.first_gradient = mem_array(server.layout->floats, sizeof(float));
    for (uint32_t i = 0; i < server.layout->block_count; i++)
        layout_init_block(server.layout, i, 1, server.weights + server.layout->blocks[i].offset);
    return server;
}

/* Runs the trainer to its end; what the shard saw is in *server afterwards. */
static int run(struct server *server, struct error *reterr) {
    struct fake_shard shard = {.answer = answer, .ctx = server};
    char addresses[100];
    fake_shard_start(&shard);
    snprintf(addresses, sizeof addresses, "servers.addresses=%s", shard.address);
    set(addresses);
    struct outbox_spec spec = {.job = "test",
                               .snapshot_digest = store->digest,
                               .http = "",
                               .workers = 1,
                               .incarnation = 3,
                               .steps_per_epoch = trainer_steps_per_epoch(trainer),
                               .layout = server->layout,
                               .payload_max_bytes = 1 << 20,
                               .resend_ms = 60000};
    ck_assert_int_eq(client_start(config, &spec, &client, reterr), 0);
    int r = trainer_run(trainer, client, reterr);
    client_stop(client);
    fake_shard_stop(&shard);
    return r;
}

static void server_done(struct server *server) {
    trainer_free(trainer);
    store_close(store);
    config_free(config);
    mem_free(server->weights);
    mem_free(server->next);
    mem_free(server->state);
    mem_free(server->first_gradient);
}

static uint64_t nodes_in(enum split split) {
    uint64_t count = 0;
    for (uint64_t i = 0; i < store->owned; i++)
        count += store->split[i] == split;
    return count;
}

static void check_learnt(const struct server *server) {
    const Graphps__Eval *last = &server->last;
    ck_assert_uint_eq(server->evals, EPOCHS);
    ck_assert_uint_eq(last->epoch, EPOCHS);
    ck_assert_uint_eq(server->judged.epoch, EPOCHS);
    ck_assert_uint_eq(server->judged.valid_count, nodes_in(SPLIT_VALID));
    ck_assert_uint_eq(server->judged.test_count, nodes_in(SPLIT_TEST));
    ck_assert_double_lt(last->train_loss_sum / (double)last->train_count,
                        0.5 * server->first.train_loss_sum / (double)server->first.train_count);
    ck_assert_uint_gt(10 * server->judged.test_correct, 8 * server->judged.test_count);
}

/* bsp: a step begins when the one before is acknowledged and the gate is open; the model learns. */
START_TEST(bsp_learns) {
    struct error err;
    struct server server = server_new("consistency.mode=bsp", "train.mode=full");
    ck_assert_msg(run(&server, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(server.pushes, EPOCHS);
    ck_assert_uint_eq(server.acknowledged, EPOCHS);
    ck_assert_uint_eq(server.gates, EPOCHS + 1);
    check_learnt(&server);
    server_done(&server);
}
END_TEST

/* async overlaps: it ends although each push is acknowledged only when the next one has come, so a
 * step was computed while the push before it was under way. */
START_TEST(async_overlaps) {
    struct error err;
    struct server server = server_new("consistency.mode=async", "train.mode=full");
    server.late_acks = true;
    ck_assert_msg(run(&server, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(server.acknowledged, EPOCHS);
    check_learnt(&server);
    server_done(&server);
}
END_TEST

/* Sampled batches: several steps an epoch; evaluation is on all nodes all the same. */
START_TEST(sampled_learns) {
    struct error err;
    struct server server = server_new("train.mode=sampled", "train.batch_size=15");
    ck_assert_uint_eq(trainer_steps_per_epoch(trainer), 3);
    ck_assert_msg(run(&server, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(server.pushes, 3 * EPOCHS);
    ck_assert_uint_eq(server.last.train_count, store->train_nodes);
    check_learnt(&server);
    server_done(&server);
}
END_TEST

/* Whatever a mini-batch is made of, the model learns from it. */
START_TEST(every_sampler_teaches) {
    static const char *const samplers[] = {"layer", "cluster", "saint"};
    static const uint32_t steps[] = {3, 4, 3};
    struct error err;
    sampler = samplers[_i];
    struct server server = server_new("train.mode=sampled", "train.batch_size=15");
    ck_assert_uint_eq(trainer_steps_per_epoch(trainer), steps[_i]);
    ck_assert_msg(run(&server, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(server.pushes, steps[_i] * EPOCHS);
    check_learnt(&server);
    server_done(&server);
}
END_TEST

/* A process that takes over begins at the step it is told, in the epoch that step is in. */
START_TEST(begins_at_the_start_clock) {
    struct error err;
    struct server server = server_new("train.mode=sampled", "train.batch_size=15");
    server.start_clock = 3 * (EPOCHS - 1) + 1;
    ck_assert_msg(run(&server, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(server.first_clock, server.start_clock);
    ck_assert_uint_eq(server.pushes, 2);
    ck_assert_uint_eq(server.evals, 1);
    ck_assert_uint_eq(server.last.epoch, EPOCHS);
    server_done(&server);
}
END_TEST

/* Evaluation only when it is due, and in the last epoch; a report in every one. */
START_TEST(evaluates_when_due) {
    struct error err;
    struct server server = server_new("consistency.mode=bsp", "train.eval_every=7");
    server.stop_clock = 8;
    ck_assert_msg(run(&server, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(server.pushes, 8);
    ck_assert_uint_eq(server.evals, 8);
    ck_assert_uint_eq(server.last.train_count, store->train_nodes);
    ck_assert_uint_eq(server.last.valid_count, 0);
    server_done(&server);
    server = server_new("consistency.mode=bsp", "train.eval_every=7");
    server.stop_clock = 7;
    ck_assert_msg(run(&server, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(server.last.valid_count, nodes_in(SPLIT_VALID));
    server_done(&server);
}
END_TEST

/* An interrupt: the step in hand is finished and acknowledged, then it ends. */
START_TEST(interrupt_finishes_the_step) {
    struct error err;
    for (int async = 0; async < 2; async++) {
        struct server server =
            server_new(async ? "consistency.mode=async" : "consistency.mode=bsp", "job.seed=1");
        server.interrupt_at = 4;
        ck_assert_int_eq(run(&server, &err), ERR_INTERRUPTED);
        ck_assert_uint_le(server.pushes, 6);
        ck_assert_uint_eq(server.acknowledged, server.pushes);
        server_done(&server);
    }
}
END_TEST

/* Weights without bounds: an error that says what to do, and nothing of it is pushed. */
START_TEST(divergence_is_an_error) {
    struct error err;
    struct server server = server_new("consistency.mode=bsp", "train.mode=full");
    for (uint64_t i = 0; i < server.layout->floats; i++)
        server.weights[i] = i % 2 ? 1e38f : -1e38f;
    ck_assert_int_eq(run(&server, &err), ERR_NOT_FINITE);
    ck_assert_ptr_nonnull(strstr(err.text, "optimizer.lr"));
    ck_assert_uint_eq(server.pushes, 0);
    server_done(&server);
}
END_TEST

/* The first gradient that is pushed, with that option. */
static float *first_gradient(const char *option, size_t *ret_floats) {
    struct error err;
    struct server server = server_new("consistency.mode=bsp", option);
    server.stop_clock = 1;
    ck_assert_msg(run(&server, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(server.pushes, 1);
    *ret_floats = server.layout->floats;
    float *gradient = server.first_gradient;
    server.first_gradient = NULL;
    server_done(&server);
    return gradient;
}

/* optimizer.clip_norm: a longer gradient is scaled before it is pushed, a shorter one is not. */
START_TEST(clips_before_it_pushes) {
    size_t floats;
    float *whole = first_gradient("optimizer.clip_norm=0", &floats);
    double squares = 0;
    for (size_t i = 0; i < floats; i++)
        squares += (double)whole[i] * (double)whole[i];
    ck_assert_double_gt(squares, 0);
    const double factors[] = {1.01, 0.25}; /* of its length */
    for (size_t k = 0; k < ARRAY_LEN(factors); k++) {
        char option[60];
        snprintf(option, sizeof option, "optimizer.clip_norm=%.17g", factors[k] * sqrt(squares));
        float *clipped = first_gradient(option, &floats);
        for (size_t i = 0; k == 1 && i < floats; i++)
            whole[i] *= 0.25F;
        test_floats_equal("gradient", clipped, whole, floats, k == 1 ? 1e-6 : 0, 0);
        mem_free(clipped);
    }
    mem_free(whole);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("trainer");
    TCase *tcase = tcase_create("trainer");
    tcase_set_timeout(tcase, 60);
    tcase_add_unchecked_fixture(tcase, make_graph, NULL);
    tcase_add_test(tcase, bsp_learns);
    tcase_add_test(tcase, async_overlaps);
    tcase_add_test(tcase, sampled_learns);
    tcase_add_loop_test(tcase, every_sampler_teaches, 0, 3);
    tcase_add_test(tcase, begins_at_the_start_clock);
    tcase_add_test(tcase, evaluates_when_due);
    tcase_add_test(tcase, interrupt_finishes_the_step);
    tcase_add_test(tcase, divergence_is_an_error);
    tcase_add_test(tcase, clips_before_it_pushes);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
