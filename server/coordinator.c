/* The coordinator's frame: its lock, the frames queued under it, the phases a job goes through.
 * What ranks, epochs and shards are is in the files named in coordinator_state.h. */
#include "server/coordinator.h"

#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/metrics.h"
#include "server/coordinator_state.h"

/* How long shard 0 waits for the others to hear that the job is over. */
#define LEAVING_MS 5000
/* A shard that said it is leaving and is silent for this long has left. */
#define LEFT_MS 2000
/* The last generation is tried so often, so far apart. */
#define FINAL_TRIES 5
#define FINAL_PAUSE_MS 500
#define WAITING_LOG_MS 2000
#define WAITING_LOG_AGAIN_MS 10000
/* Time that passed between two ticks beyond this is ours, not the silence of others. */
#define TICK_GAP_MS 1000

struct coordinator *coordinator_new(const struct config *config, struct server *server) {
    struct coordinator *c = mem_alloc(sizeof *c);
    c->config = config;
    c->server = server;
    c->worker_count = (size_t)config->workers_count;
    c->shard_count = (size_t)config->servers_count;
    c->bsp = config->consistency_mode == CONSISTENCY_BSP;
    c->ssp = config->consistency_mode == CONSISTENCY_SSP;
    lock_init(&c->lock, LOCK_COORDINATOR, "coordinator");
    list_init(&c->outgoing);
    list_init(&c->epochs);
    c->workers = mem_array(c->worker_count, sizeof *c->workers);
    for (size_t i = 0; i < c->worker_count; i++)
        c->workers[i].epoch_from = 1;
    c->roster = mem_array(c->worker_count, sizeof *c->roster);
    c->roster_order = c->order = 1;
    graphps__epoch_status__init(&c->last);
    graphps__epoch_status__init(&c->best);
    score_forget(&c->last);
    score_forget(&c->best);
    c->peers = mem_array(c->shard_count, sizeof *c->peers);
    return c;
}

struct coordinator *coordinator_free(struct coordinator *c) {
    if (!c)
        return NULL;
    coordinator_lock(c);
    for (size_t i = 0; i < c->worker_count; i++) {
        worker_release(c, &c->workers[i].gate);
        worker_release(c, &c->workers[i].eval);
        worker_release(c, &c->workers[i].bye);
    }
    for (size_t i = 0; i < c->shard_count; i++) {
        coordinator_drop(c, c->peers[i].conn);
        mem_free(c->peers[i].generations);
    }
    epochs_free(c);
    coordinator_unlock(c);
    json_decref(c->saved);
    mem_free(c->peers);
    mem_free(c->roster);
    mem_free(c->workers);
    lock_done(&c->lock);
    mem_free(c);
    return NULL;
}

/* --- lock and frames --- */

struct outgoing {
    struct list node;
    void *conn;              /* a reference */
    struct frame_out *frame; /* NULL: only the reference is dropped */
};

void coordinator_lock(struct coordinator *c) {
    lock_take(&c->lock);
}

void coordinator_enter(struct coordinator *c, uint64_t *now_ms) {
    coordinator_lock(c);
    if (*now_ms < c->newest_ms)
        *now_ms = c->newest_ms;
    c->newest_ms = *now_ms;
}

static void outgoing_append(struct coordinator *c, void *conn, struct frame_out *frame) {
    lock_assert_held(&c->lock);
    struct outgoing *outgoing = mem_alloc(sizeof *outgoing);
    outgoing->conn = conn;
    outgoing->frame = frame;
    list_append(&c->outgoing, &outgoing->node);
}

void coordinator_unlock(struct coordinator *c) {
    struct list outgoing;
    list_init(&outgoing);
    list_move_all(&outgoing, &c->outgoing);
    lock_release(&c->lock);

    const struct server_ops *ops = c->server->ops;
    struct list *node;
    while ((node = list_pop(&outgoing))) {
        struct outgoing *one = LIST_OWNER(node, struct outgoing, node);
        if (one->frame)
            ops->send(c->server->ops_ctx, one->conn, one->frame);
        ops->unref(c->server->ops_ctx, one->conn);
        mem_free(one);
    }
}

void coordinator_send(struct coordinator *c, void *conn, enum frame_type type,
                      const ProtobufCMessage *message) {
    c->server->ops->ref(c->server->ops_ctx, conn);
    outgoing_append(c, conn, frame_out_new(type, message, NULL, 0));
}

void coordinator_drop(struct coordinator *c, void *conn) {
    if (conn)
        outgoing_append(c, conn, NULL);
}

/* --- phases --- */

static void phase_set(struct coordinator *c, enum job_phase phase, uint64_t now_ms) {
    log_debug("job phase", "from=%d to=%d", c->phase, phase);
    c->phase = phase;
    c->phase_ms = now_ms;
}

void coordinator_stop(struct coordinator *c, const char *reason, int finish_code, uint64_t now_ms) {
    if (c->phase >= JOB_DRAINING)
        return;
    snprintf(c->stop_reason, sizeof c->stop_reason, "%s", reason);
    c->finish_code = finish_code;
    phase_set(c, JOB_DRAINING, now_ms);
    log_info("the job ends", "reason=%s epochs=%u best_epoch=%u", log_quote(reason),
             c->epoch_complete, c->best.epoch);
}

/* A shard that will not answer any more. */
static bool peer_gone(const struct peer *peer, uint64_t now_ms) {
    return !peer->known || (peer->leaving && now_ms - peer->heard_ms > LEFT_MS);
}

static bool others_know(const struct coordinator *c, uint64_t now_ms) {
    for (size_t i = 1; i < c->shard_count; i++)
        if (c->peers[i].order < c->finish_order && !peer_gone(&c->peers[i], now_ms))
            return false;
    return true;
}

/* The last generation is begun, and again when it failed. True when there is nothing to wait for.
 */
static bool close_saved(struct coordinator *c, uint64_t now_ms) {
    if (c->writing)
        return false;
    if (c->final_tries > 0 && c->complete == c->generation)
        return true;
    if (c->final_tries > 0 && now_ms - c->generation_ms < FINAL_PAUSE_MS)
        return false;
    if (c->final_tries == FINAL_TRIES) {
        if (!c->finish_code)
            c->finish_code = ERR_IO;
        log_error("the last checkpoint could not be written; the one before it stays",
                  "generation=%llu", (unsigned long long)c->complete);
        return true;
    }
    c->final_tries += peers_begin_generation(c, now_ms);
    return false;
}

static void close_advance(struct coordinator *c, uint64_t now_ms) {
    /* A shard that restarts is waited for; one that never came or has left is not. */
    bool possible = c->peers[0].restored;
    for (size_t i = 1; i < c->shard_count; i++)
        possible &= !peer_gone(&c->peers[i], now_ms);
    bool late = now_ms - c->phase_ms > (uint64_t)c->config->checkpoint_grace_s * 1000;
    if (possible && !late && !close_saved(c, now_ms))
        return;
    bool saved = c->final_tries > 0 && c->complete == c->generation;
    if (possible && late)
        log_warning("the last checkpoint is not complete in time", "generation=%llu grace_s=%lld",
                    (unsigned long long)c->generation, (long long)c->config->checkpoint_grace_s);
    /* Only a job whose end is on disk is done. */
    if (!saved && !c->finish_code)
        c->finish_code = late ? ERR_TIMEOUT : ERR_INTERRUPTED;
    phase_set(c, JOB_LEAVING, now_ms);
    peers_order_changed(c);
    c->finish_order = c->order;
}

static void phase_advance(struct coordinator *c, uint64_t now_ms) {
    size_t expected = workers_in(c, WORKER_EXPECTED), live = workers_in(c, WORKER_LIVE);
    if (c->phase == JOB_STARTING && expected == 0 && live > 0)
        phase_set(c, JOB_TRAINING, now_ms);
    if (c->phase < JOB_DRAINING && expected + live == 0 && workers_in(c, WORKER_DONE) > 0)
        coordinator_stop(c, "epochs", 0, now_ms);
    /* Who is expected comes to be told, unless we are in a hurry. */
    if (c->phase == JOB_DRAINING && live == 0 && (expected == 0 || c->finish_code != 0))
        phase_set(c, JOB_CLOSING, now_ms);
    if (c->phase == JOB_CLOSING)
        close_advance(c, now_ms);
    if (c->phase == JOB_LEAVING && (others_know(c, now_ms) || now_ms - c->phase_ms > LEAVING_MS)) {
        phase_set(c, JOB_OVER, now_ms);
        peers_order_changed(c);
    }
}

void coordinator_advance(struct coordinator *c, uint64_t now_ms) {
    lock_assert_held(&c->lock);
    peers_advance(c, now_ms);
    workers_update_roster(c);
    epochs_advance(c, now_ms);
    phase_advance(c, now_ms);
    workers_release_byes(c);
    workers_open_gates(c, now_ms);
    epochs_release(c, now_ms);
    peers_send_orders(c);
}

/* --- time --- */

static void moment_shift(uint64_t *moment_ms, uint64_t gap_ms, uint64_t now_ms) {
    *moment_ms = *moment_ms + gap_ms < now_ms ? *moment_ms + gap_ms : now_ms;
}

static void gap_forgive(struct coordinator *c, uint64_t gap_ms, uint64_t now_ms) {
    log_warning("this process stood still", "for_ms=%llu", (unsigned long long)gap_ms);
    for (size_t i = 0; i < c->worker_count; i++)
        moment_shift(&c->workers[i].heard_ms, gap_ms, now_ms);
    for (size_t i = 0; i < c->shard_count; i++)
        moment_shift(&c->peers[i].heard_ms, gap_ms, now_ms);
    moment_shift(&c->nobody_ms, gap_ms, now_ms);
}

/* One line when somebody has been waited for a while, and again now and then (G2). */
static void waiting_log(struct coordinator *c, uint64_t now_ms) {
    char culprit[200];
    coordinator_culprit(c, now_ms, culprit, sizeof culprit);
    if (!culprit[0]) {
        c->waiting_since_ms = c->warned_ms = 0;
        metric_set(METRIC_WAITING_SECONDS, 0);
        return;
    }
    if (!c->waiting_since_ms)
        c->waiting_since_ms = now_ms;
    uint64_t waited_ms = now_ms - c->waiting_since_ms;
    metric_set(METRIC_WAITING_SECONDS, (double)waited_ms / 1000);
    if (waited_ms < WAITING_LOG_MS ||
        (c->warned_ms && now_ms - c->warned_ms < WAITING_LOG_AGAIN_MS))
        return;
    c->warned_ms = now_ms;
    char text[24];
    log_warning("waiting", "for=%s since=%s", log_quote(culprit),
                log_quote(coordinator_seconds(waited_ms, text)));
}

void coordinator_tick(struct coordinator *c, uint64_t now_ms) {
    coordinator_enter(c, &now_ms);
    if (!c->started_ms) {
        c->started_ms = c->ticked_ms = c->nobody_ms = c->phase_ms = now_ms;
        for (size_t i = 0; i < c->shard_count; i++)
            c->peers[i].heard_ms = now_ms;
    }
    uint64_t gap_ms = now_ms - c->ticked_ms;
    bool second = now_ms / 1000 != c->ticked_ms / 1000;
    c->ticked_ms = now_ms;
    if (gap_ms > TICK_GAP_MS)
        gap_forgive(c, gap_ms, now_ms);
    workers_tick(c, now_ms);
    peers_tick(c, now_ms);
    coordinator_advance(c, now_ms);
    if (second)
        waiting_log(c, now_ms);
    coordinator_unlock(c);
}

void coordinator_interrupt(struct coordinator *c, uint64_t now_ms) {
    coordinator_enter(c, &now_ms);
    coordinator_stop(c, "interrupted", ERR_INTERRUPTED, now_ms);
    coordinator_advance(c, now_ms);
    coordinator_unlock(c);
}

void coordinator_disconnected(struct coordinator *c, void *conn) {
    coordinator_lock(c);
    for (size_t i = 0; i < c->worker_count; i++) {
        if (c->workers[i].gate.conn == conn)
            worker_release(c, &c->workers[i].gate);
        if (c->workers[i].eval.conn == conn)
            worker_release(c, &c->workers[i].eval);
        if (c->workers[i].bye.conn == conn)
            worker_release(c, &c->workers[i].bye);
    }
    for (size_t i = 0; i < c->shard_count; i++)
        if (c->peers[i].conn == conn)
            coordinator_drop(c, TAKE_PTR(c->peers[i].conn));
    coordinator_unlock(c);
}
