/* Sums of what the parts say they will allocate, and rates that are measured. */
#include "worker/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/lock.h"
#include "common/mem.h"
#include "proto/codec.h"
#include "worker/graph/full_links.h"
#include "worker/graph/sampler.h"
#include "worker/kernels/kernels.h"
#include "worker/model/infer.h"
#include "worker/model/link_head.h"
#include "worker/model/link_rank.h"
#include "worker/model/model.h"

/* Measured with next to nothing to do: libraries, threads, OpenBLAS's buffers, which shards do not
 * have. */
#define WORKER_BASE_BYTES (15ull << 20)
#define SHARD_BASE_BYTES (8ull << 20)
#define TRY_BATCHES 12
#define TRY_MS 300
#define RATE_EDGES (2u << 20)
#define RATE_ROWS 65536u

uint64_t plan_worker_bytes(const struct plan_worker *worker) {
    uint64_t training = worker->feature_bytes + worker->batch_bytes + worker->model_bytes;
    return worker->mapped_bytes - worker->feature_bytes + worker->exchange_bytes +
           worker->base_bytes +
           (training > worker->prepare_bytes ? training : worker->prepare_bytes);
}

uint64_t plan_shard_bytes(const struct plan_shard *shard) {
    return shard->weights_bytes + shard->state_bytes + shard->pushes_bytes + shard->rows_bytes +
           shard->base_bytes;
}

static uint64_t mapped_bytes(const struct store *store) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < ARRAY_LEN(store->files); i++)
        bytes += store->files[i].map.len;
    return bytes;
}

/* How many features are not zero, from a sample of rows. */
static uint64_t filled_features(const struct store *store, uint64_t rows) {
    enum { SAMPLE = 512 };
    size_t dim = store->feature_dim;
    uint64_t filled = 0, taken = 0;
    _cleanup_(mem_free_p) float *row = mem_raw(dim * sizeof *row);
    for (uint64_t i = 0; i < rows; i += 1 + rows / SAMPLE, taken++) {
        store_take_rows(store, i, 1, row);
        for (size_t j = 0; j < dim; j++)
            filled += row[j] != 0;
    }
    return taken ? (uint64_t)((double)filled / (double)taken * (double)rows) : 0;
}

/* Decoder and loss of the largest batch, of so many pairs and outputs, and evaluation. */
static size_t links_bytes(const struct config *config, const struct store *store, uint64_t pairs,
                          size_t outputs) {
    struct link_rank_spec rank = link_rank_spec_from(config);
    return link_head_bytes(pairs, outputs) + link_rank_bytes(&rank, store);
}

static uint64_t full_pairs(const struct config *config, const struct store *store) {
    return (uint64_t)store->indptr[store->owned] * (1 + (uint64_t)config->link_negatives_per_link);
}

static void plan_full(const struct config *config, const struct store *store,
                      const struct model_spec *spec, struct plan_worker *ret) {
    struct batch shape = full_batch_shape(store, &spec->hops);
    ret->steps = 1;
    ret->batch_bytes = full_batch_bytes(store, &spec->hops);
    ret->model_bytes = model_bytes(spec, &shape, filled_features(store, shape.n_input), true);
    ret->inputs = shape.n_input;
    for (size_t l = 0; l < spec->hops.count; l++)
        ret->edges += (uint64_t)shape.graphs[l].indptr[shape.graphs[l].n_dst];
    if (config->train_task == TASK_LINKS) {
        ret->batch_bytes += full_links_bytes(store, config);
        ret->model_bytes += links_bytes(config, store, full_pairs(config, store), shape.n_output);
    }
    full_batch_shape_done(&shape);
}

/* The largest of some batches stands for all. The model grows as it meets them: a batch larger than
 * its arrays makes those a quarter larger than itself. */
static void plan_sampled(const struct config *config, const struct store *store,
                         const struct model_spec *spec, struct plan_worker *ret) {
    struct sampler *sampler = sampler_new_trial(store, config);
    uint64_t begun_ms = time_now_ms(), pairs = 0;
    ret->steps = sampler_steps_per_epoch(store, config);
    /* Each thread's first and those that wait for us: so many are made ahead at once. */
    size_t ahead = (size_t)config->train_sampler_threads + 2, outputs = 0;
    for (size_t i = 0; i < ahead || (i < TRY_BATCHES && time_now_ms() - begun_ms < TRY_MS); i++) {
        const struct batch *batch = sampler_next(sampler);
        uint64_t bytes = model_bytes(spec, batch, 0, true), edges = 0;
        for (size_t l = 0; l < batch->hops; l++)
            edges += (uint64_t)batch->graphs[l].indptr[batch->graphs[l].n_dst];
        if (batch->train_count > 0 && bytes * 4 / 5 > ret->model_bytes)
            ret->model_bytes = bytes;
        ret->edges = ret->edges > edges ? ret->edges : edges;
        pairs = pairs > link_pairs_all(&batch->links) ? pairs : link_pairs_all(&batch->links);
        outputs = outputs > batch->n_output ? outputs : batch->n_output;
        ret->inputs = ret->inputs > batch->n_input ? ret->inputs : batch->n_input;
    }
    ret->batch_bytes = sampler_bytes(sampler);
    ret->prepare_bytes = sampler_prepare_bytes(sampler);
    sampler_free(sampler);
    ret->model_bytes += infer_bytes(spec, store);
    if (config->train_task == TASK_LINKS)
        ret->model_bytes += links_bytes(config, store, pairs, outputs);
}

/* A row's number and gradient, as they travel. */
static size_t pushed_row_bytes(const struct config *config) {
    return sizeof(uint64_t) +
           codec_bytes((enum codec)config->push_encoding, 1, (size_t)config->model_embedding);
}

void plan_worker(const struct config *config, const struct store *store, uint64_t parameters,
                 struct plan_worker *ret) {
    struct model_spec spec;
    model_spec_from(config, store->feature_dim, store->classes, &spec);
    size_t feature = store->half_features ? sizeof *store->half_features : sizeof(float);
    *ret = (struct plan_worker){
        .base_bytes = WORKER_BASE_BYTES,
        .mapped_bytes = mapped_bytes(store),
        .feature_bytes = store->local * store->feature_dim * feature,
    };
    if (config->train_mode == TRAIN_SAMPLED)
        plan_sampled(config, store, &spec, ret);
    else
        plan_full(config, store, &spec, ret);
    /* The trainer's weights and gradient, the outbox's weights, a candidate's, what error feedback
     * holds back, and two pushes and a pull under way. */
    uint64_t copies = 4 + 3 + (config->push_encoding != ENCODING_FP32);
    ret->exchange_bytes = copies * parameters * sizeof(float);
    /* A batch's rows and their order, and the pushes of one step, or in async of two. */
    size_t steps = config->consistency_mode == CONSISTENCY_ASYNC ? 2 : 1;
    if (spec.embedding)
        ret->exchange_bytes +=
            ret->inputs * (spec.embedding * sizeof(float) + 2 * sizeof(uint32_t) +
                           steps * pushed_row_bytes(config));
}

void plan_shard(const struct config *config, uint64_t floats, size_t state_floats,
                struct plan_shard *ret) {
    uint64_t bytes = floats * sizeof(float);
    *ret = (struct plan_shard){
        /* Published, the next ones, and the best or a candidate's. */
        .weights_bytes = 3 * bytes,
        .state_bytes = state_floats * bytes,
        .pushes_bytes = (uint64_t)config->workers_count * bytes,
        .base_bytes = SHARD_BASE_BYTES,
    };
}

void plan_shard_rows(const struct config *config, uint64_t nodes, uint64_t pushed,
                     size_t state_floats, struct plan_shard *shard) {
    uint64_t dim = (uint64_t)config->model_embedding, shards = (uint64_t)config->servers_count;
    uint64_t sets = config->consistency_mode == CONSISTENCY_BSP ? 1 : 2;
    /* server/table.h; of its 5 to 10 bytes for the index, most. */
    uint64_t row = (1 + state_floats + sets) * dim * sizeof(float) + 4 * sets + 16 + 8;
    uint64_t decoded = config->push_encoding == ENCODING_FP32 ? 0 : dim * sizeof(float);
    shard->rows_bytes = nodes / shards * row;
    /* Of each worker a push, and as much again: an answer to its pull, or an async second push. */
    uint64_t answered = dim * sizeof(float);
    shard->pushes_bytes += pushed / shards * (pushed_row_bytes(config) + decoded + answered);
}

/* --- time --- */

/* Seconds that a multiplication by one edge takes, for each number of a row. */
static double edge_seconds(const struct store *store, size_t dim) {
    uint64_t rows = 0;
    while (rows < store->rows && store->indptr[rows + 1] < RATE_EDGES)
        rows++;
    uint64_t edges = (uint64_t)store->indptr[rows];
    if (edges == 0)
        return 0;
    /* Sources as far apart as they are, as far as that is affordable. */
    uint64_t sources = store->local;
    while (sources * dim > (64u << 20))
        sources /= 2;
    _cleanup_(mem_free_p) float *x = mem_array(sources * dim, sizeof *x);
    _cleanup_(mem_free_p) float *y = mem_raw(rows * dim * sizeof *y);
    _cleanup_(mem_free_p) float *weights = mem_array(edges, sizeof *weights);
    _cleanup_(mem_free_p) int32_t *indices = mem_raw(edges * sizeof *indices);
    for (uint64_t e = 0; e < edges; e++)
        indices[e] = (int32_t)((uint64_t)store->indices[e] % sources);
    uint64_t begun_ns = 0;
    size_t passes = 0;
    for (; passes < 2 || (time_now_ns() - begun_ns < 200000000 && passes < 50); passes++) {
        if (passes == 1)
            begun_ns = time_now_ns();
        kernels()->spmm(rows, dim, store->indptr, indices, weights, NULL, x, dim, y, dim);
    }
    return (double)(time_now_ns() - begun_ns) / 1e9 / (double)(passes - 1) / (double)edges /
           (double)dim;
}

/* Seconds of one multiplication and addition of a matrix product. */
static double multiply_seconds(size_t in, size_t out) {
    size_t rows = RATE_ROWS;
    while (rows > 64 && rows * (in + out) > (8u << 20))
        rows /= 2;
    _cleanup_(mem_free_p) float *x = mem_array(rows * in, sizeof *x);
    _cleanup_(mem_free_p) float *w = mem_array(in * out, sizeof *w);
    _cleanup_(mem_free_p) float *y = mem_raw(rows * out * sizeof *y);
    uint64_t begun_ns = 0;
    size_t passes = 0;
    for (; passes < 2 || (time_now_ns() - begun_ns < 100000000 && passes < 50); passes++) {
        if (passes == 1)
            begun_ns = time_now_ns();
        gemm(false, false, rows, out, in, 1, x, in, w, out, 0, y, out);
    }
    return (double)(time_now_ns() - begun_ns) / 1e9 / (double)(passes - 1) /
           ((double)rows * (double)in * (double)out);
}

/* Forward and backward: two multiplications by the graph (but the first layer's is made once where
 * nothing changes its inputs), and three by the weights. */
static double full_seconds(const struct config *config, const struct store *store) {
    struct model_spec spec;
    model_spec_from(config, store->feature_dim, store->classes, &spec);
    struct batch shape = full_batch_shape(store, &spec.hops);
    double seconds = 0;
    for (size_t l = 0; l < spec.count; l++) {
        const struct layer_spec *layer = &spec.layers[l];
        bool propagates = layer->graph != GRAPH_NONE,
             kept = l == 0 && spec.input_dropout == 0 && !spec.embedding;
        const struct layer_graph *graph = propagates ? &shape.graphs[layer->hop] : NULL;
        size_t narrow = layer->in < layer->out ? layer->in : layer->out;
        double rows = graph ? graph->n_dst : layer->hop == 0 ? shape.n_input : shape.n_output;
        if (graph)
            seconds += (kept ? 0 : 2) * edge_seconds(store, narrow) * (double)narrow *
                       (double)graph->indptr[graph->n_dst];
        seconds += (l == 0 ? 2 : 3) * (double)model_layer_floats(layer) *
                   multiply_seconds(layer->in, layer->out) * rows;
    }
    /* A pair is scored once and adds to the gradients of both its ends. */
    if (config->train_task == TASK_LINKS)
        seconds += 3 * edge_seconds(store, spec.classes) * (double)spec.classes *
                   (double)full_pairs(config, store);
    full_batch_shape_done(&shape);
    return seconds;
}

static double sampled_seconds(const struct config *config, const struct store *store) {
    struct model_spec spec;
    model_spec_from(config, store->feature_dim, store->classes, &spec);
    _cleanup_(mem_free_p) struct tensor_spec *tensors = NULL;
    struct link_head_spec links = link_head_spec_from(config, store->edge_types);
    struct link_head *head = config->train_task == TASK_LINKS ? link_head_new(&links) : NULL;
    size_t count =
        head ? link_head_tensors(&links, &spec, &tensors) : model_tensors(&spec, &tensors);
    size_t floats = 0;
    for (size_t i = 0; i < count; i++)
        floats += (size_t)tensors[i].rows * tensors[i].cols;
    size_t model_at = head ? link_head_floats(&links) : 0;
    _cleanup_(mem_free_p) float *weights = mem_array(floats, sizeof *weights);
    _cleanup_(mem_free_p) float *gradient = mem_array(floats, sizeof *gradient);
    struct model *model = model_new(&spec);
    struct sampler *sampler = sampler_new_trial(store, config);
    struct model_result result;
    uint64_t begun_ns = 0;
    size_t steps = 0;
    for (; steps < 2 || (time_now_ns() - begun_ns < 2000000000 && steps < 200); steps++) {
        if (steps == 1)
            begun_ns = time_now_ns();
        struct batch batch = *sampler_next(sampler);
        if (batch.train_count == 0) /* nothing to compute */
            continue;
        _cleanup_(mem_free_p) float *rows =
            mem_array((size_t)batch.n_input * spec.embedding, sizeof *rows);
        batch.embeddings = rows;
        const float *y =
            model_forward(model, &batch, weights + model_at, true, head ? NULL : &result);
        if (!head) {
            model_backward(model, &batch, weights, gradient);
            continue;
        }
        link_head_forward(head, &batch.links, y, weights);
        link_head_backward(head, &batch.links, batch.n_output, y, weights,
                           model_output_gradient(model), gradient);
        model_backward_outputs(model, &batch, weights + model_at, gradient + model_at);
    }
    double seconds = (double)(time_now_ns() - begun_ns) / 1e9 / (double)(steps - 1);
    sampler_free(sampler);
    model_free(model);
    link_head_free(head);
    return seconds;
}

void plan_time(const struct config *config, const struct store *store, struct plan_worker *worker) {
    worker->step_seconds = config->train_mode == TRAIN_SAMPLED ? sampled_seconds(config, store)
                                                               : full_seconds(config, store);
}

/* --- what there is --- */

static uint64_t number_in(const char *path, const char *key) {
    FILE *file = fopen(path, "re");
    char line[256];
    uint64_t number = UINT64_MAX;
    while (file && fgets(line, sizeof line, file))
        if (!key || !strncmp(line, key, strlen(key))) {
            const char *digits = line + (key ? strlen(key) : 0);
            digits += strspn(digits, " ");
            if (*digits >= '0' && *digits <= '9')
                number = strtoull(digits, NULL, 10);
            break;
        }
    if (file)
        fclose(file);
    return number;
}

uint64_t plan_available_bytes(void) {
    uint64_t machine = number_in("/proc/meminfo", "MemAvailable:");
    uint64_t limit = number_in("/sys/fs/cgroup/memory.max", NULL);
    uint64_t used = number_in("/sys/fs/cgroup/memory.current", NULL);
    uint64_t bytes = machine == UINT64_MAX ? UINT64_MAX : machine * 1024;
    if (limit != UINT64_MAX && used != UINT64_MAX) {
        uint64_t left = limit > used ? limit - used : 0;
        bytes = bytes < left ? bytes : left;
    }
    return bytes;
}
