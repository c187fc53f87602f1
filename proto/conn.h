/* One libuv TCP stream that speaks frames: bytes in, frames out to a callback; frames in, bytes
 * out. A conn belongs to one loop; all calls but conn_post are made on that loop's thread. It
 * checks lengths before it allocates and the checksum before it delivers; a broken frame closes it.
 */
#pragma once

#include <uv.h>

#include "proto/address.h"
#include "proto/budget.h"
#include "proto/wire.h"

struct conn;

enum conn_state {
    CONN_CONNECTING, /* conn_connect was called, no answer yet */
    CONN_OPEN,       /* frames flow */
    CONN_CLOSING,    /* uv_close was called, callbacks are outstanding */
    CONN_CLOSED,     /* on_close was called */
};

struct conn_ops {
    void (*on_open)(struct conn *conn, void *ctx); /* may be NULL */
    /* The frame is borrowed; take a reference on frame->buf to keep the payload. */
    void (*on_frame)(struct conn *conn, const struct frame_in *frame, void *ctx);
    /* Once, last. code 0: closed by us or cleanly by the peer; else ERR_... with text. */
    void (*on_close)(struct conn *conn, const struct error *why, void *ctx);
};

struct conn_limits {
    uint32_t payload_max_bytes;
    struct budget *budget; /* NULL: what is read and queued is not counted */
    /* Unsent bytes above which reading stops until half is left; for the end that answers. 0:
     * never, for the end that asks: it bounds its own requests, and two ends that both stopped
     * reading would wait for each other for ever. */
    size_t queue_max_bytes;
    uint32_t idle_ms;  /* close after this long without a frame; 0: never */
    uint32_t first_ms; /* close if no whole frame came within this of opening; 0: never */
};

/* Before any other call to libuv: its allocations are counted too (mem_allocations). */
void conn_count_allocations(void);
/* Accepts the pending connection of a listening handle. The caller gets a reference. */
int conn_accept(uv_stream_t *listener, const struct conn_limits *limits, const struct conn_ops *ops,
                void *ctx, struct conn **ret, struct error *reterr);
/* The same for a connected socket, which is taken over, also on failure. on_open is for
 * conn_connect only: these two are open when they return. */
int conn_adopt(uv_loop_t *loop, int fd, const struct conn_limits *limits,
               const struct conn_ops *ops, void *ctx, struct conn **ret, struct error *reterr);
/* Starts connecting to host:port (host may be a name; resolved anew each time). on_open or on_close
 * follows within timeout_ms. The caller gets a reference. */
int conn_connect(uv_loop_t *loop, const char *address, uint32_t timeout_ms,
                 const struct conn_limits *limits, const struct conn_ops *ops, void *ctx,
                 struct conn **ret, struct error *reterr);
/* Takes the frame over. Dropped silently when the conn is closing. */
void conn_send(struct conn *conn, struct frame_out *frame);
/* The same from any thread; needs a reference on conn. */
void conn_post(struct conn *conn, struct frame_out *frame);
/* Nothing more is delivered. Flushes what is queued and waits for the peer to have read it, for at
 * most flush_ms, then closes; on_close follows, never from within this call. Idempotent; a later
 * call with 0 ends the flush. */
void conn_close(struct conn *conn, uint32_t flush_ms);
enum conn_state conn_state(const struct conn *conn);
const char *conn_peer(const struct conn *conn); /* "127.0.0.1:40112", for messages */
/* Bytes on the wire so far, both ways; from any thread. */
uint64_t conn_bytes_in(const struct conn *conn);
uint64_t conn_bytes_out(const struct conn *conn);
struct conn *conn_ref(struct conn *conn);
struct conn *conn_unref(struct conn *conn); /* takes NULL */
