/* The attention kernels for processors with AVX2 and FMA. Forward goes over the edges once, by
 * destination, with the running maximum of "online softmax" (Milakov & Gimelshein, 2018) from block
 * to block. GAT's backward goes over them once, by source: what destinations get, one number a
 * head, is added up beside it in as many parts as there are threads. GATv2's goes by destination
 * and by source. Sums may be rounded differently than in attention_ref.c; draws are the same. */
#include "worker/kernels/attention_block.h"

#include <math.h>

#define WEYL 0x9e3779b97f4a7c15ULL /* rng_at's step from one counter to the next */

/* Four products modulo 2^64, of which AVX2 has only 32 x 32 -> 64 bits. */
INLINE __m256i multiply64(__m256i a, uint64_t factor) {
    __m256i low = _mm256_set1_epi64x((int64_t)(factor & 0xffffffff));
    __m256i high = _mm256_set1_epi64x((int64_t)(factor >> 32));
    __m256i cross = _mm256_add_epi64(_mm256_mul_epu32(_mm256_srli_epi64(a, 32), low),
                                     _mm256_mul_epu32(a, high));
    return _mm256_add_epi64(_mm256_mul_epu32(a, low), _mm256_slli_epi64(cross, 32));
}

/* rng_mix on four lanes. */
INLINE __m256i mix(__m256i x) {
    x = _mm256_xor_si256(x, _mm256_srli_epi64(x, 30));
    x = multiply64(x, 0xbf58476d1ce4e5b9ULL);
    x = _mm256_xor_si256(x, _mm256_srli_epi64(x, 27));
    x = multiply64(x, 0x94d049bb133111ebULL);
    return _mm256_xor_si256(x, _mm256_srli_epi64(x, 31));
}

/* Dropout's draws: what the processor needs of attention_kept. */
struct draws {
    bool any;
    size_t heads, pairs;
    __m256i below_keep;
    const int64_t *nodes;
    float scale; /* 1 / (1 - p) */
};

static struct draws draws_of(const struct attention *at) {
    struct draws draws = {.any = at->p > 0,
                          .heads = at->heads,
                          .pairs = attention_pairs(at),
                          .nodes = at->nodes,
                          .scale = 1 / (1 - at->p)};
    draws.below_keep = _mm256_set1_epi32((int32_t)share_keep_from(at->p) - 1);
    return draws;
}

/* rng_at's state for a source's first counter. */
INLINE uint64_t draws_state(const struct draws *draws, uint64_t row_key, size_t j) {
    return row_key + ((uint64_t)draws->nodes[j] * draws->pairs + 1) * WEYL;
}

/* keep [edges, heads]: all ones where kept. states: each edge's draws_state. */
static void draw(const struct draws *draws, size_t edges, const uint64_t *states, uint32_t *keep) {
    size_t pairs = draws->pairs, total = edges * pairs;
    uint64_t all[BLOCK_FLOATS];
    uint32_t wide[2 * BLOCK_FLOATS], *to = draws->heads == 2 * pairs ? keep : wide;
    for (size_t e = 0; e < edges; e++)
        for (size_t k = 0; k < pairs; k++)
            all[e * pairs + k] = states[e] + k * WEYL;
    memset(all + total, 0, 4 * sizeof *all);
    for (size_t f = 0; f < total; f += 4) {
        __m256i bits = mix(_mm256_loadu_si256((const __m256i *)(const void *)(all + f)));
        _mm256_storeu_si256((__m256i *)(void *)(to + 2 * f),
                            _mm256_cmpgt_epi32(_mm256_srli_epi32(bits, 8), draws->below_keep));
    }
    if (to == wide) {
        for (size_t e = 0; e < edges; e++)
            memcpy(keep + e * draws->heads, wide + e * 2 * pairs, draws->heads * sizeof *keep);
        memset(keep + edges * draws->heads, 0, 8 * sizeof *keep);
    }
}

/* One row's softmax, block by block. */
struct softmax {
    float max[ATTENTION_HEADS_MAX], sum[ATTENTION_HEADS_MAX];
    float factor[ATTENTION_HEADS_MAX]; /* what y so far is to be multiplied by */
};

/* score [edges, heads], followed by eight of -infinity, becomes exp(score - max). first: no block
 * came before. tile_floats is a constant where that makes it faster. */
INLINE void soften_tile(size_t tile_floats, const struct shape *shape, struct softmax *softmax,
                        bool first, size_t total, float *score) {
    __m256 tile[TILE_VECTORS];
    float max[ATTENTION_HEADS_MAX], sum[ATTENTION_HEADS_MAX];
    for (size_t t = 0; t < tile_floats; t += 8)
        tile[t / 8] = _mm256_set1_ps(-INFINITY);
    for (size_t f = 0; f < total;)
        for (size_t t = 0; t < tile_floats && f < total; t += 8, f += 8)
            tile[t / 8] = _mm256_max_ps(_mm256_loadu_ps(score + f), tile[t / 8]);
    tile_fold(shape, true, tile, max);
    if (!first) {
        for (size_t h = 0; h < ATTENTION_HEADS_MAX && h < shape->heads; h++)
            max[h] = max[h] > softmax->max[h] ? max[h] : softmax->max[h];
        for (size_t h = 0; h < shape->heads; h += 8)
            _mm256_storeu_ps(
                softmax->factor + h,
                exp8(_mm256_sub_ps(_mm256_loadu_ps(softmax->max + h), _mm256_loadu_ps(max + h))));
    }
    memcpy(softmax->max, max, sizeof max);
    tile_fill(shape, max, (float *)(void *)tile);
    __m256 sums[TILE_VECTORS];
    for (size_t t = 0; t < tile_floats; t += 8)
        sums[t / 8] = _mm256_setzero_ps();
    for (size_t f = 0; f < total;)
        for (size_t t = 0; t < tile_floats && f < total; t += 8, f += 8) {
            __m256 x = exp8(_mm256_sub_ps(_mm256_loadu_ps(score + f), tile[t / 8]));
            sums[t / 8] = _mm256_add_ps(sums[t / 8], x);
            _mm256_storeu_ps(score + f, x);
        }
    tile_fold(shape, false, sums, sum);
    for (size_t h = 0; h < shape->heads; h++)
        softmax->sum[h] = first ? sum[h] : softmax->sum[h] * softmax->factor[h] + sum[h];
}

static void soften(const struct shape *shape, struct softmax *softmax, bool first, size_t total,
                   float *score) {
    if (shape->tile == 8)
        soften_tile(8, shape, softmax, first, total, score);
    else
        soften_tile(shape->tile, shape, softmax, first, total, score);
}

/* x &= keep */
INLINE void keep_only(size_t total, const uint32_t *keep, float *x) {
    for (size_t f = 0; f < total; f += 8)
        _mm256_storeu_ps(x + f, _mm256_and_ps(_mm256_loadu_ps(x + f),
                                              _mm256_castsi256_ps(_mm256_loadu_si256(
                                                  (const __m256i *)(const void *)(keep + f)))));
}

/* What a row's softmax and its weighted sum need once the block's scores are there: y of the row,
 * in part or at last. */
INLINE void forward_block(const struct shape *shape, const struct draws *draws,
                          const struct block *block, bool first, bool last, bool fetch,
                          uint64_t row_key, float *score, struct softmax *softmax, const float *z,
                          size_t ldz, float *y) {
    size_t heads = shape->heads, total = block->edges * heads;
    float finish[ATTENTION_HEADS_MAX];
    soften(shape, softmax, first, total, score);
    if (draws->any) {
        uint64_t states[BLOCK_EDGES];
        uint32_t keep[BLOCK_FLOATS];
        for (size_t e = 0; e < block->edges; e++)
            states[e] = draws_state(draws, row_key, (size_t)block->index[e]);
        draw(draws, block->edges, states, keep);
        keep_only(total, keep, score);
    }
    if (last)
        for (size_t h = 0; h < heads; h++)
            finish[h] = draws->scale / softmax->sum[h];
    block_add(shape, block, fetch, score, z, ldz, first ? NULL : softmax->factor,
              last ? finish : NULL, y);
}

/* score [edges, heads] = leaky(s_src[j] + s_dst[i]), then -infinity. */
INLINE void gat_score(const struct shape *shape, const struct block *block, const float *s_src,
                      const float *s_dst_tile, float *score) {
    size_t total = block->edges * shape->heads;
    const __m256 slope = _mm256_set1_ps(shape->slope);
    for (size_t e = 0; e < block->ahead; e++)
        _mm_prefetch((const char *)(s_src + (size_t)block->next[e] * shape->heads), _MM_HINT_T0);
    block_gather(shape, block, s_src, shape->heads, -INFINITY, score);
    for (size_t f = 0; f < total;)
        for (size_t t = 0; t < shape->tile && f < total; t += 8, f += 8)
            _mm256_storeu_ps(score + f, leaky8(_mm256_add_ps(_mm256_loadu_ps(score + f),
                                                             _mm256_loadu_ps(s_dst_tile + t)),
                                               slope));
}

static void gat_forward(const struct attention *at, const float *z, size_t ldz, const float *s_src,
                        const float *s_dst, float *y, size_t ldy, float *max, float *sum) {
    size_t n = at->n_dst;
    if (n == 0)
        return;
    const struct shape shape = shape_of(at);
    const struct draws draws = draws_of(at);
    size_t heads = shape.heads;
    int chunks = share_chunks(n, ((size_t)at->indptr[n] + n) * shape.d);
#pragma omp parallel for schedule(dynamic, 1) if (chunks > 1)
    for (int c = 0; c < chunks; c++) {
        size_t end = share_row(n, at->indptr, c + 1, chunks);
        for (size_t i = share_row(n, at->indptr, c, chunks); i < end; i++) {
            struct walk walk = {at->indices, at->indptr[i], at->indptr[i + 1], at->indptr[end],
                                (int64_t)(at->first + i)};
            struct block block;
            struct softmax softmax;
            float tile[8 * TILE_VECTORS], score[BLOCK_FLOATS];
            uint64_t row_key = draws.any ? attention_row_key(at, i) : 0;
            tile_fill(&shape, s_dst + i * heads, tile);
            for (bool first = true, last = false; !last; first = false) {
                block_take(&block, &walk, shape.edges, shape.fetch_some);
                last = walk_done(&walk);
                gat_score(&shape, &block, s_src, tile, score);
                forward_block(&shape, &draws, &block, first, last, true, row_key, score, &softmax,
                              z, ldz, y + i * ldy);
            }
            memcpy(max + i * heads, softmax.max, heads * sizeof *max);
            memcpy(sum + i * heads, softmax.sum, heads * sizeof *sum);
        }
    }
}

static void gatv2_forward(const struct attention *at, const float *zl, size_t ldzl, const float *zr,
                          size_t ldzr, const float *a, float *y, size_t ldy, float *max,
                          float *sum) {
    size_t n = at->n_dst;
    if (n == 0)
        return;
    const struct shape shape = shape_of(at);
    const struct draws draws = draws_of(at);
    size_t heads = shape.heads;
    int chunks = share_chunks(n, ((size_t)at->indptr[n] + n) * shape.d);
#pragma omp parallel for schedule(dynamic, 1) if (chunks > 1)
    for (int c = 0; c < chunks; c++) {
        size_t end = share_row(n, at->indptr, c + 1, chunks);
        for (size_t i = share_row(n, at->indptr, c, chunks); i < end; i++) {
            struct walk walk = {at->indices, at->indptr[i], at->indptr[i + 1], at->indptr[end],
                                (int64_t)(at->first + i)};
            struct block block;
            struct softmax softmax;
            float score[BLOCK_FLOATS];
            uint64_t row_key = draws.any ? attention_row_key(at, i) : 0;
            for (bool first = true, last = false; !last; first = false) {
                block_take(&block, &walk, shape.edges_twice, shape.fetch);
                last = walk_done(&walk);
                block_scores(&shape, &block, true, zl, ldzl, zr + i * ldzr, a, score);
                _mm256_storeu_ps(score + block.edges * heads, _mm256_set1_ps(-INFINITY));
                forward_block(&shape, &draws, &block, first, last, false, row_key, score, &softmax,
                              zl, ldzl, y + i * ldy);
            }
            memcpy(max + i * heads, softmax.max, heads * sizeof *max);
            memcpy(sum + i * heads, softmax.sum, heads * sizeof *sum);
        }
    }
}

/* Rows from..from + count - 1 as a block. */
INLINE void block_range(struct block *block, size_t from, size_t count) {
    for (size_t e = 0; e < count; e++)
        block->index[e] = (int32_t)(from + e);
    _mm256_storeu_si256((__m256i *)(void *)(block->index + count),
                        _mm256_set1_epi32((int32_t)(from + count - 1)));
    block->edges = count;
    block->ahead = 0;
    block->next = NULL;
}

static void gat_scores(const struct attention *at, const float *z, size_t ldz, const float *a_src,
                       const float *a_dst, float *s_src, float *s_dst) {
    const struct shape shape = shape_of(at);
    size_t heads = shape.heads, step = shape.edges_twice;
#pragma omp parallel for schedule(static) if (at->n_src * shape.d >= SHARE_WORK_MIN)
    for (size_t j = 0; j < at->n_src; j += step) {
        struct block block;
        float score[BLOCK_FLOATS];
        size_t left = at->n_src - j, own = j < at->n_dst ? at->n_dst - j : 0;
        block_range(&block, j, left < step ? left : step);
        block_dots(&shape, &block, false, z, ldz, a_src, 0, score);
        memcpy(s_src + j * heads, score, block.edges * heads * sizeof *s_src);
        if (own == 0)
            continue;
        block_dots(&shape, &block, false, z, ldz, a_dst, 0, score);
        own = own < block.edges ? own : block.edges;
        memcpy(s_dst + j * heads, score, own * heads * sizeof *s_dst);
    }
}

/* What backward reads of each destination at once: node [n_dst, fields, heads], the last three max,
 * 1 / sum and D, before them s_dst unless NULL; and the keys of the draws. */
static void gather_nodes(const struct attention *at, const struct shape *shape, const float *s_dst,
                         const float *max, const float *sum, const float *y, size_t ldy,
                         const float *dy, size_t lddy, struct attention_scratch *scratch) {
    size_t heads = shape->heads, fields = s_dst ? 4 : 3, step = shape->edges_twice;
#pragma omp parallel for schedule(static) if (at->n_dst * shape->d >= SHARE_WORK_MIN)
    for (size_t from = 0; from < at->n_dst; from += step) {
        struct block block;
        float dots[BLOCK_FLOATS];
        size_t left = at->n_dst - from;
        block_range(&block, from, left < step ? left : step);
        block_dots(shape, &block, false, y, ldy, dy, lddy, dots);
        for (size_t e = 0; e < block.edges; e++) {
            size_t i = from + e;
            float *node = scratch->node + i * fields * heads;
            if (s_dst) {
                memcpy(node, s_dst + i * heads, heads * sizeof *node);
                node += heads;
            }
            for (size_t h = 0; h < heads; h++) {
                node[h] = max[i * heads + h];
                node[heads + h] = 1 / sum[i * heads + h];
                node[2 * heads + h] = dots[e * heads + h];
            }
            if (at->p > 0)
                scratch->keys[i] = attention_row_key(at, i);
        }
    }
}

/* A block's edges on their way back. Of each edge and head: the score (GAT: s_src + s_dst, before
 * leaky), dy . z, whether dropout kept it; and of its destination max, 1 / sum and D, for each
 * edge, or as a tile when all edges have the same. */
struct back {
    float score[BLOCK_FLOATS], dots[BLOCK_FLOATS];
    uint32_t keep[BLOCK_FLOATS];
    float max[BLOCK_FLOATS], inverse[BLOCK_FLOATS], product[BLOCK_FLOATS];
};

/* dots becomes what y_i took of z_j, score de (GAT: ds, the gradient of s_src + s_dst), whose sums
 * by head are added to sums. Constants where this is inlined: tile_floats if that is faster, gat,
 * tiled. */
INLINE void back_tile(size_t tile_floats, bool gat, bool tiled, const struct shape *shape,
                      const struct draws *draws, size_t total, struct back *back, float *sums) {
    const __m256 slope = _mm256_set1_ps(shape->slope), scale = _mm256_set1_ps(draws->scale);
    const __m256 zero = _mm256_setzero_ps(), one = _mm256_set1_ps(1);
    __m256 tile[TILE_VECTORS];
    float sum[ATTENTION_HEADS_MAX];
    _mm256_storeu_ps(back->score + total, zero);
    _mm256_storeu_ps(back->dots + total, zero);
    for (size_t t = 0; t < tile_floats; t += 8)
        tile[t / 8] = zero;
    for (size_t f = 0; f < total;)
        for (size_t t = 0; t < tile_floats && f < total; t += 8, f += 8) {
            size_t of = tiled ? t : f;
            __m256 x = _mm256_loadu_ps(back->score + f);
            __m256 e = gat ? leaky8(x, slope) : x;
            __m256 alpha = _mm256_mul_ps(exp8(_mm256_sub_ps(e, _mm256_loadu_ps(back->max + of))),
                                         _mm256_loadu_ps(back->inverse + of));
            __m256 dalpha = _mm256_loadu_ps(back->dots + f), weight = alpha;
            if (draws->any) {
                __m256 kept = _mm256_and_ps(
                    scale, _mm256_loadu_ps((const float *)(const void *)(back->keep + f)));
                dalpha = _mm256_mul_ps(dalpha, kept);
                weight = _mm256_mul_ps(weight, kept);
            }
            __m256 de =
                _mm256_mul_ps(alpha, _mm256_sub_ps(dalpha, _mm256_loadu_ps(back->product + of)));
            if (gat)
                de = _mm256_mul_ps(
                    de, _mm256_blendv_ps(slope, one, _mm256_cmp_ps(x, zero, _CMP_GT_OQ)));
            if (f + 8 > total) /* of what lies past the end nothing may be added up */
                de = _mm256_and_ps(de, _mm256_castsi256_ps(_mm256_cmpgt_epi32(
                                           _mm256_set1_epi32((int)(total - f)),
                                           _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))));
            _mm256_storeu_ps(back->dots + f, weight);
            _mm256_storeu_ps(back->score + f, de);
            tile[t / 8] = _mm256_add_ps(tile[t / 8], de);
        }
    tile_fold(shape, false, tile, sum);
    for (size_t h = 0; h < shape->heads; h++)
        sums[h] += sum[h];
}

INLINE void back_edges(bool gat, bool tiled, const struct shape *shape, const struct draws *draws,
                       size_t total, struct back *back, float *sums) {
    if (shape->tile == 8)
        back_tile(8, gat, tiled, shape, draws, total, back, sums);
    else
        back_tile(shape->tile, gat, tiled, shape, draws, total, back, sums);
}

/* The draws of a block of source j's edges. */
INLINE void draw_back(const struct draws *draws, const struct block *block, const uint64_t *keys,
                      size_t j, struct back *back) {
    if (!draws->any)
        return;
    uint64_t states[BLOCK_EDGES], counter = draws_state(draws, 0, j);
    for (size_t e = 0; e < block->edges; e++)
        states[e] = keys[block->index[e]] + counter;
    draw(draws, block->edges, states, back->keep);
}

INLINE void fetch_nodes(const struct block *block, const float *node, size_t stride) {
    for (size_t e = 0; e < block->ahead; e++)
        fetch_lines(node + (size_t)block->next[e] * stride, stride);
}

/* ds_dst[i] += ds for all edges of the block. */
INLINE void scatter(const struct shape *shape, const struct block *block, const float *ds,
                    float *ds_dst) {
    size_t heads = shape->heads;
    for (size_t e = 0; e < block->edges; e++) {
        float *to = ds_dst + (size_t)block->index[e] * heads;
        size_t h = 0;
        for (; h + 8 <= heads; h += 8)
            _mm256_storeu_ps(to + h, _mm256_add_ps(_mm256_loadu_ps(to + h),
                                                   _mm256_loadu_ps(ds + e * heads + h)));
        for (; h + 4 <= heads; h += 4)
            _mm_storeu_ps(to + h,
                          _mm_add_ps(_mm_loadu_ps(to + h), _mm_loadu_ps(ds + e * heads + h)));
        for (; h < heads; h++)
            to[h] += ds[e * heads + h];
    }
}

#define EIGHT_ONES 1, 1, 1, 1, 1, 1, 1, 1
/* block_add's start when its sums go on from the block before. */
static const float ones[ATTENTION_HEADS_MAX] = {EIGHT_ONES, EIGHT_ONES, EIGHT_ONES, EIGHT_ONES};

/* Source j: dz through y, ds_src; ds_dst of its destinations, added. */
static void gat_back_row(const struct attention *at, const struct shape *shape,
                         const struct draws *draws, const struct attention_scratch *scratch,
                         size_t j, int64_t fetch_end, const float *z, size_t ldz,
                         const float *s_src, const float *dy, size_t lddy, float *ds_dst,
                         float *dz) {
    size_t heads = shape->heads, stride = 4 * heads;
    struct walk walk = {at->t_indices, at->t_indptr[j], at->t_indptr[j + 1], fetch_end,
                        j < at->n_dst ? (int64_t)j : -1};
    struct block block;
    struct back back;
    float tile[8 * TILE_VECTORS], sums[ATTENTION_HEADS_MAX] = {0};
    if (walk_done(&walk))
        memset(dz, 0, shape->d * sizeof *dz);
    tile_fill(shape, s_src + j * heads, tile);
    for (const float *start = NULL; !walk_done(&walk); start = ones) {
        block_take(&block, &walk, shape->edges_twice, shape->fetch);
        size_t total = block.edges * heads;
        fetch_nodes(&block, scratch->node, stride);
        for (size_t e = 0; e < block.ahead; e++)
            _mm_prefetch((const char *)(ds_dst + (size_t)block.next[e] * heads), _MM_HINT_T0);
        block_dots(shape, &block, true, dy, lddy, z + j * ldz, 0, back.dots);
        block_gather(shape, &block, scratch->node, stride, 0, back.score);
        block_gather(shape, &block, scratch->node + heads, stride, 0, back.max);
        block_gather(shape, &block, scratch->node + 2 * heads, stride, 0, back.inverse);
        block_gather(shape, &block, scratch->node + 3 * heads, stride, 0, back.product);
        draw_back(draws, &block, scratch->keys, j, &back);
        for (size_t f = 0; f < total;)
            for (size_t t = 0; t < shape->tile && f < total; t += 8, f += 8)
                _mm256_storeu_ps(back.score + f, _mm256_add_ps(_mm256_loadu_ps(back.score + f),
                                                               _mm256_loadu_ps(tile + t)));
        back_edges(true, false, shape, draws, total, &back, sums);
        scatter(shape, &block, back.score, ds_dst);
        block_add(shape, &block, false, back.dots, dy, lddy, start, NULL, dz);
    }
    memcpy(scratch->ds_src + j * heads, sums, heads * sizeof *sums);
}

/* Eight columns, or the rest of them, of one node in gat_back_scores. */
INLINE void gat_back_vector(bool masked, __m256i mask, size_t c, __m256 src, __m256 dst,
                            const float *a_src, const float *a_dst, const float *z, float *dz,
                            float *da_src, float *da_dst) {
#define LOAD(x) (masked ? _mm256_maskload_ps((x) + c, mask) : _mm256_loadu_ps((x) + c))
#define STORE(x, y) (masked ? _mm256_maskstore_ps((x) + c, mask, y) : _mm256_storeu_ps((x) + c, y))
    __m256 row = LOAD(z), out = _mm256_fmadd_ps(LOAD(a_src), src, LOAD(dz));
    out = _mm256_fmadd_ps(LOAD(a_dst), dst, out);
    STORE(dz, out);
    STORE(da_src, _mm256_fmadd_ps(row, src, LOAD(da_src)));
    STORE(da_dst, _mm256_fmadd_ps(row, dst, LOAD(da_dst)));
#undef LOAD
#undef STORE
}

/* Sources begin..end - 1: what comes to dz through the scores; da_src and da_dst [d] of them. */
static void gat_back_scores(const struct attention *at, const struct shape *shape,
                            const struct attention_scratch *scratch, size_t begin, size_t end,
                            const float *z, size_t ldz, const float *a_src, const float *a_dst,
                            float *dz, size_t lddz, float *da_src, float *da_dst) {
    size_t heads = shape->heads, width = shape->width;
    memset(da_src, 0, shape->d * sizeof *da_src);
    memset(da_dst, 0, shape->d * sizeof *da_dst);
    for (size_t j = begin; j < end; j++) {
        float ds_dst[ATTENTION_HEADS_MAX] = {0};
        for (size_t part = 0; j < at->n_dst && part < at->parts; part++) {
            const float *from = scratch->ds_dst + (part * at->n_dst + j) * heads;
            for (size_t h = 0; h < heads; h++)
                ds_dst[h] += from[h];
        }
        for (size_t h = 0; h < heads; h++) {
            __m256 src = _mm256_broadcast_ss(scratch->ds_src + j * heads + h);
            __m256 dst = _mm256_broadcast_ss(ds_dst + h);
            size_t c = h * width;
            for (size_t v = 0; v < shape->full; v++, c += 8)
                gat_back_vector(false, shape->mask, c, src, dst, a_src, a_dst, z + j * ldz,
                                dz + j * lddz, da_src, da_dst);
            if (shape->rest)
                gat_back_vector(true, shape->mask, c, src, dst, a_src, a_dst, z + j * ldz,
                                dz + j * lddz, da_src, da_dst);
        }
    }
}

static void gat_backward(const struct attention *at, const float *z, size_t ldz, const float *a_src,
                         const float *a_dst, const float *s_src, const float *s_dst,
                         const float *max, const float *sum, const float *y, size_t ldy,
                         const float *dy, size_t lddy, float *scratch, float *dz, size_t lddz,
                         float *da_src, float *da_dst) {
    const struct shape shape = shape_of(at);
    const struct draws draws = draws_of(at);
    size_t d = shape.d, n = at->n_src, own = at->n_dst * shape.heads;
    struct attention_scratch place;
    attention_scratch_place(at, true, scratch, &place);
    gather_nodes(at, &shape, s_dst, max, sum, y, ldy, dy, lddy, &place);
#pragma omp parallel for schedule(static, 1) if (attention_parallel(at))
    for (size_t part = 0; part < at->parts; part++) {
        float *ds_dst = place.ds_dst + part * own;
        memset(ds_dst, 0, own * sizeof *ds_dst);
        size_t end = share_row(n, at->t_indptr, (int)part + 1, (int)at->parts);
        for (size_t j = share_row(n, at->t_indptr, (int)part, (int)at->parts); j < end; j++)
            gat_back_row(at, &shape, &draws, &place, j, at->t_indptr[end], z, ldz, s_src, dy, lddy,
                         ds_dst, dz + j * lddz);
    }
#pragma omp parallel for schedule(static) if (attention_parallel(at))
    for (size_t part = 0; part < ATTENTION_SUMS; part++)
        gat_back_scores(at, &shape, &place, attention_sum_begin(n, part),
                        attention_sum_begin(n, part + 1), z, ldz, a_src, a_dst, dz, lddz,
                        place.da + 2 * part * d, place.da + (2 * part + 1) * d);
    attention_sums_add(place.da, 2 * d, d, da_src);
    attention_sums_add(place.da + d, 2 * d, d, da_dst);
}

/* Destination i: dzr, and da added. */
static void gatv2_back_dst(const struct attention *at, const struct shape *shape,
                           const struct draws *draws, const struct attention_scratch *scratch,
                           size_t i, int64_t fetch_end, const float *zl, size_t ldzl,
                           const float *zr, const float *a, const float *dy, float *dzr,
                           float *da) {
    size_t heads = shape->heads;
    const float *node = scratch->node + i * 3 * heads;
    struct walk walk = {at->indices, at->indptr[i], at->indptr[i + 1], fetch_end, (int64_t)i};
    struct block block;
    struct back back;
    memset(dzr, 0, shape->d * sizeof *dzr);
    tile_fill(shape, node, back.max);
    tile_fill(shape, node + heads, back.inverse);
    tile_fill(shape, node + 2 * heads, back.product);
    while (!walk_done(&walk)) {
        float sums[ATTENTION_HEADS_MAX] = {0};
        block_take(&block, &walk, shape->edges_twice, shape->fetch);
        block_scores(shape, &block, true, zl, ldzl, zr, a, back.score);
        block_dots(shape, &block, false, zl, ldzl, dy, 0, back.dots);
        if (draws->any) {
            uint64_t states[BLOCK_EDGES];
            for (size_t e = 0; e < block.edges; e++)
                states[e] = draws_state(draws, scratch->keys[i], (size_t)block.index[e]);
            draw(draws, block.edges, states, back.keep);
        }
        back_edges(false, true, shape, draws, block.edges * heads, &back, sums);
        for (size_t h = 0; h < heads; h++)
            sums[h] *= shape->slope;
        block_gate(true, shape, &block, back.score, zl, ldzl, zr, a, sums, dzr, da);
    }
}

/* Source j: dzl. */
static void gatv2_back_src(const struct attention *at, const struct shape *shape,
                           const struct draws *draws, const struct attention_scratch *scratch,
                           size_t j, int64_t fetch_end, const float *zl, const float *zr,
                           size_t ldzr, const float *a, const float *dy, size_t lddy, float *dzl) {
    size_t heads = shape->heads, stride = 3 * heads;
    struct walk walk = {at->t_indices, at->t_indptr[j], at->t_indptr[j + 1], fetch_end,
                        j < at->n_dst ? (int64_t)j : -1};
    struct block block;
    struct back back;
    if (walk_done(&walk))
        memset(dzl, 0, shape->d * sizeof *dzl);
    for (const float *start = NULL; !walk_done(&walk); start = ones) {
        float sums[ATTENTION_HEADS_MAX] = {0};
        block_take(&block, &walk, shape->edges_twice, shape->fetch);
        fetch_nodes(&block, scratch->node, stride);
        block_scores(shape, &block, true, zr, ldzr, zl, a, back.score);
        block_dots(shape, &block, true, dy, lddy, zl, 0, back.dots);
        block_gather(shape, &block, scratch->node, stride, 0, back.max);
        block_gather(shape, &block, scratch->node + heads, stride, 0, back.inverse);
        block_gather(shape, &block, scratch->node + 2 * heads, stride, 0, back.product);
        draw_back(draws, &block, scratch->keys, j, &back);
        back_edges(false, false, shape, draws, block.edges * heads, &back, sums);
        for (size_t h = 0; h < heads; h++)
            sums[h] *= shape->slope;
        block_add(shape, &block, false, back.dots, dy, lddy, start, NULL, dzl);
        block_gate(false, shape, &block, back.score, zr, ldzr, zl, a, sums, dzl, NULL);
    }
}

static void gatv2_backward(const struct attention *at, const float *zl, size_t ldzl,
                           const float *zr, size_t ldzr, const float *a, const float *max,
                           const float *sum, const float *y, size_t ldy, const float *dy,
                           size_t lddy, float *scratch, float *dzl, size_t lddzl, float *dzr,
                           size_t lddzr, float *da) {
    const struct shape shape = shape_of(at);
    const struct draws draws = draws_of(at);
    size_t d = shape.d;
    struct attention_scratch place;
    attention_scratch_place(at, false, scratch, &place);
    gather_nodes(at, &shape, NULL, max, sum, y, ldy, dy, lddy, &place);
#pragma omp parallel for schedule(dynamic, 1) if (attention_parallel(at))
    for (int c = 0; c < ATTENTION_SUMS; c++) {
        float *sums = place.da + (size_t)c * d;
        memset(sums, 0, d * sizeof *sums);
        size_t end = share_row(at->n_dst, at->indptr, c + 1, ATTENTION_SUMS);
        for (size_t i = share_row(at->n_dst, at->indptr, c, ATTENTION_SUMS); i < end; i++)
            gatv2_back_dst(at, &shape, &draws, &place, i, at->indptr[end], zl, ldzl, zr + i * ldzr,
                           a, dy + i * lddy, dzr + i * lddzr, sums);
    }
    int chunks = share_chunks(at->n_src, (size_t)at->indptr[at->n_dst] * d);
#pragma omp parallel for schedule(dynamic, 1) if (chunks > 1)
    for (int c = 0; c < chunks; c++) {
        size_t end = share_row(at->n_src, at->t_indptr, c + 1, chunks);
        for (size_t j = share_row(at->n_src, at->t_indptr, c, chunks); j < end; j++)
            gatv2_back_src(at, &shape, &draws, &place, j, at->t_indptr[end], zl + j * ldzl, zr,
                           ldzr, a, dy, lddy, dzl + j * lddzl);
    }
    attention_sums_add(place.da, d, d, da);
}

const struct attention_kernels attention_avx2_table = {
    .name = "avx2",
    .gat_scores = gat_scores,
    .gat_forward = gat_forward,
    .gat_backward = gat_backward,
    .gatv2_forward = gatv2_forward,
    .gatv2_backward = gatv2_backward,
};
