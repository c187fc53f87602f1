/* A worker's or a shard's connection. Every message is checked whole before anything of it is
 * believed; what it means is the ledger's, the aggregator's and the coordinator's matter. */
#include "server/session_internal.h"

#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/metrics.h"
#include "server/coordinator.h"
#include "server/server.h"

struct session *session_new(struct server *server, void *conn, const char *peer) {
    struct session *session = mem_alloc(sizeof *session);
    session->server = server;
    session->conn = conn;
    snprintf(session->peer, sizeof session->peer, "%s", peer);
    atomic_fetch_add(&server->connections, 1);
    return session;
}

static void session_set_state(struct session *session, enum session_state state) {
    static const char *const names[] = {"open", "attached", "peer", "ended"};
    if (session->state == state)
        return;
    log_debug("session", "peer=%s from=%s to=%s", session->peer, names[session->state],
              names[state]);
    session->state = state;
}

/* The seat forgets the connection, unless a newer one has it. */
static void session_leave_seat(struct session *session) {
    struct server *server = session->server;
    lock_take(&server->seats_lock);
    struct seat *seat = &server->seats[session->rank];
    bool mine = seat->conn == session->conn;
    if (mine)
        seat->conn = NULL;
    lock_release(&server->seats_lock);
    if (mine)
        server->ops->unref(server->ops_ctx, session->conn);
}

struct session *session_free(struct session *session) {
    if (!session)
        return NULL;
    if (session->state == SESSION_ATTACHED)
        session_leave_seat(session);
    if (session->server->coordinator)
        coordinator_disconnected(session->server->coordinator, session->conn);
    session_set_state(session, SESSION_ENDED);
    atomic_fetch_sub(&session->server->connections, 1);
    mem_free(session);
    return NULL;
}

/* --- greeting --- */

static int hello_check(const struct server *server, const Graphps__Hello *hello,
                       struct error *reterr) {
    const struct config *config = server->config;
    if (strcmp(hello->job, config->job_name) != 0)
        return error_set(reterr, ERR_WRONG_JOB, "shard %u belongs to job '%s', not '%.100s'",
                         server->shard, config->job_name, hello->job);
    if (hello->workers != config->workers_count)
        return error_set(reterr, ERR_CONFIG,
                         "rank %u: workers.count is %u there, shard %u has %lld", hello->rank,
                         hello->workers, server->shard, (long long)config->workers_count);
    if (hello->shards != server->shards)
        return error_set(reterr, ERR_CONFIG, "rank %u: servers.count is %u there, shard %u has %u",
                         hello->rank, hello->shards, server->shard, server->shards);
    if (hello->rank >= config->workers_count)
        return error_set(reterr, ERR_RANGE, "rank %u, the job has %lld workers", hello->rank,
                         (long long)config->workers_count);
    if (hello->incarnation == 0)
        return error_set(reterr, ERR_PROTOCOL, "rank %u: incarnation 0", hello->rank);
    if (server->shard > 0 && hello->attempt == 0)
        return error_set(reterr, ERR_PROTOCOL,
                         "rank %u: shard 0 is greeted first, it numbers the "
                         "attempt",
                         hello->rank);
    int state = atomic_load(&server->state);
    if (state == SERVER_STARTING || state == SERVER_RESTORING)
        return error_set(reterr, ERR_NOT_READY, "shard %u is %s", server->shard,
                         state == SERVER_STARTING ? "starting" : "restoring");
    return 0;
}

bool server_has_layout(struct server *server) {
    pthread_rwlock_rdlock(&server->admission);
    bool has = server->aggregator != NULL;
    pthread_rwlock_unlock(&server->admission);
    return has;
}

/* Takes the seat for this connection, or says who has it. */
static int hello_take_seat(struct call *call, const Graphps__Hello *hello, uint64_t attempt,
                           struct error *reterr) {
    struct server *server = call->server;
    uint64_t lost = 0;
    lock_take(&server->seats_lock);
    struct seat *seat = &server->seats[hello->rank];
    uint64_t holder = seat->ledger.attempt, older = seat->ledger.incarnation;
    bool mine =
        ledger_hello(&seat->ledger, attempt, hello->incarnation, hello->lowest_unacked, &lost);
    void *before = NULL;
    if (mine && seat->conn != call->session->conn) {
        server->ops->ref(server->ops_ctx, call->session->conn);
        before = seat->conn;
        seat->conn = call->session->conn;
    }
    lock_release(&server->seats_lock);
    if (before) {
        /* It may be waiting for an acknowledgement that will not come: it is told. */
        if (older != hello->incarnation)
            server_send_error(server, before, 0, ERR_FENCED, "a newer process has taken this rank");
        server->ops->unref(server->ops_ctx, before);
    }
    if (!mine)
        return error_set(reterr, ERR_FENCED,
                         "rank %u: a newer process (attempt %llu) has taken it, this one is %llu",
                         hello->rank, (unsigned long long)holder, (unsigned long long)attempt);
    if (lost > 0) {
        log_warning("acknowledged pushes are not in the restored weights", "rank=%u pushes=%llu",
                    hello->rank, (unsigned long long)lost);
        metric_add(METRIC_PUSH_LOST, lost);
    }
    return 0;
}

void session_clock_reached(struct call *call, uint32_t rank, uint64_t clock) {
    struct server *server = call->server;
    if (!roster_reached(&server->roster, rank, clock) || !server->rule.bsp)
        return;
    pthread_rwlock_rdlock(&server->admission);
    if (server->aggregator)
        aggregator_recheck(server->aggregator, call->now_ms);
    pthread_rwlock_unlock(&server->admission);
}

static int on_hello(struct call *call, const ProtobufCMessage *message, struct error *reterr) {
    const Graphps__Hello *hello = (const Graphps__Hello *)message;
    struct session *session = call->session;
    struct server *server = call->server;
    if (session->state == SESSION_ATTACHED &&
        (hello->rank != session->rank || hello->incarnation != session->incarnation))
        return error_set(reterr, ERR_PROTOCOL, "this connection is rank %u's", session->rank);
    int r = hello_check(server, hello, reterr);
    if (r < 0)
        return r;
    /* A model of another shape is named as such, where there is one to compare it with; but who has
     * other options declares no layout. */
    struct error differs = {0};
    if (hello->options[0] && config_shared_check(server->config, hello->options, &differs) < 0)
        error_prefix(&differs, "rank %u", hello->rank);
    if (differs.code == 0 || server_has_layout(server))
        r = server_declare_layout(server, hello, reterr);
    if (r == 0 && differs.code)
        r = error_set(reterr, differs.code, "%s", error_text(&differs));
    if (r == 0)
        r = schedule_learn_steps(&server->schedule, hello->rank, hello->steps_per_epoch, reterr);
    if (r < 0)
        return r;
    Graphps__Welcome welcome = GRAPHPS__WELCOME__INIT;
    uint64_t attempt = hello->attempt;
    if (server->coordinator) {
        r = coordinator_hello(server->coordinator, session->conn, hello, call->now_ms,
                              call->wall_ms, &welcome, reterr);
        attempt = welcome.attempt;
    }
    if (r == 0)
        r = hello_take_seat(call, hello, attempt, reterr);
    if (r < 0)
        return r;
    session->rank = hello->rank;
    session->incarnation = hello->incarnation;
    session_set_state(session, SESSION_ATTACHED);
    welcome.id = hello->id;
    welcome.shard = server->shard;
    welcome.shard_incarnation = server->incarnation;
    server_send(server, session->conn, FRAME_WELCOME, &welcome.base);
    session_clock_reached(call, hello->rank, hello->clock);
    return 0;
}

/* --- shard 0's --- */

static int check_rank(const struct call *call, uint32_t rank, struct error *reterr) {
    if (!call->server->coordinator)
        return error_set(reterr, ERR_PROTOCOL,
                         "a %s frame; only shard 0 takes it, this is shard "
                         "%u",
                         frame_type_name(call->frame->type), call->server->shard);
    if (rank != call->session->rank)
        return error_set(reterr, ERR_PROTOCOL, "a %s frame of rank %u on rank %u's connection",
                         frame_type_name(call->frame->type), rank, call->session->rank);
    return 0;
}

static int on_clock(struct call *call, const ProtobufCMessage *message, struct error *reterr) {
    const Graphps__Clock *clock = (const Graphps__Clock *)message;
    int r = check_rank(call, clock->rank, reterr);
    if (r < 0)
        return r;
    return coordinator_clock(call->server->coordinator, call->session->conn, clock, call->now_ms,
                             reterr);
}

static int on_eval(struct call *call, const ProtobufCMessage *message, struct error *reterr) {
    const Graphps__Eval *eval = (const Graphps__Eval *)message;
    int r = check_rank(call, eval->rank, reterr);
    if (r < 0)
        return r;
    return coordinator_eval(call->server->coordinator, call->session->conn, eval, call->now_ms,
                            reterr);
}

static int on_heartbeat(struct call *call, const ProtobufCMessage *message, struct error *reterr) {
    const Graphps__Heartbeat *beat = (const Graphps__Heartbeat *)message;
    int r = check_rank(call, beat->rank, reterr);
    if (r < 0)
        return r;
    return coordinator_heartbeat(call->server->coordinator, call->session->conn, beat, call->now_ms,
                                 reterr);
}

static int on_bye(struct call *call, const ProtobufCMessage *message, struct error *reterr) {
    const Graphps__Bye *bye = (const Graphps__Bye *)message;
    int r = check_rank(call, bye->rank, reterr);
    if (r < 0)
        return r;
    return coordinator_bye(call->server->coordinator, call->session->conn, bye, call->now_ms,
                           reterr);
}

static int on_peer_report(struct call *call, const ProtobufCMessage *message,
                          struct error *reterr) {
    const Graphps__PeerReport *report = (const Graphps__PeerReport *)message;
    if (!call->server->coordinator)
        return error_set(reterr, ERR_CONFIG,
                         "shards report to shard 0, this is shard %u; correct servers.addresses "
                         "(shard 0 first)",
                         call->server->shard);
    if (report->shard == call->server->shard)
        return error_set(reterr, ERR_CONFIG, "two processes are shard %u", report->shard);
    Graphps__PeerOrder order = GRAPHPS__PEER_ORDER__INIT;
    int r = coordinator_report(call->server->coordinator, call->session->conn, report, call->now_ms,
                               &order, reterr);
    if (r < 0)
        return r;
    session_set_state(call->session, SESSION_PEER);
    server_send(call->server, call->session->conn, FRAME_PEER_ORDER, &order.base);
    coordinator_order_done(&order);
    return 0;
}

static int on_status_request(struct call *call, const ProtobufCMessage *message,
                             struct error *reterr) {
    const Graphps__StatusRequest *request = (const Graphps__StatusRequest *)message;
    struct server *server = call->server;
    if (strcmp(request->job, server->config->job_name) != 0)
        return error_set(reterr, ERR_WRONG_JOB, "this is job '%s', not '%.100s'",
                         server->config->job_name, request->job);
    if (!server->coordinator)
        return error_set(reterr, ERR_PROTOCOL, "shard 0 knows the job's state, this is shard %u",
                         server->shard);
    Graphps__Status status;
    coordinator_status(server->coordinator, call->now_ms, &status);
    status.id = request->id;
    server_send(server, call->session->conn, FRAME_STATUS, &status.base);
    coordinator_status_done(&status);
    return 0;
}

/* --- the table --- */

#define IN(state) (1u << SESSION_##state)

static const struct handler {
    unsigned states; /* it is allowed in */
    int (*handle)(struct call *call, const ProtobufCMessage *message, struct error *reterr);
} handlers[FRAME_TYPE_END] = {
    [FRAME_HELLO] = {IN(OPEN) | IN(ATTACHED), on_hello},
    [FRAME_PUSH] = {IN(ATTACHED), session_push},
    [FRAME_PULL] = {IN(ATTACHED), session_pull},
    [FRAME_PULL_ROWS] = {IN(ATTACHED), session_pull_rows},
    [FRAME_CLOCK] = {IN(ATTACHED), on_clock},
    [FRAME_EVAL] = {IN(ATTACHED), on_eval},
    [FRAME_HEARTBEAT] = {IN(ATTACHED), on_heartbeat},
    [FRAME_BYE] = {IN(ATTACHED), on_bye},
    [FRAME_PEER_REPORT] = {IN(OPEN) | IN(PEER), on_peer_report},
    [FRAME_STATUS_REQUEST] = {IN(OPEN) | IN(ATTACHED) | IN(PEER), on_status_request},
};

/* `id` is the first field of every message in graphps.proto; proto3's generated structs keep it
 * right behind the base. */
struct message_with_id {
    ProtobufCMessage base;
    uint64_t id;
};

static int session_dispatch(struct call *call, uint64_t *ret_id, struct error *reterr) {
    struct session *session = call->session;
    const struct handler *handler = &handlers[call->frame->type];
    ProtobufCMessage *message = NULL;
    int r = wire_unpack(call->frame, &message, reterr);
    if (r < 0)
        return r;
    *ret_id = ((const struct message_with_id *)message)->id;
    if (!handler->handle)
        r = error_set(reterr, ERR_PROTOCOL, "a shard takes no %s frame",
                      frame_type_name(call->frame->type));
    else if (!(handler->states & (1u << session->state)) && session->state == SESSION_OPEN)
        r = error_set(reterr, ERR_NOT_ATTACHED, "a %s frame before hello",
                      frame_type_name(call->frame->type));
    else if (!(handler->states & (1u << session->state)))
        r = error_set(reterr, ERR_PROTOCOL, "a %s frame from a peer that may not send it",
                      frame_type_name(call->frame->type));
    else
        r = handler->handle(call, message, reterr);
    wire_free(message);
    return r;
}

void session_frame(struct session *session, const struct frame_in *frame, uint64_t now_ms,
                   uint64_t wall_ms) {
    struct server *server = session->server;
    struct call call = {
        .session = session,
        .server = server,
        .frame = frame,
        .now_ms = now_ms,
        .wall_ms = wall_ms,
        .now_ns = server->ops->now_ns ? server->ops->now_ns(server->ops_ctx) : 0,
    };
    struct error err = {0};
    uint64_t id = 0;
    int r = session_dispatch(&call, &id, &err);
    if (r < 0) {
        log_debug("refused", "peer=%s type=%s code=%s why=%s", session->peer,
                  frame_type_name(frame->type), error_name(r), log_quote(error_text(&err)));
        if (!error_retryable(r) && frame->type == FRAME_HELLO)
            log_warning("a peer was refused", "peer=%s why=%s", session->peer,
                        log_quote(error_text(&err)));
        server_send_error(server, session->conn, id, r, error_text(&err));
    }
    if (server->coordinator && frame->type != FRAME_PUSH && frame->type != FRAME_PULL &&
        frame->type != FRAME_PULL_ROWS &&
        coordinator_has_news(server->coordinator, atomic_load(&server->order_done)))
        server_self_report(server, now_ms);
}
