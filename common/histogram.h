/* A histogram of non-negative integers in fixed log-linear buckets (16 per power of two: at most
 * 6.3 % wide), no allocation, mergeable. The idea is HdrHistogram's (Tene). Not locked; a histogram
 * written by one thread may be merged by another (relaxed atomics). */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#define HISTOGRAM_BUCKETS (16 + 16 * 44) /* 0..15 exact, then up to 2^48 - 1; more is clamped */

struct histogram {
    _Atomic uint64_t count;
    _Atomic uint64_t sum;
    _Atomic uint64_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_add(struct histogram *histogram, uint64_t value);
void histogram_merge(struct histogram *to, const struct histogram *from);
/* The largest value equivalent to quantile q in [0, 1]; 0 when empty. */
uint64_t histogram_quantile(const struct histogram *histogram, double q);
double histogram_mean(const struct histogram *histogram);
/* How many values were <= bound (rounded up to bound's bucket). */
uint64_t histogram_count_upto(const struct histogram *histogram, uint64_t bound);
