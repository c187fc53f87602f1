/* Inside of a session, for session*.c alone: session.c (state, greeting, dispatch), session_data.c
 * (pushes and pulls). */
#pragma once

#include "server/server.h"
#include "server/session.h"

enum session_state {
    SESSION_OPEN,     /* nobody has said who he is */
    SESSION_ATTACHED, /* a worker that said hello */
    SESSION_PEER,     /* a shard */
    SESSION_ENDED,
};

struct session {
    struct server *server;
    void *conn; /* borrowed */
    char peer[64];
    enum session_state state;
    /* of the worker that is attached */
    uint32_t rank;
    uint64_t incarnation;
};

/* A frame being handled. */
struct call {
    struct session *session;
    struct server *server;
    const struct frame_in *frame;
    uint64_t now_ms, wall_ms, now_ns;
};

/* Once there is one, it stays. */
bool server_has_layout(struct server *server);
/* A worker's clock is news to bsp: it will not push what is before it. */
void session_clock_reached(struct call *call, uint32_t rank, uint64_t clock);

int session_push(struct call *call, const ProtobufCMessage *message, struct error *reterr);
int session_pull(struct call *call, const ProtobufCMessage *message, struct error *reterr);
int session_pull_rows(struct call *call, const ProtobufCMessage *message, struct error *reterr);
