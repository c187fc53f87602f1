/* Two tables with open addressing, which share the numbers. */
#include "worker/graph/ids.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/mem.h"
#include "common/rng.h"

#define AHEAD 16 /* keys whose slots are on their way from memory; what slots tell of, half */

/* Keys are not kept twice: a slot tells which one to compare, and with a hash that it is worth it.
 */
struct slot {
    uint32_t hash;
    uint32_t number_plus_one; /* 0: free */
};

struct ids {
    uint64_t count, cap;
    int64_t *values; /* [cap] the integer; or of a text where it begins in bytes */
    /* [cap] of a text its length + 1, 0: an integer; NULL while all are integers */
    uint32_t *lengths;
    bool dense; /* all integers, value i is i: no table yet */
    struct slot *integers;
    uint64_t integers_cap, integers_used;
    struct slot *texts;
    uint64_t texts_cap, texts_used;
    char *bytes;
    uint64_t bytes_len, bytes_cap;
};

/* As printf would write it, so that the text comes back as it was. */
static bool canonical(const char *text, size_t len, int64_t *ret) {
    size_t at = len > 0 && text[0] == '-';
    if (len == at || len - at > 19 || (text[at] == '0' && len > 1))
        return false;
    uint64_t value = 0; /* 19 digits fit */
    for (; at < len; at++) {
        if (text[at] < '0' || text[at] > '9')
            return false;
        value = value * 10 + (uint64_t)(text[at] - '0');
    }
    bool negative = text[0] == '-';
    if (value > (uint64_t)INT64_MAX + negative)
        return false;
    *ret = (int64_t)(negative ? -value : value);
    return true;
}

struct id_key id_key(const char *text, size_t len) {
    struct id_key key = {.text = NULL};
    if (canonical(text, len, &key.integer))
        return key;
    key.hash = XXH3_64bits(text, len);
    key.text = text;
    key.len = (uint32_t)len;
    return key;
}

struct ids *ids_new(void) {
    struct ids *ids = mem_alloc(sizeof *ids);
    ids->dense = true;
    return ids;
}

struct ids *ids_free(struct ids *ids) {
    if (!ids)
        return NULL;
    mem_free(ids->values);
    mem_free(ids->lengths);
    mem_free(ids->integers);
    mem_free(ids->texts);
    mem_free(ids->bytes);
    mem_free(ids);
    return NULL;
}

uint64_t ids_count(const struct ids *ids) {
    return ids->count;
}

static uint64_t integer_hash(int64_t key) {
    return rng_mix((uint64_t)key);
}

static uint32_t slot_hash(uint64_t hash) {
    return (uint32_t)(hash >> 32);
}

/* The slot that holds the key, or the free one where it belongs. */
static struct slot *integer_slot(const struct ids *ids, int64_t key) {
    uint64_t hash = integer_hash(key);
    for (uint64_t at = hash & (ids->integers_cap - 1);; at = (at + 1) & (ids->integers_cap - 1)) {
        struct slot *slot = &ids->integers[at];
        if (!slot->number_plus_one ||
            (slot->hash == slot_hash(hash) && ids->values[slot->number_plus_one - 1] == key))
            return slot;
    }
}

static struct slot *text_slot(const struct ids *ids, const struct id_key *key) {
    uint32_t hash = slot_hash(key->hash);
    for (uint64_t at = key->hash & (ids->texts_cap - 1);; at = (at + 1) & (ids->texts_cap - 1)) {
        struct slot *slot = &ids->texts[at];
        if (!slot->number_plus_one)
            return slot;
        uint32_t number = slot->number_plus_one - 1;
        if (slot->hash == hash && ids->lengths[number] == key->len + 1 &&
            !memcmp(ids->bytes + ids->values[number], key->text, key->len))
            return slot;
    }
}

/* Made anew from the ids in their order, so that never two tables are there at once. */
static void integers_grow(struct ids *ids, uint64_t cap) {
    mem_free(ids->integers);
    ids->integers_cap = cap;
    ids->integers = mem_array(cap, sizeof *ids->integers);
    for (uint64_t i = 0; i < ids->count; i++)
        if (!ids->lengths || !ids->lengths[i])
            *integer_slot(ids, ids->values[i]) =
                (struct slot){slot_hash(integer_hash(ids->values[i])), (uint32_t)i + 1};
}

static void texts_grow(struct ids *ids, uint64_t cap) {
    mem_free(ids->texts);
    ids->texts_cap = cap;
    ids->texts = mem_array(cap, sizeof *ids->texts);
    for (uint64_t i = 0; i < ids->count; i++) {
        if (!ids->lengths[i])
            continue;
        struct id_key key = {.text = ids->bytes + ids->values[i], .len = ids->lengths[i] - 1};
        key.hash = XXH3_64bits(key.text, key.len);
        *text_slot(ids, &key) = (struct slot){slot_hash(key.hash), (uint32_t)i + 1};
    }
}

/* The first id that is not the next integer: from now on there are tables. */
static void dense_end(struct ids *ids) {
    ids->dense = false;
    uint64_t cap = 1024;
    while (cap < 2 * ids->count)
        cap *= 2;
    integers_grow(ids, cap);
    ids->integers_used = ids->count;
}

static void prefetch_slot(const struct ids *ids, const struct id_key *key) {
    if (!key->text && !ids->dense)
        __builtin_prefetch(&ids->integers[integer_hash(key->integer) & (ids->integers_cap - 1)]);
    else if (key->text && ids->texts)
        __builtin_prefetch(&ids->texts[key->hash & (ids->texts_cap - 1)]);
}

static void prefetch_value(const struct ids *ids, const struct id_key *key) {
    if (key->text || ids->dense)
        return;
    uint32_t number =
        ids->integers[integer_hash(key->integer) & (ids->integers_cap - 1)].number_plus_one;
    if (number)
        __builtin_prefetch(&ids->values[number - 1]);
}

static void prefetch(const struct ids *ids, const struct id_key *keys, size_t i, size_t n) {
    if (i + AHEAD < n)
        prefetch_slot(ids, &keys[i + AHEAD]);
    if (i + AHEAD / 2 < n)
        prefetch_value(ids, &keys[i + AHEAD / 2]);
}

static int32_t find_one(const struct ids *ids, const struct id_key *key) {
    if (key->text)
        return ids->texts ? (int32_t)text_slot(ids, key)->number_plus_one - 1 : -1;
    if (ids->dense)
        return key->integer >= 0 && (uint64_t)key->integer < ids->count ? (int32_t)key->integer
                                                                        : -1;
    return (int32_t)integer_slot(ids, key->integer)->number_plus_one - 1;
}

void ids_find(const struct ids *ids, const struct id_key *keys, size_t n, int32_t *numbers) {
    for (size_t i = 0; i < n; i++) {
        prefetch(ids, keys, i, n);
        numbers[i] = find_one(ids, &keys[i]);
    }
}

static void reserve(struct ids *ids) {
    if (ids->count < ids->cap)
        return;
    uint64_t cap = ids->cap ? ids->cap + ids->cap / 2 : 1024;
    ids->values =
        mem_resize(ids->values, ids->cap * sizeof *ids->values, cap * sizeof *ids->values);
    if (ids->lengths)
        ids->lengths =
            mem_resize(ids->lengths, ids->cap * sizeof *ids->lengths, cap * sizeof *ids->lengths);
    ids->cap = cap;
}

static void add_integer(struct ids *ids, int64_t key) {
    if (ids->dense && key != (int64_t)ids->count)
        dense_end(ids);
    reserve(ids);
    if (!ids->dense) {
        if (ids->integers_used * 3 >= ids->integers_cap * 2)
            integers_grow(ids, 2 * ids->integers_cap);
        *integer_slot(ids, key) =
            (struct slot){slot_hash(integer_hash(key)), (uint32_t)ids->count + 1};
        ids->integers_used++;
    }
    ids->values[ids->count++] = key;
}

static void add_text(struct ids *ids, const struct id_key *key) {
    if (ids->dense)
        dense_end(ids);
    reserve(ids);
    if (!ids->lengths)
        ids->lengths = mem_array(ids->cap, sizeof *ids->lengths);
    if (ids->texts_used * 2 >= ids->texts_cap)
        texts_grow(ids, ids->texts_cap ? 2 * ids->texts_cap : 1024);
    if (ids->bytes_len + key->len > ids->bytes_cap) {
        uint64_t cap = ids->bytes_cap + ids->bytes_cap / 2 + key->len + 4096;
        ids->bytes = mem_resize(ids->bytes, ids->bytes_cap, cap);
        ids->bytes_cap = cap;
    }
    *text_slot(ids, key) = (struct slot){slot_hash(key->hash), (uint32_t)ids->count + 1};
    memcpy(ids->bytes + ids->bytes_len, key->text, key->len);
    ids->values[ids->count] = (int64_t)ids->bytes_len;
    ids->lengths[ids->count++] = key->len + 1;
    ids->bytes_len += key->len;
    ids->texts_used++;
}

bool ids_add(struct ids *ids, const struct id_key *keys, size_t n, uint64_t max, int32_t *numbers) {
    for (size_t i = 0; i < n; i++) {
        prefetch(ids, keys, i, n);
        numbers[i] = find_one(ids, &keys[i]);
        if (numbers[i] >= 0)
            continue;
        if (ids->count >= max)
            return false;
        numbers[i] = (int32_t)ids->count;
        if (keys[i].text)
            add_text(ids, &keys[i]);
        else
            add_integer(ids, keys[i].integer);
    }
    return true;
}

const char *ids_text(const struct ids *ids, uint64_t number, char *buf, size_t buf_bytes) {
    if (ids->lengths && ids->lengths[number])
        snprintf(buf, buf_bytes, "%.*s", (int)ids->lengths[number] - 1,
                 ids->bytes + ids->values[number]);
    else
        snprintf(buf, buf_bytes, "%lld", (long long)ids->values[number]);
    return buf;
}

bool ids_trivial(const struct ids *ids) {
    for (uint64_t i = 0; !ids->dense && i < ids->count; i++)
        if ((ids->lengths && ids->lengths[i]) || ids->values[i] != (int64_t)i)
            return false;
    return true;
}

bool ids_integers(const struct ids *ids) {
    return !ids->lengths;
}

/* The order of values [n]: by one byte after the other, from the lowest; those that all have alike
 * are passed over. */
static uint32_t *sorted_order(const int64_t *values, uint64_t n) {
    enum { BYTES = sizeof *values, SIGN = BYTES - 1 };
    uint64_t starts[BYTES][256] = {0};
    for (uint64_t i = 0; i < n; i++)
        for (int byte = 0; byte < BYTES; byte++)
            starts[byte][(uint64_t)values[i] >> 8 * byte & 255]++;
    uint32_t *order = mem_raw(n * sizeof *order), *next = mem_raw(n * sizeof *next);
    for (uint64_t i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    for (int byte = 0; byte < BYTES; byte++) {
        if (n == 0 || starts[byte][(uint64_t)values[0] >> 8 * byte & 255] == n)
            continue;
        uint64_t sum = 0;
        for (unsigned v = 0; v < 256; v++) {
            uint64_t *start = &starts[byte][byte == SIGN ? v ^ 0x80 : v], count = *start;
            *start = sum;
            sum += count;
        }
        for (uint64_t i = 0; i < n; i++)
            next[starts[byte][(uint64_t)values[order[i]] >> 8 * byte & 255]++] = order[i];
        uint32_t *swap = order;
        order = next;
        next = swap;
    }
    mem_free(next);
    return order;
}

void ids_sort(struct ids *ids, int32_t *ret_new) {
    assert(ids_integers(ids));
    if (ids->dense) {
        for (uint64_t i = 0; i < ids->count; i++)
            ret_new[i] = (int32_t)i;
        return;
    }
    mem_free(TAKE_PTR(ids->integers));
    uint32_t *order = sorted_order(ids->values, ids->count);
    int64_t *sorted = mem_raw(ids->count * sizeof *sorted);
    for (uint64_t i = 0; i < ids->count; i++) {
        sorted[i] = ids->values[order[i]];
        ret_new[order[i]] = (int32_t)i;
    }
    mem_free(order);
    mem_free(ids->values);
    ids->values = sorted;
    ids->cap = ids->count;
}

const int64_t *ids_values(const struct ids *ids) {
    return ids->values;
}

void ids_texts(const struct ids *ids, int64_t **ret_offsets, uint8_t **ret_bytes) {
    int64_t *offsets = mem_array(ids->count + 1, sizeof *offsets);
    char integer[24];
    for (uint64_t i = 0; i < ids->count; i++) {
        bool text = ids->lengths && ids->lengths[i];
        offsets[i + 1] = offsets[i] + (text ? (int64_t)ids->lengths[i] - 1
                                            : snprintf(integer, sizeof integer, "%lld",
                                                       (long long)ids->values[i]));
    }
    uint8_t *bytes = mem_raw((size_t)offsets[ids->count] + sizeof integer);
    for (uint64_t i = 0; i < ids->count; i++)
        if (ids->lengths && ids->lengths[i])
            memcpy(bytes + offsets[i], ids->bytes + ids->values[i], ids->lengths[i] - 1);
        else
            snprintf((char *)bytes + offsets[i], sizeof integer, "%lld", (long long)ids->values[i]);
    *ret_offsets = offsets;
    *ret_bytes = bytes;
}
