/* Memory: alignment, zeros, the arena's plan, references across threads, and refusals. */
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>

#include "common/mem.h"
#include "tests/test.h"

/* Every allocation is zeroed and 64-byte aligned, also one of no bytes. */
START_TEST(test_alloc) {
    static const uint8_t zeros[1000];
    for (size_t size = 0; size < 1000; size += 37) {
        uint8_t *bytes = mem_alloc(size);
        ck_assert_uint_eq((uintptr_t)bytes % MEM_ALIGN, 0);
        ck_assert_mem_eq(bytes, zeros, size);
        memset(bytes, 0xff, size); /* what the next one may get back */
        mem_free(bytes);
    }
    mem_free(NULL);
}
END_TEST

/* Growing keeps what was there and zeroes the rest; shrinking cuts; NULL grows from nothing. */
START_TEST(test_resize) {
    int *numbers = mem_resize(NULL, 0, 3 * sizeof *numbers);
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(numbers[i], 0);
        numbers[i] = i + 1;
    }
    numbers = mem_resize(numbers, 3 * sizeof *numbers, 100 * sizeof *numbers);
    for (int i = 0; i < 100; i++)
        ck_assert_int_eq(numbers[i], i < 3 ? i + 1 : 0);
    numbers = mem_resize(numbers, 100 * sizeof *numbers, 2 * sizeof *numbers);
    ck_assert_int_eq(numbers[1], 2);
    mem_free(numbers);
}
END_TEST

/* A count times a size that no machine has ends the process with code 70 instead of wrapping. */
START_TEST(test_overflow_exits) {
    mem_array(SIZE_MAX / 8 + 1, 16);
}
END_TEST
START_TEST(test_huge_exits) {
    mem_alloc(SIZE_MAX - 3);
}
END_TEST
START_TEST(test_huge_buf_exits) {
    buf_new(SIZE_MAX - 100);
}
END_TEST

/* Text of any length. */
START_TEST(test_text) {
    char *text = mem_printf("%s-%d", "shard", 7), *copy = mem_strdup(text);
    ck_assert_str_eq(copy, "shard-7");
    mem_free(text);
    mem_free(copy);
    text = mem_printf("%5000d", 1);
    ck_assert_uint_eq(strlen(text), 5000);
    mem_free(text);
}
END_TEST

/* Arrays of an arena are aligned, zeroed, apart, and as many as were planned. */
START_TEST(test_arena) {
    struct arena *arena = arena_new(64 + 128 + 100);
    uint8_t *a = arena_take(arena, 1), *b = arena_take(arena, 65), *c = arena_take(arena, 100);
    ck_assert_uint_eq((uintptr_t)a % MEM_ALIGN, 0);
    ck_assert_ptr_eq(b, a + 64);
    ck_assert_ptr_eq(c, b + 128);
    for (int i = 0; i < 100; i++)
        ck_assert_uint_eq(c[i], 0);
    ck_assert_uint_eq(arena_used_bytes(arena), 64 + 128 + 128);
    ck_assert_ptr_null(arena_free(arena));
    ck_assert_ptr_null(arena_free(NULL));
}
END_TEST
START_TEST(test_arena_overflow_aborts) {
    struct arena *arena = arena_new(64);
    arena_take(arena, 64);
    arena_take(arena, 1);
}
END_TEST
START_TEST(test_arena_wrap_aborts) {
    struct arena *arena = arena_new(64);
    arena_take(arena, SIZE_MAX);
}
END_TEST

/* A buffer lives until the last of many threads lets go of it. */
static void *holder(void *arg) {
    struct buf *buf = arg;
    for (int i = 0; i < 10000; i++) {
        struct buf *mine = buf_ref(buf);
        ck_assert_uint_eq(mine->data[mine->len - 1], 42);
        buf_unref(mine);
    }
    buf_unref(buf);
    return NULL;
}
START_TEST(test_buf) {
    struct buf *buf = buf_new(1001);
    ck_assert_uint_eq((uintptr_t)buf->data % MEM_ALIGN, 0);
    ck_assert_uint_eq(buf->len, 1001);
    memset(buf->data, 42, buf->len);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, holder, buf_ref(buf));
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    ck_assert_uint_eq(atomic_load(&buf->refs), 1);
    ck_assert_ptr_null(buf_unref(buf));
    ck_assert_ptr_null(buf_unref(NULL));
    buf_unref(buf_new(0));
}
END_TEST

/* A pointer that is handed on is not freed where it was. */
static char *handed_on(void) {
    _cleanup_(mem_free_p) char *text = mem_strdup("kept");
    return TAKE_PTR(text);
}
START_TEST(test_take) {
    _cleanup_(mem_free_p) char *text = handed_on();
    ck_assert_str_eq(text, "kept");
}
END_TEST

int main(void) {
    Suite *suite = suite_create("mem");
    TCase *tcase = tcase_create("mem");
    tcase_add_test(tcase, test_alloc);
    tcase_add_test(tcase, test_resize);
    tcase_add_exit_test(tcase, test_overflow_exits, 70);
    tcase_add_exit_test(tcase, test_huge_exits, 70);
    tcase_add_exit_test(tcase, test_huge_buf_exits, 70);
    tcase_add_test(tcase, test_text);
    tcase_add_test(tcase, test_arena);
    tcase_add_test_raise_signal(tcase, test_arena_overflow_aborts, SIGABRT);
    tcase_add_test_raise_signal(tcase, test_arena_wrap_aborts, SIGABRT);
    tcase_add_test(tcase, test_buf);
    tcase_add_test(tcase, test_take);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
