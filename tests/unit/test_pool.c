/* common/pool: memory that is kept. */
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "common/mem.h"
#include "common/pool.h"
#include "common/rng.h"
#include "tests/test.h"

/* Promise: every size gets as much as it asked for, aligned, and nobody else's. */
START_TEST(every_size) {
    enum { COUNT = 3000 };
    static uint8_t *taken[COUNT];
    static size_t sizes[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        sizes[i] = i < 2000 ? i : (size_t)1 << i % 22;
        taken[i] = pool_take(sizes[i]);
        ck_assert_uint_eq((uintptr_t)taken[i] % MEM_ALIGN, 0);
        memset(taken[i], (int)i, sizes[i]);
    }
    for (size_t i = 0; i < COUNT; i++) {
        size_t wrong = 0;
        for (size_t k = 0; k < sizes[i]; k++)
            wrong += taken[i][k] != (uint8_t)i;
        ck_assert_uint_eq(wrong, 0);
        pool_give(taken[i], sizes[i]);
    }
    pool_give(NULL, 5);
}
END_TEST

/* Promise: after warm-up nothing is asked of the system; what an interval did not need goes back.
 */
START_TEST(kept_and_trimmed) {
    void *warm[4];
    for (int i = 0; i < 4; i++)
        warm[i] = pool_take(100000);
    for (int i = 0; i < 4; i++)
        pool_give(warm[i], 100000);
    uint64_t asked = mem_allocations();
    for (int i = 0; i < 1000; i++) {
        void *one = pool_take(100000), *two = pool_take(99000);
        pool_give(one, 100000);
        pool_give(two, 99000);
    }
    ck_assert_uint_eq(mem_allocations(), asked);
    size_t idle = pool_idle_bytes();
    ck_assert_uint_ge(idle, 400000);
    pool_trim(); /* begins an interval: before it, all four were in use at once */
    void *one = pool_take(100000);
    pool_give(one, 100000);
    pool_trim();
    ck_assert_uint_lt(pool_idle_bytes(), idle - 250000);
    ck_assert_uint_ge(pool_idle_bytes(), 100000);
}
END_TEST

static void *taker(void *ctx) {
    uint64_t key = (uint64_t)(uintptr_t)ctx;
    for (uint64_t i = 0; i < 100000; i++) {
        size_t size = 64 + rng_below(rng_at(key, i), 2000);
        uint64_t *memory = pool_take(size);
        memory[0] = memory[size / 8 - 1] = key;
        if (i % 16 == 0)
            sched_yield();
        if (memory[0] != key || memory[size / 8 - 1] != key)
            return ctx;
        pool_give(memory, size);
    }
    return NULL;
}

/* Promise: from any thread. */
START_TEST(from_threads) {
    pthread_t ids[4];
    for (uintptr_t i = 0; i < 4; i++)
        pthread_create(&ids[i], NULL, taker, (void *)(i + 1));
    for (int i = 0; i < 4; i++) {
        void *wrong;
        pthread_join(ids[i], &wrong);
        ck_assert_ptr_null(wrong);
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("pool");
    TCase *tcase = tcase_create("pool");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, every_size);
    tcase_add_test(tcase, kept_and_trimmed);
    tcase_add_test(tcase, from_threads);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
