/* Layer-wise importance sampling. Chen, Ma & Xiao, "FastGCN", ICLR 2018; with probabilities that
 * depend on the layer above: Zou et al., "Layer-Dependent Importance Sampling for Training Deep and
 * Large Graph Convolutional Networks" (LADIES), NeurIPS 2019. Of all neighbours of the nodes that
 * are computed, a layer takes a number for all of them together, so that batches do not grow
 * exponentially with depth; node j in proportion to sum_i P_ij^2, P the propagation of full mode
 * and i the nodes computed (LADIES, algorithm 1).
 *
 * Differences to the paper: nodes are not drawn one by one but each is in by a random number of its
 * own, with probability pi_j = min(1, t sum_i P_ij^2), t such that the pi add up to
 * train.layer_nodes (Poisson sampling; the same node is never drawn twice); nodes that are computed
 * above are there anyway, so edges from them are all kept; and edges are weighed by P_ij / pi_j
 * without normalising rows afterwards, so a layer's sums are those of full mode on average (Horvitz
 * & Thompson 1952). */
#include <math.h>

#include "worker/graph/sampler_core.h"

/* Nodes that are not in the batch yet, with their sums of squares, into the maker's others. */
static void take_candidates(struct maker *maker, const struct slot *slot, size_t l,
                            uint32_t n_dst) {
    const struct sampler *sampler = maker->sampler;
    int graph = sampler->hops.graph[l];
    const struct store *store = sampler->store;
    struct nodemap *other = &maker->other;
    nodemap_clear(other);
    for (uint32_t i = 0; i < n_dst; i++) {
        int32_t local = slot->locals.items[i];
        uint64_t degree = sampler_degree(sampler, local);
        if (degree == 0)
            continue;
        const int32_t *row = store->indices + store->indptr[local];
        double factor = (double)sampler_row_factor(sampler, graph, local);
        /* Room for the longest row, not for this one: or memory grew when a hub comes late. */
        nodemap_reserve(other, (uint32_t)sampler->row_max);
        RESERVE_KEEP(&maker->others, other->count, other->count + sampler->row_max);
        RESERVE_KEEP(&maker->sums, other->count, other->count + sampler->row_max);
        for (uint64_t k = 0; k < degree; k++) {
            if (nodemap_find(&maker->map, row[k]) != UINT32_MAX)
                continue;
            uint32_t before = other->count, number = nodemap_add(other, row[k]);
            if (number == before) {
                maker->others.items[number] = row[k];
                maker->sums.items[number] = 0;
            }
            maker->sums.items[number] += factor * factor;
        }
    }
    for (uint32_t c = 0; graph == GRAPH_SYM && c < other->count; c++) {
        double scale = (double)sampler->scales[maker->others.items[c]];
        maker->sums.items[c] *= scale * scale;
    }
}

/* The t for which sum min(1, t sums) is the wanted number; infinite when there are not more. Those
 * that are sure leave more to the others, which may make some of them sure. */
static double threshold(const double *sums, uint32_t count, double wanted) {
    if (count <= wanted)
        return INFINITY;
    double total = 0;
    for (uint32_t c = 0; c < count; c++)
        total += sums[c];
    double t = wanted / total;
    for (uint32_t sure = 0;;) {
        uint32_t now = 0;
        double rest = 0;
        for (uint32_t c = 0; c < count; c++)
            if (t * sums[c] >= 1)
                now++;
            else
                rest += sums[c];
        if (now == sure || now >= wanted || !(rest > 0))
            return t;
        sure = now;
        t = (wanted - now) / rest;
    }
}

static void take_chosen(struct maker *maker, struct slot *slot, size_t l) {
    const struct sampler *sampler = maker->sampler;
    const double *sums = maker->sums.items;
    uint64_t key = rng_key(rng_key(rng_key(sampler->seed, STREAM_LAYERS), slot->batch.step), l);
    double t = threshold(sums, maker->other.count, (double)sampler->layer_nodes);
    for (uint32_t c = 0; c < maker->other.count; c++) {
        int32_t local = maker->others.items[c];
        double probability = isinf(t) ? 1 : fmin(1, t * sums[c]);
        uint64_t bits = rng_at(key, (uint64_t)sampler->store->nodes[local]);
        if ((double)(bits >> 11) * 0x1p-53 >= probability)
            continue;
        uint32_t number = sampler_add(maker, slot, local);
        RESERVE_KEEP(&maker->inverses, number, (size_t)number + 1);
        maker->inverses.items[number] = (float)(1 / probability);
    }
}

static void make_edges(struct maker *maker, struct slot *slot, size_t l, uint32_t n_dst) {
    const struct sampler *sampler = maker->sampler;
    const struct store *store = sampler->store;
    struct slot_layer *layer = &slot->layers[l];
    int graph = sampler->hops.graph[l];
    size_t edges = 0;
    RESERVE(&layer->indptr, (size_t)n_dst + 1);
    RESERVE(&layer->self, n_dst);
    layer->indptr.items[0] = 0;
    for (uint32_t i = 0; i < n_dst; i++) {
        int32_t local = slot->locals.items[i];
        uint64_t degree = sampler_degree(sampler, local);
        RESERVE_KEEP(&layer->indices, edges, edges + sampler->row_max);
        RESERVE_KEEP(&layer->weights, edges, edges + sampler->row_max);
        float factor = degree > 0 ? sampler_row_factor(sampler, graph, local) : 0;
        for (uint64_t k = 0; k < degree; k++) {
            int32_t neighbour = store->indices[(uint64_t)store->indptr[local] + k];
            uint32_t number = nodemap_find(&maker->map, neighbour);
            if (number == UINT32_MAX)
                continue;
            float inverse = number < n_dst ? 1 : maker->inverses.items[number];
            layer->indices.items[edges] = (int32_t)number;
            layer->weights.items[edges++] =
                factor * inverse * (graph == GRAPH_SYM ? maker->scales.items[number] : 1);
        }
        layer->self.items[i] = sampler_self(graph, maker->scales.items[i]);
        layer->indptr.items[i + 1] = (int64_t)edges;
    }
}

static void make(struct maker *maker, struct slot *slot) {
    const struct sampler *sampler = maker->sampler;
    uint32_t n = sampler_take_outputs(maker, slot);
    slot->batch.n_output = slot->batch.train_count = n;
    sampler_take_scales(maker, slot, 0, n);
    for (size_t l = sampler->hops.count; l-- > 0;) {
        take_candidates(maker, slot, l, n);
        take_chosen(maker, slot, l);
        sampler_take_scales(maker, slot, n, maker->map.count);
        make_edges(maker, slot, l, n);
        sampler_finish_layer(sampler, slot, l, n, maker->map.count,
                             l > 0 || sampler->transpose_first);
        n = maker->map.count;
    }
    slot->batch.n_input = n;
}

const struct sampler_method sampler_layer = {.make = make};
