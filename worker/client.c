/* The outbox on libuv: a thread with a loop, a connection to every shard that is opened again with
 * backoff, and the trainer's waits. What is sent and when is the outbox's matter. */
#include "worker/client.h"

#include <stdio.h>
#include <string.h>

#include "common/httpd.h"
#include "common/lock.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/rng.h"
#include "proto/conn.h"

#define BACKOFF_MIN_MS 50
#define BACKOFF_MAX_MS 2000
#define WAIT_LOG_FIRST_MS 2000
#define WAIT_LOG_AGAIN_MS 10000
#define USAGE_EVERY_MS 1000
#define STOP_FLUSH_MS 500

/* One shard's connection, or the pause before the next one. */
struct link {
    struct client *client;
    uint32_t shard;
    const char *address;
    uv_timer_t retry;    /* the loop's thread only, as is backoff_ms */
    uint32_t backoff_ms; /* of the pause to come */
    /* guarded by the client's lock */
    struct conn *conn; /* a reference, NULL during the pause */
    bool open;
    uint64_t opened; /* times */
    uint64_t down_ms;
    struct error why; /* the last connection ended */
};

struct client {
    const struct config *config;
    uv_loop_t loop;
    uv_thread_t thread;
    uv_async_t wake;
    uv_prepare_t prepare;
    uv_timer_t tick;
    size_t link_count;
    struct link *links;
    bool follow; /* async: what an acknowledged step changed is fetched at once */
    atomic_bool stopping, interrupted;
    int heartbeat;
    uint64_t jitter_key, jitter_count, usage_ms; /* the loop's thread only */

    /* LOCK_CLIENT; guards outbox, the links' lower group and the group below */
    struct lock lock;
    pthread_cond_t changed;
    struct outbox *outbox;
    double waited_s;
    uint64_t interrupted_ms;
};

/* --- the loop's thread --- */

/* After each change of a link's open. */
static void connections_set_locked(struct client *client) {
    size_t open = 0;
    lock_assert_held(&client->lock);
    for (size_t i = 0; i < client->link_count; i++)
        open += client->links[i].open;
    metric_set(METRIC_CONNECTIONS, (double)open);
}

static void link_connect(struct link *link);

static void on_retry(uv_timer_t *timer) {
    link_connect(timer->data);
}

static void link_pause(struct link *link) {
    struct client *client = link->client;
    uint64_t random = rng_at(client->jitter_key, client->jitter_count++);
    uint64_t pause_ms = link->backoff_ms / 2 + rng_below(random, link->backoff_ms / 2 + 1);
    link->backoff_ms =
        link->backoff_ms * 2 < BACKOFF_MAX_MS ? link->backoff_ms * 2 : BACKOFF_MAX_MS;
    uv_timer_start(&link->retry, on_retry, pause_ms, 0);
}

static void on_open(struct conn *conn, void *ctx) {
    struct link *link = ctx;
    struct client *client = link->client;
    lock_take(&client->lock);
    link->open = true;
    connections_set_locked(client);
    bool again = link->opened++ > 0;
    outbox_opened(client->outbox, link->shard, time_now_ms());
    lock_release(&client->lock);
    if (again)
        metric_add(METRIC_RECONNECTS, 1);
    log_debug("connected", "shard=%u address=%s", link->shard, link->address);
}

static void on_frame(struct conn *conn, const struct frame_in *frame, void *ctx) {
    struct link *link = ctx;
    struct client *client = link->client;
    if (frame->type == FRAME_WELCOME)
        link->backoff_ms = BACKOFF_MIN_MS;
    lock_take(&client->lock);
    uint64_t finished = outbox_finished(client->outbox);
    outbox_frame(client->outbox, link->shard, frame, time_now_ms());
    if (client->follow && outbox_finished(client->outbox) > finished)
        outbox_pull(client->outbox, time_now_ms());
    pthread_cond_broadcast(&client->changed);
    lock_release(&client->lock);
}

static void on_close(struct conn *conn, const struct error *why, void *ctx) {
    struct link *link = ctx;
    struct client *client = link->client;
    lock_take(&client->lock);
    bool was_open = link->open;
    if (was_open)
        link->down_ms = time_now_ms();
    link->open = false;
    link->conn = NULL;
    connections_set_locked(client);
    if (why->code)
        link->why = *why;
    else if (!link->why.code)
        error_set(&link->why, ERR_CLOSED, "the shard closed the connection");
    struct error reason = link->why;
    outbox_closed(client->outbox, link->shard, time_now_ms());
    pthread_cond_broadcast(&client->changed);
    lock_release(&client->lock);
    conn_unref(conn);
    if (client->stopping)
        return;
    if (was_open)
        log_warning("connection lost", "shard=%u why=%s", link->shard,
                    log_quote(error_text(&reason)));
    else
        log_debug("connection failed", "shard=%u why=%s", link->shard,
                  log_quote(error_text(&reason)));
    link_pause(link);
}

static const struct conn_ops link_conn_ops = {
    .on_open = on_open, .on_frame = on_frame, .on_close = on_close};

static void link_connect(struct link *link) {
    struct client *client = link->client;
    const struct config *config = client->config;
    /* The outbox bounds what is in flight, so nothing needs to stop reading. */
    struct conn_limits limits = {.payload_max_bytes = (uint32_t)config->net_max_frame_bytes};
    struct error err;
    struct conn *conn = NULL;
    lock_take(&client->lock);
    int r = conn_connect(&client->loop, link->address, (uint32_t)config->net_connect_timeout_ms,
                         &limits, &link_conn_ops, link, &conn, &err);
    link->conn = conn;
    if (r < 0)
        link->why = err;
    else if (link->opened)
        link->why.code = 0; /* the next reason replaces it */
    lock_release(&client->lock);
    if (r < 0)
        link_pause(link);
}

/* --- the outbox's seam; the lock is held --- */

static void outbox_op_send(void *ctx, uint32_t shard, struct frame_out *frame) {
    struct client *client = ctx;
    if (client->links[shard].conn)
        conn_post(client->links[shard].conn, frame);
    else
        frame_out_free(frame);
}

/* Only from outbox_frame and outbox_tick, so on the loop's thread. */
static void outbox_op_reconnect(void *ctx, uint32_t shard, const struct error *why) {
    struct client *client = ctx;
    struct link *link = &client->links[shard];
    link->why = *why;
    if (link->conn)
        conn_close(link->conn, 0);
}

static uint64_t outbox_op_now_ns(void *ctx) {
    return time_now_ns();
}

static const struct outbox_ops client_outbox_ops = {
    .send = outbox_op_send, .reconnect = outbox_op_reconnect, .now_ns = outbox_op_now_ns};

static void on_tick(uv_timer_t *timer) {
    /* The loop only has to go round: on_prepare does the rest. */
}

static void client_shut(struct client *client) {
    for (size_t i = 0; i < client->link_count; i++) {
        struct link *link = &client->links[i];
        if (uv_is_closing((uv_handle_t *)&link->retry))
            continue;
        uv_close((uv_handle_t *)&link->retry, NULL);
        lock_take(&client->lock);
        if (link->conn)
            conn_close(link->conn, STOP_FLUSH_MS);
        lock_release(&client->lock);
    }
    uv_handle_t *handles[] = {(uv_handle_t *)&client->tick, (uv_handle_t *)&client->prepare,
                              (uv_handle_t *)&client->wake};
    for (size_t i = 0; i < ARRAY_LEN(handles); i++)
        if (!uv_is_closing(handles[i]))
            uv_close(handles[i], NULL);
}

static bool is_ready_locked(struct client *client) {
    lock_assert_held(&client->lock);
    for (size_t i = 0; i < client->link_count; i++)
        if (!client->links[i].open)
            return false;
    return outbox_welcomed(client->outbox);
}

/* Runs before the loop sleeps, whatever woke it. */
static void on_prepare(uv_prepare_t *prepare) {
    struct client *client = prepare->data;
    heartbeat_beat(client->heartbeat);
    if (client->stopping) {
        client_shut(client);
        return;
    }
    uint64_t now_ms = time_now_ms();
    bool usage = now_ms >= client->usage_ms + USAGE_EVERY_MS;
    uint64_t rss = usage ? process_rss_bytes() : 0, peak = usage ? process_rss_peak_bytes() : 0;
    lock_take(&client->lock);
    if (usage) {
        client->usage_ms = now_ms;
        outbox_set_usage(client->outbox, rss, peak);
        metric_set(METRIC_READY, is_ready_locked(client));
    }
    uint64_t next_ms = outbox_tick(client->outbox, now_ms);
    lock_release(&client->lock);
    uv_update_time(&client->loop);
    uv_timer_start(&client->tick, on_tick, next_ms - now_ms, 0);
}

static void on_wake(uv_async_t *wake) {
    /* As on_tick. */
}

static void client_run(void *ctx) {
    struct client *client = ctx;
    for (size_t i = 0; i < client->link_count; i++)
        link_connect(&client->links[i]);
    uv_run(&client->loop, UV_RUN_DEFAULT);
    heartbeat_end(client->heartbeat);
}

/* --- life --- */

int client_start(const struct config *config, const struct outbox_spec *spec, struct client **ret,
                 struct error *reterr) {
    size_t count = spec->layout->shard_count;
    if (config->servers_addresses.count != count)
        return error_set(reterr, ERR_CONFIG,
                         "servers.addresses names %zu of %zu shards: give host:port of each, or "
                         "start the job with `graphps train`",
                         config->servers_addresses.count, count);
    struct client *client = mem_alloc(sizeof *client);
    client->config = config;
    client->link_count = count;
    client->follow = config->consistency_mode == CONSISTENCY_ASYNC;
    client->links = mem_array(count, sizeof *client->links);
    client->jitter_key = rng_key(spec->incarnation, 0);
    lock_init(&client->lock, LOCK_CLIENT, "client");
    lock_cond_init(&client->changed);
    client->outbox = outbox_new(spec, &client_outbox_ops, client);
    uv_loop_init(&client->loop);
    uv_async_init(&client->loop, &client->wake, on_wake);
    uv_timer_init(&client->loop, &client->tick);
    uv_prepare_init(&client->loop, &client->prepare);
    client->prepare.data = client;
    uv_prepare_start(&client->prepare, on_prepare);
    for (size_t i = 0; i < count; i++) {
        struct link *link = &client->links[i];
        link->client = client;
        link->shard = (uint32_t)i;
        link->address = config->servers_addresses.items[i];
        link->backoff_ms = BACKOFF_MIN_MS;
        link->down_ms = time_now_ms();
        uv_timer_init(&client->loop, &link->retry);
        link->retry.data = link;
    }
    client->heartbeat = heartbeat_register("client");
    int r = uv_thread_create(&client->thread, client_run, client);
    if (r < 0) {
        heartbeat_end(client->heartbeat);
        client_shut(client);
        uv_run(&client->loop, UV_RUN_DEFAULT);
        uv_loop_close(&client->loop);
        outbox_free(client->outbox);
        mem_free(client->links);
        mem_free(client);
        return error_set(reterr, ERR_IO, "cannot start the network thread: %s", uv_strerror(r));
    }
    *ret = client;
    return 0;
}

struct client *client_stop(struct client *client) {
    if (!client)
        return NULL;
    client->stopping = true;
    uv_async_send(&client->wake);
    uv_thread_join(&client->thread);
    uv_loop_close(&client->loop);
    outbox_free(client->outbox);
    pthread_cond_destroy(&client->changed);
    lock_done(&client->lock);
    mem_free(client->links);
    mem_free(client);
    return NULL;
}

/* --- waiting --- */

/* Whom it waits for, "" for nobody. */
static void culprit_locked(struct client *client, char *text, size_t text_bytes) {
    uint64_t now_ms = time_now_ms(), since_ms;
    lock_assert_held(&client->lock);
    for (size_t i = 0; i < client->link_count; i++) {
        struct link *link = &client->links[i];
        if (link->open)
            continue;
        snprintf(text, text_bytes, "shard %u at %s: no connection for %.1f s%s%s", link->shard,
                 link->address, (double)(now_ms - link->down_ms) / 1e3, link->why.code ? ": " : "",
                 link->why.code ? error_text(&link->why) : "");
        return;
    }
    outbox_waiting(client->outbox, now_ms, text, text_bytes, &since_ms);
}

struct wait {
    const char *what;  /* "its acknowledgement of step 3" */
    uint64_t grace_ms; /* goes on for so long after an interrupt */
    uint64_t timeout_ms;
    bool (*done)(const struct client *client, uint64_t number);
    uint64_t number;
};

static int wait_locked(struct client *client, const struct wait *wait, struct error *reterr) {
    uint64_t start_ns = time_now_ns(), start_ms = start_ns / 1000000;
    uint64_t log_ms = start_ms + WAIT_LOG_FIRST_MS;
    char culprit[500];
    int r = 0;
    lock_assert_held(&client->lock);
    for (;;) {
        uint64_t now_ms = time_now_ms();
        r = outbox_error(client->outbox, reterr);
        if (r < 0 || wait->done(client, wait->number))
            break;
        if (client->interrupted && now_ms >= client->interrupted_ms + wait->grace_ms) {
            r = error_set(reterr, ERR_INTERRUPTED, "interrupted while waiting for %s", wait->what);
            break;
        }
        if (now_ms >= start_ms + wait->timeout_ms) {
            culprit_locked(client, culprit, sizeof culprit);
            r = error_set(reterr, ERR_UNREACHABLE, "gave up after %.1f s of waiting for %s: %s",
                          (double)(now_ms - start_ms) / 1e3, wait->what, culprit);
            break;
        }
        if (now_ms >= log_ms) {
            log_ms += WAIT_LOG_AGAIN_MS;
            culprit_locked(client, culprit, sizeof culprit);
            lock_release(&client->lock);
            metric_set(METRIC_WAITING_SECONDS, (double)(now_ms - start_ms) / 1e3);
            log_info("waiting", "for=%s seconds=%.1f at=%s", log_quote(wait->what),
                     (double)(now_ms - start_ms) / 1e3, log_quote(culprit));
            lock_take(&client->lock);
            continue; /* it may have come while the lock was free */
        }
        uint64_t until_ms = start_ms + wait->timeout_ms;
        if (client->interrupted && client->interrupted_ms + wait->grace_ms < until_ms)
            until_ms = client->interrupted_ms + wait->grace_ms;
        if (log_ms < until_ms)
            until_ms = log_ms;
        lock_wait(&client->lock, &client->changed, (int64_t)(until_ms - now_ms));
    }
    client->waited_s += (double)(time_now_ns() - start_ns) / 1e9;
    metric_set(METRIC_WAITING_SECONDS, 0);
    return r;
}

static uint64_t give_up_ms(const struct client *client) {
    return (uint64_t)client->config->net_give_up_s * 1000;
}

static bool is_welcomed(const struct client *client, uint64_t number) {
    return outbox_welcomed(client->outbox);
}

int client_wait_welcome(struct client *client, uint64_t *ret_start_clock, struct error *reterr) {
    struct wait wait = {
        .what = "all shards", .timeout_ms = give_up_ms(client), .done = is_welcomed};
    lock_take(&client->lock);
    int r = wait_locked(client, &wait, reterr);
    if (r == 0)
        *ret_start_clock = outbox_start_clock(client->outbox);
    lock_release(&client->lock);
    return r;
}

static bool are_weights_current(const struct client *client, uint64_t number) {
    return outbox_weights_current(client->outbox);
}

int client_weights(struct client *client, float *weights, bool fresh, struct error *reterr) {
    struct wait wait = {
        .what = "weights", .timeout_ms = give_up_ms(client), .done = are_weights_current};
    lock_take(&client->lock);
    if (fresh || !outbox_weights_held(client->outbox))
        outbox_pull(client->outbox, time_now_ms());
    int r = wait_locked(client, &wait, reterr);
    if (r == 0)
        outbox_copy(client->outbox, weights);
    lock_release(&client->lock);
    return r;
}

static bool is_candidate_held(const struct client *client, uint64_t number) {
    return outbox_candidate_held(client->outbox);
}

int client_candidate(struct client *client, uint32_t epoch, float *weights, struct error *reterr) {
    struct wait wait = {
        .what = "weights to evaluate", .timeout_ms = give_up_ms(client), .done = is_candidate_held};
    lock_take(&client->lock);
    outbox_pull_candidate(client->outbox, epoch, time_now_ms());
    int r = wait_locked(client, &wait, reterr);
    if (r == 0)
        outbox_copy_candidate(client->outbox, weights);
    lock_release(&client->lock);
    return r;
}

uint32_t client_candidate_due(struct client *client) {
    lock_take(&client->lock);
    uint32_t epoch = outbox_candidate_due(client->outbox);
    lock_release(&client->lock);
    return epoch;
}

void client_push(struct client *client, const float *gradient, uint64_t clock, double weight) {
    lock_take(&client->lock);
    outbox_push(client->outbox, gradient, clock, weight, time_now_ms());
    lock_release(&client->lock);
}

int client_push_rows(struct client *client, const struct row_plan *plan, const float *gradient,
                     uint64_t clock, double weight, struct error *reterr) {
    lock_take(&client->lock);
    int r = outbox_push_rows(client->outbox, plan, gradient, clock, weight, time_now_ms(), reterr);
    lock_release(&client->lock);
    return r;
}

static bool are_rows_held(const struct client *client, uint64_t number) {
    return outbox_rows_held(client->outbox);
}

int client_rows(struct client *client, const struct row_plan *plan, uint32_t candidate, float *rows,
                struct error *reterr) {
    struct wait wait = {.what = "rows", .timeout_ms = give_up_ms(client), .done = are_rows_held};
    lock_take(&client->lock);
    outbox_pull_rows(client->outbox, plan, candidate, rows, time_now_ms());
    int r = wait_locked(client, &wait, reterr);
    outbox_forget_rows(client->outbox);
    lock_release(&client->lock);
    return r;
}

static bool is_finished(const struct client *client, uint64_t finished) {
    return outbox_finished(client->outbox) >= finished;
}

int client_wait_finished(struct client *client, uint64_t finished, struct error *reterr) {
    struct wait wait = {.what = "acknowledgements",
                        .grace_ms = (uint64_t)client->config->checkpoint_grace_s * 1000 / 2,
                        .timeout_ms = give_up_ms(client),
                        .done = is_finished,
                        .number = finished};
    lock_take(&client->lock);
    int r = wait_locked(client, &wait, reterr);
    lock_release(&client->lock);
    return r;
}

bool client_settled(struct client *client, uint64_t finished, uint64_t timeout_ms) {
    uint64_t until_ms = time_now_ms() + timeout_ms;
    struct error err;
    lock_take(&client->lock);
    uint64_t now_ms = until_ms - timeout_ms;
    while (outbox_finished(client->outbox) < finished && now_ms < until_ms &&
           !client->interrupted && outbox_error(client->outbox, &err) == 0) {
        lock_wait(&client->lock, &client->changed, (int64_t)(until_ms - now_ms));
        now_ms = time_now_ms();
    }
    bool settled = outbox_finished(client->outbox) >= finished;
    lock_release(&client->lock);
    return settled;
}

static bool may_start(const struct client *client, uint64_t clock) {
    uint64_t start = outbox_start_clock(client->outbox);
    return outbox_stop(client->outbox) ||
           outbox_gate_open(client->outbox, clock > start ? clock : start);
}

int client_wait_gate(struct client *client, uint64_t *clock, bool *ret_stop, struct error *reterr) {
    struct wait wait = {.what = "leave to start the next step",
                        .timeout_ms = give_up_ms(client),
                        .done = may_start,
                        .number = *clock};
    lock_take(&client->lock);
    int r = wait_locked(client, &wait, reterr);
    if (r == 0) {
        *ret_stop = outbox_stop(client->outbox);
        if (outbox_start_clock(client->outbox) > *clock)
            *clock = outbox_start_clock(client->outbox);
    }
    lock_release(&client->lock);
    return r;
}

bool client_look(struct client *client, uint64_t *clock) {
    lock_take(&client->lock);
    bool stop = outbox_stop(client->outbox);
    if (outbox_start_clock(client->outbox) > *clock)
        *clock = outbox_start_clock(client->outbox);
    lock_release(&client->lock);
    return stop;
}

static bool is_evaled(const struct client *client, uint64_t epoch) {
    return outbox_evaled(client->outbox) >= epoch || outbox_stop(client->outbox);
}

int client_eval(struct client *client, const Graphps__Eval *eval, struct error *reterr) {
    struct wait wait = {.what = "the end of the epoch",
                        .timeout_ms = give_up_ms(client),
                        .done = is_evaled,
                        .number = eval->epoch};
    lock_take(&client->lock);
    outbox_eval(client->outbox, eval, time_now_ms());
    int r = wait_locked(client, &wait, reterr);
    lock_release(&client->lock);
    return r;
}

static bool has_said_goodbye(const struct client *client, uint64_t number) {
    return outbox_said_goodbye(client->outbox);
}

int client_bye(struct client *client, bool done, uint64_t timeout_ms, struct error *reterr) {
    struct wait wait = {.what = "goodbye",
                        .grace_ms = UINT32_MAX,
                        .timeout_ms = timeout_ms,
                        .done = has_said_goodbye};
    lock_take(&client->lock);
    outbox_bye(client->outbox, done, time_now_ms());
    int r = wait_locked(client, &wait, reterr);
    lock_release(&client->lock);
    return r;
}

void client_interrupt(struct client *client) {
    lock_take(&client->lock);
    if (!client->interrupted)
        client->interrupted_ms = time_now_ms();
    client->interrupted = true;
    pthread_cond_broadcast(&client->changed);
    lock_release(&client->lock);
}

bool client_interrupted(const struct client *client) {
    return client->interrupted;
}

/* --- being watched --- */

void client_totals(struct client *client, struct client_totals *ret) {
    lock_take(&client->lock);
    *ret = (struct client_totals){
        .bytes_pushed = outbox_bytes_pushed(client->outbox),
        .bytes_pulled = outbox_bytes_pulled(client->outbox),
        .pushes = outbox_pushes(client->outbox),
        .finished = outbox_finished(client->outbox),
        .waited_s = client->waited_s,
    };
    lock_release(&client->lock);
}

json_t *client_stats_json(struct client *client) {
    char culprit[500];
    json_t *shards = json_array();
    lock_take(&client->lock);
    culprit_locked(client, culprit, sizeof culprit);
    for (size_t i = 0; i < client->link_count; i++) {
        struct link *link = &client->links[i];
        json_array_append_new(shards, json_pack("{s:i, s:s, s:b, s:I}", "shard", (int)i, "address",
                                                link->address, "connected", link->open, "opened",
                                                (json_int_t)link->opened));
    }
    json_t *stats =
        json_pack("{s:I, s:b, s:I, s:I, s:I, s:s, s:f, s:o}", "clock",
                  (json_int_t)outbox_finished(client->outbox), "stop", outbox_stop(client->outbox),
                  "pushes", (json_int_t)outbox_pushes(client->outbox), "bytes_pushed",
                  (json_int_t)outbox_bytes_pushed(client->outbox), "bytes_pulled",
                  (json_int_t)outbox_bytes_pulled(client->outbox), "waiting_for", culprit,
                  "waited_seconds", client->waited_s, "shards", shards);
    lock_release(&client->lock);
    return stats;
}

bool client_ready(struct client *client, char *why, size_t why_bytes) {
    lock_take(&client->lock);
    bool ready = is_ready_locked(client);
    if (!ready)
        culprit_locked(client, why, why_bytes);
    lock_release(&client->lock);
    return ready;
}
