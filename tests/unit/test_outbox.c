/* The worker's half of the promises, scripted: what the outbox sends when the network says this or
 * that. The script plays both shards; time is a number. */
#include <string.h>

#include "common/mem.h"
#include "tests/test.h"
#include "worker/outbox.h"

#define RESEND_MS 1000
#define LEASE_MS 30000
#define BEAT_MS 1000 /* of any lease that long */

/* What was sent to a shard and not looked at yet. */
struct sent {
    enum frame_type type;
    struct frame_in frame;
    ProtobufCMessage *message;
};

struct script {
    struct layout *layout;
    struct outbox *outbox;
    struct sent sent[2][256];
    size_t sent_count[2], read[2];
    int reconnects[2];
    struct error why;
    uint64_t now;
};

static void script_send(void *ctx, uint32_t shard, struct frame_out *out) {
    struct script *script = ctx;
    struct buf *flat = frame_out_flatten(out);
    struct error err;
    size_t used;
    ck_assert_uint_lt(script->sent_count[shard], 256);
    struct sent *sent = &script->sent[shard][script->sent_count[shard]++];
    ck_assert_int_eq(frame_in_parse(flat->data, flat->len, 1 << 20, &sent->frame, &used, &err), 0);
    ck_assert_int_eq(wire_unpack(&sent->frame, &sent->message, &err), 0);
    sent->type = sent->frame.type;
    buf_unref(flat);
    frame_out_free(out);
}

static void script_reconnect(void *ctx, uint32_t shard, const struct error *why) {
    struct script *script = ctx;
    script->reconnects[shard]++;
    script->why = *why;
}

/* Four tensors of one block each, of 16, 16, 5 and 3 floats: two shards, two blocks each; the last
 * of them perhaps a statistic, and perhaps a table of rows of ROW_DIM floats. */
enum { ROW_DIM = 2 };
enum extra { EXTRA_NONE, EXTRA_TABLE, EXTRA_STATISTIC };

static struct script *script_make(enum codec codec, uint32_t payload_max, enum extra extra) {
    static const struct outbox_ops ops = {.send = script_send, .reconnect = script_reconnect};
    struct tensor_spec tensors[] = {
        {"a", 4, 4, TENSOR_GLOROT_UNIFORM, true},
        {"b", 4, 4, TENSOR_GLOROT_UNIFORM, true},
        {"c", 1, 5, TENSOR_ZEROS, false},
        {"d", 1, 3, TENSOR_ZEROS, .statistic = extra == EXTRA_STATISTIC},
    };
    struct script *script = mem_alloc(sizeof *script);
    struct error err;
    ck_assert_int_eq(layout_new(tensors, 4, 64, 2, &script->layout, &err), 0);
    const struct layout_table rows = {"embedding", 1000, ROW_DIM, 0.5F};
    if (extra == EXTRA_TABLE)
        ck_assert_int_eq(layout_add_tables(script->layout, &rows, 1, &err), 0);
    for (int s = 0; s < 2; s++)
        ck_assert_uint_eq(script->layout->shard_starts[s + 1] - script->layout->shard_starts[s], 2);
    struct outbox_spec spec = {
        .job = "test",
        .snapshot_digest = "d41d",
        .http = "",
        .rank = 1,
        .workers = 3,
        .incarnation = 77,
        .steps_per_epoch = 1,
        .layout = script->layout,
        .codec = codec,
        .topk_ratio = 0.1f,
        .payload_max_bytes = payload_max,
        .frame_max_bytes = payload_max,
        .resend_ms = RESEND_MS,
    };
    script->outbox = outbox_new(&spec, &ops, script);
    script->now = 5000;
    return script;
}

static struct script *script_new(enum codec codec, uint32_t payload_max) {
    return script_make(codec, payload_max, EXTRA_NONE);
}

static void script_free(struct script *script) {
    outbox_free(script->outbox);
    layout_free(script->layout);
    for (int s = 0; s < 2; s++)
        for (size_t i = 0; i < script->sent_count[s]; i++) {
            frame_in_done(&script->sent[s][i].frame);
            wire_free(script->sent[s][i].message);
        }
    mem_free(script);
}

/* The next frame sent to a shard; it must be of this type. */
static const struct sent *next_sent(struct script *script, uint32_t shard, enum frame_type type) {
    ck_assert_msg(script->read[shard] < script->sent_count[shard], "shard %u got no %s", shard,
                  frame_type_name(type));
    const struct sent *sent = &script->sent[shard][script->read[shard]++];
    ck_assert_msg(sent->type == type, "shard %u got %s, not %s", shard, frame_type_name(sent->type),
                  frame_type_name(type));
    return sent;
}
#define NEXT(script, shard, TYPE, Type)                                                            \
    ((const Graphps__##Type *)next_sent(script, shard, FRAME_##TYPE)->message)

static void nothing_sent(struct script *script, uint32_t shard) {
    if (script->read[shard] < script->sent_count[shard])
        ck_abort_msg("shard %u got %s", shard,
                     frame_type_name(script->sent[shard][script->read[shard]].type));
}

static void answer(struct script *script, uint32_t shard, enum frame_type type, const void *message,
                   const float *payload, size_t floats) {
    struct buf *buf = buf_new(floats * sizeof(float));
    if (floats)
        memcpy(buf->data, payload, floats * sizeof(float));
    struct frame_out_piece piece = {buf, buf->data, buf->len};
    struct frame_out *out = frame_out_new(type, message, &piece, floats ? 1 : 0);
    if (!floats)
        buf_unref(buf);
    struct buf *flat = frame_out_flatten(out);
    struct frame_in in;
    struct error err;
    size_t used;
    ck_assert_int_eq(frame_in_parse(flat->data, flat->len, 1 << 20, &in, &used, &err), 0);
    outbox_frame(script->outbox, shard, &in, script->now);
    frame_in_done(&in);
    buf_unref(flat);
    frame_out_free(out);
}

static void answer_welcome(struct script *script, uint32_t shard, uint64_t id,
                           uint64_t shard_incarnation, uint64_t start_clock) {
    Graphps__Welcome welcome = GRAPHPS__WELCOME__INIT;
    welcome.id = id;
    welcome.shard = shard;
    welcome.shard_incarnation = shard_incarnation;
    if (shard == 0) {
        welcome.start_clock = start_clock;
        welcome.lease_ms = LEASE_MS;
        welcome.attempt = 9;
    }
    answer(script, shard, FRAME_WELCOME, &welcome, NULL, 0);
}

static void answer_pushed(struct script *script, uint32_t shard, const Graphps__Push *push) {
    Graphps__Pushed pushed = GRAPHPS__PUSHED__INIT;
    pushed.id = push->id;
    pushed.sequence = push->sequence;
    answer(script, shard, FRAME_PUSHED, &pushed, NULL, 0);
}

static void answer_error(struct script *script, uint32_t shard, uint64_t id, int code,
                         const char *text) {
    Graphps__Error error = GRAPHPS__ERROR__INIT;
    error.id = id;
    error.code = (uint32_t)-code;
    error.text = (char *)text;
    error.retryable = error_retryable(code);
    answer(script, shard, FRAME_ERROR, &error, NULL, 0);
}

/* Answers a pull with version and value for all its blocks. */
static void answer_pull(struct script *script, uint32_t shard, const Graphps__Pull *pull,
                        uint64_t incarnation, uint64_t version, float value) {
    float payload[64];
    uint64_t versions[4];
    size_t floats = 0;
    for (size_t i = 0; i < pull->n_blocks; i++) {
        versions[i] = version;
        floats += script->layout->blocks[pull->blocks[i]].floats;
    }
    for (size_t i = 0; i < floats; i++)
        payload[i] = value;
    Graphps__Weights weights = GRAPHPS__WEIGHTS__INIT;
    weights.id = pull->id;
    weights.n_blocks = weights.n_versions = pull->n_blocks;
    weights.blocks = pull->blocks;
    weights.versions = versions;
    weights.shard_incarnation = incarnation;
    answer(script, shard, FRAME_WEIGHTS, &weights, payload, floats);
}

/* Both shards connected and greeted; Clock{0} answered. */
static void join(struct script *script) {
    outbox_opened(script->outbox, 0, script->now);
    outbox_opened(script->outbox, 1, script->now);
    answer_welcome(script, 0, NEXT(script, 0, HELLO, Hello)->id, 100, 0);
    answer_welcome(script, 1, NEXT(script, 1, HELLO, Hello)->id, 101, 0);
    const Graphps__Clock *clock = NEXT(script, 0, CLOCK, Clock);
    Graphps__Gate gate = GRAPHPS__GATE__INIT;
    gate.id = clock->id;
    answer(script, 0, FRAME_GATE, &gate, NULL, 0);
    ck_assert(outbox_welcomed(script->outbox));
}

static void push(struct script *script, uint64_t clock, float value) {
    float gradient[40];
    for (size_t i = 0; i < 40; i++)
        gradient[i] = value * (float)(i + 1);
    outbox_push(script->outbox, gradient, clock, 1, script->now);
}

/* Shard 0 numbers the attempt before any other shard is spoken to. */
START_TEST(greets_shard_0_first) {
    struct script *script = script_new(CODEC_FP32, 1 << 16);
    outbox_opened(script->outbox, 1, script->now);
    outbox_tick(script->outbox, script->now);
    nothing_sent(script, 1);
    outbox_opened(script->outbox, 0, script->now);
    const Graphps__Hello *hello = NEXT(script, 0, HELLO, Hello);
    ck_assert_uint_eq(hello->attempt, 0);
    ck_assert_uint_eq(hello->n_tensors, 4);
    ck_assert_uint_eq(hello->layout_hash, script->layout->hash);
    nothing_sent(script, 1);
    answer_welcome(script, 0, hello->id, 100, 6);
    hello = NEXT(script, 1, HELLO, Hello);
    ck_assert_uint_eq(hello->attempt, 9);
    ck_assert_uint_eq(hello->clock, 6);
    ck_assert_uint_eq(hello->lowest_unacked, 1);
    ck_assert(!outbox_welcomed(script->outbox));
    answer_welcome(script, 1, hello->id, 101, 0);
    ck_assert(outbox_welcomed(script->outbox));
    ck_assert_uint_eq(outbox_start_clock(script->outbox), 6);
    ck_assert_uint_eq(NEXT(script, 0, CLOCK, Clock)->clock, 6);
    script_free(script);
}
END_TEST

/* Clock{c} leaves when every shard has acknowledged all pushes of steps below c, and not before. */
START_TEST(clock_follows_all_acknowledgements) {
    struct script *script = script_new(CODEC_FP32, 1 << 16);
    join(script);
    push(script, 0, 1);
    const Graphps__Push *first = NEXT(script, 0, PUSH, Push);
    const Graphps__Push *second = NEXT(script, 1, PUSH, Push);
    ck_assert_uint_eq(first->sequence, 1);
    ck_assert_uint_eq(first->n_blocks, 2);
    answer_pushed(script, 0, first);
    answer_pushed(script, 0, first); /* a repeat changes nothing */
    nothing_sent(script, 0);
    ck_assert_uint_eq(outbox_finished(script->outbox), 0);
    answer_pushed(script, 1, second);
    ck_assert_uint_eq(outbox_finished(script->outbox), 1);
    ck_assert_uint_eq(outbox_pushes(script->outbox), 2);
    const Graphps__Clock *clock = NEXT(script, 0, CLOCK, Clock);
    ck_assert_uint_eq(clock->clock, 1);
    ck_assert(!outbox_gate_open(script->outbox, 1));
    Graphps__Gate gate = GRAPHPS__GATE__INIT;
    gate.id = clock->id;
    gate.clock = 1;
    answer(script, 0, FRAME_GATE, &gate, NULL, 0);
    ck_assert(outbox_gate_open(script->outbox, 1));
    ck_assert(!outbox_gate_open(script->outbox, 2));
    script_free(script);
}
END_TEST

/* A new connection to the same shard gets what is unanswered, under the same sequence, after
 * Welcome; what was acknowledged is not sent again. */
START_TEST(resends_on_reconnect) {
    struct script *script = script_new(CODEC_FP32, 1 << 16);
    join(script);
    push(script, 0, 1);
    push(script, 1, 1);
    answer_pushed(script, 1, NEXT(script, 1, PUSH, Push));
    ck_assert_uint_eq(NEXT(script, 1, PUSH, Push)->sequence, 2);
    outbox_closed(script->outbox, 1, script->now);
    outbox_opened(script->outbox, 1, script->now);
    const Graphps__Hello *hello = NEXT(script, 1, HELLO, Hello);
    /* Step 0 is not finished (shard 0 is silent), so even its acknowledged push is still kept. */
    ck_assert_uint_eq(hello->lowest_unacked, 1);
    nothing_sent(script, 1);
    answer_welcome(script, 1, hello->id, 101, 0);
    const Graphps__Push *again = NEXT(script, 1, PUSH, Push);
    ck_assert_uint_eq(again->sequence, 2);
    ck_assert_uint_eq(again->clock, 1);
    nothing_sent(script, 1);
    script_free(script);
}
END_TEST

/* A shard that lost its memory gets every push of the unfinished steps again, acknowledged or not,
 * and is asked for all weights; a second acknowledgement is not counted. */
START_TEST(resends_kept_pushes_to_a_new_shard_process) {
    struct script *script = script_new(CODEC_FP32, 1 << 16);
    join(script);
    outbox_pull(script->outbox, script->now);
    answer_pull(script, 0, NEXT(script, 0, PULL, Pull), 100, 4, 1);
    answer_pull(script, 1, NEXT(script, 1, PULL, Pull), 101, 4, 1);
    ck_assert(outbox_weights_current(script->outbox));
    push(script, 0, 1);
    const Graphps__Push *before = NEXT(script, 1, PUSH, Push);
    ck_assert_uint_eq(before->versions[0], 4);
    answer_pushed(script, 1, before);
    outbox_closed(script->outbox, 1, script->now);
    outbox_opened(script->outbox, 1, script->now);
    answer_welcome(script, 1, NEXT(script, 1, HELLO, Hello)->id, 999, 0);
    const struct sent *again = next_sent(script, 1, FRAME_PUSH);
    const Graphps__Push *message = (const Graphps__Push *)again->message;
    ck_assert_uint_eq(message->sequence, before->sequence);
    ck_assert_mem_eq(again->frame.payload, script->sent[1][script->read[1] - 3].frame.payload,
                     again->frame.payload_bytes);
    /* Shard 0 acknowledges: the step is unfinished until shard 1 has it again. */
    answer_pushed(script, 0, NEXT(script, 0, PUSH, Push));
    ck_assert_uint_eq(outbox_finished(script->outbox), 0);
    answer_pushed(script, 1, message);
    ck_assert_uint_eq(outbox_finished(script->outbox), 1);
    ck_assert_uint_eq(outbox_pushes(script->outbox), 2);
    outbox_pull(script->outbox, script->now);
    ck_assert_uint_eq(NEXT(script, 1, PULL, Pull)->versions[0], 0);
    next_sent(script, 0, FRAME_CLOCK);
    ck_assert_uint_eq(NEXT(script, 0, PULL, Pull)->versions[0], 4);
    script_free(script);
}
END_TEST

/* On one connection, silence of resend_ms brings the request again under the same id, then ever
 * more rarely; an answer to the first sending still counts. */
START_TEST(resends_after_silence) {
    struct script *script = script_new(CODEC_FP32, 1 << 16);
    join(script);
    push(script, 0, 1);
    const Graphps__Push *first = NEXT(script, 1, PUSH, Push);
    script->now += RESEND_MS - 1;
    uint64_t next = outbox_tick(script->outbox, script->now);
    ck_assert_uint_eq(next, script->now + 1);
    nothing_sent(script, 1);
    script->now++;
    outbox_tick(script->outbox, script->now);
    /* It also asks whether anybody is there. */
    const Graphps__Hello *hello = NEXT(script, 1, HELLO, Hello);
    const Graphps__Push *second = NEXT(script, 1, PUSH, Push);
    ck_assert_uint_eq(second->id, first->id);
    answer_welcome(script, 1, hello->id, 101, 0);
    script->now += RESEND_MS;
    outbox_tick(script->outbox, script->now);
    next_sent(script, 1, FRAME_HELLO);
    nothing_sent(script, 1);
    answer_pushed(script, 1, first);
    ck_assert_uint_eq(outbox_pushes(script->outbox), 1);
    script_free(script);
}
END_TEST

/* A connection on which not even hello is answered is given up for a new one. */
START_TEST(silence_costs_the_connection) {
    struct script *script = script_new(CODEC_FP32, 1 << 16);
    join(script);
    push(script, 0, 1);
    while (script->reconnects[1] == 0 && script->now < 5000 + 20 * RESEND_MS) {
        script->now += RESEND_MS / 4;
        outbox_tick(script->outbox, script->now);
    }
    ck_assert_int_eq(script->reconnects[1], 1);
    ck_assert_int_eq(script->why.code, ERR_TIMEOUT);
    ck_assert_uint_ge(script->now, 5000 + 4 * RESEND_MS);
    script_free(script);
}
END_TEST

/* A newer process has the rank: final, and nothing is sent any more. */
START_TEST(fenced_is_final) {
    struct script *script = script_new(CODEC_FP32, 1 << 16);
    join(script);
    push(script, 0, 1);
    answer_error(script, 1, NEXT(script, 1, PUSH, Push)->id, ERR_FENCED, "rank 1 is taken");
    struct error err;
    ck_assert_int_eq(outbox_error(script->outbox, &err), ERR_FENCED);
    ck_assert_str_eq(err.text, "shard 1: rank 1 is taken");
    script->now += 10 * RESEND_MS;
    outbox_tick(script->outbox, script->now);
    nothing_sent(script, 1);
    script_free(script);
}
END_TEST

/* A shard that is not ready is asked again after a pause, and named meanwhile with its reason. */
START_TEST(not_ready_is_tried_again) {
    struct script *script = script_new(CODEC_FP32, 1 << 16);
    outbox_opened(script->outbox, 0, script->now);
    const Graphps__Hello *hello = NEXT(script, 0, HELLO, Hello);
    answer_error(script, 0, hello->id, ERR_NOT_READY, "restoring generation 3");
    struct error err;
    ck_assert_int_eq(outbox_error(script->outbox, &err), 0);
    nothing_sent(script, 0);
    uint64_t next = outbox_tick(script->outbox, script->now), since;
    ck_assert_uint_gt(next, script->now);
    ck_assert_uint_lt(next, script->now + RESEND_MS);
    char text[200];
    script->now = next;
    outbox_waiting(script->outbox, script->now, text, sizeof text, &since);
    ck_assert_uint_eq(since, 5000);
    ck_assert_ptr_nonnull(strstr(text, "shard 0: no answer to hello"));
    ck_assert_ptr_nonnull(strstr(text, "restoring generation 3"));
    outbox_tick(script->outbox, script->now);
    const Graphps__Hello *again = NEXT(script, 0, HELLO, Hello);
    ck_assert_uint_eq(again->id, hello->id);
    answer_welcome(script, 0, again->id, 100, 0);
    outbox_waiting(script->outbox, script->now, text, sizeof text, &since);
    ck_assert_ptr_nonnull(strstr(text, "shard 1: no connection"));
    script_free(script);
}
END_TEST

/* A shard that does not know us any more is greeted again, and then gets what it refused. */
START_TEST(not_attached_greets_again) {
    struct script *script = script_new(CODEC_FP32, 1 << 16);
    join(script);
    push(script, 0, 1);
    answer_error(script, 1, NEXT(script, 1, PUSH, Push)->id, ERR_NOT_ATTACHED, "who are you?");
    script->now = outbox_tick(script->outbox, script->now);
    outbox_tick(script->outbox, script->now);
    answer_welcome(script, 1, NEXT(script, 1, HELLO, Hello)->id, 101, 0);
    ck_assert_uint_eq(NEXT(script, 1, PUSH, Push)->sequence, 1);
    script_free(script);
}
END_TEST

/* One pull per shard at a time: asking meanwhile asks once more afterwards, with the versions that
 * came; an answer nobody waits for is ignored. */
START_TEST(pulls_one_at_a_time) {
    struct script *script = script_new(CODEC_FP32, 1 << 16);
    join(script);
    outbox_pull(script->outbox, script->now);
    outbox_pull(script->outbox, script->now);
    const Graphps__Pull *first = NEXT(script, 1, PULL, Pull);
    nothing_sent(script, 1);
    answer_pull(script, 1, first, 101, 3, 0.5f);
    const Graphps__Pull *second = NEXT(script, 1, PULL, Pull);
    ck_assert_uint_eq(second->versions[1], 3);
    answer_pull(script, 1, first, 101, 2, 0.25f);
    ck_assert_uint_eq(outbox_weights_changed(script->outbox), 1);
    ck_assert_float_eq(
        outbox_weights(script->outbox)[script->layout->blocks[first->blocks[0]].offset], 0.5f);
    ck_assert(!outbox_weights_current(script->outbox));
    /* Nothing newer: an empty answer. */
    Graphps__Weights nothing = GRAPHPS__WEIGHTS__INIT;
    nothing.id = second->id;
    nothing.shard_incarnation = 101;
    answer(script, 1, FRAME_WEIGHTS, &nothing, NULL, 0);
    for (int i = 0; i < 2; i++)
        answer_pull(script, 0, NEXT(script, 0, PULL, Pull), 100, 3, 0.5f);
    ck_assert(outbox_weights_current(script->outbox));
    script_free(script);
}
END_TEST

/* A push names the versions of the weights that were copied, not of those that came since. */
START_TEST(push_names_the_versions_copied) {
    struct script *script = script_new(CODEC_FP32, 1 << 16);
    float weights[40];
    join(script);
    for (uint64_t version = 1; version <= 2; version++) {
        outbox_pull(script->outbox, script->now);
        answer_pull(script, 0, NEXT(script, 0, PULL, Pull), 100, version, 1);
        answer_pull(script, 1, NEXT(script, 1, PULL, Pull), 101, version, 1);
        if (version == 1)
            outbox_copy(script->outbox, weights);
    }
    push(script, 0, 1);
    ck_assert_uint_eq(NEXT(script, 1, PUSH, Push)->versions[0], 1);
    script_free(script);
}
END_TEST

/* Nonsense costs the shard its connection and changes no weight; weights that are not finite end
 * the training with a sentence. */
START_TEST(refuses_nonsense) {
    struct script *script = script_new(CODEC_FP32, 1 << 16);
    join(script);
    outbox_pull(script->outbox, script->now);
    const Graphps__Pull *pull = NEXT(script, 1, PULL, Pull);
    const Graphps__Pull *other = NEXT(script, 0, PULL, Pull);
    Graphps__Pull forged = *pull;
    forged.blocks = other->blocks; /* blocks of the other shard */
    answer_pull(script, 1, &forged, 101, 1, 1);
    ck_assert_int_eq(script->reconnects[1], 1);
    ck_assert_int_eq(script->why.code, ERR_PROTOCOL);
    ck_assert_uint_eq(outbox_weights_changed(script->outbox), 0);

    outbox_opened(script->outbox, 1, script->now);
    answer_welcome(script, 1, NEXT(script, 1, HELLO, Hello)->id, 101, 0);
    pull = NEXT(script, 1, PULL, Pull);
    uint64_t versions[2] = {1, 1};
    float few[2] = {0};
    Graphps__Weights weights = GRAPHPS__WEIGHTS__INIT;
    weights.id = pull->id;
    weights.n_blocks = weights.n_versions = 2;
    weights.blocks = pull->blocks;
    weights.versions = versions;
    weights.shard_incarnation = 101;
    answer(script, 1, FRAME_WEIGHTS, &weights, few, 2);
    ck_assert_int_eq(script->reconnects[1], 2);

    answer(script, 0, FRAME_STATUS_REQUEST, &(Graphps__StatusRequest)GRAPHPS__STATUS_REQUEST__INIT,
           NULL, 0);
    ck_assert_int_eq(script->reconnects[0], 1);
    outbox_opened(script->outbox, 0, script->now);
    answer_welcome(script, 0, NEXT(script, 0, HELLO, Hello)->id, 100, 0);
    answer_pull(script, 0, NEXT(script, 0, PULL, Pull), 100, 1, __builtin_nanf(""));
    struct error err;
    ck_assert_int_eq(outbox_error(script->outbox, &err), ERR_NOT_FINITE);
    script_free(script);
}
END_TEST

/* The wrong shard behind an address is a fault of the file, named. */
START_TEST(refuses_the_wrong_shard) {
    struct script *script = script_new(CODEC_FP32, 1 << 16);
    outbox_opened(script->outbox, 0, script->now);
    Graphps__Welcome welcome = GRAPHPS__WELCOME__INIT;
    welcome.id = NEXT(script, 0, HELLO, Hello)->id;
    welcome.shard = 1;
    welcome.shard_incarnation = 5;
    answer(script, 0, FRAME_WELCOME, &welcome, NULL, 0);
    struct error err;
    ck_assert_int_eq(outbox_error(script->outbox, &err), ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(err.text, "servers.addresses"));
    script_free(script);
}
END_TEST

/* Statistics travel as they are, in a push of their own, however gradients do. */
START_TEST(statistics_are_not_compressed) {
    static const enum codec codecs[] = {CODEC_INT8, CODEC_FP16, CODEC_TOPK};
    for (size_t c = 0; c < ARRAY_LEN(codecs); c++) {
        struct script *script = script_make(codecs[c], 1 << 16, EXTRA_STATISTIC);
        join(script);
        push(script, 0, 0.01f);
        bool seen = false;
        for (uint32_t s = 0; s < 2; s++)
            while (script->read[s] < script->sent_count[s]) {
                const struct sent *sent = next_sent(script, s, FRAME_PUSH);
                const Graphps__Push *message = (const Graphps__Push *)sent->message;
                const struct layout_block *block = &script->layout->blocks[message->blocks[0]];
                bool statistic = block->tensor == 3;
                ck_assert_int_eq(message->encoding, statistic ? CODEC_FP32 : (int)codecs[c]);
                if (!statistic)
                    continue;
                seen = true;
                ck_assert_uint_eq(message->n_blocks, 1);
                for (uint32_t i = 0; i < 3; i++) {
                    float value = 0.01f * (float)(block->offset + i + 1);
                    ck_assert_mem_eq(sent->frame.payload + i * sizeof value, &value, sizeof value);
                }
            }
        ck_assert(seen);
        script_free(script);
    }
}
END_TEST

/* int8: what rounding lost in one push is in the next, so the sum of many is right. */
START_TEST(int8_keeps_the_residual) {
    struct script *script = script_new(CODEC_INT8, 1 << 16);
    join(script);
    enum { ROUNDS = 50 };
    float sums[2][40] = {{0}};
    for (uint64_t step = 0; step < ROUNDS; step++) {
        push(script, step, 0.01f);
        for (uint32_t s = 0; s < 2; s++) {
            const struct sent *sent = next_sent(script, s, FRAME_PUSH);
            const Graphps__Push *message = (const Graphps__Push *)sent->message;
            const uint8_t *at = sent->frame.payload;
            for (size_t i = 0; i < message->n_blocks; i++) {
                const struct layout_block *block = &script->layout->blocks[message->blocks[i]];
                codec_add(CODEC_INT8, at, block->floats, 1, sums[0] + block->offset);
                at += codec_bytes(CODEC_INT8, 0, block->floats);
            }
            answer_pushed(script, s, message);
        }
        next_sent(script, 0, FRAME_CLOCK);
    }
    for (int i = 0; i < 40; i++)
        sums[1][i] = ROUNDS * 0.01f * (float)(i + 1);
    /* One push rounds by up to half a step of (16 * 0.01) / 255; without feedback fifty equal
     * pushes would be off by fifty times their common error. */
    test_floats_equal("sum", sums[0], sums[1], 40, 1e-5, 0.51 * 0.15 / 255 + 1e-4);
    script_free(script);
}
END_TEST

/* A push is split into frames that fit, each with its own sequence; at most a ledger's window of
 * them is in flight. */
START_TEST(splits_and_keeps_to_the_window) {
    struct script *script = script_new(CODEC_FP32, 64);
    join(script);
    for (uint64_t step = 0; step < 33; step++)
        push(script, step, 1);
    uint64_t sequence = 0;
    const Graphps__Push *first = NULL;
    while (script->read[1] < script->sent_count[1]) {
        const struct sent *sent = next_sent(script, 1, FRAME_PUSH);
        ck_assert_uint_le(sent->frame.payload_bytes, 64);
        const Graphps__Push *message = (const Graphps__Push *)sent->message;
        ck_assert_uint_eq(message->sequence, ++sequence);
        ck_assert_uint_eq(message->n_blocks, 1);
        first = first ? first : message;
    }
    ck_assert_uint_eq(sequence, 64);
    answer_pushed(script, 1, first);
    ck_assert_uint_eq(NEXT(script, 1, PUSH, Push)->sequence, 65);
    nothing_sent(script, 1);
    script_free(script);
}
END_TEST

/* A heartbeat goes to shard 0 thrice per lease, but at least every second; stop in its answer ends
 * the job. */
START_TEST(heartbeats) {
    struct script *script = script_new(CODEC_FP32, 1 << 16);
    join(script);
    outbox_set_usage(script->outbox, 11, 12);
    uint64_t joined = script->now;
    script->now += BEAT_MS - 1;
    ck_assert_uint_eq(outbox_tick(script->outbox, script->now), joined + BEAT_MS);
    nothing_sent(script, 0);
    script->now = joined + BEAT_MS;
    outbox_tick(script->outbox, script->now);
    const Graphps__Heartbeat *beat = NEXT(script, 0, HEARTBEAT, Heartbeat);
    ck_assert_uint_eq(beat->rss_peak_bytes, 12);
    nothing_sent(script, 1);
    Graphps__Alive alive = GRAPHPS__ALIVE__INIT;
    alive.id = beat->id;
    alive.stop = true;
    answer(script, 0, FRAME_ALIVE, &alive, NULL, 0);
    ck_assert(outbox_stop(script->outbox));
    ck_assert_uint_eq(outbox_tick(script->outbox, script->now), joined + 2 * BEAT_MS);
    script_free(script);
}
END_TEST

/* A worker that was counted as lost goes on where the others are, and its late steps with it. */
START_TEST(jumps_to_a_later_start_clock) {
    struct script *script = script_new(CODEC_FP32, 1 << 16);
    join(script);
    push(script, 0, 1);
    answer_pushed(script, 1, NEXT(script, 1, PUSH, Push));
    const Graphps__Push *late = NEXT(script, 0, PUSH, Push);
    answer_error(script, 0, late->id, ERR_NOT_ATTACHED, "lost");
    script->now = outbox_tick(script->outbox, script->now);
    outbox_tick(script->outbox, script->now);
    answer_welcome(script, 0, NEXT(script, 0, HELLO, Hello)->id, 100, 7);
    ck_assert_uint_eq(outbox_finished(script->outbox), 0);
    answer_pushed(script, 0, NEXT(script, 0, PUSH, Push));
    ck_assert_uint_eq(outbox_finished(script->outbox), 7);
    ck_assert_uint_eq(NEXT(script, 0, CLOCK, Clock)->clock, 7);
    /* A step that was being computed meanwhile is delivered all the same. */
    push(script, 1, 1);
    next_sent(script, 0, FRAME_PUSH);
    script->now += RESEND_MS;
    outbox_tick(script->outbox, script->now);
    next_sent(script, 1, FRAME_PUSH);
    next_sent(script, 1, FRAME_HELLO);
    answer_pushed(script, 1, NEXT(script, 1, PUSH, Push));
    ck_assert_uint_eq(outbox_pushes(script->outbox), 3);
    script_free(script);
}
END_TEST

/* Report and goodbye are said until answered, over a reconnect too; after goodbye no heartbeat
 * brings the worker back. */
START_TEST(reports_and_leaves) {
    struct script *script = script_new(CODEC_FP32, 1 << 16);
    join(script);
    Graphps__Eval eval = GRAPHPS__EVAL__INIT;
    eval.epoch = 4;
    eval.train_count = 10;
    uint64_t counts[] = {7, 3, 3};
    eval.classes = 5;
    eval.n_train_counts = 3;
    eval.train_counts = counts;
    outbox_eval(script->outbox, &eval, script->now);
    counts[0] = 8; /* the next epoch's, while this one's report is sent again */
    ck_assert_uint_eq(NEXT(script, 0, EVAL, Eval)->rank, 1);
    outbox_closed(script->outbox, 0, script->now);
    outbox_opened(script->outbox, 0, script->now);
    answer_welcome(script, 0, NEXT(script, 0, HELLO, Hello)->id, 100, 0);
    const Graphps__Eval *again = NEXT(script, 0, EVAL, Eval);
    ck_assert_uint_eq(again->incarnation, 77);
    ck_assert_uint_eq(again->train_count, 10);
    ck_assert_uint_eq(again->n_train_counts, 3);
    ck_assert_uint_eq(again->train_counts[0], 7);
    ck_assert_uint_eq(outbox_evaled(script->outbox), 0);
    Graphps__Evaled evaled = GRAPHPS__EVALED__INIT;
    evaled.id = again->id;
    evaled.epoch = 4;
    answer(script, 0, FRAME_EVALED, &evaled, NULL, 0);
    ck_assert_uint_eq(outbox_evaled(script->outbox), 4);
    outbox_bye(script->outbox, true, script->now);
    const Graphps__Bye *bye = NEXT(script, 0, BYE, Bye);
    ck_assert(bye->done);
    Graphps__Goodbye goodbye = GRAPHPS__GOODBYE__INIT;
    goodbye.id = bye->id;
    answer(script, 0, FRAME_GOODBYE, &goodbye, NULL, 0);
    ck_assert(outbox_said_goodbye(script->outbox));
    script->now += 10 * LEASE_MS;
    outbox_tick(script->outbox, script->now);
    nothing_sent(script, 0);
    script_free(script);
}
END_TEST

/* The rows a shard is asked for, which must be its own: each is answered by its number. */
static void answer_rows(struct script *script, uint32_t shard) {
    const struct sent *sent = next_sent(script, shard, FRAME_PULL_ROWS);
    const Graphps__PullRows *pull = (const Graphps__PullRows *)sent->message;
    const uint64_t *rows = (const uint64_t *)(const void *)sent->frame.payload;
    float values[64];
    uint64_t versions[LAYOUT_STRIPES];
    ck_assert_uint_eq(pull->table, 1);
    ck_assert_uint_eq(sent->frame.payload_bytes, pull->rows * sizeof *rows);
    for (uint32_t i = 0; i < pull->rows; i++) {
        ck_assert_uint_eq(layout_row_shard(rows[i], 2), shard);
        for (size_t k = 0; k < ROW_DIM; k++)
            values[i * ROW_DIM + k] = (float)rows[i];
    }
    for (size_t s = 0; s < LAYOUT_STRIPES; s++)
        versions[s] = 7;
    Graphps__Rows answered = GRAPHPS__ROWS__INIT;
    answered.id = pull->id;
    answered.table = 1;
    answered.rows = pull->rows;
    answered.n_versions = LAYOUT_STRIPES;
    answered.versions = versions;
    answer(script, shard, FRAME_ROWS, &answered, values, pull->rows * ROW_DIM);
}

/* Rows are asked for where they live, again on a new connection, and come where they belong. Their
 * gradients are a push of the step like any other: it is finished when they are acknowledged too,
 * and a shard that was born anew gets them again under the same sequence. */
START_TEST(rows_travel) {
    static const int64_t nodes[] = {5, 900, 17, 3, 44, 128, 77, 501};
    enum { COUNT = ARRAY_LEN(nodes) };
    struct script *script = script_make(CODEC_FP32, 1 << 16, EXTRA_TABLE);
    struct row_plan plan = {0};
    struct error err;
    float rows[COUNT * ROW_DIM], gradient[COUNT * ROW_DIM];
    join(script);
    row_plan_make(&plan, nodes, COUNT, 2);
    outbox_pull_rows(script->outbox, &plan, 0, rows, script->now);
    answer_rows(script, 0);
    ck_assert(!outbox_rows_held(script->outbox));
    next_sent(script, 1, FRAME_PULL_ROWS); /* and the connection is lost */
    outbox_closed(script->outbox, 1, script->now);
    outbox_opened(script->outbox, 1, script->now);
    answer_welcome(script, 1, NEXT(script, 1, HELLO, Hello)->id, 101, 0);
    answer_rows(script, 1);
    ck_assert(outbox_rows_held(script->outbox));
    for (size_t i = 0; i < COUNT * ROW_DIM; i++) {
        ck_assert_float_eq(rows[i], (float)nodes[i / ROW_DIM]);
        gradient[i] = rows[i] + (float)(i % ROW_DIM);
    }

    ck_assert_int_eq(outbox_push_rows(script->outbox, &plan, gradient, 0, 1, script->now, &err), 0);
    nothing_sent(script, 0);
    push(script, 0, 1);
    uint64_t sequences[2];
    for (uint32_t shard = 0; shard < 2; shard++) {
        const struct sent *sent = next_sent(script, shard, FRAME_PUSH);
        const Graphps__Push *of_rows = (const Graphps__Push *)sent->message;
        const uint64_t *numbers = (const uint64_t *)(const void *)sent->frame.payload;
        const float *values = (const float *)(const void *)(numbers + of_rows->rows);
        ck_assert_uint_eq(of_rows->table, 1);
        ck_assert_uint_eq(of_rows->stripes, LAYOUT_STRIPES);
        ck_assert_uint_eq(of_rows->versions[3], 7);
        for (uint32_t i = 0; i < of_rows->rows; i++)
            for (size_t k = 0; k < ROW_DIM; k++)
                ck_assert_float_eq(values[i * ROW_DIM + k], (float)(numbers[i] + k));
        sequences[shard] = of_rows->sequence;
        answer_pushed(script, shard, NEXT(script, shard, PUSH, Push)); /* of blocks */
        if (shard == 0)
            answer_pushed(script, shard, of_rows);
    }
    ck_assert_uint_eq(outbox_finished(script->outbox), 0);
    outbox_closed(script->outbox, 1, script->now);
    outbox_opened(script->outbox, 1, script->now);
    answer_welcome(script, 1, NEXT(script, 1, HELLO, Hello)->id, 102, 0); /* another process */
    const Graphps__Push *again = NEXT(script, 1, PUSH, Push);
    ck_assert_uint_eq(again->table, 1);
    ck_assert_uint_eq(again->sequence, sequences[1]);
    answer_pushed(script, 1, NEXT(script, 1, PUSH, Push));
    ck_assert_uint_eq(outbox_finished(script->outbox), 0);
    answer_pushed(script, 1, again);
    ck_assert_uint_eq(outbox_finished(script->outbox), 1);
    row_plan_done(&plan);
    script_free(script);
}
END_TEST

/* A step without rows says so to every shard; one whose rows no frame can hold is refused by the
 * names of the options that help, and leaves nothing behind. */
START_TEST(rows_have_limits) {
    static int64_t nodes[1000];
    static float gradient[1000 * ROW_DIM];
    struct script *script = script_make(CODEC_FP32, 256, EXTRA_TABLE); /* 16 rows */
    struct row_plan plan = {0};
    struct error err;
    join(script);
    for (size_t i = 0; i < 1000; i++)
        nodes[i] = (int64_t)i;
    row_plan_make(&plan, nodes, 1000, 2);
    ck_assert_int_eq(outbox_push_rows(script->outbox, &plan, gradient, 0, 1, script->now, &err),
                     ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(err.text, "net.max_frame_bytes is 256"));
    row_plan_make(&plan, NULL, 0, 2);
    ck_assert_int_eq(outbox_push_rows(script->outbox, &plan, NULL, 0, 0, script->now, &err), 0);
    push(script, 0, 0);
    for (uint32_t shard = 0; shard < 2; shard++) {
        const Graphps__Push *none = NEXT(script, shard, PUSH, Push);
        ck_assert_uint_eq(none->sequence, 1);
        ck_assert_uint_eq(none->table, 1);
        ck_assert_uint_eq(none->rows, 0);
    }
    row_plan_make(&plan, nodes, 200, 2); /* of 100 on a shard, 7 in a stripe or so */
    ck_assert_int_eq(outbox_push_rows(script->outbox, &plan, gradient, 1, 1, script->now, &err), 0);
    push(script, 1, 1);
    uint32_t covered = 0, pushes = 0;
    next_sent(script, 0, FRAME_PUSH); /* the blocks of before */
    for (; covered < LAYOUT_STRIPES; pushes++) {
        const struct sent *sent = next_sent(script, 0, FRAME_PUSH);
        const Graphps__Push *some = (const Graphps__Push *)sent->message;
        ck_assert_uint_eq(some->stripe, covered);
        ck_assert_uint_le(sent->frame.payload_bytes, 256);
        covered += some->stripes;
    }
    ck_assert_uint_gt(pushes, 1);
    row_plan_done(&plan);
    script_free(script);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("outbox");
    TCase *tcase = tcase_create("outbox");
    tcase_add_test(tcase, greets_shard_0_first);
    tcase_add_test(tcase, clock_follows_all_acknowledgements);
    tcase_add_test(tcase, resends_on_reconnect);
    tcase_add_test(tcase, resends_kept_pushes_to_a_new_shard_process);
    tcase_add_test(tcase, resends_after_silence);
    tcase_add_test(tcase, silence_costs_the_connection);
    tcase_add_test(tcase, fenced_is_final);
    tcase_add_test(tcase, not_ready_is_tried_again);
    tcase_add_test(tcase, not_attached_greets_again);
    tcase_add_test(tcase, pulls_one_at_a_time);
    tcase_add_test(tcase, push_names_the_versions_copied);
    tcase_add_test(tcase, refuses_nonsense);
    tcase_add_test(tcase, refuses_the_wrong_shard);
    tcase_add_test(tcase, statistics_are_not_compressed);
    tcase_add_test(tcase, int8_keeps_the_residual);
    tcase_add_test(tcase, splits_and_keeps_to_the_window);
    tcase_add_test(tcase, heartbeats);
    tcase_add_test(tcase, jumps_to_a_later_start_clock);
    tcase_add_test(tcase, reports_and_leaves);
    tcase_add_test(tcase, rows_travel);
    tcase_add_test(tcase, rows_have_limits);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
