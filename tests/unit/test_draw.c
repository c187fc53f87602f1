/* What the sampling methods draw, counted over many draws on a graph made for it: rows without
 * neighbours, with as many as are drawn, with a few more, with very many. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "worker/graph/sampler.h"

enum { NODES = 6000, ROWS = 8, FANOUT = 3, STEPS = 10000 };
enum { SIX = 5, HEAVY, LONGEST };
/* SIX is the row of six, HEAVY the one with most of its weight in one edge, LONGEST the longest. */
static const int64_t degrees[ROWS] = {0, 1, 2, FANOUT, FANOUT + 1, 6, 70, 4000};

/* Every fifth has none; one of the row HEAVY has nearly all. */
static float weight_of(int64_t row, int64_t k) {
    return row == HEAVY ? (k == 11 ? 1e5F : 1) : (float)(k % 5);
}

/* Rows 0 .. ROWS - 1 train and have these degrees; the others have no neighbours. */
static struct store *make_store(void) {
    struct store *store = mem_alloc(sizeof *store);
    store->parts = 1;
    store->owned = store->local = store->rows = store->hop_nodes[0] = NODES;
    store->classes = 2;
    int64_t *nodes = mem_array(NODES, sizeof *nodes), *indptr = mem_array(NODES + 1, 8);
    int32_t *degree = mem_array(NODES, sizeof *degree), *indices = mem_array(NODES, 4);
    int32_t *labels = mem_array(NODES, sizeof *labels);
    float *weights = mem_array(NODES, sizeof *weights);
    uint8_t *split = mem_array(NODES, 1);
    for (int64_t i = 0; i < NODES; i++) {
        int64_t count = i < ROWS ? degrees[i] : 0;
        nodes[i] = 7 * i; /* the global number differs */
        degree[i] = (int32_t)count;
        indptr[i + 1] = indptr[i] + count;
        ck_assert_int_le(indptr[i + 1], NODES);
        for (int64_t k = 0; k < count; k++) {
            indices[indptr[i] + k] = (int32_t)(ROWS + k * ((NODES - ROWS) / count));
            weights[indptr[i] + k] = weight_of(i, k);
        }
        split[i] = i < ROWS ? SPLIT_TRAIN : SPLIT_NONE;
    }
    store->nodes = nodes;
    store->degree = degree;
    store->indptr = indptr;
    store->indices = indices;
    store->edge_weights = weights;
    store->labels = labels;
    store->split = split;
    store->train_nodes = store->train_nodes_max = store->train_nodes_total = ROWS;
    return store;
}

static void free_store(struct store *store) {
    mem_free((void *)store->nodes);
    mem_free((void *)store->degree);
    mem_free((void *)store->indptr);
    mem_free((void *)store->indices);
    mem_free((void *)store->edge_weights);
    mem_free((void *)store->labels);
    mem_free((void *)store->split);
    mem_free(store);
}

/* Is the sum of squares what chance gives it, neither too uneven nor too even? Wilson & Hilferty's
 * approximation of the chi-square distribution, within 4 standard deviations. */
static void check_chi_square(const char *what, double sum, double freedom) {
    double z = (cbrt(sum / freedom) - (1 - 2 / (9 * freedom))) / sqrt(2 / (9 * freedom));
    ck_assert_msg(fabs(z) < 4, "%s: chi-square %g with %g degrees of freedom", what, sum, freedom);
}

/* What STEPS batches of all rows have drawn. */
struct tally {
    struct store *store;
    int64_t *counts;     /* [entries] */
    double *sums;        /* [entries] of the weights that the batches gave the edge */
    double *squares;     /* [entries] of a batch's */
    int64_t triples[64]; /* of the row SIX, by the bits of the neighbours in it */
    int64_t drawn[ROWS]; /* by a batch, the same in each */
};

static void add_row(struct tally *tally, const struct batch *batch, uint32_t i) {
    const struct layer_graph *graph = &batch->graphs[0];
    const struct store *store = tally->store;
    int64_t row = batch->nodes[i] / 7, drawn = graph->indptr[i + 1] - graph->indptr[i];
    ck_assert(tally->drawn[row] == drawn || tally->drawn[row] < 0);
    tally->drawn[row] = drawn;
    unsigned triple = 0;
    double seen[8] = {0}; /* the weights of edges that were drawn twice come together */
    for (int64_t e = graph->indptr[i]; e < graph->indptr[i + 1]; e++) {
        int64_t stride = (NODES - ROWS) / degrees[row];
        int64_t at = batch->nodes[graph->indices[e]] / 7 - ROWS, k = at / stride;
        ck_assert(at % stride == 0 && k < degrees[row]);
        tally->counts[store->indptr[row] + k]++;
        tally->sums[store->indptr[row] + k] += graph->weights[e];
        triple |= 1U << k % 6;
        if (k < 8)
            seen[k] += graph->weights[e];
    }
    for (int64_t k = 0; k < 8 && k < degrees[row]; k++)
        tally->squares[store->indptr[row] + k] += seen[k] * seen[k];
    tally->triples[triple] += row == SIX;
}

static struct tally draw(bool replace, bool weighted) {
    struct tally tally = {
        .store = make_store(),
        .counts = mem_array(NODES, sizeof *tally.counts),
        .sums = mem_array(NODES, sizeof *tally.sums),
        .squares = mem_array(NODES, sizeof *tally.squares),
    };
    memset(tally.drawn, 0xff, sizeof tally.drawn);
    struct config *config = config_new();
    struct error err;
    config->train_mode = TRAIN_SAMPLED;
    config->model_kind = MODEL_SAGE; /* a mean: weights of a row add up to 1 */
    config->model_layers = 1;
    config->train_batch_size = ROWS;
    config->train_fanout = (struct int_list){.count = 1, .items = {FANOUT}};
    config->train_replace = replace;
    config->train_weighted = weighted;
    config->train_sampler_threads = 2;
    ck_assert_int_eq(sampler_check(tally.store, config, &err), 0);
    struct sampler *sampler = sampler_new(tally.store, config, 0);
    for (int step = 0; step < STEPS; step++) {
        const struct batch *batch = sampler_next(sampler);
        ck_assert_uint_eq(batch->n_output, ROWS);
        for (uint32_t i = 0; i < batch->n_output; i++)
            add_row(&tally, batch, i);
    }
    sampler_free(sampler);
    config_free(config);
    return tally;
}

static void tally_done(struct tally *tally) {
    free_store(tally->store);
    mem_free(tally->counts);
    mem_free(tally->sums);
    mem_free(tally->squares);
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Of a row's edges, each with a weight that is 0 or some positive number, the estimate of the mean
 * of those with a positive one is right on average: each edge of the first counts for one part of
 * them, within 5 standard errors. */
static void check_unbiased(const struct tally *tally, int row) {
    int64_t begin = tally->store->indptr[row], positive = 0;
    for (int64_t k = 0; k < degrees[row]; k++)
        positive += tally->store->edge_weights[begin + k] > 0;
    for (int64_t k = 0; k < smaller(degrees[row], 8); k++) {
        double mean = tally->sums[begin + k] / STEPS, square = tally->squares[begin + k] / STEPS;
        double wanted = tally->store->edge_weights[begin + k] > 0 ? 1 / (double)positive : 0;
        double error = sqrt(fmax(square - mean * mean, 0) / STEPS);
        ck_assert_msg(fabs(mean - wanted) <= 5 * error + 1e-6,
                      "edge %lld of row %d counts for %g +- %g, not %g", (long long)k, row, mean,
                      error, wanted);
    }
}

/* Without replacement a row's neighbours are in equally often, and so are, of a row of six, all 20
 * triples. */
START_TEST(without_replacement) {
    struct tally tally = draw(false, false);
    for (int row = 0; row < ROWS; row++) {
        int64_t begin = tally.store->indptr[row];
        double d = (double)degrees[row], p = FANOUT / d, sum = 0;
        ck_assert_int_eq(tally.drawn[row], smaller(degrees[row], FANOUT));
        for (int64_t e = begin; e < begin + degrees[row]; e++) {
            if (degrees[row] <= FANOUT)
                ck_assert_int_eq(tally.counts[e], STEPS);
            sum += pow((double)tally.counts[e] - STEPS * p, 2);
            double share = (double)tally.counts[e] / (double)tally.drawn[row];
            ck_assert_double_eq_tol(tally.sums[e], share, 1e-4 * share + 1e-9);
        }
        char what[40];
        snprintf(what, sizeof what, "row %d", row);
        if (degrees[row] > FANOUT)
            check_chi_square(what, sum * (d - 1) / (d * STEPS * p * (1 - p)), d - 1);
    }
    double sum = 0;
    for (unsigned t = 0; t < 64; t++) {
        ck_assert(__builtin_popcount(t) == 3 || tally.triples[t] == 0);
        if (__builtin_popcount(t) == 3)
            sum += pow((double)tally.triples[t] - STEPS / 20.0, 2) / (STEPS / 20.0);
    }
    check_chi_square("triples", sum, 19);
    tally_done(&tally);
}
END_TEST

/* With it, each draw takes each neighbour equally often, or in proportion to its weight. */
START_TEST(with_replacement) {
    struct tally tally = draw(true, _i);
    for (int row = 0; row < ROWS; row++) {
        int64_t begin = tally.store->indptr[row], positive = 0;
        double total = 0, sum = 0;
        for (int64_t k = 0; k < degrees[row]; k++) {
            positive += !_i || weight_of(row, k) > 0;
            total += _i ? (double)weight_of(row, k) : 1;
        }
        ck_assert_int_eq(tally.drawn[row], positive ? FANOUT : 0);
        for (int64_t k = 0; k < degrees[row]; k++) {
            double p = (_i ? (double)weight_of(row, k) : 1) / (total > 0 ? total : 1);
            double wanted = (double)STEPS * FANOUT * p;
            ck_assert(wanted > 0 || tally.counts[begin + k] == 0);
            if (wanted > 0)
                sum += pow((double)tally.counts[begin + k] - wanted, 2) / wanted;
        }
        char what[40];
        snprintf(what, sizeof what, "row %d", row);
        if (positive > 1)
            check_chi_square(what, sum, (double)positive - 1);
        if (_i && row != HEAVY && row != LONGEST)
            check_unbiased(&tally, row);
    }
    tally_done(&tally);
}
END_TEST

/* The probability that a draw one by one takes these three, in whatever order. */
static double triple_probability(unsigned triple) {
    double total = 0, sum = 0;
    for (int64_t k = 0; k < 6; k++)
        total += (double)weight_of(SIX, k);
    for (int a = 0; a < 6; a++)
        for (int b = 0; b < 6; b++)
            for (int c = 0; c < 6; c++)
                if (a != b && b != c && a != c && (1U << a | 1U << b | 1U << c) == triple) {
                    double wa = (double)weight_of(SIX, a), wb = (double)weight_of(SIX, b);
                    double wc = (double)weight_of(SIX, c);
                    sum += wa / total * wb / (total - wa) * wc / (total - wa - wb);
                }
    return sum;
}

/* Weighted draws one by one; the edge that has nearly all the weight is always in, and what is left
 * to the others is shared out evenly. */
START_TEST(weighted_without_replacement) {
    struct tally tally = draw(false, true);
    static const int64_t wanted[ROWS] = {0, 0, 1, 2, 3, 3, 3, 3};
    for (int row = 0; row < ROWS; row++)
        ck_assert_int_eq(tally.drawn[row], wanted[row]);
    double sum = 0, freedom = -1;
    for (unsigned t = 0; t < 64; t++) {
        double p = __builtin_popcount(t) == 3 ? triple_probability(t) : 0;
        ck_assert(p > 0 || tally.triples[t] == 0);
        if (p > 0) {
            sum += pow((double)tally.triples[t] - STEPS * p, 2) / (STEPS * p);
            freedom++;
        }
    }
    ck_assert_double_eq(freedom, 3); /* four triples of the four that have a weight */
    check_chi_square("triples", sum, freedom);
    for (int row = 0; row <= SIX; row++)
        check_unbiased(&tally, row);

    const int64_t *heavy = tally.counts + tally.store->indptr[HEAVY];
    double others = (double)degrees[HEAVY] - 1, p = (FANOUT - 1) / others;
    ck_assert_int_ge(heavy[11], STEPS - 20); /* lost with 3 * 70 / 1e5 * 1e-3 */
    sum = 0;
    for (int64_t k = 0; k < degrees[HEAVY]; k++)
        sum += k == 11 ? 0 : pow((double)heavy[k] - STEPS * p, 2);
    check_chi_square("the rest", sum * (others - 1) / (others * STEPS * p * (1 - p)), others - 1);
    tally_done(&tally);
}
END_TEST

/* A store without weights, or with one that is none, is refused with a sentence. */
START_TEST(weights_are_checked) {
    struct store *store = make_store();
    struct config *config = config_new();
    struct error err;
    float *weights = (float *)store->edge_weights;
    snprintf(store->snapshot_name, sizeof store->snapshot_name, "g@1.0.0");
    store->part = 1;
    store->parts = 2;
    config->train_weighted = true;
    weights[5] = -1;
    ck_assert_int_eq(sampler_check(store, config, &err), 0); /* full mode draws nothing */
    config->train_mode = TRAIN_SAMPLED;
    ck_assert_int_eq(sampler_check(store, config, &err), ERR_CONFIG);
    ck_assert_ptr_nonnull(
        strstr(err.text, "edge_weights.npy of g@1.0.0, part 1 of 2: entry 5 is -1"));
    weights[5] = NAN;
    ck_assert_int_eq(sampler_check(store, config, &err), ERR_CONFIG);
    store->edge_weights = NULL;
    ck_assert_int_eq(sampler_check(store, config, &err), ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(err.text, "the edges of g@1.0.0 have no weights"));
    store->edge_weights = weights;
    config_free(config);
    free_store(store);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("draw");
    TCase *tcase = tcase_create("draw");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, without_replacement);
    tcase_add_loop_test(tcase, with_replacement, 0, 2);
    tcase_add_test(tcase, weighted_without_replacement);
    tcase_add_test(tcase, weights_are_checked);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
