/* GraphSAGE with the pooling aggregator. Hamilton, Ying & Leskovec, NeurIPS 2017, eq. 3, with
 * concatenation written as two weight matrices:
 *     Z = relu(X W_pool + b_pool)      m_i = max over neighbours j of z_j, by column; 0 without any
 *     Y = X_dst W_self + M W_neighbor
 * backward: the gradient of m goes to the neighbour that had the maximum, the first of equal ones;
 * where all are 0 it ends, as relu's does. */
#include <string.h>

#include "worker/kernels/kernels.h"
#include "worker/model/finish.h"
#include "worker/model/layer.h"

#define WORK_MIN 65536

static size_t tensors(const struct layer_spec *spec, struct tensor_spec *ret) {
    ret[0] = (struct tensor_spec){"pool", spec->in, spec->in, TENSOR_GLOROT_UNIFORM, true};
    ret[1] = (struct tensor_spec){"pool_bias", 1, spec->in, TENSOR_ZEROS, false};
    ret[2] = (struct tensor_spec){"self", spec->in, spec->out, TENSOR_GLOROT_UNIFORM, true};
    ret[3] = (struct tensor_spec){"neighbor", spec->in, spec->out, TENSOR_GLOROT_UNIFORM, true};
    return 4;
}

/* Where the weights of each are; the same for their gradients. */
struct places {
    size_t bias, self, neighbor; /* in floats from the first; pool is there */
};

static struct places places(const struct layer_spec *spec) {
    size_t bias = (size_t)spec->in * spec->in, self = bias + spec->in;
    return (struct places){bias, self, self + (size_t)spec->in * spec->out};
}

/* What forward leaves: m, and the source of each of its numbers; -1: none. */
struct kept {
    float *max;
    int32_t *from;
};

static struct kept kept(const struct layer_pass *pass) {
    return (struct kept){pass->own, (int32_t *)(void *)(pass->own + pass->n_dst * pass->spec->in)};
}

static struct layer_room room(const struct layer_spec *spec, size_t n_dst, size_t n_src,
                              bool graph_first, bool train) {
    (void)graph_first;
    size_t widest = spec->in > spec->out ? spec->in : spec->out;
    return (struct layer_room){
        .z = spec->in,
        .z_kept = true,
        .own = 2 * n_dst * spec->in,
        /* Forward: a product of sparse features. Backward: dM, dZ, then sums or padding. */
        .scratch = train
                       ? (n_dst + n_src) * spec->in + n_src * widest + column_sums_partial(spec->in)
                       : n_dst * spec->out,
    };
}

static void project(const struct layer_pass *pass, const struct matrix *x, size_t first,
                    size_t rows) {
    size_t in = pass->spec->in;
    const float *bias = pass->weights + places(pass->spec).bias;
    float *z = pass->z + first * in;
    matrix_multiply(x, rows, pass->weights, in, z);
    kernels()->bias_act_dropout(rows, in, z, bias, true, 0, 0, NULL, NULL);
}

static void pool(const struct layer_pass *pass) {
    const struct layer_graph *graph = pass->graph;
    size_t in = pass->spec->in;
    struct kept keep = kept(pass);
#pragma omp parallel for schedule(dynamic, 64) if (pass->n_dst * in >= WORK_MIN)
    for (size_t i = 0; i < pass->n_dst; i++) {
        float *max = keep.max + i * in;
        int32_t *from = keep.from + i * in;
        for (size_t c = 0; c < in; c++) {
            max[c] = 0;
            from[c] = -1;
        }
        for (int64_t e = graph->indptr[i]; e < graph->indptr[i + 1]; e++) {
            const float *z = pass->z + (size_t)graph->indices[e] * in;
            for (size_t c = 0; c < in; c++) {
                bool more = z[c] > max[c];
                max[c] = more ? z[c] : max[c];
                from[c] = more ? graph->indices[e] : from[c];
            }
        }
    }
}

static void forward(const struct layer_pass *pass, float *y) {
    size_t in = pass->spec->in, out = pass->spec->out;
    struct places at = places(pass->spec);
    pool(pass);
    gemm(false, false, pass->n_dst, out, in, 1, kept(pass).max, in, pass->weights + at.neighbor,
         out, 0, y, out);
    matrix_multiply_add(pass->x_dst, pass->n_dst, pass->weights + at.self, out, pass->scratch, y);
}

/* dz [n_src, in] of dm [n_dst, in]. By source, so that threads do not meet. */
static void pool_back(const struct layer_pass *pass, const float *dm, float *dz) {
    const struct layer_graph *graph = pass->graph;
    size_t in = pass->spec->in;
    const int32_t *from = kept(pass).from;
#pragma omp parallel for schedule(dynamic, 64) if (pass->n_src * in >= WORK_MIN)
    for (size_t j = 0; j < pass->n_src; j++) {
        float *out = dz + j * in;
        memset(out, 0, in * sizeof *out);
        for (int64_t e = graph->t_indptr[j]; e < graph->t_indptr[j + 1]; e++) {
            size_t row = (size_t)graph->t_indices[e] * in;
            for (size_t c = 0; c < in; c++)
                out[c] += from[row + c] == (int32_t)j ? dm[row + c] : 0;
        }
    }
}

static void backward(const struct layer_pass *pass, float *dy, float *dweights, float *dx,
                     float *dstart) {
    size_t in = pass->spec->in, out = pass->spec->out;
    struct places at = places(pass->spec);
    float *dm = pass->scratch, *dz = dm + pass->n_dst * in, *rest = dz + pass->n_src * in;
    (void)dstart;
    gemm(true, false, in, out, pass->n_dst, 1, kept(pass).max, in, dy, out, 0,
         dweights + at.neighbor, out);
    matrix_multiply_back(pass->x_dst, pass->n_dst, dy, out, rest, dweights + at.self);
    gemm(false, true, pass->n_dst, in, out, 1, dy, out, pass->weights + at.neighbor, out, 0, dm,
         in);
    pool_back(pass, dm, dz);
    matrix_multiply_back(pass->x, pass->n_src, dz, in, NULL, dweights);
    column_sums(pass->n_src, in, dz, rest, dweights + at.bias);
    if (!dx)
        return;
    gemm(false, true, pass->n_src, in, in, 1, dz, in, pass->weights, in, 0, dx, in);
    gemm(false, true, pass->n_dst, in, out, 1, dy, out, pass->weights + at.self, out, 1, dx, in);
}

const struct layer layer_sage_max = {
    .takes_own_rows = true,
    .tensors = tensors,
    .room = room,
    .project = project,
    .forward = forward,
    .backward = backward,
};
