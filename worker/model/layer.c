/* Multiplication by a layer's graph, forward and back, for every kind of layer that has one. */
#include "worker/model/layer.h"

#include "worker/kernels/kernels.h"

void layer_propagate(const struct layer_graph *graph, size_t d, const float *x, float *y) {
    kernels()->spmm(graph->n_dst, d, graph->indptr, graph->indices, graph->weights, graph->self, x,
                    d, y, d);
}

void layer_propagate_back(const struct layer_graph *graph, size_t d, const float *dy, float *dx) {
    /* The sources start with the destinations; the others have no self term. */
    kernels()->spmm(graph->n_dst, d, graph->t_indptr, graph->t_indices, graph->t_weights,
                    graph->self, dy, d, dx, d);
    kernels()->spmm(graph->n_src - graph->n_dst, d, graph->t_indptr + graph->n_dst,
                    graph->t_indices, graph->t_weights, NULL, dy, d, dx + (size_t)graph->n_dst * d,
                    d);
}
