/* Training on sampled neighbours as a worker does it, without shards: GraphSAGE, 3 layers, hidden
 * 256, fanout 15,10,5, batches of 1024. Seconds of the clock and of the processors, for the making
 * of batches alone, for the steps alone and for both together, each times the steps of an epoch.
 *     bench_sampled SNAPSHOT_DIR [batches [threads]]
 * Writes no files; no test runs it. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "common/lock.h"
#include "common/mem.h"
#include "common/rng.h"
#include "worker/cpus.h"
#include "worker/graph/sampler.h"
#include "worker/kernels/kernels.h"
#include "worker/model/model.h"

struct clocks {
    double wall, cpu;
};

static struct clocks clocks_now(void) {
    struct timespec cpu;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    return (struct clocks){(double)time_now_ns() * 1e-9,
                           (double)cpu.tv_sec + (double)cpu.tv_nsec * 1e-9};
}

static void clocks_add(struct clocks *sum, struct clocks begin) {
    struct clocks end = clocks_now();
    sum->wall += end.wall - begin.wall;
    sum->cpu += end.cpu - begin.cpu;
}

static void show(const char *what, struct clocks sum, double batches, double steps) {
    printf("%-22s %8.2f ms a batch, %8.2f ms of processors; an epoch of %.0f: %6.2f s, %6.2f s\n",
           what, sum.wall / batches * 1e3, sum.cpu / batches * 1e3, steps,
           sum.wall / batches * steps, sum.cpu / batches * steps);
}

static void run(const struct config *config, const struct store *store, int batches) {
    struct model_spec spec;
    model_spec_from(config, store->feature_dim, store->classes, &spec);
    struct tensor_spec *tensors;
    size_t count = model_tensors(&spec, &tensors), floats = 0;
    for (size_t i = 0; i < count; i++)
        floats += (size_t)tensors[i].rows * tensors[i].cols;
    float *weights = mem_array(floats, sizeof *weights);
    float *gradient = mem_array(floats, sizeof *gradient);
    for (size_t i = 0; i < floats; i++)
        weights[i] = rng_float(rng_at(3, i)) * 0.1F - 0.05F;
    double steps = (double)sampler_steps_per_epoch(store, config);
    double sizes[HOPS_MAX + 1] = {0};

    struct clocks making = {0}, forward = {0}, backward = {0}, both = {0}, begin = clocks_now();
    struct sampler *sampler = sampler_new(store, config, 0);
    for (int b = 0; b < batches; b++) {
        const struct batch *batch = sampler_next(sampler);
        sizes[0] += batch->n_input;
        for (size_t l = 0; l < batch->hops; l++)
            sizes[l + 1] += batch->graphs[l].n_dst;
    }
    clocks_add(&making, begin);
    sampler_free(sampler);

    /* The first batches grow the memory. */
    sampler = sampler_new(store, config, 0);
    struct model *model = model_new(&spec);
    for (int b = -3; b < batches; b++) {
        if (b == 0)
            begin = clocks_now();
        const struct batch *batch = sampler_next(sampler);
        model_forward(model, batch, weights, true, NULL);
        model_backward(model, batch, weights, gradient);
    }
    clocks_add(&both, begin);
    const struct batch *batch = sampler_next(sampler);
    struct clocks wait = clocks_now(); /* until the ring is full nothing is measured */
    while (clocks_now().cpu - wait.cpu < 0.5)
        model_forward(model, batch, weights, true, NULL);
    for (int b = 0; b < batches; b++) {
        begin = clocks_now();
        model_forward(model, batch, weights, true, NULL);
        clocks_add(&forward, begin);
        begin = clocks_now();
        model_backward(model, batch, weights, gradient);
        clocks_add(&backward, begin);
    }

    printf("nodes of a batch from the inputs on:");
    for (size_t l = 0; l <= spec.hops.count; l++)
        printf(" %.0f", sizes[l] / batches);
    printf("\n");
    show("making batches", making, batches, steps);
    show("forward", forward, batches, steps);
    show("backward", backward, batches, steps);
    show("training, all of it", both, batches, steps);
    model_free(model);
    sampler_free(sampler);
    mem_free(tensors);
    mem_free(weights);
    mem_free(gradient);
}

int main(int argc, char **argv) {
    cpus_yield_when_idle(argv);
    int batches = argc > 2 ? atoi(argv[2]) : 20, threads = argc > 3 ? atoi(argv[3]) : 2;
    if (argc < 2 || batches < 1 || threads < 1) {
        fprintf(stderr, "usage: bench_sampled SNAPSHOT_DIR [batches [threads]]\n");
        return 2;
    }
    struct snapshot *snapshot;
    struct error err;
    if (snapshot_open(argv[1], false, &snapshot, &err) < 0) {
        fprintf(stderr, "%s\n", error_text(&err));
        return 1;
    }
    kernels_set_threads(threads);
    struct config *config = config_new();
    config->train_mode = TRAIN_SAMPLED;
    config->model_kind = MODEL_SAGE;
    config->model_layers = 3;
    config->model_hidden = 256;
    config->model_dropout = 0;
    config->train_batch_size = 1024;
    config->train_fanout = (struct int_list){.count = 3, .items = {15, 10, 5}};
    struct store *store = store_from_snapshot(snapshot, false);
    printf("%s, %d threads, %s kernels, %s\n", snapshot->name, threads, kernels()->name,
           kernels_blas());
    run(config, store, batches);
    store_close(store);
    snapshot_close(snapshot);
    config_free(config);
    return 0;
}
