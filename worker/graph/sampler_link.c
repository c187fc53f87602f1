/* Mini-batches of links: which edges a step takes, their negatives, and the numbers of their ends
 * in the batch. */
#include "worker/graph/permute.h"
#include "worker/graph/sampler_core.h"

#include <stdlib.h>

/* The owned node that an edge, by its place in the store's indices, leads to. */
static int32_t target_of(const struct store *store, int64_t edge) {
    uint64_t low = 0, high = store->owned;
    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        if (store->indptr[middle] <= edge)
            low = middle;
        else
            high = middle;
    }
    return (int32_t)low;
}

/* The step's edges by local numbers, and room for their negatives. */
static struct link_pairs take_edges(struct maker *maker, struct slot *slot) {
    const struct sampler *sampler = maker->sampler;
    const struct store *store = sampler->store;
    uint64_t step = slot->batch.step, begin, count = sampler_take_share(maker, step, &begin);
    uint64_t pairs = count * (1 + sampler->negatives_each);
    RESERVE(&slot->link_sources, pairs);
    RESERVE(&slot->link_targets, pairs);
    RESERVE(&slot->link_relations, count);
    struct permute order =
        permute_new(rng_key(rng_key(sampler->seed, STREAM_ORDER), step / sampler->steps_per_epoch),
                    sampler->item_count);
    for (uint64_t i = 0; i < count; i++) {
        int64_t edge = (int64_t)permute_at(&order, (begin + i) % sampler->item_count);
        slot->link_sources.items[i] = store->indices[edge];
        slot->link_targets.items[i] = target_of(store, edge);
        if (store->edge_type)
            slot->link_relations.items[i] = store->edge_type[edge];
    }
    return (struct link_pairs){
        .count = count,
        .each = sampler->negatives_each,
        .sources = slot->link_sources.items,
        .targets = slot->link_targets.items,
        .relations = store->edge_type ? slot->link_relations.items : NULL,
    };
}

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static uint64_t edge_key(uint64_t source, uint64_t target) {
    return source << 32 | target;
}

/* The links in both directions: of an undirected graph an edge would else be told by its twin. */
static void note_excluded(struct maker *maker, const struct link_pairs *links) {
    RESERVE(&maker->excluded, 2 * links->count);
    uint64_t *excluded = maker->excluded.items;
    for (uint64_t i = 0; i < links->count; i++) {
        uint64_t u = (uint64_t)links->sources[i], v = (uint64_t)links->targets[i];
        excluded[2 * i] = edge_key(u, v);
        excluded[2 * i + 1] = edge_key(v, u);
    }
    if (links->count > 0)
        qsort(excluded, 2 * links->count, sizeof *excluded, compare);
}

uint32_t sampler_take_links(struct maker *maker, struct slot *slot) {
    const struct sampler *sampler = maker->sampler;
    uint64_t step = slot->batch.step, steps = sampler->steps_per_epoch;
    struct link_pairs *links = &slot->batch.links;
    *links = take_edges(maker, slot);
    struct negative_key key = {sampler->seed, step / steps, step % steps};
    negatives_fill(sampler->negatives, key, sampler->in_batch, 0, links->count, links);
    /* The links' own ends first. */
    for (uint64_t p = 0; p < link_pairs_all(links); p++) {
        if (p == links->count)
            maker->linked = maker->map.count;
        if (links->sources[p] < 0)
            continue;
        links->sources[p] = (int32_t)sampler_add(maker, slot, links->sources[p]);
        links->targets[p] = (int32_t)sampler_add(maker, slot, links->targets[p]);
    }
    note_excluded(maker, links);
    return maker->map.count;
}

static bool is_excluded(const struct maker *maker, uint64_t count, uint32_t source,
                        uint32_t target) {
    if (source >= maker->linked || target >= maker->linked)
        return false;
    uint64_t key = edge_key(source, target);
    return bsearch(&key, maker->excluded.items, count, sizeof key, compare);
}

void sampler_exclude(struct maker *maker, struct slot *slot, size_t l, uint32_t n_dst) {
    struct slot_layer *layer = &slot->layers[l];
    int64_t *indptr = layer->indptr.items, begin = 0, kept = 0;
    uint64_t count = 2 * slot->batch.links.count;
    for (uint32_t i = 0; i < n_dst; i++) {
        int64_t end = indptr[i + 1];
        for (int64_t e = begin; e < end; e++) {
            int32_t source = layer->indices.items[e];
            if (is_excluded(maker, count, (uint32_t)source, i))
                continue;
            layer->indices.items[kept] = source;
            if (maker->sampler->alias) /* of weighted draws the factors are there already */
                layer->weights.items[kept] = layer->weights.items[e];
            kept++;
        }
        indptr[i + 1] = kept;
        begin = end;
    }
}
