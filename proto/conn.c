/* One TCP stream of frames on a libuv loop: lifetime, timers, closing, frames from other threads.
 * It knows frames, not what they mean; the one message it speaks itself is the Error that precedes
 * closing on a broken frame. */
#include <assert.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/metrics.h"
#include "proto/conn_internal.h"

#define CONN_USER_TIMEOUT_MS 30000 /* sent data that nobody acknowledges for this long: gone */
#define CONN_KEEPALIVE_S 15
#define CONN_BROKEN_FLUSH_MS 1000 /* for the Error that says why */

static void frames_free(struct frame_out *frame) {
    while (frame) {
        struct frame_out *next = frame->next;
        frame_out_free(frame);
        frame = next;
    }
}

struct conn *conn_ref(struct conn *conn) {
    atomic_fetch_add_explicit(&conn->refs, 1, memory_order_relaxed);
    return conn;
}

/* The conn holds itself until on_close, so no handle is alive when the last one lets go. */
struct conn *conn_unref(struct conn *conn) {
    if (conn && atomic_fetch_sub_explicit(&conn->refs, 1, memory_order_acq_rel) == 1) {
        lock_done(&conn->lock);
        mem_free(conn);
    }
    return NULL;
}

enum conn_state conn_state(const struct conn *conn) {
    return conn->state;
}

const char *conn_peer(const struct conn *conn) {
    return conn->peer;
}

uint64_t conn_bytes_in(const struct conn *conn) {
    return atomic_load_explicit(&conn->bytes_in, memory_order_relaxed);
}

uint64_t conn_bytes_out(const struct conn *conn) {
    return atomic_load_explicit(&conn->bytes_out, memory_order_relaxed);
}

/* ---- closing ---- */

void conn_drop_hold(struct conn *conn) {
    assert(conn->holds > 0);
    if (--conn->holds > 0 || conn->state != CONN_CLOSING)
        return;
    conn->state = CONN_CLOSED;
    conn->account = account_close(conn->account);
    if (conn->addresses)
        uv_freeaddrinfo(conn->addresses);
    if (conn->ops->on_close)
        conn->ops->on_close(conn, &conn->why, conn->ctx);
    conn_unref(conn);
}

static void conn_on_handle_closed(uv_handle_t *handle) {
    conn_drop_hold(handle->data);
}

/* Takes all posted frames; last: nothing can be posted afterwards, the async handle may go. */
static struct frame_out *conn_take_posted(struct conn *conn, bool last) {
    lock_take(&conn->lock);
    struct frame_out *frames = TAKE_PTR(conn->posted);
    conn->posted_end = &conn->posted;
    conn->post_closed |= last;
    lock_release(&conn->lock);
    return frames;
}

static void conn_shut(struct conn *conn) {
    if (conn->state == CONN_CLOSING || conn->state == CONN_CLOSED)
        return;
    conn->state = CONN_CLOSING;
    frames_free(conn_take_posted(conn, true));
    if (conn->write_bytes == 0) /* else its callback does */
        conn_write_done(conn);
    conn_read_done(conn);
    if (conn->resolving)
        uv_cancel((uv_req_t *)&conn->resolve); /* its callback comes either way */
    if (conn->tcp_active)
        uv_close((uv_handle_t *)&conn->tcp, conn_on_handle_closed);
    conn->tcp_active = false;
    uv_close((uv_handle_t *)&conn->timer, conn_on_handle_closed);
    uv_close((uv_handle_t *)&conn->async, conn_on_handle_closed);
    uv_close((uv_handle_t *)&conn->flush, conn_on_handle_closed);
}

void conn_fail(struct conn *conn, int code, const char *format, ...) {
    if (conn->state == CONN_CLOSING || conn->state == CONN_CLOSED)
        return;
    if (conn->why.code == 0 && !conn->flushing) {
        char text[512];
        va_list args;
        va_start(args, format);
        vsnprintf(text, sizeof text, format, args);
        va_end(args);
        error_set(&conn->why, code, "%s: %s", conn->peer, text);
    }
    conn_shut(conn);
}

static void conn_on_shutdown(uv_shutdown_t *req, int status) {
    struct conn *conn = req->data;
    conn->shutdown_done = true;
    if (status < 0 || conn->eof)
        conn_shut(conn);
    conn_drop_hold(conn);
}

/* Closing with unread bytes in the kernel would reset the connection and could destroy what was
 * just flushed before the peer has read it. So: write all, say FIN, read and discard until the
 * peer's FIN. */
void conn_close(struct conn *conn, uint32_t flush_ms) {
    if (conn->state == CONN_CLOSING || conn->state == CONN_CLOSED)
        return;
    if (flush_ms == 0 || conn->state == CONN_CONNECTING) {
        conn->flushing = true;
        conn_shut(conn);
        return;
    }
    if (conn->flushing)
        return;

    struct frame_out *frames = conn_take_posted(conn, true);
    while (frames) {
        struct frame_out *frame = frames;
        frames = frame->next;
        conn_send(conn, frame);
    }
    conn->flushing = true;
    conn_read_done(conn);
    conn_local_expect(conn, 0); /* what is thrown away is not waited for */
    conn_start_reading(conn);
    if (conn->state != CONN_OPEN)
        return;
    uv_timer_start(&conn->timer, conn_on_timer, flush_ms, 0);
    if (!conn->out)
        conn_drained(conn);
}

void conn_drained(struct conn *conn) {
    conn->shutdown.data = conn;
    if (uv_shutdown(&conn->shutdown, (uv_stream_t *)&conn->tcp, conn_on_shutdown) < 0)
        conn_shut(conn);
    else
        conn->holds++;
}

void conn_break(struct conn *conn, const struct error *err) {
    metric_add(METRIC_FRAMES_BROKEN, 1);
    metric_add(METRIC_ERRORS_SENT, 1);
    Graphps__Error message = GRAPHPS__ERROR__INIT;
    message.code = (uint32_t)-err->code;
    message.text = (char *)error_text(err);
    error_set(&conn->why, err->code, "%s: %s", conn->peer, error_text(err));
    conn_send(conn, frame_out_new(FRAME_ERROR, &message.base, NULL, 0));
    conn_close(conn, CONN_BROKEN_FLUSH_MS);
}

/* ---- timers ---- */

/* Armed lazily: a frame only notes its time, and the timer looks again when it fires. */
static void conn_arm_idle(struct conn *conn) {
    uint64_t now = uv_now(conn->loop), due = UINT64_MAX;
    if (conn->limits.first_ms && !conn->greeted)
        due = conn->opened_ms + conn->limits.first_ms;
    if (conn->limits.idle_ms && conn->frame_ms + conn->limits.idle_ms < due)
        due = conn->frame_ms + conn->limits.idle_ms;
    if (due == UINT64_MAX)
        uv_timer_stop(&conn->timer);
    else if (due > now)
        uv_timer_start(&conn->timer, conn_on_timer, due - now, 0);
    else
        conn_fail(conn, ERR_TIMEOUT, "no whole frame came within %llu ms",
                  (unsigned long long)(now - conn->frame_ms));
}

void conn_on_timer(uv_timer_t *timer) {
    struct conn *conn = timer->data;
    if (conn->flushing)
        conn_shut(conn);
    else if (conn->state == CONN_CONNECTING)
        conn_fail(conn, ERR_UNREACHABLE, "no connection within %u ms (net.connect_timeout_ms)",
                  conn->connect_ms);
    else if (conn->state == CONN_OPEN)
        conn_arm_idle(conn);
}

/* ---- from other threads ---- */

/* The wake-up is sent under the lock: once post_closed is set nobody touches the async handle. */
void conn_post(struct conn *conn, struct frame_out *frame) {
    if (pthread_equal(atomic_load_explicit(&conn->thread, memory_order_relaxed), pthread_self())) {
        conn_send(conn, frame);
        return;
    }
    frame->next = NULL;
    lock_take(&conn->lock);
    bool closed = conn->post_closed;
    if (!closed) {
        *conn->posted_end = frame;
        conn->posted_end = &frame->next;
        uv_async_send(&conn->async);
    }
    lock_release(&conn->lock);
    if (closed)
        frame_out_free(frame);
}

static void conn_on_async(uv_async_t *async) {
    struct conn *conn = async->data;
    if (conn->state == CONN_CLOSING)
        return;
    if (conn->starved && conn->state == CONN_OPEN) { /* the budget has room again */
        conn->frame_ms = uv_now(conn->loop);
        conn_start_reading(conn);
    }
    struct frame_out *frames = conn_take_posted(conn, false);
    while (frames) {
        struct frame_out *frame = frames;
        frames = frame->next;
        conn_send(conn, frame);
    }
}

/* The budget's. */
static void conn_wake(void *ctx) {
    struct conn *conn = ctx;
    lock_take(&conn->lock);
    if (!conn->post_closed)
        uv_async_send(&conn->async);
    lock_release(&conn->lock);
}

/* ---- opening ---- */

int conn_new(uv_loop_t *loop, const struct conn_limits *limits, const struct conn_ops *ops,
             void *ctx, struct conn **ret, struct error *reterr) {
    struct conn *conn = mem_alloc(sizeof *conn);
    int r = uv_async_init(loop, &conn->async, conn_on_async);
    if (r < 0) {
        mem_free(conn);
        return error_set(reterr, ERR_IO, "cannot make a connection's wake-up: %s", uv_strerror(r));
    }
    uv_timer_init(loop, &conn->timer);
    uv_prepare_init(loop, &conn->flush);
    conn->async.data = conn->timer.data = conn->flush.data = conn;
    conn->holds = 3;
    conn->local_fd = -1;
    conn->wake_bytes = 1;
    conn->loop = loop;
    conn->limits = *limits;
    conn->ops = ops;
    conn->ctx = ctx;
    conn->out_end = &conn->out;
    conn->posted_end = &conn->posted;
    lock_init(&conn->lock, LOCK_CONN, "conn");
    if (limits->budget)
        conn->account = account_new(limits->budget, conn_wake, conn);
    atomic_init(&conn->refs, 2); /* the caller's and its own */
    *ret = conn;
    return 0;
}

void conn_init_tcp(struct conn *conn) {
    uv_tcp_init(conn->loop, &conn->tcp);
    conn->tcp.data = conn;
    conn->tcp_active = true;
    conn->holds++;
}

void conn_start(struct conn *conn) {
    int fd, timeout_ms = CONN_USER_TIMEOUT_MS;
    uv_tcp_nodelay(&conn->tcp, 1);
    uv_tcp_keepalive(&conn->tcp, 1, CONN_KEEPALIVE_S);
    if (uv_fileno((uv_handle_t *)&conn->tcp, &fd) == 0)
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
    conn_local_init(conn);

    metric_add(METRIC_CONNECTIONS_OPENED, 1);
    atomic_store_explicit(&conn->thread, pthread_self(), memory_order_relaxed);
    conn->state = CONN_OPEN;
    conn->opened_ms = conn->frame_ms = uv_now(conn->loop);
    conn_arm_idle(conn);
    conn_start_reading(conn);
    if (conn->out && conn->state == CONN_OPEN)
        uv_prepare_start(&conn->flush, conn_on_flush);
}

static const struct conn_ops conn_no_ops;

/* listener or fd */
static int conn_take_socket(uv_loop_t *loop, uv_stream_t *listener, int fd,
                            const struct conn_limits *limits, const struct conn_ops *ops, void *ctx,
                            struct conn **ret, struct error *reterr) {
    struct conn *conn;
    int r = conn_new(loop, limits, ops, ctx, &conn, reterr);
    if (r < 0) {
        if (fd >= 0)
            close(fd);
        return r;
    }
    conn_init_tcp(conn);
    r = listener ? uv_accept(listener, (uv_stream_t *)&conn->tcp) : uv_tcp_open(&conn->tcp, fd);
    struct sockaddr_storage peer;
    int len = sizeof peer;
    if (r < 0 && fd >= 0)
        close(fd);
    if (r == 0)
        r = uv_tcp_getpeername(&conn->tcp, (struct sockaddr *)&peer, &len);
    if (r < 0) {
        conn->ops = &conn_no_ops;
        conn_shut(conn);
        conn_unref(conn);
        return error_set(reterr, ERR_CLOSED, "a connection could not be accepted: %s",
                         uv_strerror(r));
    }
    address_print((const struct sockaddr *)&peer, conn->peer);
    conn_start(conn);
    *ret = conn;
    return 0;
}

int conn_accept(uv_stream_t *listener, const struct conn_limits *limits, const struct conn_ops *ops,
                void *ctx, struct conn **ret, struct error *reterr) {
    return conn_take_socket(listener->loop, listener, -1, limits, ops, ctx, ret, reterr);
}

int conn_adopt(uv_loop_t *loop, int fd, const struct conn_limits *limits,
               const struct conn_ops *ops, void *ctx, struct conn **ret, struct error *reterr) {
    return conn_take_socket(loop, NULL, fd, limits, ops, ctx, ret, reterr);
}

static void *counted_malloc(size_t size) {
    mem_count_allocation();
    return malloc(size);
}

static void *counted_realloc(void *pointer, size_t size) {
    mem_count_allocation();
    return realloc(pointer, size);
}

static void *counted_calloc(size_t count, size_t size) {
    mem_count_allocation();
    return calloc(count, size);
}

void conn_count_allocations(void) {
    uv_replace_allocator(counted_malloc, counted_realloc, counted_calloc, free);
}
