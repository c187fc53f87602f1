/* A block on its shard: published weights, version, pending gradients. Everything here is
 * bookkeeping; merging is the aggregator's.
 *
 * async, ssp: a batch closes when `close_pushes` gradients wait or the oldest has waited
 * max_wait_ms. bsp: the block has a clock. Gradients of clock c < clock are late (done, not
 * merged). The batch of clock c closes when every rank that counts from <= c has a gradient of c
 * here or is known to be beyond c; c is the lowest clock pending. At most one gradient per (rank,
 * clock) counts: a newer incarnation's replaces the older's. Merged in rank order, so that the sum
 * has the same bits every time. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>

#include "common/list.h"
#include "common/lock.h"
#include "common/mem.h"
#include "proto/codec.h"
#include "server/roster.h"

struct push;
struct table;

/* One block's part of a push. The bytes lie in the buffer the socket filled. */
struct pending {
    struct list node;
    struct push *push;
    const uint8_t *bytes; /* of a tensor's block; a stripe's part is in push->rows */
    uint64_t version;     /* of the weights it was computed on; 0: not known */
};

/* The rows of a push to a table, sorted by stripe (table_split). */
struct push_rows {
    const uint64_t *rows; /* [n] */
    const float *values;  /* [n, dim] */
    uint32_t *order;      /* [n] */
    uint32_t *starts;     /* [stripes + 1]; stripe s has order[starts[s]] .. order[starts[s + 1]] */
    struct buf *memory;   /* of order and starts, and of values that were decoded; a reference */
};

/* A push on its way: freed when the last of its blocks is done with. */
struct push {
    uint32_t rank;
    uint64_t incarnation, sequence, id, clock;
    float weight; /* samples behind it */
    enum codec codec;
    uint64_t received_ns;
    struct buf *buf;       /* a reference */
    struct push_rows rows; /* to a table: parts are its stripes in order */
    atomic_uint remaining; /* blocks not yet applied; the one who takes it to 0 acknowledges */
    atomic_uint late; /* blocks where it was not merged: in bsp because the batch had closed, or
                       * a newer process of the rank sent the same; else because it was too
                       * stale; with late == count nothing of the push counted */
    uint32_t count;
    struct pending parts[];
};
struct push *push_new(uint32_t count);
struct push *push_free(struct push *push);

struct block {
    /* set at start, never changed */
    uint32_t id; /* in the layout */
    uint32_t floats;
    bool decay;
    bool statistic;      /* pushes are averaged, not stepped along; its state stays unused */
    struct table *table; /* a stripe of it: floats 0, no weights; NULL for a tensor's block */
    uint32_t stripe;
    struct lock
        lock; /* LOCK_BLOCK; guards the group below; held for a list append or a pointer swap */
    struct buf *weights; /* published; readers take a reference; never written after */
    uint64_t version;    /* grows by 1 per update, starts at 1; 0 means "none" on the wire */
    uint64_t clock;      /* bsp: batches below are closed */
    struct list pending; /* struct pending; bsp: by clock, then rank; else as they came */
    uint32_t pending_count;
    uint64_t oldest_ms;     /* when the first of pending came */
    bool queued;            /* taken, or on its way to be: only then may block_take be called */
    struct list ready_node; /* in the aggregator's queue; guarded by its lock */
    /* owned by whoever took the queued block */
    struct buf *state; /* [state_floats * floats], NULL when 0; a checkpoint may share it */
    uint64_t steps;    /* optimizer steps */
};

/* When batches close. */
struct block_rule {
    bool bsp;
    uint32_t close_pushes; /* 0: as many as roster->present */
    uint32_t max_wait_ms;
    /* async, ssp: a gradient that is older, in versions, is not merged (0: all are); a stale one
     * counts 1 / (1 + staleness) of its weight (Zhang et al., IJCAI 2016). */
    uint32_t staleness_max;
    bool damped;
    struct roster *roster;
};

/* Sets the block up with its first weights (takes the reference), version 1, clock 0, no steps and
 * state_floats * floats zeros of state. A restore then sets version, clock, steps and state. */
void block_init(struct block *block, uint32_t id, uint32_t floats, bool decay, struct buf *weights,
                size_t state_floats);
/* The books of a table's stripe, which has its rows and its own lock for them. */
void block_init_stripe(struct block *block, struct table *table, uint32_t stripe);
/* Nothing may be pending: aggregator_free comes first. */
void block_done(struct block *block);

/* Appends one part, or says it is late (bsp; then the caller counts it as done). *ret_replaced: a
 * part that this one replaced, for the caller to count as done, else NULL. Returns true when the
 * batch may now close and the block was not queued: the caller queues it (queued is set). */
bool block_append(struct block *block, const struct block_rule *rule, struct pending *part,
                  uint64_t now_ms, bool *ret_late, struct pending **ret_replaced);
/* May the batch close now (time passed, roster changed, force)? Sets queued and returns true then.
 */
bool block_check(struct block *block, const struct block_rule *rule, uint64_t now_ms, bool force);
/* Moves the closed batch's parts to out: all of them (async, ssp; *ret_clock is BLOCK_NO_CLOCK) or
 * those of the lowest clock, sorted by rank (bsp; *ret_clock is that clock; parts found late go to
 * late). Returns the number of parts in out: 0 when only late ones were there, or when the roster
 * grew meanwhile and the batch has to wait after all. Also then block_publish must follow. */
#define BLOCK_NO_CLOCK UINT64_MAX
uint32_t block_take(struct block *block, const struct block_rule *rule, struct list *out,
                    struct list *late, uint64_t *ret_clock);
/* updated: version + 1, with new weights (takes the reference; NULL for a stripe); in bsp the
 * block's clock becomes the batch's + 1. Clears queued; returns true when the next batch may close
 * already (queued is set again). */
bool block_publish(struct block *block, const struct block_rule *rule, bool updated,
                   struct buf *weights, uint64_t clock, uint64_t now_ms);
/* A reference to the published weights (NULL: a stripe), and their version. */
struct buf *block_read(struct block *block, uint64_t *ret_version);
/* Parts that wait now. */
uint32_t block_pending(struct block *block);
/* When the batch's time is up: absolute ms, UINT64_MAX when nothing waits, it is queued, or in bsp.
 */
uint64_t block_deadline(struct block *block, const struct block_rule *rule);
