/* The outbox: what the trainer hands over, and one loop (outbox_flush) that sends whatever is due.
 * Everything is a struct request that is open until answered and due at a time; a new connection, a
 * refusal or silence only move that time. What the shards answer is in outbox_answer.c. */
#include "worker/outbox.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/metrics.h"
#include "proto/score.h"
#include "worker/outbox_state.h"

#define RESEND_DOUBLINGS 3
/* Silence of this many resend_ms, with a greeting unanswered: the connection is dead. */
#define SILENCE_RESENDS 4
#define TICK_MAX_MS 1000

static bool is_statistic(const struct layout *layout, uint32_t block) {
    return layout->tensors[layout->blocks[block].tensor].statistic;
}

static size_t block_bytes_max(const struct outbox *outbox, uint32_t block) {
    size_t floats = outbox->spec.layout->blocks[block].floats;
    size_t pushed = codec_bytes(outbox->spec.codec, outbox->spec.topk_ratio, floats);
    return pushed > floats * sizeof(float) ? pushed : floats * sizeof(float);
}

/* Cuts a shard's blocks into chunks of one encoding that fit a frame in both directions. */
static void chunks_make(struct outbox *outbox, struct outbox_shard *shard, uint32_t first,
                        uint32_t end) {
    const uint32_t *blocks = outbox->spec.layout->shard_blocks;
    shard->chunks = mem_array(end - first + 1, sizeof *shard->chunks);
    size_t bytes = 0;
    for (uint32_t i = first; i < end; i++) {
        size_t more = block_bytes_max(outbox, blocks[i]);
        enum codec codec =
            is_statistic(outbox->spec.layout, blocks[i]) ? CODEC_FP32 : outbox->spec.codec;
        if (shard->chunk_count == 0 || bytes + more > outbox->spec.payload_max_bytes ||
            shard->chunks[shard->chunk_count - 1].codec != codec) {
            shard->chunks[shard->chunk_count].codec = codec;
            shard->chunks[shard->chunk_count++].first = i;
            bytes = 0;
        }
        shard->chunks[shard->chunk_count - 1].count++;
        bytes += more;
    }
}

struct outbox *outbox_new(const struct outbox_spec *spec, const struct outbox_ops *ops, void *ctx) {
    const struct layout *layout = spec->layout;
    assert(spec->resend_ms > 0 && spec->incarnation != 0);
    struct outbox *outbox = mem_alloc(sizeof *outbox);
    outbox->spec = *spec;
    outbox->ops = *ops;
    outbox->ctx = ctx;
    outbox->tensors = mem_array(layout->tensor_count, sizeof *outbox->tensors);
    outbox->tensor_list = mem_array(layout->tensor_count, sizeof *outbox->tensor_list);
    for (size_t i = 0; i < layout->tensor_count; i++) {
        struct tensor_spec *tensor = &layout->tensors[i];
        Graphps__TensorSpec *message = outbox->tensor_list[i] = &outbox->tensors[i];
        graphps__tensor_spec__init(message);
        message->name = tensor->name;
        message->rows = tensor->rows;
        message->cols = tensor->cols;
        message->init = (Graphps__TensorSpec__Init)tensor->init;
        message->decay = tensor->decay;
        message->statistic = tensor->statistic;
    }
    outbox->tables = mem_array(layout->table_count, sizeof *outbox->tables);
    outbox->table_list = mem_array(layout->table_count, sizeof *outbox->table_list);
    for (size_t i = 0; i < layout->table_count; i++) {
        Graphps__TableSpec *message = outbox->table_list[i] = &outbox->tables[i];
        graphps__table_spec__init(message);
        message->name = layout->tables[i].name;
        message->rows = layout->tables[i].rows;
        message->dim = layout->tables[i].dim;
        message->init_scale = layout->tables[i].init_scale;
    }
    outbox->weights = mem_array(layout->floats, sizeof(float));
    outbox->versions = mem_array(layout->block_count, sizeof(uint64_t));
    outbox->copied = mem_array(layout->block_count, sizeof(uint64_t));
    outbox->held = mem_array(layout->block_count, sizeof(bool));
    if (spec->codec != CODEC_FP32)
        outbox->residual = mem_array(layout->floats, sizeof(float));
    outbox->shards = mem_array(layout->shard_count, sizeof *outbox->shards);
    for (size_t i = 0; i < layout->shard_count; i++) {
        outbox->shards[i].parcels_end = &outbox->shards[i].parcels;
        chunks_make(outbox, &outbox->shards[i], layout->shard_starts[i],
                    layout->shard_starts[i + 1]);
    }
    return outbox;
}

static void parcel_free(struct parcel *parcel) {
    buf_unref(parcel->payload);
    mem_free(parcel);
}

struct outbox *outbox_free(struct outbox *outbox) {
    if (!outbox)
        return NULL;
    for (size_t i = 0; i < outbox->spec.layout->shard_count; i++) {
        struct outbox_shard *shard = &outbox->shards[i];
        while (shard->parcels) {
            struct parcel *parcel = shard->parcels;
            shard->parcels = parcel->next;
            parcel_free(parcel);
        }
        mem_free(shard->chunks);
        mem_free(shard->row_chunks);
    }
    mem_free(outbox->shards);
    score_sum_done(&outbox->eval_message);
    mem_free(outbox->candidate);
    mem_free(outbox->residual);
    mem_free(outbox->held);
    mem_free(outbox->copied);
    mem_free(outbox->versions);
    mem_free(outbox->weights);
    mem_free(outbox->table_list);
    mem_free(outbox->tables);
    mem_free(outbox->tensor_list);
    mem_free(outbox->tensors);
    mem_free(outbox);
    return NULL;
}

void outbox_ask(struct outbox *outbox, struct request *request, uint64_t since_ms,
                uint64_t due_ms) {
    *request = (struct request){
        .id = ++outbox->last_id, .open = true, .since_ms = since_ms, .due_ms = due_ms};
}

void outbox_ask_pull(struct outbox *outbox, struct outbox_shard *shard, uint64_t now_ms) {
    shard->pull_again = false;
    for (uint32_t i = 0; i < shard->chunk_count; i++)
        outbox_ask(outbox, &shard->chunks[i].pull, now_ms, now_ms);
}

bool outbox_pull_open(const struct outbox_shard *shard) {
    for (uint32_t i = 0; i < shard->chunk_count; i++)
        if (shard->chunks[i].pull.open)
            return true;
    return false;
}

void outbox_advance(struct outbox *outbox, uint64_t now_ms) {
    size_t shard_count = outbox->spec.layout->shard_count;
    uint64_t finished =
        outbox->next_clock > outbox->start_clock ? outbox->next_clock : outbox->start_clock;
    /* Parcels stand in the order of their steps. */
    for (size_t i = 0; i < shard_count; i++)
        for (struct parcel *parcel = outbox->shards[i].parcels; parcel; parcel = parcel->next)
            if (parcel->request.open && parcel->clock < finished)
                finished = parcel->clock;
    if (finished > outbox->finished)
        outbox->finished = finished;
    for (size_t i = 0; i < shard_count; i++) {
        struct outbox_shard *shard = &outbox->shards[i];
        /* One of a step that was jumped over may still be unanswered. */
        while (shard->parcels && shard->parcels->clock < outbox->finished &&
               !shard->parcels->request.open) {
            struct parcel *parcel = shard->parcels;
            shard->parcels = parcel->next;
            if (!shard->parcels)
                shard->parcels_end = &shard->parcels;
            parcel_free(parcel);
        }
    }
    if (outbox->attempt && (outbox->clock.id == 0 || outbox->finished > outbox->clock_value)) {
        outbox->clock_value = outbox->finished;
        outbox_ask(outbox, &outbox->clock, now_ms, now_ms);
    }
}

/* --- sending --- */

static void send_frame(struct outbox *outbox, uint32_t index, struct request *request,
                       struct frame_out *frame, uint64_t now_ms) {
    if (request->sent)
        metric_add(METRIC_RETRANSMITS, 1);
    else if (outbox->ops.now_ns)
        request->sent_ns = outbox->ops.now_ns(outbox->ctx);
    request->sent = true;
    uint32_t doublings = request->tries < RESEND_DOUBLINGS ? request->tries : RESEND_DOUBLINGS;
    request->due_ms = now_ms + ((uint64_t)outbox->spec.resend_ms << doublings);
    request->tries++;
    outbox->ops.send(outbox->ctx, index, frame);
}

static void send_message(struct outbox *outbox, uint32_t index, struct request *request,
                         enum frame_type type, const ProtobufCMessage *message, uint64_t now_ms) {
    send_frame(outbox, index, request, frame_out_new(type, message, NULL, 0), now_ms);
}

static void send_hello(struct outbox *outbox, uint32_t index, uint64_t now_ms) {
    const struct outbox_spec *spec = &outbox->spec;
    struct outbox_shard *shard = &outbox->shards[index];
    Graphps__Hello hello = GRAPHPS__HELLO__INIT;
    hello.id = shard->hello.id;
    hello.job = (char *)spec->job;
    hello.rank = spec->rank;
    hello.incarnation = spec->incarnation;
    hello.lowest_unacked = shard->parcels ? shard->parcels->sequence : shard->sequence + 1;
    hello.clock = outbox->finished;
    hello.workers = spec->workers;
    hello.shards = (uint32_t)spec->layout->shard_count;
    hello.layout_hash = spec->layout->hash;
    hello.n_tensors = spec->layout->tensor_count;
    hello.tensors = outbox->tensor_list;
    hello.n_tables = spec->layout->table_count;
    hello.tables = outbox->table_list;
    hello.snapshot_digest = (char *)spec->snapshot_digest;
    hello.seed = spec->seed;
    hello.steps_per_epoch = spec->steps_per_epoch;
    hello.http = (char *)spec->http;
    hello.options = (char *)(spec->options ? spec->options : "");
    hello.owned_nodes = spec->owned_nodes;
    hello.train_nodes = spec->train_nodes;
    hello.attempt = outbox->attempt;
    if (!shard->hello.sent)
        shard->hello.since_ms = now_ms;
    send_message(outbox, index, &shard->hello, FRAME_HELLO, &hello.base, now_ms);
}

static void send_push(struct outbox *outbox, uint32_t index, struct parcel *parcel,
                      uint64_t now_ms) {
    const struct chunk *chunk = &outbox->shards[index].chunks[parcel->chunk];
    Graphps__Push push = GRAPHPS__PUSH__INIT;
    push.id = parcel->request.id;
    push.rank = outbox->spec.rank;
    push.incarnation = outbox->spec.incarnation;
    push.sequence = parcel->sequence;
    push.clock = parcel->clock;
    push.weight = parcel->weight;
    push.n_versions = parcel->version_count;
    push.versions = parcel->versions;
    if (parcel->stripes > 0) {
        push.encoding = (Graphps__Encoding)outbox->spec.codec;
        push.table = 1;
        push.rows = parcel->rows;
        push.stripe = parcel->stripe;
        push.stripes = parcel->stripes;
    } else {
        push.encoding = (Graphps__Encoding)chunk->codec;
        push.n_blocks = chunk->count;
        push.blocks = outbox->spec.layout->shard_blocks + chunk->first;
    }
    struct frame_out_piece piece = {buf_ref(parcel->payload), parcel->payload->data,
                                    parcel->payload->len};
    struct frame_out *frame = frame_out_new(FRAME_PUSH, &push.base, &piece, 1);
    outbox->bytes_pushed += frame->total_bytes;
    if (!parcel->request.sent)
        metric_add(METRIC_PUSHES_SENT, 1);
    send_frame(outbox, index, &parcel->request, frame, now_ms);
}

static void send_pull(struct outbox *outbox, uint32_t index, struct chunk *chunk,
                      struct request *request, uint64_t now_ms) {
    _cleanup_(mem_free_p) uint64_t *versions = mem_array(chunk->count, sizeof *versions);
    Graphps__Pull pull = GRAPHPS__PULL__INIT;
    pull.id = request->id;
    pull.n_blocks = pull.n_versions = chunk->count;
    pull.blocks = outbox->spec.layout->shard_blocks + chunk->first;
    pull.versions = versions;
    pull.candidate = request == &chunk->kept ? outbox->candidate_epoch : 0;
    for (uint32_t i = 0; i < chunk->count && !pull.candidate; i++)
        versions[i] = outbox->versions[pull.blocks[i]];
    send_message(outbox, index, request, FRAME_PULL, &pull.base, now_ms);
}

static void send_pull_rows(struct outbox *outbox, uint32_t index, struct row_chunk *chunk,
                           uint64_t now_ms) {
    const struct row_plan *plan = outbox->row_plan;
    Graphps__PullRows pull = GRAPHPS__PULL_ROWS__INIT;
    pull.id = chunk->request.id;
    pull.table = 1;
    pull.rows = chunk->count;
    pull.candidate = outbox->rows_candidate;
    struct buf *numbers = buf_new(chunk->count * sizeof(uint64_t));
    uint64_t *rows = (uint64_t *)(void *)numbers->data;
    for (uint32_t i = 0; i < chunk->count; i++)
        rows[i] = (uint64_t)plan->nodes[plan->order[chunk->first + i]];
    const struct frame_out_piece piece = {numbers, numbers->data, numbers->len};
    send_frame(outbox, index, &chunk->request,
               frame_out_new(FRAME_PULL_ROWS, &pull.base, &piece, 1), now_ms);
}

static bool request_due(const struct request *request, uint64_t now_ms) {
    return request->open && now_ms >= request->due_ms;
}

static struct parcel *parcel_first_open(const struct outbox_shard *shard) {
    struct parcel *parcel = shard->parcels;
    while (parcel && !parcel->request.open)
        parcel = parcel->next;
    return parcel;
}

static void flush_coordinator(struct outbox *outbox, uint64_t now_ms) {
    const struct outbox_spec *spec = &outbox->spec;
    if (request_due(&outbox->bye, now_ms)) {
        Graphps__Bye bye = GRAPHPS__BYE__INIT;
        bye.id = outbox->bye.id;
        bye.rank = spec->rank;
        bye.incarnation = spec->incarnation;
        bye.done = outbox->bye_done;
        bye.bytes_pushed = outbox->bytes_pushed;
        bye.bytes_pulled = outbox->bytes_pulled;
        bye.pushes = outbox->pushes;
        send_message(outbox, 0, &outbox->bye, FRAME_BYE, &bye.base, now_ms);
    }
    if (outbox->bye.id) /* it has left: nothing of the rest may bring it back */
        return;
    if (request_due(&outbox->clock, now_ms)) {
        Graphps__Clock clock = GRAPHPS__CLOCK__INIT;
        clock.id = outbox->clock.id;
        clock.rank = spec->rank;
        clock.incarnation = spec->incarnation;
        clock.clock = outbox->clock_value;
        send_message(outbox, 0, &outbox->clock, FRAME_CLOCK, &clock.base, now_ms);
    }
    if (request_due(&outbox->eval, now_ms)) {
        outbox->eval_message.id = outbox->eval.id;
        send_message(outbox, 0, &outbox->eval, FRAME_EVAL, &outbox->eval_message.base, now_ms);
    }
    if (now_ms >= outbox->heartbeat_ms) {
        Graphps__Heartbeat beat = GRAPHPS__HEARTBEAT__INIT;
        outbox_ask(outbox, &outbox->heartbeat, now_ms, now_ms);
        beat.id = outbox->heartbeat.id;
        beat.rank = spec->rank;
        beat.incarnation = spec->incarnation;
        beat.clock = outbox->finished;
        beat.bytes_pushed = outbox->bytes_pushed;
        beat.bytes_pulled = outbox->bytes_pulled;
        beat.pushes = outbox->pushes;
        beat.rss_bytes = outbox->rss_bytes;
        beat.rss_peak_bytes = outbox->rss_peak_bytes;
        send_message(outbox, 0, &outbox->heartbeat, FRAME_HEARTBEAT, &beat.base, now_ms);
        outbox->heartbeat_ms = now_ms + outbox->beat_every_ms;
    }
}

void outbox_flush(struct outbox *outbox, uint32_t index, uint64_t now_ms) {
    struct outbox_shard *shard = &outbox->shards[index];
    if (!shard->open || outbox->error.code)
        return;
    if ((index == 0 || outbox->attempt) && request_due(&shard->hello, now_ms))
        send_hello(outbox, index, now_ms);
    if (!shard->welcomed)
        return;
    struct parcel *parcel = parcel_first_open(shard);
    uint64_t window = parcel ? parcel->sequence + OUTBOX_WINDOW : 0;
    for (; parcel && parcel->sequence < window; parcel = parcel->next)
        if (request_due(&parcel->request, now_ms))
            send_push(outbox, index, parcel, now_ms);
    for (uint32_t i = 0; i < shard->chunk_count; i++) {
        struct chunk *chunk = &shard->chunks[i];
        if (request_due(&chunk->pull, now_ms))
            send_pull(outbox, index, chunk, &chunk->pull, now_ms);
        if (request_due(&chunk->kept, now_ms))
            send_pull(outbox, index, chunk, &chunk->kept, now_ms);
    }
    for (uint32_t i = 0; i < shard->row_chunk_count; i++)
        if (request_due(&shard->row_chunks[i].request, now_ms))
            send_pull_rows(outbox, index, &shard->row_chunks[i], now_ms);
    if (index == 0)
        flush_coordinator(outbox, now_ms);
}

static void flush_all(struct outbox *outbox, uint64_t now_ms) {
    for (uint32_t i = 0; i < outbox->spec.layout->shard_count; i++)
        outbox_flush(outbox, i, now_ms);
}

/* --- connections and time --- */

void outbox_opened(struct outbox *outbox, uint32_t index, uint64_t now_ms) {
    struct outbox_shard *shard = &outbox->shards[index];
    shard->open = true;
    shard->welcomed = false;
    shard->heard_ms = now_ms;
    outbox_ask(outbox, &shard->hello, now_ms, now_ms);
    outbox_flush(outbox, index, now_ms);
}

void outbox_closed(struct outbox *outbox, uint32_t index, uint64_t now_ms) {
    struct outbox_shard *shard = &outbox->shards[index];
    if (shard->open)
        shard->down_ms = now_ms;
    shard->open = shard->welcomed = false;
    shard->hello.open = false;
}

void outbox_drop(struct outbox *outbox, uint32_t index, const struct error *why, uint64_t now_ms) {
    if (!outbox->shards[index].open)
        return;
    outbox_closed(outbox, index, now_ms);
    outbox->ops.reconnect(outbox->ctx, index, why);
}

/* What is unanswered at a shard: when something is due next, since when the oldest one waits. */
struct outlook {
    uint64_t next_ms, since_ms;
};

static void outlook_fold(struct outlook *outlook, const struct request *request) {
    if (request->open && request->due_ms < outlook->next_ms)
        outlook->next_ms = request->due_ms;
    if (request->open && request->sent && request->since_ms < outlook->since_ms)
        outlook->since_ms = request->since_ms;
}

static struct outlook shard_outlook(const struct outbox *outbox, uint32_t index) {
    const struct outbox_shard *shard = &outbox->shards[index];
    struct outlook outlook = {UINT64_MAX, UINT64_MAX};
    if (!shard->open)
        return outlook;
    if (index == 0 || outbox->attempt)
        outlook_fold(&outlook, &shard->hello);
    if (!shard->welcomed)
        return outlook;
    const struct parcel *parcel = parcel_first_open(shard);
    uint64_t window = parcel ? parcel->sequence + OUTBOX_WINDOW : 0;
    for (; parcel && parcel->sequence < window; parcel = parcel->next)
        outlook_fold(&outlook, &parcel->request);
    for (uint32_t i = 0; i < shard->chunk_count; i++) {
        outlook_fold(&outlook, &shard->chunks[i].pull);
        outlook_fold(&outlook, &shard->chunks[i].kept);
    }
    for (uint32_t i = 0; i < shard->row_chunk_count; i++)
        outlook_fold(&outlook, &shard->row_chunks[i].request);
    if (index == 0) {
        outlook_fold(&outlook, &outbox->bye);
        if (!outbox->bye.id) {
            outlook_fold(&outlook, &outbox->clock);
            outlook_fold(&outlook, &outbox->eval);
            struct request beat = outbox->heartbeat;
            beat.due_ms = outbox->heartbeat_ms; /* never sent again, but followed by the next */
            beat.open = true;
            outlook_fold(&outlook, &beat);
        }
    }
    return outlook;
}

/* A shard that holds an answer back (a gate, a batch) still greets at once: a hello that is not
 * answered either tells a dead connection from a slow peer. Returns false when it was dropped. */
static bool shard_check(struct outbox *outbox, uint32_t index, uint64_t now_ms) {
    struct outbox_shard *shard = &outbox->shards[index];
    struct outlook outlook = shard_outlook(outbox, index);
    uint64_t resend_ms = outbox->spec.resend_ms;
    if (outlook.since_ms == UINT64_MAX)
        return true;
    if (shard->hello.open && shard->hello.sent) {
        uint64_t since_ms =
            shard->heard_ms > shard->hello.since_ms ? shard->heard_ms : shard->hello.since_ms;
        if (now_ms < since_ms + SILENCE_RESENDS * resend_ms)
            return true;
        struct error why;
        error_set(&why, ERR_TIMEOUT, "nothing came for %llu ms, not even an answer to hello",
                  (unsigned long long)(now_ms - since_ms));
        outbox_drop(outbox, index, &why, now_ms);
        return false;
    }
    uint64_t since_ms = shard->heard_ms > outlook.since_ms ? shard->heard_ms : outlook.since_ms;
    if (now_ms >= since_ms + resend_ms && !shard->hello.open)
        outbox_ask(outbox, &shard->hello, now_ms, now_ms);
    return true;
}

uint64_t outbox_tick(struct outbox *outbox, uint64_t now_ms) {
    uint64_t next_ms = now_ms + TICK_MAX_MS;
    if (outbox->error.code)
        return next_ms;
    for (uint32_t i = 0; i < outbox->spec.layout->shard_count; i++) {
        struct outbox_shard *shard = &outbox->shards[i];
        if (!shard->open && shard->down_ms == 0)
            shard->down_ms = now_ms;
        if (!shard_check(outbox, i, now_ms))
            continue;
        outbox_flush(outbox, i, now_ms);
        struct outlook outlook = shard_outlook(outbox, i);
        if (outlook.next_ms < next_ms)
            next_ms = outlook.next_ms;
    }
    return next_ms > now_ms ? next_ms : now_ms + 1;
}

/* --- what the trainer does --- */

void outbox_push(struct outbox *outbox, const float *gradient, uint64_t clock, double weight,
                 uint64_t now_ms) {
    const struct layout *layout = outbox->spec.layout;
    assert(clock >= outbox->next_clock);
    outbox->next_clock = clock + 1;
    const uint64_t *versions = outbox->has_copied ? outbox->copied : outbox->versions;
    for (uint32_t s = 0; s < layout->shard_count; s++) {
        struct outbox_shard *shard = &outbox->shards[s];
        for (uint32_t c = 0; c < shard->chunk_count; c++) {
            const struct chunk *chunk = &shard->chunks[c];
            const uint32_t *ids = layout->shard_blocks + chunk->first;
            size_t bytes = 0;
            for (uint32_t i = 0; i < chunk->count; i++)
                bytes += codec_bytes(chunk->codec, outbox->spec.topk_ratio,
                                     layout->blocks[ids[i]].floats);
            struct parcel *parcel =
                mem_alloc(sizeof *parcel + chunk->count * sizeof parcel->versions[0]);
            parcel->sequence = ++shard->sequence;
            parcel->clock = clock;
            parcel->weight = weight;
            parcel->chunk = c;
            parcel->version_count = chunk->count;
            parcel->payload = buf_new(bytes);
            uint8_t *at = parcel->payload->data;
            for (uint32_t i = 0; i < chunk->count; i++) {
                const struct layout_block *block = &layout->blocks[ids[i]];
                bool exact = chunk->codec == CODEC_FP32;
                at += codec_encode(chunk->codec, outbox->spec.topk_ratio, gradient + block->offset,
                                   block->floats, exact ? NULL : outbox->residual + block->offset,
                                   at);
                parcel->versions[i] = versions[ids[i]];
            }
            outbox_ask(outbox, &parcel->request, now_ms, now_ms);
            *shard->parcels_end = parcel;
            shard->parcels_end = &parcel->next;
        }
    }
    flush_all(outbox, now_ms);
}

void outbox_pull(struct outbox *outbox, uint64_t now_ms) {
    for (uint32_t i = 0; i < outbox->spec.layout->shard_count; i++) {
        struct outbox_shard *shard = &outbox->shards[i];
        if (outbox_pull_open(shard))
            shard->pull_again = true;
        else
            outbox_ask_pull(outbox, shard, now_ms);
    }
    flush_all(outbox, now_ms);
}

void outbox_pull_candidate(struct outbox *outbox, uint32_t epoch, uint64_t now_ms) {
    if (!outbox->candidate)
        outbox->candidate = mem_array(outbox->spec.layout->floats, sizeof(float));
    outbox->candidate_epoch = epoch;
    for (uint32_t i = 0; i < outbox->spec.layout->shard_count; i++)
        for (uint32_t k = 0; k < outbox->shards[i].chunk_count; k++)
            outbox_ask(outbox, &outbox->shards[i].chunks[k].kept, now_ms, now_ms);
    flush_all(outbox, now_ms);
}

void outbox_eval(struct outbox *outbox, const Graphps__Eval *eval, uint64_t now_ms) {
    assert(!outbox->eval.open);
    outbox->evaled = outbox->candidate_due = 0;
    outbox->candidate_due = 0;
    score_sum_done(&outbox->eval_message);
    score_sum_copy(eval, &outbox->eval_message);
    outbox->eval_message.rank = outbox->spec.rank;
    outbox->eval_message.incarnation = outbox->spec.incarnation;
    outbox_ask(outbox, &outbox->eval, now_ms, now_ms);
    outbox_flush(outbox, 0, now_ms);
}

void outbox_bye(struct outbox *outbox, bool done, uint64_t now_ms) {
    outbox->bye_done = done;
    outbox_ask(outbox, &outbox->bye, now_ms, now_ms);
    outbox_flush(outbox, 0, now_ms);
}

static size_t row_bytes(const struct outbox *outbox) {
    return sizeof(uint64_t) +
           codec_bytes(outbox->spec.codec, 1, outbox->spec.layout->tables[0].dim);
}

/* Into how many pushes a shard's rows go, so that they fit frames as well as they can: 1 to one for
 * each stripe. starts: of the shard's stripes. */
static uint32_t row_pieces(const struct outbox *outbox, const uint32_t *starts) {
    for (uint32_t pieces = 1; pieces < LAYOUT_STRIPES; pieces *= 2) {
        uint32_t each = LAYOUT_STRIPES / pieces;
        size_t most = 0;
        for (uint32_t s = 0; s < LAYOUT_STRIPES; s += each)
            most = most > starts[s + each] - starts[s] ? most : starts[s + each] - starts[s];
        if (most * row_bytes(outbox) <= outbox->spec.payload_max_bytes)
            return pieces;
    }
    return LAYOUT_STRIPES;
}

/* The numbers of plan->order[first .. end - 1], then their gradients. */
static struct buf *rows_encode(const struct outbox *outbox, const struct row_plan *plan,
                               const float *gradient, uint32_t first, uint32_t end) {
    size_t dim = outbox->spec.layout->tables[0].dim;
    struct buf *buf = buf_new((end - first) * row_bytes(outbox));
    uint64_t *numbers = (uint64_t *)(void *)buf->data;
    uint8_t *at = (uint8_t *)(numbers + (end - first));
    for (uint32_t i = first; i < end; i++) {
        uint32_t place = plan->order[i];
        numbers[i - first] = (uint64_t)plan->nodes[place];
        at += codec_encode(outbox->spec.codec, 1, gradient + place * dim, dim, NULL, at);
    }
    return buf;
}

int outbox_push_rows(struct outbox *outbox, const struct row_plan *plan, const float *gradient,
                     uint64_t clock, double weight, uint64_t now_ms, struct error *reterr) {
    const struct layout *layout = outbox->spec.layout;
    assert(layout->table_count == 1 && plan->shards == layout->shard_count);
    assert(clock >= outbox->next_clock && outbox->spec.codec != CODEC_TOPK);
    for (size_t s = 0; s < layout->shard_count * LAYOUT_STRIPES; s++) {
        size_t bytes = (plan->starts[s + 1] - plan->starts[s]) * row_bytes(outbox);
        if (bytes > outbox->spec.frame_max_bytes)
            return error_set(reterr, ERR_CONFIG,
                             "a step changes %zu rows of model.embedding, %zu bytes for one stripe "
                             "of a shard, but net.max_frame_bytes is %u; raise it or "
                             "servers.count, or take train.mode sampled or a smaller "
                             "train.batch_size",
                             plan->count, bytes, outbox->spec.frame_max_bytes);
    }
    for (size_t s = 0; s < layout->shard_count; s++) {
        struct outbox_shard *shard = &outbox->shards[s];
        const uint32_t *starts = plan->starts + s * LAYOUT_STRIPES;
        uint32_t each = LAYOUT_STRIPES / row_pieces(outbox, starts);
        for (uint32_t stripe = 0; stripe < LAYOUT_STRIPES; stripe += each) {
            struct parcel *parcel = mem_alloc(sizeof *parcel + sizeof shard->row_versions);
            parcel->sequence = ++shard->sequence;
            parcel->clock = clock;
            parcel->weight = weight;
            parcel->stripe = stripe;
            parcel->stripes = each;
            parcel->rows = starts[stripe + each] - starts[stripe];
            parcel->version_count = LAYOUT_STRIPES;
            memcpy(parcel->versions, shard->row_versions, sizeof shard->row_versions);
            parcel->payload =
                rows_encode(outbox, plan, gradient, starts[stripe], starts[stripe + each]);
            outbox_ask(outbox, &parcel->request, now_ms, now_ms);
            *shard->parcels_end = parcel;
            shard->parcels_end = &parcel->next;
        }
    }
    return 0;
}

void outbox_forget_rows(struct outbox *outbox) {
    for (size_t s = 0; s < outbox->spec.layout->shard_count; s++)
        outbox->shards[s].row_chunk_count = 0;
    outbox->row_plan = NULL;
    outbox->row_out = NULL;
}

void outbox_pull_rows(struct outbox *outbox, const struct row_plan *plan, uint32_t candidate,
                      float *out, uint64_t now_ms) {
    const struct layout *layout = outbox->spec.layout;
    size_t floats_bytes = layout->tables[0].dim * sizeof(float);
    uint32_t most = (uint32_t)(outbox->spec.payload_max_bytes / floats_bytes);
    most = most > 0 ? most : 1;
    assert(layout->table_count == 1 && plan->shards == layout->shard_count);
    outbox_forget_rows(outbox);
    outbox->row_plan = plan;
    outbox->row_out = out;
    outbox->rows_candidate = candidate;
    for (size_t s = 0; s < layout->shard_count; s++) {
        struct outbox_shard *shard = &outbox->shards[s];
        uint32_t at = plan->starts[s * LAYOUT_STRIPES];
        uint32_t end = plan->starts[(s + 1) * LAYOUT_STRIPES];
        uint32_t count = (end - at + most - 1) / most;
        memset(shard->row_versions, 0, sizeof shard->row_versions);
        if (count > shard->row_chunk_capacity) {
            mem_free(shard->row_chunks);
            shard->row_chunk_capacity = count + count / 4;
            shard->row_chunks = mem_array(shard->row_chunk_capacity, sizeof *shard->row_chunks);
        }
        shard->row_chunk_count = count;
        for (uint32_t i = 0; i < count; i++, at += most) {
            struct row_chunk *chunk = &shard->row_chunks[i];
            chunk->first = at;
            chunk->count = end - at < most ? end - at : most;
            outbox_ask(outbox, &chunk->request, now_ms, now_ms);
        }
    }
    flush_all(outbox, now_ms);
}

void outbox_set_usage(struct outbox *outbox, uint64_t rss_bytes, uint64_t rss_peak_bytes) {
    outbox->rss_bytes = rss_bytes;
    outbox->rss_peak_bytes = rss_peak_bytes;
}

void outbox_copy_candidate(const struct outbox *outbox, float *weights) {
    memcpy(weights, outbox->candidate, outbox->spec.layout->floats * sizeof *weights);
}

void outbox_copy(struct outbox *outbox, float *weights) {
    const struct layout *layout = outbox->spec.layout;
    memcpy(weights, outbox->weights, layout->floats * sizeof *weights);
    memcpy(outbox->copied, outbox->versions, layout->block_count * sizeof *outbox->copied);
    outbox->has_copied = true;
}
