/* Stripes and their locks, gradients into rows, rows out, snapshots. Where rows lie and how they
 * are found is table_rows.c's, the arithmetic of a step the optimizer's.
 *
 * Rows lie anywhere in gigabytes, so the time of a step is the time to reach the row. Therefore all
 * loops run ahead of themselves: an index entry is asked for 2 * AHEAD rows before it is needed,
 * the row it names AHEAD rows before. */
#include "server/table.h"

#include <assert.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "common/lock.h"
#include "common/mem.h"
#include "common/metrics.h"
#include "common/pool.h"
#include "common/vec.h"
#include "proto/layout.h"
#include "server/table_rows.h"

enum {
    AHEAD = 8,
    EVICT_SLOTS = 4096,
    TURN_FLOATS = 4096, /* so much of a stripe is stepped or read before others may have a turn */
    TURN_YIELDS = 256,
};

/* Sets of kept weights: a stripe's places for them are numbered, and each has a mark, which a row
 * bears too once its weights are copied there. Behind a row's weights and state lie its marks, as
 * floats that are never computed with, then the weights that were kept in each place. */
#define SETS_MAX 2

struct stripe {
    struct lock lock; /* LOCK_BLOCK; guards all of rows but row_floats; never two at once */
    struct rows rows;
    atomic_uint waiting; /* threads that want the lock */
    atomic_uint turns;   /* how often one of them got it */
    /* guarded by lock */
    uint32_t marks[SETS_MAX]; /* by place; 0: nothing is kept there */
    uint32_t last_mark;
    uint32_t best_place; /* the candidate has the other one */
} __attribute__((aligned(MEM_ALIGN)));

/* Set at start, never changed, but for what the stripes' locks guard. */
struct table {
    char *name;
    uint64_t rows;
    size_t dim, row_floats;
    size_t kept;        /* sets */
    uint32_t turn_rows; /* TURN_FLOATS */
    float init_scale;
    uint64_t init_key;
    const struct optimizer *optimizer;
    uint32_t stripe_count;
    unsigned stripe_bits;
    struct stripe *stripes;
};

/* Owned by the thread that takes the snapshot. */
struct table_snapshot {
    struct table *table;
    uint32_t stripe; /* to be read next */
    uint32_t of;     /* the group is of this one */
    uint32_t next;   /* in the group */
    struct rows_group group;
    struct {
        uint32_t mark, place;
    } * best; /* [stripe_count] the best set, as it was at the cut */
};

static int spec_check(const struct table_spec *spec, uint32_t stripes, struct error *reterr) {
    if (stripes < 1 || stripes > TABLE_STRIPES_MAX || (stripes & (stripes - 1)))
        return error_set(reterr, ERR_RANGE,
                         "table %s: %u stripes; a power of two up to %d is needed", spec->name,
                         stripes, TABLE_STRIPES_MAX);
    if (spec->rows == 0 || spec->dim == 0)
        return error_set(reterr, ERR_RANGE, "table %s has %llu x %u entries", spec->name,
                         (unsigned long long)spec->rows, spec->dim);
    if (spec->dim > TABLE_DIM_MAX)
        return error_set(reterr, ERR_LIMIT, "table %s: rows of %u floats, at most %d are possible",
                         spec->name, spec->dim, TABLE_DIM_MAX);
    if (spec->rows > stripes * TABLE_STRIPE_ROWS_MAX)
        return error_set(reterr, ERR_LIMIT,
                         "table %s: %llu rows, with %u stripes %llu are possible", spec->name,
                         (unsigned long long)spec->rows, stripes,
                         (unsigned long long)(stripes * TABLE_STRIPE_ROWS_MAX));
    return 0;
}

int table_new(const struct table_spec *spec, uint64_t seed, uint32_t stripes,
              const struct optimizer *optimizer, struct table **ret, struct error *reterr) {
    int r = spec_check(spec, stripes, reterr);
    if (r < 0)
        return r;
    struct table *table = mem_alloc(sizeof *table);
    *table = (struct table){
        .name = mem_strdup(spec->name),
        .rows = spec->rows,
        .dim = spec->dim,
        .row_floats = spec->dim * (1 + optimizer_state_floats(optimizer)),
        .kept = spec->kept,
        .turn_rows = 1 + TURN_FLOATS / spec->dim,
        .init_scale = spec->init_scale,
        .init_key = layout_row_key(seed, spec->number),
        .optimizer = optimizer,
        .stripe_count = stripes,
        .stripe_bits = (unsigned)__builtin_ctz(stripes),
        .stripes = mem_array(stripes, sizeof *table->stripes),
    };
    for (uint32_t i = 0; i < stripes; i++) {
        lock_init(&table->stripes[i].lock, LOCK_BLOCK, table->name);
        rows_init(&table->stripes[i].rows, table->row_floats + table->kept * (1 + table->dim));
    }
    *ret = table;
    return 0;
}

struct table *table_free(struct table *table) {
    if (!table)
        return NULL;
    for (uint32_t i = 0; i < table->stripe_count; i++) {
        lock_done(&table->stripes[i].lock);
        rows_done(&table->stripes[i].rows);
    }
    mem_free(table->stripes);
    mem_free(table->name);
    mem_free(table);
    return NULL;
}

size_t table_row_floats(const struct table *table) {
    return table->row_floats;
}

uint32_t table_stripe_of(const struct table *table, uint64_t row) {
    return (uint32_t)(rows_hash(row) >> 32 >> (32 - table->stripe_bits));
}

void table_split(const struct table *table, const uint64_t *rows, uint32_t n, uint32_t *order,
                 uint32_t *starts) {
    uint32_t stripes = table->stripe_count;
    memset(starts, 0, (stripes + 1) * sizeof *starts);
    for (uint32_t i = 0; i < n; i++)
        starts[table_stripe_of(table, rows[i]) + 1]++;
    for (uint32_t s = 0; s < stripes; s++)
        starts[s + 1] += starts[s];
    for (uint32_t i = 0; i < n; i++)
        order[starts[table_stripe_of(table, rows[i])]++] = i;
    memmove(starts + 1, starts, stripes * sizeof *starts);
    starts[0] = 0;
}

static struct stripe *stripe_lock(struct table *table, uint32_t number) {
    assert(number < table->stripe_count);
    struct stripe *stripe = &table->stripes[number];
    atomic_fetch_add(&stripe->waiting, 1);
    uint64_t waited_ns = lock_take(&stripe->lock);
    atomic_fetch_sub(&stripe->waiting, 1);
    atomic_fetch_add(&stripe->turns, 1);
    if (waited_ns > 0)
        metric_record(METRIC_LOCK_WAIT, waited_ns);
    return stripe;
}

/* In the middle of long work, between two rows: whoever waits for the stripe goes first. A lock
 * that is let go and taken again at once would not do: who sleeps has to be woken, and would find
 * it taken. Waits only so long that a thread which gets no processor does not hold up the work. */
static void stripe_share(struct stripe *stripe) {
    lock_assert_held(&stripe->lock);
    unsigned waiting = atomic_load_explicit(&stripe->waiting, memory_order_relaxed);
    if (waiting == 0)
        return;
    unsigned turns = atomic_load(&stripe->turns);
    lock_release(&stripe->lock);
    for (int i = 0; i < TURN_YIELDS && atomic_load(&stripe->turns) - turns < waiting; i++)
        sched_yield();
    lock_take(&stripe->lock);
}

static void row_init(const struct table *table, uint64_t row, float *weights) {
    layout_init_row(table->init_key, row, (uint32_t)table->dim, table->init_scale, weights);
}

static uint32_t *row_marks(const struct table *table, float *floats) {
    return (uint32_t *)(void *)(floats + table->row_floats);
}

static float *row_kept(const struct table *table, float *floats, size_t place) {
    return floats + table->row_floats + table->kept + place * table->dim;
}

/* A row is about to change: its weights go to the sets that have not got them yet. */
static void row_keep_locked(const struct table *table, const struct stripe *stripe, float *floats) {
    for (size_t place = 0; place < table->kept; place++) {
        uint32_t *mark = &row_marks(table, floats)[place];
        if (*mark == stripe->marks[place])
            continue;
        *mark = stripe->marks[place];
        memcpy(row_kept(table, floats, place), floats, table->dim * sizeof *floats);
    }
}

/* The weights of a row as the set in a place has them. */
static float *row_of_set(const struct table *table, float *floats, uint32_t place, uint32_t mark) {
    bool kept = mark != 0 && row_marks(table, floats)[place] == mark;
    return kept ? row_kept(table, floats, place) : floats;
}

static uint32_t place_of(const struct stripe *stripe, enum table_set set) {
    return set == TABLE_BEST ? stripe->best_place : 1 - stripe->best_place;
}

/* The row's slot; made when it is not there. Whatever the caller changes, a snapshot has kept. */
static uint32_t row_get_locked(const struct table *table, struct stripe *stripe, uint64_t row) {
    struct rows *rows = &stripe->rows;
    uint64_t hash = rows_hash(row);
    uint32_t slot = rows_find(rows, row, hash);
    if (slot != ROWS_NO_SLOT) {
        rows_touch(rows, slot);
        row_keep_locked(table, stripe, rows_floats(rows, slot));
        return slot;
    }
    assert(row < table->rows);
    slot = rows_add(rows, row, hash);
    float *floats = rows_floats(rows, slot);
    row_init(table, row, floats);
    memset(floats + table->dim, 0, (table->row_floats - table->dim + table->kept) * sizeof *floats);
    row_keep_locked(table, stripe, floats);
    return slot;
}

/* What all rows of one apply have in common. */
struct step {
    struct optimizer optimizer; /* with the step's rate */
    uint32_t clock;
};

static void row_step_locked(const struct table *table, struct stripe *stripe, uint64_t row,
                            const float *gradient, float factor, const struct step *step) {
    uint32_t slot = row_get_locked(table, stripe, row);
    struct row_head *head = rows_head(&stripe->rows, slot);
    float *floats = rows_floats(&stripe->rows, slot);
    if (head->clock < step->clock)
        head->clock = step->clock;
    if (head->steps < UINT32_MAX)
        head->steps++;
    optimizer_row(&step->optimizer, table->dim, floats, gradient, factor, floats + table->dim,
                  head->steps);
}

static const float *part_gradient(const struct table *table, const struct table_part *part,
                                  uint32_t j) {
    return part->values + part->order[j] * table->dim;
}

/* Asks for the index entry of the part's row j, and for the row `ahead` before it. */
static void part_ahead(const struct table *table, const struct stripe *stripe,
                       const struct table_part *part, uint32_t j, uint32_t ahead) {
    if (j < part->count)
        rows_prefetch_index(&stripe->rows, rows_hash(part->rows[part->order[j]]));
    if (j >= ahead && j - ahead < part->count) {
        uint32_t at = part->order[j - ahead];
        rows_prefetch_row(&stripe->rows, rows_hash(part->rows[at]),
                          (table->row_floats + table->kept) * sizeof(float));
        const char *gradient = (const char *)(part->values + at * table->dim);
        for (size_t i = 0; i < table->dim * sizeof(float); i += MEM_ALIGN)
            __builtin_prefetch(gradient + i);
    }
}

static size_t apply_one_locked(const struct table *table, struct stripe *stripe,
                               const struct table_part *part, float factor,
                               const struct step *step) {
    lock_assert_held(&stripe->lock);
    for (uint32_t j = 0; j < 2 * AHEAD; j++)
        part_ahead(table, stripe, part, j, AHEAD);
    for (uint32_t j = 0; j < part->count; j++) {
        if (j % table->turn_rows == table->turn_rows - 1)
            stripe_share(stripe);
        part_ahead(table, stripe, part, j + 2 * AHEAD, AHEAD);
        row_step_locked(table, stripe, part->rows[part->order[j]], part_gradient(table, part, j),
                        factor, step);
    }
    return part->count;
}

/* Merging: where a part is. The heap has the one with the lowest row on top, of equal rows the
 * first part. */
struct cursor {
    uint64_t row; /* that of place j */
    uint32_t part, j;
};

static bool cursor_before(const struct cursor *a, const struct cursor *b) {
    return a->row != b->row ? a->row < b->row : a->part < b->part;
}

/* Lets the top sink to where it belongs. */
static void heap_sink(struct cursor *heap, size_t count) {
    struct cursor top = heap[0];
    size_t at = 0, child;
    while ((child = 2 * at + 1) < count) {
        if (child + 1 < count && cursor_before(&heap[child + 1], &heap[child]))
            child++;
        if (!cursor_before(&heap[child], &top))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = top;
}

static void heap_add(struct cursor *heap, size_t count, struct cursor cursor) {
    size_t at = count;
    for (; at > 0 && cursor_before(&cursor, &heap[(at - 1) / 2]); at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = cursor;
}

struct merge {
    const struct table_part *parts;
    double total_weight;
    uint32_t ahead;
    struct cursor *heap; /* [count] */
    size_t count;
};

/* The top's gradient and factor; the top moves on. */
static const float *merge_take(const struct table *table, const struct stripe *stripe,
                               struct merge *merge, float *ret_factor) {
    struct cursor *top = merge->heap;
    const struct table_part *part = &merge->parts[top->part];
    const float *gradient = part_gradient(table, part, top->j);
    *ret_factor = (float)(part->weight / merge->total_weight);
    part_ahead(table, stripe, part, top->j + 2 * merge->ahead, merge->ahead);
    if (++top->j < part->count)
        top->row = part->rows[part->order[top->j]];
    else
        *top = merge->heap[--merge->count];
    heap_sink(merge->heap, merge->count);
    return gradient;
}

static void merge_begin(const struct table *table, const struct stripe *stripe, struct merge *merge,
                        size_t part_count) {
    for (uint32_t i = 0; i < part_count; i++) {
        const struct table_part *part = &merge->parts[i];
        if (!(part->weight > 0) || part->count == 0)
            continue;
        for (uint32_t j = 0; j < 2 * merge->ahead; j++)
            part_ahead(table, stripe, part, j, merge->ahead);
        heap_add(merge->heap, merge->count++,
                 (struct cursor){.row = part->rows[part->order[0]], .part = i});
    }
}

static size_t apply_many_locked(const struct table *table, struct stripe *stripe,
                                struct merge *merge, float *sum, const struct step *step) {
    lock_assert_held(&stripe->lock);
    size_t stepped = 0;
    for (; merge->count > 0; stepped++) {
        if (stepped % table->turn_rows == table->turn_rows - 1)
            stripe_share(stripe);
        uint64_t row = merge->heap[0].row;
        float factor;
        const float *gradient = merge_take(table, stripe, merge, &factor);
        if (merge->count > 0 && merge->heap[0].row == row) {
            memset(sum, 0, table->dim * sizeof *sum);
            vec()->axpy(factor, gradient, sum, table->dim);
            while (merge->count > 0 && merge->heap[0].row == row) {
                gradient = merge_take(table, stripe, merge, &factor);
                vec()->axpy(factor, gradient, sum, table->dim);
            }
            gradient = sum;
            factor = 1;
        }
        row_step_locked(table, stripe, row, gradient, factor, step);
    }
    return stepped;
}

size_t table_apply(struct table *table, uint32_t number, const struct table_part *parts,
                   size_t part_count, double total_weight, uint32_t clock, float lr) {
    struct step step = {.optimizer = *table->optimizer, .clock = clock};
    size_t stepped = 0;
    step.optimizer.lr = lr;
    if (part_count == 1) {
        if (!(parts->weight > 0) || parts->count == 0)
            return 0;
        struct stripe *stripe = stripe_lock(table, number);
        stepped =
            apply_one_locked(table, stripe, parts, (float)(parts->weight / total_weight), &step);
        lock_release(&stripe->lock);
        return stepped;
    }
    POOL_ARRAY(struct cursor, heap, part_count);
    POOL_ARRAY(float, sum, table->dim);
    struct merge merge = {
        .parts = parts,
        .total_weight = total_weight,
        .ahead = part_count < AHEAD ? (uint32_t)(AHEAD / part_count) : 1,
        .heap = heap,
    };
    struct stripe *stripe = stripe_lock(table, number);
    merge_begin(table, stripe, &merge, part_count);
    stepped = apply_many_locked(table, stripe, &merge, sum, &step);
    lock_release(&stripe->lock);
    return stepped;
}

/* out[order[j]] = rows[order[j]] for j < n, all of the stripe. */
static void read_locked(const struct table *table, struct stripe *stripe, enum table_set set,
                        const uint64_t *rows, const uint32_t *order, uint32_t n, float *out) {
    lock_assert_held(&stripe->lock);
    size_t bytes = table->dim * sizeof *out;
    bool of_set = set != TABLE_PRESENT && table->kept > 0;
    for (uint32_t j = 0; j < n + 2 * AHEAD; j++) {
        if (j < n)
            rows_prefetch_index(&stripe->rows, rows_hash(rows[order[j]]));
        if (j >= AHEAD && j - AHEAD < n)
            rows_prefetch_row(&stripe->rows, rows_hash(rows[order[j - AHEAD]]), bytes);
        if (j < 2 * AHEAD)
            continue;
        if (j % table->turn_rows == table->turn_rows - 1)
            stripe_share(stripe);
        uint32_t at = order[j - 2 * AHEAD];
        uint32_t slot = rows_find(&stripe->rows, rows[at], rows_hash(rows[at]));
        if (slot == ROWS_NO_SLOT)
            row_init(table, rows[at], out + at * table->dim);
        else if (!of_set)
            memcpy(out + at * table->dim, rows_floats(&stripe->rows, slot), bytes);
        else {
            uint32_t place = place_of(stripe, set);
            memcpy(out + at * table->dim,
                   row_of_set(table, rows_floats(&stripe->rows, slot), place, stripe->marks[place]),
                   bytes);
        }
    }
}

void table_read(struct table *table, const uint64_t *rows, uint32_t n, float *out) {
    table_read_set(table, TABLE_PRESENT, rows, n, out);
}

void table_read_set(struct table *table, enum table_set set, const uint64_t *rows, uint32_t n,
                    float *out) {
    POOL_ARRAY(uint32_t, order, n);
    POOL_ARRAY(uint32_t, starts, table->stripe_count + 1);
    table_split(table, rows, n, order, starts);
    for (uint32_t s = 0; s < table->stripe_count; s++) {
        if (starts[s] == starts[s + 1])
            continue;
        struct stripe *stripe = stripe_lock(table, s);
        read_locked(table, stripe, set, rows, order + starts[s], starts[s + 1] - starts[s], out);
        lock_release(&stripe->lock);
    }
}

void table_keep(struct table *table, enum table_set set) {
    assert(set != TABLE_PRESENT);
    if (table->kept < (size_t)set)
        return;
    for (uint32_t s = 0; s < table->stripe_count; s++) {
        struct stripe *stripe = stripe_lock(table, s);
        stripe->marks[place_of(stripe, set)] = ++stripe->last_mark;
        lock_release(&stripe->lock);
    }
}

void table_promote(struct table *table) {
    if (table->kept < SETS_MAX)
        return;
    for (uint32_t s = 0; s < table->stripe_count; s++) {
        struct stripe *stripe = stripe_lock(table, s);
        stripe->best_place = 1 - stripe->best_place;
        stripe->marks[1 - stripe->best_place] = 0;
        lock_release(&stripe->lock);
    }
}

/* Slots [from, to). From the last to the first, so that the first free slot is used first. */
static size_t evict_locked(struct stripe *stripe, uint32_t from, uint32_t to,
                           uint32_t before_clock) {
    lock_assert_held(&stripe->lock);
    struct rows *rows = &stripe->rows;
    size_t evicted = 0;
    for (uint32_t slot = to; slot-- > from;) {
        const struct row_head *head = rows_head(rows, slot);
        if (head->row != ROWS_NO_ROW && head->clock < before_clock) {
            rows_remove(rows, slot);
            evicted++;
        }
    }
    return evicted;
}

size_t table_evict(struct table *table, uint32_t number, uint32_t before_clock) {
    size_t evicted = 0;
    uint32_t to = UINT32_MAX, from;
    do {
        struct stripe *stripe = stripe_lock(table, number);
        if (to > stripe->rows.slots)
            to = stripe->rows.slots;
        from = to > EVICT_SLOTS ? to - EVICT_SLOTS : 0;
        evicted += evict_locked(stripe, from, to, before_clock);
        lock_release(&stripe->lock);
        to = from;
    } while (from > 0);
    return evicted;
}

int table_restore_row(struct table *table, const struct table_row *row, struct error *reterr) {
    if (row->row >= table->rows)
        return error_set(reterr, ERR_RANGE, "table %s has %llu rows, none with number %llu",
                         table->name, (unsigned long long)table->rows,
                         (unsigned long long)row->row);
    struct stripe *stripe = stripe_lock(table, table_stripe_of(table, row->row));
    uint32_t slot = row_get_locked(table, stripe, row->row);
    struct row_head *head = rows_head(&stripe->rows, slot);
    head->clock = row->clock;
    head->steps = row->steps;
    float *floats = rows_floats(&stripe->rows, slot);
    memcpy(floats, row->floats, table->row_floats * sizeof *floats);
    if (row->best && table->kept > 0)
        memcpy(row_kept(table, floats, stripe->best_place), row->best, table->dim * sizeof *floats);
    lock_release(&stripe->lock);
    return 0;
}

void table_counts(struct table *table, uint64_t *ret_rows, uint64_t *ret_bytes) {
    uint64_t rows = 0, bytes = sizeof *table + strlen(table->name) + 1 +
                               table->stripe_count * sizeof *table->stripes;
    for (uint32_t s = 0; s < table->stripe_count; s++) {
        struct stripe *stripe = stripe_lock(table, s);
        rows += stripe->rows.count;
        bytes += stripe->rows.bytes;
        lock_release(&stripe->lock);
    }
    *ret_rows = rows;
    *ret_bytes = bytes;
}

struct table_snapshot *table_snapshot_begin(struct table *table) {
    struct table_snapshot *snapshot = mem_alloc(sizeof *snapshot);
    snapshot->table = table;
    snapshot->group.floats =
        mem_array(ROWS_GROUP * table->stripes[0].rows.row_floats, sizeof(float));
    snapshot->best = mem_array(table->stripe_count, sizeof *snapshot->best);
    for (uint32_t s = 0; s < table->stripe_count; s++) {
        struct stripe *stripe = stripe_lock(table, s);
        rows_cut_begin(&stripe->rows);
        snapshot->best[s].place = stripe->best_place;
        snapshot->best[s].mark = stripe->marks[stripe->best_place];
        lock_release(&stripe->lock);
    }
    return snapshot;
}

bool table_snapshot_best(const struct table_snapshot *snapshot) {
    return snapshot->best[0].mark != 0;
}

/* The next group that has rows; false when there is none. */
static bool snapshot_fill(struct table_snapshot *snapshot) {
    snapshot->next = 0;
    while (snapshot->stripe < snapshot->table->stripe_count) {
        struct stripe *stripe = stripe_lock(snapshot->table, snapshot->stripe);
        bool more = rows_cut_next(&stripe->rows, &snapshot->group);
        if (!more)
            rows_cut_end(&stripe->rows);
        lock_release(&stripe->lock);
        snapshot->of = snapshot->stripe;
        if (!more)
            snapshot->stripe++;
        if (snapshot->group.count > 0)
            return true;
    }
    return false;
}

bool table_snapshot_next(struct table_snapshot *snapshot, struct table_row *ret) {
    struct rows_group *group = &snapshot->group;
    if (snapshot->next == group->count && !snapshot_fill(snapshot))
        return false;
    const struct table *table = snapshot->table;
    const struct row_head *head = &group->heads[snapshot->next];
    float *floats = group->floats + snapshot->next * table->stripes[0].rows.row_floats;
    uint32_t place = snapshot->best[snapshot->of].place, mark = snapshot->best[snapshot->of].mark;
    *ret = (struct table_row){
        .row = head->row,
        .clock = head->clock,
        .steps = head->steps,
        .floats = floats,
        .best = mark ? row_of_set(table, floats, place, mark) : NULL,
    };
    snapshot->next++;
    return true;
}

struct table_snapshot *table_snapshot_end(struct table_snapshot *snapshot) {
    if (!snapshot)
        return NULL;
    for (uint32_t s = 0; s < snapshot->table->stripe_count; s++) {
        struct stripe *stripe = stripe_lock(snapshot->table, s);
        rows_cut_end(&stripe->rows);
        lock_release(&stripe->lock);
    }
    mem_free(snapshot->best);
    mem_free(snapshot->group.floats);
    mem_free(snapshot);
    return NULL;
}
