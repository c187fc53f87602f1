/* Memory that is taken and given back all the time: frames, pushes, buffers of weights. What is
 * given back is kept by size class, so that after warm-up nothing is asked of the system; pages
 * stay mapped, which is most of what a new 16 MiB buffer would cost. From any thread.
 *
 * A class holds at most what was in use at once; pool_trim gives back what an interval did not
 * need. Under AddressSanitizer small sizes go straight to malloc, and what is kept is poisoned. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* 64-byte aligned, contents undefined; ends the process when the machine is out of memory. */
void *pool_take(size_t size_bytes);
/* size_bytes: as it was taken. Takes NULL. */
void pool_give(void *memory, size_t size_bytes);
/* Gives back to the system what no caller wanted since the last call. */
void pool_trim(void);
/* Kept and not in use now. */
size_t pool_idle_bytes(void);

/* An array that lives as long as a scope: POOL_ARRAY(uint32_t, index, n); */
struct pool_scope {
    void *memory;
    size_t size_bytes;
};
static inline void pool_scope_done(struct pool_scope *scope) {
    pool_give(scope->memory, scope->size_bytes);
}
#define POOL_ARRAY(type, name, count)                                                              \
    __attribute__((cleanup(pool_scope_done))) struct pool_scope name##_scope = {                   \
        .size_bytes = ((size_t)(count) + 1) * sizeof(type)};                                       \
    type *name = name##_scope.memory = pool_take(name##_scope.size_bytes)
