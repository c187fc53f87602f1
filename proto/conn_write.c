/* Frames to bytes. Frames are queued and leave together before the loop next waits, as many in one
 * call as the kernel takes; weights are written from the buffer they are published in. */
#include <string.h>

#include "common/metrics.h"
#include "proto/conn_internal.h"

enum {
    WRITE_PIECES = 128,       /* in one call */
    WRITE_PIECES_WAITING = 4, /* in a request that waits: libuv allocates beyond */
};

void conn_write_done(struct conn *conn) {
    struct frame_out *frame;
    while ((frame = conn->out)) {
        conn->out = frame->next;
        frame_out_free(frame);
    }
    if (conn->account)
        account_sent(conn->account, conn->out_bytes);
    conn->out_end = &conn->out;
    conn->out_skip = conn->out_bytes = 0;
}

struct pieces {
    uv_buf_t bufs[WRITE_PIECES];
    unsigned count, most;
    size_t skip; /* bytes written before */
};

/* Returns false when there is no more room. */
static bool piece_add(struct pieces *pieces, const void *data, size_t len) {
    if (len <= pieces->skip) {
        pieces->skip -= len;
        return true;
    }
    if (pieces->count == pieces->most)
        return false;
    pieces->bufs[pieces->count++] =
        uv_buf_init((char *)data + pieces->skip, (unsigned)(len - pieces->skip));
    pieces->skip = 0;
    return true;
}

/* The next bytes to write, as slices of where they lie. Returns their number. */
static size_t gather(const struct conn *conn, unsigned most, struct pieces *ret) {
    static const char zeros[FRAME_ALIGN];
    ret->count = 0;
    ret->most = most;
    ret->skip = conn->out_skip;
    for (const struct frame_out *frame = conn->out; frame; frame = frame->next) {
        bool room = piece_add(ret, frame->head->data, frame->head->len);
        for (size_t i = 0; room && i < frame->piece_count; i++)
            room = piece_add(ret, frame->pieces[i].data, frame->pieces[i].len);
        if (!room ||
            !piece_add(ret, zeros, frame_padded(frame->payload_bytes) - frame->payload_bytes))
            break;
    }
    size_t bytes = 0;
    for (unsigned i = 0; i < ret->count; i++)
        bytes += ret->bufs[i].len;
    return bytes;
}

static void written(struct conn *conn, size_t bytes) {
    atomic_fetch_add_explicit(&conn->bytes_out, bytes, memory_order_relaxed);
    metric_add(METRIC_BYTES_OUT, bytes);
    if (conn->account)
        account_sent(conn->account, bytes);
    conn->out_bytes -= bytes;
    conn->out_skip += bytes;
    while (conn->out && conn->out_skip >= conn->out->total_bytes) {
        struct frame_out *frame = conn->out;
        conn->out_skip -= frame->total_bytes;
        conn->out = frame->next;
        if (!conn->out)
            conn->out_end = &conn->out;
        frame_out_free(frame);
    }
    if (conn->state == CONN_OPEN && !conn->flushing && !conn->reading && !conn->starved &&
        !conn->resting && conn->out_bytes <= conn->limits.queue_max_bytes / 2) {
        conn->frame_ms = uv_now(conn->loop); /* it could not be heard until now */
        conn_start_reading(conn);
    }
}

static void write_all(struct conn *conn);

static void on_written(uv_write_t *req, int status) {
    struct conn *conn = req->data;
    size_t bytes = conn->write_bytes;
    conn->write_bytes = 0;
    if (conn->state == CONN_OPEN && status < 0)
        conn_fail(conn, ERR_CLOSED, "writing failed: %s", uv_strerror(status));
    if (conn->state == CONN_OPEN) {
        written(conn, bytes);
        write_all(conn);
    } else {
        conn_write_done(conn);
    }
    conn_drop_hold(conn);
}

/* The socket is full: libuv tells when it took these. */
static void write_later(struct conn *conn) {
    struct pieces pieces;
    conn->write_bytes = gather(conn, WRITE_PIECES_WAITING, &pieces);
    conn->write.data = conn;
    int r =
        uv_write(&conn->write, (uv_stream_t *)&conn->tcp, pieces.bufs, pieces.count, on_written);
    if (r == 0) {
        conn->holds++;
        return;
    }
    conn->write_bytes = 0;
    conn_fail(conn, ERR_CLOSED, "writing failed: %s", uv_strerror(r));
}

static void write_all(struct conn *conn) {
    size_t turn_bytes = 0;
    while (conn->out && conn->state == CONN_OPEN) {
        struct pieces pieces;
        size_t bytes = gather(conn, WRITE_PIECES, &pieces);
        int r = uv_try_write((uv_stream_t *)&conn->tcp, pieces.bufs, pieces.count);
        if (r >= 0)
            written(conn, (size_t)r);
        else if (r != UV_EAGAIN)
            conn_fail(conn, ERR_CLOSED, "writing failed: %s", uv_strerror(r));
        turn_bytes += r > 0 ? (size_t)r : 0;
        if (r == UV_EAGAIN || (r >= 0 && (size_t)r < bytes) ||
            (conn->out && turn_bytes >= CONN_TURN_BYTES)) {
            if (conn->state == CONN_OPEN)
                write_later(conn);
            return;
        }
    }
    if (conn->state == CONN_OPEN && conn->flushing)
        conn_drained(conn);
}

void conn_on_flush(uv_prepare_t *prepare) {
    struct conn *conn = prepare->data;
    uv_prepare_stop(prepare);
    if (conn->resting && conn->state == CONN_OPEN) {
        conn->resting = false;
        if (conn->limits.queue_max_bytes == 0 || conn->out_bytes <= conn->limits.queue_max_bytes)
            conn_start_reading(conn);
    }
    if (conn->state == CONN_OPEN && conn->write_bytes == 0)
        write_all(conn);
}

void conn_send(struct conn *conn, struct frame_out *frame) {
    if (conn->flushing || (conn->state != CONN_OPEN && conn->state != CONN_CONNECTING)) {
        frame_out_free(frame);
        return;
    }
    frame->next = NULL;
    *conn->out_end = frame;
    conn->out_end = &frame->next;
    conn->out_bytes += frame->total_bytes;
    if (conn->account)
        account_queue(conn->account, frame->total_bytes);
    if (conn->state == CONN_CONNECTING)
        return;
    if (conn->write_bytes == 0)
        uv_prepare_start(&conn->flush, conn_on_flush);
    if (conn->reading && conn->limits.queue_max_bytes > 0 &&
        conn->out_bytes > conn->limits.queue_max_bytes) {
        conn_stop_reading(conn);
        metric_add(METRIC_READS_PAUSED_QUEUE, 1);
    }
}
