/* Cutting by METIS k-way on the symmetrised graph, with three weights to balance: nodes, edges and
 * training nodes (Karypis & Kumar, "Multilevel algorithms for multi-constraint graph partitioning",
 * SC 1998). METIS cannot be stopped and cannot say how far it is, so it works in a child process:
 * that can be ended, and takes its memory with it. */
#pragma once

#include "worker/graph/balance.h"
#include "worker/graph/watch.h"

/* Edges as METIS counts them, at most; it takes INT32_MAX. */
uint64_t assign_metis_entries(const struct snapshot *snapshot);
/* About how much memory it needs. */
uint64_t assign_metis_bytes(const struct snapshot *snapshot);
/* owner [nodes] gets 0..parts-1; some parts may be left without nodes, or above their limits.
 * ERR_RANGE, ERR_NO_MEMORY, ERR_INTERRUPTED. */
int assign_metis(const struct balance *balance, uint64_t seed, const struct watch *watch,
                 int32_t *owner, struct error *reterr);
