/* Runs and the snapshots they use: a run that is resumed refuses another one, and one that is in
 * use is not removed. */
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/file.h"
#include "common/mem.h"
#include "tests/graphs.h"
#include "tests/job.h"
#include "tests/test.h"
#include "worker/graph/catalog.h"
#include "worker/graph/snapshot.h"

enum { NODES = 400, CLASSES = 4, FEATURES = 8, LONG = 100000 };

static void make_graph(void) {
    job_make_graph(NODES, CLASSES, FEATURES);
    job_cut(2);
}

static char *run_graphps(int code, const char *const *words) {
    const char *argv[16] = {child_program("graphps")};
    char *output;
    for (int argc = 1; *words; words++)
        argv[argc++] = *words;
    int got = child_run(argv, CLUSTER_TIMEOUT_MS, &output);
    ck_assert_msg(got == code, "graphps %s ended with %d, not %d: %s", argv[1], got, code, output);
    return output;
}

static void check_has(const char *output, const char *text) {
    ck_assert_msg(strstr(output, text) != NULL, "no \"%s\" in: %s", text, output);
}

/* `graphps snapshots ...` on the jobs' root; says: what it must print. */
static void snapshots(int code, const char *command, const char *name, const char *option,
                      const char *says) {
    const char *const words[] = {"snapshots", command, name, "--root", job_root(), option, NULL};
    char *output = run_graphps(code, words);
    check_has(output, says);
    free(output);
}

static char *digest_of(const char *dir) {
    struct snapshot *s = NULL;
    struct error err = {0};
    ck_assert_msg(snapshot_open(dir, false, &s, &err) == 0, "%s", err.text);
    char *digest = mem_strdup(s->digest);
    snapshot_close(s);
    return digest;
}

/* Another graph of the same shape as community@1.1.0: data.snapshot "community" means that from
 * now on. Its digest: mem_free it. */
static char *import_newer(void) {
    char source[400], dir[400];
    snprintf(source, sizeof source, "%s/newer", job_root());
    graphs_make_community(source, NODES, CLASSES, 6, FEATURES, 99);
    const char *const words[] = {"import", "--format",  "csv",          source,
                                 "--name", "community", "--version",    "1.1.0",
                                 "--root", job_root(),  "--undirected", NULL};
    free(run_graphps(0, words));
    snprintf(dir, sizeof dir, "%s/snapshots/community@1.1.0", job_root());
    return digest_of(dir);
}

static void start_launcher(struct child *launcher, struct cluster *cluster) {
    const char *const argv[] = {
        child_program("graphps"),      "train", cluster_job_path(cluster),    "--set",
        "aggregation.max_pushes=4096", "--set", "aggregation.max_wait_ms=20", NULL};
    child_init(launcher, "launcher", test_path(cluster_dir(cluster), "launcher.log"));
    child_start(launcher, argv);
}

/* Until its workers train. */
static void wait_training(struct child *launcher, const struct cluster *cluster) {
    child_wait_log(launcher, "logs in ", CLUSTER_TIMEOUT_MS);
    struct child view = *launcher;
    snprintf(view.log_path, sizeof view.log_path, "%s/logs/worker-0.log", job_dir(cluster));
    view.log_start = 0;
    child_wait_log(&view, " sequence=5\n", CLUSTER_TIMEOUT_MS);
}

/* What the catalog has of the run in this directory; state NULL: none. */
struct row {
    char snapshot[64], digest[64], state[32];
};

static struct row row_of(const struct cluster *cluster) {
    struct catalog catalog;
    struct error err = {0};
    struct row row = {0};
    ck_assert_msg(catalog_read(job_root(), &catalog, &err) == 0, "%s", err.text);
    for (size_t i = 0; i < catalog.run_count; i++) {
        const struct catalog_run *run = &catalog.runs[i];
        if (strcmp(run->dir, job_dir(cluster)) != 0)
            continue;
        snprintf(row.snapshot, sizeof row.snapshot, "%s", run->snapshot);
        snprintf(row.digest, sizeof row.digest, "%s", run->digest ? run->digest : "");
        snprintf(row.state, sizeof row.state, "%s", run->state);
    }
    catalog_done(&catalog);
    return row;
}

/* Promise: `graphps train` does not resume a run on another snapshot, though it has the same name:
 * 78, both digests, and which version it was; the run stays as it was and goes on with its own, or
 * begins anew when that is asked for. */
START_TEST(a_resumed_run_refuses_another_snapshot) {
    struct cluster *cluster = job_new(1, 2, "async", LONG);
    struct child launcher;
    _cleanup_(mem_free_p) char *was = digest_of(job_snapshot());
    start_launcher(&launcher, cluster);
    wait_training(&launcher, cluster);
    child_signal(&launcher, SIGINT);
    child_expect(&launcher, 75, CLUSTER_TIMEOUT_MS);
    struct row row = row_of(cluster);
    ck_assert_str_eq(row.snapshot, "community@1.0.0");
    ck_assert_str_eq(row.digest, was);
    ck_assert_str_eq(row.state, "interrupted");

    _cleanup_(mem_free_p) char *is = import_newer();
    const char *const again[] = {"train", cluster_job_path(cluster), "--set", "train.epochs=1",
                                 "--set", "workers.count=2",         NULL};
    char *output = run_graphps(78, again);
    char expected[400];
    snprintf(expected, sizeof expected,
             "was trained on another snapshot (community@1.0.0, digest %s) than data.snapshot "
             "\"community\" is now (community@1.1.0, digest %s)",
             was, is);
    check_has(output, expected);
    ck_assert_ptr_null(strstr(output, "cutting"));
    free(output);
    row = row_of(cluster);
    ck_assert_str_eq(row.digest, was);
    ck_assert_str_eq(row.state, "interrupted");

    /* It would be the same without the launcher: the shard knows, from its checkpoint. */
    const char *const cut[] = {"partition", "community@1.1.0", "--parts", "2",
                               "--root",    job_root(),        NULL};
    free(run_graphps(0, cut));
    cluster_start_one(cluster, CLUSTER_SHARD, 0);
    cluster_start_one(cluster, CLUSTER_WORKER, 0);
    ck_assert_int_eq(cluster_wait(cluster, CLUSTER_WORKER, 0, CLUSTER_TIMEOUT_MS), 78);
    output = child_log(cluster_child(cluster, CLUSTER_WORKER, 0));
    snprintf(expected, sizeof expected,
             "its snapshot (digest %s) is not the one this run trains on (digest %s)", is, was);
    check_has(output, expected);
    free(output);
    cluster_kill(cluster, CLUSTER_SHARD, 0);
    ck_assert_str_eq(row_of(cluster).digest, was);
    ck_assert_str_eq(row_of(cluster).state, "interrupted");

    const char *const own[] = {
        "train", cluster_job_path(cluster), "--set", "train.epochs=1",
        "--set", "workers.count=2",         "--set", "data.snapshot=community@1.0.0",
        NULL};
    output = run_graphps(0, own);
    check_has(output, "resuming the interrupted run");
    free(output);
    ck_assert_str_eq(row_of(cluster).digest, was);
    ck_assert_str_eq(row_of(cluster).state, "done");

    /* The finished run is moved aside, its record with it. */
    free(run_graphps(0, again));
    ck_assert_str_eq(row_of(cluster).digest, is);
    json_t *result = json_load_file(test_path(job_dir(cluster), "result.json"), 0, NULL);
    ck_assert_str_eq(json_string_value(json_object_get(result, "snapshot_digest")), is);
    json_decref(result);
    snapshots(77, "rm", "community@1.0.0", NULL, ".2"); /* run.2026... still refers to it */
    cluster_free(cluster);
}
END_TEST

static json_t *list_one(const char *label) {
    const char *const words[] = {"snapshots", "list", "--json", "--root", job_root(), NULL};
    char *output = run_graphps(0, words);
    json_error_t error;
    json_t *list = json_loads(output, JSON_REJECT_DUPLICATES, &error), *found = NULL, *entry;
    ck_assert_msg(json_is_array(list), "%s: %s", error.text, output);
    size_t i;
    json_array_foreach(list, i, entry) {
        char name[128];
        snprintf(name, sizeof name, "%s@%s", json_string_value(json_object_get(entry, "name")),
                 json_string_value(json_object_get(entry, "version")));
        if (strcmp(name, label) == 0)
            found = json_incref(entry);
    }
    ck_assert_msg(found != NULL, "no %s in: %s", label, output);
    json_decref(list);
    free(output);
    return found;
}

static const char *text_in(json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    ck_assert_msg(text != NULL, "no text \"%s\"", key);
    return text;
}

/* Of an entry's runs the one in this directory. */
static json_t *run_in(json_t *entry, const char *dir) {
    size_t i;
    json_t *run;
    json_array_foreach(json_object_get(entry, "runs"), i, run) {
        if (strcmp(text_in(run, "dir"), dir) == 0)
            return run;
    }
    ck_abort_msg("no run in %s", dir);
}

/* Promise: what a run uses is not removed while any process of it lives, whatever is forced; the
 * list says so. When all were killed, the run has died, and holds it as any other does. */
START_TEST(what_is_in_use_is_not_removed) {
    struct cluster *cluster = job_new(1, 2, "async", LONG);
    struct child launcher;
    start_launcher(&launcher, cluster);
    wait_training(&launcher, cluster);
    char expected[700];
    snprintf(expected, sizeof expected,
             "community@1.0.0 is in use: the run of integration in %s is running on it",
             job_dir(cluster));
    snapshots(75, "rm", "community@1.0.0", "--force", expected);
    snapshots(75, "rm", "community@1.0.0", "--partition=2x2", expected);
    snapshots(0, "show", "community", NULL, "integration: running, started ");

    json_t *entry = list_one("community@1.0.0");
    ck_assert(json_is_true(json_object_get(entry, "in_use")));
    ck_assert_str_eq(text_in(entry, "state"), "here");
    _cleanup_(mem_free_p) char *digest = digest_of(job_snapshot());
    ck_assert_str_eq(text_in(entry, "digest"), digest);
    ck_assert_int_eq(json_integer_value(json_object_get(entry, "nodes")), NODES);
    ck_assert_int_eq(json_integer_value(json_object_get(entry, "feature_dim")), FEATURES);
    ck_assert_int_eq(json_integer_value(json_object_get(entry, "classes")), CLASSES);
    ck_assert_int_gt(json_integer_value(json_object_get(entry, "bytes")), 1000);
    json_t *partition = json_array_get(json_object_get(entry, "partitions"), 0);
    ck_assert_str_eq(text_in(partition, "name"), "2x2");
    ck_assert_int_eq(json_integer_value(json_object_get(partition, "parts")), 2);
    json_t *run = run_in(entry, job_dir(cluster));
    ck_assert_str_eq(text_in(run, "state"), "running");
    ck_assert_str_eq(text_in(run, "digest"), digest);
    ck_assert_str_eq(text_in(run, "partition"), "2x2");
    ck_assert(json_is_null(json_object_get(run, "ended")));
    json_decref(entry);

    /* SIGKILL: its children go with it, but the record stays "running". */
    child_stop_family(&launcher, CLUSTER_TIMEOUT_MS);
    entry = list_one("community@1.0.0");
    ck_assert(json_is_false(json_object_get(entry, "in_use")));
    ck_assert_str_eq(text_in(run_in(entry, job_dir(cluster)), "state"), "died");
    json_decref(entry);
    snapshots(77, "rm", "community@1.0.0", NULL, job_dir(cluster));
    snapshots(77, "rm", "community@1.0.0", "--partition=2x2", "partitioning 2x2: 1 run or model");
    snapshots(0, "rm", "community@1.0.0", "--force", "removed community@1.0.0");
    ck_assert(!file_exists(job_snapshot()));
    cluster_free(cluster);
}
END_TEST

/* Promise: processes that were started by hand hold what they use too, and leave a record. */
START_TEST(a_run_started_by_hand) {
    struct cluster *cluster = job_new(1, 2, "async", 60);
    job_pace(cluster, 20);
    cluster_start(cluster);
    cluster_wait_log(cluster, CLUSTER_WORKER, 0, " sequence=5\n", CLUSTER_TIMEOUT_MS);
    snapshots(75, "rm", "community@1.0.0", "--force", "is running on it");
    ck_assert_str_eq(row_of(cluster).state, "running");
    job_wait(cluster);
    ck_assert_str_eq(row_of(cluster).state, "done");
    ck_assert_str_eq(row_of(cluster).snapshot, "community@1.0.0");
    cluster_free(cluster);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("snapshots");
    TCase *tcase = tcase_create("snapshots");
    tcase_add_unchecked_fixture(tcase, make_graph, NULL);
    tcase_set_timeout(tcase, 240);
    tcase_add_test(tcase, a_run_started_by_hand);
    tcase_add_test(tcase, what_is_in_use_is_not_removed);
    suite_add_tcase(suite, tcase);
    /* On a graph of its own: the case before removes it. */
    TCase *resumed = tcase_create("resumed");
    tcase_add_unchecked_fixture(resumed, make_graph, NULL);
    tcase_set_timeout(resumed, 240);
    tcase_add_test(resumed, a_resumed_run_refuses_another_snapshot);
    suite_add_tcase(suite, resumed);
    return test_run(suite);
}
