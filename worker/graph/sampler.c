/* Mini-batches of sampled neighbours, made ahead by a thread of its own into a small ring.
 * Hamilton, Ying & Leskovec, "Inductive Representation Learning on Large Graphs", NeurIPS 2017,
 * algorithm 2: from the outputs inwards, each layer draws a number of neighbours for every node it
 * computes, and the union of nodes and neighbours is what the layer below has to compute. Every
 * random number is keyed by what it decides, so a restarted worker draws the same batches. */
#include "worker/graph/sampler.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/lock.h"
#include "common/mem.h"
#include "common/rng.h"
#include "worker/graph/mfg.h"

#define SLOTS 3

/* Streams below the job's seed. */
enum { STREAM_ORDER = 0x6f726465, STREAM_NEIGHBOURS = 0x6e656967 };

/* An array that grows, for the arrays of a batch. */
#define GROWING(type)                                                                              \
    struct {                                                                                       \
        type *items;                                                                               \
        size_t capacity;                                                                           \
    }
#define RESERVE(array, count)                                                                      \
    reserve((void **)&(array)->items, &(array)->capacity, (count), sizeof *(array)->items)

static void reserve(void **items, size_t *capacity, size_t count, size_t size_bytes) {
    if (count <= *capacity)
        return;
    size_t grown = count + count / 2;
    *items = mem_resize(*items, *capacity * size_bytes, grown * size_bytes);
    *capacity = grown;
}

struct slot_layer {
    GROWING(int64_t) indptr;
    GROWING(int32_t) indices;
    GROWING(float) weights;
    GROWING(float) self;
    GROWING(int64_t) t_indptr;
    GROWING(int32_t) t_indices;
    GROWING(float) t_weights;
};

/* A batch and the memory behind it. */
struct slot {
    struct batch batch;
    struct slot_layer layers[LAYERS_MAX];
    GROWING(int64_t) nodes;
    GROWING(int32_t) locals; /* the store's numbers of the batch's nodes */
    GROWING(float) features;
    GROWING(int32_t) labels;
    GROWING(uint8_t) split;
};

struct sampler {
    /* Set at start, never changed. */
    const struct store *store;
    int kind;
    size_t layers;
    uint64_t fanout[LAYERS_MAX]; /* of each layer, 0 nearest the input */
    uint64_t batch_size, steps_per_epoch, seed, first_step;
    int32_t *train; /* [store->train_nodes] local numbers */

    /* The thread's own. */
    uint64_t epoch;    /* that order is for */
    int32_t *order;    /* train, shuffled */
    uint32_t *numbers; /* [store->local] a node's number in the batch at hand; NO_NUMBER */
    uint64_t *picked;  /* [largest degree] stamp of the draw that took this neighbour */
    uint64_t stamp;

    pthread_t thread;
    struct lock lock;
    pthread_cond_t changed;
    /* guards: made, released, stop; slot s % SLOTS belongs to the thread while made <= s, then to
     * the caller until released > s. */
    uint64_t made, released; /* batches since first_step */
    bool stop;

    uint64_t taken; /* the caller's own: batches handed out */
    struct slot slots[SLOTS];
};

#define NO_NUMBER UINT32_MAX

uint64_t sampler_steps_per_epoch(const struct store *store, const struct config *config) {
    uint64_t size = (uint64_t)config->train_batch_size;
    uint64_t steps = (store->train_nodes_max + size - 1) / size;
    return steps ? steps : 1;
}

/* Fisher & Yates. */
static void shuffle(struct sampler *sampler, uint64_t epoch) {
    uint64_t n = sampler->store->train_nodes;
    uint64_t key = rng_key(rng_key(sampler->seed, STREAM_ORDER), epoch);
    memcpy(sampler->order, sampler->train, n * sizeof *sampler->order);
    for (uint64_t i = n; i > 1; i--) {
        uint64_t j = rng_below(rng_at(key, i), i);
        int32_t swap = sampler->order[i - 1];
        sampler->order[i - 1] = sampler->order[j];
        sampler->order[j] = swap;
    }
    sampler->epoch = epoch;
}

/* The node's number in the batch; a new one when it is seen for the first time. */
static uint32_t number_of(struct sampler *sampler, struct slot *slot, int32_t local,
                          uint32_t *count) {
    if (sampler->numbers[local] == NO_NUMBER) {
        RESERVE(&slot->locals, (size_t)*count + 1);
        slot->locals.items[*count] = local;
        sampler->numbers[local] = (*count)++;
    }
    return sampler->numbers[local];
}

/* Writes the numbers of the neighbours drawn for one node; returns how many. R. Floyd's draw
 * without replacement (Bentley, "A sample of brilliance", CACM 1987): among the first j + 1, take a
 * random one, or the j-th itself when that one is taken already. */
static int64_t draw(struct sampler *sampler, struct slot *slot, int32_t local, uint64_t fanout,
                    uint64_t key, int32_t *ret, uint32_t *count) {
    const struct store *store = sampler->store;
    const int32_t *row = store->indices + store->indptr[local];
    uint64_t degree = (uint64_t)(store->indptr[local + 1] - store->indptr[local]);
    if (degree <= fanout) {
        for (uint64_t k = 0; k < degree; k++)
            ret[k] = (int32_t)number_of(sampler, slot, row[k], count);
        return (int64_t)degree;
    }
    sampler->stamp++;
    for (uint64_t j = degree - fanout; j < degree; j++) {
        uint64_t pick = rng_below(rng_at(key, j), j + 1);
        if (sampler->picked[pick] == sampler->stamp)
            pick = j;
        sampler->picked[pick] = sampler->stamp;
        *ret++ = (int32_t)number_of(sampler, slot, row[pick], count);
    }
    return (int64_t)fanout;
}

/* Makes layer l's graph for the first n_dst nodes of the slot; returns how many nodes there are
 * with their neighbours. */
static uint32_t make_layer(struct sampler *sampler, struct slot *slot, size_t l, uint32_t n_dst) {
    const struct store *store = sampler->store;
    struct slot_layer *layer = &slot->layers[l];
    uint64_t fanout = sampler->fanout[l];
    uint64_t key = rng_key(rng_key(rng_key(sampler->seed, STREAM_NEIGHBOURS), slot->batch.step), l);
    uint32_t n_src = n_dst;
    RESERVE(&layer->indptr, (size_t)n_dst + 1);
    RESERVE(&layer->self, (size_t)n_dst);
    layer->indptr.items[0] = 0;
    for (uint32_t i = 0; i < n_dst; i++) {
        int32_t local = slot->locals.items[i];
        int64_t begin = layer->indptr.items[i], present = 0;
        /* The outermost nodes of a halo smaller than the layers have no row. */
        if (sampler->kind != MODEL_MLP && (uint64_t)local < store->rows) {
            uint64_t degree = (uint64_t)(store->indptr[local + 1] - store->indptr[local]);
            size_t room = (size_t)begin + (degree < fanout ? degree : fanout);
            RESERVE(&layer->indices, room);
            RESERVE(&layer->weights, room);
            present =
                draw(sampler, slot, local, fanout, rng_key(key, (uint64_t)store->nodes[local]),
                     layer->indices.items + begin, &n_src);
        }
        double ratio = present > 0 ? (double)store->degree[local] / (double)present : 1;
        for (int64_t e = begin; e < begin + present; e++)
            layer->weights.items[e] = mfg_weight(
                sampler->kind, store->degree[local],
                store->degree[slot->locals.items[layer->indices.items[e]]], ratio, present);
        layer->self.items[i] = mfg_self(store->degree[local]);
        layer->indptr.items[i + 1] = begin + present;
    }

    size_t edges = (size_t)layer->indptr.items[n_dst];
    RESERVE(&layer->t_indptr, (size_t)n_src + 1);
    RESERVE(&layer->t_indices, edges);
    RESERVE(&layer->t_weights, edges);
    mfg_transpose(n_dst, n_src, layer->indptr.items, layer->indices.items, layer->weights.items,
                  layer->t_indptr.items, layer->t_indices.items, layer->t_weights.items);
    slot->batch.graphs[l] = (struct layer_graph){
        .n_dst = n_dst,
        .n_src = n_src,
        .indptr = layer->indptr.items,
        .indices = layer->indices.items,
        .weights = layer->weights.items,
        .self = sampler->kind == MODEL_GCN ? layer->self.items : NULL,
        .t_indptr = layer->t_indptr.items,
        .t_indices = layer->t_indices.items,
        .t_weights = layer->t_weights.items,
    };
    return n_src;
}

/* Puts the step's outputs at the start of the slot's nodes; returns how many. A worker with fewer
 * training nodes than another begins its order anew, so that all have the same number of steps. */
static uint32_t take_outputs(struct sampler *sampler, struct slot *slot, uint64_t step) {
    uint64_t n = sampler->store->train_nodes;
    uint64_t begin = step % sampler->steps_per_epoch * sampler->batch_size;
    uint64_t end = begin + sampler->batch_size;
    if (sampler->epoch != step / sampler->steps_per_epoch)
        shuffle(sampler, step / sampler->steps_per_epoch);
    if (end > sampler->store->train_nodes_max)
        end = sampler->store->train_nodes_max;
    uint64_t length = end - begin < n ? end - begin : n; /* no node twice in a batch */
    uint32_t count = 0;
    for (uint64_t i = 0; i < length; i++)
        number_of(sampler, slot, sampler->order[(begin + i) % n], &count);
    return count;
}

static void gather(const struct store *store, struct slot *slot, uint32_t n_input,
                   uint32_t n_output) {
    size_t dim = store->feature_dim;
    RESERVE(&slot->nodes, n_input);
    RESERVE(&slot->features, n_input * dim);
    RESERVE(&slot->labels, n_output);
    RESERVE(&slot->split, n_output);
    for (uint32_t i = 0; i < n_input; i++) {
        size_t local = (size_t)slot->locals.items[i];
        slot->nodes.items[i] = store->nodes[local];
        memcpy(slot->features.items + i * dim, store->features + local * dim, dim * sizeof(float));
    }
    for (uint32_t i = 0; i < n_output; i++) {
        slot->labels.items[i] = store->labels[slot->locals.items[i]];
        slot->split.items[i] = store->split[slot->locals.items[i]];
    }
}

static void make_batch(struct sampler *sampler, struct slot *slot, uint64_t step) {
    struct batch *batch = &slot->batch;
    *batch = (struct batch){.step = step, .version = 0, .layers = sampler->layers};
    uint32_t n_output = take_outputs(sampler, slot, step), n = n_output;
    for (size_t l = sampler->layers; l-- > 0;)
        n = make_layer(sampler, slot, l, n);
    for (uint32_t i = 0; i < n; i++)
        sampler->numbers[slot->locals.items[i]] = NO_NUMBER;

    gather(sampler->store, slot, n, n_output);
    batch->n_input = n;
    batch->n_output = n_output;
    batch->train_count = n_output;
    batch->nodes = slot->nodes.items;
    batch->features = slot->features.items;
    batch->labels = slot->labels.items;
    batch->split = slot->split.items;
}

static void *sampler_thread(void *arg) {
    struct sampler *sampler = arg;
    for (uint64_t s = 0;; s++) {
        lock_take(&sampler->lock);
        while (!sampler->stop && s >= sampler->released + SLOTS)
            lock_wait(&sampler->lock, &sampler->changed, -1);
        bool stop = sampler->stop;
        lock_release(&sampler->lock);
        if (stop)
            return NULL;

        make_batch(sampler, &sampler->slots[s % SLOTS], sampler->first_step + s);
        lock_take(&sampler->lock);
        sampler->made = s + 1;
        pthread_cond_broadcast(&sampler->changed);
        lock_release(&sampler->lock);
    }
}

/* Arrays by node and by neighbour, and the list of training nodes. */
static void make_tables(struct sampler *sampler, const struct store *store) {
    sampler->train = mem_array(store->train_nodes, sizeof *sampler->train);
    sampler->order = mem_array(store->train_nodes, sizeof *sampler->order);
    size_t count = 0;
    for (uint64_t i = 0; i < store->owned; i++)
        if (store->split[i] == SPLIT_TRAIN && store->labels[i] >= 0)
            sampler->train[count++] = (int32_t)i;
    assert(count == store->train_nodes);

    sampler->numbers = mem_array(store->local, sizeof *sampler->numbers);
    memset(sampler->numbers, 0xff, store->local * sizeof *sampler->numbers);
    int64_t longest = 0;
    for (uint64_t i = 0; i < store->rows; i++) {
        int64_t degree = store->indptr[i + 1] - store->indptr[i];
        longest = degree > longest ? degree : longest;
    }
    sampler->picked = mem_array((size_t)longest, sizeof *sampler->picked);
}

struct sampler *sampler_new(const struct store *store, const struct config *config,
                            uint64_t first_step) {
    struct sampler *sampler = mem_alloc(sizeof *sampler);
    sampler->store = store;
    sampler->kind = config->model_kind;
    sampler->layers = (size_t)config->model_layers;
    sampler->batch_size = (uint64_t)config->train_batch_size;
    sampler->steps_per_epoch = sampler_steps_per_epoch(store, config);
    sampler->seed = (uint64_t)config->job_seed;
    sampler->first_step = first_step;
    assert(sampler->layers <= LAYERS_MAX && config->train_fanout.count >= sampler->layers);
    for (size_t l = 0; l < sampler->layers; l++)
        sampler->fanout[l] = (uint64_t)config->train_fanout.items[sampler->layers - 1 - l];
    make_tables(sampler, store);
    shuffle(sampler, first_step / sampler->steps_per_epoch);

    lock_init(&sampler->lock, LOCK_SAMPLER, "sampler");
    lock_cond_init(&sampler->changed);
    if (pthread_create(&sampler->thread, NULL, sampler_thread, sampler) != 0) {
        fprintf(stderr, "graphps: the machine refused a thread for sampling\n");
        exit(70);
    }
    return sampler;
}

const struct batch *sampler_next(struct sampler *sampler) {
    lock_take(&sampler->lock);
    sampler->released = sampler->taken; /* the batch of the call before is given back */
    pthread_cond_broadcast(&sampler->changed);
    while (sampler->made <= sampler->taken)
        lock_wait(&sampler->lock, &sampler->changed, -1);
    lock_release(&sampler->lock);
    return &sampler->slots[sampler->taken++ % SLOTS].batch;
}

static void slot_done(struct slot *slot) {
    for (size_t l = 0; l < LAYERS_MAX; l++) {
        struct slot_layer *layer = &slot->layers[l];
        mem_free(layer->indptr.items);
        mem_free(layer->indices.items);
        mem_free(layer->weights.items);
        mem_free(layer->self.items);
        mem_free(layer->t_indptr.items);
        mem_free(layer->t_indices.items);
        mem_free(layer->t_weights.items);
    }
    mem_free(slot->nodes.items);
    mem_free(slot->locals.items);
    mem_free(slot->features.items);
    mem_free(slot->labels.items);
    mem_free(slot->split.items);
}

struct sampler *sampler_free(struct sampler *sampler) {
    if (!sampler)
        return NULL;
    lock_take(&sampler->lock);
    sampler->stop = true;
    pthread_cond_broadcast(&sampler->changed);
    lock_release(&sampler->lock);
    pthread_join(sampler->thread, NULL);

    for (size_t s = 0; s < SLOTS; s++)
        slot_done(&sampler->slots[s]);
    pthread_cond_destroy(&sampler->changed);
    lock_done(&sampler->lock);
    mem_free(sampler->train);
    mem_free(sampler->order);
    mem_free(sampler->numbers);
    mem_free(sampler->picked);
    mem_free(sampler);
    return NULL;
}
