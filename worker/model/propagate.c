/* A GCN's propagation alone: Y = A X, dX = A^T dY. Wu et al., "Simplifying Graph Convolutional
 * Networks", ICML 2019: some of these and then a linear layer are SGC. */
#include "worker/model/layer.h"

static struct layer_room room(const struct layer_spec *spec, size_t n_dst, size_t n_src,
                              bool graph_first, bool train) {
    (void)spec, (void)n_dst, (void)n_src, (void)graph_first, (void)train;
    return (struct layer_room){0};
}

static void forward(const struct layer_pass *pass, float *y) {
    adjacency_multiply(pass->graph, pass->spec->in, pass->x->dense, y);
}

static void backward(const struct layer_pass *pass, float *dy, float *dweights, float *dx,
                     float *dstart) {
    (void)dweights, (void)dstart;
    if (dx)
        adjacency_multiply_back(pass->graph, pass->spec->in, dy, dx);
}

const struct layer layer_propagate = {
    .room = room,
    .forward = forward,
    .backward = backward,
};
