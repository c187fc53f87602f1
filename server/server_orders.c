/* What a shard reports to shard 0, how it carries out what shard 0 orders, and how it ends. The
 * order is a state, not a step: whatever was missed is in the next one. */
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/metrics.h"
#include "server/coordinator.h"
#include "server/server.h"

#define STATUS_MS 200

/* --- reports --- */

/* The list is copied, since slow work may shorten it meanwhile; report_done frees it. */
static void report_fill(struct server *server, uint64_t id, Graphps__PeerReport *report) {
    graphps__peer_report__init(report);
    report->id = id;
    report->job = server->config->job_name;
    report->shard = server->shard;
    report->shards = server->shards;
    report->incarnation = server->incarnation;
    lock_take(&server->orders_lock);
    report->restored = server->run != 0;
    if (!report->restored && server->generation_count > 0) {
        report->n_generations = server->generation_count;
        report->generations = mem_array(server->generation_count, sizeof *report->generations);
        memcpy(report->generations, server->generations,
               server->generation_count * sizeof *report->generations);
    }
    report->order = server->order_done;
    report->generation = server->generation;
    report->checkpoint_failed = server->generation_failed;
    report->best_epoch = server->best_epoch;
    report->candidate_epoch = server->candidate_epoch;
    report->leaving = server->leaving;
    report->run = server->run;
    report->ordered = server->order.generation > server->order.complete ? server->order.generation
                                                                        : server->order.complete;
    lock_release(&server->orders_lock);
}

static void report_done(Graphps__PeerReport *report) {
    mem_free(report->generations);
}

struct frame_out *server_report(struct server *server, uint64_t id, uint64_t now_ms) {
    Graphps__PeerReport report;
    Graphps__ShardStatus status;
    report_fill(server, id, &report);
    server_status(server, &status);
    report.status = &status;
    struct frame_out *frame = frame_out_new(FRAME_PEER_REPORT, &report.base, NULL, 0);
    report_done(&report);
    return frame;
}

/* True when it was done by the order that is the newest now. */
static bool self_report_once(struct server *server, uint64_t now_ms) {
    Graphps__PeerReport report;
    Graphps__ShardStatus status;
    lock_take(&server->orders_lock);
    uint64_t id = ++server->report_id;
    bool with_status = id == 1 || now_ms - server->reported_ms >= STATUS_MS;
    if (with_status)
        server->reported_ms = now_ms;
    lock_release(&server->orders_lock);
    report_fill(server, id, &report);
    if (with_status) {
        server_status(server, &status);
        report.status = &status;
    }
    Graphps__PeerOrder order = GRAPHPS__PEER_ORDER__INIT;
    struct error err;
    int r = coordinator_report(server->coordinator, NULL, &report, now_ms, &order, &err);
    if (r == 0)
        server_ordered(server, &order, now_ms);
    bool settled = r < 0 || report.order == order.order;
    coordinator_order_done(&order);
    report_done(&report);
    return settled;
}

void server_self_report(struct server *server, uint64_t now_ms) {
    /* Each round carries out an order, which may make the coordinator order the next thing; two or
     * three are usual, and the next tick goes on. */
    for (int round = 0; round < 8; round++)
        if (self_report_once(server, now_ms))
            break;
}

void server_news(struct server *server) {
    lock_take(&server->orders_lock);
    bool due = server_work_due_locked(server) && !server->work_running;
    lock_release(&server->orders_lock);
    if (due)
        server->ops->work(server->ops_ctx);
    atomic_store(&server->news, true);
    if (server->shard > 0 && server->ops->report)
        server->ops->report(server->ops_ctx);
}

/* --- orders --- */

static void order_copy(Graphps__PeerOrder *to, const Graphps__PeerOrder *from) {
    coordinator_order_done(to);
    *to = *from;
    to->roster = mem_array(from->n_roster, sizeof *to->roster);
    to->roster_from = mem_array(from->n_roster_from, sizeof *to->roster_from);
    for (size_t i = 0; i < from->n_roster; i++)
        to->roster[i] = from->roster[i];
    for (size_t i = 0; i < from->n_roster_from; i++)
        to->roster_from[i] = from->roster_from[i];
}

/* Returns whether it changed. */
static bool order_roster(struct roster *roster, const Graphps__PeerOrder *order) {
    bool changed = false;
    size_t present = 0;
    for (uint32_t rank = 0, at = 0; rank < roster->workers; rank++) {
        while (at < order->n_roster && order->roster[at] < rank)
            at++;
        bool counts = at < order->n_roster && order->roster[at] == rank;
        uint64_t from = counts ? order->roster_from[at] : ROSTER_ABSENT;
        changed |= atomic_exchange(&roster->from[rank], from) != from;
        present += counts;
    }
    atomic_store(&roster->present, present);
    return changed;
}

/* orders_lock is held, admission for reading. */
static void keep_present_locked(struct server *server, struct buf ***kept) {
    if (!*kept)
        *kept = mem_array(server->block_count, sizeof **kept);
    for (size_t i = 0; i < server->block_count; i++) {
        uint64_t version;
        buf_unref((*kept)[i]);
        (*kept)[i] = block_read(&server->blocks[i], &version);
    }
}

/* The candidate of that epoch becomes the best; without one (bsp) the weights as published now. */
static void order_best_locked(struct server *server, uint32_t epoch) {
    if (server->candidate && server->candidate_epoch == epoch) {
        struct buf **old = server->best;
        server->best = server->candidate;
        server->candidate = old;
        for (size_t i = 0; old && i < server->block_count; i++)
            old[i] = buf_unref(old[i]);
        /* Whoever still pulls the candidate finds it under the best. */
    } else {
        keep_present_locked(server, &server->best);
    }
    server->best_epoch = epoch;
}

static bool order_of_other_run(const struct server *server, const Graphps__PeerOrder *order) {
    return server->run && order->run && order->run != server->run;
}

void server_ordered(struct server *server, const Graphps__PeerOrder *order, uint64_t now_ms) {
    if (order->n_roster != order->n_roster_from)
        return; /* not from any shard 0 of ours */
    pthread_rwlock_rdlock(&server->admission);
    lock_take(&server->orders_lock);
    bool stale = order->order < server->order.order;
    bool other = order_of_other_run(server, order);
    bool news = false, work = false;
    if (!stale && !other) {
        /* Old generations are removed, and the run ends, where the disk may be waited for. */
        work = order->complete > server->order.complete || (order->finish && !server->order.finish);
        order_copy(&server->order, order);
        if (order_roster(&server->roster, order) && server->aggregator && server->rule.bsp)
            aggregator_recheck(server->aggregator, now_ms);
        if (order->best_epoch && order->best_epoch != server->best_epoch && server->aggregator) {
            order_best_locked(server, order->best_epoch);
            news = true;
        }
        if (order->candidate_epoch != server->candidate_epoch && server->aggregator) {
            if (order->candidate_epoch)
                keep_present_locked(server, &server->candidate);
            server->candidate_epoch = order->candidate_epoch;
            news = true;
        }
        news |= server->order_done != order->order;
        server->order_done = order->order;
    }
    lock_release(&server->orders_lock);
    pthread_rwlock_unlock(&server->admission);
    if (other)
        server_finish(server, ERR_INTERRUPTED,
                      "shard 0 has begun another run; start this shard again");
    else if (work)
        server->ops->work(server->ops_ctx);
    if (news || other)
        server_news(server);
}

/* --- the end --- */

void server_finish(struct server *server, int code, const char *text) {
    lock_take(&server->orders_lock);
    bool first = !server->finished;
    server->finished = true;
    if (first && code)
        error_set(&server->finish, code, "%s", text ? text : error_sentence(code));
    lock_release(&server->orders_lock);
    if (first) {
        server_set_state(server, SERVER_FINISHED);
        server_news(server);
    }
}

void server_leave(struct server *server, uint64_t now_ms) {
    if (server->coordinator) {
        coordinator_interrupt(server->coordinator, now_ms);
        server_self_report(server, now_ms);
        return;
    }
    lock_take(&server->orders_lock);
    if (!server->leaving)
        server->leave_generation = server->generation;
    server->leaving = true;
    lock_release(&server->orders_lock);
    if (atomic_load(&server->state) != SERVER_SERVING) /* nothing that is worth keeping */
        server_finish(server, ERR_INTERRUPTED, "asked to end");
    else
        server_news(server);
}

void server_abandon(struct server *server) {
    atomic_store(&server->abandon, true);
}

/* --- for /stats --- */

static json_t *epoch_json(const Graphps__EpochStatus *epoch, Graphps__Task task) {
    return epoch ? coordinator_epoch_json(epoch, task) : json_null();
}

static json_t *shard_json(const Graphps__ShardStatus *s) {
    return json_pack("{s:I, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
                     "s:f, s:I}",
                     "shard", (json_int_t)s->shard, "state", s->state, "address", s->address,
                     "http", s->http, "blocks", (json_int_t)s->blocks, "parameters",
                     (json_int_t)s->parameters, "pushes_applied", (json_int_t)s->pushes_applied,
                     "pushes_repeated", (json_int_t)s->pushes_repeated, "updates",
                     (json_int_t)s->updates, "bytes_in", (json_int_t)s->bytes_in, "bytes_out",
                     (json_int_t)s->bytes_out, "generation", (json_int_t)s->generation, "rss_bytes",
                     (json_int_t)s->rss_bytes, "rss_peak_bytes", (json_int_t)s->rss_peak_bytes,
                     "connections", (json_int_t)s->connections, "staleness_mean", s->staleness_mean,
                     "seen_ms", (json_int_t)s->seen_ms);
}

static json_t *worker_json(const Graphps__WorkerStatus *w) {
    return json_pack("{s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:I, s:I}", "rank",
                     (json_int_t)w->rank, "state", w->state, "clock", (json_int_t)w->clock,
                     "seen_ms", (json_int_t)w->seen_ms, "bytes_pushed", (json_int_t)w->bytes_pushed,
                     "bytes_pulled", (json_int_t)w->bytes_pulled, "pushes", (json_int_t)w->pushes,
                     "rss_bytes", (json_int_t)w->rss_bytes, "rss_peak_bytes",
                     (json_int_t)w->rss_peak_bytes, "http", w->http, "owned_nodes",
                     (json_int_t)w->owned_nodes, "train_nodes", (json_int_t)w->train_nodes);
}

static json_t *job_json(struct server *server, uint64_t now_ms) {
    Graphps__Status status;
    coordinator_status(server->coordinator, now_ms, &status);
    json_t *shards = json_array(), *workers = json_array();
    for (size_t i = 0; i < status.n_shards; i++)
        json_array_append_new(shards, shard_json(status.shards[i]));
    for (size_t i = 0; i < status.n_workers; i++)
        json_array_append_new(workers, worker_json(status.workers[i]));
    json_t *job = json_pack(
        "{s:s, s:s, s:s, s:s, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:I, s:I, s:o, s:o}",
        "name", status.job, "state", status.state, "mode", status.mode, "metric", status.metric,
        "last", epoch_json(status.last, status.task), "best", epoch_json(status.best, status.task),
        "epochs", (json_int_t)status.epochs, "steps_per_epoch", (json_int_t)status.steps_per_epoch,
        "slowest_clock", (json_int_t)status.slowest_clock, "fastest_clock",
        (json_int_t)status.fastest_clock, "uptime_ms", (json_int_t)status.uptime_ms, "waiting_for",
        status.waiting_for, "stop_reason", status.stop_reason, "generation",
        (json_int_t)status.generation, "idle_epochs", (json_int_t)status.idle_epochs, "shards",
        shards, "workers", workers);
    coordinator_status_done(&status);
    return job;
}

/* The shard's own numbers; on shard 0 also "job", the whole. */
json_t *server_stats_json(struct server *server, uint64_t now_ms) {
    Graphps__ShardStatus status;
    server_status(server, &status);
    json_t *stats = shard_json(&status);
    json_object_set_new(stats, "role", json_string("shard"));
    json_object_set_new(
        stats, "learning_rate",
        json_real((double)schedule_rate(&server->schedule, atomic_load(&server->schedule.clock))));
    json_object_set_new(stats, "name", json_string(server->config->job_name));
    json_t *ledger = json_array();
    lock_take(&server->seats_lock);
    for (size_t i = 0; i < server->roster.workers; i++) {
        const struct ledger_entry *entry = &server->seats[i].ledger;
        json_array_append_new(ledger, json_pack("{s:I, s:I, s:I, s:b}", "rank", (json_int_t)i,
                                                "attempt", (json_int_t)entry->attempt, "applied",
                                                (json_int_t)entry->counted, "connected",
                                                server->seats[i].conn != NULL));
    }
    lock_release(&server->seats_lock);
    json_object_set_new(stats, "ledger", ledger);
    if (server->coordinator)
        json_object_set_new(stats, "job", job_json(server, now_ms));
    return stats;
}
