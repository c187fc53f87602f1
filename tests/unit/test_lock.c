/* The ranked lock: it excludes, a wrong order aborts before it can deadlock, waits end in time. */
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

#include "common/lock.h"
#include "tests/test.h"

static struct lock ledger, block, block_2, queue;

static void setup(void) {
    lock_init(&ledger, LOCK_LEDGER, "ledger");
    lock_init(&block, LOCK_BLOCK, "block");
    lock_init(&block_2, LOCK_BLOCK, "block 2");
    lock_init(&queue, LOCK_QUEUE, "queue");
}

static void teardown(void) {
    lock_done(&ledger);
    lock_done(&block);
    lock_done(&block_2);
    lock_done(&queue);
}

/* In order of rank, released in any order, and again. */
START_TEST(test_order) {
    for (int i = 0; i < 3; i++) {
        ck_assert_uint_eq(lock_take(&ledger), 0);
        ck_assert_uint_eq(lock_take(&block), 0);
        ck_assert_uint_eq(lock_take(&queue), 0);
        lock_assert_held(&block);
        lock_release(&block);
        lock_release(&ledger);
        lock_assert_held(&queue);
        lock_release(&queue);
    }
}
END_TEST

/* Each of these ends in SIGABRT. */
START_TEST(test_reversal_aborts) {
    lock_take(&block);
    lock_take(&ledger);
}
END_TEST
START_TEST(test_same_rank_aborts) {
    lock_take(&block);
    lock_take(&block_2);
}
END_TEST
START_TEST(test_twice_aborts) {
    lock_take(&block);
    lock_take(&block);
}
END_TEST
START_TEST(test_release_unheld_aborts) {
    lock_release(&block);
}
END_TEST
START_TEST(test_assert_unheld_aborts) {
    lock_take(&block);
    lock_release(&block);
    lock_assert_held(&block);
}
END_TEST
/* The wait takes the ledger's lock again while the block's is held: a reversal in disguise. */
START_TEST(test_wait_reversal_aborts) {
    pthread_cond_t cond;
    lock_cond_init(&cond);
    lock_take(&ledger);
    lock_take(&block);
    lock_wait(&ledger, &cond, 1);
}
END_TEST

/* The order is looked at per thread: another thread's locks are not in the way. */
static void *take_ledger(void *arg) {
    lock_take(&ledger);
    lock_release(&ledger);
    return NULL;
}
START_TEST(test_order_per_thread) {
    pthread_t thread;
    lock_take(&block);
    pthread_create(&thread, NULL, take_ledger, NULL);
    pthread_join(thread, NULL);
    lock_release(&block);
}
END_TEST

/* No addition is lost between threads. */
static int counter;
static void *count(void *arg) {
    for (int i = 0; i < 50000; i++) {
        lock_take(&block);
        counter++;
        lock_release(&block);
    }
    return NULL;
}
START_TEST(test_excludes) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, count, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    ck_assert_int_eq(counter, 200000);
}
END_TEST

/* Whoever finds the lock taken is told how long it waited. A round may be lost to the scheduler
 * (the other had not tried yet when the lock was released), hence many. */
static atomic_int trying;
static void *contend(void *arg) {
    trying = 1;
    *(uint64_t *)arg = lock_take(&block);
    lock_release(&block);
    return NULL;
}
START_TEST(test_wait_is_timed) {
    uint64_t waited_ns = 0;
    for (int round = 0; round < 1000 && waited_ns == 0; round++) {
        pthread_t thread;
        trying = 0;
        lock_take(&block);
        uint64_t start_ns = time_now_ns();
        pthread_create(&thread, NULL, contend, &waited_ns);
        while (!trying)
            sched_yield();
        for (int i = 0; i < round; i++)
            sched_yield();
        lock_release(&block);
        pthread_join(thread, NULL);
        ck_assert_uint_le(waited_ns, time_now_ns() - start_ns);
    }
    ck_assert_uint_gt(waited_ns, 0);
}
END_TEST

/* A wait ends at its time with the lock held, and not before. */
START_TEST(test_wait_times_out) {
    pthread_cond_t cond;
    lock_cond_init(&cond);
    lock_take(&block);
    uint64_t start_ms = time_now_ms();
    while (lock_wait(&block, &cond, 20))
        ; /* woken for no reason, as conditions may be */
    ck_assert_uint_ge(time_now_ms() - start_ms, 19);
    lock_assert_held(&block);
    ck_assert(!lock_wait(&block, &cond, 0));
    lock_release(&block);
    pthread_cond_destroy(&cond);
}
END_TEST

/* A signal ends the wait, with or without a time. */
static pthread_cond_t turned;
static int turn;
static void *turner(void *arg) {
    lock_take(&block);
    turn++;
    pthread_cond_signal(&turned);
    lock_release(&block);
    return NULL;
}
START_TEST(test_wait_is_woken) {
    lock_cond_init(&turned);
    int64_t timeouts[] = {-1, 20000};
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        lock_take(&block);
        pthread_create(&thread, NULL, turner, NULL);
        bool in_time = true;
        while (turn == i && in_time)
            in_time = lock_wait(&block, &turned, timeouts[i]);
        ck_assert(in_time);
        lock_release(&block);
        pthread_join(thread, NULL);
    }
    pthread_cond_destroy(&turned);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("lock");
    TCase *tcase = tcase_create("lock");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 30);
    tcase_add_test(tcase, test_order);
    tcase_add_test_raise_signal(tcase, test_reversal_aborts, SIGABRT);
    tcase_add_test_raise_signal(tcase, test_same_rank_aborts, SIGABRT);
    tcase_add_test_raise_signal(tcase, test_twice_aborts, SIGABRT);
    tcase_add_test_raise_signal(tcase, test_release_unheld_aborts, SIGABRT);
    tcase_add_test_raise_signal(tcase, test_assert_unheld_aborts, SIGABRT);
    tcase_add_test_raise_signal(tcase, test_wait_reversal_aborts, SIGABRT);
    tcase_add_test(tcase, test_order_per_thread);
    tcase_add_test(tcase, test_excludes);
    tcase_add_test(tcase, test_wait_is_timed);
    tcase_add_test(tcase, test_wait_times_out);
    tcase_add_test(tcase, test_wait_is_woken);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
