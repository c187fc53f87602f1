/* The outbox's ear: what a shard's frames mean for the requests that are open. An answer nobody
 * waits for (a repeat) is dropped; one that makes no sense costs the shard its connection. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/metrics.h"
#include "common/vec.h"
#include "worker/outbox_state.h"

/* A third of the lease, but not more seldom: they carry what the job's status shows. */
#define HEARTBEAT_MIN_MS 10
#define HEARTBEAT_MAX_MS 1000

static void record_latency(struct outbox *outbox, enum metric metric,
                           const struct request *request) {
    if (outbox->ops.now_ns && request->sent_ns)
        metric_record(metric, outbox->ops.now_ns(outbox->ctx) - request->sent_ns);
}

static void outbox_fail(struct outbox *outbox, uint32_t index, int code, const char *text) {
    if (!outbox->error.code)
        error_set(&outbox->error, code, "shard %u: %s", index,
                  text && *text ? text : error_sentence(code));
}

static void request_due_now(struct request *request, uint64_t now_ms) {
    request->due_ms = now_ms;
    request->tries = 0;
}

/* A connection that has just been welcomed: all that is open goes out on it. */
static void shard_due_now(struct outbox *outbox, uint32_t index, uint64_t now_ms) {
    struct outbox_shard *shard = &outbox->shards[index];
    for (struct parcel *parcel = shard->parcels; parcel; parcel = parcel->next)
        request_due_now(&parcel->request, now_ms);
    for (uint32_t i = 0; i < shard->chunk_count; i++) {
        request_due_now(&shard->chunks[i].pull, now_ms);
        request_due_now(&shard->chunks[i].kept, now_ms);
    }
    for (uint32_t i = 0; i < shard->row_chunk_count; i++)
        request_due_now(&shard->row_chunks[i].request, now_ms);
    if (index > 0)
        return;
    request_due_now(&outbox->clock, now_ms);
    request_due_now(&outbox->eval, now_ms);
    request_due_now(&outbox->bye, now_ms);
}

/* The shard is another process than before: it may have lost what it acknowledged since its last
 * checkpoint, and its versions count anew. */
static void shard_reborn(struct outbox *outbox, uint32_t index, uint64_t now_ms) {
    struct outbox_shard *shard = &outbox->shards[index];
    const struct layout *layout = outbox->spec.layout;
    for (uint32_t i = layout->shard_starts[index]; i < layout->shard_starts[index + 1]; i++)
        outbox->versions[layout->shard_blocks[i]] = 0;
    memset(shard->row_versions, 0, sizeof shard->row_versions);
    for (uint32_t i = 0; i < shard->row_chunk_count; i++)
        if (shard->row_chunks[i].request.open)
            outbox_ask(outbox, &shard->row_chunks[i].request, shard->row_chunks[i].request.since_ms,
                       now_ms);
    for (struct parcel *parcel = shard->parcels; parcel; parcel = parcel->next) {
        bool sent = parcel->request.sent;
        outbox_ask(outbox, &parcel->request, now_ms, now_ms);
        parcel->request.sent = sent;
    }
    for (uint32_t i = 0; i < shard->chunk_count; i++) {
        struct request *pulls[] = {&shard->chunks[i].pull, &shard->chunks[i].kept};
        for (size_t k = 0; k < ARRAY_LEN(pulls); k++)
            if (pulls[k]->open)
                outbox_ask(outbox, pulls[k], pulls[k]->since_ms, now_ms);
    }
}

static int on_welcome(struct outbox *outbox, uint32_t index, const Graphps__Welcome *welcome,
                      uint64_t now_ms, struct error *reterr) {
    struct outbox_shard *shard = &outbox->shards[index];
    if (!shard->hello.open || welcome->id != shard->hello.id)
        return 0;
    if (welcome->shard != index) {
        char text[160];
        snprintf(text, sizeof text,
                 "its address is answered by shard %u; correct servers.addresses (shard 0 first)",
                 welcome->shard);
        outbox_fail(outbox, index, ERR_CONFIG, text);
        return 0;
    }
    if (welcome->shard_incarnation == 0 || (index == 0 && welcome->attempt == 0))
        return error_set(reterr, ERR_PROTOCOL, "a welcome without incarnation or attempt");
    shard->hello.open = false;
    shard->said[0] = 0;
    if (shard->incarnation != 0 && shard->incarnation != welcome->shard_incarnation)
        shard_reborn(outbox, index, now_ms);
    shard->incarnation = welcome->shard_incarnation;
    bool fresh = !shard->welcomed;
    shard->welcomed = shard->known = true;
    if (fresh)
        shard_due_now(outbox, index, now_ms);
    if (index > 0)
        return 0;
    uint32_t third_ms = welcome->lease_ms / 3;
    outbox->beat_every_ms = third_ms < HEARTBEAT_MIN_MS   ? HEARTBEAT_MIN_MS
                            : third_ms > HEARTBEAT_MAX_MS ? HEARTBEAT_MAX_MS
                                                          : third_ms;
    if (fresh)
        outbox->heartbeat_ms = now_ms + outbox->beat_every_ms;
    if (welcome->start_clock > outbox->start_clock)
        outbox->start_clock = welcome->start_clock;
    bool renumbered = outbox->attempt != welcome->attempt;
    outbox->attempt = welcome->attempt;
    outbox_advance(outbox, now_ms);
    /* The others are greeted with the number. */
    for (uint32_t i = 1; renumbered && i < outbox->spec.layout->shard_count; i++) {
        if (outbox->shards[i].open)
            outbox_ask(outbox, &outbox->shards[i].hello, now_ms, now_ms);
        outbox_flush(outbox, i, now_ms);
    }
    return 0;
}

static void on_pushed(struct outbox *outbox, uint32_t index, const Graphps__Pushed *pushed,
                      uint64_t now_ms) {
    struct outbox_shard *shard = &outbox->shards[index];
    struct parcel *parcel = shard->parcels;
    while (parcel && parcel->request.id != pushed->id)
        parcel = parcel->next;
    if (!parcel || !parcel->request.open)
        return;
    parcel->request.open = false;
    shard->said[0] = 0;
    record_latency(outbox, METRIC_PUSH_LATENCY, &parcel->request);
    if (!parcel->counted) {
        parcel->counted = true;
        outbox->pushes++;
        log_debug("push acknowledged",
                  "shard=%u rank=%u incarnation=%016" PRIx64 " sequence=%" PRIu64, index,
                  outbox->spec.rank, outbox->spec.incarnation, parcel->sequence);
    }
    outbox_advance(outbox, now_ms);
}

/* Are these blocks some of the chunk's, ascending, with as many floats as there are bytes? */
static int weights_check(const struct outbox *outbox, uint32_t index, const struct chunk *chunk,
                         const Graphps__Weights *weights, const struct frame_in *frame,
                         struct error *reterr) {
    const struct layout *layout = outbox->spec.layout;
    if (weights->n_blocks != weights->n_versions)
        return error_set(reterr, ERR_PROTOCOL, "weights of %zu blocks with %zu versions",
                         weights->n_blocks, weights->n_versions);
    size_t floats = 0;
    uint32_t at = chunk->first;
    for (size_t i = 0; i < weights->n_blocks; i++) {
        while (at < chunk->first + chunk->count && layout->shard_blocks[at] < weights->blocks[i])
            at++;
        if (at == chunk->first + chunk->count || layout->shard_blocks[at] != weights->blocks[i] ||
            weights->versions[i] == 0)
            return error_set(reterr, ERR_PROTOCOL, "weights of block %u, which was not asked for",
                             weights->blocks[i]);
        floats += layout->blocks[weights->blocks[i]].floats;
        at++;
    }
    if (frame->payload_bytes != floats * sizeof(float))
        return error_set(reterr, ERR_PROTOCOL, "weights of %zu floats in %zu bytes", floats,
                         frame->payload_bytes);
    return 0;
}

static bool request_is(const struct request *request, uint64_t id) {
    return request->open && request->id == id;
}

static int on_weights(struct outbox *outbox, uint32_t index, const Graphps__Weights *weights,
                      const struct frame_in *frame, uint64_t now_ms, struct error *reterr) {
    const struct layout *layout = outbox->spec.layout;
    struct outbox_shard *shard = &outbox->shards[index];
    uint32_t c = 0;
    while (c < shard->chunk_count && !request_is(&shard->chunks[c].pull, weights->id) &&
           !request_is(&shard->chunks[c].kept, weights->id))
        c++;
    if (c == shard->chunk_count || weights->shard_incarnation != shard->incarnation)
        return 0;
    struct chunk *chunk = &shard->chunks[c];
    bool kept = request_is(&chunk->kept, weights->id);
    struct request *request = kept ? &chunk->kept : &chunk->pull;
    int r = weights_check(outbox, index, chunk, weights, frame, reterr);
    if (r < 0)
        return r;
    const float *payload = (const float *)(const void *)frame->payload;
    if (!vec()->finite(payload, frame->payload_bytes / sizeof(float))) {
        outbox_fail(outbox, index, ERR_NOT_FINITE,
                    "its weights are not finite any more: the training has diverged; lower "
                    "optimizer.lr");
        return 0;
    }
    for (size_t i = 0; i < weights->n_blocks && kept; i++) {
        const struct layout_block *block = &layout->blocks[weights->blocks[i]];
        memcpy(outbox->candidate + block->offset, payload, block->floats * sizeof(float));
        payload += block->floats;
    }
    for (size_t i = 0; i < weights->n_blocks && !kept; i++) {
        const struct layout_block *block = &layout->blocks[weights->blocks[i]];
        memcpy(outbox->weights + block->offset, payload, block->floats * sizeof(float));
        payload += block->floats;
        outbox->versions[block->id] = weights->versions[i];
        outbox->held_count += !outbox->held[block->id];
        outbox->held[block->id] = true;
    }
    outbox->changed++;
    outbox->bytes_pulled += FRAME_HEADER_BYTES + frame->message_bytes + frame->payload_bytes;
    shard->said[0] = 0;
    request->open = false;
    record_latency(outbox, METRIC_PULL_LATENCY, request);
    for (uint32_t i = 0; i < shard->chunk_count; i++)
        if (shard->chunks[i].pull.open)
            return 0;
    if (shard->pull_again)
        outbox_ask_pull(outbox, shard, now_ms);
    return 0;
}

static int on_rows(struct outbox *outbox, uint32_t index, const Graphps__Rows *rows,
                   const struct frame_in *frame, struct error *reterr) {
    struct outbox_shard *shard = &outbox->shards[index];
    const struct row_plan *plan = outbox->row_plan;
    uint32_t c = 0;
    while (c < shard->row_chunk_count && !request_is(&shard->row_chunks[c].request, rows->id))
        c++;
    if (c == shard->row_chunk_count)
        return 0;
    struct row_chunk *chunk = &shard->row_chunks[c];
    size_t dim = outbox->spec.layout->tables[0].dim, floats = chunk->count * dim;
    if (rows->rows != chunk->count || rows->n_versions != LAYOUT_STRIPES ||
        frame->payload_bytes != floats * sizeof(float))
        return error_set(reterr, ERR_PROTOCOL,
                         "%u rows in %zu bytes with %zu versions, of %u that were asked for",
                         rows->rows, frame->payload_bytes, rows->n_versions, chunk->count);
    const float *payload = (const float *)(const void *)frame->payload;
    if (!vec()->finite(payload, floats)) {
        outbox_fail(outbox, index, ERR_NOT_FINITE,
                    "its rows are not finite any more: the training has diverged; lower "
                    "optimizer.lr");
        return 0;
    }
    for (uint32_t i = 0; i < chunk->count; i++)
        memcpy(outbox->row_out + plan->order[chunk->first + i] * dim, payload + i * dim,
               dim * sizeof(float));
    /* Of the frames of one pull the oldest counts. */
    for (size_t s = 0; s < LAYOUT_STRIPES && !outbox->rows_candidate; s++)
        if (shard->row_versions[s] == 0 || rows->versions[s] < shard->row_versions[s])
            shard->row_versions[s] = rows->versions[s];
    outbox->bytes_pulled += FRAME_HEADER_BYTES + frame->message_bytes + frame->payload_bytes;
    shard->said[0] = 0;
    chunk->request.open = false;
    record_latency(outbox, METRIC_PULL_LATENCY, &chunk->request);
    return 0;
}

static struct request *request_find(struct outbox *outbox, uint32_t index, uint64_t id) {
    struct outbox_shard *shard = &outbox->shards[index];
    if (shard->hello.open && shard->hello.id == id)
        return &shard->hello;
    for (struct parcel *parcel = shard->parcels; parcel; parcel = parcel->next)
        if (parcel->request.open && parcel->request.id == id)
            return &parcel->request;
    for (uint32_t i = 0; i < shard->chunk_count; i++)
        if (request_is(&shard->chunks[i].pull, id))
            return &shard->chunks[i].pull;
        else if (request_is(&shard->chunks[i].kept, id))
            return &shard->chunks[i].kept;
    for (uint32_t i = 0; i < shard->row_chunk_count; i++)
        if (request_is(&shard->row_chunks[i].request, id))
            return &shard->row_chunks[i].request;
    struct request *others[] = {&outbox->clock, &outbox->eval, &outbox->heartbeat, &outbox->bye};
    for (size_t i = 0; index == 0 && i < ARRAY_LEN(others); i++)
        if (others[i]->open && others[i]->id == id)
            return others[i];
    return NULL;
}

static void on_error(struct outbox *outbox, uint32_t index, const Graphps__Error *error,
                     uint64_t now_ms) {
    struct outbox_shard *shard = &outbox->shards[index];
    struct request *request = request_find(outbox, index, error->id);
    if (!error->retryable) {
        /* A number of a newer release is an error all the same. */
        int code = error->code && error->code < 1000 ? -(int)error->code : ERR_INTERNAL;
        outbox_fail(outbox, index, code, error->text);
        return;
    }
    if (!request)
        return;
    snprintf(shard->said, sizeof shard->said, "%s",
             error->text && *error->text ? error->text : error_sentence(-(int)error->code));
    uint32_t doublings = request->tries > 0 ? request->tries - 1 : 0;
    uint64_t due_ms = now_ms + (OUTBOX_PAUSE_MS << (doublings < 2 ? doublings : 2));
    if (error->code == -ERR_NOT_ATTACHED && request != &shard->hello) {
        shard->welcomed = false;
        if (!shard->hello.open)
            outbox_ask(outbox, &shard->hello, now_ms, due_ms);
    } else {
        request->due_ms = due_ms;
    }
}

static int outbox_answer(struct outbox *outbox, uint32_t index, const struct frame_in *frame,
                         const ProtobufCMessage *message, uint64_t now_ms, struct error *reterr) {
    switch (frame->type) {
    case FRAME_WELCOME:
        return on_welcome(outbox, index, (const Graphps__Welcome *)message, now_ms, reterr);
    case FRAME_PUSHED:
        on_pushed(outbox, index, (const Graphps__Pushed *)message, now_ms);
        return 0;
    case FRAME_WEIGHTS:
        return on_weights(outbox, index, (const Graphps__Weights *)message, frame, now_ms, reterr);
    case FRAME_ROWS:
        return on_rows(outbox, index, (const Graphps__Rows *)message, frame, reterr);
    case FRAME_ERROR:
        on_error(outbox, index, (const Graphps__Error *)message, now_ms);
        return 0;
    default:
        break;
    }
    if (index > 0)
        return error_set(reterr, ERR_PROTOCOL, "a %s frame, which only shard 0 sends",
                         frame_type_name(frame->type));
    switch (frame->type) {
    case FRAME_GATE: {
        const Graphps__Gate *gate = (const Graphps__Gate *)message;
        if (!outbox->gated || gate->clock > outbox->gate)
            outbox->gate = gate->clock;
        outbox->gated = true;
        outbox->stop |= gate->stop;
        if (gate->clock >= outbox->clock_value || gate->stop)
            outbox->clock.open = false;
        return 0;
    }
    case FRAME_EVALED: {
        const Graphps__Evaled *evaled = (const Graphps__Evaled *)message;
        if (outbox->eval.open && evaled->id == outbox->eval.id) {
            outbox->eval.open = false;
            outbox->evaled = outbox->eval_message.epoch;
            outbox->candidate_due = evaled->candidate;
        }
        return 0;
    }
    case FRAME_ALIVE: {
        const Graphps__Alive *alive = (const Graphps__Alive *)message;
        if (alive->id == outbox->heartbeat.id)
            outbox->heartbeat.open = false;
        outbox->stop |= alive->stop;
        return 0;
    }
    case FRAME_GOODBYE:
        if (outbox->bye.open && ((const Graphps__Goodbye *)message)->id == outbox->bye.id) {
            outbox->bye.open = false;
            outbox->said_goodbye = true;
        }
        return 0;
    default:
        return error_set(reterr, ERR_PROTOCOL, "a %s frame, which no worker expects",
                         frame_type_name(frame->type));
    }
}

void outbox_frame(struct outbox *outbox, uint32_t index, const struct frame_in *frame,
                  uint64_t now_ms) {
    struct error why;
    ProtobufCMessage *message = NULL;
    if (!outbox->shards[index].open || outbox->error.code)
        return;
    outbox->shards[index].heard_ms = now_ms;
    int r = wire_unpack(frame, &message, &why);
    if (r == 0)
        r = outbox_answer(outbox, index, frame, message, now_ms, &why);
    wire_free(message);
    if (r < 0) {
        outbox_drop(outbox, index, &why, now_ms);
        return;
    }
    /* An answer may have made room or raised the clock. */
    outbox_flush(outbox, index, now_ms);
    if (index > 0)
        outbox_flush(outbox, 0, now_ms);
}
