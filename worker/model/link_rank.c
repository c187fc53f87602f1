/* Blocks of questions times all candidates: one matrix product a block, whose scores are compared
 * with the true ones'. A product may round otherwise than a single score does; so a candidate as
 * near to the true one as rounding can take it is scored again, alone, and ties are ties. */
#include "worker/model/link_rank.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "common/vec.h"
#include "worker/graph/known.h"
#include "worker/graph/negative.h"
#include "worker/graph/permute.h"
#include "worker/kernels/kernels.h"
#include "worker/model/decoder.h"
#include "worker/model/link_query.h"

#define BLOCK_FLOATS (4u << 20) /* of a block's scores; at least one question's */
#define BLOCK_QUERIES 256u
#define PAIR_TRIES 8u

enum { STREAM_CANDIDATES = 0x63616e64, STREAM_PAIRS = 0x70616972 };

/* The candidates of one node type. */
struct pool {
    size_t first, count; /* in the list of all */
    double norm;         /* of the longest embedding */
};

struct link_rank {
    struct link_rank_spec spec;
    const struct store *store;
    struct known *known;
    struct negatives *negatives;
    struct link_queries queries[SPLIT_TEST + 1][2]; /* of targets, of sources */

    size_t type_count, candidate_count;
    struct pool *pools;  /* [type_count] */
    int32_t *candidates; /* [candidate_count] by type; NULL: the owned nodes as they stand */
    int32_t *places;     /* [owned] of each in the list, -1: it is none; NULL as well */
    float *taken;        /* [candidate_count, dim] their embeddings; NULL as well */
    size_t block_queries;
    float *asked;  /* [block_queries, dim] */
    float *scores; /* [block_queries, the largest pool] */
    /* Of the answers to a block's questions, by their number less that of the first. */
    struct standing {
        uint64_t better, equal;
        double rank; /* among the query's own answers too */
    } * standings;
};

struct link_rank_spec link_rank_spec_from(const struct config *config) {
    return (struct link_rank_spec){
        .decoder = config->link_decoder,
        .dim = (uint32_t)config->link_dim,
        .candidates = (uint64_t)config->link_candidates,
        .seed = (uint64_t)config->job_seed,
        .k = (uint32_t)config->train_metric_k,
    };
}

/* --- candidates --- */

static uint8_t type_of(const struct store *store, int32_t node) {
    return store->node_type ? store->node_type[node] : 0;
}

static size_t types_of(const struct store *store) {
    return store->node_type ? store->node_types : 1;
}

static bool takes_all(const struct link_rank_spec *spec, const struct store *store) {
    return !store->node_type && (spec->candidates == 0 || spec->candidates >= store->owned);
}

/* The own nodes of a type in a seeded order, as many as are wanted. */
static void choose(struct link_rank *rank, uint8_t type, int32_t *nodes) {
    const struct store *store = rank->store;
    size_t count = 0, wanted = rank->spec.candidates;
    for (uint64_t i = 0; i < store->owned; i++)
        if (type_of(store, (int32_t)i) == type)
            nodes[count++] = (int32_t)i;
    struct pool *pool = &rank->pools[type];
    struct permute order = permute_new(
        rng_key(rng_key(rng_key(rank->spec.seed, STREAM_CANDIDATES), store->part), type), count);
    pool->first = rank->candidate_count;
    pool->count = wanted == 0 || wanted > count ? count : wanted;
    for (size_t k = 0; k < pool->count; k++) {
        int32_t node = nodes[permute_at(&order, k)];
        rank->places[node] = (int32_t)rank->candidate_count;
        rank->candidates[rank->candidate_count++] = node;
    }
}

static void make_candidates(struct link_rank *rank) {
    const struct store *store = rank->store;
    rank->type_count = types_of(store);
    rank->pools = mem_array(rank->type_count, sizeof *rank->pools);
    if (takes_all(&rank->spec, store)) {
        rank->pools[0].count = rank->candidate_count = store->owned;
        return;
    }
    rank->candidates = mem_array(store->owned, sizeof *rank->candidates);
    rank->places = mem_array(store->owned, sizeof *rank->places);
    memset(rank->places, 0xff, store->owned * sizeof *rank->places);
    _cleanup_(mem_free_p) int32_t *nodes = mem_array(store->owned, sizeof *nodes);
    for (size_t t = 0; t < rank->type_count; t++)
        choose(rank, (uint8_t)t, nodes);
    rank->taken = mem_array(rank->candidate_count * rank->spec.dim, sizeof *rank->taken);
}

static size_t block_queries_of(size_t candidates) {
    size_t count = BLOCK_FLOATS / (candidates + 1);
    return count == 0 ? 1 : count > BLOCK_QUERIES ? BLOCK_QUERIES : count;
}

static size_t candidates_most(const struct link_rank_spec *spec, const struct store *store) {
    size_t all = spec->candidates * types_of(store);
    return spec->candidates == 0 || all > store->owned ? store->owned : all;
}

size_t link_rank_bytes(const struct link_rank_spec *spec, const struct store *store) {
    size_t edges = (size_t)store->indptr[store->owned], dim = spec->dim;
    size_t links = store->links[SPLIT_VALID].count + store->links[SPLIT_TEST].count;
    size_t candidates = candidates_most(spec, store), block = block_queries_of(candidates);
    return (edges + links) * 2 * sizeof(int32_t) * (store->edge_type ? 2 : 1) +
           2 * store->local * sizeof(int64_t) + 2 * links * sizeof(struct link_query) +
           (takes_all(spec, store)
                ? 0
                : 2 * store->owned * sizeof(int32_t) + candidates * dim * sizeof(float)) +
           block * (candidates + dim) * sizeof(float);
}

struct link_rank *link_rank_new(const struct link_rank_spec *spec, const struct store *store) {
    struct link_rank *rank = mem_alloc(sizeof *rank);
    rank->spec = *spec;
    rank->store = store;
    rank->known = known_new(store);
    rank->negatives = negatives_new(store);
    size_t answers = 0;
    for (int s = SPLIT_VALID; s <= SPLIT_TEST; s++)
        for (int side = 0; side < 2; side++) {
            link_queries_init(&rank->queries[s][side], store, &store->links[s], side);
            answers = answers < store->links[s].count ? store->links[s].count : answers;
        }
    make_candidates(rank);
    size_t most = 0;
    for (size_t t = 0; t < rank->type_count; t++)
        most = most < rank->pools[t].count ? rank->pools[t].count : most;
    rank->block_queries = block_queries_of(most);
    rank->asked = mem_array(rank->block_queries * spec->dim, sizeof *rank->asked);
    rank->scores = mem_array(rank->block_queries * most, sizeof *rank->scores);
    rank->standings = mem_array(answers, sizeof *rank->standings);
    return rank;
}

struct link_rank *link_rank_free(struct link_rank *rank) {
    if (!rank)
        return NULL;
    known_free(rank->known);
    negatives_free(rank->negatives);
    for (int s = SPLIT_VALID; s <= SPLIT_TEST; s++)
        for (int side = 0; side < 2; side++)
            link_queries_done(&rank->queries[s][side]);
    mem_free(rank->pools);
    mem_free(rank->candidates);
    mem_free(rank->places);
    mem_free(rank->taken);
    mem_free(rank->asked);
    mem_free(rank->scores);
    mem_free(rank->standings);
    mem_free(rank);
    return NULL;
}

/* The candidates' embeddings, [candidate_count, dim]. */
static const float *take_candidates(struct link_rank *rank, const float *y) {
    size_t dim = rank->spec.dim;
    const float *rows = rank->candidates ? rank->taken : y;
    for (size_t k = 0; rank->candidates && k < rank->candidate_count; k++)
        memcpy(rank->taken + k * dim, y + (size_t)rank->candidates[k] * dim, dim * sizeof *y);
    for (size_t t = 0; t < rank->type_count; t++) {
        struct pool *pool = &rank->pools[t];
        double most = 0;
        for (size_t k = pool->first; k < pool->first + pool->count; k++) {
            double square = vec()->dot(rows + k * dim, rows + k * dim, dim);
            most = most < square ? square : most;
        }
        pool->norm = sqrt(most);
    }
    return rows;
}

/* --- one question --- */

/* What a question is compared with. */
struct view {
    const struct link_rank *rank;
    const struct link_queries *queries;
    const struct pool *pool;
    const float *y, *rows; /* rows: the pool's embeddings */
};

static void hide(const struct view *view, float *scores, int32_t node) {
    const struct link_rank *rank = view->rank;
    if ((uint64_t)node >= rank->store->owned)
        return;
    int64_t place = rank->places ? rank->places[node] : node;
    size_t column = (size_t)(place - (int64_t)view->pool->first);
    if (place >= 0 && place >= (int64_t)view->pool->first && column < view->pool->count)
        scores[column] = -INFINITY;
}

static void hide_known(const struct view *view, const struct link_query *query, float *scores) {
    const struct known *known = view->rank->known;
    struct known_list list = view->queries->sources ? known_sources(known, query->kept)
                                                    : known_targets(known, query->kept);
    hide(view, scores, query->kept);
    for (size_t i = 0; i < list.count; i++)
        if (!list.relations || list.relations[i] == query->relation)
            hide(view, scores, list.ends[i]);
}

/* Candidates above a score, and those equal to it. */
static struct standing compare_all(const struct view *view, const float *q, const float *scores,
                                   float score) {
    size_t n = view->pool->count, dim = view->rank->spec.dim, above = 0, near = 0;
    /* What has lost its numbers beats nobody. */
    if (!isfinite(score))
        return (struct standing){.better = n};
    double slack =
        (double)dim * (double)FLT_EPSILON * sqrt(vec()->dot(q, q, dim)) * view->pool->norm;
    float high = (float)((double)score + slack), low = (float)((double)score - slack);
    for (size_t c = 0; c < n; c++) {
        above += scores[c] > high;
        near += scores[c] >= low;
    }
    struct standing standing = {.better = above};
    for (size_t c = 0; c < n && near > above; c++) {
        if (scores[c] > high || !(scores[c] >= low))
            continue;
        near--;
        float exact = (float)vec()->dot(q, view->rows + c * dim, dim);
        standing.better += exact > score;
        standing.equal += exact == score;
    }
    return standing;
}

/* The standing of each of a question's answers; its row of scores loses what is known. */
static void judge(const struct view *view, const struct link_query *query, const float *q,
                  float *scores, struct standing *standings) {
    size_t dim = view->rank->spec.dim;
    const int32_t *answers = view->queries->answers + query->first;
    hide_known(view, query, scores);
    for (size_t a = 0; a < query->count; a++) {
        float score = (float)vec()->dot(q, view->y + (size_t)answers[a] * dim, dim);
        standings[a] = compare_all(view, q, scores, score);
        uint64_t better = standings[a].better, equal = standings[a].equal;
        for (size_t b = 0; b < query->count && !view->queries->sources; b++) {
            if (b == a)
                continue;
            float other = (float)vec()->dot(q, view->y + (size_t)answers[b] * dim, dim);
            better += other > score;
            equal += other == score;
        }
        standings[a].rank = score_rank(better, equal);
    }
}

/* --- all of a set --- */

static enum score_set set_of(int split) {
    return split == SPLIT_VALID ? SCORE_VALID : SCORE_TEST;
}

/* Questions first to first + count - 1, which want the same type. */
static void run_block(struct link_rank *rank, const struct view *view, size_t first, size_t count,
                      const float *weights) {
    size_t dim = rank->spec.dim, n = view->pool->count;
    const struct link_query *queries = view->queries->queries + first;
    const struct decoder *decoder = decoder_of(rank->spec.decoder);
    for (size_t i = 0; i < count; i++)
        decoder->query(dim, view->y + (size_t)queries[i].kept * dim, weights, queries[i].relation,
                       rank->asked + i * dim);
    if (n > 0)
        gemm(false, true, count, n, dim, 1, rank->asked, dim, view->rows, dim, 0, rank->scores, n);
#pragma omp parallel for schedule(dynamic, 1)
    for (size_t i = 0; i < count; i++)
        judge(view, &queries[i], rank->asked + i * dim, rank->scores + i * n,
              rank->standings + queries[i].first - queries[0].first);
}

static void add_block(const struct link_rank *rank, const struct link_queries *all, size_t first,
                      size_t count, enum score_set set, Graphps__Eval *eval) {
    const struct link_query *queries = all->queries + first;
    for (size_t i = 0; i < count; i++) {
        const struct standing *standings = rank->standings + queries[i].first - queries[0].first;
        for (size_t a = 0; a < queries[i].count; a++)
            score_rank_add(eval, set, standings[a].better, standings[a].equal);
        if (all->sources || rank->spec.candidates > 0)
            continue;
        _cleanup_(mem_free_p) double *ranks = mem_array(queries[i].count, sizeof *ranks);
        for (size_t a = 0; a < queries[i].count; a++)
            ranks[a] = standings[a].rank;
        score_query_add(eval, set, queries[i].count, ranks, rank->spec.k);
    }
}

static void run_queries(struct link_rank *rank, const struct link_queries *all, const float *y,
                        const float *rows, const float *weights, enum score_set set,
                        Graphps__Eval *eval) {
    for (size_t first = 0, count; first < all->count; first += count) {
        const struct pool *pool = &rank->pools[all->queries[first].wanted];
        const struct view view = {rank, all, pool, y, rows + pool->first * rank->spec.dim};
        count = 1;
        while (count < rank->block_queries && first + count < all->count &&
               all->queries[first + count].wanted == all->queries[first].wanted)
            count++;
        run_block(rank, &view, first, count, weights);
        add_block(rank, all, first, count, set, eval);
    }
}

/* --- pairs --- */

static float score_pair(const struct link_rank *rank, const float *y, const float *weights,
                        int32_t relation, int32_t source, int32_t target, float *q) {
    size_t dim = rank->spec.dim;
    decoder_of(rank->spec.decoder)->query(dim, y + (size_t)source * dim, weights, relation, q);
    return (float)vec()->dot(q, y + (size_t)target * dim, dim);
}

/* Each link, and a pair that is none. */
static void run_pairs(struct link_rank *rank, int split, const float *y, const float *weights,
                      Graphps__Eval *eval) {
    const struct links *links = &rank->store->links[split];
    struct negative_key key = {rng_key(rank->spec.seed, STREAM_PAIRS), 0, (uint64_t)split};
    for (size_t i = 0; i < links->count; i++) {
        int32_t relation = links->relations ? links->relations[i] : 0, source, target;
        int32_t u = links->sources[i], v = links->targets[i];
        float score = score_pair(rank, y, weights, relation, u, v, rank->asked);
        score_auc_add(eval, set_of(split), score, true);
        for (uint64_t t = 0; t < PAIR_TRIES; t++) {
            if (!negatives_pair(rank->negatives, key, i * PAIR_TRIES + t, u, v, &source, &target))
                break;
            if (known_link(rank->known, source, target))
                continue;
            score = score_pair(rank, y, weights, relation, source, target, rank->asked);
            score_auc_add(eval, set_of(split), score, false);
            break;
        }
    }
}

void link_rank_run(struct link_rank *rank, const float *y, const float *weights,
                   Graphps__Eval *eval) {
    const float *rows = take_candidates(rank, y);
    for (int s = SPLIT_VALID; s <= SPLIT_TEST; s++) {
        for (int side = 0; side < 2; side++)
            run_queries(rank, &rank->queries[s][side], y, rows, weights, set_of(s), eval);
        run_pairs(rank, s, y, weights, eval);
    }
}
