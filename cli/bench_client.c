/* One client of the benchmark: a rank of the job that trains nothing. Speaks the protocol as
 * docs/protocol.md has it, on one loop, with a connection to each shard. What arrives is not
 * copied: the frame's buffer goes back to the pool when its length was looked at. */
#include "cli/bench.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/lock.h"
#include "common/mem.h"
#include "common/pool.h"
#include "common/rng.h"
#include "proto/codec.h"
#include "proto/conn.h"

#define HELLO_AGAIN_MS 50
#define CONNECT_MS 5000
#define FLUSH_MS 500

/* A push, a pull, or one of each, in flight: a frame of each for each cut. Its place in the link's
 * array is in the ids. */
struct operation {
    size_t pushes, pulls; /* frames that are to be answered, those still to be sent included */
    size_t pull_bytes;    /* that are to come */
    uint64_t number;
    uint64_t started_ns;
    uint64_t random; /* chooses the message */
};

struct link {
    struct client *client;
    uint32_t shard;
    struct conn *conn; /* a reference, NULL when closed */
    uv_timer_t again;  /* until the next hello */
    bool opened, welcomed;
    /* What the ledger on the other side counts: all up to floor are acknowledged, and of the 64
     * behind it those whose bit is set. */
    uint64_t sequence, floor, acked;
    size_t in_flight, free_count;
    struct operation *sending; /* not all of whose frames are sent, or NULL */
    size_t sent;               /* cuts of that */
    uint8_t free[BENCH_DEPTH_MAX];
    struct operation operations[BENCH_DEPTH_MAX];
};

struct payload {
    struct buf *buf;
    size_t bytes;
};

struct client {
    const struct bench_plan *plan;
    struct bench_desk *desk;
    uint32_t rank;
    int fd;
    uint64_t incarnation, attempt;
    uint64_t key, random_count, number;
    uv_loop_t loop;
    uv_poll_t orders;
    uv_timer_t heartbeat, farewell;
    size_t link_count, welcomed;
    struct link *links;
    Graphps__TensorSpec *tensors, **tensor_list;
    struct payload *payloads; /* [sizes], of a push */
    struct bench_rows *rows;  /* [sizes], with a table */
    Graphps__TableSpec table, *table_list[1];
    uint64_t *versions; /* zeros */
    struct bench_meter meter;
    bool measuring, leaving, failed;
    size_t in_flight, turn;
};

/* --- ids: which operation an answer belongs to --- */

static uint64_t id_make(uint64_t number, size_t place, bool pull) {
    return number << 8 | place << 1 | pull;
}

static struct operation *id_find(struct link *link, uint64_t id, enum bench_pattern bit) {
    struct operation *operation = &link->operations[id >> 1 & (BENCH_DEPTH_MAX - 1)];
    bool pull = bit == BENCH_PULL;
    if (operation->number != id >> 8 || (id & 1) != pull ||
        (pull ? operation->pulls : operation->pushes) == 0)
        return NULL;
    return operation;
}

/* --- ending --- */

static void client_tell(struct client *client, char word) {
    if (write(client->fd, &word, 1) != 1)
        uv_stop(&client->loop); /* the parent is gone */
}

static void client_close(struct client *client) {
    uv_handle_t *handles[] = {(uv_handle_t *)&client->orders, (uv_handle_t *)&client->heartbeat,
                              (uv_handle_t *)&client->farewell};
    for (size_t i = 0; i < ARRAY_LEN(handles); i++)
        if (!uv_is_closing(handles[i]))
            uv_close(handles[i], NULL);
    for (size_t i = 0; i < client->link_count; i++) {
        struct link *link = &client->links[i];
        if (!uv_is_closing((uv_handle_t *)&link->again))
            uv_close((uv_handle_t *)&link->again, NULL);
        if (link->conn)
            conn_close(link->conn, client->failed ? 0 : FLUSH_MS);
    }
}

__attribute__((format(printf, 3, 4))) static void client_fail(struct client *client, int code,
                                                              const char *format, ...) {
    if (client->failed || client->leaving)
        return;
    va_list args;
    va_start(args, format);
    client->desk->error.code = code;
    vsnprintf(client->desk->error.text, sizeof client->desk->error.text, format, args);
    va_end(args);
    client->failed = true;
    client_tell(client, BENCH_FAILED);
    client_close(client);
}

/* --- requests --- */

static void link_send(struct link *link, enum frame_type type, const ProtobufCMessage *message) {
    conn_send(link->conn, frame_out_new(type, message, NULL, 0));
}

static void send_hello(struct link *link) {
    const struct client *client = link->client;
    const struct config *config = client->plan->config;
    const struct layout *layout = client->plan->layout;
    Graphps__Hello hello = GRAPHPS__HELLO__INIT;
    hello.id = 1;
    hello.job = config->job_name;
    hello.rank = client->rank;
    hello.incarnation = client->incarnation;
    hello.lowest_unacked = link->floor + 1;
    hello.workers = (uint32_t)config->workers_count;
    hello.shards = (uint32_t)layout->shard_count;
    hello.layout_hash = layout->hash;
    hello.n_tensors = layout->tensor_count;
    hello.tensors = client->tensor_list;
    hello.seed = (uint64_t)config->job_seed;
    hello.steps_per_epoch = 1;
    hello.attempt = client->attempt;
    hello.options = client->plan->options;
    hello.n_tables = layout->table_count;
    hello.tables = (Graphps__TableSpec **)(uintptr_t)client->table_list;
    link_send(link, FRAME_HELLO, &hello.base);
}

static void push_init(const struct link *link, uint64_t id, Graphps__Push *ret) {
    const struct client *client = link->client;
    graphps__push__init(ret);
    ret->id = id;
    ret->rank = client->rank;
    ret->incarnation = client->incarnation;
    ret->sequence = link->sequence;
    ret->weight = 1;
    ret->encoding = (Graphps__Encoding)client->plan->config->push_encoding;
}

static void send_push(struct link *link, uint64_t id, const struct bench_message *message,
                      const struct bench_cut *cut) {
    const struct client *client = link->client;
    struct payload payload = client->payloads[client->desk->order.size];
    Graphps__Push push;
    push_init(link, id, &push);
    push.n_blocks = push.n_versions = cut->count;
    push.blocks = message->blocks + cut->first;
    push.versions = client->versions;
    struct frame_out_piece piece = {buf_ref(payload.buf), payload.buf->data + cut->push_at,
                                    cut->push_bytes};
    conn_send(link->conn, frame_out_new(FRAME_PUSH, &push.base, &piece, 1));
}

static void send_pull(struct link *link, uint64_t id, const struct bench_message *message,
                      const struct bench_cut *cut) {
    Graphps__Pull pull = GRAPHPS__PULL__INIT;
    pull.id = id;
    pull.n_blocks = pull.n_versions = cut->count;
    pull.blocks = message->blocks + cut->first;
    pull.versions = link->client->versions;
    link_send(link, FRAME_PULL, &pull.base);
}

static void send_push_rows(struct link *link, uint64_t id, const struct bench_rows *rows,
                           struct buf *ids) {
    Graphps__Push push;
    push_init(link, id, &push);
    push.table = 1;
    push.rows = rows->count;
    const struct frame_out_piece pieces[] = {
        {buf_ref(ids), ids->data, ids->len},
        {buf_ref(rows->values), rows->values->data, rows->values->len}};
    conn_send(link->conn, frame_out_new(FRAME_PUSH, &push.base, pieces, 2));
}

static void send_pull_rows(struct link *link, uint64_t id, const struct bench_rows *rows,
                           struct buf *ids) {
    Graphps__PullRows pull = GRAPHPS__PULL_ROWS__INIT;
    pull.id = id;
    pull.table = 1;
    pull.rows = rows->count;
    struct frame_out_piece piece = {buf_ref(ids), ids->data, ids->len};
    conn_send(link->conn, frame_out_new(FRAME_PULL_ROWS, &pull.base, &piece, 1));
}

/* Into how many frames each way an operation of the order is cut. */
static size_t cut_count(const struct client *client) {
    return client->rows ? 1 : client->plan->cut_counts[client->desk->order.size];
}

static void cut_send(struct link *link, const struct operation *operation, size_t cut_number) {
    const struct client *client = link->client;
    const struct bench_plan *plan = client->plan;
    const struct bench_order *order = &client->desk->order;
    size_t place = (size_t)(operation - link->operations);
    uint64_t push_id = id_make(operation->number, place, false),
             pull_id = id_make(operation->number, place, true);
    bool push = order->pattern & BENCH_PUSH, pull = order->pattern & BENCH_PULL;
    link->sequence += push;
    if (client->rows) {
        const struct bench_rows *rows = &client->rows[order->size];
        struct buf *ids =
            rows->ids[link->shard * rows->variants + operation->random % rows->variants];
        if (push)
            send_push_rows(link, push_id, rows, ids);
        if (pull)
            send_pull_rows(link, pull_id, rows, ids);
        return;
    }
    const struct bench_message *message = bench_message(
        plan, order->size, link->shard, rng_below(operation->random, plan->settings->spread));
    const struct bench_cut *cut = &plan->cuts[order->size][cut_number];
    if (push)
        send_push(link, push_id, message, cut);
    if (pull)
        send_pull(link, pull_id, message, cut);
}

static void operation_begin(struct link *link) {
    struct client *client = link->client;
    const struct bench_order *order = &client->desk->order;
    struct operation *operation = &link->operations[link->free[--link->free_count]];
    bool push = order->pattern & BENCH_PUSH, pull = order->pattern & BENCH_PULL;
    *operation = (struct operation){
        .pushes = push ? cut_count(client) : 0,
        .pulls = pull ? cut_count(client) : 0,
        .pull_bytes = pull ? client->plan->settings->sizes[order->size] : 0,
        .number = ++client->number,
        .started_ns = time_now_ns(),
        .random = rng_at(client->key, client->random_count++),
    };
    link->in_flight++;
    client->in_flight++;
    link->sending = operation;
    link->sent = 0;
}

/* Sends and begins what may be on a connection now. */
static void link_fill(struct link *link) {
    const struct client *client = link->client;
    const struct bench_order *order = &client->desk->order;
    size_t depth = order->single ? client->turn == link->shard : order->depth;
    while (!client->failed) {
        if (!link->sending) {
            if (!client->measuring || client->meter.ended || link->in_flight >= depth)
                return;
            operation_begin(link);
        }
        if ((order->pattern & BENCH_PUSH) && link->sequence - link->floor == BENCH_DEPTH_MAX)
            return;
        cut_send(link, link->sending, link->sent);
        if (++link->sent == cut_count(client))
            link->sending = NULL;
    }
}

static void measuring_end(struct client *client) {
    client->measuring = false;
    client_tell(client, BENCH_DONE);
}

static void operation_end(struct link *link, struct operation *operation) {
    struct client *client = link->client;
    link->free[link->free_count++] = (uint8_t)(operation - link->operations);
    link->in_flight--;
    client->in_flight--;
    bench_meter_count(&client->meter, operation->started_ns);
    if (client->desk->order.single) {
        client->turn = (client->turn + 1) % client->link_count;
        link = &client->links[client->turn];
    }
    link_fill(link);
    if (client->meter.ended && client->in_flight == 0)
        measuring_end(client);
}

/* --- answers --- */

static void on_welcome(struct link *link, const Graphps__Welcome *welcome) {
    struct client *client = link->client;
    if (link->welcomed || welcome->shard != link->shard) {
        client_fail(client, ERR_PROTOCOL, "shard %u says it is shard %u; correct --servers",
                    link->shard, welcome->shard);
        return;
    }
    link->welcomed = true;
    client->welcomed++;
    if (link->shard == 0) {
        client->attempt = welcome->attempt;
        uint64_t every_ms = welcome->lease_ms / 3 + 1;
        uv_timer_set_repeat(&client->heartbeat, every_ms);
        uv_timer_again(&client->heartbeat);
        for (size_t i = 1; i < client->link_count; i++)
            if (client->links[i].conn && conn_state(client->links[i].conn) == CONN_OPEN)
                send_hello(&client->links[i]);
    }
    if (client->welcomed == client->link_count)
        client_tell(client, BENCH_DONE);
}

static void operation_answered(struct link *link, struct operation *operation) {
    if (operation->pushes == 0 && operation->pulls == 0)
        operation_end(link, operation);
    else
        link_fill(link); /* the window has moved */
}

static void on_pushed(struct link *link, const Graphps__Pushed *pushed) {
    struct operation *operation = id_find(link, pushed->id, BENCH_PUSH);
    uint64_t place = pushed->sequence - link->floor - 1;
    if (!operation || pushed->sequence <= link->floor || pushed->sequence > link->sequence ||
        link->acked >> place & 1) {
        client_fail(link->client, ERR_PROTOCOL, "shard %u acknowledged a push that it had not got",
                    link->shard);
        return;
    }
    if (pushed->unmerged > 0) {
        client_fail(link->client, ERR_PROTOCOL,
                    "shard %u acknowledged a push that it has not merged (%u of its blocks): only "
                    "what is merged is measured; is its consistency.mode async, and its "
                    "aggregation.staleness_max 0?",
                    link->shard, pushed->unmerged);
        return;
    }
    link->acked |= 1ull << place;
    for (; link->acked & 1; link->acked >>= 1)
        link->floor++;
    operation->pushes--;
    operation_answered(link, operation);
}

/* Weights or Rows. */
static void on_pulled(struct link *link, uint64_t id, size_t bytes) {
    const struct client *client = link->client;
    struct operation *operation = id_find(link, id, BENCH_PULL);
    if (!operation || bytes > operation->pull_bytes ||
        (--operation->pulls == 0 && bytes != operation->pull_bytes)) {
        client_fail(link->client, ERR_PROTOCOL,
                    "shard %u sent another number of bytes than the %u of a pull", link->shard,
                    client->plan->settings->sizes[client->desk->order.size]);
        return;
    }
    operation->pull_bytes -= bytes;
    operation_answered(link, operation);
}

static void on_again(uv_timer_t *timer) {
    struct link *link = timer->data;
    if (link->conn && conn_state(link->conn) == CONN_OPEN)
        send_hello(link);
}

static void on_error(struct link *link, const Graphps__Error *error) {
    if (!link->welcomed && error->retryable)
        uv_timer_start(&link->again, on_again, HELLO_AGAIN_MS, 0);
    else
        client_fail(link->client, error->code ? -(int)error->code : ERR_PROTOCOL, "shard %u: %s",
                    link->shard, error->text);
}

static void on_frame(struct conn *conn, const struct frame_in *frame, void *ctx) {
    struct link *link = ctx;
    struct client *client = link->client;
    struct error err = {0};
    ProtobufCMessage *message = NULL;
    if (wire_unpack(frame, &message, &err) < 0) {
        client_fail(client, err.code, "shard %u: %s", link->shard, error_text(&err));
        return;
    }
    switch (frame->type) {
    case FRAME_PUSHED:
        on_pushed(link, (const Graphps__Pushed *)message);
        break;
    case FRAME_WEIGHTS:
        on_pulled(link, ((const Graphps__Weights *)message)->id, frame->payload_bytes);
        break;
    case FRAME_ROWS:
        on_pulled(link, ((const Graphps__Rows *)message)->id, frame->payload_bytes);
        break;
    case FRAME_WELCOME:
        on_welcome(link, (const Graphps__Welcome *)message);
        break;
    case FRAME_ERROR:
        on_error(link, (const Graphps__Error *)message);
        break;
    case FRAME_ALIVE:
        break;
    case FRAME_GOODBYE:
        client_close(client);
        break;
    default:
        client_fail(client, ERR_PROTOCOL, "shard %u sent a %s frame", link->shard,
                    frame_type_name(frame->type));
    }
    wire_free(message);
}

static void on_open(struct conn *conn, void *ctx) {
    struct link *link = ctx;
    link->opened = true;
    if (link->shard == 0 || link->client->attempt)
        send_hello(link);
}

static void on_close(struct conn *conn, const struct error *why, void *ctx) {
    struct link *link = ctx;
    conn_unref(conn);
    link->conn = NULL;
    if (!link->opened) /* the text names the address */
        client_fail(link->client, why->code, "shard %u: %s", link->shard, error_text(why));
    else
        client_fail(link->client, why->code ? why->code : ERR_CLOSED, "shard %u at %s: %s",
                    link->shard, link->client->plan->addresses[link->shard],
                    why->code ? error_text(why) : "it closed the connection");
}

static const struct conn_ops client_conn_ops = {
    .on_open = on_open, .on_frame = on_frame, .on_close = on_close};

/* --- the parent's orders --- */

static void on_farewell(uv_timer_t *timer) {
    client_close(timer->data);
}

static void client_leave(struct client *client) {
    client->leaving = true;
    struct link *link = &client->links[0];
    if (link->conn && link->welcomed) {
        Graphps__Bye bye = GRAPHPS__BYE__INIT; /* not done: the shards go on */
        bye.id = 2;
        bye.rank = client->rank;
        bye.incarnation = client->incarnation;
        link_send(link, FRAME_BYE, &bye.base);
        uv_timer_start(&client->farewell, on_farewell, FLUSH_MS, 0);
    } else {
        client_close(client);
    }
}

static void on_order(uv_poll_t *poll, int status, int events) {
    struct client *client = poll->data;
    char word;
    ssize_t n = read(client->fd, &word, 1);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n != 1)
        word = BENCH_QUIT; /* the parent is gone */
    if (word == BENCH_QUIT) {
        client_leave(client);
        return;
    }
    bench_meter_begin(&client->meter, client->desk);
    client->measuring = true;
    client->turn = 0;
    for (size_t i = 0; i < client->link_count; i++)
        link_fill(&client->links[i]);
}

static void on_heartbeat(uv_timer_t *timer) {
    struct client *client = timer->data;
    Graphps__Heartbeat beat = GRAPHPS__HEARTBEAT__INIT;
    beat.id = 3;
    beat.rank = client->rank;
    beat.incarnation = client->incarnation;
    if (client->links[0].conn)
        link_send(&client->links[0], FRAME_HEARTBEAT, &beat.base);
}

/* --- life --- */

static void client_make_tensors(struct client *client) {
    const struct layout *layout = client->plan->layout;
    client->tensors = mem_array(layout->tensor_count, sizeof *client->tensors);
    client->tensor_list = mem_array(layout->tensor_count, sizeof(void *));
    for (size_t i = 0; i < layout->tensor_count; i++) {
        Graphps__TensorSpec *tensor = client->tensor_list[i] = &client->tensors[i];
        graphps__tensor_spec__init(tensor);
        tensor->name = layout->tensors[i].name;
        tensor->rows = layout->tensors[i].rows;
        tensor->cols = layout->tensors[i].cols;
    }
}

/* Numbers like those of a gradient: small, of both signs. */
static struct payload make_payload(const struct bench_plan *plan, size_t size, uint64_t key) {
    const struct bench_message *message = bench_message(plan, size, 0, 0);
    enum codec codec = (enum codec)plan->config->push_encoding;
    double ratio = plan->config->push_topk_ratio;
    size_t count = plan->settings->sizes[size] / sizeof(float);
    struct payload payload = {.buf = buf_new(bench_push_bytes(plan, size))};
    _cleanup_(mem_free_p) float *gradient = mem_array(count, sizeof *gradient);
    for (size_t i = 0; i < count; i++)
        gradient[i] = (rng_float(rng_at(key, i)) - 0.5F) * 1e-3F;
    const float *next = gradient;
    for (size_t i = 0; i < message->block_count; i++) {
        size_t floats = plan->layout->blocks[message->blocks[i]].floats;
        payload.bytes +=
            codec_encode(codec, ratio, next, floats, NULL, payload.buf->data + payload.bytes);
        next += floats;
    }
    return payload;
}

static void client_make_rows(struct client *client) {
    const struct layout *layout = client->plan->layout;
    const struct bench_settings *settings = client->plan->settings;
    graphps__table_spec__init(&client->table);
    client->table.name = layout->tables[0].name;
    client->table.rows = layout->tables[0].rows;
    client->table.dim = layout->tables[0].dim;
    client->table.init_scale = layout->tables[0].init_scale;
    client->table_list[0] = &client->table;
    client->rows = mem_array(settings->size_count, sizeof *client->rows);
    for (size_t i = 0; i < settings->size_count; i++)
        bench_rows_make(client->plan, i, rng_key(client->key, i), &client->rows[i]);
}

static void client_init_links(struct client *client) {
    struct conn_limits limits = {.payload_max_bytes =
                                     (uint32_t)client->plan->config->net_max_frame_bytes};
    for (size_t i = 0; i < client->link_count; i++) {
        struct link *link = &client->links[i];
        link->client = client;
        link->shard = (uint32_t)i;
        while (link->free_count < BENCH_DEPTH_MAX) {
            link->free[link->free_count] = (uint8_t)link->free_count;
            link->free_count++;
        }
        uv_timer_init(&client->loop, &link->again);
        link->again.data = link;
    }
    for (size_t i = 0; i < client->link_count && !client->failed; i++) {
        struct link *link = &client->links[i];
        struct error err = {0};
        if (conn_connect(&client->loop, client->plan->addresses[i], CONNECT_MS, &limits,
                         &client_conn_ops, link, &link->conn, &err) < 0)
            client_fail(client, err.code, "shard %zu: %s", i, error_text(&err));
    }
}

int bench_client_main(const struct bench_plan *plan, uint32_t rank, int fd,
                      struct bench_desk *desk) {
    conn_count_allocations();
    const struct bench_settings *settings = plan->settings;
    struct client client = {.plan = plan, .desk = desk, .rank = rank, .fd = fd};
    client.incarnation = rng_entropy();
    client.key = rng_key(client.incarnation, rank);
    client.link_count = plan->layout->shard_count;
    client.links = mem_array(client.link_count, sizeof *client.links);
    client_make_tensors(&client);
    client.payloads = mem_array(settings->size_count, sizeof *client.payloads);
    for (size_t i = 0; i < settings->size_count && !settings->table_rows; i++)
        client.payloads[i] = make_payload(plan, i, client.key);
    if (settings->table_rows)
        client_make_rows(&client);
    client.versions = mem_array(plan->layout->block_count, sizeof *client.versions);

    uv_loop_init(&client.loop);
    uv_poll_init(&client.loop, &client.orders, fd);
    uv_timer_init(&client.loop, &client.heartbeat);
    uv_timer_init(&client.loop, &client.farewell);
    client.orders.data = client.heartbeat.data = client.farewell.data = &client;
    uv_timer_start(&client.heartbeat, on_heartbeat, UINT32_MAX, UINT32_MAX);
    uv_poll_start(&client.orders, UV_READABLE, on_order);
    client_init_links(&client);
    uv_run(&client.loop, UV_RUN_DEFAULT);
    return client.failed ? error_exit_code(desk->error.code) : 0; /* the kernel takes the memory */
}
