/* Bytes to a checkpoint. Trusts nothing: every count and length is checked against a limit and
 * against the bytes that are there before anything of that size is allocated. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include <xxhash.h>

#include "server/checkpoint_format.h"
#include "server/optimizer.h"

enum {
    HEADER_BYTES_MAX = 64 << 20,
    BLOCK_BYTES_MAX = 16777216, /* servers.block_bytes */
    LEDGER_MAX = 4096,          /* workers.count */
};

int checkpoint_check(const uint8_t *bytes, size_t len, struct error *reterr) {
    if (len < CHECKPOINT_PREFIX_BYTES + CHECKPOINT_SUFFIX_BYTES)
        return error_set(reterr, ERR_FORMAT, "%zu bytes are too few for a checkpoint", len);
    if (memcmp(bytes, CHECKPOINT_MAGIC, 8) != 0)
        return error_set(reterr, ERR_FORMAT, "this is no checkpoint: it does not begin with %s",
                         CHECKPOINT_MAGIC);
    uint64_t header_len, stored;
    memcpy(&header_len, bytes + 8, 8);
    if (header_len > len - CHECKPOINT_PREFIX_BYTES - CHECKPOINT_SUFFIX_BYTES)
        return error_set(reterr, ERR_FORMAT,
                         "the checkpoint is cut short: its header has %" PRIu64
                         " bytes, the whole file %zu",
                         header_len, len);
    memcpy(&stored, bytes + len - CHECKPOINT_SUFFIX_BYTES, 8);
    uint64_t sum = XXH3_64bits(bytes, len - CHECKPOINT_SUFFIX_BYTES);
    if (sum != stored)
        return error_set(reterr, ERR_CHECKSUM,
                         "the checkpoint is damaged or cut short: its checksum is %016" PRIx64
                         ", not %016" PRIx64,
                         sum, stored);
    return 0;
}

/* Reads the header. The first fault stays; after it everything reads as 0. */
struct reader {
    struct error *reterr;
    int r;
};

static void fault(struct reader *reader, const char *key, const char *what) {
    if (reader->r == 0)
        reader->r = error_set(reader->reterr, ERR_FORMAT, "checkpoint header: %s: %s", key, what);
}

static uint64_t read_integer(struct reader *reader, const json_t *value, const char *key,
                             uint64_t min, uint64_t max) {
    if (!json_is_integer(value)) {
        fault(reader, key, "an integer is wanted");
        return 0;
    }
    uint64_t n = (uint64_t)json_integer_value(value);
    if (n < min || n > max) {
        fault(reader, key, "out of range");
        return 0;
    }
    return n;
}

static uint64_t read_number(struct reader *reader, const json_t *object, const char *key,
                            uint64_t min, uint64_t max) {
    return read_integer(reader, json_object_get(object, key), key, min, max);
}

static void read_string(struct reader *reader, const json_t *object, const char *key, char *ret,
                        size_t bytes) {
    const char *text = json_string_value(json_object_get(object, key));
    if (!text)
        fault(reader, key, "a string is wanted");
    else if (strlen(text) >= bytes)
        fault(reader, key, "too long");
    else
        memcpy(ret, text, strlen(text) + 1);
}

/* An array of min to max values; NULL after a fault. */
static const json_t *read_array(struct reader *reader, const json_t *object, const char *key,
                                size_t min, size_t max) {
    const json_t *array = json_object_get(object, key);
    if (!json_is_array(array))
        fault(reader, key, "an array is wanted");
    else if (json_array_size(array) < min || json_array_size(array) > max)
        fault(reader, key, "too few or too many entries");
    else
        return array;
    return NULL;
}

static void read_tensors(struct reader *reader, const json_t *array, struct checkpoint *c) {
    for (size_t i = 0; reader->r == 0 && i < c->tensor_count; i++) {
        const json_t *object = json_array_get(array, i);
        struct tensor_spec *tensor = &c->tensors[i];
        read_string(reader, object, "name", tensor->name, sizeof tensor->name);
        tensor->rows = (uint32_t)read_number(reader, object, "rows", 1, UINT32_MAX);
        tensor->cols = (uint32_t)read_number(reader, object, "cols", 1, UINT32_MAX);
        tensor->init =
            (enum tensor_init)read_number(reader, object, "init", TENSOR_ZEROS, TENSOR_ONES);
        const json_t *decay = json_object_get(object, "decay");
        if (!json_is_boolean(decay))
            fault(reader, "decay", "true or false is wanted");
        tensor->decay = json_is_true(decay);
        const json_t *statistic = json_object_get(object, "statistic"); /* absent: none */
        if (statistic && !json_is_boolean(statistic))
            fault(reader, "statistic", "true or false is wanted");
        tensor->statistic = json_is_true(statistic);
    }
}

static void read_blocks(struct reader *reader, const json_t *object, struct checkpoint *c) {
    size_t n = c->block_count;
    const json_t *ids = read_array(reader, object, "ids", n, n),
                 *floats = read_array(reader, object, "floats", n, n),
                 *versions = read_array(reader, object, "versions", n, n),
                 *clocks = read_array(reader, object, "clocks", n, n),
                 *steps = read_array(reader, object, "steps", n, n);
    for (size_t i = 0; reader->r == 0 && i < n; i++) {
        uint64_t above = i > 0 ? c->block_ids[i - 1] + 1u : 0;
        c->block_ids[i] = (uint32_t)read_integer(reader, json_array_get(ids, i), "ids", above,
                                                 LAYOUT_BLOCKS_MAX - 1);
        c->floats[i] = (uint32_t)read_integer(reader, json_array_get(floats, i), "floats", 1,
                                              c->block_bytes / sizeof(float));
        c->versions[i] =
            read_integer(reader, json_array_get(versions, i), "versions", 1, UINT64_MAX);
        c->clocks[i] = read_integer(reader, json_array_get(clocks, i), "clocks", 0, UINT64_MAX);
        c->steps[i] = read_integer(reader, json_array_get(steps, i), "steps", 0, UINT64_MAX);
    }
}

static void read_ledger(struct reader *reader, const json_t *array, struct checkpoint *c) {
    for (size_t i = 0; reader->r == 0 && i < c->ledger_count; i++) {
        const json_t *object = json_array_get(array, i);
        struct ledger_entry *entry = &c->ledger[i];
        entry->attempt = read_number(reader, object, "attempt", 0, UINT64_MAX);
        entry->incarnation = read_number(reader, object, "incarnation", 0, UINT64_MAX);
        entry->floor = read_number(reader, object, "floor", 0, UINT64_MAX);
        entry->applied = read_number(reader, object, "applied", 0, UINT64_MAX);
        entry->counted = read_number(reader, object, "counted", 0, UINT64_MAX);
    }
}

static void read_tables(struct reader *reader, const json_t *array, struct checkpoint *c) {
    for (size_t i = 0; reader->r == 0 && i < c->table_count; i++) {
        const json_t *object = json_array_get(array, i);
        struct layout_table *spec = &c->tables[i].spec;
        const json_t *scale = json_object_get(object, "init_scale");
        read_string(reader, object, "name", spec->name, sizeof spec->name);
        spec->rows = read_number(reader, object, "rows", 1, LAYOUT_ROWS_MAX);
        spec->dim = (uint32_t)read_number(reader, object, "dim", 1, LAYOUT_DIM_MAX);
        spec->init_scale = (float)json_real_value(scale);
        if (!json_is_real(scale) || !isfinite(spec->init_scale))
            fault(reader, "init_scale", "a number is wanted");
        c->tables[i].held = read_number(reader, object, "held", 0, spec->rows);
        if (json_object_get(object, "best")) /* files from before rows were learned have none */
            c->tables[i].best = read_number(reader, object, "best", 0, 1) == 1;
        const json_t *versions =
                         read_array(reader, object, "versions", LAYOUT_STRIPES, LAYOUT_STRIPES),
                     *clocks = read_array(reader, object, "clocks", LAYOUT_STRIPES, LAYOUT_STRIPES);
        for (size_t s = 0; reader->r == 0 && s < LAYOUT_STRIPES; s++) {
            c->tables[i].versions[s] =
                read_integer(reader, json_array_get(versions, s), "versions", 1, UINT64_MAX);
            c->tables[i].clocks[s] =
                read_integer(reader, json_array_get(clocks, s), "clocks", 0, UINT64_MAX);
        }
    }
}

static void read_scalars(struct reader *reader, const json_t *header, struct checkpoint *c) {
    read_string(reader, header, "job", c->job, sizeof c->job);
    c->run = read_number(reader, header, "run", 0, UINT64_MAX);
    c->generation = read_number(reader, header, "generation", 0, UINT64_MAX);
    c->shards = (uint32_t)read_number(reader, header, "shards", 1, LAYOUT_SHARDS_MAX);
    c->shard = (uint32_t)read_number(reader, header, "shard", 0, c->shards ? c->shards - 1 : 0);
    c->block_bytes = (uint32_t)read_number(reader, header, "block_bytes", 64, BLOCK_BYTES_MAX);
    c->seed = read_number(reader, header, "seed", 0, UINT64_MAX);
    if (json_object_get(header, "clock")) /* files from before there were schedules have none */
        c->clock = read_number(reader, header, "clock", 0, UINT64_MAX);
    read_string(reader, header, "snapshot_digest", c->snapshot_digest, sizeof c->snapshot_digest);
    c->optimizer_kind = (int)read_number(reader, header, "optimizer", 0, OPTIMIZER_NONE);
    size_t state_floats = optimizer_state_floats(&(struct optimizer){.kind = c->optimizer_kind});
    c->state_floats = read_number(reader, header, "state_floats", state_floats, state_floats);
    c->best_epoch = (uint32_t)read_number(reader, header, "best_epoch", 0, UINT32_MAX);
}

static void read_coordinator(struct reader *reader, json_t *header, struct checkpoint *c) {
    json_t *coordinator = json_object_get(header, "coordinator");
    if (json_is_object(coordinator))
        c->coordinator = json_incref(coordinator);
    else if (!json_is_null(coordinator))
        fault(reader, "coordinator", "an object or null is wanted");
}

/* The header as a checkpoint without arrays of floats. */
static int header_decode(json_t *header, struct checkpoint **ret, struct error *reterr) {
    struct reader reader = {.reterr = reterr};
    const json_t *ledger = read_array(&reader, header, "ledger", 0, LEDGER_MAX);
    const json_t *tables = read_array(&reader, header, "tables", 0, LAYOUT_TABLES_MAX);
    const json_t *blocks = json_object_get(header, "blocks");
    const json_t *ids = read_array(&reader, blocks, "ids", 0, LAYOUT_BLOCKS_MAX);
    /* Learned rows may be all there is. */
    bool rows_alone = json_array_size(tables) > 0 && json_array_size(ids) == 0;
    const json_t *tensors =
        read_array(&reader, header, "tensors", rows_alone ? 0 : 1, LAYOUT_TENSORS_MAX);
    struct checkpoint *c =
        checkpoint_new(json_array_size(ids), json_array_size(ledger), json_array_size(tensors));
    read_scalars(&reader, header, c);
    read_tensors(&reader, tensors, c);
    c->table_count = json_array_size(tables);
    c->tables = mem_array(c->table_count, sizeof *c->tables);
    read_tables(&reader, tables, c);
    read_blocks(&reader, blocks, c);
    read_ledger(&reader, ledger, c);
    read_coordinator(&reader, header, c);
    if (reader.r != 0) {
        checkpoint_free(c);
        return reader.r;
    }
    *ret = c;
    return 0;
}

/* Cuts bufs of the blocks' sizes off *at. */
static struct buf **bufs_decode(const struct checkpoint *c, const uint8_t **at) {
    struct buf **bufs = mem_array(c->block_count, sizeof *bufs);
    for (size_t i = 0; i < c->block_count; i++) {
        bufs[i] = buf_new(c->floats[i] * sizeof(float));
        memcpy(bufs[i]->data, *at, bufs[i]->len);
        *at += bufs[i]->len;
    }
    return bufs;
}

/* Where the rows of tables lie, and that they are just those the header speaks of. */
static int rows_decode(struct checkpoint *c, const uint8_t *rows, size_t len,
                       struct error *reterr) {
    struct checkpoint_source *source = c->sources = mem_alloc(sizeof *source);
    c->source_count = 1;
    source->tables = mem_array(c->table_count, sizeof *source->tables);
    size_t left = len;
    for (size_t i = 0; i < c->table_count; i++) {
        size_t row_bytes = checkpoint_row_bytes(c, i, c->tables[i].best);
        if (c->tables[i].held > left / row_bytes)
            return error_set(reterr, ERR_FORMAT,
                             "the checkpoint has %zu bytes of rows, too few for its tables", len);
        const uint8_t *at = source->tables[i].rows = rows + (len - left);
        source->tables[i].held = c->tables[i].held;
        source->tables[i].best = c->tables[i].best;
        left -= c->tables[i].held * row_bytes;
        for (uint64_t k = 0; k < c->tables[i].held; k++, at += row_bytes) {
            uint64_t row;
            memcpy(&row, at, sizeof row);
            if (row >= c->tables[i].spec.rows)
                return error_set(reterr, ERR_FORMAT,
                                 "the checkpoint has row %" PRIu64 " of table '%s', which has "
                                 "%" PRIu64,
                                 row, c->tables[i].spec.name, c->tables[i].spec.rows);
        }
    }
    if (left != 0)
        return error_set(reterr, ERR_FORMAT, "the checkpoint has %zu bytes beyond its tables",
                         left);
    return 0;
}

static int body_decode(struct checkpoint *c, const uint8_t *body, size_t body_len,
                       struct error *reterr) {
    uint64_t floats = 0;
    for (size_t i = 0; i < c->block_count; i++)
        floats += c->floats[i];
    uint64_t arrays = floats * (1 + c->state_floats + (c->best_epoch > 0)) * sizeof(float);
    uint64_t wanted = (arrays + 7) / 8 * 8;
    if (wanted > body_len)
        return error_set(reterr, ERR_FORMAT,
                         "the checkpoint has %zu bytes of numbers, its header speaks of %" PRIu64,
                         body_len, wanted);
    const uint8_t *at = body;
    mem_free(c->weights);
    c->weights = bufs_decode(c, &at);
    if (c->state_floats > 0)
        c->state = mem_array(c->block_count, sizeof *c->state);
    for (size_t i = 0; c->state && i < c->block_count; i++) {
        size_t bytes = c->floats[i] * c->state_floats * sizeof(float);
        c->state[i] = buf_new(bytes);
        memcpy(c->state[i]->data, at, bytes);
        at += bytes;
    }
    if (c->best_epoch > 0)
        c->best = bufs_decode(c, &at);
    return rows_decode(c, body + wanted, body_len - wanted, reterr);
}

int checkpoint_decode(const uint8_t *bytes, size_t len, struct checkpoint **ret,
                      struct error *reterr) {
    int r = checkpoint_check(bytes, len, reterr);
    if (r != 0)
        return r;
    uint64_t header_len;
    memcpy(&header_len, bytes + 8, 8);
    if (header_len > HEADER_BYTES_MAX)
        return error_set(reterr, ERR_FORMAT, "the checkpoint's header has %" PRIu64 " bytes",
                         header_len);

    json_error_t json_error;
    json_t *header = json_loadb((const char *)bytes + CHECKPOINT_PREFIX_BYTES, header_len,
                                JSON_REJECT_DUPLICATES, &json_error);
    if (!header)
        return error_set(reterr, ERR_FORMAT, "the checkpoint's header is no JSON: %s",
                         json_error.text);
    struct checkpoint *c = NULL;
    r = header_decode(header, &c, reterr);
    json_decref(header);
    if (r == 0)
        r = body_decode(c, bytes + CHECKPOINT_PREFIX_BYTES + header_len,
                        len - CHECKPOINT_PREFIX_BYTES - CHECKPOINT_SUFFIX_BYTES - header_len,
                        reterr);
    if (r != 0) {
        checkpoint_free(c);
        return r;
    }
    *ret = c;
    return 0;
}

int checkpoint_rows(const struct checkpoint *checkpoint, size_t table,
                    int (*take)(void *ctx, const struct table_row *row, struct error *reterr),
                    void *ctx, struct error *reterr) {
    size_t floats = checkpoint->tables[table].spec.dim * (1 + checkpoint->state_floats);
    int r = 0;
    for (size_t i = 0; r == 0 && i < checkpoint->source_count; i++) {
        const uint8_t *at = checkpoint->sources[i].tables[table].rows;
        bool best = checkpoint->sources[i].tables[table].best;
        size_t row_bytes = checkpoint_row_bytes(checkpoint, table, best);
        for (uint64_t k = 0; r == 0 && k < checkpoint->sources[i].tables[table].held; k++) {
            struct checkpoint_row_head head;
            memcpy(&head, at, sizeof head);
            const float *numbers = (const float *)(const void *)(at + sizeof head);
            const struct table_row row = {.row = head.row,
                                          .clock = head.clock,
                                          .steps = head.steps,
                                          .floats = numbers,
                                          .best = best ? numbers + floats : NULL};
            r = take(ctx, &row, reterr);
            at += row_bytes;
        }
    }
    return r;
}
