/* Times the attention kernels on a generated graph (power_law.h), by default about as many nodes
 * and entries as ogbn-arxiv has in both directions, in the order in which partitions are written
 * (worker/graph/order.h) or, with near 0, in one that says nothing; with reference 0 the fast twin
 * alone.
 *     bench_attention [near [dropout % [reference [nodes [edges a node]]]]]
 * Writes no files; no test runs it. Times are medians of five and the best of them; of the
 * reference, which is slow, a single one. FLOP are the multiplications and additions of the
 * formulas in attention.h for each edge and column, alpha's own not counted; bytes are the rows,
 * scores and numbers that each edge asks for, wherever they are found, and each array that is gone
 * through once. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/power_law.h"
#include "common/lock.h"
#include "common/mem.h"
#include "common/rng.h"
#include "worker/graph/csr.h"
#include "worker/graph/order.h"
#include "worker/kernels/attention.h"
#include "worker/kernels/kernels.h"

#define REPEATS 5

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static float *random_floats(size_t count, uint64_t seed) {
    float *x = mem_array(count, sizeof *x);
    for (size_t i = 0; i < count; i++)
        x[i] = rng_float(rng_at(rng_key(seed, 1), i)) - 0.5F;
    return x;
}

/* What one edge, and one node, costs for each column and for each head. */
struct cost {
    const char *name;
    double edge_flop;                         /* a column */
    double edge_rows, edge_heads, edge_other; /* floats: a column, a head, an edge */
    double node_rows, node_heads;             /* floats: a column, a head */
};

enum { GAT_SCORES, GAT_FORWARD, GAT_BACKWARD, GATV2_FORWARD, GATV2_BACKWARD, CALLS };

static const struct cost costs[CALLS] = {
    /* GAT forward: z and s_src of the source. Backward: dy and s_dst, max, 1 / sum, D of the
     * destination, ds_dst read and written; then y and dy for D, and z, dz, dz. */
    [GAT_SCORES] = {"GAT scores", 0, 0, 0, 0, 1, 2},
    [GAT_FORWARD] = {"GAT forward", 2, 1, 1, 1, 1, 3},
    [GAT_BACKWARD] = {"GAT backward", 4, 1, 6, 1, 7, 12},
    /* GATv2 forward: zl. Backward: zl by destination; zr, dy, max, 1 / sum, D by source. */
    [GATV2_FORWARD] = {"GATv2 forward", 6, 1, 0, 1, 2, 2},
    [GATV2_BACKWARD] = {"GATv2 backward", 20, 3, 3, 2, 8, 8},
};

struct arrays {
    float *z, *zr, *a_src, *a_dst, *dy, *s_src, *s_dst, *y, *max, *sum, *dz, *dzr, *da_src, *da_dst;
    float *scratch;
};

static void call(const struct attention_kernels *twin, int which, const struct attention *at,
                 struct arrays *x) {
    size_t d = at->heads * at->width;
    switch (which) {
    case GAT_SCORES:
        return twin->gat_scores(at, x->z, d, x->a_src, x->a_dst, x->s_src, x->s_dst);
    case GAT_FORWARD:
        return twin->gat_forward(at, x->z, d, x->s_src, x->s_dst, x->y, d, x->max, x->sum);
    case GAT_BACKWARD:
        return twin->gat_backward(at, x->z, d, x->a_src, x->a_dst, x->s_src, x->s_dst, x->max,
                                  x->sum, x->y, d, x->dy, d, x->scratch, x->dz, d, x->da_src,
                                  x->da_dst);
    case GATV2_FORWARD:
        return twin->gatv2_forward(at, x->z, d, x->zr, d, x->a_src, x->y, d, x->max, x->sum);
    case GATV2_BACKWARD:
        return twin->gatv2_backward(at, x->z, d, x->zr, d, x->a_src, x->max, x->sum, x->y, d, x->dy,
                                    d, x->scratch, x->dz, d, x->dzr, d, x->da_src);
    }
}

static void time_twin(const struct attention_kernels *twin, struct attention *at, int threads,
                      struct arrays *x) {
    double edges = (double)at->indptr[at->n_dst] + (double)at->n_dst, nodes = (double)at->n_dst;
    double d = (double)(at->heads * at->width), heads = (double)at->heads;
    kernels_set_threads(threads);
    at->parts = (size_t)threads;
    for (int which = 0; which < CALLS; which++) {
        const struct cost *cost = &costs[which];
        double times[REPEATS];
        int repeats = twin == &attention_ref ? 1 : REPEATS;
        for (int repeat = repeats > 1 ? -1 : 0; repeat < repeats; repeat++) { /* -1 warms up */
            uint64_t start = time_now_ns();
            call(twin, which, at, x);
            if (repeat >= 0)
                times[repeat] = (double)(time_now_ns() - start) * 1e-6;
        }
        qsort(times, (size_t)repeats, sizeof *times, compare);
        double ms = times[repeats / 2];
        double floats =
            edges * (cost->edge_rows * d + cost->edge_heads * heads + cost->edge_other) +
            nodes * (cost->node_rows * d + cost->node_heads * heads);
        printf("%zu x %-3zu %-5s %2d  %-15s %9.1f ms (best %.1f) %8.2f GFLOP/s %8.2f GB/s\n",
               at->heads, at->width, twin->name, threads, cost->name, ms, times[0],
               edges * cost->edge_flop * d / ms * 1e-6, floats * 4 / ms * 1e-6);
    }
}

static void time_shape(const struct power_law *graph, size_t heads, size_t width, float p,
                       bool reference) {
    size_t n = graph->nodes, d = heads * width;
    int64_t *nodes = mem_array(n, sizeof *nodes);
    for (size_t i = 0; i < n; i++)
        nodes[i] = (int64_t)i;
    struct attention at = {.n_dst = n,
                           .n_src = n,
                           .heads = heads,
                           .width = width,
                           .indptr = graph->indptr,
                           .indices = graph->indices,
                           .t_indptr = graph->indptr, /* it is symmetric */
                           .t_indices = graph->indices,
                           .slope = 0.2F,
                           .p = p,
                           .key = 1,
                           .nodes = nodes,
                           .parts = 2};
    size_t gat = attention_gat_scratch(&at), gatv2 = attention_gatv2_scratch(&at);
    struct arrays x = {.scratch = mem_array(gat > gatv2 ? gat : gatv2, sizeof(float))};
    float **in[] = {&x.z, &x.zr, &x.a_src, &x.a_dst, &x.dy};
    for (size_t i = 0; i < ARRAY_LEN(in); i++)
        *in[i] = random_floats(n * d, i);
    float **rows[] = {&x.y, &x.dz, &x.dzr, &x.da_src, &x.da_dst};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        *rows[i] = mem_array(n * d, sizeof(float));
    float **scores[] = {&x.s_src, &x.s_dst, &x.max, &x.sum};
    for (size_t i = 0; i < ARRAY_LEN(scores); i++)
        *scores[i] = mem_array(n * heads, sizeof(float));
    const struct attention_kernels *twins[] = {&attention_ref, attention_avx2()};
    for (size_t t = ARRAY_LEN(twins); t-- > !reference;)
        for (int threads = 1; twins[t] && threads <= 2; threads++)
            time_twin(twins[t], &at, threads, &x);
    for (size_t i = 0; i < ARRAY_LEN(in); i++)
        mem_free(*in[i]);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        mem_free(*rows[i]);
    for (size_t i = 0; i < ARRAY_LEN(scores); i++)
        mem_free(*scores[i]);
    mem_free(x.scratch);
    mem_free(nodes);
}

int main(int argc, char **argv) {
    uint64_t args[] = {1, 0, 1, 169343, 7};
    for (int i = 1; i < argc && i <= (int)ARRAY_LEN(args); i++)
        args[i - 1] = strtoull(argv[i], NULL, 10);
    uint64_t nodes = args[3];
    if (args[1] > 99 || nodes < 64 || nodes > CSR_NODES_MAX || !args[4]) {
        fprintf(stderr,
                "usage: bench_attention [near [dropout %% [reference [nodes [edges a node]]]]]\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct power_law graph = power_law_make(nodes, nodes * args[4], 80);
    if (args[0]) {
        const struct watch untold = {0};
        int32_t *order = mem_array(nodes, sizeof *order);
        order_near(nodes, graph.indptr, graph.indices, &untold, order, NULL);
        struct power_law near = power_law_renumber(&graph, order);
        power_law_done(&graph);
        graph = near;
        mem_free(order);
    }
    printf("%llu nodes, %lld entries, %s, dropout %llu %%\n", (unsigned long long)nodes,
           (long long)graph.indptr[nodes], args[0] ? "near order" : "no order",
           (unsigned long long)args[1]);
    time_shape(&graph, 8, 8, (float)args[1] / 100, args[2]);
    time_shape(&graph, 4, 64, (float)args[1] / 100, args[2]);
    power_law_done(&graph);
    return 0;
}
