/* The log-linear histogram: 16 buckets to each power of two. Owns the mapping between values and
 * buckets. Does not know units; the metric table divides. */
#include "common/histogram.h"

#include <math.h>
#include <stddef.h>

#define VALUE_MAX ((UINT64_C(1) << 48) - 1)

static size_t bucket_of(uint64_t value) {
    if (value > VALUE_MAX)
        value = VALUE_MAX;
    if (value < 16)
        return (size_t)value;
    unsigned exponent = 63 - (unsigned)__builtin_clzll(value);
    return 16 + 16 * (size_t)(exponent - 4) + ((value >> (exponent - 4)) & 15);
}

static uint64_t bucket_largest(size_t bucket) {
    if (bucket < 16)
        return bucket;
    size_t shift = (bucket - 16) / 16;
    return ((uint64_t)(16 + bucket % 16 + 1) << shift) - 1;
}

static uint64_t load(const _Atomic uint64_t *cell) {
    return atomic_load_explicit(cell, memory_order_relaxed);
}

/* One writer: a load and a store are enough, and cost no locked instruction. */
static void grow(_Atomic uint64_t *cell, uint64_t by) {
    atomic_store_explicit(cell, load(cell) + by, memory_order_relaxed);
}

void histogram_add(struct histogram *histogram, uint64_t value) {
    grow(&histogram->buckets[bucket_of(value)], 1);
    grow(&histogram->sum, value);
    grow(&histogram->count, 1);
}

void histogram_merge(struct histogram *to, const struct histogram *from) {
    /* The count is that of the buckets as read here, not from->count, which its writer may be about
     * to raise: a reader's total must never fall below one of its parts. */
    uint64_t count = 0;
    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        uint64_t n = load(&from->buckets[i]);
        if (n > 0)
            grow(&to->buckets[i], n);
        count += n;
    }
    grow(&to->sum, load(&from->sum));
    grow(&to->count, count);
}

uint64_t histogram_quantile(const struct histogram *histogram, double q) {
    uint64_t count = load(&histogram->count);
    if (count == 0)
        return 0;
    double rank = ceil(q * (double)count);
    uint64_t seen = 0, largest = 0;
    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        uint64_t n = load(&histogram->buckets[i]);
        if (n == 0)
            continue;
        seen += n;
        largest = bucket_largest(i);
        if ((double)seen >= rank)
            break;
    }
    return largest;
}

double histogram_mean(const struct histogram *histogram) {
    uint64_t count = load(&histogram->count);
    return count == 0 ? 0 : (double)load(&histogram->sum) / (double)count;
}

uint64_t histogram_count_upto(const struct histogram *histogram, uint64_t bound) {
    uint64_t count = 0;
    for (size_t i = 0, last = bucket_of(bound); i <= last; i++)
        count += load(&histogram->buckets[i]);
    return count;
}
