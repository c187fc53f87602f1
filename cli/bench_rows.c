/* Rows of a table as a push of the benchmark carries them: drawn by Zipf's law, as words, users and
 * products are met, each once in a push. */
#include <math.h>
#include <stdlib.h>

#include "cli/bench.h"
#include "common/mem.h"
#include "common/rng.h"
#include "proto/codec.h"

/* Rows drawn for the pushes of a size to a shard, which are sent again and again: many, so that
 * they reach as far into the table as real ones do. */
#define ROWS_DRAWN (1u << 20)
#define ROWS_VARIANTS_MIN 16

/* The rank with a chance of log(1 + 1 / rank) / log(rows + 1), which is Zipf's with exponent 1 but
 * for the first few; ranks are scattered over the numbers. */
static uint64_t draw(uint64_t rows, uint64_t random) {
    double u = (double)(random >> 11) * 0x1p-53;
    uint64_t rank = (uint64_t)pow((double)rows + 1, u) - 1;
    return rng_mix(rank) % rows;
}

static int compare_rows(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* seen: a bit for each row, all clear before and after. */
static void draw_rows(const struct bench_plan *plan, size_t shard, uint64_t key, uint32_t count,
                      uint8_t *seen, uint64_t *rows) {
    uint64_t all = plan->settings->table_rows, drawn = 0;
    uint32_t shards = (uint32_t)plan->layout->shard_count;
    for (uint32_t n = 0; n < count;) {
        uint64_t row = draw(all, rng_at(key, drawn++));
        if (seen[row / 8] & 1 << row % 8 || layout_row_shard(row, shards) != shard)
            continue;
        seen[row / 8] |= (uint8_t)(1 << row % 8);
        rows[n++] = row;
    }
    for (uint32_t i = 0; i < count; i++)
        seen[rows[i] / 8] = 0;
    qsort(rows, count, sizeof *rows, compare_rows);
}

void bench_rows_make(const struct bench_plan *plan, size_t size, uint64_t key,
                     struct bench_rows *ret) {
    const struct bench_settings *settings = plan->settings;
    enum codec codec = (enum codec)plan->config->push_encoding;
    size_t floats = settings->sizes[size] / sizeof(float), shards = plan->layout->shard_count;
    uint32_t count = bench_row_count(settings, size), variants = ROWS_DRAWN / count;
    ret->count = count;
    ret->variants = variants < ROWS_VARIANTS_MIN ? ROWS_VARIANTS_MIN : variants;
    ret->ids = mem_array(shards * ret->variants, sizeof(struct buf *));
    _cleanup_(mem_free_p) uint8_t *seen = mem_array(settings->table_rows / 8 + 1, 1);
    for (size_t i = 0; i < shards * ret->variants; i++) {
        ret->ids[i] = buf_new(count * sizeof(uint64_t));
        draw_rows(plan, i / ret->variants, rng_key(key, i), count, seen,
                  (uint64_t *)(void *)ret->ids[i]->data);
    }
    _cleanup_(mem_free_p) float *gradient = mem_array(floats, sizeof *gradient);
    for (size_t i = 0; i < floats; i++)
        gradient[i] = (rng_float(rng_at(key, i)) - 0.5F) * 1e-3F;
    ret->values = buf_new(codec_bytes(codec, 1, floats));
    codec_encode(codec, 1, gradient, floats, NULL, ret->values->data);
}
