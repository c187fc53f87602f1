/* Graph convolution. Kipf & Welling, "Semi-Supervised Classification with Graph Convolutional
 * Networks", ICLR 2017, eq. 2:
 *     Y = A X W        A = D^-1/2 (adjacency + I) D^-1/2, as the batch's weights and self terms
 * backward:
 *     dW = (A X)^T dY = X^T (A^T dY)        dX = A^T (dY W^T) = (A^T dY) W^T
 * Both orders give the same numbers; the cheaper one propagates at the narrower side of W.
 *
 * GraphSAGE's "GCN" aggregator (Hamilton, Ying & Leskovec, NeurIPS 2017, eq. 2) is the same with
 * A = (D + I)^-1 (adjacency + I). */
#include "worker/kernels/kernels.h"
#include "worker/model/layer.h"

static size_t tensors(const struct layer_spec *spec, struct tensor_spec *ret) {
    ret[0] = (struct tensor_spec){"weight", spec->in, spec->out, TENSOR_GLOROT_UNIFORM, true};
    return 1;
}

static struct layer_room room(const struct layer_spec *spec, size_t n_dst, size_t n_src,
                              bool graph_first, bool train) {
    if (graph_first)
        return (struct layer_room){.scratch = train ? n_dst * spec->in : 0};
    return (struct layer_room){.z = spec->out, .scratch = n_src * spec->out};
}

static void project(const struct layer_pass *pass, const struct matrix *x, size_t first,
                    size_t rows) {
    matrix_multiply(x, rows, pass->weights, pass->spec->out, pass->z + first * pass->spec->out);
}

static void forward(const struct layer_pass *pass, float *y) {
    size_t in = pass->spec->in, out = pass->spec->out;
    if (!pass->graph_first) {
        adjacency_multiply(pass->graph, out, pass->z, y);
        return;
    }
    if (!pass->saved_valid)
        adjacency_multiply(pass->graph, in, pass->x->dense, pass->saved);
    gemm(false, false, pass->n_dst, out, in, 1, pass->saved, in, pass->weights, out, 0, y, out);
}

static void backward(const struct layer_pass *pass, float *dy, float *dweights, float *dx,
                     float *dstart) {
    const struct layer_graph *graph = pass->graph;
    size_t in = pass->spec->in, out = pass->spec->out;
    (void)dstart;
    if (pass->graph_first) {
        gemm(true, false, in, out, pass->n_dst, 1, pass->saved, in, dy, out, 0, dweights, out);
        if (dx) {
            gemm(false, true, pass->n_dst, in, out, 1, dy, out, pass->weights, out, 0,
                 pass->scratch, in);
            adjacency_multiply_back(graph, in, pass->scratch, dx);
        }
    } else {
        adjacency_multiply_back(graph, out, dy, pass->scratch);
        matrix_multiply_back(pass->x, pass->n_src, pass->scratch, out, NULL, dweights);
        if (dx)
            gemm(false, true, pass->n_src, in, out, 1, pass->scratch, out, pass->weights, out, 0,
                 dx, in);
    }
}

const struct layer layer_gcn = {
    .tensors = tensors,
    .room = room,
    .project = project,
    .forward = forward,
    .backward = backward,
};
const struct layer layer_sage_gcn = {
    .tensors = tensors,
    .room = room,
    .project = project,
    .forward = forward,
    .backward = backward,
};
