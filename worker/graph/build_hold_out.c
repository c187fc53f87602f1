/* Edges set aside for link prediction: drawn from the graph where the import was told to, and taken
 * out of what messages travel on wherever they are from. */
#include <math.h>
#include <stdlib.h>

#include "common/mem.h"
#include "common/rng.h"
#include "worker/graph/build.h"

/* An entry of the graph: row, source, type. */
struct held {
    int32_t target, source, type;
    enum split split;
};

static int compare(const void *a, const void *b) {
    const struct held *x = a, *y = b;
    if (x->target != y->target)
        return x->target < y->target ? -1 : 1;
    if (x->source != y->source)
        return x->source < y->source ? -1 : 1;
    return (x->type > y->type) - (x->type < y->type);
}

/* Is an edge the same as its inverse? Of a graph with types, whose relations have a direction, only
 * if the import was told so. */
static bool both_ways(const struct build *build) {
    return build->undirected || (build->csr.symmetric && !build->csr.types);
}

/* The first entry of a row whose source is not below one. */
static int64_t row_find(const struct edges_csr *csr, int32_t row, int32_t source) {
    int64_t low = csr->indptr[row], high = csr->indptr[row + 1];
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (csr->indices[middle] < source)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Of all entries between two nodes one stands for the pair. */
static bool stands_for_pair(const struct edges_csr *csr, int32_t row, int64_t e) {
    int32_t source = csr->indices[e];
    if (source == row || (e > csr->indptr[row] && csr->indices[e - 1] == source))
        return false;
    int64_t inverse = source < row ? -1 : row_find(csr, source, row);
    return inverse < 0 || inverse == csr->indptr[source + 1] || csr->indices[inverse] != row;
}

static uint64_t count_pairs(const struct edges_csr *csr, uint64_t nodes) {
    uint64_t count = 0;
    for (uint64_t i = 0; i < nodes; i++)
        for (int64_t e = csr->indptr[i]; e < csr->indptr[i + 1]; e++)
            count += stands_for_pair(csr, (int32_t)i, e);
    return count;
}

/* How many of pairs, [0] valid, [1] test; rounded where they end, as build_split_ratio does. */
static int reckon_shares(const struct build *build, uint64_t pairs, uint64_t ret[2],
                         struct error *reterr) {
    const double *share = build->options->hold_out;
    uint64_t valid = (uint64_t)llround(share[0] * (double)pairs);
    uint64_t both = (uint64_t)llround((share[0] + share[1]) * (double)pairs);
    ret[0] = valid;
    ret[1] = both - valid;
    for (int k = 0; k < 2; k++)
        if (share[k] > 0 && ret[k] == 0)
            return error_set(reterr, ERR_RANGE,
                             "--hold-out: %g of %llu pairs of nodes with edges is none", share[k],
                             (unsigned long long)pairs);
    if (both >= pairs)
        return error_set(reterr, ERR_RANGE,
                         "--hold-out: of %llu pairs of nodes with edges none is left in the graph",
                         (unsigned long long)pairs);
    return 0;
}

/* The edges from source to row, repeats once. turn: each is as good as its inverse, and is turned
 * at random, so that its ends do not tell which is the target. */
static int set_aside(struct build *build, enum split split, int32_t row, int32_t source, bool turn,
                     struct error *reterr) {
    const struct edges_csr *csr = &build->csr;
    uint64_t key = rng_key(build->options->split_seed, 0x7475726e);
    int64_t begin = row_find(csr, row, source), end = csr->indptr[row + 1];
    int r = 0;
    for (int64_t e = begin; r == 0 && e < end && csr->indices[e] == source; e++) {
        if (e > begin && (!csr->types || csr->types[e - 1] == csr->types[e]))
            continue;
        bool turned = turn && (rng_at(key, (uint64_t)e) & 1);
        const struct edge_batch batch = {.n = 1,
                                         .from = turned ? &row : &source,
                                         .to = turned ? &source : &row,
                                         .types = csr->types ? &csr->types[e] : NULL};
        r = build_edges(build, split, &batch, reterr);
    }
    return r;
}

/* Draws pairs of nodes: with a pair go all edges between the two, in either direction and of every
 * type, so that nobody learns from an edge what its inverse is asked for. Selection sampling
 * (Knuth, TAOCP vol. 2, 3.4.2, algorithm S), for both sets in one pass: each of their size is
 * equally likely. */
static int draw(struct build *build, bool both, struct error *reterr) {
    const struct edges_csr *csr = &build->csr;
    uint64_t left = count_pairs(csr, build->nodes), want[2];
    int r = reckon_shares(build, left, want, reterr);
    uint64_t key = rng_key(build->options->split_seed, 0x686f6c64);
    for (uint64_t i = 0; r == 0 && i < build->nodes; i++)
        for (int64_t e = csr->indptr[i]; r == 0 && e < csr->indptr[i + 1]; e++) {
            int32_t row = (int32_t)i, source = csr->indices[e];
            if (!stands_for_pair(csr, row, e))
                continue;
            uint64_t at = rng_below(rng_at(key, left), left);
            left--;
            if (at >= want[0] + want[1])
                continue;
            bool test = at >= want[0];
            want[test]--;
            enum split split = test ? SPLIT_TEST : SPLIT_VALID;
            r = set_aside(build, split, row, source, both, reterr);
            if (r == 0 && !both)
                r = set_aside(build, split, source, row, false, reterr);
        }
    return r;
}

static size_t list(const struct aside *aside, enum split split, bool typed, bool both,
                   struct held *held) {
    size_t cols = typed ? 3 : 2, n = 0;
    for (uint64_t i = 0; i < aside->count; i++) {
        const int32_t *item = aside->items + i * cols;
        int32_t type = typed ? item[2] : 0;
        held[n++] = (struct held){item[1], item[0], type, split};
        if (both && item[0] != item[1])
            held[n++] = (struct held){item[0], item[1], type, split};
    }
    return n;
}

/* Edges that are both for choosing a model and for testing it. held: sorted. */
static uint64_t count_in_both(const struct held *held, size_t n, bool both) {
    uint64_t count = 0;
    for (size_t begin = 0, end; begin < n; begin = end) {
        bool valid = false, test = false;
        for (end = begin; end < n && compare(&held[begin], &held[end]) == 0; end++) {
            valid |= held[end].split == SPLIT_VALID;
            test |= held[end].split == SPLIT_TEST;
        }
        count += valid && test && (!both || held[begin].source <= held[begin].target);
    }
    return count;
}

/* The entries of held [n], sorted, leave the graph; returns how many did. */
static uint64_t take_out(struct edges_csr *csr, uint64_t nodes, const struct held *held, size_t n) {
    int64_t begin = 0, out = 0;
    size_t at = 0;
    for (uint64_t i = 0; i < nodes; i++) {
        int64_t end = csr->indptr[i + 1];
        for (int64_t e = begin; e < end; e++) {
            const struct held here = {(int32_t)i, csr->indices[e], csr->types ? csr->types[e] : 0,
                                      SPLIT_NONE};
            while (at < n && compare(&held[at], &here) < 0)
                at++;
            if (at < n && compare(&held[at], &here) == 0)
                continue;
            csr->indices[out] = csr->indices[e];
            if (csr->types)
                csr->types[out] = csr->types[e];
            if (csr->weights)
                csr->weights[out] = csr->weights[e];
            out++;
        }
        begin = end;
        csr->indptr[i + 1] = out;
    }
    return (uint64_t)(begin - out);
}

static void remark_in_both(struct build *build, uint64_t count) {
    if (count == 0)
        return;
    const struct import_options *options = build->options;
    _cleanup_(mem_free_p) char *text =
        mem_printf("%llu of the test edges are validation edges too", (unsigned long long)count);
    build_remark(build, options->test_edges ? options->test_edges : options->source, text);
}

int build_hold_out(struct build *build, struct error *reterr) {
    const double *share = build->options->hold_out;
    bool both = both_ways(build), typed = build->csr.types != NULL;
    int r = build_progress(build, "edges set aside", 0, 0, reterr);
    if (r == 0 && (share[0] > 0 || share[1] > 0))
        r = draw(build, both, reterr);
    uint64_t count = build->valid_edges.count + build->test_edges.count;
    if (r < 0 || count == 0)
        return r;
    _cleanup_(mem_free_p) struct held *held = mem_array(2 * count, sizeof *held);
    size_t n = list(&build->valid_edges, SPLIT_VALID, typed, both, held);
    n += list(&build->test_edges, SPLIT_TEST, typed, both, held + n);
    qsort(held, n, sizeof *held, compare);
    remark_in_both(build, count_in_both(held, n, both));
    uint64_t left = take_out(&build->csr, build->nodes, held, n);
    build->summary->set_aside = left;
    if (left > 0 && !build->undirected)
        build->csr.symmetric = csr_symmetric(build->csr.indptr, build->csr.indices, build->nodes);
    return 0;
}
