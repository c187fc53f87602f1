/* Groups by label propagation (Raghavan, Albert & Kumara, "Near linear time algorithm to detect
 * community structures in large-scale networks", Physical Review E 76, 2007) with a bound on their
 * size, as in Boldi, Rosa, Santini & Vigna, "Layered Label Propagation", WWW 2011, which orders
 * graphs by them. Groups lie in the order of their first nodes, nodes of a group in their own: what
 * the numbers say of nearness is kept. */
#include "worker/graph/order.h"

#include <string.h>

#include "common/mem.h"
#include "common/rng.h"

/* Measured with bench/bench_order: of 512 to 16384 nodes and 2 to 6 passes more did not help. */
#define GROUP_NODES_MAX 8192
#define PASSES 3
/* Entries ahead of the one being counted whose group is fetched from memory. */
#define PREFETCH_ENTRIES 32
#define TELL_NODES 65536

struct groups {
    uint64_t nodes;
    const int64_t *indptr;
    const int32_t *indices;
    int32_t *of;     /* [nodes] the group of a node */
    uint32_t *size;  /* [nodes] */
    uint32_t *count; /* [nodes] neighbours of the node at hand, by group; else 0 */
    int32_t *met;    /* [longest row] groups with any */
};

/* The group most of the node's neighbours are in, when it has room; among equals its own, else by
 * lot, for the lowest number would gather all. */
static int32_t choose(struct groups *groups, uint64_t node, uint32_t pass) {
    int32_t own = groups->of[node], best = own;
    int64_t end = groups->indptr[groups->nodes];
    size_t met = 0;
    for (int64_t e = groups->indptr[node]; e < groups->indptr[node + 1]; e++) {
        int64_t ahead = e + PREFETCH_ENTRIES < end ? e + PREFETCH_ENTRIES : end - 1;
        __builtin_prefetch(&groups->of[groups->indices[ahead]]);
        int32_t group = groups->of[groups->indices[e]];
        if ((uint64_t)groups->indices[e] != node && groups->count[group]++ == 0)
            groups->met[met++] = group;
    }
    uint64_t most = (uint64_t)groups->count[own] << 32 | UINT32_MAX;
    for (size_t k = 0; k < met; k++) {
        int32_t group = groups->met[k];
        uint64_t lot = rng_at(pass, (uint64_t)group) >> 32;
        uint64_t votes = (uint64_t)groups->count[group] << 32 | lot;
        if (votes > most && groups->size[group] < GROUP_NODES_MAX) {
            best = group;
            most = votes;
        }
        groups->count[group] = 0;
    }
    return best;
}

static int propagate(struct groups *groups, const struct watch *watch, struct error *reterr) {
    uint64_t n = groups->nodes;
    for (uint32_t pass = 0; pass < PASSES; pass++)
        for (uint64_t i = 0; i < n; i++) {
            int32_t own = groups->of[i], best = choose(groups, i, pass);
            groups->size[own]--;
            groups->size[best]++;
            groups->of[i] = best;
            int r = i % TELL_NODES
                        ? 0
                        : watch_step(watch, "ordering", "nodes", pass * n + i, PASSES * n, reterr);
            if (r < 0)
                return r;
        }
    return 0;
}

static void groups_init(struct groups *groups, uint64_t nodes, const int64_t *indptr,
                        const int32_t *indices) {
    int64_t longest = 0;
    *groups = (struct groups){.nodes = nodes, .indptr = indptr, .indices = indices};
    groups->of = mem_array(nodes, sizeof *groups->of);
    groups->size = mem_array(nodes, sizeof *groups->size);
    groups->count = mem_array(nodes, sizeof *groups->count);
    for (uint64_t i = 0; i < nodes; i++) {
        groups->of[i] = (int32_t)i;
        groups->size[i] = 1;
        longest = indptr[i + 1] - indptr[i] > longest ? indptr[i + 1] - indptr[i] : longest;
    }
    groups->met = mem_array((size_t)longest, sizeof *groups->met);
}

static void groups_done(struct groups *groups) {
    mem_free(groups->of);
    mem_free(groups->size);
    mem_free(groups->count);
    mem_free(groups->met);
}

int order_near(uint64_t nodes, const int64_t *indptr, const int32_t *indices,
               const struct watch *watch, int32_t *order, struct error *reterr) {
    struct groups groups;
    groups_init(&groups, nodes, indptr, indices);
    int r = propagate(&groups, watch, reterr);
    /* A group's place is made when its first node is met; count becomes where its next node goes,
     * plus one. */
    uint32_t placed = 0;
    for (uint64_t i = 0; r == 0 && i < nodes; i++) {
        int32_t group = groups.of[i];
        if (groups.count[group] == 0) {
            groups.count[group] = placed + 1;
            placed += groups.size[group];
        }
        order[groups.count[group]++ - 1] = (int32_t)i;
    }
    groups_done(&groups);
    return r;
}
