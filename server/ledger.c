/* Exactly once, as arithmetic on one entry: a floor and two bit masks above it. Owns no lock and
 * no memory; who calls holds the seats' lock (server.h). */
#include "server/ledger.h"

#include <assert.h>

/* Drops applied sequences off the window's lower end. */
static void ledger_advance(struct ledger_entry *entry) {
    while (entry->applied & 1) {
        entry->applied >>= 1;
        entry->pending >>= 1;
        entry->floor++;
    }
}

/* Raises the floor; returns how many of the sequences passed were neither applied nor wait. */
static uint64_t ledger_raise(struct ledger_entry *entry, uint64_t floor) {
    if (floor <= entry->floor)
        return 0;
    uint64_t passed = floor - entry->floor, lost;
    uint64_t known = entry->applied | entry->pending;
    if (passed >= LEDGER_WINDOW) {
        lost = passed - (uint64_t)__builtin_popcountll(known);
        entry->applied = entry->pending = 0;
    } else {
        lost = passed - (uint64_t)__builtin_popcountll(known & ((1ull << passed) - 1));
        entry->applied >>= passed;
        entry->pending >>= passed;
    }
    entry->floor = floor;
    ledger_advance(entry);
    return lost;
}

bool ledger_hello(struct ledger_entry *entry, uint64_t attempt, uint64_t incarnation,
                  uint64_t lowest_unacked, uint64_t *ret_lost) {
    bool holds = entry->attempt > 0 && entry->incarnation == incarnation;
    if (!holds) {
        if (attempt <= entry->attempt)
            return false;
        entry->incarnation = incarnation;
        entry->floor = entry->applied = entry->pending = 0;
    }
    if (attempt > entry->attempt)
        entry->attempt = attempt;
    /* Also a new incarnation may have pushed before: to this shard's life before a crash. */
    *ret_lost = lowest_unacked > 0 ? ledger_raise(entry, lowest_unacked - 1) : 0;
    return true;
}

enum ledger_verdict ledger_push(struct ledger_entry *entry, uint64_t incarnation,
                                uint64_t sequence) {
    if (entry->attempt == 0 || entry->incarnation != incarnation)
        return LEDGER_FENCED;
    if (sequence <= entry->floor)
        return LEDGER_APPLIED;
    uint64_t at = sequence - entry->floor - 1;
    if (at >= LEDGER_WINDOW)
        return LEDGER_AHEAD;
    uint64_t bit = 1ull << at;
    if (entry->applied & bit)
        return LEDGER_APPLIED;
    if (entry->pending & bit)
        return LEDGER_PENDING;
    entry->pending |= bit;
    return LEDGER_ADMIT;
}

void ledger_apply(struct ledger_entry *entry, uint64_t incarnation, uint64_t sequence) {
    entry->counted++;
    if (entry->incarnation != incarnation || sequence <= entry->floor)
        return;
    uint64_t at = sequence - entry->floor - 1;
    assert(at < LEDGER_WINDOW);
    entry->pending &= ~(1ull << at);
    entry->applied |= 1ull << at;
    ledger_advance(entry);
}
