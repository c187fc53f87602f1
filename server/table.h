/* A table on its shard: embedding rows of a fixed width, each with its optimizer state, made when a
 * gradient first touches them. Lies in stripes with a lock each; any number of threads may read,
 * apply and evict at once. Which rows are ours, that row numbers are below `rows` and that numbers
 * are finite is checked by the caller.
 *
 * A row that nothing has touched has its initial value, and has it again after an eviction. That
 * depends on (seed, table number, row, element) alone; with mix, key and u as in docs/protocol.md,
 * all integers mod 2^64:
 *
 *     key    = mix(mix(seed + 0x9e3779b97f4a7c15) ^ ((2^32 + table) * 0xd1342543de82ef95 + 1))
 *     i      = row * dim + element
 *     u      = (mix(key + (i + 1) * 0x9e3779b97f4a7c15) >> 40) * 2^-24
 *     weight = (2 u - 1) * init_scale          (floats; 2 u - 1 is exact)
 *
 * Sets of weights can be kept aside, the best ones and a candidate to become them: a row's weights
 * are copied beside it when it is first changed after a set was kept, so keeping one costs nothing
 * in that moment, and a row that is let go is gone from them too.
 *
 * Memory: (1 + state + kept) * 4 * dim bytes for a row's floats, 4 for each set, 16 for its number,
 * clock and steps, 5 to 10 for the index, and of n rows' places in a stripe n / 8 + 8 at most wait
 * for more. What an eviction frees is used again, not given back. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/rng.h"
#include "server/optimizer.h"

#define TABLE_STRIPES_MAX 1024
#define TABLE_DIM_MAX 65536
#define TABLE_STRIPE_ROWS_MAX (1ull << 25) /* so many rows a table may have for each stripe */

struct table;

struct table_spec {
    const char *name; /* copied */
    uint32_t number;
    uint64_t rows;
    uint32_t dim;
    float init_scale; /* initial values are uniform in +-init_scale */
    uint32_t kept;    /* sets that can be kept: 0 none, 1 the best, 2 also a candidate */
};

enum table_set { TABLE_PRESENT, TABLE_BEST, TABLE_CANDIDATE };

/* What a push has for one stripe: count rows, number rows[order[j]] with the gradient
 * values[order[j] * dim ..]. Row numbers ascend strictly with j. Nothing is kept. */
struct table_part {
    const uint64_t *rows;
    const float *values; /* [n, dim] */
    const uint32_t *order;
    uint32_t count;
    float weight; /* samples behind it */
};

/* A row with its state, as it travels to and from a checkpoint. */
struct table_row {
    uint64_t row;
    uint32_t clock;      /* last touched */
    uint32_t steps;      /* of the optimizer */
    const float *floats; /* [table_row_floats]: weights [dim], then the optimizer's state */
    const float *best;   /* [dim] the best weights; NULL: none are kept */
};

/* stripes: a power of two up to TABLE_STRIPES_MAX. The optimizer is borrowed for the table's life.
 * Refuses (ERR_RANGE, ERR_LIMIT) sizes of 0 and sizes beyond the limits above. */
int table_new(const struct table_spec *spec, uint64_t seed, uint32_t stripes,
              const struct optimizer *optimizer, struct table **ret, struct error *reterr);
/* No thread may be inside, no snapshot be under way. */
struct table *table_free(struct table *table);

/* dim * (1 + floats of optimizer state). */
size_t table_row_floats(const struct table *table);
uint32_t table_stripe_of(const struct table *table, uint64_t row);
/* Sorts a push's (or a pull's) rows by stripe: those of stripe s are at the positions
 * order[starts[s]] .. order[starts[s + 1] - 1], ascending. order [n], starts [stripes + 1]. */
void table_split(const struct table *table, const uint64_t *rows, uint32_t n, uint32_t *order,
                 uint32_t *starts);

/* One optimizer step for every row that a part has: with the gradient that is the sum over the
 * parts of weight / total_weight * theirs, where a part without the row counts as zeros. Rows that
 * are new start from their initial value. Sums in the order of the parts, so that equal parts give
 * equal bits. Parts of weight 0 touch nothing. All rows must be of the stripe. clock: for eviction;
 * a row keeps its highest. lr: the step's, in place of the optimizer's. Returns the number of rows
 * stepped. Whoever waits for the stripe has a turn every few dozen rows: a read may meet some rows
 * with this step and some without. */
size_t table_apply(struct table *table, uint32_t stripe, const struct table_part *parts,
                   size_t part_count, double total_weight, uint32_t clock, float lr);

/* out[n, dim]: the weights of rows[n], in any order; no row is half of an update. Rows that do not
 * exist have their initial value and are not made. */
void table_read(struct table *table, const uint64_t *rows, uint32_t n, float *out);

/* The same of a set that was kept; of one that was not the present weights. */
void table_read_set(struct table *table, enum table_set set, const uint64_t *rows, uint32_t n,
                    float *out);

/* Keeps the present weights as a set (not TABLE_PRESENT), stripe by stripe. */
void table_keep(struct table *table, enum table_set set);
/* The candidate becomes the best; then there is no candidate. */
void table_promote(struct table *table);

/* Drops a stripe's rows that were last touched before this clock; returns how many. Lets others at
 * the stripe every few thousand rows; of what they make meanwhile some is not looked at. */
size_t table_evict(struct table *table, uint32_t stripe, uint32_t before_clock);

/* Puts a checkpoint's row where it belongs, over what is there; its best weights too, where a best
 * set is kept. ERR_RANGE: the table has no such
 * row. */
int table_restore_row(struct table *table, const struct table_row *row, struct error *reterr);

/* Rows held, and the bytes allocated for all of the table. */
void table_counts(struct table *table, uint64_t *ret_rows, uint64_t *ret_bytes);

/* The table as it is now, while training goes on: until the end, a row that is about to change for
 * the first time is copied aside if it has not been handed out, so a snapshot costs memory for the
 * rows that change meanwhile, all of them at worst. Each stripe is caught at one instant, between
 * two rows; that all are caught at the same, between two pushes, is for the caller, who keeps
 * applies out while this returns (it takes a millisecond for ten million rows). One at a time. */
struct table_snapshot;
struct table_snapshot *table_snapshot_begin(struct table *table);
/* Have its rows best weights? */
bool table_snapshot_best(const struct table_snapshot *snapshot);
/* The next row, by stripe and within it by place: equal histories give equal orders. False: that
 * was all. Called by one thread; ret->floats and best are good until the next call. */
bool table_snapshot_next(struct table_snapshot *snapshot, struct table_row *ret);
/* Also before all rows are handed out. Takes NULL, returns NULL. */
struct table_snapshot *table_snapshot_end(struct table_snapshot *snapshot);
