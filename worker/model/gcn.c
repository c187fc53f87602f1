/* Graph convolution. Kipf & Welling, "Semi-Supervised Classification with Graph Convolutional
 * Networks", ICLR 2017, eq. 2:
 *     Y = A X W        A = D^-1/2 (adjacency + I) D^-1/2, as the batch's weights and self terms
 * backward:
 *     dW = (A X)^T dY = X^T (A^T dY)        dX = A^T (dY W^T) = (A^T dY) W^T
 * Both orders give the same numbers; the cheaper one propagates at the narrower side of W. */
#include "worker/kernels/kernels.h"
#include "worker/model/layer.h"

static void forward(const struct layer_pass *pass, float *y) {
    const struct layer_graph *graph = pass->graph;
    if (pass->graph_first) {
        if (!pass->saved_valid)
            layer_propagate(graph, pass->in, pass->x->dense, pass->saved);
        gemm(false, false, graph->n_dst, pass->out, pass->in, 1, pass->saved, pass->in,
             pass->weights, pass->out, 0, y, pass->out);
    } else {
        matrix_multiply(pass->x, graph->n_src, pass->weights, pass->out, pass->scratch);
        layer_propagate(graph, pass->out, pass->scratch, y);
    }
}

static void backward(const struct layer_pass *pass, const float *dy, float *dweights, float *dx) {
    const struct layer_graph *graph = pass->graph;
    if (pass->graph_first) {
        gemm(true, false, pass->in, pass->out, graph->n_dst, 1, pass->saved, pass->in, dy,
             pass->out, 0, dweights, pass->out);
        if (dx) {
            gemm(false, true, graph->n_dst, pass->in, pass->out, 1, dy, pass->out, pass->weights,
                 pass->out, 0, pass->scratch, pass->in);
            layer_propagate_back(graph, pass->in, pass->scratch, dx);
        }
    } else {
        layer_propagate_back(graph, pass->out, dy, pass->scratch);
        matrix_multiply_back(pass->x, graph->n_src, pass->scratch, pass->out, NULL, dweights);
        if (dx)
            gemm(false, true, graph->n_src, pass->in, pass->out, 1, pass->scratch, pass->out,
                 pass->weights, pass->out, 0, dx, pass->in);
    }
}

const struct layer layer_gcn = {
    .weight_count = 1,
    .weight_names = {"weight"},
    .forward = forward,
    .backward = backward,
};
