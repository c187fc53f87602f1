/* Sampled neighbours. Hamilton, Ying & Leskovec, "Inductive Representation Learning on Large
 * Graphs", NeurIPS 2017, algorithm 2: from the outputs inwards, each layer draws a number of
 * neighbours for every node it computes, and the union of nodes and neighbours is what the layer
 * below has to compute.
 *
 * Most of the time goes into waiting for memory, so the work is done in pieces of some hundred
 * edges and in passes over a piece: where in the store's rows (random numbers alone), which node is
 * there, which number has it in the batch; each pass asks for the memory that the next one reads.
 */
#include "worker/graph/mfg.h"
#include "worker/graph/sampler_core.h"

/* Edges that are on their way together: enough to hide the memory's latency, few enough to stay in
 * the first cache. */
enum { PIECE = 512, AHEAD = 16 };

/* A row and where the neighbours drawn of it go. */
struct draw {
    int64_t begin;    /* of the store's indices */
    uint64_t degree;  /* entries from there */
    uint64_t row;     /* its local number */
    uint64_t count;   /* to be drawn */
    uint64_t key;     /* of its random numbers */
    int64_t *ret;     /* [count] positions in the store's indices */
    float *ret_means; /* [count] factors of a mean over the row; weighted draws alone */
};

static void draw_all(const struct draw *draw) {
    for (uint64_t k = 0; k < draw->count; k++)
        draw->ret[k] = draw->begin + (int64_t)k;
}

static bool take(uint64_t *taken, uint64_t pick) {
    bool before = taken[pick / 64] >> pick % 64 & 1;
    taken[pick / 64] |= 1ULL << pick % 64;
    return !before;
}

/* Gives back what was taken; positions were counted from the row's begin. */
static void draw_end(struct maker *maker, const struct draw *draw) {
    for (uint64_t k = 0; k < draw->count; k++) {
        maker->taken[draw->ret[k] / 64] = 0;
        draw->ret[k] += draw->begin;
    }
}

/* R. Floyd's draw without replacement (Bentley, "A sample of brilliance", CACM 1987): among the
 * first j + 1, take a random one, or the j-th itself when that one is taken already. */
static void draw_uniform(struct maker *maker, const struct draw *draw) {
    uint64_t *taken = maker->taken;
    for (uint64_t k = 0; k < draw->count; k++) {
        uint64_t j = draw->degree - draw->count + k, pick = rng_below(rng_at(draw->key, k), j + 1);
        bool again = taken[pick / 64] >> pick % 64 & 1;
        pick = again ? j : pick;
        taken[pick / 64] |= 1ULL << pick % 64;
        draw->ret[k] = (int64_t)pick;
    }
    draw_end(maker, draw);
}

static void draw_uniform_replace(const struct draw *draw) {
    for (uint64_t k = 0; k < draw->count; k++)
        draw->ret[k] = draw->begin + (int64_t)rng_below(rng_at(draw->key, k), draw->degree);
}

/* With probabilities p and replacement, x_pick / (p_pick * degree) has the mean of the row's x as
 * its expectation (Hansen & Hurwitz 1943); so the factor of each of the count draws is that over
 * count. */
static void draw_weighted_replace(const struct sampler *sampler, const struct draw *draw) {
    const struct alias *alias = sampler->alias;
    const float *weights = sampler->store->edge_weights + draw->begin;
    double scale = alias->total[draw->row] / ((double)draw->count * alias->positive[draw->row]);
    for (uint64_t k = 0; k < draw->count; k++) {
        uint64_t pick = alias_draw(alias, draw->begin, draw->degree, rng_at(draw->key, k));
        draw->ret[k] = draw->begin + (int64_t)pick;
        draw->ret_means[k] = (float)(scale / (double)weights[pick]);
    }
}

/* One that is not taken yet, in proportion to the weights of those: tried by the alias table, and
 * after some tries (most of the weight is taken) found by adding up. */
static uint64_t draw_remaining(struct maker *maker, const struct draw *draw, uint64_t *counter) {
    const struct sampler *sampler = maker->sampler;
    const float *weights = sampler->store->edge_weights + draw->begin;
    for (int tries = 0; tries < 16; tries++) {
        uint64_t pick =
            alias_draw(sampler->alias, draw->begin, draw->degree, rng_at(draw->key, (*counter)++));
        if (take(maker->taken, pick))
            return pick;
    }
    double left = 0;
    for (uint64_t j = 0; j < draw->degree; j++)
        left += maker->taken[j / 64] >> j % 64 & 1 ? 0 : (double)weights[j];
    double at = (double)(rng_at(draw->key, (*counter)++) >> 11) * 0x1p-53 * left;
    uint64_t last = 0;
    for (uint64_t j = 0; j < draw->degree; j++) {
        if (maker->taken[j / 64] >> j % 64 & 1 || weights[j] == 0)
            continue;
        last = j;
        at -= weights[j];
        if (at < 0)
            break;
    }
    take(maker->taken, last);
    return last;
}

/* One after the other, each in proportion to the weights of those that are left. With P the
 * probabilities of the draws before, the k-th draw's estimate of the row's sum is the x of those
 * plus x_pick (1 - P) / p_pick; the mean of the draws' estimates is unbiased (Des Raj, "Some
 * estimators in sampling with varying probabilities without replacement", JASA 1956). */
static void draw_weighted(struct maker *maker, const struct draw *draw) {
    const struct sampler *sampler = maker->sampler;
    const float *weights = sampler->store->edge_weights + draw->begin;
    double total = sampler->alias->total[draw->row], before = 0, count = (double)draw->count;
    double scale = 1 / (count * sampler->alias->positive[draw->row]);
    uint64_t counter = 0;
    for (uint64_t k = 0; k < draw->count; k++) {
        uint64_t pick = draw_remaining(maker, draw, &counter);
        double p = weights[pick] / total, left = before < 1 ? 1 - before : 0;
        draw->ret[k] = (int64_t)pick;
        draw->ret_means[k] = (float)(scale * (left / p + (count - 1 - (double)k)));
        before += p;
    }
    draw_end(maker, draw);
}

/* Those of a weight above 0, which are as many as are wanted. */
static void draw_positive(const struct sampler *sampler, const struct draw *draw) {
    uint64_t out = 0;
    for (uint64_t k = 0; k < draw->degree && out < draw->count; k++)
        if (sampler->store->edge_weights[(uint64_t)draw->begin + k] > 0) {
            draw->ret[out] = draw->begin + (int64_t)k;
            draw->ret_means[out++] = 1 / (float)draw->count;
        }
}

/* Of how many neighbours some are drawn: those of weight 0 do not count. */
static uint64_t candidates(const struct sampler *sampler, uint64_t row) {
    const int64_t *indptr = sampler->store->indptr;
    return sampler->alias ? sampler->alias->positive[row]
                          : (uint64_t)(indptr[row + 1] - indptr[row]);
}

static void draw_row(struct maker *maker, const struct draw *draw) {
    const struct sampler *sampler = maker->sampler;
    if (sampler->alias && sampler->replace)
        draw_weighted_replace(sampler, draw);
    else if (sampler->alias && candidates(sampler, draw->row) > draw->count)
        draw_weighted(maker, draw);
    else if (sampler->alias)
        draw_positive(sampler, draw);
    else if (sampler->replace)
        draw_uniform_replace(draw);
    else if (draw->degree > draw->count)
        draw_uniform(maker, draw);
    else
        draw_all(draw);
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
        if ((uint64_t)local < store->rows) {
            uint64_t there = candidates(sampler, (uint64_t)local);
            sum += (int64_t)(there < fanout && (there == 0 || !sampler->replace) ? there : fanout);
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
    RESERVE(&maker->positions, PIECE + fanout);
    RESERVE(&maker->found, PIECE + fanout);
    if (graph_is_weighted(sampler->hops.graph[l]))
        RESERVE(&maker->edges, (size_t)indptr[n_dst]);
    int64_t *positions = maker->positions.items;
    int32_t *found = maker->found.items;

    for (uint32_t i = 0; i < n_dst;) {
        int64_t done = indptr[i];
        size_t count = 0;
        for (; i < n_dst && count < PIECE; i++) {
            if (indptr[i] == indptr[i + 1])
                continue;
            int32_t local = slot->locals.items[i];
            struct draw draw = {
                .begin = store->indptr[local],
                .degree = (uint64_t)(store->indptr[local + 1] - store->indptr[local]),
                .row = (uint64_t)local,
                .count = (uint64_t)(indptr[i + 1] - indptr[i]),
                .key = rng_at(key, (uint64_t)store->nodes[local]),
                .ret = positions + count,
                .ret_means = layer->weights.items + indptr[i],
            };
            draw_row(maker, &draw);
            for (size_t k = 0; k < draw.count; k++)
                __builtin_prefetch(&store->indices[draw.ret[k]]);
            count += draw.count;
        }
        nodemap_reserve(&maker->map, (uint32_t)count);
        RESERVE_KEEP(&slot->locals, maker->map.count, maker->map.count + count);
        if (graph_is_weighted(sampler->hops.graph[l]))
            memcpy(maker->edges.items + done, positions, count * sizeof *positions);
        for (size_t k = 0; k < count; k++) {
            found[k] = store->indices[positions[k]];
            nodemap_prefetch(&maker->map, found[k]);
        }
        for (size_t k = 0; k < count; k++) {
            uint32_t number = nodemap_add(&maker->map, found[k]);
            slot->locals.items[number] = found[k];
            layer->indices.items[done + (int64_t)k] = (int32_t)number;
        }
    }
}

/* Where edges have weights: each one's weight in full mode, times how many entries of the row the
 * mean stands for. */
static void make_own_weights(const struct maker *maker, struct slot *slot, size_t l,
                             uint32_t n_dst) {
    const struct sampler *sampler = maker->sampler;
    const struct store *store = sampler->store;
    struct slot_layer *layer = &slot->layers[l];
    const int64_t *indptr = layer->indptr.items;
    const int32_t *locals = slot->locals.items;
    float *weights = layer->weights.items;
    int graph = sampler->hops.graph[l];
    for (uint32_t i = 0; i < n_dst; i++) {
        uint64_t row = (uint64_t)locals[i];
        double degree = mfg_degree(store, graph, row);
        layer->self.items[i] = mfg_self(graph, degree);
        if (indptr[i] == indptr[i + 1])
            continue;
        double total = sampler->totals ? sampler->totals[row] : 0;
        double entries = (double)candidates(sampler, row);
        for (int64_t e = indptr[i]; e < indptr[i + 1]; e++) {
            double mean =
                sampler->alias ? (double)weights[e] : 1 / (double)(indptr[i + 1] - indptr[i]);
            uint64_t source = (uint64_t)locals[layer->indices.items[e]];
            weights[e] = (float)(entries * mean *
                                 (double)mfg_weight(store, graph, maker->edges.items[e], degree,
                                                    mfg_degree(store, graph, source), total));
        }
    }
}

/* The mean over the row, times what the norm makes of it. */
static void make_weights(const struct maker *maker, struct slot *slot, size_t l, uint32_t n_dst) {
    const struct sampler *sampler = maker->sampler;
    struct slot_layer *layer = &slot->layers[l];
    const int64_t *indptr = layer->indptr.items;
    const int32_t *indices = layer->indices.items, *degrees = sampler->store->degree;
    const float *scales = maker->scales.items;
    float *weights = layer->weights.items;
    int graph = sampler->hops.graph[l];
    for (uint32_t i = 0; i < n_dst; i++) {
        int64_t begin = indptr[i], end = indptr[i + 1];
        if (!sampler->alias)
            for (int64_t e = begin; e < end; e++)
                weights[e] = 1 / (float)(end - begin);
        if (!mfg_has_self(graph)) /* the mean is what it wants, or it has no weights */
            continue;
        float factor = sampler_mean_factor(graph, (float)degrees[slot->locals.items[i]], scales[i]);
        layer->self.items[i] = sampler_self(graph, scales[i]);
        for (int64_t e = begin; e < end; e++)
            weights[e] *= factor * (graph == GRAPH_SYM ? scales[indices[e]] : 1);
    }
}

static void make(struct maker *maker, struct slot *slot) {
    const struct sampler *sampler = maker->sampler;
    uint32_t n =
        sampler->negatives ? sampler_take_links(maker, slot) : sampler_take_outputs(maker, slot);
    slot->batch.n_output = n;
    slot->batch.train_count = sampler->negatives ? (uint32_t)slot->batch.links.count : n;
    sampler_take_scales(maker, slot, 0, n);
    for (size_t l = sampler->hops.count; l-- > 0;) {
        struct slot_layer *layer = &slot->layers[l];
        RESERVE(&layer->indptr, (size_t)n + 1);
        RESERVE(&layer->self, (size_t)n);
        size_t edges = count_draws(sampler, slot, sampler->fanout[l], n, layer->indptr.items);
        RESERVE(&layer->indices, edges);
        RESERVE(&layer->weights, edges);
        make_edges(maker, slot, l, n);
        if (sampler->negatives)
            sampler_exclude(maker, slot, l, n);
        sampler_take_scales(maker, slot, n, maker->map.count);
        if (graph_is_weighted(sampler->hops.graph[l]))
            make_own_weights(maker, slot, l, n);
        else
            make_weights(maker, slot, l, n);
        sampler_finish_layer(sampler, slot, l, n, maker->map.count,
                             l > 0 || sampler->transpose_first);
        n = maker->map.count;
    }
    slot->batch.n_input = n;
}

const struct sampler_method sampler_neighbor = {.make = make};
