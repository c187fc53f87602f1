/* Batches made ahead by threads of their own into a small ring. Each thread makes whole batches,
 * the next one that nobody makes yet; they are handed out in order. Every random number is keyed by
 * what it decides, so the batches are the same for any number of threads, and a restarted worker
 * draws the same ones. What a batch is made of is the method's matter (sampler_*.c). */
#include "worker/graph/sampler.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/graph/mfg.h"
#include "worker/graph/sampler_core.h"

/* Batches beside those being made: one at the caller, one that waits for it. */
enum { SLOTS_MORE = 2, AHEAD = 16 };

void sampler_reserve(void **items, size_t *capacity, size_t kept, size_t count, size_t size_bytes) {
    if (count <= *capacity)
        return;
    size_t grown = count + count / 2;
    void *bigger = mem_raw(grown * size_bytes);
    if (kept > 0)
        memcpy(bigger, *items, kept * size_bytes);
    mem_free(*items);
    *items = bigger;
    *capacity = grown;
}

uint64_t sampler_steps_per_epoch(const struct store *store, const struct config *config) {
    uint64_t size = (uint64_t)config->train_batch_size;
    uint64_t steps = (store->train_nodes_max + size - 1) / size;
    return steps ? steps : 1;
}

/* --- for the methods --- */

/* Fisher & Yates. */
static void shuffle(struct maker *maker, uint64_t epoch) {
    const struct sampler *sampler = maker->sampler;
    uint64_t n = sampler->store->train_nodes;
    uint64_t key = rng_key(rng_key(sampler->seed, STREAM_ORDER), epoch);
    memcpy(maker->order, sampler->train, n * sizeof *maker->order);
    for (uint64_t i = n; i > 1; i--) {
        uint64_t j = rng_below(rng_at(key, i), i);
        int32_t swap = maker->order[i - 1];
        maker->order[i - 1] = maker->order[j];
        maker->order[j] = swap;
    }
    maker->epoch = epoch;
}

/* A worker with fewer training nodes than another begins its order anew, so that all have the same
 * number of steps. */
uint32_t sampler_take_outputs(struct maker *maker, struct slot *slot) {
    const struct sampler *sampler = maker->sampler;
    uint64_t n = sampler->store->train_nodes, step = slot->batch.step;
    uint64_t begin = step % sampler->steps_per_epoch * sampler->batch_size;
    uint64_t end = begin + sampler->batch_size;
    if (maker->epoch != step / sampler->steps_per_epoch)
        shuffle(maker, step / sampler->steps_per_epoch);
    if (end > sampler->store->train_nodes_max)
        end = sampler->store->train_nodes_max;
    uint64_t length = end - begin < n ? end - begin : n; /* no node twice in a batch */
    nodemap_reserve(&maker->map, (uint32_t)length);
    RESERVE(&slot->locals, length);
    for (uint64_t i = 0; i < length; i++) {
        int32_t local = maker->order[(begin + i) % n];
        slot->locals.items[nodemap_add(&maker->map, local)] = local;
    }
    return maker->map.count;
}

void sampler_take_scales(struct maker *maker, const struct slot *slot, uint32_t from, uint32_t to) {
    const float *scales = maker->sampler->scales;
    const int32_t *locals = slot->locals.items;
    RESERVE_KEEP(&maker->scales, from, to);
    for (uint32_t i = from; i < to; i++)
        maker->scales.items[i] = scales[locals[i]];
}

void sampler_finish_layer(const struct sampler *sampler, struct slot *slot, size_t l,
                          uint32_t n_dst, uint32_t n_src) {
    struct slot_layer *layer = &slot->layers[l];
    struct layer_graph *graph = &slot->batch.graphs[l];
    *graph = (struct layer_graph){
        .n_dst = n_dst,
        .n_src = n_src,
        .indptr = layer->indptr.items,
        .indices = layer->indices.items,
        .weights = layer->weights.items,
        .self = sampler->kind == MODEL_GCN ? layer->self.items : NULL,
    };
    if (l == 0 && !sampler->transpose_first)
        return;
    size_t edges = (size_t)layer->indptr.items[n_dst];
    RESERVE(&layer->t_indptr, (size_t)n_src + 1);
    RESERVE(&layer->t_indices, edges);
    RESERVE(&layer->t_weights, edges);
    mfg_transpose(n_dst, n_src, graph->indptr, graph->indices, graph->weights,
                  layer->t_indptr.items, layer->t_indices.items, layer->t_weights.items);
    graph->t_indptr = layer->t_indptr.items;
    graph->t_indices = layer->t_indices.items;
    graph->t_weights = layer->t_weights.items;
}

/* --- one batch --- */

static void gather(const struct store *store, struct slot *slot) {
    size_t dim = store->feature_dim;
    uint32_t n_input = slot->batch.n_input, n_output = slot->batch.n_output;
    const int32_t *locals = slot->locals.items;
    RESERVE(&slot->nodes, n_input);
    RESERVE(&slot->features, n_input * dim);
    RESERVE(&slot->labels, n_output);
    RESERVE(&slot->split, n_output);
    for (uint32_t i = 0; i < n_input; i++)
        slot->nodes.items[i] = store->nodes[locals[i]];
    store_take_features(store, locals, n_input, slot->features.items);
    for (uint32_t i = 0; i < n_output; i++) {
        slot->labels.items[i] = store->labels[locals[i]];
        slot->split.items[i] = store->split[locals[i]];
    }
}

static void make_batch(struct maker *maker, struct slot *slot, uint64_t step) {
    const struct sampler *sampler = maker->sampler;
    struct batch *batch = &slot->batch;
    *batch = (struct batch){.step = step, .version = 0, .layers = sampler->layers};
    nodemap_clear(&maker->map);
    sampler->method->make(maker, slot);

    gather(sampler->store, slot);
    batch->nodes = slot->nodes.items;
    batch->features = slot->features.items;
    batch->labels = slot->labels.items;
    batch->split = slot->split.items;
}

/* --- the ring --- */

static void *maker_thread(void *arg) {
    struct maker *maker = arg;
    struct sampler *sampler = maker->sampler;
    lock_take(&sampler->lock);
    for (;;) {
        while (!sampler->stop && sampler->claimed >= sampler->released + sampler->slot_count)
            lock_wait(&sampler->lock, &sampler->changed, -1);
        if (sampler->stop)
            break;
        uint64_t s = sampler->claimed++;
        lock_release(&sampler->lock);
        struct slot *slot = &sampler->slots[s % sampler->slot_count];
        make_batch(maker, slot, sampler->first_step + s);
        lock_take(&sampler->lock);
        slot->ready = s + 1;
        pthread_cond_broadcast(&sampler->changed);
    }
    lock_release(&sampler->lock);
    return NULL;
}

const struct batch *sampler_next(struct sampler *sampler) {
    struct slot *slot = &sampler->slots[sampler->given % sampler->slot_count];
    lock_take(&sampler->lock);
    sampler->released = sampler->given; /* the batch of the call before is given back */
    pthread_cond_broadcast(&sampler->changed);
    while (slot->ready != sampler->given + 1)
        lock_wait(&sampler->lock, &sampler->changed, -1);
    lock_release(&sampler->lock);
    sampler->given++;
    return &slot->batch;
}

/* --- start and end --- */

int sampler_check(const struct store *store, const struct config *config, struct error *reterr) {
    if (config->train_mode != TRAIN_SAMPLED || !config->train_weighted)
        return 0;
    if (!store->edge_weights)
        return error_set(reterr, ERR_CONFIG,
                         "train.weighted is true, but the edges of %s have no weights in part "
                         "%u of %u; import the graph with weights and cut it again, or set "
                         "train.weighted: false",
                         store->snapshot_name, store->part, store->parts);
    _cleanup_(mem_free_p) char *what = mem_printf("edge_weights.npy of %s, part %u of %u",
                                                  store->snapshot_name, store->part, store->parts);
    return alias_check(what, store->edge_weights, (uint64_t)store->indptr[store->rows], reterr);
}

static void make_tables(struct sampler *sampler) {
    const struct store *store = sampler->store;
    sampler->train = mem_array(store->train_nodes, sizeof *sampler->train);
    size_t count = 0;
    for (uint64_t i = 0; i < store->owned; i++)
        if (store->split[i] == SPLIT_TRAIN && store->labels[i] >= 0)
            sampler->train[count++] = (int32_t)i;
    assert(count == store->train_nodes);

    sampler->scales = mem_array(store->local, sizeof *sampler->scales);
    for (uint64_t i = 0; i < store->local; i++)
        sampler->scales[i] = (float)(1 / sqrt((double)store->degree[i] + 1));
    for (uint64_t i = 0; i < store->rows; i++) {
        size_t degree = (size_t)(store->indptr[i + 1] - store->indptr[i]);
        sampler->row_max = degree > sampler->row_max ? degree : sampler->row_max;
    }
}

static void maker_start(struct maker *maker, struct sampler *sampler) {
    maker->sampler = sampler;
    maker->order = mem_array(sampler->store->train_nodes, sizeof *maker->order);
    maker->taken = mem_array(sampler->row_max / 64 + 1, sizeof *maker->taken);
    maker->epoch = UINT64_MAX;
    nodemap_init(&maker->map, sampler->store->local);
    if (pthread_create(&maker->thread, NULL, maker_thread, maker) != 0) {
        fprintf(stderr, "graphps: the machine refused a thread for sampling\n");
        exit(70);
    }
}

static void maker_done(struct maker *maker) {
    nodemap_done(&maker->map);
    mem_free(maker->order);
    mem_free(maker->taken);
    mem_free(maker->scales.items);
    mem_free(maker->positions.items);
    mem_free(maker->found.items);
}

/* The model propagates features that are narrower than its first layer before it multiplies them,
 * and then has no use for the first layer's transpose: the largest of all. */
static bool needs_first_transpose(const struct sampler *sampler, const struct config *config) {
    if (config->model_kind != MODEL_GCN && config->model_kind != MODEL_SAGE)
        return true;
    int64_t width = sampler->layers == 1 ? sampler->store->classes : config->model_hidden;
    return sampler->store->feature_dim >= width;
}

struct sampler *sampler_new(const struct store *store, const struct config *config,
                            uint64_t first_step) {
    struct sampler *sampler = mem_alloc(sizeof *sampler);
    sampler->store = store;
    sampler->method = &sampler_neighbor;
    sampler->kind = config->model_kind;
    sampler->layers = (size_t)config->model_layers;
    sampler->batch_size = (uint64_t)config->train_batch_size;
    sampler->steps_per_epoch = sampler_steps_per_epoch(store, config);
    sampler->seed = (uint64_t)config->job_seed;
    sampler->first_step = first_step;
    sampler->transpose_first = needs_first_transpose(sampler, config);
    assert(sampler->layers <= LAYERS_MAX && config->train_fanout.count >= sampler->layers);
    for (size_t l = 0; l < sampler->layers; l++)
        sampler->fanout[l] = (uint64_t)config->train_fanout.items[sampler->layers - 1 - l];
    sampler->replace = config->train_replace;
    if (config->train_weighted) {
        assert(store->edge_weights);
        sampler->alias = alias_new(store->indptr, store->rows, store->edge_weights);
    }
    make_tables(sampler);

    lock_init(&sampler->lock, LOCK_SAMPLER, "sampler");
    lock_cond_init(&sampler->changed);
    sampler->maker_count = (size_t)config->train_sampler_threads;
    sampler->slot_count = sampler->maker_count + SLOTS_MORE;
    sampler->slots = mem_array(sampler->slot_count, sizeof *sampler->slots);
    sampler->makers = mem_array(sampler->maker_count, sizeof *sampler->makers);
    for (size_t m = 0; m < sampler->maker_count; m++)
        maker_start(&sampler->makers[m], sampler);
    return sampler;
}

#define BYTES(array) ((array).capacity * sizeof *(array).items)

static size_t slot_bytes(const struct slot *slot) {
    size_t bytes = BYTES(slot->nodes) + BYTES(slot->locals) + BYTES(slot->features) +
                   BYTES(slot->labels) + BYTES(slot->split);
    for (size_t l = 0; l < LAYERS_MAX; l++) {
        const struct slot_layer *layer = &slot->layers[l];
        bytes += BYTES(layer->indptr) + BYTES(layer->indices) + BYTES(layer->weights) +
                 BYTES(layer->self) + BYTES(layer->t_indptr) + BYTES(layer->t_indices) +
                 BYTES(layer->t_weights);
    }
    return bytes;
}

static void stop_threads(struct sampler *sampler) {
    lock_take(&sampler->lock);
    bool stopped = sampler->stop;
    sampler->stop = true;
    pthread_cond_broadcast(&sampler->changed);
    lock_release(&sampler->lock);
    for (size_t m = 0; !stopped && m < sampler->maker_count; m++)
        pthread_join(sampler->makers[m].thread, NULL);
}

size_t sampler_bytes(struct sampler *sampler) {
    stop_threads(sampler);
    size_t train = sampler->store->train_nodes * sizeof *sampler->train;
    size_t bytes = train + sampler->store->local * sizeof *sampler->scales;
    if (sampler->alias)
        bytes += alias_bytes(sampler->store->indptr, sampler->store->rows);
    for (size_t s = 0; s < sampler->slot_count; s++)
        bytes += slot_bytes(&sampler->slots[s]);
    for (size_t m = 0; m < sampler->maker_count; m++) {
        const struct maker *maker = &sampler->makers[m];
        bytes += train + nodemap_bytes(&maker->map) + BYTES(maker->scales) +
                 BYTES(maker->positions) + BYTES(maker->found) + sampler->row_max / 8;
    }
    return bytes;
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
    stop_threads(sampler);
    for (size_t m = 0; m < sampler->maker_count; m++)
        maker_done(&sampler->makers[m]);
    for (size_t s = 0; s < sampler->slot_count; s++)
        slot_done(&sampler->slots[s]);
    pthread_cond_destroy(&sampler->changed);
    lock_done(&sampler->lock);
    alias_free(sampler->alias);
    mem_free(sampler->makers);
    mem_free(sampler->slots);
    mem_free(sampler->train);
    mem_free(sampler->scales);
    mem_free(sampler);
    return NULL;
}
