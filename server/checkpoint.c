/* A checkpoint as bytes and back. Owns the format; knows no file and no directory
 * (checkpoint_store.c), and not what a restore makes of it (server.c). Decoding trusts nothing:
 * every count and length is checked against a limit and against the bytes that are there before
 * anything of that size is allocated. */
#include "server/checkpoint.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include <xxhash.h>

#include "server/optimizer.h"

#define CHECKPOINT_MAGIC "GPSCKPT1"
enum {
    PREFIX_BYTES = 16, /* magic, header length */
    SUFFIX_BYTES = 8,  /* checksum */
    HEADER_BYTES_MAX = 64 << 20,
    BLOCK_BYTES_MAX = 16777216, /* servers.block_bytes */
    LEDGER_MAX = 4096,          /* workers.count */
};

struct checkpoint *checkpoint_new(size_t block_count, size_t ledger_count, size_t tensor_count) {
    struct checkpoint *c = mem_alloc(sizeof *c);
    c->tensor_count = tensor_count;
    c->tensors = mem_array(tensor_count, sizeof *c->tensors);
    c->block_count = block_count;
    c->block_ids = mem_array(block_count, sizeof *c->block_ids);
    c->floats = mem_array(block_count, sizeof *c->floats);
    c->versions = mem_array(block_count, sizeof *c->versions);
    c->clocks = mem_array(block_count, sizeof *c->clocks);
    c->steps = mem_array(block_count, sizeof *c->steps);
    c->weights = mem_array(block_count, sizeof(struct buf *));
    c->ledger_count = ledger_count;
    c->ledger = mem_array(ledger_count, sizeof *c->ledger);
    return c;
}

struct checkpoint *checkpoint_free(struct checkpoint *checkpoint) {
    if (!checkpoint)
        return NULL;
    for (size_t i = 0; i < checkpoint->block_count; i++) {
        buf_unref(checkpoint->weights[i]);
        if (checkpoint->state)
            mem_free(checkpoint->state[i]);
        if (checkpoint->best)
            buf_unref(checkpoint->best[i]);
    }
    mem_free(checkpoint->tensors);
    mem_free(checkpoint->block_ids);
    mem_free(checkpoint->floats);
    mem_free(checkpoint->versions);
    mem_free(checkpoint->clocks);
    mem_free(checkpoint->steps);
    mem_free(checkpoint->weights);
    mem_free(checkpoint->state);
    mem_free(checkpoint->best);
    mem_free(checkpoint->ledger);
    json_decref(checkpoint->coordinator);
    mem_free(checkpoint);
    return NULL;
}

/* --- to bytes --- */

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

static json_t *header_json(const struct checkpoint *c) {
    json_t *header = json_object();
    json_object_set_new(header, "job", text_json(c->job));
    json_object_set_new(header, "run", number(c->run));
    json_object_set_new(header, "generation", number(c->generation));
    json_object_set_new(header, "shard", number(c->shard));
    json_object_set_new(header, "shards", number(c->shards));
    json_object_set_new(header, "block_bytes", number(c->block_bytes));
    json_object_set_new(header, "seed", number(c->seed));
    json_object_set_new(header, "snapshot_digest", text_json(c->snapshot_digest));
    json_object_set_new(header, "optimizer", number((uint64_t)c->optimizer_kind));
    json_object_set_new(header, "state_floats", number(c->state_floats));
    json_object_set_new(header, "best_epoch", number(c->best_epoch));
    json_object_set_new(header, "tensors", tensors_json(c));
    json_object_set_new(header, "blocks", blocks_json(c));
    json_object_set_new(header, "ledger", ledger_json(c));
    json_object_set(header, "coordinator", c->coordinator ? c->coordinator : json_null());
    return header;
}

static uint8_t *put(uint8_t *at, const void *data, size_t len) {
    if (len > 0)
        memcpy(at, data, len);
    return at + len;
}

struct buf *checkpoint_encode(const struct checkpoint *checkpoint) {
    const struct checkpoint *c = checkpoint;
    assert((c->best != NULL) == (c->best_epoch > 0) && (c->state != NULL) == (c->state_floats > 0));
    json_t *header = header_json(c);
    char *text = json_dumps(header, JSON_COMPACT);
    json_decref(header);
    assert(text);
    size_t text_bytes = strlen(text), header_bytes = (text_bytes + 7) / 8 * 8;

    size_t floats = 0;
    for (size_t i = 0; i < c->block_count; i++)
        floats += c->floats[i];
    size_t arrays = 1 + c->state_floats + (c->best != NULL);
    struct buf *buf =
        buf_new(PREFIX_BYTES + header_bytes + floats * arrays * sizeof(float) + SUFFIX_BYTES);

    uint64_t header_len = header_bytes;
    uint8_t *at = put(buf->data, CHECKPOINT_MAGIC, 8);
    at = put(at, &header_len, 8);
    at = put(at, text, text_bytes);
    memset(at, ' ', header_bytes - text_bytes);
    at += header_bytes - text_bytes;
    free(text);
    for (size_t i = 0; i < c->block_count; i++)
        at = put(at, c->weights[i]->data, c->floats[i] * sizeof(float));
    for (size_t i = 0; c->state && i < c->block_count; i++)
        at = put(at, c->state[i], c->floats[i] * c->state_floats * sizeof(float));
    for (size_t i = 0; c->best && i < c->block_count; i++)
        at = put(at, c->best[i]->data, c->floats[i] * sizeof(float));
    uint64_t sum = XXH3_64bits(buf->data, (size_t)(at - buf->data));
    put(at, &sum, 8);
    return buf;
}

/* --- and back --- */

int checkpoint_check(const uint8_t *bytes, size_t len, struct error *reterr) {
    if (len < PREFIX_BYTES + SUFFIX_BYTES)
        return error_set(reterr, ERR_FORMAT, "%zu bytes are too few for a checkpoint", len);
    if (memcmp(bytes, CHECKPOINT_MAGIC, 8) != 0)
        return error_set(reterr, ERR_FORMAT, "this is no checkpoint: it does not begin with %s",
                         CHECKPOINT_MAGIC);
    uint64_t header_len, stored;
    memcpy(&header_len, bytes + 8, 8);
    if (header_len > len - PREFIX_BYTES - SUFFIX_BYTES)
        return error_set(reterr, ERR_FORMAT,
                         "the checkpoint is cut short: its header has %" PRIu64
                         " bytes, the whole file %zu",
                         header_len, len);
    memcpy(&stored, bytes + len - SUFFIX_BYTES, 8);
    uint64_t sum = XXH3_64bits(bytes, len - SUFFIX_BYTES);
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
        tensor->init = (enum tensor_init)read_number(reader, object, "init", TENSOR_ZEROS,
                                                     TENSOR_GLOROT_UNIFORM);
        const json_t *decay = json_object_get(object, "decay");
        if (!json_is_boolean(decay))
            fault(reader, "decay", "true or false is wanted");
        tensor->decay = json_is_true(decay);
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

static void read_scalars(struct reader *reader, const json_t *header, struct checkpoint *c) {
    read_string(reader, header, "job", c->job, sizeof c->job);
    c->run = read_number(reader, header, "run", 0, UINT64_MAX);
    c->generation = read_number(reader, header, "generation", 0, UINT64_MAX);
    c->shards = (uint32_t)read_number(reader, header, "shards", 1, LAYOUT_SHARDS_MAX);
    c->shard = (uint32_t)read_number(reader, header, "shard", 0, c->shards ? c->shards - 1 : 0);
    c->block_bytes = (uint32_t)read_number(reader, header, "block_bytes", 64, BLOCK_BYTES_MAX);
    c->seed = read_number(reader, header, "seed", 0, UINT64_MAX);
    read_string(reader, header, "snapshot_digest", c->snapshot_digest, sizeof c->snapshot_digest);
    c->optimizer_kind = (int)read_number(reader, header, "optimizer", 0, OPTIMIZER_ADAMW);
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
    const json_t *tensors = read_array(&reader, header, "tensors", 1, LAYOUT_TENSORS_MAX);
    const json_t *ledger = read_array(&reader, header, "ledger", 0, LEDGER_MAX);
    const json_t *blocks = json_object_get(header, "blocks");
    const json_t *ids = read_array(&reader, blocks, "ids", 0, LAYOUT_BLOCKS_MAX);
    struct checkpoint *c =
        checkpoint_new(json_array_size(ids), json_array_size(ledger), json_array_size(tensors));
    read_scalars(&reader, header, c);
    read_tensors(&reader, tensors, c);
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

static int body_decode(struct checkpoint *c, const uint8_t *body, size_t body_len,
                       struct error *reterr) {
    uint64_t floats = 0;
    for (size_t i = 0; i < c->block_count; i++)
        floats += c->floats[i];
    uint64_t wanted = floats * (1 + c->state_floats + (c->best_epoch > 0)) * sizeof(float);
    if (wanted != body_len)
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
        c->state[i] = mem_alloc(bytes);
        memcpy(c->state[i], at, bytes);
        at += bytes;
    }
    if (c->best_epoch > 0)
        c->best = bufs_decode(c, &at);
    return 0;
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
    json_t *header = json_loadb((const char *)bytes + PREFIX_BYTES, header_len,
                                JSON_REJECT_DUPLICATES, &json_error);
    if (!header)
        return error_set(reterr, ERR_FORMAT, "the checkpoint's header is no JSON: %s",
                         json_error.text);
    struct checkpoint *c = NULL;
    r = header_decode(header, &c, reterr);
    json_decref(header);
    if (r == 0)
        r = body_decode(c, bytes + PREFIX_BYTES + header_len,
                        len - PREFIX_BYTES - SUFFIX_BYTES - header_len, reterr);
    if (r != 0) {
        checkpoint_free(c);
        return r;
    }
    *ret = c;
    return 0;
}
