/* A seeded order of the numbers 0 .. n - 1 that takes no memory: a Feistel network over the next
 * power of four (Luby & Rackoff, "How to construct pseudorandom permutations", 1988), walked along
 * its cycle until it is back among them (Black & Rogaway, "Ciphers with arbitrary finite domains",
 * CT-RSA 2002). For orders of edges, of which there may be too many to be shuffled in an array. */
#pragma once

#include <stdint.h>

#include "common/rng.h"

struct permute {
    uint64_t key, n;
    unsigned half; /* bits of half a number */
};

static inline struct permute permute_new(uint64_t key, uint64_t n) {
    struct permute permute = {.key = key, .n = n, .half = 1};
    while (permute.half < 32 && n > 1ULL << 2 * permute.half)
        permute.half++;
    return permute;
}

/* The i-th number, i < n. */
static inline uint64_t permute_at(const struct permute *permute, uint64_t i) {
    enum { ROUNDS = 6 };
    uint64_t mask = (1ULL << permute->half) - 1;
    do {
        uint64_t left = i >> permute->half, right = i & mask;
        for (uint64_t round = 0; round < ROUNDS; round++) {
            uint64_t mixed = left ^ (rng_at(permute->key, right * ROUNDS + round) & mask);
            left = right;
            right = mixed;
        }
        i = left << permute->half | right;
    } while (i >= permute->n);
    return i;
}
