/* Blocking sockets and frames; what is answered is the test's. */
#include "tests/fake_shard.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/test.h"

/* False when the peer has closed. */
static bool read_whole(int fd, uint8_t *bytes, size_t len) {
    while (len > 0) {
        ssize_t n = read(fd, bytes, len);
        if (n <= 0)
            return false;
        bytes += n;
        len -= (size_t)n;
    }
    return true;
}

void fake_shard_reply(int fd, enum frame_type type, const void *message, const float *payload,
                      size_t floats) {
    struct frame_out_piece piece = {0};
    if (floats) {
        piece.buf = buf_new(floats * sizeof(float));
        memcpy(piece.buf->data, payload, floats * sizeof(float));
        piece.data = piece.buf->data;
        piece.len = piece.buf->len;
    }
    struct frame_out *out = frame_out_new(type, message, &piece, floats ? 1 : 0);
    struct buf *flat = frame_out_flatten(out);
    /* A peer that has just closed is its own matter. */
    if (send(fd, flat->data, flat->len, MSG_NOSIGNAL) != (ssize_t)flat->len)
        shutdown(fd, SHUT_RDWR);
    buf_unref(flat);
    frame_out_free(out);
}

static bool serve_frame(struct fake_shard *shard, int fd) {
    uint8_t bytes[FRAME_HEADER_BYTES];
    struct frame_header header;
    struct frame_in frame;
    struct error err;
    if (!read_whole(fd, bytes, sizeof bytes))
        return false;
    ck_assert_int_eq(frame_header_read(bytes, 1 << 24, &header, &err), 0);
    struct buf *buf = buf_new(frame_wire_bytes(&header));
    bool more = read_whole(fd, buf->data + sizeof bytes, buf->len - sizeof bytes);
    if (more) {
        ProtobufCMessage *message = NULL;
        ck_assert_int_eq(frame_in_view(buf, buf->data, &header, NULL, &frame, &err), 0);
        ck_assert_int_eq(wire_unpack(&frame, &message, &err), 0);
        more = shard->answer(shard, fd, &frame, message);
        wire_free(message);
        frame_in_done(&frame);
    }
    buf_unref(buf);
    return more;
}

static void *shard_run(void *ctx) {
    struct fake_shard *shard = ctx;
    for (;;) {
        int fd = accept(shard->listener, NULL, NULL);
        if (fd < 0)
            return NULL;
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        atomic_fetch_add(&shard->accepted, 1);
        if (shard->greeting)
            send(fd, shard->greeting, strlen(shard->greeting), MSG_NOSIGNAL);
        else
            while (serve_frame(shard, fd))
                continue;
        shutdown(fd, SHUT_WR);
        uint8_t rest;
        while (read(fd, &rest, 1) > 0) /* else closing would take back what was sent */
            continue;
        close(fd);
    }
}

void fake_shard_start(struct fake_shard *shard) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    shard->listener = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert_int_eq(bind(shard->listener, (struct sockaddr *)&address, sizeof address), 0);
    ck_assert_int_eq(getsockname(shard->listener, (struct sockaddr *)&address, &len), 0);
    snprintf(shard->address, sizeof shard->address, "127.0.0.1:%u", ntohs(address.sin_port));
    ck_assert_int_eq(listen(shard->listener, 8), 0);
    ck_assert_int_eq(pthread_create(&shard->thread, NULL, shard_run, shard), 0);
}

void fake_shard_stop(struct fake_shard *shard) {
    shutdown(shard->listener, SHUT_RDWR);
    pthread_join(shard->thread, NULL);
    close(shard->listener);
}
