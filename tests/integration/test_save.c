/* Saving a checkpoint, killed at every system call, and with every system call failing: what was
 * saved before is always there. strace does both; where it cannot, the test says that it is
 * skipped.
 */
#include "tests/test.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/file.h"
#include "common/mem.h"
#include "server/checkpoint.h"
#include "tests/job.h"

/* Where a process is killed is the plain build's question; a sanitizer looks at how saves go on. */
enum { TIMEOUT_MS = 60000, CALLS_MAX = 2000, EVERY = TEST_SANITIZED ? 4 : 1 };

static int save(const char *dir, int generation, const char *inject, char **ret_output) {
    char number[16], expression[200];
    snprintf(number, sizeof number, "%d", generation);
    snprintf(expression, sizeof expression, "%s", inject ? inject : "");
    /* Leaks cannot be looked for in a process that is traced. */
    const char *argv[] = {"/usr/bin/strace",
                          "-f",
                          "-qq",
                          "-E",
                          "ASAN_OPTIONS=detect_leaks=0",
                          "-o",
                          test_path(dir, "trace"),
                          "-e",
                          expression,
                          child_program("save_checkpoint"),
                          test_path(dir, "job"),
                          number,
                          NULL};
    return child_run(inject ? argv : argv + 9, TIMEOUT_MS, ret_output);
}

/* The generations that can be used, and that each holds what it should. Returns the newest. */
static int check_saved(const char *dir) {
    struct checkpoint_store store = checkpoint_store_files(test_path(dir, "job"));
    uint64_t *generations;
    size_t count;
    struct error err = {0};
    int newest = 0;
    ck_assert_msg(store.list(store.ctx, 0, 1, &generations, &count, &err) == 0, "%s", err.text);
    for (size_t i = 0; i < count; i++) {
        struct buf *bytes;
        struct checkpoint *c;
        ck_assert_int_eq(store.read(store.ctx, generations[i], 0, 1, &bytes, &err), 0);
        ck_assert_int_eq(checkpoint_decode(bytes->data, bytes->len, &c, &err), 0);
        size_t wrong = 0;
        for (size_t b = 0; b < c->block_count; b++)
            for (uint32_t k = 0; k < c->floats[b]; k++)
                wrong += ((float *)(void *)c->weights[b]->data)[k] != (float)generations[i];
        ck_assert_uint_eq(wrong, 0);
        newest = (int)generations[i];
        checkpoint_free(c);
        buf_unref(bytes);
    }
    mem_free(generations);
    return newest;
}

static bool strace_works(const char *dir) {
    char *output = NULL;
    bool works = file_exists("/usr/bin/strace") &&
                 save(dir, 1, "inject=openat:signal=SIGKILL:when=1", &output) == 128 + SIGKILL;
    if (!works)
        printf("SKIPPED: save: strace is not there or may not trace here\n");
    free(output);
    return works;
}

/* A system call of the save: the nth of its name in the process's life. strace counts that way. */
struct call {
    char name[32];
    int nth;
};

/* What one whole save calls, from the trace of one. */
static size_t calls_of_a_save(const char *dir, struct call *calls) {
    struct call seen[100] = {0};
    size_t names = 0, count = 0;
    bool saving = false;
    char *output;
    ck_assert_int_eq(save(dir, 4, "trace=all", &output), 0);
    free(output);
    size_t len;
    char *trace = test_read_file(test_path(dir, "trace"), &len), *rest = trace, *line;
    while ((line = strsep(&rest, "\n"))) {
        char name[32];
        if (sscanf(line, "%*d %31[a-z0-9_](", name) != 1 || strcmp(name, "exit_group") == 0)
            continue;
        size_t i = 0;
        while (i < names && strcmp(seen[i].name, name) != 0)
            i++;
        if (i == names) {
            ck_assert_uint_lt(names, ARRAY_LEN(seen));
            snprintf(seen[names++].name, sizeof name, "%s", name);
        }
        seen[i].nth++;
        if (saving) {
            ck_assert_uint_lt(count, CALLS_MAX);
            calls[count++] = seen[i];
        }
        saving |= strstr(line, "saving") != NULL;
    }
    free(trace);
    return count;
}

/* Promise (G3): killed at any system call, the generation saved last stays, and the next save goes
 * through. */
START_TEST(killed_anywhere) {
    TEST_WITHOUT_THREADS();
    static struct call calls[CALLS_MAX];
    const char *dir = test_tmpdir();
    if (!strace_works(dir))
        return;
    for (int g = 1; g <= 3; g++)
        ck_assert_int_eq(save(dir, g, NULL, NULL), 0);
    size_t count = calls_of_a_save(dir, calls); /* of generation 4, with one to prune */
    int generation = 4;
    for (size_t i = 0; i < count; i += EVERY) {
        char inject[100], *output;
        snprintf(inject, sizeof inject, "inject=%.31s:signal=SIGKILL:when=%d", calls[i].name,
                 calls[i].nth);
        int code = save(dir, generation + 1, inject, &output);
        ck_assert_msg(code == 128 + SIGKILL && strstr(output, "saving"), "%s: code %d", inject,
                      code);
        free(output);
        int newest = check_saved(dir);
        ck_assert_msg(newest == generation || newest == generation + 1,
                      "killed at %s: the newest generation is %d, not %d", inject, newest,
                      generation);
        generation++;
        ck_assert_int_eq(save(dir, generation, NULL, NULL), 0);
        ck_assert_int_eq(check_saved(dir), generation);
    }
    printf("killed at %zu system calls of a save\n", (count + EVERY - 1) / EVERY);
    ck_assert_uint_gt(count, 25);
    for (int g = 1; g <= 2; g++) /* what kills left behind is swept as generations grow old */
        ck_assert_int_eq(save(dir, generation + g, NULL, NULL), 0);
    const char *argv[] = {"/usr/bin/find", test_path(dir, "job"), "-name", "*.tmp-*", NULL};
    char *left;
    child_run(argv, TIMEOUT_MS, &left);
    ck_assert_msg(!left[0], "left behind: %s", left);
    free(left);
}
END_TEST

/* Promise (G3): a disk that is full, or fails, at any call makes the save fail with a reason; the
 * generation saved last stays. */
START_TEST(failing_disk) {
    TEST_WITHOUT_THREADS();
    static const char *const faults[] = {"write:error=ENOSPC",  "write:error=EIO",
                                         "fsync:error=EIO",     "rename:error=EIO",
                                         "openat:error=EMFILE", "mkdir:error=ENOSPC"};
    const char *dir = test_tmpdir();
    if (!strace_works(dir))
        return;
    int generation = 1;
    ck_assert_int_eq(save(dir, generation, NULL, NULL), 0);
    for (size_t f = 0; f < ARRAY_LEN(faults); f += TEST_SANITIZED ? 2 : 1) {
        /* After a few that do no harm, the save has made all such calls. */
        int failed = 0, harmless = 0;
        for (int call = 1; harmless < 4 && call <= 60; call++) {
            char inject[100], *output;
            snprintf(inject, sizeof inject, "inject=%s:when=%d", faults[f], call);
            int code = save(dir, generation + 1, inject, &output);
            if (strstr(output, "saving")) {
                failed += code == 1;
                harmless = failed > 0 && code == 0 ? harmless + 1 : 0;
                ck_assert_msg(code == 0 || (code == 1 && strlen(output) > 20), "%s: code %d: %s",
                              inject, code, output);
                int newest = check_saved(dir);
                ck_assert_msg(newest == generation + 1 || (code == 1 && newest == generation),
                              "%s: the newest generation is %d", inject, newest);
                generation = newest;
            }
            free(output);
        }
        ck_assert_msg(failed > 0 || strstr(faults[f], "mkdir"), "%s never mattered", faults[f]);
    }
}
END_TEST

/* Promise (G8): asked to end, a shard is gone soon after checkpoint.grace_s, whatever the disk
 * does, with code 75: a checkpoint that is not written by then is given up and its file removed (a
 * disk that does not answer at all keeps the file: the next run sweeps it). */
START_TEST(asked_to_end_on_a_slow_disk) {
    static const struct {
        int delay_s;
        const char *gone;
    } rows[] = {{2, "the checkpoint was given up"},
                {100, "leaving although the disk has not answered"}};
    if (!strace_works(test_tmpdir()))
        return;
    char inject[100], pid[16];
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1); /* as above */
    job_make_graph(40, 2, 300);
    job_cut(1);
    struct cluster *cluster = job_new(1, 1, "async", 1000000);
    cluster_set(cluster, "model.hidden=8192"); /* with adam's state a few times SYNC_BYTES */
    cluster_set(cluster, "servers.block_bytes=1048576");
    cluster_set(cluster, "checkpoint.grace_s=1");
    cluster_start(cluster);
    cluster_wait_log(cluster, CLUSTER_WORKER, 0, " sequence=2\n", CLUSTER_TIMEOUT_MS);
    struct child *shard = cluster_child(cluster, CLUSTER_SHARD, 0), strace;
    snprintf(inject, sizeof inject, "inject=fdatasync:delay_enter=%d000000", rows[_i].delay_s);
    snprintf(pid, sizeof pid, "%d", (int)shard->pid);
    const char *argv[] = {"/usr/bin/strace", "-f", "-e", inject, "-p", pid, NULL};
    child_init(&strace, "strace", test_path(cluster_dir(cluster), "strace.log"));
    child_start(&strace, argv);
    child_wait_log(&strace, " attached", CLUSTER_TIMEOUT_MS);
    child_signal(shard, SIGTERM);
    child_wait_log(shard, rows[_i].gone, CLUSTER_TIMEOUT_MS);
    if (_i == 1)
        child_stop(&strace); /* which keeps what it has stopped from ending */
    child_expect(shard, 75, CLUSTER_TIMEOUT_MS);
    child_stop(&strace);
    ck_assert_uint_eq(job_log_count(shard, "leaving without a new checkpoint"), 1);
    ck_assert_uint_eq(job_log_count(shard, "checkpoint written"), 0);
    const char *find[] = {"/usr/bin/find", job_dir(cluster), "-name", "shard-*", NULL};
    char *left;
    child_run(find, TIMEOUT_MS, &left);
    /* Where the disk does not answer, the process may have gone before it could remove the file. */
    bool unfinished = strstr(left, ".ckpt.tmp-") != NULL;
    ck_assert_msg(!left[0] || (_i == 1 && unfinished), "left behind: %s", left);
    free(left);
    cluster_free(cluster);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("save");
    TCase *tcase = tcase_create("save");
    tcase_set_timeout(tcase, 300);
    tcase_add_test(tcase, killed_anywhere);
    tcase_add_test(tcase, failing_disk);
    tcase_add_loop_test(tcase, asked_to_end_on_a_slow_disk, 0, 2);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
