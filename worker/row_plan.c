/* Radix sort by row (least significant digits first), then by the stripe it lives in: each pass
 * keeps the order that the one before it made. */
#include "worker/row_plan.h"

#include <string.h>

#include "common/mem.h"
#include "proto/layout.h"

#define DIGIT_BITS 11
#define DIGITS (1u << DIGIT_BITS)

/* One pass: places from `from` to `to` by key, which is below `keys`; sums [keys + 1]. */
#define SORT_PASS(plan, from, to, keys, key)                                                       \
    do {                                                                                           \
        memset((plan)->sums, 0, ((keys) + 1) * sizeof *(plan)->sums);                              \
        for (size_t i = 0; i < (plan)->count; i++) {                                               \
            uint64_t row = (uint64_t)(plan)->nodes[(from)[i]];                                     \
            (plan)->sums[(key) + 1]++;                                                             \
        }                                                                                          \
        for (size_t k = 0; k < (keys); k++)                                                        \
            (plan)->sums[k + 1] += (plan)->sums[k];                                                \
        for (size_t i = 0; i < (plan)->count; i++) {                                               \
            uint64_t row = (uint64_t)(plan)->nodes[(from)[i]];                                     \
            (to)[(plan)->sums[key]++] = (from)[i];                                                 \
        }                                                                                          \
    } while (0)

static void reserve(struct row_plan *plan, size_t count, size_t shards) {
    if (!plan->starts || shards != plan->shards) {
        size_t stripes = shards * LAYOUT_STRIPES;
        mem_free(plan->starts);
        mem_free(plan->sums);
        plan->starts = mem_array(stripes + 1, sizeof *plan->starts);
        plan->sums = mem_array((stripes > DIGITS ? stripes : DIGITS) + 1, sizeof *plan->sums);
        plan->shards = shards;
    }
    if (count <= plan->capacity)
        return;
    mem_free(plan->order);
    mem_free(plan->other);
    plan->capacity = count + count / 8;
    plan->order = mem_array(plan->capacity, sizeof *plan->order);
    plan->other = mem_array(plan->capacity, sizeof *plan->other);
}

void row_plan_make(struct row_plan *plan, const int64_t *nodes, size_t count, size_t shards) {
    reserve(plan, count, shards);
    plan->nodes = nodes;
    plan->count = count;
    size_t stripes = shards * LAYOUT_STRIPES;
    uint64_t all = 0;
    for (size_t i = 0; i < count; i++) {
        plan->order[i] = (uint32_t)i;
        all |= (uint64_t)nodes[i];
    }
    for (unsigned shift = 0; shift < 64 && all >> shift; shift += DIGIT_BITS) {
        SORT_PASS(plan, plan->order, plan->other, DIGITS, (row >> shift & (DIGITS - 1)));
        uint32_t *swap = plan->order;
        plan->order = plan->other;
        plan->other = swap;
    }
    SORT_PASS(plan, plan->order, plan->other, stripes,
              (layout_row_shard(row, (uint32_t)shards) * LAYOUT_STRIPES + layout_row_stripe(row)));
    uint32_t *swap = plan->order;
    plan->order = plan->other;
    plan->other = swap;
    /* Each sum has moved on to where the next one began. */
    memcpy(plan->starts + 1, plan->sums, stripes * sizeof *plan->starts);
    plan->starts[0] = 0;
}

void row_plan_done(struct row_plan *plan) {
    mem_free(plan->order);
    mem_free(plan->other);
    mem_free(plan->starts);
    mem_free(plan->sums);
    *plan = (struct row_plan){0};
}
