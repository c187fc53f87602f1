/* The worker's half of the promises, pure: what it has asked of every shard and what is not
 * answered yet. It is handed connection events, frames and time, and hands out frames to send; no
 * socket, no clock. client.c puts it on libuv; a simulation puts it on a simulated network.
 *
 * Rules. Shard 0 is greeted first (it numbers the attempt), the others after its Welcome. A request
 * is sent again on a new connection after Welcome, and on the same one after resend_ms without an
 * answer (all are idempotent; pushes by sequence). The pushes of a step are kept until every shard
 * has acknowledged all of that step, even those acknowledged already: a shard whose incarnation
 * changed gets all kept ones again. Clock{c} goes to shard 0 when all pushes of steps < c are
 * acknowledged by every shard. A shard whose incarnation changed also makes the worker forget the
 * versions it held. An Error that is not retryable is final; a retryable one (NOT_READY, BUSY,
 * NOT_ATTACHED -> greet again) is tried again after a pause. Not thread-safe: client.c locks. */
#pragma once

#include <stdbool.h>

#include "proto/codec.h"
#include "proto/layout.h"
#include "proto/wire.h"
#include "worker/row_plan.h"

struct outbox;

struct outbox_spec {
    const char *job, *snapshot_digest, *http, *options; /* borrowed for the outbox's life */
    uint32_t rank, workers;
    uint64_t incarnation, seed;
    uint64_t owned_nodes, train_nodes;
    uint32_t steps_per_epoch;
    const struct layout *layout; /* borrowed */
    enum codec codec;
    double topk_ratio;          /* CODEC_TOPK only */
    uint32_t payload_max_bytes; /* a push is split into frames no longer than this */
    uint32_t frame_max_bytes;   /* beyond which none may be: rows of one stripe are not split */
    uint32_t resend_ms;
};

/* None of these may call back into the outbox. */
struct outbox_ops {
    /* Sends a frame to a shard's open connection; takes it. */
    void (*send)(void *ctx, uint32_t shard, struct frame_out *frame);
    /* The connection is of no use: close it and open another (a new connection will be announced).
     */
    void (*reconnect)(void *ctx, uint32_t shard, const struct error *why);
    /* Monotonic ns, for latency metrics alone; NULL: none are recorded. */
    uint64_t (*now_ns)(void *ctx);
};

struct outbox *outbox_new(const struct outbox_spec *spec, const struct outbox_ops *ops, void *ctx);
struct outbox *outbox_free(struct outbox *outbox);

/* What the network tells. */
void outbox_opened(struct outbox *outbox, uint32_t shard, uint64_t now_ms);
void outbox_closed(struct outbox *outbox, uint32_t shard, uint64_t now_ms);
void outbox_frame(struct outbox *outbox, uint32_t shard, const struct frame_in *frame,
                  uint64_t now_ms);
/* Resends, heartbeats. Returns when to be called again (absolute ms). */
uint64_t outbox_tick(struct outbox *outbox, uint64_t now_ms);

/* What the trainer does. */
/* Gradients [layout->floats], finite, of step `clock` (finished steps before it; grows from push to
 * push), computed on the weights of the last outbox_copy, or as they are held when there was none;
 * encoded at once (with the residual kept inside for int8), sent as the connections allow. weight:
 * training samples. */
void outbox_push(struct outbox *outbox, const float *gradient, uint64_t clock, double weight,
                 uint64_t now_ms);
/* The rows of the layout's only table, where it has one. Before the outbox_push of the same step,
 * once for each of them, also when the batch has no rows: gradients [plan->count, dim], finite, in
 * the order of plan->nodes. Nothing is kept of the arguments. ERR_CONFIG: they are too many for a
 * frame. */
int outbox_push_rows(struct outbox *outbox, const struct row_plan *plan, const float *gradient,
                     uint64_t clock, double weight, uint64_t now_ms, struct error *reterr);
/* Asks for the rows of a plan: out [plan->count, dim] is written, in the order of plan->nodes,
 * until outbox_rows_held or outbox_forget_rows; both are borrowed so long. candidate: of that
 * epoch; 0: as they are now. One at a time: what was asked for before is forgotten. */
void outbox_pull_rows(struct outbox *outbox, const struct row_plan *plan, uint32_t candidate,
                      float *out, uint64_t now_ms);
bool outbox_rows_held(const struct outbox *outbox);
void outbox_forget_rows(struct outbox *outbox);
/* Asks every shard for what is newer than held. One pull per shard is in flight at a time; asking
 * while one is, asks again after it. */
void outbox_pull(struct outbox *outbox, uint64_t now_ms);
/* Asks every shard for the weights it keeps as the candidate of an epoch; beside any other
 * pull. They are there for outbox_copy_candidate once outbox_candidate_held says so; the weights
 * held stay as they are. */
void outbox_pull_candidate(struct outbox *outbox, uint32_t epoch, uint64_t now_ms);
/* eval is copied; id, rank, incarnation are filled in. The one before must be answered
 * (outbox_evaled). */
void outbox_eval(struct outbox *outbox, const Graphps__Eval *eval, uint64_t now_ms);
void outbox_bye(struct outbox *outbox, bool done, uint64_t now_ms);
void outbox_set_usage(struct outbox *outbox, uint64_t rss_bytes,
                      uint64_t rss_peak_bytes); /* for heartbeats */

/* What the trainer waits for. */
bool outbox_welcomed(const struct outbox *outbox); /* by every shard */
/* The step to go on with, by shard 0's last Welcome: above the next step only when this worker was
 * counted as lost meanwhile; the steps between are not its any more. */
uint64_t outbox_start_clock(const struct outbox *outbox);
/* Every block was held at least once; current: and no pull is in flight or wanted. */
bool outbox_weights_held(const struct outbox *outbox);
bool outbox_weights_current(const struct outbox *outbox);
/* The weights as held, [layout->floats]; changed only inside outbox_frame. outbox_weights_changed:
 * counts arrivals. */
const float *outbox_weights(const struct outbox *outbox);
/* Copies them [layout->floats] and keeps in mind which versions they are of. */
void outbox_copy(struct outbox *outbox, float *weights);
uint64_t outbox_weights_changed(const struct outbox *outbox);
/* Steps < this are acknowledged by every shard. */
uint64_t outbox_finished(const struct outbox *outbox);
/* May step `clock` start, by shard 0's gate? stop: the job is over. */
bool outbox_gate_open(const struct outbox *outbox, uint64_t clock);
bool outbox_stop(const struct outbox *outbox);
bool outbox_candidate_held(const struct outbox *outbox);
void outbox_copy_candidate(const struct outbox *outbox, float *weights); /* [layout->floats] */
/* The epoch whose candidate the last answer to an evaluation asked for, 0: none. */
uint32_t outbox_candidate_due(const struct outbox *outbox);
/* Epoch of the last evaluation once it is answered, 0 before. */
uint32_t outbox_evaled(const struct outbox *outbox);
bool outbox_said_goodbye(const struct outbox *outbox);
/* 0, or the final error. */
int outbox_error(const struct outbox *outbox, struct error *reterr);
/* Whom it waits for, as a sentence ("shard 1: no answer to push 17 for 812 ms"), "" for nobody; and
 * since when. */
const char *outbox_waiting(const struct outbox *outbox, uint64_t now_ms, char *buf,
                           size_t buf_bytes, uint64_t *ret_since_ms);
uint64_t outbox_bytes_pushed(const struct outbox *outbox);
uint64_t outbox_bytes_pulled(const struct outbox *outbox);
uint64_t outbox_pushes(const struct outbox *outbox); /* acknowledged, counted once each */
