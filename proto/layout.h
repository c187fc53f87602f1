/* A layout: how a model's tensors are cut into blocks and placed on shards. A pure function of
 * (tensors, block size, number of shards); worker and shard compute it each for itself and compare
 * the hash. Immutable once built. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/rng.h"

#define LAYOUT_TENSORS_MAX 12288
#define LAYOUT_BLOCKS_MAX 65536
#define LAYOUT_FLOATS_MAX (1ull << 32)
#define LAYOUT_SHARDS_MAX 256
#define LAYOUT_NAME_MAX 63
#define LAYOUT_BLOCKS_EACH 32
#define LAYOUT_TABLES_MAX 64
#define LAYOUT_STRIPES 16            /* of a table on each shard */
#define LAYOUT_ROWS_MAX (1ull << 29) /* 2^25 for each stripe */
#define LAYOUT_DIM_MAX 65536

/* Initial weights; numbered as in graphps.proto. */
enum tensor_init { TENSOR_ZEROS, TENSOR_GLOROT_UNIFORM, TENSOR_ONES };

struct tensor_spec {
    char name[LAYOUT_NAME_MAX + 1]; /* "layer0.weight": letters, digits, '.', '_' ; unique */
    uint32_t rows, cols;
    enum tensor_init init;
    bool decay;
    bool statistic; /* what is pushed is no gradient: a running mean of it is kept; never decays */
};

/* A sparse parameter: rows are placed one by one (layout_row_shard). */
struct layout_table {
    char name[LAYOUT_NAME_MAX + 1];
    uint64_t rows;
    uint32_t dim;
    float init_scale; /* initial values are uniform in +-init_scale */
};

struct layout_block {
    uint32_t id;     /* index in layout->blocks */
    uint32_t tensor; /* index in layout->tensors */
    uint32_t shard;
    uint32_t shard_index;   /* index among the shard's blocks */
    uint64_t tensor_offset; /* first float within the tensor */
    uint64_t offset;        /* first float within the flat model (tensors in order) */
    uint32_t floats;
};

struct layout {
    size_t tensor_count;
    struct tensor_spec *tensors;
    uint64_t *tensor_offsets; /* [tensor_count + 1]: first float of each within the flat model */
    uint64_t floats;          /* of the whole model */
    uint64_t trained;         /* of them before the statistics, which come last */
    uint32_t block_floats;    /* of a block that is not the end of its tensor */
    size_t block_count;
    struct layout_block *blocks;
    size_t shard_count;
    uint32_t *shard_starts; /* [shard_count + 1] into shard_blocks */
    uint32_t *shard_blocks; /* [block_count]: block ids by shard, ascending within a shard */
    uint64_t *shard_floats; /* [shard_count] */
    size_t table_count;
    struct layout_table *tables;
    uint64_t hash; /* of tensors, block size, shard count and tables; never 0 */
};

/* block_bytes: the most that a block has; a multiple of 64, at least 64. A small model is cut into
 * smaller ones, at least LAYOUT_BLOCKS_EACH for each shard as long as they have 64 bytes, so that
 * the shards' parts differ by less than 5 %. Blocks go to the shard with the fewest bytes so far,
 * largest first, ties to the lower number (Graham, SIAM J. Appl. Math. 1969: longest processing
 * time first). Refuses (ERR_RANGE, ERR_LIMIT, ERR_FORMAT) bad names, sizes of 0, too many. */
int layout_new(const struct tensor_spec *tensors, size_t tensor_count, uint32_t block_bytes,
               size_t shard_count, struct layout **ret, struct error *reterr);
/* Adds tables to a layout that has none. Changes the hash. */
int layout_add_tables(struct layout *layout, const struct layout_table *tables, size_t table_count,
                      struct error *reterr);
struct layout *layout_free(struct layout *layout);

/* The shard on which a table's row lives. */
static inline uint32_t layout_row_shard(uint64_t row, uint32_t shards) {
    return (uint32_t)(rng_at(1, row) % shards);
}

/* Which of a shard's stripes a row of a table lies in. */
static inline uint32_t layout_row_stripe(uint64_t row) {
    return (uint32_t)(rng_at(0, row) >> 60); /* 16 of them */
}
_Static_assert(LAYOUT_STRIPES == 16, "layout_row_stripe takes four bits");

/* What initial rows of a table are drawn with. */
uint64_t layout_row_key(uint64_t seed, uint32_t table);
/* A row [dim] that no gradient has touched: uniform in +-scale. */
void layout_init_row(uint64_t key, uint64_t row, uint32_t dim, float scale, float *weights);

/* Writes the initial weights of a block, [floats]. Depends on (seed, tensor, element) alone.
 * Glorot & Bengio, AISTATS 2010: uniform in +-sqrt(6 / (rows + cols)). */
void layout_init_block(const struct layout *layout, uint32_t block, uint64_t seed, float *weights);
