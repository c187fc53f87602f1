/* What follows every layer, whatever its kind: bias, normalisation, what goes around the layer,
 * activation, dropout.
 *     Y = dropout(activation(norm(layer(X) + bias) + residual))
 * norm: Ba, Kiros & Hinton, "Layer Normalization", 2016, with a learnt scale and shift; or Ioffe &
 * Szegedy, "Batch Normalization", ICML 2015, the same over a column: while training over the rows
 * of the pass, halo nodes included (each worker by its own, as in data-parallel training
 * elsewhere), else by running statistics, which shards keep of all workers' (proto/layout.h).
 * residual: X_dst, or X_dst W where widths differ (He et al., "Deep Residual Learning", CVPR 2016).
 * activation: relu; elu (Clevert, Unterthiner & Hochreiter, ICLR 2016, alpha 1); gelu (Hendrycks &
 * Gimpel 2016, with the error function). Dropout keeps an element with probability 1 - p and scales
 * it by 1 / (1 - p). Inside worker/model only. */
#pragma once

#include "common/model_spec.h"
#include "proto/layout.h"
#include "worker/model/matrix.h"

#define FINISH_TENSORS_MAX 4

/* Tensors after the layer's own, for a layer that has some (has_weights) or none. */
size_t finish_tensors(const struct layer_spec *spec, bool has_weights, struct tensor_spec *ret);

/* Floats of all of them. */
size_t finish_weights(const struct layer_spec *spec, bool has_weights);

/* The statistics: "norm_mean" and "norm_var" [1, out], the variance without bias (over rows - 1).
 */
#define FINISH_STATISTICS_MAX 2
size_t finish_statistics(const struct layer_spec *spec, struct tensor_spec *ret);
/* Floats of both. */
size_t finish_statistics_floats(const struct layer_spec *spec);

struct finish_pass {
    const struct layer_spec *spec;
    bool has_bias;
    size_t n;                   /* rows */
    const struct matrix *x_dst; /* [n or more, in] */
    const float *weights;       /* as finish_tensors lists them */
    const float *statistics;    /* as finish_statistics lists them; NULL while training */
    float p;                    /* of dropout; 0 when not training */
    uint64_t key;
    const int64_t *nodes; /* [n or more] global numbers */
    /* For the backward pass; all NULL when there will be none. */
    uint8_t *mask;  /* [n, out] what dropout and relu let through */
    float *normed;  /* [n, out] before scale and shift */
    float *inverse; /* [n] 1 over the deviation; batch: [3, out] that, mean and variance */
    float *before;  /* [n, out] before the activation (elu, gelu) */
    float *kept;    /* [n, out] dy as it passes the residual; backward only */
    float *scratch; /* of finish_room */
};

struct finish_room {
    size_t mask_bytes, normed, inverse, before, kept, scratch; /* the others in floats */
};
struct finish_room finish_room(const struct layer_spec *spec, size_t n, size_t n_src, bool train);

void finish_forward(const struct finish_pass *pass, float *y);
/* dy [n, out] becomes the gradient of what the layer computed. gradient: of the weights,
 * overwritten. */
void finish_backward(const struct finish_pass *pass, float *dy, float *gradient);
/* After finish_forward with what backward needs: the statistics of its rows, as they are pushed. */
void finish_measured(const struct finish_pass *pass, float *statistics);
/* After the layer's own backward pass: adds to dx [n or more, in] what went around it; dx NULL:
 * only the residual's weights get their gradient. */
void finish_backward_around(const struct finish_pass *pass, float *gradient, float *dx);

/* ret [d] = column sums of x [n, d], the same for any number of threads. partial has room for
 * column_sums_partial(d) floats. */
size_t column_sums_partial(size_t d);
void column_sums(size_t n, size_t d, const float *x, float *partial, float *ret);
