/* What people are told: the whole job in one message, and whom everybody waits for. */
#include <stdio.h>
#include <string.h>

#include "server/coordinator_state.h"

/* A shard reports every 200 ms. */
#define PEER_SILENT_MS 2000
/* A gate that is held no longer than this is the ordinary run of things. */
#define GATE_LONG_MS 1000

const char *worker_state_name(enum worker_state state) {
    static const char *const names[] = {"expected", "live", "lost", "done"};
    return names[state];
}

static const char *phase_name(enum job_phase phase) {
    static const char *const names[] = {"starting", "training", "draining",
                                        "draining", "done",     "done"};
    return names[phase];
}

const char *coordinator_seconds(uint64_t ms, char text[24]) {
    snprintf(text, 24, "%.1f s", (double)ms / 1000);
    return text;
}

uint64_t coordinator_run_ms(const struct coordinator *c, uint64_t now_ms) {
    return c->earlier_ms + (c->started_ms ? now_ms - c->started_ms : 0);
}

/* A shard that has not done what it was asked; false: none. */
static bool culprit_peer(const struct coordinator *c, uint64_t now_ms, char *text, size_t bytes) {
    char seconds[24];
    for (size_t i = 0; i < c->shard_count; i++) {
        const struct peer *peer = &c->peers[i];
        uint64_t silent_ms = now_ms - peer->heard_ms;
        if (!peer->known)
            snprintf(text, bytes, "shard %zu: not reported yet", i);
        else if (i > 0 && silent_ms > PEER_SILENT_MS && c->phase < JOB_OVER)
            snprintf(text, bytes, "shard %zu: silent for %s", i,
                     coordinator_seconds(silent_ms, seconds));
        else if (!peer->restored && c->decided)
            snprintf(text, bytes, "shard %zu: restoring", i);
        else if (c->writing && peer->generation != c->generation &&
                 now_ms - c->generation_ms > GATE_LONG_MS)
            snprintf(text, bytes, "shard %zu: writing checkpoint %llu", i,
                     (unsigned long long)c->generation);
        else
            continue;
        return true;
    }
    return false;
}

static size_t slowest_rank(const struct coordinator *c) {
    size_t slowest = c->worker_count;
    for (size_t i = 0; i < c->worker_count; i++)
        if (worker_counts(&c->workers[i]) &&
            (slowest == c->worker_count ||
             worker_clock(&c->workers[i]) < worker_clock(&c->workers[slowest])))
            slowest = i;
    return slowest;
}

static bool held_long(const struct held *held, uint64_t now_ms) {
    return held->conn && now_ms - held->since_ms > GATE_LONG_MS;
}

static bool culprit_worker(const struct coordinator *c, uint64_t now_ms, char *text, size_t bytes) {
    char seconds[24];
    bool gate = false, eval = false;
    for (size_t i = 0; i < c->worker_count; i++) {
        const struct worker *worker = &c->workers[i];
        uint64_t silent_ms = now_ms - worker->heard_ms;
        gate |= held_long(&worker->gate, now_ms);
        eval |= held_long(&worker->eval, now_ms);
        if (worker->state == WORKER_EXPECTED)
            snprintf(text, bytes, "rank %zu: not joined yet", i);
        else if (worker->state == WORKER_LIVE &&
                 silent_ms > (uint64_t)c->config->workers_lease_ms / 2)
            snprintf(text, bytes, "rank %zu: silent for %s", i,
                     coordinator_seconds(silent_ms, seconds));
        else
            continue;
        return true;
    }
    uint32_t epoch;
    size_t owing = epochs_owing(c, &epoch), slowest = slowest_rank(c);
    if (eval && owing < c->worker_count)
        snprintf(text, bytes, "rank %zu: its report of epoch %u", owing, epoch);
    else if (gate && slowest < c->worker_count)
        snprintf(text, bytes, "rank %zu: at step %llu, the slowest", slowest,
                 (unsigned long long)worker_clock(&c->workers[slowest]));
    else if (c->phase == JOB_DRAINING && slowest < c->worker_count)
        snprintf(text, bytes, "rank %zu: was told to stop", slowest);
    else if (c->phase < JOB_DRAINING && slowest == c->worker_count)
        snprintf(text, bytes, "any worker: none is here since %s",
                 coordinator_seconds(now_ms - c->nobody_ms, seconds));
    else
        return false;
    return true;
}

void coordinator_culprit(const struct coordinator *c, uint64_t now_ms, char *text, size_t bytes) {
    text[0] = 0;
    if (c->phase == JOB_OVER || culprit_peer(c, now_ms, text, bytes) || !c->peers[0].restored)
        return;
    culprit_worker(c, now_ms, text, bytes);
}

/* --- the whole --- */

static void status_shard(const struct coordinator *c, size_t i, uint64_t now_ms,
                         Graphps__ShardStatus *ret) {
    const struct peer *peer = &c->peers[i];
    if (peer->known)
        *ret = peer->status;
    else
        graphps__shard_status__init(ret);
    ret->shard = (uint32_t)i;
    ret->state = mem_strdup(peer->known ? peer->status.state : "unknown");
    ret->address = mem_strdup(peer->known ? peer->status.address : "");
    ret->http = mem_strdup(peer->known ? peer->status.http : "");
    ret->incarnation = peer->incarnation;
    ret->generation = peer->generation;
    ret->seen_ms = now_ms - peer->heard_ms;
}

static void status_worker(const struct coordinator *c, size_t i, uint64_t now_ms,
                          Graphps__WorkerStatus *ret) {
    const struct worker *worker = &c->workers[i];
    graphps__worker_status__init(ret);
    ret->rank = (uint32_t)i;
    ret->state = mem_strdup(worker_state_name(worker->state));
    ret->http = mem_strdup(worker->http);
    ret->incarnation = worker->incarnation;
    ret->clock = worker->clock;
    if (worker->heard_ms && worker->state != WORKER_EXPECTED)
        ret->seen_ms = now_ms - worker->heard_ms;
    ret->bytes_pushed = worker->earlier.bytes_pushed + worker->traffic.bytes_pushed;
    ret->bytes_pulled = worker->earlier.bytes_pulled + worker->traffic.bytes_pulled;
    ret->pushes = worker->earlier.pushes + worker->traffic.pushes;
    ret->rss_bytes = worker->rss_bytes;
    ret->rss_peak_bytes = worker->rss_peak_bytes;
    ret->owned_nodes = worker->owned_nodes;
    ret->train_nodes = worker->train_nodes;
}

static Graphps__EpochStatus *status_epoch(const Graphps__EpochStatus *epoch) {
    if (epoch->epoch == 0)
        return NULL;
    Graphps__EpochStatus *copy = mem_alloc(sizeof *copy);
    *copy = *epoch;
    return copy;
}

void coordinator_status(struct coordinator *c, uint64_t now_ms, Graphps__Status *ret) {
    static const char *const modes[] = {"async", "ssp", "bsp"};
    graphps__status__init(ret);
    coordinator_enter(c, &now_ms);
    ret->job = mem_strdup(c->config->job_name);
    ret->state = mem_strdup(phase_name(c->phase));
    ret->mode = mem_strdup(modes[c->config->consistency_mode]);
    ret->last = status_epoch(&c->last);
    ret->best = status_epoch(&c->best);
    ret->epochs = (uint32_t)c->config->train_epochs;
    for (size_t i = 0; i < c->worker_count; i++)
        if (c->workers[i].steps_per_epoch > ret->steps_per_epoch)
            ret->steps_per_epoch = c->workers[i].steps_per_epoch;
    workers_span(c, &ret->slowest_clock, &ret->fastest_clock);
    ret->uptime_ms = coordinator_run_ms(c, now_ms);
    char culprit[200];
    coordinator_culprit(c, now_ms, culprit, sizeof culprit);
    ret->waiting_for = mem_strdup(culprit);
    ret->stop_reason = mem_strdup(c->stop_reason);
    ret->generation = c->complete;
    ret->idle_epochs = c->idle;
    ret->task = c->task;
    ret->metric = mem_strdup(score_name(epochs_metric(c)));
    ret->n_shards = c->shard_count;
    ret->shards = mem_array(c->shard_count, sizeof *ret->shards);
    for (size_t i = 0; i < c->shard_count; i++) {
        ret->shards[i] = mem_alloc(sizeof **ret->shards);
        status_shard(c, i, now_ms, ret->shards[i]);
    }
    ret->n_workers = c->worker_count;
    ret->workers = mem_array(c->worker_count, sizeof *ret->workers);
    for (size_t i = 0; i < c->worker_count; i++) {
        ret->workers[i] = mem_alloc(sizeof **ret->workers);
        status_worker(c, i, now_ms, ret->workers[i]);
    }
    coordinator_unlock(c);
}

void coordinator_status_done(Graphps__Status *status) {
    for (size_t i = 0; i < status->n_shards; i++) {
        mem_free(status->shards[i]->state);
        mem_free(status->shards[i]->address);
        mem_free(status->shards[i]->http);
        mem_free(status->shards[i]);
    }
    for (size_t i = 0; i < status->n_workers; i++) {
        mem_free(status->workers[i]->state);
        mem_free(status->workers[i]->http);
        mem_free(status->workers[i]);
    }
    mem_free(status->shards);
    mem_free(status->workers);
    mem_free(status->last);
    mem_free(status->best);
    mem_free(status->job);
    mem_free(status->state);
    mem_free(status->mode);
    mem_free(status->waiting_for);
    mem_free(status->stop_reason);
    mem_free(status->metric);
    graphps__status__init(status);
}
