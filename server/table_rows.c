/* Slabs, index and copies before change of one stripe's rows; table_rows.h says how they lie. */
#include "server/table_rows.h"

#include <assert.h>
#include <string.h>

#include <sys/mman.h>

#include "common/mem.h"

#define SLOT_MASK ((1u << ROWS_SLOT_BITS) - 1)
#define HUGE_PAGE ((size_t)2 << 20)

enum { INDEX_FIRST = 16, CHUNK_CELLS = 32 };

struct rows_group_cut {
    uint64_t saved; /* a bit per slot */
    struct rows_saved *first;
};

struct rows_chunk {
    struct rows_chunk *next;
};

void rows_init(struct rows *rows, size_t row_floats) {
    *rows = (struct rows){.row_floats = row_floats, .free = ROWS_NO_SLOT};
}

void rows_done(struct rows *rows) {
    rows_cut_end(rows);
    mem_free(rows->index);
    for (size_t i = 0; i < ROWS_SLABS; i++)
        mem_free(rows->slabs[i]);
}

/* Index. An entry holds bits that neither its place nor the choice of the stripe says. */

static uint32_t entry_tag(uint64_t hash) {
    return (uint32_t)(hash >> 32) << ROWS_SLOT_BITS;
}

static uint32_t entry_slot(uint32_t entry) {
    return (entry & SLOT_MASK) - 1;
}

static void index_put(struct rows *rows, uint64_t hash, uint32_t slot) {
    uint32_t at = (uint32_t)hash & rows->index_mask;
    while (rows->index[at])
        at = (at + 1) & rows->index_mask;
    rows->index[at] = entry_tag(hash) | (slot + 1);
}

/* By slot, so that the heads are read in the order in which they lie. */
static void index_grow(struct rows *rows) {
    size_t old = rows->index ? (size_t)rows->index_mask + 1 : 0;
    size_t size = old ? 2 * old : INDEX_FIRST;
    mem_free(rows->index);
    rows->index = mem_array(size, sizeof *rows->index);
    rows->index_mask = (uint32_t)(size - 1);
    rows->bytes += (size - old) * sizeof *rows->index;
    for (uint32_t slot = 0; slot < rows->slots; slot++) {
        const struct row_head *head = rows_head(rows, slot);
        if (head->row != ROWS_NO_ROW)
            index_put(rows, rows_hash(head->row), slot);
    }
}

static bool index_full(const struct rows *rows) {
    return !rows->index || (uint64_t)rows->count * 5 >= ((uint64_t)rows->index_mask + 1) * 4;
}

/* What follows moves up into the hole, as far as it may: never before its own place. */
static void index_drop(struct rows *rows, uint64_t hash, uint32_t slot) {
    uint32_t mask = rows->index_mask, hole = (uint32_t)hash & mask;
    while (entry_slot(rows->index[hole]) != slot)
        hole = (hole + 1) & mask;
    for (uint32_t at = (hole + 1) & mask; rows->index[at]; at = (at + 1) & mask) {
        uint64_t row = rows_head(rows, entry_slot(rows->index[at]))->row;
        uint32_t home = (uint32_t)rows_hash(row) & mask;
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            rows->index[hole] = rows->index[at];
            hole = at;
        }
    }
    rows->index[hole] = 0;
}

void rows_prefetch_index(const struct rows *rows, uint64_t hash) {
    if (rows->index)
        __builtin_prefetch(&rows->index[(uint32_t)hash & rows->index_mask]);
}

void rows_prefetch_row(const struct rows *rows, uint64_t hash, size_t bytes) {
    if (!rows->index)
        return;
    uint32_t at = (uint32_t)hash & rows->index_mask, tag = entry_tag(hash), entry;
    while ((entry = rows->index[at]) && (entry & ~SLOT_MASK) != tag)
        at = (at + 1) & rows->index_mask;
    if (!entry)
        return;
    __builtin_prefetch(rows_head(rows, entry_slot(entry)));
    const char *floats = (const char *)rows_floats(rows, entry_slot(entry));
    for (size_t i = 0; i < bytes; i += MEM_ALIGN)
        __builtin_prefetch(floats + i);
}

uint32_t rows_find(const struct rows *rows, uint64_t row, uint64_t hash) {
    if (!rows->index)
        return ROWS_NO_SLOT;
    uint32_t at = (uint32_t)hash & rows->index_mask, tag = entry_tag(hash), entry;
    for (; (entry = rows->index[at]); at = (at + 1) & rows->index_mask)
        if ((entry & ~SLOT_MASK) == tag && rows_head(rows, entry_slot(entry))->row == row)
            return entry_slot(entry);
    return ROWS_NO_SLOT;
}

/* Slots. */

/* The slab that begins with this slot, if one does. Its pages come when they are touched; those of
 * a big one as huge pages where the system has them: a quarter less time for a step. */
static void slab_begin(struct rows *rows, uint32_t slot) {
    uint32_t at = slot + 64;
    unsigned shift = 28 - (unsigned)__builtin_clz(at);
    if (at & ((1u << shift) - 1))
        return;
    size_t bytes = (sizeof(struct row_head) + rows->row_floats * sizeof(float)) << shift;
    uint8_t *slab = mem_raw(bytes);
    if (bytes >= 2 * HUGE_PAGE) {
        size_t before = -(uintptr_t)slab % HUGE_PAGE;
        (void)madvise(slab + before, (bytes - before) / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    }
    rows->slabs[(shift - 3) * 8 + (at >> shift & 7)] = slab;
    rows->bytes += bytes;
}

uint32_t rows_add(struct rows *rows, uint64_t row, uint64_t hash) {
    assert(rows->count < ROWS_MAX);
    if (index_full(rows))
        index_grow(rows);
    uint32_t slot = rows->free;
    if (slot != ROWS_NO_SLOT) {
        rows_touch(rows, slot);
        rows->free = rows_head(rows, slot)->clock;
    } else {
        slot = rows->slots;
        slab_begin(rows, slot);
        rows->slots++;
    }
    *rows_head(rows, slot) = (struct row_head){.row = row};
    index_put(rows, hash, slot);
    rows->count++;
    return slot;
}

void rows_remove(struct rows *rows, uint32_t slot) {
    rows_touch(rows, slot);
    struct row_head *head = rows_head(rows, slot);
    index_drop(rows, rows_hash(head->row), slot);
    *head = (struct row_head){.row = ROWS_NO_ROW, .clock = rows->free};
    rows->free = slot;
    rows->count--;
}

/* Snapshots. */

static size_t saved_bytes(const struct rows *rows) {
    size_t bytes = sizeof(struct rows_saved) + rows->row_floats * sizeof(float);
    return (bytes + _Alignof(struct rows_saved) - 1) & ~(_Alignof(struct rows_saved) - 1);
}

static size_t chunk_bytes(const struct rows *rows) {
    return sizeof(struct rows_chunk) + CHUNK_CELLS * saved_bytes(rows);
}

static size_t group_count(const struct rows *rows) {
    return ((size_t)rows->cut.slots + ROWS_GROUP - 1) / ROWS_GROUP;
}

static struct rows_saved *saved_take(struct rows *rows) {
    struct rows_cut *cut = &rows->cut;
    if (!cut->spare) {
        struct rows_chunk *chunk = mem_raw(chunk_bytes(rows));
        chunk->next = cut->chunks;
        cut->chunks = chunk;
        rows->bytes += chunk_bytes(rows);
        for (size_t i = 0; i < CHUNK_CELLS; i++) {
            void *cell = (uint8_t *)(chunk + 1) + i * saved_bytes(rows);
            ((struct rows_saved *)cell)->next = cut->spare;
            cut->spare = cell;
        }
    }
    struct rows_saved *saved = cut->spare;
    cut->spare = saved->next;
    return saved;
}

void rows_save(struct rows *rows, uint32_t slot) {
    struct rows_group_cut *group = &rows->cut.cuts[slot / ROWS_GROUP];
    uint64_t bit = 1ull << slot % ROWS_GROUP;
    if (group->saved & bit)
        return;
    struct rows_saved *saved = saved_take(rows);
    saved->slot = slot;
    saved->head = *rows_head(rows, slot);
    memcpy(saved->floats, rows_floats(rows, slot), rows->row_floats * sizeof(float));
    saved->next = group->first;
    group->first = saved;
    group->saved |= bit;
}

void rows_cut_begin(struct rows *rows) {
    assert(!rows->cut.cuts);
    rows->cut = (struct rows_cut){.slots = rows->slots};
    rows->cut.cuts = mem_array(group_count(rows), sizeof *rows->cut.cuts);
    rows->bytes += group_count(rows) * sizeof *rows->cut.cuts;
}

static void group_put(struct rows_group *group, size_t row_floats, const struct row_head *head,
                      const float *floats) {
    if (head->row == ROWS_NO_ROW)
        return;
    group->heads[group->count] = *head;
    memcpy(group->floats + group->count * row_floats, floats, row_floats * sizeof *floats);
    group->count++;
}

bool rows_cut_next(struct rows *rows, struct rows_group *group) {
    struct rows_cut *cut = &rows->cut;
    group->count = 0;
    if (cut->next >= cut->slots)
        return false;
    struct rows_group_cut *kept = &cut->cuts[cut->next / ROWS_GROUP];
    const struct rows_saved *saved[ROWS_GROUP] = {NULL};
    for (const struct rows_saved *s = kept->first; s; s = s->next)
        saved[s->slot % ROWS_GROUP] = s;
    for (uint32_t i = 0; i < ROWS_GROUP && cut->next < cut->slots; i++, cut->next++)
        if (saved[i])
            group_put(group, rows->row_floats, &saved[i]->head, saved[i]->floats);
        else
            group_put(group, rows->row_floats, rows_head(rows, cut->next),
                      rows_floats(rows, cut->next));
    while (kept->first) {
        struct rows_saved *cell = kept->first;
        kept->first = cell->next;
        cell->next = cut->spare;
        cut->spare = cell;
    }
    return true;
}

void rows_cut_end(struct rows *rows) {
    struct rows_cut *cut = &rows->cut;
    if (!cut->cuts)
        return;
    rows->bytes -= group_count(rows) * sizeof *cut->cuts;
    mem_free(cut->cuts);
    while (cut->chunks) {
        struct rows_chunk *chunk = cut->chunks;
        cut->chunks = chunk->next;
        rows->bytes -= chunk_bytes(rows);
        mem_free(chunk);
    }
    *cut = (struct rows_cut){0};
}
