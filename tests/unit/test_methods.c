/* The ways to choose what a batch computes on: what all of them promise, and what each estimates.
 */
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "tests/graphs.h"
#include "worker/graph/partition.h"
#include "worker/graph/sampler.h"

enum { NODES = 240, CLASSES = 4, DIM = 6 };
static const char *graph_dir;

/* Runs once, before the tests' processes are forked. */
static void make_graph(void) {
    graph_dir = graphs_snapshot(test_tmpdir(), "community", NODES, CLASSES, 10, DIM, 5);
}

static struct store *open_store(uint32_t parts, uint32_t part) {
    struct snapshot *snapshot;
    struct store *store;
    struct error err;
    bool existed;
    ck_assert_msg(snapshot_open(graph_dir, false, &snapshot, &err) == 0, "%s", err.text);
    ck_assert_msg(partition_make(snapshot, parts, 2, 1, &existed, &err) == 0, "%s", err.text);
    snapshot_close(snapshot);
    ck_assert_msg(store_open(graph_dir, parts, 2, part, false, false, &store, &err) == 0, "%s",
                  err.text);
    return store;
}

static struct config *make_config(int method, int kind, int64_t layers) {
    struct config *config = config_new();
    config->train_mode = TRAIN_SAMPLED;
    config->train_sampler = method;
    config->model_kind = kind;
    config->model_hops = layers;
    config->model_layers = layers;
    config->model_hidden = 4; /* all transposes are used */
    config->train_batch_size = 7;
    config->train_fanout = (struct int_list){.count = 3, .items = {3, 3, 3}};
    config->train_layer_nodes = 20;
    config->train_clusters = 9;
    config->train_clusters_per_batch = 2;
    return config;
}

static uint64_t local_of(const struct store *store, int64_t node) {
    uint64_t local = 0;
    while (local < store->local && store->nodes[local] != node)
        local++;
    ck_assert_uint_lt(local, store->local);
    return local;
}

static bool is_edge(const struct store *store, uint64_t to, int64_t from) {
    bool found = false;
    for (int64_t e = store->indptr[to]; to < store->rows && e < store->indptr[to + 1]; e++)
        found |= store->indices[e] == from;
    return found;
}

static void check_transpose(const struct layer_graph *graph) {
    int64_t found = 0;
    for (uint32_t i = 0; i < graph->n_dst; i++)
        for (int64_t e = graph->indptr[i]; e < graph->indptr[i + 1]; e++) {
            int32_t j = graph->indices[e];
            for (int64_t t = graph->t_indptr[j]; t < graph->t_indptr[j + 1]; t++)
                found +=
                    graph->t_indices[t] == (int32_t)i && graph->t_weights[t] == graph->weights[e];
        }
    ck_assert_int_eq(found, graph->indptr[graph->n_dst]);
    ck_assert_int_eq(graph->t_indptr[graph->n_src], graph->indptr[graph->n_dst]);
}

/* Layers fit together; edges are edges of the graph, with finite weights; no node comes twice;
 * outputs are our training nodes. */
static void check_batch(const struct store *store, const struct batch *batch) {
    ck_assert_uint_eq(batch->train_count, batch->n_output);
    if (batch->hops > 0)
        ck_assert_uint_eq(batch->graphs[0].n_src, batch->n_input);
    ck_assert_uint_eq(batch->hops > 0 ? batch->graphs[batch->hops - 1].n_dst : batch->n_input,
                      batch->n_output);
    for (size_t l = 0; l < batch->hops; l++) {
        const struct layer_graph *graph = &batch->graphs[l];
        bool right = l == 0 || batch->graphs[l - 1].n_dst == graph->n_src;
        for (uint32_t i = 0; i < graph->n_dst; i++)
            for (int64_t e = graph->indptr[i]; e < graph->indptr[i + 1]; e++) {
                uint64_t to = local_of(store, batch->nodes[i]);
                ck_assert((uint32_t)graph->indices[e] < graph->n_src);
                int64_t from = (int64_t)local_of(store, batch->nodes[graph->indices[e]]);
                right = right && is_edge(store, to, from) && isfinite(graph->weights[e]) &&
                        graph->weights[e] > 0;
            }
        ck_assert_msg(right, "layer %zu", l);
        if (l > 0 || graph->t_indptr) /* gin and sgc have no use for the first */
            check_transpose(graph);
    }
    size_t twice = 0;
    for (uint32_t i = 0; i < batch->n_input; i++)
        for (uint32_t k = 0; k < i; k++)
            twice += batch->nodes[i] == batch->nodes[k];
    ck_assert_uint_eq(twice, 0);
    for (uint32_t i = 0; i < batch->n_output; i++) {
        uint64_t local = local_of(store, batch->nodes[i]);
        ck_assert_uint_lt(local, store->owned);
        ck_assert_int_eq(batch->split[i], SPLIT_TRAIN);
        ck_assert_int_eq(batch->labels[i], store->labels[local]);
    }
}

static void check_same(const struct batch *a, const struct batch *b) {
    ck_assert_uint_eq(a->n_input, b->n_input);
    ck_assert_uint_eq(a->n_output, b->n_output);
    ck_assert_mem_eq(a->nodes, b->nodes, a->n_input * sizeof *a->nodes);
    ck_assert_mem_eq(a->features, b->features, a->n_input * DIM * sizeof(float));
    for (size_t l = 0; l < a->hops; l++) {
        const struct layer_graph *x = &a->graphs[l], *y = &b->graphs[l];
        size_t edges = (size_t)x->indptr[x->n_dst];
        ck_assert_mem_eq(x->indptr, y->indptr, (x->n_dst + 1) * sizeof *x->indptr);
        ck_assert_mem_eq(x->indices, y->indices, edges * sizeof *x->indices);
        ck_assert_mem_eq(x->weights, y->weights, edges * sizeof *x->weights);
    }
    if (a->loss_weights)
        ck_assert_mem_eq(a->loss_weights, b->loss_weights, a->n_output * sizeof(float));
}

/* All methods, models and depths, on one of two parts: batches are right, the same for any number
 * of threads and for a sampler that starts late, and take no memory after the first ones. */
START_TEST(what_all_promise) {
    struct store *store = open_store(2, 1);
    for (int kind = MODEL_GCN; kind < MODEL_KINDS; kind++)
        for (int64_t layers = 1; layers <= 3; layers++) {
            struct config *config = make_config(_i, kind, layers);
            struct sampler *samplers[3];
            for (int64_t threads = 1; threads <= 3; threads++) {
                config->train_sampler_threads = threads;
                samplers[threads - 1] = sampler_new(store, config, threads == 3 ? 4 : 0);
            }
            for (uint64_t step = 0; step < 30; step++) {
                const struct batch *one = sampler_next(samplers[0]);
                ck_assert_uint_eq(one->step, step);
                if (step % 5 == 0)
                    check_batch(store, one);
                check_same(one, sampler_next(samplers[1]));
                if (step >= 4)
                    check_same(one, sampler_next(samplers[2]));
            }
            /* A thread may get its first batch late; but not for ever. */
            uint64_t before, tries = 0;
            do {
                ck_assert_uint_lt(tries++, 20);
                before = mem_allocations();
                for (int step = 0; step < 60; step++)
                    for (int i = 0; i < 3; i++)
                        sampler_next(samplers[i]);
            } while (mem_allocations() != before);
            for (int i = 0; i < 3; i++)
                sampler_free(samplers[i]);
            config_free(config);
        }
    store_close(store);
}
END_TEST

/* y = A x through all layers of a batch; x is a number by global node. Into y [n_output]. */
static void propagate(const struct batch *batch, double *x, double *y) {
    for (uint32_t j = 0; j < batch->n_input; j++)
        x[j] = 0.5 + (double)rng_float(rng_at(7, (uint64_t)batch->nodes[j]));
    for (size_t l = 0; l < batch->hops; l++) {
        const struct layer_graph *graph = &batch->graphs[l];
        for (uint32_t i = 0; i < graph->n_dst; i++) {
            y[i] = graph->self ? (double)graph->self[i] * x[i] : 0;
            for (int64_t e = graph->indptr[i]; e < graph->indptr[i + 1]; e++)
                y[i] += (double)graph->weights[e] * x[graph->indices[e]];
        }
        memcpy(x, y, graph->n_dst * sizeof *x);
    }
}

/* On average, the propagation through sampled layers is that of full mode; within 5 standard errors
 * for each training node (and, where probabilities were estimated by sampling too, 3 %). */
static void check_unbiased(int method, int kind, int64_t layers, double tolerance) {
    enum { STEPS = 4000 };
    struct store *store = open_store(1, 0);
    struct config *config = make_config(method, kind, layers);
    config->train_walk_coverage = 3000;
    double *x = mem_array(NODES, sizeof *x), *y = mem_array(NODES, sizeof *y);
    double *sum = mem_array(NODES, sizeof *sum), *square = mem_array(NODES, sizeof *square);
    double *count = mem_array(NODES, sizeof *count);
    struct sampler *sampler = sampler_new(store, config, 0);
    for (int step = 0; step < STEPS; step++) {
        const struct batch *batch = sampler_next(sampler);
        propagate(batch, x, y);
        for (uint32_t i = 0; i < batch->n_output; i++) {
            uint64_t local = local_of(store, batch->nodes[i]);
            sum[local] += y[i];
            square[local] += y[i] * y[i];
            count[local]++;
        }
    }
    struct model_spec spec;
    model_spec_from(config, store->feature_dim, store->classes, &spec);
    struct full_batch *full = full_batch_new(store, &spec.hops);
    propagate(full_batch_get(full), x, y);
    double errors = 0, wanted = 0;
    for (uint64_t i = 0; i < NODES; i++) {
        if (store->split[i] != SPLIT_TRAIN)
            continue;
        double mean = sum[i] / count[i], variance = square[i] / count[i] - mean * mean;
        double error = sqrt(fmax(variance, 0) / count[i]);
        ck_assert_msg(fabs(mean - y[i]) <= 5 * error + tolerance * y[i] + 1e-6,
                      "method %d, kind %d: node %d is %g +- %g, not %g", method, kind, (int)i, mean,
                      error, y[i]);
        errors += error;
        wanted += y[i];
    }
    ck_assert(errors > 0 && errors < 0.05 * wanted); /* it is sampled, and often enough to tell */
    full_batch_free(full);
    sampler_free(sampler);
    config_free(config);
    store_close(store);
    mem_free(x);
    mem_free(y);
    mem_free(sum);
    mem_free(square);
    mem_free(count);
}

START_TEST(estimates_are_unbiased) {
    static const int kinds[] = {MODEL_GCN, MODEL_SAGE, MODEL_SAGE_GCN, MODEL_GIN};
    check_unbiased(SAMPLER_NEIGHBOR, kinds[_i], 2, 0);
    check_unbiased(SAMPLER_LAYER, kinds[_i], 2, 0);
    /* The same subgraph serves all layers, so it is one of them that is unbiased (section 3.2). */
    check_unbiased(SAMPLER_SAINT, kinds[_i], 1, 0.03);
}
END_TEST

/* A layer takes about as many nodes as it is told, and all when there are fewer: then nothing is
 * left to chance. */
START_TEST(layers_have_their_size) {
    struct store *store = open_store(1, 0);
    struct config *config = make_config(SAMPLER_LAYER, MODEL_GCN, 2);
    double added = 0;
    struct sampler *sampler = sampler_new(store, config, 0);
    for (int step = 0; step < 400; step++) {
        const struct batch *batch = sampler_next(sampler);
        added += batch->graphs[1].n_src - batch->n_output;
    }
    ck_assert_double_eq_tol(added / 400, 20, 1); /* sqrt(20 / 400) is its standard error */
    sampler_free(sampler);

    config->train_layer_nodes = NODES;
    sampler = sampler_new(store, config, 0);
    struct full_batch *full = full_batch_new(store, &(struct hops){2, {GRAPH_SYM, GRAPH_SYM}});
    double x[NODES], all[NODES], y[NODES];
    propagate(full_batch_get(full), x, all);
    const struct batch *batch = sampler_next(sampler);
    propagate(batch, x, y);
    for (uint32_t i = 0; i < batch->n_output; i++)
        ck_assert_double_eq_tol(y[i], all[local_of(store, batch->nodes[i])], 1e-5 * y[i]);
    full_batch_free(full);
    sampler_free(sampler);
    config_free(config);
    store_close(store);
}
END_TEST

/* Each training node's loss counts for the same on average, however often walks meet it. */
START_TEST(walks_weigh_losses) {
    enum { STEPS = 6000 };
    struct store *store = open_store(1, 0);
    struct config *config = make_config(SAMPLER_SAINT, MODEL_SAGE, 2);
    config->train_batch_size = 3;
    config->train_walk_length = 8;
    config->train_walk_coverage = 3000;
    double sum[NODES] = {0}, met[NODES] = {0}, least = STEPS, most = 0;
    struct sampler *sampler = sampler_new(store, config, 0);
    for (int step = 0; step < STEPS; step++) {
        const struct batch *batch = sampler_next(sampler);
        for (uint32_t i = 0; i < batch->n_output; i++) {
            uint64_t local = local_of(store, batch->nodes[i]);
            sum[local] += (double)batch->loss_weights[i] / batch->train_count;
            met[local]++;
        }
    }
    for (uint64_t i = 0; i < NODES; i++) {
        if (store->split[i] != SPLIT_TRAIN)
            continue;
        double wanted = STEPS / (double)store->train_nodes;
        ck_assert_msg(fabs(sum[i] / wanted - 1) < 0.1, "node %d: %g, not %g", (int)i, sum[i],
                      wanted);
        least = fmin(least, met[i]);
        most = fmax(most, met[i]);
    }
    ck_assert_double_gt(most, 1.4 * least); /* or there were nothing to weigh */
    sampler_free(sampler);
    config_free(config);
    store_close(store);
}
END_TEST

/* An epoch has every owned node once; a batch has all edges among its nodes; and clusters keep more
 * of them than chance. */
START_TEST(clusters_cover_the_part) {
    static const int64_t clusters[] = {4, 100, 1}; /* by METIS, by a walk, whole */
    struct store *store = open_store(2, 0);
    for (size_t k = 0; k < ARRAY_LEN(clusters); k++) {
        struct config *config = make_config(SAMPLER_CLUSTER, MODEL_GCN, 2);
        config->train_clusters = clusters[k];
        config->train_clusters_per_batch = 1;
        uint64_t steps = sampler_steps_per_epoch(store, config), edges = 0, all = 0, outputs = 0;
        ck_assert_uint_eq(steps, (uint64_t)clusters[k]);
        int seen[NODES] = {0};
        struct sampler *sampler = sampler_new(store, config, 0);
        for (uint64_t s = 0; s < steps; s++) {
            const struct batch *batch = sampler_next(sampler);
            const struct layer_graph *graph = &batch->graphs[0];
            for (uint32_t i = 0; i < batch->n_input; i++) {
                uint64_t to = local_of(store, batch->nodes[i]);
                int64_t inside = 0;
                seen[to]++;
                for (uint32_t j = 0; j < batch->n_input; j++)
                    inside += is_edge(store, to, (int64_t)local_of(store, batch->nodes[j]));
                ck_assert_int_eq(graph->indptr[i + 1] - graph->indptr[i], inside);
                for (int64_t e = store->indptr[to]; e < store->indptr[to + 1]; e++)
                    all += (uint64_t)store->indices[e] < store->owned;
            }
            edges += (uint64_t)graph->indptr[graph->n_dst];
            outputs += batch->n_output;
        }
        for (uint64_t i = 0; i < store->local; i++)
            ck_assert_int_eq(seen[i], i < store->owned);
        ck_assert_uint_eq(outputs, store->train_nodes);
        ck_assert_double_gt((double)edges / (double)all, 1.5 / (double)clusters[k] - 0.6);
        ck_assert(clusters[k] != 4 || (double)edges / (double)all > 0.4); /* chance: 0.25 */
        sampler_free(sampler);
        config_free(config);
    }
    store_close(store);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("methods");
    TCase *tcase = tcase_create("methods");
    tcase_set_timeout(tcase, 100);
    tcase_add_unchecked_fixture(tcase, make_graph, NULL);
    tcase_add_loop_test(tcase, what_all_promise, SAMPLER_NEIGHBOR, SAMPLER_SAINT + 1);
    tcase_add_loop_test(tcase, estimates_are_unbiased, 0, 4);
    tcase_add_test(tcase, layers_have_their_size);
    tcase_add_test(tcase, walks_weigh_losses);
    tcase_add_test(tcase, clusters_cover_the_part);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
