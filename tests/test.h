/* What every test shares: running suites, temp directories, comparing floats. */
#pragma once

#include <check.h>
#include <stddef.h>

/* Check's own writes each assertion's place to a file when it holds, too, which takes most of the
 * time of a loop. */
#undef ck_assert_msg
#define ck_assert_msg(expr, ...)                                                                   \
    ((expr) ? (void)0                                                                              \
            : _ck_assert_failed(__FILE__, __LINE__, "Assertion '" #expr "' failed", __VA_ARGS__))

/* How often a test repeats something: under a sanitizer, which makes it ten times slower, a quarter
 * of n. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TEST_REPEATS(n) (((n) + 3) / 4)
#define TEST_SANITIZED 1
#else
#define TEST_REPEATS(n) (n)
#define TEST_SANITIZED 0
#endif

/* Cases about what one thread does, most of which is to start processes, end here under
 * ThreadSanitizer: it has nothing to find, and every start costs a quarter of a second. */
#if defined(__SANITIZE_THREAD__)
#define TEST_WITHOUT_THREADS() return
#else
#define TEST_WITHOUT_THREADS() (void)0
#endif

/* Runs the suites with Check and prints its closing lines; returns main's exit code. */
int test_run(Suite *suite);

/* A fresh directory, removed when the process that made it ends normally. Static storage. */
const char *test_tmpdir(void);
/* "<dir>/<name>" in a ring of 16 static buffers. */
const char *test_path(const char *dir, const char *name);
void test_write_file(const char *path, const void *data, size_t len);
/* The whole file, 0-terminated; free() it. Fails the test when it cannot be read. */
char *test_read_file(const char *path, size_t *ret_len);

/* max |a-b| <= abs_tol + rel_tol * max(|a|,|b|), else fails naming index and values. */
void test_floats_equal(const char *what, const float *a, const float *b, size_t n, double rel_tol,
                       double abs_tol);
/* $GRAPHPS_DATA, or NULL after printing "SKIPPED: <name>: GRAPHPS_DATA is not set". */
const char *test_data_dir(const char *name);
