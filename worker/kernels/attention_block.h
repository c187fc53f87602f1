/* What the AVX2 attention kernels are made of: a row's edges in blocks whose scores fit into the
 * first cache, and the loops over a block. Scores lie [edges, heads] without gaps, so that
 * exponentials use all eight lanes whatever the number of heads; values of one head are repeated
 * into a tile, as many floats as both heads and 8 divide. Only attention_avx2.c includes this. */
#pragma once

#include <string.h>

#include "worker/kernels/attention_internal.h"
#include "worker/kernels/exp_avx2.h"

#define INLINE static inline __attribute__((always_inline))

#define BLOCK_EDGES 64
#define BLOCK_SCORES 512                /* edges * heads at most */
#define BLOCK_FLOATS (BLOCK_SCORES + 8) /* loops write whole vectors */
/* Bytes of rows read twice in a block: within any processor's first cache. */
#define BLOCK_BYTES 24576
#define TILE_VECTORS 32
/* Cache lines asked for ahead of their use: rows of a graph lie anywhere, so the processor cannot
 * guess them. */
#define FETCH_LINES 64

struct shape {
    size_t heads, width, d;
    size_t full, rest;  /* width = 8 * full + rest */
    size_t tile;        /* floats */
    __m256i mask;       /* of the rest */
    size_t edges;       /* in a block */
    size_t edges_twice; /* the same when rows are read twice */
    /* Edges ahead of which rows are asked for: where each is gone through at once, and where some
     * columns are first gone through of all rows (block_add). */
    int64_t fetch, fetch_some;
    float slope;
};

static inline int64_t shape_fetch(size_t lines) {
    size_t ahead = FETCH_LINES / lines;
    return ahead < 2 ? 2 : ahead > 32 ? 32 : (int64_t)ahead;
}

static inline struct shape shape_of(const struct attention *at) {
    size_t heads = at->heads, d = heads * at->width;
    size_t common = heads & -heads;
    struct shape shape = {.heads = heads, .width = at->width, .d = d, .slope = at->slope};
    shape.full = at->width / 8;
    shape.rest = at->width % 8;
    shape.tile = heads * (8 / (common < 8 ? common : 8));
    shape.mask = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)shape.rest),
                                    _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    shape.edges = BLOCK_SCORES / heads < BLOCK_EDGES ? BLOCK_SCORES / heads : BLOCK_EDGES;
    size_t fit = BLOCK_BYTES / (d * sizeof(float));
    fit = fit < 8 ? 8 : fit;
    shape.edges_twice = fit < shape.edges ? fit : shape.edges;
    size_t lines = (d + 15) / 16;
    shape.fetch = shape_fetch(lines);
    shape.fetch_some = shape_fetch(lines < 4 ? lines : 4);
    return shape;
}

/* A walk along one row of a CSR, its own edge first. */
struct walk {
    const int32_t *indices;
    int64_t at, end, fetch_end; /* entries before fetch_end may be looked at ahead of time */
    int64_t own;                /* -1: no edge to itself, or it was taken */
};

struct block {
    size_t edges;
    size_t ahead;                   /* as many of next exist */
    const int32_t *next;            /* the rows wanted some edges later */
    int32_t index[BLOCK_EDGES + 8]; /* the last is repeated, so that whole vectors may be read */
};

INLINE bool walk_done(const struct walk *walk) {
    return walk->at == walk->end && walk->own < 0;
}

/* The next edges of the row, most at most; there is one at least. */
static inline void block_take(struct block *block, struct walk *walk, size_t most, int64_t fetch) {
    size_t count = 0;
    int64_t room = walk->fetch_end - walk->at - fetch;
    block->next = walk->indices + walk->at + (room > 0 ? fetch : 0);
    if (walk->own >= 0) {
        block->index[count++] = (int32_t)walk->own;
        walk->own = -1;
    }
    size_t left = (size_t)(walk->end - walk->at);
    size_t take = left < most - count ? left : most - count;
    for (size_t e = 0; e < take; e++)
        block->index[count + e] = walk->indices[walk->at + (int64_t)e];
    walk->at += (int64_t)take;
    count += take;
    _mm256_storeu_si256((__m256i *)(void *)(block->index + count),
                        _mm256_set1_epi32(block->index[count - 1]));
    block->edges = count;
    block->ahead = room <= 0 ? 0 : (size_t)room < count ? (size_t)room : count;
}

INLINE void fetch_lines(const float *row, size_t floats) {
    for (size_t c = 0; c < floats; c += 16)
        _mm_prefetch((const char *)(row + c), _MM_HINT_T0);
}

/* leaky for 0 <= slope <= 1; gives x for infinite x at slope 0, and NaN for NaN. */
INLINE __m256 leaky8(__m256 x, __m256 slope) {
    return _mm256_max_ps(_mm256_mul_ps(slope, x), x);
}

/* The sums of eight vectors. */
INLINE __m256 sums8(const __m256 v[8]) {
    __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    __m256 b = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

/* Values of the heads, repeated. */
static inline void tile_fill(const struct shape *shape, const float *heads, float *tile) {
    if (shape->heads == 8)
        _mm256_storeu_ps(tile, _mm256_loadu_ps(heads));
    else if (shape->heads == 4)
        _mm256_storeu_ps(tile, _mm256_broadcast_ps((const __m128 *)(const void *)heads));
    else if (shape->heads == 1)
        _mm256_storeu_ps(tile, _mm256_set1_ps(*heads));
    else
        for (size_t f = 0; f < shape->tile; f++)
            tile[f] = f < shape->heads ? heads[f] : tile[f - shape->heads];
}

/* The greatest, or the sum, of each head's values in a tile. heads [ATTENTION_HEADS_MAX]. */
INLINE void tile_fold(const struct shape *shape, bool greatest, const __m256 *tile, float *heads) {
    const float *values = (const float *)(const void *)tile;
    if (shape->heads == 8) {
        _mm256_storeu_ps(heads, tile[0]);
        return;
    }
    memcpy(heads, values, shape->heads * sizeof *heads);
    for (size_t f = shape->heads; f < shape->tile; f += shape->heads)
        for (size_t h = 0; h < shape->heads; h++) {
            float x = values[f + h];
            heads[h] = !greatest ? heads[h] + x : x > heads[h] ? x : heads[h];
        }
}

/* to [edges, heads] = rows' heads floats, rows stride apart, then eight floats of fill. */
static inline void block_gather(const struct shape *shape, const struct block *block,
                                const float *rows, size_t stride, float fill, float *to) {
    size_t heads = shape->heads, n = block->edges;
    if (heads == 8)
        for (size_t e = 0; e < n; e++)
            _mm256_storeu_ps(to + 8 * e, _mm256_loadu_ps(rows + (size_t)block->index[e] * stride));
    else if (heads == 4)
        for (size_t e = 0; e < n; e++)
            _mm_storeu_ps(to + 4 * e, _mm_loadu_ps(rows + (size_t)block->index[e] * stride));
    else if (heads == 1)
        for (size_t e = 0; e < n; e++)
            to[e] = rows[(size_t)block->index[e] * stride];
    else
        for (size_t e = 0; e < n; e++) {
            const float *row = rows + (size_t)block->index[e] * stride;
            for (size_t h = 0; h < heads; h++)
                to[e * heads + h] = row[h];
        }
    _mm256_storeu_ps(to + n * heads, _mm256_set1_ps(fill));
}

/* Part of a row: columns of heads neighbouring heads, vectors of each; constants wherever this is
 * inlined. out = out * start + sum over edges of weights * rows, then * finish; start NULL: out
 * begins at 0; finish NULL: 1. weights, start and finish begin at the first of the heads. */
INLINE void add_some(int heads, int vectors, bool masked, const struct shape *shape,
                     const struct block *block, size_t ahead, const float *weights,
                     const float *rows, size_t ld, const float *start, const float *finish,
                     float *out) {
    __m256 sum[8];
    const __m256i mask = shape->mask;
#pragma GCC unroll 8
    for (int v = 0; v < heads * vectors; v++)
        sum[v] = !start ? _mm256_setzero_ps()
                        : _mm256_mul_ps(masked ? _mm256_maskload_ps(out, mask)
                                               : _mm256_loadu_ps(out + 8 * v),
                                        _mm256_broadcast_ss(start + v / vectors));
    for (size_t e = 0; e < block->edges; e++) {
        if (e < ahead) {
            const float *far = rows + (size_t)block->next[e] * ld;
#pragma GCC unroll 4
            for (int line = 0; line < (heads * vectors + 1) / 2; line++)
                _mm_prefetch((const char *)(far + 16 * line), _MM_HINT_T0);
        }
        const float *row = rows + (size_t)block->index[e] * ld;
        const float *weight = weights + e * shape->heads;
#pragma GCC unroll 8
        for (int h = 0; h < heads; h++) {
            __m256 w = _mm256_broadcast_ss(weight + h);
#pragma GCC unroll 8
            for (int v = h * vectors; v < (h + 1) * vectors; v++)
                sum[v] = _mm256_fmadd_ps(
                    w, masked ? _mm256_maskload_ps(row, mask) : _mm256_loadu_ps(row + 8 * v),
                    sum[v]);
        }
    }
#pragma GCC unroll 8
    for (int v = 0; v < heads * vectors; v++) {
        if (finish)
            sum[v] = _mm256_mul_ps(sum[v], _mm256_broadcast_ss(finish + v / vectors));
        if (masked)
            _mm256_maskstore_ps(out, mask, sum[v]);
        else
            _mm256_storeu_ps(out + 8 * v, sum[v]);
    }
}

/* The same for whole rows: out [d], weights [edges, heads], start and finish [heads]. fetch: these
 * rows are met here first, so they are asked for ahead of time. */
static inline void block_add(const struct shape *shape, const struct block *block, bool fetch,
                             const float *weights, const float *rows, size_t ld, const float *start,
                             const float *finish, float *out) {
    size_t ahead = fetch ? block->ahead : 0;
#define ADD(n, vectors, masked)                                                                    \
    add_some(n, vectors, masked, shape, block, ahead, weights + h, rows + column, ld,              \
             start ? start + h : NULL, finish ? finish + h : NULL, out + column)
    for (size_t h = 0; h < shape->heads;) {
        size_t column = h * shape->width, left = shape->heads - h;
        if (shape->width == 8 && left >= 4) {
            if (left >= 8) {
                ADD(8, 1, false);
                h += 8;
            } else {
                ADD(4, 1, false);
                h += 4;
            }
            continue;
        }
        if (shape->width == 16 && left >= 4) {
            ADD(4, 2, false);
            h += 4;
            continue;
        }
        if (shape->width == 32 && left >= 2) {
            ADD(2, 4, false);
            h += 2;
            continue;
        }
        for (size_t done = 0; done < shape->full;) {
            size_t vectors = shape->full - done;
            switch (vectors) {
            case 1:
                ADD(1, 1, false);
                break;
            case 2:
                ADD(1, 2, false);
                break;
            case 3:
                ADD(1, 3, false);
                break;
            case 4:
                ADD(1, 4, false);
                break;
            case 5:
                ADD(1, 5, false);
                break;
            case 6:
                ADD(1, 6, false);
                break;
            case 7:
                ADD(1, 7, false);
                break;
            default:
                vectors = 8;
                ADD(1, 8, false);
            }
            done += vectors;
            column += 8 * vectors;
        }
        if (shape->rest)
            ADD(1, 1, true);
        h++;
    }
#undef ADD
}

/* The two products of a row with another, head by head: their dot product, and GATv2's a .
 * leaky(row + q). */
enum product { PRODUCT_DOT, PRODUCT_GATV2 };

INLINE __m256 product_some(enum product product, __m256 row, __m256 q, __m256 a, __m256 slope,
                           __m256 sum) {
    if (product == PRODUCT_DOT)
        return _mm256_fmadd_ps(row, q, sum);
    return _mm256_fmadd_ps(a, leaky8(_mm256_add_ps(row, q), slope), sum);
}

/* Eight products at a time, edge by edge and in it head by head. heads and full are constants where
 * that makes it faster. */
INLINE void products(enum product product, size_t heads, size_t full, bool rest,
                     const struct shape *shape, const struct block *block, size_t ahead,
                     const float *rows, size_t ld, const float *q, size_t ldq, const float *a,
                     float *out) {
    size_t total = block->edges * heads, width = 8 * full + (rest ? shape->rest : 0);
    const __m256 slope = _mm256_set1_ps(shape->slope);
    const __m256i mask = shape->mask;
    size_t e = 0, h = 0;
    for (size_t f = 0; f < total; f += 8) {
        __m256 sum[8];
        if (8 % heads == 0)
            h = 0;
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++) {
            size_t at = (size_t)block->index[e];
            const float *x = rows + at * ld + h * width, *y = q + at * ldq + h * width;
            const float *factor = a + h * width;
            if (h == 0 && e < ahead)
                fetch_lines(rows + (size_t)block->next[e] * ld, heads * width);
            sum[k] = _mm256_setzero_ps();
            for (size_t v = 0; v < full; v++)
                sum[k] =
                    product_some(product, _mm256_loadu_ps(x + 8 * v), _mm256_loadu_ps(y + 8 * v),
                                 product == PRODUCT_DOT ? sum[k] : _mm256_loadu_ps(factor + 8 * v),
                                 slope, sum[k]);
            if (rest)
                sum[k] = product_some(
                    product, _mm256_maskload_ps(x + 8 * full, mask),
                    _mm256_maskload_ps(y + 8 * full, mask),
                    product == PRODUCT_DOT ? sum[k] : _mm256_maskload_ps(factor + 8 * full, mask),
                    slope, sum[k]);
            if (++h == heads) {
                h = 0;
                e++;
            }
        }
        _mm256_storeu_ps(out + f, sums8(sum));
    }
}

INLINE void products_of(enum product product, const struct shape *shape, const struct block *block,
                        bool fetch, const float *rows, size_t ld, const float *q, size_t ldq,
                        const float *a, float *out) {
    size_t ahead = fetch ? block->ahead : 0;
#define PRODUCTS(heads, full, rest)                                                                \
    products(product, heads, full, rest, shape, block, ahead, rows, ld, q, ldq, a, out)
    if (shape->rest)
        PRODUCTS(shape->heads, shape->full, true);
    else if (shape->heads == 8 && shape->full == 1)
        PRODUCTS(8, 1, false);
    else if (shape->heads == 8)
        PRODUCTS(8, shape->full, false);
    else if (shape->heads == 4 && shape->full == 8)
        PRODUCTS(4, 8, false);
    else if (shape->heads == 4)
        PRODUCTS(4, shape->full, false);
    else if (shape->heads == 1)
        PRODUCTS(1, shape->full, false);
    else
        PRODUCTS(shape->heads, shape->full, false);
#undef PRODUCTS
}

/* out [edges, heads] = rows . q, where q is one row, or with ldq not 0 a row for each. */
static inline void block_dots(const struct shape *shape, const struct block *block, bool fetch,
                              const float *rows, size_t ld, const float *q, size_t ldq,
                              float *out) {
    products_of(PRODUCT_DOT, shape, block, fetch, rows, ld, q, ldq, q, out);
}

/* out [edges, heads] = a . leaky(rows + q) */
static inline void block_scores(const struct shape *shape, const struct block *block, bool fetch,
                                const float *rows, size_t ld, const float *q, const float *a,
                                float *out) {
    products_of(PRODUCT_GATV2, shape, block, fetch, rows, ld, q, 0, a, out);
}

/* GATv2's way back through the scores, u = row + q: out += a (slope_sum + (1 - slope) sum over
 * edges of de [u > 0]), slope_sum = slope * sum of de; and with_da, da += sum of de leaky(u).
 * slope_sum and de begin at the first of the heads. Four vectors at most. */
INLINE void gate_some(int heads, int vectors, bool masked, bool with_da, const struct shape *shape,
                      const struct block *block, const float *de, const float *rows, size_t ld,
                      const float *q, const float *a, const float *slope_sum, float *out,
                      float *da) {
    const __m256 zero = _mm256_setzero_ps(), slope = _mm256_set1_ps(shape->slope);
    const __m256i mask = shape->mask;
    __m256 with[4], open[4], moved[4];
#pragma GCC unroll 4
    for (int v = 0; v < heads * vectors; v++) {
        with[v] = masked ? _mm256_maskload_ps(q, mask) : _mm256_loadu_ps(q + 8 * v);
        open[v] = moved[v] = zero;
    }
    for (size_t e = 0; e < block->edges; e++) {
        const float *row = rows + (size_t)block->index[e] * ld;
        const float *weight = de + e * shape->heads;
#pragma GCC unroll 4
        for (int h = 0; h < heads; h++) {
            __m256 w = _mm256_broadcast_ss(weight + h);
#pragma GCC unroll 4
            for (int v = h * vectors; v < (h + 1) * vectors; v++) {
                __m256 x = masked ? _mm256_maskload_ps(row, mask) : _mm256_loadu_ps(row + 8 * v);
                __m256 u = _mm256_add_ps(x, with[v]);
                open[v] =
                    _mm256_add_ps(open[v], _mm256_and_ps(w, _mm256_cmp_ps(u, zero, _CMP_GT_OQ)));
                if (with_da)
                    moved[v] = _mm256_fmadd_ps(w, leaky8(u, slope), moved[v]);
            }
        }
    }
    const __m256 steep = _mm256_sub_ps(_mm256_set1_ps(1), slope);
#pragma GCC unroll 4
    for (int v = 0; v < heads * vectors; v++) {
        __m256 sum = _mm256_fmadd_ps(steep, open[v], _mm256_broadcast_ss(slope_sum + v / vectors));
        if (masked) {
            _mm256_maskstore_ps(
                out, mask,
                _mm256_fmadd_ps(_mm256_maskload_ps(a, mask), sum, _mm256_maskload_ps(out, mask)));
            if (with_da)
                _mm256_maskstore_ps(da, mask,
                                    _mm256_add_ps(_mm256_maskload_ps(da, mask), moved[v]));
        } else {
            _mm256_storeu_ps(out + 8 * v, _mm256_fmadd_ps(_mm256_loadu_ps(a + 8 * v), sum,
                                                          _mm256_loadu_ps(out + 8 * v)));
            if (with_da)
                _mm256_storeu_ps(da + 8 * v, _mm256_add_ps(_mm256_loadu_ps(da + 8 * v), moved[v]));
        }
    }
}

/* The same for whole rows. with_da is a constant wherever this is inlined; without it da is not
 * read. */
INLINE void block_gate(bool with_da, const struct shape *shape, const struct block *block,
                       const float *de, const float *rows, size_t ld, const float *q,
                       const float *a, const float *slope_sum, float *out, float *da) {
#define GATE(n, vectors, masked)                                                                   \
    gate_some(n, vectors, masked, with_da, shape, block, de + h, rows + column, ld, q + column,    \
              a + column, slope_sum + h, out + column, with_da ? da + column : NULL)
    for (size_t h = 0; h < shape->heads;) {
        size_t column = h * shape->width;
        if (shape->width == 8 && shape->heads - h >= 4) {
            GATE(4, 1, false);
            h += 4;
            continue;
        }
        size_t vectors = shape->full;
        for (; vectors >= 4; vectors -= 4, column += 32)
            GATE(1, 4, false);
        if (vectors >= 2) {
            GATE(1, 2, false);
            vectors -= 2;
            column += 16;
        }
        if (vectors) {
            GATE(1, 1, false);
            column += 8;
        }
        if (shape->rest)
            GATE(1, 1, true);
        h++;
    }
#undef GATE
}
