/* One connection of a peer: a table message type -> {states it is allowed in, handler}. States:
 * OPEN (greeted by nobody yet: Hello, PeerReport and StatusRequest only), ATTACHED (a worker that
 * said hello), PEER (a shard), ENDED. Every error is answered with Error and the connection lives
 * on; a broken frame is conn's matter. */
#pragma once

#include "proto/wire.h"

struct session;
struct server;

/* conn: the seam's handle, borrowed for the session's life. */
struct session *session_new(struct server *server, void *conn, const char *peer);
struct session *
session_free(struct session *session); /* tells the coordinator and the seat; takes NULL */
void session_frame(struct session *session, const struct frame_in *frame, uint64_t now_ms,
                   uint64_t wall_ms);
