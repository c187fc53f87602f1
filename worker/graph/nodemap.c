/* Growing and clearing; finding and adding are inline in the header. */
#include "worker/graph/nodemap.h"

#include <stdbool.h>
#include <string.h>

#include "common/mem.h"

enum { BITS_MIN = 12 };

static size_t capacity(const struct nodemap *map) {
    return (size_t)1 << (32 - map->shift);
}

/* A factor of 1 << shift leaves of a product's upper bits the node itself. */
static void make_entries(struct nodemap *map) {
    bool all = capacity(map) >= map->nodes;
    map->factor = all ? 1U << map->shift : 2654435769U; /* 2^32 over the golden ratio */
    map->entries = mem_raw(capacity(map) * sizeof *map->entries);
    memset(map->entries, 0xff, capacity(map) * sizeof *map->entries);
}

void nodemap_init(struct nodemap *map, uint64_t nodes) {
    *map = (struct nodemap){.shift = 32 - BITS_MIN, .nodes = nodes};
    make_entries(map);
}

void nodemap_done(struct nodemap *map) {
    mem_free(map->entries);
    *map = (struct nodemap){0};
}

void nodemap_clear(struct nodemap *map) {
    memset(map->entries, 0xff, capacity(map) * sizeof *map->entries);
    map->count = 0;
}

size_t nodemap_bytes(const struct nodemap *map) {
    return capacity(map) * sizeof *map->entries;
}

void nodemap_reserve(struct nodemap *map, uint32_t more) {
    uint64_t needed = 2 * ((uint64_t)map->count + more);
    if (needed <= capacity(map) || capacity(map) >= map->nodes)
        return;
    struct nodemap before = *map;
    while (needed > capacity(map) && map->shift > 1)
        map->shift--;
    if (map->shift > 1 && 2 * capacity(map) >= map->nodes && capacity(map) < map->nodes)
        map->shift--;
    make_entries(map);
    uint32_t mask = UINT32_MAX >> map->shift;
    for (size_t k = 0; k < capacity(&before); k++) {
        if (before.entries[k].node < 0)
            continue;
        uint32_t at = nodemap_home(map, before.entries[k].node);
        while (map->entries[at].node >= 0)
            at = (at + 1) & mask;
        map->entries[at] = before.entries[k];
    }
    mem_free(before.entries);
}
