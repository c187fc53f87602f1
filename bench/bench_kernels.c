/* How near each kernel of the training comes to what the machine can do: to the rate at which one
 * array is added to another (triad: two read, one written), or to that of a product of large square
 * matrices, both measured here with as many threads.
 *     bench_kernels [threads [nodes]]
 * Best of some runs, by processor time over threads, so that other work on the machine shows less.
 * GB/s count the bytes that a kernel asks for; a row that several edges read counts for each, so
 * where rows come again out of the cache the figure exceeds memory's. Writes no files; no test runs
 * it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/power_law.h"
#include "common/mem.h"
#include "common/rng.h"
#include "worker/cpus.h"
#include "worker/graph/snapshot.h"
#include "worker/graph/store.h"
#include "worker/kernels/attention.h"
#include "worker/kernels/kernels.h"
#include "worker/model/loss.h"

#define REPEATS 7
enum { WIDTH = 256, CLASSES = 40, HEADS = 4 };

/* What the kernels run on: a graph and arrays of rows as wide as the widest layer. */
struct bench {
    size_t n, edges, threads;
    struct power_law graph;
    float *edge_weights, *x, *y, *dense; /* [edges], [n, WIDTH] twice, [WIDTH, WIDTH] */
    float *scores[4], *scratch, *rows[3];
    uint8_t *mask, *split;
    int32_t *labels, *order;
    int64_t *nodes;
    struct store store;
    const struct kernels *kernels;
    double triad, gemm; /* GB/s and GFLOP/s to compare with */
    size_t d, m, k;     /* of the case at hand */
};

static double cpu_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static double best_seconds(struct bench *bench, void (*run)(struct bench *)) {
    double best = 1e9;
    for (int repeat = -1; repeat < REPEATS; repeat++) {
        double begin = cpu_seconds();
        run(bench);
        double seconds = (cpu_seconds() - begin) / (double)bench->threads;
        best = seconds < best ? seconds : best;
    }
    return best;
}

static void triad(struct bench *bench) {
    float *y = bench->y, *x = bench->x;
    size_t half = bench->n * WIDTH / 2;
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < half; i++)
        y[i] = x[i] + 0.5F * x[half + i];
}

static void square(struct bench *bench) {
    gemm(false, false, 2048, 2048, 2048, 1, bench->x, 2048, bench->x, 2048, 0, bench->y, 2048);
}

static void spmm(struct bench *bench) {
    bench->kernels->spmm(bench->n, bench->d, bench->graph.indptr, bench->graph.indices,
                         bench->edge_weights, NULL, bench->x, bench->d, bench->y, bench->d);
}

static void gemm_rows(struct bench *bench) {
    gemm(false, false, bench->n, bench->m, bench->k, 1, bench->x, bench->k, bench->dense, bench->m,
         0, bench->y, bench->m);
}

static void gemm_rows_back(struct bench *bench) {
    gemm(false, true, bench->n, bench->k, bench->m, 1, bench->x, bench->m, bench->dense, bench->m,
         0, bench->y, bench->k);
}

static void gemm_weights(struct bench *bench) {
    gemm(true, false, bench->k, bench->m, bench->n, 1, bench->x, bench->k, bench->y, bench->m, 0,
         bench->dense, bench->m);
}

static struct attention attention(struct bench *bench) {
    return (struct attention){.n_dst = bench->n,
                              .n_src = bench->n,
                              .heads = HEADS,
                              .width = WIDTH / HEADS,
                              .indptr = bench->graph.indptr,
                              .indices = bench->graph.indices,
                              .t_indptr = bench->graph.indptr, /* it is symmetric */
                              .t_indices = bench->graph.indices,
                              .slope = 0.2F,
                              .nodes = bench->nodes,
                              .parts = bench->threads};
}

static void attention_forward(struct bench *bench) {
    struct attention at = attention(bench);
    float **s = bench->scores;
    attention_kernels()->gat_forward(&at, bench->x, WIDTH, s[0], s[1], bench->rows[0], WIDTH, s[2],
                                     s[3]);
}

static void attention_backward(struct bench *bench) {
    struct attention at = attention(bench);
    float **s = bench->scores;
    attention_kernels()->gat_backward(&at, bench->x, WIDTH, bench->dense, bench->dense + WIDTH,
                                      s[0], s[1], s[2], s[3], bench->rows[0], WIDTH, bench->rows[1],
                                      WIDTH, bench->scratch, bench->rows[2], WIDTH,
                                      bench->dense + 2 * WIDTH, bench->dense + 3 * WIDTH);
}

static void loss(struct bench *bench) {
    struct model_result result;
    loss_forward(bench->n, CLASSES, bench->x, bench->labels, bench->split, 0, &result);
    loss_backward(bench->n, CLASSES, bench->x, bench->labels, bench->split, NULL, 1, 0, bench->y);
}

static void gather(struct bench *bench) {
    store_take_features(&bench->store, bench->order, bench->n, bench->y);
}

static void relu(struct bench *bench) {
    bench->kernels->bias_act_dropout(bench->n, WIDTH, bench->y, bench->dense, true, 0, 1,
                                     bench->nodes, bench->mask);
}

static void dropout(struct bench *bench) {
    bench->kernels->bias_act_dropout(bench->n, WIDTH, bench->y, bench->dense, true, 0.5F, 1,
                                     bench->nodes, bench->mask);
}

static void mask_scale(struct bench *bench) {
    bench->kernels->mask_scale(bench->n * WIDTH, bench->y, bench->mask, 0.5F);
}

static void show(struct bench *bench, const char *name, void (*run)(struct bench *), double bytes,
                 double flop) {
    double seconds = best_seconds(bench, run), gbs = bytes / seconds * 1e-9;
    printf("%-24s %8.2f ms  %7.1f GB/s %4.2f of triad  %7.1f GFLOP/s %4.2f of gemm\n", name,
           seconds * 1e3, gbs, gbs / bench->triad, flop / seconds * 1e-9,
           flop / seconds * 1e-9 / bench->gemm);
}

static void show_wide(struct bench *bench, const char *what, void (*run)(struct bench *), size_t k,
                      size_t m, double rows) {
    char name[64];
    double n = (double)bench->n;
    bench->k = k;
    bench->m = m;
    snprintf(name, sizeof name, "%s %zu x %zu", what, k, m);
    show(bench, name, run, rows * n * 4, 2 * n * (double)(k * m));
}

static void show_all(struct bench *bench) {
    static const size_t widths[] = {CLASSES, 128, WIDTH};
    const struct kernels *twins[] = {kernels_avx2(), kernels_avx512()};
    double n = (double)bench->n, edges = (double)bench->edges;
    for (size_t t = 0; t < ARRAY_LEN(twins); t++) {
        if (!twins[t])
            continue;
        bench->kernels = twins[t];
        for (size_t w = 0; w < ARRAY_LEN(widths); w++) {
            char name[64];
            double d = (double)(bench->d = widths[w]);
            snprintf(name, sizeof name, "%s spmm %zu", twins[t]->name, widths[w]);
            show(bench, name, spmm, edges * (4 * d + 8) + n * (4 * d + 8), 2 * edges * d);
        }
        printf("%s:\n", twins[t]->name);
        show(bench, "  bias, relu", relu, n * WIDTH * 9, 0);
        show(bench, "  bias, relu, dropout", dropout, n * WIDTH * 9, 0);
        show(bench, "  mask", mask_scale, n * WIDTH * 9, 0);
    }
    show_wide(bench, "X W", gemm_rows, 128, WIDTH, 128 + WIDTH);
    show_wide(bench, "X W", gemm_rows, WIDTH, WIDTH, WIDTH + WIDTH);
    show_wide(bench, "X W", gemm_rows, WIDTH, CLASSES, WIDTH + CLASSES);
    show_wide(bench, "dY W^T", gemm_rows_back, WIDTH, WIDTH, WIDTH + WIDTH);
    show_wide(bench, "dY W^T", gemm_rows_back, WIDTH, CLASSES, WIDTH + CLASSES);
    show_wide(bench, "X^T dY", gemm_weights, 128, WIDTH, 128 + WIDTH);
    show_wide(bench, "X^T dY", gemm_weights, WIDTH, WIDTH, WIDTH + WIDTH);
    show_wide(bench, "X^T dY", gemm_weights, WIDTH, CLASSES, WIDTH + CLASSES);
    for (size_t i = 0; i < WIDTH * WIDTH; i++)
        bench->dense[i] = rng_float(rng_at(2, i)) * 0.1F;
    show(bench, "GAT 4 x 64", attention_forward, (edges + n) * (4 * WIDTH + 20), 0);
    show(bench, "GAT 4 x 64 backward", attention_backward, (edges + n) * (4 * WIDTH + 40), 0);
    show(bench, "cross-entropy, both ways", loss, n * CLASSES * 12, 0);
    show(bench, "gather of 128", gather, n * 128 * 8, 0);
}

static void bench_init(struct bench *bench) {
    size_t n = bench->n;
    bench->graph = power_law_make(n, 7 * n, 80);
    bench->edges = (size_t)bench->graph.indptr[n];
    bench->edge_weights = mem_array(bench->edges, sizeof(float));
    for (size_t e = 0; e < bench->edges; e++)
        bench->edge_weights[e] = rng_float(rng_at(1, e));
    bench->x = mem_array(n * WIDTH, sizeof(float));
    bench->y = mem_array(n * WIDTH, sizeof(float));
    bench->dense = mem_array((size_t)WIDTH * WIDTH, sizeof(float));
    bench->mask = mem_array(n * WIDTH, 1);
    bench->split = mem_array(n, 1);
    bench->labels = mem_array(n, sizeof *bench->labels);
    bench->order = mem_array(n, sizeof *bench->order);
    bench->nodes = mem_array(n, sizeof *bench->nodes);
    for (size_t i = 0; i < ARRAY_LEN(bench->scores); i++)
        bench->scores[i] = mem_array(n * HEADS, sizeof(float));
    for (size_t i = 0; i < ARRAY_LEN(bench->rows); i++)
        bench->rows[i] = mem_array(n * WIDTH, sizeof(float));
    for (size_t i = 0; i < n; i++) {
        bench->split[i] = SPLIT_TRAIN;
        bench->labels[i] = (int32_t)(i % CLASSES);
        bench->order[i] = (int32_t)rng_below(rng_at(5, i), n);
        bench->nodes[i] = (int64_t)i;
    }
    for (size_t i = 0; i < n * WIDTH; i++) {
        bench->x[i] = rng_float(rng_at(2, i));
        bench->rows[1][i] = bench->x[i] * 1e-3F;
    }
    struct attention at = attention(bench);
    bench->scratch = mem_array(attention_gat_scratch(&at), sizeof(float));
    bench->store = (struct store){.feature_dim = 128, .features = bench->x};
}

int main(int argc, char **argv) {
    cpus_yield_when_idle(argv);
    struct bench bench = {.threads = argc > 1 ? (size_t)atoi(argv[1]) : 1,
                          .n = argc > 2 ? (size_t)atoi(argv[2]) : 169343};
    if (bench.threads < 1 || bench.n < 32768) {
        fprintf(stderr, "usage: bench_kernels [threads [nodes, at least 32768]]\n");
        return 2;
    }
    kernels_set_threads((int)bench.threads);
    bench_init(&bench);
    bench.triad = (double)bench.n * WIDTH / 2 * 12 / best_seconds(&bench, triad) * 1e-9;
    bench.gemm = 2.0 * 2048 * 2048 * 2048 / best_seconds(&bench, square) * 1e-9;
    printf("%zu threads, OpenBLAS for %s; %zu nodes, %zu entries\ntriad %.1f GB/s, gemm %.1f "
           "GFLOP/s\n",
           bench.threads, kernels_blas(), bench.n, bench.edges, bench.triad, bench.gemm);
    show_all(&bench);
    power_law_done(&bench.graph);
    return 0;
}
