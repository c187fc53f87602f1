/* Rows of a table as a push of the benchmark carries them: drawn by Zipf's law, as words, users and
 * products are met, each once in a push. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "common/mem.h"
#include "common/rng.h"
#include "proto/codec.h"

/* Rows drawn for the pushes of a size to a shard, which are sent again and again: many, so that
 * they reach as far into the table as real ones do; but for many shards not as many for each, and
 * of a small table no more than reach all of it. */
#define ROWS_DRAWN (1u << 20)
#define ROWS_DRAWN_IN_ALL (4u << 20)
#define ROWS_VARIANTS_MIN 16
#define SCATTER_ROUNDS 4

/* A permutation of the numbers below rows: a Feistel network (Luby and Rackoff, 1988) over the next
 * even number of bits, gone through until it ends below rows ("cycle walking"; Black and Rogaway,
 * 2002), which takes 4 turns at most on average. */
static uint64_t scatter(uint64_t rows, uint64_t rank) {
    unsigned half = 1;
    while (rows > 1ull << 2 * half)
        half++;
    uint64_t mask = (1ull << half) - 1;
    do {
        uint64_t left = rank >> half, right = rank & mask;
        for (uint64_t round = 0; round < SCATTER_ROUNDS; round++) {
            uint64_t next = left ^ (rng_at(rng_key(rows, round), right) & mask);
            left = right;
            right = next;
        }
        rank = left << half | right;
    } while (rank >= rows);
    return rank;
}

/* The rank with a chance of log(1 + 1 / rank) / log(rows + 1), which is Zipf's with exponent 1 but
 * for the first few; ranks are scattered over the numbers. */
static uint64_t draw(uint64_t rows, uint64_t random) {
    double u = (double)(random >> 11) * 0x1p-53;
    uint64_t rank = (uint64_t)pow((double)rows + 1, u) - 1;
    return scatter(rows, rank < rows ? rank : rows - 1);
}

static int compare_rows(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* One push to each shard: ids[shard * variants]. seen: a bit for each row, all clear before and
 * after; filled [shards]. */
static void draw_rows(const struct bench_plan *plan, uint64_t key, const struct bench_rows *to,
                      size_t variant, uint8_t *seen, uint32_t *filled) {
    uint64_t all = plan->settings->table_rows, drawn = 0;
    size_t shards = plan->layout->shard_count, full = 0;
    memset(filled, 0, shards * sizeof *filled);
    while (full < shards) {
        uint64_t row = draw(all, rng_at(key, drawn++));
        uint32_t shard = layout_row_shard(row, (uint32_t)shards);
        if (filled[shard] == to->count || seen[row / 8] & 1 << row % 8)
            continue;
        seen[row / 8] |= (uint8_t)(1 << row % 8);
        uint64_t *rows = (uint64_t *)(void *)to->ids[shard * to->variants + variant]->data;
        rows[filled[shard]++] = row;
        full += filled[shard] == to->count;
    }
    for (size_t shard = 0; shard < shards; shard++) {
        uint64_t *rows = (uint64_t *)(void *)to->ids[shard * to->variants + variant]->data;
        for (uint32_t i = 0; i < to->count; i++)
            seen[rows[i] / 8] = 0;
        qsort(rows, to->count, sizeof *rows, compare_rows);
    }
}

static uint32_t count_variants(const struct bench_plan *plan, uint32_t count) {
    uint64_t shards = plan->layout->shard_count, rows = ROWS_DRAWN;
    rows = rows < ROWS_DRAWN_IN_ALL / shards ? rows : ROWS_DRAWN_IN_ALL / shards;
    uint64_t enough = 4 * plan->settings->table_rows / shards;
    rows = rows < enough ? rows : enough;
    uint64_t variants = rows / count;
    return variants < ROWS_VARIANTS_MIN ? ROWS_VARIANTS_MIN : (uint32_t)variants;
}

void bench_rows_make(const struct bench_plan *plan, size_t size, uint64_t key,
                     struct bench_rows *ret) {
    const struct bench_settings *settings = plan->settings;
    enum codec codec = (enum codec)plan->config->push_encoding;
    size_t floats = settings->sizes[size] / sizeof(float), shards = plan->layout->shard_count;
    ret->count = bench_row_count(settings, size);
    ret->variants = count_variants(plan, ret->count);
    ret->ids = mem_array(shards * ret->variants, sizeof(struct buf *));
    for (size_t i = 0; i < shards * ret->variants; i++)
        ret->ids[i] = buf_new(ret->count * sizeof(uint64_t));
    _cleanup_(mem_free_p) uint8_t *seen = mem_array(settings->table_rows / 8 + 1, 1);
    _cleanup_(mem_free_p) uint32_t *filled = mem_array(shards, sizeof *filled);
    for (size_t i = 0; i < ret->variants; i++)
        draw_rows(plan, rng_key(key, i), ret, i, seen, filled);
    _cleanup_(mem_free_p) float *gradient = mem_array(floats, sizeof *gradient);
    for (size_t i = 0; i < floats; i++)
        gradient[i] = (rng_float(rng_at(key, i)) - 0.5F) * 1e-3F;
    size_t dim = settings->table_dim;
    ret->values = buf_new(ret->count * codec_bytes(codec, 1, dim));
    uint8_t *at = ret->values->data;
    for (uint32_t i = 0; i < ret->count; i++)
        at += codec_encode(codec, 1, gradient + i * dim, dim, NULL, at);
}
