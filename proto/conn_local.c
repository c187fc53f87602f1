/* Peers on the same machine. There the kernel only copies: what counts is that the bytes between
 * the two copies are still in the processor's cache, and how often a sleeping reader is woken. The
 * kernel's own sizes are for distances, where bytes under way fill the wire; on loopback they make
 * a queue of several MiB, which falls out of the cache (figures in bench/README.md). */
#include <netinet/in.h>
#include <string.h>

#include "proto/conn_internal.h"

#define LOCAL_QUEUE_BYTES (256 << 10)     /* the kernel doubles it, for what it keeps beside */
#define LOCAL_WAKE_LEAST_BYTES (16 << 10) /* less is not worth a call */
#define LOCAL_WAKE_MORE_BYTES (4 << 10)   /* with every frame */
#define LOCAL_SLOW_NS 20000000

static uint32_t address4(const struct sockaddr_storage *address) {
    return ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr);
}

static bool same_host(const struct sockaddr_storage *a, const struct sockaddr_storage *b) {
    if (a->ss_family != b->ss_family)
        return false;
    if (a->ss_family == AF_INET)
        return address4(a) == address4(b) ||
               (address4(a) >> 24 == IN_LOOPBACKNET && address4(b) >> 24 == IN_LOOPBACKNET);
    return a->ss_family == AF_INET6 &&
           memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr,
                  &((const struct sockaddr_in6 *)b)->sin6_addr, sizeof(struct in6_addr)) == 0;
}

void conn_local_init(struct conn *conn) {
    struct sockaddr_storage ours, theirs;
    int ours_len = sizeof ours, theirs_len = sizeof theirs, queue_bytes = LOCAL_QUEUE_BYTES;
    if (uv_tcp_getsockname(&conn->tcp, (struct sockaddr *)&ours, &ours_len) < 0 ||
        uv_tcp_getpeername(&conn->tcp, (struct sockaddr *)&theirs, &theirs_len) < 0 ||
        !same_host(&ours, &theirs) || uv_fileno((uv_handle_t *)&conn->tcp, &conn->local_fd) < 0) {
        conn->local_fd = -1;
        return;
    }
    setsockopt(conn->local_fd, SOL_SOCKET, SO_SNDBUF, &queue_bytes, sizeof queue_bytes);
    /* The administrator may allow less; our peer is under the same rule. */
    socklen_t len = sizeof queue_bytes;
    if (getsockopt(conn->local_fd, SOL_SOCKET, SO_SNDBUF, &queue_bytes, &len) == 0)
        conn->wake_most_bytes = conn->wake_limit_bytes = queue_bytes / 2;
}

/* A peer that keeps fewer bytes under way than we wait for goes on only when the kernel's delayed
 * acknowledgement comes, 40 ms later. So what took long is asked for no more, and then little by
 * little again. */
static void adjust_limit(struct conn *conn, bool frame_done) {
    if (conn->wake_bytes > 1 && time_now_ns() - conn->wake_set_ns > LOCAL_SLOW_NS)
        conn->wake_limit_bytes /= 8;
    else if (frame_done && conn->wake_limit_bytes < conn->wake_most_bytes)
        conn->wake_limit_bytes += LOCAL_WAKE_MORE_BYTES;
}

/* The rest of the frame comes without our doing anything, so waiting for it holds nobody up; and
 * the end of the stream wakes in any case. */
void conn_local_expect(struct conn *conn, size_t bytes) {
    if (conn->local_fd < 0 || conn->state != CONN_OPEN)
        return;
    adjust_limit(conn, bytes == 0);
    size_t limit = (size_t)conn->wake_limit_bytes;
    int wake_bytes = bytes < limit ? (int)bytes : (int)limit;
    if (wake_bytes < LOCAL_WAKE_LEAST_BYTES)
        wake_bytes = 1;
    if (wake_bytes > 1)
        conn->wake_set_ns = time_now_ns();
    if (wake_bytes == conn->wake_bytes)
        return;
    conn->wake_bytes = wake_bytes;
    setsockopt(conn->local_fd, SOL_SOCKET, SO_RCVLOWAT, &wake_bytes, sizeof wake_bytes);
}
