/* The error table and filling an error: codes are told apart, texts fit, nothing is lost. */
#include <string.h>

#include "common/error.h"
#include "tests/test.h"

static const int codes[] = {
#define ERROR(name, number, retryable, exit_code, sentence) ERR_##name,
#include "common/error.def"
#undef ERROR
};
enum { CODES = sizeof codes / sizeof codes[0] };

/* Each row: a negative code of its own, a name, a sentence, an exit code of G9's; a code that may
 * be tried again exits with 75. */
START_TEST(test_table) {
    for (int i = 0; i < CODES; i++) {
        ck_assert_int_lt(codes[i], 0);
        for (int j = 0; j < i; j++) {
            ck_assert_int_ne(codes[i], codes[j]);
            ck_assert_str_ne(error_name(codes[i]), error_name(codes[j]));
        }
        ck_assert_uint_gt(strlen(error_sentence(codes[i])), 5);
        int exit_code = error_exit_code(codes[i]);
        ck_assert_int_ge(exit_code, 70);
        ck_assert_int_le(exit_code, 78);
        if (error_retryable(codes[i]))
            ck_assert_int_eq(exit_code, 75);
    }
}
END_TEST

/* Numbers that peers of other versions know. */
START_TEST(test_numbers_stay) {
    ck_assert_int_eq(ERR_NO_MEMORY, -1);
    ck_assert_int_eq(ERR_CHECKSUM, -10);
    ck_assert_int_eq(ERR_WRONG_LAYOUT, -14);
    ck_assert_int_eq(ERR_FENCED, -15);
    ck_assert_int_eq(ERR_BUSY, -25);
    ck_assert_str_eq(error_name(ERR_FENCED), "FENCED");
}
END_TEST

/* No error, and numbers nobody knows (they come over the wire). */
START_TEST(test_unknown) {
    ck_assert_str_eq(error_name(0), "NONE");
    ck_assert_int_eq(error_exit_code(0), 0);
    ck_assert(!error_retryable(0));
    const int unknown[] = {1, -10000, 0x7fffffff, -0x7fffffff - 1};
    for (int i = 0; i < 4; i++) {
        ck_assert_str_eq(error_name(unknown[i]), "UNKNOWN");
        ck_assert_str_eq(error_sentence(unknown[i]), "unknown error");
        ck_assert_int_eq(error_exit_code(unknown[i]), 70);
        ck_assert(!error_retryable(unknown[i]));
    }
}
END_TEST

/* Set, then prefixed on the way up; the old text may be an argument of the new one. */
START_TEST(test_set_and_prefix) {
    struct error err = {0};
    ck_assert_int_eq(error_set(&err, ERR_IO, "cannot read %s", "x"), ERR_IO);
    ck_assert_str_eq(error_text(&err), "cannot read x");
    ck_assert_int_eq(error_prefix(&err, "shard %d", 3), ERR_IO);
    ck_assert_str_eq(error_text(&err), "shard 3: cannot read x");
    ck_assert_int_eq(error_set(&err, ERR_CONFIG, "%s (again)", err.text), ERR_CONFIG);
    ck_assert_str_eq(error_text(&err), "shard 3: cannot read x (again)");
    ck_assert_int_eq(err.code, ERR_CONFIG);
    ck_assert_int_eq(error_set(NULL, ERR_IO, "nobody listens"), ERR_IO);
}
END_TEST

/* Without a text the code's sentence stands in, also behind a prefix. */
START_TEST(test_sentence_stands_in) {
    struct error err = {.code = ERR_TIMEOUT};
    ck_assert_str_eq(error_text(&err), error_sentence(ERR_TIMEOUT));
    ck_assert_int_eq(error_prefix(&err, "shard 1"), ERR_TIMEOUT);
    ck_assert_str_eq(error_text(&err), "shard 1: nobody answered in time");
}
END_TEST

/* A text that is too long is cut, never overrun. */
START_TEST(test_long) {
    char text[2000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    struct error err = {0};
    error_set(&err, ERR_IO, "%s", text);
    ck_assert_uint_eq(strlen(err.text), sizeof err.text - 1);
    ck_assert_int_eq(error_prefix(&err, "p"), ERR_IO);
    ck_assert_uint_eq(strlen(err.text), sizeof err.text - 1);
    ck_assert_int_eq(strncmp(err.text, "p: xx", 5), 0);
    ck_assert_int_eq(error_prefix(&err, "%s", text), ERR_IO);
    ck_assert_uint_eq(strlen(err.text), sizeof err.text - 1);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("error");
    TCase *tcase = tcase_create("error");
    tcase_add_test(tcase, test_table);
    tcase_add_test(tcase, test_numbers_stay);
    tcase_add_test(tcase, test_unknown);
    tcase_add_test(tcase, test_set_and_prefix);
    tcase_add_test(tcase, test_sentence_stands_in);
    tcase_add_test(tcase, test_long);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
