/* Times sparse times dense on a generated graph (power_law.h) whose node numbers say nothing, in
 * the order in which its nodes come and in others: the order that partitions are written in
 * (worker/graph/order.h), and what is commonly tried instead. bench_order [nodes [edges a node
 * [floats [threads [share within communities, %]]]]] Writes no files; no test runs it. Figures are
 * medians of five; the orders take turns, so a ratio is of measurements next to each other in time.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/power_law.h"
#include "common/lock.h"
#include "common/mem.h"
#include "common/rng.h"
#include "worker/graph/csr.h"
#include "worker/graph/order.h"
#include "worker/kernels/kernels.h"

#define REPEATS 5

/* Ascending by degree: a stable counting sort. */
static void order_by_degree(const struct power_law *graph, int32_t *order) {
    int64_t most = 0;
    for (uint64_t i = 0; i < graph->nodes; i++)
        if (graph->indptr[i + 1] - graph->indptr[i] > most)
            most = graph->indptr[i + 1] - graph->indptr[i];
    int64_t *cursor = mem_array((size_t)most + 2, sizeof *cursor);
    for (uint64_t i = 0; i < graph->nodes; i++)
        cursor[graph->indptr[i + 1] - graph->indptr[i] + 1]++;
    for (int64_t d = 0; d <= most; d++)
        cursor[d + 1] += cursor[d];
    for (uint64_t i = 0; i < graph->nodes; i++)
        order[cursor[graph->indptr[i + 1] - graph->indptr[i]]++] = (int32_t)i;
    mem_free(cursor);
}

static void reverse(uint64_t count, int32_t *order) {
    for (uint64_t i = 0; i < count / 2; i++) {
        int32_t swap = order[i];
        order[i] = order[count - 1 - i];
        order[count - 1 - i] = swap;
    }
}

/* Hubs first. */
static void order_hubs(const struct power_law *graph, int32_t *order) {
    order_by_degree(graph, order);
    reverse(graph->nodes, order);
}

/* Cuthill & McKee (1969), reversed (George, 1971): breadth first from a node of lowest degree,
 * neighbours by ascending degree. The list is made by dealing out nodes in the order of degree to
 * their neighbours' rows, so no row is sorted by comparing. */
static void order_rcm(const struct power_law *graph, int32_t *order) {
    uint64_t n = graph->nodes, count = 0;
    int32_t *by_degree = mem_array(n, sizeof *by_degree);
    int32_t *rows = mem_array((size_t)graph->indptr[n], sizeof *rows);
    int64_t *cursor = mem_array(n, sizeof *cursor);
    bool *seen = mem_array(n, sizeof *seen);
    order_by_degree(graph, by_degree);
    memcpy(cursor, graph->indptr, n * sizeof *cursor);
    for (uint64_t i = 0; i < n; i++)
        for (int64_t e = graph->indptr[by_degree[i]]; e < graph->indptr[by_degree[i] + 1]; e++)
            rows[cursor[graph->indices[e]]++] = by_degree[i];
    for (uint64_t start = 0, at = 0; start < n; start++) {
        if (!seen[by_degree[start]]) {
            seen[by_degree[start]] = true;
            order[count++] = by_degree[start];
        }
        for (; at < count; at++)
            for (int64_t e = graph->indptr[order[at]]; e < graph->indptr[order[at] + 1]; e++)
                if (!seen[rows[e]]) {
                    seen[rows[e]] = true;
                    order[count++] = rows[e];
                }
    }
    reverse(n, order);
    mem_free(by_degree);
    mem_free(rows);
    mem_free(cursor);
    mem_free(seen);
}

/* Breadth first, in the order of the rows. */
static void order_bfs(const struct power_law *graph, int32_t *order) {
    uint64_t count = 0;
    bool *seen = mem_array(graph->nodes, sizeof *seen);
    for (uint64_t start = 0, at = 0; start < graph->nodes; start++) {
        if (!seen[start]) {
            seen[start] = true;
            order[count++] = (int32_t)start;
        }
        for (; at < count; at++)
            for (int64_t e = graph->indptr[order[at]]; e < graph->indptr[order[at] + 1]; e++)
                if (!seen[graph->indices[e]]) {
                    seen[graph->indices[e]] = true;
                    order[count++] = graph->indices[e];
                }
    }
    mem_free(seen);
}

static void order_ours(const struct power_law *graph, int32_t *order) {
    const struct watch untold = {0};
    order_near(graph->nodes, graph->indptr, graph->indices, &untold, order, NULL);
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *items) {
    qsort(items, REPEATS, sizeof *items, compare);
    return items[REPEATS / 2];
}

static const struct {
    const char *name;
    void (*make)(const struct power_law *graph, int32_t *order);
} orders[] = {
    {"as it comes", NULL},      {"hubs first", order_hubs}, {"breadth first", order_bfs},
    {"reverse C-M", order_rcm}, {"order_near", order_ours},
};

int main(int argc, char **argv) {
    uint64_t args[] = {1000000, 10, 64, 1, 80};
    for (int i = 1; i < argc && i <= (int)ARRAY_LEN(args); i++)
        args[i - 1] = strtoull(argv[i], NULL, 10);
    uint64_t nodes = args[0], dim = args[2];
    if (nodes < 64 || nodes > CSR_NODES_MAX || !args[1] || !dim || !args[3] || args[4] > 100) {
        fprintf(stderr,
                "usage: bench_order [nodes [edges a node [floats [threads [inside %%]]]]]\n");
        return 2;
    }
    kernels_set_threads((int)args[3]);
    struct power_law graphs[ARRAY_LEN(orders)] = {power_law_make(nodes, nodes * args[1], args[4])};
    uint64_t entries = (uint64_t)graphs[0].indptr[nodes];
    printf("%llu nodes, %llu entries, %llu %% of the edges within communities, %llu floats, %llu "
           "threads, %s kernels\n",
           (unsigned long long)nodes, (unsigned long long)entries, (unsigned long long)args[4],
           (unsigned long long)dim, (unsigned long long)args[3], kernels()->name);
    double took[ARRAY_LEN(orders)] = {0}, times[ARRAY_LEN(orders)][REPEATS],
           ratios[ARRAY_LEN(orders)][REPEATS];
    int32_t *order = mem_array(nodes, sizeof *order);
    for (size_t o = 1; o < ARRAY_LEN(orders); o++) {
        uint64_t start = time_now_ns();
        orders[o].make(&graphs[0], order);
        took[o] = (double)(time_now_ns() - start) * 1e-9;
        graphs[o] = power_law_renumber(&graphs[0], order);
    }
    float *weights = mem_array(entries, sizeof *weights);
    float *x = mem_array(nodes * dim, sizeof *x), *y = mem_array(nodes * dim, sizeof *y);
    for (uint64_t e = 0; e < entries; e++)
        weights[e] = 0.05F;
    for (uint64_t i = 0; i < nodes * dim; i++)
        x[i] = rng_float(rng_at(7, i));
    for (int repeat = -1; repeat < REPEATS; repeat++) /* the first warms up */
        for (size_t o = 0; o < ARRAY_LEN(orders); o++) {
            uint64_t start = time_now_ns();
            kernels()->spmm(nodes, dim, graphs[o].indptr, graphs[o].indices, weights, NULL, x, dim,
                            y, dim);
            if (repeat >= 0) {
                times[o][repeat] = (double)(time_now_ns() - start) * 1e-6;
                ratios[o][repeat] = times[0][repeat] / times[o][repeat];
            }
        }
    printf("%-14s %12s %10s %10s %8s\n", "order", "making it, s", "spmm, ms", "GFLOP/s", "ratio");
    for (size_t o = 0; o < ARRAY_LEN(orders); o++) {
        double ms = median(times[o]);
        printf("%-14s %12.2f %10.1f %10.2f %8.2f\n", orders[o].name, took[o], ms,
               2e-6 * (double)entries * (double)dim / ms, median(ratios[o]));
    }
    for (size_t o = 0; o < ARRAY_LEN(orders); o++) {
        power_law_done(&graphs[o]);
    }
    mem_free(order);
    mem_free(weights);
    mem_free(x);
    mem_free(y);
    return 0;
}
