/* A model as a stack of layers: which kind, in which order each multiplies, bias, activation and
 * dropout between them, and the memory of a pass. The layers' own formulas are in gcn.c, sage.c and
 * linear.c; weight decay is the server's. */
#include "worker/model/model.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "worker/kernels/kernels.h"
#include "worker/model/layer.h"
#include "worker/model/loss.h"

static const struct layer *const layers_by_kind[] = {
    [MODEL_GCN] = &layer_gcn,
    [MODEL_SAGE] = &layer_sage,
    [MODEL_MLP] = &layer_linear,
};

void model_spec_from(const struct config *config, uint32_t input_dim, uint32_t classes,
                     struct model_spec *ret) {
    *ret = (struct model_spec){
        .kind = config->model_kind,
        .layers = (size_t)config->model_layers,
        .input_dim = input_dim,
        .hidden = (uint32_t)config->model_hidden,
        .classes = classes,
        .dropout = (float)config->model_dropout,
        .input_dropout = (float)config->model_input_dropout,
        .label_smoothing = (float)config->train_label_smoothing,
        .decay_layers = config->optimizer_decay_layers,
        .seed = (uint64_t)config->job_seed,
    };
}

static uint32_t spec_in(const struct model_spec *spec, size_t l) {
    return l == 0 ? spec->input_dim : spec->hidden;
}

static uint32_t spec_out(const struct model_spec *spec, size_t l) {
    return l + 1 == spec->layers ? spec->classes : spec->hidden;
}

size_t model_tensors(const struct model_spec *spec, struct tensor_spec **ret) {
    const struct layer *layer = layers_by_kind[spec->kind];
    struct tensor_spec *tensors =
        mem_array(spec->layers * (layer->weight_count + 1), sizeof *tensors);
    size_t count = 0;
    for (size_t l = 0; l < spec->layers; l++) {
        for (size_t w = 0; w < layer->weight_count; w++) {
            struct tensor_spec *weight = &tensors[count++];
            snprintf(weight->name, sizeof weight->name, "layer%zu.%s", l, layer->weight_names[w]);
            weight->rows = spec_in(spec, l);
            weight->cols = spec_out(spec, l);
            weight->init = TENSOR_GLOROT_UNIFORM;
            weight->decay = spec->decay_layers == DECAY_ALL || l == 0;
        }
        struct tensor_spec *bias = &tensors[count++];
        snprintf(bias->name, sizeof bias->name, "layer%zu.bias", l);
        bias->rows = 1;
        bias->cols = spec_out(spec, l);
        bias->init = TENSOR_ZEROS;
    }
    *ret = tensors;
    return count;
}

/* The arrays of a pass. Each is as large as the largest batch so far needed it. */
enum {
    SLOT_Y,                              /* + layer: outputs [n_dst, out], after activation */
    SLOT_MASK = SLOT_Y + LAYERS_MAX,     /* + layer: what relu and dropout let through, bytes */
    SLOT_SAVED = SLOT_MASK + LAYERS_MAX, /* + layer: A x */
    SLOT_SCRATCH = SLOT_SAVED + LAYERS_MAX,
    SLOT_GRADIENT,                    /* two, taking turns: of a layer's outputs, of its inputs */
    SLOT_PARTIAL = SLOT_GRADIENT + 2, /* partial sums of a bias's gradient */
    SLOTS
};

/* A column's sum is made of this many partial sums, whatever the number of threads. */
#define PARTIAL_SUMS 32

struct model {
    struct model_spec spec;
    const struct layer *layer;
    size_t weight_offsets[LAYERS_MAX], bias_offsets[LAYERS_MAX]; /* in the flat arrays */

    size_t planned[SLOTS]; /* bytes */
    void *slots[SLOTS];
    struct arena *arena;

    struct features *features;
    struct matrix inputs[LAYERS_MAX]; /* what each layer multiplied in the last forward pass */
    bool graph_first[LAYERS_MAX];
    uint64_t saved_version; /* the first layer's A x is that of this batch->version; 0: of none */
};

struct model *model_new(const struct model_spec *spec) {
    assert(spec->layers >= 1 && spec->layers <= LAYERS_MAX);
    struct model *model = mem_alloc(sizeof *model);
    model->spec = *spec;
    model->layer = layers_by_kind[spec->kind];
    model->features = features_new(spec->input_dim);
    size_t offset = 0;
    for (size_t l = 0; l < spec->layers; l++) {
        model->weight_offsets[l] = offset;
        offset += model->layer->weight_count * spec_in(spec, l) * spec_out(spec, l);
        model->bias_offsets[l] = offset;
        offset += spec_out(spec, l);
    }
    return model;
}

struct model *model_free(struct model *model) {
    if (model) {
        features_free(model->features);
        arena_free(model->arena);
        mem_free(model);
    }
    return NULL;
}

/* Does nothing, dropout included, change the first layer's inputs from step to step? */
static bool inputs_constant(const struct model *model, const struct batch *batch) {
    return batch->version != 0 && model->spec.input_dropout == 0;
}

static bool decide_graph_first(const struct model *model, const struct batch *batch, size_t l) {
    if (model->layer == &layer_linear)
        return false;
    if (l == 0) {
        if (model->inputs[0].sparse)
            return false;
        if (!batch->graphs[0].t_indptr || inputs_constant(model, batch))
            return true;
    }
    return spec_in(&model->spec, l) < spec_out(&model->spec, l);
}

static void raise_to(size_t *bytes, size_t at_least) {
    *bytes = *bytes < at_least ? at_least : *bytes;
}

static void plan_layer(const struct model *model, const struct batch *batch, size_t l, bool train,
                       size_t need[SLOTS]) {
    size_t in = spec_in(&model->spec, l), out = spec_out(&model->spec, l);
    size_t n_src = batch->graphs[l].n_src, n_dst = batch->graphs[l].n_dst;
    need[SLOT_Y + l] = n_dst * out * sizeof(float);
    if (model->graph_first[l])
        need[SLOT_SAVED + l] = n_dst * in * sizeof(float);
    /* Going forward, with the graph first, needs no scratch. */
    if (!model->graph_first[l] || (train && l > 0))
        raise_to(&need[SLOT_SCRATCH],
                 (model->graph_first[l] ? n_dst * in : n_src * out) * sizeof(float));
    if (!train)
        return;
    if (l + 1 < model->spec.layers)
        need[SLOT_MASK + l] = n_dst * out;
    raise_to(&need[SLOT_GRADIENT], n_dst * out * sizeof(float));
    raise_to(&need[SLOT_GRADIENT + 1], n_dst * out * sizeof(float));
    raise_to(&need[SLOT_PARTIAL], PARTIAL_SUMS * out * sizeof(float));
}

/* Makes room for a pass over batch: nothing happens unless it is larger than all before. */
static void model_plan(struct model *model, const struct batch *batch, bool train) {
    size_t need[SLOTS] = {0}, total = 0;
    bool fits = true;
    for (size_t l = 0; l < model->spec.layers; l++)
        plan_layer(model, batch, l, train, need);
    for (size_t s = 0; s < SLOTS; s++)
        fits = fits && need[s] <= model->planned[s];
    if (fits)
        return;

    for (size_t s = 0; s < SLOTS; s++) {
        /* Sampled batches differ in size: some room keeps the next one from growing it again. */
        if (need[s] > model->planned[s])
            model->planned[s] = batch->version == 0 ? need[s] + need[s] / 4 : need[s];
        total += (model->planned[s] + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
    }
    arena_free(model->arena);
    model->arena = arena_new(total);
    for (size_t s = 0; s < SLOTS; s++)
        model->slots[s] = arena_take(model->arena, model->planned[s]);
    model->saved_version = 0;
}

size_t model_bytes(const struct model_spec *spec, const struct batch *batch, uint64_t filled,
                   bool train) {
    static const struct sparse compressed;
    struct model model = {.spec = *spec, .layer = layers_by_kind[spec->kind]};
    size_t need[SLOTS] = {0}, dense = (size_t)batch->n_input * spec->input_dim;
    bool sparse = false;
    size_t total = features_bytes(batch->n_input, spec->input_dim, filled, batch->version != 0,
                                  train ? spec->input_dropout : 0, &sparse);
    model.inputs[0].sparse = sparse && dense > 0 ? &compressed : NULL;
    for (size_t l = 0; l < spec->layers; l++)
        model.graph_first[l] = decide_graph_first(&model, batch, l);
    for (size_t l = 0; l < spec->layers; l++)
        plan_layer(&model, batch, l, train, need);
    for (size_t s = 0; s < SLOTS; s++)
        total += batch->version == 0 ? need[s] + need[s] / 4 : need[s];
    return total;
}

static struct layer_pass layer_pass(const struct model *model, const struct batch *batch,
                                    const float *weights, size_t l) {
    return (struct layer_pass){
        .graph = &batch->graphs[l],
        .x = &model->inputs[l],
        .in = spec_in(&model->spec, l),
        .out = spec_out(&model->spec, l),
        .graph_first = model->graph_first[l],
        .weights = weights + model->weight_offsets[l],
        .saved = model->slots[SLOT_SAVED + l],
        .scratch = model->slots[SLOT_SCRATCH],
    };
}

/* Random numbers of one step: stream 0 for the features, l + 1 for layer l's outputs. Elements are
 * numbered by global node, so a node is treated alike in whatever partition it is computed. */
static uint64_t dropout_key(const struct model *model, const struct batch *batch, size_t stream) {
    return rng_key(rng_key(model->spec.seed, batch->step), stream);
}

const float *model_forward(struct model *model, const struct batch *batch, const float *weights,
                           bool train, struct model_result *result) {
    const struct model_spec *spec = &model->spec;
    assert(batch->layers == spec->layers);
    model->inputs[0] = *features_prepare(
        model->features, batch, model->layer == &layer_linear || batch->graphs[0].t_indptr,
        train ? spec->input_dropout : 0, dropout_key(model, batch, 0));
    for (size_t l = 0; l < spec->layers; l++)
        model->graph_first[l] = decide_graph_first(model, batch, l);
    model_plan(model, batch, train);

    for (size_t l = 0; l < spec->layers; l++) {
        const struct layer_graph *graph = &batch->graphs[l];
        bool last = l + 1 == spec->layers;
        float *y = model->slots[SLOT_Y + l];
        struct layer_pass pass = layer_pass(model, batch, weights, l);
        if (l == 0 && pass.graph_first) {
            uint64_t version = inputs_constant(model, batch) ? batch->version : 0;
            pass.saved_valid = version != 0 && version == model->saved_version;
            model->saved_version = version;
        }
        model->layer->forward(&pass, y);
        kernels()->bias_act_dropout(graph->n_dst, pass.out, y, weights + model->bias_offsets[l],
                                    !last, train && !last ? spec->dropout : 0,
                                    dropout_key(model, batch, l + 1), batch->nodes,
                                    train && !last ? model->slots[SLOT_MASK + l] : NULL);
        if (!last)
            model->inputs[l + 1] =
                (struct matrix){.rows = graph->n_dst, .cols = pass.out, .dense = y};
    }

    const float *logits = model->slots[SLOT_Y + spec->layers - 1];
    if (result)
        loss_forward(batch->n_output, spec->classes, logits, batch->labels, batch->split,
                     spec->label_smoothing, result);
    return logits;
}

/* ret [d] = column sums of x [n, d] */
static void column_sums(size_t n, size_t d, const float *x, float *partial, float *ret) {
#pragma omp parallel for schedule(static) if (n * d >= 65536)
    for (int part = 0; part < PARTIAL_SUMS; part++) {
        float *sum = partial + (size_t)part * d;
        memset(sum, 0, d * sizeof *sum);
        size_t end = n * (size_t)(part + 1) / PARTIAL_SUMS;
        for (size_t i = n * (size_t)part / PARTIAL_SUMS; i < end; i++)
            for (size_t j = 0; j < d; j++)
                sum[j] += x[i * d + j];
    }
    memset(ret, 0, d * sizeof *ret);
    for (size_t part = 0; part < PARTIAL_SUMS; part++)
        for (size_t j = 0; j < d; j++)
            ret[j] += partial[part * d + j];
}

void model_backward(struct model *model, const struct batch *batch, const float *weights,
                    float *gradient) {
    const struct model_spec *spec = &model->spec;
    float *dy = model->slots[SLOT_GRADIENT], *dx = model->slots[SLOT_GRADIENT + 1];
    loss_backward(batch->n_output, spec->classes, model->slots[SLOT_Y + spec->layers - 1],
                  batch->labels, batch->split, batch->loss_weights, batch->train_count,
                  spec->label_smoothing, dy);

    for (size_t l = spec->layers; l-- > 0;) {
        size_t n_dst = batch->graphs[l].n_dst, out = spec_out(spec, l);
        if (l + 1 < spec->layers)
            kernels()->mask_scale(n_dst * out, dy, model->slots[SLOT_MASK + l], spec->dropout);
        column_sums(n_dst, out, dy, model->slots[SLOT_PARTIAL], gradient + model->bias_offsets[l]);
        struct layer_pass pass = layer_pass(model, batch, weights, l);
        model->layer->backward(&pass, dy, gradient + model->weight_offsets[l], l > 0 ? dx : NULL);

        float *swap = dy;
        dy = dx;
        dx = swap;
    }
}
