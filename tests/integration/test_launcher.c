/* `graphps train`, as people run it: from the job file to the model and its predictions, through
 * Ctrl-C and back, and with nobody left behind whatever happens to it. */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "tests/job.h"
#include "tests/test.h"

enum { NODES = 800, CLASSES = 5, FEATURES = 32, EPOCHS = 150, PACE_MS = 40, PROCESSES = 4 };
static const double accuracy_min = 0.90;

static void make_graph(void) {
    job_make_graph(NODES, CLASSES, FEATURES);
    job_cut(2);
}

/* A job file in a fresh directory; the cluster itself starts nothing. */
static struct cluster *new_job(int epochs) {
    return job_new(2, 2, "async", epochs);
}

/* With one more assignment. */
static void start_launcher_with(struct child *launcher, struct cluster *cluster, const char *set) {
    static char pace[64];
    snprintf(pace, sizeof pace, "aggregation.max_wait_ms=%d", PACE_MS);
    const char *const argv[] = {child_program("graphps"),
                                "train",
                                cluster_job_path(cluster),
                                "--set",
                                "aggregation.max_pushes=4096",
                                "--set",
                                pace,
                                "--set",
                                set,
                                NULL};
    child_init(launcher, "launcher", test_path(cluster_dir(cluster), "launcher.log"));
    child_start(launcher, argv);
}

static void start_launcher(struct child *launcher, struct cluster *cluster) {
    start_launcher_with(launcher, cluster, "log.level=debug");
}

/* Until a text stands in the log of one of the launcher's processes. */
static void wait_process_log(struct child *launcher, const struct cluster *cluster, const char *log,
                             const char *text) {
    /* The directory of logs is there by then. */
    child_wait_log(launcher, "training integration", CLUSTER_TIMEOUT_MS);
    struct child view = *launcher;
    snprintf(view.log_path, sizeof view.log_path, "%s/logs/%s.log", job_dir(cluster), log);
    view.log_start = 0;
    child_wait_log(&view, text, CLUSTER_TIMEOUT_MS);
}

/* --- the launcher's children ------------------------------------------------------------------ */

struct family {
    pid_t pids[PROCESSES];
    int fds[PROCESSES];
    size_t count;
};

/* "graphps-server" and such, cut to 15 characters by the kernel; the parent's pid. */
static bool process_read(pid_t pid, char name[32], pid_t *ret_parent) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    size_t len = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[len] = 0;
    char *open = strchr(text, '('), *close = strrchr(text, ')');
    if (!open || !close || sscanf(close, ") %*c %d", ret_parent) != 1)
        return false;
    snprintf(name, 32, "%.*s", (int)(close - open - 1), open + 1);
    return true;
}

static struct family find_family(const struct child *launcher) {
    struct family family = {.count = 0};
    DIR *dir = opendir("/proc");
    ck_assert_ptr_nonnull(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        pid_t pid = (pid_t)atoi(entry->d_name), parent;
        char name[32];
        if (pid <= 0 || !process_read(pid, name, &parent) || parent != launcher->pid)
            continue;
        ck_assert_uint_lt(family.count, PROCESSES);
        family.pids[family.count] = pid;
        family.fds[family.count] = pidfd_open(pid, 0);
        ck_assert_int_ge(family.fds[family.count++], 0);
    }
    closedir(dir);
    ck_assert_uint_eq(family.count, PROCESSES);
    return family;
}

/* They end, each within a minute. */
static void wait_family_gone(struct family *family) {
    for (size_t i = 0; i < family->count; i++) {
        struct pollfd item = {.fd = family->fds[i], .events = POLLIN};
        ck_assert_msg(poll(&item, 1, CLUSTER_TIMEOUT_MS) == 1, "process %d outlives the launcher",
                      family->pids[i]);
        close(family->fds[i]);
    }
}

/* The process whose command line has an argument. */
static pid_t find_process(const struct family *family, const char *argument) {
    for (size_t i = 0; i < family->count; i++) {
        char path[64], text[8192];
        snprintf(path, sizeof path, "/proc/%d/cmdline", family->pids[i]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ck_assert_int_ge(fd, 0);
        ssize_t len = read(fd, text, sizeof text - 1);
        close(fd);
        ck_assert_int_gt(len, 0);
        text[len] = 0;
        for (char *at = text; at < text + len; at += strlen(at) + 1)
            if (strcmp(at, argument) == 0)
                return family->pids[i];
    }
    ck_abort_msg("no process with %s", argument);
}

/* --- the tests -------------------------------------------------------------------------------- */

static void check_has(const char *output, const char *text) {
    ck_assert_msg(strstr(output, text) != NULL, "no \"%s\" in:\n%s", text, output);
}

/* Every node once, under the user's ids; ids and labels are "n17" and "c2", node i in class
 * i % CLASSES. Returns the share of right answers. */
static double check_predictions(const char *path) {
    char *text = test_read_file(path, NULL);
    bool seen[NODES] = {false};
    unsigned lines = 0, right = 0;
    char *line = strtok(text, "\n");
    ck_assert_ptr_nonnull(line);
    ck_assert_msg(strncmp(line, "id,", 3) == 0, "no header: %s", line);
    while ((line = strtok(NULL, "\n"))) {
        unsigned node, class;
        ck_assert_msg(sscanf(line, "n%u,c%u", &node, &class) == 2 && node < NODES, "%s", line);
        ck_assert_msg(!seen[node], "comes twice: %s", line);
        seen[node] = true;
        lines++;
        right += class == node % CLASSES;
    }
    ck_assert_uint_eq(lines, NODES);
    free(text);
    return (double)right / lines;
}

/* The way of a first user: train, look at what it says, predict. What it says goes to no terminal,
 * so it is plain lines. */
START_TEST(from_a_job_file_to_predictions) {
    struct cluster *cluster = new_job(EPOCHS);
    cluster_set(cluster, "model.norm=batch"); /* the model's running statistics go along */
    cluster_set(cluster, "model.jump=max");
    struct child launcher;
    start_launcher(&launcher, cluster);
    child_expect(&launcher, 0, 2 * CLUSTER_TIMEOUT_MS);
    char *output = child_log(&launcher);
    ck_assert_msg(!strchr(output, '\r') && !strchr(output, '\033'), "not plain:\n%s", output);
    static const char *const said[] = {"training integration: 2 shards, 2 workers, async",
                                       "\nepoch ",
                                       "\ntest accuracy ",
                                       "best validation epoch",
                                       "\nwall time ",
                                       "\npeak memory ",
                                       "shard 0 ",
                                       "worker 1 ",
                                       "pushed ",
                                       "pulled ",
                                       "model.safetensors\n"};
    for (size_t i = 0; i < sizeof said / sizeof said[0]; i++)
        check_has(output, said[i]);
    free(output);

    char model[600], out[600], result_path[600];
    snprintf(model, sizeof model, "%s/model.safetensors", job_dir(cluster));
    snprintf(out, sizeof out, "%s/predictions.csv", cluster_dir(cluster));
    snprintf(result_path, sizeof result_path, "%s/result.json", job_dir(cluster));
    json_error_t err;
    json_t *result = json_load_file(result_path, 0, &err);
    ck_assert_msg(result, "%s: %s", result_path, err.text);
    ck_assert_double_ge(json_number_value(json_object_get(result, "test_accuracy")), accuracy_min);
    ck_assert_int_eq(json_integer_value(json_object_get(result, "last_epoch")), EPOCHS);
    ck_assert_str_eq(json_string_value(json_object_get(result, "model")), model);
    json_decref(result);

    const char *const predict[] = {
        child_program("graphps"),  "predict", "--model", model, "--config",
        cluster_job_path(cluster), "--out",   out,       NULL};
    int code = child_run(predict, CLUSTER_TIMEOUT_MS, &output);
    ck_assert_msg(code == 0, "graphps predict ended with %d: %s", code, output);
    free(output);
    ck_assert_double_ge(check_predictions(out), accuracy_min);
    cluster_free(cluster);
}
END_TEST

/* Ctrl-C, even if it comes twice at once: 75, everybody gone, a checkpoint; with another model it
 * is not gone on from; the same command goes on from it and finishes. */
START_TEST(interrupted_and_resumed) {
    struct cluster *cluster = new_job(EPOCHS);
    struct child launcher;
    start_launcher(&launcher, cluster);
    wait_process_log(&launcher, cluster, "worker-0", " sequence=20\n");
    struct family family = find_family(&launcher);
    child_signal(&launcher, SIGINT);
    child_signal(&launcher, SIGTERM);
    child_expect(&launcher, 75, CLUSTER_TIMEOUT_MS);
    wait_family_gone(&family);
    char *output = child_log(&launcher);
    check_has(output, "the same command goes on from checkpoint ");
    free(output);
    static const char *const others[] = {"model.activation=elu", "data.normalize_features=true"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        start_launcher_with(&launcher, cluster, others[i]);
        child_expect(&launcher, 78, CLUSTER_TIMEOUT_MS);
        output = child_log(&launcher);
        check_has(output, "the run was begun with ");
        free(output);
    }
    struct job_end end = job_end(job_dir(cluster));
    ck_assert_uint_gt(end.last_epoch, 0);
    ck_assert_uint_lt(end.last_epoch, EPOCHS);

    start_launcher(&launcher, cluster);
    child_expect(&launcher, 0, 2 * CLUSTER_TIMEOUT_MS);
    output = child_log(&launcher);
    check_has(output, "resuming the interrupted run");
    free(output);
    struct child worker = launcher;
    snprintf(worker.log_path, sizeof worker.log_path, "%s/logs/worker-0.log", job_dir(cluster));
    worker.log_start = 0;
    /* It did not begin again: 19 steps were acknowledged by all shards before the interrupt. */
    ck_assert_uint_ge(job_log_number(&worker, "training step="), 19);
    end = job_end(job_dir(cluster));
    ck_assert_uint_eq(end.last_epoch, EPOCHS);
    ck_assert_double_ge(end.test_accuracy, accuracy_min);
    cluster_free(cluster);
}
END_TEST

/* An interrupted run goes on with another number of shards, and with the one before again: every
 * shard takes its part of one generation, none begins with weights of its own, and the files that
 * the other number wrote stay until there are newer ones. */
static void check_restored(const struct cluster *cluster, int shards) {
    for (int k = 0; k < shards; k++) {
        char path[600];
        snprintf(path, sizeof path, "%s/logs/shard-%d.log", job_dir(cluster), k);
        char *text = test_read_file(path, NULL);
        check_has(text, " restored generation=");
        ck_assert_msg(!strstr(text, "cannot be restored"), "shard %d of %d:\n%.1500s", k, shards,
                      strstr(text, "cannot be restored"));
        free(text);
        ck_assert_int_eq(unlink(path), 0);
    }
}

START_TEST(resumed_by_another_number_of_shards) {
    static const int counts[] = {2, 3, 1, 2};
    struct cluster *cluster = new_job(EPOCHS);
    struct child launcher;
    uint64_t steps = 0;
    for (size_t i = 0; i < 4; i++) {
        char set[32], text[64];
        snprintf(set, sizeof set, "servers.count=%d", counts[i]);
        start_launcher_with(&launcher, cluster, set);
        snprintf(text, sizeof text, i == 0 ? " sequence=20\n" : "training step=");
        wait_process_log(&launcher, cluster, "worker-0", text);
        child_signal(&launcher, SIGINT);
        child_expect(&launcher, 75, CLUSTER_TIMEOUT_MS);
        struct child worker = launcher;
        snprintf(worker.log_path, sizeof worker.log_path, "%s/logs/worker-0.log", job_dir(cluster));
        worker.log_start = 0;
        uint64_t step = (uint64_t)job_log_number(&worker, "training step=");
        ck_assert_uint_ge(step, steps);
        steps = i == 0 ? 19 : step;
        ck_assert_int_eq(unlink(worker.log_path), 0);
        if (i > 0)
            check_restored(cluster, counts[i]);
        else
            for (int k = 0; k < counts[0]; k++) {
                snprintf(worker.log_path, sizeof worker.log_path, "%s/logs/shard-%d.log",
                         job_dir(cluster), k);
                ck_assert_int_eq(unlink(worker.log_path), 0);
            }
    }
    start_launcher(&launcher, cluster);
    child_expect(&launcher, 0, 2 * CLUSTER_TIMEOUT_MS);
    ck_assert_double_ge(job_end(job_dir(cluster)).test_accuracy, accuracy_min);
    cluster_free(cluster);
}
END_TEST

/* What the same command will do is said as it is: without a complete checkpoint it starts anew, and
 * so it does. Here none can be written, for the directory of checkpoints leads nowhere. */
START_TEST(interrupted_without_a_checkpoint) {
    struct cluster *cluster = new_job(EPOCHS);
    struct child launcher;
    start_launcher(&launcher, cluster);
    wait_process_log(&launcher, cluster, "worker-0", " sequence=5\n");
    const char *checkpoints = test_path(job_dir(cluster), "checkpoints");
    ck_assert_int_eq(symlink("/dev/null/nowhere", checkpoints), 0);
    child_signal(&launcher, SIGINT);
    child_expect(&launcher, 75, CLUSTER_TIMEOUT_MS);
    char *output = child_log(&launcher);
    check_has(output, "interrupted before any checkpoint was complete; the same command starts "
                      "anew");
    ck_assert_msg(!strstr(output, "goes on from"), "%s", output);
    free(output);

    ck_assert_int_eq(unlink(checkpoints), 0);
    start_launcher(&launcher, cluster);
    child_expect(&launcher, 0, 2 * CLUSTER_TIMEOUT_MS);
    output = child_log(&launcher);
    ck_assert_msg(!strstr(output, "resuming"), "%s", output);
    free(output);
    ck_assert_uint_eq(job_end(job_dir(cluster)).last_epoch, EPOCHS);
    cluster_free(cluster);
}
END_TEST

/* `graphps train` on a job of one epoch with --set assignments (NULL ends them): its output. */
static char *train_shortly(struct cluster *cluster, const char *const *sets, int code) {
    const char *argv[20] = {child_program("graphps"), "train", cluster_job_path(cluster), "--set",
                            "train.epochs=1"};
    for (int argc = 5; *sets; sets++) {
        argv[argc++] = "--set";
        argv[argc++] = *sets;
    }
    char *output;
    int got = child_run(argv, CLUSTER_TIMEOUT_MS, &output);
    ck_assert_msg(got == code, "graphps train ended with %d, not %d: %s", got, code, output);
    return output;
}

/* A halo that is too small for the model is said by the launcher itself, not only in the workers'
 * logs; a model without edges needs none. */
START_TEST(a_halo_that_is_too_small) {
    static const char *const narrow[] = {"data.halo=1", NULL};
    static const char *const edgeless[] = {"model.kind=mlp", NULL};
    struct cluster *cluster = new_job(EPOCHS);
    char *output = train_shortly(cluster, narrow, 0);
    check_has(output,
              "graphps train: warning: data.halo is 1, but 2 layers of the model propagate");
    free(output);
    output = train_shortly(cluster, edgeless, 0);
    ck_assert_msg(!strstr(output, "halo is"), "%s", output);
    free(output);
    cluster_free(cluster);
}
END_TEST

/* A process that ends with a fault which no restart cures ends the job at once, with the reason,
 * and long before the others give up on it (net.give_up_s): here a damaged partition, 78. */
START_TEST(a_fault_that_no_restart_cures) {
    static const char *const sets[] = {"data.halo=3", NULL};
    struct cluster *cluster = new_job(EPOCHS);
    char features[600], *output;
    const char *const cut[] = {
        child_program("graphps"), "partition", job_snapshot(), "--parts", "2", "--halo", "3", NULL};
    int code = child_run(cut, CLUSTER_TIMEOUT_MS, &output);
    ck_assert_msg(code == 0, "graphps partition ended with %d: %s", code, output);
    free(output);
    snprintf(features, sizeof features, "%s/partitions/2x3/part-1/features.npy", job_snapshot());
    /* Of the right length, so that only the worker, who looks at checksums, finds it. */
    size_t len;
    char *bytes = test_read_file(features, &len);
    bytes[len - 1] ^= 1;
    test_write_file(features, bytes, len);
    free(bytes);

    output = train_shortly(cluster, sets, 78);
    check_has(output, "worker 1 ended with exit code 78, which no restart cures; its log is ");
    check_has(output, "part-1/features.npy: ");
    ck_assert_msg(!strstr(output, "restart 1 of"), "%s", output);
    free(output);
    cluster_free(cluster);
}
END_TEST

/* SIGKILL of the launcher, which it cannot answer: no process stays. */
START_TEST(nobody_outlives_a_killed_launcher) {
    struct cluster *cluster = new_job(100000);
    struct child launcher;
    start_launcher(&launcher, cluster);
    wait_process_log(&launcher, cluster, "worker-1", " sequence=5\n");
    struct family family = find_family(&launcher);
    child_stop(&launcher);
    wait_family_gone(&family);
    cluster_free(cluster);
}
END_TEST

/* SIGKILL of a shard, and of a worker: both are started again, and the run completes. */
START_TEST(processes_that_die_are_restarted) {
    struct cluster *cluster = new_job(EPOCHS);
    struct child launcher;
    start_launcher(&launcher, cluster);
    wait_process_log(&launcher, cluster, "worker-0", " sequence=10\n");
    struct family family = find_family(&launcher);
    const char *victim = _i < 2 ? "--shard" : "--rank";
    char argument[16];
    snprintf(argument, sizeof argument, "%s=%d", victim, _i % 2);
    ck_assert_int_eq(kill(find_process(&family, argument), SIGKILL), 0);
    child_wait_log(&launcher, "restart 1 of 3", CLUSTER_TIMEOUT_MS);
    child_expect(&launcher, 0, 2 * CLUSTER_TIMEOUT_MS);
    wait_family_gone(&family);
    struct job_end end = job_end(job_dir(cluster));
    ck_assert_uint_eq(end.last_epoch, EPOCHS);
    ck_assert_double_ge(end.test_accuracy, accuracy_min);
    cluster_free(cluster);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("launcher");
    TCase *tests = tcase_create("launcher");
    tcase_set_timeout(tests, 280);
    tcase_add_unchecked_fixture(tests, make_graph, NULL);
    tcase_add_test(tests, from_a_job_file_to_predictions);
    tcase_add_test(tests, interrupted_and_resumed);
    tcase_add_test(tests, resumed_by_another_number_of_shards);
    tcase_add_test(tests, interrupted_without_a_checkpoint);
    tcase_add_test(tests, a_halo_that_is_too_small);
    tcase_add_test(tests, a_fault_that_no_restart_cures);
    tcase_add_test(tests, nobody_outlives_a_killed_launcher);
    tcase_add_loop_test(tests, processes_that_die_are_restarted, 0, 3);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
