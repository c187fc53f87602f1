/* Drawing until something is no edge; a walk through all nodes when nearly everything is one. */
#include "worker/graph/negative.h"

#include <assert.h>

#include "common/mem.h"
#include "common/rng.h"

enum { TRIES = 64 };
enum { STREAM_NEGATIVE = 0x6e656761 };

struct negatives {
    const struct store *store;
    int32_t *nodes;   /* [owned] ordered by type; NULL: they are all alike */
    uint64_t *starts; /* [node_types + 1] into nodes */
};

struct negatives *negatives_new(const struct store *store) {
    struct negatives *negatives = mem_alloc(sizeof *negatives);
    negatives->store = store;
    if (!store->node_type)
        return negatives;
    negatives->nodes = mem_array(store->owned, sizeof *negatives->nodes);
    uint64_t *starts = negatives->starts =
        mem_array((size_t)store->node_types + 2, sizeof *negatives->starts);
    for (uint64_t i = 0; i < store->owned; i++)
        starts[store->node_type[i] + 2]++;
    for (uint32_t t = 2; t <= store->node_types; t++)
        starts[t] += starts[t - 1];
    for (uint64_t i = 0; i < store->owned; i++)
        negatives->nodes[starts[store->node_type[i] + 1]++] = (int32_t)i;
    return negatives;
}

struct negatives *negatives_free(struct negatives *negatives) {
    if (negatives) {
        mem_free(negatives->nodes);
        mem_free(negatives->starts);
        mem_free(negatives);
    }
    return NULL;
}

size_t negatives_bytes(const struct negatives *negatives) {
    const struct store *store = negatives->store;
    return negatives->nodes
               ? store->owned * sizeof(int32_t) + (store->node_types + 2ULL) * sizeof(uint64_t)
               : 0;
}

bool negatives_edge(const struct store *store, int32_t source, int32_t target) {
    assert(target >= 0 && (uint64_t)target < store->rows);
    int64_t low = store->indptr[target], end = store->indptr[target + 1], high = end;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (store->indices[middle] < source)
            low = middle + 1;
        else
            high = middle;
    }
    return low < end && store->indices[low] == source;
}

/* The own nodes of a node's type: which number the k-th of them has. */
struct pool {
    const int32_t *nodes; /* NULL: k itself */
    uint64_t count;
};

static struct pool pool_of(const struct negatives *negatives, int32_t node) {
    const struct store *store = negatives->store;
    if (!negatives->nodes)
        return (struct pool){.count = store->owned};
    uint64_t begin = negatives->starts[store->node_type[node]];
    return (struct pool){negatives->nodes + begin,
                         negatives->starts[store->node_type[node] + 1] - begin};
}

static int32_t pool_at(const struct pool *pool, uint64_t k) {
    return pool->nodes ? pool->nodes[k] : (int32_t)k;
}

/* What is drawn: one end of a link, the other stays. */
struct draw {
    const struct negatives *negatives;
    bool source; /* is it the source that is replaced? */
    int32_t replaced, kept;
};

static bool is_negative(const struct draw *draw, int32_t node) {
    int32_t source = draw->source ? node : draw->kept, target = draw->source ? draw->kept : node;
    return source != target && !negatives_edge(draw->negatives->store, source, target);
}

/* -1: there is none. */
static int32_t draw_uniform(const struct draw *draw, uint64_t key) {
    struct pool pool = pool_of(draw->negatives, draw->replaced);
    for (uint64_t t = 0; t < TRIES && pool.count > 0; t++) {
        int32_t node = pool_at(&pool, rng_below(rng_at(key, t), pool.count));
        if (is_negative(draw, node))
            return node;
    }
    /* Few are left, or none: each of them as likely. */
    uint64_t left = 0;
    for (uint64_t k = 0; k < pool.count; k++)
        left += is_negative(draw, pool_at(&pool, k));
    if (left == 0)
        return -1;
    uint64_t wanted = rng_below(rng_at(key, TRIES), left);
    for (uint64_t k = 0;; k++)
        if (is_negative(draw, pool_at(&pool, k)) && wanted-- == 0)
            return pool_at(&pool, k);
}

static int32_t draw_in_batch(const struct draw *draw, uint64_t key,
                             const struct link_pairs *links) {
    const uint8_t *types = draw->negatives->store->node_type;
    const int32_t *ends = draw->source ? links->sources : links->targets;
    for (uint64_t t = 0; t < TRIES; t++) {
        int32_t node = ends[rng_below(rng_at(key, t), links->count)];
        if ((!types || types[node] == types[draw->replaced]) && is_negative(draw, node))
            return node;
    }
    return draw_uniform(draw, rng_key(key, TRIES));
}

static uint64_t key_of(const struct negatives *negatives, struct negative_key key) {
    /* Another worker's links are others. */
    uint64_t seed = rng_key(rng_key(key.seed, STREAM_NEGATIVE), negatives->store->part);
    return rng_key(rng_key(seed, key.epoch), key.batch);
}

void negatives_fill(const struct negatives *negatives, struct negative_key key, bool in_batch,
                    uint64_t first, uint64_t last, const struct link_pairs *links) {
    uint64_t bits = key_of(negatives, key);
    for (uint64_t i = first; i < last; i++) {
        int32_t u = links->sources[i], v = links->targets[i];
        for (uint64_t k = 0; k < links->each; k++) {
            uint64_t own = rng_key(rng_key(bits, i), k), pair = links->count + i * links->each + k;
            bool source = rng_at(own, UINT64_MAX) >> 63;
            struct draw draw = {negatives, source, source ? u : v, source ? v : u};
            int32_t node = in_batch ? draw_in_batch(&draw, own, links) : draw_uniform(&draw, own);
            links->sources[pair] = node < 0 ? -1 : source ? node : u;
            links->targets[pair] = node < 0 ? -1 : source ? v : node;
        }
    }
}

bool negatives_pair(const struct negatives *negatives, struct negative_key key, uint64_t counter,
                    int32_t u, int32_t v, int32_t *ret_source, int32_t *ret_target) {
    struct pool sources = pool_of(negatives, u), targets = pool_of(negatives, v);
    uint64_t bits = rng_key(key_of(negatives, key), counter);
    for (uint64_t t = 0; t < TRIES && sources.count > 0 && targets.count > 0; t++) {
        int32_t source = pool_at(&sources, rng_below(rng_at(bits, 2 * t), sources.count));
        int32_t target = pool_at(&targets, rng_below(rng_at(bits, 2 * t + 1), targets.count));
        if (source == target || negatives_edge(negatives->store, source, target))
            continue;
        *ret_source = source;
        *ret_target = target;
        return true;
    }
    return false;
}
