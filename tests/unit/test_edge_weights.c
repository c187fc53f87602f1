/* Edge weights in the norms of layers, against a dense matrix in double precision written from the
 * formulas of common/model_spec.h; in full batches, and as the expectation of sampled ones. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "tests/graphs.h"
#include "worker/graph/mfg.h"
#include "worker/graph/sampler.h"

enum { NODES = 60, STEPS = 3000 };

static const struct {
    const char *layer;
    int graph;
} norms[] = {
    {"gcn edge_weights=true", GRAPH_SYM_WEIGHTED},
    {"sage edge_weights=true", GRAPH_MEAN_WEIGHTED},
    {"sage_gcn edge_weights=true", GRAPH_WALK_WEIGHTED},
    {"gin edge_weights=true", GRAPH_SUM_WEIGHTED},
};

static struct store *store;
static struct snapshot *snapshot;

static void open_graph(void) {
    struct error err;
    const char *dir = graphs_weighted(test_tmpdir(), "weighted", NODES, 3, 5, 4, 3);
    ck_assert_msg(snapshot_open(dir, false, &snapshot, &err) == 0, "%s", err.text);
    store = store_from_snapshot(snapshot, false);
}

static void close_graph(void) {
    store_close(store);
    snapshot_close(snapshot);
}

/* ret [NODES, NODES]: what a layer multiplies features by. */
static void dense(int graph, double *ret) {
    static double w[NODES][NODES];
    double degree[NODES] = {0};
    memset(w, 0, sizeof w);
    for (int i = 0; i < NODES; i++)
        for (int64_t e = store->indptr[i]; e < store->indptr[i + 1]; e++) {
            w[i][store->indices[e]] += (double)store->edge_weights[e];
            degree[i] += (double)store->edge_weights[e];
        }
    for (int i = 0; i < NODES; i++)
        for (int j = 0; j < NODES; j++) {
            double own = i == j ? 1 : 0, *to = &ret[i * NODES + j];
            if (graph == GRAPH_SYM_WEIGHTED)
                *to = (w[i][j] + own) / sqrt((degree[i] + 1) * (degree[j] + 1));
            else if (graph == GRAPH_MEAN_WEIGHTED)
                *to = degree[i] > 0 ? w[i][j] / degree[i] : 0;
            else if (graph == GRAPH_WALK_WEIGHTED)
                *to = (w[i][j] + own) / (degree[i] + 1);
            else
                *to = w[i][j] + own;
        }
}

/* Adds a batch's matrix to the rows of its nodes. */
static void add_batch(const struct batch *batch, double *sum) {
    const struct layer_graph *graph = &batch->graphs[0];
    for (uint32_t i = 0; i < graph->n_dst; i++) {
        double *row = sum + batch->nodes[i] * NODES;
        if (graph->self)
            row[batch->nodes[i]] += (double)graph->self[i];
        for (int64_t e = graph->indptr[i]; e < graph->indptr[i + 1]; e++)
            row[batch->nodes[graph->indices[e]]] += (double)graph->weights[e];
    }
}

/* A full batch is the dense matrix. */
START_TEST(full_batches_are_the_formulas) {
    double wanted[NODES * NODES], got[NODES * NODES] = {0};
    dense(norms[_i].graph, wanted);
    struct full_batch *full = full_batch_new(store, &(struct hops){1, {norms[_i].graph}});
    add_batch(full_batch_get(full), got);
    for (int i = 0; i < NODES * NODES; i++)
        ck_assert_msg(fabs(got[i] - wanted[i]) <= 1e-6 * (1 + fabs(wanted[i])),
                      "%s: row %d, column %d: %.9g, not %.9g", norms[_i].layer, i / NODES,
                      i % NODES, got[i], wanted[i]);
    full_batch_free(full);
}
END_TEST

/* Sampled ones are it in the mean, however neighbours are drawn; when all are, exactly. */
static void check_sampled(int norm, int fanout, bool replace, bool weighted) {
    static double wanted[NODES * NODES], sum[NODES * NODES], squares[NODES * NODES];
    struct config *config = config_new();
    struct error err = {0};
    char set[80];
    int steps = fanout < NODES ? STEPS : 1;
    uint32_t rows = 0;
    bool seen[NODES] = {false};
    snprintf(set, sizeof set, "model.stack=%s", norms[norm].layer);
    ck_assert_msg(config_set(config, set, &err) == 0, "%s", err.text);
    config->train_mode = TRAIN_SAMPLED;
    config->train_batch_size = NODES;
    config->train_fanout = (struct int_list){.count = 1, .items = {fanout}};
    config->train_replace = replace;
    config->train_weighted = weighted;
    dense(norms[norm].graph, wanted);
    memset(sum, 0, sizeof sum);
    memset(squares, 0, sizeof squares);
    struct sampler *sampler = sampler_new(store, config, 0);
    for (int step = 0; step < steps; step++) {
        static double once[NODES * NODES];
        const struct batch *batch = sampler_next(sampler);
        memset(once, 0, sizeof once);
        add_batch(batch, once);
        rows = batch->n_output;
        for (uint32_t i = 0; i < rows; i++) {
            seen[batch->nodes[i]] = true;
            for (int j = 0; j < NODES; j++) {
                double x = once[batch->nodes[i] * NODES + j];
                sum[batch->nodes[i] * NODES + j] += x;
                squares[batch->nodes[i] * NODES + j] += x * x;
            }
        }
    }
    ck_assert_uint_ge(rows, 3);
    for (int i = 0; i < NODES * NODES; i++) {
        double mean = sum[i] / steps, variance = squares[i] / steps - mean * mean;
        double error = 5 * sqrt(fmax(variance, 0) / steps) + 1e-5 * (1 + fabs(wanted[i]));
        if (seen[i / NODES])
            ck_assert_msg(fabs(mean - wanted[i]) <= error,
                          "%s, fanout %d, replace %d, weighted %d: row %d, column %d: %.9g, not "
                          "%.9g +- %g",
                          norms[norm].layer, fanout, replace, weighted, i / NODES, i % NODES, mean,
                          wanted[i], error);
    }
    sampler_free(sampler);
    config_free(config);
}

START_TEST(sampled_batches_are_unbiased) {
    check_sampled(_i, NODES, false, false);
    check_sampled(_i, NODES, false, true);
    check_sampled(_i, 2, false, false);
    check_sampled(_i, 2, true, false);
    check_sampled(_i, 2, false, true);
    check_sampled(_i, 2, true, true);
}
END_TEST

/* What cannot be used is refused with a sentence, and only where it is wanted. */
START_TEST(weights_are_checked) {
    struct model_spec plain = {0}, weighted = {0};
    struct error err = {0};
    ck_assert_int_eq(model_spec_parse("gcn", 4, 3, &plain, &err), 0);
    ck_assert_int_eq(model_spec_parse("gcn edge_weights=true", 4, 3, &weighted, &err), 0);
    ck_assert_int_eq(mfg_check(store, &weighted, &err), 0);
    struct store other = *store;
    float weights[1000];
    ck_assert_int_le(store->indptr[NODES], 1000);
    memcpy(weights, store->edge_weights, (size_t)store->indptr[NODES] * sizeof *weights);
    weights[7] = -1;
    other.edge_weights = weights;
    ck_assert_int_eq(mfg_check(&other, &weighted, &err), ERR_CONFIG);
    uint64_t row = 0;
    char text[100];
    while (store->indptr[row + 1] <= 7)
        row++;
    snprintf(text, sizeof text, "the edge from node %lld to node %lld of weighted ",
             (long long)store->nodes[store->indices[7]], (long long)store->nodes[row]);
    ck_assert_msg(strstr(err.text, text) && strstr(err.text, " has the weight -1;"), "%s",
                  err.text);
    other.weighted_degree = NULL;
    ck_assert_int_eq(mfg_check(&other, &weighted, &err), ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(err.text, "cut it again"));
    other.edge_weights = NULL;
    ck_assert_int_eq(mfg_check(&other, &weighted, &err), ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(err.text, "snapshot weighted has none"));
    ck_assert_int_eq(mfg_check(&other, &plain, &err), 0);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("edge_weights");
    TCase *tcase = tcase_create("edge_weights");
    tcase_set_timeout(tcase, 60);
    tcase_add_unchecked_fixture(tcase, open_graph, close_graph);
    tcase_add_loop_test(tcase, full_batches_are_the_formulas, 0, 4);
    tcase_add_loop_test(tcase, sampled_batches_are_unbiased, 0, 4);
    tcase_add_test(tcase, weights_are_checked);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
