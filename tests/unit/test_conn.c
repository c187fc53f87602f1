/* proto/conn and proto/address over real loopback sockets: one loop, connections on both ends, or a
 * raw socket where a peer misbehaves. */
#include "tests/test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "common/lock.h"
#include "common/metrics.h"
#include "common/rng.h"
#include "proto/conn.h"

#define DEADLINE_MS 20000

/* One end of a connection and what it has seen. */
struct end {
    struct conn *conn;
    bool opened, closed;
    struct error why;
    size_t frames;
    uint64_t ids[8192];                                    /* of the first so many */
    void (*answer)(struct end *, const struct frame_in *); /* may be NULL */
};

static uv_loop_t loop;
static uv_tcp_t listener;
static char address[ADDRESS_TEXT_MAX];
static struct end server, client;
static struct conn_limits limits;

static void on_open(struct conn *conn, void *ctx) {
    ((struct end *)ctx)->opened = true;
}

static void on_frame(struct conn *conn, const struct frame_in *frame, void *ctx) {
    struct end *end = ctx;
    ProtobufCMessage *message = NULL;
    struct error err = {0};
    ck_assert_msg(wire_unpack(frame, &message, &err) == 0, "%s", err.text);
    /* Field 1 of every message is its id. */
    if (end->frames < ARRAY_LEN(end->ids))
        end->ids[end->frames] = ((Graphps__Goodbye *)message)->id;
    end->frames++;
    wire_free(message);
    if (end->answer)
        end->answer(end, frame);
}

static void on_close(struct conn *conn, const struct error *why, void *ctx) {
    struct end *end = ctx;
    ck_assert(!end->closed);
    ck_assert_int_eq(conn_state(conn), CONN_CLOSED);
    end->closed = true;
    end->why = *why;
}

static const struct conn_ops ops = {.on_open = on_open, .on_frame = on_frame, .on_close = on_close};

static void on_connection(uv_stream_t *stream, int status) {
    struct error err = {0};
    ck_assert_int_eq(status, 0);
    ck_assert_ptr_null(server.conn);
    ck_assert_int_eq(conn_accept(stream, &limits, &ops, &server, &server.conn, &err), 0);
}

static void on_deadline(uv_timer_t *timer) {
    ck_abort_msg("nothing happened for %d ms", DEADLINE_MS);
}

/* Runs the loop until the condition holds. */
#define RUN_UNTIL(condition)                                                                       \
    do {                                                                                           \
        uv_timer_t deadline_;                                                                      \
        bool gone_ = false;                                                                        \
        uv_timer_init(&loop, &deadline_);                                                          \
        deadline_.data = &gone_;                                                                   \
        uv_timer_start(&deadline_, on_deadline, DEADLINE_MS, 0);                                   \
        while (!(condition))                                                                       \
            uv_run(&loop, UV_RUN_ONCE);                                                            \
        uv_close((uv_handle_t *)&deadline_, on_deadline_closed);                                   \
        while (!gone_)                                                                             \
            uv_run(&loop, UV_RUN_ONCE);                                                            \
    } while (0)

static void on_deadline_closed(uv_handle_t *handle) {
    *(bool *)handle->data = true;
}

static void setup(void) {
    struct error err = {0};
    signal(SIGPIPE, SIG_IGN);
    limits = (struct conn_limits){.payload_max_bytes = 1 << 20, .queue_max_bytes = 1 << 20};
    uv_loop_init(&loop);
    ck_assert_msg(address_listen(&loop, "127.0.0.1:0", &listener, on_connection, address, &err) ==
                      0,
                  "%s", err.text);
}

/* Every handle must be gone: a leak would keep the loop from closing. */
static void teardown(void) {
    conn_close(server.conn, 0);
    if (client.conn)
        conn_close(client.conn, 0);
    uv_close((uv_handle_t *)&listener, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert(server.closed);
    server.conn = conn_unref(server.conn);
    client.conn = conn_unref(client.conn);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
}

static void connect_client(void) {
    struct error err = {0};
    struct conn_limits asking = limits;
    asking.queue_max_bytes = 0;
    ck_assert_int_eq(conn_connect(&loop, address, 5000, &asking, &ops, &client, &client.conn, &err),
                     0);
}

/* A connected socket without a conn, non-blocking. */
static int raw_connect(void) {
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0), small = 4096;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    RUN_UNTIL(server.conn);
    return fd;
}

/* Writes all, running the loop whenever the socket is full, in chunks. */
static void raw_write(int fd, const void *data, size_t len, size_t chunk) {
    for (size_t at = 0; at < len;) {
        size_t part = len - at < chunk ? len - at : chunk;
        ssize_t n = send(fd, (const uint8_t *)data + at, part, 0);
        if (n < 0 && errno != EAGAIN)
            return; /* reset: the other side's right */
        at += n > 0 ? (size_t)n : 0;
        uv_run(&loop, UV_RUN_NOWAIT);
    }
}

/* Reads until the end of the stream into a heap block; -1 for a reset. */
static ssize_t raw_read_all(int fd, uint8_t **ret) {
    size_t len = 0, cap = 1 << 16;
    uint64_t start = time_now_ms();
    *ret = malloc(cap);
    for (;;) {
        if (time_now_ms() - start > DEADLINE_MS)
            ck_abort_msg("no end after %d ms", DEADLINE_MS);
        ssize_t n = recv(fd, *ret + len, cap - len, 0);
        if (n == 0)
            return (ssize_t)len;
        if (n < 0 && errno != EAGAIN)
            return -1;
        len += n > 0 ? (size_t)n : 0;
        if (len == cap)
            *ret = realloc(*ret, cap *= 2);
        uv_run(&loop, UV_RUN_NOWAIT);
    }
}

/* The socket must hold one Error frame with this code and then its end. */
static void expect_error(int fd, int code, const char *part) {
    uint8_t *bytes;
    ssize_t len = raw_read_all(fd, &bytes);
    ck_assert_int_gt(len, 0);
    struct frame_in frame;
    size_t used;
    struct error err = {0};
    ck_assert_int_eq(frame_in_parse(bytes, (size_t)len, 0, &frame, &used, &err), 0);
    ck_assert_int_eq((ssize_t)used, len);
    ck_assert_uint_eq(frame.type, FRAME_ERROR);
    Graphps__Error *message = NULL;
    ck_assert_int_eq(wire_unpack(&frame, (ProtobufCMessage **)&message, &err), 0);
    ck_assert_int_eq(-(int)message->code, code);
    ck_assert_msg(strstr(message->text, part) != NULL, "%s", message->text);
    wire_free(&message->base);
    frame_in_done(&frame);
    free(bytes);
    close(fd);
    RUN_UNTIL(server.closed);
    ck_assert_int_eq(server.why.code, code);
    ck_assert_ptr_nonnull(strstr(server.why.text, "127.0.0.1:"));
    ck_assert_uint_eq(metric_counter(METRIC_FRAMES_BROKEN), 1);
    ck_assert_uint_eq(server.frames, 0);
}

static struct frame_out *goodbye(uint64_t id) {
    Graphps__Goodbye message = GRAPHPS__GOODBYE__INIT;
    message.id = id;
    return frame_out_new(FRAME_GOODBYE, &message.base, NULL, 0);
}

/* A PUSH whose payload of n bytes is a pattern of the id, in two pieces of one shared buffer. */
static struct frame_out *push(uint64_t id, size_t n) {
    Graphps__Push message = GRAPHPS__PUSH__INIT;
    message.id = id;
    struct buf *buf = buf_new(n);
    for (size_t i = 0; i < n; i++)
        buf->data[i] = (uint8_t)(id + i * 3);
    struct frame_out_piece pieces[] = {{buf, buf->data, n / 3},
                                       {buf_ref(buf), buf->data + n / 3, n - n / 3}};
    return frame_out_new(FRAME_PUSH, &message.base, pieces, 2);
}

static void check_push(struct end *end, const struct frame_in *frame) {
    uint64_t id = end->ids[end->frames - 1];
    ck_assert_uint_eq((uintptr_t)frame->payload % 8, 0);
    size_t wrong = 0; /* not an assert per byte: Check reports each one to its parent */
    for (size_t i = 0; i < frame->payload_bytes; i++)
        wrong += frame->payload[i] != (uint8_t)(id + i * 3);
    ck_assert_uint_eq(wrong, 0);
}

/* Promise: what waits in a connection's queue arrives, in order and whole, both ways, also what was
 * sent before it was open; a close flushes. */
static void answer_push(struct end *end, const struct frame_in *frame) {
    check_push(end, frame);
    conn_send(end->conn, push(end->ids[end->frames - 1], frame->payload_bytes / 2));
}

START_TEST(pipelining) {
    server.answer = answer_push;
    client.answer = check_push;
    connect_client();
    for (uint64_t id = 0; id < 400; id++)
        conn_send(client.conn, push(id, id * 37 % 5000));
    RUN_UNTIL(client.opened);
    for (uint64_t id = 400; id < 500; id++)
        conn_send(client.conn, push(id, 100000));
    RUN_UNTIL(client.frames == 500);
    for (uint64_t id = 0; id < 500; id++)
        ck_assert_msg(server.ids[id] == id && client.ids[id] == id, "frame %d", (int)id);

    for (uint64_t id = 500; id < 510; id++)
        conn_send(client.conn, push(id, 900000));
    conn_close(client.conn, 5000);
    conn_send(client.conn, push(999, 8)); /* dropped: it is closing */
    RUN_UNTIL(server.closed && client.closed);
    ck_assert_uint_eq(server.frames, 510);
    ck_assert_uint_eq(client.frames, 500); /* nothing is delivered after conn_close */
    ck_assert_int_eq(server.why.code, 0);
    ck_assert_int_eq(client.why.code, 0);
    ck_assert_uint_eq(conn_bytes_in(server.conn), conn_bytes_out(client.conn));
    ck_assert_uint_gt(conn_bytes_out(client.conn), 100 * 100000 + 10 * 900000);
    ck_assert_uint_eq(metric_counter(METRIC_CONNECTIONS_OPENED), 2);
    ck_assert_uint_ge(metric_counter(METRIC_BYTES_IN), conn_bytes_in(server.conn));
}
END_TEST

/* Promise: frames do not care how the network cuts them. */
START_TEST(odd_chunks) {
    static const size_t chunks[] = {1, 23, 25, 137, 143, 100000};
    uint8_t *bytes = malloc(1 << 20);
    size_t len = 0;
    for (uint64_t id = 0; id < 40; id++) {
        struct frame_out *frame = id % 4 ? push(id, id * 41) : goodbye(id); /* 0: empty body */
        struct buf *flat = frame_out_flatten(frame);
        memcpy(bytes + len, flat->data, flat->len);
        len += flat->len;
        buf_unref(flat);
        frame_out_free(frame);
    }
    server.answer = check_push;
    int fd = raw_connect();
    for (size_t c = 0; c < ARRAY_LEN(chunks); c++) {
        raw_write(fd, bytes, len, chunks[c]);
        RUN_UNTIL(server.frames == 40);
        for (uint64_t id = 0; id < 40; id++)
            ck_assert_uint_eq(server.ids[id], id);
        server.frames = 0;
    }
    free(bytes);
    close(fd);
    RUN_UNTIL(server.closed);
    ck_assert_int_eq(server.why.code, 0);
}
END_TEST

/* Promise: a long frame arrives from a peer of this machine, however little of it fits into
 * the peer's buffer, and its last bytes as soon as they come. */
START_TEST(long_from_nearby) {
    struct frame_out *frame = push(7, 1 << 20);
    struct buf *flat = frame_out_flatten(frame);
    const size_t tail = 70000, last = 300; /* less than the kernel is told to collect */
    int small = 4096;
    server.answer = check_push;
    int fd = raw_connect();
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    for (size_t n = 1; n <= 3; n++) {
        size_t at = flat->len - tail, end = flat->len - last;
        raw_write(fd, flat->data, at, 9000);
        raw_write(fd, flat->data + at, end - at, 1000);
        raw_write(fd, flat->data + end, last, last);
        RUN_UNTIL(server.frames == n);
    }
    raw_write(fd, flat->data, flat->len - tail, 1 << 20);
    close(fd);
    RUN_UNTIL(server.closed);
    ck_assert_int_eq(server.why.code, ERR_CLOSED);
    buf_unref(flat);
    frame_out_free(frame);
}
END_TEST

/* Promise (G6): frames that somebody keeps hold back the reading once they fill the budget, one
 * frame at most is read beyond it, and all goes on as they are let go, in any order. */
enum { KEPT_MAX = 128, BUDGET_BYTES = 3 << 20 };
static struct buf *kept[KEPT_MAX];
static size_t kept_count;

static void keep_frame(struct end *end, const struct frame_in *frame) {
    check_push(end, frame);
    kept[kept_count++] = buf_ref(frame->buf);
}

START_TEST(budget_holds_back) {
    enum { FRAMES = 90, LONG = 600000, SHORT = 9000 };
    struct budget *budget = budget_new(BUDGET_BYTES, 2 << 20);
    server.answer = keep_frame;
    connect_client();
    limits.budget = budget; /* the server's; the client is another process, as it were */
    RUN_UNTIL(client.opened && server.conn);
    for (uint64_t id = 0; id < FRAMES; id++)
        conn_send(client.conn, push(id, id % 3 ? SHORT : LONG));
    size_t most = 0, rounds = 0;
    while (server.frames < FRAMES) {
        uint64_t paused = metric_counter(METRIC_READS_PAUSED_MEMORY);
        RUN_UNTIL(server.frames == FRAMES || metric_counter(METRIC_READS_PAUSED_MEMORY) > paused);
        size_t received = budget_received_bytes(budget);
        most = received > most ? received : most;
        rounds++;
        /* All but the oldest, youngest first. */
        while (kept_count > 1)
            buf_unref(kept[--kept_count]);
        buf_unref(kept[0]);
        kept_count = 0;
    }
    ck_assert_uint_gt(rounds, 5);
    ck_assert_uint_gt(most, 1 << 20);
    ck_assert_uint_le(most, (2 << 20) + LONG + 1024); /* of this connection, and one frame begun */
    while (kept_count > 0)
        buf_unref(kept[--kept_count]);
    for (uint64_t id = 0; id < FRAMES; id++)
        ck_assert_uint_eq(server.ids[id], id);
    conn_close(client.conn, 0);
    RUN_UNTIL(server.closed);
    ck_assert_uint_eq(budget_received_bytes(budget), 0);
    ck_assert_uint_eq(budget_queued_bytes(budget), 0);
    budget_unref(budget);
}
END_TEST

/* Promise (G5): a broken frame is answered with its reason, which arrives although more garbage is
 * under way, and the connection is closed. */
START_TEST(garbage) {
    uint8_t noise[300000];
    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (uint8_t)rng_at(1, i);
    int fd = raw_connect();
    raw_write(fd, noise, sizeof noise, sizeof noise);
    shutdown(fd, SHUT_WR);
    expect_error(fd, ERR_PROTOCOL, "47 50 53 31");
}
END_TEST

/* Promise (G5): a length is refused before a byte of it is allocated. */
START_TEST(claims_4_gib) {
    struct frame_header header = {.type = FRAME_PUSH, .payload_bytes = UINT32_MAX};
    uint8_t bytes[FRAME_HEADER_BYTES];
    frame_header_write(&header, bytes);
    uint64_t before = process_rss_peak_bytes();
    int fd = raw_connect();
    raw_write(fd, bytes, sizeof bytes, sizeof bytes);
    shutdown(fd, SHUT_WR);
    expect_error(fd, ERR_LIMIT, "4294967295 bytes");
    ck_assert_uint_lt(process_rss_peak_bytes() - before, 64 << 20);
}
END_TEST

/* Promise: damaged payloads are not delivered. */
START_TEST(damaged) {
    struct frame_out *frame = push(1, 5000);
    struct buf *flat = frame_out_flatten(frame);
    flat->data[flat->len - 100] ^= 4;
    int fd = raw_connect();
    raw_write(fd, flat->data, flat->len, 1000);
    shutdown(fd, SHUT_WR);
    frame_out_free(frame);
    buf_unref(flat);
    expect_error(fd, ERR_CHECKSUM, "damaged");
}
END_TEST

/* Promise: a peer that ends in the middle of a frame is told apart from one that leaves. */
START_TEST(ends_in_a_frame) {
    struct frame_out *frame = push(1, 5000);
    struct buf *flat = frame_out_flatten(frame);
    int fd = raw_connect();
    raw_write(fd, flat->data, flat->len - 1, 5000);
    close(fd);
    frame_out_free(frame);
    buf_unref(flat);
    RUN_UNTIL(server.closed);
    ck_assert_int_eq(server.why.code, ERR_CLOSED);
    ck_assert_ptr_nonnull(strstr(server.why.text, "middle of a frame"));
    ck_assert_uint_eq(metric_counter(METRIC_FRAMES_BROKEN), 0);
}
END_TEST

/* Promise (G2): a silent peer is closed in time; bytes that never become a frame are silence too.
 */
START_TEST(silent_from_the_start) {
    limits.first_ms = 60;
    limits.idle_ms = 600000;
    uint64_t start = time_now_ms();
    int fd = raw_connect();
    raw_write(fd, "GPS1", 4, 1);
    RUN_UNTIL(server.closed);
    ck_assert_int_eq(server.why.code, ERR_TIMEOUT);
    ck_assert_uint_ge(time_now_ms() - start, 50);
    close(fd);
}
END_TEST

START_TEST(silent_later) {
    limits.first_ms = 60000;
    limits.idle_ms = 60;
    uint64_t start = time_now_ms();
    connect_client();
    conn_send(client.conn, goodbye(1));
    RUN_UNTIL(server.closed || client.closed);
    ck_assert_uint_ge(time_now_ms() - start, 50);
    ck_assert_uint_eq(server.frames, 1);
    /* Both count the same silence; whoever is first, the other may see it as the peer's close. */
    RUN_UNTIL(server.closed && client.closed);
    ck_assert(server.why.code == ERR_TIMEOUT || client.why.code == ERR_TIMEOUT);
}
END_TEST

/* Promise (G6): a peer that asks and does not read fills the queue's limit and no more; nothing is
 * lost once it reads. */
static void answer_weights(struct end *end, const struct frame_in *frame) {
    conn_send(end->conn, push(end->ids[end->frames - 1], 200000));
}

START_TEST(back_pressure) {
    enum { REQUESTS = 300 };
    server.answer = answer_weights;
    int fd = raw_connect();
    for (uint64_t id = 0; id < REQUESTS; id++) {
        struct frame_out *frame = goodbye(id);
        struct buf *flat = frame_out_flatten(frame);
        raw_write(fd, flat->data, flat->len, flat->len);
        buf_unref(flat);
        frame_out_free(frame);
    }
    for (int i = 0; i < 100; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
    /* The queue's megabyte, one read's worth of requests, and what the kernel's buffers took. */
    ck_assert_uint_lt(server.frames, REQUESTS / 4);

    shutdown(fd, SHUT_WR);
    uint8_t *bytes, *at;
    size_t used, got = 0, expected = 0, len = 0;
    uint64_t start = time_now_ms();
    at = bytes = malloc(REQUESTS * 201000ul);
    while (got < REQUESTS) {
        if (time_now_ms() - start > DEADLINE_MS)
            ck_abort_msg("no end after %d ms", DEADLINE_MS);
        ssize_t n = recv(fd, bytes + len, REQUESTS * 201000ul - len, 0);
        len += n > 0 ? (size_t)n : 0;
        uv_run(&loop, UV_RUN_NOWAIT);
        struct frame_in frame;
        struct error err = {0};
        while (frame_in_parse(at, len - (size_t)(at - bytes), 1 << 20, &frame, &used, &err) == 0) {
            ck_assert_uint_eq(frame.payload[0], (uint8_t)expected++);
            frame_in_done(&frame);
            at += used;
            got++;
        }
        if (n == 0)
            break;
    }
    /* The end of our requests closes the connection once they are read; all but those still queued
     * then were answered. */
    ck_assert_uint_gt(got, REQUESTS - 16);
    free(bytes);
    close(fd);
}
END_TEST

/* Promise: any thread may post while the connection lives, closes or is closed; each thread's
 * frames keep their order. */
enum { POSTERS = 4, POSTS = 1000 };

static void *post_many(void *argument) {
    uint64_t poster = (uint64_t)(uintptr_t)argument;
    for (uint64_t i = 0; i < POSTS; i++)
        conn_post(server.conn, goodbye(poster * POSTS + i));
    return NULL;
}

static void start_posters(pthread_t threads[POSTERS]) {
    for (uintptr_t i = 0; i < POSTERS; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, post_many, (void *)i), 0);
}

static void join_posters(pthread_t threads[POSTERS]) {
    for (size_t i = 0; i < POSTERS; i++)
        pthread_join(threads[i], NULL);
}

START_TEST(post_from_threads) {
    pthread_t threads[POSTERS];
    connect_client();
    RUN_UNTIL(client.opened && server.conn);
    start_posters(threads);
    RUN_UNTIL(client.frames == POSTERS * POSTS);
    join_posters(threads);
    uint64_t next[POSTERS] = {0};
    for (size_t i = 0; i < POSTERS * POSTS; i++)
        ck_assert_uint_eq(client.ids[i] % POSTS, next[client.ids[i] / POSTS]++);

    start_posters(threads);
    RUN_UNTIL(client.frames > POSTERS * POSTS);
    conn_close(server.conn, 1000);
    RUN_UNTIL(server.closed && client.closed);
    join_posters(threads);
    conn_post(server.conn, goodbye(0));
}
END_TEST

/* Promise: a connection that cannot be made says so, with the address and the cause. */
START_TEST(unreachable) {
    static const struct {
        const char *address, *part;
    } cases[] = {
        {"127.0.0.1:1", "connection refused"},
        {"[::1]:1", NULL},
        /* A label above 63 characters: no name server is asked, so none can keep us waiting. */
        {"a-name-that-is-longer-than-any-label-of-a-host-name-may-be-in-the-dns.invalid:80",
         "does not resolve"},
    };
    struct error err = {0};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct end end = {0};
        ck_assert_int_eq(
            conn_connect(&loop, cases[i].address, 5000, &limits, &ops, &end, &end.conn, &err), 0);
        conn_send(end.conn, goodbye(1));
        conn_post(end.conn, goodbye(2));
        RUN_UNTIL(end.closed);
        ck_assert_int_eq(end.why.code, ERR_UNREACHABLE);
        ck_assert_ptr_nonnull(strstr(end.why.text, cases[i].address));
        if (cases[i].part) /* without IPv6 there is another cause */
            ck_assert_msg(strstr(end.why.text, cases[i].part) != NULL, "%s", end.why.text);
        ck_assert(!end.opened);
        conn_unref(end.conn);
    }
    struct end end = {0};
    ck_assert_int_eq(conn_connect(&loop, "nonsense", 5000, &limits, &ops, &end, &end.conn, &err),
                     ERR_CONFIG);

    /* Closed before it was open: no error. */
    ck_assert_int_eq(conn_connect(&loop, address, 5000, &limits, &ops, &end, &end.conn, &err), 0);
    conn_close(end.conn, 1000);
    RUN_UNTIL(end.closed);
    ck_assert_int_eq(end.why.code, 0);
    conn_unref(end.conn);

    /* A name with several addresses, of which only one has a listener. */
    char named[ADDRESS_TEXT_MAX];
    snprintf(named, sizeof named, "localhost%s", strrchr(address, ':'));
    ck_assert_int_eq(conn_connect(&loop, named, 5000, &limits, &ops, &client, &client.conn, &err),
                     0);
    RUN_UNTIL(client.opened && server.conn);
}
END_TEST

/* Promise: a socket accepted elsewhere can be taken over by a loop. */
START_TEST(adopt) {
    struct error err = {0};
    int fd = raw_connect();
    int pair[2];
    ck_assert_int_eq(pipe(pair), 0);
    struct end end = {0};
    ck_assert_int_eq(conn_adopt(&loop, pair[0], &limits, &ops, &end, &end.conn, &err), ERR_CLOSED);
    ck_assert_int_eq(fcntl(pair[0], F_GETFD), -1); /* taken over all the same */
    close(pair[1]);

    ck_assert_int_eq(conn_adopt(&loop, fd, &limits, &ops, &client, &client.conn, &err), 0);
    conn_send(client.conn, goodbye(5));
    RUN_UNTIL(server.frames == 1);
    ck_assert_uint_eq(server.ids[0], 5);
}
END_TEST

/* Promise: addresses are read as people write them. */
START_TEST(addresses) {
    static const struct {
        const char *text, *host;
        int port;
    } cases[] = {
        {"localhost:80", "localhost", 80},
        {"[::1]:65535", "::1", 65535},
        {"shard-0.graphps:7000", "shard-0.graphps", 7000},
        {"0.0.0.0:0", "0.0.0.0", 0},
        {"", NULL, 0},
        {"host", NULL, 0},
        {":80", NULL, 0},
        {"host:", NULL, 0},
        {"host:65536", NULL, 0},
        {"host:-1", NULL, 0},
        {"host: 1", NULL, 0},
        {"host:8x", NULL, 0},
        {"::1:80", NULL, 0},
        {"[::1:80", NULL, 0},
        {"[::1]80", NULL, 0},
        {"[]:80", NULL, 0},
    };
    char host[ADDRESS_HOST_MAX];
    uint16_t port;
    struct error err = {0};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int r = address_split(cases[i].text, host, &port, &err);
        ck_assert_msg(r == (cases[i].host ? 0 : ERR_CONFIG), "'%s'", cases[i].text);
        if (cases[i].host) {
            ck_assert_str_eq(host, cases[i].host);
            ck_assert_int_eq(port, cases[i].port);
        }
    }
}
END_TEST

/* Promise: a port in use is refused with the address and what to do (exit code 75). */
START_TEST(in_use) {
    uv_tcp_t second;
    char bound[ADDRESS_TEXT_MAX];
    struct error err = {0};
    ck_assert_int_eq(address_listen(&loop, address, &second, on_connection, bound, &err),
                     ERR_IN_USE);
    ck_assert_ptr_nonnull(strstr(err.text, address));
    uv_close((uv_handle_t *)&second, NULL);
    uv_run(&loop, UV_RUN_NOWAIT);
    ck_assert_int_eq(address_listen(&loop, "192.0.2.1:0", &second, on_connection, bound, &err),
                     ERR_CONFIG);
    uv_close((uv_handle_t *)&second, NULL);
    uv_run(&loop, UV_RUN_NOWAIT);
    connect_client();
    RUN_UNTIL(server.conn);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("conn");
    TCase *tcase = tcase_create("conn");
    tcase_set_timeout(tcase, 30);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, pipelining);
    tcase_add_test(tcase, odd_chunks);
    tcase_add_test(tcase, long_from_nearby);
    tcase_add_test(tcase, budget_holds_back);
    tcase_add_test(tcase, garbage);
    tcase_add_test(tcase, claims_4_gib);
    tcase_add_test(tcase, damaged);
    tcase_add_test(tcase, ends_in_a_frame);
    tcase_add_test(tcase, silent_from_the_start);
    tcase_add_test(tcase, silent_later);
    tcase_add_test(tcase, back_pressure);
    tcase_add_test(tcase, post_from_threads);
    tcase_add_test(tcase, unreachable);
    tcase_add_test(tcase, adopt);
    tcase_add_test(tcase, in_use);
    suite_add_tcase(suite, tcase);
    TCase *pure = tcase_create("address");
    tcase_add_test(pure, addresses);
    suite_add_tcase(suite, pure);
    return test_run(suite);
}
