/* Edge weights and transposes of a layer's graph. */
#include "worker/graph/mfg.h"

#include <math.h>
#include <string.h>

double mfg_degree(const struct store *store, int graph, uint64_t node) {
    return graph_is_weighted(graph) ? (double)store->weighted_degree[node]
                                    : (double)store->degree[node];
}

double mfg_total(const struct store *store, int graph, int64_t begin, int64_t end) {
    double total = 0;
    if (!graph_is_weighted(graph))
        return (double)(end - begin);
    for (int64_t e = begin; e < end; e++)
        total += (double)store->edge_weights[e];
    return total;
}

float mfg_weight(const struct store *store, int graph, int64_t e, double degree_dst,
                 double degree_src, double total) {
    double weight = graph_is_weighted(graph) ? (double)store->edge_weights[e] : 1;
    switch (graph_plain(graph)) {
    case GRAPH_SYM:
        return (float)(weight / sqrt((degree_dst + 1) * (degree_src + 1)));
    case GRAPH_MEAN:
        return total > 0 ? (float)(weight / total) : 0;
    case GRAPH_WALK:
        return (float)(weight / (degree_dst + 1));
    default:
        return (float)weight;
    }
}

bool mfg_has_self(int graph) {
    return graph_plain(graph) != GRAPH_MEAN && graph != GRAPH_BARE;
}

float mfg_self(int graph, double degree) {
    return graph_plain(graph) == GRAPH_SUM ? 1 : (float)(1 / (degree + 1));
}

int mfg_check(const struct store *store, const struct model_spec *spec, struct error *reterr) {
    if (!model_spec_weighted(spec))
        return 0;
    if (!store->edge_weights)
        return error_set(reterr, ERR_CONFIG,
                         "the model uses edge weights (edge_weights: true), but snapshot %s has "
                         "none; import the graph with weights, or leave the option out",
                         store->snapshot_name);
    if (!store->weighted_degree)
        return error_set(reterr, ERR_CONFIG,
                         "part %u of %u of %s was cut before parts had weighted degrees, which the "
                         "model's edge weights need; cut it again with `graphps partition "
                         "--overwrite`",
                         store->part, store->parts, store->snapshot_name);
    for (uint64_t i = 0; i < store->rows; i++)
        for (int64_t e = store->indptr[i]; e < store->indptr[i + 1]; e++)
            if (!isfinite(store->edge_weights[e]) || store->edge_weights[e] < 0)
                return error_set(reterr, ERR_CONFIG,
                                 "the edge from node %lld to node %lld of %s (nodes counted from 0 "
                                 "in the order of the import) has the weight %g; the model's edge "
                                 "weights have to be finite and not negative",
                                 (long long)store->nodes[store->indices[e]],
                                 (long long)store->nodes[i], store->snapshot_name,
                                 (double)store->edge_weights[e]);
    for (uint64_t i = 0; i < store->local; i++)
        if (!isfinite(store->weighted_degree[i]) || store->weighted_degree[i] < 0)
            return error_set(reterr, ERR_CONFIG,
                             "the edges into node %lld of %s weigh %g together; the model's edge "
                             "weights have to be finite and not negative",
                             (long long)store->nodes[i], store->snapshot_name,
                             (double)store->weighted_degree[i]);
    return 0;
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
