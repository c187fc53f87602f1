/* Ranks: who holds one, whether it counts, how far it is, and when it may go on. */
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/metrics.h"
#include "server/coordinator_state.h"

static uint64_t max_u64(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

bool worker_counts(const struct worker *worker) {
    return worker->state == WORKER_EXPECTED || worker->state == WORKER_LIVE;
}

uint64_t worker_clock(const struct worker *worker) {
    return max_u64(worker->clock, worker->from);
}

void worker_turn(struct worker *worker) {
    worker->earlier.bytes_pushed += worker->traffic.bytes_pushed;
    worker->earlier.bytes_pulled += worker->traffic.bytes_pulled;
    worker->earlier.pushes += worker->traffic.pushes;
    worker->traffic = (struct traffic){0};
    worker->rss_bytes = worker->rss_peak_bytes = 0;
}

/* A process's numbers only grow; one that came late does not take them back. */
static void worker_sent(struct worker *worker, uint64_t bytes_pushed, uint64_t bytes_pulled,
                        uint64_t pushes) {
    struct traffic *traffic = &worker->traffic;
    traffic->bytes_pushed = max_u64(traffic->bytes_pushed, bytes_pushed);
    traffic->bytes_pulled = max_u64(traffic->bytes_pulled, bytes_pulled);
    traffic->pushes = max_u64(traffic->pushes, pushes);
}

void worker_release(struct coordinator *c, struct held *held) {
    coordinator_drop(c, held->conn);
    *held = (struct held){0};
}

void worker_hold(struct coordinator *c, struct held *held, void *conn, uint64_t id, uint64_t number,
                 uint64_t now_ms) {
    /* The same request sent again has been waiting since it came first. */
    uint64_t since_ms = held->conn && held->number == number ? held->since_ms : now_ms;
    c->server->ops->ref(c->server->ops_ctx, conn);
    worker_release(c, held);
    *held = (struct held){.conn = conn, .id = id, .number = number, .since_ms = since_ms};
}

size_t workers_in(const struct coordinator *c, enum worker_state state) {
    size_t count = 0;
    for (size_t i = 0; i < c->worker_count; i++)
        count += c->workers[i].state == state;
    return count;
}

void workers_span(const struct coordinator *c, uint64_t *ret_slowest, uint64_t *ret_fastest) {
    uint64_t slowest = UINT64_MAX, fastest = 0;
    for (size_t i = 0; i < c->worker_count; i++)
        if (worker_counts(&c->workers[i])) {
            uint64_t clock = worker_clock(&c->workers[i]);
            slowest = clock < slowest ? clock : slowest;
            fastest = max_u64(fastest, clock);
        }
    *ret_slowest = slowest == UINT64_MAX ? 0 : slowest;
    *ret_fastest = fastest;
}

/* Steps of the whole job for this rank; UINT64_MAX while it has not said how many an epoch has. */
static uint64_t worker_total(const struct coordinator *c, const struct worker *worker) {
    if (worker->steps_per_epoch == 0)
        return UINT64_MAX;
    return (uint64_t)worker->steps_per_epoch * (uint64_t)c->config->train_epochs;
}

bool worker_must_stop(const struct coordinator *c, const struct worker *worker) {
    return c->phase >= JOB_DRAINING || worker->state == WORKER_DONE ||
           (worker->clock >= worker_total(c, worker) && worker->evaled >= c->config->train_epochs &&
            epochs_judged(c));
}

/* --- greeting --- */

/* The first step of a rank that was not counted any more. In bsp the others may be in the middle of
 * the step after their clock, and its batch closes without the newcomer. */
static uint64_t rejoin_clock(const struct coordinator *c, const struct worker *worker) {
    uint64_t slowest, fastest;
    workers_span(c, &slowest, &fastest);
    if (workers_in(c, WORKER_EXPECTED) + workers_in(c, WORKER_LIVE) > 0)
        return max_u64(worker->clock, c->bsp ? fastest + 1 : slowest);
    uint64_t clock = worker->clock;
    for (size_t i = 0; c->bsp && i < c->worker_count; i++)
        clock = max_u64(clock, worker_clock(&c->workers[i]));
    return clock;
}

static int hello_attempt(const struct worker *worker, const Graphps__Hello *hello, bool same,
                         uint64_t wall_ms, uint64_t *ret, struct error *reterr) {
    if (hello->attempt == 0) {
        *ret = same ? worker->attempt : max_u64(worker->attempt + 1, wall_ms);
        return 0;
    }
    if (hello->attempt < worker->attempt || (hello->attempt == worker->attempt && !same))
        return error_set(reterr, ERR_FENCED,
                         "rank %u: a newer process (attempt %llu) has taken it, this one is %llu",
                         hello->rank, (unsigned long long)worker->attempt,
                         (unsigned long long)hello->attempt);
    *ret = hello->attempt;
    return 0;
}

/* Ranks wait for each other by their clocks, so a clock must mean the same to all. */
static int hello_steps(const struct coordinator *c, const Graphps__Hello *hello,
                       struct error *reterr) {
    if (hello->steps_per_epoch == 0)
        return error_set(reterr, ERR_RANGE, "rank %u: 0 steps per epoch", hello->rank);
    for (size_t i = 0; (c->bsp || c->ssp) && i < c->worker_count; i++) {
        const struct worker *other = &c->workers[i];
        if (i != hello->rank && other->state == WORKER_LIVE &&
            other->steps_per_epoch != hello->steps_per_epoch)
            return error_set(reterr, ERR_CONFIG,
                             "rank %u has %u steps per epoch, rank %zu has %u; ssp and bsp need "
                             "the same on all",
                             hello->rank, hello->steps_per_epoch, i, other->steps_per_epoch);
    }
    return 0;
}

/* The holder of the rank is known; brings the rank back into the roster where that is due. */
static void worker_join(struct coordinator *c, struct worker *worker, const Graphps__Hello *hello,
                        bool fresh, uint64_t now_ms) {
    bool lost = worker->state == WORKER_LOST;
    worker->clock = max_u64(worker->clock, hello->clock);
    if (lost)
        worker->clock = rejoin_clock(c, worker);
    /* It will not push what is before; a shard that has lost those steps must not wait for them. */
    worker->from = max_u64(worker->from, worker->clock);
    uint64_t epoch = worker_clock(worker) / hello->steps_per_epoch;
    /* A process that lives on at an epoch's end may still have to report it. */
    if (fresh || lost)
        worker->epoch_from = (uint32_t)epoch + 1;
    else if (worker->epoch_from < epoch)
        worker->epoch_from = (uint32_t)epoch;
    worker->steps_per_epoch = hello->steps_per_epoch;
    worker->owned_nodes = hello->owned_nodes;
    worker->train_nodes = hello->train_nodes;
    snprintf(worker->http, sizeof worker->http, "%s", hello->http);
    worker->heard_ms = now_ms;
    if (worker->state != WORKER_DONE && worker->state != WORKER_LIVE) {
        log_info(lost ? "worker is back" : "worker joined", "rank=%u clock=%llu attempt=%llu",
                 hello->rank, (unsigned long long)worker_clock(worker),
                 (unsigned long long)worker->attempt);
        worker->state = WORKER_LIVE;
    }
}

int coordinator_hello(struct coordinator *c, void *conn, const Graphps__Hello *hello,
                      uint64_t now_ms, uint64_t wall_ms, Graphps__Welcome *welcome,
                      struct error *reterr) {
    if (hello->rank >= c->worker_count)
        return error_set(reterr, ERR_RANGE, "rank %u, the job has %zu workers", hello->rank,
                         c->worker_count);
    coordinator_enter(c, &now_ms);
    struct worker *worker = &c->workers[hello->rank];
    bool same = worker->attempt && worker->incarnation == hello->incarnation;
    uint64_t attempt = 0;
    int r = 0;
    if (!c->run || !c->peers[0].restored)
        r = error_set(reterr, ERR_NOT_READY, "shard 0 does not know yet which run to go on with");
    if (r == 0)
        r = hello_attempt(worker, hello, same, wall_ms, &attempt, reterr);
    if (r == 0)
        r = hello_steps(c, hello, reterr);
    if (r == 0) {
        if (!same) {
            worker_turn(worker);
            worker_release(c, &worker->gate);
            worker_release(c, &worker->eval);
            worker_release(c, &worker->bye);
            if (worker->state == WORKER_LIVE)
                log_warning("a newer process takes a rank", "rank=%u attempt=%llu before=%llu",
                            hello->rank, (unsigned long long)attempt,
                            (unsigned long long)worker->attempt);
        }
        worker->attempt = attempt;
        worker->incarnation = hello->incarnation;
        worker_join(c, worker, hello, !same && hello->attempt == 0, now_ms);
        welcome->attempt = attempt;
        welcome->start_clock = worker_clock(worker);
        welcome->lease_ms = (uint32_t)c->config->workers_lease_ms;
        coordinator_advance(c, now_ms);
    }
    coordinator_unlock(c);
    return r;
}

int worker_heard(struct coordinator *c, uint32_t rank, uint64_t incarnation, uint64_t now_ms,
                 struct worker **ret, struct error *reterr) {
    if (rank >= c->worker_count)
        return error_set(reterr, ERR_RANGE, "rank %u, the job has %zu workers", rank,
                         c->worker_count);
    struct worker *worker = &c->workers[rank];
    if (worker->attempt && worker->incarnation != incarnation)
        return error_set(reterr, ERR_FENCED, "rank %u: a newer process (attempt %llu) has taken it",
                         rank, (unsigned long long)worker->attempt);
    if (!worker->attempt || worker->state == WORKER_LOST || worker->state == WORKER_EXPECTED)
        return error_set(reterr, ERR_NOT_ATTACHED, "rank %u is not counted; say hello again", rank);
    worker->heard_ms = now_ms;
    *ret = worker;
    return 0;
}

/* --- clocks --- */

int coordinator_clock(struct coordinator *c, void *conn, const Graphps__Clock *clock,
                      uint64_t now_ms, struct error *reterr) {
    coordinator_enter(c, &now_ms);
    struct worker *worker;
    int r = worker_heard(c, clock->rank, clock->incarnation, now_ms, &worker, reterr);
    if (r == 0) {
        worker->clock = max_u64(worker->clock, clock->clock);
        worker_hold(c, &worker->gate, conn, clock->id, clock->clock, now_ms);
        coordinator_advance(c, now_ms);
    }
    coordinator_unlock(c);
    return r;
}

int coordinator_heartbeat(struct coordinator *c, void *conn, const Graphps__Heartbeat *beat,
                          uint64_t now_ms, struct error *reterr) {
    coordinator_enter(c, &now_ms);
    struct worker *worker;
    int r = worker_heard(c, beat->rank, beat->incarnation, now_ms, &worker, reterr);
    if (r == 0) {
        worker_sent(worker, beat->bytes_pushed, beat->bytes_pulled, beat->pushes);
        worker->rss_bytes = beat->rss_bytes;
        worker->rss_peak_bytes = beat->rss_peak_bytes;
        worker->clock = max_u64(worker->clock, beat->clock);
        Graphps__Alive alive = GRAPHPS__ALIVE__INIT;
        alive.id = beat->id;
        /* In bsp all stop at the same step, so only a gate says it. */
        alive.stop = !c->bsp && worker_must_stop(c, worker);
        coordinator_send(c, conn, FRAME_ALIVE, &alive.base);
        coordinator_advance(c, now_ms);
    }
    coordinator_unlock(c);
    return r;
}

int coordinator_bye(struct coordinator *c, void *conn, const Graphps__Bye *bye, uint64_t now_ms,
                    struct error *reterr) {
    coordinator_enter(c, &now_ms);
    struct worker *worker = bye->rank < c->worker_count ? &c->workers[bye->rank] : NULL;
    int r = 0;
    if (!worker)
        r = error_set(reterr, ERR_RANGE, "rank %u, the job has %zu workers", bye->rank,
                      c->worker_count);
    else if (worker->attempt && worker->incarnation != bye->incarnation)
        r = error_set(reterr, ERR_FENCED, "rank %u: a newer process has taken it", bye->rank);
    if (r == 0) {
        enum worker_state state = bye->done ? WORKER_DONE : WORKER_LOST;
        if (worker->state != WORKER_DONE && worker->state != state)
            log_info(bye->done ? "worker is done" : "worker leaves", "rank=%u clock=%llu",
                     bye->rank, (unsigned long long)worker->clock);
        if (worker->state != WORKER_DONE)
            worker->state = state;
        worker_sent(worker, bye->bytes_pushed, bye->bytes_pulled, bye->pushes);
        worker->heard_ms = now_ms;
        worker_release(c, &worker->gate);
        worker_release(c, &worker->eval);
        worker_hold(c, &worker->bye, conn, bye->id, 0, now_ms);
        coordinator_advance(c, now_ms);
    }
    coordinator_unlock(c);
    return r;
}

void workers_release_byes(struct coordinator *c) {
    bool last = c->phase < JOB_DRAINING ? workers_in(c, WORKER_LIVE) == 0 : c->phase < JOB_LEAVING;
    for (size_t i = 0; i < c->worker_count; i++) {
        struct worker *worker = &c->workers[i];
        bool stay = last && worker->state == WORKER_DONE && c->finish_code == 0;
        if (!worker->bye.conn || stay)
            continue;
        Graphps__Goodbye goodbye = GRAPHPS__GOODBYE__INIT;
        goodbye.id = worker->bye.id;
        coordinator_send(c, worker->bye.conn, FRAME_GOODBYE, &goodbye.base);
        worker_release(c, &worker->bye);
    }
}

/* --- roster and gates --- */

void workers_update_roster(struct coordinator *c) {
    bool changed = false;
    for (size_t i = 0; i < c->worker_count; i++) {
        const struct worker *worker = &c->workers[i];
        uint64_t from = worker_counts(worker) ? worker->from : ROSTER_ABSENT;
        changed |= from != c->roster[i];
        c->roster[i] = from;
    }
    if (changed) {
        peers_order_changed(c);
        c->roster_epoch++;
        c->roster_order = c->order;
    }
}

/* bsp: everybody stands at this clock and nothing is in flight, the moment for a checkpoint that
 * is the same everywhere. True while the gate has to wait for it. */
static bool gate_checkpoint(struct coordinator *c, uint64_t now_ms) {
    if (c->generation_due && !c->writing && peers_restored(c)) {
        c->generation_due = false;
        peers_begin_generation(c, now_ms);
    }
    return c->writing && now_ms - c->generation_ms < (uint64_t)c->config->workers_lease_ms;
}

static bool gate_opens(struct coordinator *c, const struct held *gate, uint64_t slowest,
                       uint64_t now_ms) {
    uint64_t clock = gate->number;
    /* All begin together (or when the join time-out has passed): what the first to come would learn
     * alone, from its part of the graph, the others would have to undo. */
    if (c->phase == JOB_STARTING)
        return false;
    if (c->ssp)
        return clock <= slowest + (uint64_t)c->config->consistency_staleness;
    if (!c->bsp)
        return true;
    if (slowest < clock || !peers_done(c, c->roster_order))
        return false;
    /* First the reports of the epoch that ends here, since the job may end with it. */
    bool late = now_ms - gate->since_ms > (uint64_t)c->config->workers_lease_ms;
    return (epochs_settled(c, clock) || late) && !gate_checkpoint(c, now_ms);
}

void workers_open_gates(struct coordinator *c, uint64_t now_ms) {
    uint64_t slowest, fastest;
    workers_span(c, &slowest, &fastest);
    for (size_t i = 0; i < c->worker_count; i++) {
        struct worker *worker = &c->workers[i];
        if (!worker->gate.conn)
            continue;
        uint64_t clock = worker->gate.number;
        bool stop = worker_must_stop(c, worker);
        /* bsp: what one was let through, all are: they stop at the same step. */
        bool promised = c->bsp && clock < c->gate_end && worker->state != WORKER_DONE &&
                        clock < worker_total(c, worker);
        if (promised)
            stop = false;
        if (!stop && !promised && !gate_opens(c, &worker->gate, slowest, now_ms))
            continue;
        if (!stop)
            c->gate_end = max_u64(c->gate_end, clock + 1);
        Graphps__Gate gate = GRAPHPS__GATE__INIT;
        gate.id = worker->gate.id;
        gate.clock = clock;
        gate.slowest = slowest;
        gate.stop = stop;
        coordinator_send(c, worker->gate.conn, FRAME_GATE, &gate.base);
        worker_release(c, &worker->gate);
    }
}

/* --- leases --- */

static void worker_lose(struct coordinator *c, struct worker *worker, uint64_t now_ms) {
    char text[24];
    log_warning("worker lost", "rank=%zu clock=%llu silent=%s", (size_t)(worker - c->workers),
                (unsigned long long)worker->clock,
                log_quote(coordinator_seconds(now_ms - worker->heard_ms, text)));
    metric_add(METRIC_WORKERS_LOST, 1);
    worker->state = WORKER_LOST;
    worker_release(c, &worker->gate);
    worker_release(c, &worker->eval);
}

void workers_tick(struct coordinator *c, uint64_t now_ms) {
    if (!c->run || !c->peers[0].restored) {
        c->nobody_ms = now_ms;
        return;
    }
    if (!c->joining_ms)
        c->joining_ms = now_ms;
    for (size_t i = 0; i < c->worker_count; i++)
        if (c->workers[i].state == WORKER_LIVE &&
            now_ms - c->workers[i].heard_ms > (uint64_t)c->config->workers_lease_ms)
            worker_lose(c, &c->workers[i], now_ms);
    size_t live = workers_in(c, WORKER_LIVE), done = workers_in(c, WORKER_DONE);
    if (live > 0)
        c->nobody_ms = now_ms;
    if (now_ms - c->joining_ms > (uint64_t)c->config->workers_join_timeout_ms &&
        (live + done > 0 || c->phase >= JOB_DRAINING))
        for (size_t i = 0; i < c->worker_count; i++)
            if (c->workers[i].state == WORKER_EXPECTED) {
                log_warning("going on without a worker that did not come",
                            "rank=%zu join_timeout_ms=%lld", i,
                            (long long)c->config->workers_join_timeout_ms);
                c->workers[i].state = WORKER_LOST;
            }
    if (now_ms - c->nobody_ms > (uint64_t)c->config->net_give_up_s * 1000)
        coordinator_stop(c, "no worker", ERR_TIMEOUT, now_ms);
}
