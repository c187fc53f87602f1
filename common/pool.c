/* Free lists by size class, each under its own lock: a taker and a giver of the same size meet for
 * the length of a pointer swap. */
#include "common/pool.h"

#include <pthread.h>
#include <stdbool.h>

#include "common/lock.h"
#include "common/mem.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define POOL_LEAST_BYTES ((size_t)64 << 10) /* from about here each malloc would be a mapping */
#else
#define POOL_LEAST_BYTES 1
#define ASAN_POISON_MEMORY_REGION(memory, size_bytes) ((void)(memory), (void)(size_bytes))
#define ASAN_UNPOISON_MEMORY_REGION(memory, size_bytes) ((void)(memory), (void)(size_bytes))
#endif

/* 64 bytes, then four classes for each doubling. */
enum { CLASS_COUNT = 4 * 26 };
#define CLASS_BYTES_MAX ((size_t)1 << 31)

struct idle {
    struct idle *next;
};

struct class {
    size_t size_bytes; /* set at start, never changed */
    struct lock lock;  /* LOCK_POOL; guards the group below */
    struct idle *idle;
    size_t idle_count, idle_least; /* least: since the last trim */
};

static struct class classes[CLASS_COUNT];
static pthread_once_t classes_once = PTHREAD_ONCE_INIT;

static size_t class_bytes(size_t number) {
    size_t octave = (size_t)256 << number / 4;
    return octave / 4 * (number % 4 + 5) / MEM_ALIGN * MEM_ALIGN;
}

/* The smallest class that holds it: 256, then 320, 384, 448, 512, 640, ... */
static size_t class_of(size_t size_bytes) {
    if (size_bytes <= 320)
        return 0;
    unsigned top = 63 - (unsigned)__builtin_clzll(size_bytes - 1); /* 2^top < size <= 2^(top+1) */
    size_t quarter = (size_bytes - 1) >> (top - 2) & 3;
    return (size_t)(top - 8) * 4 + quarter;
}

static void classes_init(void) {
    for (size_t i = 0; i < CLASS_COUNT; i++) {
        classes[i].size_bytes = class_bytes(i);
        lock_init(&classes[i].lock, LOCK_POOL, "pool");
    }
}

static bool keeps(size_t size_bytes) {
    return size_bytes >= POOL_LEAST_BYTES && size_bytes <= CLASS_BYTES_MAX;
}

void *pool_take(size_t size_bytes) {
    if (!keeps(size_bytes))
        return mem_raw(size_bytes);
    pthread_once(&classes_once, classes_init);
    struct class *class = &classes[class_of(size_bytes)];
    lock_take(&class->lock);
    struct idle *memory = class->idle;
    if (memory) {
        class->idle = memory->next;
        if (--class->idle_count < class->idle_least)
            class->idle_least = class->idle_count;
    }
    lock_release(&class->lock);
    uint8_t *ret = memory ? (void *)memory : mem_raw(class->size_bytes);
    ASAN_UNPOISON_MEMORY_REGION(ret, size_bytes);
    ASAN_POISON_MEMORY_REGION(ret + size_bytes, class->size_bytes - size_bytes);
    return ret;
}

void pool_give(void *memory, size_t size_bytes) {
    if (!memory)
        return;
    if (!keeps(size_bytes)) {
        mem_free(memory);
        return;
    }
    struct class *class = &classes[class_of(size_bytes)];
    struct idle *idle = memory;
    ASAN_POISON_MEMORY_REGION(idle + 1, class->size_bytes - sizeof *idle);
    lock_take(&class->lock);
    idle->next = class->idle;
    class->idle = idle;
    class->idle_count++;
    lock_release(&class->lock);
}

void pool_trim(void) {
    pthread_once(&classes_once, classes_init);
    for (size_t i = 0; i < CLASS_COUNT; i++) {
        struct class *class = &classes[i];
        struct idle *unwanted = NULL;
        lock_take(&class->lock);
        for (size_t n = class->idle_least; n > 0; n--) {
            struct idle *idle = class->idle;
            class->idle = idle->next;
            class->idle_count--;
            idle->next = unwanted;
            unwanted = idle;
        }
        class->idle_least = class->idle_count;
        lock_release(&class->lock);
        while (unwanted) {
            struct idle *next = unwanted->next;
            ASAN_UNPOISON_MEMORY_REGION(unwanted + 1, class->size_bytes - sizeof *unwanted);
            mem_free(unwanted);
            unwanted = next;
        }
    }
}

size_t pool_idle_bytes(void) {
    size_t bytes = 0;
    pthread_once(&classes_once, classes_init);
    for (size_t i = 0; i < CLASS_COUNT; i++) {
        lock_take(&classes[i].lock);
        bytes += classes[i].idle_count * classes[i].size_bytes;
        lock_release(&classes[i].lock);
    }
    return bytes;
}
