/* Graph isomorphism network. Xu, Hu, Leskovec & Jegelka, "How Powerful are Graph Neural Networks?",
 * ICLR 2019, eq. 4.1 with epsilon 0 (the paper's GIN-0) and a perceptron of two layers:
 *     S = X_dst + sum over neighbours of X        H = relu(S W1 + b1)        Y = H W2
 * backward:
 *     dW2 = H^T dY        dH = (dY W2^T) where H > 0        dW1 = S^T dH        db1 = column sums
 *     dX = transposed sum of dH W1^T */
#include "worker/kernels/kernels.h"
#include "worker/model/finish.h"
#include "worker/model/layer.h"

static size_t tensors(const struct layer_spec *spec, struct tensor_spec *ret) {
    ret[0] = (struct tensor_spec){"hidden", spec->in, spec->out, TENSOR_GLOROT_UNIFORM, true};
    ret[1] = (struct tensor_spec){"hidden_bias", 1, spec->out, TENSOR_ZEROS, false};
    ret[2] = (struct tensor_spec){"weight", spec->out, spec->out, TENSOR_GLOROT_UNIFORM, true};
    return 3;
}

/* own: H. scratch: dH, dH W1^T and partial sums of db1. */
static struct layer_room room(const struct layer_spec *spec, size_t n_dst, size_t n_src,
                              bool graph_first, bool train) {
    (void)n_src, (void)graph_first;
    return (struct layer_room){
        .own = n_dst * spec->out,
        .scratch =
            train ? n_dst * ((size_t)spec->in + spec->out) + column_sums_partial(spec->out) : 0,
    };
}

static void forward(const struct layer_pass *pass, float *y) {
    size_t in = pass->spec->in, out = pass->spec->out, n = pass->n_dst;
    const float *w1 = pass->weights, *b1 = w1 + in * out, *w2 = b1 + out;
    if (!pass->saved_valid)
        adjacency_multiply(pass->graph, in, pass->x->dense, pass->saved);
    gemm(false, false, n, out, in, 1, pass->saved, in, w1, out, 0, pass->own, out);
    kernels()->bias_act_dropout(n, out, pass->own, b1, true, 0, 0, NULL, NULL);
    gemm(false, false, n, out, out, 1, pass->own, out, w2, out, 0, y, out);
}

static void backward(const struct layer_pass *pass, float *dy, float *dweights, float *dx,
                     float *dstart) {
    size_t in = pass->spec->in, out = pass->spec->out, n = pass->n_dst;
    const float *w1 = pass->weights, *w2 = w1 + in * out + out;
    float *dw1 = dweights, *db1 = dw1 + in * out, *dw2 = db1 + out;
    float *dh = pass->scratch, *ds = dh + n * out, *partial = ds + n * in;
    (void)dstart;
    gemm(true, false, out, out, n, 1, pass->own, out, dy, out, 0, dw2, out);
    gemm(false, true, n, out, out, 1, dy, out, w2, out, 0, dh, out);
#pragma omp parallel for schedule(static) if (n * out >= 65536)
    for (size_t i = 0; i < n * out; i++)
        dh[i] = pass->own[i] > 0 ? dh[i] : 0;
    gemm(true, false, in, out, n, 1, pass->saved, in, dh, out, 0, dw1, out);
    column_sums(n, out, dh, partial, db1);
    if (dx) {
        gemm(false, true, n, in, out, 1, dh, out, w1, out, 0, ds, in);
        adjacency_multiply_back(pass->graph, in, ds, dx);
    }
}

const struct layer layer_gin = {
    .tensors = tensors,
    .room = room,
    .forward = forward,
    .backward = backward,
};
