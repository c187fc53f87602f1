/* Turns closed batches into updates. Owns the queue of ready blocks, the threads' scratch arrays
 * and the count of what is in work; the rules of closing are the block's, the arithmetic is the
 * codec's and the optimizer's.
 *
 * One ready block is in one hand at a time (see block.c), so two threads never step one block.
 * A part counts as done after its update is published, and in_work falls after that: when a drain
 * returns, every merged push whose blocks are all updated has been reported through ops->applied.
 */
#include "server/aggregator.h"

#include <string.h>

#include "common/metrics.h"
#include "common/pool.h"
#include "server/table.h"

/* Where a batch is summed up; as many as there were threads at once. */
struct scratch {
    struct list node;
    float *sum; /* floats of the largest block */
};

struct aggregator {
    /* set at start, never changed */
    struct block *blocks;
    size_t block_count;
    const struct block_rule *rule;
    const struct optimizer *optimizer;
    struct schedule *schedule;
    const struct aggregator_ops *ops;
    void *ctx;
    uint32_t floats_max;

    struct lock lock;      /* LOCK_QUEUE; guards the group below */
    struct list ready;     /* struct block, ready_node */
    struct list scratches; /* struct scratch, not in use */
    size_t in_work;        /* blocks popped, not yet finished */
    bool stopped;
    pthread_cond_t work_cond; /* ready or stopped changed */
    pthread_cond_t idle_cond; /* in_work fell to 0 */

    _Atomic uint64_t updates;
    /* No batch's time is up before this; aggregator_tick and aggregator_admit lower it, only the
     * tick raises it, before it looks (so that a part that comes while it looks lowers it again).
     */
    _Atomic uint64_t look_ms;
};

struct aggregator *aggregator_new(struct block *blocks, size_t block_count,
                                  const struct block_rule *rule, const struct optimizer *optimizer,
                                  struct schedule *schedule, const struct aggregator_ops *ops,
                                  void *ctx) {
    struct aggregator *aggregator = mem_alloc(sizeof *aggregator);
    aggregator->blocks = blocks;
    aggregator->block_count = block_count;
    aggregator->rule = rule;
    aggregator->optimizer = optimizer;
    aggregator->schedule = schedule;
    aggregator->ops = ops;
    aggregator->ctx = ctx;
    for (size_t i = 0; i < block_count; i++)
        if (blocks[i].floats > aggregator->floats_max)
            aggregator->floats_max = blocks[i].floats;
    lock_init(&aggregator->lock, LOCK_QUEUE, "queue");
    lock_cond_init(&aggregator->work_cond);
    lock_cond_init(&aggregator->idle_cond);
    list_init(&aggregator->ready);
    list_init(&aggregator->scratches);
    atomic_init(&aggregator->look_ms, UINT64_MAX);
    return aggregator;
}

static struct pending *part_of(struct list *node) {
    return LIST_OWNER(node, struct pending, node);
}

struct aggregator *aggregator_free(struct aggregator *aggregator) {
    if (!aggregator)
        return NULL;
    struct list *node;
    while (list_pop(&aggregator->ready))
        ;
    for (size_t i = 0; i < aggregator->block_count; i++) {
        struct block *block = &aggregator->blocks[i];
        while ((node = list_pop(&block->pending))) {
            struct push *push = part_of(node)->push;
            if (atomic_fetch_sub(&push->remaining, 1) == 1)
                push_free(push);
        }
        block->pending_count = 0;
        block->queued = false;
    }
    while ((node = list_pop(&aggregator->scratches))) {
        struct scratch *scratch = LIST_OWNER(node, struct scratch, node);
        mem_free(scratch->sum);
        mem_free(scratch);
    }
    pthread_cond_destroy(&aggregator->work_cond);
    pthread_cond_destroy(&aggregator->idle_cond);
    lock_done(&aggregator->lock);
    mem_free(aggregator);
    return NULL;
}

static void push_finish(struct aggregator *aggregator, struct push *push) {
    aggregator->ops->applied(aggregator->ctx, push);
    push_free(push);
}

/* Part and push may be gone afterwards. */
static void part_finish(struct aggregator *aggregator, struct pending *part, bool late) {
    struct push *push = part->push;
    if (late)
        atomic_fetch_add(&push->late, 1);
    if (atomic_fetch_sub(&push->remaining, 1) == 1)
        push_finish(aggregator, push);
}

static void ready_append_locked(struct aggregator *aggregator, struct block *block) {
    lock_assert_held(&aggregator->lock);
    list_append(&aggregator->ready, &block->ready_node);
    pthread_cond_signal(&aggregator->work_cond);
}

static void ready_append(struct aggregator *aggregator, struct block *block) {
    lock_take(&aggregator->lock);
    ready_append_locked(aggregator, block);
    lock_release(&aggregator->lock);
}

static void look_at(struct aggregator *aggregator, uint64_t at_ms) {
    uint64_t known = atomic_load(&aggregator->look_ms);
    while (at_ms < known && !atomic_compare_exchange_weak(&aggregator->look_ms, &known, at_ms))
        ;
}

/* Returns whether any block was queued. */
static bool check_all(struct aggregator *aggregator, uint64_t now_ms, bool force) {
    bool any = false;
    for (size_t i = 0; i < aggregator->block_count; i++) {
        struct block *block = &aggregator->blocks[i];
        if (block_check(block, aggregator->rule, now_ms, force)) {
            ready_append(aggregator, block);
            any = true;
        }
    }
    return any;
}

uint64_t aggregator_tick(struct aggregator *aggregator, uint64_t now_ms) {
    uint64_t look_ms = atomic_load(&aggregator->look_ms);
    if (now_ms < look_ms)
        return look_ms;
    atomic_store(&aggregator->look_ms, UINT64_MAX);
    check_all(aggregator, now_ms, false);
    for (size_t i = 0; i < aggregator->block_count; i++)
        look_at(aggregator, block_deadline(&aggregator->blocks[i], aggregator->rule));
    return atomic_load(&aggregator->look_ms);
}

void aggregator_recheck(struct aggregator *aggregator, uint64_t now_ms) {
    check_all(aggregator, now_ms, false);
}

/* Versions applied since the weights that a gradient was computed on; a version above ours is of a
 * life that a crash took back. */
static uint64_t part_staleness(const struct pending *part, uint64_t version) {
    return part->version && version > part->version ? version - part->version : 0;
}

/* Parts that are too old to be merged go to late. Returns how many are left. */
static uint32_t batch_refuse(const struct block_rule *rule, uint64_t version, struct list *batch,
                             struct list *late, uint32_t count) {
    struct list *next;
    if (rule->bsp || rule->staleness_max == 0)
        return count;
    for (struct list *node = batch->next; node != batch; node = next) {
        next = node->next;
        if (part_staleness(part_of(node), version) <= rule->staleness_max)
            continue;
        list_remove(node);
        list_append(late, node);
        count--;
    }
    return count;
}

/* A part's share of the mean, of weights that sum up to total. A damped statistic would shrink. */
static float part_factor(const struct block_rule *rule, const struct block *block,
                         const struct pending *part, uint64_t version, double total) {
    double factor = part->push->weight / total;
    if (rule->damped && !rule->bsp && !block->statistic)
        factor /= 1 + (double)part_staleness(part, version);
    return (float)factor;
}

/* The weighted mean of a batch into sum; NULL when no part has a weight. Where one push of plain
 * floats is all there is, its payload is the mean. */
static const float *batch_merge(const struct block_rule *rule, const struct block *block,
                                uint64_t version, const struct list *batch, float *sum) {
    double total = 0;
    for (LIST_EACH(node, batch))
        total += part_of(node)->push->weight;
    if (!(total > 0))
        return NULL;
    const struct pending *first = part_of(batch->next);
    if (first->node.next == batch && first->push->codec == CODEC_FP32 &&
        part_factor(rule, block, first, version, total) == 1) {
        metric_record(METRIC_STALENESS, part_staleness(first, version));
        return (const float *)(const void *)first->bytes;
    }
    memset(sum, 0, block->floats * sizeof *sum);
    for (LIST_EACH(node, batch)) {
        const struct pending *part = part_of(node);
        if (part->push->weight == 0)
            continue;
        codec_add(part->push->codec, part->bytes, block->floats,
                  part_factor(rule, block, part, version, total), sum);
        metric_record(METRIC_STALENESS, part_staleness(part, version));
    }
    return sum;
}

static uint64_t batch_clock(const struct list *batch) {
    uint64_t clock = 0;
    for (LIST_EACH(node, batch)) {
        const struct push *push = part_of(node)->push;
        clock = push->clock > clock ? push->clock : clock;
    }
    return clock;
}

static float batch_rate(struct aggregator *aggregator, const struct list *batch) {
    return schedule_batch_rate(aggregator->schedule, batch_clock(batch), aggregator->rule->bsp);
}

static struct buf *batch_step(struct aggregator *aggregator, struct block *block,
                              const struct buf *weights, const float *gradient, float lr) {
    struct optimizer optimizer = *aggregator->optimizer;
    optimizer.lr = lr;
    struct buf *next = buf_new(block->floats * sizeof(float));
    if (block->statistic) {
        block->steps++;
        optimizer_average(&optimizer, block->floats, (const float *)(const void *)weights->data,
                          gradient, (float *)(void *)next->data);
        return next;
    }
    if (block->state)
        block->state = buf_own(block->state);
    optimizer_step(&optimizer, block->floats, (const float *)(const void *)weights->data, gradient,
                   block->state ? (float *)(void *)block->state->data : NULL, ++block->steps,
                   block->decay, (float *)(void *)next->data);
    return next;
}

/* The same of a batch for a table's stripe, row by row. False when no part has a weight. */
static bool stripe_step(struct aggregator *aggregator, struct block *block, uint64_t version,
                        const struct list *batch, uint32_t count) {
    double total = 0;
    uint64_t clock = batch_clock(batch);
    uint32_t n = 0;
    POOL_ARRAY(struct table_part, parts, count);
    for (LIST_EACH(node, batch))
        total += part_of(node)->push->weight;
    if (!(total > 0))
        return false;
    for (LIST_EACH(node, batch)) {
        const struct pending *part = part_of(node);
        const struct push_rows *rows = &part->push->rows;
        uint32_t start = rows->starts[block->stripe];
        parts[n++] = (struct table_part){
            .rows = rows->rows,
            .values = rows->values,
            .order = rows->order + start,
            .count = rows->starts[block->stripe + 1] - start,
            .weight = part_factor(aggregator->rule, block, part, version, 1),
        };
        if (part->push->weight > 0)
            metric_record(METRIC_STALENESS, part_staleness(part, version));
    }
    uint32_t touched = clock < UINT32_MAX ? (uint32_t)clock : UINT32_MAX;
    metric_add(METRIC_ROW_UPDATES, table_apply(block->table, block->stripe, parts, n, total,
                                               touched, batch_rate(aggregator, batch)));
    return true;
}

/* Takes, merges, steps, publishes one block that this thread owns, and reports what is done.
 * Returns whether it is ready again (then it is not in the queue yet). */
static bool block_process(struct aggregator *aggregator, struct block *block, float *sum,
                          uint64_t now_ms) {
    struct list batch, late;
    list_init(&batch);
    list_init(&late);
    uint64_t clock, version;
    uint32_t count = block_take(block, aggregator->rule, &batch, &late, &clock);

    struct buf *old = block_read(block, &version), *next = NULL;
    count = batch_refuse(aggregator->rule, version, &batch, &late, count);
    bool updated = count > 0;
    if (updated && block->table) {
        updated = stripe_step(aggregator, block, version, &batch, count);
    } else if (updated) {
        const float *gradient = batch_merge(aggregator->rule, block, version, &batch, sum);
        next = gradient
                   ? batch_step(aggregator, block, old, gradient, batch_rate(aggregator, &batch))
                   : NULL;
        updated = next != NULL;
    }
    if (updated) {
        atomic_fetch_add(&aggregator->updates, 1);
        metric_add(METRIC_UPDATES, 1);
        metric_record(METRIC_BATCH, count);
    }
    buf_unref(old);
    /* With this the block may become another thread's: afterwards it is touched under its lock. */
    bool ready = block_publish(block, aggregator->rule, updated, next, clock, now_ms);
    /* Parts that came meanwhile: a tick that looked at the block then could not know their time. */
    if (!ready)
        look_at(aggregator, block_deadline(block, aggregator->rule));

    struct list *node;
    while ((node = list_pop(&batch)))
        part_finish(aggregator, part_of(node), false);
    while ((node = list_pop(&late)))
        part_finish(aggregator, part_of(node), true);
    return ready;
}

static struct scratch *scratch_new(uint32_t floats) {
    struct scratch *scratch = mem_alloc(sizeof *scratch);
    list_init(&scratch->node);
    scratch->sum = mem_array(floats, sizeof *scratch->sum);
    return scratch;
}

/* Works on a block that is in no queue, counted in in_work; gives its batch's thread a scratch. */
static void work_on(struct aggregator *aggregator, struct block *block, struct list *spare,
                    uint64_t now_ms) {
    struct scratch *scratch =
        spare ? LIST_OWNER(spare, struct scratch, node) : scratch_new(aggregator->floats_max);
    bool ready = block_process(aggregator, block, scratch->sum, now_ms);

    /* At once, so that a drain never sees the block in neither place. */
    lock_take(&aggregator->lock);
    list_append(&aggregator->scratches, &scratch->node);
    if (ready)
        ready_append_locked(aggregator, block);
    if (--aggregator->in_work == 0)
        pthread_cond_broadcast(&aggregator->idle_cond);
    lock_release(&aggregator->lock);
}

bool aggregator_run(struct aggregator *aggregator, uint64_t now_ms) {
    lock_take(&aggregator->lock);
    struct list *node = list_pop(&aggregator->ready);
    struct list *spare = node ? list_pop(&aggregator->scratches) : NULL;
    aggregator->in_work += node != NULL;
    lock_release(&aggregator->lock);
    if (!node)
        return false;
    work_on(aggregator, LIST_OWNER(node, struct block, ready_node), spare, now_ms);
    return true;
}

/* Waking a thread would take longer than the work. */
static void work_inline(struct aggregator *aggregator, struct block *block, uint64_t now_ms) {
    lock_take(&aggregator->lock);
    struct list *spare = list_pop(&aggregator->scratches);
    aggregator->in_work++;
    lock_release(&aggregator->lock);
    work_on(aggregator, block, spare, now_ms);
}

void aggregator_admit(struct aggregator *aggregator, struct push *push, const uint32_t *index,
                      uint64_t now_ms) {
    /* A part that has been appended may be applied at once by another thread; with the last one the
     * push itself may be gone. So nothing of it is touched after that. */
    uint32_t count = push->count;
    struct pending *parts = push->parts;
    if (count == 0) {
        push_finish(aggregator, push);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct block *block = &aggregator->blocks[index[i]];
        bool late;
        struct pending *replaced;
        if (block_append(block, aggregator->rule, &parts[i], now_ms, &late, &replaced)) {
            if (!block->table && count * (uint64_t)block->floats <= aggregator->ops->inline_floats)
                work_inline(aggregator, block, now_ms);
            else
                ready_append(aggregator, block);
        }
        if (replaced)
            part_finish(aggregator, replaced, true);
        if (late)
            part_finish(aggregator, &parts[i], true);
    }
    if (!aggregator->rule->bsp)
        look_at(aggregator, now_ms + aggregator->rule->max_wait_ms);
}

bool aggregator_wait(struct aggregator *aggregator) {
    lock_take(&aggregator->lock);
    while (list_empty(&aggregator->ready) && !aggregator->stopped)
        lock_wait(&aggregator->lock, &aggregator->work_cond, -1);
    bool go = !aggregator->stopped;
    lock_release(&aggregator->lock);
    return go;
}

void aggregator_stop(struct aggregator *aggregator) {
    lock_take(&aggregator->lock);
    aggregator->stopped = true;
    pthread_cond_broadcast(&aggregator->work_cond);
    lock_release(&aggregator->lock);
}

/* Works until nothing is ready, then waits for the other threads. */
static void run_until_idle(struct aggregator *aggregator, uint64_t now_ms) {
    for (;;) {
        while (aggregator_run(aggregator, now_ms))
            ;
        lock_take(&aggregator->lock);
        while (list_empty(&aggregator->ready) && aggregator->in_work > 0)
            lock_wait(&aggregator->lock, &aggregator->idle_cond, -1);
        bool idle = list_empty(&aggregator->ready);
        lock_release(&aggregator->lock);
        if (idle)
            return;
    }
}

void aggregator_drain(struct aggregator *aggregator, uint64_t now_ms) {
    /* What was in work when it was checked may have left parts behind: looked at once more, until
     * a round finds nothing. */
    do
        run_until_idle(aggregator, now_ms);
    while (check_all(aggregator, now_ms, true));
}

size_t aggregator_pending(struct aggregator *aggregator) {
    size_t pending = 0;
    for (size_t i = 0; i < aggregator->block_count; i++)
        pending += block_pending(&aggregator->blocks[i]);
    return pending;
}

uint64_t aggregator_updates(const struct aggregator *aggregator) {
    return atomic_load(&aggregator->updates);
}
