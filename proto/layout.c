/* Cutting tensors into blocks, placing blocks on shards, and the initial weights. Pure. */
#include "proto/layout.h"

#include <math.h>
#include <string.h>

#include <xxhash.h>

#include "common/mem.h"
#include "common/rng.h"

static int layout_compare_names(const void *a, const void *b) {
    return strcmp((*(const struct tensor_spec *const *)a)->name,
                  (*(const struct tensor_spec *const *)b)->name);
}

static int layout_check_name(const char *what, size_t i, const char *name, struct error *reterr) {
    size_t len = strnlen(name, LAYOUT_NAME_MAX + 1);
    if (len == 0 || len > LAYOUT_NAME_MAX)
        return error_set(reterr, ERR_FORMAT, "%s %zu: its name has %zu bytes, not 1 to %d", what, i,
                         len, LAYOUT_NAME_MAX);
    for (const char *c = name; *c; c++)
        if (!((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') ||
              *c == '.' || *c == '_'))
            return error_set(reterr, ERR_FORMAT,
                             "%s %zu: byte 0x%02x in its name; letters, digits, '.' and '_' are "
                             "allowed",
                             what, i, (unsigned char)*c);
    return 0;
}

static int layout_check_names(const struct tensor_spec *tensors, size_t count,
                              struct error *reterr) {
    _cleanup_(mem_free_p) const struct tensor_spec **sorted = mem_array(count, sizeof *sorted);
    for (size_t i = 0; i < count; i++) {
        int r = layout_check_name("tensor", i, tensors[i].name, reterr);
        if (r < 0)
            return r;
        sorted[i] = &tensors[i];
    }
    qsort(sorted, count, sizeof *sorted, layout_compare_names);
    for (size_t i = 1; i < count; i++)
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
            return error_set(reterr, ERR_FORMAT, "two tensors are named '%s'", sorted[i]->name);
    return 0;
}

static uint32_t block_floats(uint64_t floats, uint32_t block_bytes, size_t shard_count) {
    uint64_t each = shard_count * LAYOUT_BLOCKS_EACH, line = 16;
    uint64_t wanted = (floats + each * line - 1) / (each * line) * line;
    return wanted < block_bytes / 4 ? (uint32_t)wanted : block_bytes / 4;
}

/* Sets tensor_count, floats, block_floats, block_count, shard_count of a layout to be. */
static int layout_check(const struct tensor_spec *tensors, size_t tensor_count,
                        uint32_t block_bytes, size_t shard_count, struct layout *ret,
                        struct error *reterr) {
    if (block_bytes < 64 || block_bytes % 64 != 0)
        return error_set(reterr, ERR_RANGE, "blocks of %u bytes; a multiple of 64 is needed",
                         block_bytes);
    if (shard_count < 1 || shard_count > LAYOUT_SHARDS_MAX)
        return error_set(reterr, ERR_RANGE, "%zu shards; 1 to %d are possible", shard_count,
                         LAYOUT_SHARDS_MAX);
    if (tensor_count > LAYOUT_TENSORS_MAX)
        return error_set(reterr, ERR_LIMIT, "%zu tensors; up to %d are possible", tensor_count,
                         LAYOUT_TENSORS_MAX);

    uint64_t floats = 0, trained = 0, blocks = 0;
    for (size_t i = 0; i < tensor_count; i++) {
        const struct tensor_spec *tensor = &tensors[i];
        if (tensor->rows == 0 || tensor->cols == 0)
            return error_set(reterr, ERR_RANGE, "tensor %zu has %u x %u entries", i, tensor->rows,
                             tensor->cols);
        if ((unsigned)tensor->init > TENSOR_ONES)
            return error_set(reterr, ERR_RANGE, "tensor %zu has the unknown initialisation %d", i,
                             (int)tensor->init);
        if (tensor->statistic && tensor->decay)
            return error_set(reterr, ERR_RANGE, "tensor %zu is a statistic that decays", i);
        if (!tensor->statistic && i > 0 && tensor[-1].statistic)
            return error_set(reterr, ERR_RANGE, "tensor %zu comes after a statistic", i);
        uint64_t size = (uint64_t)tensor->rows * tensor->cols;
        if (size > LAYOUT_FLOATS_MAX - floats)
            return error_set(reterr, ERR_LIMIT, "more than %llu parameters",
                             (unsigned long long)LAYOUT_FLOATS_MAX);
        floats += size;
        trained += tensor->statistic ? 0 : size;
    }
    uint32_t per_block = block_floats(floats, block_bytes, shard_count);
    for (size_t i = 0; i < tensor_count; i++)
        blocks += ((uint64_t)tensors[i].rows * tensors[i].cols + per_block - 1) / per_block;
    if (blocks > LAYOUT_BLOCKS_MAX)
        return error_set(reterr, ERR_LIMIT,
                         "%llu blocks, at most %d are possible; raise servers.block_bytes",
                         (unsigned long long)blocks, LAYOUT_BLOCKS_MAX);
    *ret = (struct layout){.tensor_count = tensor_count,
                           .floats = floats,
                           .trained = trained,
                           .block_floats = per_block,
                           .block_count = blocks,
                           .shard_count = shard_count};
    return layout_check_names(tensors, tensor_count, reterr);
}

/* Over the bytes that docs/protocol.md names, so that another language computes the same. */
static uint64_t layout_hash(const struct tensor_spec *tensors, size_t count, uint32_t block_bytes,
                            size_t shard_count) {
    enum { ROW = LAYOUT_NAME_MAX + 1 + 4 + 4 + 1 + 1 };
    size_t len = count * ROW + 8;
    _cleanup_(mem_free_p) uint8_t *bytes = mem_alloc(len);
    uint8_t *at = bytes;
    for (size_t i = 0; i < count; i++, at += ROW) {
        memcpy(at, tensors[i].name, strlen(tensors[i].name));
        memcpy(at + 64, &tensors[i].rows, 4);
        memcpy(at + 68, &tensors[i].cols, 4);
        at[72] = (uint8_t)tensors[i].init;
        at[73] = (uint8_t)(tensors[i].decay | tensors[i].statistic << 1);
    }
    uint32_t shards = (uint32_t)shard_count;
    memcpy(at, &block_bytes, 4);
    memcpy(at + 4, &shards, 4);
    uint64_t hash = XXH3_64bits(bytes, len);
    return hash ? hash : 1;
}

static int layout_compare_blocks(const void *a, const void *b) {
    const struct layout_block *x = *(const struct layout_block *const *)a;
    const struct layout_block *y = *(const struct layout_block *const *)b;
    if (x->floats != y->floats)
        return x->floats > y->floats ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* The greedy rule of scheduling, longest first: no shard gets more than the smallest has plus one
 * block. */
static void layout_place(struct layout *layout) {
    _cleanup_(mem_free_p) struct layout_block **sorted =
        mem_array(layout->block_count, sizeof *sorted);
    for (size_t i = 0; i < layout->block_count; i++)
        sorted[i] = &layout->blocks[i];
    qsort(sorted, layout->block_count, sizeof *sorted, layout_compare_blocks);

    for (size_t i = 0; i < layout->block_count; i++) {
        uint32_t best = 0;
        for (uint32_t shard = 1; shard < layout->shard_count; shard++)
            if (layout->shard_floats[shard] < layout->shard_floats[best])
                best = shard;
        sorted[i]->shard = best;
        layout->shard_floats[best] += sorted[i]->floats;
        layout->shard_starts[best + 1]++;
    }
    for (size_t shard = 0; shard < layout->shard_count; shard++)
        layout->shard_starts[shard + 1] += layout->shard_starts[shard];

    _cleanup_(mem_free_p) uint32_t *used = mem_array(layout->shard_count, sizeof *used);
    for (size_t i = 0; i < layout->block_count; i++) {
        struct layout_block *block = &layout->blocks[i];
        block->shard_index = used[block->shard]++;
        layout->shard_blocks[layout->shard_starts[block->shard] + block->shard_index] = block->id;
    }
}

int layout_new(const struct tensor_spec *tensors, size_t tensor_count, uint32_t block_bytes,
               size_t shard_count, struct layout **ret, struct error *reterr) {
    struct layout checked;
    int r = layout_check(tensors, tensor_count, block_bytes, shard_count, &checked, reterr);
    if (r < 0)
        return r;

    struct layout *layout = mem_alloc(sizeof *layout);
    *layout = checked;
    layout->tensors = mem_array(tensor_count, sizeof *tensors);
    memcpy(layout->tensors, tensors, tensor_count * sizeof *tensors);
    layout->tensor_offsets = mem_array(tensor_count + 1, sizeof *layout->tensor_offsets);
    layout->blocks = mem_array(layout->block_count, sizeof *layout->blocks);
    layout->shard_starts = mem_array(shard_count + 1, sizeof *layout->shard_starts);
    layout->shard_blocks = mem_array(layout->block_count, sizeof *layout->shard_blocks);
    layout->shard_floats = mem_array(shard_count, sizeof *layout->shard_floats);
    layout->hash = layout_hash(tensors, tensor_count, block_bytes, shard_count);

    uint64_t per_block = layout->block_floats, offset = 0;
    uint32_t id = 0;
    for (size_t i = 0; i < tensor_count; i++) {
        uint64_t size = (uint64_t)tensors[i].rows * tensors[i].cols;
        for (uint64_t at = 0; at < size; at += per_block, id++)
            layout->blocks[id] = (struct layout_block){
                .id = id,
                .tensor = (uint32_t)i,
                .tensor_offset = at,
                .offset = offset + at,
                .floats = (uint32_t)(size - at < per_block ? size - at : per_block),
            };
        offset += size;
        layout->tensor_offsets[i + 1] = offset;
    }
    layout_place(layout);
    *ret = layout;
    return 0;
}

/* The hash so far, then what docs/protocol.md names of each table. */
static uint64_t layout_hash_tables(const struct layout *layout) {
    enum { ROW = LAYOUT_NAME_MAX + 1 + 8 + 4 + 4 };
    size_t len = 8 + layout->table_count * ROW;
    _cleanup_(mem_free_p) uint8_t *bytes = mem_alloc(len);
    uint8_t *at = bytes + 8;
    memcpy(bytes, &layout->hash, 8);
    for (size_t i = 0; i < layout->table_count; i++, at += ROW) {
        const struct layout_table *table = &layout->tables[i];
        memcpy(at, table->name, strlen(table->name));
        memcpy(at + 64, &table->rows, 8);
        memcpy(at + 72, &table->dim, 4);
        memcpy(at + 76, &table->init_scale, 4);
    }
    uint64_t hash = XXH3_64bits(bytes, len);
    return hash ? hash : 1;
}

int layout_add_tables(struct layout *layout, const struct layout_table *tables, size_t table_count,
                      struct error *reterr) {
    if (table_count > LAYOUT_TABLES_MAX)
        return error_set(reterr, ERR_LIMIT, "%zu tables; up to %d are possible", table_count,
                         LAYOUT_TABLES_MAX);
    for (size_t i = 0; i < table_count; i++) {
        int r = layout_check_name("table", i, tables[i].name, reterr);
        for (size_t k = 0; r == 0 && k < i; k++)
            if (strcmp(tables[k].name, tables[i].name) == 0)
                r = error_set(reterr, ERR_FORMAT, "two tables are named '%s'", tables[i].name);
        if (r < 0)
            return r;
        if (tables[i].rows < 1 || tables[i].rows > LAYOUT_ROWS_MAX || tables[i].dim < 1 ||
            tables[i].dim > LAYOUT_DIM_MAX || !isfinite(tables[i].init_scale) ||
            tables[i].init_scale < 0)
            return error_set(reterr, ERR_RANGE,
                             "table '%s': %llu rows of %u floats, initially in +-%g",
                             tables[i].name, (unsigned long long)tables[i].rows, tables[i].dim,
                             (double)tables[i].init_scale);
    }
    if (table_count == 0)
        return 0;
    layout->table_count = table_count;
    layout->tables = mem_array(table_count, sizeof *tables);
    memcpy(layout->tables, tables, table_count * sizeof *tables);
    layout->hash = layout_hash_tables(layout);
    return 0;
}

struct layout *layout_free(struct layout *layout) {
    if (layout) {
        mem_free(layout->tables);
        mem_free(layout->tensors);
        mem_free(layout->tensor_offsets);
        mem_free(layout->blocks);
        mem_free(layout->shard_starts);
        mem_free(layout->shard_blocks);
        mem_free(layout->shard_floats);
        mem_free(layout);
    }
    return NULL;
}

/* Beyond any tensor's number: no table draws the same numbers as a tensor. */
#define TABLE_STREAM (1ull << 32)

uint64_t layout_row_key(uint64_t seed, uint32_t table) {
    return rng_key(seed, TABLE_STREAM + table);
}

void layout_init_row(uint64_t key, uint64_t row, uint32_t dim, float scale, float *weights) {
    for (size_t i = 0; i < dim; i++)
        weights[i] = (2 * rng_float(rng_at(key, row * dim + i)) - 1) * scale;
}

void layout_init_block(const struct layout *layout, uint32_t id, uint64_t seed, float *weights) {
    const struct layout_block *block = &layout->blocks[id];
    const struct tensor_spec *tensor = &layout->tensors[block->tensor];
    if (tensor->init != TENSOR_GLOROT_UNIFORM) {
        for (uint32_t i = 0; i < block->floats; i++)
            weights[i] = tensor->init == TENSOR_ONES;
        return;
    }
    float limit = sqrtf(6.0f / ((float)tensor->rows + (float)tensor->cols));
    uint64_t key = rng_key(seed, block->tensor);
    for (uint32_t i = 0; i < block->floats; i++)
        weights[i] = (2 * rng_float(rng_at(key, block->tensor_offset + i)) - 1) * limit;
}
