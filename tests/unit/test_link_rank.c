/* Ranks of held-out links against plain counting: every candidate scored alone, what is known left
 * out, ties, node types, edge types, both decoders. */
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/config.h"
#include "common/mem.h"
#include "common/rng.h"
#include "common/vec.h"
#include "worker/graph/negative.h"
#include "worker/kernels/kernels.h"
#include "worker/model/decoder.h"
#include "worker/model/link_rank.h"

/* Owned nodes and, around them, sources that belong to others. */
enum { OWNED = 60, LOCAL = 75, DEGREE = 5, HELD = 40, DIM = 10, RELATIONS = 3, K = 4 };

static int64_t indptr[LOCAL + 1];
static int32_t indices[OWNED * DEGREE], edge_types[OWNED * DEGREE];
static uint8_t node_types[LOCAL];
static int32_t held[2][3][HELD];
static float y[LOCAL * DIM], w[RELATIONS * DIM];
static struct store store;

static uint64_t draw(uint64_t stream, uint64_t at, uint64_t n) {
    return rng_below(rng_at(rng_key(9, stream), at), n);
}

static void make_store(bool typed, bool related) {
    for (uint64_t i = 0; i < OWNED; i++) {
        int32_t *row = indices + i * DEGREE;
        for (uint64_t k = 0; k < DEGREE; k++) /* ascending */
            row[k] = (int32_t)(k * (LOCAL / DEGREE) + draw(1, i * DEGREE + k, LOCAL / DEGREE));
        indptr[i + 1] = (int64_t)(i + 1) * DEGREE;
        for (uint64_t k = 0; k < DEGREE; k++)
            edge_types[i * DEGREE + k] = (int32_t)draw(2, i * DEGREE + k, RELATIONS);
    }
    for (int i = OWNED; i < LOCAL; i++)
        indptr[i + 1] = indptr[OWNED];
    for (int i = 0; i < LOCAL; i++)
        node_types[i] = (uint8_t)(i % 3 == 0);
    /* Few sources, so that each has several; no link twice. */
    for (uint64_t s = 0; s < 2; s++)
        for (uint64_t i = 0; i < HELD; i++) {
            held[s][0][i] = (int32_t)(draw(3, s * HELD + i, 12) * 6);
            held[s][1][i] = (int32_t)(s * HELD + i) % OWNED;
            held[s][2][i] = (int32_t)draw(4, s * HELD + i, RELATIONS);
        }
    for (uint64_t i = 0; i < LOCAL * DIM; i++)
        y[i] = rng_float(rng_at(5, i)) - 0.5F;
    /* Some embeddings are equal, one is zero. */
    for (int i = 20; i < 30; i++)
        memcpy(y + i * DIM, y + 19 * DIM, DIM * sizeof *y);
    memset(y + 7 * DIM, 0, DIM * sizeof *y);
    for (uint64_t i = 0; i < RELATIONS * DIM; i++)
        w[i] = rng_float(rng_at(6, i)) - 0.5F;
    store = (struct store){.parts = 2,
                           .halo = 1,
                           .owned = OWNED,
                           .local = LOCAL,
                           .rows = OWNED,
                           .hop_nodes = {OWNED, LOCAL},
                           .indptr = indptr,
                           .indices = indices,
                           .node_types = typed ? 2 : 0,
                           .node_type = typed ? node_types : NULL,
                           .edge_types = related ? RELATIONS : 0,
                           .edge_type = related ? edge_types : NULL};
    for (int s = 0; s < 2; s++)
        store.links[SPLIT_VALID + s] = (struct links){.count = HELD,
                                                      .sources = held[s][0],
                                                      .targets = held[s][1],
                                                      .relations = related ? held[s][2] : NULL};
}

static bool is_known(int32_t u, int32_t v, int32_t r) {
    bool found = false;
    for (int64_t e = indptr[v]; e < indptr[v + 1]; e++)
        found |= indices[e] == u && (!store.edge_type || edge_types[e] == r);
    for (int s = 0; s < 2; s++)
        for (int i = 0; i < HELD; i++)
            found |= held[s][0][i] == u && held[s][1][i] == v &&
                     (!store.edge_type || held[s][2][i] == r);
    return found;
}

static float score_of_pair(int decoder, int32_t kept, int32_t other, int32_t r) {
    float q[DIM];
    decoder_of(decoder)->query(DIM, y + kept * DIM, w, r, q);
    return (float)vec()->dot(q, y + other * DIM, DIM);
}

/* By counting. side 1: sources are asked for. */
static void count_rivals(int decoder, int s, int i, int side, uint64_t *ret_better,
                         uint64_t *ret_equal) {
    int32_t u = held[s][0][i], v = held[s][1][i], r = store.edge_type ? held[s][2][i] : 0;
    int32_t kept = side ? v : u, answer = side ? u : v;
    float own = score_of_pair(decoder, kept, answer, r);
    *ret_better = *ret_equal = 0;
    for (int32_t c = 0; c < OWNED; c++) {
        if (c == kept || is_known(side ? c : u, side ? v : c, r) ||
            (store.node_type && node_types[c] != node_types[answer]))
            continue;
        float score = score_of_pair(decoder, kept, c, r);
        *ret_better += score > own;
        *ret_equal += score == own;
    }
}

/* The ranks of a link's target among all of its source's targets too. */
static double rank_in_query(int decoder, int s, int i) {
    uint64_t better, equal;
    int32_t u = held[s][0][i], r = store.edge_type ? held[s][2][i] : 0;
    float own = score_of_pair(decoder, u, held[s][1][i], r);
    count_rivals(decoder, s, i, 0, &better, &equal);
    for (int k = 0; k < HELD; k++) {
        bool same = k != i && held[s][0][k] == u && (!store.edge_type || held[s][2][k] == r) &&
                    (!store.node_type || node_types[held[s][1][k]] == node_types[held[s][1][i]]);
        float score = score_of_pair(decoder, u, held[s][1][k], r);
        better += same && score > own;
        equal += same && score == own;
    }
    return score_rank(better, equal);
}

static bool same_query(int s, int i, int k) {
    return held[s][0][k] == held[s][0][i] && (!store.edge_type || held[s][2][k] == held[s][2][i]) &&
           (!store.node_type || node_types[held[s][1][k]] == node_types[held[s][1][i]]);
}

static void reckon(int decoder, Graphps__Eval *eval) {
    for (int s = 0; s < 2; s++) {
        enum score_set set = s == 0 ? SCORE_VALID : SCORE_TEST;
        for (int i = 0; i < HELD; i++) {
            uint64_t better, equal;
            for (int side = 0; side < 2; side++) {
                count_rivals(decoder, s, i, side, &better, &equal);
                score_rank_add(eval, set, better, equal);
            }
            double ranks[HELD];
            size_t n = 0;
            bool first = true;
            for (int k = 0; k < HELD; k++) {
                first = first && !(k < i && same_query(s, i, k));
                if (same_query(s, i, k))
                    ranks[n++] = rank_in_query(decoder, s, k);
            }
            if (first)
                score_query_add(eval, set, n, ranks, K);
        }
    }
}

static Graphps__Eval new_eval(void) {
    Graphps__Eval eval = GRAPHPS__EVAL__INIT;
    eval.task = GRAPHPS__TASK__LINKS;
    score_links_begin(&eval);
    return eval;
}

static void check_sums(const Graphps__LinkSums *a, const Graphps__LinkSums *b) {
    ck_assert_uint_gt(a->reciprocal_ranks, 0);
    ck_assert_uint_eq(a->reciprocal_ranks, b->reciprocal_ranks);
    ck_assert_uint_eq(a->hits_at_1, b->hits_at_1);
    ck_assert_uint_eq(a->hits_at_3, b->hits_at_3);
    ck_assert_uint_eq(a->hits_at_10, b->hits_at_10);
    ck_assert_uint_eq(a->queries, b->queries);
    ck_assert_uint_eq(a->recalls, b->recalls);
    ck_assert_uint_eq(a->ndcgs, b->ndcgs);
}

static Graphps__Eval run(int decoder, uint64_t candidates, uint64_t seed) {
    struct link_rank_spec spec = {decoder, DIM, candidates, seed, K};
    struct link_rank *rank = link_rank_new(&spec, &store);
    Graphps__Eval eval = new_eval();
    link_rank_run(rank, y, w, &eval);
    link_rank_free(rank);
    return eval;
}

START_TEST(ranks_are_counted) {
    bool typed = _i & 1, related = _i & 2;
    int decoder = _i & 4 ? DECODER_DISTMULT : DECODER_DOT;
    make_store(typed, related);
    kernels_set_threads(3);
    Graphps__Eval eval = run(decoder, 0, 1), wanted = new_eval();
    reckon(decoder, &wanted);
    ck_assert_uint_eq(eval.valid_count, 2 * HELD);
    check_sums(eval.valid_links, wanted.valid_links);
    check_sums(eval.test_links, wanted.test_links);
    ck_assert_uint_gt(eval.test_links->queries, 0);
    score_sum_done(&eval);
    score_sum_done(&wanted);
}
END_TEST

/* More candidates than there are nodes are all of them; of few, no rank is beyond their number, and
 * the same seed draws the same. */
START_TEST(candidates_are_drawn) {
    make_store(_i, false);
    Graphps__Eval all = run(DECODER_DOT, 1000, 1), wanted = new_eval(), few[3];
    reckon(DECODER_DOT, &wanted);
    ck_assert_uint_eq(all.valid_links->reciprocal_ranks, wanted.valid_links->reciprocal_ranks);
    ck_assert_uint_eq(all.valid_links->queries, 0); /* these need all by themselves */
    static const uint64_t seeds[] = {1, 1, 2};
    for (int k = 0; k < 3; k++)
        few[k] = run(DECODER_DOT, 8, seeds[k]);
    check_sums(few[0].test_links, few[1].test_links);
    ck_assert_uint_ne(few[0].test_links->reciprocal_ranks, few[2].test_links->reciprocal_ranks);
    ck_assert_uint_gt(few[0].test_links->reciprocal_ranks, all.test_links->reciprocal_ranks);
    ck_assert_uint_eq(few[0].test_links->hits_at_10, 2 * HELD);
    for (int k = 0; k < 3; k++)
        score_sum_done(&few[k]);
    score_sum_done(&all);
    score_sum_done(&wanted);
}
END_TEST

/* The histogram: each link, and as many pairs that are none. Where ends of links are alike, and
 * others are not, the area is 1. */
START_TEST(pairs_are_told_apart) {
    make_store(false, false);
    memset(y, 0, sizeof y);
    /* Links as far as they are of one group: a node's number modulo 6. */
    for (int i = 0; i < LOCAL; i++)
        y[i * DIM + i % 6] = 1;
    for (int s = 0; s < 2; s++)
        for (int i = 0; i < HELD; i++)
            held[s][1][i] = held[s][1][i] / 6 * 6;
    Graphps__Eval eval = run(DECODER_DOT, 0, 1);
    size_t cells = score_histogram_cells(1);
    uint64_t sums[2] = {0}, high = 0;
    ck_assert_uint_eq(eval.n_valid_histogram, cells);
    for (size_t c = 0; c < cells; c++)
        sums[c % 2] += eval.valid_histogram[c];
    size_t one = score_bin(1, score_bin_bits(1));
    high = eval.valid_histogram[2 * one];
    ck_assert_uint_eq(sums[1], HELD);
    ck_assert_uint_eq(sums[0], HELD);
    ck_assert_uint_eq(eval.valid_histogram[2 * one + 1], HELD);
    ck_assert(high < HELD / 2); /* about a sixth of random pairs are of one group */
    ck_assert_double_eq_tol(score_roc_auc(1, eval.valid_histogram), 1 - (double)high / HELD / 2,
                            1e-9);
    score_sum_done(&eval);
}
END_TEST

/* Embeddings that are no numbers beat nobody. */
START_TEST(nan_is_last) {
    make_store(false, false);
    for (int i = 0; i < LOCAL * DIM; i++)
        y[i] = NAN;
    Graphps__Eval eval = run(DECODER_DOT, 0, 1);
    ck_assert_uint_eq(eval.valid_links->hits_at_10, 0);
    score_sum_done(&eval);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("link_rank");
    TCase *tcase = tcase_create("link_rank");
    tcase_set_timeout(tcase, 60); /* a loaded machine */
    tcase_add_loop_test(tcase, ranks_are_counted, 0, 8);
    tcase_add_loop_test(tcase, candidates_are_drawn, 0, 2);
    tcase_add_test(tcase, pairs_are_told_apart);
    tcase_add_test(tcase, nan_is_last);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
