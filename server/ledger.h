/* Exactly once: for each rank the process that holds it and which of its pushes were applied. Pure;
 * the caller holds the lock (server.h). A window of 64 sequences above a floor: what is at or below
 * the floor is applied (or given up by its sender), so the memory is constant. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define LEDGER_WINDOW 64

struct ledger_entry {
    uint64_t attempt; /* numbered by shard 0; higher ones fence lower ones. 0: nobody yet */
    uint64_t incarnation;
    uint64_t floor;   /* all sequences <= floor are done with */
    uint64_t applied; /* bit i: sequence floor + 1 + i is applied */
    uint64_t pending; /* bit i: received, not yet applied (not saved) */
    uint64_t counted; /* pushes of this rank applied in the life of the run, all incarnations */
};

enum ledger_verdict {
    LEDGER_ADMIT,   /* new: marked pending */
    LEDGER_PENDING, /* a repeat of one that waits to be applied: answer comes then */
    LEDGER_APPLIED, /* a repeat of one that is applied: acknowledge, do not apply */
    LEDGER_FENCED,  /* another incarnation holds the rank */
    LEDGER_AHEAD,   /* beyond the window: the sender has too much in flight */
};

/* A worker says hello. The incarnation that holds the rank is always welcome (a higher attempt is
 * noted). Another one with a higher attempt takes the rank, its sequences start at 1. Of both,
 * lowest_unacked raises the floor: *ret_lost is how many sequences below it are neither applied nor
 * pending here, which the shard lost in a crash and the worker will not send again. false: fenced
 * (another incarnation, and its attempt is not higher). */
bool ledger_hello(struct ledger_entry *entry, uint64_t attempt, uint64_t incarnation,
                  uint64_t lowest_unacked, uint64_t *ret_lost);
enum ledger_verdict ledger_push(struct ledger_entry *entry, uint64_t incarnation,
                                uint64_t sequence);
/* The push is applied. An incarnation that was fenced meanwhile counts, but moves no bit. */
void ledger_apply(struct ledger_entry *entry, uint64_t incarnation, uint64_t sequence);
