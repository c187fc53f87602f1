/* server/block: when a batch closes, and what is in it. */
#include "tests/test.h"

#include <string.h>

#include "server/block.h"

enum { WORKERS = 5, FLOATS = 7 };

struct bench {
    struct roster roster;
    struct block_rule rule;
    struct block block;
};

static struct bench *bench_new(bool bsp, uint32_t close_pushes) {
    struct bench *b = mem_alloc(sizeof *b);
    roster_init(&b->roster, WORKERS);
    b->rule = (struct block_rule){
        .bsp = bsp, .close_pushes = close_pushes, .max_wait_ms = 50, .roster = &b->roster};
    struct buf *weights = buf_new(FLOATS * sizeof(float));
    memset(weights->data, 0, weights->len);
    block_init(&b->block, 3, FLOATS, true, weights, 1);
    return b;
}

static void bench_free(struct bench *b) {
    block_done(&b->block);
    roster_done(&b->roster);
    mem_free(b);
}

static struct pending *part(uint32_t rank, uint64_t clock) {
    struct push *push = push_new(1);
    push->rank = rank;
    push->clock = clock;
    push->weight = 1;
    return &push->parts[0];
}

/* Appends what must be neither late nor a replacement; returns whether the batch may close. */
static bool append(struct bench *b, uint32_t rank, uint64_t clock, uint64_t now_ms) {
    bool late;
    struct pending *replaced;
    bool ready = block_append(&b->block, &b->rule, part(rank, clock), now_ms, &late, &replaced);
    ck_assert(!late);
    ck_assert_ptr_null(replaced);
    return ready;
}

/* Frees the list; returns its ranks as digits, "-" for none. */
static const char *ranks(struct list *list) {
    static char text[4][64];
    static int next;
    char *ret = text[next++ % 4], *at = ret;
    struct list *node;
    while ((node = list_pop(list))) {
        struct push *push = LIST_OWNER(node, struct pending, node)->push;
        *at++ = (char)('0' + push->rank);
        push_free(push);
    }
    if (at == ret)
        *at++ = '-';
    *at = 0;
    return ret;
}

/* Takes the batch and checks its ranks and the late ones. */
static void take(struct bench *b, const char *batch, const char *late, uint64_t clock) {
    struct list out, left;
    list_init(&out);
    list_init(&left);
    uint64_t got;
    uint32_t count = block_take(&b->block, &b->rule, &out, &left, &got);
    ck_assert_uint_eq(count, batch[0] == '-' ? 0 : strlen(batch));
    ck_assert_str_eq(ranks(&out), batch);
    ck_assert_str_eq(ranks(&left), late);
    ck_assert_uint_eq(got, clock);
}

static bool publish(struct bench *b, uint64_t clock, uint64_t now_ms) {
    return block_publish(&b->block, &b->rule, true, buf_new(FLOATS * sizeof(float)), clock, now_ms);
}

/* Promise: an async batch closes at its count, is handed out once, and what comes meanwhile is not
 * forgotten. */
START_TEST(async_count) {
    struct bench *b = bench_new(false, 3);
    ck_assert(!append(b, 0, 0, 100));
    ck_assert(!append(b, 0, 1, 100));
    ck_assert(append(b, 4, 0, 100));
    ck_assert(!append(b, 1, 0, 100)); /* queued already */
    ck_assert(!block_check(&b->block, &b->rule, 10000, true));
    ck_assert_uint_eq(block_pending(&b->block), 4);
    take(b, "0041", "-", BLOCK_NO_CLOCK);
    for (uint32_t rank = 0; rank < 3; rank++)
        ck_assert(!append(b, rank, 1, 100));
    ck_assert(publish(b, BLOCK_NO_CLOCK, 100));
    take(b, "012", "-", BLOCK_NO_CLOCK);
    ck_assert(!publish(b, BLOCK_NO_CLOCK, 100));
    ck_assert_uint_eq(b->block.version, 3);
    bench_free(b);
}
END_TEST

/* Promise: an async batch closes when its oldest gradient has waited, or when forced; the wait
 * starts with the batch's own first gradient. */
START_TEST(async_time) {
    struct bench *b = bench_new(false, 100);
    ck_assert_uint_eq(block_deadline(&b->block, &b->rule), UINT64_MAX);
    ck_assert(!block_check(&b->block, &b->rule, 10000, true)); /* nothing there */
    append(b, 0, 0, 1000);
    append(b, 1, 0, 1040);
    ck_assert_uint_eq(block_deadline(&b->block, &b->rule), 1050);
    ck_assert(!block_check(&b->block, &b->rule, 1049, false));
    ck_assert(block_check(&b->block, &b->rule, 1050, false));
    ck_assert_uint_eq(block_deadline(&b->block, &b->rule), UINT64_MAX); /* in hand */
    take(b, "01", "-", BLOCK_NO_CLOCK);
    append(b, 2, 0, 1070);
    ck_assert(!publish(b, BLOCK_NO_CLOCK, 1119));
    ck_assert_uint_eq(block_deadline(&b->block, &b->rule), 1120);
    ck_assert(block_check(&b->block, &b->rule, 1119, true));
    take(b, "2", "-", BLOCK_NO_CLOCK);
    ck_assert(!publish(b, BLOCK_NO_CLOCK, 1200));
    bench_free(b);
}
END_TEST

/* Promise: with no count given a batch closes at as many gradients as there are ranks that count,
 * also when ranks leave. */
START_TEST(async_roster) {
    struct bench *b = bench_new(false, 0);
    atomic_store(&b->roster.present, 3);
    append(b, 0, 0, 0);
    ck_assert(!append(b, 1, 0, 0));
    ck_assert(!block_check(&b->block, &b->rule, 0, false));
    atomic_store(&b->roster.present, 2);
    ck_assert(block_check(&b->block, &b->rule, 0, false));
    take(b, "01", "-", BLOCK_NO_CLOCK);
    publish(b, BLOCK_NO_CLOCK, 0);
    atomic_store(&b->roster.present, 0); /* a stray one is not held for ever */
    ck_assert(append(b, 4, 0, 0));
    take(b, "4", "-", BLOCK_NO_CLOCK);
    publish(b, BLOCK_NO_CLOCK, 0);
    bench_free(b);
}
END_TEST

/* Promise: a bsp batch is one clock's, of every rank; time and force do not close it; gradients of
 * the next clock wait their turn; those of a closed clock are late. */
START_TEST(bsp_clocks) {
    struct bench *b = bench_new(true, 1);
    ck_assert(!append(b, 4, 0, 0));
    ck_assert(!append(b, 4, 1, 0));
    ck_assert(!append(b, 2, 0, 0));
    ck_assert(!append(b, 0, 0, 0));
    ck_assert(!append(b, 0, 1, 0));
    ck_assert(!append(b, 1, 0, 0));
    ck_assert(!block_check(&b->block, &b->rule, 1000000, true));
    ck_assert_uint_eq(block_deadline(&b->block, &b->rule), UINT64_MAX);
    ck_assert(append(b, 3, 0, 0));
    take(b, "01234", "-", 0);
    ck_assert(!append(b, 1, 1, 0));
    ck_assert(!append(b, 3, 1, 0));
    ck_assert(!append(b, 2, 1, 0)); /* complete, but the block is in hand */
    ck_assert(publish(b, 0, 0));
    ck_assert_uint_eq(b->block.clock, 1);

    struct pending *stray = part(2, 0), *replaced;
    bool late;
    ck_assert(!block_append(&b->block, &b->rule, stray, 0, &late, &replaced));
    ck_assert(late);
    push_free(stray->push);
    take(b, "01234", "-", 1);
    ck_assert(!publish(b, 1, 0));
    ck_assert_uint_eq(b->block.version, 3);
    bench_free(b);
}
END_TEST

/* Promise: a gradient that came while its clock was being closed is handed out as late, and does
 * not block the next clock. */
START_TEST(bsp_late_in_hand) {
    struct bench *b = bench_new(true, 0);
    for (uint32_t rank = 1; rank < WORKERS; rank++)
        atomic_store(&b->roster.from[rank], ROSTER_ABSENT);
    ck_assert(append(b, 0, 0, 0));
    take(b, "0", "-", 0);
    append(b, 3, 0, 0); /* of a rank that does not count */
    append(b, 0, 1, 0);
    ck_assert(publish(b, 0, 0));
    take(b, "0", "3", 1);
    append(b, 0, 1, 0); /* nothing but a late one */
    ck_assert(publish(b, 1, 0));
    take(b, "-", "0", BLOCK_NO_CLOCK);
    ck_assert(!block_publish(&b->block, &b->rule, false, NULL, BLOCK_NO_CLOCK, 0));
    ck_assert_uint_eq(b->block.clock, 2);
    ck_assert_uint_eq(b->block.version, 3);
    bench_free(b);
}
END_TEST

/* Promise: of two processes of a rank the later gradient counts, and only one of them. */
START_TEST(bsp_replaced) {
    struct bench *b = bench_new(true, 0);
    atomic_store(&b->roster.from[4], ROSTER_ABSENT);
    append(b, 2, 0, 0);
    append(b, 1, 0, 0);
    append(b, 1, 1, 0);
    struct pending *first = LIST_OWNER(b->block.pending.next, struct pending, node), *replaced;
    ck_assert_uint_eq(first->push->rank, 1);
    struct pending *again = part(1, 0);
    bool late;
    ck_assert(!block_append(&b->block, &b->rule, again, 0, &late, &replaced));
    ck_assert(!late);
    ck_assert_ptr_eq(replaced, first);
    ck_assert_ptr_eq(LIST_OWNER(b->block.pending.next, struct pending, node), again);
    push_free(replaced->push);
    ck_assert_uint_eq(block_pending(&b->block), 3);
    ck_assert(!append(b, 0, 0, 0));
    ck_assert(append(b, 3, 0, 0)); /* the repeat did not stand for rank 3 */
    take(b, "0123", "-", 0);
    ck_assert(!publish(b, 0, 0));
    for (uint32_t rank = 0; rank < 4; rank++)
        if (rank != 1)
            append(b, rank, 1, 0);
    take(b, "0123", "-", 1);
    publish(b, 1, 0);
    bench_free(b);
}
END_TEST

/* Promise: who is absent, takes part only later, or is known to be beyond the clock, is not waited
 * for; a recheck after the change closes the batch. */
START_TEST(bsp_roster) {
    struct bench *b = bench_new(true, 0);
    atomic_store(&b->roster.from[3], 7);
    append(b, 0, 5, 0);
    append(b, 1, 5, 0);
    ck_assert(!block_check(&b->block, &b->rule, 0, false));
    atomic_store(&b->roster.from[2], ROSTER_ABSENT);
    ck_assert(!block_check(&b->block, &b->rule, 0, false));
    ck_assert(roster_reached(&b->roster, 4, 5)); /* step 5 is not finished by that */
    ck_assert(!block_check(&b->block, &b->rule, 0, false));
    ck_assert(roster_reached(&b->roster, 4, 6));
    ck_assert(!roster_reached(&b->roster, 4, 6));
    ck_assert(!roster_reached(&b->roster, 4, 2)); /* never falls */
    ck_assert(block_check(&b->block, &b->rule, 0, false));
    take(b, "01", "-", 5);
    ck_assert(!publish(b, 5, 0));
    ck_assert_uint_eq(b->block.clock, 6);

    /* At clock 7 rank 3 counts. */
    append(b, 0, 7, 0);
    append(b, 1, 7, 0);
    ck_assert(!append(b, 4, 7, 0));
    ck_assert(append(b, 3, 7, 0));
    take(b, "0134", "-", 7);
    ck_assert(!publish(b, 7, 0));
    bench_free(b);
}
END_TEST

/* Promise: a rank that comes back before a queued batch is taken is waited for after all. */
START_TEST(bsp_rejoin) {
    struct bench *b = bench_new(true, 0);
    for (uint32_t rank = 1; rank < WORKERS; rank++)
        atomic_store(&b->roster.from[rank], ROSTER_ABSENT);
    ck_assert(append(b, 0, 0, 0));
    atomic_store(&b->roster.from[1], 0);
    take(b, "-", "-", BLOCK_NO_CLOCK);
    ck_assert(!block_publish(&b->block, &b->rule, false, NULL, BLOCK_NO_CLOCK, 0));
    ck_assert_uint_eq(b->block.clock, 0);
    ck_assert_uint_eq(b->block.version, 1);
    ck_assert(append(b, 1, 0, 0));
    take(b, "01", "-", 0);
    publish(b, 0, 0);
    bench_free(b);
}
END_TEST

/* All orders of 0..WORKERS-1, one after the other (Heap's algorithm, without recursion). */
static bool next_order(uint32_t order[WORKERS], uint32_t count[WORKERS], uint32_t *at) {
    while (*at < WORKERS) {
        if (count[*at] >= *at) {
            count[(*at)++] = 0;
            continue;
        }
        uint32_t from = *at % 2 ? count[*at] : 0, swap = order[*at];
        order[*at] = order[from];
        order[from] = swap;
        count[*at]++;
        *at = 1;
        return true;
    }
    return false;
}

/* Promise: in whatever order the gradients of two clocks arrive, they are merged in the same one,
 * so that a sum whose rounding depends on the order has the same bits. */
START_TEST(bsp_order) {
    static const float values[WORKERS] = {1e8f, 0.3f, -1e8f, 7e-3f, 12345.678f};
    uint32_t order[WORKERS] = {0, 1, 2, 3, 4}, count[WORKERS] = {0}, at = 1, orders = 0;
    float first = 0, sideways = 0;
    do {
        struct bench *b = bench_new(true, 0);
        bool ready = false;
        float arrival = 0;
        for (int i = 0; i < WORKERS; i++) {
            append(b, order[WORKERS - 1 - i], 1, 0);
            ready = append(b, order[i], 0, 0);
            arrival += values[order[i]];
        }
        ck_assert(ready);
        struct list out, late, *node;
        list_init(&out);
        list_init(&late);
        uint64_t clock;
        ck_assert_uint_eq(block_take(&b->block, &b->rule, &out, &late, &clock), WORKERS);
        float sum = 0;
        while ((node = list_pop(&out))) {
            struct push *push = LIST_OWNER(node, struct pending, node)->push;
            sum += values[push->rank];
            push_free(push);
        }
        if (orders++ == 0)
            first = sum;
        ck_assert_int_eq(memcmp(&sum, &first, sizeof sum), 0);
        sideways += arrival != sum;
        ck_assert(publish(b, 0, 0));
        take(b, "01234", "-", 1);
        publish(b, 1, 0);
        bench_free(b);
    } while (next_order(order, count, &at));
    ck_assert_uint_eq(orders, 120);
    ck_assert_float_gt(sideways, 0); /* the values are such that the order matters */
}
END_TEST

/* Promise: readers keep the weights they took; new ones come with a higher version. */
START_TEST(publish_and_read) {
    struct bench *b = bench_new(false, 1);
    uint64_t version;
    struct buf *held = block_read(&b->block, &version);
    ck_assert_uint_eq(version, 1);
    ck_assert(append(b, 0, 0, 0));
    take(b, "0", "-", BLOCK_NO_CLOCK);
    struct buf *next = buf_new(FLOATS * sizeof(float));
    ck_assert(!block_publish(&b->block, &b->rule, true, next, BLOCK_NO_CLOCK, 0));
    struct buf *now = block_read(&b->block, &version);
    ck_assert_ptr_eq(now, next);
    ck_assert_uint_eq(version, 2);
    ck_assert_uint_eq(atomic_load(&held->refs), 1);
    ck_assert_float_eq(((float *)(void *)held->data)[FLOATS - 1], 0);
    buf_unref(held);
    buf_unref(now);
    bench_free(b);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("block");
    TCase *tcase = tcase_create("block");
    tcase_add_test(tcase, async_count);
    tcase_add_test(tcase, async_time);
    tcase_add_test(tcase, async_roster);
    tcase_add_test(tcase, bsp_clocks);
    tcase_add_test(tcase, bsp_late_in_hand);
    tcase_add_test(tcase, bsp_replaced);
    tcase_add_test(tcase, bsp_roster);
    tcase_add_test(tcase, bsp_rejoin);
    tcase_add_test(tcase, bsp_order);
    tcase_add_test(tcase, publish_and_read);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
