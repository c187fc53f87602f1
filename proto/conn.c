/* One TCP stream of frames on a libuv loop: lifetime, reading, writing, timers. It knows frames,
 * not what they mean; the one message it speaks itself is the Error that precedes closing on a
 * broken frame. */
#include "proto/conn.h"

#include <assert.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/lock.h"
#include "common/metrics.h"

#define CONN_USER_TIMEOUT_MS 30000 /* sent data that nobody acknowledges for this long: gone */
#define CONN_KEEPALIVE_S 15
#define CONN_BROKEN_FLUSH_MS 1000 /* for the Error that says why */

struct conn {
    /* Set at start, never changed. */
    uv_loop_t *loop;
    struct conn_limits limits;
    const struct conn_ops *ops;
    void *ctx;
    char peer[ADDRESS_TEXT_MAX];

    atomic_uint refs;
    _Atomic uint64_t bytes_in, bytes_out;

    /* The loop's thread only. */
    enum conn_state state;
    bool flushing;   /* conn_close was called: deliver nothing, take nothing */
    unsigned holds;  /* handles and requests whose last callback is outstanding */
    bool tcp_active; /* tcp is initialised and uv_close was not called on it */
    uv_tcp_t tcp;
    uv_timer_t timer; /* connecting, idle or flush, by state */
    uv_async_t async;
    uv_shutdown_t shutdown;
    bool shutdown_done, eof;
    struct error why;

    uv_getaddrinfo_t resolve;
    bool resolving;
    uv_connect_t connect;
    struct addrinfo *addresses, *address_next;
    int connect_status; /* of the last attempt, for the message */
    uint32_t connect_ms;

    uint8_t header_bytes[FRAME_HEADER_BYTES];
    size_t header_filled;
    struct frame_header header;
    struct frame_in frame; /* buf is set while its body is read */
    size_t body_filled;
    bool reading;
    uint64_t opened_ms, frame_ms;
    bool greeted; /* a whole frame has come */

    size_t queued_bytes;                  /* given to uv_write, not yet written */
    struct frame_out *early, **early_end; /* sent while connecting */

    /* guards: posted, posted_end, post_closed */
    struct lock lock;
    struct frame_out *posted, **posted_end;
    bool post_closed;
};

struct conn_write {
    uv_write_t req;
    struct conn *conn;
    struct frame_out *frame;
    uv_buf_t bufs[];
};

static void conn_on_timer(uv_timer_t *timer);
static void conn_start_reading(struct conn *conn);
static void conn_try_address(struct conn *conn);

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

static void conn_drop_hold(struct conn *conn) {
    assert(conn->holds > 0);
    if (--conn->holds > 0 || conn->state != CONN_CLOSING)
        return;
    conn->state = CONN_CLOSED;
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
    frames_free(TAKE_PTR(conn->early));
    frame_in_done(&conn->frame);
    if (conn->resolving)
        uv_cancel((uv_req_t *)&conn->resolve); /* its callback comes either way */
    if (conn->tcp_active)
        uv_close((uv_handle_t *)&conn->tcp, conn_on_handle_closed);
    conn->tcp_active = false;
    uv_close((uv_handle_t *)&conn->timer, conn_on_handle_closed);
    uv_close((uv_handle_t *)&conn->async, conn_on_handle_closed);
}

/* The first reason is the one reported. */
__attribute__((format(printf, 3, 4))) static void conn_fail(struct conn *conn, int code,
                                                            const char *format, ...) {
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
    if (conn->state != CONN_OPEN)
        return; /* a write failed at once */
    conn->flushing = true;
    frame_in_done(&conn->frame);
    conn->shutdown.data = conn;
    if (uv_shutdown(&conn->shutdown, (uv_stream_t *)&conn->tcp, conn_on_shutdown) < 0) {
        conn_shut(conn);
        return;
    }
    conn->holds++;
    conn_start_reading(conn);
    uv_timer_start(&conn->timer, conn_on_timer, flush_ms, 0);
}

/* A frame that breaks the rules: nothing after it can be trusted. */
static void conn_break(struct conn *conn, const struct error *err) {
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

static void conn_on_timer(uv_timer_t *timer) {
    struct conn *conn = timer->data;
    if (conn->flushing)
        conn_shut(conn);
    else if (conn->state == CONN_CONNECTING)
        conn_fail(conn, ERR_UNREACHABLE, "no connection within %u ms (net.connect_timeout_ms)",
                  conn->connect_ms);
    else if (conn->state == CONN_OPEN)
        conn_arm_idle(conn);
}

/* ---- reading ---- */

static size_t conn_body_bytes(const struct conn *conn) {
    return conn->frame.message_bytes + conn->frame.payload_bytes;
}

/* A body is read together with the next frame's header, so pipelined frames cost one read each. */
static void conn_on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    static _Thread_local char discarded[65536]; /* written by the kernel, read by nobody */
    struct conn *conn = handle->data;
    if (conn->flushing)
        *buf = uv_buf_init(discarded, sizeof discarded);
    else if (conn->frame.buf)
        *buf =
            uv_buf_init((char *)conn->frame.message + conn->body_filled,
                        (unsigned)(conn_body_bytes(conn) + FRAME_HEADER_BYTES - conn->body_filled));
    else
        *buf = uv_buf_init((char *)conn->header_bytes + conn->header_filled,
                           (unsigned)(FRAME_HEADER_BYTES - conn->header_filled));
}

static void conn_deliver(struct conn *conn) {
    struct error err = {0};
    if (frame_in_check(&conn->frame, &conn->header, &err) < 0) {
        conn_break(conn, &err);
        return;
    }
    conn->greeted = true;
    conn->frame_ms = uv_now(conn->loop);
    struct frame_in frame = conn->frame;
    conn->frame.buf = NULL;
    conn->ops->on_frame(conn, &frame, conn->ctx);
    frame_in_done(&frame);
}

static void conn_take_bytes(struct conn *conn, size_t n) {
    if (conn->frame.buf) {
        size_t body = conn_body_bytes(conn);
        conn->body_filled += n;
        if (conn->body_filled < body)
            return;
        conn->header_filled = conn->body_filled - body;
        memcpy(conn->header_bytes, conn->frame.message + body, conn->header_filled);
        conn_deliver(conn);
    } else {
        conn->header_filled += n;
    }

    while (conn->state == CONN_OPEN && !conn->flushing &&
           conn->header_filled == FRAME_HEADER_BYTES) {
        struct error err = {0};
        conn->header_filled = 0;
        if (frame_header_read(conn->header_bytes, conn->limits.payload_max_bytes, &conn->header,
                              &err) < 0) {
            conn_break(conn, &err);
            return;
        }
        frame_in_init(&conn->frame, &conn->header, FRAME_HEADER_BYTES);
        conn->body_filled = 0;
        if (conn_body_bytes(conn) == 0)
            conn_deliver(conn);
    }
}

static void conn_on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    struct conn *conn = stream->data;
    if (n > 0) {
        atomic_fetch_add_explicit(&conn->bytes_in, (uint64_t)n, memory_order_relaxed);
        metric_add(METRIC_BYTES_IN, (uint64_t)n);
        if (!conn->flushing)
            conn_take_bytes(conn, (size_t)n);
        return;
    }
    if (n == 0)
        return;

    uv_read_stop(stream);
    conn->reading = false;
    if (n != UV_EOF) {
        conn_fail(conn, ERR_CLOSED, "reading failed: %s", uv_strerror((int)n));
    } else if (conn->flushing) {
        conn->eof = true;
        if (conn->shutdown_done)
            conn_shut(conn);
    } else if (conn->frame.buf || conn->header_filled > 0) {
        conn_fail(conn, ERR_CLOSED, "the peer closed in the middle of a frame");
    } else {
        conn_shut(conn);
    }
}

static void conn_start_reading(struct conn *conn) {
    if (conn->reading)
        return;
    int r = uv_read_start((uv_stream_t *)&conn->tcp, conn_on_alloc, conn_on_read);
    if (r < 0)
        conn_fail(conn, ERR_CLOSED, "reading failed: %s", uv_strerror(r));
    else
        conn->reading = true;
}

/* ---- writing ---- */

static void conn_on_written(uv_write_t *req, int status) {
    struct conn_write *write = (struct conn_write *)req;
    struct conn *conn = write->conn;
    size_t bytes = write->frame->total_bytes;
    frame_out_free(write->frame);
    mem_free(write);

    conn->queued_bytes -= bytes;
    if (status < 0) {
        conn_fail(conn, ERR_CLOSED, "writing failed: %s", uv_strerror(status));
        return;
    }
    atomic_fetch_add_explicit(&conn->bytes_out, bytes, memory_order_relaxed);
    metric_add(METRIC_BYTES_OUT, bytes);
    if (conn->state == CONN_OPEN && !conn->flushing && !conn->reading &&
        conn->queued_bytes <= conn->limits.queue_max_bytes / 2) {
        conn->frame_ms = uv_now(conn->loop); /* it could not be heard until now */
        conn_start_reading(conn);
    }
}

void conn_send(struct conn *conn, struct frame_out *frame) {
    frame->next = NULL;
    if (conn->state == CONN_CONNECTING && !conn->flushing) {
        *conn->early_end = frame;
        conn->early_end = &frame->next;
        return;
    }
    if (conn->state != CONN_OPEN || conn->flushing) {
        frame_out_free(frame);
        return;
    }

    struct conn_write *write =
        mem_alloc(sizeof *write + (1 + frame->piece_count) * sizeof write->bufs[0]);
    unsigned count = 0;
    write->conn = conn;
    write->frame = frame;
    write->bufs[count++] = uv_buf_init((char *)frame->head->data, (unsigned)frame->head->len);
    for (size_t i = 0; i < frame->piece_count; i++)
        if (frame->pieces[i].len > 0)
            write->bufs[count++] =
                uv_buf_init((char *)frame->pieces[i].data, (unsigned)frame->pieces[i].len);

    conn->queued_bytes += frame->total_bytes;
    int r = uv_write(&write->req, (uv_stream_t *)&conn->tcp, write->bufs, count, conn_on_written);
    if (r < 0) {
        conn->queued_bytes -= frame->total_bytes;
        frame_out_free(frame);
        mem_free(write);
        conn_fail(conn, ERR_CLOSED, "writing failed: %s", uv_strerror(r));
    } else if (conn->reading && conn->limits.queue_max_bytes > 0 &&
               conn->queued_bytes > conn->limits.queue_max_bytes) {
        uv_read_stop((uv_stream_t *)&conn->tcp);
        conn->reading = false;
    }
}

/* The wake-up is sent under the lock: once post_closed is set nobody touches the async handle. */
void conn_post(struct conn *conn, struct frame_out *frame) {
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
    struct frame_out *frames = conn_take_posted(conn, false);
    while (frames) {
        struct frame_out *frame = frames;
        frames = frame->next;
        conn_send(conn, frame);
    }
}

/* ---- opening ---- */

static int conn_new(uv_loop_t *loop, const struct conn_limits *limits, const struct conn_ops *ops,
                    void *ctx, struct conn **ret, struct error *reterr) {
    struct conn *conn = mem_alloc(sizeof *conn);
    int r = uv_async_init(loop, &conn->async, conn_on_async);
    if (r < 0) {
        mem_free(conn);
        return error_set(reterr, ERR_IO, "cannot make a connection's wake-up: %s", uv_strerror(r));
    }
    uv_timer_init(loop, &conn->timer);
    conn->async.data = conn->timer.data = conn;
    conn->holds = 2;
    conn->loop = loop;
    conn->limits = *limits;
    conn->ops = ops;
    conn->ctx = ctx;
    conn->early_end = &conn->early;
    conn->posted_end = &conn->posted;
    lock_init(&conn->lock, LOCK_CONN, "conn");
    atomic_init(&conn->refs, 2); /* the caller's and its own */
    *ret = conn;
    return 0;
}

static void conn_init_tcp(struct conn *conn) {
    uv_tcp_init(conn->loop, &conn->tcp);
    conn->tcp.data = conn;
    conn->tcp_active = true;
    conn->holds++;
}

/* The socket is connected: frames may flow. */
static void conn_start(struct conn *conn) {
    int fd, timeout_ms = CONN_USER_TIMEOUT_MS;
    uv_tcp_nodelay(&conn->tcp, 1);
    uv_tcp_keepalive(&conn->tcp, 1, CONN_KEEPALIVE_S);
    if (uv_fileno((uv_handle_t *)&conn->tcp, &fd) == 0)
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);

    metric_add(METRIC_CONNECTIONS_OPENED, 1);
    conn->state = CONN_OPEN;
    conn->opened_ms = conn->frame_ms = uv_now(conn->loop);
    conn_arm_idle(conn);
    conn_start_reading(conn);
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

static void conn_on_attempt_closed(uv_handle_t *handle) {
    struct conn *conn = handle->data;
    if (conn->state == CONN_CONNECTING)
        conn_try_address(conn);
    conn_drop_hold(conn);
}

static void conn_end_attempt(struct conn *conn, int status) {
    conn->connect_status = status;
    conn->tcp_active = false;
    uv_close((uv_handle_t *)&conn->tcp, conn_on_attempt_closed);
}

static void conn_on_connect(uv_connect_t *req, int status) {
    struct conn *conn = req->data;
    if (conn->state != CONN_CONNECTING)
        return;
    if (status < 0) {
        conn_end_attempt(conn, status);
        return;
    }
    conn_start(conn);
    struct frame_out *frames = TAKE_PTR(conn->early);
    conn->early_end = &conn->early;
    while (frames) {
        struct frame_out *frame = frames;
        frames = frame->next;
        conn_send(conn, frame);
    }
    if (conn->state == CONN_OPEN && conn->ops->on_open)
        conn->ops->on_open(conn, conn->ctx);
}

/* A name may have several addresses ("localhost" has ::1 and 127.0.0.1): each is tried. */
static void conn_try_address(struct conn *conn) {
    struct addrinfo *address = conn->address_next;
    if (!address) {
        conn_fail(conn, ERR_UNREACHABLE, "%s", uv_strerror(conn->connect_status));
        return;
    }
    conn->address_next = address->ai_next;
    conn_init_tcp(conn);
    conn->connect.data = conn;
    int r = uv_tcp_connect(&conn->connect, &conn->tcp, address->ai_addr, conn_on_connect);
    if (r < 0)
        conn_end_attempt(conn, r);
}

static void conn_on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *found) {
    struct conn *conn = req->data;
    conn->resolving = false;
    conn->addresses = conn->address_next = found;
    if (conn->state == CONN_CONNECTING) {
        if (status < 0)
            conn_fail(conn, ERR_UNREACHABLE, "the name does not resolve: %s", uv_strerror(status));
        else
            conn_try_address(conn);
    }
    conn_drop_hold(conn);
}

int conn_connect(uv_loop_t *loop, const char *address, uint32_t timeout_ms,
                 const struct conn_limits *limits, const struct conn_ops *ops, void *ctx,
                 struct conn **ret, struct error *reterr) {
    char host[ADDRESS_HOST_MAX], service[8];
    uint16_t port;
    struct conn *conn;
    int r = address_split(address, host, &port, reterr);
    if (r < 0)
        return r;
    r = conn_new(loop, limits, ops, ctx, &conn, reterr);
    if (r < 0)
        return r;

    snprintf(conn->peer, sizeof conn->peer, "%s", address);
    snprintf(service, sizeof service, "%u", port);
    conn->connect_ms = timeout_ms;
    uv_update_time(loop); /* the caller may have worked since the loop looked at the clock */
    uv_timer_start(&conn->timer, conn_on_timer, timeout_ms, 0);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    conn->resolve.data = conn;
    r = uv_getaddrinfo(loop, &conn->resolve, conn_on_resolved, host, service, &hints);
    if (r < 0) {
        conn_fail(conn, ERR_UNREACHABLE, "the name does not resolve: %s", uv_strerror(r));
    } else {
        conn->resolving = true;
        conn->holds++;
    }
    *ret = conn;
    return 0;
}
