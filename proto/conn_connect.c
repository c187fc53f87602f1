/* From a name to a connected socket: the name is resolved, and each of its addresses is tried. */
#include <stdio.h>

#include "proto/conn_internal.h"

static void try_address(struct conn *conn);

static void on_attempt_closed(uv_handle_t *handle) {
    struct conn *conn = handle->data;
    if (conn->state == CONN_CONNECTING)
        try_address(conn);
    conn_drop_hold(conn);
}

static void end_attempt(struct conn *conn, int status) {
    conn->connect_status = status;
    conn->tcp_active = false;
    uv_close((uv_handle_t *)&conn->tcp, on_attempt_closed);
}

static void on_connect(uv_connect_t *req, int status) {
    struct conn *conn = req->data;
    if (conn->state != CONN_CONNECTING)
        return;
    if (status < 0) {
        end_attempt(conn, status);
        return;
    }
    conn_start(conn);
    if (conn->state == CONN_OPEN && conn->ops->on_open)
        conn->ops->on_open(conn, conn->ctx);
}

/* A name may have several addresses ("localhost" has ::1 and 127.0.0.1). */
static void try_address(struct conn *conn) {
    struct addrinfo *address = conn->address_next;
    if (!address) {
        conn_fail(conn, ERR_UNREACHABLE, "%s", uv_strerror(conn->connect_status));
        return;
    }
    conn->address_next = address->ai_next;
    conn_init_tcp(conn);
    conn->connect.data = conn;
    int r = uv_tcp_connect(&conn->connect, &conn->tcp, address->ai_addr, on_connect);
    if (r < 0)
        end_attempt(conn, r);
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *found) {
    struct conn *conn = req->data;
    conn->resolving = false;
    conn->addresses = conn->address_next = found;
    if (conn->state == CONN_CONNECTING) {
        if (status < 0)
            conn_fail(conn, ERR_UNREACHABLE, "the name does not resolve: %s", uv_strerror(status));
        else
            try_address(conn);
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
    r = uv_getaddrinfo(loop, &conn->resolve, on_resolved, host, service, &hints);
    if (r < 0) {
        conn_fail(conn, ERR_UNREACHABLE, "the name does not resolve: %s", uv_strerror(r));
    } else {
        conn->resolving = true;
        conn->holds++;
    }
    *ret = conn;
    return 0;
}
