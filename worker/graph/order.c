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

/* How many neighbours of the node at hand are in a group. */
struct votes {
    int32_t group; /* plus one; 0: none */
    uint32_t count;
};

struct groups {
    uint64_t nodes;
    const int64_t *indptr;
    const int32_t *indices;
    int32_t *of;    /* [nodes] the group of a node */
    uint32_t *size; /* [nodes] */
    /* A table as large as a row needs, so that it stays in the nearest cache: numbers of groups are
     * all over the memory. Empty between rows. */
    struct votes *table;
    uint64_t *met; /* [longest row] where in the table something is */
};

static struct votes *votes_of(struct groups *groups, int32_t group, uint64_t mask) {
    uint64_t slot = (uint64_t)group * 0x9e3779b97f4a7c15u >> 20 & mask;
    while (groups->table[slot].group && groups->table[slot].group != group + 1)
        slot = (slot + 1) & mask;
    return &groups->table[slot];
}

static size_t count_votes(struct groups *groups, uint64_t node, uint64_t mask) {
    int64_t end = groups->indptr[groups->nodes];
    size_t met = 0;
    for (int64_t e = groups->indptr[node]; e < groups->indptr[node + 1]; e++) {
        int64_t ahead = e + PREFETCH_ENTRIES < end ? e + PREFETCH_ENTRIES : end - 1;
        __builtin_prefetch(&groups->of[groups->indices[ahead]]);
        if ((uint64_t)groups->indices[e] == node)
            continue;
        int32_t group = groups->of[groups->indices[e]];
        struct votes *votes = votes_of(groups, group, mask);
        if (votes->count++ == 0) {
            votes->group = group + 1;
            groups->met[met++] = (uint64_t)(votes - groups->table);
        }
    }
    return met;
}

static uint64_t table_mask(uint64_t row_len) {
    uint64_t mask = 15;
    while (mask < 2 * row_len)
        mask = 2 * mask + 1;
    return mask;
}

/* The group most of the node's neighbours are in, when it has room; among equals its own, else by
 * lot, for the lowest number would gather all. */
static int32_t choose(struct groups *groups, uint64_t node, uint32_t pass) {
    uint64_t mask = table_mask((uint64_t)(groups->indptr[node + 1] - groups->indptr[node]));
    size_t met = count_votes(groups, node, mask);
    int32_t own = groups->of[node], best = own;
    uint64_t most = (uint64_t)votes_of(groups, own, mask)->count << 32 | UINT32_MAX;
    for (size_t k = 0; k < met; k++) {
        struct votes *votes = &groups->table[groups->met[k]];
        int32_t group = votes->group - 1;
        uint64_t lot = rng_at(pass, (uint64_t)group) >> 32;
        uint64_t strength = (uint64_t)votes->count << 32 | lot;
        if (strength > most && groups->size[group] < GROUP_NODES_MAX) {
            best = group;
            most = strength;
        }
        *votes = (struct votes){0};
    }
    return best;
}

static int propagate(struct groups *groups, const struct watch *watch, struct error *reterr) {
    uint64_t n = groups->nodes;
    for (uint32_t pass = 0; pass < PASSES; pass++)
        for (uint64_t i = 0; i < n; i++) {
            int32_t own = groups->of[i], best = choose(groups, i, pass);
            if (best != own) {
                groups->size[own]--;
                groups->size[best]++;
                groups->of[i] = best;
            }
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
    for (uint64_t i = 0; i < nodes; i++) {
        groups->of[i] = (int32_t)i;
        groups->size[i] = 1;
        longest = indptr[i + 1] - indptr[i] > longest ? indptr[i + 1] - indptr[i] : longest;
    }
    groups->table = mem_array((size_t)table_mask((uint64_t)longest) + 1, sizeof *groups->table);
    groups->met = mem_array((size_t)longest, sizeof *groups->met);
}

static void groups_done(struct groups *groups) {
    mem_free(groups->of);
    mem_free(groups->size);
    mem_free(groups->table);
    mem_free(groups->met);
}

int order_near(uint64_t nodes, const int64_t *indptr, const int32_t *indices,
               const struct watch *watch, int32_t *order, struct error *reterr) {
    struct groups groups;
    groups_init(&groups, nodes, indptr, indices);
    int r = propagate(&groups, watch, reterr);
    /* A group's place is made when its first node is met. */
    uint32_t *next = mem_array(nodes, sizeof *next), placed = 0; /* plus one */
    for (uint64_t i = 0; r == 0 && i < nodes; i++) {
        int32_t group = groups.of[i];
        if (next[group] == 0) {
            next[group] = placed + 1;
            placed += groups.size[group];
        }
        order[next[group]++ - 1] = (int32_t)i;
    }
    mem_free(next);
    groups_done(&groups);
    return r;
}
