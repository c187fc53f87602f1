/* A layer without edges: Y = X W. backward: dW = X^T dY, dX = dY W^T. */
#include "worker/kernels/kernels.h"
#include "worker/model/layer.h"

static void forward(const struct layer_pass *pass, float *y) {
    matrix_multiply(pass->x, pass->graph->n_dst, pass->weights, pass->out, y);
}

static void backward(const struct layer_pass *pass, const float *dy, float *dweights, float *dx) {
    matrix_multiply_back(pass->x, pass->graph->n_dst, dy, pass->out, pass->scratch, dweights);
    if (dx)
        gemm(false, true, pass->graph->n_dst, pass->in, pass->out, 1, dy, pass->out, pass->weights,
             pass->out, 0, dx, pass->in);
}

const struct layer layer_linear = {
    .weight_count = 1,
    .weight_names = {"weight"},
    .forward = forward,
    .backward = backward,
};
