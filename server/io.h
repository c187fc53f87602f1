/* The network threads of a shard: a libuv loop each, connections handed out in turn, a session
 * behind every connection. Loop 0 accepts, and is run by the caller, who may put its own handles on
 * it. */
#pragma once

#include <uv.h>

#include "common/config.h"
#include "proto/address.h"

struct io;
struct server;

/* Binds and listens; connections wait in the kernel until io_start. ERR_IN_USE and what else
 * address_listen says. */
int io_new(const struct config *config, const char *address, struct io **ret, struct error *reterr);
const char *io_address(const struct io *io); /* "host:port" as bound */
uv_loop_t *io_loop(struct io *io);           /* loop 0 */
void io_measure(const struct io *io);        /* sets the metrics of the memory that frames hold */
/* Starts the other loops' threads. server is borrowed until io_free. */
int io_start(struct io *io, struct server *server, struct error *reterr);
/* From loop 0: no new connections; the present ones are flushed for at most a second and closed.
 * Loop 0 ends when the caller's own handles are closed too. */
void io_stop(struct io *io);
/* After loop 0 has ended: waits for the threads. Takes NULL. */
struct io *io_free(struct io *io);

/* The seam (struct server_ops): handles are struct conn. */
struct frame_out;
void io_send(void *ctx, void *conn, struct frame_out *frame);
void io_ref(void *ctx, void *conn);
void io_unref(void *ctx, void *conn);
