/* graphps verify as people use it: real runs, a verdict with its exit code, an interruption that is
 * gone on with; and the statistics it tells. */
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/verify_stats.h"
#include "tests/graphs.h"
#include "tests/cluster.h"
#include "tests/test.h"

static char root[300], job[320];

static void make_job(void) {
    snprintf(root, sizeof root, "%s", test_tmpdir());
    graphs_snapshot(root, "community", 300, 3, 4, 8, 3);
    snprintf(job, sizeof job, "%s/job.yaml", root);
    char *text = NULL;
    int len = asprintf(&text,
                       "job: {name: small, published: 60}\n"
                       "data: {root: \"%s\", snapshot: community}\n"
                       "model: {kind: gcn, layers: 2, hidden: 8}\n"
                       "train: {epochs: 15}\n"
                       "servers: {count: 1}\n"
                       "workers: {count: 2}\n",
                       root);
    ck_assert_int_gt(len, 0);
    test_write_file(job, text, (size_t)len);
    free(text);
}

/* Runs it to its end with one more option or two; free() the output. */
static int verify(const char *seeds, const char *option, const char *other, char **ret_output) {
    const char *const argv[] = {child_program("graphps"), "verify", job, seeds, option,
                                option ? other : NULL,    NULL};
    return child_run(argv, 4 * CLUSTER_TIMEOUT_MS, ret_output);
}

/* Nothing but the scores is left of the runs. */
static void check_left(void) {
    const char *dir = test_path(root, "runs/small-verify");
    ck_assert(access(test_path(dir, "scores.json"), F_OK) == 0);
    ck_assert(access(test_path(dir, "single-1"), F_OK) != 0);
    ck_assert(access(test_path(dir, "int8-2.log"), F_OK) != 0);
}

/* Four ways, each with as many scores as seeds; the verdict is the exit code's, too. */
START_TEST(the_verdict_follows_from_the_scores) {
    char *output;
    ck_assert_msg(verify("--seeds=2", "--tolerance=50", NULL, &output) == 0, "%s", output);
    static const char *const said[] = {"test accuracy in %, 2 seeds",
                                       "\nsingle ",
                                       "\nbsp ",
                                       "\nasync ",
                                       "\nint8 ",
                                       " 60.00 ",
                                       "\nholds: "};
    for (size_t i = 0; i < sizeof said / sizeof said[0]; i++)
        ck_assert_msg(strstr(output, said[i]), "no \"%s\" in %s", said[i], output);
    free(output);
    check_left();

    ck_assert_int_eq(verify("--seeds=1", "--tolerance=0", "--published=100", &output), 1);
    ck_assert_msg(strstr(output, "below the published 100.00") && strstr(output, "does not hold"),
                  "%s", output);
    free(output);
}
END_TEST

/* The JSON has the scores themselves and what follows from them. */
START_TEST(json_has_the_scores) {
    const char *const argv[] = {"/bin/sh",
                                "-c",
                                "\"$0\" verify \"$1\" --seeds 1 --tolerance 60 --json 2>/dev/null",
                                child_program("graphps"),
                                job,
                                NULL};
    char *output;
    int code = child_run(argv, 4 * CLUSTER_TIMEOUT_MS, &output);
    ck_assert_msg(code == 0, "%d: %s", code, output);
    json_t *document = json_loads(output, 0, NULL), *way;
    size_t i;
    ck_assert_ptr_nonnull(document);
    ck_assert_uint_eq(json_array_size(json_object_get(document, "ways")), 4);
    json_array_foreach(json_object_get(document, "ways"), i, way) {
        const char *name = json_string_value(json_object_get(way, "name"));
        json_t *scores = json_object_get(json_object_get(document, "scores"), name);
        ck_assert_uint_eq(json_array_size(scores), 1);
        double score = json_number_value(json_array_get(scores, 0));
        ck_assert(score > 0 && score <= 100);
        ck_assert_double_eq_tol(json_number_value(json_object_get(way, "mean")), score, 1e-3);
        ck_assert(json_is_null(json_object_get(way, "confidence_95"))); /* of one run */
    }
    ck_assert(json_is_true(json_object_get(document, "holds")));
    json_decref(document);
    free(output);
}
END_TEST

static char *run(const char *const *argv) {
    char *output;
    int code = child_run(argv, 4 * CLUSTER_TIMEOUT_MS, &output);
    ck_assert_msg(code == 0, "%s %s ended with %d: %s", argv[0], argv[1], code, output);
    return output;
}

/* Promise: of links it is the ranks among all nodes that are compared. Workers find better ones,
 * among their own, the more of them there are. */
START_TEST(links_are_ranked_among_all) {
    char links[320], dir[320], root_option[320], text[600];
    snprintf(links, sizeof links, "%s/links.yaml", root);
    snprintf(dir, sizeof dir, "%s/runs/again", root);
    snprintf(root_option, sizeof root_option, "--root=%s", root);
    int len = snprintf(text, sizeof text,
                       "job: {name: links}\n"
                       "data: {root: \"%s\", snapshot: links}\n"
                       "model: {kind: gcn, layers: 2, hidden: 8}\n"
                       "link: {dim: 8, candidates: 0}\n"
                       "train: {task: links, epochs: 15, threads: 1}\n"
                       "consistency: {mode: bsp}\n"
                       "servers: {count: 1}\n"
                       "workers: {count: 3}\n",
                       root);
    test_write_file(links, text, (size_t)len);
    const char *source = test_path(root, "source");
    graphs_make_community(source, 300, 3, 8, 8, 3);
    const char *const import[] = {child_program("graphps"),
                                  "import",
                                  source,
                                  root_option,
                                  "--name=links",
                                  "--version=1.0.0",
                                  "--undirected",
                                  "--hold-out=0.1,0.1",
                                  NULL};
    free(run(import));
    const char *const verify_links[] = {
        "/bin/sh",
        "-c",
        "\"$0\" verify \"$1\" --seeds 1 --tolerance 100 --json 2>/dev/null",
        child_program("graphps"),
        links,
        NULL};
    char *output = run(verify_links), *model, *job_dir;
    json_t *document = json_loads(output, 0, NULL);
    ck_assert_msg(document, "%s", output);
    double told = json_number_value(
        json_array_get(json_object_get(json_object_get(document, "scores"), "bsp"), 0));
    json_decref(document);
    free(output);
    ck_assert_int_gt(asprintf(&job_dir, "--set=job.dir=%s", dir), 0);
    ck_assert_int_gt(asprintf(&model, "--model=%s/model.safetensors", dir), 0);
    const char *const train[] = {child_program("graphps"), "train", links, job_dir, NULL};
    free(run(train));
    const char *const predict[] = {
        child_program("graphps"), "predict", "--config", links, model, "--evaluate", NULL};
    output = run(predict);
    const char *at = strstr(output, "test ");
    at = at ? strstr(at, "MRR ") : NULL;
    ck_assert_msg(at && fabs(strtod(at + 4, NULL) - told) < 1e-6, "not %g: %s", told, output);
    free(output);
    free(model);
    free(job_dir);
}
END_TEST

/* A second one at once is refused. Interrupted in the middle of a run it ends with 75 and leaves no
 * half of one; asked again it goes on with what is there; another job file begins anew. */
START_TEST(an_interruption_is_gone_on_with) {
    struct child child;
    const char *scores = test_path(root, "runs/small-verify/scores.json");
    char log[340];
    unlink(scores);
    snprintf(log, sizeof log, "%s/runs/small-verify/verify.log", root);
    child_init(&child, "verify", log);
    const char *const argv[] = {child_program("graphps"), "verify", job, "--seeds=2", NULL};
    child_start(&child, argv);
    child_wait_file(&child, scores, CLUSTER_TIMEOUT_MS);
    char *output;
    ck_assert_int_eq(verify("--seeds=2", NULL, NULL, &output), 75);
    ck_assert_msg(strstr(output, "another graphps verify is at work"), "%s", output);
    free(output);
    child_signal(&child, SIGINT);
    child_expect(&child, 75, CLUSTER_TIMEOUT_MS);
    output = child_log(&child);
    ck_assert_msg(strstr(output, " of 8 runs; the same command goes on"), "%s", output);
    free(output);
    ck_assert(access(test_path(root, "runs/small-verify/bsp-1"), F_OK) != 0);

    ck_assert_msg(verify("--seeds=2", "--tolerance=60", NULL, &output) == 0, "%s", output);
    ck_assert_msg(strstr(output, "going on: ") && strstr(output, " of 8 runs are there"), "%s",
                  output);
    free(output);
    ck_assert_msg(verify("--seeds=1", "--tolerance=60", "--set=train.epochs=1", &output) == 0, "%s",
                  output);
    ck_assert_msg(!strstr(output, "going on"), "%s", output);
    free(output);
}
END_TEST

/* A run that fails says why and where; nothing is judged. */
START_TEST(a_run_that_fails_is_told) {
    char *output;
    ck_assert_int_eq(verify("--seeds=1", "--set=data.snapshot=missing", NULL, &output), 70);
    ck_assert_msg(strstr(output, "single, seed 1 ended with exit code") && strstr(output, ".log"),
                  "%s", output);
    free(output);
    ck_assert_int_eq(verify("--seeds=1", "--set=model.kind=gnc", NULL, &output), 78);
    free(output);
    ck_assert_int_eq(verify("--seeds=1", "--tolerance=x", NULL, &output), 78);
    free(output);
    ck_assert_int_eq(verify("--seeds=1.5", NULL, NULL, &output), 78);
    free(output);
}
END_TEST

/* Mean, deviation and the interval by Student's t, by hand; beyond the table it is near the
 * published 1.984 for 99 degrees of freedom. */
START_TEST(intervals_are_students) {
    static const double scores[] = {80, 82, 84, 86};
    struct verify_stats stats = verify_stats_of(scores, 4);
    ck_assert_double_eq_tol(stats.mean, 83, 1e-12);
    ck_assert_double_eq_tol(stats.deviation, sqrt(20.0 / 3), 1e-12);
    ck_assert_double_eq_tol(stats.half, 3.182 * sqrt(20.0 / 3) / 2, 1e-9);
    ck_assert(stats.least == 80 && stats.most == 86);
    double many[100];
    for (int i = 0; i < 100; i++)
        many[i] = i % 2 ? 1 : -1;
    stats = verify_stats_of(many, 100);
    ck_assert_double_eq_tol(stats.half * 10 / stats.deviation, 1.984, 5e-4);
    stats = verify_stats_of(scores, 1);
    ck_assert(stats.mean == 80 && stats.deviation == 0 && stats.half == 0);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("verify");
    TCase *tcase = tcase_create("verify");
    tcase_set_timeout(tcase, 600);
    tcase_add_unchecked_fixture(tcase, make_job, NULL);
    tcase_add_test(tcase, the_verdict_follows_from_the_scores);
    tcase_add_test(tcase, json_has_the_scores);
    tcase_add_test(tcase, links_are_ranked_among_all);
    tcase_add_test(tcase, an_interruption_is_gone_on_with);
    tcase_add_test(tcase, a_run_that_fails_is_told);
    tcase_add_test(tcase, intervals_are_students);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
