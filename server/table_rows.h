/* The rows of one stripe of a table: where they lie, how they are found, what a snapshot still
 * needs of them. No locks, no threads, no arithmetic: the caller holds the stripe's lock for all of
 * it (table.c).
 *
 * A row lives in a slot; slots are numbered from 0 and a row keeps its slot until it is removed.
 * Slots lie in slabs: eight of 8 slots, eight of 16, eight of 32 and so on. So the slab of a slot
 * follows from its number, nothing is ever moved, an empty stripe is small, and of n slots no more
 * than n / 8 + 8 are yet unused. A slab is the heads of its rows, then their floats. The index is a
 * hash table of slot numbers with open addressing, doubled when it is four fifths full; six bits of
 * the hash beside the number keep most of the strangers on the way from being looked at.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/rng.h"

#define ROWS_NO_ROW UINT64_MAX
#define ROWS_NO_SLOT UINT32_MAX
#define ROWS_SLOT_BITS 26
#define ROWS_MAX ((1u << ROWS_SLOT_BITS) - 1) /* a stripe holds at most */

enum { ROWS_SLABS = 8 * (ROWS_SLOT_BITS - 5), ROWS_GROUP = 64 };

struct row_head {
    uint64_t row;   /* its number; ROWS_NO_ROW: the slot is free */
    uint32_t clock; /* last touched; of a free slot: the next free one, or ROWS_NO_SLOT */
    uint32_t steps; /* optimizer steps */
};

/* A slot as it was at the cut, copied before it was changed. */
struct rows_saved {
    struct rows_saved *next;
    uint32_t slot;
    struct row_head head;
    float floats[];
};

/* A snapshot under way. Slots are handed out in order, ROWS_GROUP at a time. */
struct rows_cut {
    uint32_t slots;              /* in use or free at the cut; 0: there is none */
    uint32_t next;               /* those below are handed out */
    struct rows_group_cut *cuts; /* per group: what is saved of it */
    struct rows_saved *spare;    /* cells for it */
    struct rows_chunk *chunks;   /* the cells' memory */
};

struct rows {
    /* set at start, never changed */
    size_t row_floats;

    uint32_t *index;     /* [index_mask + 1]: 0, or (six bits of the hash, slot + 1) */
    uint32_t index_mask; /* 0 before the first row */
    uint32_t count;      /* rows held */
    uint32_t slots;      /* slots used so far: rows and free ones */
    uint32_t free;       /* the first free slot, or ROWS_NO_SLOT */
    size_t bytes;        /* allocated: index, slabs, what a snapshot keeps */
    struct rows_cut cut;
    uint8_t *slabs[ROWS_SLABS];
};

/* Rows of row_floats floats each; allocates nothing. */
void rows_init(struct rows *rows, size_t row_floats);
void rows_done(struct rows *rows);

/* Which stripe (the upper bits) and where in its index (the lower ones). */
static inline uint64_t rows_hash(uint64_t row) {
    return rng_at(0, row);
}

/* Where a slot lies: slab s = 8 k + j has 8 * 2^k slots, the first of them 64 * (2^k - 1) + j * 8 *
 * 2^k. With 64 added, the leading bit of a slot says k, and the three bits after it say j. */
static inline struct row_head *rows_head(const struct rows *rows, uint32_t slot) {
    uint32_t at = slot + 64;
    unsigned shift = 28 - (unsigned)__builtin_clz(at); /* of a slab of 2^shift slots */
    uint32_t slab = (shift - 3) * 8 + (at >> shift & 7);
    return (struct row_head *)(void *)rows->slabs[slab] + (at & ((1u << shift) - 1));
}
static inline float *rows_floats(const struct rows *rows, uint32_t slot) {
    uint32_t at = slot + 64;
    unsigned shift = 28 - (unsigned)__builtin_clz(at);
    uint32_t slab = (shift - 3) * 8 + (at >> shift & 7);
    uint8_t *floats = rows->slabs[slab] + (sizeof(struct row_head) << shift);
    return (float *)(void *)floats + (at & ((1u << shift) - 1)) * rows->row_floats;
}

/* Asks for the memory that the next call will need: first the index, later, when that has come, the
 * head and the first `bytes` of the floats. */
void rows_prefetch_index(const struct rows *rows, uint64_t hash);
void rows_prefetch_row(const struct rows *rows, uint64_t hash, size_t bytes);

/* ROWS_NO_SLOT when it is not there. */
uint32_t rows_find(const struct rows *rows, uint64_t row, uint64_t hash);
/* A slot for a row that is not there: clock and steps 0, floats undefined. There must be less than
 * ROWS_MAX of them. */
uint32_t rows_add(struct rows *rows, uint64_t row, uint64_t hash);
void rows_remove(struct rows *rows, uint32_t slot);

/* Before head or floats of a slot change (rows_add and rows_remove do it themselves): keeps what a
 * snapshot has still to hand out. */
void rows_save(struct rows *rows, uint32_t slot);
static inline void rows_touch(struct rows *rows, uint32_t slot) {
    if (slot < rows->cut.slots && slot >= rows->cut.next)
        rows_save(rows, slot);
}

/* What rows_cut_next fills. */
struct rows_group {
    uint32_t count;
    struct row_head heads[ROWS_GROUP];
    float *floats; /* [ROWS_GROUP, row_floats] */
};

/* The rows as they are now will be handed out by rows_cut_next, whatever happens to them. There is
 * one cut at a time. */
void rows_cut_begin(struct rows *rows);
/* The next rows by slot, possibly none; false when all have been handed out. */
bool rows_cut_next(struct rows *rows, struct rows_group *group);
/* Forgets the cut; also before the end. */
void rows_cut_end(struct rows *rows);
