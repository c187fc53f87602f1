/* struct server: its life, its layout, its time, and what it says of itself. Orders of shard 0 are
 * in server_orders.c, restoring and writing in server_checkpoint.c, a worker's messages in
 * session.c. */
#include "server/server.h"

#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/metrics.h"
#include "common/pool.h"

#define TICK_MS 100
#define SELF_REPORT_MS 50 /* without news */
#define REPORT_GENERATIONS_MAX 1000

static void log_fault(void *to, const struct error *fault) {
    log_warning("a damaged checkpoint is not used", "why=%s", log_quote(error_text(fault)));
}

int server_new(const struct config *config, uint32_t shard, uint64_t incarnation,
               const char *address, const struct server_ops *ops, void *ops_ctx,
               const struct checkpoint_store *store, struct server **ret, struct error *reterr) {
    uint64_t *generations = NULL;
    size_t count = 0;
    int r = store->list(store->ctx, shard, (uint32_t)config->servers_count, &generations, &count,
                        reterr);
    if (r < 0)
        return r;
    if (store->faults)
        store->faults(store->ctx, shard, (uint32_t)config->servers_count, generations, count,
                      log_fault, NULL);
    struct server *server = mem_alloc(sizeof *server);
    server->config = config;
    server->shard = shard;
    server->shards = (uint32_t)config->servers_count;
    server->incarnation = incarnation;
    snprintf(server->address, sizeof server->address, "%s", address);
    server->ops = ops;
    server->ops_ctx = ops_ctx;
    server->store = *store;
    server->generations = generations;
    server->generation_count = count;
    if (count > REPORT_GENERATIONS_MAX) { /* the newest are of use */
        memmove(generations, generations + count - REPORT_GENERATIONS_MAX,
                REPORT_GENERATIONS_MAX * sizeof *generations);
        server->generation_count = REPORT_GENERATIONS_MAX;
    }
    roster_init(&server->roster, (size_t)config->workers_count);
    server->rule = (struct block_rule){
        .bsp = config->consistency_mode == CONSISTENCY_BSP,
        .close_pushes = (uint32_t)config->aggregation_max_pushes,
        .max_wait_ms = (uint32_t)config->aggregation_max_wait_ms,
        .staleness_max = (uint32_t)config->aggregation_staleness_max,
        .damped = config->aggregation_staleness_damping,
        .roster = &server->roster,
    };
    optimizer_init(&server->optimizer, config);
    schedule_init(&server->schedule, config);
    /* Pushes come without a pause; the cut must not wait for one. */
    pthread_rwlockattr_t attr;
    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&server->admission, &attr);
    pthread_rwlockattr_destroy(&attr);
    lock_init(&server->seats_lock, LOCK_LEDGER, "seats");
    lock_init(&server->orders_lock, LOCK_ORDERS, "orders");
    server->seats = mem_array((size_t)config->workers_count, sizeof *server->seats);
    graphps__peer_order__init(&server->order);
    if (shard == 0)
        server->coordinator = coordinator_new(config, server);
    *ret = server;
    return 0;
}

struct server *server_free(struct server *server) {
    if (!server)
        return NULL;
    coordinator_free(server->coordinator);
    aggregator_free(server->aggregator);
    for (size_t i = 0; i < server->block_count + server->stripe_count; i++)
        block_done(&server->blocks[i]);
    for (size_t i = 0; i < server->block_count; i++) {
        if (server->best)
            buf_unref(server->best[i]);
        if (server->candidate)
            buf_unref(server->candidate[i]);
    }
    mem_free(server->best);
    mem_free(server->candidate);
    mem_free(server->blocks);
    for (size_t i = 0; i < server->table_count; i++)
        table_free(server->tables[i]);
    mem_free(server->tables);
    layout_free(server->layout);
    layout_free(server->declared);
    for (size_t i = 0; i < server->roster.workers; i++)
        if (server->seats[i].conn)
            server->ops->unref(server->ops_ctx, server->seats[i].conn);
    mem_free(server->seats);
    coordinator_order_done(&server->order);
    mem_free(server->generations);
    roster_done(&server->roster);
    lock_done(&server->orders_lock);
    lock_done(&server->seats_lock);
    pthread_rwlock_destroy(&server->admission);
    mem_free(server);
    return NULL;
}

uint64_t server_tick(struct server *server, uint64_t now_ms) {
    uint64_t next_ms = now_ms + TICK_MS;
    bool evict = false;
    pthread_rwlock_rdlock(&server->admission);
    if (server->aggregator) {
        uint64_t aggregator_ms = aggregator_tick(server->aggregator, now_ms);
        if (aggregator_ms < next_ms)
            next_ms = aggregator_ms;
        evict = server_evict_due(server);
    }
    pthread_rwlock_unlock(&server->admission);

    if (server->coordinator) {
        coordinator_tick(server->coordinator, now_ms);
        if (atomic_exchange(&server->news, false) || now_ms >= server->self_report_ms ||
            coordinator_has_news(server->coordinator, atomic_load(&server->order_done))) {
            server_self_report(server, now_ms);
            server->self_report_ms = now_ms + SELF_REPORT_MS;
        }
    }
    lock_take(&server->orders_lock);
    bool due = (evict || server_work_due_locked(server)) && !server->work_running;
    lock_release(&server->orders_lock);
    if (due)
        server->ops->work(server->ops_ctx);
    return next_ms > now_ms ? next_ms : now_ms + 1;
}

void server_set_state(struct server *server, enum server_state state) {
    pthread_rwlock_wrlock(&server->admission);
    int before = atomic_load(&server->state);
    if (before != SERVER_FINISHED)
        atomic_store(&server->state, (int)state);
    pthread_rwlock_unlock(&server->admission);
    log_debug("shard state", "from=%s to=%s", server_state_name(before), server_state_name(state));
}

const char *server_state_name(int state) {
    static const char *const names[] = {"starting", "restoring", "waiting",
                                        "building", "serving",   "finished"};
    return names[state];
}

/* --- frames --- */

void server_send(struct server *server, void *conn, enum frame_type type,
                 const ProtobufCMessage *message) {
    server->ops->send(server->ops_ctx, conn, frame_out_new(type, message, NULL, 0));
}

void server_send_error(struct server *server, void *conn, uint64_t id, int code, const char *text) {
    Graphps__Error error = GRAPHPS__ERROR__INIT;
    error.id = id;
    error.code = (uint32_t)-code;
    error.text = (char *)(text && *text ? text : error_sentence(code));
    error.retryable = error_retryable(code);
    metric_add(METRIC_ERRORS_SENT, 1);
    server_send(server, conn, FRAME_ERROR, &error.base);
}

void server_applied(void *ctx, const struct push *push) {
    struct server *server = ctx;
    lock_take(&server->seats_lock);
    struct seat *seat = &server->seats[push->rank];
    ledger_apply(&seat->ledger, push->incarnation, push->sequence);
    void *conn = seat->ledger.incarnation == push->incarnation ? seat->conn : NULL;
    if (conn)
        server->ops->ref(server->ops_ctx, conn);
    lock_release(&server->seats_lock);

    bool late = push->count > 0 && atomic_load(&push->late) == push->count;
    metric_add(!late              ? METRIC_PUSH_APPLIED
               : server->rule.bsp ? METRIC_PUSH_LATE
                                  : METRIC_PUSH_STALE,
               1);
    if (server->ops->now_ns)
        metric_record(METRIC_PUSH_LATENCY,
                      server->ops->now_ns(server->ops_ctx) - push->received_ns);
    if (!conn)
        return;
    Graphps__Pushed pushed = GRAPHPS__PUSHED__INIT;
    pushed.id = push->id;
    pushed.sequence = push->sequence;
    pushed.unmerged = atomic_load(&push->late);
    server_send(server, conn, FRAME_PUSHED, &pushed.base);
    server->ops->unref(server->ops_ctx, conn);
}

/* --- what it says of itself --- */

void server_status(struct server *server, Graphps__ShardStatus *ret) {
    graphps__shard_status__init(ret);
    ret->shard = server->shard;
    ret->state = (char *)server_state_name(atomic_load(&server->state));
    ret->incarnation = server->incarnation;
    ret->address = server->address;
    ret->http = server->http;
    pthread_rwlock_rdlock(&server->admission);
    if (server->layout) {
        ret->blocks = (uint32_t)server->block_count;
        ret->parameters = server->layout->shard_floats[server->shard];
        ret->updates = aggregator_updates(server->aggregator);
        for (size_t i = 0; i < server->table_count; i++) {
            uint64_t rows, bytes;
            table_counts(server->tables[i], &rows, &bytes);
            ret->rows += rows;
            ret->row_bytes += bytes;
        }
    }
    pthread_rwlock_unlock(&server->admission);
    lock_take(&server->seats_lock);
    for (size_t i = 0; i < server->roster.workers; i++)
        ret->pushes_applied += server->seats[i].ledger.counted;
    lock_release(&server->seats_lock);
    lock_take(&server->orders_lock);
    ret->generation = server->generation;
    lock_release(&server->orders_lock);
    ret->pushes_repeated = atomic_load(&server->pushes_repeated);
    ret->bytes_in = metric_counter(METRIC_BYTES_IN);
    ret->bytes_out = metric_counter(METRIC_BYTES_OUT);
    ret->rss_bytes = process_rss_bytes();
    ret->rss_peak_bytes = process_rss_peak_bytes();
    ret->connections = atomic_load(&server->connections);
    ret->allocations = mem_allocations();
    struct histogram *histogram = pool_take(sizeof *histogram);
    metric_histogram(METRIC_STALENESS, histogram);
    ret->staleness_mean = histogram_mean(histogram);
    metric_histogram(METRIC_BATCH, histogram);
    ret->batch_mean = histogram_mean(histogram);
    metric_histogram(METRIC_LOCK_WAIT, histogram);
    ret->lock_waits = histogram->count;
    ret->lock_wait_seconds = histogram_mean(histogram) * (double)histogram->count / 1e9;
    ret->lock_wait_p99_seconds = (double)histogram_quantile(histogram, 0.99) / 1e9;
    pool_give(histogram, sizeof *histogram);
}

bool server_ready(struct server *server, char *why, size_t why_bytes) {
    int state = atomic_load(&server->state);
    if (state == SERVER_WAITING || state == SERVER_SERVING)
        return true;
    lock_take(&server->orders_lock);
    bool told = server->order.restore;
    lock_release(&server->orders_lock);
    if (state == SERVER_STARTING && !told && server->shard > 0)
        snprintf(why, why_bytes, "shard %u waits for shard 0 to say what to restore",
                 server->shard);
    else if (state == SERVER_STARTING && !told)
        snprintf(why, why_bytes, "shard 0 waits for all shards to report");
    else
        snprintf(why, why_bytes, "shard %u is %s", server->shard, server_state_name(state));
    return false;
}
