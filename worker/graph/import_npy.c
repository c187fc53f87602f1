/* `--format npy`: edges.npy [m, 2] or edge_index.npy [2, m] (source, target), features.npy [n, f],
 * labels.npy [n], and train.npy, valid.npy, test.npy (node numbers) or split.npy [n] (0 none,
 * 1 train, 2 valid, 3 test). Node ids are 0..n-1. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/file.h"
#include "common/mem.h"
#include "worker/graph/build.h"

#define PROGRESS_ROWS 65536

struct array {
    char *path;
    struct npy npy;
};

static void array_done(struct array *array) {
    npy_close(&array->npy);
    mem_free(array->path);
}

static int array_open(struct build *build, const char *name, const char *what, struct array *ret,
                      struct error *reterr) {
    ret->path = mem_printf("%s/%s", build->options->source, name);
    if (!file_exists(ret->path))
        return error_set(reterr, ERR_NOT_FOUND, "%s: there is no such file; it %s", ret->path,
                         what);
    int r = npy_open(ret->path, &ret->npy, reterr);
    if (r == 0 && ret->npy.extra > 0)
        build_remark(build, ret->path, "something follows the end of the array; it was left out");
    return r;
}

static int array_expect(const struct array *array, bool ok, const char *expected,
                        struct error *reterr) {
    const struct npy *npy = &array->npy;
    char shape[96] = "";
    size_t len = 0;
    for (size_t i = 0; i < npy->dims && i < NPY_DIMS_MAX; i++)
        len += (size_t)snprintf(shape + len, sizeof shape - len, "%s%llu", i ? ", " : "",
                                (unsigned long long)npy->shape[i]);
    if (ok)
        return 0;
    return error_set(reterr, ERR_FORMAT, "%s: has type %s and shape [%s]; it must be %s",
                     array->path, npy_type_name(npy->type), shape, expected);
}

static void array_progress(struct build *build, const struct array *array, const char *what,
                           uint64_t item) {
    size_t bytes = npy_item_bytes(array->npy.type);
    build_progress(build, what, item * bytes, array->npy.count * bytes);
}

static int read_features(struct build *build, struct array *array, struct error *reterr) {
    int r = array_open(build, "features.npy",
                       "has the nodes' features, which every graph needs (one constant column will "
                       "do)",
                       array, reterr);
    if (r == 0)
        r = array_expect(array, array->npy.dims == 2, "[nodes, features]", reterr);
    if (r < 0)
        return r;
    uint64_t nodes = array->npy.shape[0], dim = array->npy.shape[1];
    struct place place = {.path = array->path, .array = true};
    r = build_features_begin(build, &place, dim, reterr);
    if (r < 0)
        return r;
    _cleanup_(mem_free_p) float *row = mem_array(dim, sizeof *row);
    for (uint64_t i = 0; r == 0 && i < nodes; i++) {
        if (i % 1024 == 0)
            array_progress(build, array, "features", i * dim);
        for (uint64_t j = 0; j < dim; j++)
            row[j] = (float)npy_double(&array->npy, i * dim + j);
        place.number = i;
        r = build_features(build, &place, row, reterr);
    }
    return r < 0 ? r : build_features_end(build, array->path, reterr);
}

static int read_labels(struct build *build, struct array *array, struct error *reterr) {
    int r = array_open(build, "labels.npy", "has the nodes' labels", array, reterr);
    const struct npy *npy = &array->npy;
    if (r == 0)
        r = array_expect(array,
                         npy->type != NPY_BOOL && npy->count == build->nodes &&
                             (npy->dims == 1 || (npy->dims == 2 && npy->shape[1] == 1)),
                         "one number for each row of features.npy", reterr);
    for (uint64_t i = 0; r == 0 && i < build->nodes; i++) {
        struct place place = {.path = array->path, .number = i, .array = true};
        bool integer = npy_type_is_integer(npy->type);
        double value = integer ? 0 : npy_double(npy, i);
        if (!integer && !isnan(value) && !(value == floor(value) && fabs(value) < 1e15))
            return build_fault(&place, ERR_FORMAT, reterr,
                               "label %g is not an integer, nor nan for none", value);
        int64_t label = integer ? npy_int(npy, i) : isnan(value) ? -1 : (int64_t)value;
        r = build_label(build, &place, i, label == -1, label, reterr);
    }
    return r;
}

static int read_split_numbers(struct build *build, struct array *array, enum split split,
                              struct error *reterr) {
    _cleanup_(mem_free_p) char *name = mem_printf("%s.npy", build_split_name(split));
    int r =
        array_open(build, name, "lists its split's nodes (or give one split.npy)", array, reterr);
    if (r == 0)
        r = array_expect(array, array->npy.dims == 1 && npy_type_is_integer(array->npy.type),
                         "integers of one dimension, the numbers of nodes", reterr);
    for (uint64_t i = 0; r == 0 && i < array->npy.count; i++) {
        struct place place = {.path = array->path, .number = i, .array = true};
        int64_t node = npy_int(&array->npy, i);
        if (node < 0 || (uint64_t)node >= build->nodes)
            return build_fault(&place, ERR_RANGE, reterr,
                               "node %lld does not exist; nodes are 0 to %llu", (long long)node,
                               (unsigned long long)build->nodes - 1);
        r = build_split(build, &place, (uint64_t)node, split, reterr);
    }
    return r;
}

static int read_split_column(struct build *build, struct array *array, struct error *reterr) {
    int r = array_open(build, "split.npy", "has each node's split", array, reterr);
    if (r == 0)
        r = array_expect(array,
                         array->npy.dims == 1 && npy_type_is_integer(array->npy.type) &&
                             array->npy.count == build->nodes,
                         "one integer for each row of features.npy", reterr);
    for (uint64_t i = 0; r == 0 && i < build->nodes; i++) {
        struct place place = {.path = array->path, .number = i, .array = true};
        int64_t split = npy_int(&array->npy, i);
        if (split < SPLIT_NONE || split > SPLIT_TEST)
            return build_fault(&place, ERR_RANGE, reterr,
                               "%lld is no split; they are 0 none, 1 train, 2 valid, 3 test",
                               (long long)split);
        if (split != SPLIT_NONE)
            r = build_split(build, &place, i, (enum split)split, reterr);
    }
    return r;
}

static int read_splits(struct build *build, struct error *reterr) {
    const char *source = build->options->source;
    _cleanup_(mem_free_p) char *column = mem_printf("%s/split.npy", source);
    _cleanup_(mem_free_p) char *train = mem_printf("%s/train.npy", source);
    if (file_exists(column) && file_exists(train))
        return error_set(reterr, ERR_USAGE, "both %s and %s are there; remove one", column, train);
    if (file_exists(column)) {
        struct array array = {0};
        int r = read_split_column(build, &array, reterr);
        array_done(&array);
        return r;
    }
    int r = 0;
    for (enum split split = SPLIT_TRAIN; r == 0 && split <= SPLIT_TEST; split++) {
        struct array array = {0};
        r = read_split_numbers(build, &array, split, reterr);
        array_done(&array);
    }
    return r;
}

/* Edge e's ends are items e * step and e * step + other. */
struct edges {
    struct array array;
    uint64_t count, step, other;
};

static int edges_open(struct build *build, struct edges *edges, struct error *reterr) {
    const char *source = build->options->source;
    _cleanup_(mem_free_p) char *rows = mem_printf("%s/edges.npy", source);
    _cleanup_(mem_free_p) char *columns = mem_printf("%s/edge_index.npy", source);
    bool by_rows = file_exists(rows);
    if (by_rows && file_exists(columns))
        return error_set(reterr, ERR_USAGE, "both %s and %s are there; remove one", rows, columns);
    int r = array_open(build, by_rows || !file_exists(columns) ? "edges.npy" : "edge_index.npy",
                       "has the edges as [edges, 2] (or give edge_index.npy as [2, edges])",
                       &edges->array, reterr);
    const struct npy *npy = &edges->array.npy;
    if (r == 0)
        r = array_expect(
            &edges->array,
            npy->dims == 2 && npy->shape[by_rows ? 1 : 0] == 2 && npy_type_is_integer(npy->type),
            by_rows ? "integers of shape [edges, 2]" : "integers of shape [2, edges]", reterr);
    if (r < 0)
        return r;
    edges->count = npy->shape[by_rows ? 0 : 1];
    edges->step = by_rows ? 2 : 1;
    edges->other = by_rows ? 1 : edges->count;
    return 0;
}

static int read_edges(void *source, struct build *build, struct error *reterr) {
    const struct edges *edges = source;
    const char *what = build->placing ? "edges, placed" : "edges, counted";
    int r = 0;
    for (uint64_t e = 0; r == 0 && e < edges->count; e++) {
        struct place place = {.path = edges->array.path, .number = e, .array = true};
        if (e % PROGRESS_ROWS == 0)
            array_progress(build, &edges->array, what, 2 * e);
        r = build_edge(build, &place, npy_int(&edges->array.npy, e * edges->step),
                       npy_int(&edges->array.npy, e * edges->step + edges->other), reterr);
    }
    return r;
}

int import_npy(struct build *build, struct error *reterr) {
    struct array features = {0}, labels = {0};
    struct edges edges = {0};
    int r = read_features(build, &features, reterr);
    if (r == 0)
        r = read_labels(build, &labels, reterr);
    if (r == 0)
        r = read_splits(build, reterr);
    if (r == 0)
        r = edges_open(build, &edges, reterr);
    if (r == 0)
        r = build_edges(build, read_edges, &edges, reterr);
    array_done(&features);
    array_done(&labels);
    array_done(&edges.array);
    return r;
}
