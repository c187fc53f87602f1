/* Memory: allocation that cannot fail half-way, aligned arrays, an arena, a reference-counted
 * buffer, and scope-bound cleanup.
 *
 * mem_alloc and friends end the process with a clear message when the machine is out of memory:
 * sizes are checked against limits before they get here, so this is the kernel's refusal, not a
 * peer's wish. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define MEM_ALIGN 64

/* Zeroed, 64-byte aligned; mem_free takes NULL. count * size is checked for overflow. */
void *mem_alloc(size_t size_bytes);
/* The same without the zeros. */
void *mem_raw(size_t size_bytes);
void *mem_array(size_t count, size_t size_bytes);
/* Grows (or shrinks) an array made by mem_alloc/mem_array; the new part is zeroed. */
void *mem_resize(void *array, size_t old_bytes, size_t new_bytes);
char *mem_strdup(const char *text);
char *mem_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
void mem_free(void *pointer);
/* Of an array made by mem_raw of whose capacity only the first used_bytes were ever touched: the
 * memory that it takes, about. */
size_t mem_touched_bytes(size_t capacity_bytes, size_t used_bytes);
/* How often this process has asked the system's allocator, by way of this file or of a library that
 * was told to count (mem_count_allocation). */
uint64_t mem_allocations(void);
void mem_count_allocation(void);

/* An arena: many arrays planned at start, freed together. Not shared between threads. */
struct arena;
struct arena *arena_new(size_t capacity_bytes);
/* 64-byte aligned, zeroed; ends the process when the plan was too small (an error of ours). */
void *arena_take(struct arena *arena, size_t size_bytes);
size_t arena_used_bytes(const struct arena *arena);
struct arena *arena_free(struct arena *arena);

/* A byte buffer shared between threads, from the pool. The contents are written before it is shared
 * and never changed afterwards. buf_new gives the caller one reference. data is 64-byte aligned. */
struct buf {
    atomic_uint refs;
    size_t len;
    uint8_t *data;
    void (*gone)(void *ctx, size_t len_bytes); /* NULL, or told when the last reference goes */
    void *gone_ctx;
    bool elsewhere; /* data is not behind this */
};
struct buf *buf_new(size_t len_bytes); /* contents undefined */
/* Of memory that is somewhere else (a mapped file), until gone is told. */
struct buf *buf_wrap(const uint8_t *data, size_t len_bytes,
                     void (*gone)(void *ctx, size_t len_bytes), void *ctx);
struct buf *buf_ref(struct buf *buf);
struct buf *buf_unref(struct buf *buf); /* takes NULL, returns NULL */
/* The same bytes for the caller alone, who may change them: the buffer itself when nobody else has
 * a reference, else a copy in exchange for the caller's. */
struct buf *buf_own(struct buf *buf);

/* Scope-bound cleanup: _cleanup_(free_p) char *name = NULL; */
#define _cleanup_(f) __attribute__((cleanup(f)))
static inline void mem_free_p(void *pointer) {
    mem_free(*(void **)pointer);
}
static inline void buf_unref_p(struct buf **buf) {
    buf_unref(*buf);
}
/* Hands a pointer on and forgets it here: return TAKE_PTR(x); */
#define TAKE_PTR(p)                                                                                \
    ({                                                                                             \
        __typeof__(p) taken_ = (p);                                                                \
        (p) = NULL;                                                                                \
        taken_;                                                                                    \
    })
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
