/* What the sampling methods share: the sampler's tables, one thread's scratch, the memory behind a
 * batch. Inside worker/graph only. */
#pragma once

#include <stdbool.h>
#include <string.h>

#include "common/config.h"
#include "common/lock.h"
#include "common/mem.h"
#include "common/rng.h"
#include "worker/graph/alias.h"
#include "worker/graph/negative.h"
#include "worker/graph/nodemap.h"
#include "worker/graph/sampler.h"

/* Streams below the job's seed. */
enum {
    STREAM_ORDER = 0x6f726465,
    STREAM_NEIGHBOURS = 0x6e656967,
    STREAM_LAYERS = 0x6c617965,
    STREAM_WALKS = 0x77616c6b,
};

/* An array that grows to more than half as much again as was asked for, so that a batch a little
 * larger than the largest before it finds room. */
#define GROWING(type)                                                                              \
    struct {                                                                                       \
        type *items;                                                                               \
        size_t capacity, used; /* used: at most so far */                                          \
    }
/* Room for count items; what was in it is lost. */
#define RESERVE(array, count)                                                                      \
    sampler_reserve((void **)&(array)->items, &(array)->capacity, &(array)->used, 0, (count),      \
                    sizeof *(array)->items)
/* The same; the first kept items stay. */
#define RESERVE_KEEP(array, kept, count)                                                           \
    sampler_reserve((void **)&(array)->items, &(array)->capacity, &(array)->used, (kept), (count), \
                    sizeof *(array)->items)
void sampler_reserve(void **items, size_t *capacity, size_t *used, size_t kept, size_t count,
                     size_t size_bytes);

/* A batch and the memory behind it. */
struct slot {
    struct batch batch;
    struct slot_layer {
        GROWING(int64_t) indptr;
        GROWING(int32_t) indices;
        GROWING(float) weights;
        GROWING(float) self;
        GROWING(int64_t) t_indptr;
        GROWING(int32_t) t_indices;
        GROWING(float) t_weights;
    } layers[HOPS_MAX];
    GROWING(int64_t) nodes;
    GROWING(int32_t) locals; /* the store's numbers of the batch's nodes */
    GROWING(float) features;
    GROWING(int32_t) labels;
    GROWING(uint8_t) multi_labels; /* where the store has them */
    GROWING(float) targets;        /* the same */
    GROWING(uint8_t) split;
    GROWING(float) loss_weights;
    GROWING(int32_t) link_sources, link_targets, link_relations;
    uint64_t ready; /* the batch in it counts so many since first_step; 0: none (sampler's lock) */
};

struct sampler;

/* One thread and what is its own. */
struct maker {
    struct sampler *sampler;
    pthread_t thread;
    uint64_t epoch; /* that order is for */
    int32_t *order; /* [item_count] the sampler's items, shuffled */
    struct nodemap map;
    struct nodemap other;       /* of the method's own: nodes that may come into the batch */
    GROWING(int32_t) others;    /* those nodes by their number there */
    GROWING(double) sums;       /* by that number */
    GROWING(float) inverses;    /* by number: 1 over the probability to be in the batch */
    GROWING(float) scales;      /* by number: 1 / sqrt(degree + 1) */
    GROWING(int64_t) positions; /* of the store's indices */
    GROWING(int32_t) found;     /* what is there */
    GROWING(uint64_t) excluded; /* pairs of numbers, ascending: edges that are left out */
    uint32_t linked;            /* numbers below it are of nodes that excluded may name */
    GROWING(int64_t) edges;     /* of a layer, where in the store each lies, if it has weights */
    uint64_t *taken; /* a bit for each of a row's neighbours: drawn already? All 0 between
                        two draws; as many as the longest row has */
};

struct sampler_method;

struct sampler {
    /* Set at start, never changed. */
    const struct store *store;
    const struct sampler_method *method;
    struct hops hops;
    uint64_t fanout[HOPS_MAX]; /* of each hop, 0 nearest the input */
    bool transpose_first;      /* does the model use the first hop's transpose? */
    uint64_t steps_per_epoch, seed, first_step;
    /* Of links an epoch walks all edges into owned nodes, which no array lists. */
    struct negatives *negatives; /* NULL: nodes are learnt */
    uint64_t negatives_each;
    bool in_batch;
    /* An epoch walks these in a shuffled order, share of them in a step, item_goal in all (on the
     * worker that has most; one that has fewer begins anew): local numbers of training nodes, or
     * numbers of clusters. */
    int32_t *items;
    uint64_t item_count, item_goal, share;
    bool replace;        /* neighbours are drawn with replacement */
    struct alias *alias; /* and in proportion to the store's edge_weights; else NULL */
    bool trial;          /* see sampler_new_trial */
    uint64_t layer_nodes, walk_length, walk_coverage;
    struct clusters *clusters; /* the methods' own tables; NULL in the others */
    struct walks *walks;
    float *scales;  /* [store->local] 1 / sqrt(degree + 1) */
    double *totals; /* [store->rows] sums of edge weights, where a weighted mean needs them */
    size_t row_max; /* entries of the longest row */
    size_t maker_count, slot_count;
    struct maker *makers;

    struct lock lock;
    pthread_cond_t changed;
    /* guards: claimed, released, stop, every slot's ready. Slot s % slot_count belongs to the
     * thread that claimed batch s until it is ready, then to the caller until released > s. */
    uint64_t claimed, released; /* batches since first_step */
    bool stop;

    uint64_t given; /* the caller's own: batches handed out */
    struct slot *slots;
};

/* One way to choose what a batch computes on. */
struct sampler_method {
    /* Makes its tables before the threads start, with the help of one's scratch. May be NULL, with
     * done and bytes. */
    void (*prepare)(struct sampler *sampler, struct maker *maker);
    void (*done)(struct sampler *sampler); /* also of a sampler that has none */
    size_t (*bytes)(const struct sampler *sampler);
    /* Memory that prepare takes at its peak, where that is much. May be NULL. */
    size_t (*prepare_bytes)(const struct sampler *sampler);
    /* Fills graphs, locals, n_input, n_output, train_count and perhaps loss_weights of a slot whose
     * batch has its step and layers; the maker's map is empty. */
    void (*make)(struct maker *maker, struct slot *slot);
};
extern const struct sampler_method sampler_neighbor, sampler_layer, sampler_cluster, sampler_saint;

/* Puts items [ret_begin, + returned count) of the step's share of the epoch's order, counted modulo
 * item_count; none comes twice. */
uint64_t sampler_take_share(struct maker *maker, uint64_t step, uint64_t *ret_begin);
/* The ends of the step's links and of their negatives: puts them into the empty map and the slot's
 * locals, and the links by those numbers into the slot; returns how many nodes. Which edges must be
 * left out is in maker->excluded then. */
uint32_t sampler_take_links(struct maker *maker, struct slot *slot);
/* Leaves out of the layer's first n_dst rows those edges: a link must not be told by itself. */
void sampler_exclude(struct maker *maker, struct slot *slot, size_t l, uint32_t n_dst);

/* Where items are training nodes: puts the step's into the empty map and the slot's locals; returns
 * how many. */
uint32_t sampler_take_outputs(struct maker *maker, struct slot *slot);
/* Gives a node its number in the batch. */
static inline uint32_t sampler_add(struct maker *maker, struct slot *slot, int32_t local) {
    nodemap_reserve(&maker->map, 1);
    RESERVE_KEEP(&slot->locals, maker->map.count, (size_t)maker->map.count + 1);
    uint32_t number = nodemap_add(&maker->map, local);
    slot->locals.items[number] = local;
    return number;
}
/* Scales of the nodes numbered from to to - 1. */
void sampler_take_scales(struct maker *maker, const struct slot *slot, uint32_t from, uint32_t to);
/* Entries of a node's row; 0 for the outermost nodes of a halo smaller than the hops, which have
 * none, and where no layer propagates. */
static inline uint64_t sampler_degree(const struct sampler *sampler, int32_t local) {
    const struct store *store = sampler->store;
    if (sampler->hops.count == 0 || (uint64_t)local >= store->rows)
        return 0;
    return (uint64_t)(store->indptr[local + 1] - store->indptr[local]);
}
/* What the mean over a node's neighbours is to be multiplied by to be what a norm asks for, given
 * the node's degree in the whole graph and its scale 1 / sqrt(degree + 1); with GRAPH_SYM also by
 * the scale of each edge's source. */
static inline float sampler_mean_factor(int graph, float degree, float scale) {
    switch (graph) {
    case GRAPH_SYM:
        return scale * degree;
    case GRAPH_WALK:
        return scale * scale * degree;
    case GRAPH_SUM:
        return degree;
    default:
        return 1;
    }
}
/* The part of the weight of full mode that is the same for all edges into a node (with a row). */
static inline float sampler_row_factor(const struct sampler *sampler, int graph, int32_t local) {
    float mean = 1 / (float)sampler_degree(sampler, local);
    return mean *
           sampler_mean_factor(graph, (float)sampler->store->degree[local], sampler->scales[local]);
}
/* Of the node itself, where the norm counts it. */
static inline float sampler_self(int graph, float scale) {
    return graph == GRAPH_SUM ? 1 : scale * scale;
}
/* The layer's graph from what the slot's arrays hold of it, with its transpose or without. */
void sampler_finish_layer(const struct sampler *sampler, struct slot *slot, size_t l,
                          uint32_t n_dst, uint32_t n_src, bool transpose);
/* Makes the transpose of the batch's l-th graph in the arrays of the slot's l-th layer. */
void sampler_transpose(struct slot *slot, size_t l);

/* The edges among all nodes of the map, into the arrays of the slot's first layer but for the
 * weights, for which there is room; where in the store's indices each lies goes to the maker's
 * positions. */
void subgraph_take_edges(struct maker *maker, struct slot *slot);
/* All layers on that graph, the last one on its first n_output rows, once it has weights. */
void subgraph_finish(struct maker *maker, struct slot *slot, uint32_t n_output);
/* A node whose loss is ours to count. */
bool subgraph_trains(const struct store *store, int32_t local);
