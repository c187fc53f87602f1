/* A coordinator between two shards and three ranks, driven by messages and a clock in the test's
 * hands. */
#pragma once

#include "tests/unit/seam.h"

#define COORD_WORKERS 3
#define COORD_LEASE_MS 1000

struct coord_shard {
    Graphps__PeerReport report;
    Graphps__PeerOrder order; /* the last one */
};

extern struct coord {
    struct config *config;
    struct seam_disk disk;
    struct server *server;
    struct coordinator *c;
    struct seam_conn conns[COORD_WORKERS], peer_conn;
    struct coord_shard shards[2];
    uint64_t now;
} coord;

void coord_begin(int mode);
void coord_finish(void);
/* Time goes by in ticks, while shard 1 and the ranks in the mask are heard. */
void coord_wait_ms(uint64_t ms, unsigned ranks);
/* waiting_for: a part of what the status says. */
void coord_expect_status(const char *state, const char *waiting_for);

void shard_report(uint32_t shard);
/* A shard carries out all that it is ordered: roster, best, candidate, generation. */
void shard_obey(uint32_t shard);
void shards_obey(void);
void shards_reset(void);
/* Both begin a fresh run. */
void shards_fresh(void);
void shards_done(void);

int rank_try_hello(uint32_t rank, uint64_t incarnation, uint64_t attempt, uint64_t clock,
                   Graphps__Welcome *welcome, struct error *err);
Graphps__Welcome rank_hello(uint32_t rank, uint64_t incarnation, uint64_t attempt, uint64_t clock);
/* All ranks join as processes 10, 11, 12. From here on they are those. */
void ranks_join(void);
int rank_clock(uint32_t rank, uint64_t value);
void rank_expect_gate(uint32_t rank, uint64_t value, bool stop);
void rank_expect_no_gate(uint32_t rank);
/* All ranks reach a clock and are let through. */
void ranks_pass(uint64_t value);
/* bsp: training and validation, 10 nodes each. */
int rank_eval(uint32_t rank, uint32_t epoch, uint64_t valid_correct);
/* async: either training or, of a candidate, validation; 10 nodes. */
void rank_eval_async(uint32_t rank, uint32_t epoch, bool candidate, uint64_t correct);
bool rank_evaled(uint32_t rank, uint32_t epoch);
void rank_heartbeat(uint32_t rank);
/* By the answer to a heartbeat. */
bool rank_told_to_stop(uint32_t rank);
void rank_bye(uint32_t rank, bool done);
bool rank_goodbye(uint32_t rank);
