/* Batches that are the part of the graph among some nodes, the same for all layers: what ClusterGCN
 * and GraphSAINT share. Training nodes come first, since the last layer computes them alone. */
#include "worker/graph/mfg.h"
#include "worker/graph/sampler_core.h"

enum { AHEAD = 8 };

bool subgraph_trains(const struct store *store, int32_t local) {
    return (uint64_t)local < store->owned && store->split[local] == SPLIT_TRAIN &&
           store->labels[local] >= 0;
}

/* A row's entries that lead to nodes of the map; returns how many. */
static size_t take_row(struct maker *maker, int32_t local, int32_t *indices, int64_t *positions) {
    const struct store *store = maker->sampler->store;
    int64_t begin = store->indptr[local], end = store->indptr[local + 1];
    size_t count = 0;
    for (int64_t e = begin; e < end; e++) {
        if (e + AHEAD < end)
            nodemap_prefetch(&maker->map, store->indices[e + AHEAD]);
        uint32_t number = nodemap_find(&maker->map, store->indices[e]);
        indices[count] = (int32_t)number;
        positions[count] = e;
        count += number != UINT32_MAX;
    }
    return count;
}

void subgraph_take_edges(struct maker *maker, struct slot *slot) {
    const struct sampler *sampler = maker->sampler;
    struct slot_layer *layer = &slot->layers[0];
    uint32_t n = maker->map.count;
    RESERVE(&layer->indptr, (size_t)n + 1);
    RESERVE(&layer->self, n);
    size_t edges = 0;
    layer->indptr.items[0] = 0;
    for (uint32_t i = 0; i < n; i++) {
        int32_t local = slot->locals.items[i];
        uint64_t degree = sampler_degree(sampler, local);
        /* Room for the longest row, not for this one: or memory grew when a hub comes late. */
        RESERVE_KEEP(&layer->indices, edges, edges + sampler->row_max);
        RESERVE_KEEP(&maker->positions, edges, edges + sampler->row_max);
        if (degree > 0)
            edges += take_row(maker, local, layer->indices.items + edges,
                              maker->positions.items + edges);
        layer->indptr.items[i + 1] = (int64_t)edges;
    }
    RESERVE(&layer->weights, edges);
}

void subgraph_finish(struct maker *maker, struct slot *slot, uint32_t n_output) {
    const struct sampler *sampler = maker->sampler;
    uint32_t n = maker->map.count;
    slot->batch.n_output = slot->batch.train_count = n_output;
    slot->batch.n_input = sampler->hops.count > 0 ? n : n_output;
    if (sampler->hops.count == 0)
        return;
    size_t last = sampler->hops.count - 1;
    /* The first layer's arrays hold the graph; its transpose serves all layers but the last. */
    bool transpose = last > 1 || (last == 1 && sampler->transpose_first);
    sampler_finish_layer(sampler, slot, 0, n, n, transpose);
    for (size_t l = 1; l < last; l++)
        slot->batch.graphs[l] = slot->batch.graphs[0];
    if (last > 0) {
        slot->batch.graphs[last] = slot->batch.graphs[0];
        slot->batch.graphs[last].n_dst = n_output;
        sampler_transpose(slot, last);
        if (!sampler->transpose_first) {
            slot->batch.graphs[0].t_indptr = NULL;
            slot->batch.graphs[0].t_indices = NULL;
            slot->batch.graphs[0].t_weights = NULL;
        }
    } else {
        slot->batch.graphs[0].n_dst = n_output;
        if (sampler->transpose_first)
            sampler_transpose(slot, 0);
    }
}
