/* Edges as pairs. */
#include "worker/graph/full_links.h"

#include <string.h>

#include "common/mem.h"
#include "worker/graph/negative.h"

enum { PIECE = 1024 }; /* links that a thread takes at once */

struct full_links {
    uint64_t seed;
    bool in_batch;
    struct negatives *negatives;
    struct link_pairs pairs;
};

static uint64_t pairs_of(const struct store *store, const struct config *config) {
    return (uint64_t)store->indptr[store->owned] * (1 + (uint64_t)config->link_negatives_per_link);
}

size_t full_links_bytes(const struct store *store, const struct config *config) {
    return pairs_of(store, config) * 2 * sizeof(int32_t) +
           (store->node_type ? store->owned * sizeof(int32_t) : 0);
}

int full_links_new(const struct store *store, const struct config *config, struct full_links **ret,
                   struct error *reterr) {
    uint64_t count = (uint64_t)store->indptr[store->owned], pairs = pairs_of(store, config);
    if (pairs > INT32_MAX)
        return error_set(reterr, ERR_CONFIG,
                         "%llu edges with %lld negatives each are too many for one step; set "
                         "train.mode: sampled",
                         (unsigned long long)count, (long long)config->link_negatives_per_link);
    struct full_links *links = mem_alloc(sizeof *links);
    links->seed = (uint64_t)config->job_seed;
    links->in_batch = config->link_negatives == NEGATIVES_IN_BATCH;
    links->negatives = negatives_new(store);
    links->pairs = (struct link_pairs){
        .count = count,
        .each = (uint64_t)config->link_negatives_per_link,
        .sources = mem_raw(pairs * sizeof(int32_t)),
        .targets = mem_raw(pairs * sizeof(int32_t)),
        .relations = store->edge_type,
    };
    memcpy(links->pairs.sources, store->indices, count * sizeof(int32_t));
    for (uint64_t i = 0; i < store->owned; i++)
        for (int64_t e = store->indptr[i]; e < store->indptr[i + 1]; e++)
            links->pairs.targets[e] = (int32_t)i;
    *ret = links;
    return 0;
}

struct full_links *full_links_free(struct full_links *links) {
    if (links) {
        negatives_free(links->negatives);
        mem_free(links->pairs.sources);
        mem_free(links->pairs.targets);
        mem_free(links);
    }
    return NULL;
}

struct link_pairs full_links_get(struct full_links *links, uint64_t epoch) {
    const struct link_pairs *pairs = &links->pairs;
    struct negative_key key = {.seed = links->seed, .epoch = epoch};
#pragma omp parallel for schedule(dynamic, 1) if (pairs->count > PIECE)
    for (uint64_t i = 0; i < pairs->count; i += PIECE) {
        uint64_t end = i + PIECE < pairs->count ? i + PIECE : pairs->count;
        negatives_fill(links->negatives, key, links->in_batch, i, end, pairs);
    }
    return *pairs;
}
