/* Inside of a conn, for conn*.c alone: conn.c (life, timers, closing), conn_connect.c (names and
 * addresses), conn_read.c (bytes to frames), conn_write.c (frames to bytes), conn_local.c (sockets
 * within one machine). */
#pragma once

#include <pthread.h>

#include "common/lock.h"
#include "proto/conn.h"

/* So much is read or written before the other connections of the loop have their turn. */
#define CONN_TURN_BYTES ((size_t)1 << 20)
/* Frames up to half of this share a buffer; a longer one gets its own. */
#define CONN_READ_BYTES ((size_t)256 << 10)

struct conn {
    /* Set at start, never changed. */
    uv_loop_t *loop;
    struct conn_limits limits;
    const struct conn_ops *ops;
    void *ctx;
    char peer[ADDRESS_TEXT_MAX];

    atomic_uint refs;
    _Atomic uint64_t bytes_in, bytes_out;
    _Atomic pthread_t thread; /* the loop's, once it is known */

    /* The loop's thread only. */
    enum conn_state state;
    bool flushing;   /* conn_close was called: deliver nothing, take nothing */
    unsigned holds;  /* handles and requests whose last callback is outstanding */
    bool tcp_active; /* tcp is initialised and uv_close was not called on it */
    uv_tcp_t tcp;
    uv_timer_t timer; /* connecting, idle or flush, by state */
    uv_async_t async;
    uv_prepare_t flush; /* runs when frames wait: all that came in one turn leave together */
    uv_shutdown_t shutdown;
    bool shutdown_done, eof;
    struct error why;

    /* connecting */
    uv_getaddrinfo_t resolve;
    bool resolving;
    uv_connect_t connect;
    struct addrinfo *addresses, *address_next;
    int connect_status; /* of the last attempt, for the message */
    uint32_t connect_ms;

    /* reading: bytes in_at .. in_end of the buffer are not delivered yet; frames delivered before
     * them may still be held by others */
    struct buf *in;
    size_t in_at, in_end;
    bool header_known;          /* of the frame at in_at */
    struct frame_header header; /* then */
    struct frame_check check;   /* of a frame with a buffer of its own: what has come of it */
    bool checking;
    bool long_frames; /* the last one had a buffer of its own */
    bool reading;
    struct account *account; /* NULL: without a budget */
    bool starved;            /* reading waits for the budget */
    bool resting;            /* it has read much: the loop's other connections come first */
    size_t turn_bytes;       /* read since it last rested */
    uint64_t opened_ms, frame_ms;
    bool greeted; /* a whole frame has come */
    int local_fd; /* the socket, when the peer is on this machine, else -1 */
    /* Then: so much must have come before the loop is woken, and is waited for at most. */
    int wake_bytes, wake_limit_bytes, wake_most_bytes;
    uint64_t wake_set_ns;

    /* writing */
    struct frame_out *out, **out_end; /* what is left of the first is behind out_skip bytes */
    size_t out_skip;
    size_t out_bytes;   /* unwritten, of all of them: in the account */
    uv_write_t write;   /* when the socket took no more */
    size_t write_bytes; /* handed to it, 0: it is free */

    struct lock lock; /* LOCK_CONN; guards the group below */
    struct frame_out *posted, **posted_end;
    bool post_closed;
};

/* The first reason is the one reported. */
__attribute__((format(printf, 3, 4))) void conn_fail(struct conn *conn, int code,
                                                     const char *format, ...);
void conn_drop_hold(struct conn *conn);
/* A frame that breaks the rules: nothing after it can be trusted. */
void conn_break(struct conn *conn, const struct error *err);
void conn_init_tcp(struct conn *conn);
/* The socket is connected: frames may flow. */
void conn_start(struct conn *conn);
int conn_new(uv_loop_t *loop, const struct conn_limits *limits, const struct conn_ops *ops,
             void *ctx, struct conn **ret, struct error *reterr);
void conn_on_timer(uv_timer_t *timer);
/* All is written (or thrown away): the FIN may follow. */
void conn_drained(struct conn *conn);

void conn_start_reading(struct conn *conn);
void conn_stop_reading(struct conn *conn);
void conn_read_done(struct conn *conn); /* lets go of the buffer */

/* Sets the socket up for a peer on the same machine, if it is there. */
void conn_local_init(struct conn *conn);
/* Of the frame that is being read so many bytes have not come; 0: none is being read. */
void conn_local_expect(struct conn *conn, size_t bytes);

void conn_on_flush(uv_prepare_t *prepare);
void conn_write_done(struct conn *conn); /* lets go of all frames */
