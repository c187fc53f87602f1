/* Several labels a node, as people use it: import, train, look at what it says, predict. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/cluster.h"
#include "tests/graphs.h"
#include "tests/test.h"

enum { NODES = 700, CLASSES = 6, FEATURES = 24, DEGREE = 6, EPOCHS = 120 };

static char root[300];

static void run(const char *const *argv) {
    char *output;
    int code = child_run(argv, 2 * CLUSTER_TIMEOUT_MS, &output);
    ck_assert_msg(code == 0, "%s %s ended with %d: %s", argv[0], argv[1], code, output);
    free(output);
}

static void import(const char *source, const char *name) {
    const char *const argv[] = {child_program("graphps"),
                                "import",
                                source,
                                "--root",
                                root,
                                "--name",
                                name,
                                "--version",
                                "1.0.0",
                                "--undirected",
                                "--multi-label",
                                NULL};
    run(argv);
}

static void make_snapshot(void) {
    snprintf(root, sizeof root, "%s", test_tmpdir());
    const char *source = test_path(root, "source");
    graphs_make_multi_label(source, NODES, CLASSES, DEGREE, FEATURES, 5);
    import(source, "several");
    ck_assert_int_eq(unlink(test_path(source, "valid.csv")), 0);
    import(source, "unvalidated");
    graphs_snapshot(root, "one", NODES, CLASSES, DEGREE, FEATURES, 5);
}

/* Classes as bits, of "c0;c3" up to the field's end. */
static unsigned classes_of(const char *field) {
    unsigned classes = 0, class;
    for (int n = 0; sscanf(field, "c%u%n", &class, &n) == 1; field += n + (field[n] == ';')) {
        ck_assert_uint_lt(class, CLASSES);
        classes |= 1U << class;
    }
    return classes;
}

static double f1(const unsigned *said, const unsigned *is, size_t n) {
    unsigned hits = 0, all = 0;
    for (size_t i = 0; i < n; i++) {
        hits += (unsigned)__builtin_popcount(said[i] & is[i]);
        all += (unsigned)(__builtin_popcount(said[i]) + __builtin_popcount(is[i]));
    }
    return all ? 2.0 * hits / all : 0;
}

/* The best that one and the same answer for all nodes reaches. */
static double best_constant(const unsigned *is, size_t n) {
    unsigned said[NODES];
    double best = 0;
    for (unsigned answer = 1; answer < 1U << CLASSES; answer++) {
        for (size_t i = 0; i < n; i++)
            said[i] = answer;
        best = fmax(best, f1(said, is, n));
    }
    return best;
}

/* Classes are numbers in a model: where labels are of another kind they mean nothing. */
static void check_refused(const char *model, const char *job_path) {
    const char *const argv[] = {child_program("graphps"),
                                "predict",
                                "--model",
                                model,
                                "--config",
                                job_path,
                                "--set",
                                "data.snapshot=one",
                                "--out",
                                test_path(root, "refused.csv"),
                                NULL};
    char *output;
    ck_assert_int_eq(child_run(argv, CLUSTER_TIMEOUT_MS, &output), 76);
    ck_assert_msg(strstr(output, "the model is for several labels a node"), "%s", output);
    free(output);
}

/* What the file says of the test nodes: classes predicted and true. The latter are those that
 * were imported, and each predicted class has a probability above a half. */
static size_t read_predictions(const char *path, unsigned *said, unsigned *is) {
    char *text = test_read_file(path, NULL), *rest = NULL;
    size_t tested = 0, lines = 0;
    char *line = strtok_r(text, "\n", &rest);
    ck_assert_str_eq(line, "id,prediction,probability,label,split");
    while ((line = strtok_r(NULL, "\n", &rest))) {
        const char *fields[5];
        for (int k = 0; k < 5; k++) {
            fields[k] = strsep(&line, ",");
            ck_assert_ptr_nonnull(fields[k]);
        }
        unsigned node = (unsigned)atoi(fields[0] + 1), c = node % CLASSES;
        unsigned wanted = 1U << c | 1U << (c + 1) % CLASSES | (c == 0 ? 4U : 0);
        ck_assert_uint_eq(classes_of(fields[3]), wanted);
        unsigned predicted = classes_of(fields[1]);
        char *end = (char *)fields[2];
        for (int left = __builtin_popcount(predicted); left > 0; left--) {
            double probability = strtod(end, &end);
            ck_assert(probability >= 0.5 && probability <= 1 && *end == (left > 1 ? ';' : 0));
            end++;
        }
        if (strcmp(fields[4], "test") == 0) {
            said[tested] = predicted;
            is[tested++] = wanted;
        }
        lines++;
    }
    ck_assert_uint_eq(lines, NODES);
    free(text);
    return tested;
}

static double number(const json_t *result, const char *key) {
    const json_t *value = json_object_get(result, key);
    ck_assert_msg(json_is_number(value), "result.json has no number %s", key);
    return json_number_value(value);
}

/* Promise: labels that can be learnt are learnt, far beyond what the best constant answer reaches,
 * by one worker and by several, on whole graphs and on mini-batches; the micro-F1 that is told is
 * that of the predictions that are written. */
START_TEST(imported_trained_predicted) {
    static const struct {
        int workers;
        const char *train, *consistency;
    } rows[] = {
        {1, "mode: full", "bsp"},
        {3, "mode: full", "bsp"},
        {2, "mode: sampled, batch_size: 30, fanout: [8, 8], metric: roc_auc", "async"},
    };
    struct cluster *cluster = cluster_new(1, rows[_i].workers);
    char *dir = strdup(test_path(cluster_dir(cluster), "run"));
    cluster_write_job(cluster,
                      "job: {name: several, seed: 3, dir: '%s'}\n"
                      "data: {root: '%s', snapshot: several}\n"
                      "model: {kind: sage, layers: 2, hidden: 32, dropout: 0.2}\n"
                      "train: {epochs: %d, threads: 1, %s}\n"
                      "optimizer: {kind: adam, lr: 0.02}\n"
                      "consistency: {mode: %s}\n"
                      "servers: {count: 1}\n"
                      "workers: {count: %d, lease_ms: 60000}\n",
                      dir, root, EPOCHS, rows[_i].train, rows[_i].consistency, rows[_i].workers);
    const char *const smooth[] = {child_program("graphps"),    "train",
                                  cluster_job_path(cluster),   "--set",
                                  "train.label_smoothing=0.1", NULL};
    const char *const train[] = {child_program("graphps"), "train", cluster_job_path(cluster),
                                 NULL};
    char *output;
    /* Refused before any process starts: those would say it in their logs alone. */
    ck_assert_int_eq(child_run(smooth, CLUSTER_TIMEOUT_MS, &output), 78);
    ck_assert_msg(strstr(output, "graphps train: train.label_smoothing is for one label a node") &&
                      !strstr(output, "logs in "),
                  "%s", output);
    free(output);
    int code = child_run(train, 2 * CLUSTER_TIMEOUT_MS, &output);
    ck_assert_msg(code == 0, "graphps train ended with %d: %s", code, output);
    ck_assert_msg(strstr(output, "\ntest micro-F1 "), "no \"test micro-F1\" in: %s", output);
    bool auc = strstr(rows[_i].train, "roc_auc");
    ck_assert_msg(!auc == !strstr(output, "\ntest ROC-AUC "), "%s", output);
    free(output);

    const char *model = test_path(dir, "model.safetensors"), *out = test_path(dir, "out.csv");
    const char *const predict[] = {
        child_program("graphps"),  "predict", "--model", model, "--config",
        cluster_job_path(cluster), "--out",   out,       NULL};
    code = child_run(predict, CLUSTER_TIMEOUT_MS, &output);
    ck_assert_msg(code == 0, "graphps predict ended with %d: %s", code, output);
    ck_assert_msg(!auc == !strstr(output, ", ROC-AUC "), "%s", output);
    free(output);
    check_refused(model, cluster_job_path(cluster));
    unsigned said[NODES], is[NODES];
    size_t tested = read_predictions(out, said, is);
    double micro = f1(said, is, tested);

    json_error_t err;
    json_t *result = json_load_file(test_path(dir, "result.json"), 0, &err);
    ck_assert_msg(result, "%s", err.text);
    ck_assert_str_eq(json_string_value(json_object_get(result, "metric")),
                     auc ? "roc_auc" : "micro_f1");
    if (auc) {
        ck_assert_double_ge(number(result, "test_roc_auc"), 0.95);
        ck_assert_double_ge(number(result, "test_average_precision"), 0.9);
    }
    ck_assert_double_ge(number(result, "valid_micro_f1"), 0.85);
    ck_assert_double_ge(number(result, "test_macro_f1"), 0.8);
    /* One prediction of a test node more or less, by rounding. */
    ck_assert_double_eq_tol(number(result, "test_micro_f1"), micro, 1.0 / (double)tested);
    ck_assert_double_ge(micro, 0.85);
    ck_assert_double_le(best_constant(is, tested), 0.65);
    ck_assert_double_le(number(result, "test_accuracy"), number(result, "test_micro_f1"));
    json_decref(result);
    free(dir);
    cluster_free(cluster);
}
END_TEST

/* Promise: where there is nothing to choose the best weights by, the last ones are the model, and
 * that is said with their score. */
START_TEST(without_validation_nodes) {
    struct cluster *cluster = cluster_new(1, 1);
    cluster_write_job(cluster,
                      "job: {name: unvalidated, dir: '%s'}\n"
                      "data: {root: '%s', snapshot: unvalidated}\n"
                      "model: {kind: mlp, hidden: 8}\n"
                      "train: {epochs: 2, threads: 1}\n"
                      "servers: {count: 1}\n"
                      "workers: {count: 1}\n",
                      test_path(cluster_dir(cluster), "run"), root);
    const char *const argv[] = {child_program("graphps"), "train", cluster_job_path(cluster), NULL};
    char *output;
    int code = child_run(argv, CLUSTER_TIMEOUT_MS, &output);
    ck_assert_msg(code == 0 && strstr(output, "(the last weights': there are no labelled "
                                              "validation nodes to choose the best by"),
                  "%d: %s", code, output);
    free(output);
    cluster_free(cluster);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("multi_label");
    TCase *tests = tcase_create("multi_label");
    tcase_set_timeout(tests, 280);
    tcase_add_unchecked_fixture(tests, make_snapshot, NULL);
    tcase_add_loop_test(tests, imported_trained_predicted, 0, 3);
    tcase_add_test(tests, without_validation_nodes);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
