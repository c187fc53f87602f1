/* Blocks of rows through a layer. Which of graph and weights comes first follows the narrower side,
 * as in training, but features that have to be made from what lies on disk meet the weights first:
 * so they are made block by block. A node's own term is one more edge of its row. */
#include "worker/model/infer.h"

#include <assert.h>
#include <string.h>

#include "common/mem.h"
#include "worker/graph/mfg.h"
#include "worker/kernels/kernels.h"
#include "worker/model/finish.h"
#include "worker/model/layer.h"
#include "worker/model/loss.h"
#include "worker/model/loss_multi.h"
#include "worker/model/loss_square.h"

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

enum {
    OUTPUTS_0, /* outputs of a layer and of the one before, taking turns */
    OUTPUTS_1,
    START,    /* outputs that ppr layers start from */
    JUMP,     /* outputs of a jump, which fill while the layers before it are computed */
    PRODUCT,  /* projections of all sources */
    SAVED,    /* [BLOCK_ROWS, in] A x, where the graph comes first */
    OWN,      /* the layer's */
    SCRATCH,  /* the same */
    TAKEN,    /* [BLOCK_ROWS, in] inputs, where they are not mapped as they should be */
    FEATURES, /* all of them, where a layer needs them so */
    FIXED,    /* [BLOCK_ROWS, features] before learned rows are put behind them */
    LEARNED,  /* [BLOCK_ROWS, embedding] those */
    ARRAYS
};

struct infer {
    struct model_spec spec;
    const struct store *store;
    float *arrays[ARRAYS];
    struct block block;
    size_t block_edges; /* that a block has at most */
    infer_rows *rows;
    void *rows_ctx;
    bool failed; /* rows could not be had */
};

/* Nodes within hops of the owned ones, as far as the store has them. */
static uint64_t nodes_within(const struct store *store, size_t hops) {
    return store->hop_nodes[hops < store->halo ? hops : store->halo];
}

static bool propagates(const struct layer_spec *layer) {
    return layer->graph != GRAPH_NONE;
}

/* Rows that a layer reads, and those it computes. */
static uint64_t layer_sources(const struct infer *infer, size_t l) {
    const struct hops *hops = &infer->spec.hops;
    return nodes_within(infer->store, hops->outer + hops->count - infer->spec.layers[l].hop);
}

static uint64_t layer_rows(const struct infer *infer, size_t l) {
    const struct layer_spec *layer = &infer->spec.layers[l];
    const struct hops *hops = &infer->spec.hops;
    return nodes_within(infer->store,
                        hops->outer + hops->count - layer->hop - (propagates(layer) ? 1 : 0));
}

static bool makes_features(const struct infer *infer, size_t l) {
    return l == 0 && (infer->spec.embedding || !store_features_plain(infer->store));
}

static bool graph_first(const struct infer *infer, size_t l) {
    const struct layer_spec *layer = &infer->spec.layers[l];
    if (!propagates(layer) || layer->order != ORDER_EITHER)
        return layer->order == ORDER_GRAPH;
    return layer->in <= layer->out && !makes_features(infer, l);
}

/* Which array a layer's outputs go to. */
static int outputs_of(const struct infer *infer, size_t l) {
    const struct layer_spec *layer = &infer->spec.layers[l];
    if (layer->kind == LAYER_jump)
        return JUMP;
    bool starts =
        l + 1 < infer->spec.count && layer[1].kind == LAYER_ppr && layer->kind != LAYER_ppr;
    return starts ? START : l % 2 == 0 ? OUTPUTS_0 : OUTPUTS_1;
}

static uint64_t block_rows_max(uint64_t rows) {
    return rows < BLOCK_ROWS ? rows : BLOCK_ROWS;
}

static void raise_to(size_t *floats, size_t at_least) {
    *floats = *floats < at_least ? at_least : *floats;
}

/* Floats of each of the arrays. */
static void plan(const struct infer *infer, size_t floats[ARRAYS]) {
    memset(floats, 0, ARRAYS * sizeof *floats);
    for (size_t l = 0; l < infer->spec.count; l++) {
        const struct layer_spec *layer = &infer->spec.layers[l];
        bool first = graph_first(infer, l);
        uint64_t sources = layer_sources(infer, l), rows = block_rows_max(layer_rows(infer, l));
        struct layer_room room = layer_of(layer->kind)->room(layer, rows, rows, first, false);
        raise_to(&floats[outputs_of(infer, l)], layer_rows(infer, l) * layer->out);
        raise_to(&floats[PRODUCT], sources * room.z);
        raise_to(&floats[SAVED], first ? rows * layer_saved(layer, &room) : 0);
        raise_to(&floats[OWN], room.own);
        raise_to(&floats[SCRATCH], room.scratch);
        raise_to(&floats[SCRATCH], finish_room(layer, rows, rows, false).scratch);
        size_t learned = infer->spec.embedding, fixed = infer->spec.input_dim - learned;
        if (l == 0 && learned > 0 && fixed > 0) {
            floats[FIXED] = block_rows_max(sources) * fixed;
            floats[LEARNED] = block_rows_max(sources) * learned;
        }
        if (makes_features(infer, l) && first)
            floats[FEATURES] = sources * layer->in;
        else if (makes_features(infer, l))
            floats[TAKEN] = block_rows_max(sources) * layer->in;
    }
}

/* Where the row's edges are in the store; none beyond what it has. */
static int64_t row_edge(const struct store *store, uint64_t row) {
    return store->indptr[row < store->rows ? row : store->rows];
}

/* How many rows of a layer from first on, up to end, are a block, and their edges; indptr may be
 * NULL. */
static uint32_t block_extent(const struct infer *infer, const struct layer_spec *layer,
                             uint64_t first, uint64_t end, int64_t *indptr, size_t *ret_edges) {
    bool edged = propagates(layer), self = edged && mfg_has_self(layer->graph);
    uint32_t rows = 0;
    size_t edges = 0;
    while (first + rows < end && rows < BLOCK_ROWS) {
        uint64_t i = first + rows;
        size_t row =
            edged ? (size_t)(row_edge(infer->store, i + 1) - row_edge(infer->store, i)) + self : 0;
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

/* Every layer's blocks begin with the first row, and no layer of a norm has more rows than the
 * first one. */
static size_t block_edges_max(const struct infer *infer) {
    size_t most = 0, edges;
    bool seen[GRAPH_NONE + 1] = {false};
    for (size_t l = 0; l < infer->spec.count; l++) {
        const struct layer_spec *layer = &infer->spec.layers[l];
        if (seen[layer->graph])
            continue;
        seen[layer->graph] = true;
        for (uint64_t i = 0, rows = layer_rows(infer, l); i < rows;) {
            i += block_extent(infer, layer, i, rows, NULL, &edges);
            raise_to(&most, edges);
        }
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
    for (size_t i = 0; i < ARRAYS; i++)
        infer->arrays[i] = mem_raw(floats[i] * sizeof(float));
    infer->block_edges = block_edges_max(infer);
    infer->block.indptr = mem_raw((BLOCK_ROWS + 1) * sizeof *infer->block.indptr);
    infer->block.indices = mem_raw(infer->block_edges * sizeof *infer->block.indices);
    infer->block.weights = mem_raw(infer->block_edges * sizeof *infer->block.weights);
    return infer;
}

struct infer *infer_free(struct infer *infer) {
    if (!infer)
        return NULL;
    for (size_t i = 0; i < ARRAYS; i++)
        mem_free(infer->arrays[i]);
    mem_free(infer->block.indptr);
    mem_free(infer->block.indices);
    mem_free(infer->block.weights);
    mem_free(infer);
    return NULL;
}

/* As many rows of a layer from first on as fit, up to end; with their edges and weights. */
static void block_take(struct infer *infer, const struct layer_spec *layer, uint64_t first,
                       uint64_t end) {
    const struct store *store = infer->store;
    struct block *block = &infer->block;
    size_t edges;
    block->first = first;
    block->indptr[0] = 0;
    uint32_t rows = block->rows = block_extent(infer, layer, first, end, block->indptr, &edges);
    if (edges == 0)
        return;
    bool self = mfg_has_self(layer->graph);
#pragma omp parallel for schedule(dynamic, 256) if (edges >= 16384)
    for (uint32_t k = 0; k < rows; k++) {
        uint64_t i = first + k;
        int64_t at = block->indptr[k], begin = row_edge(store, i),
                degree = row_edge(store, i + 1) - begin;
        double whole = mfg_degree(store, layer->graph, i);
        double total = mfg_total(store, layer->graph, begin, begin + degree);
        for (int64_t e = begin; e < begin + degree; e++, at++) {
            int32_t source = store->indices[e];
            block->indices[at] = source;
            block->weights[at] =
                mfg_weight(store, layer->graph, e, whole,
                           mfg_degree(store, layer->graph, (uint64_t)source), total);
        }
        if (self) {
            block->indices[at] = (int32_t)i;
            block->weights[at] = mfg_self(layer->graph, whole);
        }
    }
}

void infer_set_rows(struct infer *infer, infer_rows *rows, void *ctx) {
    infer->rows = rows;
    infer->rows_ctx = ctx;
}

/* The model's inputs of at most BLOCK_ROWS nodes; zeros once rows could not be had. */
static void take_block(struct infer *infer, uint64_t first, uint32_t rows, float *ret) {
    size_t in = infer->spec.input_dim, learned = infer->spec.embedding, fixed = in - learned;
    if (learned == 0) {
        store_take_rows(infer->store, first, rows, ret);
        return;
    }
    float *taken = fixed > 0 ? infer->arrays[LEARNED] : ret;
    infer->failed = infer->failed || infer->rows(infer->rows_ctx, first, rows, taken) < 0;
    if (infer->failed)
        memset(taken, 0, rows * learned * sizeof *taken);
    if (fixed == 0)
        return;
    store_take_rows(infer->store, first, rows, infer->arrays[FIXED]);
    for (size_t i = 0; i < rows; i++) {
        memcpy(ret + i * in, infer->arrays[FIXED] + i * fixed, fixed * sizeof *ret);
        memcpy(ret + i * in + fixed, taken + i * learned, learned * sizeof *ret);
    }
}

static void take_all(struct infer *infer, uint64_t rows, float *ret) {
    for (uint64_t i = 0; i < rows; i += BLOCK_ROWS)
        take_block(infer, i, (uint32_t)block_rows_max(rows - i), ret + i * infer->spec.input_dim);
}

/* Rows first .. first + rows - 1 of a layer's inputs; x NULL: of the model's, made. */
static struct matrix input_rows(struct infer *infer, const float *x, size_t in, uint64_t first,
                                uint32_t rows) {
    struct matrix matrix = {.rows = rows, .cols = in, .dense = infer->arrays[TAKEN]};
    if (x)
        matrix.dense = x + first * in;
    else
        take_block(infer, first, rows, infer->arrays[TAKEN]);
    return matrix;
}

/* The block of a layer: x [sources, in] or NULL, y [rows of the block, out]. */
static void block_run(struct infer *infer, size_t l, const float *x, const float *weights,
                      const float *statistics, float *y) {
    const struct layer_spec *spec = &infer->spec.layers[l];
    const struct layer *kind = layer_of(spec->kind);
    const struct block *block = &infer->block;
    const struct layer_graph graph = {.n_dst = block->rows,
                                      .n_src = (uint32_t)layer_sources(infer, l),
                                      .indptr = block->indptr,
                                      .indices = block->indices,
                                      .weights = block->weights};
    struct matrix all = {.rows = graph.n_src, .cols = spec->in, .dense = x}, own = all;
    if (kind->takes_own_rows || spec->residual)
        own = input_rows(infer, x, spec->in, block->first, block->rows);
    const struct layer_pass pass = {
        .spec = spec,
        .graph = propagates(spec) ? &graph : NULL,
        .n_src = graph.n_src,
        .n_dst = block->rows,
        .x = &all,
        .x_dst = &own,
        .start = spec->kind == LAYER_ppr
                     ? infer->arrays[outputs_of(infer, spec->start)] + block->first * spec->out
                     : NULL,
        .graph_first = graph_first(infer, l),
        .weights = weights,
        .z = infer->arrays[PRODUCT],
        .saved = infer->arrays[SAVED],
        .own = infer->arrays[OWN],
        .first = block->first,
        .scratch = infer->arrays[SCRATCH],
    };
    const struct finish_pass finish = {
        .spec = spec,
        .has_bias = kind->tensors,
        .n = block->rows,
        .x_dst = &own,
        .weights = weights + layer_weights(spec),
        .statistics = statistics,
        .scratch = infer->arrays[SCRATCH],
    };
    kind->forward(&pass, y);
    finish_forward(&finish, y);
}

static void layer_run(struct infer *infer, size_t l, const float *x, const float *weights,
                      const float *statistics, float *y) {
    const struct layer_spec *spec = &infer->spec.layers[l];
    const struct layer *kind = layer_of(spec->kind);
    uint64_t rows = layer_rows(infer, l), sources = layer_sources(infer, l);
    bool first = graph_first(infer, l);
    size_t z = kind->room(spec, 0, 0, first, false).z;
    const struct layer_pass pass = {
        .spec = spec, .n_src = sources, .weights = weights, .z = infer->arrays[PRODUCT]};
    if (!x && first) {
        take_all(infer, sources, infer->arrays[FEATURES]);
        x = infer->arrays[FEATURES];
    }
    for (uint64_t i = 0; z > 0 && i < sources; i += BLOCK_ROWS) {
        uint32_t n = (uint32_t)(sources - i < BLOCK_ROWS ? sources - i : BLOCK_ROWS);
        struct matrix some = input_rows(infer, x, spec->in, i, n);
        kind->project(&pass, &some, i, n);
    }
    for (uint64_t i = 0; i < rows; i += infer->block.rows) {
        block_take(infer, spec, i, rows);
        block_run(infer, l, x, weights, statistics, y + i * spec->out);
    }
}

/* All is in y but what follows a layer. */
static void jump_run(struct infer *infer, size_t l, const float *weights, const float *statistics,
                     float *y) {
    const struct layer_spec *spec = &infer->spec.layers[l];
    const struct finish_pass finish = {
        .spec = spec,
        .n = layer_rows(infer, l),
        .weights = weights,
        .statistics = statistics,
        .scratch = infer->arrays[SCRATCH],
    };
    finish_forward(&finish, y);
}

/* The rows of a layer's outputs that a jump further on wants. */
static void jump_take(struct infer *infer, size_t l, const float *y) {
    const struct layer_spec *layers = infer->spec.layers;
    for (size_t k = l + 1; k < infer->spec.count; k++)
        if (layers[k].kind == LAYER_jump)
            jump_put(&layers[k], l, layer_rows(infer, k), y, infer->arrays[JUMP]);
}

const float *infer_run(struct infer *infer, const float *weights, struct model_result *result) {
    const struct model_spec *spec = &infer->spec;
    const struct store *store = infer->store;
    const float *x = makes_features(infer, 0) ? NULL : store->features;
    infer->failed = false;
    const float *statistics = weights;
    for (size_t l = 0; l < spec->count; l++) {
        size_t own = layer_weights(&spec->layers[l]);
        statistics += own + finish_weights(&spec->layers[l], own > 0);
    }
    for (size_t l = 0; l < spec->count && !infer->failed; l++) {
        size_t own = layer_weights(&spec->layers[l]);
        float *y = infer->arrays[outputs_of(infer, l)];
        if (spec->layers[l].kind == LAYER_jump)
            jump_run(infer, l, weights, statistics, y);
        else
            layer_run(infer, l, x, weights, statistics, y);
        jump_take(infer, l, y);
        weights += own + finish_weights(&spec->layers[l], own > 0);
        statistics += finish_statistics_floats(&spec->layers[l]);
        x = y;
    }
    if (infer->failed)
        return NULL;
    if (result && store->multi_labels)
        loss_multi_forward(store->owned, spec->classes, x, store->labels, store->multi_labels,
                           store->split, result);
    else if (result && store->targets)
        loss_square_forward(store->owned, spec->classes, x, store->labels, store->targets,
                            store->split, result);
    else if (result)
        loss_forward(store->owned, spec->classes, x, store->labels, store->split,
                     spec->label_smoothing, result);
    return x;
}
