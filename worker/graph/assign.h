/* Which part owns which node: METIS k-way on the symmetrised graph, with two weights to balance,
 * nodes and training nodes (Karypis & Kumar, "Multilevel algorithms for multi-constraint graph
 * partitioning", SC 1998). */
#pragma once

#include "worker/graph/snapshot.h"

/* owner [nodes] gets 0..parts-1; 1 <= parts <= nodes. */
int assign_owners(const struct snapshot *snapshot, uint32_t parts, uint64_t seed, int32_t *owner,
                  struct error *reterr);
