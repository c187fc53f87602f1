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
enum { SLOTS_MORE = 2 };
/* Small batches vary more. */
enum { SPARE = 512 };

void sampler_reserve(void **items, size_t *capacity, size_t *used, size_t kept, size_t count,
                     size_t size_bytes) {
    *used = *used < count ? count : *used;
    if (count <= *capacity)
        return;
    size_t grown = count + count / 2 + SPARE;
    kept = kept < *capacity ? kept : *capacity;
    void *bigger = mem_raw(grown * size_bytes);
    if (kept > 0)
        memcpy(bigger, *items, kept * size_bytes);
    mem_free(*items);
    *items = bigger;
    *capacity = grown;
}

/* Is an epoch a walk through clusters, not through training nodes? */
static bool walks_clusters(const struct config *config) {
    return config->train_sampler == SAMPLER_CLUSTER;
}

/* What an epoch walks on the worker that has most of it. */
static uint64_t items_max(const struct store *store, const struct config *config) {
    if (config->train_task == TASK_LINKS)
        return store->owned_edges_max;
    return walks_clusters(config) ? (uint64_t)config->train_clusters : store->train_nodes_max;
}

uint64_t sampler_steps_per_epoch(const struct store *store, const struct config *config) {
    uint64_t items = items_max(store, config);
    uint64_t share = (uint64_t)(walks_clusters(config) ? config->train_clusters_per_batch
                                                       : config->train_batch_size);
    uint64_t steps = (items + share - 1) / share;
    return steps ? steps : 1;
}

/* --- for the methods --- */

/* Fisher & Yates. */
static void shuffle(struct maker *maker, uint64_t epoch) {
    const struct sampler *sampler = maker->sampler;
    uint64_t n = sampler->item_count;
    uint64_t key = rng_key(rng_key(sampler->seed, STREAM_ORDER), epoch);
    memcpy(maker->order, sampler->items, n * sizeof *maker->order);
    for (uint64_t i = n; i > 1; i--) {
        uint64_t j = rng_below(rng_at(key, i), i);
        int32_t swap = maker->order[i - 1];
        maker->order[i - 1] = maker->order[j];
        maker->order[j] = swap;
    }
    maker->epoch = epoch;
}

uint64_t sampler_take_share(struct maker *maker, uint64_t step, uint64_t *ret_begin) {
    const struct sampler *sampler = maker->sampler;
    uint64_t begin = step % sampler->steps_per_epoch * sampler->share, end = begin + sampler->share;
    if (maker->order && maker->epoch != step / sampler->steps_per_epoch)
        shuffle(maker, step / sampler->steps_per_epoch);
    if (end > sampler->item_goal)
        end = sampler->item_goal;
    *ret_begin = begin;
    return end - begin < sampler->item_count ? end - begin : sampler->item_count;
}

uint32_t sampler_take_outputs(struct maker *maker, struct slot *slot) {
    uint64_t begin, length = sampler_take_share(maker, slot->batch.step, &begin);
    for (uint64_t i = 0; i < length; i++)
        sampler_add(maker, slot, maker->order[(begin + i) % maker->sampler->item_count]);
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
                          uint32_t n_dst, uint32_t n_src, bool transpose) {
    const struct slot_layer *layer = &slot->layers[l];
    slot->batch.graphs[l] = (struct layer_graph){
        .n_dst = n_dst,
        .n_src = n_src,
        .indptr = layer->indptr.items,
        .indices = layer->indices.items,
        .weights = layer->weights.items,
        .self = mfg_has_self(sampler->hops.graph[l]) ? layer->self.items : NULL,
    };
    if (transpose)
        sampler_transpose(slot, l);
}

void sampler_transpose(struct slot *slot, size_t l) {
    struct slot_layer *layer = &slot->layers[l];
    struct layer_graph *graph = &slot->batch.graphs[l];
    size_t edges = (size_t)graph->indptr[graph->n_dst];
    RESERVE(&layer->t_indptr, (size_t)graph->n_src + 1);
    RESERVE(&layer->t_indices, edges);
    RESERVE(&layer->t_weights, edges);
    mfg_transpose(graph->n_dst, graph->n_src, graph->indptr, graph->indices, graph->weights,
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
    size_t classes = store->classes;
    if (store->multi_labels)
        RESERVE(&slot->multi_labels, n_output * classes);
    if (store->targets)
        RESERVE(&slot->targets, n_output * classes);
    for (uint32_t i = 0; store->targets && i < n_output; i++)
        memcpy(slot->targets.items + i * classes, store->targets + (size_t)locals[i] * classes,
               classes * sizeof(float));
    for (uint32_t i = 0; store->multi_labels && i < n_output; i++)
        memcpy(slot->multi_labels.items + i * classes,
               store->multi_labels + (size_t)locals[i] * classes, classes);
}

static void make_batch(struct maker *maker, struct slot *slot, uint64_t step) {
    const struct sampler *sampler = maker->sampler;
    struct batch *batch = &slot->batch;
    *batch = (struct batch){.step = step, .version = 0, .hops = sampler->hops.count};
    nodemap_clear(&maker->map);
    sampler->method->make(maker, slot);

    gather(sampler->store, slot);
    batch->nodes = slot->nodes.items;
    batch->features = slot->features.items;
    batch->labels = slot->labels.items;
    batch->multi_labels = sampler->store->multi_labels ? slot->multi_labels.items : NULL;
    batch->targets = sampler->store->targets ? slot->targets.items : NULL;
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
    if (config->train_mode != TRAIN_SAMPLED)
        return 0;
    if (walks_clusters(config) && (uint64_t)config->train_clusters > store->owned)
        return error_set(reterr, ERR_CONFIG,
                         "train.clusters is %lld, but part %u of %u of %s has %llu nodes; give "
                         "fewer clusters",
                         (long long)config->train_clusters, store->part, store->parts,
                         store->snapshot_name, (unsigned long long)store->owned);
    struct model_spec spec;
    model_spec_from(config, store->feature_dim, store->classes, &spec);
    for (size_t l = 1; l < spec.hops.count && config->train_sampler >= SAMPLER_CLUSTER; l++)
        if (spec.hops.graph[l] != spec.hops.graph[0])
            return error_set(reterr, ERR_CONFIG,
                             "train.sampler is %s, which makes one graph for all layers, but the "
                             "layers of model.stack weigh edges in different ways; choose neighbor "
                             "or layer",
                             config_choice(config, "train.sampler"));
    if (!config->train_weighted)
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

static void make_totals(struct sampler *sampler) {
    const struct store *store = sampler->store;
    sampler->totals = mem_array(store->rows, sizeof *sampler->totals);
    for (uint64_t i = 0; i < store->rows; i++)
        sampler->totals[i] =
            mfg_total(store, GRAPH_MEAN_WEIGHTED, store->indptr[i], store->indptr[i + 1]);
}

static void make_items(struct sampler *sampler) {
    const struct store *store = sampler->store;
    sampler->items = mem_array(sampler->item_count, sizeof *sampler->items);
    uint64_t count = 0;
    for (uint64_t i = 0; i < sampler->item_count && sampler->method == &sampler_cluster; i++)
        sampler->items[count++] = (int32_t)i;
    for (uint64_t i = 0; i < store->owned && sampler->method != &sampler_cluster; i++)
        if (subgraph_trains(store, (int32_t)i))
            sampler->items[count++] = (int32_t)i;
    assert(count == sampler->item_count);
}

static void make_tables(struct sampler *sampler) {
    const struct store *store = sampler->store;
    if (!sampler->negatives)
        make_items(sampler);
    sampler->scales = mem_array(store->local, sizeof *sampler->scales);
    for (uint64_t i = 0; i < store->local; i++)
        sampler->scales[i] = (float)(1 / sqrt((double)store->degree[i] + 1));
    for (size_t l = 0; l < sampler->hops.count; l++)
        if (sampler->hops.graph[l] == GRAPH_MEAN_WEIGHTED && !sampler->totals)
            make_totals(sampler);
    for (uint64_t i = 0; i < store->rows; i++) {
        size_t degree = (size_t)(store->indptr[i + 1] - store->indptr[i]);
        sampler->row_max = degree > sampler->row_max ? degree : sampler->row_max;
    }
}

static void maker_init(struct maker *maker, struct sampler *sampler) {
    maker->sampler = sampler;
    if (!sampler->negatives)
        maker->order = mem_array(sampler->item_count, sizeof *maker->order);
    maker->taken = mem_array(sampler->row_max / 64 + 1, sizeof *maker->taken);
    maker->epoch = UINT64_MAX;
    nodemap_init(&maker->map, sampler->store->local);
    nodemap_init(&maker->other, sampler->store->local);
}

static void maker_start(struct maker *maker) {
    if (pthread_create(&maker->thread, NULL, maker_thread, maker) != 0) {
        fprintf(stderr, "graphps: the machine refused a thread for sampling\n");
        exit(70);
    }
}

static void maker_done(struct maker *maker) {
    nodemap_done(&maker->map);
    nodemap_done(&maker->other);
    mem_free(maker->others.items);
    mem_free(maker->sums.items);
    mem_free(maker->inverses.items);
    mem_free(maker->order);
    mem_free(maker->taken);
    mem_free(maker->scales.items);
    mem_free(maker->positions.items);
    mem_free(maker->found.items);
    mem_free(maker->excluded.items);
    mem_free(maker->edges.items);
}

static struct sampler *make_sampler(const struct store *store, const struct config *config,
                                    uint64_t first_step, bool trial) {
    static const struct sampler_method *const methods[] = {
        [SAMPLER_NEIGHBOR] = &sampler_neighbor,
        [SAMPLER_LAYER] = &sampler_layer,
        [SAMPLER_CLUSTER] = &sampler_cluster,
        [SAMPLER_SAINT] = &sampler_saint,
    };
    struct sampler *sampler = mem_alloc(sizeof *sampler);
    bool clusters = walks_clusters(config);
    sampler->store = store;
    sampler->method = methods[config->train_sampler];
    struct model_spec spec;
    model_spec_from(config, store->feature_dim, store->classes, &spec);
    sampler->hops = spec.hops;
    sampler->transpose_first = model_spec_first_transpose(&spec);
    bool links = config->train_task == TASK_LINKS;
    sampler->item_count = links      ? (uint64_t)store->indptr[store->owned]
                          : clusters ? (uint64_t)config->train_clusters
                                     : store->train_nodes;
    sampler->item_goal = items_max(store, config);
    sampler->negatives = links ? negatives_new(store) : NULL;
    sampler->negatives_each = (uint64_t)config->link_negatives_per_link;
    sampler->in_batch = config->link_negatives == NEGATIVES_IN_BATCH;
    sampler->share =
        (uint64_t)(clusters ? config->train_clusters_per_batch : config->train_batch_size);
    sampler->layer_nodes = (uint64_t)config->train_layer_nodes;
    sampler->walk_length = (uint64_t)config->train_walk_length;
    sampler->walk_coverage = trial ? 1 : (uint64_t)config->train_walk_coverage;
    sampler->trial = trial;
    sampler->steps_per_epoch = sampler_steps_per_epoch(store, config);
    sampler->seed = (uint64_t)config->job_seed;
    sampler->first_step = first_step;
    assert(config->train_sampler != SAMPLER_NEIGHBOR ||
           config->train_fanout.count >= spec.hops.count);
    for (size_t l = 0; config->train_sampler == SAMPLER_NEIGHBOR && l < spec.hops.count; l++)
        sampler->fanout[l] = (uint64_t)config->train_fanout.items[spec.hops.count - 1 - l];
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
        maker_init(&sampler->makers[m], sampler);
    if (sampler->method->prepare)
        sampler->method->prepare(sampler, &sampler->makers[0]);
    for (size_t m = 0; m < sampler->maker_count; m++)
        maker_start(&sampler->makers[m]);
    return sampler;
}

struct sampler *sampler_new(const struct store *store, const struct config *config,
                            uint64_t first_step) {
    return make_sampler(store, config, first_step, false);
}

struct sampler *sampler_new_trial(const struct store *store, const struct config *config) {
    return make_sampler(store, config, 0, true);
}

/* What arrays have beyond their use is not touched, and takes no memory. */
#define BYTES(array)                                                                               \
    mem_touched_bytes((array).capacity * sizeof *(array).items,                                    \
                      (array).used * sizeof *(array).items)

static size_t slot_bytes(const struct slot *slot) {
    size_t bytes = BYTES(slot->nodes) + BYTES(slot->locals) + BYTES(slot->features) +
                   BYTES(slot->labels) + BYTES(slot->multi_labels) + BYTES(slot->targets) +
                   BYTES(slot->split) + BYTES(slot->loss_weights) + BYTES(slot->link_sources) +
                   BYTES(slot->link_targets) + BYTES(slot->link_relations);
    for (size_t l = 0; l < HOPS_MAX; l++) {
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
    size_t order = sampler->items ? sampler->item_count * sizeof *sampler->items : 0;
    size_t bytes = order + sampler->store->local * sizeof *sampler->scales +
                   (sampler->totals ? sampler->store->rows * sizeof *sampler->totals : 0);
    if (sampler->method->bytes)
        bytes += sampler->method->bytes(sampler);
    if (sampler->negatives)
        bytes += negatives_bytes(sampler->negatives);
    if (sampler->alias)
        bytes += alias_bytes(sampler->store->indptr, sampler->store->rows);
    /* Sooner or later each slot has held one of the largest. */
    size_t largest = 0;
    for (size_t s = 0; s < sampler->slot_count; s++) {
        size_t slot = slot_bytes(&sampler->slots[s]);
        largest = largest < slot ? slot : largest;
    }
    bytes += sampler->slot_count * largest;
    for (size_t m = 0; m < sampler->maker_count; m++) {
        const struct maker *maker = &sampler->makers[m];
        bytes += order + nodemap_bytes(&maker->map) + nodemap_bytes(&maker->other) +
                 BYTES(maker->others) + BYTES(maker->sums) + BYTES(maker->inverses) +
                 BYTES(maker->scales) + BYTES(maker->positions) + BYTES(maker->found) +
                 BYTES(maker->excluded) + BYTES(maker->edges) + sampler->row_max / 8;
    }
    return bytes;
}

size_t sampler_prepare_bytes(const struct sampler *sampler) {
    return sampler->method->prepare_bytes ? sampler->method->prepare_bytes(sampler) : 0;
}

static void slot_done(struct slot *slot) {
    for (size_t l = 0; l < HOPS_MAX; l++) {
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
    mem_free(slot->multi_labels.items);
    mem_free(slot->targets.items);
    mem_free(slot->split.items);
    mem_free(slot->loss_weights.items);
    mem_free(slot->link_sources.items);
    mem_free(slot->link_targets.items);
    mem_free(slot->link_relations.items);
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
    if (sampler->method->done)
        sampler->method->done(sampler);
    alias_free(sampler->alias);
    negatives_free(sampler->negatives);
    mem_free(sampler->makers);
    mem_free(sampler->slots);
    mem_free(sampler->items);
    mem_free(sampler->scales);
    mem_free(sampler->totals);
    mem_free(sampler);
    return NULL;
}
