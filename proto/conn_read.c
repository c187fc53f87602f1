/* Bytes to frames. Short frames are read many at a time into one buffer and delivered as views of
 * it; a long one is read into a buffer of its own, its payload on a cache line. Either way the
 * payload stays where the kernel put it for as long as anybody holds the frame. */
#include <string.h>

#include "common/metrics.h"
#include "proto/conn_internal.h"

/* Read at first where a long frame is expected: little of it has to be moved then. */
#define CONN_LONG_FIRST_BYTES 4096

static size_t buffered(const struct conn *conn) {
    return conn->in_end - conn->in_at;
}

/* Bytes of the frame at in_at that have not come. */
static size_t expected(const struct conn *conn) {
    return conn->header_known ? frame_wire_bytes(&conn->header) - buffered(conn) : 0;
}

void conn_read_done(struct conn *conn) {
    conn->in = buf_unref(conn->in);
    conn->in_at = conn->in_end = 0;
}

/* Goes on in another buffer, the undelivered bytes at its offset. */
static void move_to(struct conn *conn, struct buf *buf, size_t offset) {
    size_t bytes = buffered(conn);
    if (bytes > 0)
        memcpy(buf->data + offset, conn->in->data + conn->in_at, bytes);
    buf_unref(conn->in);
    conn->in = buf;
    conn->in_at = offset;
    conn->in_end = offset + bytes;
}

static struct buf *buf_to_read(struct conn *conn, size_t len) {
    return conn->account ? account_buf(conn->account, len, conn->in ? conn->in->len : 0)
                         : buf_new(len);
}

/* Room for the rest of the frame at in_at, or for the next header; false when the budget has none
 * now. */
static bool make_room(struct conn *conn) {
    size_t wanted = conn->header_known ? frame_wire_bytes(&conn->header) : FRAME_HEADER_BYTES;
    bool lengthy = wanted > CONN_READ_BYTES / 2;
    if (conn->in && !lengthy && conn->in_at + wanted <= conn->in->len)
        return true;
    if (lengthy && conn->in && conn->in_at + wanted == conn->in->len)
        return true; /* it has its own already */
    size_t payload_at = FRAME_HEADER_BYTES + frame_padded(conn->header.message_bytes);
    size_t offset = lengthy ? (MEM_ALIGN - payload_at % MEM_ALIGN) % MEM_ALIGN : 0;
    struct buf *buf = buf_to_read(conn, lengthy ? offset + wanted : CONN_READ_BYTES);
    if (!buf)
        return false;
    move_to(conn, buf, offset);
    conn->long_frames |= lengthy;
    return true;
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    static _Thread_local char discarded[65536]; /* written by the kernel, read by nobody */
    struct conn *conn = handle->data;
    if (conn->flushing) {
        *buf = uv_buf_init(discarded, sizeof discarded);
        return;
    }
    if (!make_room(conn)) {
        conn->starved = true; /* libuv gives up this read with UV_ENOBUFS */
        *buf = uv_buf_init(NULL, 0);
        return;
    }
    size_t room = conn->in->len - conn->in_end;
    if (conn->long_frames && !conn->header_known && room > CONN_LONG_FIRST_BYTES)
        room = CONN_LONG_FIRST_BYTES;
    if (room > CONN_READ_BYTES)
        room = CONN_READ_BYTES;
    *buf = uv_buf_init((char *)conn->in->data + conn->in_end, (unsigned)room);
}

static void deliver(struct conn *conn) {
    struct frame_in frame;
    struct error err = {0};
    size_t wire_bytes = frame_wire_bytes(&conn->header);
    int r = frame_in_view(conn->in, conn->in->data + conn->in_at, &conn->header,
                          conn->checking ? &conn->check : NULL, &frame, &err);
    conn->checking = false;
    if (r < 0) {
        conn_break(conn, &err);
        return;
    }
    if (wire_bytes <= CONN_READ_BYTES / 2)
        conn->long_frames = false;
    conn->in_at += wire_bytes;
    conn->header_known = false;
    conn->greeted = true;
    conn->frame_ms = uv_now(conn->loop);
    conn->ops->on_frame(conn, &frame, conn->ctx);
    frame_in_done(&frame);
}

/* A long frame is looked at as it comes, while its bytes are in the cache. */
static void check_early(struct conn *conn) {
    if (frame_wire_bytes(&conn->header) <= CONN_READ_BYTES / 2)
        return;
    if (!conn->checking)
        frame_check_begin(&conn->check, &conn->header);
    conn->checking = true;
    frame_check_more(&conn->check, &conn->header, conn->in->data + conn->in_at + FRAME_HEADER_BYTES,
                     buffered(conn) - FRAME_HEADER_BYTES);
}

static bool delivering(const struct conn *conn) {
    return conn->state == CONN_OPEN && !conn->flushing;
}

static void take_bytes(struct conn *conn, size_t n) {
    conn->in_end += n;
    while (delivering(conn)) {
        struct error err = {0};
        if (!conn->header_known) {
            if (buffered(conn) < FRAME_HEADER_BYTES)
                break;
            if (frame_header_read(conn->in->data + conn->in_at, conn->limits.payload_max_bytes,
                                  &conn->header, &err) < 0) {
                conn_break(conn, &err);
                return;
            }
            conn->header_known = true;
        }
        if (buffered(conn) < frame_wire_bytes(&conn->header)) {
            check_early(conn);
            break;
        }
        deliver(conn);
    }
    /* An idle connection holds no memory; but one whose frames somebody keeps goes on filling the
     * same buffer, so that few small frames do not hold many large ones. */
    if (conn->in && buffered(conn) == 0 &&
        (atomic_load_explicit(&conn->in->refs, memory_order_relaxed) == 1 ||
         conn->in_at == conn->in->len))
        conn_read_done(conn);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    struct conn *conn = stream->data;
    if (n > 0) {
        atomic_fetch_add_explicit(&conn->bytes_in, (uint64_t)n, memory_order_relaxed);
        metric_add(METRIC_BYTES_IN, (uint64_t)n);
        if (conn->flushing)
            return;
        take_bytes(conn, (size_t)n);
        if (delivering(conn))
            conn_local_expect(conn, expected(conn));
        conn->turn_bytes += (size_t)n;
        if (conn->turn_bytes >= CONN_TURN_BYTES && conn->reading && !conn->flushing &&
            conn->state == CONN_OPEN) {
            conn->resting = true; /* until conn_on_flush */
            conn_stop_reading(conn);
            uv_prepare_start(&conn->flush, conn_on_flush);
        }
        return;
    }
    if (n == 0)
        return;

    conn_stop_reading(conn);
    if (n == UV_ENOBUFS && conn->starved)
        metric_add(METRIC_READS_PAUSED_MEMORY, 1);
    else if (n != UV_EOF)
        conn_fail(conn, ERR_CLOSED, "reading failed: %s", uv_strerror((int)n));
    else if (conn->flushing) {
        conn->eof = true;
        if (conn->shutdown_done)
            conn_close(conn, 0);
    } else if (buffered(conn) > 0)
        conn_fail(conn, ERR_CLOSED, "the peer closed in the middle of a frame");
    else
        conn_close(conn, 0);
}

void conn_start_reading(struct conn *conn) {
    if (conn->reading)
        return;
    conn->starved = conn->resting = false;
    conn->turn_bytes = 0;
    if (conn->wake_bytes > 1) /* the time that we did not read is not the peer's */
        conn->wake_set_ns = time_now_ns();
    int r = uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read);
    if (r < 0)
        conn_fail(conn, ERR_CLOSED, "reading failed: %s", uv_strerror(r));
    else
        conn->reading = true;
}

void conn_stop_reading(struct conn *conn) {
    uv_read_stop((uv_stream_t *)&conn->tcp);
    conn->reading = false;
}
