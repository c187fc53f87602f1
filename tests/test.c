/* Helpers shared by the tests. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Many: all cases of a program may run in one process (CK_FORK=no). */
enum { TMPDIRS_MAX = 512 };

static char tmpdirs[TMPDIRS_MAX][64];
static pid_t tmpdir_owner[TMPDIRS_MAX];
static int tmpdir_count;

static void tmpdirs_remove(void) {
    static char command[sizeof "rm -rf" + TMPDIRS_MAX * (sizeof tmpdirs[0] + 1)] = "rm -rf";
    size_t len = strlen(command), bare = len;
    for (int i = 0; i < tmpdir_count; i++)
        if (tmpdir_owner[i] == getpid())
            len += (size_t)sprintf(command + len, " %s", tmpdirs[i]);
    if (len > bare && system(command) != 0)
        fprintf(stderr, "could not remove all of: %s\n", command);
}

int test_run(Suite *suite) {
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}

const char *test_tmpdir(void) {
    ck_assert_int_lt(tmpdir_count, TMPDIRS_MAX);
    if (tmpdir_count == 0)
        atexit(tmpdirs_remove);
    char *dir = tmpdirs[tmpdir_count];
    snprintf(dir, sizeof tmpdirs[0], "/tmp/graphps-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    tmpdir_owner[tmpdir_count++] = getpid();
    return dir;
}

const char *test_path(const char *dir, const char *name) {
    static char paths[16][512];
    static int next;
    char *path = paths[next++ % 16];
    snprintf(path, sizeof paths[0], "%s/%s", dir, name);
    return path;
}

void test_write_file(const char *path, const void *data, size_t len) {
    FILE *file = fopen(path, "wb");
    ck_assert_msg(file != NULL, "cannot write %s", path);
    ck_assert_uint_eq(fwrite(data, 1, len, file), len);
    ck_assert_int_eq(fclose(file), 0);
}

char *test_read_file(const char *path, size_t *ret_len) {
    FILE *file = fopen(path, "rb");
    ck_assert_msg(file != NULL, "cannot read %s", path);
    size_t len = 0, cap = 65536;
    char *text = malloc(cap + 1);
    size_t n;
    while ((n = fread(text + len, 1, cap - len, file)) > 0) {
        len += n;
        if (len == cap)
            text = realloc(text, (cap *= 2) + 1);
    }
    fclose(file);
    text[len] = 0;
    if (ret_len)
        *ret_len = len;
    return text;
}

void test_floats_equal(const char *what, const float *a, const float *b, size_t n, double rel_tol,
                       double abs_tol) {
    for (size_t i = 0; i < n; i++) {
        double tol = abs_tol + rel_tol * fmax(fabs((double)a[i]), fabs((double)b[i]));
        /* Written so that a NaN on either side fails. */
        if (!(fabs((double)a[i] - (double)b[i]) <= tol))
            ck_abort_msg("%s[%zu]: %.9g and %.9g differ by more than %.3g", what, i, (double)a[i],
                         (double)b[i], tol);
    }
}

const char *test_data_dir(const char *name) {
    const char *dir = getenv("GRAPHPS_DATA");
    if (!dir || !*dir) {
        printf("SKIPPED: %s: GRAPHPS_DATA is not set\n", name);
        return NULL;
    }
    return dir;
}
