/* Counter-based random numbers: a value depends on (seed, stream, counter) alone, so the same
 * numbers come out whatever the order or the number of processes. The mixer is the finaliser of
 * SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014) applied
 * to a Weyl sequence keyed by seed and stream. Not for secrets. */
#pragma once

#include <stdint.h>

static inline uint64_t rng_mix(uint64_t x) {
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ULL;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

/* A key for a stream of numbers, made once, outside the loop. */
static inline uint64_t rng_key(uint64_t seed, uint64_t stream) {
    return rng_mix(rng_mix(seed + 0x9e3779b97f4a7c15ULL) ^ (stream * 0xd1342543de82ef95ULL + 1));
}

/* The counter's 64 random bits under a key. */
static inline uint64_t rng_at(uint64_t key, uint64_t counter) {
    return rng_mix(key + (counter + 1) * 0x9e3779b97f4a7c15ULL);
}

/* Uniform in [0, 1), 24 bits. */
static inline float rng_float(uint64_t bits) {
    return (float)(bits >> 40) * 0x1p-24f;
}

/* Uniform in [0, n), n >= 1, by multiplication (bias below n / 2^64). */
static inline uint64_t rng_below(uint64_t bits, uint64_t n) {
    return (uint64_t)(((unsigned __int128)bits * n) >> 64);
}

/* 64 bits from the kernel, for incarnations and default seeds. Never 0. */
uint64_t rng_entropy(void);
