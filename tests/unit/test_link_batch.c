/* What links are learnt from: each edge once an epoch, negatives that are none, a graph that does
 * not tell the answer, and outputs for both ends that do not depend on how the graph is cut. */
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "tests/graphs.h"
#include "worker/graph/full_links.h"
#include "worker/graph/negative.h"
#include "worker/graph/sampler.h"
#include "worker/model/infer.h"
#include "worker/model/model.h"

static const char *graph_dir;

/* Runs once, before the tests' processes are forked. */
static void make_graph(void) {
    graph_dir = graphs_snapshot(test_tmpdir(), "community", 120, 4, 8, 6, 5);
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

static struct config *make_config(const char *const *settings) {
    struct config *config = config_new();
    struct error err;
    static const char *const all[] = {"train.task=links", "train.mode=sampled",
                                      "model.hidden=5",   "model.dropout=0",
                                      "link.dim=3",       "data.snapshot=community"};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        ck_assert_msg(config_set(config, all[i], &err) == 0, "%s", err.text);
    for (; *settings; settings++)
        ck_assert_msg(config_set(config, *settings, &err) == 0, "%s", err.text);
    ck_assert_msg(config_finish(config, "test", NULL, &err) == 0, "%s", err.text);
    return config;
}

static int32_t local_of(const struct store *store, int64_t node) {
    for (uint64_t i = 0; i < store->local; i++)
        if (store->nodes[i] == node)
            return (int32_t)i;
    ck_abort_msg("node %lld is not in the store", (long long)node);
}

/* Where an edge stands in the store; it is there once. */
static int64_t edge_of(const struct store *store, int32_t source, int32_t target) {
    for (int64_t e = store->indptr[target]; e < store->indptr[target + 1]; e++)
        if (store->indices[e] == source)
            return e;
    ck_abort_msg("no edge %d -> %d", source, target);
}

static bool is_link(const struct link_pairs *links, int32_t u, int32_t v) {
    for (uint64_t i = 0; i < links->count; i++)
        if ((links->sources[i] == u && links->targets[i] == v) ||
            (links->sources[i] == v && links->targets[i] == u))
            return true;
    return false;
}

/* With a fanout beyond all degrees a row is the node's, less the batch's links and their twins. */
static void check_rows(const struct store *store, const struct batch *batch) {
    for (size_t l = 0; l < batch->hops; l++) {
        const struct layer_graph *graph = &batch->graphs[l];
        for (uint32_t i = 0; i < graph->n_dst; i++) {
            int32_t target = local_of(store, batch->nodes[i]);
            int64_t left = 0, row = 0;
            for (int64_t e = store->indptr[target]; e < store->indptr[target + 1]; e++) {
                uint32_t number = 0;
                while (number < graph->n_src &&
                       batch->nodes[number] != store->nodes[store->indices[e]])
                    number++;
                row++;
                left +=
                    number < batch->n_output && is_link(&batch->links, (int32_t)number, (int32_t)i);
            }
            ck_assert_int_eq(graph->indptr[i + 1] - graph->indptr[i], row - left);
            for (int64_t e = graph->indptr[i]; e < graph->indptr[i + 1]; e++) {
                edge_of(store, local_of(store, batch->nodes[graph->indices[e]]), target);
                ck_assert(!is_link(&batch->links, graph->indices[e], (int32_t)i));
                ck_assert_float_eq_tol(graph->weights[e], 1 / (float)(row - left), 1e-6F);
            }
        }
    }
}

/* Counts the batch's edges; its negatives are no edges and differ from their link in one end. */
static void check_links(const struct store *store, const struct batch *batch, int64_t *times) {
    const struct link_pairs *links = &batch->links;
    ck_assert_uint_eq(batch->train_count, links->count);
    for (uint64_t p = 0; p < link_pairs_all(links); p++) {
        ck_assert((uint32_t)links->sources[p] < batch->n_output);
        ck_assert((uint32_t)links->targets[p] < batch->n_output);
        int32_t u = local_of(store, batch->nodes[links->sources[p]]);
        int32_t v = local_of(store, batch->nodes[links->targets[p]]);
        uint64_t i = link_pairs_link(links, p);
        ck_assert((uint64_t)v < store->owned);
        if (p < links->count)
            times[edge_of(store, u, v)]++;
        else
            ck_assert(!negatives_edge(store, u, v) && u != v &&
                      (links->sources[p] == links->sources[i]) !=
                          (links->targets[p] == links->targets[i]));
    }
}

START_TEST(epoch_takes_each_edge_once) {
    const char *const settings[] = {"train.batch_size=100",
                                    "train.fanout=500,500",
                                    "model.kind=sage",
                                    "link.negatives_per_link=3",
                                    _i == 0 ? "link.negatives=uniform" : "link.negatives=in_batch",
                                    NULL};
    struct config *config = make_config(settings);
    ck_assert_int_eq(config->data_halo, 3);
    uint64_t most = 0;
    for (uint32_t part = 0; part < 2; part++) {
        struct store *store = open_store(2, 3, part);
        uint64_t edges = (uint64_t)store->indptr[store->owned];
        most = most < edges ? edges : most;
        uint64_t steps = sampler_steps_per_epoch(store, config), first = 0;
        ck_assert_uint_eq(steps, (store->owned_edges_max + 99) / 100);
        struct sampler *sampler = sampler_new(store, config, 0);
        for (int epoch = 0; epoch < 2; epoch++) {
            int64_t *times = mem_array(edges, sizeof *times);
            uint64_t before = first;
            for (uint64_t step = 0; step < steps; step++) {
                const struct batch *batch = sampler_next(sampler);
                check_links(store, batch, times);
                if (epoch == 0)
                    check_rows(store, batch);
                if (step == 0)
                    first = (uint64_t)batch->nodes[batch->links.sources[0]] << 32 |
                            (uint64_t)batch->nodes[batch->links.targets[0]];
            }
            ck_assert(epoch == 0 || first != before);
            uint64_t again = 0;
            for (uint64_t e = 0; e < edges; e++) {
                ck_assert(times[e] >= 1);
                again += (uint64_t)times[e] - 1;
            }
            ck_assert_uint_eq(again, store->owned_edges_max - edges);
            mem_free(times);
        }
        sampler_free(sampler);
        store_close(store);
    }
    struct store *store = open_store(2, 3, 0);
    ck_assert_uint_eq(store->owned_edges_max, most);
    store_close(store);
    config_free(config);
}
END_TEST

/* Whatever the number of threads, and wherever one begins. */
START_TEST(batches_are_the_same_again) {
    static const char *const one[] = {"train.batch_size=64", "train.fanout=3,2", NULL};
    static const char *const three[] = {"train.batch_size=64", "train.fanout=3,2",
                                        "train.sampler_threads=3", NULL};
    struct config *configs[2] = {make_config(one), make_config(three)};
    struct store *store = open_store(1, 3, 0);
    uint64_t from = sampler_steps_per_epoch(store, configs[0]) - 2;
    struct sampler *a = sampler_new(store, configs[0], 0),
                   *b = sampler_new(store, configs[1], from);
    for (uint64_t step = 0; step < from; step++)
        sampler_next(a);
    for (int step = 0; step < 6; step++) {
        const struct batch *x = sampler_next(a), *y = sampler_next(b);
        size_t pairs = link_pairs_all(&x->links);
        ck_assert_uint_eq(pairs, link_pairs_all(&y->links));
        ck_assert_mem_eq(x->links.sources, y->links.sources, pairs * sizeof(int32_t));
        ck_assert_mem_eq(x->links.targets, y->links.targets, pairs * sizeof(int32_t));
        ck_assert_uint_eq(x->n_input, y->n_input);
        ck_assert_mem_eq(x->nodes, y->nodes, x->n_input * sizeof *x->nodes);
        size_t edges = (size_t)x->graphs[0].indptr[x->graphs[0].n_dst];
        ck_assert_mem_eq(x->graphs[0].weights, y->graphs[0].weights, edges * sizeof(float));
    }
    sampler_free(a);
    sampler_free(b);
    store_close(store);
    config_free(configs[0]);
    config_free(configs[1]);
}
END_TEST

/* Full mode: all edges, other negatives each epoch. */
START_TEST(full_takes_all_edges) {
    static const char *const settings[] = {"train.mode=full", "link.negatives_per_link=2", NULL};
    struct config *config = make_config(settings);
    struct store *store = open_store(2, 3, 1);
    struct full_links *full;
    struct error err;
    ck_assert_int_eq(full_links_new(store, config, &full, &err), 0);
    struct link_pairs links = full_links_get(full, 0);
    uint64_t all = link_pairs_all(&links);
    int32_t *before = mem_array(all, sizeof *before);
    memcpy(before, links.sources, all * sizeof *before);
    ck_assert_int_eq((int64_t)links.count, store->indptr[store->owned]);
    for (uint64_t p = 0; p < all; p++)
        ck_assert(negatives_edge(store, links.sources[p], links.targets[p]) == (p < links.count));
    links = full_links_get(full, 1);
    ck_assert(memcmp(before, links.sources, all * sizeof *before) != 0);
    links = full_links_get(full, 0);
    ck_assert_mem_eq(before, links.sources, all * sizeof *before);
    full_links_free(full);
    mem_free(before);
    store_close(store);
    config_free(config);
}
END_TEST

/* Both ends of every link have in a part the embedding that they have in the whole graph, in a full
 * batch and by inference. */
START_TEST(parts_embed_both_ends_alike) {
    static const char *const settings[] = {"train.mode=full", NULL};
    struct config *config = make_config(settings);
    struct store *whole = open_store(1, 3, 0);
    struct model_spec spec;
    model_spec_from(config, whole->feature_dim, whole->classes, &spec);
    ck_assert_uint_eq(spec.classes, 3);
    struct tensor_spec *tensors;
    size_t count = model_tensors(&spec, &tensors), floats = 0;
    for (size_t i = 0; i < count; i++)
        floats += (size_t)tensors[i].rows * tensors[i].cols;
    float *weights = mem_array(floats, sizeof *weights);
    for (size_t i = 0; i < floats; i++)
        weights[i] = rng_float(rng_at(1, i)) - 0.5F;
    struct infer *infer = infer_new(&spec, whole);
    const float *wanted = infer_run(infer, weights, NULL);
    for (uint32_t part = 0; part < 2; part++) {
        struct store *store = open_store(2, 3, part);
        struct full_batch *full = full_batch_new(store, &spec.hops);
        struct model *model = model_new(&spec);
        struct infer *own = infer_new(&spec, store);
        const struct batch *batch = full_batch_get(full);
        ck_assert_uint_eq(batch->n_output, store->hop_nodes[1]);
        ck_assert(batch->n_output > store->owned);
        const float *y[2] = {model_forward(model, batch, weights, false, NULL),
                             infer_run(own, weights, NULL)};
        for (uint32_t i = 0; i < batch->n_output; i++)
            for (int k = 0; k < 2; k++)
                for (int j = 0; j < 3; j++)
                    ck_assert_float_eq_tol(y[k][i * 3 + j],
                                           wanted[local_of(whole, store->nodes[i]) * 3 + j], 1e-5F);
        infer_free(own);
        model_free(model);
        full_batch_free(full);
        store_close(store);
    }
    infer_free(infer);
    mem_free(weights);
    mem_free(tensors);
    store_close(whole);
    config_free(config);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("link_batch");
    TCase *tcase = tcase_create("link_batch");
    tcase_set_timeout(tcase, 60); /* a loaded machine */
    tcase_add_unchecked_fixture(tcase, make_graph, NULL);
    tcase_add_loop_test(tcase, epoch_takes_each_edge_once, 0, 2);
    tcase_add_test(tcase, batches_are_the_same_again);
    tcase_add_test(tcase, full_takes_all_edges);
    tcase_add_test(tcase, parts_embed_both_ends_alike);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
