/* One connection to shard 0, opened again and again; at most one report is unanswered on it. */
#include "server/link.h"

#include "common/lock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/metrics.h"
#include "proto/conn.h"
#include "server/server.h"

#define LINK_REPORT_MS 200
#define LINK_ANSWER_MS 10000 /* a report without an answer for this long: the connection is bad */
#define LINK_BACKOFF_FIRST_MS 50
#define LINK_BACKOFF_MAX_MS 2000
#define LINK_LOG_FIRST_MS 2000
#define LINK_LOG_NEXT_MS 10000
#define LINK_FLUSH_MS 1000

struct link {
    /* set at start, never changed */
    uv_loop_t *loop;
    const struct config *config;
    struct server *server;
    void (*failed)(void *ctx, const struct error *why);
    void *ctx;

    /* the loop's thread only */
    struct conn *conn; /* a reference, NULL between two attempts */
    bool open, stopped, reported_failure;
    struct error last;   /* why the last connection ended */
    uint64_t attempt_ms; /* when to connect next */
    uint64_t backoff_ms;
    uint64_t id, asked_id, asked_ms; /* asked_id 0: nothing is unanswered */
    uint64_t answered_ms;            /* when shard 0 was last heard */
    uint64_t log_ms;                 /* when to say again that we wait; 0: we do not wait */
    bool connected_before;

    atomic_bool news; /* a report is wanted now */

    /* guards: closed; the wake-up is sent under it, so that nobody touches a closed handle */
    struct lock lock;
    bool closed;
    uv_async_t wake;
};

static void link_fail(struct link *link, const struct error *why) {
    if (link->reported_failure || link->stopped)
        return;
    link->reported_failure = true;
    link->failed(link->ctx, why);
}

static const char *link_address(const struct link *link) {
    return link->config->servers_addresses.items[0];
}

static void link_send_report(struct link *link, uint64_t now_ms) {
    atomic_store(&link->news, false);
    link->asked_id = ++link->id;
    link->asked_ms = now_ms;
    conn_send(link->conn, server_report(link->server, link->id, now_ms));
}

/* Shard 0 lives: what was said about waiting is over. */
static void link_heard(struct link *link, uint64_t now_ms) {
    if (link->log_ms)
        log_info("shard 0 answers again", "address=%s waited_ms=%llu", link_address(link),
                 (unsigned long long)(now_ms - link->answered_ms));
    link->log_ms = 0;
    metric_set(METRIC_WAITING_SECONDS, 0);
    link->answered_ms = now_ms;
    link->backoff_ms = LINK_BACKOFF_FIRST_MS;
}

static void link_take_error(struct link *link, const Graphps__Error *message) {
    struct error err = {0};
    int code = -(int)message->code;
    error_set(&err, code, "shard 0 at %s refuses this shard: %s", link_address(link),
              message->text);
    if (!error_retryable(code))
        link_fail(link, &err);
    else
        link->last = err;
}

static void link_on_frame(struct conn *conn, const struct frame_in *frame, void *ctx) {
    struct link *link = ctx;
    uint64_t now_ms = time_now_ms();
    struct error err = {0};
    ProtobufCMessage *message = NULL;
    if (wire_unpack(frame, &message, &err) < 0) {
        link_fail(link, &err);
        return;
    }
    uint64_t id = UINT64_MAX;
    if (frame->type == FRAME_PEER_ORDER) {
        const Graphps__PeerOrder *order = (const Graphps__PeerOrder *)message;
        id = order->id;
        link_heard(link, now_ms);
        server_ordered(link->server, order, now_ms);
    } else if (frame->type == FRAME_ERROR) {
        id = ((const Graphps__Error *)message)->id;
        link_take_error(link, (const Graphps__Error *)message);
    } else {
        error_set(&err, ERR_PROTOCOL, "shard 0 at %s sent a %s frame", link_address(link),
                  frame_type_name(frame->type));
        link_fail(link, &err);
    }
    if (id == link->asked_id)
        link->asked_id = 0;
    wire_free(message);
    link_step(link, now_ms);
}

static void link_on_open(struct conn *conn, void *ctx) {
    struct link *link = ctx;
    link->open = true;
    if (link->connected_before)
        metric_add(METRIC_RECONNECTS, 1);
    link->connected_before = true;
    if (link->stopped)
        return;
    log_debug("connected to shard 0", "address=%s", link_address(link));
    link_send_report(link, time_now_ms());
}

static void link_on_close(struct conn *conn, const struct error *why, void *ctx) {
    struct link *link = ctx;
    uint64_t now_ms = time_now_ms();
    if (why->code)
        link->last = *why;
    else if (link->open && !link->stopped)
        error_set(&link->last, ERR_CLOSED, "%s: shard 0 closed the connection", conn_peer(conn));
    link->conn = conn_unref(link->conn);
    link->open = false;
    link->asked_id = 0;
    link->attempt_ms = now_ms + link->backoff_ms;
    link->backoff_ms =
        2 * link->backoff_ms > LINK_BACKOFF_MAX_MS ? LINK_BACKOFF_MAX_MS : 2 * link->backoff_ms;
}

static const struct conn_ops link_ops = {
    .on_open = link_on_open, .on_frame = link_on_frame, .on_close = link_on_close};

static void link_connect(struct link *link) {
    struct conn_limits limits = {.payload_max_bytes = 0};
    struct error err = {0};
    if (conn_connect(link->loop, link_address(link), (uint32_t)link->config->net_connect_timeout_ms,
                     &limits, &link_ops, link, &link->conn, &err) < 0)
        link_fail(link, &err);
}

static void link_say_waiting(struct link *link, uint64_t now_ms) {
    uint64_t waited_ms = now_ms - link->answered_ms;
    uint64_t give_up_ms = (uint64_t)link->config->net_give_up_s * 1000;
    if (waited_ms >= give_up_ms) {
        struct error err = {0};
        error_set(&err, ERR_UNREACHABLE,
                  "shard 0 at %s has not answered for %llu s (net.give_up_s); last: %s",
                  link_address(link), (unsigned long long)(waited_ms / 1000),
                  error_text(&link->last));
        link_fail(link, &err);
        return;
    }
    if (waited_ms < LINK_LOG_FIRST_MS)
        return;
    metric_set(METRIC_WAITING_SECONDS, (double)waited_ms / 1000);
    if (now_ms < link->log_ms)
        return;
    link->log_ms = now_ms + LINK_LOG_NEXT_MS;
    log_warning("waiting for shard 0", "address=%s waited_s=%llu gives_up_after_s=%lld last=%s",
                link_address(link), (unsigned long long)(waited_ms / 1000),
                (long long)link->config->net_give_up_s, log_quote(error_text(&link->last)));
}

void link_step(struct link *link, uint64_t now_ms) {
    if (link->stopped)
        return;
    if (!link->conn) {
        if (now_ms >= link->attempt_ms)
            link_connect(link);
    } else if (link->open && link->asked_id && now_ms - link->asked_ms > LINK_ANSWER_MS) {
        error_set(&link->last, ERR_TIMEOUT, "%s: no answer to a report for %d ms",
                  link_address(link), LINK_ANSWER_MS);
        link->open = false;
        conn_close(link->conn, 0);
    } else if (link->open && !link->asked_id &&
               (atomic_load(&link->news) || now_ms - link->asked_ms >= LINK_REPORT_MS)) {
        link_send_report(link, now_ms);
    }
    link_say_waiting(link, now_ms);
}

static void link_on_wake(uv_async_t *wake) {
    link_step(wake->data, time_now_ms());
}

void link_report(struct link *link) {
    atomic_store(&link->news, true);
    lock_take(&link->lock);
    if (!link->closed)
        uv_async_send(&link->wake);
    lock_release(&link->lock);
}

struct link *link_new(uv_loop_t *loop, const struct config *config, struct server *server,
                      void (*failed)(void *ctx, const struct error *why), void *ctx) {
    struct link *link = mem_alloc(sizeof *link);
    link->loop = loop;
    link->config = config;
    link->server = server;
    link->failed = failed;
    link->ctx = ctx;
    link->backoff_ms = LINK_BACKOFF_FIRST_MS;
    link->answered_ms = time_now_ms();
    error_set(&link->last, ERR_UNREACHABLE, "no attempt has ended yet");
    lock_init(&link->lock, LOCK_CONN, "link");
    link->closed = uv_async_init(loop, &link->wake, link_on_wake) < 0;
    link->wake.data = link;
    return link;
}

void link_stop(struct link *link, uint64_t now_ms) {
    if (link->stopped)
        return;
    if (link->conn) {
        if (link->open) /* so that shard 0 knows that its last order is carried out */
            link_send_report(link, now_ms);
        conn_close(link->conn, LINK_FLUSH_MS);
    }
    link->stopped = true;
    lock_take(&link->lock);
    if (!link->closed)
        uv_close((uv_handle_t *)&link->wake, NULL);
    link->closed = true;
    lock_release(&link->lock);
}

struct link *link_free(struct link *link) {
    if (link) {
        lock_done(&link->lock);
        mem_free(link);
    }
    return NULL;
}
