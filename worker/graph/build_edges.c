/* Edges of a snapshot under construction, and the end of it: numbers in the order of ids. */
#include <malloc.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "worker/graph/build.h"

int build_edges_begin(struct build *build, bool weights, bool types, struct error *reterr) {
    if (types)
        build->type_ids = ids_new();
    weights |= build->options->dedup == DEDUP_SUM; /* of edges that weigh 1 when nothing is said */
    return edges_new(build->tmp, weights, types, &build->edges, reterr);
}

static void aside_add(struct aside *aside, const struct edge_batch *batch) {
    size_t cols = batch->types ? 3 : 2;
    if (aside->count + batch->n > aside->cap) {
        uint64_t cap = 2 * (aside->count + batch->n);
        aside->items = mem_resize(aside->items, aside->cap * cols * sizeof *aside->items,
                                  cap * cols * sizeof *aside->items);
        aside->cap = cap;
    }
    for (size_t i = 0; i < batch->n; i++) {
        int32_t *item = aside->items + (aside->count + i) * cols;
        item[0] = batch->from[i];
        item[1] = batch->to[i];
        if (batch->types)
            item[2] = batch->types[i];
    }
    aside->count += batch->n;
}

int build_edges(struct build *build, enum split kind, const struct edge_batch *batch,
                struct error *reterr) {
    if (kind == SPLIT_TRAIN) {
        build->summary->edges_read += batch->n;
        return edges_add(build->edges, batch, reterr);
    }
    aside_add(kind == SPLIT_VALID ? &build->valid_edges : &build->test_edges, batch);
    return 0;
}

/* Columns to where their nodes are now. */
static void renumber_columns(struct build *build, const int32_t *numbers) {
    int32_t *labels = mem_array(build->nodes + 1, sizeof *labels);
    uint8_t *split = mem_alloc(build->nodes + 1);
    uint8_t *types = build->node_types ? mem_alloc(build->nodes + 1) : NULL;
    size_t row = build->targets ? build->classes : 0;
    float *targets = build->targets ? mem_array((build->nodes + 1) * row, sizeof *targets) : NULL;
    for (uint64_t i = 0; i < build->nodes; i++) {
        labels[numbers[i]] = build->labels[i];
        if (targets)
            memcpy(targets + (uint64_t)numbers[i] * row, build->targets + i * row,
                   row * sizeof *targets);
        split[numbers[i]] = build->split[i];
        if (types)
            types[numbers[i]] = build->node_types[i];
    }
    mem_free(build->labels);
    mem_free(build->split);
    mem_free(build->node_types);
    mem_free(build->targets);
    build->targets = targets;
    build->labels = labels;
    build->split = split;
    build->node_types = types;
    for (uint64_t i = 0; i < build->label_pair_count; i++)
        build->label_pairs[2 * i] = numbers[build->label_pairs[2 * i]];
}

static void renumber_aside(struct aside *aside, const int32_t *nodes, const int32_t *types,
                           bool typed) {
    size_t cols = typed ? 3 : 2;
    for (uint64_t i = 0; i < aside->count; i++) {
        int32_t *item = aside->items + i * cols;
        if (nodes) {
            item[0] = nodes[item[0]];
            item[1] = nodes[item[1]];
        }
        if (typed && types)
            item[2] = types[item[2]];
    }
}

/* Sums may have left what 32 bits hold. */
static int check_sums(const struct build *build, struct error *reterr) {
    const struct edges_csr *csr = &build->csr;
    char from[96], to[96];
    uint64_t row = 0;
    for (int64_t e = 0; csr->weights && e < csr->indptr[build->nodes]; e++) {
        while (csr->indptr[row + 1] <= e)
            row++;
        if (!isfinite(csr->weights[e]))
            return error_set(
                reterr, ERR_NOT_FINITE,
                "--dedup sum: the weights of the edges from %s to %s are beyond 32 bits together",
                build_name(build, (uint64_t)csr->indices[e], from, sizeof from),
                build_name(build, row, to, sizeof to));
    }
    return 0;
}

int build_finish(struct build *build, struct error *reterr) {
    _cleanup_(mem_free_p) int32_t *nodes = NULL, *types = NULL;
    if (build->nodes == 0)
        return error_set(reterr, ERR_FORMAT, "%s: there are no nodes, for there are no edges",
                         build->nodes_path ? build->nodes_path : build->options->source);
    /* Ids that only edges and labels named came in no order that means anything. */
    if (build->open && build->ids && ids_integers(build->ids) && !ids_trivial(build->ids)) {
        nodes = mem_raw((build->nodes + 1) * sizeof *nodes);
        ids_sort(build->ids, nodes);
        renumber_columns(build, nodes);
    }
    if (build->type_ids && ids_integers(build->type_ids) && !ids_trivial(build->type_ids)) {
        types = mem_raw((ids_count(build->type_ids) + 1) * sizeof *types);
        ids_sort(build->type_ids, types);
    }
    renumber_aside(&build->valid_edges, nodes, types, build->type_ids != NULL);
    renumber_aside(&build->test_edges, nodes, types, build->type_ids != NULL);
    struct edges_rule rule = {.nodes = build->nodes,
                              .undirected = build->undirected,
                              .self_loops = build->options->self_loops,
                              .dedup = build->options->dedup};
    malloc_trim(0); /* what parsing took and has given back is in pieces of the heap */
    int r = build_progress(build, "edges to rows", 0, 0, reterr);
    if (r < 0)
        return r;
    rule.node_numbers = TAKE_PTR(nodes);
    rule.type_numbers = TAKE_PTR(types);
    r = edges_build(build->edges, &rule, &build->csr, reterr);
    if (r == 0 && rule.dedup == DEDUP_SUM)
        r = check_sums(build, reterr);
    if (r == 0)
        r = build_hold_out(build, reterr);
    if (r < 0)
        return r;
    build->edges = edges_free(build->edges);
    struct import_summary *summary = build->summary;
    summary->edges = (uint64_t)build->csr.indptr[build->nodes];
    summary->self_loops = build->csr.self_loops;
    summary->repeats = build->csr.repeats;
    summary->symmetric = build->csr.symmetric;
    summary->weighted = build->csr.weights != NULL;
    summary->valid_edges = build->valid_edges.count;
    summary->test_edges = build->test_edges.count;
    return 0;
}
