/* A layer that changes nothing: Y = X, dX = dY. Alone it makes the learned rows the embeddings. */
#include <string.h>

#include "worker/model/layer.h"

static struct layer_room room(const struct layer_spec *spec, size_t n_dst, size_t n_src,
                              bool graph_first, bool train) {
    (void)spec, (void)n_dst, (void)n_src, (void)graph_first, (void)train;
    return (struct layer_room){0};
}

static void forward(const struct layer_pass *pass, float *y) {
    memcpy(y, pass->x_dst->dense, pass->n_dst * pass->spec->in * sizeof *y);
}

static void backward(const struct layer_pass *pass, float *dy, float *dweights, float *dx,
                     float *dstart) {
    (void)dweights, (void)dstart;
    if (dx)
        memcpy(dx, dy, pass->n_dst * pass->spec->in * sizeof *dx);
}

const struct layer layer_identity = {
    .takes_own_rows = true,
    .room = room,
    .forward = forward,
    .backward = backward,
};
