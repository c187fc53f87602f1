/* server/checkpoint*: what is saved comes back bit for bit; what is damaged is refused; generations
 * on disk survive crashes and are put together again for export. */
#include "tests/test.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/config.h"
#include "common/file.h"
#include "common/rng.h"
#include "server/checkpoint.h"

static const struct tensor_spec tensors[] = {
    {.name = "layer0.weight", .rows = 9, .cols = 8, .init = TENSOR_GLOROT_UNIFORM, .decay = true},
    {.name = "layer0.bias", .rows = 1, .cols = 8},
    {.name = "layer1.weight", .rows = 8, .cols = 5, .init = TENSOR_GLOROT_UNIFORM},
};
enum { FLOATS = 72 + 8 + 40, BLOCK_BYTES = 64 };

/* Of a size that another number of shards cuts into other blocks. */
static const struct tensor_spec large_tensors[] = {
    {.name = "a", .rows = 100, .cols = 50, .init = TENSOR_GLOROT_UNIFORM, .decay = true},
    {.name = "b", .rows = 1, .cols = 3},
    {.name = "c", .rows = 70, .cols = 41, .init = TENSOR_GLOROT_UNIFORM},
};
enum { LARGE_BLOCK_BYTES = 1024 };

static float value(uint64_t stream, uint64_t at) {
    return rng_float(rng_at(rng_key(stream, 1), at)) - 0.5f;
}

static float *state_of(const struct checkpoint *c, size_t block) {
    return (float *)(void *)c->state[block]->data;
}

/* A shard's checkpoint whose numbers are functions of their place: value(generation, .) the
 * weights, value(1000 + best_epoch, .) the best ones. */
static struct checkpoint *sample_of(const struct tensor_spec *specs, size_t spec_count,
                                    uint32_t block_bytes, uint32_t shard, uint32_t shards,
                                    uint64_t generation, uint32_t best_epoch) {
    struct layout *layout;
    ck_assert_int_eq(layout_new(specs, spec_count, block_bytes, shards, &layout, NULL), 0);
    uint32_t start = layout->shard_starts[shard];
    struct checkpoint *c = checkpoint_new(layout->shard_starts[shard + 1] - start, 3, spec_count);
    snprintf(c->job, sizeof c->job, "job \"%u\" Ω", 7);
    snprintf(c->snapshot_digest, sizeof c->snapshot_digest, "0123456789abcdef");
    c->run = UINT64_MAX - 5;
    c->generation = generation;
    c->shard = shard;
    c->shards = shards;
    c->block_bytes = block_bytes;
    c->seed = 4294967295;
    c->clock = UINT64_MAX - 7 + (shard == 1);
    c->optimizer_kind = OPTIMIZER_ADAM;
    c->state_floats = 2;
    c->best_epoch = best_epoch;
    memcpy(c->tensors, specs, spec_count * sizeof *specs);
    c->state = mem_array(c->block_count, sizeof *c->state);
    if (best_epoch > 0)
        c->best = mem_array(c->block_count, sizeof *c->best);
    for (size_t i = 0; i < c->block_count; i++) {
        const struct layout_block *block = &layout->blocks[layout->shard_blocks[start + i]];
        c->block_ids[i] = block->id;
        c->floats[i] = block->floats;
        c->versions[i] = 1 + i;
        c->clocks[i] = UINT64_MAX - i;
        c->steps[i] = i * 1000000007;
        c->weights[i] = buf_new(block->floats * sizeof(float));
        c->state[i] = buf_new(block->floats * 2 * sizeof(float));
        if (c->best)
            c->best[i] = buf_new(block->floats * sizeof(float));
        for (uint32_t k = 0; k < block->floats; k++) {
            ((float *)(void *)c->weights[i]->data)[k] = value(generation, block->offset + k);
            state_of(c, i)[k] = value(77, block->offset + k);
            state_of(c, i)[block->floats + k] = value(78, block->offset + k);
            if (c->best)
                ((float *)(void *)c->best[i]->data)[k] =
                    value(1000 + best_epoch, block->offset + k);
        }
    }
    for (size_t i = 0; i < c->ledger_count; i++)
        c->ledger[i] = (struct ledger_entry){.attempt = 1700000000000 + i,
                                             .incarnation = UINT64_MAX - i * 12345,
                                             .floor = i * 99,
                                             .applied = 0xf00000000000000aull + i,
                                             .pending = 5,
                                             .counted = 100 + i};
    if (shard == 0)
        c->coordinator = json_pack("{s:i, s:[f, f]}", "epoch", (int)generation, "loss", 0.5, 0.25);
    layout_free(layout);
    return c;
}

static struct checkpoint *sample(uint32_t shard, uint32_t shards, uint64_t generation,
                                 uint32_t best_epoch) {
    return sample_of(tensors, ARRAY_LEN(tensors), BLOCK_BYTES, shard, shards, generation,
                     best_epoch);
}

/* A sample as bytes. */
static struct buf *sample_bytes(uint32_t shard, uint32_t shards, uint64_t generation,
                                uint32_t best_epoch) {
    struct checkpoint *c = sample(shard, shards, generation, best_epoch);
    struct buf *bytes = checkpoint_encode(c);
    checkpoint_free(c);
    return bytes;
}

static void check_same(const struct checkpoint *a, const struct checkpoint *b) {
    ck_assert_str_eq(a->job, b->job);
    ck_assert_str_eq(a->snapshot_digest, b->snapshot_digest);
    ck_assert(a->run == b->run && a->generation == b->generation && a->shard == b->shard &&
              a->shards == b->shards && a->block_bytes == b->block_bytes && a->seed == b->seed &&
              a->clock == b->clock && a->optimizer_kind == b->optimizer_kind &&
              a->state_floats == b->state_floats && a->best_epoch == b->best_epoch &&
              a->tensor_count == b->tensor_count && a->block_count == b->block_count &&
              a->ledger_count == b->ledger_count);
    for (size_t i = 0; i < a->tensor_count; i++) {
        const struct tensor_spec *x = &a->tensors[i], *y = &b->tensors[i];
        ck_assert_str_eq(x->name, y->name);
        ck_assert(x->rows == y->rows && x->cols == y->cols && x->init == y->init &&
                  x->decay == y->decay);
    }
    for (size_t i = 0; i < a->block_count; i++) {
        size_t bytes = a->floats[i] * sizeof(float);
        ck_assert(a->block_ids[i] == b->block_ids[i] && a->floats[i] == b->floats[i] &&
                  a->versions[i] == b->versions[i] && a->clocks[i] == b->clocks[i] &&
                  a->steps[i] == b->steps[i]);
        ck_assert_mem_eq(a->weights[i]->data, b->weights[i]->data, bytes);
        ck_assert_uint_eq(b->weights[i]->len, bytes);
        ck_assert_mem_eq(a->state[i]->data, b->state[i]->data, 2 * bytes);
        if (a->best)
            ck_assert_mem_eq(a->best[i]->data, b->best[i]->data, bytes);
    }
    for (size_t i = 0; i < a->ledger_count; i++) {
        const struct ledger_entry *x = &a->ledger[i], *y = &b->ledger[i];
        ck_assert(x->attempt == y->attempt && x->incarnation == y->incarnation &&
                  x->floor == y->floor && x->applied == y->applied && x->counted == y->counted);
        ck_assert_uint_eq(y->pending, 0);
    }
    ck_assert((a->best != NULL) == (b->best != NULL));
    ck_assert((!a->coordinator && !b->coordinator) ||
              json_equal(a->coordinator, b->coordinator) == 1);
}

/* Promise: everything but the pending bits comes back, with and without best weights, of shard 0
 * and of others, and the same state has the same bytes. */
START_TEST(round_trip) {
    for (uint32_t shard = 0; shard < 2; shard++)
        for (uint32_t best_epoch = 0; best_epoch < 2; best_epoch++) {
            struct checkpoint *c = sample(shard, 2, 41, best_epoch), *again = NULL;
            struct buf *bytes = checkpoint_encode(c);
            struct error err = {0};
            ck_assert_msg(checkpoint_decode(bytes->data, bytes->len, &again, &err) == 0, "%s",
                          err.text);
            check_same(c, again);
            struct buf *twice = checkpoint_encode(again);
            ck_assert_uint_eq(twice->len, bytes->len);
            ck_assert_mem_eq(twice->data, bytes->data, bytes->len);
            buf_unref(bytes);
            buf_unref(twice);
            checkpoint_free(c);
            checkpoint_free(again);
        }
}
END_TEST

/* Promise: a peer's bytes that are no text do not make a checkpoint unreadable. */
START_TEST(no_text) {
    struct checkpoint *c = sample(1, 2, 1, 0), *again = NULL;
    strcpy(c->snapshot_digest, "\xff\xfe");
    struct buf *bytes = checkpoint_encode(c);
    ck_assert_int_eq(checkpoint_decode(bytes->data, bytes->len, &again, NULL), 0);
    ck_assert_str_eq(again->snapshot_digest, "?");
    buf_unref(bytes);
    checkpoint_free(c);
    checkpoint_free(again);
}
END_TEST

/* Promise: a shard without blocks and an optimizer without state are no special cases. */
START_TEST(smallest) {
    struct checkpoint *c = checkpoint_new(0, 0, 1), *again = NULL;
    c->tensors[0] = tensors[1];
    c->shards = 200;
    c->shard = 199;
    c->block_bytes = BLOCK_BYTES;
    struct buf *bytes = checkpoint_encode(c);
    ck_assert_int_eq(checkpoint_decode(bytes->data, bytes->len, &again, NULL), 0);
    ck_assert(again->block_count == 0 && !again->state && !again->best && !again->coordinator);
    buf_unref(bytes);
    checkpoint_free(c);
    checkpoint_free(again);
}
END_TEST

static void refused(const uint8_t *bytes, size_t len, const char *what, size_t at) {
    /* A copy of just this length, so that a read beyond it is seen. */
    uint8_t *copy = malloc(len + 1);
    memcpy(copy, bytes, len);
    struct checkpoint *c = NULL;
    struct error err = {0};
    int r = checkpoint_decode(copy, len, &c, &err);
    ck_assert_msg(r == ERR_FORMAT || r == ERR_CHECKSUM, "%s at %zu: %d", what, at, r);
    ck_assert_ptr_null(c);
    ck_assert_uint_gt(strlen(err.text), 0);
    free(copy);
}

/* Promise: every truncation and every damaged byte is refused. */
START_TEST(damaged) {
    struct buf *bytes = sample_bytes(0, 4, 3, 2);
    for (size_t len = 0; len < bytes->len; len++)
        refused(bytes->data, len, "cut", len);
    for (size_t at = 0; at < bytes->len; at++) {
        bytes->data[at] ^= (uint8_t)(1u << at % 8);
        refused(bytes->data, bytes->len, "flipped bit", at);
        bytes->data[at] ^= (uint8_t)(1u << at % 8);
    }
    struct checkpoint *c;
    ck_assert_int_eq(checkpoint_decode(bytes->data, bytes->len, &c, NULL), 0);
    checkpoint_free(c);
    buf_unref(bytes);
}
END_TEST

/* bytes with another header and a checksum that fits: what only the decoder's own checks refuse. */
static struct buf *with_header(const struct buf *bytes, const char *header, size_t header_len) {
    uint64_t old_len, len = header_len;
    memcpy(&old_len, bytes->data + 8, 8);
    size_t body = bytes->len - 24 - old_len;
    struct buf *forged = buf_new(24 + header_len + body);
    memcpy(forged->data, bytes->data, 8);
    memcpy(forged->data + 8, &len, 8);
    memcpy(forged->data + 16, header, header_len);
    memcpy(forged->data + 16 + header_len, bytes->data + 16 + old_len, body);
    uint64_t sum = XXH3_64bits(forged->data, forged->len - 8);
    memcpy(forged->data + forged->len - 8, &sum, 8);
    return forged;
}

static json_t *header_of(const struct buf *bytes) {
    uint64_t len;
    memcpy(&len, bytes->data + 8, 8);
    json_t *header = json_loadb((const char *)bytes->data + 16, len, 0, NULL);
    ck_assert_ptr_nonnull(header);
    return header;
}

/* Refuses a header with `key` (in `object`, part of header) set to value. */
static void forged(const struct buf *bytes, json_t *header, json_t *object, const char *key,
                   json_t *forged_value) {
    json_t *before = json_incref(json_object_get(object, key));
    ck_assert_ptr_nonnull(before);
    if (forged_value)
        json_object_set_new(object, key, forged_value);
    else
        json_object_del(object, key);
    char *text = json_dumps(header, JSON_COMPACT);
    struct buf *file = with_header(bytes, text, strlen(text));
    refused(file->data, file->len, key, 0);
    buf_unref(file);
    free(text);
    json_object_set_new(object, key, before);
}

/* Promise: a file from before schedules, without the clock that was reached, is read: it begins at
 * 0.
 */
START_TEST(without_clock) {
    struct buf *bytes = sample_bytes(0, 4, 3, 2);
    json_t *header = header_of(bytes);
    ck_assert_int_eq(json_object_del(header, "clock"), 0);
    char *text = json_dumps(header, JSON_COMPACT);
    struct buf *file = with_header(bytes, text, strlen(text));
    struct checkpoint *c = NULL, *sampled = sample(0, 4, 3, 2);
    ck_assert_int_eq(checkpoint_decode(file->data, file->len, &c, NULL), 0);
    ck_assert_uint_eq(c->clock, 0);
    sampled->clock = 0;
    check_same(sampled, c);
    checkpoint_free(sampled);
    checkpoint_free(c);
    buf_unref(file);
    buf_unref(bytes);
    free(text);
    json_decref(header);
}
END_TEST

/* Promise: a header that lies under a right checksum is refused before anything is allocated from
 * its numbers: wrong types, counts, ranges, and every key missing. */
START_TEST(lies) {
    struct buf *bytes = sample_bytes(0, 4, 3, 2);
    json_t *header = header_of(bytes), *blocks = json_object_get(header, "blocks");
    static const char *const keys[] = {
        "job",          "run",        "generation",      "shard",       "shards",  "seed",
        "state_floats", "optimizer",  "snapshot_digest", "block_bytes", "tensors", "blocks",
        "ledger",       "best_epoch", "coordinator",     "tables",      "clock"};
    static const char *const block_keys[] = {"ids", "floats", "versions", "clocks", "steps"};
    ck_assert_uint_eq(json_object_size(header), ARRAY_LEN(keys));
    for (size_t k = 0; k < ARRAY_LEN(keys); k++) {
        if (strcmp(keys[k], "clock") != 0) /* older files have none */
            forged(bytes, header, header, keys[k], NULL);
        forged(bytes, header, header, keys[k], json_real(1.5));
        if (strcmp(keys[k], "run") == 0 || strcmp(keys[k], "seed") == 0 ||
            strcmp(keys[k], "generation") == 0 ||
            strcmp(keys[k], "clock") == 0) /* any 64 bits are a number there */
            continue;
        forged(bytes, header, header, keys[k], json_integer(-1));
        forged(bytes, header, header, keys[k], json_integer(1ll << 40));
    }
    ck_assert_uint_eq(json_object_size(blocks), ARRAY_LEN(block_keys));
    for (size_t k = 0; k < ARRAY_LEN(block_keys); k++) {
        json_t *longer = json_deep_copy(json_object_get(blocks, block_keys[k]));
        json_t *texts = json_deep_copy(longer);
        json_array_append_new(longer, json_integer(9));
        json_array_set_new(texts, 0, json_string("9"));
        forged(bytes, header, blocks, block_keys[k], NULL);
        forged(bytes, header, blocks, block_keys[k], json_array());
        forged(bytes, header, blocks, block_keys[k], longer);
        forged(bytes, header, blocks, block_keys[k], texts);
    }
    json_t *ids = json_deep_copy(json_object_get(blocks, "ids"));
    json_array_set_new(ids, 1, json_incref(json_array_get(ids, 0)));
    forged(bytes, header, blocks, "ids", ids);
    json_t *floats = json_deep_copy(json_object_get(blocks, "floats"));
    json_array_set_new(floats, 0, json_integer(15)); /* fewer than the body has */
    forged(bytes, header, blocks, "floats", floats);
    forged(bytes, header, header, "shard", json_integer(4));
    forged(bytes, header, header, "optimizer", json_integer(OPTIMIZER_SGD)); /* has no state */
    forged(bytes, header, header, "best_epoch", json_integer(0));
    forged(bytes, header, header, "tensors", json_array());
    forged(bytes, header, json_array_get(json_object_get(header, "tensors"), 0), "name",
           json_string("a name that is longer than sixty-three bytes, which is the most a tensor"));
    forged(bytes, header, json_array_get(json_object_get(header, "ledger"), 2), "floor",
           json_null());
    /* rows that are not there, a table without a size */
    forged(bytes, header, header, "tables",
           json_pack("[{s:s, s:i, s:i, s:f, s:i}]", "name", "t", "rows", 9, "dim", 2, "init_scale",
                     0.5, "held", 1));
    forged(bytes, header, header, "tables",
           json_pack("[{s:s, s:i, s:i, s:f, s:i}]", "name", "t", "rows", 9, "dim", 0, "init_scale",
                     0.5, "held", 0));
    json_decref(header);

    struct buf *file = with_header(bytes, "{\"job\":", 7);
    refused(file->data, file->len, "no JSON", 0);
    buf_unref(file);
    file = with_header(bytes, "[]", 2);
    refused(file->data, file->len, "no object", 0);
    buf_unref(file);
    buf_unref(bytes);
}
END_TEST

/* --- on disk --- */

/* Writes a checkpoint under its numbers, and frees it. */
static int store_write(const struct checkpoint_store *store, struct checkpoint *c,
                       struct error *err) {
    struct checkpoint_stream *stream = checkpoint_stream_new(c, NULL);
    int r = store->write(store->ctx, c->generation, c->shard, c->shards, stream, err);
    checkpoint_stream_free(stream);
    checkpoint_free(c);
    return r;
}

static void store_put(const struct checkpoint_store *store, uint32_t shard, uint32_t shards,
                      uint64_t generation, uint32_t best_epoch) {
    struct error err = {0};
    ck_assert_msg(store_write(store, sample(shard, shards, generation, best_epoch), &err) == 0,
                  "%s", err.text);
}

/* The generations listed, as "1 2 3", compared. */
static void store_lists(const struct checkpoint_store *store, uint32_t shard, uint32_t shards,
                        const char *expected) {
    uint64_t *generations;
    size_t count;
    struct error err = {0};
    ck_assert_msg(store->list(store->ctx, shard, shards, &generations, &count, &err) == 0, "%s",
                  err.text);
    char text[256] = "", *at = text;
    for (size_t i = 0; i < count; i++)
        at += sprintf(at, i ? " %llu" : "%llu", (unsigned long long)generations[i]);
    ck_assert_str_eq(text, expected);
    mem_free(generations);
}

static const char *file_of(const char *dir, uint64_t generation, const char *name) {
    static char path[600];
    snprintf(path, sizeof path, "%s/checkpoints/%08llu/%s", dir, (unsigned long long)generation,
             name);
    return path;
}

static void damage(const char *path, size_t at) {
    size_t len;
    char *bytes = test_read_file(path, &len);
    bytes[at] ^= 1;
    test_write_file(path, bytes, len);
    free(bytes);
}

/* Promise: what is written is read back; a missing directory is no generation, a missing file an
 * error with its path. */
START_TEST(store_files) {
    const char *dir = test_tmpdir();
    const char *job_dir = test_path(dir, "deep/job");
    struct checkpoint_store store = checkpoint_store_files(job_dir);
    store_lists(&store, 0, 2, "");
    store_put(&store, 0, 2, 9, 0);
    store_put(&store, 0, 2, 10, 0);
    store_put(&store, 0, 2, 100000000, 0); /* more than 8 digits */
    store_put(&store, 1, 2, 9, 0);
    store_lists(&store, 0, 2, "9 10 100000000");
    store_lists(&store, 1, 2, "9");

    struct buf *bytes = sample_bytes(0, 2, 10, 0), *read = NULL;
    ck_assert_int_eq(store.read(store.ctx, 10, 0, 2, &read, NULL), 0);
    ck_assert_uint_eq(read->len, bytes->len);
    ck_assert_mem_eq(read->data, bytes->data, bytes->len);
    buf_unref(read);
    buf_unref(bytes);
    struct error err = {0};
    ck_assert_int_eq(store.read(store.ctx, 11, 0, 2, &read, &err), ERR_NOT_FOUND);
    ck_assert_ptr_nonnull(strstr(err.text, "00000011/shard-0-of-2.ckpt"));
}
END_TEST

static void large_put(const struct checkpoint_store *store, uint32_t shard, uint32_t shards,
                      uint64_t generation, uint32_t best_epoch) {
    struct checkpoint *c = sample_of(large_tensors, ARRAY_LEN(large_tensors), LARGE_BLOCK_BYTES,
                                     shard, shards, generation, best_epoch);
    ck_assert_int_eq(store_write(store, c, NULL), 0);
}

static void check_recut(const struct checkpoint *c, const struct layout *layout, uint32_t best) {
    ck_assert(checkpoint_fits(c, layout));
    ck_assert_uint_eq(c->best_epoch, best);
    size_t wrong = 0;
    for (size_t i = 0; i < c->block_count; i++) {
        uint64_t offset = layout->blocks[c->block_ids[i]].offset;
        const float *weights = (const float *)(const void *)c->weights[i]->data;
        for (uint32_t k = 0; k < c->floats[i]; k++) {
            wrong += weights[k] != value(5, offset + k);
            wrong += state_of(c, i)[k] != value(77, offset + k);
            wrong += state_of(c, i)[c->floats[i] + k] != value(78, offset + k);
            wrong += best && ((const float *)(const void *)c->best[i]->data)[k] !=
                                 value(1000 + best, offset + k);
        }
        wrong += c->versions[i] == 0 || c->clocks[i] < UINT64_MAX - 1000;
    }
    ck_assert_uint_eq(wrong, 0);
}

/* Promise: a checkpoint of any number of shards can be restored by any other, float for float; the
 * fence stays. */
START_TEST(reshard) {
    for (uint32_t from = 1; from <= 4; from++) {
        struct checkpoint_store store = checkpoint_store_files(test_tmpdir());
        for (uint32_t k = 0; k < from; k++)
            large_put(&store, k, from, 5, 9);
        for (uint32_t to = 1; to <= 5; to++) {
            struct layout *layout;
            uint32_t wrote = 0;
            ck_assert_int_eq(layout_new(large_tensors, ARRAY_LEN(large_tensors), LARGE_BLOCK_BYTES,
                                        to, &layout, NULL),
                             0);
            ck_assert_int_eq(store.wrote(store.ctx, 5, to, &wrote, NULL), 0);
            ck_assert_uint_eq(wrote, from);
            for (uint32_t k = 0; k < to; k++) {
                struct checkpoint *c = NULL;
                struct error err = {0};
                store_lists(&store, k, to, "5");
                int r = checkpoint_reshard(&store, 5, from, k, to, &c, &err);
                ck_assert_msg(r == 0, "%s", err.text);
                check_recut(c, layout, 9);
                ck_assert_uint_eq(c->shard, k);
                ck_assert_uint_eq(c->shards, to);
                ck_assert_uint_eq(c->clock, UINT64_MAX - 7 + (from > 1)); /* the highest */
                ck_assert((c->coordinator != NULL) == (k == 0));
                for (size_t i = 0; i < c->ledger_count; i++) {
                    ck_assert_uint_eq(c->ledger[i].attempt, 1700000000000 + i);
                    ck_assert_uint_eq(c->ledger[i].counted, k < from ? 100 + i : 0);
                }
                checkpoint_free(c);
            }
            layout_free(layout);
        }
    }
}
END_TEST

/* --- tables --- */

enum { TABLE_ROWS = 5000, TABLE_DIM = 3, TABLE_SHARDS = 2 };
static const struct optimizer adam = {
    .kind = OPTIMIZER_ADAM, .lr = 0.1f, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-8f};
static const struct table_spec table_spec = {
    .name = "users", .rows = TABLE_ROWS, .dim = TABLE_DIM, .init_scale = 0.5f};

static struct table *table_make(void) {
    struct table *table;
    ck_assert_int_eq(table_new(&table_spec, 7, LAYOUT_STRIPES, &adam, &table, NULL), 0);
    return table;
}

/* One gradient for every third row of a shard, made of its number and the step. */
static void table_train(struct table *table, uint32_t shard, uint32_t step) {
    uint64_t rows[TABLE_ROWS];
    uint32_t order[TABLE_ROWS], starts[LAYOUT_STRIPES + 1], n = 0;
    float values[TABLE_ROWS * TABLE_DIM];
    for (uint64_t row = step % 3; row < TABLE_ROWS; row += 3) {
        if (layout_row_shard(row, TABLE_SHARDS) != shard)
            continue;
        for (size_t i = 0; i < TABLE_DIM; i++)
            values[n * TABLE_DIM + i] = value(step, row * TABLE_DIM + i);
        rows[n++] = row;
    }
    table_split(table, rows, n, order, starts);
    for (uint32_t stripe = 0; stripe < LAYOUT_STRIPES; stripe++) {
        const struct table_part part = {rows, values, order + starts[stripe],
                                        starts[stripe + 1] - starts[stripe], 1};
        table_apply(table, stripe, &part, 1, 1, step, adam.lr);
    }
}

static void table_attach(struct checkpoint *c, struct table *table) {
    uint64_t bytes;
    c->table_count = 1;
    c->tables = mem_alloc(sizeof *c->tables);
    c->tables[0].spec = (struct layout_table){
        .name = "users", .rows = TABLE_ROWS, .dim = TABLE_DIM, .init_scale = 0.5f};
    c->tables[0].table = table;
    c->tables[0].snapshot = table_snapshot_begin(table);
    table_counts(table, &c->tables[0].held, &bytes);
    for (size_t i = 0; i < LAYOUT_STRIPES; i++)
        c->tables[0].versions[i] = 1 + i;
}

struct taking {
    struct table *table;
    uint32_t shard, shards;
};

static int take_row(void *ctx, const struct table_row *row, struct error *reterr) {
    const struct taking *taking = ctx;
    if (layout_row_shard(row->row, taking->shards) != taking->shard)
        return 0;
    return table_restore_row(taking->table, row, reterr);
}

/* Both continue alike: weights, state, steps and clocks are the same. */
static void expect_same_tables(struct table *a, struct table *b, const uint64_t *rows, uint32_t n) {
    float *one = mem_array(n, TABLE_DIM * sizeof *one),
          *two = mem_array(n, TABLE_DIM * sizeof *two);
    table_read(a, rows, n, one);
    table_read(b, rows, n, two);
    ck_assert_mem_eq(one, two, n * TABLE_DIM * sizeof *one);
    mem_free(one);
    mem_free(two);
}

/* Promise: the rows of tables come back with weights, state and steps as they were at the cut,
 * although training goes on while they are written, on the same and on another number of shards. */
START_TEST(tables) {
    struct checkpoint_store store = checkpoint_store_files(test_tmpdir());
    struct table *trained[TABLE_SHARDS], *at_cut[TABLE_SHARDS];
    for (uint32_t k = 0; k < TABLE_SHARDS; k++) {
        trained[k] = table_make();
        at_cut[k] = table_make();
        for (uint32_t step = 1; step <= 5; step++) {
            table_train(trained[k], k, step);
            table_train(at_cut[k], k, step);
        }
        struct checkpoint *c = sample_of(large_tensors, ARRAY_LEN(large_tensors), LARGE_BLOCK_BYTES,
                                         k, TABLE_SHARDS, 5, 0);
        table_attach(c, trained[k]);
        table_train(trained[k], k, 6); /* after the cut */
        ck_assert_int_eq(store_write(&store, c, NULL), 0);
    }
    for (uint32_t to = 1; to <= 3; to++)
        for (uint32_t k = 0; k < to; k++) {
            struct checkpoint *c = NULL;
            struct error err = {0};
            int r = checkpoint_reshard(&store, 5, TABLE_SHARDS, k, to, &c, &err);
            ck_assert_msg(r == 0, "%s", err.text);
            struct taking taking = {table_make(), k, to};
            ck_assert_int_eq(checkpoint_rows(c, 0, take_row, &taking, &err), 0);
            checkpoint_free(c);
            for (uint32_t old = 0; old < TABLE_SHARDS; old++) {
                uint64_t rows[TABLE_ROWS];
                uint32_t n = 0;
                for (uint64_t row = 0; row < TABLE_ROWS; row++)
                    if (layout_row_shard(row, TABLE_SHARDS) == old &&
                        layout_row_shard(row, to) == k)
                        rows[n++] = row;
                expect_same_tables(taking.table, at_cut[old], rows, n);
                if (to == TABLE_SHARDS &&
                    old == k) { /* with the state, the next step is the same */
                    table_train(taking.table, k, 6);
                    expect_same_tables(taking.table, trained[k], rows, n);
                }
            }
            table_free(taking.table);
        }
    for (uint32_t k = 0; k < TABLE_SHARDS; k++) {
        table_free(trained[k]);
        table_free(at_cut[k]);
    }
}
END_TEST

/* Promise: files that do not make a whole are not taken, and a run is not begun anew, without a
 * word, because servers.count was changed. */
START_TEST(reshard_incomplete) {
    const char *dir = test_tmpdir();
    struct checkpoint_store store = checkpoint_store_files(dir);
    uint64_t *generations = NULL;
    size_t count;
    struct error err = {0};
    large_put(&store, 0, 2, 3, 0);
    ck_assert_int_eq(store.list(store.ctx, 0, 3, &generations, &count, &err), ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(err.text, "checkpoints of 2 shards, servers.count is 3 now"));
    ck_assert_ptr_null(generations);
    store_lists(&store, 1, 2, ""); /* the same run, a shard whose disk was lost */

    large_put(&store, 1, 2, 3, 7); /* the best weights of another epoch: none are taken over */
    struct checkpoint *c = NULL;
    ck_assert_int_eq(checkpoint_reshard(&store, 3, 2, 0, 1, &c, &err), 0);
    ck_assert_uint_eq(c->best_epoch, 0);
    ck_assert_ptr_null(c->best);
    checkpoint_free(c);

    store_put(&store, 1, 2, 3, 0); /* another model's */
    ck_assert_int_eq(checkpoint_reshard(&store, 3, 2, 0, 1, &c, &err), ERR_FORMAT);
    ck_assert_ptr_nonnull(strstr(err.text, "differ in the block size"));
    damage(file_of(dir, 3, "shard-1-of-2.ckpt"), 700);
    ck_assert_int_eq(store.list(store.ctx, 0, 3, &generations, &count, &err), ERR_CONFIG);

    /* Shard 0 of the new number sweeps what the old one wrote. */
    large_put(&store, 0, 3, 4, 0);
    ck_assert_int_eq(store.prune(store.ctx, 0, 3, 4, 1, NULL), 0);
    ck_assert(!file_exists(test_path(dir, "checkpoints/00000003")));
}
END_TEST

/* The faults told, joined. */
static void note_fault(void *to, const struct error *fault) {
    strcat(strcat(to, fault->text), "\n");
}

static void store_tells(const struct checkpoint_store *store, uint32_t shard, uint32_t shards,
                        const uint64_t *listed, size_t count, const char *const *says) {
    char text[4000] = "", *at = text;
    store->faults(store->ctx, shard, shards, listed, count, note_fault, text);
    for (; *says; says++) {
        char *end = strchr(at, '\n');
        ck_assert_msg(end && strstr(at, *says) && strstr(at, *says) < end, "no '%s' next in:\n%s",
                      *says, text);
        at = end + 1;
    }
    ck_assert_str_eq(at, "");
}

/* Promise: a damaged file is not listed, nor what a killed writer left behind, nor a stranger's;
 * the damage is told with the name of the file, and a missing file is not. */
START_TEST(store_damaged) {
    const char *dir = test_tmpdir();
    struct checkpoint_store store = checkpoint_store_files(dir);
    for (uint64_t generation = 1; generation <= 4; generation++)
        store_put(&store, 0, 1, generation, 0);
    damage(file_of(dir, 2, "shard-0-of-1.ckpt"), 700);
    ck_assert_int_eq(truncate(file_of(dir, 3, "shard-0-of-1.ckpt"), 100), 0);
    ck_assert_int_eq(rename(file_of(dir, 4, "shard-0-of-1.ckpt"),
                            test_path(dir, "checkpoints/00000004/shard-0-of-1.ckpt.tmp-123")),
                     0);
    ck_assert_int_eq(mkdir(test_path(dir, "checkpoints/lost+found"), 0777), 0);
    ck_assert_int_eq(mkdir(test_path(dir, "checkpoints/7"), 0777), 0);
    store_lists(&store, 0, 1, "1");
    static const uint64_t listed[] = {1};
    static const char *const says[] = {"00000002/shard-0-of-1.ckpt: the checkpoint is damaged",
                                       "00000003/shard-0-of-1.ckpt: ", NULL};
    store_tells(&store, 0, 1, listed, 1, says);
    store_tells(&store, 0, 3, NULL, 0, says); /* to whom it comes from another number of shards */
}
END_TEST

/* Promise: a write that fails says where, and leaves the older generations alone. */
START_TEST(store_fails) {
    const char *dir = test_tmpdir();
    struct checkpoint_store store = checkpoint_store_files(dir);
    store_put(&store, 0, 1, 1, 0);
    test_write_file(test_path(dir, "checkpoints/00000002"), "x", 1); /* a file in the way */
    struct error err = {0};
    ck_assert_int_ne(store_write(&store, sample(0, 1, 2, 0), &err), 0);
    ck_assert_ptr_nonnull(strstr(err.text, "checkpoint 2"));
    ck_assert_ptr_nonnull(strstr(err.text, "00000002"));
    ck_assert_int_eq(unlink(test_path(dir, "checkpoints/00000002")), 0);
    store_lists(&store, 0, 1, "1");
}
END_TEST

/* Promise: prune keeps the newest up to the given one and whatever is newer, touches no other
 * shard's files, sweeps a killed writer's, and removes directories that are empty then. */
START_TEST(store_prune) {
    const char *dir = test_tmpdir();
    struct checkpoint_store store = checkpoint_store_files(dir);
    for (uint64_t generation = 1; generation <= 6; generation++)
        store_put(&store, 0, 2, generation, 0);
    store_put(&store, 1, 2, 2, 0);
    test_write_file(file_of(dir, 1, "shard-0-of-2.ckpt.tmp-99"), "x", 1);
    ck_assert_int_eq(store.prune(store.ctx, 0, 2, 5, 2, NULL), 0);
    store_lists(&store, 0, 2, "4 5 6");
    store_lists(&store, 1, 2, "2");
    ck_assert(!file_exists(test_path(dir, "checkpoints/00000001")));
    ck_assert(file_exists(test_path(dir, "checkpoints/00000002")));
    ck_assert(!file_exists(test_path(dir, "checkpoints/00000003")));
    ck_assert_int_eq(store.prune(store.ctx, 1, 2, 2, 1, NULL), 0);
    store_lists(&store, 1, 2, "2");
    ck_assert_int_eq(store.prune(store.ctx, 1, 2, 5, 0, NULL), 0);
    ck_assert(!file_exists(test_path(dir, "checkpoints/00000002")));
    ck_assert_int_eq(store.prune(store.ctx, 0, 2, 3, 1, NULL), 0);
    store_lists(&store, 0, 2, "4 5 6");
}
END_TEST

/* --- put together --- */

static int collect(const char *path, bool best, float *model, uint64_t *ret_generation,
                   struct error *err) {
    struct tensor_spec *specs = NULL;
    size_t count = 0;
    float *weights = NULL;
    json_t *coordinator = NULL;
    int r =
        checkpoint_collect(path, best, &specs, &count, &weights, ret_generation, &coordinator, err);
    if (r == 0) {
        ck_assert_uint_eq(count, ARRAY_LEN(tensors));
        for (size_t i = 0; i < count; i++)
            ck_assert_str_eq(specs[i].name, tensors[i].name);
        memcpy(model, weights, FLOATS * sizeof *model);
        ck_assert_int_eq(json_integer_value(json_object_get(coordinator, "epoch")),
                         (json_int_t)*ret_generation);
    } else
        ck_assert(!specs && !weights && !coordinator && err->text[0]);
    mem_free(specs);
    mem_free(weights);
    json_decref(coordinator);
    return r;
}

/* Of the generations after the one that was taken, one fault is told, or (NULL) none. */
static void collect_tells(const char *path, uint64_t taken, const char *says) {
    char text[4000] = "";
    checkpoint_collect_faults(path, false, taken, note_fault, text);
    if (!says)
        ck_assert_str_eq(text, "");
    else
        ck_assert_msg(strstr(text, says) && strchr(text, '\n')[1] == 0, "'%s'", text);
}

static void collects(const char *path, bool best, uint64_t generation, uint64_t stream) {
    float model[FLOATS], expected[FLOATS];
    uint64_t got;
    struct error err = {0};
    ck_assert_msg(collect(path, best, model, &got, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(got, generation);
    for (size_t i = 0; i < FLOATS; i++)
        expected[i] = value(stream, i);
    test_floats_equal("model", model, expected, FLOATS, 0, 0);
}

static void collect_fails(const char *path, bool best, int code, const char *says) {
    float model[FLOATS];
    uint64_t got;
    struct error err = {0};
    ck_assert_int_eq(collect(path, best, model, &got, &err), code);
    ck_assert_msg(strstr(err.text, says) != NULL, "'%s' does not say '%s'", err.text, says);
}

/* Promise: the shards' blocks, of 1, 2 or 3 shards, make the whole model, every float in its place;
 * an incomplete or damaged generation gives way to the one before it, and of a damaged one it is
 * told which file is. */
START_TEST(collect_newest) {
    uint32_t shards = (uint32_t)_i;
    const char *dir = test_tmpdir();
    struct checkpoint_store store = checkpoint_store_files(dir);
    for (uint64_t generation = 5; generation <= 6; generation++)
        for (uint32_t shard = 0; shard < shards; shard++)
            store_put(&store, shard, shards, generation, 4);
    collects(dir, false, 6, 6);
    collects(dir, true, 6, 1004);
    collects(test_path(dir, "checkpoints/00000005"), false, 5, 5);

    char last[64];
    snprintf(last, sizeof last, "shard-%u-of-%u.ckpt", shards - 1, shards);
    if (shards > 1) {
        store_put(&store, 0, shards, 7, 4); /* the others were killed before they wrote it */
        collects(dir, false, 6, 6);
        collect_tells(dir, 6, NULL);
        collect_fails(test_path(dir, "checkpoints/00000007"), false, ERR_NOT_FOUND, "shard-1-of-");
    }
    damage(file_of(dir, 6, last), 900);
    collects(dir, false, 5, 5);
    collect_tells(dir, 5, last);
    collect_tells(test_path(dir, "checkpoints/00000005"), 5, NULL);
    collect_fails(test_path(dir, "checkpoints/00000006"), false, ERR_CHECKSUM, last);
    ck_assert_int_eq(unlink(file_of(dir, 5, last)), 0);
    collect_fails(dir, false, shards > 1 ? ERR_NOT_FOUND : ERR_CHECKSUM,
                  "nor can one before it be used");
}
END_TEST

/* Promise: what cannot be put together is refused with the reason: nothing there, no best weights,
 * files of two runs or of two moments. */
START_TEST(collect_refuses) {
    const char *dir = test_tmpdir();
    struct checkpoint_store store = checkpoint_store_files(dir);
    collect_fails(test_path(dir, "nowhere"), false, ERR_NOT_FOUND, "nowhere");
    collect_fails(dir, false, ERR_NOT_FOUND, "no checkpoint");
    store_put(&store, 0, 2, 3, 0);
    store_put(&store, 1, 2, 3, 0);
    collects(dir, false, 3, 3);
    collect_fails(dir, true, ERR_NOT_FOUND, "best");

    /* Best weights of two epochs: the latest can still be had, the best only of the one before. */
    store_put(&store, 0, 2, 4, 1);
    store_put(&store, 1, 2, 4, 1);
    store_put(&store, 0, 2, 5, 2);
    store_put(&store, 1, 2, 5, 3);
    collects(dir, false, 5, 5);
    collects(dir, true, 4, 1001);
    collect_fails(test_path(dir, "checkpoints/00000005"), true, ERR_FORMAT, "best");

    /* Shard 1's file is of another generation, or is shard 0's. */
    struct buf *bytes = sample_bytes(1, 2, 4, 0);
    test_write_file(file_of(dir, 3, "shard-1-of-2.ckpt"), bytes->data, bytes->len);
    collect_fails(test_path(dir, "checkpoints/00000003"), false, ERR_FORMAT, "generation");
    buf_unref(bytes);
    bytes = sample_bytes(0, 2, 3, 0);
    test_write_file(file_of(dir, 3, "shard-1-of-2.ckpt"), bytes->data, bytes->len);
    collect_fails(test_path(dir, "checkpoints/00000003"), false, ERR_FORMAT, "shard 0 of 2");
    buf_unref(bytes);

    /* Another number of shards wrote here too. */
    store_put(&store, 0, 1, 5, 0);
    collect_fails(test_path(dir, "checkpoints/00000005"), false, ERR_FORMAT, "shards");

    /* Blocks that are not those of the tensors. */
    struct checkpoint *c = sample(0, 1, 6, 0);
    c->block_ids[c->block_count - 1]++;
    ck_assert_int_eq(store_write(&store, c, NULL), 0);
    collect_fails(test_path(dir, "checkpoints/00000006"), false, ERR_FORMAT, "blocks of shard 0");
}
END_TEST

int main(void) {
    Suite *suite = suite_create("checkpoint");
    TCase *tcase = tcase_create("checkpoint");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, round_trip);
    tcase_add_test(tcase, smallest);
    tcase_add_test(tcase, no_text);
    tcase_add_test(tcase, damaged);
    tcase_add_test(tcase, without_clock);
    tcase_add_test(tcase, lies);
    tcase_add_test(tcase, store_files);
    tcase_add_test(tcase, reshard);
    tcase_add_test(tcase, reshard_incomplete);
    tcase_add_test(tcase, tables);
    tcase_add_test(tcase, store_damaged);
    tcase_add_test(tcase, store_fails);
    tcase_add_test(tcase, store_prune);
    tcase_add_loop_test(tcase, collect_newest, 1, 4);
    tcase_add_test(tcase, collect_refuses);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
