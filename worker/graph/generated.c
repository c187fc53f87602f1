/* Edges, labels and features out of the seed. Owns no memory and writes nothing. */
#include "worker/graph/generated.h"

#include <math.h>

#include "common/mem.h"
#include "common/rng.h"

enum stream {
    STREAM_EDGES = 1,
    STREAM_ROWS,
    STREAM_SPLIT,
    STREAM_NOISE,
    STREAM_CENTROIDS,
    STREAM_RANKS
};

/* The matrix's quadrants as thresholds of 16 bits: a | b | c | d. */
#define QUADRANT_A 37356u              /* 0.57 */
#define QUADRANT_AB (37356u + 12452u)  /* + 0.19 */
#define QUADRANT_ABC (49808u + 12452u) /* + 0.19 */
#define LEVELS_PER_DRAW 4              /* 64 bits */

#define WITHIN ((uint64_t)((double)GENERATED_WITHIN_PERCENT / 100 * 0x1p32) << 32)

/* Four uniform numbers of 16 bits have, added up, nearly a normal distribution, with a standard
 * deviation of 65536 / sqrt(3): what a sum less its mean is multiplied with, in 1 / 2^32, so that
 * it becomes GENERATED_FEATURE_UNIT. */
#define NORMAL_FACTOR 1135116920

static void ranks_init(struct generated *graph, uint64_t seed) {
    uint64_t key = rng_key(seed, STREAM_RANKS);
    graph->bits = 32 - (uint32_t)__builtin_clz(graph->nodes - 1);
    graph->mask = (uint32_t)((1ULL << graph->bits) - 1);
    graph->shift = (graph->bits + 1) / 2;
    for (size_t i = 0; i < ARRAY_LEN(graph->rounds); i++) {
        uint64_t bits = rng_at(key, i);
        uint32_t factor = (uint32_t)bits | 1, inverse = factor;
        /* Newton's iteration; each step doubles the number of bits that are right, from 3. */
        for (int step = 0; step < 4; step++)
            inverse *= 2 - factor * inverse;
        graph->rounds[i].factor = factor;
        graph->rounds[i].inverse = inverse;
        graph->rounds[i].term = (uint32_t)(bits >> 32);
    }
}

void generated_init(struct generated *graph, enum generated_kind kind, uint32_t nodes,
                    uint64_t edges, uint32_t features, uint32_t classes, uint64_t seed) {
    *graph = (struct generated){
        .kind = kind,
        .nodes = nodes,
        .features = features,
        .classes = classes,
        .edges = edges,
        .edge_key = rng_key(seed, STREAM_EDGES),
        .row_key = rng_key(seed, STREAM_ROWS),
        .split_key = rng_key(seed, STREAM_SPLIT),
        .noise_key = rng_key(seed, STREAM_NOISE),
        .centroid_key = rng_key(seed, STREAM_CENTROIDS),
        .even_edges = kind == GENERATED_RMAT ? edges / 2 : 0,
        .signal = llround(NORMAL_FACTOR * GENERATED_SIGNAL / sqrt(features)),
    };
    ranks_init(graph, seed);
}

/* Multiplying by an odd number, adding, and xor with the upper half are bijections on numbers of
 * `bits` bits; walking on until the number is a node's (Black and Rogaway's cycle walking, "Ciphers
 * with arbitrary finite domains", 2002) makes them one on 0 .. nodes-1. */
uint32_t generated_node(const struct generated *graph, uint32_t rank) {
    uint32_t x = rank;
    do {
        for (size_t i = 0; i < ARRAY_LEN(graph->rounds); i++) {
            x = (x * graph->rounds[i].factor + graph->rounds[i].term) & graph->mask;
            x ^= x >> graph->shift;
        }
    } while (x >= graph->nodes);
    return x;
}

uint32_t generated_rank(const struct generated *graph, uint32_t node) {
    uint32_t x = node;
    do {
        for (size_t i = ARRAY_LEN(graph->rounds); i-- > 0;) {
            x ^= x >> graph->shift; /* its own inverse: the shift is half of the bits or more */
            x = (x - graph->rounds[i].term) * graph->rounds[i].inverse & graph->mask;
        }
    } while (x >= graph->nodes);
    return x;
}

/* By how much a row's classes are turned. */
static uint32_t row_turn(const struct generated *graph, uint32_t row) {
    return (uint32_t)rng_below(rng_at(graph->row_key, row), graph->classes);
}

static uint32_t rank_class(const struct generated *graph, uint32_t rank) {
    uint32_t row = rank / graph->classes, place = rank % graph->classes;
    return (place + row_turn(graph, row)) % graph->classes;
}

/* The rank of that class in the row of another; may be beyond the last one. */
static uint32_t rank_move(const struct generated *graph, uint32_t rank, uint32_t class) {
    uint32_t row = rank / graph->classes;
    return row * graph->classes + (class + graph->classes - row_turn(graph, row)) % graph->classes;
}

/* One bit of both ends for each level of the matrix. */
static void rmat_ends(const struct generated *graph, uint64_t key, uint64_t *counter,
                      uint32_t ends[2]) {
    uint32_t u = 0, v = 0;
    for (uint32_t left = graph->bits; left > 0;) {
        uint64_t bits = rng_at(key, (*counter)++);
        for (uint32_t i = 0; i < LEVELS_PER_DRAW && left > 0; i++, left--, bits >>= 16) {
            uint32_t draw = bits & 0xffff;
            uint32_t quadrant =
                (uint32_t)(draw >= QUADRANT_A) + (draw >= QUADRANT_AB) + (draw >= QUADRANT_ABC);
            u = u << 1 | quadrant >> 1;
            v = v << 1 | (quadrant & 1);
        }
    }
    ends[0] = u;
    ends[1] = v;
}

/* The second end alone, given the first: the share of b in a + b, or of d in c + d. */
static uint32_t rmat_second(const struct generated *graph, uint64_t key, uint64_t *counter,
                            uint32_t first) {
    static const uint32_t zeros[2] = {
        (uint32_t)(65536ULL * QUADRANT_A / QUADRANT_AB),
        (uint32_t)(65536ULL * (QUADRANT_ABC - QUADRANT_AB) / (65536 - QUADRANT_AB)),
    };
    uint32_t v = 0;
    for (uint32_t left = graph->bits; left > 0;) {
        uint64_t bits = rng_at(key, (*counter)++);
        for (uint32_t i = 0; i < LEVELS_PER_DRAW && left > 0; i++, left--, bits >>= 16)
            v = v << 1 | ((bits & 0xffff) >= zeros[first >> (left - 1) & 1]);
    }
    return v;
}

void generated_edge(const struct generated *graph, uint64_t edge, uint32_t ret_ends[2]) {
    uint64_t key = rng_at(graph->edge_key, edge), counter = 0;
    uint32_t ends[2];
    do {
        bool within = rng_at(key, counter++) < WITHIN;
        if (edge < graph->even_edges) {
            ends[0] = (uint32_t)(edge % graph->nodes);
            ends[1] = rmat_second(graph, key, &counter, ends[0]);
        } else if (graph->kind == GENERATED_RMAT) {
            rmat_ends(graph, key, &counter, ends);
        } else {
            ends[0] = (uint32_t)rng_below(rng_at(key, counter++), graph->nodes);
            ends[1] = (uint32_t)rng_below(rng_at(key, counter++), graph->nodes);
        }
        if (within && ends[0] < graph->nodes && ends[1] < graph->nodes)
            ends[1] = rank_move(graph, ends[1], rank_class(graph, ends[0]));
    } while (ends[0] >= graph->nodes || ends[1] >= graph->nodes || ends[0] == ends[1]);
    for (size_t i = 0; i < 2; i++)
        ret_ends[i] = generated_node(graph, ends[i]);
}

uint32_t generated_label(const struct generated *graph, uint32_t node) {
    return rank_class(graph, generated_rank(graph, node));
}

enum split generated_split(const struct generated *graph, uint32_t node) {
    uint64_t tenth = rng_below(rng_at(graph->split_key, node), 10);
    return tenth < 6 ? SPLIT_TRAIN : tenth < 8 ? SPLIT_VALID : SPLIT_TEST;
}

static int64_t normal(uint64_t bits) {
    uint64_t sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
    return (int64_t)sum - 2 * 0xffff;
}

void generated_features(const struct generated *graph, uint32_t node, uint32_t label,
                        uint32_t first, uint32_t count, int32_t *ret) {
    uint64_t noise = rng_at(graph->noise_key, node);
    uint64_t centroid = rng_at(graph->centroid_key, label);
    for (uint32_t i = 0; i < count; i++) {
        int64_t value = normal(rng_at(noise, first + i)) * NORMAL_FACTOR +
                        normal(rng_at(centroid, first + i)) * graph->signal;
        ret[i] = (int32_t)((value + (1LL << 31)) >> 32);
    }
}
