/* Jumping knowledge. Xu et al., "Representation Learning on Graphs with Jumping Knowledge
 * Networks", ICML 2018. X_k: the outputs of layer k of the K before it, rows of its own nodes.
 *     concat: Y = [X_0 | X_1 | ... | X_(K-1)]
 *     max:    Y = max over k of X_k, element by element
 * backward:
 *     concat: dX_k += its columns of dY
 *     max:    dX_k += dY where X_k is the first of the largest
 * What goes to X_k is added when the backward pass comes to layer k: until then dY is kept, as the
 * gradient of a start is. Nothing else is kept: the largest is found again. */
#include <string.h>

#include "worker/model/layer.h"

#define WORK_MIN 65536

static struct layer_room room(const struct layer_spec *spec, size_t n_dst, size_t n_src,
                              bool graph_first, bool train) {
    (void)spec, (void)n_dst, (void)n_src, (void)graph_first, (void)train;
    return (struct layer_room){0};
}

/* A jump's number is its start; the layers before it stand before it. */
static const struct layer_spec *layer_before(const struct layer_spec *jump, size_t k) {
    return jump - jump->start + k;
}

static size_t column_of(const struct layer_spec *jump, size_t k) {
    size_t column = 0;
    for (size_t i = 0; i < k; i++)
        column += layer_before(jump, i)->out;
    return column;
}

void jump_put(const struct layer_spec *jump, size_t k, size_t n, const float *x, float *y) {
    size_t d = layer_before(jump, k)->out, out = jump->out;
    if (jump->mode == JUMP_CONCAT) {
        y += column_of(jump, k);
#pragma omp parallel for schedule(static) if (n * d >= WORK_MIN)
        for (size_t i = 0; i < n; i++)
            memcpy(y + i * out, x + i * d, d * sizeof *x);
        return;
    }
#pragma omp parallel for schedule(static) if (n * d >= WORK_MIN)
    for (size_t i = 0; i < n * d; i++)
        y[i] = k == 0 || x[i] > y[i] ? x[i] : y[i];
}

static bool is_first_max(const struct layer_pass *pass, size_t k, size_t i) {
    float x = pass->outputs[k][i];
    bool first = true;
    for (size_t j = 0; first && j < pass->spec->start; j++)
        first = j < k ? pass->outputs[j][i] < x : pass->outputs[j][i] <= x;
    return first;
}

void jump_back(const struct layer_pass *pass, size_t k, const float *dy, float *dx) {
    const struct layer_spec *jump = pass->spec;
    size_t n = pass->n_dst, d = layer_before(jump, k)->out, out = jump->out;
    if (jump->mode == JUMP_CONCAT) {
        dy += column_of(jump, k);
#pragma omp parallel for schedule(static) if (n * d >= WORK_MIN)
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < d; j++)
                dx[i * d + j] += dy[i * out + j];
        return;
    }
#pragma omp parallel for schedule(static) if (n * d >= WORK_MIN)
    for (size_t i = 0; i < n * d; i++)
        dx[i] += is_first_max(pass, k, i) ? dy[i] : 0;
}

static void forward(const struct layer_pass *pass, float *y) {
    for (size_t k = 0; k < pass->spec->start; k++)
        jump_put(pass->spec, k, pass->n_dst, pass->outputs[k], y);
}

static void backward(const struct layer_pass *pass, float *dy, float *dweights, float *dx,
                     float *dstart) {
    (void)dweights;
    for (size_t i = 0; i < pass->n_dst * pass->spec->out; i++)
        dstart[i] += dy[i];
    memset(dx, 0, pass->n_src * pass->spec->in * sizeof *dx);
}

const struct layer layer_jump = {
    .room = room,
    .forward = forward,
    .backward = backward,
};
