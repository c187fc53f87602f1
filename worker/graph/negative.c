/* Drawing until something is no edge, and counting when almost everything is one. */
#include "worker/graph/negative.h"

#include <assert.h>
#include <stdbool.h>

#include "common/rng.h"

/* A row that is nearly full is walked instead. */
enum { TRIES = 32 };
enum { STREAM_NEGATIVE = 0x6e656761 };

struct row {
    const int32_t *items;
    uint64_t count;
};

static struct row row_of(const struct store *store, int32_t target) {
    assert(target >= 0 && (uint64_t)target < store->rows);
    int64_t begin = store->indptr[target];
    return (struct row){store->indices + begin, (uint64_t)(store->indptr[target + 1] - begin)};
}

static bool has_edge(const struct row *row, int32_t source) {
    uint64_t low = 0, high = row->count;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (row->items[middle] < source)
            low = middle + 1;
        else
            high = middle;
    }
    return low < row->count && row->items[low] == source;
}

static bool is_negative(const struct row *row, int32_t target, int32_t source) {
    return source != target && !has_edge(row, source);
}

/* How many nodes are none: neighbours, once each, and the target. */
static uint64_t count_taken(const struct row *row, int32_t target) {
    uint64_t taken = has_edge(row, target) ? 0 : 1;
    for (uint64_t k = 0; k < row->count; k++)
        taken += k == 0 || row->items[k] != row->items[k - 1];
    return taken;
}

/* The k-th node, from 0, that is a negative: what is taken below it is counted in ascending order.
 */
static int32_t negative_at(const struct row *row, int32_t target, uint64_t k) {
    uint64_t at = k;
    bool passed = false;
    for (uint64_t e = 0; e <= row->count; e++) {
        int32_t next = e < row->count ? row->items[e] : INT32_MAX;
        if (e > 0 && e < row->count && next == row->items[e - 1])
            continue;
        if (!passed && target <= next) {
            passed = true;
            at += (uint64_t)target <= at;
            if (target == next)
                continue;
        }
        if ((uint64_t)next > at)
            break;
        at++;
    }
    return (int32_t)at;
}

size_t negative_draw(const struct store *store, int32_t target, struct negative_key key,
                     size_t count, int32_t *ret_sources) {
    struct row row = row_of(store, target);
    uint64_t bits = rng_key(
        rng_key(rng_key(rng_key(key.seed, STREAM_NEGATIVE), key.epoch), key.batch), key.edge);
    if (row.count + 1 >= store->local && count_taken(&row, target) >= store->local)
        return 0;
    for (size_t i = 0; i < count; i++) {
        bool found = false;
        for (uint64_t t = 0; t < TRIES && !found; t++) {
            uint64_t draw = rng_at(bits, i * (TRIES + 1) + t);
            ret_sources[i] = (int32_t)rng_below(draw, store->local);
            found = is_negative(&row, target, ret_sources[i]);
        }
        if (!found) {
            uint64_t draw = rng_at(bits, i * (TRIES + 1) + TRIES);
            uint64_t left = store->local - count_taken(&row, target);
            ret_sources[i] = negative_at(&row, target, rng_below(draw, left));
        }
    }
    return count;
}

size_t negative_in_batch(const struct store *store, int32_t target, const int32_t *sources,
                         size_t count, int32_t *ret_sources) {
    struct row row = row_of(store, target);
    size_t out = 0;
    for (size_t i = 0; i < count; i++)
        if (is_negative(&row, target, sources[i]))
            ret_sources[out++] = sources[i];
    return out;
}
