/* Times the making of sampled batches on a generated power-law graph of ogbn-arxiv's size (169,343
 * nodes, 2,332,486 entries, both directions of every edge; expected degrees fall with the 0.65th
 * power of the rank, so the largest is near 10,000). Batches of 1024, fanout 15, 10, 5. Writes no
 * files; no test runs it.
 *     bench_sampler [-n batches] [-r rounds] [-d snapshot] [-s option=value]...
 * With -d it is the snapshot in that directory, which has been cut into one part (graphps partition
 * --parts 1), and the opening is timed: the first time, which verifies it unless somebody did, and
 * the second.
 * Counted are the edges of all layers of the batches handed out, over the wall time and over the
 * processor time of the whole process; a batch is complete, with weights and transposes. Without
 * features nothing is gathered; with them 128 floats for each input node. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/lock.h"
#include "common/mem.h"
#include "common/rng.h"
#include "worker/graph/csr.h"
#include "worker/graph/sampler.h"

enum { NODES = 169343, EDGES = 2332486, TRAIN = 90941, CLASSES = 40, DIM = 128, WARM_UP = 20 };
static const double exponent = 0.65;

static int compare_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* A node with a probability that falls with its rank (inverse of the cumulated power law); ranks
 * are spread over the numbers. */
static uint32_t draw_node(uint64_t bits) {
    double u = (double)(bits >> 11) * 0x1p-53;
    double rank = pow(u * (pow(NODES, 1 - exponent) - 1) + 1, 1 / (1 - exponent)) - 1;
    return (uint32_t)((uint64_t)rank * 2654435761u % NODES);
}

/* EDGES / 2 different pairs (lower << 32 | higher), ascending. */
static uint64_t *draw_pairs(void) {
    uint64_t *pairs = mem_array(EDGES, sizeof *pairs), counter = 0;
    size_t count = 0;
    while (count < EDGES / 2) {
        while (count < EDGES / 2) {
            uint64_t a = draw_node(rng_at(1, counter++)), b = draw_node(rng_at(1, counter++));
            if (a != b)
                pairs[count++] = a < b ? a << 32 | b : b << 32 | a;
        }
        qsort(pairs, count, sizeof *pairs, compare_u64);
        size_t out = 0;
        for (size_t i = 0; i < count; i++)
            if (out == 0 || pairs[out - 1] != pairs[i])
                pairs[out++] = pairs[i];
        count = out;
    }
    return pairs;
}

static struct store *make_store(void) {
    struct store *store = mem_alloc(sizeof *store);
    store->parts = 1;
    store->owned = store->local = store->rows = store->hop_nodes[0] = NODES;
    store->feature_dim = DIM;
    store->classes = CLASSES;
    int64_t *nodes = mem_array(NODES, sizeof *nodes), *indptr = mem_array(NODES + 1, 8);
    int32_t *degree = mem_array(NODES, sizeof *degree), *labels = mem_array(NODES, sizeof *labels);
    int32_t *indices = mem_array(EDGES, sizeof *indices);
    uint8_t *split = mem_array(NODES, 1);
    float *features = mem_array((size_t)NODES * DIM, sizeof *features);
    uint64_t *pairs = draw_pairs();
    for (size_t k = 0; k < EDGES / 2; k++) {
        degree[pairs[k] >> 32]++;
        degree[(uint32_t)pairs[k]]++;
    }
    int32_t most = 0;
    for (uint32_t i = 0; i < NODES; i++) {
        nodes[i] = i;
        indptr[i + 1] = indptr[i] + degree[i];
        most = degree[i] > most ? degree[i] : most;
        degree[i] = 0;
        labels[i] = (int32_t)(i % CLASSES);
    }
    for (int ends = 0; ends < 2; ends++) /* lower ones first: rows come out ascending */
        for (size_t k = 0; k < EDGES / 2; k++) {
            uint32_t low = (uint32_t)(pairs[k] >> 32), high = (uint32_t)pairs[k];
            uint32_t to = ends ? low : high;
            indices[indptr[to] + degree[to]++] = (int32_t)(ends ? high : low);
        }
    for (uint64_t i = 0; i < TRAIN; i++)
        split[i * 40503 % NODES] = SPLIT_TRAIN; /* NODES is prime to it: no node twice */
    for (size_t i = 0; i < (size_t)NODES * DIM; i++)
        features[i] = rng_float(rng_at(2, i));
    mem_free(pairs);
    store->nodes = nodes;
    store->degree = degree;
    store->indptr = indptr;
    store->indices = indices;
    store->features = features;
    store->labels = labels;
    store->split = split;
    store->train_nodes = store->train_nodes_max = store->train_nodes_total = TRAIN;
    printf("%d nodes, %d entries, largest degree %d, %d training nodes\n", NODES, EDGES, most,
           TRAIN);
    return store;
}

static struct store *open_store(const char *dir, const struct config *config) {
    struct store *store = NULL;
    struct error err;
    for (int time = 1; time <= 2; time++) {
        store_close(store);
        uint64_t begin_ns = time_now_ns();
        if (store_open(dir, 1, (uint32_t)config->data_halo, 0, true, false, &store, &err) < 0) {
            fprintf(stderr, "%s\n", error_text(&err));
            exit(1);
        }
        printf("opened in %.2f ms\n", (double)(time_now_ns() - begin_ns) * 1e-6);
    }
    printf("%llu nodes, %lld entries\n", (unsigned long long)store->local,
           (long long)store->indptr[store->rows]);
    return store;
}

static void free_store(struct store *store) {
    mem_free((void *)store->nodes);
    mem_free((void *)store->degree);
    mem_free((void *)store->indptr);
    mem_free((void *)store->indices);
    mem_free((void *)store->features);
    mem_free((void *)store->labels);
    mem_free((void *)store->split);
    mem_free(store);
}

static double cpu_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

struct rate {
    double wall, cpu; /* edges a second */
    double edges, inputs;
    uint64_t allocations;
};

static struct rate run(const struct store *store, const struct config *config, int batches) {
    struct sampler *sampler = sampler_new(store, config, 0);
    struct rate rate = {0};
    for (int i = 0; i < WARM_UP; i++)
        sampler_next(sampler);
    uint64_t allocations = mem_allocations(), begin_ns = time_now_ns();
    double begin_cpu = cpu_s();
    for (int i = 0; i < batches; i++) {
        const struct batch *batch = sampler_next(sampler);
        for (size_t l = 0; l < batch->hops; l++)
            rate.edges += (double)batch->graphs[l].indptr[batch->graphs[l].n_dst];
        rate.inputs += batch->n_input;
    }
    rate.wall = rate.edges / ((double)(time_now_ns() - begin_ns) * 1e-9);
    rate.cpu = rate.edges / (cpu_s() - begin_cpu);
    rate.allocations = mem_allocations() - allocations;
    rate.edges /= batches;
    rate.inputs /= batches;
    sampler_free(sampler);
    return rate;
}

static int compare_double(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    int batches = 200, rounds = 5, option;
    const char *snapshot = NULL;
    struct config *config = config_new();
    struct error err;
    const char *const defaults[] = {"train.mode=sampled", "model.layers=3", "model.hidden=256",
                                    "train.batch_size=1024", "train.fanout=15,10,5"};
    int r = 0;
    for (size_t i = 0; i < ARRAY_LEN(defaults); i++)
        r = r ? r : config_set(config, defaults[i], &err);
    while (r == 0 && (option = getopt(argc, argv, "n:r:d:s:")) != -1) {
        if (option == 'n')
            batches = atoi(optarg);
        else if (option == 'r')
            rounds = atoi(optarg);
        else if (option == 'd')
            snapshot = optarg;
        else if (option == 's')
            r = config_set(config, optarg, &err);
        else
            batches = 0;
    }
    r = r ? r : config_finish(config, NULL, NULL, &err);
    if (r < 0 || batches < 1 || rounds < 1 || optind != argc) {
        fprintf(stderr,
                "%s\nusage: bench_sampler [-n batches] [-r rounds] [-d snapshot] "
                "[-s option=value]...\n",
                r < 0 ? error_text(&err) : "");
        return 2;
    }
    struct store *store = snapshot ? open_store(snapshot, config) : make_store();
    enum { THREADS = 2 };
    int all = (int)store->feature_dim;
    for (int dim = 0;; dim = all) {
        double wall[THREADS][64], cpu[THREADS][64], speedup[64];
        struct rate rate;
        store->feature_dim = (uint32_t)dim;
        rounds = rounds > 64 ? 64 : rounds;
        for (int round = 0; round < rounds; round++) /* one beside the other: the machine's mood */
            for (int threads = 1; threads <= THREADS; threads++) {
                config->train_sampler_threads = threads;
                rate = run(store, config, batches);
                wall[threads - 1][round] = rate.wall;
                cpu[threads - 1][round] = rate.cpu;
                if (threads == THREADS)
                    speedup[round] = rate.wall / wall[0][round];
            }
        for (int t = 0; t < THREADS; t++) {
            qsort(wall[t], (size_t)rounds, sizeof(double), compare_double);
            qsort(cpu[t], (size_t)rounds, sizeof(double), compare_double);
            printf("%3d features, %d threads: %6.2f million edges/s (best %.2f), %6.2f per "
                   "processor second\n",
                   dim, t + 1, wall[t][rounds / 2] * 1e-6, wall[t][rounds - 1] * 1e-6,
                   cpu[t][rounds / 2] * 1e-6);
        }
        qsort(speedup, (size_t)rounds, sizeof(double), compare_double);
        printf("%3d features: %.0f edges and %.0f input nodes a batch, 2 threads %.2f times one "
               "(best %.2f), %llu allocations after %d batches\n",
               dim, rate.edges, rate.inputs, speedup[rounds / 2], speedup[rounds - 1],
               (unsigned long long)rate.allocations, WARM_UP);
        if (dim == all)
            break;
    }
    if (snapshot)
        store_close(store);
    else
        free_store(store);
    config_free(config);
    return 0;
}
