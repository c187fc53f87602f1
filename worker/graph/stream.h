/* Cutting a graph by reading it, in memory that grows with the nodes only: Fennel (Tsourakakis,
 * Gkantsidis, Radunovic & Vojnovic, "FENNEL: Streaming Graph Partitioning for Massive Scale
 * Graphs", WSDM 2014), read again and again until few nodes move (Nishimura & Ugander,
 * "Restreaming Graph Partitioning", KDD 2013). A node goes where most of its neighbours are, less a
 * price that grows with what the part has of nodes, edges and training nodes; never where it would
 * exceed one of balance.h's limits. Of a directed graph it sees in-edges. */
#pragma once

#include "worker/graph/balance.h"
#include "worker/graph/watch.h"

/* owner [nodes] gets 0..parts-1. The graph is read in the order of its rows, from a place that the
 * seed decides. ERR_INTERRUPTED. */
int stream_fennel(struct balance *balance, uint64_t seed, const struct watch *watch, int32_t *owner,
                  struct error *reterr);
/* Moves nodes out of parts that are above a limit, those first that lose least by it. No part loses
 * its last node or training node. balance is left counted. */
void stream_mend(struct balance *balance, int32_t *owner);
