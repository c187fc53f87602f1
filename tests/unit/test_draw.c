/* What the sampling methods draw, counted over many draws on a graph made for it: rows without
 * neighbours, with as many as are drawn, with a few more, with very many. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "worker/graph/sampler.h"

enum { NODES = 6000, ROWS = 8, FANOUT = 3 };
static const int64_t degrees[ROWS] = {0, 1, 2, FANOUT, FANOUT + 1, 6, 70, 4000};

/* Rows 0 .. ROWS - 1 train and have these degrees; the others have no neighbours. */
static struct store *make_store(void) {
    struct store *store = mem_alloc(sizeof *store);
    store->parts = 1;
    store->owned = store->local = store->rows = store->hop_nodes[0] = NODES;
    store->classes = 2;
    int64_t *nodes = mem_array(NODES, sizeof *nodes), *indptr = mem_array(NODES + 1, 8);
    int32_t *degree = mem_array(NODES, sizeof *degree), *indices = mem_array(NODES, 4);
    int32_t *labels = mem_array(NODES, sizeof *labels);
    uint8_t *split = mem_array(NODES, 1);
    for (int64_t i = 0; i < NODES; i++) {
        int64_t count = i < ROWS ? degrees[i] : 0;
        nodes[i] = 7 * i; /* the global number differs */
        degree[i] = (int32_t)count;
        indptr[i + 1] = indptr[i] + count;
        ck_assert_int_le(indptr[i + 1], NODES);
        for (int64_t k = 0; k < count; k++)
            indices[indptr[i] + k] = (int32_t)(ROWS + k * ((NODES - ROWS) / count));
        split[i] = i < ROWS ? SPLIT_TRAIN : SPLIT_NONE;
    }
    store->nodes = nodes;
    store->degree = degree;
    store->indptr = indptr;
    store->indices = indices;
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
    mem_free((void *)store->labels);
    mem_free((void *)store->split);
    mem_free(store);
}

static struct config *make_config(int kind) {
    struct config *config = config_new();
    config->model_kind = kind;
    config->model_layers = 1;
    config->train_batch_size = ROWS;
    config->train_fanout = (struct int_list){.count = 1, .items = {FANOUT}};
    return config;
}

/* Is the sum of squares what chance gives it, neither too uneven nor too even? Wilson & Hilferty's
 * approximation of the chi-square distribution, within 4 standard deviations. */
static void check_chi_square(const char *what, double sum, double freedom) {
    double z = (cbrt(sum / freedom) - (1 - 2 / (9 * freedom))) / sqrt(2 / (9 * freedom));
    ck_assert_msg(fabs(z) < 4, "%s: chi-square %g with %g degrees of freedom", what, sum, freedom);
}

/* Without replacement a row's neighbours are in equally often, and so are, of a row of six, all 20
 * triples. */
START_TEST(neighbours_are_drawn_evenly) {
    enum { STEPS = 20000 };
    struct store *store = make_store();
    struct config *config = make_config(MODEL_SAGE);
    config->train_sampler_threads = 2;
    struct sampler *sampler = sampler_new(store, config, 0);
    int64_t *counts = mem_array(NODES, sizeof *counts), triples[64] = {0};
    for (int step = 0; step < STEPS; step++) {
        const struct batch *batch = sampler_next(sampler);
        const struct layer_graph *graph = &batch->graphs[0];
        for (uint32_t i = 0; i < graph->n_dst; i++) {
            int64_t row = batch->nodes[i] / 7, drawn = graph->indptr[i + 1] - graph->indptr[i];
            unsigned triple = 0;
            ck_assert_int_eq(drawn, degrees[row] < FANOUT ? degrees[row] : FANOUT);
            for (int64_t e = graph->indptr[i]; e < graph->indptr[i + 1]; e++) {
                int64_t stride = (NODES - ROWS) / degrees[row];
                int64_t at = batch->nodes[graph->indices[e]] / 7 - ROWS, k = at / stride;
                ck_assert(at % stride == 0 && k < degrees[row]);
                counts[store->indptr[row] + k]++;
                triple |= 1U << k % 6;
                ck_assert_float_eq_tol(graph->weights[e], 1 / (float)drawn, 1e-6F);
            }
            triples[triple % 64] += degrees[row] == 6;
        }
    }
    for (int row = 0; row < ROWS; row++) {
        double d = (double)degrees[row], p = FANOUT / d, sum = 0;
        for (int64_t e = store->indptr[row]; e < store->indptr[row + 1]; e++) {
            if (degrees[row] <= FANOUT)
                ck_assert_int_eq(counts[e], STEPS);
            sum += (counts[e] - STEPS * p) * (counts[e] - STEPS * p);
        }
        char what[40];
        snprintf(what, sizeof what, "row of %lld", (long long)degrees[row]);
        if (degrees[row] > FANOUT)
            check_chi_square(what, sum * (d - 1) / (d * STEPS * p * (1 - p)), d - 1);
    }
    double sum = 0;
    for (unsigned t = 0; t < 64; t++)
        if (__builtin_popcount(t) == 3)
            sum += pow(triples[t] - STEPS / 20.0, 2) / (STEPS / 20.0);
    check_chi_square("triples", sum, 19);
    mem_free(counts);
    sampler_free(sampler);
    config_free(config);
    free_store(store);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("draw");
    TCase *tcase = tcase_create("draw");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, neighbours_are_drawn_evenly);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
