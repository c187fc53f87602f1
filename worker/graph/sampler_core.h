/* What the sampling methods share: the sampler's tables, one thread's scratch, the memory behind a
 * batch. Inside worker/graph only. */
#pragma once

#include <string.h>

#include "common/config.h"
#include "common/lock.h"
#include "common/mem.h"
#include "common/rng.h"
#include "worker/graph/alias.h"
#include "worker/graph/nodemap.h"
#include "worker/graph/sampler.h"

/* Streams below the job's seed. */
enum {
    STREAM_ORDER = 0x6f726465,
    STREAM_NEIGHBOURS = 0x6e656967,
};

/* An array that grows, half as much again as was asked for, so that a batch a little larger than
 * the largest before it finds room. */
#define GROWING(type)                                                                              \
    struct {                                                                                       \
        type *items;                                                                               \
        size_t capacity;                                                                           \
    }
/* Room for count items; what was in it is lost. */
#define RESERVE(array, count)                                                                      \
    sampler_reserve((void **)&(array)->items, &(array)->capacity, 0, (count),                      \
                    sizeof *(array)->items)
/* The same; the first kept items stay. */
#define RESERVE_KEEP(array, kept, count)                                                           \
    sampler_reserve((void **)&(array)->items, &(array)->capacity, (kept), (count),                 \
                    sizeof *(array)->items)
void sampler_reserve(void **items, size_t *capacity, size_t kept, size_t count, size_t size_bytes);

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
    } layers[LAYERS_MAX];
    GROWING(int64_t) nodes;
    GROWING(int32_t) locals; /* the store's numbers of the batch's nodes */
    GROWING(float) features;
    GROWING(int32_t) labels;
    GROWING(uint8_t) split;
    uint64_t ready; /* the batch in it counts so many since first_step; 0: none (sampler's lock) */
};

struct sampler;

/* One thread and what is its own. */
struct maker {
    struct sampler *sampler;
    pthread_t thread;
    uint64_t epoch; /* that order is for */
    int32_t *order; /* [train_nodes] local numbers, shuffled */
    struct nodemap map;
    GROWING(float) scales;      /* by number: 1 / sqrt(degree + 1) */
    GROWING(int64_t) positions; /* of the store's indices */
    GROWING(int32_t) found;     /* what is there */
    uint64_t *taken; /* a bit for each of a row's neighbours: drawn already? All 0 between
                        two draws; as many as the longest row has */
};

struct sampler_method;

struct sampler {
    /* Set at start, never changed. */
    const struct store *store;
    const struct sampler_method *method;
    int kind;
    size_t layers;
    uint64_t fanout[LAYERS_MAX]; /* of each layer, 0 nearest the input */
    bool transpose_first;        /* does the model use the first layer's transpose? */
    uint64_t batch_size, steps_per_epoch, seed, first_step;
    int32_t *train;      /* [store->train_nodes] local numbers */
    bool replace;        /* neighbours are drawn with replacement */
    struct alias *alias; /* and in proportion to the store's edge_weights; else NULL */
    float *scales;       /* [store->local] 1 / sqrt(degree + 1) */
    size_t row_max;      /* entries of the longest row */
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
    /* Fills graphs, locals, n_input, n_output and train_count of a slot whose batch has its step
     * and layers. */
    void (*make)(struct maker *maker, struct slot *slot);
};
extern const struct sampler_method sampler_neighbor;

/* Puts the step's training nodes into the empty map and the slot's locals; returns how many. */
uint32_t sampler_take_outputs(struct maker *maker, struct slot *slot);
/* Scales of the nodes numbered from to to - 1. */
void sampler_take_scales(struct maker *maker, const struct slot *slot, uint32_t from, uint32_t to);
/* The layer's graph from what the slot's arrays hold of it, with its transpose where it is used. */
void sampler_finish_layer(const struct sampler *sampler, struct slot *slot, size_t l,
                          uint32_t n_dst, uint32_t n_src);
