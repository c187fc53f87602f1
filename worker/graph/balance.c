/* Counting and comparing. */
#include "worker/graph/balance.h"

#include <string.h>

#include "common/mem.h"

bool balance_is_train(const struct snapshot *s, uint64_t node) {
    return ((const uint8_t *)s->split.data)[node] == SPLIT_TRAIN &&
           ((const int32_t *)s->labels.data)[node] >= 0;
}

void balance_weigh(const struct balance *balance, uint64_t node, uint64_t ret[BALANCE_KINDS]) {
    const int64_t *indptr = balance->snapshot->indptr.data;
    ret[BALANCE_NODES] = 1;
    ret[BALANCE_EDGES] = (uint64_t)(indptr[node + 1] - indptr[node]);
    ret[BALANCE_TRAIN] = balance_is_train(balance->snapshot, node);
}

void balance_init(struct balance *balance, const struct snapshot *snapshot, uint32_t parts) {
    uint64_t most[BALANCE_KINDS] = {0};
    *balance = (struct balance){.snapshot = snapshot, .parts = parts};
    balance->load = mem_array(parts, sizeof *balance->load);
    for (uint64_t i = 0; i < snapshot->nodes; i++) {
        uint64_t weights[BALANCE_KINDS];
        balance_weigh(balance, i, weights);
        for (int c = 0; c < BALANCE_KINDS; c++) {
            balance->total[c] += weights[c];
            most[c] = weights[c] > most[c] ? weights[c] : most[c];
        }
    }
    for (int c = 0; c < BALANCE_KINDS; c++)
        balance->limit[c] =
            (uint64_t)((double)balance->total[c] / parts * (1 + BALANCE_SLACK)) + most[c];
}

void balance_done(struct balance *balance) {
    mem_free(balance->load);
    balance->load = NULL;
}

void balance_count(struct balance *balance, const int32_t *owner) {
    memset(balance->load, 0, balance->parts * sizeof *balance->load);
    for (uint64_t i = 0; i < balance->snapshot->nodes; i++) {
        uint64_t weights[BALANCE_KINDS];
        balance_weigh(balance, i, weights);
        balance_add(balance, (uint32_t)owner[i], weights);
    }
}

void balance_add(struct balance *balance, uint32_t part, const uint64_t weights[BALANCE_KINDS]) {
    for (int c = 0; c < BALANCE_KINDS; c++)
        balance->load[part][c] += weights[c];
}

void balance_take(struct balance *balance, uint32_t part, const uint64_t weights[BALANCE_KINDS]) {
    for (int c = 0; c < BALANCE_KINDS; c++)
        balance->load[part][c] -= weights[c];
}

bool balance_has_room(const struct balance *balance, uint32_t part,
                      const uint64_t weights[BALANCE_KINDS]) {
    for (int c = 0; c < BALANCE_KINDS; c++)
        if (weights[c] && balance->load[part][c] + weights[c] > balance->limit[c])
            return false;
    return true;
}

bool balance_is_over(const struct balance *balance, uint32_t part) {
    for (int c = 0; c < BALANCE_KINDS; c++)
        if (balance->load[part][c] > balance->limit[c])
            return true;
    return false;
}

double balance_ratio(const struct balance *balance, int kind) {
    uint64_t most = 0;
    for (uint32_t k = 0; k < balance->parts; k++)
        most = balance->load[k][kind] > most ? balance->load[k][kind] : most;
    return balance->total[kind] ? (double)most * balance->parts / (double)balance->total[kind] : 1;
}
