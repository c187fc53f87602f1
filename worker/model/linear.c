/* A layer without edges: Y = X W. backward: dW = X^T dY, dX = dY W^T. */
#include "worker/kernels/kernels.h"
#include "worker/model/layer.h"

static size_t tensors(const struct layer_spec *spec, struct tensor_spec *ret) {
    ret[0] = (struct tensor_spec){"weight", spec->in, spec->out, TENSOR_GLOROT_UNIFORM, true};
    return 1;
}

static struct layer_room room(const struct layer_spec *spec, size_t n_dst, size_t n_src,
                              bool graph_first, bool train) {
    (void)spec, (void)n_dst, (void)n_src, (void)graph_first, (void)train;
    return (struct layer_room){0};
}

static void forward(const struct layer_pass *pass, float *y) {
    matrix_multiply(pass->x_dst, pass->n_dst, pass->weights, pass->spec->out, y);
}

static void backward(const struct layer_pass *pass, float *dy, float *dweights, float *dx,
                     float *dstart) {
    size_t in = pass->spec->in, out = pass->spec->out;
    (void)dstart;
    matrix_multiply_back(pass->x, pass->n_dst, dy, out, NULL, dweights);
    if (dx)
        gemm(false, true, pass->n_dst, in, out, 1, dy, out, pass->weights, out, 0, dx, in);
}

const struct layer layer_linear = {
    .takes_own_rows = true,
    .tensors = tensors,
    .room = room,
    .forward = forward,
    .backward = backward,
};
