/* What a layer multiplies with its weights: a dense array or, for features that are mostly zeros
 * (bags of words), compressed rows; and the preparation of a batch's features in either form, with
 * dropout. Inside worker/model only. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct batch;

/* CSR and its transpose. */
struct sparse {
    int64_t *indptr;  /* [rows + 1] */
    int32_t *indices; /* columns */
    float *values;
    int64_t *t_indptr;  /* [cols + 1] */
    int32_t *t_indices; /* rows, ascending */
    float *t_values;
};

struct matrix {
    size_t rows, cols;
    const float *dense;          /* [rows, cols]; NULL: sparse holds the numbers */
    const struct sparse *sparse; /* NULL: dense does */
};

/* y [rows, out] = (the first rows of x) w [cols, out] */
void matrix_multiply(const struct matrix *x, size_t rows, const float *w, size_t out, float *y);
/* The same, added to y. scratch [rows, out] may be used. */
void matrix_multiply_add(const struct matrix *x, size_t rows, const float *w, size_t out,
                         float *scratch, float *y);
/* dw [cols, out] = transposed (the first rows of x) dy [rows, out]. padded [x->rows, out] may be
 * used. */
void matrix_multiply_back(const struct matrix *x, size_t rows, const float *dy, size_t out,
                          float *padded, float *dw);

/* The inputs of batches as a matrix: features, and behind them learned rows. Owns the compressed
 * form (kept while batch->version stays the same) and the copy with both, or with dropout. */
struct features;
/* cols: of both; the last `embedding` of them are batch->embeddings. */
struct features *features_new(size_t cols, size_t embedding);
struct features *features_free(struct features *features);
/* p 0: no dropout. may_compress: the compressed form is welcome. The matrix is valid until the next
 * call. */
const struct matrix *features_prepare(struct features *features, const struct batch *batch,
                                      bool may_compress, float p, uint64_t key);
/* The gradient of the learned rows alone, [n_input, embedding], made in place of that of all inputs
 * as features_prepare(p, key) gave them, [n_input, cols]. */
void features_backward(const struct features *features, const struct batch *batch, float p,
                       uint64_t key, float *gradient);
/* Bytes it takes for a batch of rows of which filled numbers are not zero; repeated: the same
 * features come again. *ret_sparse: whether they will be compressed. */
size_t features_bytes(size_t rows, size_t cols, size_t embedding, uint64_t filled, bool repeated,
                      float p, bool *ret_sparse);
