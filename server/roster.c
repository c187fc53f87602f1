/* Who counts, as plain atomics. Decides nothing: the coordinator's orders and the sessions write
 * it, the close rule of a block reads it. */
#include "server/roster.h"

#include <assert.h>

#include "common/mem.h"

void roster_init(struct roster *roster, size_t workers) {
    roster->workers = workers;
    roster->from = mem_array(workers, sizeof *roster->from);
    roster->clock = mem_array(workers, sizeof *roster->clock);
    atomic_init(&roster->present, workers);
}

void roster_done(struct roster *roster) {
    mem_free((void *)roster->from);
    mem_free((void *)roster->clock);
    *roster = (struct roster){0};
}

bool roster_reached(struct roster *roster, uint32_t rank, uint64_t clock) {
    assert(rank < roster->workers);
    uint64_t known = atomic_load(&roster->clock[rank]);
    while (known < clock)
        if (atomic_compare_exchange_weak(&roster->clock[rank], &known, clock))
            return true;
    return false;
}
