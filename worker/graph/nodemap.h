/* Which number has a node got in the batch at hand? A hash table with open addressing (linear
 * probing, multiplicative hashing: Knuth, TAOCP vol. 3, 6.4), reused from batch to batch. It grows
 * to twice the largest batch and never shrinks; where that is about as many entries as there are
 * nodes, each node has an entry of its own and nothing collides. Numbers are dealt out 0, 1, 2, ...
 * in the order in which nodes are first seen. Inside worker/graph only. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct nodemap {
    struct nodemap_entry {
        int32_t node; /* -1: free */
        uint32_t number;
    } * entries; /* [1 << (32 - shift)], at most half of them taken */
    uint32_t shift, factor;
    uint32_t count;
    uint64_t nodes;
};

/* Of nodes 0 .. nodes - 1. */
void nodemap_init(struct nodemap *map, uint64_t nodes);
void nodemap_done(struct nodemap *map);
void nodemap_clear(struct nodemap *map);
size_t nodemap_bytes(const struct nodemap *map);
/* Makes room for so many more nodes, of which some may be there. */
void nodemap_reserve(struct nodemap *map, uint32_t more);

static inline uint32_t nodemap_home(const struct nodemap *map, int32_t node) {
    return (uint32_t)node * map->factor >> map->shift;
}

/* Brings the node's entry near, before nodemap_add of it. */
static inline void nodemap_prefetch(const struct nodemap *map, int32_t node) {
    __builtin_prefetch(&map->entries[nodemap_home(map, node)], 1);
}

/* The node's number; the next one, and the node is added, when it is not there. Needs room. */
static inline uint32_t nodemap_add(struct nodemap *map, int32_t node) {
    uint32_t mask = UINT32_MAX >> map->shift;
    for (uint32_t at = nodemap_home(map, node);; at = (at + 1) & mask) {
        struct nodemap_entry *entry = &map->entries[at];
        if (entry->node == node)
            return entry->number;
        if (entry->node < 0) {
            *entry = (struct nodemap_entry){.node = node, .number = map->count};
            return map->count++;
        }
    }
}

/* The node's number, or UINT32_MAX. */
static inline uint32_t nodemap_find(const struct nodemap *map, int32_t node) {
    uint32_t mask = UINT32_MAX >> map->shift;
    for (uint32_t at = nodemap_home(map, node);; at = (at + 1) & mask) {
        const struct nodemap_entry *entry = &map->entries[at];
        if (entry->node == node)
            return entry->number;
        if (entry->node < 0)
            return UINT32_MAX;
    }
}
