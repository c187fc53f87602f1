/* GraphSAGE with the mean aggregator. Hamilton, Ying & Leskovec, "Inductive Representation Learning
 * on Large Graphs", NeurIPS 2017, algorithm 1 with concatenation written as two weight matrices:
 *     Y = X_dst W_self + M X W_neighbor        M: mean over a node's neighbours; X_dst: the rows of
 *                                              X that belong to the destinations
 * backward:
 *     dW_self = X_dst^T dY      dW_neighbor = (M X)^T dY = X^T (M^T dY)
 *     dX = M^T dY W_neighbor^T, plus dY W_self^T in the destinations' rows
 * With the graph first, [X_dst | M X] is kept and multiplied by the weights one above the other:
 * one product in place of two. */
#include <string.h>

#include "worker/kernels/kernels.h"
#include "worker/model/layer.h"

static size_t tensors(const struct layer_spec *spec, struct tensor_spec *ret) {
    ret[0] = (struct tensor_spec){"self", spec->in, spec->out, TENSOR_GLOROT_UNIFORM, true};
    ret[1] = (struct tensor_spec){"neighbor", spec->in, spec->out, TENSOR_GLOROT_UNIFORM, true};
    return 2;
}

static struct layer_room room(const struct layer_spec *spec, size_t n_dst, size_t n_src,
                              bool graph_first, bool train) {
    if (graph_first)
        return (struct layer_room){.saved = 2 * (size_t)spec->in,
                                   .scratch = train ? n_dst * 2 * spec->in : 0};
    return (struct layer_room){.z = spec->out, .scratch = n_src * spec->out};
}

static const float *neighbor_weights(const struct layer_pass *pass) {
    return pass->weights + (size_t)pass->spec->in * pass->spec->out;
}

static void project(const struct layer_pass *pass, const struct matrix *x, size_t first,
                    size_t rows) {
    matrix_multiply(x, rows, neighbor_weights(pass), pass->spec->out,
                    pass->z + first * pass->spec->out);
}

/* [X_dst | M X] */
static void concatenate(const struct layer_pass *pass) {
    size_t in = pass->spec->in;
    const float *x_dst = pass->x_dst->dense;
#pragma omp parallel for schedule(static) if (pass->n_dst * in >= 65536)
    for (size_t i = 0; i < pass->n_dst; i++)
        memcpy(pass->saved + i * 2 * in, x_dst + i * in, in * sizeof *x_dst);
    adjacency_multiply_into(pass->graph, in, pass->x->dense, pass->saved + in, 2 * in);
}

static void forward(const struct layer_pass *pass, float *y) {
    size_t in = pass->spec->in, out = pass->spec->out;
    if (pass->graph_first) {
        if (!pass->saved_valid)
            concatenate(pass);
        gemm(false, false, pass->n_dst, out, 2 * in, 1, pass->saved, 2 * in, pass->weights, out, 0,
             y, out);
        return;
    }
    adjacency_multiply(pass->graph, out, pass->z, y);
    matrix_multiply_add(pass->x_dst, pass->n_dst, pass->weights, out, pass->scratch, y);
}

/* dX of d[X_dst | M X] = dY W^T */
static void backward_graph_first(const struct layer_pass *pass, const float *dy, float *dx) {
    size_t in = pass->spec->in, out = pass->spec->out;
    float *both = pass->scratch;
    gemm(false, true, pass->n_dst, 2 * in, out, 1, dy, out, pass->weights, out, 0, both, 2 * in);
    adjacency_multiply_back_from(pass->graph, in, both + in, 2 * in, dx);
#pragma omp parallel for schedule(static) if (pass->n_dst * in >= 65536)
    for (size_t i = 0; i < pass->n_dst; i++)
        for (size_t j = 0; j < in; j++)
            dx[i * in + j] += both[i * 2 * in + j];
}

static void backward(const struct layer_pass *pass, float *dy, float *dweights, float *dx,
                     float *dstart) {
    size_t in = pass->spec->in, out = pass->spec->out;
    float *dw_self = dweights, *dw_neighbor = dweights + in * out;
    (void)dstart;
    if (pass->graph_first) {
        gemm(true, false, 2 * in, out, pass->n_dst, 1, pass->saved, 2 * in, dy, out, 0, dweights,
             out);
        if (dx)
            backward_graph_first(pass, dy, dx);
        return;
    }
    adjacency_multiply_back(pass->graph, out, dy, pass->scratch);
    matrix_multiply_back(pass->x, pass->n_src, pass->scratch, out, NULL, dw_neighbor);
    if (dx) {
        gemm(false, true, pass->n_src, in, out, 1, pass->scratch, out, neighbor_weights(pass), out,
             0, dx, in);
        gemm(false, true, pass->n_dst, in, out, 1, dy, out, pass->weights, out, 1, dx, in);
    }
    matrix_multiply_back(pass->x_dst, pass->n_dst, dy, out, pass->scratch, dw_self);
}

const struct layer layer_sage = {
    .takes_own_rows = true,
    .tensors = tensors,
    .room = room,
    .project = project,
    .forward = forward,
    .backward = backward,
};
