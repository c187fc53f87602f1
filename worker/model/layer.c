/* The table of layers, and what those that propagate share. */
#include "worker/model/layer.h"

#include "worker/kernels/kernels.h"

const struct layer *layer_of(int kind) {
    static const struct layer *const layers[] = {
#define LAYER(name, graph, order, takes, sentence) [LAYER_##name] = &layer_##name,
#include "common/layers.def"
#undef LAYER
    };
    return layers[kind];
}

size_t layer_weights(const struct layer_spec *spec) {
    const struct layer *layer = layer_of(spec->kind);
    struct tensor_spec tensors[LAYER_TENSORS_MAX];
    size_t count = layer->tensors ? layer->tensors(spec, tensors) : 0, floats = 0;
    for (size_t t = 0; t < count; t++)
        floats += (size_t)tensors[t].rows * tensors[t].cols;
    return floats;
}

void adjacency_multiply_into(const struct layer_graph *graph, size_t d, const float *x, float *y,
                             size_t ldy) {
    kernels()->spmm(graph->n_dst, d, graph->indptr, graph->indices, graph->weights, graph->self, x,
                    d, y, ldy);
}

void adjacency_multiply(const struct layer_graph *graph, size_t d, const float *x, float *y) {
    adjacency_multiply_into(graph, d, x, y, d);
}

void adjacency_multiply_back_from(const struct layer_graph *graph, size_t d, const float *dy,
                                  size_t lddy, float *dx) {
    /* The sources start with the destinations; the others have no self term. */
    kernels()->spmm(graph->n_dst, d, graph->t_indptr, graph->t_indices, graph->t_weights,
                    graph->self, dy, lddy, dx, d);
    kernels()->spmm(graph->n_src - graph->n_dst, d, graph->t_indptr + graph->n_dst,
                    graph->t_indices, graph->t_weights, NULL, dy, lddy,
                    dx + (size_t)graph->n_dst * d, d);
}

void adjacency_multiply_back(const struct layer_graph *graph, size_t d, const float *dy,
                             float *dx) {
    adjacency_multiply_back_from(graph, d, dy, d, dx);
}
