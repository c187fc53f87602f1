/* Shards: what each holds and has done, which generation they restore and write, and the order that
 * says so. An order is whole and numbered; a shard may miss any of them but the last. */
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/metrics.h"
#include "server/coordinator_state.h"

/* --- orders --- */

void peers_order_changed(struct coordinator *c) {
    c->order++;
    c->order_news = true;
}

/* The newest generation a shard holds that is not beyond the others' newest; 0: none. */
static uint64_t peer_newest(const struct peer *peer, uint64_t complete) {
    uint64_t newest = 0;
    for (size_t i = 0; i < peer->generation_count; i++)
        if (peer->generations[i] <= complete && peer->generations[i] > newest)
            newest = peer->generations[i];
    return newest;
}

void peers_fill_order(const struct coordinator *c, size_t shard, Graphps__PeerOrder *order) {
    const struct peer *peer = &c->peers[shard];
    order->order = c->order;
    order->run = c->run;
    if (shard == 0) {
        order->restore = c->decided;
        order->restore_generation = c->restore;
    } else if (c->peers[0].restored && c->run && peer->known) {
        order->restore = true;
        order->restore_generation = peer_newest(peer, c->complete);
    }
    order->roster_epoch = c->roster_epoch;
    order->roster = mem_array(c->worker_count, sizeof *order->roster);
    order->roster_from = mem_array(c->worker_count, sizeof *order->roster_from);
    for (size_t i = 0; i < c->worker_count; i++)
        if (c->roster[i] != ROSTER_ABSENT) {
            order->roster[order->n_roster++] = (uint32_t)i;
            order->roster_from[order->n_roster_from++] = c->roster[i];
        }
    order->generation = c->generation;
    order->complete = c->complete;
    order->best_epoch = c->best.epoch;
    order->candidate_epoch = c->candidate_epoch;
    order->finish = shard == 0 ? c->phase == JOB_OVER : c->phase >= JOB_LEAVING;
    order->finish_code = (uint32_t)-c->finish_code;
}

void coordinator_order_done(Graphps__PeerOrder *order) {
    mem_free(order->roster);
    mem_free(order->roster_from);
    order->roster = NULL;
    order->roster_from = NULL;
    order->n_roster = order->n_roster_from = 0;
}

void peers_send_orders(struct coordinator *c) {
    if (!c->order_news)
        return;
    c->order_news = false;
    for (size_t i = 1; i < c->shard_count; i++)
        if (c->peers[i].conn) {
            Graphps__PeerOrder order = GRAPHPS__PEER_ORDER__INIT;
            peers_fill_order(c, i, &order);
            coordinator_send(c, c->peers[i].conn, FRAME_PEER_ORDER, &order.base);
            coordinator_order_done(&order);
        }
}

bool coordinator_has_news(struct coordinator *c, uint64_t order) {
    coordinator_lock(c);
    bool news = c->order != order;
    coordinator_unlock(c);
    return news;
}

bool peers_done(const struct coordinator *c, uint64_t order) {
    for (size_t i = 0; i < c->shard_count; i++)
        if (c->peers[i].order < order)
            return false;
    return true;
}

bool peers_hold_best(const struct coordinator *c) {
    for (size_t i = 0; c->best.epoch && i < c->shard_count; i++)
        if (c->peers[i].best_epoch != c->best.epoch)
            return false;
    return true;
}

bool peers_hold_candidate(const struct coordinator *c) {
    for (size_t i = 0; i < c->shard_count; i++)
        if (c->peers[i].candidate_epoch != c->candidate_epoch)
            return false;
    return true;
}

bool peers_restored(const struct coordinator *c) {
    for (size_t i = 0; i < c->shard_count; i++)
        if (!c->peers[i].restored)
            return false;
    return true;
}

/* --- the start --- */

static bool peer_holds(const struct peer *peer, uint64_t generation) {
    for (size_t i = 0; i < peer->generation_count; i++)
        if (peer->generations[i] == generation)
            return true;
    return false;
}

static uint64_t newest_common(const struct coordinator *c) {
    uint64_t newest = 0;
    const struct peer *own = &c->peers[0];
    for (size_t g = 0; g < own->generation_count; g++) {
        bool common = own->generations[g] > newest;
        for (size_t i = 1; common && i < c->shard_count; i++)
            common = peer_holds(&c->peers[i], own->generations[g]);
        if (common)
            newest = own->generations[g];
    }
    return newest;
}

/* What shard 0 restores, worked out anew until it has. When a shard serves already, a run goes on
 * without us and we join it; else all shards have to be heard. */
static void restore_decide(struct coordinator *c) {
    const struct peer *own = &c->peers[0];
    uint64_t run = 0, restore = 0, ordered = 0;
    bool all = true, any = false;
    for (size_t i = 0; i < c->shard_count; i++) {
        all &= c->peers[i].known;
        any |= c->peers[i].generation_count > 0;
        if (!run && c->peers[i].restored)
            run = c->peers[i].run;
        if (c->peers[i].restored && c->peers[i].ordered > ordered)
            ordered = c->peers[i].ordered;
    }
    if (!own->known || (!run && !all))
        return;
    if (run) {
        restore = peer_newest(own, ordered);
    } else {
        restore = newest_common(c);
        /* Random and ours alone. While a generation is restored, the run is in its file. */
        run = restore ? 0 : c->server->incarnation;
    }
    if (c->decided && c->restore == restore && c->run == run)
        return;
    if (restore)
        log_info("restoring", "generation=%llu", (unsigned long long)restore);
    else if (any || run != c->server->incarnation)
        log_warning("no checkpoint to go on with, the weights start anew", "shard=0");
    c->decided = true;
    c->restore = c->complete = restore;
    c->run = run;
    peers_order_changed(c);
}

/* --- generations --- */

bool peers_begin_generation(struct coordinator *c, uint64_t now_ms) {
    if (!peers_restored(c))
        return false;
    c->generation = ++c->generation_seen;
    c->generation_ms = now_ms;
    c->generation_due = false;
    c->writing = true;
    json_decref(c->saved);
    c->saved = coordinator_snapshot(c);
    peers_order_changed(c);
    return true;
}

static void generation_advance(struct coordinator *c) {
    if (!c->writing)
        return;
    size_t written = 0;
    for (size_t i = 0; i < c->shard_count; i++) {
        if (c->peers[i].checkpoint_failed == c->generation) {
            log_warning("a checkpoint could not be written", "generation=%llu shard=%zu",
                        (unsigned long long)c->generation, i);
            c->writing = false;
            return;
        }
        written += c->peers[i].restored && c->peers[i].generation == c->generation;
    }
    if (written < c->shard_count)
        return;
    c->writing = false;
    c->complete = c->generation;
    log_info("checkpoint complete", "generation=%llu", (unsigned long long)c->complete);
    peers_order_changed(c);
}

static void leaving_advance(struct coordinator *c, uint64_t now_ms) {
    for (size_t i = 1; i < c->shard_count; i++) {
        struct peer *peer = &c->peers[i];
        if (!peer->leaving || peer->leave_ordered)
            continue;
        /* One that it has not written yet will do. */
        peer->leave_ordered =
            (c->writing && peer->generation != c->generation) || peers_begin_generation(c, now_ms);
    }
}

void peers_advance(struct coordinator *c, uint64_t now_ms) {
    if (!c->peers[0].restored) {
        restore_decide(c);
        return;
    }
    if (!c->run) {
        c->run = c->peers[0].run;
        c->generation_ms = now_ms;
        peers_order_changed(c);
    }
    generation_advance(c);
    leaving_advance(c, now_ms);
}

void peers_tick(struct coordinator *c, uint64_t now_ms) {
    uint64_t every_ms = (uint64_t)c->config->checkpoint_every_s * 1000;
    if (c->generation_ms == 0)
        c->generation_ms = now_ms;
    if (every_ms && c->phase < JOB_DRAINING && !c->writing && workers_in(c, WORKER_LIVE) > 0 &&
        peers_restored(c) && now_ms - c->generation_ms >= every_ms) {
        if (c->bsp)
            c->generation_due = true;
        else
            peers_begin_generation(c, now_ms);
    }
    for (size_t i = 1; i < c->shard_count; i++)
        if (c->phase < JOB_DRAINING &&
            now_ms - c->peers[i].heard_ms > (uint64_t)c->config->net_give_up_s * 1000) {
            char reason[64];
            snprintf(reason, sizeof reason, "shard %zu silent", i);
            coordinator_stop(c, reason, ERR_TIMEOUT, now_ms);
        }
}

/* --- reports --- */

static int report_check(const struct coordinator *c, const Graphps__PeerReport *report,
                        struct error *reterr) {
    if (strcmp(report->job, c->config->job_name) != 0)
        return error_set(reterr, ERR_WRONG_JOB, "shard %u belongs to job '%s', this one is '%s'",
                         report->shard, report->job, c->config->job_name);
    if (report->shards != c->shard_count || report->shard >= c->shard_count)
        return error_set(reterr, ERR_CONFIG, "a shard says it is %u of %u; servers.count is %zu",
                         report->shard, report->shards, c->shard_count);
    return 0;
}

/* A shard's first report in this life of ours, or of a new life of its own. */
static void peer_begin(struct coordinator *c, struct peer *peer,
                       const Graphps__PeerReport *report) {
    coordinator_drop(c, peer->conn);
    mem_free(peer->generations);
    *peer = (struct peer){.known = true, .incarnation = report->incarnation};
    graphps__shard_status__init(&peer->status);
    /* Orders of an earlier life of shard 0 are older than any of this one. */
    if (report->order >= c->order) {
        c->order = report->order;
        peers_order_changed(c);
        c->roster_order = c->order;
        if (c->finish_order)
            c->finish_order = c->order;
    }
    if (report->shard > 0)
        log_info("shard reported", "shard=%u restored=%d", report->shard, report->restored);
}

static void peer_status(struct peer *peer, const Graphps__ShardStatus *status) {
    peer->status = *status;
    snprintf(peer->state, sizeof peer->state, "%s", status->state);
    snprintf(peer->address, sizeof peer->address, "%s", status->address);
    snprintf(peer->http, sizeof peer->http, "%s", status->http);
    peer->status.state = peer->state;
    peer->status.address = peer->address;
    peer->status.http = peer->http;
}

static void peer_update(struct coordinator *c, struct peer *peer, void *conn,
                        const Graphps__PeerReport *report, uint64_t now_ms) {
    if (peer->conn != conn) {
        if (conn)
            c->server->ops->ref(c->server->ops_ctx, conn);
        coordinator_drop(c, peer->conn);
        peer->conn = conn;
    }
    peer->report_id = report->id;
    peer->heard_ms = now_ms;
    peer->restored = report->restored;
    peer->leaving = report->leaving;
    peer->run = report->run;
    peer->order = report->order;
    peer->generation = report->generation;
    peer->ordered = report->ordered;
    peer->checkpoint_failed = report->checkpoint_failed;
    peer->best_epoch = report->best_epoch;
    peer->candidate_epoch = report->candidate_epoch;
    mem_free(peer->generations);
    peer->generation_count = report->n_generations;
    peer->generations = mem_array(report->n_generations, sizeof *peer->generations);
    for (size_t i = 0; i < report->n_generations; i++) {
        peer->generations[i] = report->generations[i];
        if (peer->generations[i] > c->generation_seen)
            c->generation_seen = peer->generations[i];
    }
    if (report->generation > c->generation_seen)
        c->generation_seen = report->generation;
    if (report->status)
        peer_status(peer, report->status);
}

int coordinator_report(struct coordinator *c, void *conn, const Graphps__PeerReport *report,
                       uint64_t now_ms, Graphps__PeerOrder *order, struct error *reterr) {
    int r = report_check(c, report, reterr);
    if (r < 0)
        return r;
    coordinator_enter(c, &now_ms);
    struct peer *peer = &c->peers[report->shard];
    if (!peer->known || peer->incarnation != report->incarnation)
        peer_begin(c, peer, report);
    if (report->id > peer->report_id) { /* else one that was overtaken */
        peer_update(c, peer, conn, report, now_ms);
        coordinator_advance(c, now_ms);
    }
    peers_fill_order(c, report->shard, order);
    order->id = report->id;
    coordinator_unlock(c);
    return 0;
}
