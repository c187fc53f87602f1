/* What a kind of layer is: a row of functions over flat float arrays, forward and backward beside
 * each other in one file (gcn.c, sage.c, linear.c). Shapes: x [n_src, in], y [n_dst, out], weights
 * one [in, out] array for each name, in order; the bias, the activation and dropout are the same
 * for all kinds and are added by model.c. Gradients are overwritten. Inside worker/model only. */
#pragma once

#include "worker/graph/batch.h"
#include "worker/model/matrix.h"

struct layer_pass {
    const struct layer_graph *graph;
    const struct matrix *x;
    size_t in, out;
    /* Multiplying by the graph and by the weights may be done in either order. True: the graph
     * first, and saved keeps A x for the backward pass. Chosen by model.c. */
    bool graph_first;
    /* With graph_first: saved holds A x already, from an earlier pass over the same x. */
    bool saved_valid;
    const float *weights;
    float *saved;   /* [n_dst, in] with graph_first; belongs to forward and backward together */
    float *scratch; /* [n_src, out], or [n_dst, in] with graph_first; free between calls */
};

struct layer {
    size_t weight_count;
    const char *weight_names[2];
    void (*forward)(const struct layer_pass *pass, float *y);
    /* dy [n_dst, out]; dx [n_src, in] or NULL when nobody needs it. */
    void (*backward)(const struct layer_pass *pass, const float *dy, float *dweights, float *dx);
};

extern const struct layer layer_gcn, layer_sage, layer_linear;

/* y [n_dst, d] = A x [n_src, d], the self term included. */
void layer_propagate(const struct layer_graph *graph, size_t d, const float *x, float *y);
/* dx [n_src, d] = transposed A dy [n_dst, d], the self term included. */
void layer_propagate_back(const struct layer_graph *graph, size_t d, const float *dy, float *dx);
