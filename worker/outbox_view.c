/* The outbox's face: what the trainer may ask about it, and the sentence that says whom it waits
 * for. Changes nothing. */
#include <stdio.h>

#include "worker/outbox_state.h"

bool outbox_welcomed(const struct outbox *outbox) {
    for (size_t i = 0; i < outbox->spec.layout->shard_count; i++)
        if (!outbox->shards[i].known)
            return false;
    return true;
}

uint64_t outbox_start_clock(const struct outbox *outbox) {
    return outbox->start_clock;
}

bool outbox_weights_held(const struct outbox *outbox) {
    return outbox->held_count == outbox->spec.layout->block_count;
}

bool outbox_weights_current(const struct outbox *outbox) {
    if (!outbox_weights_held(outbox))
        return false;
    for (size_t i = 0; i < outbox->spec.layout->shard_count; i++)
        if (outbox->shards[i].pull_again || outbox_pull_open(&outbox->shards[i]))
            return false;
    return true;
}

bool outbox_rows_held(const struct outbox *outbox) {
    for (size_t i = 0; i < outbox->spec.layout->shard_count; i++)
        for (uint32_t k = 0; k < outbox->shards[i].row_chunk_count; k++)
            if (outbox->shards[i].row_chunks[k].request.open)
                return false;
    return true;
}

const float *outbox_weights(const struct outbox *outbox) {
    return outbox->weights;
}

uint64_t outbox_weights_changed(const struct outbox *outbox) {
    return outbox->changed;
}

uint64_t outbox_finished(const struct outbox *outbox) {
    return outbox->finished;
}

bool outbox_gate_open(const struct outbox *outbox, uint64_t clock) {
    return outbox->gated && outbox->gate >= clock;
}

bool outbox_stop(const struct outbox *outbox) {
    return outbox->stop;
}

bool outbox_candidate_held(const struct outbox *outbox) {
    for (size_t i = 0; i < outbox->spec.layout->shard_count; i++)
        for (uint32_t k = 0; k < outbox->shards[i].chunk_count; k++)
            if (outbox->shards[i].chunks[k].kept.open)
                return false;
    return outbox->candidate_epoch != 0;
}

uint32_t outbox_candidate_due(const struct outbox *outbox) {
    return outbox->candidate_due;
}

uint32_t outbox_evaled(const struct outbox *outbox) {
    return outbox->evaled;
}

bool outbox_said_goodbye(const struct outbox *outbox) {
    return outbox->said_goodbye;
}

int outbox_error(const struct outbox *outbox, struct error *reterr) {
    if (!outbox->error.code)
        return 0;
    return error_set(reterr, outbox->error.code, "%s", outbox->error.text);
}

/* The oldest thing unanswered. */
struct oldest {
    uint64_t since_ms;
    uint32_t shard;
    const char *what;
    uint64_t number;
};

static void oldest_fold(struct oldest *oldest, const struct request *request, uint32_t shard,
                        const char *what, uint64_t number) {
    if (request->open && request->since_ms < oldest->since_ms)
        *oldest = (struct oldest){request->since_ms, shard, what, number};
}

const char *outbox_waiting(const struct outbox *outbox, uint64_t now_ms, char *buf,
                           size_t buf_bytes, uint64_t *ret_since_ms) {
    struct oldest oldest = {.since_ms = UINT64_MAX};
    size_t shard_count = outbox->spec.layout->shard_count;
    /* A shard that cannot be spoken to is the culprit, whatever else waits. */
    for (uint32_t i = 0; i < shard_count && oldest.since_ms == UINT64_MAX; i++) {
        const struct outbox_shard *shard = &outbox->shards[i];
        if (!shard->open)
            oldest =
                (struct oldest){shard->down_ms ? shard->down_ms : now_ms, i, "no connection", 0};
        else if (!shard->welcomed)
            oldest_fold(&oldest, &shard->hello, i, "no answer to hello", 0);
    }
    for (uint32_t i = 0; i < shard_count && oldest.since_ms == UINT64_MAX; i++) {
        const struct outbox_shard *shard = &outbox->shards[i];
        for (const struct parcel *parcel = shard->parcels; parcel; parcel = parcel->next)
            oldest_fold(&oldest, &parcel->request, i, "no answer to push", parcel->sequence);
        for (uint32_t c = 0; c < shard->chunk_count; c++) {
            oldest_fold(&oldest, &shard->chunks[c].pull, i, "no answer to a pull", 0);
            oldest_fold(&oldest, &shard->chunks[c].kept, i, "no answer to a pull", 0);
        }
        for (uint32_t c = 0; c < shard->row_chunk_count; c++)
            oldest_fold(&oldest, &shard->row_chunks[c].request, i, "no answer to a pull of rows",
                        0);
    }
    if (oldest.since_ms == UINT64_MAX) {
        oldest_fold(&oldest, &outbox->eval, 0, "no answer to the report of epoch",
                    outbox->eval_message.epoch);
        oldest_fold(&oldest, &outbox->clock, 0, "no leave yet to start step", outbox->clock_value);
        oldest_fold(&oldest, &outbox->bye, 0, "no answer to goodbye", 0);
    }
    buf[0] = 0;
    *ret_since_ms = now_ms;
    if (oldest.since_ms == UINT64_MAX)
        return buf;
    *ret_since_ms = oldest.since_ms;
    uint64_t ago_ms = now_ms > oldest.since_ms ? now_ms - oldest.since_ms : 0;
    const char *said = outbox->shards[oldest.shard].said;
    char number[24] = "";
    if (oldest.number)
        snprintf(number, sizeof number, " %llu", (unsigned long long)oldest.number);
    snprintf(buf, buf_bytes, "shard %u: %s%s for %llu ms%s%s", oldest.shard, oldest.what, number,
             (unsigned long long)ago_ms, *said ? ": " : "", said);
    return buf;
}

uint64_t outbox_bytes_pushed(const struct outbox *outbox) {
    return outbox->bytes_pushed;
}

uint64_t outbox_bytes_pulled(const struct outbox *outbox) {
    return outbox->bytes_pulled;
}

uint64_t outbox_pushes(const struct outbox *outbox) {
    return outbox->pushes;
}
