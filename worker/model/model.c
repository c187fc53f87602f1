/* A model as a list of layers: in which order each multiplies, where its weights are, and the
 * memory of a pass. The layers' own formulas are in files of their names, what follows each is in
 * finish.c; weight decay is the server's. */
#include "worker/model/model.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "worker/model/finish.h"
#include "worker/model/layer.h"
#include "worker/model/loss.h"
#include "worker/model/loss_multi.h"
#include "worker/model/loss_square.h"

size_t model_tensors(const struct model_spec *spec, struct tensor_spec **ret) {
    struct tensor_spec *tensors =
        mem_array(spec->count * (LAYER_TENSORS_MAX + FINISH_TENSORS_MAX + FINISH_STATISTICS_MAX),
                  sizeof *tensors);
    size_t count = 0;
    for (size_t l = 0; l < spec->count; l++) {
        const struct layer_spec *layer = &spec->layers[l];
        struct tensor_spec some[LAYER_TENSORS_MAX + FINISH_TENSORS_MAX];
        size_t own =
            layer_of(layer->kind)->tensors ? layer_of(layer->kind)->tensors(layer, some) : 0;
        size_t all = own + finish_tensors(layer, own > 0, some + own);
        bool first = count == 0;
        for (size_t t = 0; t < all; t++) {
            struct tensor_spec *tensor = &tensors[count++];
            *tensor = some[t];
            snprintf(tensor->name, sizeof tensor->name, "layer%zu.%.20s", l, some[t].name);
            tensor->decay = some[t].decay && (spec->decay_layers == DECAY_ALL || first);
        }
    }
    for (size_t l = 0; l < spec->count; l++) {
        struct tensor_spec some[FINISH_STATISTICS_MAX];
        size_t all = finish_statistics(&spec->layers[l], some);
        for (size_t t = 0; t < all; t++) {
            tensors[count] = some[t];
            snprintf(tensors[count].name, sizeof some->name, "layer%zu.%.20s", l, some[t].name);
            count++;
        }
    }
    *ret = tensors;
    return count;
}

size_t model_layer_floats(const struct layer_spec *layer) {
    return layer_weights(layer);
}

/* The arrays of a pass. Each is as large as the largest batch so far needed it. */
enum {
    /* of each layer */
    SLOT_Y,       /* outputs [n_dst, out], after all that follows the layer */
    SLOT_MASK,    /* what relu and dropout let through, bytes */
    SLOT_SAVED,   /* A x */
    SLOT_Z,       /* projections that are kept */
    SLOT_OWN,     /* the layer's */
    SLOT_NORMED,  /* finish.h */
    SLOT_INVERSE, /* the same */
    SLOT_BEFORE,  /* the same */
    SLOTS_LAYER,
    /* of all */
    SLOT_SCRATCH = SLOTS_LAYER * STACK_MAX,
    SLOT_GRADIENT,                 /* two, taking turns: of a layer's outputs, of its inputs */
    SLOT_KEPT = SLOT_GRADIENT + 2, /* finish.h */
    SLOT_START,                    /* gradient of what ppr starts from */
    SLOT_JUMP,                     /* gradient of a jump's outputs */
    SLOTS
};

static size_t slot_of(size_t l, int slot) {
    return l * SLOTS_LAYER + (size_t)slot;
}

struct model {
    struct model_spec spec;
    /* In the flat arrays, of weights and of statistics. */
    size_t offsets[STACK_MAX], finish_offsets[STACK_MAX], statistics_offsets[STACK_MAX];
    size_t lowest;     /* layer down to which gradients are needed: the first that has weights */
    bool inputs_learn; /* the inputs need one too, so that is layer 0 */
    size_t jump;       /* layer that joins those before it; 0: none does */
    /* The first so many layers compute the same for features that stay the same. */
    size_t fixed;

    size_t planned[SLOTS]; /* bytes */
    void *slots[SLOTS];
    struct arena *arena;

    const float *outputs[STACK_MAX]; /* of each layer, in its slot */
    float *input_gradient;           /* of the last backward pass; lies in a slot */

    struct features *features;
    struct matrix inputs[STACK_MAX]; /* what each layer multiplied in the last forward pass */
    bool graph_first[STACK_MAX];
    uint64_t saved_version; /* outputs of fixed layers and the next one's A x are of that
                               batch->version; 0: of none */
};

static void model_init(struct model *model, const struct model_spec *spec) {
    size_t offset = 0;
    model->spec = *spec;
    model->inputs_learn = spec->embedding > 0;
    model->lowest = spec->count;
    for (size_t l = spec->count; l-- > 0;) {
        if (layer_of(spec->layers[l].kind)->tensors || model->inputs_learn)
            model->lowest = l;
        if (spec->layers[l].kind == LAYER_jump)
            model->jump = l;
    }
    while (model->fixed < model->lowest && spec->layers[model->fixed].dropout == 0 &&
           !spec->layers[model->fixed].residual && spec->layers[model->fixed].norm == NORM_NONE)
        model->fixed++;
    for (size_t l = 0; l < spec->count; l++) {
        size_t own = layer_weights(&spec->layers[l]);
        model->offsets[l] = offset;
        model->finish_offsets[l] = offset + own;
        offset += own + finish_weights(&spec->layers[l], own > 0);
    }
    for (size_t l = 0; l < spec->count; l++) {
        model->statistics_offsets[l] = offset;
        offset += finish_statistics_floats(&spec->layers[l]);
    }
}

struct model *model_new(const struct model_spec *spec) {
    assert(spec->count >= 1 && spec->count <= STACK_MAX);
    struct model *model = mem_alloc(sizeof *model);
    model_init(model, spec);
    model->features = features_new(spec->input_dim, spec->embedding);
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

/* --- shapes and orders --- */

static const struct layer_graph *graph_of(const struct model *model, const struct batch *batch,
                                          size_t l) {
    const struct layer_spec *layer = &model->spec.layers[l];
    return layer->graph == GRAPH_NONE ? NULL : &batch->graphs[layer->hop];
}

/* Rows that come out of the propagating layers before hop. */
static size_t rows_before(const struct batch *batch, size_t hop) {
    return hop == 0 ? batch->n_input : batch->graphs[hop - 1].n_dst;
}

static size_t rows_in(const struct model *model, const struct batch *batch, size_t l) {
    return rows_before(batch, model->spec.layers[l].hop);
}

static size_t rows_out(const struct model *model, const struct batch *batch, size_t l) {
    const struct layer_graph *graph = graph_of(model, batch, l);
    return graph ? graph->n_dst : rows_in(model, batch, l);
}

/* Does nothing, dropout included, change the first layer's inputs from step to step? */
static bool inputs_constant(const struct model *model, const struct batch *batch) {
    return batch->version != 0 && model->spec.input_dropout == 0 && !model->inputs_learn;
}

/* Can the first layer, and what goes around it, use compressed features? */
static bool may_compress(const struct model_spec *spec, const struct batch *batch) {
    const struct layer_spec *first = &spec->layers[0];
    if (spec->embedding || first->order == ORDER_GRAPH ||
        (first->residual && first->in == first->out))
        return false;
    return first->graph == GRAPH_NONE || batch->graphs[0].t_indptr;
}

/* An edge's multiplication costs about eight times as much as one in a product of matrices. */
#define EDGE_COST 8

/* Is propagating x, and then multiplying its n_dst rows, cheaper than multiplying n_src rows and
 * propagating those? Backward the same products come again. */
static bool graph_first_cheaper(const struct layer_spec *layer, const struct layer_graph *graph) {
    double in = layer->in, out = layer->out, edges = (double)graph->indptr[graph->n_dst];
    return graph->n_dst * in * out + EDGE_COST * edges * in <
           graph->n_src * in * out + EDGE_COST * edges * out;
}

static bool decide_graph_first(const struct model *model, const struct batch *batch, size_t l) {
    const struct layer_spec *layer = &model->spec.layers[l];
    if (layer->graph == GRAPH_NONE || layer->order != ORDER_EITHER)
        return layer->order == ORDER_GRAPH;
    if (l == 0) {
        if (model->inputs[0].sparse)
            return false;
        if (!batch->graphs[0].t_indptr || inputs_constant(model, batch))
            return true;
    }
    return graph_first_cheaper(layer, &batch->graphs[layer->hop]);
}

/* --- memory --- */

static void raise_to(size_t *bytes, size_t floats) {
    *bytes = *bytes < floats * sizeof(float) ? floats * sizeof(float) : *bytes;
}

/* Does a layer hand on the gradient of what goes into it? */
static bool gives_gradient(const struct model *model, size_t l) {
    return l > model->lowest || model->inputs_learn;
}

static void plan_layer(const struct model *model, const struct batch *batch, size_t l, bool train,
                       size_t need[SLOTS]) {
    const struct layer_spec *layer = &model->spec.layers[l];
    const struct layer *kind = layer_of(layer->kind);
    size_t n_src = rows_in(model, batch, l), n_dst = rows_out(model, batch, l);
    bool saves = model->graph_first[l] && kind->tensors;
    bool further = gives_gradient(model, l);
    struct layer_room room = kind->room(layer, n_dst, n_src, model->graph_first[l], train);
    struct finish_room finish = finish_room(layer, n_dst, n_src, train);
    need[slot_of(l, SLOT_Y)] = n_dst * layer->out * sizeof(float);
    need[slot_of(l, SLOT_MASK)] = finish.mask_bytes;
    need[slot_of(l, SLOT_SAVED)] = saves ? n_dst * layer_saved(layer, &room) * sizeof(float) : 0;
    need[slot_of(l, SLOT_OWN)] = room.own * sizeof(float);
    need[slot_of(l, SLOT_NORMED)] = finish.normed * sizeof(float);
    need[slot_of(l, SLOT_INVERSE)] = finish.inverse * sizeof(float);
    need[slot_of(l, SLOT_BEFORE)] = finish.before * sizeof(float);
    if (room.z_kept)
        need[slot_of(l, SLOT_Z)] = n_src * room.z * sizeof(float);
    else
        raise_to(&need[SLOT_SCRATCH], n_src * room.z);
    /* Of a layer below which nobody needs a gradient, and with the graph first, it stays unused. */
    if (further || !model->graph_first[l] || room.own > 0)
        raise_to(&need[SLOT_SCRATCH], room.scratch);
    raise_to(&need[SLOT_SCRATCH], finish.scratch);
    raise_to(&need[SLOT_KEPT], finish.kept);
    if (train && l >= model->lowest) {
        size_t inputs = l == 0 && model->inputs_learn ? n_src * layer->in : 0;
        for (size_t s = SLOT_GRADIENT; s < SLOT_GRADIENT + 2; s++) {
            raise_to(&need[s], n_dst * layer->out);
            raise_to(&need[s], inputs);
        }
        if (layer->kind == LAYER_ppr)
            raise_to(&need[SLOT_START], rows_out(model, batch, layer->start) * layer->out);
        if (layer->kind == LAYER_jump)
            raise_to(&need[SLOT_JUMP], n_dst * layer->out);
    }
}

/* Makes room for a pass over batch: nothing happens unless it is larger than all before. */
static void model_plan(struct model *model, const struct batch *batch, bool train) {
    size_t need[SLOTS] = {0}, total = 0;
    bool fits = true;
    for (size_t l = 0; l < model->spec.count; l++)
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
        model->slots[s] = model->planned[s] ? arena_take(model->arena, model->planned[s]) : NULL;
    for (size_t l = 0; l < model->spec.count; l++)
        model->outputs[l] = model->slots[slot_of(l, SLOT_Y)];
    model->saved_version = 0;
}

size_t model_bytes(const struct model_spec *spec, const struct batch *batch, uint64_t filled,
                   bool train) {
    static const struct sparse compressed;
    struct model model = {0};
    size_t need[SLOTS] = {0}, dense = (size_t)batch->n_input * spec->input_dim;
    bool sparse = false;
    model_init(&model, spec);
    size_t total = features_bytes(batch->n_input, spec->input_dim, spec->embedding, filled,
                                  batch->version != 0 && may_compress(spec, batch),
                                  train ? spec->input_dropout : 0, &sparse);
    model.inputs[0].sparse = sparse && dense > 0 ? &compressed : NULL;
    for (size_t l = 0; l < spec->count; l++)
        model.graph_first[l] = decide_graph_first(&model, batch, l);
    for (size_t l = 0; l < spec->count; l++)
        plan_layer(&model, batch, l, train, need);
    for (size_t s = 0; s < SLOTS; s++)
        total += batch->version == 0 ? need[s] + need[s] / 4 : need[s];
    return total;
}

/* --- passes --- */

/* Random numbers of one step: stream 0 for the features, l + 1 for layer l's outputs. Elements are
 * numbered by global node, so a node is treated alike in whatever partition it is computed. Below
 * each, attention has a stream of its own. */
enum { STREAM_ATTENTION = 0x617474 };

static uint64_t dropout_key(const struct model *model, const struct batch *batch, size_t stream) {
    return rng_key(rng_key(model->spec.seed, batch->step), stream);
}

static struct layer_pass layer_pass(const struct model *model, const struct batch *batch,
                                    const float *weights, size_t l, bool train) {
    const struct layer_spec *layer = &model->spec.layers[l];
    return (struct layer_pass){
        .spec = layer,
        .graph = graph_of(model, batch, l),
        .n_src = rows_in(model, batch, l),
        .n_dst = rows_out(model, batch, l),
        .x = &model->inputs[l],
        .x_dst = &model->inputs[l],
        .start = layer->kind == LAYER_ppr ? model->slots[slot_of(layer->start, SLOT_Y)] : NULL,
        .outputs = model->outputs,
        .graph_first = model->graph_first[l],
        .weights = weights + model->offsets[l],
        .z = model->slots[slot_of(l, SLOT_Z)] ? model->slots[slot_of(l, SLOT_Z)]
                                              : model->slots[SLOT_SCRATCH],
        .saved = model->slots[slot_of(l, SLOT_SAVED)],
        .own = model->slots[slot_of(l, SLOT_OWN)],
        .attention_dropout = train ? layer->attention_dropout : 0,
        .key = rng_key(dropout_key(model, batch, l + 1), STREAM_ATTENTION),
        .nodes = batch->nodes,
        .scratch = model->slots[SLOT_SCRATCH],
    };
}

static struct finish_pass finish_pass(const struct model *model, const struct batch *batch,
                                      const float *weights, size_t l, bool train) {
    const struct layer_spec *layer = &model->spec.layers[l];
    bool masks = layer->activation == ACTIVATION_RELU || layer->dropout > 0;
    return (struct finish_pass){
        .spec = layer,
        .has_bias = layer_of(layer->kind)->tensors,
        .n = rows_out(model, batch, l),
        .x_dst = &model->inputs[l],
        .weights = weights + model->finish_offsets[l],
        .statistics = train ? NULL : weights + model->statistics_offsets[l],
        .p = train ? layer->dropout : 0,
        .key = dropout_key(model, batch, l + 1),
        .nodes = batch->nodes,
        .mask = train && masks ? model->slots[slot_of(l, SLOT_MASK)] : NULL,
        .normed = train ? model->slots[slot_of(l, SLOT_NORMED)] : NULL,
        .inverse = train ? model->slots[slot_of(l, SLOT_INVERSE)] : NULL,
        .before = train ? model->slots[slot_of(l, SLOT_BEFORE)] : NULL,
        .kept = model->slots[SLOT_KEPT],
        .scratch = model->slots[SLOT_SCRATCH],
    };
}

static void forward_layer(struct model *model, const struct batch *batch, const float *weights,
                          size_t l, bool train, bool saved_valid) {
    const struct layer *kind = layer_of(model->spec.layers[l].kind);
    struct layer_pass pass = layer_pass(model, batch, weights, l, train);
    struct finish_pass finish = finish_pass(model, batch, weights, l, train);
    float *y = model->slots[slot_of(l, SLOT_Y)];
    pass.saved_valid = saved_valid && pass.graph_first;
    if (kind->project && !pass.graph_first)
        kind->project(&pass, pass.x, 0, pass.n_src);
    kind->forward(&pass, y);
    finish_forward(&finish, y);
}

const float *model_forward(struct model *model, const struct batch *batch, const float *weights,
                           bool train, struct model_result *result) {
    const struct model_spec *spec = &model->spec;
    assert(batch->hops == spec->hops.count);
    model->inputs[0] =
        *features_prepare(model->features, batch, may_compress(spec, batch),
                          train ? spec->input_dropout : 0, dropout_key(model, batch, 0));
    for (size_t l = 0; l < spec->count; l++)
        model->graph_first[l] = decide_graph_first(model, batch, l);
    model_plan(model, batch, train);

    /* What is the same in each step is computed in the first one. */
    uint64_t version = inputs_constant(model, batch) ? batch->version : 0;
    bool valid = version != 0 && version == model->saved_version;
    model->saved_version = version;
    for (size_t l = 0; l < spec->count; l++) {
        if (l >= model->fixed || !valid)
            forward_layer(model, batch, weights, l, train, l == model->fixed && valid);
        if (l + 1 < spec->count)
            model->inputs[l + 1] = (struct matrix){.rows = rows_out(model, batch, l),
                                                   .cols = spec->layers[l].out,
                                                   .dense = model->slots[slot_of(l, SLOT_Y)]};
    }

    const float *logits = model->slots[slot_of(spec->count - 1, SLOT_Y)];
    if (result && batch->multi_labels)
        loss_multi_forward(batch->n_output, spec->classes, logits, batch->labels,
                           batch->multi_labels, batch->split, result);
    else if (result && batch->targets)
        loss_square_forward(batch->n_output, spec->classes, logits, batch->labels, batch->targets,
                            batch->split, result);
    else if (result)
        loss_forward(batch->n_output, spec->classes, logits, batch->labels, batch->split,
                     spec->label_smoothing, result);
    return logits;
}

/* Where the gradient of what a ppr layer starts from is gathered; NULL where nobody needs it. The
 * last of a row of such layers comes first and clears it. Of a jump: its outputs' own. */
static float *start_gradient(const struct model *model, const struct batch *batch, size_t l) {
    const struct layer_spec *layer = &model->spec.layers[l];
    if (layer->kind == LAYER_jump)
        return memset(model->slots[SLOT_JUMP], 0,
                      rows_out(model, batch, l) * layer->out * sizeof(float));
    if (layer->kind != LAYER_ppr || layer->start < model->lowest)
        return NULL;
    float *gradient = model->slots[SLOT_START];
    if (l + 1 == model->spec.count || layer[1].kind != LAYER_ppr)
        memset(gradient, 0, rows_out(model, batch, layer->start) * layer->out * sizeof *gradient);
    return gradient;
}

/* Adds the gradient that came around the ppr layers to that of the layer they start from. */
static void start_add(const struct model *model, const struct batch *batch, size_t l, float *dy) {
    const struct layer_spec *layer = &model->spec.layers[l];
    const float *gradient = model->slots[SLOT_START];
    if (l + 1 == model->spec.count || layer->kind == LAYER_ppr || layer[1].kind != LAYER_ppr)
        return;
    for (size_t i = 0; i < rows_out(model, batch, l) * layer->out; i++)
        dy[i] += gradient[i];
}

float *model_output_gradient(struct model *model) {
    return model->slots[SLOT_GRADIENT];
}

/* Adds what comes from a jump to the gradient of a layer before it. */
static void jump_add(const struct model *model, const struct batch *batch, const float *weights,
                     size_t l, float *dy) {
    if (l >= model->jump)
        return;
    struct layer_pass pass = layer_pass(model, batch, weights, model->jump, true);
    jump_back(&pass, l, model->slots[SLOT_JUMP], dy);
}

void model_backward(struct model *model, const struct batch *batch, const float *weights,
                    float *gradient) {
    const struct model_spec *spec = &model->spec;
    float *dy = model_output_gradient(model);
    const float *logits = model->slots[slot_of(spec->count - 1, SLOT_Y)];
    if (batch->multi_labels)
        loss_multi_backward(batch->n_output, spec->classes, logits, batch->labels,
                            batch->multi_labels, batch->split, batch->loss_weights,
                            batch->train_count, dy);
    else if (batch->targets)
        loss_square_backward(batch->n_output, spec->classes, logits, batch->labels, batch->targets,
                             batch->split, batch->loss_weights, batch->train_count, dy);
    else
        loss_backward(batch->n_output, spec->classes, logits, batch->labels, batch->split,
                      batch->loss_weights, batch->train_count, spec->label_smoothing, dy);
    model_backward_outputs(model, batch, weights, gradient);
}

void model_backward_outputs(struct model *model, const struct batch *batch, const float *weights,
                            float *gradient) {
    const struct model_spec *spec = &model->spec;
    float *dy = model->slots[SLOT_GRADIENT], *dx = model->slots[SLOT_GRADIENT + 1];
    for (size_t l = spec->count; l-- > model->lowest;) {
        struct layer_pass pass = layer_pass(model, batch, weights, l, true);
        struct finish_pass finish = finish_pass(model, batch, weights, l, true);
        float *wanted = gives_gradient(model, l) ? dx : NULL;
        float *finish_gradient = gradient + model->finish_offsets[l];
        start_add(model, batch, l, dy);
        jump_add(model, batch, weights, l, dy);
        finish_backward(&finish, dy, finish_gradient);
        finish_measured(&finish, gradient + model->statistics_offsets[l]);
        layer_of(spec->layers[l].kind)
            ->backward(&pass, dy, gradient + model->offsets[l], wanted,
                       start_gradient(model, batch, l));
        finish_backward_around(&finish, finish_gradient, wanted);

        float *swap = dy;
        dy = dx;
        dx = swap;
    }
    model->input_gradient = model->inputs_learn ? dy : NULL;
    if (model->inputs_learn)
        features_backward(model->features, batch, spec->input_dropout, dropout_key(model, batch, 0),
                          dy);
}

float *model_embedding_gradient(const struct model *model) {
    return model->input_gradient;
}
