/* Who counts: for each rank the first clock it takes part in, and the clock it is known to have
 * reached. Written by the coordinator's orders and by sessions, read by the aggregator under block
 * locks: plain atomics, because every change is followed by a recheck of all blocks. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ROSTER_ABSENT UINT64_MAX

struct roster {
    size_t workers;
    _Atomic uint64_t *from;  /* [workers] ROSTER_ABSENT: does not count */
    _Atomic uint64_t *clock; /* [workers] finished steps, as far as this shard knows */
    atomic_size_t present;   /* ranks that count */
};

void roster_init(struct roster *roster, size_t workers); /* all present from 0 */
void roster_done(struct roster *roster);
/* Raises the known clock of a rank; true when it changed. */
bool roster_reached(struct roster *roster, uint32_t rank, uint64_t clock);
