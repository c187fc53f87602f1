/* Imports that are killed or interrupted at many moments: there is the complete snapshot or none
 * that opens, and the next import of that name leaves nothing of them. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/lock.h"
#include "common/mem.h"
#include "tests/child.h"
#include "tests/test.h"
#include "worker/graph/snapshot.h"

#define EDGES TEST_REPEATS(1400000) /* 20 MB of text */
#define KILLS TEST_REPEATS(12)

static char source[512], root[512];
static uint64_t entries; /* of the whole snapshot */

static void write_source(void) {
    snprintf(source, sizeof source, "%s", test_path(test_tmpdir(), "edges.csv"));
    FILE *file = fopen(source, "w");
    ck_assert_ptr_nonnull(file);
    for (uint64_t i = 0; i < EDGES; i++)
        fprintf(file, "v%llu,v%llu\n", (unsigned long long)(i % 65537),
                (unsigned long long)(i * 7919 % 99991));
    ck_assert_int_eq(fclose(file), 0);
}

static void start(struct child *child, bool overwrite) {
    const char *const argv[] = {child_program("graphps"),
                                "import",
                                source,
                                "--root",
                                root,
                                "--name",
                                "g",
                                "--version",
                                "1.0.0-rc",
                                overwrite ? "--overwrite" : NULL,
                                NULL};
    child_init(child, "import", test_path(test_tmpdir(), "log"));
    child_start(child, argv);
}

static void new_root(void) {
    snprintf(root, sizeof root, "%s", test_path(test_tmpdir(), "root"));
    entries = 0;
}

/* How many entries snapshots/ has, and how many begin so. */
static size_t count_entries(const char *begin) {
    char **names;
    size_t count, found = 0;
    const char *dir = test_path(root, "snapshots");
    if (!file_exists(dir))
        return 0;
    ck_assert_int_eq(dir_list(dir, &names, &count, NULL), 0);
    for (size_t i = 0; i < count; i++)
        found += !strncmp(names[i], begin, strlen(begin));
    dir_list_free(names, count);
    return found;
}

/* Opens what is there by its name alone, as a job would; false: nothing. */
static bool opens(void) {
    struct snapshot *s = NULL;
    struct error err = {0};
    _cleanup_(mem_free_p) char *dir = NULL;
    int r = snapshot_find(root, "g", &dir, &err);
    if (r < 0) {
        ck_assert_int_eq(r, ERR_NOT_FOUND);
        return false;
    }
    ck_assert_ptr_nonnull(strstr(dir, "/g@1.0.0-rc"));
    ck_assert_str_eq(strstr(dir, "/g@1.0.0-rc"), "/g@1.0.0-rc");
    ck_assert_msg(snapshot_open(dir, true, &s, &err) == 0, "%s", err.text);
    ck_assert(entries == 0 || s->edges == entries);
    entries = s->edges;
    snapshot_close(s);
    return true;
}

static void sleep_ms(uint64_t ms) {
    const struct timespec time = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    nanosleep(&time, NULL);
}

static uint64_t import_whole(bool overwrite) {
    struct child child;
    uint64_t began = time_now_ms();
    start(&child, overwrite);
    child_expect(&child, 0, 100000);
    ck_assert(opens());
    ck_assert_uint_eq(count_entries(""), 1);
    return time_now_ms() - began;
}

/* Killed while it makes the first one. */
START_TEST(test_kill) {
    struct child child;
    uint64_t ms = import_whole(false);
    for (uint64_t k = 0; k < KILLS; k++) {
        ck_assert_int_eq(dir_remove(test_path(root, "snapshots/g@1.0.0-rc"), NULL), 0);
        start(&child, false);
        /* More of them near the end, where files are put in place. */
        sleep_ms(k < KILLS / 2 ? ms * k / (KILLS / 2) : ms * (KILLS / 2 + k) / KILLS * 2 / 3);
        child_stop(&child);
        bool whole = opens();
        ck_assert_uint_eq(count_entries("g@1.0.0-rc@new.tmp-") + whole, count_entries(""));
        ck_assert_uint_le(count_entries(""), 2); /* the one before it was swept */
    }
    ck_assert_int_eq(dir_remove(test_path(root, "snapshots/g@1.0.0-rc"), NULL), 0);
    import_whole(false);
}
END_TEST

/* Killed while it replaces one: at every moment one of the two is there. */
START_TEST(test_kill_overwrite) {
    struct child child;
    uint64_t ms = import_whole(false);
    for (uint64_t k = 0; k < KILLS; k++) {
        start(&child, true);
        sleep_ms(ms * (KILLS / 2 + k) / KILLS * 2 / 3);
        child_stop(&child);
        ck_assert(opens());
    }
    import_whole(true);
}
END_TEST

/* Interrupted: exit code 75, and nothing is left. */
START_TEST(test_interrupt) {
    struct child child;
    for (int i = 0; i < 3; i++) {
        start(&child, false);
        while (count_entries("g@1.0.0-rc@new.tmp-") == 0)
            sleep_ms(1);
        sleep_ms((uint64_t)i * 60);
        child_signal(&child, i % 2 ? SIGTERM : SIGINT);
        child_expect(&child, 75, 30000);
        ck_assert_uint_eq(count_entries(""), 0);
        char *log = child_log(&child);
        ck_assert_msg(strstr(log, "interrupted; nothing was written") != NULL, "%s", log);
        free(log);
    }
}
END_TEST

/* What a live import holds is not swept by another of the same name. */
START_TEST(test_two_at_once) {
    struct child one, two;
    start(&one, true);
    while (count_entries("g@1.0.0-rc@new.tmp-") == 0)
        sleep_ms(1);
    sleep_ms(20);
    start(&two, true);
    /* One that comes second to the empty place may be told that it is taken. */
    int first = child_wait(&one, 100000), second = child_wait(&two, 100000);
    ck_assert_msg(first == 0 || second == 0, "exit codes %d and %d", first, second);
    ck_assert_msg(first + second == 0 || first + second == 78, "exit codes %d and %d", first,
                  second);
    ck_assert(opens());
    ck_assert_uint_eq(count_entries(""), 1);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("import_kill");
    TCase *tcase = tcase_create("import_kill");
    tcase_set_timeout(tcase, 280);
    tcase_add_unchecked_fixture(tcase, write_source, NULL);
    tcase_add_checked_fixture(tcase, new_root, NULL);
    tcase_add_test(tcase, test_kill);
    tcase_add_test(tcase, test_kill_overwrite);
    tcase_add_test(tcase, test_interrupt);
    tcase_add_test(tcase, test_two_at_once);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
