/* Counting, then placing. */
#include "worker/model/incidence.h"

#include <string.h>

#include "common/mem.h"

size_t incidence_bytes(uint64_t pairs, size_t nodes) {
    return (nodes + 2) * sizeof(int64_t) +
           2 * pairs * (sizeof(int32_t) + sizeof(uint32_t) + sizeof(float));
}

/* Batches differ in size: some room keeps the next one from growing it again. */
static void reserve(struct incidence *incidence, size_t pairs, size_t nodes) {
    if (nodes > incidence->node_room) {
        incidence->node_room = incidence->node_room ? nodes + nodes / 4 : nodes;
        mem_free(incidence->indptr);
        incidence->indptr = mem_raw((incidence->node_room + 2) * sizeof *incidence->indptr);
    }
    if (pairs > incidence->pair_room) {
        incidence->pair_room = incidence->pair_room ? pairs + pairs / 4 : pairs;
        size_t entries = 2 * incidence->pair_room;
        mem_free(incidence->others);
        mem_free(incidence->pairs);
        mem_free(incidence->weights);
        incidence->others = mem_raw(entries * sizeof *incidence->others);
        incidence->pairs = mem_raw(entries * sizeof *incidence->pairs);
        incidence->weights = mem_raw(entries * sizeof *incidence->weights);
    }
}

static void place(struct incidence *incidence, int32_t node, int32_t other, uint32_t pair) {
    int64_t at = incidence->indptr[node + 1]++;
    incidence->others[at] = other;
    incidence->pairs[at] = pair;
}

void incidence_make(struct incidence *incidence, const struct link_pairs *pairs, size_t nodes) {
    uint64_t all = link_pairs_all(pairs);
    reserve(incidence, all, nodes);
    incidence->nodes = nodes;
    /* One place to the right, as in mfg_transpose. */
    int64_t *indptr = incidence->indptr;
    memset(indptr, 0, (nodes + 2) * sizeof *indptr);
    for (uint64_t p = 0; p < all; p++)
        if (pairs->sources[p] >= 0) {
            indptr[pairs->sources[p] + 2]++;
            indptr[pairs->targets[p] + 2]++;
        }
    for (size_t i = 2; i <= nodes + 1; i++)
        indptr[i] += indptr[i - 1];
    for (uint64_t p = 0; p < all; p++)
        if (pairs->sources[p] >= 0) {
            place(incidence, pairs->sources[p], pairs->targets[p], (uint32_t)p);
            place(incidence, pairs->targets[p], pairs->sources[p], (uint32_t)p);
        }
}

void incidence_weigh(const struct incidence *incidence, const float *of_pairs) {
    int64_t entries = incidence->indptr[incidence->nodes];
#pragma omp parallel for schedule(static) if (entries >= 65536)
    for (int64_t e = 0; e < entries; e++)
        incidence->weights[e] = of_pairs[incidence->pairs[e]];
}

void incidence_done(struct incidence *incidence) {
    mem_free(incidence->indptr);
    mem_free(incidence->others);
    mem_free(incidence->pairs);
    mem_free(incidence->weights);
}
