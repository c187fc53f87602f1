/* Loops, their threads, and the records that tie a connection to its session. Knows no message. */
#include "server/io.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "common/httpd.h"
#include "common/list.h"
#include "common/lock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/metrics.h"
#include "proto/conn.h"
#include "server/session.h"

#define IO_FIRST_MS 10000 /* a stranger says something within this time */
#define IO_IDLE_MS 600000 /* far beyond any heartbeat */
#define IO_FLUSH_MS 1000
#define IO_BEAT_MS 500
/* Anybody can connect and fail, as often as he likes: lines about those who never said hello are at
 * most so many in that time, and one with the number of the others. */
#define IO_STRANGER_LINES 20
#define IO_STRANGER_MS 60000
#define IO_HEARTBEATS 16 /* loops beyond these are not watched: /healthz has places for 32 */

struct io_loop {
    /* set at start, never changed */
    struct io *io;
    size_t number;
    pthread_t thread;
    int heartbeat; /* -1: none */

    /* its thread only */
    uv_loop_t loop;
    uv_async_t wake;
    uv_timer_t beat;
    struct list conns; /* struct io_conn */
    bool ending;

    /* guards: fds, fd_count, stop */
    struct lock lock;
    int *fds; /* accepted sockets on their way here */
    size_t fd_count;
    bool stop;
};

struct io {
    /* set at start, never changed */
    struct server *server;
    struct conn_limits limits;
    struct budget *budget; /* a reference */
    size_t loop_count, conns_max;
    struct io_loop *loops;
    size_t thread_count; /* loops 1 to this have a thread */
    char address[ADDRESS_TEXT_MAX];

    /* loop 0 only */
    uv_tcp_t listener;
    bool listening;
    size_t next;           /* whose turn it is */
    uint64_t strangers_ms; /* when to begin counting them anew */

    atomic_size_t conns;     /* open ones, and sockets on their way */
    atomic_size_t strangers; /* that failed since counting began */
};

struct io_conn {
    struct list node;
    struct io_loop *loop;
    struct conn *conn; /* a reference */
    struct session *session;
    bool greeted; /* said who it is, or tried to */
};

void io_send(void *ctx, void *conn, struct frame_out *frame) {
    conn_post(conn, frame);
}

void io_ref(void *ctx, void *conn) {
    conn_ref(conn);
}

void io_unref(void *ctx, void *conn) {
    conn_unref(conn);
}

static void io_count(struct io *io, int change) {
    size_t now = atomic_fetch_add(&io->conns, (size_t)change) + (size_t)change;
    metric_set(METRIC_CONNECTIONS, (double)now);
}

/* ---- strangers ---- */

/* May a line be written about one more of them? */
static bool io_stranger_line(struct io *io) {
    return atomic_fetch_add(&io->strangers, 1) < IO_STRANGER_LINES;
}

static void io_sum_up_strangers(struct io *io) {
    size_t count = atomic_exchange(&io->strangers, 0);
    if (count > IO_STRANGER_LINES)
        log_info("more connections without a hello were lost", "count=%zu",
                 count - IO_STRANGER_LINES);
}

/* ---- connections ---- */

static void io_on_frame(struct conn *conn, const struct frame_in *frame, void *ctx) {
    struct io_conn *record = ctx;
    struct timespec wall;
    record->greeted |= frame->type == FRAME_HELLO || frame->type == FRAME_PEER_REPORT;
    clock_gettime(CLOCK_REALTIME, &wall);
    session_frame(record->session, frame, time_now_ms(),
                  (uint64_t)wall.tv_sec * 1000 + (uint64_t)wall.tv_nsec / 1000000);
}

static void io_end_if_empty(struct io_loop *loop) {
    if (!loop->ending || !list_empty(&loop->conns) || uv_is_closing((uv_handle_t *)&loop->wake))
        return;
    uv_close((uv_handle_t *)&loop->wake, NULL);
    uv_close((uv_handle_t *)&loop->beat, NULL);
}

static void io_on_close(struct conn *conn, const struct error *why, void *ctx) {
    struct io_conn *record = ctx;
    struct io_loop *loop = record->loop;
    if (why->code && (record->greeted || io_stranger_line(loop->io)))
        log_info("connection lost", "code=%s why=%s", error_name(why->code),
                 log_quote(error_text(why)));
    else
        log_debug("connection closed", "peer=%s", conn_peer(conn));
    session_free(record->session);
    list_remove(&record->node);
    conn_unref(record->conn);
    mem_free(record);
    io_count(loop->io, -1);
    io_end_if_empty(loop);
}

static const struct conn_ops io_conn_ops = {.on_frame = io_on_frame, .on_close = io_on_close};

static void io_open(struct io_loop *loop, int fd) {
    struct io *io = loop->io;
    struct io_conn *record = mem_alloc(sizeof *record);
    struct error err = {0};
    record->loop = loop;
    if (conn_adopt(&loop->loop, fd, &io->limits, &io_conn_ops, record, &record->conn, &err) < 0) {
        if (io_stranger_line(io))
            log_info("connection lost", "code=%s why=%s", error_name(err.code),
                     log_quote(error_text(&err)));
        mem_free(record);
        io_count(io, -1);
        return;
    }
    list_append(&loop->conns, &record->node);
    record->session = session_new(io->server, record->conn, conn_peer(record->conn));
    log_debug("connection accepted", "peer=%s thread=%zu", conn_peer(record->conn), loop->number);
}

/* ---- handing out ---- */

static void io_give(struct io_loop *loop, int fd) {
    lock_take(&loop->lock);
    loop->fds = mem_resize(loop->fds, loop->fd_count * sizeof *loop->fds,
                           (loop->fd_count + 1) * sizeof *loop->fds);
    loop->fds[loop->fd_count++] = fd;
    uv_async_send(&loop->wake);
    lock_release(&loop->lock);
}

static void io_on_wake(uv_async_t *wake) {
    struct io_loop *loop = wake->data;
    lock_take(&loop->lock);
    int *fds = TAKE_PTR(loop->fds);
    size_t count = loop->fd_count;
    loop->fd_count = 0;
    bool stop = loop->stop;
    lock_release(&loop->lock);

    for (size_t i = 0; i < count; i++)
        io_open(loop, fds[i]);
    mem_free(fds);
    if (stop && !loop->ending) {
        loop->ending = true;
        for (LIST_EACH(node, &loop->conns))
            conn_close(LIST_OWNER(node, struct io_conn, node)->conn, IO_FLUSH_MS);
        io_end_if_empty(loop);
    }
}

static void io_on_temporary_closed(uv_handle_t *handle) {
    mem_free(handle);
}

/* libuv binds an accepted socket to the listener's loop, so the socket is duplicated for whichever
 * loop gets it. */
static void io_on_connection(uv_stream_t *listener, int status) {
    struct io *io = listener->data;
    if (status < 0) {
        if (io_stranger_line(io))
            log_warning("a connection was not accepted", "why=%s", log_quote(uv_strerror(status)));
        return;
    }
    uv_tcp_t *accepted = mem_alloc(sizeof *accepted);
    int fd, copy = -1;
    uv_tcp_init(listener->loop, accepted);
    if (uv_accept(listener, (uv_stream_t *)accepted) == 0 &&
        uv_fileno((uv_handle_t *)accepted, &fd) == 0 && atomic_load(&io->conns) < io->conns_max)
        copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    uv_close((uv_handle_t *)accepted, io_on_temporary_closed);
    if (copy < 0) {
        if (io_stranger_line(io))
            log_warning("a connection was refused", "open=%zu most=%zu", atomic_load(&io->conns),
                        io->conns_max);
        return;
    }
    io_count(io, 1);
    io_give(&io->loops[io->next], copy);
    io->next = (io->next + 1) % io->loop_count;
}

/* ---- life ---- */

static void io_on_beat(uv_timer_t *beat) {
    struct io_loop *loop = beat->data;
    if (loop->heartbeat >= 0)
        heartbeat_beat(loop->heartbeat);
    uint64_t now_ms = time_now_ms();
    if (loop->number == 0 && now_ms >= loop->io->strangers_ms) {
        loop->io->strangers_ms = now_ms + IO_STRANGER_MS;
        io_sum_up_strangers(loop->io);
    }
}

static int io_loop_init(struct io *io, size_t number, struct error *reterr) {
    struct io_loop *loop = &io->loops[number];
    loop->io = io;
    loop->number = number;
    loop->heartbeat = -1;
    list_init(&loop->conns);
    int r = uv_loop_init(&loop->loop);
    if (r < 0)
        return error_set(reterr, ERR_IO, "cannot make event loop %zu: %s", number, uv_strerror(r));
    r = uv_async_init(&loop->loop, &loop->wake, io_on_wake);
    if (r < 0) {
        uv_loop_close(&loop->loop);
        return error_set(reterr, ERR_IO, "cannot make event loop %zu: %s", number, uv_strerror(r));
    }
    uv_timer_init(&loop->loop, &loop->beat);
    lock_init(&loop->lock, LOCK_CONN, "io");
    loop->wake.data = loop->beat.data = loop;
    io->loop_count++;
    return 0;
}

int io_new(const struct config *config, const char *address, struct io **ret,
           struct error *reterr) {
    struct io *io = mem_alloc(sizeof *io);
    size_t count = (size_t)config->servers_io_threads;
    io->budget =
        budget_new((size_t)config->net_memory_max_bytes, (size_t)config->net_connection_max_bytes);
    io->limits = (struct conn_limits){
        .budget = io->budget,
        .payload_max_bytes = (uint32_t)config->net_max_frame_bytes,
        .queue_max_bytes = 2 * (size_t)config->net_max_frame_bytes,
        .first_ms = IO_FIRST_MS,
        .idle_ms = IO_IDLE_MS,
    };
    /* Every worker and shard may hold an old connection while it opens a new one. */
    io->conns_max = 4 * (size_t)(config->workers_count + config->servers_count) + 64;
    io->loops = mem_array(count, sizeof *io->loops);
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++)
        r = io_loop_init(io, i, reterr);
    if (r == 0) {
        io->listening = true;
        r = address_listen(io_loop(io), address, &io->listener, io_on_connection, io->address,
                           reterr);
        io->listener.data = io;
    }
    if (r < 0) {
        io_stop(io);
        if (io->loop_count > 0)
            uv_run(io_loop(io), UV_RUN_DEFAULT);
        io_free(io);
        return r;
    }
    *ret = io;
    return 0;
}

void io_measure(const struct io *io) {
    metric_set(METRIC_RECEIVED_BYTES, (double)budget_received_bytes(io->budget));
    metric_set(METRIC_QUEUED_BYTES, (double)budget_queued_bytes(io->budget));
}

const char *io_address(const struct io *io) {
    return io->address;
}

uv_loop_t *io_loop(struct io *io) {
    return &io->loops[0].loop;
}

static void *io_run(void *argument) {
    struct io_loop *loop = argument;
    uv_run(&loop->loop, UV_RUN_DEFAULT);
    return NULL;
}

int io_start(struct io *io, struct server *server, struct error *reterr) {
    io->server = server;
    for (size_t i = 0; i < io->loop_count; i++) {
        struct io_loop *loop = &io->loops[i];
        if (i < IO_HEARTBEATS)
            loop->heartbeat = heartbeat_register("a network thread");
        uv_timer_start(&loop->beat, io_on_beat, 0, IO_BEAT_MS);
        if (i == 0)
            continue;
        int r = pthread_create(&loop->thread, NULL, io_run, loop);
        if (r != 0)
            return error_set(reterr, ERR_IO, "cannot start network thread %zu: %s", i,
                             uv_strerror(-r));
        io->thread_count++;
    }
    return 0;
}

void io_stop(struct io *io) {
    if (io->listening)
        uv_close((uv_handle_t *)&io->listener, NULL);
    io->listening = false;
    for (size_t i = 0; i < io->loop_count; i++) {
        struct io_loop *loop = &io->loops[i];
        lock_take(&loop->lock);
        if (!loop->stop) /* once: afterwards the loop may close the handle at any time */
            uv_async_send(&loop->wake);
        loop->stop = true;
        lock_release(&loop->lock);
    }
}

struct io *io_free(struct io *io) {
    if (!io)
        return NULL;
    for (size_t i = 0; i < io->loop_count; i++) {
        struct io_loop *loop = &io->loops[i];
        if (i > 0 && i <= io->thread_count)
            pthread_join(loop->thread, NULL);
        else if (i > 0)
            uv_run(&loop->loop, UV_RUN_DEFAULT); /* never had a thread: only ends */
        uv_loop_close(&loop->loop);
        if (loop->heartbeat >= 0)
            heartbeat_end(loop->heartbeat);
        lock_done(&loop->lock);
        mem_free(loop->fds);
    }
    io_sum_up_strangers(io);
    budget_unref(io->budget);
    mem_free(io->loops);
    mem_free(io);
    return NULL;
}
