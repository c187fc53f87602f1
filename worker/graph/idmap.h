/* Texts <-> dense numbers in order of arrival: the user's node ids, and classes given as words.
 * Open addressing over XXH3; the texts lie one after the other. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct idmap {
    uint64_t count;
    int64_t *offsets; /* [count + 1] into bytes */
    uint8_t *bytes;
    uint64_t offsets_cap_p, bytes_cap_p, slots_cap_p; /* private from here */
    struct idmap_slot *slots_p;
};

struct idmap *idmap_new(void);
struct idmap *idmap_free(struct idmap *map); /* takes NULL */
/* The number of a text, or -1. */
int64_t idmap_find(const struct idmap *map, const char *text);
/* The number of a text, which is new (*ret_new true) or there already. */
int64_t idmap_add(struct idmap *map, const char *text, bool *ret_new);
/* Are they "0", "1", ... in this order? Then they say nothing. */
bool idmap_trivial(const struct idmap *map);
/* A copy, 0-terminated; mem_free it. */
char *idmap_text(const struct idmap *map, uint64_t number);
