/* The community generator. */
#include "tests/graphs.h"

#include <stdio.h>
#include <string.h>

#include "common/file.h"
#include "common/rng.h"
#include "tests/test.h"
#include "worker/graph/import.h"
#include "worker/graph/partition.h"

enum {
    STREAM_EDGES,
    STREAM_CENTRES,
    STREAM_NOISE,
    STREAM_SPLIT,
    STREAM_MAP,
    STREAM_TARGETS,
    STREAM_WEIGHTS
};

static FILE *open_csv(const char *dir, const char *name, const char *header) {
    FILE *file = fopen(test_path(dir, name), "w");
    ck_assert_msg(file != NULL, "cannot write %s/%s", dir, name);
    fputs(header, file);
    return file;
}

static void close_csv(FILE *file) {
    ck_assert_int_eq(fclose(file), 0);
}

static void write_edges(const char *dir, uint32_t n, uint32_t classes, uint32_t degree,
                        bool weighted, uint64_t seed) {
    FILE *file =
        open_csv(dir, "edges.csv", weighted ? "source,target,weight\n" : "source,target\n");
    uint64_t key = rng_key(seed, STREAM_EDGES), at = 0, weights = rng_key(seed, STREAM_WEIGHTS);
    /* Each node draws half of its degree; the other half comes from those that draw it. */
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t d = 0; d < (degree + 1) / 2; d++) {
            uint64_t inside = rng_below(rng_at(key, at++), 5), draw = rng_at(key, at++);
            uint64_t other = rng_below(draw, n);
            if (inside) { /* the node of our community nearest below */
                other -= other % classes;
                other += i % classes;
                if (other >= n)
                    other = i % classes;
            }
            fprintf(file, "n%u,n%u", i, (uint32_t)other);
            if (weighted) /* some are 0 */
                fprintf(file, ",%.6g",
                        at % 7 == 0 ? 0.0 : 3 * (double)rng_float(rng_at(weights, at)));
            fputc('\n', file);
        }
    close_csv(file);
}

static void write_features(const char *dir, uint32_t n, uint32_t classes, uint32_t features,
                           uint64_t seed) {
    FILE *file = open_csv(dir, "features.csv", "id");
    for (uint32_t f = 0; f < features; f++)
        fprintf(file, ",f%u", f);
    fputc('\n', file);
    uint64_t centres = rng_key(seed, STREAM_CENTRES), noise = rng_key(seed, STREAM_NOISE);
    for (uint32_t i = 0; i < n; i++) {
        fprintf(file, "n%u", i);
        for (uint32_t f = 0; f < features; f++) {
            float centre = rng_float(rng_at(centres, (uint64_t)(i % classes) * features + f));
            float own = rng_float(rng_at(noise, (uint64_t)i * features + f));
            fprintf(file, ",%.6g", (double)(centre + own - 1));
        }
        fputc('\n', file);
    }
    close_csv(file);
}

static void make_community(const char *dir, uint32_t n, uint32_t classes, uint32_t degree,
                           uint32_t features, bool weighted, uint64_t seed) {
    struct error err;
    ck_assert_msg(dir_make(dir, &err) == 0, "%s", err.text);
    write_edges(dir, n, classes, degree, weighted, seed);
    write_features(dir, n, classes, features, seed);
    FILE *labels = open_csv(dir, "labels.csv", "id,label\n");
    FILE *split[] = {open_csv(dir, "train.csv", "id\n"), open_csv(dir, "valid.csv", "id\n"),
                     open_csv(dir, "test.csv", "id\n")};
    uint64_t key = rng_key(seed, STREAM_SPLIT);
    for (uint32_t i = 0; i < n; i++) {
        fprintf(labels, "n%u,c%u\n", i, i % classes);
        uint64_t tenth = rng_below(rng_at(key, i), 10);
        fprintf(split[tenth < 1 ? 0 : tenth < 3 ? 1 : 2], "n%u\n", i);
    }
    close_csv(labels);
    for (int k = 0; k < 3; k++)
        close_csv(split[k]);
}

void graphs_make_community(const char *dir, uint32_t n, uint32_t classes, uint32_t degree,
                           uint32_t features, uint64_t seed) {
    make_community(dir, n, classes, degree, features, false, seed);
}

void graphs_make_multi_label(const char *dir, uint32_t n, uint32_t classes, uint32_t degree,
                             uint32_t features, uint64_t seed) {
    graphs_make_community(dir, n, classes, degree, features, seed);
    FILE *labels = open_csv(dir, "labels.csv", "id,label\n");
    for (uint32_t i = 0; i < n; i++)
        fprintf(labels, "n%u,c%u,c%u%s\n", i, i % classes, (i + 1) % classes,
                i % classes == 0 ? ",c2" : "");
    close_csv(labels);
}

static const char *import_csv(const char *source, const char *root, const char *name,
                              bool multi_label) {
    static struct import_summary summary;
    struct error err;
    const struct import_options options = {.format = IMPORT_CSV,
                                           .source = source,
                                           .root = root,
                                           .name = name,
                                           .version = "1.0.0",
                                           .undirected = true,
                                           .multi_label = multi_label};
    ck_assert_msg(import_run(&options, NULL, NULL, &summary, &err) == 0, "%s", err.text);
    return summary.dir;
}

const char *graphs_snapshot(const char *root, const char *name, uint32_t n, uint32_t classes,
                            uint32_t degree, uint32_t features, uint64_t seed) {
    char source[300];
    snprintf(source, sizeof source, "%s/%s-csv", root, name);
    graphs_make_community(source, n, classes, degree, features, seed);
    return import_csv(source, root, name, false);
}

const char *graphs_weighted(const char *root, const char *name, uint32_t n, uint32_t classes,
                            uint32_t degree, uint32_t features, uint64_t seed) {
    char source[300];
    snprintf(source, sizeof source, "%s/%s-csv", root, name);
    make_community(source, n, classes, degree, features, true, seed);
    return import_csv(source, root, name, false);
}

const char *graphs_multi_label(const char *root, const char *name, uint32_t n, uint32_t classes,
                               uint32_t degree, uint32_t features, uint64_t seed) {
    char source[300];
    snprintf(source, sizeof source, "%s/%s-csv", root, name);
    graphs_make_multi_label(source, n, classes, degree, features, seed);
    return import_csv(source, root, name, true);
}

/* Line by line beside the features, whose digits are those that the importer reads. */
static void write_targets(const char *dir, uint32_t n, uint32_t targets, uint32_t features,
                          double noise, uint64_t seed) {
    FILE *in = fopen(test_path(dir, "features.csv"), "r");
    ck_assert_ptr_nonnull(in);
    FILE *out = open_csv(dir, "targets.csv", "id,y");
    for (uint32_t t = 1; t < targets; t++)
        fprintf(out, ",y%u", t);
    fputc('\n', out);
    ck_assert_int_eq(fscanf(in, "%*[^\n]"), 0);
    uint64_t map = rng_key(seed, STREAM_MAP), key = rng_key(seed, STREAM_TARGETS);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t node;
        double sums[8] = {0};
        ck_assert_int_eq(fscanf(in, " n%u", &node), 1);
        for (uint32_t f = 0; f < features; f++) {
            double value;
            ck_assert_int_eq(fscanf(in, ",%lf", &value), 1);
            for (uint32_t t = 0; t < targets; t++)
                sums[t] += value * (2 * (double)rng_float(rng_at(map, t * features + f)) - 1);
        }
        fprintf(out, "n%u", node);
        for (uint32_t t = 0; t < targets; t++)
            fprintf(out, ",%.9g",
                    3 + sums[t] +
                        noise *
                            (2 * (double)rng_float(rng_at(key, (uint64_t)i * targets + t)) - 1));
        fputc('\n', out);
    }
    close_csv(in);
    close_csv(out);
}

const char *graphs_regression(const char *root, const char *name, uint32_t n, uint32_t targets,
                              uint32_t degree, uint32_t features, double noise, uint64_t seed) {
    char source[300];
    snprintf(source, sizeof source, "%s/%s-csv", root, name);
    graphs_make_community(source, n, 3, degree, features, seed);
    ck_assert_int_eq(remove(test_path(source, "labels.csv")), 0);
    ck_assert_uint_le(targets, 8);
    write_targets(source, n, targets, features, noise, seed);
    return import_csv(source, root, name, false);
}

const char *graphs_partitioned(const char *root, const char *name, uint32_t n, uint32_t classes,
                               uint32_t degree, uint32_t features, uint64_t seed, uint32_t parts,
                               uint32_t halo) {
    const char *dir = graphs_snapshot(root, name, n, classes, degree, features, seed);
    struct snapshot *snapshot = NULL;
    struct error err;
    bool existed;
    ck_assert_msg(snapshot_open(dir, false, &snapshot, &err) == 0, "%s", err.text);
    ck_assert_msg(partition_make(snapshot, parts, halo, seed, &existed, &err) == 0, "%s", err.text);
    snapshot_close(snapshot);
    return dir;
}
