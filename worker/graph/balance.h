/* What parts share evenly: nodes, edges (those into a part's own nodes) and training nodes. Counts
 * them by part and says how much one part may have. */
#pragma once

#include "worker/graph/snapshot.h"

enum { BALANCE_NODES, BALANCE_EDGES, BALANCE_TRAIN, BALANCE_KINDS };

/* A part may have a tenth more than the mean, and what cannot be divided: one node's. */
#define BALANCE_SLACK 0.1

struct balance {
    const struct snapshot *snapshot; /* borrowed */
    uint32_t parts;
    uint64_t total[BALANCE_KINDS], limit[BALANCE_KINDS];
    uint64_t (*load)[BALANCE_KINDS]; /* [parts] */
};

/* Nothing is loaded. */
void balance_init(struct balance *balance, const struct snapshot *snapshot, uint32_t parts);
void balance_done(struct balance *balance);
/* Loads every node onto its owner, and nothing else. */
void balance_count(struct balance *balance, const int32_t *owner);

/* A labelled node of the training split. */
bool balance_is_train(const struct snapshot *snapshot, uint64_t node);
void balance_weigh(const struct balance *balance, uint64_t node, uint64_t ret[BALANCE_KINDS]);
void balance_add(struct balance *balance, uint32_t part, const uint64_t weights[BALANCE_KINDS]);
void balance_take(struct balance *balance, uint32_t part, const uint64_t weights[BALANCE_KINDS]);
bool balance_has_room(const struct balance *balance, uint32_t part,
                      const uint64_t weights[BALANCE_KINDS]);
/* Is the part above a limit? */
bool balance_is_over(const struct balance *balance, uint32_t part);
/* The largest part's load over the mean; 1 when there is nothing to share. */
double balance_ratio(const struct balance *balance, int kind);
