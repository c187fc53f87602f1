/* Allocation, arena and reference-counted buffer. */
#include "common/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "common/pool.h"

static void mem_die(size_t size_bytes) {
    fprintf(stderr, "graphps: out of memory: the machine refused %zu bytes\n", size_bytes);
    exit(70);
}

static _Atomic uint64_t mem_asked;

uint64_t mem_allocations(void) {
    return atomic_load_explicit(&mem_asked, memory_order_relaxed);
}

void mem_count_allocation(void) {
    atomic_fetch_add_explicit(&mem_asked, 1, memory_order_relaxed);
}

/* Tables and matrices that are reached at random spend much of their time in the processor's search
 * for pages, and fresh memory much in page faults: large pages make both rare. */
#define HUGE_FROM_BYTES (4u << 20)
#define PAGE_BYTES 4096u
#define LARGE_PAGE_BYTES (2u << 20)

static void ask_for_large_pages(void *pointer, size_t size_bytes) {
    uintptr_t begin = ((uintptr_t)pointer + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    uintptr_t end = ((uintptr_t)pointer + size_bytes) / PAGE_BYTES * PAGE_BYTES;
    (void)madvise((void *)begin, end - begin, MADV_HUGEPAGE); /* a wish */
}

void *mem_raw(size_t size_bytes) {
    size_t rounded = (size_bytes + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
    if (rounded < size_bytes)
        mem_die(size_bytes);
    mem_count_allocation();
    void *pointer = aligned_alloc(MEM_ALIGN, rounded ? rounded : MEM_ALIGN);
    if (!pointer)
        mem_die(size_bytes);
    if (rounded >= HUGE_FROM_BYTES)
        ask_for_large_pages(pointer, rounded);
    return pointer;
}

/* Where in a large page the touched part ends is chance: in the middle, on average. */
size_t mem_touched_bytes(size_t capacity_bytes, size_t used_bytes) {
    size_t bytes = used_bytes + (capacity_bytes >= HUGE_FROM_BYTES ? LARGE_PAGE_BYTES / 2 : 0);
    return used_bytes == 0 ? 0 : bytes < capacity_bytes ? bytes : capacity_bytes;
}

void *mem_alloc(size_t size_bytes) {
    return memset(mem_raw(size_bytes), 0, size_bytes);
}

void *mem_array(size_t count, size_t size_bytes) {
    size_t total;
    if (__builtin_mul_overflow(count, size_bytes, &total))
        mem_die(SIZE_MAX);
    return mem_alloc(total);
}

void *mem_resize(void *array, size_t old_bytes, size_t new_bytes) {
    char *grown = mem_raw(new_bytes);
    size_t kept = !array ? 0 : old_bytes < new_bytes ? old_bytes : new_bytes;
    if (kept)
        memcpy(grown, array, kept);
    memset(grown + kept, 0, new_bytes - kept);
    mem_free(array);
    return grown;
}

char *mem_strdup(const char *text) {
    size_t len = strlen(text) + 1;
    return memcpy(mem_alloc(len), text, len);
}

char *mem_printf(const char *format, ...) {
    va_list args;
    va_start(args, format);
    char *text;
    mem_count_allocation();
    int n = vasprintf(&text, format, args);
    va_end(args);
    if (n < 0)
        mem_die(strlen(format));
    return text;
}

void mem_free(void *pointer) {
    free(pointer);
}

struct arena {
    size_t capacity;
    size_t used;
    uint8_t *base;
};

struct arena *arena_new(size_t capacity_bytes) {
    struct arena *arena = mem_alloc(sizeof *arena);
    arena->base = mem_alloc(capacity_bytes);
    /* Whole cache lines, as mem_alloc gives them: a last array of odd size fits its plan. */
    arena->capacity = (capacity_bytes + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
    return arena;
}

void *arena_take(struct arena *arena, size_t size_bytes) {
    size_t rounded = (size_bytes + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
    if (rounded < size_bytes || rounded > arena->capacity - arena->used) {
        fprintf(stderr, "graphps: internal error: an arena of %zu bytes was planned too small\n",
                arena->capacity);
        abort();
    }
    void *pointer = arena->base + arena->used;
    arena->used += rounded;
    return pointer;
}

size_t arena_used_bytes(const struct arena *arena) {
    return arena->used;
}

struct arena *arena_free(struct arena *arena) {
    if (arena) {
        mem_free(arena->base);
        mem_free(arena);
    }
    return NULL;
}

/* The header lives in the same allocation, one cache line before the data. */
struct buf *buf_new(size_t len_bytes) {
    if (len_bytes > SIZE_MAX - 2 * MEM_ALIGN)
        mem_die(len_bytes);
    _Static_assert(sizeof(struct buf) <= MEM_ALIGN, "the header must fit before the data");

    uint8_t *memory = pool_take(len_bytes + MEM_ALIGN);
    struct buf *buf = (struct buf *)memory;
    *buf = (struct buf){.len = len_bytes, .data = memory + MEM_ALIGN};
    atomic_init(&buf->refs, 1);
    return buf;
}

struct buf *buf_wrap(const uint8_t *data, size_t len_bytes,
                     void (*gone)(void *ctx, size_t len_bytes), void *ctx) {
    struct buf *buf = pool_take(MEM_ALIGN);
    *buf = (struct buf){.len = len_bytes,
                        .data = (uint8_t *)(uintptr_t)data,
                        .gone = gone,
                        .gone_ctx = ctx,
                        .elsewhere = true};
    atomic_init(&buf->refs, 1);
    return buf;
}

struct buf *buf_ref(struct buf *buf) {
    atomic_fetch_add_explicit(&buf->refs, 1, memory_order_relaxed);
    return buf;
}

struct buf *buf_own(struct buf *buf) {
    /* acquire: after all that those read who have let go of it. */
    if (atomic_load_explicit(&buf->refs, memory_order_acquire) == 1)
        return buf;
    struct buf *copy = buf_new(buf->len);
    memcpy(copy->data, buf->data, buf->len);
    buf_unref(buf);
    return copy;
}

struct buf *buf_unref(struct buf *buf) {
    /* acq_rel: whoever takes it next must come after all that the others read and wrote. */
    if (!buf || atomic_fetch_sub_explicit(&buf->refs, 1, memory_order_acq_rel) > 1)
        return NULL;
    struct buf last = {.len = buf->len, .gone = buf->gone, .gone_ctx = buf->gone_ctx};
    pool_give(buf, MEM_ALIGN + (buf->elsewhere ? 0 : buf->len));
    if (last.gone)
        last.gone(last.gone_ctx, last.len);
    return NULL;
}
