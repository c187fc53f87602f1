/* Pushes and pulls: checked wholly, then handed to the ledger and the aggregator, or answered from
 * the published weights. */
#include <math.h>
#include <string.h>

#include "common/metrics.h"
#include "common/pool.h"
#include "server/session_internal.h"

/* --- push --- */

/* The blocks of a request: ascending, all ours, a version each. Fills index with their places among
 * the shard's blocks. Admission is held. */
static int blocks_check(const struct server *server, const uint32_t *blocks, size_t count,
                        size_t versions, uint32_t *index, struct error *reterr) {
    if (count == 0 || count != versions)
        return error_set(reterr, ERR_PROTOCOL, "%zu blocks with %zu versions", count, versions);
    for (size_t i = 0; i < count; i++) {
        if (blocks[i] >= server->layout->block_count)
            return error_set(reterr, ERR_RANGE, "block %u, the layout has %zu", blocks[i],
                             server->layout->block_count);
        const struct layout_block *block = &server->layout->blocks[blocks[i]];
        if (block->shard != server->shard)
            return error_set(reterr, ERR_RANGE, "block %u is shard %u's, this is shard %u",
                             blocks[i], block->shard, server->shard);
        if (i > 0 && blocks[i] <= blocks[i - 1])
            return error_set(reterr, ERR_PROTOCOL, "blocks that are not ascending (%u after %u)",
                             blocks[i], blocks[i - 1]);
        index[i] = block->shard_index;
    }
    return 0;
}

/* The gradients themselves. */
static int push_check_payload(const struct call *call, const Graphps__Push *push,
                              const uint32_t *index, struct error *reterr) {
    const uint8_t *at = call->frame->payload, *end = at + call->frame->payload_bytes;
    enum codec codec = (enum codec)push->encoding;
    for (size_t i = 0; i < push->n_blocks; i++) {
        size_t floats = call->server->blocks[index[i]].floats, bytes = 0;
        int r = codec_size(codec, at, (size_t)(end - at), floats, &bytes);
        if (r == 0 && !(codec == CODEC_FP32 && call->frame->payload_finite))
            r = codec_check(codec, at, floats);
        if (r == ERR_NOT_FINITE)
            return error_set(reterr, r,
                             "rank %u: the gradient of block %u in step %llu is not finite; a "
                             "smaller optimizer.lr may help",
                             push->rank, push->blocks[i], (unsigned long long)push->clock);
        if (r < 0)
            return error_set(reterr, r, "a payload of %zu bytes, wrong from byte %td on, block %u",
                             call->frame->payload_bytes, at - call->frame->payload,
                             push->blocks[i]);
        at += bytes;
    }
    if (at != end)
        return error_set(reterr, ERR_PROTOCOL, "a payload of %zu bytes for blocks of %td",
                         call->frame->payload_bytes, at - call->frame->payload);
    return 0;
}

/* Row numbers as they came: of the table, this shard's? */
static int rows_check(const struct server *server, const struct layout_table *table,
                      const uint64_t *rows, uint32_t count, struct error *reterr) {
    for (uint32_t i = 0; i < count; i++) {
        if (rows[i] >= table->rows)
            return error_set(reterr, ERR_RANGE, "row %llu, table '%s' has %llu",
                             (unsigned long long)rows[i], table->name,
                             (unsigned long long)table->rows);
        if (layout_row_shard(rows[i], server->shards) != server->shard)
            return error_set(reterr, ERR_RANGE,
                             "row %llu of table '%s' is shard %u's, this is "
                             "shard %u",
                             (unsigned long long)rows[i], table->name,
                             layout_row_shard(rows[i], server->shards), server->shard);
    }
    return 0;
}

static int table_check(const struct server *server, uint32_t table, struct error *reterr) {
    if (table == 0 || table > server->table_count)
        return error_set(reterr, ERR_RANGE, "table %u, the layout has %zu", table,
                         server->table_count);
    return 0;
}

/* Where a push's stripes begin and end. */
static uint32_t push_stripes(const Graphps__Push *push, uint32_t *ret_end) {
    *ret_end = push->stripes ? push->stripe + push->stripes : LAYOUT_STRIPES;
    return push->stripe;
}

/* Are the rows of the push's stripes, and in each ascending? */
static int stripes_check(const Graphps__Push *push, const uint64_t *rows, struct error *reterr) {
    uint32_t end, first = push_stripes(push, &end);
    uint64_t last[LAYOUT_STRIPES];
    memset(last, 0, sizeof last);
    for (uint32_t i = 0; i < push->rows; i++) {
        uint32_t stripe = layout_row_stripe(rows[i]);
        if (stripe < first || stripe >= end)
            return error_set(reterr, ERR_RANGE, "row %llu is of stripe %u, the push of %u to %u",
                             (unsigned long long)rows[i], stripe, first, end - 1);
        if (rows[i] < last[stripe])
            return error_set(reterr, ERR_PROTOCOL, "rows that are not ascending (%llu after %llu)",
                             (unsigned long long)rows[i], (unsigned long long)last[stripe] - 1);
        last[stripe] = rows[i] + 1;
    }
    return 0;
}

/* The encodings of rows, one after the other. */
static int values_check(enum codec codec, const uint8_t *values, size_t values_bytes, uint32_t rows,
                        uint32_t dim, struct error *reterr) {
    size_t row_bytes = codec_bytes(codec, 1, dim);
    if (values_bytes != rows * row_bytes)
        return error_set(reterr, ERR_PROTOCOL, "%zu bytes for %u rows of %u floats", values_bytes,
                         rows, dim);
    if (codec == CODEC_FP32)
        return rows > 0 ? codec_check(codec, values, (size_t)rows * dim) : 0;
    int r = 0;
    for (uint32_t i = 0; i < rows && r == 0; i++)
        r = codec_check(codec, values + i * row_bytes, dim);
    return r;
}

/* A push to a table, whole. */
static int push_check_rows(const struct call *call, const Graphps__Push *push,
                           struct error *reterr) {
    const struct server *server = call->server;
    int r = table_check(server, push->table, reterr);
    if (r < 0)
        return r;
    const struct layout_table *table = &server->layout->tables[push->table - 1];
    size_t ids_bytes = (size_t)push->rows * sizeof(uint64_t);
    if (push->n_blocks != 0 || (push->n_versions != 0 && push->n_versions != LAYOUT_STRIPES))
        return error_set(reterr, ERR_PROTOCOL,
                         "a push to table '%s' with %zu blocks and %zu versions, not 0 and %d",
                         table->name, push->n_blocks, push->n_versions, LAYOUT_STRIPES);
    if (push->stripes == 0
            ? push->stripe != 0
            : push->stripes > LAYOUT_STRIPES || push->stripe > LAYOUT_STRIPES - push->stripes)
        return error_set(reterr, ERR_RANGE,
                         "a push to stripes from %u on, %u of them; there are %d", push->stripe,
                         push->stripes, LAYOUT_STRIPES);
    /* Of few bytes it would make many. */
    if (push->encoding == GRAPHPS__ENCODING__TOPK)
        return error_set(reterr, ERR_PROTOCOL, "a push to a table is not encoded as topk");
    if (ids_bytes > call->frame->payload_bytes)
        return error_set(reterr, ERR_PROTOCOL, "a payload of %zu bytes for %u rows",
                         call->frame->payload_bytes, push->rows);
    r = values_check((enum codec)push->encoding, call->frame->payload + ids_bytes,
                     call->frame->payload_bytes - ids_bytes, push->rows, table->dim, reterr);
    if (r == ERR_NOT_FINITE)
        return error_set(reterr, r,
                         "rank %u: the gradient of table '%s' in step %llu is not finite; a "
                         "smaller optimizer.lr may help",
                         push->rank, table->name, (unsigned long long)push->clock);
    if (r < 0)
        return error_set(reterr, ERR_PROTOCOL, "a payload of %zu bytes for %u rows of %u floats",
                         call->frame->payload_bytes, push->rows, table->dim);
    const uint64_t *rows = (const uint64_t *)(const void *)call->frame->payload;
    r = rows_check(server, table, rows, push->rows, reterr);
    return r < 0 ? r : stripes_check(push, rows, reterr);
}

static int push_check(const struct call *call, const Graphps__Push *push, uint32_t *index,
                      struct error *reterr) {
    const struct session *session = call->session;
    if (push->rank != session->rank || push->incarnation != session->incarnation)
        return error_set(reterr, ERR_PROTOCOL, "a push of rank %u on rank %u's connection",
                         push->rank, session->rank);
    if (push->sequence == 0)
        return error_set(reterr, ERR_PROTOCOL, "sequences start at 1");
    if ((unsigned)push->encoding >= CODEC_END)
        return error_set(reterr, ERR_PROTOCOL, "unknown encoding %u", (unsigned)push->encoding);
    if (!isfinite((float)push->weight) || push->weight < 0)
        return error_set(reterr, ERR_NOT_FINITE, "a push of weight %g", push->weight);
    if (push->table)
        return push_check_rows(call, push, reterr);
    int r =
        blocks_check(call->server, push->blocks, push->n_blocks, push->n_versions, index, reterr);
    return r < 0 ? r : push_check_payload(call, push, index, reterr);
}

/* What every push carries; with `count` parts. */
static struct push *push_make(const struct call *call, const Graphps__Push *message,
                              uint32_t count) {
    struct push *push = push_new(count);
    push->rank = message->rank;
    push->incarnation = message->incarnation;
    push->sequence = message->sequence;
    push->id = message->id;
    push->clock = message->clock;
    push->weight = (float)message->weight;
    push->codec = (enum codec)message->encoding;
    push->received_ns = call->now_ns;
    push->buf = buf_ref(call->frame->buf);
    return push;
}

static void push_admit(struct call *call, const Graphps__Push *message, const uint32_t *index) {
    struct push *push = push_make(call, message, (uint32_t)message->n_blocks);
    const uint8_t *at = call->frame->payload, *end = at + call->frame->payload_bytes;
    for (size_t i = 0; i < message->n_blocks; i++) {
        size_t bytes = 0;
        push->parts[i].push = push;
        push->parts[i].bytes = at;
        push->parts[i].version = message->versions[i];
        codec_size(push->codec, at, (size_t)(end - at), call->server->blocks[index[i]].floats,
                   &bytes); /* checked */
        at += bytes;
    }
    aggregator_admit(call->server->aggregator, push, index, call->now_ms);
}

/* Each of its stripes gets a part, also one without rows: all pushes of a batch count in its mean.
 */
static void push_admit_rows(struct call *call, const Graphps__Push *message) {
    struct server *server = call->server;
    struct table *table = server->tables[message->table - 1];
    size_t n = message->rows, dim = server->layout->tables[message->table - 1].dim;
    size_t floats = n * dim;
    uint32_t end, first = push_stripes(message, &end);
    bool plain = message->encoding == GRAPHPS__ENCODING__FP32;
    const uint8_t *values = call->frame->payload + n * sizeof(uint64_t);
    struct push *push = push_make(call, message, end - first);
    size_t sorted_bytes = frame_padded((n + LAYOUT_STRIPES + 1) * sizeof(uint32_t));
    push->rows.memory = buf_new(sorted_bytes + (plain ? 0 : floats * sizeof(float)));
    push->rows.rows = (const uint64_t *)(const void *)call->frame->payload;
    push->rows.starts = (uint32_t *)(void *)push->rows.memory->data;
    push->rows.order = push->rows.starts + LAYOUT_STRIPES + 1;
    push->rows.values = (const float *)(const void *)values;
    if (!plain) {
        float *decoded = (float *)(void *)(push->rows.memory->data + sorted_bytes);
        size_t row_bytes = codec_bytes(push->codec, 1, dim);
        memset(decoded, 0, floats * sizeof *decoded);
        for (size_t i = 0; i < n; i++)
            codec_add(push->codec, values + i * row_bytes, dim, 1, decoded + i * dim);
        push->rows.values = decoded;
    }
    table_split(table, push->rows.rows, (uint32_t)n, push->rows.order, push->rows.starts);

    uint32_t index[LAYOUT_STRIPES];
    for (uint32_t i = 0; i < end - first; i++) {
        uint32_t stripe = first + i;
        index[i] = (uint32_t)server->block_count + (message->table - 1) * LAYOUT_STRIPES + stripe;
        push->parts[i].version = message->n_versions ? message->versions[stripe] : 0;
    }
    aggregator_admit(server->aggregator, push, index, call->now_ms);
}

/* Admission is held for reading. */
static int push_locked(struct call *call, const Graphps__Push *push, struct error *reterr) {
    struct server *server = call->server;
    if (!server->aggregator)
        return error_set(reterr, ERR_NOT_READY, "shard %u has no layout yet", server->shard);
    POOL_ARRAY(uint32_t, index, push->n_blocks);
    int r = push_check(call, push, index, reterr);
    if (r < 0) {
        metric_add(METRIC_PUSH_REFUSED, 1);
        return r;
    }
    lock_take(&server->seats_lock);
    struct seat *seat = &server->seats[push->rank];
    enum ledger_verdict verdict = ledger_push(&seat->ledger, push->incarnation, push->sequence);
    lock_release(&server->seats_lock);

    Graphps__Pushed pushed = GRAPHPS__PUSHED__INIT;
    switch (verdict) {
    case LEDGER_ADMIT:
        if (push->table)
            push_admit_rows(call, push);
        else
            push_admit(call, push, index);
        return 0;
    case LEDGER_PENDING:
        atomic_fetch_add(&server->pushes_repeated, 1);
        metric_add(METRIC_PUSH_REPEATED, 1);
        return 0;
    case LEDGER_APPLIED:
        atomic_fetch_add(&server->pushes_repeated, 1);
        metric_add(METRIC_PUSH_REPEATED, 1);
        pushed.id = push->id;
        pushed.sequence = push->sequence;
        pushed.repeat = true;
        server_send(server, call->session->conn, FRAME_PUSHED, &pushed.base);
        return 0;
    case LEDGER_FENCED:
        return error_set(reterr, ERR_FENCED, "rank %u: a newer process has taken it", push->rank);
    case LEDGER_AHEAD:
        break;
    }
    return error_set(reterr, ERR_BUSY, "rank %u: more than %d pushes in flight", push->rank,
                     LEDGER_WINDOW);
}

int session_push(struct call *call, const ProtobufCMessage *message, struct error *reterr) {
    const Graphps__Push *push = (const Graphps__Push *)message;
    pthread_rwlock_rdlock(&call->server->admission);
    int r = push_locked(call, push, reterr);
    pthread_rwlock_unlock(&call->server->admission);
    if (r == 0)
        session_clock_reached(call, push->rank, push->clock);
    return r;
}

/* --- pull --- */

/* A block's weights as kept for the evaluation of an epoch, NULL when they are not. */
static struct buf *kept_block(struct server *server, uint32_t epoch, uint32_t index) {
    struct buf *buf = NULL;
    lock_take(&server->orders_lock);
    if (server->best_epoch == epoch && server->best)
        buf = buf_ref(server->best[index]);
    else if (server->candidate_epoch == epoch && server->candidate)
        buf = buf_ref(server->candidate[index]);
    lock_release(&server->orders_lock);
    return buf;
}

int session_pull(struct call *call, const ProtobufCMessage *message, struct error *reterr) {
    const Graphps__Pull *pull = (const Graphps__Pull *)message;
    struct server *server = call->server;
    /* The blocks, once there, stay; a block is read under its own lock. */
    if (!server_has_layout(server))
        return error_set(reterr, ERR_NOT_READY, "shard %u has no layout yet", server->shard);
    size_t count = pull->n_blocks;
    POOL_ARRAY(uint32_t, index, count);
    int r = blocks_check(server, pull->blocks, count, pull->n_versions, index, reterr);
    if (r < 0)
        return r;
    POOL_ARRAY(struct frame_out_piece, pieces, count);
    POOL_ARRAY(uint32_t, blocks, count);
    POOL_ARRAY(uint64_t, versions, count);
    size_t newer = 0, bytes = 0;
    for (size_t i = 0; i < count; i++) {
        struct buf *buf = pull->candidate ? kept_block(server, pull->candidate, index[i]) : NULL;
        if (buf)
            versions[newer] = pull->candidate;
        else
            buf = block_read(&server->blocks[index[i]], &versions[newer]);
        if (versions[newer] == pull->versions[i]) {
            buf_unref(buf);
            continue;
        }
        blocks[newer] = pull->blocks[i];
        pieces[newer++] = (struct frame_out_piece){buf, buf->data, buf->len};
        bytes += buf->len;
    }
    if (bytes > (size_t)server->config->net_max_frame_bytes) {
        for (size_t i = 0; i < newer; i++)
            buf_unref(pieces[i].buf);
        return error_set(reterr, ERR_LIMIT,
                         "%zu bytes of weights in one pull, net.max_frame_bytes is %lld; ask for "
                         "fewer blocks at a time",
                         bytes, (long long)server->config->net_max_frame_bytes);
    }
    Graphps__Weights weights = GRAPHPS__WEIGHTS__INIT;
    weights.id = pull->id;
    weights.n_blocks = weights.n_versions = newer;
    weights.blocks = blocks;
    weights.versions = versions;
    weights.shard_incarnation = server->incarnation;
    server->ops->send(server->ops_ctx, call->session->conn,
                      frame_out_new(FRAME_WEIGHTS, &weights.base, pieces, newer));
    metric_add(METRIC_PULLS, 1);
    metric_add(METRIC_BLOCKS_SERVED, newer);
    if (server->ops->now_ns)
        metric_record(METRIC_PULL_LATENCY, server->ops->now_ns(server->ops_ctx) - call->now_ns);
    return 0;
}

/* The same of rows. */
static enum table_set kept_set(struct server *server, uint32_t epoch) {
    lock_take(&server->orders_lock);
    enum table_set set = server->best_epoch == epoch && server->best ? TABLE_BEST
                         : server->candidate_epoch == epoch          ? TABLE_CANDIDATE
                                                                     : TABLE_PRESENT;
    lock_release(&server->orders_lock);
    return set;
}

int session_pull_rows(struct call *call, const ProtobufCMessage *message, struct error *reterr) {
    const Graphps__PullRows *pull = (const Graphps__PullRows *)message;
    struct server *server = call->server;
    if (!server_has_layout(server))
        return error_set(reterr, ERR_NOT_READY, "shard %u has no layout yet", server->shard);
    int r = table_check(server, pull->table, reterr);
    if (r < 0)
        return r;
    const struct layout_table *table = &server->layout->tables[pull->table - 1];
    const uint64_t *rows = (const uint64_t *)(const void *)call->frame->payload;
    if (call->frame->payload_bytes != (size_t)pull->rows * sizeof *rows)
        return error_set(reterr, ERR_PROTOCOL, "a payload of %zu bytes for %u rows",
                         call->frame->payload_bytes, pull->rows);
    size_t bytes = (size_t)pull->rows * table->dim * sizeof(float);
    if (bytes > (size_t)server->config->net_max_frame_bytes)
        return error_set(reterr, ERR_LIMIT,
                         "%zu bytes of rows in one pull, net.max_frame_bytes is %lld; ask for "
                         "fewer rows at a time",
                         bytes, (long long)server->config->net_max_frame_bytes);
    r = rows_check(server, table, rows, pull->rows, reterr);
    if (r < 0)
        return r;
    /* Versions first: a row may be newer than they say, never older. */
    uint64_t versions[LAYOUT_STRIPES];
    for (size_t i = 0; i < LAYOUT_STRIPES; i++)
        block_read(&server->blocks[server->block_count + (pull->table - 1) * LAYOUT_STRIPES + i],
                   &versions[i]);
    struct buf *out = buf_new(bytes);
    enum table_set set = pull->candidate ? kept_set(server, pull->candidate) : TABLE_PRESENT;
    table_read_set(server->tables[pull->table - 1], set, rows, pull->rows,
                   (float *)(void *)out->data);
    Graphps__Rows answer = GRAPHPS__ROWS__INIT;
    answer.id = pull->id;
    answer.table = pull->table;
    answer.rows = pull->rows;
    answer.n_versions = LAYOUT_STRIPES;
    answer.versions = versions;
    const struct frame_out_piece piece = {out, out->data, out->len};
    server->ops->send(server->ops_ctx, call->session->conn,
                      frame_out_new(FRAME_ROWS, &answer.base, &piece, 1));
    metric_add(METRIC_ROWS_SERVED, pull->rows);
    if (server->ops->now_ns)
        metric_record(METRIC_PULL_LATENCY, server->ops->now_ns(server->ops_ctx) - call->now_ns);
    return 0;
}
