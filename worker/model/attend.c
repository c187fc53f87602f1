/* Passes as attention kernels want them, and the mean over heads. */
#include "worker/model/attend.h"

#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

static size_t threads(void) {
#ifdef _OPENMP
    return (size_t)omp_get_max_threads();
#else
    return 1;
#endif
}

struct attention attend_view(const struct layer_pass *pass) {
    const struct layer_graph *graph = pass->graph;
    return (struct attention){
        .n_dst = pass->n_dst,
        .n_src = pass->n_src,
        .first = pass->first,
        .heads = pass->spec->heads,
        .width = attend_head(pass->spec),
        .indptr = graph ? graph->indptr : NULL,
        .indices = graph ? graph->indices : NULL,
        .t_indptr = graph ? graph->t_indptr : NULL,
        .t_indices = graph ? graph->t_indices : NULL,
        .slope = pass->spec->slope,
        .p = pass->attention_dropout,
        .key = pass->key,
        .nodes = pass->nodes,
        .parts = threads(),
    };
}

void attend_gather(const struct layer_spec *spec, size_t n, const float *raw, float *y) {
    size_t heads = spec->heads, out = spec->out;
    if (!spec->average || heads == 1) {
        memcpy(y, raw, n * out * sizeof *y);
        return;
    }
#pragma omp parallel for schedule(static) if (n * out >= 65536)
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < out; j++) {
            float sum = 0;
            for (size_t h = 0; h < heads; h++)
                sum += raw[(i * heads + h) * out + j];
            y[i * out + j] = sum / (float)heads;
        }
}

const float *attend_scatter(const struct layer_spec *spec, size_t n, const float *dy, float *draw) {
    size_t heads = spec->heads, out = spec->out;
    if (!spec->average || heads == 1)
        return dy;
#pragma omp parallel for schedule(static) if (n * out >= 65536)
    for (size_t i = 0; i < n; i++)
        for (size_t h = 0; h < heads; h++)
            for (size_t j = 0; j < out; j++)
                draw[(i * heads + h) * out + j] = dy[i * out + j] / (float)heads;
    return draw;
}
