/* The yardstick: what the kernel's TCP on loopback moves between two processes when nobody does
 * anything with the bytes. A connection is told with its first bytes how long requests and answers
 * are; from then on only counters say where one ends. */
#include "cli/bench.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/lock.h"
#include "common/mem.h"

#define BUFFER_MIN_BYTES (1u << 20) /* many small messages in one call */

/* One direction of a connection. The buffer holds whole messages and is gone through again and
 * again, as a program would that had several. */
struct half {
    uint64_t done, due; /* bytes; due is for the sender */
    uint32_t message_bytes;
    size_t buffer_bytes;
    uint8_t *buffer;
};

struct stream {
    int fd;
    struct half in, out;
};

struct greeting {
    uint32_t ask_bytes, answer_bytes, buffer_bytes;
};

static void half_init(struct half *half, uint32_t message_bytes) {
    size_t count = BUFFER_MIN_BYTES / message_bytes;
    *half = (struct half){.message_bytes = message_bytes,
                          .buffer_bytes = (count > 1 ? count : 1) * message_bytes};
    half->buffer = mem_alloc(half->buffer_bytes);
    memset(half->buffer, 1, half->buffer_bytes); /* or the kernel would send one page of zeros */
}

static void stream_done(struct stream *stream) {
    if (stream->fd >= 0)
        close(stream->fd);
    mem_free(stream->in.buffer);
    mem_free(stream->out.buffer);
    *stream = (struct stream){.fd = -1};
}

/* As much as the kernel takes. 0, or -1: the connection is gone. */
static int stream_write(struct stream *stream) {
    struct half *out = &stream->out;
    while (out->done < out->due) {
        size_t at = out->done % out->buffer_bytes, room = out->buffer_bytes - at;
        uint64_t left = out->due - out->done;
        ssize_t n = send(stream->fd, out->buffer + at, left < room ? left : room,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        out->done += (uint64_t)n;
    }
    return 0;
}

/* As much as the kernel has. */
static int stream_read(struct stream *stream) {
    struct half *in = &stream->in;
    size_t at = in->done % in->buffer_bytes;
    ssize_t n = recv(stream->fd, in->buffer + at, in->buffer_bytes - at, MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    in->done += (uint64_t)n;
    return n == 0 ? -1 : 0;
}

static uint64_t stream_received(const struct stream *stream) {
    return stream->in.done / stream->in.message_bytes;
}

static struct pollfd stream_poll(const struct stream *stream) {
    bool writes = stream->out.done < stream->out.due;
    return (struct pollfd){.fd = stream->fd, .events = (short)(POLLIN | (writes ? POLLOUT : 0))};
}

/* --- the end that answers --- */

int bench_bare_listen(int *ret_listener, uint16_t *ret_port, struct error *reterr) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, len) < 0 || listen(fd, 256) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &len) < 0) {
        int why = errno;
        if (fd >= 0)
            close(fd);
        return error_set(reterr, ERR_IO, "cannot listen on 127.0.0.1: %s", strerror(why));
    }
    *ret_listener = fd;
    *ret_port = ntohs(address.sin_port);
    return 0;
}

static void set_options(int fd, uint32_t buffer_bytes) {
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (buffer_bytes > 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){(int)buffer_bytes}, sizeof(int));
}

uint32_t bench_bare_buffer(uint32_t asked_bytes) {
    int given = 0, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    set_options(fd, asked_bytes);
    if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &given, &(socklen_t){sizeof given}) < 0)
        given = 0;
    close(fd);
    return (uint32_t)given;
}

/* The greeting comes in one piece, since it is the first that the peer sends. */
static int serve_accept(int listener, struct stream *ret) {
    struct greeting greeting;
    *ret = (struct stream){.fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)};
    if (ret->fd < 0)
        return -1;
    if (recv(ret->fd, &greeting, sizeof greeting, MSG_WAITALL) != (ssize_t)sizeof greeting) {
        close(ret->fd);
        return -1;
    }
    set_options(ret->fd, greeting.buffer_bytes);
    half_init(&ret->in, greeting.ask_bytes);
    half_init(&ret->out, greeting.answer_bytes);
    return 0;
}

static int serve_step(struct stream *stream, short events) {
    if ((events & (POLLIN | POLLHUP | POLLERR)) && stream_read(stream) < 0)
        return -1;
    stream->out.due = stream_received(stream) * stream->out.message_bytes;
    return stream_write(stream);
}

int bench_bare_serve(int listener) {
    struct stream *streams = mem_array(LAYOUT_SHARDS_MAX, sizeof *streams);
    struct pollfd *items = mem_array(LAYOUT_SHARDS_MAX + 1, sizeof *items);
    size_t count = 0;
    for (;;) {
        for (size_t i = 0; i < count; i++)
            items[i] = stream_poll(&streams[i]);
        items[count] =
            (struct pollfd){.fd = count < LAYOUT_SHARDS_MAX ? listener : -1, .events = POLLIN};
        if (poll(items, count + 1, -1) < 0 && errno != EINTR)
            return error_exit_code(ERR_IO);
        bool comes = items[count].revents & POLLIN;
        for (size_t i = count; i-- > 0;) {
            if (items[i].revents == 0 || serve_step(&streams[i], items[i].revents) == 0)
                continue;
            stream_done(&streams[i]);
            streams[i] = streams[--count]; /* which had its turn */
        }
        if (comes && serve_accept(listener, &streams[count]) == 0)
            count++;
    }
}

/* --- the end that asks --- */

struct asker {
    const struct bench_plan *plan;
    struct bench_desk *desk;
    struct bench_meter meter;
    size_t count; /* of streams: the shards */
    struct stream *streams;
    struct pollfd *items;
    /* per stream */
    uint64_t *asked, *answered;
    uint64_t (*started_ns)[BENCH_DEPTH_MAX]; /* of the operations in flight, by number */
    size_t turn;                             /* with order.single: whose it is */
};

static int ask_connect(struct stream *stream, uint16_t port, struct greeting greeting,
                       struct error *reterr) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    *stream = (struct stream){.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    if (stream->fd < 0 || connect(stream->fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        send(stream->fd, &greeting, sizeof greeting, MSG_NOSIGNAL) != (ssize_t)sizeof greeting)
        return error_set(reterr, ERR_IO, "bare TCP on 127.0.0.1:%u: %s", port, strerror(errno));
    set_options(stream->fd, greeting.buffer_bytes);
    half_init(&stream->in, greeting.answer_bytes);
    half_init(&stream->out, greeting.ask_bytes);
    return 0;
}

/* Begins what may be begun on a stream, and sends. */
static int ask_more(struct asker *asker, size_t i) {
    const struct bench_order *order = &asker->desk->order;
    struct stream *stream = &asker->streams[i];
    uint64_t depth = order->single ? asker->turn == i : order->depth;
    while (!asker->meter.ended && asker->asked[i] - asker->answered[i] < depth) {
        asker->started_ns[i][asker->asked[i]++ % BENCH_DEPTH_MAX] = time_now_ns();
        stream->out.due += stream->out.message_bytes;
    }
    return stream_write(stream);
}

static int ask_step(struct asker *asker, size_t i, short events) {
    struct stream *stream = &asker->streams[i];
    if ((events & (POLLIN | POLLHUP | POLLERR)) && stream_read(stream) < 0)
        return -1;
    size_t turn = asker->turn;
    for (; asker->answered[i] < stream_received(stream); asker->answered[i]++) {
        bench_meter_count(&asker->meter,
                          asker->started_ns[i][asker->answered[i] % BENCH_DEPTH_MAX]);
        asker->turn = (i + 1) % asker->count;
    }
    if (ask_more(asker, i) < 0)
        return -1;
    bool passed = asker->desk->order.single && asker->turn != turn;
    return passed ? ask_more(asker, asker->turn) : 0;
}

static bool ask_waits(const struct asker *asker) {
    for (size_t i = 0; i < asker->count; i++)
        if (asker->asked[i] > asker->answered[i])
            return true;
    return false;
}

static int ask_run(struct asker *asker, struct error *reterr) {
    bench_meter_begin(&asker->meter, asker->desk);
    for (size_t i = 0; i < asker->count; i++)
        if (ask_more(asker, i) < 0)
            return error_set(reterr, ERR_CLOSED, "a bare connection broke");
    while (ask_waits(asker)) {
        for (size_t i = 0; i < asker->count; i++)
            asker->items[i] = stream_poll(&asker->streams[i]);
        if (poll(asker->items, asker->count, -1) < 0 && errno != EINTR)
            return error_set(reterr, ERR_IO, "poll: %s", strerror(errno));
        for (size_t i = 0; i < asker->count; i++)
            if (asker->items[i].revents && ask_step(asker, i, asker->items[i].revents) < 0)
                return error_set(reterr, ERR_CLOSED, "a bare connection broke");
    }
    return 0;
}

/* New connections for every measurement. */
static int ask_measure(struct asker *asker, uint16_t port, struct error *reterr) {
    const struct bench_order *order = &asker->desk->order;
    struct greeting greeting = {
        .ask_bytes = bench_ask_bytes(asker->plan, order->size, order->pattern),
        .answer_bytes = bench_answer_bytes(asker->plan, order->size, order->pattern),
        .buffer_bytes = asker->plan->settings->bare_buffer_bytes,
    };
    size_t opened = 0;
    int r = 0;
    for (; opened < asker->count && r == 0; opened++) {
        asker->asked[opened] = asker->answered[opened] = 0;
        r = ask_connect(&asker->streams[opened], port, greeting, reterr);
    }
    asker->turn = 0;
    if (r == 0)
        r = ask_run(asker, reterr);
    while (opened > 0)
        stream_done(&asker->streams[--opened]);
    return r;
}

int bench_bare_main(const struct bench_plan *plan, uint16_t port, int fd, struct bench_desk *desk) {
    size_t shards = plan->layout->shard_count;
    struct asker asker = {.plan = plan, .desk = desk, .count = shards};
    asker.streams = mem_array(shards, sizeof *asker.streams);
    asker.items = mem_array(shards, sizeof *asker.items);
    asker.asked = mem_array(shards, sizeof *asker.asked);
    asker.answered = mem_array(shards, sizeof *asker.answered);
    asker.started_ns = mem_array(shards, sizeof *asker.started_ns);
    char word;
    while (read(fd, &word, 1) == 1 && word == BENCH_GO) {
        word = ask_measure(&asker, port, &desk->error) < 0 ? BENCH_FAILED : BENCH_DONE;
        if (write(fd, &word, 1) != 1)
            break;
    }
    return 0; /* the kernel takes the memory */
}
