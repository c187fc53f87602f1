/* GraphSAINT with random walks. Zeng et al., "GraphSAINT: Graph Sampling Based Inductive Learning
 * Method", ICLR 2020. From some root nodes walks of a fixed length go along the edges against their
 * direction; a batch is the graph among all nodes they met, and its loss that of the training nodes
 * among them, however they were met. Nodes met often would count for more, so both are corrected by
 * how often nodes and edges are met (section 3.2): C_v and C_uv of N batches drawn before the
 * training starts;
 *     an edge's weight is divided by alpha_uv = C_uv / C_v (the aggregator is unbiased),
 *     a node's loss by lambda_v = C_v / N (the loss is unbiased).
 * Difference to the paper: roots are not drawn among all nodes but are the step's share of the
 * training nodes, shuffled, so that an epoch has each of them as a root; the batches counted are
 * drawn in the same way. Counts of edges start at 1, since one never met before would count for
 * infinitely much. */
#include "worker/graph/sampler_core.h"

/* Steps of the batches that are counted: far beyond those of any training. */
#define FIRST_COUNTED (1ULL << 40)

struct walks {
    uint64_t batches;     /* N */
    uint32_t *node_count; /* [local] */
    uint32_t *edge_count; /* [entries of the store's indices] */
};

/* Walks from the step's roots into the maker's other map and others. */
static void take_walks(struct maker *maker, uint64_t step) {
    const struct sampler *sampler = maker->sampler;
    const struct store *store = sampler->store;
    uint64_t key = rng_key(rng_key(sampler->seed, STREAM_WALKS), step);
    uint64_t begin, share = sampler_take_share(maker, step, &begin);
    struct nodemap *other = &maker->other;
    nodemap_clear(other);
    for (uint64_t r = 0; r < share; r++) {
        int32_t at = maker->order[(begin + r) % sampler->item_count];
        uint64_t walk = rng_at(key, (uint64_t)store->nodes[at]);
        nodemap_reserve(other, (uint32_t)sampler->walk_length + 1);
        RESERVE_KEEP(&maker->others, other->count, other->count + sampler->walk_length + 1);
        maker->others.items[nodemap_add(other, at)] = at;
        for (uint64_t h = 0; h < sampler->walk_length; h++) {
            uint64_t degree = sampler_degree(sampler, at);
            if (degree == 0)
                break;
            at = store->indices[(uint64_t)store->indptr[at] + rng_below(rng_at(walk, h), degree)];
            maker->others.items[nodemap_add(other, at)] = at;
        }
    }
}

static void count_batch(struct maker *maker, uint64_t step) {
    const struct sampler *sampler = maker->sampler;
    const struct store *store = sampler->store;
    struct walks *walks = sampler->walks;
    take_walks(maker, step);
    for (uint32_t i = 0; i < maker->other.count; i++) {
        int32_t local = maker->others.items[i];
        uint64_t begin = sampler_degree(sampler, local) ? (uint64_t)store->indptr[local] : 0;
        walks->node_count[local]++;
        for (uint64_t e = begin; e < begin + sampler_degree(sampler, local); e++)
            walks->edge_count[e] += nodemap_find(&maker->other, store->indices[e]) != UINT32_MAX;
    }
}

/* Whole epochs, so many that a node is met walk_coverage times on average. */
static void prepare(struct sampler *sampler, struct maker *maker) {
    const struct store *store = sampler->store;
    struct walks *walks = sampler->walks = mem_alloc(sizeof *walks);
    walks->node_count = mem_array(store->local, sizeof *walks->node_count);
    walks->edge_count = mem_array((size_t)store->indptr[store->rows], sizeof *walks->edge_count);
    uint64_t first = FIRST_COUNTED / sampler->steps_per_epoch * sampler->steps_per_epoch;
    uint64_t met = 0, wanted = sampler->walk_coverage * store->owned;
    for (uint64_t epoch = 0; epoch < sampler->walk_coverage && met < wanted; epoch++)
        for (uint64_t s = 0; s < sampler->steps_per_epoch; s++) {
            count_batch(maker, first + walks->batches++);
            met += maker->other.count;
        }
}

static void done(struct sampler *sampler) {
    if (sampler->walks) {
        mem_free(sampler->walks->node_count);
        mem_free(sampler->walks->edge_count);
        mem_free(sampler->walks);
    }
}

static size_t bytes(const struct sampler *sampler) {
    const struct store *store = sampler->store;
    return (store->local + (size_t)store->indptr[store->rows]) * sizeof(uint32_t);
}

static void make_weights(struct maker *maker, struct slot *slot) {
    const struct sampler *sampler = maker->sampler;
    const struct walks *walks = sampler->walks;
    struct slot_layer *layer = &slot->layers[0];
    int graph = sampler->hops.graph[0];
    for (uint32_t i = 0; i < maker->map.count; i++) {
        int32_t local = slot->locals.items[i];
        int64_t begin = layer->indptr.items[i], end = layer->indptr.items[i + 1];
        float factor = begin < end ? sampler_row_factor(sampler, graph, local) : 0;
        float met = (float)walks->node_count[local] + 1;
        layer->self.items[i] = sampler_self(graph, maker->scales.items[i]);
        for (int64_t e = begin; e < end; e++) {
            float alpha = ((float)walks->edge_count[maker->positions.items[e]] + 1) / met;
            float scale = graph == GRAPH_SYM ? maker->scales.items[layer->indices.items[e]] : 1;
            layer->weights.items[e] = factor * scale / alpha;
        }
    }
}

/* The batch's gradient is that of a mean over its count outputs: with these weights, of the sum of
 * l_v / lambda_v over all training nodes that there are. */
static void make_loss_weights(struct maker *maker, struct slot *slot, uint32_t n_output) {
    const struct sampler *sampler = maker->sampler;
    const struct walks *walks = sampler->walks;
    RESERVE(&slot->loss_weights, n_output);
    double scale = (double)n_output * (double)walks->batches / (double)sampler->store->train_nodes;
    for (uint32_t i = 0; i < n_output; i++) {
        uint32_t met = walks->node_count[slot->locals.items[i]];
        slot->loss_weights.items[i] = (float)(scale / (met > 0 ? met : 1));
    }
    slot->batch.loss_weights = slot->loss_weights.items;
}

static void make(struct maker *maker, struct slot *slot) {
    const struct store *store = maker->sampler->store;
    take_walks(maker, slot->batch.step);
    for (uint32_t i = 0; i < maker->other.count; i++)
        if (subgraph_trains(store, maker->others.items[i]))
            sampler_add(maker, slot, maker->others.items[i]);
    uint32_t n_output = maker->map.count;
    for (uint32_t i = 0; i < maker->other.count; i++)
        sampler_add(maker, slot, maker->others.items[i]);
    sampler_take_scales(maker, slot, 0, maker->map.count);
    subgraph_take_edges(maker, slot);
    make_weights(maker, slot);
    make_loss_weights(maker, slot, n_output);
    subgraph_finish(maker, slot, n_output);
}

const struct sampler_method sampler_saint = {
    .prepare = prepare,
    .done = done,
    .bytes = bytes,
    .make = make,
};
