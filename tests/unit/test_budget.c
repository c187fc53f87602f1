/* proto/budget: who may read how much. */
#include <pthread.h>
#include <semaphore.h>

#include "proto/budget.h"
#include "tests/test.h"

static void wake_nobody(void *ctx) {
    ++*(int *)ctx;
}

/* Promise: what is held is bounded for one and for all; who holds nothing may always begin; a
 * refused account is woken once when bytes come back, and a closed one never. */
START_TEST(bounds) {
    int woken[2] = {0};
    struct budget *budget = budget_new(1000, 700);
    struct account *a = account_new(budget, wake_nobody, &woken[0]);
    struct account *b = account_new(budget, wake_nobody, &woken[1]);
    struct buf *first = account_buf(a, 5000, 0); /* it held nothing */
    ck_assert_ptr_nonnull(first);
    ck_assert_ptr_null(account_buf(a, 1, 0));
    struct buf *instead = account_buf(a, 1, 5000); /* it will replace the first */
    ck_assert_ptr_nonnull(instead);
    struct buf *second = account_buf(b, 100, 0);
    ck_assert_ptr_nonnull(second);
    ck_assert_ptr_null(account_buf(b, 1, 0)); /* the whole is above its bound */
    ck_assert_uint_eq(budget_received_bytes(budget), 5101);
    ck_assert(woken[0] == 0 && woken[1] == 0);
    buf_unref(first);
    buf_unref(instead);
    ck_assert(woken[0] == 1 && woken[1] == 1);
    struct buf *third = account_buf(b, 600, 0);
    ck_assert_ptr_nonnull(third);
    ck_assert_ptr_null(account_buf(b, 1, 0)); /* its own bound */
    account_queue(b, 50);
    ck_assert_uint_eq(budget_queued_bytes(budget), 50);
    account_sent(b, 50);
    ck_assert(woken[0] == 1 && woken[1] == 2);
    ck_assert_ptr_null(account_buf(b, 1, 0));
    account_close(b);
    buf_unref(second);
    buf_unref(third);
    ck_assert(woken[1] == 2);
    account_close(a);
    budget_unref(budget);
}
END_TEST

/* Promise: no wake-up is lost. Four readers with a thread each, whose buffers a fifth lets go. */
enum { READERS = 4, READS = 20000, RING = 64 };
static struct budget *shared;
static sem_t filled, room;
static struct buf *_Atomic ring[RING];
static atomic_uint put;
static _Atomic size_t most;

static void wake_reader(void *ctx) {
    sem_post(ctx);
}

static void *reader_run(void *ctx) {
    sem_t *woken = ctx;
    struct account *account = account_new(shared, wake_reader, woken);
    for (unsigned i = 0; i < READS; i++) {
        struct buf *buf;
        while (!(buf = account_buf(account, 100 + i % 300, 0)))
            sem_wait(woken);
        size_t now = budget_received_bytes(shared), before = atomic_load(&most);
        while (now > before && !atomic_compare_exchange_weak(&most, &before, now))
            ;
        sem_wait(&room);
        struct buf *empty = NULL;
        for (unsigned at = atomic_fetch_add(&put, 1);
             !atomic_compare_exchange_weak(&ring[at % RING], &empty, buf); empty = NULL)
            at++;
        sem_post(&filled);
    }
    account_close(account);
    return NULL;
}

START_TEST(no_wake_is_lost) {
    pthread_t threads[READERS];
    sem_t woken[READERS];
    shared = budget_new(2000, 900);
    sem_init(&filled, 0, 0);
    sem_init(&room, 0, RING);
    for (int i = 0; i < READERS; i++) {
        sem_init(&woken[i], 0, 0);
        pthread_create(&threads[i], NULL, reader_run, &woken[i]);
    }
    for (unsigned i = 0; i < READERS * READS; i++) {
        sem_wait(&filled);
        struct buf *buf = NULL;
        for (unsigned at = i; !buf; at++)
            buf = atomic_exchange(&ring[at % RING], NULL);
        sem_post(&room);
        buf_unref(buf);
    }
    for (int i = 0; i < READERS; i++)
        pthread_join(threads[i], NULL);
    ck_assert_uint_eq(budget_received_bytes(shared), 0);
    /* Each may have looked before another took: a buffer each beyond the bound. */
    ck_assert_uint_le(atomic_load(&most), 2000 + READERS * 400);
    budget_unref(shared);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("budget");
    TCase *tcase = tcase_create("budget");
    tcase_set_timeout(tcase, 100);
    tcase_add_test(tcase, bounds);
    tcase_add_test(tcase, no_wake_is_lost);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
