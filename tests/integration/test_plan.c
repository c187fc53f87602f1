/* `graphps plan` against what `graphps train` then takes: the peak memory of every process, on jobs
 * of three kinds; a long run's memory against a short one's; and a job that does not fit, which
 * neither begins. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/job_plan.h"
#include "common/file.h"
#include "common/mem.h"
#include "tests/child.h"
#include "tests/test.h"

enum { TIMEOUT_MS = 120000 };

/* Memory under a sanitizer is mostly the sanitizer's. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { MEASURES = false };
#define NODES "4000"
#define EDGES "40000"
#else
enum { MEASURES = true };
#define NODES "20000"
#define EDGES "200000"
#endif

static const double error_max = 0.15;

static char root[300];

static void run(const char *const *argv) {
    char *output;
    int code = child_run(argv, TIMEOUT_MS, &output);
    ck_assert_msg(code == 0, "graphps %s ended with %d:\n%s", argv[1], code, output);
    free(output);
}

/* Makes <name>@1.0.0 in root. */
static void make_snapshot(const char *name, const char *nodes, const char *edges) {
    const char *raw = test_path(root, name), *graphps = child_program("graphps");
    run((const char *[]){graphps, "generate", "--out", raw, "--nodes", nodes, "--edges", edges,
                         "--features", "64", "--classes", "8", "--format", "npy", NULL});
    run((const char *[]){graphps, "import", raw, "--root", root, "--name", name, "--version",
                         "1.0.0", "--undirected", NULL});
}

static void make_graphs(void) {
    snprintf(root, sizeof root, "%s", test_tmpdir());
    make_snapshot("large", NODES, EDGES);
    make_snapshot("small", "500", "2000");
}

struct job {
    const char *path, *dir, *workers; /* files in a fresh directory */
};

/* On a snapshot that is cut for it. */
static struct job make_job(const char *snapshot, const char *workers, const char *halo,
                           const char *options) {
    const char *dir = test_tmpdir();
    struct job job = {test_path(dir, "job.yaml"), test_path(dir, "run"), workers};
    char text[2048], snapshot_dir[600];
    int len = snprintf(text, sizeof text,
                       "job: {name: plan, dir: '%s'}\n"
                       "data: {root: '%s', snapshot: %s, halo: %s}\n"
                       "servers: {count: 2}\n"
                       "workers: {count: %s}\n"
                       "%s",
                       job.dir, root, snapshot, halo, workers, options);
    ck_assert_int_lt(len, (int)sizeof text);
    test_write_file(job.path, text, (size_t)len);
    snprintf(snapshot_dir, sizeof snapshot_dir, "%s/snapshots/%s@1.0.0", root, snapshot);
    run((const char *[]){child_program("graphps"), "partition", snapshot_dir, "--parts", workers,
                         "--halo", halo, NULL});
    return job;
}

static json_t *parse(const char *text) {
    json_error_t err;
    json_t *json = json_loads(text, 0, &err);
    ck_assert_msg(json != NULL, "%s in:\n%s", err.text, text);
    return json;
}

static double number(const json_t *json, const char *key) {
    json_t *value = json_object_get(json, key);
    ck_assert_msg(json_is_number(value), "no number \"%s\"", key);
    return json_number_value(value);
}

/* --- jobs that fit ---------------------------------------------------------------------------- */

static json_t *plan(const struct job *job) {
    char *output;
    int code = child_run(
        (const char *[]){child_program("graphps"), "plan", "--json", "--no-time", job->path, NULL},
        TIMEOUT_MS, &output);
    ck_assert_msg(code == 0, "graphps plan ended with %d:\n%s", code, output);
    json_t *json = parse(output);
    free(output);
    return json;
}

static void check_peak(const char *name, const json_t *planned, const json_t *measured) {
    double said = number(planned, "memory_bytes"), peak = number(measured, name);
    ck_assert_msg(said <= (1 + error_max) * peak && said >= (1 - error_max) * peak,
                  "%s: planned %.1f MiB, measured %.1f MiB (%+.1f %%)", name, said / (1 << 20),
                  peak / (1 << 20), 100 * (said / peak - 1));
}

/* Every process, and all together. */
static void check_plan(const struct job *job) {
    json_t *planned = plan(job), *workers = json_object_get(planned, "workers");
    ck_assert_uint_eq(json_array_size(workers), (size_t)atoi(job->workers));
    double all = 2 * number(json_object_get(planned, "each_shard"), "memory_bytes");
    for (size_t w = 0; w < json_array_size(workers); w++)
        all += number(json_array_get(workers, w), "memory_bytes");
    ck_assert_double_eq_tol(number(planned, "memory_bytes"), all, 0.5);
    ck_assert(json_is_null(json_object_get(planned, "step_seconds")));
    if (MEASURES) {
        run((const char *[]){child_program("graphps"), "train", job->path, NULL});
        char *text = test_read_file(test_path(job->dir, "result.json"), NULL), name[32];
        json_t *result = parse(text), *peaks = json_object_get(result, "peak_memory_bytes");
        free(text);
        for (int k = 0; k < 2; k++) {
            snprintf(name, sizeof name, "shard %d", k);
            check_peak(name, json_object_get(planned, "each_shard"), peaks);
        }
        for (size_t w = 0; w < json_array_size(workers); w++) {
            snprintf(name, sizeof name, "worker %zu", w);
            check_peak(name, json_array_get(workers, w), peaks);
        }
        json_decref(result);
    }
    json_decref(planned);
}

START_TEST(full_gcn) {
    struct job job = make_job("large", "1", "2",
                              "model: {kind: gcn, hidden: 64}\n"
                              "train: {mode: full, epochs: 3, threads: 1}\n");
    check_plan(&job);
}
END_TEST

START_TEST(neighbours_of_two_workers) {
    struct job job = make_job("large", "2", "2",
                              "model: {kind: sage, hidden: 128}\n"
                              "train: {mode: sampled, epochs: 2, batch_size: 1000,\n"
                              "        threads: 1}\n");
    check_plan(&job);
}
END_TEST

START_TEST(clusters) {
    struct job job = make_job("large", "1", "2",
                              "model: {kind: gcn, hidden: 128}\n"
                              "train: {mode: sampled, sampler: cluster, epochs: 2,\n"
                              "        threads: 1}\n");
    check_plan(&job);
}
END_TEST

/* Most of a shard is then rows, and what workers push and pull of them. */
START_TEST(learned_rows) {
    struct job job = make_job("large", "2", "2",
                              "model: {kind: sage, hidden: 32, embedding: 64}\n"
                              "train: {mode: sampled, epochs: 2, batch_size: 1000, threads: 1}\n");
    check_plan(&job);
}
END_TEST

/* Peak memory of both shards and the worker, after so many epochs. */
static json_t *train_peaks(const struct job *job, const char *epochs) {
    const char *dir = test_path(test_tmpdir(), "run");
    char set_dir[600], set_epochs[64];
    snprintf(set_dir, sizeof set_dir, "job.dir=%s", dir);
    snprintf(set_epochs, sizeof set_epochs, "train.epochs=%s", epochs);
    run((const char *[]){child_program("graphps"), "train", job->path, "--set", set_dir, "--set",
                         set_epochs, NULL});
    char *text = test_read_file(test_path(dir, "result.json"), NULL);
    json_t *result = parse(text),
           *peaks = json_incref(json_object_get(result, "peak_memory_bytes"));
    free(text);
    json_decref(result);
    return peaks;
}

/* Nothing is kept of an epoch: one gradient of this model is 18 KiB, and 1 MiB is 58 of them. */
START_TEST(memory_does_not_grow) {
    static const char *const names[] = {"shard 0", "shard 1", "worker 0"};
    struct job job = make_job("small", "1", "2",
                              "model: {kind: gcn, hidden: 64}\n"
                              "train: {mode: full, threads: 1}\n"
                              "checkpoint: {every_s: 0}\n");
    json_t *few = train_peaks(&job, "20"), *many = train_peaks(&job, "200");
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        ck_assert_msg(number(many, names[i]) <= number(few, names[i]) + (1 << 20),
                      "%s: %.0f bytes after 20 epochs, %.0f after 200", names[i],
                      number(few, names[i]), number(many, names[i]));
    json_decref(few);
    json_decref(many);
}
END_TEST

/* --- jobs that do not ------------------------------------------------------------------------- */

static const char refusal[] = "the job needs about ";

/* With the sentence that names both numbers, said once. */
static void check_refused(const char *command, const struct job *job, double tib_min) {
    char *output;
    int code = child_run((const char *[]){child_program("graphps"), command, job->path, NULL},
                         TIMEOUT_MS, &output);
    ck_assert_msg(code == 70, "graphps %s ended with %d:\n%s", command, code, output);
    char *at = strstr(output, refusal);
    double needed, available;
    ck_assert_msg(at && sscanf(at + strlen(refusal),
                               "%lf GiB of memory on this machine, which has %lf GiB free", &needed,
                               &available) == 2,
                  "graphps %s said:\n%s", command, output);
    ck_assert_double_ge(needed, 1024 * tib_min);
    ck_assert_double_gt(available, 0);
    ck_assert_ptr_null(strstr(at + 1, refusal));
    free(output);
}

/* The most that the options allow of a model, on 48 workers: no machine has that. */
START_TEST(too_large) {
    struct job job = make_job("small", "48", "0",
                              "model: {kind: sage, hidden: 8192, layers: 8}\n"
                              "push: {encoding: fp16}\n");
    check_refused("plan", &job, 1); /* first: a machine that has so much must not begin */
    check_refused("train", &job, 1);
    ck_assert_msg(!file_exists(job.dir), "%s is left", job.dir);
    char lock[600];
    snprintf(lock, sizeof lock, "%s.lock", job.dir);
    ck_assert_msg(!file_exists(lock), "%s is left", lock);
}
END_TEST

START_TEST(check_compares) {
    struct config *config = config_new();
    struct error err = {0};
    struct job_plan plan = {
        .memory_bytes = 5ull << 30, .files_bytes = 2ull << 30, .available_bytes = 3ull << 30};
    ck_assert_int_eq(job_plan_check(&plan, config, &err), 0);
    plan.available_bytes = 1ull << 29;
    ck_assert_int_eq(job_plan_check(&plan, config, &err), ERR_NO_MEMORY);
    ck_assert_msg(strstr(err.text, "needs about 3.0 GiB") && strstr(err.text, "has 0.5 GiB free"),
                  "%s", err.text);
    config_free(config);
}
END_TEST

int main(void) {
    unsetenv(
        "MALLOC_PERTURB_"); /* what it writes into memory that is made is memory that is used */
    Suite *suite = suite_create("plan");
    TCase *tcase = tcase_create("plan");
    tcase_set_timeout(tcase, 4 * TIMEOUT_MS / 1000);
    tcase_add_unchecked_fixture(tcase, make_graphs, NULL);
    tcase_add_test(tcase, full_gcn);
    tcase_add_test(tcase, neighbours_of_two_workers);
    tcase_add_test(tcase, clusters);
    tcase_add_test(tcase, learned_rows);
    if (MEASURES)
        tcase_add_test(tcase, memory_does_not_grow);
    tcase_add_test(tcase, too_large);
    tcase_add_test(tcase, check_compares);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
