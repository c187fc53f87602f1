/* server/table: rows that appear at the first touch, gradients against a model in double, memory,
 * evictions against a map, snapshots against the state at the cut while two threads train on. */
#include "tests/test.h"

#include <malloc.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "proto/layout.h"
#include "server/table.h"

/* Under a sanitizer malloc says nothing of itself; under the address one the pool keeps nothing. */
#if defined(__SANITIZE_ADDRESS__)
enum { MALLOC_TELLS = 0, POOL_KEEPS = 0 };
#elif defined(__SANITIZE_THREAD__)
enum { MALLOC_TELLS = 0, POOL_KEEPS = 1 };
#else
enum { MALLOC_TELLS = 1, POOL_KEEPS = 1 };
#endif

enum { SEED = 42, PARTS_MAX = 5 };
static const float rate = 0.05F;

static struct optimizer rule(int kind) {
    return (struct optimizer){.kind = kind,
                              .lr = rate,
                              .momentum = 0.9F,
                              .beta1 = 0.9F,
                              .beta2 = 0.99F,
                              .eps = 1e-8F,
                              .weight_decay = 0.1F}; /* which rows do not know */
}

static const struct optimizer sum_rule = {.kind = OPTIMIZER_NONE};

static struct table *make(uint32_t number, uint64_t rows, uint32_t dim, uint32_t stripes,
                          const struct optimizer *optimizer) {
    struct table_spec spec = {
        .name = "nodes", .number = number, .rows = rows, .dim = dim, .init_scale = 0.25F};
    struct table *table;
    ck_assert_int_eq(table_new(&spec, SEED, stripes, optimizer, &table, NULL), 0);
    return table;
}

/* The formula of table.h, written out again. */
static float initial(uint32_t number, uint64_t row, uint32_t dim, uint32_t element) {
    const uint64_t golden = 0x9e3779b97f4a7c15;
    uint64_t key =
        rng_mix(rng_mix(SEED + golden) ^ (((1ull << 32) + number) * 0xd1342543de82ef95 + 1));
    uint64_t bits = rng_mix(key + (row * dim + element + 1) * golden);
    return (2 * ((float)(bits >> 40) * 0x1p-24F) - 1) * 0.25F;
}

/* One worker's gradients: distinct rows, ascending. */
struct push {
    uint32_t n;
    uint64_t *rows;
    float *values;
    float weight;
};

static int compare_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Up to n of count rows, which are every step-th; values in [-1, 1). */
static struct push push_random(uint64_t key, uint32_t n, uint64_t count, uint64_t step,
                               uint32_t dim) {
    struct push push = {.rows = mem_array(n, sizeof *push.rows),
                        .values = mem_array((size_t)n * dim, sizeof *push.values),
                        .weight = 1 + (float)(key % 7)};
    for (uint32_t i = 0; i < n; i++)
        push.rows[i] = rng_below(rng_at(key, i), count) * step;
    qsort(push.rows, n, sizeof *push.rows, compare_u64);
    for (uint32_t i = 0; i < n; i++)
        if (push.n == 0 || push.rows[push.n - 1] != push.rows[i])
            push.rows[push.n++] = push.rows[i];
    for (size_t i = 0; i < (size_t)n * dim; i++)
        push.values[i] = rng_float(rng_at(key, n + i)) * 2 - 1;
    return push;
}

static void push_done(struct push *push) {
    mem_free(push->rows);
    mem_free(push->values);
}

/* As an aggregator does: every stripe's share of all pushes. Returns the rows stepped. */
static size_t apply(struct table *table, uint32_t stripes, const struct push *pushes, size_t count,
                    uint32_t clock) {
    uint32_t *orders[PARTS_MAX], *starts[PARTS_MAX];
    double total = 0;
    size_t stepped = 0;
    for (size_t p = 0; p < count; p++) {
        orders[p] = mem_array(pushes[p].n, sizeof *orders[p]);
        starts[p] = mem_array(stripes + 1, sizeof *starts[p]);
        table_split(table, pushes[p].rows, pushes[p].n, orders[p], starts[p]);
        total += pushes[p].weight;
    }
    for (uint32_t s = 0; s < stripes; s++) {
        struct table_part parts[PARTS_MAX];
        for (size_t p = 0; p < count; p++)
            parts[p] = (struct table_part){.rows = pushes[p].rows,
                                           .values = pushes[p].values,
                                           .order = orders[p] + starts[p][s],
                                           .count = starts[p][s + 1] - starts[p][s],
                                           .weight = pushes[p].weight};
        stepped += table_apply(table, s, parts, count, total, clock, rate);
    }
    for (size_t p = 0; p < count; p++) {
        mem_free(orders[p]);
        mem_free(starts[p]);
    }
    return stepped;
}

/* The same gradient for rows first, first + 1, ..., count of them. */
static void apply_range(struct table *table, uint32_t stripes, uint64_t first, uint32_t count,
                        uint32_t dim, float value, uint32_t clock) {
    struct push push = {.n = count,
                        .rows = mem_array(count, sizeof *push.rows),
                        .values = mem_array((size_t)count * dim, sizeof *push.values),
                        .weight = 1};
    for (uint32_t i = 0; i < count; i++)
        push.rows[i] = first + i;
    for (size_t i = 0; i < (size_t)count * dim; i++)
        push.values[i] = value;
    ck_assert_uint_eq(apply(table, stripes, &push, 1, clock), count);
    push_done(&push);
}

static uint64_t row_count(struct table *table) {
    uint64_t rows, bytes;
    table_counts(table, &rows, &bytes);
    return rows;
}

static uint64_t byte_count(struct table *table) {
    uint64_t rows, bytes;
    table_counts(table, &rows, &bytes);
    return bytes;
}

/* All rows of a table, in the walker's order. */
struct dump {
    size_t count, row_floats;
    struct table_row *rows;
    float *floats;
};

static void dump_add(struct dump *dump, const struct table_row *row) {
    if ((dump->count & (dump->count - 1)) == 0) { /* full at every power of two */
        size_t next = dump->count ? 2 * dump->count : 1, floats = dump->row_floats * sizeof(float);
        dump->rows =
            mem_resize(dump->rows, dump->count * sizeof *dump->rows, next * sizeof *dump->rows);
        dump->floats = mem_resize(dump->floats, dump->count * floats, next * floats);
    }
    memcpy(dump->floats + dump->count * dump->row_floats, row->floats,
           dump->row_floats * sizeof(float));
    dump->rows[dump->count++] = *row;
}

static struct dump dump_rest(struct table *table, struct table_snapshot *snapshot) {
    struct dump dump = {.row_floats = table_row_floats(table)};
    struct table_row row;
    while (table_snapshot_next(snapshot, &row))
        dump_add(&dump, &row);
    for (size_t i = 0; i < dump.count; i++)
        dump.rows[i].floats = dump.floats + i * dump.row_floats;
    table_snapshot_end(snapshot);
    return dump;
}

static struct dump dump_table(struct table *table) {
    return dump_rest(table, table_snapshot_begin(table));
}

static void dump_done(struct dump *dump) {
    mem_free(dump->rows);
    mem_free(dump->floats);
}

static int compare_rows(const void *a, const void *b) {
    return compare_u64(&((const struct table_row *)a)->row, &((const struct table_row *)b)->row);
}

/* In loops over all rows: every ck_assert writes to a file. */
#define EXPECT(what)                                                                               \
    do {                                                                                           \
        if (!(what))                                                                               \
            ck_abort_msg("%s", #what);                                                             \
    } while (0)

static void dumps_equal(const struct dump *a, const struct dump *b) {
    ck_assert_uint_eq(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        const struct table_row *x = &a->rows[i], *y = &b->rows[i];
        EXPECT(x->row == y->row);
        EXPECT(x->clock == y->clock);
        EXPECT(x->steps == y->steps);
        EXPECT(memcmp(x->floats, y->floats, a->row_floats * sizeof(float)) == 0);
    }
}

/* Promise: a row's initial value follows the written formula, whatever the order of touches, the
 * number of stripes and evictions, whether it exists or not; all rows and tables differ. */
START_TEST(initial_values) {
    enum { COUNT = 300, DIM = 7 };
    struct table *tables[] = {make(3, 1000, DIM, 1, &sum_rule), make(3, 1000, DIM, 16, &sum_rule),
                              make(3, 1000, DIM, 4, &sum_rule)};
    for (uint32_t i = COUNT; i-- > 0;) /* one by one, from the last */
        apply_range(tables[0], 1, i, 1, DIM, 0, 1);
    apply_range(tables[1], 16, 0, COUNT, DIM, 5, 1);
    for (uint32_t s = 0; s < 16; s++)
        table_evict(tables[1], s, 2);
    apply_range(tables[1], 16, 100, 100, DIM, 0, 3);
    ck_assert_uint_eq(row_count(tables[0]), COUNT);
    ck_assert_uint_eq(row_count(tables[1]), 100);
    ck_assert_uint_eq(row_count(tables[2]), 0);

    uint64_t rows[COUNT];
    float expected[COUNT * DIM], got[COUNT * DIM];
    double sum = 0, most = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        rows[i] = i;
        for (uint32_t e = 0; e < DIM; e++) {
            float value = expected[i * DIM + e] = initial(3, i, DIM, e);
            sum += value;
            most = fmax(most, fabs(value));
        }
    }
    for (size_t t = 0; t < ARRAY_LEN(tables); t++) {
        table_read(tables[t], rows, COUNT, got);
        ck_assert_mem_eq(got, expected, sizeof got);
        table_free(tables[t]);
    }
    ck_assert(most <= 0.25 && most > 0.249);
    ck_assert(fabs(sum / (COUNT * DIM)) < 0.02);
    ck_assert_mem_ne(expected, expected + DIM, DIM * sizeof(float));

    struct table *other = make(4, 1000, DIM, 16, &sum_rule);
    table_read(other, rows, COUNT, got);
    for (size_t i = 0; i < COUNT * DIM; i++)
        EXPECT(memcmp(&got[i], &expected[i], sizeof got[i]) != 0);
    table_free(other);
}
END_TEST

/* Promise: shards and stripes share the rows evenly, and a stripe says nothing about the shard. */
START_TEST(placement) {
    enum { COUNT = 100000, SHARDS = 3, STRIPES = 16 };
    struct table *table = make(0, COUNT, 1, STRIPES, &sum_rule);
    uint32_t counts[SHARDS][STRIPES] = {0};
    for (uint64_t row = 0; row < COUNT; row++)
        counts[layout_row_shard(row, SHARDS)][table_stripe_of(table, row)]++;
    double expected = (double)COUNT / (SHARDS * STRIPES);
    for (size_t i = 0; i < SHARDS; i++)
        for (size_t s = 0; s < STRIPES; s++)
            ck_assert(fabs(counts[i][s] - expected) < 5 * sqrt(expected));
    ck_assert_uint_eq(layout_row_shard(12345, 1), 0);
    ck_assert_uint_eq(layout_row_shard(12345, 1000), /* mix(12346 * golden + 1) */
                      rng_mix(12346 * 0x9e3779b97f4a7c15 + 1) % 1000);
    table_free(table);
}
END_TEST

/* One element in double. */
struct model {
    double w, v, s;
};

static void model_step(struct model *x, const struct optimizer *o, double g, uint32_t step) {
    double lr = o->lr, b1 = o->beta1, b2 = o->beta2;
    switch (o->kind) {
    case OPTIMIZER_NONE:
        x->w += g;
        break;
    case OPTIMIZER_SGD:
        x->w -= lr * g;
        break;
    case OPTIMIZER_MOMENTUM:
        x->v = (double)o->momentum * x->v + g;
        x->w -= lr * (o->nesterov ? g + (double)o->momentum * x->v : x->v);
        break;
    case OPTIMIZER_ADAGRAD:
        x->s += g * g;
        x->w -= lr * g / (sqrt(x->s) + (double)o->eps);
        break;
    default: /* adam; adamw without decay is the same */
        x->v = b1 * x->v + (1 - b1) * g;
        x->s = b2 * x->s + (1 - b2) * g * g;
        x->w -=
            lr * (x->v / (1 - pow(b1, step))) / (sqrt(x->s / (1 - pow(b2, step))) + (double)o->eps);
    }
}

/* Random batches of 1 to 5 pushes with overlapping rows, one of weight 0 now and then. */
static void against_model(const struct optimizer *o, uint32_t dim, uint32_t stripes) {
    enum { COUNT = 400, STEP = 80021, BATCHES = 25, ROWS = 150 };
    struct table *table = make(1, (uint64_t)COUNT * STEP, dim, stripes, o);
    struct model *models = mem_array((size_t)COUNT * dim, sizeof *models);
    uint32_t steps[COUNT] = {0};
    for (uint64_t r = 0; r < COUNT; r++)
        for (uint32_t e = 0; e < dim; e++)
            models[r * dim + e].w = initial(1, r * STEP, dim, e);

    for (uint64_t batch = 0; batch < BATCHES; batch++) {
        struct push pushes[PARTS_MAX];
        size_t parts = 1 + batch % PARTS_MAX;
        double total = 0;
        for (size_t p = 0; p < parts; p++) {
            uint64_t key = rng_key(batch, dim * 10 + p);
            pushes[p] = push_random(key, ROWS, COUNT, STEP, dim);
            if (batch % 3 == 2 && p == 1)
                pushes[p].weight = 0;
            total += pushes[p].weight;
        }
        double *sums = mem_array((size_t)COUNT * dim, sizeof *sums);
        bool met[COUNT] = {false};
        size_t expected = 0;
        for (size_t p = 0; p < parts; p++)
            for (uint32_t i = 0; i < pushes[p].n && pushes[p].weight > 0; i++) {
                uint64_t r = pushes[p].rows[i] / STEP;
                expected += !met[r];
                met[r] = true;
                for (uint32_t e = 0; e < dim; e++)
                    sums[r * dim + e] +=
                        pushes[p].weight / total * (double)pushes[p].values[i * dim + e];
            }
        for (size_t r = 0; r < COUNT; r++)
            if (met[r] && ++steps[r])
                for (uint32_t e = 0; e < dim; e++)
                    model_step(&models[r * dim + e], o, sums[r * dim + e], steps[r]);
        ck_assert_uint_eq(apply(table, stripes, pushes, parts, (uint32_t)batch), expected);
        for (size_t p = 0; p < parts; p++)
            push_done(&pushes[p]);
        mem_free(sums);
    }

    uint64_t rows[COUNT];
    float *got = mem_array((size_t)COUNT * dim, sizeof *got);
    float *expected = mem_array((size_t)COUNT * dim, sizeof *expected);
    for (uint64_t r = 0; r < COUNT; r++)
        rows[r] = r * STEP;
    for (size_t i = 0; i < (size_t)COUNT * dim; i++)
        expected[i] = (float)models[i].w;
    table_read(table, rows, COUNT, got);
    test_floats_equal("weights", got, expected, (size_t)COUNT * dim, 2e-5, 2e-5);
    struct dump dump = dump_table(table);
    for (size_t i = 0; i < dump.count; i++)
        EXPECT(dump.rows[i].steps == steps[dump.rows[i].row / STEP]);
    dump_done(&dump);
    mem_free(got);
    mem_free(expected);
    mem_free(models);
    table_free(table);
}

/* Promise: whatever the pushes and however they overlap, every row follows its optimizer's formula
 * on the weighted mean over all samples of the batch, one step a batch, and only when met. */
START_TEST(formulas) {
    struct optimizer rules[] = {rule(OPTIMIZER_NONE),     rule(OPTIMIZER_SGD),
                                rule(OPTIMIZER_MOMENTUM), rule(OPTIMIZER_MOMENTUM),
                                rule(OPTIMIZER_ADAGRAD),  rule(OPTIMIZER_ADAM),
                                rule(OPTIMIZER_ADAMW)};
    static const uint32_t dims[] = {1, 3, 17, 64};
    rules[2].nesterov = true;
    for (size_t k = 0; k < ARRAY_LEN(rules); k++)
        for (size_t d = 0; d < ARRAY_LEN(dims); d++)
            against_model(&rules[k], dims[d], d % 2 ? 16 : 1);
}
END_TEST

/* Promise: equal histories give equal bits, row by row in the same order; other stripes give the
 * same bits in another order. */
START_TEST(histories) {
    enum { DIM = 9 };
    static const uint32_t stripes[] = {8, 8, 2};
    struct optimizer o = rule(OPTIMIZER_ADAM);
    struct dump dumps[ARRAY_LEN(stripes)];
    for (size_t t = 0; t < ARRAY_LEN(stripes); t++) {
        struct table *table = make(1, 5000, DIM, stripes[t], &o);
        for (uint32_t batch = 1; batch < 30; batch++) {
            struct push pushes[3];
            for (uint32_t p = 0; p < 3; p++)
                pushes[p] = push_random(rng_key(batch, p), 200, 5000, 1, DIM);
            apply(table, stripes[t], pushes, 3, batch);
            for (uint32_t p = 0; p < 3; p++)
                push_done(&pushes[p]);
            for (uint32_t s = 0; batch % 10 == 0 && s < stripes[t]; s++)
                table_evict(table, s, batch - 3);
        }
        dumps[t] = dump_table(table);
        table_free(table);
    }
    dumps_equal(&dumps[0], &dumps[1]);
    for (size_t t = 1; t < 3; t++)
        qsort(dumps[t].rows, dumps[t].count, sizeof *dumps[t].rows, compare_rows);
    dumps_equal(&dumps[1], &dumps[2]);
    for (size_t t = 0; t < 3; t++)
        dump_done(&dumps[t]);
}
END_TEST

/* Promise: reading rows makes none and takes no memory, and finds those that exist among them. */
START_TEST(reads_create_nothing) {
    enum { COUNT = 1000, DIM = 16 };
    struct table *table = make(2, COUNT, DIM, 8, &sum_rule);
    uint64_t empty = byte_count(table), rows[COUNT];
    float out[COUNT * DIM];
    for (uint64_t i = 0; i < COUNT; i++)
        rows[i] = (i * 7) % COUNT; /* in no order */
    table_read(table, rows, COUNT, out);
    ck_assert_uint_eq(row_count(table), 0);
    ck_assert_uint_eq(byte_count(table), empty);

    apply_range(table, 8, 300, 50, DIM, 2, 1);
    uint64_t before = byte_count(table);
    table_read(table, rows, COUNT, out);
    ck_assert_uint_eq(row_count(table), 50);
    ck_assert_uint_eq(byte_count(table), before);
    for (size_t i = 0; i < COUNT; i++) {
        float expected = initial(2, rows[i], DIM, 5) + (rows[i] >= 300 && rows[i] < 350 ? 2 : 0);
        EXPECT(memcmp(&out[i * DIM + 5], &expected, sizeof expected) == 0);
    }
    table_read(table, rows, 0, NULL);
    table_free(table);
}
END_TEST

/* Promise: at any size beyond the first thousands, a table of 64 floats with adagrad allocates less
 * than 1.3 times its floats; an empty one next to nothing. What it says it allocated is true, and
 * what evictions free is used again. */
START_TEST(memory) {
    enum { COUNT = 200000, DIM = 64, STRIPES = 16 };
    struct optimizer o = rule(OPTIMIZER_ADAGRAD);
    struct mallinfo2 before = mallinfo2();
    struct table *table = make(0, COUNT, DIM, STRIPES, &o);
    ck_assert_uint_lt(byte_count(table), 32768);
    for (uint32_t row = 0; row < COUNT; row += 2500) {
        apply_range(table, STRIPES, row, 2500, DIM, 1, 1);
        if (row >= 5000)
            ck_assert_double_lt((double)byte_count(table), 1.3 * (row + 2500) * 2 * DIM * 4);
    }
    ck_assert_uint_eq(row_count(table), COUNT);
    struct mallinfo2 after = mallinfo2();
    double taken =
        (double)(after.uordblks + after.hblkhd) - (double)before.uordblks - (double)before.hblkhd;
    if (MALLOC_TELLS)
        ck_assert_double_lt(fabs(taken / (double)byte_count(table) - 1), 0.03);

    uint64_t bytes = byte_count(table), evicted = 0;
    for (uint32_t s = 0; s < STRIPES; s++)
        evicted += table_evict(table, s, 2);
    ck_assert_uint_eq(evicted, COUNT);
    ck_assert_uint_eq(row_count(table), 0);
    apply_range(table, STRIPES, 0, COUNT, DIM, 1, 2);
    ck_assert_uint_eq(row_count(table), COUNT);
    ck_assert_uint_eq(byte_count(table), bytes);
    table_free(table);
}
END_TEST

/* Promise: gradients for rows that exist, from one push or several, and reads allocate nothing. */
START_TEST(hot_path) {
    enum { COUNT = 3000, DIM = 32, STRIPES = 4 };
    struct optimizer o = rule(OPTIMIZER_ADAGRAD);
    struct table *table = make(0, COUNT, DIM, STRIPES, &o);
    apply_range(table, STRIPES, 0, COUNT, DIM, 1, 1);
    struct push push = push_random(7, 1000, COUNT, 1, DIM);
    uint32_t order[1000], starts[STRIPES + 1];
    table_split(table, push.rows, push.n, order, starts);
    float *out = mem_array((size_t)1000 * DIM, sizeof *out);
    uint64_t asked = 0;
    for (int round = 0; round < 3; round++) {
        if (round == 1)
            asked = mem_allocations();
        for (uint32_t s = 0; s < STRIPES; s++) {
            struct table_part part = {.rows = push.rows,
                                      .values = push.values,
                                      .order = order + starts[s],
                                      .count = starts[s + 1] - starts[s],
                                      .weight = 1};
            struct table_part parts[] = {part, part, part};
            table_apply(table, s, parts, 1, 1, 2, rate);
            table_apply(table, s, parts, 3, 3, 2, rate);
        }
        table_read(table, push.rows, push.n, out);
    }
    if (POOL_KEEPS)
        ck_assert_uint_eq(mem_allocations(), asked);
    mem_free(out);
    push_done(&push);
    table_free(table);
}
END_TEST

/* Promise: evictions drop exactly the rows last touched before the clock and nothing else is lost,
 * through many rounds of coming and going; memory of the gone is used again. */
START_TEST(evictions) {
    enum { COUNT = 4000, DIM = 3, STRIPES = 2, ROUNDS = 300 };
    struct table *table = make(1, COUNT, DIM, STRIPES, &sum_rule);
    uint32_t clocks[COUNT] = {0}, steps[COUNT] = {0}; /* steps 0: it is not there */
    size_t held = 0;
    uint64_t bytes_half = 0;
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        uint64_t key = rng_key(9, round);
        struct push push = push_random(key, 10 + (uint32_t)(key % 500), COUNT, 1, DIM);
        for (size_t i = 0; i < (size_t)push.n * DIM; i++)
            push.values[i] = 1;
        uint32_t clock = round - (uint32_t)(rng_at(key, 3) % 4 % round); /* some come late */
        apply(table, STRIPES, &push, 1, clock);
        for (uint32_t i = 0; i < push.n; i++) {
            uint64_t row = push.rows[i];
            held += steps[row] == 0;
            clocks[row] = steps[row] && clocks[row] > clock ? clocks[row] : clock;
            steps[row]++;
        }
        push_done(&push);

        uint32_t stripe = (uint32_t)(rng_at(key, 1) % STRIPES);
        uint32_t before = round - (uint32_t)(rng_at(key, 2) % (round < 12 ? round : 12));
        size_t evicted = 0;
        for (uint64_t row = 0; row < COUNT; row++)
            if (steps[row] && clocks[row] < before && table_stripe_of(table, row) == stripe) {
                steps[row] = 0;
                evicted++;
            }
        held -= evicted;
        ck_assert_uint_eq(table_evict(table, stripe, before), evicted);
        ck_assert_uint_eq(row_count(table), held);

        struct dump dump = dump_table(table);
        ck_assert_uint_eq(dump.count, held);
        for (size_t i = 0; i < dump.count; i++) {
            const struct table_row *row = &dump.rows[i];
            EXPECT(row->clock == clocks[row->row]);
            EXPECT(row->steps == steps[row->row]);
        }
        dump_done(&dump);
        uint64_t rows[COUNT];
        float got[COUNT * DIM];
        for (uint64_t row = 0; row < COUNT; row++)
            rows[row] = row;
        table_read(table, rows, COUNT, got);
        for (uint64_t row = 0; row < COUNT; row++) {
            float expected = initial(1, row, DIM, 0);
            for (uint32_t i = 0; i < steps[row]; i++)
                expected += 1;
            EXPECT(memcmp(&got[row * DIM], &expected, sizeof expected) == 0);
        }
        if (round == ROUNDS / 2)
            bytes_half = byte_count(table);
    }
    ck_assert_uint_le(byte_count(table), bytes_half + bytes_half / 4);
    table_free(table);
}
END_TEST

/* Two threads that train, make rows and evict until they are told to end. */
struct trainer {
    pthread_t thread;
    struct table *table;
    uint64_t key;
    atomic_uint *batches; /* of both */
    atomic_bool *end;
    uint64_t torn; /* rows read that were half of an update */
};

enum { LIVE_ROWS = 6000, LIVE_DIM = 12, LIVE_STRIPES = 4 };

static void *trainer_run(void *arg) {
    struct trainer *trainer = arg;
    for (uint32_t i = 0; !atomic_load(trainer->end); i++) {
        struct push pushes[2];
        for (uint32_t p = 0; p < 2; p++)
            pushes[p] = push_random(rng_key(trainer->key, i * 2 + p), 200, LIVE_ROWS, 1, LIVE_DIM);
        apply(trainer->table, LIVE_STRIPES, pushes, 1 + i % 2, 100 + i);
        for (uint32_t p = 0; p < 2; p++)
            push_done(&pushes[p]);
        table_evict(trainer->table, i % LIVE_STRIPES, i % 7 == 0 ? 90 + i : 5);
        atomic_fetch_add(trainer->batches, 1);
    }
    return NULL;
}

/* Promise: a snapshot hands out exactly the rows at the cut, bit for bit and in the same order, as
 * if nobody had trained on, made rows or evicted some meanwhile; afterwards it has left nothing. */
START_TEST(snapshot_is_the_cut) {
    struct optimizer o = rule(OPTIMIZER_ADAGRAD);
    for (uint64_t life = 0; life < 6; life++) {
        struct table *table = make(1, LIVE_ROWS, LIVE_DIM, LIVE_STRIPES, &o);
        for (uint32_t clock = 1; clock < 20; clock++) {
            struct push push = push_random(rng_key(life, clock), 400, LIVE_ROWS, 1, LIVE_DIM);
            apply(table, LIVE_STRIPES, &push, 1, clock);
            push_done(&push);
            table_evict(table, clock % LIVE_STRIPES, clock / 2);
        }
        uint64_t bytes = byte_count(table);
        struct dump still = dump_table(table);
        ck_assert_uint_eq(byte_count(table), bytes);
        ck_assert_uint_gt(still.count, LIVE_ROWS / 4);
        ck_assert_uint_lt(still.count, LIVE_ROWS * 3 / 4);

        struct table_snapshot *snapshot = table_snapshot_begin(table);
        atomic_uint batches;
        atomic_bool end;
        atomic_init(&batches, 0);
        atomic_init(&end, false);
        struct trainer trainers[2];
        for (uint64_t t = 0; t < 2; t++) {
            trainers[t] = (struct trainer){
                .table = table, .key = life * 2 + t, .batches = &batches, .end = &end};
            pthread_create(&trainers[t].thread, NULL, trainer_run, &trainers[t]);
        }
        struct dump live = {.row_floats = still.row_floats};
        struct table_row row;
        while (table_snapshot_next(snapshot, &row)) {
            /* A new batch now and then, so that they meet it everywhere. */
            unsigned seen = atomic_load(&batches);
            while (live.count % 100 == 0 && atomic_load(&batches) == seen)
                sched_yield();
            dump_add(&live, &row);
        }
        for (size_t i = 0; i < live.count; i++)
            live.rows[i].floats = live.floats + i * live.row_floats;
        atomic_store(&end, true);
        for (size_t t = 0; t < 2; t++)
            pthread_join(trainers[t].thread, NULL);
        table_snapshot_end(snapshot);
        dumps_equal(&live, &still);
        dump_done(&live);

        /* One given up half-way leaves nothing behind, and the next is of its own cut. */
        bytes = byte_count(table);
        snapshot = table_snapshot_begin(table);
        ck_assert_uint_gt(byte_count(table), bytes);
        ck_assert(table_snapshot_next(snapshot, &row));
        table_snapshot_end(snapshot);
        ck_assert_uint_eq(byte_count(table), bytes);
        struct dump later = dump_table(table);
        ck_assert_uint_eq(later.count, row_count(table));
        dump_done(&later);
        dump_done(&still);
        table_free(table);
    }
}
END_TEST

/* Promise: a snapshot costs one copy of a row that changes before it is handed out, however often,
 * and what is handed out makes room for the next. */
START_TEST(snapshot_memory) {
    enum { COUNT = 6400, DIM = 8 };
    struct table *table = make(1, COUNT, DIM, 1, &sum_rule);
    apply_range(table, 1, 0, COUNT, DIM, 1, 1); /* so row i is in slot i */
    struct table_snapshot *snapshot = table_snapshot_begin(table);
    uint64_t bytes = byte_count(table);
    apply_range(table, 1, 0, COUNT / 2, DIM, 1, 2);
    uint64_t copies = byte_count(table) - bytes, row_bytes = DIM * sizeof(float) + 16;
    ck_assert_uint_ge(copies, COUNT / 2 * row_bytes);
    ck_assert_uint_lt(copies, COUNT / 2 * (row_bytes + 20));
    apply_range(table, 1, 0, COUNT / 2, DIM, 1, 3);
    ck_assert_uint_eq(byte_count(table), bytes + copies);
    struct table_row row;
    for (uint64_t i = 0; i < COUNT / 2; i++) {
        ck_assert(table_snapshot_next(snapshot, &row));
        EXPECT(row.row == i && row.steps == 1 && row.clock == 1);
    }
    apply_range(table, 1, 0, COUNT, DIM, 1, 4);
    ck_assert_uint_eq(byte_count(table), bytes + copies);
    while (table_snapshot_next(snapshot, &row))
        EXPECT(row.steps == 1 && row.clock == 1);
    ck_assert_uint_lt(byte_count(table), bytes); /* at once, when a stripe is done */
    table_snapshot_end(snapshot);
    table_free(table);
}
END_TEST

static void *adder_run(void *arg) {
    struct trainer *trainer = arg;
    struct push push = push_random(trainer->key, 500, 1000, 1, LIVE_DIM);
    float *out = mem_array((size_t)push.n * LIVE_DIM, sizeof *out);
    for (size_t i = 0; i < (size_t)push.n * LIVE_DIM; i++)
        push.values[i] = 1;
    for (uint32_t i = 0; i < 200; i++) {
        apply(trainer->table, LIVE_STRIPES, &push, 1, i);
        table_read(trainer->table, push.rows, push.n, out);
        for (size_t r = 0; r < push.n; r++) /* all elements of a row are alike */
            trainer->torn += memcmp(&out[r * LIVE_DIM], &out[r * LIVE_DIM + 1],
                                    (LIVE_DIM - 1) * sizeof *out) != 0;
    }
    mem_free(out);
    push_done(&push);
    return NULL;
}

/* Promise: threads that apply and read at once lose no gradient and see no half of an update. */
START_TEST(threads) {
    struct table_spec spec = {.name = "sums", .rows = 1000, .dim = LIVE_DIM};
    struct table *table;
    ck_assert_int_eq(table_new(&spec, 1, LIVE_STRIPES, &sum_rule, &table, NULL), 0);
    struct trainer trainers[2];
    float expected[1000] = {0};
    for (uint64_t t = 0; t < 2; t++) {
        trainers[t] = (struct trainer){.table = table, .key = rng_key(t, 1)};
        struct push push = push_random(trainers[t].key, 500, 1000, 1, LIVE_DIM);
        for (uint32_t i = 0; i < push.n; i++)
            expected[push.rows[i]] += 200;
        push_done(&push);
        pthread_create(&trainers[t].thread, NULL, adder_run, &trainers[t]);
    }
    for (size_t t = 0; t < 2; t++) {
        pthread_join(trainers[t].thread, NULL);
        ck_assert_uint_eq(trainers[t].torn, 0);
    }
    float out[LIVE_DIM];
    for (uint64_t row = 0; row < 1000; row++) {
        table_read(table, &row, 1, out);
        EXPECT(out[3] == expected[row]);
    }
    table_free(table);
}
END_TEST

enum { LONG_ROWS = 40000, LONG_DIM = 16 };

static void *long_run(void *arg) {
    struct trainer *trainer = arg;
    apply_range(trainer->table, 1, 0, LONG_ROWS, LONG_DIM, 1, 1);
    atomic_store(trainer->end, true);
    return NULL;
}

/* Promise: a read does not wait until all rows of a long push are stepped. */
START_TEST(turns) {
    const uint64_t rows[] = {0, LONG_ROWS - 1}; /* the first that is stepped, and the last */
    bool between = false;
    for (int life = 0; life < 50 && !between; life++) {
        struct table_spec spec = {.name = "sums", .rows = LONG_ROWS, .dim = LONG_DIM};
        struct table *table;
        ck_assert_int_eq(table_new(&spec, 1, 1, &sum_rule, &table, NULL), 0);
        atomic_bool end;
        atomic_init(&end, false);
        struct trainer trainer = {.table = table, .end = &end};
        pthread_create(&trainer.thread, NULL, long_run, &trainer);
        while (!between && !atomic_load(&end)) {
            float out[2 * LONG_DIM]; /* of one moment: so few rows are one turn */
            table_read(table, rows, 2, out);
            between = out[0] > 0.5F && out[LONG_DIM] < 0.5F;
        }
        pthread_join(trainer.thread, NULL);
        ck_assert_uint_eq(row_count(table), LONG_ROWS);
        table_free(table);
    }
    ck_assert(between);
}
END_TEST

/* Promise: a table restored from another's rows, in any order and with other stripes, is the same
 * bit for bit, and stays so through the next pushes; a row over one that is there replaces it. */
START_TEST(restore) {
    enum { COUNT = 2000, DIM = 10 };
    struct optimizer o = rule(OPTIMIZER_ADAM);
    struct table *table = make(1, COUNT, DIM, 8, &o), *copy = make(1, COUNT, DIM, 2, &o);
    for (uint32_t clock = 1; clock < 20; clock++) {
        struct push push = push_random(clock, 300, COUNT, 1, DIM);
        apply(table, 8, &push, 1, clock);
        push_done(&push);
    }
    apply_range(copy, 2, 0, COUNT / 2, DIM, 1, 77);
    for (uint32_t s = 0; s < 2; s++)
        table_evict(copy, s, 78);
    apply_range(copy, 2, 0, 1, DIM, 1, 79);
    struct dump a = dump_table(table);
    for (size_t i = a.count; i-- > 0;)
        ck_assert_int_eq(table_restore_row(copy, &a.rows[i], NULL), 0);
    struct table_row zero = {.floats = a.floats};
    ck_assert_int_eq(table_restore_row(table, &zero, NULL), 0); /* so that both have row 0 */
    ck_assert_int_eq(table_restore_row(copy, &zero, NULL), 0);
    dump_done(&a);

    for (int more = 0; more < 2; more++) {
        struct dump b = dump_table(copy);
        a = dump_table(table);
        qsort(a.rows, a.count, sizeof *a.rows, compare_rows);
        qsort(b.rows, b.count, sizeof *b.rows, compare_rows);
        dumps_equal(&a, &b);
        dump_done(&a);
        dump_done(&b);
        struct push push = push_random(99, 300, COUNT, 1, DIM);
        apply(table, 8, &push, 1, 30);
        apply(copy, 2, &push, 1, 30);
        push_done(&push);
    }
    struct error err;
    struct table_row beyond = {.row = COUNT, .floats = NULL};
    ck_assert_int_eq(table_restore_row(table, &beyond, &err), ERR_RANGE);
    ck_assert_ptr_nonnull(strstr(error_text(&err), "nodes has 2000 rows"));
    table_free(table);
    table_free(copy);
}
END_TEST

enum { KEPT_ROWS = 300, KEPT_DIM = 7 };

/* All rows' weights now. */
static float *weights_now(struct table *table, enum table_set set) {
    uint64_t rows[KEPT_ROWS];
    for (uint32_t i = 0; i < KEPT_ROWS; i++)
        rows[i] = i;
    float *out = mem_array(KEPT_ROWS * KEPT_DIM, sizeof *out);
    table_read_set(table, set, rows, KEPT_ROWS, out);
    return out;
}

static void expect_set(struct table *table, enum table_set set, const float *wanted) {
    float *got = weights_now(table, set);
    ck_assert_mem_eq(got, wanted, KEPT_ROWS * KEPT_DIM * sizeof *got);
    mem_free(got);
}

static void step_randomly(struct table *table, uint32_t clock) {
    struct push push = push_random(clock, 150, KEPT_ROWS, 1, KEPT_DIM);
    apply(table, 4, &push, 1, clock);
    push_done(&push);
}

/* Promise: a set that was kept is the weights of that moment, bit for bit, whatever is stepped
 * after, of rows that were there, that came later and that never came; the best and a candidate are
 * apart, a candidate that becomes the best is what it was, and a snapshot has the best of its
 * moment, also when another set is kept while it is read. */
START_TEST(kept_sets) {
    struct optimizer o = rule(OPTIMIZER_ADAM);
    struct table_spec spec = {.name = "nodes",
                              .number = 1,
                              .rows = KEPT_ROWS,
                              .dim = KEPT_DIM,
                              .init_scale = 0.25F,
                              .kept = 2};
    struct table *table, *copy;
    ck_assert_int_eq(table_new(&spec, SEED, 4, &o, &table, NULL), 0);
    ck_assert_int_eq(table_new(&spec, SEED, 4, &o, &copy, NULL), 0);
    float *now = weights_now(table, TABLE_PRESENT), *best = NULL, *candidate = NULL;
    expect_set(table, TABLE_BEST, now); /* none is kept */
    mem_free(now);
    for (uint32_t clock = 1; clock <= 30; clock++) {
        step_randomly(table, clock);
        now = weights_now(table, TABLE_PRESENT);
        if (clock % 4 == 1) {
            table_keep(table, TABLE_CANDIDATE);
            mem_free(candidate);
            candidate = mem_array(KEPT_ROWS * KEPT_DIM, sizeof *candidate);
            memcpy(candidate, now, KEPT_ROWS * KEPT_DIM * sizeof *now);
        } else if (clock % 8 == 3) { /* a candidate of two steps ago is the best */
            table_promote(table);
            mem_free(best);
            best = candidate;
            candidate = NULL;
        }
        if (candidate)
            expect_set(table, TABLE_CANDIDATE, candidate);
        if (best)
            expect_set(table, TABLE_BEST, best);
        mem_free(now);
    }

    struct table_snapshot *snapshot = table_snapshot_begin(table);
    ck_assert(table_snapshot_best(snapshot));
    table_keep(table, TABLE_BEST);
    step_randomly(table, 31);
    table_keep(copy, TABLE_BEST);
    struct table_row row;
    while (table_snapshot_next(snapshot, &row)) {
        ck_assert_mem_eq(row.best, best + row.row * KEPT_DIM, KEPT_DIM * sizeof *best);
        ck_assert_int_eq(table_restore_row(copy, &row, NULL), 0);
    }
    table_snapshot_end(snapshot);
    expect_set(copy, TABLE_BEST, best);
    step_randomly(copy, 32);
    expect_set(copy, TABLE_BEST, best);
    mem_free(best);
    mem_free(candidate);
    table_free(table);
    table_free(copy);
}
END_TEST

/* Promise: sizes that cannot be are refused with the table's name, and nothing is made. */
START_TEST(refusals) {
    static const struct {
        uint64_t rows;
        uint32_t dim, stripes;
        int code;
    } wrong[] = {
        {0, 4, 16, ERR_RANGE},
        {10, 0, 16, ERR_RANGE},
        {10, 4, 0, ERR_RANGE},
        {10, 4, 12, ERR_RANGE},
        {10, 4, 2 * TABLE_STRIPES_MAX, ERR_RANGE},
        {10, TABLE_DIM_MAX + 1, 16, ERR_LIMIT},
        {16 * TABLE_STRIPE_ROWS_MAX + 1, 4, 16, ERR_LIMIT},
        {UINT64_MAX, 4, TABLE_STRIPES_MAX, ERR_LIMIT},
    };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct table_spec spec = {.name = "users", .rows = wrong[i].rows, .dim = wrong[i].dim};
        struct table *table = NULL;
        struct error err;
        ck_assert_int_eq(table_new(&spec, 1, wrong[i].stripes, &sum_rule, &table, &err),
                         wrong[i].code);
        ck_assert_ptr_null(table);
        ck_assert_ptr_nonnull(strstr(error_text(&err), "users"));
    }
    ck_assert_ptr_null(table_free(NULL));
    ck_assert_ptr_null(table_snapshot_end(NULL));
}
END_TEST

int main(void) {
    Suite *suite = suite_create("table");
    TCase *tcase = tcase_create("table");
    tcase_set_timeout(tcase, 100);
    tcase_add_test(tcase, initial_values);
    tcase_add_test(tcase, placement);
    tcase_add_test(tcase, formulas);
    tcase_add_test(tcase, histories);
    tcase_add_test(tcase, reads_create_nothing);
    tcase_add_test(tcase, memory);
    tcase_add_test(tcase, hot_path);
    tcase_add_test(tcase, evictions);
    tcase_add_test(tcase, snapshot_is_the_cut);
    tcase_add_test(tcase, snapshot_memory);
    tcase_add_test(tcase, threads);
    tcase_add_test(tcase, turns);
    tcase_add_test(tcase, restore);
    tcase_add_test(tcase, kept_sets);
    tcase_add_test(tcase, refusals);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
