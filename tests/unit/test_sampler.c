/* Full and sampled batches against the store they were made from. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "tests/graphs.h"
#include "worker/graph/sampler.h"
#include "worker/model/model.h"

static const char *graph_dir;

/* Runs once, before the tests' processes are forked. */
static void make_graph(void) {
    graph_dir = graphs_snapshot(test_tmpdir(), "community", 300, 4, 14, 12, 5);
}

static struct store *open_store(uint32_t parts, uint32_t halo, uint32_t part) {
    struct snapshot *snapshot;
    struct store *store;
    struct error err;
    bool existed;
    ck_assert_msg(snapshot_open(graph_dir, false, &snapshot, &err) == 0, "%s", err.text);
    ck_assert_msg(partition_make(snapshot, parts, halo, 1, &existed, &err) == 0, "%s", err.text);
    snapshot_close(snapshot);
    ck_assert_msg(store_open(graph_dir, parts, halo, part, false, false, &store, &err) == 0, "%s",
                  err.text);
    return store;
}

static struct config *make_config(int kind, int64_t batch_size, int64_t inner, int64_t outer) {
    struct config *config = config_new();
    config->model_kind = kind;
    config->model_hops = 2;
    config->model_layers = 2;
    config->model_hidden = 8; /* narrower than the features: the first layer's transpose is used */
    config->train_batch_size = batch_size;
    config->train_fanout = (struct int_list){.count = 2, .items = {outer, inner}};
    return config;
}

static int64_t local_of(const struct store *store, int64_t node) {
    for (uint64_t i = 0; i < store->local; i++)
        if (store->nodes[i] == node)
            return (int64_t)i;
    ck_abort_msg("node %lld is not in the store", (long long)node);
}

static int64_t row_length(const struct store *store, int64_t local) {
    return (uint64_t)local < store->rows ? store->indptr[local + 1] - store->indptr[local] : 0;
}

/* Every entry of a row is in the transpose, with its weight, and nothing else is. */
static void check_transpose(const struct layer_graph *graph) {
    int64_t found = 0;
    ck_assert_ptr_nonnull(graph->t_indptr);
    for (uint32_t i = 0; i < graph->n_dst; i++)
        for (int64_t e = graph->indptr[i]; e < graph->indptr[i + 1]; e++) {
            int32_t j = graph->indices[e];
            ck_assert(j >= 0 && (uint32_t)j < graph->n_src);
            for (int64_t t = graph->t_indptr[j]; t < graph->t_indptr[j + 1]; t++)
                found +=
                    graph->t_indices[t] == (int32_t)i && graph->t_weights[t] == graph->weights[e];
        }
    ck_assert_int_eq(found, graph->indptr[graph->n_dst]);
    ck_assert_int_eq(graph->t_indptr[0], 0);
    ck_assert_int_eq(graph->t_indptr[graph->n_src], graph->indptr[graph->n_dst]);
}

/* One layer's edges are edges of the graph, none twice, as many as asked for or there are, with the
 * weights of batch.h. */
static void check_layer(const struct store *store, const struct batch *batch, size_t l, int kind,
                        int64_t fanout) {
    const struct layer_graph *graph = &batch->graphs[l];
    for (uint32_t i = 0; i < graph->n_dst; i++) {
        int64_t dst = local_of(store, batch->nodes[i]), degree = row_length(store, dst);
        int64_t count = graph->indptr[i + 1] - graph->indptr[i];
        double d = store->degree[dst];
        ck_assert_int_eq(count, degree < fanout ? degree : fanout);
        if (kind == MODEL_GCN)
            ck_assert_float_eq_tol(graph->self[i], (float)(1 / (d + 1)), 1e-6F);
        else
            ck_assert_ptr_null(graph->self);
        for (int64_t e = graph->indptr[i]; e < graph->indptr[i + 1]; e++) {
            int64_t src = local_of(store, batch->nodes[graph->indices[e]]);
            int64_t in_row = 0;
            for (int64_t k = store->indptr[dst]; k < store->indptr[dst + 1]; k++)
                in_row += store->indices[k] == src;
            ck_assert_int_eq(in_row, 1);
            for (int64_t other = graph->indptr[i]; other < e; other++)
                ck_assert_int_ne(graph->indices[other], graph->indices[e]);
            double gcn = d / (double)count / sqrt((d + 1) * (store->degree[src] + 1.0));
            double wanted = kind == MODEL_GCN ? gcn : 1 / (double)count;
            ck_assert_msg(fabs(graph->weights[e] - wanted) < 1e-6, "weight %g, not %g",
                          (double)graph->weights[e], wanted);
        }
    }
    check_transpose(graph);
}

static void check_batch(const struct store *store, const struct batch *batch, int kind,
                        int64_t inner, int64_t outer) {
    ck_assert_uint_eq(batch->hops, 2);
    ck_assert_uint_eq(batch->n_input, batch->graphs[0].n_src);
    ck_assert_uint_eq(batch->graphs[0].n_dst, batch->graphs[1].n_src);
    ck_assert_uint_eq(batch->graphs[1].n_dst, batch->n_output);
    check_layer(store, batch, 0, kind, inner);
    check_layer(store, batch, 1, kind, outer);
    size_t dim = store->feature_dim;
    for (uint32_t i = 0; i < batch->n_input; i++) {
        int64_t local = local_of(store, batch->nodes[i]);
        ck_assert_mem_eq(batch->features + i * dim, store->features + (size_t)local * dim,
                         dim * sizeof(float));
        for (uint32_t k = 0; k < i; k++)
            ck_assert_int_ne(batch->nodes[i], batch->nodes[k]);
    }
    for (uint32_t i = 0; i < batch->n_output; i++) {
        int64_t local = local_of(store, batch->nodes[i]);
        ck_assert((uint64_t)local < store->owned);
        ck_assert_int_eq(batch->labels[i], store->labels[local]);
        ck_assert_int_eq(batch->split[i], SPLIT_TRAIN);
    }
    ck_assert_uint_eq(batch->train_count, batch->n_output);
}

/* What is sampled is there; an epoch visits every training node, and none more than once but on the
 * worker that has fewer of them; the order changes from epoch to epoch. */
START_TEST(epochs_cover_the_training_nodes) {
    int kind = _i;
    uint64_t train_max = 0;
    for (uint32_t part = 0; part < 2; part++) {
        struct store *store = open_store(2, 2, part);
        struct config *config = make_config(kind, 7, 3, 4);
        uint64_t steps = sampler_steps_per_epoch(store, config);
        ck_assert_uint_eq(steps, (store->train_nodes_max + 6) / 7);
        struct sampler *sampler = sampler_new(store, config, 0);
        int64_t first_node[2];
        for (uint64_t epoch = 0; epoch < 2; epoch++) {
            int *visits = mem_array(store->owned, sizeof *visits);
            uint64_t total = 0;
            for (uint64_t s = 0; s < steps; s++) {
                const struct batch *batch = sampler_next(sampler);
                ck_assert_uint_eq(batch->step, epoch * steps + s);
                ck_assert_uint_eq(batch->version, 0);
                check_batch(store, batch, kind, 3, 4);
                if (s == 0)
                    first_node[epoch] = batch->nodes[0] * 10000 + batch->nodes[1];
                for (uint32_t i = 0; i < batch->n_output; i++)
                    visits[local_of(store, batch->nodes[i])]++;
                total += batch->n_output;
            }
            ck_assert_uint_eq(total, store->train_nodes_max);
            for (uint64_t i = 0; i < store->owned; i++) {
                bool trains = store->split[i] == SPLIT_TRAIN && store->labels[i] >= 0;
                ck_assert(trains ? visits[i] >= 1 : visits[i] == 0);
                ck_assert(visits[i] <= 1 || store->train_nodes < store->train_nodes_max);
            }
            mem_free(visits);
        }
        ck_assert_int_ne(first_node[0], first_node[1]);
        train_max = store->train_nodes > train_max ? store->train_nodes : train_max;
        sampler_free(sampler);
        ck_assert_uint_ge(store->train_nodes_max, train_max);
        store_close(store);
        config_free(config);
    }
}
END_TEST

static void check_same(const struct batch *a, const struct batch *b) {
    ck_assert_uint_eq(a->step, b->step);
    ck_assert_uint_eq(a->n_input, b->n_input);
    ck_assert_uint_eq(a->n_output, b->n_output);
    ck_assert_uint_eq(a->train_count, b->train_count);
    ck_assert_mem_eq(a->nodes, b->nodes, a->n_input * sizeof *a->nodes);
    ck_assert_mem_eq(a->labels, b->labels, a->n_output * sizeof *a->labels);
    ck_assert_mem_eq(a->split, b->split, a->n_output);
    for (size_t l = 0; l < a->hops; l++) {
        const struct layer_graph *x = &a->graphs[l], *y = &b->graphs[l];
        size_t edges = (size_t)x->indptr[x->n_dst];
        ck_assert_uint_eq(x->n_dst, y->n_dst);
        ck_assert_uint_eq(x->n_src, y->n_src);
        ck_assert_mem_eq(x->indptr, y->indptr, (x->n_dst + 1) * sizeof *x->indptr);
        ck_assert_mem_eq(x->indices, y->indices, edges * sizeof *x->indices);
        ck_assert_mem_eq(x->weights, y->weights, edges * sizeof *x->weights);
        ck_assert(!x->self == !y->self && !x->t_indptr == !y->t_indptr);
        if (x->self)
            ck_assert_mem_eq(x->self, y->self, x->n_dst * sizeof *x->self);
        if (x->t_indptr) {
            ck_assert_mem_eq(x->t_indptr, y->t_indptr, (x->n_src + 1) * sizeof *x->t_indptr);
            ck_assert_mem_eq(x->t_indices, y->t_indices, edges * sizeof *x->t_indices);
            ck_assert_mem_eq(x->t_weights, y->t_weights, edges * sizeof *x->t_weights);
        }
    }
}

/* The same seed gives the same batches; a sampler that starts at a later step, as a restarted
 * worker's does, goes on with the very batches; another seed gives others. */
START_TEST(batches_depend_on_seed_and_step) {
    struct store *store = open_store(2, 2, 0);
    struct config *config = make_config(MODEL_GCN, 7, 3, 4);
    struct config *other = make_config(MODEL_GCN, 7, 3, 4);
    other->job_seed = 2;
    struct sampler *a = sampler_new(store, config, 0), *b = sampler_new(store, config, 0);
    struct sampler *late = sampler_new(store, config, 5), *c = sampler_new(store, other, 0);
    size_t different = 0;
    for (int step = 0; step < 12; step++) {
        const struct batch *batch = sampler_next(a), *stranger = sampler_next(c);
        check_same(batch, sampler_next(b));
        if (step >= 5)
            check_same(batch, sampler_next(late));
        different += batch->nodes[0] != stranger->nodes[0];
    }
    ck_assert_uint_gt(different, 6);
    sampler_free(a);
    sampler_free(b);
    sampler_free(c);
    sampler_free(late);
    config_free(config);
    config_free(other);
    store_close(store);
}
END_TEST

/* One thread makes them or several: the same batches in the same order. */
START_TEST(batches_do_not_depend_on_threads) {
    struct store *store = open_store(2, 2, 0);
    struct config *config = make_config(MODEL_GCN, 5, 3, 4);
    struct sampler *samplers[3];
    for (int64_t threads = 1; threads <= 3; threads++) {
        config->train_sampler_threads = threads;
        samplers[threads - 1] = sampler_new(store, config, 2);
    }
    for (int step = 0; step < 40; step++) {
        const struct batch *one = sampler_next(samplers[0]);
        check_same(one, sampler_next(samplers[1]));
        check_same(one, sampler_next(samplers[2]));
    }
    for (int i = 0; i < 3; i++)
        sampler_free(samplers[i]);
    config_free(config);
    store_close(store);
}
END_TEST

/* After the first epochs no memory is asked for. One thread: with several it is chance which of
 * them meets the largest batch. */
START_TEST(nothing_is_allocated_after_the_start) {
    struct store *store = open_store(2, 2, 0);
    struct config *config = make_config(MODEL_GCN, 7, 3, 4);
    struct sampler *sampler = sampler_new(store, config, 0);
    for (int step = 0; step < 1000; step++)
        sampler_next(sampler);
    uint64_t before = mem_allocations();
    for (int step = 0; step < 400; step++)
        sampler_next(sampler);
    ck_assert_uint_eq(mem_allocations(), before);
    sampler_free(sampler);
    config_free(config);
    store_close(store);
}
END_TEST

/* Features narrower than the first layer are propagated as they are: no gradient goes back through
 * its graph. */
START_TEST(first_transpose_is_made_where_it_is_used) {
    struct store *store = open_store(1, 2, 0);
    for (int kind = MODEL_GCN; kind <= MODEL_SAGE; kind++)
        for (int64_t hidden = 12; hidden <= 13; hidden++) { /* there are 12 features */
            struct config *config = make_config(kind, 7, 3, 4);
            config->model_hidden = hidden;
            struct sampler *sampler = sampler_new(store, config, 0);
            const struct batch *batch = sampler_next(sampler);
            ck_assert_int_eq(batch->graphs[0].t_indptr != NULL, hidden == 12);
            check_transpose(&batch->graphs[1]);
            sampler_free(sampler);
            config_free(config);
        }
    store_close(store);
}
END_TEST

/* A batch of all training nodes with all neighbours has the gradient of the full batch, dropout
 * included: two ways to make a batch, one result. */
START_TEST(sampling_everything_equals_full_mode) {
    for (uint32_t part = 0; part < 2; part++) {
        struct store *store = open_store(2, 2, part);
        struct config *config = make_config(_i, 100000, 10000, 10000);
        struct model_spec spec;
        model_spec_from(config, store->feature_dim, store->classes, &spec);
        spec.input_dropout = 0.2F;
        struct tensor_spec *tensors;
        size_t count = model_tensors(&spec, &tensors), floats = 0;
        for (size_t i = 0; i < count; i++)
            floats += (size_t)tensors[i].rows * tensors[i].cols;
        float *weights = mem_array(floats, sizeof *weights);
        for (size_t i = 0; i < floats; i++)
            weights[i] = (float)(i * 7919 % 101) * 0.004F - 0.2F;

        float *gradients[2];
        struct sampler *sampler = sampler_new(store, config, 3);
        struct full_batch *full = full_batch_new(store, &spec.hops);
        struct batch all = *full_batch_get(full);
        all.step = 3;
        const struct batch *batches[2] = {sampler_next(sampler), &all};
        struct model *model = model_new(&spec);
        for (int b = 0; b < 2; b++) {
            gradients[b] = mem_array(floats, sizeof(float));
            model_forward(model, batches[b], weights, true, NULL);
            model_backward(model, batches[b], weights, gradients[b]);
        }
        ck_assert_uint_eq(batches[0]->train_count, batches[1]->train_count);
        double squares = 0;
        for (size_t i = 0; i < floats; i++)
            squares += (double)gradients[1][i] * gradients[1][i];
        test_floats_equal("gradient", gradients[0], gradients[1], floats, 1e-4,
                          1e-4 * sqrt(squares / (double)floats));
        mem_free(gradients[0]);
        mem_free(gradients[1]);
        mem_free(weights);
        mem_free(tensors);
        model_free(model);
        full_batch_free(full);
        sampler_free(sampler);
        config_free(config);
        store_close(store);
    }
}
END_TEST

/* A layer computes the nodes that the layers above it need and no others; with a halo smaller than
 * the layers the outermost nodes have no neighbours. */
START_TEST(full_batch_shrinks_by_hops) {
    for (uint32_t halo = 0; halo <= 3; halo++) {
        struct store *store = open_store(2, halo, 1);
        struct full_batch *full =
            full_batch_new(store, &(struct hops){3, {GRAPH_SYM, GRAPH_SYM, GRAPH_SYM}});
        const struct batch *batch = full_batch_get(full);
        for (uint32_t l = 0; l < 3; l++) {
            const struct layer_graph *graph = &batch->graphs[l];
            uint32_t hops = 2 - l < halo ? 2 - l : halo, around = 3 - l < halo ? 3 - l : halo;
            ck_assert_uint_eq(graph->n_dst, store->hop_nodes[hops]);
            ck_assert_uint_eq(graph->n_src, store->hop_nodes[around]);
            for (uint32_t i = 0; i < graph->n_dst; i++)
                ck_assert_int_eq(graph->indptr[i + 1] - graph->indptr[i], row_length(store, i));
            check_transpose(graph);
        }
        ck_assert_uint_eq(batch->n_input, batch->graphs[0].n_src);
        ck_assert_uint_eq(batch->n_output, store->owned);
        ck_assert_uint_eq(batch->train_count, store->train_nodes);
        ck_assert_uint_ne(batch->version, 0);
        full_batch_free(full);
        store_close(store);
    }
}
END_TEST

/* Freed while the thread is at work, or waits for room, or was never asked. */
START_TEST(sampler_stops_at_any_time) {
    struct store *store = open_store(2, 2, 0);
    struct config *config = make_config(MODEL_GCN, 50, 10, 10);
    for (int taken = 0; taken < 6; taken++) {
        struct sampler *sampler = sampler_new(store, config, 0);
        for (int i = 0; i < taken; i++)
            ck_assert_uint_eq(sampler_next(sampler)->step, (uint64_t)i);
        ck_assert_ptr_null(sampler_free(sampler));
    }
    ck_assert_ptr_null(sampler_free(NULL));
    config_free(config);
    store_close(store);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("sampler");
    TCase *tcase = tcase_create("sampler");
    tcase_set_timeout(tcase, 60);
    tcase_add_unchecked_fixture(tcase, make_graph, NULL);
    tcase_add_loop_test(tcase, epochs_cover_the_training_nodes, MODEL_GCN, MODEL_SAGE + 1);
    tcase_add_test(tcase, batches_depend_on_seed_and_step);
    tcase_add_test(tcase, batches_do_not_depend_on_threads);
    tcase_add_test(tcase, nothing_is_allocated_after_the_start);
    tcase_add_test(tcase, first_transpose_is_made_where_it_is_used);
    tcase_add_loop_test(tcase, sampling_everything_equals_full_mode, MODEL_GCN, MODEL_KINDS);
    tcase_add_test(tcase, full_batch_shrinks_by_hops);
    tcase_add_test(tcase, sampler_stops_at_any_time);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
