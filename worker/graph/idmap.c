/* The table of ids. */
#include "worker/graph/idmap.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "common/mem.h"

struct idmap_slot {
    uint32_t hash;
    uint32_t number_plus_one; /* 0: free */
};

struct idmap *idmap_new(void) {
    struct idmap *map = mem_alloc(sizeof *map);
    map->offsets_cap_p = 1024;
    map->bytes_cap_p = 8192;
    map->slots_cap_p = 4096;
    map->offsets = mem_array(map->offsets_cap_p, sizeof *map->offsets);
    map->bytes = mem_alloc(map->bytes_cap_p);
    map->slots_p = mem_array(map->slots_cap_p, sizeof *map->slots_p);
    return map;
}

struct idmap *idmap_free(struct idmap *map) {
    if (!map)
        return NULL;
    mem_free(map->offsets);
    mem_free(map->bytes);
    mem_free(map->slots_p);
    mem_free(map);
    return NULL;
}

/* The slot that holds the text, or the free one where it belongs. */
static struct idmap_slot *slot_find(const struct idmap *map, const char *text, size_t len,
                                    uint32_t hash) {
    for (uint64_t at = hash;; at++) {
        struct idmap_slot *slot = &map->slots_p[at & (map->slots_cap_p - 1)];
        if (!slot->number_plus_one)
            return slot;
        int64_t begin = map->offsets[slot->number_plus_one - 1];
        if (slot->hash == hash && (size_t)(map->offsets[slot->number_plus_one] - begin) == len &&
            !memcmp(map->bytes + begin, text, len))
            return slot;
    }
}

static uint32_t text_hash(const char *text, size_t len) {
    return (uint32_t)(XXH3_64bits(text, len) >> 32);
}

int64_t idmap_find(const struct idmap *map, const char *text) {
    size_t len = strlen(text);
    return (int64_t)slot_find(map, text, len, text_hash(text, len))->number_plus_one - 1;
}

static void slots_grow(struct idmap *map) {
    struct idmap_slot *old = map->slots_p;
    uint64_t old_cap = map->slots_cap_p;
    map->slots_cap_p *= 2;
    map->slots_p = mem_array(map->slots_cap_p, sizeof *map->slots_p);
    for (uint64_t i = 0; i < old_cap; i++) {
        if (!old[i].number_plus_one)
            continue;
        uint64_t at = old[i].hash;
        while (map->slots_p[at & (map->slots_cap_p - 1)].number_plus_one)
            at++;
        map->slots_p[at & (map->slots_cap_p - 1)] = old[i];
    }
    mem_free(old);
}

int64_t idmap_add(struct idmap *map, const char *text, bool *ret_new) {
    size_t len = strlen(text);
    uint32_t hash = text_hash(text, len);
    struct idmap_slot *slot = slot_find(map, text, len, hash);
    *ret_new = !slot->number_plus_one;
    if (!*ret_new)
        return (int64_t)slot->number_plus_one - 1;
    uint64_t used = (uint64_t)map->offsets[map->count];
    if (map->count + 2 > map->offsets_cap_p) {
        map->offsets = mem_resize(map->offsets, map->offsets_cap_p * sizeof *map->offsets,
                                  2 * map->offsets_cap_p * sizeof *map->offsets);
        map->offsets_cap_p *= 2;
    }
    if (used + len > map->bytes_cap_p) {
        uint64_t cap = 2 * (used + len);
        map->bytes = mem_resize(map->bytes, map->bytes_cap_p, cap);
        map->bytes_cap_p = cap;
    }
    memcpy(map->bytes + used, text, len);
    map->count++;
    map->offsets[map->count] = (int64_t)(used + len);
    *slot = (struct idmap_slot){.hash = hash, .number_plus_one = (uint32_t)map->count};
    if (map->count * 2 > map->slots_cap_p)
        slots_grow(map);
    return (int64_t)map->count - 1;
}

bool idmap_trivial(const struct idmap *map) {
    char digits[24];
    for (uint64_t i = 0; i < map->count; i++) {
        int len = snprintf(digits, sizeof digits, "%llu", (unsigned long long)i);
        if (map->offsets[i + 1] - map->offsets[i] != len ||
            memcmp(map->bytes + map->offsets[i], digits, (size_t)len))
            return false;
    }
    return true;
}

char *idmap_text(const struct idmap *map, uint64_t number) {
    size_t len = (size_t)(map->offsets[number + 1] - map->offsets[number]);
    char *text = mem_alloc(len + 1);
    memcpy(text, map->bytes + map->offsets[number], len);
    return text;
}
