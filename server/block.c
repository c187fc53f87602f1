/* One block's bookkeeping: what waits, when a batch closes, what is published. Merging and stepping
 * are the aggregator's; acknowledging is the caller's.
 *
 * Why one lock and one flag are enough: `queued` is set under the lock by exactly one caller, who
 * is told so (true) and owes a block_take; it is cleared under the lock by block_publish alone. So
 * between the two the block has one owner, and the owner needs no lock for state and steps. Parts
 * that arrive meanwhile see queued and start nothing; block_publish looks at them under the same
 * lock, so none is forgotten. */
#include "server/block.h"

#include <assert.h>
#include <string.h>

#include "common/metrics.h"
#include "common/pool.h"

struct push *push_new(uint32_t count) {
    size_t size_bytes = sizeof(struct push) + (size_t)count * sizeof(struct pending);
    struct push *push = pool_take(size_bytes);
    *push = (struct push){.count = count};
    atomic_init(&push->remaining, count);
    atomic_init(&push->late, 0);
    for (uint32_t i = 0; i < count; i++) {
        list_init(&push->parts[i].node);
        push->parts[i].push = push;
    }
    return push;
}

struct push *push_free(struct push *push) {
    if (push) {
        buf_unref(push->buf);
        buf_unref(push->rows.memory);
        pool_give(push, sizeof *push + (size_t)push->count * sizeof push->parts[0]);
    }
    return NULL;
}

void block_init(struct block *block, uint32_t id, uint32_t floats, bool decay, struct buf *weights,
                size_t state_floats) {
    *block = (struct block){
        .id = id,
        .floats = floats,
        .decay = decay,
        .weights = weights,
        .version = 1,
        .state = state_floats && floats ? buf_new(state_floats * floats * sizeof(float)) : NULL,
    };
    if (block->state)
        memset(block->state->data, 0, block->state->len);
    lock_init(&block->lock, LOCK_BLOCK, "block");
    list_init(&block->pending);
    list_init(&block->ready_node);
}

void block_init_stripe(struct block *block, struct table *table, uint32_t stripe) {
    block_init(block, UINT32_MAX, 0, false, NULL, 0);
    block->table = table;
    block->stripe = stripe;
}

void block_done(struct block *block) {
    assert(list_empty(&block->pending));
    lock_done(&block->lock);
    block->weights = buf_unref(block->weights);
    block->state = buf_unref(block->state);
}

static void block_lock(struct block *block) {
    uint64_t waited_ns = lock_take(&block->lock);
    if (waited_ns > 0)
        metric_record(METRIC_LOCK_WAIT, waited_ns);
}

static struct pending *pending_of(struct list *node) {
    return LIST_OWNER(node, struct pending, node);
}

static void part_remove_locked(struct block *block, struct pending *part) {
    lock_assert_held(&block->lock);
    list_remove(&part->node);
    block->pending_count--;
}

/* Does every rank that counts have its gradient of the lowest pending clock here, or is known to be
 * beyond it? Both sides are counts of ranks, since a (rank, clock) is pending at most once. */
static bool clock_complete_locked(struct block *block, const struct roster *roster) {
    lock_assert_held(&block->lock);
    uint64_t clock = pending_of(block->pending.next)->push->clock;
    size_t wanted = 0, here = 0;
    for (size_t rank = 0; rank < roster->workers; rank++)
        wanted +=
            atomic_load(&roster->from[rank]) <= clock && atomic_load(&roster->clock[rank]) <= clock;
    for (LIST_EACH(node, &block->pending)) {
        const struct push *push = pending_of(node)->push;
        if (push->clock != clock)
            break;
        here += atomic_load(&roster->from[push->rank]) <= clock &&
                atomic_load(&roster->clock[push->rank]) <= clock;
    }
    return here >= wanted;
}

static uint32_t close_count(const struct block_rule *rule) {
    size_t count = rule->close_pushes ? rule->close_pushes : atomic_load(&rule->roster->present);
    return count > 0 ? (uint32_t)count : 1;
}

static uint64_t deadline_locked(struct block *block, const struct block_rule *rule) {
    lock_assert_held(&block->lock);
    return block->oldest_ms + rule->max_wait_ms;
}

static bool may_close_locked(struct block *block, const struct block_rule *rule, uint64_t now_ms,
                             bool force) {
    lock_assert_held(&block->lock);
    if (list_empty(&block->pending))
        return false;
    if (rule->bsp) /* also to be rid of late ones */
        return pending_of(block->pending.next)->push->clock < block->clock ||
               clock_complete_locked(block, rule->roster);
    return force || block->pending_count >= close_count(rule) ||
           now_ms >= deadline_locked(block, rule);
}

/* The door through which a block becomes somebody's. */
static bool queue_locked(struct block *block, const struct block_rule *rule, uint64_t now_ms,
                         bool force) {
    if (block->queued || !may_close_locked(block, rule, now_ms, force))
        return false;
    block->queued = true;
    return true;
}

/* Into the order of (clock, rank), from the end, where nearly all belong. A part of the same rank
 * and clock leaves the list. Of two incarnations the later arrival wins: the ledger has fenced the
 * older one by then, unless both were admitted in the same instant, and then either is right. */
static struct pending *insert_locked(struct block *block, struct pending *part) {
    lock_assert_held(&block->lock);
    const struct push *push = part->push;
    struct list *before = block->pending.prev;
    struct pending *replaced = NULL;
    for (; before != &block->pending; before = before->prev) {
        struct pending *other = pending_of(before);
        if (other->push->clock < push->clock)
            break;
        if (other->push->clock == push->clock && other->push->rank <= push->rank) {
            if (other->push->rank == push->rank) {
                before = before->prev;
                part_remove_locked(block, other);
                replaced = other;
            }
            break;
        }
    }
    list_append(before->next, &part->node);
    return replaced;
}

bool block_append(struct block *block, const struct block_rule *rule, struct pending *part,
                  uint64_t now_ms, bool *ret_late, struct pending **ret_replaced) {
    assert(part->push->rank < rule->roster->workers);
    struct pending *replaced = NULL;
    bool ready = false;
    block_lock(block);
    bool late = rule->bsp && part->push->clock < block->clock;
    if (!late) {
        if (rule->bsp)
            replaced = insert_locked(block, part);
        else
            list_append(&block->pending, &part->node);
        if (block->pending_count++ == 0)
            block->oldest_ms = now_ms;
        ready = queue_locked(block, rule, now_ms, false);
    }
    lock_release(&block->lock);
    *ret_late = late;
    *ret_replaced = replaced;
    return ready;
}

bool block_check(struct block *block, const struct block_rule *rule, uint64_t now_ms, bool force) {
    block_lock(block);
    bool ready = queue_locked(block, rule, now_ms, force);
    lock_release(&block->lock);
    return ready;
}

/* While the front is of a clock up to `last`. */
static uint32_t move_front_locked(struct block *block, uint64_t last, struct list *to) {
    lock_assert_held(&block->lock);
    uint32_t moved = 0;
    while (!list_empty(&block->pending)) {
        struct pending *part = pending_of(block->pending.next);
        if (part->push->clock > last)
            break;
        part_remove_locked(block, part);
        list_append(to, &part->node);
        moved++;
    }
    return moved;
}

uint32_t block_take(struct block *block, const struct block_rule *rule, struct list *out,
                    struct list *late, uint64_t *ret_clock) {
    uint32_t taken = 0;
    uint64_t clock = BLOCK_NO_CLOCK;
    block_lock(block);
    assert(block->queued);
    if (!rule->bsp) {
        taken = block->pending_count;
        list_move_all(out, &block->pending);
        block->pending_count = 0;
    } else {
        if (block->clock > 0)
            move_front_locked(block, block->clock - 1, late);
        /* Looked at again: the roster may have grown since it was queued. */
        if (!list_empty(&block->pending) && clock_complete_locked(block, rule->roster)) {
            clock = pending_of(block->pending.next)->push->clock;
            taken = move_front_locked(block, clock, out);
        }
    }
    lock_release(&block->lock);
    *ret_clock = clock;
    return taken;
}

bool block_publish(struct block *block, const struct block_rule *rule, bool updated,
                   struct buf *weights, uint64_t clock, uint64_t now_ms) {
    struct buf *old = NULL;
    block_lock(block);
    assert(block->queued);
    if (updated) {
        old = block->weights;
        block->weights = weights;
        block->version++;
    }
    if (rule->bsp && clock != BLOCK_NO_CLOCK && clock >= block->clock)
        block->clock = clock + 1;
    block->queued = false;
    bool ready = queue_locked(block, rule, now_ms, false);
    lock_release(&block->lock);
    buf_unref(old);
    return ready;
}

struct buf *block_read(struct block *block, uint64_t *ret_version) {
    block_lock(block);
    struct buf *weights = block->weights ? buf_ref(block->weights) : NULL;
    *ret_version = block->version;
    lock_release(&block->lock);
    return weights;
}

uint32_t block_pending(struct block *block) {
    block_lock(block);
    uint32_t pending = block->pending_count;
    lock_release(&block->lock);
    return pending;
}

uint64_t block_deadline(struct block *block, const struct block_rule *rule) {
    if (rule->bsp)
        return UINT64_MAX;
    block_lock(block);
    uint64_t at =
        block->queued || list_empty(&block->pending) ? UINT64_MAX : deadline_locked(block, rule);
    lock_release(&block->lock);
    return at;
}
