/* One batch over all owned nodes of a store (and, for links, their neighbours), made once. Local
 * nodes are numbered by hop, so what a layer computes is a prefix of them, and all layers of one
 * norm share one array of edges and weights: a layer is a number of rows. Owns the weights and
 * transposes, and features where it had to make them; the rest is the store's. */
#include "worker/graph/sampler.h"

#include <assert.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "worker/graph/mfg.h"

struct full_batch {
    struct batch batch;
    int64_t *indptr; /* the store's, with empty rows for nodes that have none there */
    float *weights[GRAPH_NONE], *self[GRAPH_NONE]; /* by norm */
    float *features; /* a copy, where the store's are not what a model wants; else NULL */
    /* One transpose for each norm and size of graph; layers of the same share it. */
    size_t transpose_count;
    int64_t *t_indptr[HOPS_MAX];
    int32_t *t_indices[HOPS_MAX];
    float *t_weights[HOPS_MAX];
};

/* Nodes within hops of the owned ones, as far as the store has them. */
static uint32_t nodes_within(const struct store *store, size_t hops) {
    return (uint32_t)store->hop_nodes[hops < store->halo ? hops : store->halo];
}

/* Rows of the first layer that propagates. */
static uint32_t rows_computed(const struct store *store, const struct hops *hops) {
    return hops->count > 0 ? nodes_within(store, hops->outer + hops->count - 1) : 0;
}

static int64_t *make_indptr(const struct store *store, uint32_t rows) {
    int64_t *indptr = mem_array((size_t)rows + 1, sizeof *indptr);
    for (uint32_t i = 0; i <= rows; i++)
        indptr[i] = store->indptr[i < store->rows ? i : store->rows];
    return indptr;
}

/* The counts and the norm of every layer's graph. */
static void shape_graphs(struct batch *batch, const struct store *store, const struct hops *hops,
                         const int64_t *indptr) {
    batch->hops = hops->count;
    for (size_t l = 0; l < hops->count; l++)
        batch->graphs[l] = (struct layer_graph){
            .n_dst = nodes_within(store, hops->outer + hops->count - 1 - l),
            .n_src = nodes_within(store, hops->outer + hops->count - l),
            .indptr = indptr,
        };
    batch->n_input = nodes_within(store, hops->outer + hops->count);
    batch->n_output = nodes_within(store, hops->outer);
}

/* The layer before it whose transpose is the very same. */
static bool same_as_before(const struct batch *batch, const struct hops *hops, size_t l,
                           size_t *ret) {
    for (size_t k = 0; k < l; k++)
        if (hops->graph[k] == hops->graph[l] && batch->graphs[k].n_dst == batch->graphs[l].n_dst &&
            batch->graphs[k].n_src == batch->graphs[l].n_src) {
            *ret = k;
            return true;
        }
    return false;
}

static void make_weights(struct full_batch *full, const struct store *store, int graph,
                         uint32_t rows) {
    const int64_t *indptr = full->indptr;
    if (graph == GRAPH_BARE)
        return;
    float *weights = full->weights[graph] = mem_array((size_t)indptr[rows], sizeof *weights);
    for (uint32_t i = 0; i < rows; i++) {
        double degree = mfg_degree(store, graph, i);
        double total = mfg_total(store, graph, indptr[i], indptr[i + 1]);
        for (int64_t e = indptr[i]; e < indptr[i + 1]; e++)
            weights[e] = mfg_weight(store, graph, e, degree,
                                    mfg_degree(store, graph, (uint64_t)store->indices[e]), total);
    }
    if (!mfg_has_self(graph))
        return;
    full->self[graph] = mem_array(rows, sizeof(float));
    for (uint32_t i = 0; i < rows; i++)
        full->self[graph][i] = mfg_self(graph, mfg_degree(store, graph, i));
}

static void make_transpose(struct full_batch *full, const struct hops *hops, size_t l) {
    struct layer_graph *graph = &full->batch.graphs[l];
    size_t before;
    if (same_as_before(&full->batch, hops, l, &before)) {
        graph->t_indptr = full->batch.graphs[before].t_indptr;
        graph->t_indices = full->batch.graphs[before].t_indices;
        graph->t_weights = full->batch.graphs[before].t_weights;
        return;
    }
    size_t t = full->transpose_count++, edges = (size_t)graph->indptr[graph->n_dst];
    graph->t_indptr = full->t_indptr[t] = mem_array((size_t)graph->n_src + 1, sizeof(int64_t));
    graph->t_indices = full->t_indices[t] = mem_array(edges, sizeof(int32_t));
    if (graph->weights)
        graph->t_weights = full->t_weights[t] = mem_array(edges, sizeof(float));
    mfg_transpose(graph->n_dst, graph->n_src, graph->indptr, graph->indices, graph->weights,
                  full->t_indptr[t], full->t_indices[t], full->t_weights[t]);
}

struct full_batch *full_batch_new(const struct store *store, const struct hops *hops) {
    struct full_batch *full = mem_alloc(sizeof *full);
    struct batch *batch = &full->batch;
    uint32_t rows = rows_computed(store, hops);
    full->indptr = make_indptr(store, rows);
    shape_graphs(batch, store, hops, full->indptr);
    for (size_t l = 0; l < hops->count; l++) {
        int graph = hops->graph[l];
        /* The first layer of a norm has the most rows. */
        if (!full->weights[graph])
            make_weights(full, store, graph, batch->graphs[l].n_dst);
        batch->graphs[l].indices = store->indices;
        batch->graphs[l].weights = full->weights[graph];
        batch->graphs[l].self = full->self[graph];
        make_transpose(full, hops, l);
    }

    /* No other batch may be taken for this one. */
    batch->version = rng_entropy();
    batch->nodes = store->nodes;
    if (!store_features_plain(store)) {
        full->features = mem_array((size_t)batch->n_input * store->feature_dim, sizeof(float));
        store_take_rows(store, 0, batch->n_input, full->features);
    }
    batch->features = full->features ? full->features : store->features;
    batch->labels = store->labels;
    batch->multi_labels = store->multi_labels;
    batch->targets = store->targets;
    batch->split = store->split;
    batch->train_count = (uint32_t)store->train_nodes;
    return full;
}

struct batch full_batch_shape(const struct store *store, const struct hops *hops) {
    int64_t *indptr = make_indptr(store, rows_computed(store, hops));
    struct batch shape = {.version = 1, .train_count = (uint32_t)store->train_nodes};
    shape_graphs(&shape, store, hops, indptr);
    for (size_t l = 0; l < hops->count; l++)
        shape.graphs[l].t_indptr = indptr;
    if (hops->count == 0)
        shape.graphs[0].indptr = indptr; /* to be given back */
    return shape;
}

void full_batch_shape_done(struct batch *shape) {
    mem_free((void *)shape->graphs[0].indptr);
    *shape = (struct batch){0};
}

size_t full_batch_bytes(const struct store *store, const struct hops *hops) {
    struct batch shape = full_batch_shape(store, hops);
    size_t bytes = ((size_t)shape.graphs[0].n_dst + 1) * sizeof(int64_t), before;
    for (size_t l = 0; l < hops->count; l++) {
        const struct layer_graph *graph = &shape.graphs[l];
        size_t edges = (size_t)graph->indptr[graph->n_dst];
        bool first = true;
        for (size_t k = 0; k < l; k++)
            first = first && hops->graph[k] != hops->graph[l];
        if (first)
            bytes += (hops->graph[l] == GRAPH_BARE ? 0 : edges * sizeof(float)) +
                     (mfg_has_self(hops->graph[l]) ? graph->n_dst * sizeof(float) : 0);
        if (!same_as_before(&shape, hops, l, &before))
            bytes += ((size_t)graph->n_src + 1) * sizeof(int64_t) +
                     edges * (sizeof(int32_t) + (hops->graph[l] == GRAPH_BARE ? 0 : sizeof(float)));
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
        for (int graph = 0; graph < GRAPH_NONE; graph++) {
            mem_free(full->weights[graph]);
            mem_free(full->self[graph]);
        }
        mem_free(full->features);
        mem_free(full->indptr);
        mem_free(full);
    }
    return NULL;
}
