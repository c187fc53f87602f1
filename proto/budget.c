/* Sums of bytes, and who waits for them to fall. */
#include "proto/budget.h"

#include "common/list.h"
#include "common/lock.h"

struct budget {
    size_t max_bytes, each_max_bytes; /* set at start, never changed */
    atomic_uint refs;
    _Atomic size_t received, queued;
    atomic_size_t waiting; /* accounts in the list; read without the lock: see account_return */

    struct lock lock;  /* LOCK_BUDGET; guards the list and the accounts' `in_list` and `wake` */
    struct list waits; /* struct account */
};

struct account {
    struct budget *budget; /* a reference */
    atomic_uint refs;      /* the connection's and one for each buffer */
    _Atomic size_t held;   /* received and queued */
    struct list node;
    bool in_list;
    void (*wake)(void *ctx); /* NULL once it is closed */
    void *ctx;
};

struct budget *budget_new(size_t max_bytes, size_t each_max_bytes) {
    struct budget *budget = mem_alloc(sizeof *budget);
    budget->max_bytes = max_bytes;
    budget->each_max_bytes = each_max_bytes;
    atomic_init(&budget->refs, 1);
    lock_init(&budget->lock, LOCK_BUDGET, "budget");
    list_init(&budget->waits);
    return budget;
}

struct budget *budget_unref(struct budget *budget) {
    if (budget && atomic_fetch_sub_explicit(&budget->refs, 1, memory_order_acq_rel) == 1) {
        lock_done(&budget->lock);
        mem_free(budget);
    }
    return NULL;
}

size_t budget_received_bytes(const struct budget *budget) {
    return atomic_load_explicit(&budget->received, memory_order_relaxed);
}

size_t budget_queued_bytes(const struct budget *budget) {
    return atomic_load_explicit(&budget->queued, memory_order_relaxed);
}

struct account *account_new(struct budget *budget, void (*wake)(void *ctx), void *ctx) {
    struct account *account = mem_alloc(sizeof *account);
    atomic_fetch_add_explicit(&budget->refs, 1, memory_order_relaxed);
    account->budget = budget;
    account->wake = wake;
    account->ctx = ctx;
    atomic_init(&account->refs, 1);
    list_init(&account->node);
    return account;
}

static void account_unref(struct account *account) {
    if (atomic_fetch_sub_explicit(&account->refs, 1, memory_order_acq_rel) > 1)
        return;
    budget_unref(account->budget);
    mem_free(account);
}

static void leave_list_locked(struct account *account) {
    lock_assert_held(&account->budget->lock);
    if (!account->in_list)
        return;
    list_remove(&account->node);
    account->in_list = false;
    atomic_fetch_sub(&account->budget->waiting, 1);
}

struct account *account_close(struct account *account) {
    if (!account)
        return NULL;
    lock_take(&account->budget->lock);
    leave_list_locked(account);
    account->wake = NULL;
    lock_release(&account->budget->lock);
    account_unref(account);
    return NULL;
}

static bool may_hold(const struct account *account, size_t bytes, size_t own_bytes) {
    const struct budget *budget = account->budget;
    size_t held = atomic_load(&account->held);
    return held <= own_bytes ||
           (held + bytes <= budget->each_max_bytes &&
            atomic_load(&budget->received) + atomic_load(&budget->queued) + bytes <=
                budget->max_bytes);
}

/* Fewer bytes are held. Whoever waits has said so before it looked at the sums once more
 * (account_buf), and they have fallen before we look for who waits: one of the two sees the other.
 */
static void account_return(struct account *account) {
    struct budget *budget = account->budget;
    if (atomic_load(&budget->waiting) == 0)
        return;
    lock_take(&budget->lock);
    struct list *node;
    while ((node = list_pop(&budget->waits))) {
        struct account *waiter = LIST_OWNER(node, struct account, node);
        waiter->in_list = false;
        atomic_fetch_sub(&budget->waiting, 1);
        if (waiter->wake)
            waiter->wake(waiter->ctx);
    }
    lock_release(&budget->lock);
}

static void buf_gone(void *ctx, size_t len_bytes) {
    struct account *account = ctx;
    atomic_fetch_sub(&account->held, len_bytes);
    atomic_fetch_sub(&account->budget->received, len_bytes);
    account_return(account);
    account_unref(account);
}

/* Takes part in the waiting, then looks again. */
static bool wait_or_hold(struct account *account, size_t len_bytes, size_t own_bytes) {
    struct budget *budget = account->budget;
    lock_take(&budget->lock);
    if (!account->in_list) {
        list_append(&budget->waits, &account->node);
        account->in_list = true;
        atomic_fetch_add(&budget->waiting, 1);
    }
    bool may = may_hold(account, len_bytes, own_bytes);
    if (may)
        leave_list_locked(account);
    lock_release(&budget->lock);
    return may;
}

struct buf *account_buf(struct account *account, size_t len_bytes, size_t own_bytes) {
    if (!may_hold(account, len_bytes, own_bytes) && !wait_or_hold(account, len_bytes, own_bytes))
        return NULL;
    atomic_fetch_add(&account->held, len_bytes);
    atomic_fetch_add(&account->budget->received, len_bytes);
    atomic_fetch_add_explicit(&account->refs, 1, memory_order_relaxed);
    struct buf *buf = buf_new(len_bytes);
    buf->gone = buf_gone;
    buf->gone_ctx = account;
    return buf;
}

void account_queue(struct account *account, size_t bytes) {
    atomic_fetch_add(&account->held, bytes);
    atomic_fetch_add(&account->budget->queued, bytes);
}

void account_sent(struct account *account, size_t bytes) {
    atomic_fetch_sub(&account->held, bytes);
    atomic_fetch_sub(&account->budget->queued, bytes);
    account_return(account);
}
