/* Dense or compressed matrices times weights, and the features of a batch as such a matrix. */
#include "worker/model/matrix.h"

#include <assert.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "worker/graph/batch.h"
#include "worker/kernels/kernels.h"

void matrix_multiply(const struct matrix *x, size_t rows, const float *w, size_t out, float *y) {
    if (x->dense)
        gemm(false, false, rows, out, x->cols, 1, x->dense, x->cols, w, out, 0, y, out);
    else
        kernels()->spmm(rows, out, x->sparse->indptr, x->sparse->indices, x->sparse->values, NULL,
                        w, out, y, out);
}

void matrix_multiply_add(const struct matrix *x, size_t rows, const float *w, size_t out,
                         float *scratch, float *y) {
    if (x->dense) {
        gemm(false, false, rows, out, x->cols, 1, x->dense, x->cols, w, out, 1, y, out);
        return;
    }
    matrix_multiply(x, rows, w, out, scratch);
    for (size_t i = 0; i < rows * out; i++)
        y[i] += scratch[i];
}

void matrix_multiply_back(const struct matrix *x, size_t rows, const float *dy, size_t out,
                          float *padded, float *dw) {
    if (x->dense) {
        gemm(true, false, x->cols, out, rows, 1, x->dense, x->cols, dy, out, 0, dw, out);
        return;
    }
    /* The transpose runs over all rows of x, so those that do not count get a gradient of 0. */
    if (rows < x->rows) {
        memcpy(padded, dy, rows * out * sizeof *dy);
        memset(padded + rows * out, 0, (x->rows - rows) * out * sizeof *dy);
        dy = padded;
    }
    kernels()->spmm(x->cols, out, x->sparse->t_indptr, x->sparse->t_indices, x->sparse->t_values,
                    NULL, dy, out, dw, out);
}

struct features {
    size_t cols, embedding;
    struct matrix matrix; /* what the last features_prepare returned */

    uint64_t version; /* that compressed and is_sparse belong to; 0: none */
    bool is_sparse;
    struct sparse compressed;

    struct sparse dropped; /* compressed with other values */
    size_t dropped_count;
    float *made; /* dense inputs that are not as they lie in the batch */
    size_t made_count;
};

struct features *features_new(size_t cols, size_t embedding) {
    struct features *features = mem_alloc(sizeof *features);
    features->cols = cols;
    features->embedding = embedding;
    return features;
}

static void sparse_done(struct sparse *sparse) {
    mem_free(sparse->indptr);
    mem_free(sparse->indices);
    mem_free(sparse->values);
    mem_free(sparse->t_indptr);
    mem_free(sparse->t_indices);
    mem_free(sparse->t_values);
    *sparse = (struct sparse){0};
}

struct features *features_free(struct features *features) {
    if (features) {
        sparse_done(&features->compressed);
        mem_free(features->dropped.values);
        mem_free(features->dropped.t_values);
        mem_free(features->made);
        mem_free(features);
    }
    return NULL;
}

/* A multiplication by CSR costs about eight times as much per number as one by BLAS. */
#define DENSE_COST 8

/* Compresses x [rows, cols] unless too many numbers differ from 0. */
static bool sparse_init(struct sparse *sparse, const float *x, size_t rows, size_t cols) {
    size_t most = rows * cols / DENSE_COST, count = 0;
    for (size_t i = 0; i < rows * cols && count <= most; i++)
        count += x[i] != 0;
    if (count > most)
        return false;

    *sparse = (struct sparse){
        .indptr = mem_array(rows + 1, sizeof(int64_t)),
        .indices = mem_array(count, sizeof(int32_t)),
        .values = mem_array(count, sizeof(float)),
        .t_indptr = mem_array(cols + 1, sizeof(int64_t)),
        .t_indices = mem_array(count, sizeof(int32_t)),
        .t_values = mem_array(count, sizeof(float)),
    };
    int64_t at = 0;
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < cols; j++)
            if (x[i * cols + j] != 0) {
                sparse->indices[at] = (int32_t)j;
                sparse->values[at++] = x[i * cols + j];
                sparse->t_indptr[j + 1]++;
            }
        sparse->indptr[i + 1] = at;
    }
    for (size_t j = 0; j < cols; j++)
        sparse->t_indptr[j + 1] += sparse->t_indptr[j];
    _cleanup_(mem_free_p) int64_t *next = mem_array(cols, sizeof *next);
    memcpy(next, sparse->t_indptr, cols * sizeof *next);
    for (size_t i = 0; i < rows; i++)
        for (int64_t e = sparse->indptr[i]; e < sparse->indptr[i + 1]; e++) {
            int64_t slot = next[sparse->indices[e]]++;
            sparse->t_indices[slot] = (int32_t)i;
            sparse->t_values[slot] = sparse->values[e];
        }
    return true;
}

#define FLOATS_GROWN(count) ((count) + (count) / 8)

/* Grows *array to count floats at least; its contents are not kept. */
static void floats_reserve(float **array, size_t *capacity, size_t count) {
    if (count <= *capacity)
        return;
    mem_free(*array);
    *capacity = FLOATS_GROWN(count);
    *array = mem_array(*capacity, sizeof **array);
}

/* Was this element kept? Used as an index: a branch on a random number is mispredicted half of the
 * time. */
static size_t kept(uint64_t key, int64_t node, size_t cols, size_t col, float p) {
    return rng_float(rng_at(key, (uint64_t)node * cols + col)) >= p;
}

/* Dropout of the numbers that are not 0, as bias_act_dropout does it of all: element (i, j) is kept
 * by the same random number, in the compressed form and in its transpose. */
static void sparse_drop(struct features *features, const struct batch *batch, float p,
                        uint64_t key) {
    const struct sparse *from = &features->compressed;
    struct sparse *to = &features->dropped;
    size_t rows = batch->n_input, cols = features->cols, count = (size_t)from->indptr[rows];
    if (count > features->dropped_count || !to->values) {
        mem_free(to->values);
        mem_free(to->t_values);
        to->values = mem_array(count, sizeof(float));
        to->t_values = mem_array(count, sizeof(float));
        features->dropped_count = count;
    }
    to->indptr = from->indptr;
    to->indices = from->indices;
    to->t_indptr = from->t_indptr;
    to->t_indices = from->t_indices;

    const float factors[2] = {0, 1 / (1 - p)};
#pragma omp parallel for schedule(static) if (count >= 16384)
    for (size_t i = 0; i < rows; i++)
        for (int64_t e = from->indptr[i]; e < from->indptr[i + 1]; e++)
            to->values[e] = from->values[e] *
                            factors[kept(key, batch->nodes[i], cols, (size_t)from->indices[e], p)];
#pragma omp parallel for schedule(static) if (count >= 16384)
    for (size_t j = 0; j < cols; j++)
        for (int64_t e = from->t_indptr[j]; e < from->t_indptr[j + 1]; e++)
            to->t_values[e] = from->t_values[e] *
                              factors[kept(key, batch->nodes[from->t_indices[e]], cols, j, p)];
}

/* Features and learned rows side by side. */
static void join(size_t rows, size_t fixed, size_t learned, const float *features,
                 const float *embeddings, float *ret) {
#pragma omp parallel for schedule(static) if (rows * (fixed + learned) >= 65536)
    for (size_t i = 0; i < rows; i++) {
        float *row = ret + i * (fixed + learned);
        if (fixed > 0)
            memcpy(row, features + i * fixed, fixed * sizeof *row);
        memcpy(row + fixed, embeddings + i * learned, learned * sizeof *row);
    }
}

/* What is not kept from pass to pass. */
static const float *prepare_dense(struct features *features, const struct batch *batch, float p,
                                  uint64_t key) {
    size_t rows = batch->n_input, cols = features->cols, fixed = cols - features->embedding;
    bool joined = features->embedding > 0 && fixed > 0;
    const float *plain = features->embedding > 0 ? batch->embeddings : batch->features;
    if (!joined && p == 0)
        return plain;
    floats_reserve(&features->made, &features->made_count, rows * cols);
    if (joined)
        join(rows, fixed, features->embedding, batch->features, batch->embeddings, features->made);
    else if (rows > 0)
        memcpy(features->made, plain, rows * cols * sizeof(float));
    if (p > 0)
        kernels()->bias_act_dropout(rows, cols, features->made, NULL, false, p, key, batch->nodes,
                                    NULL);
    return features->made;
}

const struct matrix *features_prepare(struct features *features, const struct batch *batch,
                                      bool may_compress, float p, uint64_t key) {
    /* Worth the while only when the same features come again. */
    bool again = may_compress && batch->version != 0;
    if (again && batch->version != features->version) {
        sparse_done(&features->compressed);
        features->version = batch->version;
        features->is_sparse =
            sparse_init(&features->compressed, batch->features, batch->n_input, features->cols);
    }
    features->matrix = (struct matrix){.rows = batch->n_input, .cols = features->cols};
    if (!again || !features->is_sparse) {
        features->matrix.dense = prepare_dense(features, batch, p, key);
        return &features->matrix;
    }
    if (p > 0)
        sparse_drop(features, batch, p, key);
    features->matrix.sparse = p > 0 ? &features->dropped : &features->compressed;
    return &features->matrix;
}

void features_backward(const struct features *features, const struct batch *batch, float p,
                       uint64_t key, float *gradient) {
    size_t rows = batch->n_input, cols = features->cols, learned = features->embedding;
    size_t fixed = cols - learned;
    const float factors[2] = {0, 1 / (1 - p)};
    /* A row goes to where it, or one before it, came from. */
    for (size_t i = 0; i < rows && fixed > 0; i++)
        memmove(gradient + i * learned, gradient + i * cols + fixed, learned * sizeof *gradient);
#pragma omp parallel for schedule(static) if (rows * learned >= 16384)
    for (size_t i = 0; i < (p > 0 ? rows : 0); i++)
        for (size_t j = 0; j < learned; j++)
            gradient[i * learned + j] *= factors[kept(key, batch->nodes[i], cols, fixed + j, p)];
}

size_t features_bytes(size_t rows, size_t cols, size_t embedding, uint64_t filled, bool repeated,
                      float p, bool *ret_sparse) {
    *ret_sparse = repeated && filled <= rows * cols / DENSE_COST;
    size_t values = 2 * filled * sizeof(float);
    if (*ret_sparse)
        return (rows + cols) * sizeof(int64_t) + 2 * filled * sizeof(int32_t) + values +
               (p > 0 ? values : 0);
    bool made = p > 0 || (embedding > 0 && embedding < cols);
    return made ? FLOATS_GROWN(rows * cols) * sizeof(float) : 0;
}
