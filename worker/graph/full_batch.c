/* One batch over all owned nodes of a store, made once. Local nodes are numbered by hop, so what a
 * layer computes is a prefix of them, and all layers share one array of edges and weights: a layer
 * is a number of rows. Owns the weights and transposes, and features where it had to make them; the
 * rest is the store's. */
#include "worker/graph/sampler.h"

#include <assert.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "worker/graph/mfg.h"

struct full_batch {
    struct batch batch;
    int64_t *indptr; /* the store's, with empty rows for nodes that have none there */
    float *weights, *self;
    float *features; /* a copy, where the store's are not what a model wants; else NULL */
    /* One transpose for each size of graph; layers of the same size share it. */
    size_t transpose_count;
    int64_t *t_indptr[LAYERS_MAX];
    int32_t *t_indices[LAYERS_MAX];
    float *t_weights[LAYERS_MAX];
};

/* Nodes within hops of the owned ones, as far as the store has them. */
static uint32_t nodes_within(const struct store *store, size_t hops) {
    return (uint32_t)store->hop_nodes[hops < store->halo ? hops : store->halo];
}

static void make_weights(struct full_batch *full, const struct store *store, int kind,
                         uint32_t rows) {
    full->indptr = mem_array((size_t)rows + 1, sizeof *full->indptr);
    for (uint32_t i = 0; i <= rows; i++)
        full->indptr[i] = store->indptr[i < store->rows ? i : store->rows];
    full->weights = mem_array((size_t)full->indptr[rows], sizeof *full->weights);
    full->self = mem_array(rows, sizeof *full->self);
    for (uint32_t i = 0; i < rows; i++) {
        int32_t degree = store->degree[i];
        int64_t present = full->indptr[i + 1] - full->indptr[i];
        full->self[i] = mfg_self(degree);
        for (int64_t e = full->indptr[i]; e < full->indptr[i + 1]; e++)
            full->weights[e] =
                mfg_weight(kind, degree, store->degree[store->indices[e]], 1, present);
    }
}

static void make_transpose(struct full_batch *full, size_t l) {
    struct layer_graph *graph = &full->batch.graphs[l];
    const struct layer_graph *before = l > 0 ? graph - 1 : NULL;
    if (before && before->n_dst == graph->n_dst && before->n_src == graph->n_src) {
        graph->t_indptr = before->t_indptr;
        graph->t_indices = before->t_indices;
        graph->t_weights = before->t_weights;
        return;
    }
    size_t t = full->transpose_count++, edges = (size_t)graph->indptr[graph->n_dst];
    graph->t_indptr = full->t_indptr[t] = mem_array((size_t)graph->n_src + 1, sizeof(int64_t));
    graph->t_indices = full->t_indices[t] = mem_array(edges, sizeof(int32_t));
    graph->t_weights = full->t_weights[t] = mem_array(edges, sizeof(float));
    mfg_transpose(graph->n_dst, graph->n_src, graph->indptr, graph->indices, graph->weights,
                  full->t_indptr[t], full->t_indices[t], full->t_weights[t]);
}

static void make_graphs(struct full_batch *full, const struct store *store, int kind,
                        size_t layers) {
    make_weights(full, store, kind, nodes_within(store, layers - 1));
    for (size_t l = 0; l < layers; l++) {
        full->batch.graphs[l] = (struct layer_graph){
            .n_dst = nodes_within(store, layers - 1 - l),
            .n_src = nodes_within(store, layers - l),
            .indptr = full->indptr,
            .indices = store->indices,
            .weights = full->weights,
            .self = kind == MODEL_GCN ? full->self : NULL,
        };
        make_transpose(full, l);
    }
}

/* No edges: every layer maps the owned nodes to themselves. */
static void make_empty_graphs(struct full_batch *full, const struct store *store, size_t layers) {
    full->indptr = mem_array(store->owned + 1, sizeof *full->indptr);
    for (size_t l = 0; l < layers; l++)
        full->batch.graphs[l] = (struct layer_graph){
            .n_dst = (uint32_t)store->owned,
            .n_src = (uint32_t)store->owned,
            .indptr = full->indptr,
            .t_indptr = full->indptr,
        };
}

struct full_batch *full_batch_new(const struct store *store, int kind, size_t layers) {
    assert(layers >= 1 && layers <= LAYERS_MAX);
    struct full_batch *full = mem_alloc(sizeof *full);
    if (kind == MODEL_MLP)
        make_empty_graphs(full, store, layers);
    else
        make_graphs(full, store, kind, layers);

    struct batch *batch = &full->batch;
    /* No other batch may be taken for this one. */
    batch->version = rng_entropy();
    batch->layers = layers;
    batch->n_input = batch->graphs[0].n_src;
    batch->n_output = batch->graphs[layers - 1].n_dst;
    batch->nodes = store->nodes;
    if (!store_features_plain(store)) {
        full->features = mem_array((size_t)batch->n_input * store->feature_dim, sizeof(float));
        store_take_rows(store, 0, batch->n_input, full->features);
    }
    batch->features = full->features ? full->features : store->features;
    batch->labels = store->labels;
    batch->multi_labels = store->multi_labels;
    batch->split = store->split;
    batch->train_count = (uint32_t)store->train_nodes;
    return full;
}

struct batch full_batch_shape(const struct store *store, int kind, size_t layers) {
    uint32_t rows = kind == MODEL_MLP ? (uint32_t)store->owned : nodes_within(store, layers - 1);
    int64_t *indptr = mem_array((size_t)rows + 1, sizeof *indptr);
    for (uint32_t i = 0; kind != MODEL_MLP && i <= rows; i++)
        indptr[i] = store->indptr[i < store->rows ? i : store->rows];
    struct batch shape = {
        .version = 1, .layers = layers, .train_count = (uint32_t)store->train_nodes};
    for (size_t l = 0; l < layers; l++)
        shape.graphs[l] = (struct layer_graph){
            .n_dst = kind == MODEL_MLP ? rows : nodes_within(store, layers - 1 - l),
            .n_src = kind == MODEL_MLP ? rows : nodes_within(store, layers - l),
            .indptr = indptr,
            .t_indptr = indptr,
        };
    shape.n_input = shape.graphs[0].n_src;
    shape.n_output = shape.graphs[layers - 1].n_dst;
    return shape;
}

void full_batch_shape_done(struct batch *shape) {
    mem_free((void *)shape->graphs[0].indptr);
    *shape = (struct batch){0};
}

size_t full_batch_bytes(const struct store *store, int kind, size_t layers) {
    struct batch shape = full_batch_shape(store, kind, layers);
    const struct layer_graph *first = &shape.graphs[0];
    size_t edges = (size_t)first->indptr[first->n_dst];
    size_t bytes = ((size_t)first->n_dst + 1) * sizeof(int64_t);
    if (kind != MODEL_MLP)
        bytes += edges * sizeof(float) + first->n_dst * sizeof(float);
    for (size_t l = 0; kind != MODEL_MLP && l < layers; l++) {
        const struct layer_graph *graph = &shape.graphs[l];
        if (l > 0 && graph[-1].n_dst == graph->n_dst && graph[-1].n_src == graph->n_src)
            continue;
        bytes += ((size_t)graph->n_src + 1) * sizeof(int64_t) +
                 (size_t)graph->indptr[graph->n_dst] * (sizeof(int32_t) + sizeof(float));
    }
    if (!store_features_plain(store))
        bytes += (size_t)shape.n_input * store->feature_dim * sizeof(float);
    full_batch_shape_done(&shape);
    return bytes;
}

const struct batch *full_batch_get(const struct full_batch *full) {
    return &full->batch;
}

struct full_batch *full_batch_free(struct full_batch *full) {
    if (full) {
        for (size_t t = 0; t < full->transpose_count; t++) {
            mem_free(full->t_indptr[t]);
            mem_free(full->t_indices[t]);
            mem_free(full->t_weights[t]);
        }
        mem_free(full->features);
        mem_free(full->indptr);
        mem_free(full->weights);
        mem_free(full->self);
        mem_free(full);
    }
    return NULL;
}
