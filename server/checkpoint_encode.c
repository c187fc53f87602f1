/* A checkpoint as bytes, piece by piece: the header, what the tensors are made of block by block
 * from where it lies, then the rows of tables as their snapshots hand them out, so that nothing
 * large is in memory twice. */
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#define XXH_STATIC_LINKING_ONLY /* the state inside a struct */
#include <xxhash.h>

#include "server/checkpoint.h"
#include "server/checkpoint_format.h"

static json_t *number(uint64_t value) {
    return json_integer((json_int_t)value);
}

/* JSON holds only UTF-8. Names are checked where they come in; should other bytes get here, then
 * the checkpoint must be readable all the same. */
static json_t *text_json(const char *text) {
    json_t *string = json_string(text);
    return string ? string : json_string("?");
}

static json_t *tensors_json(const struct checkpoint *c) {
    json_t *array = json_array();
    for (size_t i = 0; i < c->tensor_count; i++) {
        const struct tensor_spec *tensor = &c->tensors[i];
        json_t *object = json_object();
        json_object_set_new(object, "name", text_json(tensor->name));
        json_object_set_new(object, "rows", number(tensor->rows));
        json_object_set_new(object, "cols", number(tensor->cols));
        json_object_set_new(object, "init", number(tensor->init));
        json_object_set_new(object, "decay", json_boolean(tensor->decay));
        if (tensor->statistic)
            json_object_set_new(object, "statistic", json_true());
        json_array_append_new(array, object);
    }
    return array;
}

static json_t *ledger_json(const struct checkpoint *c) {
    json_t *array = json_array();
    for (size_t i = 0; i < c->ledger_count; i++) {
        const struct ledger_entry *entry = &c->ledger[i];
        json_t *object = json_object();
        json_object_set_new(object, "attempt", number(entry->attempt));
        json_object_set_new(object, "incarnation", number(entry->incarnation));
        json_object_set_new(object, "floor", number(entry->floor));
        json_object_set_new(object, "applied", number(entry->applied));
        json_object_set_new(object, "counted", number(entry->counted));
        json_array_append_new(array, object);
    }
    return array;
}

static json_t *blocks_json(const struct checkpoint *c) {
    json_t *ids = json_array(), *floats = json_array(), *versions = json_array(),
           *clocks = json_array(), *steps = json_array(), *object = json_object();
    for (size_t i = 0; i < c->block_count; i++) {
        json_array_append_new(ids, number(c->block_ids[i]));
        json_array_append_new(floats, number(c->floats[i]));
        json_array_append_new(versions, number(c->versions[i]));
        json_array_append_new(clocks, number(c->clocks[i]));
        json_array_append_new(steps, number(c->steps[i]));
    }
    json_object_set_new(object, "ids", ids);
    json_object_set_new(object, "floats", floats);
    json_object_set_new(object, "versions", versions);
    json_object_set_new(object, "clocks", clocks);
    json_object_set_new(object, "steps", steps);
    return object;
}

static json_t *tables_json(const struct checkpoint *c) {
    json_t *array = json_array();
    for (size_t i = 0; i < c->table_count; i++) {
        const struct layout_table *spec = &c->tables[i].spec;
        json_t *object = json_object();
        json_object_set_new(object, "name", text_json(spec->name));
        json_object_set_new(object, "rows", number(spec->rows));
        json_object_set_new(object, "dim", number(spec->dim));
        json_object_set_new(object, "init_scale", json_real((double)spec->init_scale));
        json_object_set_new(object, "held", number(c->tables[i].held));
        json_object_set_new(object, "best", number(c->tables[i].best));
        json_t *versions = json_array(), *clocks = json_array();
        for (size_t s = 0; s < LAYOUT_STRIPES; s++) {
            json_array_append_new(versions, number(c->tables[i].versions[s]));
            json_array_append_new(clocks, number(c->tables[i].clocks[s]));
        }
        json_object_set_new(object, "versions", versions);
        json_object_set_new(object, "clocks", clocks);
        json_array_append_new(array, object);
    }
    return array;
}

static json_t *header_json(const struct checkpoint *c) {
    json_t *header = json_object();
    json_object_set_new(header, "job", text_json(c->job));
    json_object_set_new(header, "run", number(c->run));
    json_object_set_new(header, "generation", number(c->generation));
    json_object_set_new(header, "shard", number(c->shard));
    json_object_set_new(header, "shards", number(c->shards));
    json_object_set_new(header, "block_bytes", number(c->block_bytes));
    json_object_set_new(header, "seed", number(c->seed));
    json_object_set_new(header, "clock", number(c->clock));
    json_object_set_new(header, "snapshot_digest", text_json(c->snapshot_digest));
    json_object_set_new(header, "optimizer", number((uint64_t)c->optimizer_kind));
    json_object_set_new(header, "state_floats", number(c->state_floats));
    json_object_set_new(header, "best_epoch", number(c->best_epoch));
    json_object_set_new(header, "tensors", tensors_json(c));
    json_object_set_new(header, "blocks", blocks_json(c));
    json_object_set_new(header, "ledger", ledger_json(c));
    json_object_set_new(header, "tables", tables_json(c));
    json_object_set(header, "coordinator", c->coordinator ? c->coordinator : json_null());
    return header;
}

static uint8_t *put(uint8_t *at, const void *data, size_t len) {
    if (len > 0)
        memcpy(at, data, len);
    return at + len;
}

/* Prefix and header. */
static struct buf *head_encode(const struct checkpoint *c) {
    assert((c->best != NULL) == (c->best_epoch > 0) && (c->state != NULL) == (c->state_floats > 0));
    json_t *header = header_json(c);
    char *text = json_dumps(header, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(header);
    assert(text);
    size_t text_bytes = strlen(text), header_bytes = (text_bytes + 7) / 8 * 8;
    struct buf *buf = buf_new(CHECKPOINT_PREFIX_BYTES + header_bytes);
    uint64_t header_len = header_bytes;
    uint8_t *at = put(buf->data, CHECKPOINT_MAGIC, 8);
    at = put(at, &header_len, 8);
    at = put(at, text, text_bytes);
    memset(at, ' ', header_bytes - text_bytes);
    free(text);
    return buf;
}

struct checkpoint_stream {
    struct checkpoint *checkpoint; /* borrowed */
    const atomic_bool *stop;       /* borrowed; NULL: never */
    struct buf *piece;             /* made for what was handed out last, or NULL */
    size_t array, block;           /* weights, state, best: whose turn it is */
    uint64_t arrays_bytes;
    size_t table; /* whose rows are next */
    bool begun, padded, ended;
    uint64_t bytes; /* handed out so far */
    XXH3_state_t hash;
};

struct checkpoint_stream *checkpoint_stream_new(struct checkpoint *checkpoint,
                                                const atomic_bool *stop) {
    struct checkpoint_stream *stream = mem_alloc(sizeof *stream);
    stream->checkpoint = checkpoint;
    stream->stop = stop;
    XXH3_INITSTATE(&stream->hash);
    (void)XXH3_64bits_reset(&stream->hash);
    return stream;
}

struct checkpoint_stream *checkpoint_stream_free(struct checkpoint_stream *stream) {
    if (stream)
        buf_unref(stream->piece);
    mem_free(stream);
    return NULL;
}

/* The next block of the arrays, where it lies; then zeros up to a multiple of 8. NULL: all of them
 * have been handed out. */
static const void *array_next(struct checkpoint_stream *stream, size_t *ret_len) {
    static const uint8_t zeros[8];
    const struct checkpoint *c = stream->checkpoint;
    for (; stream->array < 3; stream->array++, stream->block = 0) {
        if ((stream->array == 1 && !c->state) || (stream->array == 2 && !c->best) ||
            stream->block == c->block_count)
            continue;
        size_t i = stream->block++;
        *ret_len = c->floats[i] * sizeof(float) * (stream->array == 1 ? c->state_floats : 1);
        stream->arrays_bytes += *ret_len;
        return stream->array == 0   ? (const void *)c->weights[i]->data
               : stream->array == 1 ? (const void *)c->state[i]->data
                                    : (const void *)c->best[i]->data;
    }
    if (stream->padded || stream->arrays_bytes % sizeof zeros == 0)
        return NULL;
    stream->padded = true;
    *ret_len = sizeof zeros - stream->arrays_bytes % sizeof zeros;
    return zeros;
}

/* Some of the rows of the table whose turn it is; NULL: those were all of all tables. */
static struct buf *rows_encode(struct checkpoint_stream *stream, size_t *ret_len) {
    struct checkpoint *c = stream->checkpoint;
    while (stream->table < c->table_count) {
        struct checkpoint_table *table = &c->tables[stream->table];
        size_t row_bytes = checkpoint_row_bytes(c, stream->table, table->best);
        size_t most = CHECKPOINT_PIECE_BYTES / row_bytes + 1, count = 0;
        struct buf *buf = buf_new(most * row_bytes);
        struct table_row row;
        uint8_t *at = buf->data;
        while (count < most && table_snapshot_next(table->snapshot, &row)) {
            const struct checkpoint_row_head head = {row.row, row.clock, row.steps};
            uint8_t *floats = put(at, &head, sizeof head);
            size_t floats_bytes = table_row_floats(table->table) * sizeof(float);
            uint8_t *end = put(floats, row.floats, floats_bytes);
            if (table->best)
                end = put(end, row.best, table->spec.dim * sizeof(float));
            at += row_bytes;
            memset(end, 0, (size_t)(at - end));
            count++;
        }
        if (count > 0) {
            *ret_len = count * row_bytes;
            return buf;
        }
        buf_unref(buf);
        table->snapshot = table_snapshot_end(table->snapshot);
        stream->table++;
    }
    return NULL;
}

int checkpoint_stream_next(struct checkpoint_stream *stream, const void **ret_data, size_t *ret_len,
                           struct error *reterr) {
    stream->piece = buf_unref(stream->piece);
    if (stream->ended)
        return 0;
    if (stream->stop && atomic_load_explicit(stream->stop, memory_order_relaxed))
        return error_set(reterr, ERR_INTERRUPTED, "it was given up");
    const void *data = NULL;
    size_t len = 0;
    if (!stream->begun) {
        stream->begun = true;
        stream->piece = head_encode(stream->checkpoint);
        len = stream->piece->len;
    } else if (!(data = array_next(stream, &len))) {
        stream->piece = rows_encode(stream, &len);
    }
    if (data || stream->piece) {
        data = data ? data : stream->piece->data;
        XXH3_64bits_update(&stream->hash, data, len);
    } else {
        uint64_t sum = XXH3_64bits_digest(&stream->hash);
        stream->ended = true;
        stream->piece = buf_new(sizeof sum);
        data = memcpy(stream->piece->data, &sum, sizeof sum);
        len = sizeof sum;
    }
    *ret_data = data;
    *ret_len = len;
    stream->bytes += len;
    return 1;
}

uint64_t checkpoint_stream_bytes(const struct checkpoint_stream *stream) {
    return stream->bytes;
}

struct buf *checkpoint_stream_whole(struct checkpoint_stream *stream) {
    uint8_t *bytes = NULL;
    const void *data;
    size_t len = 0, more;
    while (checkpoint_stream_next(stream, &data, &more, NULL) > 0) {
        bytes = mem_resize(bytes, len, len + more);
        memcpy(bytes + len, data, more);
        len += more;
    }
    struct buf *buf = buf_new(len);
    memcpy(buf->data, bytes, len);
    mem_free(bytes);
    return buf;
}

struct buf *checkpoint_encode(struct checkpoint *checkpoint) {
    struct checkpoint_stream *stream = checkpoint_stream_new(checkpoint, NULL);
    struct buf *bytes = checkpoint_stream_whole(stream);
    checkpoint_stream_free(stream);
    return bytes;
}
