/* GraphSAGE with the mean aggregator. Hamilton, Ying & Leskovec, "Inductive Representation Learning
 * on Large Graphs", NeurIPS 2017, algorithm 1 with concatenation written as two weight matrices:
 *     Y = X_dst W_self + M X W_neighbor        M: mean over a node's neighbours; X_dst: the rows of
 *                                              X that belong to the destinations
 * backward:
 *     dW_self = X_dst^T dY      dW_neighbor = (M X)^T dY = X^T (M^T dY)
 *     dX = M^T dY W_neighbor^T, plus dY W_self^T in the destinations' rows */
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
        return (struct layer_room){.scratch = train ? n_dst * spec->in : 0};
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

static void forward(const struct layer_pass *pass, float *y) {
    size_t in = pass->spec->in, out = pass->spec->out;
    if (pass->graph_first) {
        if (!pass->saved_valid)
            adjacency_multiply(pass->graph, in, pass->x->dense, pass->saved);
        gemm(false, false, pass->n_dst, out, in, 1, pass->saved, in, neighbor_weights(pass), out, 0,
             y, out);
    } else {
        adjacency_multiply(pass->graph, out, pass->z, y);
    }
    matrix_multiply_add(pass->x_dst, pass->n_dst, pass->weights, out, pass->scratch, y);
}

static void backward(const struct layer_pass *pass, float *dy, float *dweights, float *dx,
                     float *dstart) {
    const struct layer_graph *graph = pass->graph;
    size_t in = pass->spec->in, out = pass->spec->out;
    const float *w_self = pass->weights, *w_neighbor = neighbor_weights(pass);
    float *dw_self = dweights, *dw_neighbor = dweights + in * out;
    (void)dstart;
    if (pass->graph_first) {
        gemm(true, false, in, out, pass->n_dst, 1, pass->saved, in, dy, out, 0, dw_neighbor, out);
        if (dx) {
            gemm(false, true, pass->n_dst, in, out, 1, dy, out, w_neighbor, out, 0, pass->scratch,
                 in);
            adjacency_multiply_back(graph, in, pass->scratch, dx);
        }
    } else {
        adjacency_multiply_back(graph, out, dy, pass->scratch);
        matrix_multiply_back(pass->x, pass->n_src, pass->scratch, out, NULL, dw_neighbor);
        if (dx)
            gemm(false, true, pass->n_src, in, out, 1, pass->scratch, out, w_neighbor, out, 0, dx,
                 in);
    }
    if (dx)
        gemm(false, true, pass->n_dst, in, out, 1, dy, out, w_self, out, 1, dx, in);
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
