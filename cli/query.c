/* A blocking client for one request. The daemons' own connections are proto/conn.c's. */
#include "cli/query.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/file.h"
#include "common/lock.h"
#include "proto/conn.h"

#define QUERY_ANSWER_MAX (4u << 20)

static void close_p(int *fd) {
    if (*fd >= 0)
        close(*fd);
}

static int wait_for(int fd, short events, uint64_t deadline_ms, const char *address,
                    struct error *reterr) {
    for (;;) {
        uint64_t now = time_now_ms();
        struct pollfd item = {.fd = fd, .events = events};
        int n = poll(&item, 1, now < deadline_ms ? (int)(deadline_ms - now) : 0);
        if (n > 0)
            return 0;
        if (n < 0 && errno == EINTR)
            continue;
        return error_set(reterr, ERR_UNREACHABLE, "%s: no answer in time", address);
    }
}

static int query_connect(const char *address, uint64_t deadline_ms, int *ret,
                         struct error *reterr) {
    char host[256], port_text[8];
    uint16_t port;
    int r = address_split(address, host, &port, reterr);
    if (r < 0)
        return r;
    snprintf(port_text, sizeof port_text, "%u", port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int g = getaddrinfo(host, port_text, &hints, &found);
    if (g != 0)
        return error_set(reterr, ERR_UNREACHABLE, "%s: %s", address, gai_strerror(g));

    r = error_set(reterr, ERR_UNREACHABLE, "%s: no address", address);
    for (struct addrinfo *a = found; a; a = a->ai_next) {
        _cleanup_(close_p) int fd =
            socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
            continue;
        if (connect(fd, a->ai_addr, a->ai_addrlen) < 0 && errno != EINPROGRESS) {
            r = error_set(reterr, ERR_UNREACHABLE, "%s: %s", address, strerror(errno));
            continue;
        }
        r = wait_for(fd, POLLOUT, deadline_ms, address, reterr);
        int why = 0;
        socklen_t len = sizeof why;
        if (r == 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &why, &len) == 0 && why)
            r = error_set(reterr, ERR_UNREACHABLE, "%s: %s", address, strerror(why));
        if (r == 0) {
            *ret = fd;
            fd = -1;
            break;
        }
    }
    freeaddrinfo(found);
    return r;
}

static int query_ask(int fd, const char *address, const struct buf *question, uint64_t deadline_ms,
                     struct frame_in *ret, struct error *reterr) {
    for (size_t sent = 0; sent < question->len;) {
        int r = wait_for(fd, POLLOUT, deadline_ms, address, reterr);
        if (r < 0)
            return r;
        ssize_t n = send(fd, question->data + sent, question->len - sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return error_set(reterr, ERR_CLOSED, "%s: %s", address, strerror(errno));
        if (n > 0)
            sent += (size_t)n;
    }
    _cleanup_(mem_free_p) uint8_t *bytes = mem_alloc(QUERY_ANSWER_MAX);
    size_t len = 0, used;
    for (;;) {
        int r = wait_for(fd, POLLIN, deadline_ms, address, reterr);
        if (r < 0)
            return r;
        ssize_t n = recv(fd, bytes + len, QUERY_ANSWER_MAX - len, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n <= 0)
            return error_set(reterr, ERR_CLOSED, "%s: the connection was closed", address);
        len += (size_t)n;
        r = frame_in_parse(bytes, len, 0, ret, &used, reterr);
        if (r != ERR_CLOSED)
            return r;
    }
}

int query_status(const char *address, const char *job, uint32_t timeout_ms, Graphps__Status **ret,
                 struct error *reterr) {
    uint64_t deadline_ms = time_now_ms() + timeout_ms;
    _cleanup_(close_p) int fd = -1;
    int r = query_connect(address, deadline_ms, &fd, reterr);
    if (r < 0)
        return r;
    Graphps__StatusRequest request = GRAPHPS__STATUS_REQUEST__INIT;
    request.id = 1;
    request.job = (char *)job;
    struct frame_out *frame = frame_out_new(FRAME_STATUS_REQUEST, &request.base, NULL, 0);
    _cleanup_(buf_unref_p) struct buf *question = frame_out_flatten(frame);
    frame_out_free(frame);

    struct frame_in answer;
    r = query_ask(fd, address, question, deadline_ms, &answer, reterr);
    if (r < 0)
        return r;
    ProtobufCMessage *message = NULL;
    r = wire_unpack(&answer, &message, reterr);
    if (r == 0 && answer.type == FRAME_ERROR) {
        const Graphps__Error *error = (const Graphps__Error *)message;
        r = error_set(reterr, -(int)error->code, "%s: %s", address, error->text);
    } else if (r == 0 && answer.type != FRAME_STATUS) {
        r = error_set(reterr, ERR_PROTOCOL, "%s answered with %s", address,
                      frame_type_name(answer.type));
    }
    frame_in_done(&answer);
    if (r < 0)
        wire_free(message);
    else
        *ret = (Graphps__Status *)message;
    return r;
}

int query_find_address(const struct config *config, char **ret, struct error *reterr) {
    if (config->servers_addresses.count > 0) {
        *ret = mem_strdup(config->servers_addresses.items[0]);
        return 0;
    }
    _cleanup_(mem_free_p) char *path = mem_printf("%s/addresses", config->job_dir);
    char *text;
    size_t len;
    if (file_read_whole(path, 1 << 20, &text, &len, NULL) < 0)
        return error_set(reterr, ERR_UNREACHABLE,
                         "the job %s is not running here: servers.addresses is empty and there is "
                         "no %s; start it with `graphps train`, which writes that",
                         config->job_name, path);
    text[strcspn(text, "\n")] = '\0';
    *ret = text;
    return 0;
}
