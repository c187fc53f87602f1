/* The generator. */
#include "bench/power_law.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "worker/graph/csr.h"

#define COMMUNITY_MIN 64
#define COMMUNITY_MAX 4096
/* Of the nodes of a weight or more, so many are of twice that or more: 2^-1.5. */
#define DOUBLE_SHARE 0.354
#define WEIGHT_MAX 512

struct draw {
    uint64_t key, at;
};

/* Uniform in (0, 1]. */
static double draw(struct draw *draw) {
    return 1 - (double)(rng_at(draw->key, draw->at++) >> 11) * 0x1p-53;
}

static uint64_t draw_below(struct draw *draw, uint64_t n) {
    return rng_below(rng_at(draw->key, draw->at++), n);
}

/* Nodes before they are numbered: community by community. */
struct plan {
    int32_t *begin, *end; /* [nodes] of the node's community */
    int32_t *community;
    double *upto; /* [nodes + 1] weights, added up */
};

static void plan_make(struct plan *plan, uint64_t nodes, struct draw *random) {
    plan->begin = mem_array(nodes, sizeof *plan->begin);
    plan->end = mem_array(nodes, sizeof *plan->end);
    plan->community = mem_array(nodes, sizeof *plan->community);
    plan->upto = mem_array(nodes + 1, sizeof *plan->upto);
    int32_t community = 0;
    for (uint64_t i = 0; i < nodes; community++) {
        double wanted = COMMUNITY_MIN / draw(random);
        uint64_t size = wanted < COMMUNITY_MAX ? (uint64_t)wanted : COMMUNITY_MAX;
        uint64_t end = i + size < nodes ? i + size : nodes, begin = i;
        for (; i < end; i++) {
            plan->begin[i] = (int32_t)begin;
            plan->end[i] = (int32_t)end;
            plan->community[i] = community;
        }
    }
    for (uint64_t i = 0; i < nodes; i++) {
        double u = draw(random), weight = 1;
        for (; u < DOUBLE_SHARE && weight < WEIGHT_MAX; weight *= 2)
            u /= DOUBLE_SHARE;
        plan->upto[i + 1] = plan->upto[i] + weight * (1 + draw(random));
    }
}

/* A node of from..to-1, by weight. */
static uint64_t draw_node(const struct plan *plan, struct draw *random, uint64_t from,
                          uint64_t to) {
    double spot = plan->upto[to] - draw(random) * (plan->upto[to] - plan->upto[from]);
    while (to - from > 1) {
        uint64_t middle = (from + to) / 2;
        *(plan->upto[middle] <= spot ? &from : &to) = middle;
    }
    return from;
}

static int32_t *draw_edges(const struct plan *plan, uint64_t nodes, uint64_t edges, uint64_t inside,
                           const int32_t *number, struct draw *random) {
    int32_t *ends = mem_array(2 * edges, sizeof *ends);
    for (uint64_t e = 0; e < edges; e++) {
        uint64_t a = draw_node(plan, random, 0, nodes);
        bool near = draw_below(random, 100) < inside;
        uint64_t b = near
                         ? draw_node(plan, random, (uint64_t)plan->begin[a], (uint64_t)plan->end[a])
                         : draw_node(plan, random, 0, nodes);
        ends[2 * e] = number[a];
        ends[2 * e + 1] = number[b];
    }
    return ends;
}

void power_law_sort(struct power_law *graph) {
    int64_t begin = 0, out = 0;
    for (uint64_t i = 0; i < graph->nodes; i++) {
        int32_t *row = graph->indices + begin;
        uint64_t len = csr_row_sort(row, (uint64_t)(graph->indptr[i + 1] - begin), true);
        memmove(graph->indices + out, row, len * sizeof *row);
        begin = graph->indptr[i + 1];
        out += (int64_t)len;
        graph->indptr[i + 1] = out;
    }
}

static void place_edges(struct power_law *graph, const int32_t *ends, uint64_t edges) {
    for (uint64_t e = 0; e < edges; e++)
        if (ends[2 * e] != ends[2 * e + 1]) {
            graph->indptr[ends[2 * e] + 1]++;
            graph->indptr[ends[2 * e + 1] + 1]++;
        }
    for (uint64_t i = 0; i < graph->nodes; i++)
        graph->indptr[i + 1] += graph->indptr[i];
    graph->indices = mem_array((size_t)graph->indptr[graph->nodes], sizeof *graph->indices);
    _cleanup_(mem_free_p) int64_t *cursor = mem_array(graph->nodes, sizeof *cursor);
    memcpy(cursor, graph->indptr, graph->nodes * sizeof *cursor);
    for (uint64_t e = 0; e < edges; e++)
        if (ends[2 * e] != ends[2 * e + 1]) {
            graph->indices[cursor[ends[2 * e]]++] = ends[2 * e + 1];
            graph->indices[cursor[ends[2 * e + 1]]++] = ends[2 * e];
        }
    power_law_sort(graph);
}

struct power_law power_law_make(uint64_t nodes, uint64_t edges, uint64_t inside) {
    struct draw random = {.key = rng_key(1, 0)};
    struct plan plan;
    plan_make(&plan, nodes, &random);
    _cleanup_(mem_free_p) int32_t *number = mem_array(nodes, sizeof *number);
    for (uint64_t i = 0; i < nodes; i++) {
        uint64_t j = draw_below(&random, i + 1);
        number[i] = number[j];
        number[j] = (int32_t)i;
    }
    struct power_law graph = {.nodes = nodes,
                              .indptr = mem_array(nodes + 1, sizeof *graph.indptr),
                              .community = mem_array(nodes, sizeof *graph.community)};
    for (uint64_t i = 0; i < nodes; i++)
        graph.community[number[i]] = plan.community[i];
    int32_t *ends = draw_edges(&plan, nodes, edges, inside, number, &random);
    mem_free(plan.begin);
    mem_free(plan.end);
    mem_free(plan.community);
    mem_free(plan.upto);
    place_edges(&graph, ends, edges);
    mem_free(ends);
    return graph;
}

struct power_law power_law_renumber(const struct power_law *graph, const int32_t *order) {
    uint64_t n = graph->nodes;
    struct power_law to = {.nodes = n,
                           .indptr = mem_array(n + 1, sizeof(int64_t)),
                           .indices = mem_array((size_t)graph->indptr[n], sizeof(int32_t))};
    int32_t *number = mem_array(n, sizeof *number);
    memset(number, 0xff, n * sizeof *number);
    for (uint64_t l = 0; l < n; l++)
        number[order[l]] = (int32_t)l;
    for (uint64_t i = 0; i < n; i++)
        if (number[i] < 0) {
            fprintf(stderr, "node %llu is missing in the order\n", (unsigned long long)i);
            exit(1);
        }
    for (uint64_t l = 0; l < n; l++) {
        int64_t out = to.indptr[l];
        for (int64_t e = graph->indptr[order[l]]; e < graph->indptr[order[l] + 1]; e++)
            to.indices[out++] = number[graph->indices[e]];
        to.indptr[l + 1] = out;
    }
    power_law_sort(&to);
    mem_free(number);
    return to;
}

void power_law_done(struct power_law *graph) {
    mem_free(graph->indptr);
    mem_free(graph->indices);
    mem_free(graph->community);
    *graph = (struct power_law){0};
}
