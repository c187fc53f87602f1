/* Talking to a shard by hand. */
#include "tests/peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "tests/test.h"

enum { TIMEOUT_S = 60, FRAME_MAX = 1 << 20 };

int peer_connect(const char *address) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval limit = {.tv_sec = TIMEOUT_S};
    to.sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    ck_assert_msg(fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) == 0,
                  "cannot connect to %s: %s", address, strerror(errno));
    return fd;
}

bool peer_send_bytes(int fd, const void *bytes, size_t len) {
    for (size_t sent = 0; sent < len;) {
        ssize_t n = send(fd, (const char *)bytes + sent, len - sent, MSG_NOSIGNAL);
        if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
            return false;
        ck_assert_msg(n > 0, "send: %s", strerror(errno));
        sent += (size_t)n;
    }
    return true;
}

void peer_send(int fd, enum frame_type type, const ProtobufCMessage *message) {
    struct frame_out *frame = frame_out_new(type, message, NULL, 0);
    struct buf *bytes = frame_out_flatten(frame);
    frame_out_free(frame);
    ck_assert_msg(peer_send_bytes(fd, bytes->data, bytes->len), "the other end has closed");
    buf_unref(bytes);
}

static void receive_all(int fd, uint8_t *bytes, size_t len) {
    for (size_t got = 0; got < len;) {
        ssize_t n = recv(fd, bytes + got, len - got, 0);
        ck_assert_msg(n > 0, "no frame: %s", n == 0 ? "the other end has closed" : strerror(errno));
        got += (size_t)n;
    }
}

ProtobufCMessage *peer_receive(int fd, enum frame_type *ret_type) {
    static uint8_t bytes[FRAME_MAX];
    struct frame_header header;
    struct frame_in frame;
    struct error err;
    size_t used;
    receive_all(fd, bytes, FRAME_HEADER_BYTES);
    ck_assert_msg(frame_header_read(bytes, FRAME_MAX / 2, &header, &err) == 0, "%s", err.text);
    size_t len = frame_wire_bytes(&header);
    ck_assert_uint_le(len, sizeof bytes);
    receive_all(fd, bytes + FRAME_HEADER_BYTES, len - FRAME_HEADER_BYTES);
    ck_assert_msg(frame_in_parse(bytes, len, FRAME_MAX / 2, &frame, &used, &err) == 0, "%s",
                  err.text);
    ProtobufCMessage *message = NULL;
    ck_assert_msg(wire_unpack(&frame, &message, &err) == 0, "%s", err.text);
    *ret_type = frame.type;
    frame_in_done(&frame);
    return message;
}

void peer_wait_closed(int fd) {
    char bytes[4096];
    ssize_t n;
    while ((n = recv(fd, bytes, sizeof bytes, 0)) > 0)
        ;
    ck_assert_msg(n == 0 || errno == ECONNRESET, "the connection stays open: %s", strerror(errno));
    close(fd);
}

Graphps__Status *peer_status(const char *address, const char *job) {
    int fd = peer_connect(address);
    Graphps__StatusRequest request = GRAPHPS__STATUS_REQUEST__INIT;
    request.id = 1;
    request.job = (char *)job;
    peer_send(fd, FRAME_STATUS_REQUEST, &request.base);
    enum frame_type type;
    ProtobufCMessage *status = peer_receive(fd, &type);
    ck_assert_msg(type == FRAME_STATUS, "status was answered with %s", frame_type_name(type));
    close(fd);
    return (Graphps__Status *)status;
}
