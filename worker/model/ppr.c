/* A step of personalised PageRank. Gasteiger, Bojchevski & Günnemann, "Predict then Propagate:
 * Graph Neural Networks meet Personalized PageRank", ICLR 2019, eq. 4: Y = (1 - alpha) A X + alpha
 * H        H: what the first step began with, the destinations' rows backward: dX = (1 - alpha) A^T
 * dY        dH += alpha dY */
#include "worker/model/layer.h"

static struct layer_room room(const struct layer_spec *spec, size_t n_dst, size_t n_src,
                              bool graph_first, bool train) {
    (void)spec, (void)n_dst, (void)n_src, (void)graph_first, (void)train;
    return (struct layer_room){0};
}

static void forward(const struct layer_pass *pass, float *y) {
    float alpha = pass->spec->alpha;
    size_t count = pass->n_dst * pass->spec->in;
    adjacency_multiply(pass->graph, pass->spec->in, pass->x->dense, y);
#pragma omp parallel for schedule(static) if (count >= 65536)
    for (size_t i = 0; i < count; i++)
        y[i] = (1 - alpha) * y[i] + alpha * pass->start[i];
}

static void backward(const struct layer_pass *pass, float *dy, float *dweights, float *dx,
                     float *dstart) {
    float alpha = pass->spec->alpha;
    size_t count = pass->n_dst * pass->spec->in;
    (void)dweights;
    if (dstart) {
#pragma omp parallel for schedule(static) if (count >= 65536)
        for (size_t i = 0; i < count; i++)
            dstart[i] += alpha * dy[i];
    }
    if (!dx)
        return;
#pragma omp parallel for schedule(static) if (count >= 65536)
    for (size_t i = 0; i < count; i++)
        dy[i] *= 1 - alpha;
    adjacency_multiply_back(pass->graph, pass->spec->in, dy, dx);
}

const struct layer layer_ppr = {
    .room = room,
    .forward = forward,
    .backward = backward,
};
