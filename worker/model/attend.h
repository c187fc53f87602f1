/* What the two attention layers share: the kernels' view of a pass, and heads that are averaged
 * instead of put side by side. Inside worker/model only. */
#pragma once

#include "worker/kernels/attention.h"
#include "worker/model/layer.h"

/* Floats of a head's row, and of those of all heads side by side. */
static inline size_t attend_head(const struct layer_spec *spec) {
    return spec->average ? spec->out : spec->out / spec->heads;
}
static inline size_t attend_width(const struct layer_spec *spec) {
    return spec->heads * attend_head(spec);
}

struct attention attend_view(const struct layer_pass *pass);
/* y [n, out] from what the heads gave, raw [n, attend_width]: itself or its mean over the heads. */
void attend_gather(const struct layer_spec *spec, size_t n, const float *raw, float *y);
/* Back: the gradient of raw. When heads are not averaged it is dy itself, and draw is not used. */
const float *attend_scatter(const struct layer_spec *spec, size_t n, const float *dy, float *draw);
