/* A generated graph for benchmarks: power-law degrees, communities, numbers that say nothing. */
#pragma once

#include <stdint.h>

struct power_law {
    uint64_t nodes;
    int64_t *indptr;    /* [nodes + 1] */
    int32_t *indices;   /* ascending in a row, without repeats, symmetric */
    int32_t *community; /* [nodes], from 0 */
};

/* Communities of 64 to 4096 nodes, many small ones; degrees by a power law of exponent 2.5 up to
 * some thousand times the least (Chung & Lu, PNAS 2002): both ends of an edge are drawn by their
 * nodes' weights, the second from the first's community in inside of 100 cases, else from
 * everywhere. Repeats among the edges drawn are dropped. */
struct power_law power_law_make(uint64_t nodes, uint64_t edges, uint64_t inside);
/* Makes rows ascending and drops repeats. */
void power_law_sort(struct power_law *graph);
/* The same graph without communities, node l the old order[l]. Ends the process when a node is
 * missing in order [nodes]. */
struct power_law power_law_renumber(const struct power_law *graph, const int32_t *order);
void power_law_done(struct power_law *graph);
