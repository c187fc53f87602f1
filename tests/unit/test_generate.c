/* Generated graphs: the same bits whatever the threads, the same graph as text and as arrays, the
 * degrees, classes and splits that are promised, labels that the neighbours tell and the node alone
 * does not, wrong wishes, and nothing left behind. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "tests/child.h"
#include "tests/test.h"
#include "worker/graph/generate.h"
#include "worker/graph/import.h"

static const struct generate_options small = {.kind = GENERATED_RMAT,
                                              .nodes = 20000,
                                              .edges = 200000,
                                              .features = 70, /* more than are made at once */
                                              .classes = 16,
                                              .seed = 1};

static uint64_t generate(struct generate_options options, const char *out) {
    struct error err = {0};
    uint64_t bytes = 0;
    options.out = out;
    ck_assert_msg(generate_run(&options, NULL, NULL, &bytes, &err) == 0, "%s", err.text);
    return bytes;
}

/* MD5s of a directory's files, one after the other. */
static const char *md5s(const char *dir, uint64_t *ret_bytes) {
    static char all[4][512];
    static int calls;
    char *to = all[calls++ % 4], **names;
    size_t count;
    *to = 0;
    *ret_bytes = 0;
    ck_assert_int_eq(dir_list(dir, &names, &count, NULL), 0);
    for (size_t i = 0; i < count; i++) {
        char hex[33];
        uint64_t len;
        ck_assert_int_eq(file_md5(test_path(dir, names[i]), hex, &len, NULL), 0);
        sprintf(to + strlen(to), "%.8s ", hex);
        *ret_bytes += len;
    }
    dir_list_free(names, count);
    return to;
}

/* Also of another machine, compiler and release: what is published of a generated graph stays
 * true. */
START_TEST(same_bits) {
    static const struct {
        enum generated_kind kind;
        enum generate_format format;
        const char *md5s;
    } cases[] = {
        {GENERATED_RMAT, GENERATE_CSV, "2e17bcc7 855e5e73 7008bd4b 92a4fa91 a99810c5 f2518eeb "},
        {GENERATED_RMAT, GENERATE_NPY, "f08839a0 2041393d 008bbcb1 4c23fea2 "},
        {GENERATED_SBM, GENERATE_CSV, "1a87cb62 855e5e73 7008bd4b 92a4fa91 a99810c5 f2518eeb "},
        {GENERATED_SBM, GENERATE_NPY, "867f5813 2041393d 008bbcb1 4c23fea2 "},
    };
    const char *dir = test_tmpdir();
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct generate_options options = small;
        options.kind = cases[i].kind;
        options.format = cases[i].format;
        for (options.threads = TEST_SANITIZED ? 5 : 1; options.threads <= 5; options.threads += 2) {
            char name[32];
            snprintf(name, sizeof name, "%zu-%d", i, (int)options.threads);
            uint64_t told = generate(options, test_path(dir, name)), bytes;
            const char *got = md5s(test_path(dir, name), &bytes);
            ck_assert_msg(strcmp(got, cases[i].md5s) == 0, "case %zu, %d threads: %s", i,
                          (int)options.threads, got);
            if (options.format == GENERATE_CSV)
                ck_assert_uint_eq(told, bytes);
        }
    }
}
END_TEST

/* Every file but the constant header is another one. */
START_TEST(another_seed_another_graph) {
    const char *dir = test_tmpdir();
    struct generate_options options = small;
    uint64_t bytes;
    generate(options, test_path(dir, "one"));
    options.seed = 2;
    generate(options, test_path(dir, "two"));
    const char *one = md5s(test_path(dir, "one"), &bytes);
    const char *two = md5s(test_path(dir, "two"), &bytes);
    ck_assert_uint_eq(strlen(one), 6 * 9);
    for (size_t i = 0; i < 6; i++)
        ck_assert_int_ne(strncmp(one + 9 * i, two + 9 * i, 9), 0);
}
END_TEST

static struct snapshot *import(const char *dir, const char *name, bool undirected,
                               struct import_summary *summary) {
    struct import_options options = {.source = test_path(dir, name),
                                     .root = test_path(dir, "root"),
                                     .name = name,
                                     .version = "1.0.0",
                                     .undirected = undirected};
    struct snapshot *snapshot;
    struct error err = {0};
    ck_assert_msg(import_run(&options, NULL, NULL, summary, &err) == 0, "%s", err.text);
    ck_assert_msg(snapshot_open(summary->dir, true, &snapshot, &err) == 0, "%s", err.text);
    return snapshot;
}

/* Sizes that no chunk, row of classes or power of two divides. */
START_TEST(text_and_arrays_hold_one_graph) {
    static const uint32_t sizes[][4] = {
        {20011, 60013, 65, 7}, {4097, 8000, 1, 4097}, {2, 1, 3, 1}, {33, 100, 200, 2}};
    struct import_summary summary;
    for (size_t i = TEST_SANITIZED; i < ARRAY_LEN(sizes); i++)
        for (enum generated_kind kind = GENERATED_RMAT; kind <= GENERATED_SBM; kind++) {
            const char *dir = test_path(test_tmpdir(), "");
            struct generate_options options = {.kind = kind,
                                               .nodes = sizes[i][0],
                                               .edges = sizes[i][1],
                                               .features = sizes[i][2],
                                               .classes = sizes[i][3],
                                               .seed = i};
            generate(options, test_path(dir, "text"));
            options.format = GENERATE_NPY;
            generate(options, test_path(dir, "array"));
            struct snapshot *text = import(dir, "text", false, &summary);
            ck_assert_uint_eq(summary.nodes, sizes[i][0]);
            ck_assert_uint_eq(summary.edges_read, sizes[i][1]);
            ck_assert_uint_eq(summary.self_loops, 0);
            ck_assert_uint_eq(summary.feature_dim, sizes[i][2]);
            ck_assert_uint_eq(summary.classes, sizes[i][3]);
            ck_assert_uint_eq(summary.unlabelled, 0);
            ck_assert_str_eq(summary.ids, "0 to n-1");
            ck_assert_str_eq(summary.remarks, "");
            struct snapshot *array = import(dir, "array", false, &summary);
            ck_assert_str_eq(text->digest, array->digest);
            snapshot_close(text);
            snapshot_close(array);
        }
}
END_TEST

/* Ranks and nodes go one to one, and a node's number tells nothing of its rank. */
START_TEST(nodes_are_shuffled) {
    TEST_WITHOUT_THREADS();
    static const uint32_t counts[] = {2, 3, 4, 5, 31, 32, 33, 1000, 65536, 100003};
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        uint32_t n = counts[i];
        struct generated graph;
        generated_init(&graph, GENERATED_RMAT, n, 1, 1, 1, 7);
        uint8_t *seen = mem_alloc(n);
        double product = 0, mean = (n - 1) / 2.0, variance = ((double)n * n - 1) / 12;
        for (uint32_t rank = 0; rank < n; rank++) {
            uint32_t node = generated_node(&graph, rank);
            ck_assert_uint_lt(node, n);
            ck_assert_int_eq(seen[node]++, 0);
            ck_assert_uint_eq(generated_rank(&graph, node), rank);
            product += (rank - mean) * (node - mean);
        }
        mem_free(seen);
        if (n >= 1000) /* four standard deviations of a random order's correlation */
            ck_assert_double_lt(fabs(product / n / variance), 4 / sqrt(n));
    }
    struct generated largest;
    generated_init(&largest, GENERATED_SBM, INT32_MAX, 1, 1, 1, 7);
    for (uint32_t rank = INT32_MAX - 1000; rank < INT32_MAX; rank++)
        ck_assert_uint_eq(generated_rank(&largest, generated_node(&largest, rank)), rank);
}
END_TEST

static const float *features_of(const struct snapshot *snapshot, uint64_t node) {
    return (const float *)snapshot->features.data + node * snapshot->feature_dim;
}

/* The mean of a node's own features, or of its neighbours' with its own. */
static void look(const struct snapshot *snapshot, uint64_t node, bool around, double *ret) {
    const int64_t *indptr = snapshot->indptr.data;
    const int32_t *indices = snapshot->indices.data;
    uint32_t dim = snapshot->feature_dim;
    int64_t first = indptr[node], end = around ? indptr[node + 1] : first;
    for (uint32_t f = 0; f < dim; f++)
        ret[f] = (double)features_of(snapshot, node)[f];
    for (int64_t e = first; e < end; e++)
        for (uint32_t f = 0; f < dim; f++)
            ret[f] += (double)features_of(snapshot, (uint64_t)indices[e])[f];
    for (uint32_t f = 0; f < dim; f++)
        ret[f] /= (double)(end - first + 1);
}

/* How many of the test's nodes lie nearest to the mean of their own class in train: what the best
 * rule that knows only of normal distributions can do. */
static double accuracy(const struct snapshot *snapshot, bool around) {
    const int32_t *labels = snapshot->labels.data;
    const uint8_t *split = snapshot->split.data;
    uint32_t dim = snapshot->feature_dim, classes = snapshot->classes;
    _cleanup_(mem_free_p) double *means = mem_array((size_t)classes * dim, sizeof *means);
    _cleanup_(mem_free_p) double *seen = mem_array(dim, sizeof *seen);
    _cleanup_(mem_free_p) uint64_t *counts = mem_array(classes, sizeof *counts);
    for (uint64_t node = 0; node < snapshot->nodes; node++) {
        if (split[node] != SPLIT_TRAIN)
            continue;
        look(snapshot, node, around, seen);
        counts[labels[node]]++;
        for (uint32_t f = 0; f < dim; f++)
            means[(uint32_t)labels[node] * dim + f] += seen[f];
    }
    for (size_t i = 0; i < (size_t)classes * dim; i++)
        means[i] /= (double)counts[i / dim];

    uint64_t right = 0, tested = 0;
    for (uint64_t node = 0; node < snapshot->nodes; node++) {
        if (split[node] != SPLIT_TEST)
            continue;
        double nearest = INFINITY;
        int32_t best = -1;
        look(snapshot, node, around, seen);
        for (uint32_t c = 0; c < classes; c++) {
            double distance = 0;
            for (uint32_t f = 0; f < dim; f++)
                distance += (seen[f] - means[c * dim + f]) * (seen[f] - means[c * dim + f]);
            if (distance < nearest) {
                nearest = distance;
                best = (int32_t)c;
            }
        }
        tested++;
        right += best == labels[node];
    }
    return (double)right / (double)tested;
}

static void check_features(const struct snapshot *snapshot) {
    const float *items = snapshot->features.data;
    double sum = 0, squares = 0, n = (double)snapshot->nodes * snapshot->feature_dim;
    for (uint64_t i = 0; i < snapshot->nodes * snapshot->feature_dim; i++) {
        sum += (double)items[i];
        squares += (double)(items[i] * items[i]);
    }
    double signal = GENERATED_SIGNAL * GENERATED_SIGNAL / snapshot->feature_dim;
    ck_assert_double_lt(fabs(sum / n), 0.02);
    ck_assert_double_lt(fabs(squares / n - 1 - signal), 0.02);
}

/* Degrees, homophily, sizes, and what there is to learn, on the graph as it is after the import. */
START_TEST(graphs_are_as_promised) {
    enum generated_kind kind = (enum generated_kind)_i;
    struct generate_options options = small;
    struct import_summary summary;
    const char *dir = test_tmpdir();
    options.kind = kind;
    options.features = 64;
    generate(options, test_path(dir, "graph"));
    struct snapshot *snapshot = import(dir, "graph", true, &summary);
    const int64_t *indptr = snapshot->indptr.data;
    const int32_t *indices = snapshot->indices.data, *labels = snapshot->labels.data;

    uint64_t classes[16] = {0}, degrees[16] = {0}, isolated = 0, within = 0;
    double mean = (double)snapshot->edges / (double)snapshot->nodes, max = 0;
    for (uint64_t node = 0; node < snapshot->nodes; node++) {
        int64_t degree = indptr[node + 1] - indptr[node];
        max = (double)degree > max ? (double)degree : max;
        isolated += degree == 0;
        classes[labels[node]]++;
        degrees[labels[node]] += (uint64_t)degree;
        for (int64_t e = indptr[node]; e < indptr[node + 1]; e++)
            within += labels[indices[e]] == labels[node];
    }
    if (kind == GENERATED_RMAT)
        ck_assert_msg(max > 20 * mean && max < 2000 * mean, "max %.0f, mean %.1f", max, mean);
    else
        ck_assert_msg(max < 3 * mean, "max %.0f, mean %.1f", max, mean);
    ck_assert_uint_eq(isolated, 0);
    /* What is drawn within the class, and what of the rest ends there by chance. Repeats, which are
     * dropped, are within it more often than others. */
    double share = (double)within / (double)snapshot->edges;
    double wish = GENERATED_WITHIN_PERCENT / 100.0;
    wish += (1 - wish) / 16;
    double slack = kind == GENERATED_RMAT ? 0.06 : 0.01;
    ck_assert_msg(share > wish - slack && share < wish + 0.01, "share %.3f, not %.3f", share, wish);
    for (size_t c = 0; c < 16; c++) {
        ck_assert_uint_eq(classes[c], 1250);
        ck_assert_double_lt(fabs((double)degrees[c] / 1250 / mean - 1), 0.4);
    }
    double repeats = (double)summary.repeats / (double)summary.edges_read;
    ck_assert_double_lt(repeats, kind == GENERATED_RMAT ? 0.2 : 0.01);
    ck_assert_double_lt(fabs((double)summary.train / 20000 - 0.6), 0.02);
    ck_assert_double_lt(fabs((double)summary.valid / 20000 - 0.2), 0.02);
    ck_assert_double_lt(fabs((double)summary.test / 20000 - 0.2), 0.02);
    check_features(snapshot);
    double alone = accuracy(snapshot, false), around = accuracy(snapshot, true);
    ck_assert_msg(alone > 0.2 && alone < 0.45, "alone %.3f", alone);
    ck_assert_msg(around > alone + 0.35, "around %.3f, alone %.3f", around, alone);
    snapshot_close(snapshot);
}
END_TEST

static int run(const char *arguments, char **ret_output) {
    char copy[1024];
    const char *argv[32] = {child_program("graphps"), "generate"};
    int argc = 2;
    snprintf(copy, sizeof copy, "%s", arguments);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    return child_run(argv, 60000, ret_output);
}

static void expect(const char *arguments, int code, const char *text) {
    char *output;
    int got = run(arguments, &output);
    ck_assert_msg(got == code && strstr(output, text), "generate %s: %d, %s", arguments, got,
                  output);
    free(output);
}

START_TEST(wrong_wishes) {
    TEST_WITHOUT_THREADS();
    static const char *const cases[][2] = {
        {"", "give --out"},
        {"--out= --nodes 10", "give --out"},
        {"--out OUT more", "unexpected argument \"more\"; the directory goes with --out"},
        {"--out OUT --kind er", "--kind is rmat or sbm, not \"er\""},
        {"--out OUT --format tsv", "--format is csv or npy, not \"tsv\""},
        {"--out OUT --nodes 10Q", "--nodes is a whole number such as 20000, 20K, 10M or 1G"},
        {"--out OUT --nodes 10MM", "not \"10MM\""},
        {"--out OUT --nodes K", "not \"K\""},
        {"--out OUT --nodes -5", "not \"-5\""},
        {"--out OUT --edges 99999999999G", "not \"99999999999G\""},
        {"--out OUT --edges 0", "--edges must be at least 1"},
        {"--out OUT --threads 0", "--threads must be at least 1"},
        {"--out OUT --threads 2K", "--threads 2000 is out of range, expected 0 to 1024"},
        {"--out OUT --nodes 1", "--nodes 1 is out of range, expected 2 to 2147483647"},
        {"--out OUT --nodes 3G", "--nodes 3000000000 is out of range"},
        {"--out OUT --features 0", "--features 0 is out of range, expected 1 to 65536"},
        {"--out OUT --classes 0", "--classes 0 is out of range, expected 1 to 20000"},
        {"--out OUT --nodes 10 --classes 11", "expected 1 to 10, as many as there are nodes"},
        {"--out OUT --nodes 10 --classes 2 --edges 46",
         "--edges 46 is out of range, expected 1 to 45, as many as there are pairs of nodes"},
        {"--out OUT/below", "No such file or directory"},
    };
    char out[128];
    snprintf(out, sizeof out, "%s/graph", test_tmpdir());
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char arguments[512] = "";
        const char *at = strstr(cases[i][0], "OUT");
        if (at)
            snprintf(arguments, sizeof arguments, "%.*s%s%s", (int)(at - cases[i][0]), cases[i][0],
                     out, at + 3);
        else
            strcpy(arguments, cases[i][0]);
        expect(arguments, 78, cases[i][1]);
        ck_assert(!file_exists(out));
    }
}
END_TEST

/* What the command says at the end can be typed as it stands; a directory is replaced only on
 * demand, and only when all that it holds was generated. */
START_TEST(the_command) {
    const char *dir = test_tmpdir();
    char arguments[512], next[512], *output;
    uint64_t bytes;
    snprintf(arguments, sizeof arguments,
             "--nodes 1K --edges 5K --features 8 --classes 4 --kind rmat --out %s/a'graph/", dir);
    ck_assert_int_eq(run(arguments, &output), 0);
    ck_assert_ptr_nonnull(
        strstr(output, "generated rmat graph: 1000 nodes, 5000 edges, 8 features, 4 classes\n"));
    char *at = strstr(output, "next: graphps import ");
    ck_assert_ptr_nonnull(at);
    snprintf(next, sizeof next, "cd %s && %s %s", dir, child_program("graphps"),
             at + strlen("next: graphps "));
    free(output);
    const char *const argv[] = {"/bin/sh", "-c", next, NULL};
    int code = child_run(argv, 60000, &output);
    ck_assert_msg(code == 0 && strstr(output, "imported rmat@1.0.0"), "%s: %s", next, output);
    free(output);

    char graph[128];
    snprintf(graph, sizeof graph, "%s/a'graph", dir);
    const char *old = md5s(graph, &bytes);
    expect(arguments, 78, "exists already; give another directory, or --overwrite");
    ck_assert_str_eq(md5s(graph, &bytes), old);
    snprintf(arguments, sizeof arguments, "--format npy --overwrite --out %s/a'graph", dir);
    expect(arguments, 0, "generated sbm graph: 20000 nodes, 200000 edges, 64 features, 16 classes");
    ck_assert(file_exists(test_path(graph, "edges.npy")));
    ck_assert(!file_exists(test_path(graph, "edges.csv")));

    test_write_file(test_path(graph, "thesis.txt"), "all", 3);
    expect(arguments, 78, "holds thesis.txt, which was not generated");
    ck_assert(file_exists(test_path(graph, "thesis.txt")));

    char **names;
    size_t count;
    ck_assert_int_eq(dir_list(dir, &names, &count, NULL), 0);
    ck_assert_uint_eq(count, 2); /* and graphps-data, where the import put it */
    dir_list_free(names, count);
}
END_TEST

/* In the middle of a graph that takes long, with its progress told. What a kill leaves has another
 * name than the graph's, and goes when the command is given again. */
START_TEST(interrupted_leaves_nothing) {
    static const int signals[] = {SIGINT, SIGTERM, SIGKILL};
    const char *dir = test_tmpdir(), *out = test_path(dir, "graph");
    const char *const argv[] = {child_program("graphps"),
                                "generate",
                                "--nodes",
                                "2G",
                                "--edges",
                                "100G",
                                "--out",
                                out,
                                NULL};
    struct child child;
    char **names;
    size_t count;
    child_init(&child, "generate", test_path(dir, "log"));
    child_start(&child, argv);
    child_wait_log(&child, "B/s  ETA ", 60000);
    child_signal(&child, signals[_i]);
    bool killed = signals[_i] == SIGKILL;
    child_expect(&child, killed ? 128 + SIGKILL : 75, 60000);
    char *log = child_log(&child);
    ck_assert_ptr_nonnull(strstr(log, "graphps generate: edges.csv  0 %"));
    ck_assert_int_eq(strstr(log, "interrupted; nothing was written") == NULL, killed);
    free(log);
    ck_assert(!file_exists(out));
    if (killed)
        generate(small, out);
    ck_assert_int_eq(dir_list(dir, &names, &count, NULL), 0);
    ck_assert_uint_eq(count, killed ? 2 : 1); /* the log, and the second run's graph */
    dir_list_free(names, count);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("generate");
    TCase *tcase = tcase_create("generate");
    tcase_set_timeout(tcase, 100);
    tcase_add_test(tcase, same_bits);
    tcase_add_test(tcase, another_seed_another_graph);
    tcase_add_test(tcase, text_and_arrays_hold_one_graph);
    tcase_add_test(tcase, nodes_are_shuffled);
    tcase_add_loop_test(tcase, graphs_are_as_promised, GENERATED_RMAT, GENERATED_SBM + 1);
    tcase_add_test(tcase, wrong_wishes);
    tcase_add_test(tcase, the_command);
    tcase_add_loop_test(tcase, interrupted_leaves_nothing, 0, 3);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
