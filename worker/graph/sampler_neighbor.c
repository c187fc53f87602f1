/* Sampled neighbours. Hamilton, Ying & Leskovec, "Inductive Representation Learning on Large
 * Graphs", NeurIPS 2017, algorithm 2: from the outputs inwards, each layer draws a number of
 * neighbours for every node it computes, and the union of nodes and neighbours is what the layer
 * below has to compute.
 *
 * Most of the time goes into waiting for memory, so the work is done in pieces of some hundred
 * edges and in passes over a piece: where in the store's rows (random numbers alone), which node is
 * there, which number has it in the batch; each pass asks for the memory that the next one reads.
 */
#include "worker/graph/sampler_core.h"

/* Edges that are on their way together: enough to hide the memory's latency, few enough to stay in
 * the first cache. */
enum { PIECE = 512, AHEAD = 16 };

/* Writes the positions of the neighbours drawn of a row; returns how many. R. Floyd's draw without
 * replacement (Bentley, "A sample of brilliance", CACM 1987): among the first j + 1, take a random
 * one, or the j-th itself when that one is taken already. */
static size_t draw(struct maker *maker, int64_t begin, uint64_t degree, uint64_t fanout,
                   uint64_t key, int64_t *ret) {
    if (degree <= fanout) {
        for (uint64_t k = 0; k < degree; k++)
            ret[k] = begin + (int64_t)k;
        return degree;
    }
    uint64_t *taken = maker->taken;
    for (uint64_t k = 0; k < fanout; k++) {
        uint64_t j = degree - fanout + k, pick = rng_below(rng_at(key, k), j + 1);
        bool again = taken[pick / 64] >> pick % 64 & 1;
        pick = again ? j : pick;
        taken[pick / 64] |= 1ULL << pick % 64;
        ret[k] = (int64_t)pick;
    }
    for (uint64_t k = 0; k < fanout; k++) {
        taken[ret[k] / 64] = 0;
        ret[k] += begin;
    }
    return fanout;
}

/* Counts each row's draws into the layer's indptr; returns their sum. */
static size_t count_draws(const struct sampler *sampler, const struct slot *slot, uint64_t fanout,
                          uint32_t n_dst, int64_t *indptr) {
    const struct store *store = sampler->store;
    const int32_t *locals = slot->locals.items;
    int64_t sum = indptr[0] = 0;
    for (uint32_t i = 0; i < n_dst; i++) {
        int32_t local = locals[i];
        if (i + AHEAD < n_dst)
            __builtin_prefetch(&store->indptr[locals[i + AHEAD]]);
        /* The outermost nodes of a halo smaller than the layers have no row. */
        if (sampler->kind != MODEL_MLP && (uint64_t)local < store->rows) {
            uint64_t degree = (uint64_t)(store->indptr[local + 1] - store->indptr[local]);
            sum += (int64_t)(degree < fanout ? degree : fanout);
        }
        indptr[i + 1] = sum;
    }
    return (size_t)sum;
}

/* Makes layer l's edges for the first n_dst nodes of the slot. */
static void make_edges(struct maker *maker, struct slot *slot, size_t l, uint32_t n_dst) {
    const struct sampler *sampler = maker->sampler;
    const struct store *store = sampler->store;
    struct slot_layer *layer = &slot->layers[l];
    uint64_t fanout = sampler->fanout[l];
    uint64_t key = rng_key(rng_key(rng_key(sampler->seed, STREAM_NEIGHBOURS), slot->batch.step), l);
    const int64_t *indptr = layer->indptr.items;
    int32_t *indices = layer->indices.items;
    RESERVE(&maker->positions, PIECE + fanout);
    RESERVE(&maker->found, PIECE + fanout);
    int64_t *positions = maker->positions.items;
    int32_t *found = maker->found.items;

    for (uint32_t i = 0; i < n_dst;) {
        size_t count = 0;
        for (; i < n_dst && count < PIECE; i++) {
            if (indptr[i] == indptr[i + 1])
                continue;
            int32_t local = slot->locals.items[i];
            int64_t begin = store->indptr[local];
            size_t drawn = draw(maker, begin, (uint64_t)(store->indptr[local + 1] - begin), fanout,
                                rng_at(key, (uint64_t)store->nodes[local]), positions + count);
            for (size_t k = 0; k < drawn; k++)
                __builtin_prefetch(&store->indices[positions[count + k]]);
            count += drawn;
        }
        nodemap_reserve(&maker->map, (uint32_t)count);
        RESERVE_KEEP(&slot->locals, maker->map.count, maker->map.count + count);
        for (size_t k = 0; k < count; k++) {
            found[k] = store->indices[positions[k]];
            nodemap_prefetch(&maker->map, found[k]);
        }
        for (size_t k = 0; k < count; k++) {
            uint32_t number = nodemap_add(&maker->map, found[k]);
            slot->locals.items[number] = found[k];
            *indices++ = (int32_t)number;
        }
    }
}

static void make_weights(const struct maker *maker, struct slot *slot, size_t l, uint32_t n_dst) {
    const struct sampler *sampler = maker->sampler;
    struct slot_layer *layer = &slot->layers[l];
    const int64_t *indptr = layer->indptr.items;
    const int32_t *indices = layer->indices.items, *degrees = sampler->store->degree;
    const float *scales = maker->scales.items;
    float *weights = layer->weights.items;
    for (uint32_t i = 0; i < n_dst; i++) {
        int64_t begin = indptr[i], end = indptr[i + 1];
        float present = (float)(end - begin);
        if (sampler->kind == MODEL_GCN) {
            float degree = (float)degrees[slot->locals.items[i]];
            float factor = scales[i] * degree / present; /* not used where there are no edges */
            layer->self.items[i] = scales[i] * scales[i];
            for (int64_t e = begin; e < end; e++)
                weights[e] = factor * scales[indices[e]];
        } else {
            for (int64_t e = begin; e < end; e++)
                weights[e] = 1 / present;
        }
    }
}

static void make(struct maker *maker, struct slot *slot) {
    const struct sampler *sampler = maker->sampler;
    uint32_t n = sampler_take_outputs(maker, slot);
    slot->batch.n_output = slot->batch.train_count = n;
    sampler_take_scales(maker, slot, 0, n);
    for (size_t l = sampler->layers; l-- > 0;) {
        struct slot_layer *layer = &slot->layers[l];
        RESERVE(&layer->indptr, (size_t)n + 1);
        RESERVE(&layer->self, (size_t)n);
        size_t edges = count_draws(sampler, slot, sampler->fanout[l], n, layer->indptr.items);
        RESERVE(&layer->indices, edges);
        RESERVE(&layer->weights, edges);
        make_edges(maker, slot, l, n);
        sampler_take_scales(maker, slot, n, maker->map.count);
        make_weights(maker, slot, l, n);
        sampler_finish_layer(sampler, slot, l, n, maker->map.count);
        n = maker->map.count;
    }
    slot->batch.n_input = n;
}

const struct sampler_method sampler_neighbor = {.make = make};
