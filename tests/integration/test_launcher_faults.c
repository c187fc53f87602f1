/* `graphps train` when something goes wrong with one of its processes, its output, its directory or
 * its checkpoints: what is done stays done, and what it says is the cause. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/job.h"
#include "tests/test.h"

enum { NODES = 800, CLASSES = 5, FEATURES = 32, EPOCHS = 100 };

static void make_graph(void) {
    job_make_graph(NODES, CLASSES, FEATURES);
    job_cut(2);
}

/* A launcher of a job in a fresh directory whose updates are so slow that a test can meet a moment
 * in the middle; sets: more assignments, NULL ends them. */
static void start_launcher(struct child *launcher, struct cluster *cluster,
                           const char *const *sets) {
    const char *argv[32] = {
        child_program("graphps"),      "train", cluster_job_path(cluster),   "--set",
        "aggregation.max_pushes=4096", "--set", "aggregation.max_wait_ms=40"};
    for (int argc = 7; *sets; sets++) {
        argv[argc++] = "--set";
        argv[argc++] = *sets;
    }
    child_init(launcher, "launcher", test_path(cluster_dir(cluster), "launcher.log"));
    child_start(launcher, argv);
}

/* One of the launcher's processes, by the name of its log, as one to look at. */
static struct child process_view(const struct child *launcher, const struct cluster *cluster,
                                 const char *name) {
    struct child view = *launcher;
    snprintf(view.log_path, sizeof view.log_path, "%s/logs/%s.log", job_dir(cluster), name);
    view.log_start = 0;
    return view;
}

static void wait_process_log(struct child *launcher, const struct cluster *cluster,
                             const char *name, const char *text) {
    /* The directory of logs is there by then. */
    child_wait_log(launcher, "logs in ", CLUSTER_TIMEOUT_MS);
    struct child view = process_view(launcher, cluster, name);
    child_wait_log(&view, text, CLUSTER_TIMEOUT_MS);
}

/* The launcher's child with an argument ("--rank=1"). */
static pid_t find_process(const struct child *launcher, const char *argument) {
    char path[64], pids[256], text[8192];
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", launcher->pid, launcher->pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ssize_t len = read(fd, pids, sizeof pids - 1);
    close(fd);
    ck_assert_int_ge(len, 0);
    pids[len] = 0;
    for (char *pid = strtok(pids, " "); pid; pid = strtok(NULL, " ")) {
        snprintf(path, sizeof path, "/proc/%s/cmdline", pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        len = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
        if (fd >= 0)
            close(fd);
        text[len > 0 ? len : 0] = 0;
        for (char *at = text; at < text + len; at += strlen(at) + 1)
            if (strcmp(at, argument) == 0)
                return (pid_t)atoi(pid);
    }
    ck_abort_msg("no process with %s", argument);
}

static void signal_process(const struct child *launcher, const char *argument, int number) {
    ck_assert_int_eq(kill(find_process(launcher, argument), number), 0);
}

static void check_says(const struct child *launcher, const char *text) {
    char *output = child_log(launcher);
    ck_assert_msg(strstr(output, text), "no \"%s\" in:\n%s", text, output);
    free(output);
}

static void check_silent(const struct child *launcher, const char *text) {
    char *output = child_log(launcher);
    ck_assert_msg(!strstr(output, text), "\"%s\" in:\n%s", text, output);
    free(output);
}

/* Promise (G2): a worker that was given up does not keep a job that is done from ending: it is
 * named and ended, and the model is there. */
START_TEST(a_worker_left_behind) {
    static const char *const sets[] = {"workers.lease_ms=1500", NULL};
    struct cluster *cluster = job_new(2, 2, "async", EPOCHS);
    struct child launcher;
    start_launcher(&launcher, cluster, sets);
    wait_process_log(&launcher, cluster, "worker-0", " sequence=10\n");
    signal_process(&launcher, "--rank=0", SIGSTOP);
    child_expect(&launcher, 0, 2 * CLUSTER_TIMEOUT_MS);
    check_says(&launcher, "worker 0 was left behind: the job is done without it\n");
    check_silent(&launcher, "worker 1 was left behind");
    check_says(&launcher, "\ntest accuracy ");
    ck_assert_uint_eq(job_end(job_dir(cluster)).last_epoch, EPOCHS);
    ck_assert_int_eq(access(test_path(job_dir(cluster), "model.safetensors"), R_OK), 0);
    cluster_free(cluster);
}
END_TEST

/* Promise (G8): when a worker may not be restarted any more, the job ends as on Ctrl-C: with a
 * checkpoint, from which the same command goes on. What is shown of its log is of this launch. */
START_TEST(a_worker_that_fails_for_good) {
    static const char *const once[] = {"workers.lease_ms=1500", "launch.max_restarts=0", NULL};
    static const char *const again[] = {NULL};
    struct cluster *cluster = job_new(2, 2, "async", EPOCHS);
    struct child launcher;
    char *logs = strdup(test_path(job_dir(cluster), "logs"));
    ck_assert_int_eq(mkdir(job_dir(cluster), 0777), 0);
    ck_assert_int_eq(mkdir(logs, 0777), 0);
    test_write_file(test_path(logs, "worker-1.log"), "of an earlier launch\n", 21);
    free(logs);
    start_launcher(&launcher, cluster, once);
    wait_process_log(&launcher, cluster, "worker-0", " sequence=20\n");
    /* By then the launcher knows that there is progress. */
    child_wait_log(&launcher, "epoch ", CLUSTER_TIMEOUT_MS);
    signal_process(&launcher, "--rank=1", SIGKILL);
    child_expect(&launcher, 75, CLUSTER_TIMEOUT_MS);
    check_says(&launcher, "graphps train: worker 1 was killed by signal 9 (Killed) once more than "
                          "launch.max_restarts allows; its log is ");
    check_says(&launcher, "the same command goes on from checkpoint ");
    check_says(&launcher, "last lines of ");
    check_silent(&launcher, "of an earlier launch");
    struct job_end end = job_end(job_dir(cluster));
    ck_assert_uint_gt(end.generation, 0);

    start_launcher(&launcher, cluster, again);
    child_expect(&launcher, 0, 2 * CLUSTER_TIMEOUT_MS);
    check_says(&launcher, "resuming the interrupted run");
    struct child worker = process_view(&launcher, cluster, "worker-0");
    ck_assert_uint_ge(job_log_number(&worker, "training step="), 19);
    ck_assert_uint_eq(job_end(job_dir(cluster)).last_epoch, EPOCHS);
    cluster_free(cluster);
}
END_TEST

/* Promise: when the shards end before the job does and are restarted, a worker that they had let
 * go is started again too: the job is not done without its part of the graph. */
START_TEST(a_worker_that_is_needed_again) {
    static const char *const sets[] = {"workers.lease_ms=1500", "workers.join_timeout_ms=3600000",
                                       NULL};
    struct cluster *cluster = job_new(2, 2, "async", EPOCHS);
    struct child launcher;
    start_launcher(&launcher, cluster, sets);
    wait_process_log(&launcher, cluster, "worker-1", " sequence=10\n");
    pid_t stopped = find_process(&launcher, "--rank=1");
    ck_assert_int_eq(kill(stopped, SIGSTOP), 0);
    wait_process_log(&launcher, cluster, "shard-0", "worker lost rank=1");
    signal_process(&launcher, "--shard=0", SIGTERM);
    child_wait_log(&launcher, "worker 0 has left, but the job goes on: starting it again\n",
                   CLUSTER_TIMEOUT_MS);
    ck_assert_int_eq(kill(stopped, SIGCONT), 0);
    child_expect(&launcher, 0, 2 * CLUSTER_TIMEOUT_MS);
    ck_assert_uint_eq(job_end(job_dir(cluster)).last_epoch, EPOCHS);
    cluster_free(cluster);
}
END_TEST

/* Promise (G2): a shard that hangs, whichever it is, is found by its silence and restarted like one
 * that died; the job completes. */
START_TEST(a_shard_that_hangs) {
    static const char *const sets[] = {"workers.lease_ms=1000", "checkpoint.every_s=1", NULL};
    struct cluster *cluster = job_new(2, 2, "async", EPOCHS);
    struct child launcher;
    char argument[16], text[64];
    start_launcher(&launcher, cluster, sets);
    wait_process_log(&launcher, cluster, "shard-0", "checkpoint complete");
    child_wait_log(&launcher, "epoch ", CLUSTER_TIMEOUT_MS);
    snprintf(argument, sizeof argument, "--shard=%d", _i);
    signal_process(&launcher, argument, SIGSTOP);
    child_expect(&launcher, 0, 2 * CLUSTER_TIMEOUT_MS);
    snprintf(text, sizeof text, "\nshard %d has been silent for 1", _i);
    check_says(&launcher, text);
    snprintf(text, sizeof text, "shard %d did not answer and was killed; restart 1 of 3", _i);
    check_says(&launcher, text);
    check_silent(&launcher, "restart 2 of 3");
    ck_assert_uint_eq(job_end(job_dir(cluster)).last_epoch, EPOCHS);
    cluster_free(cluster);
}
END_TEST

/* Promise (G2): when the job fails because one waits for another in vain, the other is named, not
 * only the one who lost patience. */
START_TEST(the_culprit_is_named) {
    static const char *const sets[] = {"net.give_up_s=8", "launch.max_restarts=0",
                                       "checkpoint.grace_s=1", NULL};
    struct cluster *cluster = job_new(2, 2, "async", EPOCHS);
    struct child launcher;
    start_launcher(&launcher, cluster, sets);
    wait_process_log(&launcher, cluster, "worker-0", " sequence=10\n");
    signal_process(&launcher, "--shard=1", SIGSTOP);
    child_expect(&launcher, 75, CLUSTER_TIMEOUT_MS);
    check_says(&launcher, "; the job was last waiting for shard 1: silent for ");
    cluster_free(cluster);
}
END_TEST

/* Promise: a run whose output nobody reads any more goes on to its model, and says so where it is
 * read still. */
START_TEST(a_reader_that_leaves) {
    struct cluster *cluster = job_new(2, 2, "async", 20);
    struct child launcher;
    const char *const argv[] = {"/bin/sh",
                                "-c",
                                "{ \"$1\" train \"$2\"; echo \"code $?\" >&2; } | head -n 1",
                                "sh",
                                child_program("graphps"),
                                cluster_job_path(cluster),
                                NULL};
    child_init(&launcher, "pipeline", test_path(cluster_dir(cluster), "launcher.log"));
    child_start(&launcher, argv);
    child_expect(&launcher, 0, 2 * CLUSTER_TIMEOUT_MS);
    check_says(&launcher, "training integration: ");
    check_says(&launcher, "graphps train: nobody reads the standard output any more");
    check_says(&launcher, "code 0\n");
    check_silent(&launcher, "test accuracy");
    ck_assert_uint_eq(job_end(job_dir(cluster)).last_epoch, 20);
    ck_assert_int_eq(access(test_path(job_dir(cluster), "result.json"), R_OK), 0);
    cluster_free(cluster);
}
END_TEST

static void flip_byte(const char *path, size_t at) {
    size_t len;
    char *bytes = test_read_file(path, &len);
    bytes[at] ^= 1;
    test_write_file(path, bytes, len);
    free(bytes);
}

/* Promise (G3): a damaged checkpoint is passed over, but not in silence: export, a resume and the
 * shard name the file and the damage. */
START_TEST(a_damaged_checkpoint_is_told) {
    static const char *const sets[] = {"checkpoint.every_s=1", NULL};
    struct cluster *cluster = job_new(2, 2, "async", EPOCHS);
    struct child launcher;
    start_launcher(&launcher, cluster, sets);
    wait_process_log(&launcher, cluster, "shard-0", "checkpoint complete");
    child_signal(&launcher, SIGINT);
    child_expect(&launcher, 75, CLUSTER_TIMEOUT_MS);
    uint64_t newest = job_end(job_dir(cluster)).generation;
    ck_assert_uint_ge(newest, 2);
    char file[700], text[900], out[600], *output;
    snprintf(file, sizeof file, "%s/checkpoints/%08lu/shard-1-of-2.ckpt", job_dir(cluster),
             (unsigned long)newest);
    flip_byte(file, 900);

    snprintf(out, sizeof out, "%s/out.safetensors", cluster_dir(cluster));
    const char *const export[] = {
        child_program("graphps"), "export", job_dir(cluster), "--which=last", "--out", out, NULL};
    int code = child_run(export, CLUSTER_TIMEOUT_MS, &output);
    ck_assert_msg(code == 0, "%d: %s", code, output);
    snprintf(text, sizeof text,
             "graphps export: warning: a damaged checkpoint is not used: %s: the checkpoint is "
             "damaged or cut short: its checksum is ",
             file);
    ck_assert_msg(strstr(output, text), "%s", output);
    snprintf(text, sizeof text, "the last weights of generation %lu", (unsigned long)newest - 1);
    ck_assert_msg(strstr(output, text), "%s", output);
    free(output);

    start_launcher(&launcher, cluster, sets);
    child_expect(&launcher, 0, 2 * CLUSTER_TIMEOUT_MS);
    snprintf(text, sizeof text,
             "graphps train: warning: a damaged checkpoint is not used: %s: ", file);
    check_says(&launcher, text);
    snprintf(text, sizeof text, "from checkpoint %lu ", (unsigned long)newest - 1);
    check_says(&launcher, text);
    struct child shard = process_view(&launcher, cluster, "shard-1");
    check_says(&shard, "a damaged checkpoint is not used");
    check_says(&shard, file);
    cluster_free(cluster);
}
END_TEST

/* Promise: result.json and the catalog name the version of the snapshot that was trained on. */
START_TEST(the_version_is_recorded) {
    static const char *const sets[] = {NULL};
    struct cluster *cluster = job_new(1, 1, "async", 1);
    struct child launcher;
    job_cut(1);
    start_launcher(&launcher, cluster, sets);
    child_expect(&launcher, 0, 2 * CLUSTER_TIMEOUT_MS);
    json_t *result = json_load_file(test_path(job_dir(cluster), "result.json"), 0, NULL);
    ck_assert_ptr_nonnull(result);
    const char *snapshot = json_string_value(json_object_get(result, "snapshot"));
    ck_assert_str_eq(snapshot, "community@1.0.0");

    sqlite3 *db;
    sqlite3_stmt *rows;
    ck_assert_int_eq(sqlite3_open(test_path(job_root(), "catalog.db"), &db), SQLITE_OK);
    ck_assert_int_eq(
        sqlite3_prepare_v2(db, "SELECT snapshot FROM runs WHERE dir = ?1", -1, &rows, NULL),
        SQLITE_OK);
    sqlite3_bind_text(rows, 1, job_dir(cluster), -1, SQLITE_STATIC);
    ck_assert_int_eq(sqlite3_step(rows), SQLITE_ROW);
    ck_assert_str_eq((const char *)sqlite3_column_text(rows, 0), snapshot);
    sqlite3_finalize(rows);
    sqlite3_close(db);
    json_decref(result);
    cluster_free(cluster);
}
END_TEST

/* Promise (G9): a run directory that cannot be written is a mistake in the job file, 78, and the
 * error says which option to set. */
START_TEST(a_directory_that_cannot_be_written) {
    static const char *const dirs[] = {"/dev/null/run", "/proc/nowhere/run"};
    struct cluster *cluster = job_new(1, 1, "async", 1);
    for (size_t i = 0; i < sizeof dirs / sizeof dirs[0]; i++) {
        char set[64], *output;
        snprintf(set, sizeof set, "job.dir=%s", dirs[i]);
        const char *const argv[] = {
            child_program("graphps"), "train", cluster_job_path(cluster), "--set", set, NULL};
        int code = child_run(argv, CLUSTER_TIMEOUT_MS, &output);
        ck_assert_msg(code == 78, "%d: %s", code, output);
        ck_assert_msg(strstr(output, "set job.dir to one that you can write to"), "%s", output);
        free(output);
    }
    cluster_free(cluster);
}
END_TEST

static void set_columns(int terminal, unsigned short columns) {
    struct winsize size = {.ws_row = 24, .ws_col = columns};
    ck_assert_int_eq(ioctl(terminal, TIOCSWINSZ, &size), 0);
}

/* The rest of what a pipeline of ours prints on a terminal, until nobody has it open any more, or
 * until some text comes; appended to text. */
static void read_terminal(int terminal, char *text, size_t bytes, const char *until) {
    for (size_t len = strlen(text); !until || !strstr(text, until);) {
        struct pollfd item = {.fd = terminal, .events = POLLIN};
        ck_assert_int_eq(poll(&item, 1, CLUSTER_TIMEOUT_MS), 1);
        ssize_t n = read(terminal, text + len, bytes - 1 - len);
        if (n <= 0) {
            ck_assert_msg(!until, "no \"%s\" in:\n%s", until, text);
            return;
        }
        len += (size_t)n;
        ck_assert_uint_lt(len, bytes - 1);
        text[len] = 0;
    }
}

/* Promise: the live line fits 40 columns with the epoch, the validation accuracy and the time to
 * go; when the window is made wider, so is the line, and there is a bar. */
START_TEST(a_narrow_terminal) {
    struct cluster *cluster = job_new(2, 2, "async", EPOCHS);
    static char text[1 << 20];
    struct child launcher;
    int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    ck_assert(terminal >= 0 && grantpt(terminal) == 0 && unlockpt(terminal) == 0);
    set_columns(terminal, 40);
    const char *const argv[] = {"/bin/sh",
                                "-c",
                                "TERM=xterm exec \"$1\" train \"$2\" --set aggregation.max_pushes="
                                "4096 --set aggregation.max_wait_ms=40 >\"$3\"",
                                "sh",
                                child_program("graphps"),
                                cluster_job_path(cluster),
                                ptsname(terminal),
                                NULL};
    child_init(&launcher, "launcher", test_path(cluster_dir(cluster), "launcher.log"));
    child_start(&launcher, argv);
    read_terminal(terminal, text, sizeof text, "\033[Kepoch 2");
    char *line = strstr(text, "\033[Kepoch 2"); /* to its end */
    read_terminal(terminal, line, sizeof text - (size_t)(line - text), "\r");
    set_columns(terminal, 160);
    size_t narrow = strlen(text);
    read_terminal(terminal, text, sizeof text, NULL);
    child_expect(&launcher, 0, CLUSTER_TIMEOUT_MS);
    ck_assert_ptr_nonnull(strstr(text + narrow, "\033[K[#"));
    ck_assert_ptr_nonnull(strstr(text + narrow, " pushes/s"));
    text[narrow] = 0;
    unsigned lines = 0;
    for (char *at = text; (at = strstr(at, "\033[K"));) {
        at += strlen("\033[K");
        char *end = strchr(at, '\r');
        size_t len = end ? (size_t)(end - at) : 0;
        ck_assert_msg(len <= 40, "%.*s", (int)len, at);
        if (len == 0 || strncmp(at, "epoch ", 6) != 0)
            continue;
        char shown[64];
        snprintf(shown, sizeof shown, "%.*s", (int)len, at);
        ck_assert_msg(strstr(shown, " valid ") && strstr(shown, " ETA "), "%s", shown);
        lines++;
    }
    ck_assert_uint_gt(lines, 0);
    close(terminal);
    cluster_free(cluster);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("launcher_faults");
    TCase *tests = tcase_create("launcher_faults");
    tcase_set_timeout(tests, 280);
    tcase_add_unchecked_fixture(tests, make_graph, NULL);
    tcase_add_test(tests, a_worker_left_behind);
    tcase_add_test(tests, a_worker_that_fails_for_good);
    tcase_add_test(tests, a_worker_that_is_needed_again);
    tcase_add_loop_test(tests, a_shard_that_hangs, 0, 2);
    tcase_add_test(tests, the_culprit_is_named);
    tcase_add_test(tests, a_reader_that_leaves);
    tcase_add_test(tests, a_narrow_terminal);
    tcase_add_test(tests, a_damaged_checkpoint_is_told);
    tcase_add_test(tests, the_version_is_recorded);
    tcase_add_test(tests, a_directory_that_cannot_be_written);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
