/* The user's node ids <-> dense numbers in order of arrival. An id is a text; texts that are an
 * integer as it is usually written (7, -1, not 007) are kept as 64-bit integers, in a table of
 * their own. As long as they come as 0, 1, 2, ... there is no table at all. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* An id on its way: text NULL when it is an integer. */
struct id_key {
    union {
        int64_t integer;
        uint64_t hash;
    };
    const char *text; /* borrowed */
    uint32_t len;
};
/* len at most IDS_TEXT_MAX. */
#define IDS_TEXT_MAX 65535
struct id_key id_key(const char *text, size_t len);
static inline struct id_key id_key_integer(int64_t integer) {
    return (struct id_key){.integer = integer};
}

struct ids;
struct ids *ids_new(void);
struct ids *ids_free(struct ids *ids); /* takes NULL */
uint64_t ids_count(const struct ids *ids);
/* numbers [n] of keys [n], -1 where there is none. Fetches ahead: many at once are faster. */
void ids_find(const struct ids *ids, const struct id_key *keys, size_t n, int32_t *numbers);
/* The same; keys that are new get the next numbers. False when there would be more than max. */
bool ids_add(struct ids *ids, const struct id_key *keys, size_t n, uint64_t max, int32_t *numbers);
/* The id of a number as text into buf, cut to fit. */
const char *ids_text(const struct ids *ids, uint64_t number, char *buf, size_t buf_bytes);

/* Are they 0, 1, 2, ... in this order? Then they say nothing. Are all integers? */
bool ids_trivial(const struct ids *ids);
bool ids_integers(const struct ids *ids);
/* Gives all numbers anew so that integer ids ascend: ret_new [count] is the new number of each old
 * one. Only when all are integers. Nothing can be found or added afterwards. */
void ids_sort(struct ids *ids, int32_t *ret_new);
/* For the snapshot: integers [count], borrowed; or texts: offsets [count + 1] into bytes, both to
 * be mem_freed. */
const int64_t *ids_values(const struct ids *ids);
void ids_texts(const struct ids *ids, int64_t **ret_offsets, uint8_t **ret_bytes);
