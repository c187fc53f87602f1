/* GraphSAGE with the mean aggregator. Hamilton, Ying & Leskovec, "Inductive Representation Learning
 * on Large Graphs", NeurIPS 2017, algorithm 1 with concatenation written as two weight matrices:
 *     Y = X_dst W_self + M X W_neighbor        M: mean over a node's neighbours; X_dst: X's first
 *                                              n_dst rows
 * backward:
 *     dW_self = X_dst^T dY      dW_neighbor = (M X)^T dY = X^T (M^T dY)
 *     dX = M^T dY W_neighbor^T, plus dY W_self^T in the first n_dst rows */
#include "worker/kernels/kernels.h"
#include "worker/model/layer.h"

static void forward(const struct layer_pass *pass, float *y) {
    const struct layer_graph *graph = pass->graph;
    const float *w_self = pass->weights, *w_neighbor = pass->weights + pass->in * pass->out;
    if (pass->graph_first) {
        if (!pass->saved_valid)
            layer_propagate(graph, pass->in, pass->x->dense, pass->saved);
        gemm(false, false, graph->n_dst, pass->out, pass->in, 1, pass->saved, pass->in, w_neighbor,
             pass->out, 0, y, pass->out);
    } else {
        matrix_multiply(pass->x, graph->n_src, w_neighbor, pass->out, pass->scratch);
        layer_propagate(graph, pass->out, pass->scratch, y);
    }
    matrix_multiply_add(pass->x, graph->n_dst, w_self, pass->out, pass->scratch, y);
}

static void backward(const struct layer_pass *pass, const float *dy, float *dweights, float *dx) {
    const struct layer_graph *graph = pass->graph;
    size_t in = pass->in, out = pass->out;
    const float *w_self = pass->weights, *w_neighbor = pass->weights + in * out;
    float *dw_self = dweights, *dw_neighbor = dweights + in * out;
    if (pass->graph_first) {
        gemm(true, false, in, out, graph->n_dst, 1, pass->saved, in, dy, out, 0, dw_neighbor, out);
        if (dx) {
            gemm(false, true, graph->n_dst, in, out, 1, dy, out, w_neighbor, out, 0, pass->scratch,
                 in);
            layer_propagate_back(graph, in, pass->scratch, dx);
        }
    } else {
        layer_propagate_back(graph, out, dy, pass->scratch);
        matrix_multiply_back(pass->x, graph->n_src, pass->scratch, out, NULL, dw_neighbor);
        if (dx)
            gemm(false, true, graph->n_src, in, out, 1, pass->scratch, out, w_neighbor, out, 0, dx,
                 in);
    }
    if (dx)
        gemm(false, true, graph->n_dst, in, out, 1, dy, out, w_self, out, 1, dx, in);
    matrix_multiply_back(pass->x, graph->n_dst, dy, out, pass->scratch, dw_self);
}

const struct layer layer_sage = {
    .weight_count = 2,
    .weight_names = {"self", "neighbor"},
    .forward = forward,
    .backward = backward,
};
