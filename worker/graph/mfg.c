/* Edge weights and transposes of a layer's graph. */
#include "worker/graph/mfg.h"

#include <math.h>
#include <string.h>

float mfg_weight(int graph, int32_t degree_dst, int32_t degree_src, int64_t present) {
    switch (graph) {
    case GRAPH_SYM:
        return (float)(1 / sqrt(((double)degree_dst + 1) * ((double)degree_src + 1)));
    case GRAPH_MEAN:
        return (float)(1 / (double)present);
    case GRAPH_WALK:
        return (float)(1 / ((double)degree_dst + 1));
    default:
        return 1;
    }
}

bool mfg_has_self(int graph) {
    return graph != GRAPH_MEAN && graph != GRAPH_BARE;
}

float mfg_self(int graph, int32_t degree) {
    return graph == GRAPH_SUM ? 1 : (float)(1 / ((double)degree + 1));
}

void mfg_transpose(uint32_t n_dst, uint32_t n_src, const int64_t *indptr, const int32_t *indices,
                   const float *weights, int64_t *t_indptr, int32_t *t_indices, float *t_weights) {
    /* Counts go one place to the right of where the running sum will have them, and the filling
     * moves each row's start to its end: so t_indptr serves as its own cursor. */
    memset(t_indptr, 0, ((size_t)n_src + 1) * sizeof *t_indptr);
    for (int64_t e = 0; e < indptr[n_dst]; e++)
        if ((uint32_t)indices[e] + 2 <= n_src)
            t_indptr[indices[e] + 2]++;
    for (uint32_t j = 1; j <= n_src; j++)
        t_indptr[j] += t_indptr[j - 1];
    for (uint32_t i = 0; i < n_dst; i++)
        for (int64_t e = indptr[i]; e < indptr[i + 1]; e++) {
            int64_t slot = t_indptr[indices[e] + 1]++;
            t_indices[slot] = (int32_t)i;
            if (weights)
                t_weights[slot] = weights[e];
        }
}
