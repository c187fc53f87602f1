/* Link prediction as people use it: edges are held out, links are learnt by two workers and two
 * shards, ranked, and the model embeds nodes and scores pairs. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "tests/cluster.h"
#include "tests/graphs.h"
#include "tests/job.h"
#include "tests/test.h"

enum { NODES = 400, CLASSES = 10, FEATURES = 16, DEGREE = 10, DIM = 8 };

static char root[300];

/* *ret: stdout and stderr; free() it. */
static void run(const char *const *argv, char **ret) {
    int code = child_run(argv, 2 * CLUSTER_TIMEOUT_MS, ret);
    ck_assert_msg(code == 0, "%s %s ended with %d: %s", argv[0], argv[1], code, *ret);
}

static void make_snapshot(void) {
    snprintf(root, sizeof root, "%s", test_tmpdir());
    const char *source = test_path(root, "source");
    graphs_make_community(source, NODES, CLASSES, DEGREE, FEATURES, 5);
    const char *const argv[] = {child_program("graphps"),
                                "import",
                                source,
                                "--root",
                                root,
                                "--name",
                                "links",
                                "--version",
                                "1.0.0",
                                "--undirected",
                                "--hold-out",
                                "0.1,0.1",
                                NULL};
    char *output;
    run(argv, &output);
    free(output);
}

static const struct {
    const char *train, *links, *consistency;
    bool repeats; /* the same bits? */
} rows[] = {
    {"mode: full, epochs: 60", "decoder: dot, loss: bce, negatives_per_link: 2", "bsp", true},
    {"mode: sampled, epochs: 8, batch_size: 256, fanout: [8, 8], sampler_threads: 2",
     "decoder: distmult, loss: bpr, negatives: in_batch", "bsp", true},
    {"mode: sampled, epochs: 8, batch_size: 256, fanout: [8, 8]",
     "decoder: dot, loss: bpr, negatives: uniform", "ssp", false},
};

static struct cluster *train(int i) {
    struct cluster *cluster = cluster_new(2, 2);
    cluster_write_job(cluster,
                      "job: {name: links, seed: 3, dir: '%s'}\n"
                      "data: {root: '%s', snapshot: links}\n"
                      "model: {kind: sage, layers: 2, hidden: 16, dropout: 0}\n"
                      "train: {task: links, metric: roc_auc, eval_every: 2, threads: 1, %s}\n"
                      "link: {dim: %d, candidates: 0, %s}\n"
                      "optimizer: {kind: adam, lr: 0.02}\n"
                      "consistency: {mode: %s}\n"
                      "servers: {count: 2, block_bytes: 256}\n"
                      "workers: {count: 2, lease_ms: 60000}\n",
                      job_dir(cluster), root, rows[i].train, DIM, rows[i].links,
                      rows[i].consistency);
    const char *const argv[] = {child_program("graphps"), "train", cluster_job_path(cluster), NULL};
    char *output;
    run(argv, &output);
    ck_assert_msg(strstr(output, "\ntest ROC-AUC "), "no \"test ROC-AUC\" in: %s", output);
    free(output);
    return cluster;
}

static double result_of(const struct cluster *cluster, const char *key) {
    json_error_t err;
    json_t *result = json_load_file(test_path(job_dir(cluster), "result.json"), 0, &err);
    ck_assert_msg(result, "%s", err.text);
    const json_t *value = json_object_get(result, key);
    ck_assert_msg(json_is_number(value), "result.json has no number %s", key);
    double number = json_number_value(value);
    json_decref(result);
    return number;
}

static double number_after(const char *text, const char *line, const char *key) {
    const char *at = strstr(text, line);
    at = at ? strstr(at, key) : NULL;
    ck_assert_msg(at, "no \"%s\" after \"%s\" in: %s", key, line, text);
    return strtod(at + strlen(key), NULL);
}

static char *read_file(const char *path) {
    char *text = NULL;
    size_t len = 0;
    FILE *file = fopen(path, "r");
    ck_assert_msg(file, "cannot read %s", path);
    ck_assert(getdelim(&text, &len, 0, file) > 0);
    fclose(file);
    return text;
}

static float embeddings[NODES][DIM];

static void read_embeddings(const char *path) {
    char *text = read_file(path), *rest = text;
    ck_assert_int_eq(strncmp(strsep(&rest, "\n"), "id,e0,e1,", 9), 0);
    for (int i = 0; i < NODES; i++) {
        char *line = strsep(&rest, "\n"), *end;
        int node = atoi(strsep(&line, ",") + 1); /* "n17" */
        ck_assert(node >= 0 && node < NODES);
        for (int j = 0; j < DIM; j++) {
            embeddings[node][j] = strtof(line, &end);
            line = end + (*end == ',');
        }
        ck_assert(*line == 0);
    }
    ck_assert(*rest == 0);
    free(text);
}

/* Pairs by their names: within a community (i and i + 10), and across. The score of the dot decoder
 * is the product of the embeddings that are written. */
static void check_scores(const char *path, bool dot) {
    char *text = read_file(path), *rest = text;
    double sums[2] = {0};
    ck_assert_str_eq(strsep(&rest, "\n"), "source,target,score");
    for (int i = 0; i < 200; i++) {
        int u, v;
        double score, product = 0;
        ck_assert_int_eq(sscanf(strsep(&rest, "\n"), "n%d,n%d,%lf", &u, &v, &score), 3);
        ck_assert(u == i && v == i + (i % 2 ? CLASSES : 3));
        for (int j = 0; j < DIM; j++)
            product += (double)embeddings[u][j] * (double)embeddings[v][j];
        ck_assert(!dot || fabs(score - product) < 1e-4 * (1 + fabs(product)));
        sums[i % 2] += score;
    }
    ck_assert_double_gt(sums[1], sums[0]);
    free(text);
}

static void predict(const struct cluster *cluster, int i) {
    char *dir = strdup(job_dir(cluster));
    const char *model = test_path(dir, "model.safetensors"), *out = test_path(dir, "out.csv");
    const char *pairs = test_path(dir, "pairs.csv"), *scores = test_path(dir, "scores.csv");
    FILE *file = fopen(pairs, "w");
    fputs("source,target\n", file);
    for (int k = 0; k < 200; k++)
        fprintf(file, "n%d,n%d\n", k, k + (k % 2 ? CLASSES : 3));
    fclose(file);
    const char *const embed[] = {
        child_program("graphps"),  "predict", "--model", model,        "--config",
        cluster_job_path(cluster), "--out",   out,       "--evaluate", NULL};
    char *output;
    run(embed, &output);
    /* Ranked among all nodes, not only a worker's own, but about as well told from random pairs. */
    double auc = number_after(output, "test ", "ROC-AUC ");
    ck_assert_msg(auc > 70 && fabs(auc - 100 * result_of(cluster, "test_roc_auc")) < 8,
                  "ROC-AUC of the whole %g: %s", auc, output);
    ck_assert_double_lt(number_after(output, "test ", "MRR "),
                        100 * result_of(cluster, "test_mrr") + 1);
    free(output);
    const char *const score[] = {child_program("graphps"),
                                 "predict",
                                 "--model",
                                 model,
                                 "--config",
                                 cluster_job_path(cluster),
                                 "--out",
                                 scores,
                                 "--links",
                                 pairs,
                                 NULL};
    run(score, &output);
    free(output);
    read_embeddings(out);
    check_scores(scores, strstr(rows[i].links, "dot"));

    file = fopen(pairs, "a");
    fputs("n1,nobody\n", file);
    fclose(file);
    ck_assert_int_ne(child_run(score, CLUSTER_TIMEOUT_MS, &output), 0);
    ck_assert_msg(strstr(output, "pairs.csv:202") && strstr(output, "\"nobody\" is no node"), "%s",
                  output);
    free(output);

    file = fopen(pairs, "w");
    fputs("n1,n2\nn1\n", file);
    fclose(file);
    ck_assert_int_eq(child_run(score, CLUSTER_TIMEOUT_MS, &output), 78);
    ck_assert_msg(strstr(output, "pairs.csv:2:3: 1 fields where there should be 2"), "%s", output);
    free(output);
    free(dir);
}

/* Promise: links are learnt and told from pairs that are none, in full and in mini-batches, by each
 * decoder and loss; in bsp the same job gives the same bits. */
START_TEST(links_are_learnt) {
    struct cluster *cluster = train(_i), *again = rows[_i].repeats ? train(_i) : NULL;
    ck_assert_double_ge(result_of(cluster, "test_roc_auc"), 0.72);
    /* By chance 10 of a worker's 200 nodes. */
    ck_assert_double_ge(result_of(cluster, "test_hits_at_10"), 0.15);
    predict(cluster, _i);
    if (again) {
        uint64_t floats[2];
        float *a = job_weights(job_dir(cluster), "last", &floats[0]);
        float *b = job_weights(job_dir(again), "last", &floats[1]);
        ck_assert_uint_eq(floats[0], floats[1]);
        ck_assert_mem_eq(a, b, floats[0] * sizeof *a);
        mem_free(a);
        mem_free(b);
    }
    cluster_free(cluster);
    cluster_free(again);
}
END_TEST

/* What makes no sense of links is refused before anything starts. */
START_TEST(wrong_jobs_are_refused) {
    static const struct {
        const char *train, *link, *says;
    } wrong[] = {
        {"task: nodes", "dim: 8", "link.dim"},
        {"task: links, label_smoothing: 0.1", "dim: 8", "train.label_smoothing"},
        {"task: links, mode: sampled, sampler: saint", "dim: 8", "train.sampler"},
        {"task: links, metric: ndcg_at_k", "candidates: 100", "train.metric"},
        {"task: links, metric: accuracy", "dim: 8", "train.metric"},
    };
    struct cluster *cluster = cluster_new(1, 1);
    char *output;
    cluster_write_job(cluster,
                      "job: {name: links, dir: '%s'}\ndata: {root: '%s', snapshot: links}\n"
                      "train: {%s}\nlink: {%s}\nworkers: {count: 1}\nservers: {count: 1}\n",
                      job_dir(cluster), root, wrong[_i].train, wrong[_i].link);
    const char *const argv[] = {child_program("graphps"), "train", cluster_job_path(cluster), NULL};
    int code = child_run(argv, CLUSTER_TIMEOUT_MS, &output);
    ck_assert_msg(code == 78 && strstr(output, wrong[_i].says), "%d: %s", code, output);
    free(output);
    cluster_free(cluster);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("links");
    TCase *tests = tcase_create("links");
    tcase_set_timeout(tests, 280);
    tcase_add_unchecked_fixture(tests, make_snapshot, NULL);
    tcase_add_loop_test(tests, links_are_learnt, 0, (int)ARRAY_LEN(rows));
    tcase_add_loop_test(tests, wrong_jobs_are_refused, 0, 5);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
