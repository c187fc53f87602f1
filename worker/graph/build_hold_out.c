/* Edges that an import sets aside by itself. Whether one is drawn depends on its two ends alone,
 * whichever comes first: so all that lie between two nodes leave the graph together, and nobody
 * learns from an edge what its inverse is asked for. */
#include <stdlib.h>

#include "common/mem.h"
#include "common/rng.h"
#include "worker/graph/build.h"

static enum split draw(const struct build *build, int32_t from, int32_t to) {
    const double *shares = build->options->hold_out;
    if (from == to)
        return SPLIT_TRAIN;
    uint64_t low = (uint64_t)(from < to ? from : to), high = (uint64_t)(from < to ? to : from);
    uint64_t key = rng_key(build->options->split_seed, 0x686f6c64);
    double at = (double)(rng_at(key, high << 32 | low) >> 11) * 0x1p-53;
    return at < shares[0] ? SPLIT_VALID : at < shares[0] + shares[1] ? SPLIT_TEST : SPLIT_TRAIN;
}

int build_hold_out(struct build *build, const struct edge_batch *batch, struct error *reterr) {
    struct columns {
        int32_t *from, *to, *types;
        float *weights;
        size_t n;
    } dealt[3] = {0};
    static const enum split splits[] = {SPLIT_TRAIN, SPLIT_VALID, SPLIT_TEST};
    int r = 0;
    for (size_t k = 0; k < ARRAY_LEN(dealt); k++)
        dealt[k] = (struct columns){
            .from = mem_raw(batch->n * sizeof(int32_t)),
            .to = mem_raw(batch->n * sizeof(int32_t)),
            .types = batch->types ? mem_raw(batch->n * sizeof(int32_t)) : NULL,
            .weights = batch->weights ? mem_raw(batch->n * sizeof(float)) : NULL,
        };
    for (size_t i = 0; i < batch->n; i++) {
        struct columns *to = &dealt[draw(build, batch->from[i], batch->to[i]) - SPLIT_TRAIN];
        to->from[to->n] = batch->from[i];
        to->to[to->n] = batch->to[i];
        if (to->types)
            to->types[to->n] = batch->types[i];
        if (to->weights)
            to->weights[to->n] = batch->weights[i];
        to->n++;
    }
    for (size_t k = 0; k < ARRAY_LEN(dealt); k++) {
        const struct columns *part = &dealt[k];
        if (r == 0 && part->n > 0)
            r = build_edges_of(build, splits[k],
                               &(struct edge_batch){.n = part->n,
                                                    .from = part->from,
                                                    .to = part->to,
                                                    .types = part->types,
                                                    .weights = part->weights},
                               reterr);
        mem_free(part->from);
        mem_free(part->to);
        mem_free(part->types);
        mem_free(part->weights);
    }
    return r;
}

/* Of links with the same ends and type one: where every edge has its inverse, in one direction. */
struct link {
    int32_t low, high, type, from;
};

static int compare(const void *a, const void *b) {
    const struct link *x = a, *y = b;
    if (x->low != y->low)
        return x->low < y->low ? -1 : 1;
    if (x->high != y->high)
        return x->high < y->high ? -1 : 1;
    if (x->type != y->type)
        return x->type < y->type ? -1 : 1;
    return (x->from > y->from) - (x->from < y->from);
}

void build_hold_out_finish(struct build *build, struct aside *aside) {
    size_t cols = build->type_ids ? 3 : 2;
    _cleanup_(mem_free_p) struct link *links = mem_array(aside->count, sizeof *links);
    for (uint64_t i = 0; i < aside->count; i++) {
        const int32_t *item = aside->items + i * cols;
        links[i] =
            (struct link){item[0] < item[1] ? item[0] : item[1],
                          item[0] < item[1] ? item[1] : item[0], cols == 3 ? item[2] : 0, item[0]};
    }
    qsort(links, aside->count, sizeof *links, compare);
    uint64_t kept = 0;
    for (uint64_t i = 0; i < aside->count; i++) {
        const struct link *link = &links[i], *before = &links[i ? i - 1 : 0];
        bool same = i > 0 && link->low == before->low && link->high == before->high &&
                    link->type == before->type;
        if (same && (build->undirected || link->from == before->from))
            continue;
        int32_t *item = aside->items + kept++ * cols;
        item[0] = link->from;
        item[1] = link->from == link->low ? link->high : link->low;
        if (cols == 3)
            item[2] = link->type;
    }
    aside->count = kept;
}
