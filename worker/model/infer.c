/* Blocks of rows through a layer. Which of graph and weights comes first follows the narrower side,
 * as in training, but features that have to be made from what lies on disk meet the weights first:
 * so they are made block by block. The self term of a GCN is one more edge of its row. */
#include "worker/model/infer.h"

#include <assert.h>
#include <string.h>

#include "common/mem.h"
#include "worker/graph/mfg.h"
#include "worker/kernels/kernels.h"
#include "worker/model/loss.h"

#define BLOCK_ROWS 16384u
#define BLOCK_EDGES (1u << 20) /* about: a row is never cut */

/* A block's rows as a CSR of its own. */
struct block {
    uint64_t first;
    uint32_t rows;
    int64_t *indptr;  /* [BLOCK_ROWS + 1] */
    int32_t *indices; /* [infer.block_edges] */
    float *weights;
};

struct infer {
    struct model_spec spec;
    const struct store *store;
    float *outputs[2]; /* of the layer before and of the one at hand */
    float *product;    /* X W of all sources, where the weights come first */
    float *propagated; /* [BLOCK_ROWS, in], where the graph comes first */
    float *taken;      /* [BLOCK_ROWS, in] features, where they are not mapped as they should be */
    struct block block;
    size_t block_edges; /* that a block has at most */
};

/* Nodes within hops of the owned ones, as far as the store has them. */
static uint64_t nodes_within(const struct store *store, size_t hops) {
    return store->hop_nodes[hops < store->halo ? hops : store->halo];
}

static size_t layer_in(const struct model_spec *spec, size_t l) {
    return l == 0 ? spec->input_dim : spec->hidden;
}

static size_t layer_out(const struct model_spec *spec, size_t l) {
    return l + 1 == spec->layers ? spec->classes : spec->hidden;
}

static bool takes_features(const struct infer *infer, size_t l) {
    return l == 0 && !store_features_plain(infer->store);
}

static bool graph_first(const struct infer *infer, size_t l) {
    const struct model_spec *spec = &infer->spec;
    return spec->kind != MODEL_MLP && layer_in(spec, l) <= layer_out(spec, l) &&
           !takes_features(infer, l);
}

/* Rows that layer l computes, and those it reads. */
static uint64_t layer_rows(const struct infer *infer, size_t l) {
    return infer->spec.kind == MODEL_MLP ? infer->store->owned
                                         : nodes_within(infer->store, infer->spec.layers - 1 - l);
}

static uint64_t layer_sources(const struct infer *infer, size_t l) {
    return infer->spec.kind == MODEL_MLP ? infer->store->owned
                                         : nodes_within(infer->store, infer->spec.layers - l);
}

static uint64_t block_rows_max(uint64_t rows) {
    return rows < BLOCK_ROWS ? rows : BLOCK_ROWS;
}

enum { OUTPUTS_0, OUTPUTS_1, PRODUCT, PROPAGATED, TAKEN, ARRAYS };

static void raise_to(size_t *floats, size_t at_least) {
    *floats = *floats < at_least ? at_least : *floats;
}

/* Floats of each of the arrays. */
static void plan(const struct infer *infer, size_t floats[ARRAYS]) {
    const struct model_spec *spec = &infer->spec;
    memset(floats, 0, ARRAYS * sizeof *floats);
    for (size_t l = 0; l < spec->layers; l++) {
        size_t in = layer_in(spec, l), out = layer_out(spec, l);
        bool product = spec->kind != MODEL_MLP && !graph_first(infer, l);
        raise_to(&floats[l % 2], layer_rows(infer, l) * out);
        uint64_t taken = product ? layer_sources(infer, l) : layer_rows(infer, l);
        if (graph_first(infer, l))
            raise_to(&floats[PROPAGATED], block_rows_max(layer_rows(infer, l)) * in);
        if (product)
            raise_to(&floats[PRODUCT], layer_sources(infer, l) * out);
        if (takes_features(infer, l))
            raise_to(&floats[TAKEN], block_rows_max(taken) * in);
    }
}

/* Where the row's edges are in the store; none beyond what it has. */
static int64_t row_edge(const struct store *store, uint64_t row) {
    return store->indptr[row < store->rows ? row : store->rows];
}

/* How many rows from first on, up to end, are a block, and their edges; indptr may be NULL. */
static uint32_t block_extent(const struct infer *infer, uint64_t first, uint64_t end,
                             int64_t *indptr, size_t *ret_edges) {
    bool self = infer->spec.kind == MODEL_GCN;
    uint32_t rows = 0;
    size_t edges = 0;
    while (first + rows < end && rows < BLOCK_ROWS) {
        uint64_t i = first + rows;
        size_t row =
            infer->spec.kind == MODEL_MLP
                ? 0
                : (size_t)(row_edge(infer->store, i + 1) - row_edge(infer->store, i)) + self;
        if (rows > 0 && edges + row > BLOCK_EDGES)
            break;
        edges += row;
        rows++;
        if (indptr)
            indptr[rows] = (int64_t)edges;
    }
    *ret_edges = edges;
    return rows;
}

/* Every layer's blocks begin with the first row, and no layer has more rows than the first one. */
static size_t block_edges_max(const struct infer *infer) {
    size_t most = 0, edges;
    for (uint64_t i = 0, rows = layer_rows(infer, 0); i < rows;) {
        i += block_extent(infer, i, rows, NULL, &edges);
        raise_to(&most, edges);
    }
    return most;
}

size_t infer_bytes(const struct model_spec *spec, const struct store *store) {
    const struct infer infer = {.spec = *spec, .store = store};
    size_t floats[ARRAYS], all = 0;
    plan(&infer, floats);
    for (size_t i = 0; i < ARRAYS; i++)
        all += floats[i];
    return all * sizeof(float) + (BLOCK_ROWS + 1) * sizeof(int64_t) +
           block_edges_max(&infer) * (sizeof(int32_t) + sizeof(float));
}

struct infer *infer_new(const struct model_spec *spec, const struct store *store) {
    struct infer *infer = mem_alloc(sizeof *infer);
    infer->spec = *spec;
    infer->store = store;
    size_t floats[ARRAYS];
    plan(infer, floats);
    infer->outputs[0] = mem_raw(floats[OUTPUTS_0] * sizeof(float));
    infer->outputs[1] = mem_raw(floats[OUTPUTS_1] * sizeof(float));
    infer->product = mem_raw(floats[PRODUCT] * sizeof(float));
    infer->propagated = mem_raw(floats[PROPAGATED] * sizeof(float));
    infer->taken = mem_raw(floats[TAKEN] * sizeof(float));
    infer->block_edges = block_edges_max(infer);
    infer->block.indptr = mem_raw((BLOCK_ROWS + 1) * sizeof *infer->block.indptr);
    infer->block.indices = mem_raw(infer->block_edges * sizeof *infer->block.indices);
    infer->block.weights = mem_raw(infer->block_edges * sizeof *infer->block.weights);
    return infer;
}

struct infer *infer_free(struct infer *infer) {
    if (!infer)
        return NULL;
    mem_free(infer->outputs[0]);
    mem_free(infer->outputs[1]);
    mem_free(infer->product);
    mem_free(infer->propagated);
    mem_free(infer->taken);
    mem_free(infer->block.indptr);
    mem_free(infer->block.indices);
    mem_free(infer->block.weights);
    mem_free(infer);
    return NULL;
}

/* As many rows from first on as fit, up to end; with their edges and weights. */
static void block_take(struct infer *infer, uint64_t first, uint64_t end) {
    const struct store *store = infer->store;
    struct block *block = &infer->block;
    bool self = infer->spec.kind == MODEL_GCN;
    size_t edges;
    block->first = first;
    block->indptr[0] = 0;
    uint32_t rows = block->rows = block_extent(infer, first, end, block->indptr, &edges);
    if (edges == 0)
        return;
#pragma omp parallel for schedule(dynamic, 256) if (edges >= 16384)
    for (uint32_t k = 0; k < rows; k++) {
        uint64_t i = first + k;
        int64_t at = block->indptr[k], begin = row_edge(store, i),
                degree = row_edge(store, i + 1) - begin;
        for (int64_t e = 0; e < degree; e++, at++) {
            int32_t source = store->indices[begin + e];
            block->indices[at] = source;
            block->weights[at] =
                mfg_weight(infer->spec.kind, store->degree[i], store->degree[source], 1, degree);
        }
        if (self) {
            block->indices[at] = (int32_t)i;
            block->weights[at] = mfg_self(store->degree[i]);
        }
    }
}

static void propagate(const struct block *block, size_t d, const float *x, float *y) {
    kernels()->spmm(block->rows, d, block->indptr, block->indices, block->weights, NULL, x, d, y,
                    d);
}

/* Rows first .. first + rows - 1 of a layer's inputs; x NULL: of the features, made. */
static const float *input_rows(struct infer *infer, const float *x, size_t in, uint64_t first,
                               uint32_t rows) {
    if (x)
        return x + first * in;
    store_take_rows(infer->store, first, rows, infer->taken);
    return infer->taken;
}

/* One block of a layer: x [sources, in] or NULL, y [rows of the block, out]. */
static void block_run(struct infer *infer, size_t l, const float *x, const float *weights,
                      const float *bias, float *y) {
    const struct model_spec *spec = &infer->spec;
    const struct block *block = &infer->block;
    size_t in = layer_in(spec, l), out = layer_out(spec, l);
    const float *w_neighbor = spec->kind == MODEL_SAGE ? weights + in * out : weights;
    if (spec->kind != MODEL_MLP && graph_first(infer, l)) {
        propagate(block, in, x, infer->propagated);
        gemm(false, false, block->rows, out, in, 1, infer->propagated, in, w_neighbor, out, 0, y,
             out);
    } else if (spec->kind != MODEL_MLP) {
        propagate(block, out, infer->product, y);
    }
    if (spec->kind != MODEL_GCN)
        gemm(false, false, block->rows, out, in, 1,
             input_rows(infer, x, in, block->first, block->rows), in, weights, out,
             spec->kind == MODEL_SAGE ? 1 : 0, y, out);
    kernels()->bias_act_dropout(block->rows, out, y, bias, l + 1 < spec->layers, 0, 0, NULL, NULL);
}

static void layer_run(struct infer *infer, size_t l, const float *x, const float *weights,
                      const float *bias, float *y) {
    const struct model_spec *spec = &infer->spec;
    size_t in = layer_in(spec, l), out = layer_out(spec, l);
    uint64_t rows = layer_rows(infer, l), sources = layer_sources(infer, l);
    bool product = spec->kind != MODEL_MLP && !graph_first(infer, l);
    for (uint64_t i = 0; product && i < sources; i += BLOCK_ROWS) {
        uint32_t n = (uint32_t)(sources - i < BLOCK_ROWS ? sources - i : BLOCK_ROWS);
        gemm(false, false, n, out, in, 1, input_rows(infer, x, in, i, n), in,
             spec->kind == MODEL_SAGE ? weights + in * out : weights, out, 0,
             infer->product + i * out, out);
    }
    for (uint64_t i = 0; i < rows; i += infer->block.rows) {
        block_take(infer, i, rows);
        block_run(infer, l, x, weights, bias, y + i * out);
    }
}

const float *infer_run(struct infer *infer, const float *weights, struct model_result *result) {
    const struct model_spec *spec = &infer->spec;
    const struct store *store = infer->store;
    const float *x = store_features_plain(store) ? store->features : NULL;
    for (size_t l = 0; l < spec->layers; l++) {
        size_t count = layer_in(spec, l) * layer_out(spec, l) * (spec->kind == MODEL_SAGE ? 2 : 1);
        layer_run(infer, l, x, weights, weights + count, infer->outputs[l % 2]);
        weights += count + layer_out(spec, l);
        x = infer->outputs[l % 2];
    }
    if (result)
        loss_forward(store->owned, spec->classes, x, store->labels, store->split,
                     spec->label_smoothing, result);
    return x;
}
