/* Rows that are learned for nodes (model.embedding), by real processes on a graph without features:
 * what is learned is as good as it should be, the same whoever shares the work, and survives. */
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "proto/layout.h"
#include "tests/graphs.h"
#include "tests/job.h"
#include "tests/test.h"

enum { NODES = 600, CLASSES = 4, DEGREE = 16, DIM = 12 };

static char root[300];

static void run(const char *const *argv) {
    char *output;
    int code = child_run(argv, 2 * CLUSTER_TIMEOUT_MS, &output);
    ck_assert_msg(code == 0, "%s %s ended with %d: %s", argv[0], argv[1], code, output);
    free(output);
}

static void import_plain(const char *name, const char *option, const char *value) {
    const char *const argv[] = {child_program("graphps"),
                                "import",
                                test_path(root, "source"),
                                "--root",
                                root,
                                "--name",
                                name,
                                "--version",
                                "1.0.0",
                                "--undirected",
                                option,
                                value,
                                NULL};
    run(argv);
}

static void set_up(void) {
    snprintf(root, sizeof root, "%s", test_tmpdir());
    const char *source = test_path(root, "source");
    graphs_make_community(source, NODES, CLASSES, DEGREE, 1, 5);
    ck_assert_int_eq(unlink(test_path(source, "features.csv")), 0);
    import_plain("plain", NULL, NULL);
    import_plain("held", "--hold-out", "0.1,0.1");
}

/* A job of `graphps train` with more options, as YAML lines. */
static struct cluster *new_job(int shards, int workers, const char *more) {
    struct cluster *cluster = cluster_new(shards, workers);
    cluster_write_job(cluster,
                      "job: {name: rows, seed: 3, dir: '%s'}\n"
                      "data: {root: '%s', snapshot: plain}\n"
                      "servers: {count: %d, block_bytes: 512}\n"
                      "workers: {count: %d, lease_ms: 60000}\n"
                      "log: {level: debug}\n"
                      "%s",
                      job_dir(cluster), root, shards, workers, more);
    return cluster;
}

static void train_start(struct child *launcher, const struct cluster *cluster) {
    const char *const argv[] = {child_program("graphps"), "train", cluster_job_path(cluster), NULL};
    child_init(launcher, "launcher", test_path(cluster_dir(cluster), "launcher.log"));
    child_start(launcher, argv);
}

static void train(const struct cluster *cluster) {
    struct child launcher;
    train_start(&launcher, cluster);
    child_expect(&launcher, 0, 2 * CLUSTER_TIMEOUT_MS);
}

/* Promise: on a graph without features nodes are told apart by what is learned for each, in every
 * mode and encoding; predictions with the exported rows are as right as the trainer said. */
START_TEST(learned_and_predicted) {
    static const char *const rows[] = {
        "model: {kind: gcn, hidden: 16, dropout: 0.2, embedding: 12}\n"
        "train: {epochs: 80, threads: 1}\n"
        "consistency: {mode: bsp}\n"
        "optimizer: {kind: adam, lr: 0.02}\n",
        "model: {kind: sage, hidden: 16, dropout: 0.2, embedding: 16}\n"
        "train: {epochs: 40, threads: 1, mode: sampled, batch_size: 20, fanout: [8, 8]}\n"
        "push: {encoding: int8}\n"
        "optimizer: {kind: adam, lr: 0.02, clip_norm: 1}\n"
        /* Not async: what comes of so few steps depends on how the workers' interleave. */
        "consistency: {mode: ssp}\n",
        "model: {kind: sgc, layers: 1, hops: 2, embedding: 12}\n"
        "train: {epochs: 40, threads: 1, mode: sampled, batch_size: 20, fanout: [8, 8]}\n"
        "push: {encoding: fp16}\n"
        "optimizer: {kind: adam, lr: 0.02}\n"
        "consistency: {mode: bsp}\n",
    };
    struct cluster *cluster = new_job(2, 2, rows[_i]);
    train(cluster);
    const char *dir = job_dir(cluster);
    json_t *result = json_load_file(test_path(dir, "result.json"), 0, NULL);
    ck_assert_ptr_nonnull(result);
    double told = json_number_value(json_object_get(result, "test_accuracy"));
    json_decref(result);
    const char *const argv[] = {child_program("graphps"),
                                "predict",
                                "--model",
                                test_path(dir, "model.safetensors"),
                                "--config",
                                cluster_job_path(cluster),
                                "--out",
                                test_path(dir, "out.csv"),
                                NULL};
    char *output;
    int code = child_run(argv, CLUSTER_TIMEOUT_MS, &output);
    ck_assert_msg(code == 0, "%s", output);
    const char *at = strstr(output, "test  accuracy ");
    ck_assert_msg(at, "%s", output);
    /* One node more or less, by rounding. */
    ck_assert_double_eq_tol(strtod(at + 15, NULL) / 100, told, 1.5 / (0.7 * NODES));
    ck_assert_msg(told >= 0.85, "test accuracy %g", told);
    free(output);
    cluster_free(cluster);
}
END_TEST

static double score_after(const char *output, const char *line, const char *title) {
    const char *at = strstr(output, line);
    at = at ? strstr(at, title) : NULL;
    ck_assert_msg(at, "no \"%s\" after \"%s\" in: %s", title, line, output);
    return strtod(at + strlen(title), NULL);
}

/* Promise: the rows can be all there is to learn, propagated (LightGCN) or as they are (DistMult),
 * with no weights on any shard; the exported rows rank links as the trainer did. */
START_TEST(rows_alone) {
    static const struct {
        const char *stack, *link, *train, *consistency;
    } rows[] = {
        {"propagate, propagate", "decoder: dot, loss: bpr", "mode: full, epochs: 100", "bsp"},
        {"propagate, propagate", "decoder: dot, loss: bpr",
         "mode: sampled, epochs: 20, batch_size: 256, fanout: [10, 10]", "async"},
        {"identity", "decoder: distmult, loss: bce, negatives_per_link: 4",
         "mode: sampled, epochs: 30, batch_size: 256", "bsp"},
    };
    struct cluster *cluster = cluster_new(2, 1);
    cluster_write_job(cluster,
                      "job: {name: rows, seed: 3, dir: '%s'}\n"
                      "data: {root: '%s', snapshot: held}\n"
                      "model: {stack: [%s], embedding: 12}\n"
                      "link: {dim: 12, candidates: 0, %s}\n"
                      "train: {task: links, threads: 1, eval_every: 5, %s}\n"
                      "optimizer: {kind: adam, lr: 0.02}\n"
                      "consistency: {mode: %s}\n"
                      "servers: {count: 2}\n"
                      "workers: {count: 1, lease_ms: 60000}\n",
                      job_dir(cluster), root, rows[_i].stack, rows[_i].link, rows[_i].train,
                      rows[_i].consistency);
    train(cluster);
    const char *dir = job_dir(cluster);
    json_t *result = json_load_file(test_path(dir, "result.json"), 0, NULL);
    ck_assert_ptr_nonnull(result);
    double told = json_number_value(json_object_get(result, "test_mrr"));
    json_decref(result);
    const char *const argv[] = {child_program("graphps"),
                                "predict",
                                "--model",
                                test_path(dir, "model.safetensors"),
                                "--config",
                                cluster_job_path(cluster),
                                "--evaluate",
                                NULL};
    char *output;
    int code = child_run(argv, CLUSTER_TIMEOUT_MS, &output);
    ck_assert_msg(code == 0, "%s", output);
    ck_assert_double_eq_tol(score_after(output, "test ", "MRR ") / 100, told, 2e-4);
    /* A quarter of the random pairs lies within a community, as nearly all links do. */
    double auc = score_after(output, "test ", "ROC-AUC ");
    ck_assert_msg(auc > 70, "ROC-AUC %g", auc);
    free(output);
    cluster_free(cluster);
}
END_TEST

static void expect_refused(const struct cluster *cluster, const char *set, int code,
                           const char *text) {
    const char *const argv[] = {
        child_program("graphps"), "train", cluster_job_path(cluster), "--set", set, NULL};
    char *output;
    ck_assert_int_eq(child_run(argv, 2 * CLUSTER_TIMEOUT_MS, &output), code);
    ck_assert_msg(strstr(output, text), "%s: no \"%s\" in: %s", set, text, output);
    free(output);
}

/* Promise: what cannot be is refused by the option's name: nothing to compute on, an encoding that
 * is not for rows, a run that was begun with other rows, rows of another graph's nodes. */
START_TEST(refused) {
    struct cluster *cluster = new_job(1, 1,
                                      "model: {kind: gcn, hidden: 16, embedding: 12}\n"
                                      "train: {epochs: 2, threads: 1}\n");
    expect_refused(cluster, "model.embedding=0", 78, "set model.embedding");
    expect_refused(cluster, "push.encoding=topk", 78, "topk is not for the rows");
    expect_refused(cluster, "model.stack=propagate", 78, "no layer has weights");
    train(cluster);
    const char *model = test_path(job_dir(cluster), "model.safetensors");
    ck_assert_int_eq(unlink(test_path(job_dir(cluster), "result.json")), 0);
    expect_refused(cluster, "model.embedding=13", 78, "begun with model.embedding 12");
    graphs_snapshot(root, "other", NODES, CLASSES, DEGREE, 1, 6);
    const char *const argv[] = {child_program("graphps"),
                                "predict",
                                "--model",
                                model,
                                "--config",
                                cluster_job_path(cluster),
                                "--set",
                                "data.snapshot=other",
                                "--out",
                                test_path(root, "other.csv"),
                                NULL};
    char *output;
    ck_assert_int_eq(child_run(argv, CLUSTER_TIMEOUT_MS, &output), 76);
    ck_assert_msg(strstr(output, "has learned rows for the 600 nodes of plain"), "%s", output);
    free(output);
    cluster_free(cluster);
}
END_TEST

#define EXACT_JOB(epochs)                                                                          \
    "model: {kind: gcn, hidden: 16, dropout: 0.3, input_dropout: 0.2, embedding: 12}\n"            \
    "train: {epochs: " epochs ", threads: 1, eval_every: 3}\n"                                     \
    "optimizer: {kind: momentum, lr: 0.5}\n"                                                       \
    "checkpoint: {every_s: 1}\n"                                                                   \
    "consistency: {mode: bsp}\n"

/* Promise (G11): P workers and their shards learn the rows that one of each learns, also those of
 * nodes that several of them compute on: within 1e-3 of themselves or of the rows' size. */
START_TEST(parts_equal_one_process) {
    uint64_t floats, other_floats;
    struct cluster *one = new_job(1, 1, EXACT_JOB("60")), *two = new_job(3, 2, EXACT_JOB("60"));
    train(one);
    train(two);
    float *rows = job_weights(job_dir(one), "last", &floats);
    float *others = job_weights(job_dir(two), "last", &other_floats);
    ck_assert_uint_eq(floats, other_floats);
    ck_assert_uint_gt(floats, NODES * DIM);
    double squares = 0;
    for (uint64_t i = 0; i < floats; i++)
        squares += (double)rows[i] * rows[i];
    double moved = 0; /* by the training, of what rows were at first */
    for (uint64_t row = 0; row < NODES; row++) {
        float before[DIM];
        layout_init_row(layout_row_key(3, 0), row, DIM, sqrtf(3.0F / DIM), before);
        for (size_t i = 0; i < DIM; i++)
            moved = fmax(moved, fabs(rows[floats - NODES * DIM + row * DIM + i] - before[i]));
    }
    ck_assert_double_gt(moved, 0.1);
    test_floats_equal("weights and rows", others, rows, floats, 1e-3,
                      1e-3 * sqrt(squares / (double)floats));
    mem_free(rows);
    mem_free(others);
    cluster_free(one);
    cluster_free(two);
}
END_TEST

/* Promise (G10 and G8): a job that is interrupted and gone on with ends with the very bits of one
 * that was not, best and last: nothing of a row, of its optimizer's state or of what was kept of it
 * is lost with the processes. */
START_TEST(resumed_to_the_bit) {
    struct cluster *whole = new_job(2, 2, EXACT_JOB("300")), *cut = new_job(2, 2, EXACT_JOB("300"));
    struct child launcher;
    train(whole);
    train_start(&launcher, cut);
    child_wait_log(&launcher, "training rows", CLUSTER_TIMEOUT_MS);
    struct child view = launcher;
    snprintf(view.log_path, sizeof view.log_path, "%s/logs/worker-0.log", job_dir(cut));
    view.log_start = 0;
    child_wait_log(&view, " sequence=8\n", CLUSTER_TIMEOUT_MS);
    child_signal(&launcher, SIGINT);
    child_expect(&launcher, 75, CLUSTER_TIMEOUT_MS);
    train(cut);
    for (int best = 0; best < 2; best++) {
        uint64_t floats, other_floats;
        const char *which = best ? "best" : "last";
        float *rows = job_weights(job_dir(whole), which, &floats);
        float *others = job_weights(job_dir(cut), which, &other_floats);
        ck_assert_uint_eq(floats, other_floats);
        for (uint64_t i = 0; i < floats; i++)
            ck_assert_msg(memcmp(&rows[i], &others[i], sizeof *rows) == 0,
                          "%s: number %llu is %.9g, not %.9g", which, (unsigned long long)i,
                          (double)others[i], (double)rows[i]);
        mem_free(rows);
        mem_free(others);
    }
    cluster_free(whole);
    cluster_free(cut);
}
END_TEST

/* Promise: rows come back with a shard that is killed, and the training with them. */
START_TEST(shard_killed) {
    struct cluster *cluster = new_job(2, 2,
                                      "model: {kind: gcn, hidden: 16, embedding: 12}\n"
                                      "train: {epochs: 200, threads: 1}\n"
                                      "optimizer: {kind: adam, lr: 0.02}\n"
                                      "checkpoint: {every_s: 1}\n"
                                      "consistency: {mode: async}\n");
    job_pace(cluster, 30);
    const char *const cut[] = {child_program("graphps"),
                               "partition",
                               "plain",
                               "--root",
                               root,
                               "--parts",
                               "2",
                               "--halo",
                               "2",
                               NULL};
    char *output;
    child_run(cut, CLUSTER_TIMEOUT_MS, &output); /* another test may have */
    free(output);
    cluster_start(cluster);
    /* A checkpoint that was begun when rows had been touched: not the next one. */
    struct child *first = cluster_child(cluster, CLUSTER_SHARD, 0);
    static const char complete[] = "checkpoint complete generation=";
    cluster_wait_log(cluster, CLUSTER_WORKER, 0, " sequence=10\n", CLUSTER_TIMEOUT_MS);
    uint64_t generation = job_log_count(first, complete) ? job_log_number(first, complete) : 0;
    char text[80];
    snprintf(text, sizeof text, "%s%llu\n", complete, (unsigned long long)generation + 2);
    cluster_wait_log(cluster, CLUSTER_SHARD, 0, text, CLUSTER_TIMEOUT_MS);
    cluster_kill(cluster, CLUSTER_SHARD, 1);
    cluster_start_one(cluster, CLUSTER_SHARD, 1);
    cluster_wait_log(cluster, CLUSTER_SHARD, 1, "restored", CLUSTER_TIMEOUT_MS);
    json_t *stats = cluster_stats(cluster, CLUSTER_SHARD, 1);
    json_int_t held = json_integer_value(json_object_get(stats, "rows"));
    ck_assert_msg(held > NODES / 2 - 60 && held < NODES / 2 + 60, "%lld rows", (long long)held);
    json_decref(stats);
    job_wait(cluster);
    ck_assert_double_ge(job_end(job_dir(cluster)).test_accuracy, 0.85);
    cluster_free(cluster);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("embedding");
    TCase *tests = tcase_create("embedding");
    tcase_set_timeout(tests, 280);
    tcase_add_unchecked_fixture(tests, set_up, NULL);
    tcase_add_loop_test(tests, learned_and_predicted, 0, 3);
    tcase_add_loop_test(tests, rows_alone, 0, 3);
    tcase_add_test(tests, refused);
    tcase_add_test(tests, parts_equal_one_process);
    tcase_add_test(tests, resumed_to_the_bit);
    tcase_add_test(tests, shard_killed);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
