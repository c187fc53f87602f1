/* Times one training step, forward and backward, on generated graphs of two known sizes, in full
 * mode, and the making of sampled batches. Writes no files; no test runs it.
 *     bench_step cora|arxiv [gcn|sage|mlp [steps [threads]]]
 * GFLOP/s counts the multiplications a dense implementation needs in the cheaper order, so a way
 * to do less work shows as a higher number. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/lock.h"
#include "common/mem.h"
#include "common/rng.h"
#include "worker/graph/sampler.h"
#include "worker/kernels/kernels.h"
#include "worker/model/model.h"

struct shape {
    const char *name;
    uint32_t nodes, features, classes, hidden;
    uint64_t edges, train;
    size_t layers;
    double density; /* of the features */
    float dropout, input_dropout;
};

static const struct shape shapes[] = {
    {"cora", 2708, 1433, 7, 16, 10556, 140, 2, 0.0127, 0.5F, 0.5F},
    {"arxiv", 169343, 128, 40, 256, 2315598, 90941, 3, 1, 0.5F, 0},
};

/* A graph of one part with a few hubs: a neighbour's rank is the square of a uniform number. */
static struct store *make_store(const struct shape *shape) {
    struct store *store = mem_alloc(sizeof *store);
    uint32_t n = shape->nodes;
    store->parts = 1;
    store->owned = store->local = store->rows = store->hop_nodes[0] = n;
    store->feature_dim = shape->features;
    store->classes = shape->classes;
    int64_t *nodes = mem_array(n, sizeof *nodes), *indptr = mem_array(n + 1, sizeof *indptr);
    int32_t *degree = mem_array(n, sizeof *degree), *labels = mem_array(n, sizeof *labels);
    int32_t *indices = mem_array(shape->edges, sizeof *indices);
    uint8_t *split = mem_array(n, 1);
    float *features = mem_array((size_t)n * shape->features, sizeof *features);
    for (uint32_t i = 0; i < n; i++) {
        nodes[i] = i;
        indptr[i + 1] = (int64_t)(shape->edges * (i + 1) / n);
        degree[i] = (int32_t)(indptr[i + 1] - indptr[i]);
        for (int64_t e = indptr[i]; e < indptr[i + 1]; e++) {
            float u = rng_float(rng_at(1, (uint64_t)e));
            uint64_t rank = (uint64_t)((double)(u * u) * n);
            indices[e] = (int32_t)(rank * 2654435761u % n); /* hubs lie anywhere */
        }
        labels[i] = (int32_t)(i % shape->classes);
        split[i] = i < shape->train ? SPLIT_TRAIN : SPLIT_TEST;
    }
    for (size_t i = 0; i < (size_t)n * shape->features; i++) {
        float u = rng_float(rng_at(2, i));
        features[i] = (double)u < shape->density ? u / (float)shape->density : 0;
    }
    store->nodes = nodes;
    store->degree = degree;
    store->indptr = indptr;
    store->indices = indices;
    store->features = features;
    store->labels = labels;
    store->split = split;
    store->train_nodes = store->train_nodes_max = store->train_nodes_total = shape->train;
    return store;
}

static double step_gflop(const struct shape *shape, int kind) {
    double total = 0;
    for (size_t l = 0; l < shape->layers; l++) {
        double in = l == 0 ? shape->features : shape->hidden;
        double out = l + 1 == shape->layers ? shape->classes : shape->hidden;
        double products = (l == 0 ? 2 : 3) * (kind == MODEL_SAGE ? 2 : 1);
        double narrow = in < out ? in : out;
        total += products * 2 * shape->nodes * in * out;
        if (kind != MODEL_MLP)
            total += (l == 0 ? 1 : 2) * 2 * (double)shape->edges * narrow;
    }
    return total * 1e-9;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void time_full(const struct shape *shape, int kind, const struct store *store, int steps) {
    struct config *config = config_new();
    struct model_spec spec;
    config->model_kind = kind;
    config->model_layers = (int64_t)shape->layers;
    config->model_hidden = shape->hidden;
    config->model_dropout = (double)shape->dropout;
    config->model_input_dropout = (double)shape->input_dropout;
    model_spec_from(config, shape->features, shape->classes, &spec);
    config_free(config);
    struct tensor_spec *tensors;
    size_t count = model_tensors(&spec, &tensors), floats = 0;
    for (size_t i = 0; i < count; i++)
        floats += (size_t)tensors[i].rows * tensors[i].cols;
    float *weights = mem_array(floats, sizeof *weights);
    float *gradient = mem_array(floats, sizeof *gradient);
    for (size_t i = 0; i < floats; i++)
        weights[i] = rng_float(rng_at(3, i)) * 0.1F - 0.05F;

    struct full_batch *full = full_batch_new(store, &spec.hops);
    struct batch batch = *full_batch_get(full);
    struct model *model = model_new(&spec);
    double *forward = mem_array((size_t)steps, sizeof *forward);
    double *whole = mem_array((size_t)steps, sizeof *whole);
    for (int s = -1; s < steps; s++) { /* the first step plans memory and is not counted */
        uint64_t begin = time_now_ns();
        batch.step++;
        model_forward(model, &batch, weights, true, NULL);
        uint64_t middle = time_now_ns();
        model_backward(model, &batch, weights, gradient);
        if (s >= 0) {
            forward[s] = (double)(middle - begin) * 1e-6;
            whole[s] = (double)(time_now_ns() - begin) * 1e-6;
        }
    }
    qsort(forward, (size_t)steps, sizeof *forward, compare);
    qsort(whole, (size_t)steps, sizeof *whole, compare);
    printf("full: step %.2f ms (best %.2f), forward %.2f ms, %.1f GFLOP/s\n", whole[steps / 2],
           whole[0], forward[steps / 2], step_gflop(shape, kind) / whole[steps / 2] * 1e3);
    model_free(model);
    full_batch_free(full);
    mem_free(tensors);
    mem_free(weights);
    mem_free(gradient);
    mem_free(forward);
    mem_free(whole);
}

static void time_sampler(const struct shape *shape, int kind, const struct store *store,
                         int batches) {
    struct config *config = config_new();
    config->model_kind = kind;
    config->model_layers = (int64_t)shape->layers;
    config->train_batch_size = 512;
    config->train_fanout = (struct int_list){.count = 3, .items = {10, 10, 10}};
    struct sampler *sampler = sampler_new(store, config, 0);
    uint64_t begin = time_now_ns(), nodes = 0;
    for (int i = 0; i < batches; i++)
        nodes += sampler_next(sampler)->n_input;
    double ms = (double)(time_now_ns() - begin) * 1e-6 / batches;
    printf("sampled: a batch of 512 in %.2f ms, %.0f input nodes\n", ms, (double)nodes / batches);
    sampler_free(sampler);
    config_free(config);
}

int main(int argc, char **argv) {
    static const char *const kinds[] = {"gcn", "sage", "mlp"};
    const struct shape *shape = NULL;
    int kind = argc > 2 ? -1 : MODEL_GCN;
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++)
        if (argc > 1 && strcmp(argv[1], shapes[i].name) == 0)
            shape = &shapes[i];
    for (int k = 0; k < 3; k++)
        if (argc > 2 && strcmp(argv[2], kinds[k]) == 0)
            kind = k;
    int steps = argc > 3 ? atoi(argv[3]) : 10, threads = argc > 4 ? atoi(argv[4]) : 1;
    if (!shape || kind < 0 || steps < 1 || threads < 1) {
        fprintf(stderr, "usage: bench_step cora|arxiv [gcn|sage|mlp [steps [threads]]]\n");
        return 2;
    }
    kernels_set_threads(threads);
    struct store *store = make_store(shape);
    printf("%s, %s, %d threads, %s kernels\n", shape->name, kinds[kind], threads, kernels()->name);
    time_full(shape, kind, store, steps);
    time_sampler(shape, kind, store, steps);
    mem_free((void *)store->nodes);
    mem_free((void *)store->degree);
    mem_free((void *)store->indptr);
    mem_free((void *)store->indices);
    mem_free((void *)store->features);
    mem_free((void *)store->labels);
    mem_free((void *)store->split);
    mem_free(store);
    return 0;
}
