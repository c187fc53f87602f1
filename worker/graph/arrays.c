/* Features, labels, targets, splits and edges from .npy and .npz files. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/vec.h"
#include "worker/graph/npz.h"
#include "worker/graph/parts.h"

#define BATCH 65536
#define HALF_MAX 65504.0f

/* An array of a file of its own, or of an archive. */
struct array {
    const char *path;
    struct npy npy;
    struct npz *npz; /* NULL: npy is mapped */
};

static bool is_npz(const char *path) {
    size_t len = strlen(path);
    return len > 4 && !strcmp(path + len - 4, ".npz");
}

static void array_done(struct array *array) {
    if (!array->npz)
        npy_close(&array->npy);
    npz_close(array->npz);
}

/* Elements in whatever order, which the caller heeds. */
static int array_open_raw(struct build *build, const char *path, struct array *ret,
                          struct error *reterr) {
    *ret = (struct array){.path = path};
    if (is_npz(path))
        return npz_open(path, &ret->npz, reterr);
    int r = npy_open(path, &ret->npy, reterr);
    if (r == 0 && ret->npy.extra)
        build_remark(build, path, "something follows the end of the array; it was left out");
    return r;
}

static int array_open(struct build *build, const char *path, struct array *ret,
                      struct error *reterr) {
    int r = array_open_raw(build, path, ret, reterr);
    if (r == 0 && !ret->npz && (r = npy_check_order(&ret->npy, reterr)) < 0)
        error_prefix(reterr, "%s", path);
    return r;
}

static int array_expect(const struct array *array, bool ok, const char *must,
                        struct error *reterr) {
    char shape[128] = "";
    size_t len = 0;
    for (size_t i = 0; i < array->npy.dims; i++)
        len += (size_t)snprintf(shape + len, sizeof shape - len, "%s%llu", i ? ", " : "",
                                (unsigned long long)array->npy.shape[i]);
    return ok ? 0
              : error_set(reterr, ERR_FORMAT, "%s: has type %s and shape [%s]; it must be %s",
                          array->path, npy_type_name(array->npy.type), shape, must);
}

/* Which nodes integers of an array are: numbers, in the order of the file that says which nodes
 * there are; ids, where only edges and labels have named them. */
static bool numbered(const struct build *build) {
    return !build->open && !build->arrived;
}

static int array_resolve(struct build *build, const struct id_key *keys, size_t n, int32_t *numbers,
                         struct error *reterr) {
    if (!numbered(build))
        return build_resolve(build, keys, n, numbers, reterr);
    for (size_t i = 0; i < n; i++)
        numbers[i] = keys[i].integer >= 0 && (uint64_t)keys[i].integer < build->nodes
                         ? (int32_t)keys[i].integer
                         : -1;
    return 0;
}

static int array_unknown(struct build *build, const struct place *place, const char *what,
                         const struct id_key *key, struct error *reterr) {
    return numbered(build)
               ? build_reject(place, ERR_RANGE, reterr, "%s %lld is no node; nodes are 0 to %llu",
                              what, (long long)key->integer, (unsigned long long)build->nodes - 1)
               : build_unknown(build, place, what, key, reterr);
}

/* Rows of features as they are read from an array, dense or sparse. */
struct feature_rows {
    const struct array *array;
    struct npy indptr, indices, data; /* sparse */
    bool sparse;
    uint64_t rows, dim;
};

static int sparse_open(struct npz *npz, const char *path, struct npy *indptr, struct npy *indices,
                       struct npy *data, uint64_t shape[2], struct error *reterr) {
    struct npy sizes;
    int r = npz_array(npz, "indptr", indptr, reterr);
    if (r == 0)
        r = npz_array(npz, "indices", indices, reterr);
    if (r == 0)
        r = npz_array(npz, "data", data, reterr);
    if (r == 0)
        r = npz_array(npz, "shape", &sizes, reterr);
    if (r < 0)
        return r;
    bool ok = sizes.count == 2 && npy_type_is_integer(sizes.type) &&
              npy_type_is_integer(indptr->type) && npy_type_is_integer(indices->type) &&
              npy_int(&sizes, 0) >= 0 && npy_int(&sizes, 1) >= 0 && indices->count == data->count;
    uint64_t rows = ok ? (uint64_t)npy_int(&sizes, 0) : 0;
    shape[0] = rows;
    shape[1] = ok ? (uint64_t)npy_int(&sizes, 1) : 0;
    const char *format = npz_sparse_format(npz);
    if (ok && !strcmp(format, "csc"))
        rows = shape[1];
    ok = ok && indptr->count == rows + 1 && npy_int(indptr, 0) == 0 &&
         npy_int(indptr, rows) == (int64_t)indices->count;
    for (uint64_t i = 0; ok && i < rows; i++)
        ok = npy_int(indptr, i) <= npy_int(indptr, i + 1);
    return ok ? 0
              : error_set(reterr, ERR_FORMAT,
                          "%s: indptr, indices, data and shape are not those of a sparse matrix",
                          path);
}

static int features_open(struct array *array, struct feature_rows *ret, struct error *reterr) {
    *ret = (struct feature_rows){.array = array};
    int r = 0;
    if (array->npz && npz_has(array->npz, "indptr")) {
        uint64_t shape[2];
        const char *format = npz_sparse_format(array->npz);
        if (*format && strcmp(format, "csr") != 0)
            return error_set(reterr, ERR_FORMAT,
                             "%s: is a sparse matrix in %s form; save it as csr (matrix.tocsr())",
                             array->path, format);
        ret->sparse = true;
        r = sparse_open(array->npz, array->path, &ret->indptr, &ret->indices, &ret->data, shape,
                        reterr);
        ret->rows = shape[0];
        ret->dim = shape[1];
        return r;
    }
    const char *name;
    if (array->npz)
        r = npz_first(array->npz, 2, &array->npy, &name, reterr);
    if (r == 0)
        r = array_expect(array, array->npy.dims == 2, "[nodes, features]", reterr);
    ret->rows = array->npy.shape[0];
    ret->dim = array->npy.shape[1];
    return r;
}

static int features_row(const struct build *build, const struct feature_rows *rows, uint64_t i,
                        float *to, struct error *reterr) {
    const struct npy *npy = &rows->array->npy;
    struct place place = place_item(rows->array->path, i);
    if (rows->sparse) {
        memset(to, 0, rows->dim * sizeof *to);
        for (int64_t e = npy_int(&rows->indptr, i); e < npy_int(&rows->indptr, i + 1); e++) {
            int64_t column = npy_int(&rows->indices, (uint64_t)e);
            if (column < 0 || (uint64_t)column >= rows->dim)
                return build_reject(&place, ERR_RANGE, reterr,
                                    "column %lld does not exist; columns are 0 to %llu",
                                    (long long)column, (unsigned long long)rows->dim - 1);
            to[column] += (float)npy_double(&rows->data, (uint64_t)e);
        }
    } else if (npy->type == NPY_F4) {
        memcpy(to, (const float *)npy->data + i * rows->dim, rows->dim * sizeof *to);
    } else {
        for (uint64_t k = 0; k < rows->dim; k++)
            to[k] = (float)npy_double(npy, i * rows->dim + k);
    }
    uint64_t k = 0;
    if (!vec()->finite(to, rows->dim)) {
        while (isfinite(to[k]))
            k++;
        return build_reject(&place, ERR_NOT_FINITE, reterr,
                            "feature %llu is %s; every feature must be a finite number (32 bits: "
                            "below 3.4e38)",
                            (unsigned long long)k, isnan(to[k]) ? "nan" : "infinite");
    }
    for (; build->options->half && k < rows->dim; k++)
        if (fabsf(to[k]) > HALF_MAX)
            return build_reject(&place, ERR_RANGE, reterr,
                                "feature %llu is %g; 16 bits hold numbers up to 65504",
                                (unsigned long long)k, (double)to[k]);
    return 0;
}

/* Rows of an array stand for all nodes: as many as there are, or now all there are. */
static int nodes_agree(struct build *build, const struct array *array, uint64_t rows,
                       struct error *reterr) {
    if (!build->open && rows != build->nodes)
        return error_set(reterr, ERR_FORMAT,
                         "%s: has %llu rows; it must have one for each of the %llu nodes of %s",
                         array->path, (unsigned long long)rows, (unsigned long long)build->nodes,
                         build->nodes_path);
    if (!build->open)
        return 0;
    build->open = false;
    build->nodes_path = array->path;
    if (rows == 0)
        return error_set(reterr, ERR_FORMAT, "%s: there are no nodes in it", array->path);
    return build_nodes(build, rows, reterr);
}

static int features_copy(struct build *build, const struct feature_rows *rows,
                         struct error *reterr) {
    struct place place = place_item(rows->array->path, 0);
    uint64_t step = rows->dim < BATCH ? BATCH / rows->dim : 1;
    int r = build_features_begin(build, &place, rows->dim, reterr);
    _cleanup_(mem_free_p) float *block = mem_raw(step * rows->dim * sizeof *block);
    for (uint64_t i = 0; r == 0 && i < rows->rows; i += step) {
        uint64_t n = rows->rows - i < step ? rows->rows - i : step;
        build->rows = i;
        r = build_progress(build, "features", i * rows->dim * sizeof *block,
                           rows->rows * rows->dim * sizeof *block, reterr);
        for (uint64_t k = 0; r == 0 && k < n; k++)
            r = features_row(build, rows, i + k, block + k * rows->dim, reterr);
        if (r == 0)
            r = build_features(build, block, n, reterr);
    }
    return r < 0 ? r : build_features_end(build, rows->array->path, reterr);
}

int array_features(struct build *build, const char *path, struct error *reterr) {
    struct array array;
    struct feature_rows rows;
    int r = array_open(build, path, &array, reterr);
    if (r == 0)
        r = features_open(&array, &rows, reterr);
    if (r == 0 && (rows.dim < 1 || rows.dim > FEATURE_DIM_MAX))
        r = error_set(reterr, ERR_RANGE, "%s: %llu features a node; there must be 1 to %u", path,
                      (unsigned long long)rows.dim, FEATURE_DIM_MAX);
    if (r == 0)
        r = nodes_agree(build, &array, rows.rows, reterr);
    if (r == 0)
        r = features_copy(build, &rows, reterr);
    array_done(&array);
    return r;
}

/* Column k of node i. */
static int label_item(struct build *build, const struct array *array, uint64_t node, uint64_t k,
                      int64_t *ret, bool *ret_missing, struct error *reterr) {
    const struct npy *npy = &array->npy;
    struct place place = place_item(array->path, node);
    uint64_t i = npy->dims == 2 ? node * npy->shape[1] + k : node;
    *ret_missing = false;
    if (npy_type_is_integer(npy->type) || npy->type == NPY_BOOL) {
        *ret = npy_int(npy, i);
    } else {
        double value = npy_double(npy, i);
        *ret_missing = isnan(value);
        *ret = *ret_missing ? -1 : npy_int(npy, i);
        if (!*ret_missing && value != floor(value))
            return build_reject(&place, ERR_FORMAT, reterr, "label %g is not a whole number",
                                value);
    }
    *ret_missing |= *ret == -1;
    return 0;
}

/* Row i of 0 and 1; with a nan or -1 in it there are no labels. */
static int labels_row(struct build *build, const struct array *array, uint64_t i,
                      struct error *reterr) {
    struct place place = place_item(array->path, i);
    uint64_t classes = build->classes, ones = build->label_pair_count;
    bool any_missing = false;
    for (uint64_t k = 0; k < classes; k++) {
        int64_t label;
        bool missing;
        int r = label_item(build, array, i, k, &label, &missing, reterr);
        if (r == 0 && !missing && (label < 0 || label > 1))
            r = build_reject(&place, ERR_RANGE, reterr, "column %llu is %lld; labels are 0 or 1",
                             (unsigned long long)k, (long long)label);
        if (r == 0 && !missing && label == 1)
            r = build_label_one_more(build, &place, i, (int64_t)k, reterr);
        if (r < 0)
            return r;
        any_missing |= missing;
    }
    if (any_missing)
        build_unlabelled(build, i, ones);
    else
        build_labelled(build, i);
    return 0;
}

/* [n, classes] */
static int labels_matrix(struct build *build, const struct array *array, struct error *reterr) {
    uint64_t classes = array->npy.shape[1];
    if (classes < 1 || classes > LABEL_MAX)
        return error_set(reterr, ERR_RANGE, "%s: %llu classes; there must be 1 to %d", array->path,
                         (unsigned long long)classes, LABEL_MAX);
    build->summary->multi_label = true;
    build->classes = (uint32_t)classes;
    int r = 0;
    for (uint64_t i = 0; r == 0 && i < build->nodes; i++)
        r = labels_row(build, array, i, reterr);
    return r;
}

int array_labels(struct build *build, const char *path, struct error *reterr) {
    struct array array;
    const char *name;
    int r = array_open(build, path, &array, reterr);
    if (r == 0 && array.npz)
        r = npz_first(array.npz, 1, &array.npy, &name, NULL) < 0
                ? npz_first(array.npz, 2, &array.npy, &name, reterr)
                : 0;
    if (r == 0)
        r = array_expect(&array, array.npy.dims == 1 || array.npy.dims == 2,
                         "one number for each node, or [nodes, classes]", reterr);
    if (r == 0)
        r = nodes_agree(build, &array, array.npy.shape[0], reterr);
    if (r == 0 && array.npy.dims == 2 && array.npy.shape[1] != 1)
        r = labels_matrix(build, &array, reterr);
    else
        for (uint64_t i = 0; r == 0 && i < build->nodes; i++) {
            struct place place = place_item(path, i);
            int64_t label = -1;
            bool missing;
            r = label_item(build, &array, i, 0, &label, &missing, reterr);
            if (r == 0)
                r = build_label(build, &place, i, missing, label, reterr);
        }
    array_done(&array);
    return r;
}

/* [n] or [n, targets] */
int array_targets(struct build *build, const char *path, struct error *reterr) {
    struct array array;
    const char *name;
    int r = array_open(build, path, &array, reterr);
    if (r == 0 && array.npz)
        r = npz_first(array.npz, 1, &array.npy, &name, NULL) < 0
                ? npz_first(array.npz, 2, &array.npy, &name, reterr)
                : 0;
    if (r == 0)
        r = array_expect(&array, array.npy.dims == 1 || array.npy.dims == 2,
                         "a number for each node, or [nodes, targets]", reterr);
    if (r == 0)
        r = nodes_agree(build, &array, array.npy.shape[0], reterr);
    struct place place = place_item(path, 0);
    if (r == 0)
        r = build_targets_begin(build, &place, array.npy.dims == 2 ? array.npy.shape[1] : 1,
                                reterr);
    uint32_t targets = build->classes;
    _cleanup_(mem_free_p) float *row = r == 0 ? mem_array(targets, sizeof *row) : NULL;
    for (uint64_t i = 0; r == 0 && i < build->nodes; i++) {
        for (uint64_t k = 0; k < targets; k++)
            row[k] = (float)npy_double(&array.npy, i * targets + k);
        place.number = i;
        r = build_target_row(build, &place, i, row, NULL, reterr);
    }
    array_done(&array);
    return r;
}

/* For arrays that have an item for each node. */
static int rows_are_nodes(const struct build *build, const char *path, struct error *reterr) {
    return numbered(build) || !build->ids
               ? 0
               : error_set(reterr, ERR_USAGE,
                           "%s: has an item for each node, and nothing says which node is number "
                           "0; give a file of nodes or features, or a list of ids",
                           path);
}

int array_split(struct build *build, const char *path, enum split split, struct error *reterr) {
    struct array array;
    int r = array_open(build, path, &array, reterr);
    bool mask = r == 0 && array.npy.type == NPY_BOOL;
    if (r == 0 && mask)
        r = rows_are_nodes(build, path, reterr);
    if (r == 0)
        r = array_expect(
            &array,
            !array.npz && array.npy.dims == 1 &&
                (mask ? array.npy.count == build->nodes : npy_type_is_integer(array.npy.type)),
            "integers of one dimension, the numbers of nodes; or a bool for each node", reterr);
    for (uint64_t i = 0; r == 0 && i < array.npy.count; i++) {
        struct place place = place_item(path, i);
        struct id_key key = id_key_integer(npy_int(&array.npy, i));
        int32_t node = (int32_t)i;
        if (mask && key.integer == 0)
            continue;
        if (!mask)
            r = array_resolve(build, &key, 1, &node, reterr);
        if (r == 0 && node < 0)
            r = array_unknown(build, &place, "node", &key, reterr);
        else if (r == 0)
            r = build_split(build, &place, (uint64_t)node, split, reterr);
    }
    array_done(&array);
    return r;
}

int array_split_column(struct build *build, const char *path, struct error *reterr) {
    struct array array;
    int r = array_open(build, path, &array, reterr);
    if (r == 0)
        r = rows_are_nodes(build, path, reterr);
    if (r == 0)
        r = array_expect(&array,
                         !array.npz && array.npy.dims == 1 && npy_type_is_integer(array.npy.type) &&
                             array.npy.count == build->nodes,
                         "one integer for each node", reterr);
    for (uint64_t i = 0; r == 0 && i < array.npy.count; i++) {
        struct place place = place_item(path, i);
        int64_t split = npy_int(&array.npy, i);
        if (split < SPLIT_NONE || split > SPLIT_TEST)
            r = build_reject(&place, ERR_RANGE, reterr,
                             "%lld is no split; they are 0 none, 1 train, 2 valid, 3 test",
                             (long long)split);
        else if (split != SPLIT_NONE)
            r = build_split(build, &place, i, (enum split)split, reterr);
    }
    array_done(&array);
    return r;
}

/* Edges on their way from an array into the build, a batch at a time. */
struct batch {
    struct build *build;
    const char *path;
    enum split kind;
    uint64_t first; /* the array's row of the batch's first edge */
    size_t n;
    struct id_key *from, *to;
    int32_t *numbers[2];
    float *weights;
};

static void batch_init(struct batch *batch, struct build *build, const char *path,
                       enum split kind) {
    *batch = (struct batch){.build = build, .path = path, .kind = kind};
    batch->from = mem_array(BATCH, sizeof *batch->from);
    batch->to = mem_array(BATCH, sizeof *batch->to);
    batch->numbers[0] = mem_array(BATCH, sizeof(int32_t));
    batch->numbers[1] = mem_array(BATCH, sizeof(int32_t));
    batch->weights = mem_array(BATCH, sizeof *batch->weights);
}

static void batch_done(struct batch *batch) {
    mem_free(batch->from);
    mem_free(batch->to);
    mem_free(batch->numbers[0]);
    mem_free(batch->numbers[1]);
    mem_free(batch->weights);
}

static int batch_flush(struct batch *batch, struct error *reterr) {
    struct build *build = batch->build;
    int r = array_resolve(build, batch->from, batch->n, batch->numbers[0], reterr);
    if (r == 0)
        r = array_resolve(build, batch->to, batch->n, batch->numbers[1], reterr);
    for (size_t i = 0; r == 0 && i < batch->n; i++) {
        struct place place = place_item(batch->path, batch->first + i);
        if (batch->numbers[0][i] < 0)
            r = array_unknown(build, &place, "source", &batch->from[i], reterr);
        else if (batch->numbers[1][i] < 0)
            r = array_unknown(build, &place, "target", &batch->to[i], reterr);
    }
    if (r < 0)
        return r;
    const struct edge_batch edges = {.n = batch->n,
                                     .from = batch->numbers[0],
                                     .to = batch->numbers[1],
                                     .weights = batch->weights};
    r = build_edges(build, batch->kind, &edges, reterr);
    batch->first += batch->n;
    batch->n = 0;
    return r;
}

static int batch_add(struct batch *batch, int64_t from, int64_t to, float weight,
                     struct error *reterr) {
    struct place place = place_item(batch->path, batch->first + batch->n);
    if (!isfinite(weight))
        return build_reject(&place, ERR_NOT_FINITE, reterr,
                            "the weight is %s; every weight must be a finite number (32 bits: "
                            "below 3.4e38)",
                            isnan(weight) ? "nan" : "infinite");
    batch->from[batch->n] = id_key_integer(from);
    batch->to[batch->n] = id_key_integer(to);
    batch->weights[batch->n++] = weight;
    return batch->n == BATCH ? batch_flush(batch, reterr) : 0;
}

/* Are these ids rather than numbers of nodes? Numbers are not negative, not beyond 31 bits, and
 * name more than one node in 32 of those they count. */
static bool ids_in(const struct npy *npy, uint64_t edges) {
    int64_t most = 0;
    for (uint64_t i = 0; i < npy->count; i++) {
        int64_t value = npy_int(npy, i);
        if (value < 0)
            return true;
        most = value > most ? value : most;
    }
    return most >= CSR_NODES_MAX || (uint64_t)most >= 64 * edges + 1024;
}

static int dense_edges(struct batch *batch, const struct array *array, struct error *reterr) {
    const struct npy *npy = &array->npy;
    const char *name = strrchr(array->path, '/');
    bool index = !strncmp(name ? name + 1 : array->path, "edge_index", 10);
    bool columns = npy->dims == 2 && npy->shape[0] == 2 && (index || npy->shape[1] != 2);
    int r = array_expect(
        array, npy_type_is_integer(npy->type) && npy->dims == 2 && (columns || npy->shape[1] == 2),
        "integers of shape [edges, 2] or [2, edges]", reterr);
    uint64_t count = columns ? npy->shape[1] : npy->shape[0];
    columns ^= npy->fortran; /* edge_index.T, as it is saved, is edge_index */
    /* The graph's edges say it; those set aside come when nodes have their numbers. */
    bool first = batch->kind == SPLIT_TRAIN && batch->build->open && !batch->build->ids;
    if (r == 0 && first && ids_in(npy, count))
        batch->build->ids = ids_new();
    for (uint64_t e = 0; r == 0 && e < count; e++) {
        batch->build->rows = e;
        if (e % BATCH == 0)
            r = build_progress(batch->build, "edges", e * 2 * npy_item_bytes(npy->type),
                               count * 2 * npy_item_bytes(npy->type), reterr);
        int64_t from = npy_int(npy, columns ? e : 2 * e);
        int64_t to = npy_int(npy, columns ? count + e : 2 * e + 1);
        if (r == 0 && npy->type == NPY_U8 && (from == INT64_MAX || to == INT64_MAX))
            r = error_set(reterr, ERR_RANGE,
                          "%s[%llu]: the %s is beyond the integers of 64 bits with a sign; write "
                          "such ids as text",
                          array->path, (unsigned long long)e,
                          from == INT64_MAX ? "source" : "target");
        if (r == 0)
            r = batch_add(batch, from, to, 1, reterr);
    }
    return r;
}

/* A square matrix says how many nodes there are. */
static int square(struct build *build, const char *path, const uint64_t shape[2], uint64_t entries,
                  struct error *reterr) {
    if (shape[0] != shape[1])
        return error_set(reterr, ERR_FORMAT,
                         "%s: a matrix of shape [%llu, %llu]; the edges of one kind of nodes are a "
                         "square one",
                         path, (unsigned long long)shape[0], (unsigned long long)shape[1]);
    if (!build->open || build->ids)
        return 0;
    build->open = false;
    build->nodes_path = path;
    return build_nodes_said(build, path, shape[0], entries, reterr);
}

static int compressed_edges(struct batch *batch, struct npz *npz, struct error *reterr) {
    struct npy indptr, indices, data;
    uint64_t shape[2];
    bool columns = !strcmp(npz_sparse_format(npz), "csc");
    int r = sparse_open(npz, batch->path, &indptr, &indices, &data, shape, reterr);
    if (r == 0)
        r = square(batch->build, batch->path, shape, indices.count, reterr);
    for (uint64_t i = 0; r == 0 && i < shape[0]; i++) {
        batch->build->rows = i;
        if (i % BATCH == 0)
            r = build_progress(batch->build, "edges",
                               (uint64_t)npy_int(&indptr, i) * sizeof(int32_t),
                               indices.count * sizeof(int32_t), reterr);
        for (int64_t e = npy_int(&indptr, i); r == 0 && e < npy_int(&indptr, i + 1); e++) {
            int64_t other = npy_int(&indices, (uint64_t)e);
            r = batch_add(batch, columns ? other : (int64_t)i, columns ? (int64_t)i : other,
                          (float)npy_double(&data, (uint64_t)e), reterr);
        }
    }
    return r;
}

static int coordinate_edges(struct batch *batch, struct npz *npz, struct error *reterr) {
    struct npy row, col, data, sizes;
    int r = npz_array(npz, "row", &row, reterr);
    if (r == 0)
        r = npz_array(npz, "col", &col, reterr);
    if (r == 0)
        r = npz_array(npz, "data", &data, reterr);
    if (r == 0)
        r = npz_array(npz, "shape", &sizes, reterr);
    if (r == 0 && (row.count != col.count || row.count != data.count || sizes.count != 2 ||
                   !npy_type_is_integer(row.type) || !npy_type_is_integer(col.type)))
        r = error_set(reterr, ERR_FORMAT, "%s: row, col and data do not belong together",
                      batch->path);
    if (r == 0) {
        const uint64_t shape[2] = {(uint64_t)npy_int(&sizes, 0), (uint64_t)npy_int(&sizes, 1)};
        r = square(batch->build, batch->path, shape, row.count, reterr);
    }
    for (uint64_t e = 0; r == 0 && e < row.count; e++) {
        batch->build->rows = e;
        if (e % BATCH == 0)
            r = build_progress(batch->build, "edges", e * sizeof(int64_t),
                               row.count * sizeof(int64_t), reterr);
        if (r == 0)
            r = batch_add(batch, npy_int(&row, e), npy_int(&col, e), (float)npy_double(&data, e),
                          reterr);
    }
    return r;
}

int array_edges(struct build *build, const char *path, enum split kind, struct error *reterr) {
    struct array array;
    struct batch batch;
    const char *name;
    int r = array_open_raw(build, path, &array, reterr);
    batch_init(&batch, build, path, kind);
    const char *format = r == 0 && array.npz ? npz_sparse_format(array.npz) : "";
    if (*format && strcmp(format, "csr") != 0 && strcmp(format, "csc") != 0 &&
        strcmp(format, "coo") != 0)
        r = error_set(reterr, ERR_FORMAT,
                      "%s: is a sparse matrix in %s form; save it as csr (matrix.tocsr())", path,
                      format);
    if (r == 0 && array.npz && npz_has(array.npz, "indptr"))
        r = compressed_edges(&batch, array.npz, reterr);
    else if (r == 0 && array.npz && npz_has(array.npz, "row"))
        r = coordinate_edges(&batch, array.npz, reterr);
    else if (r == 0) {
        if (array.npz)
            r = npz_first(array.npz, 2, &array.npy, &name, reterr);
        if (r == 0)
            r = dense_edges(&batch, &array, reterr);
    }
    if (r == 0)
        r = batch_flush(&batch, reterr);
    batch_done(&batch);
    array_done(&array);
    return r;
}

bool array_edges_weighted(const char *path) {
    struct npz *npz = NULL;
    struct npy data;
    struct error ignored = {0};
    bool weighted = false;
    if (!is_npz(path) || npz_open(path, &npz, &ignored) < 0)
        return false;
    if (npz_has(npz, "data") && npz_array(npz, "data", &data, &ignored) == 0)
        for (uint64_t i = 0; !weighted && i < data.count; i++)
            weighted = npy_double(&data, i) != 1;
    npz_close(npz);
    return weighted;
}
