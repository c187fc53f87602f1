/* The models against a slow one in double precision that is written here from the papers' formulas,
 * dense and without any of the tricks: its loss, and the difference quotients of its loss. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config.h"
#include "common/mem.h"
#include "common/rng.h"
#include "worker/graph/snapshot.h"
#include "worker/kernels/kernels.h"
#include "worker/model/model.h"

enum { NODES_MAX = 16, WIDTH_MAX = 24 };

/* A batch made by hand, with all its arrays. */
struct example {
    struct batch batch;
    int64_t indptr[HOPS_MAX][NODES_MAX + 1], t_indptr[HOPS_MAX][NODES_MAX + 1];
    int32_t indices[HOPS_MAX][NODES_MAX * 5], t_indices[HOPS_MAX][NODES_MAX * 5];
    float weights[HOPS_MAX][NODES_MAX * 5], t_weights[HOPS_MAX][NODES_MAX * 5];
    float self[HOPS_MAX][NODES_MAX];
    int64_t nodes[NODES_MAX];
    float features[NODES_MAX * WIDTH_MAX], embeddings[NODES_MAX * WIDTH_MAX];
    int32_t labels[NODES_MAX];
    uint8_t split[NODES_MAX];
};

static void make_layer(struct example *ex, size_t l, uint32_t n_dst, uint32_t n_src, int graph,
                       uint64_t key) {
    int64_t *indptr = ex->indptr[l], count = 0;
    for (uint32_t i = 0; i < n_dst; i++) {
        /* 0 to 4 neighbours: each i + a few steps on, so none repeats. */
        int64_t degree = (int64_t)rng_below(rng_at(key, i), 5);
        for (int64_t k = 0; k < degree; k++) {
            ex->indices[l][count] = (int32_t)((i + 1 + (uint32_t)k * 3) % n_src);
            ex->weights[l][count] = 0.2F + rng_float(rng_at(key, 100 + (uint64_t)count));
            count++;
        }
        indptr[i + 1] = count;
        ex->self[l][i] = 0.3F + rng_float(rng_at(key, 50 + i));
    }
    int64_t at = 0;
    for (uint32_t j = 0; j < n_src; j++) {
        for (uint32_t i = 0; i < n_dst; i++)
            for (int64_t e = indptr[i]; e < indptr[i + 1]; e++)
                if (ex->indices[l][e] == (int32_t)j) {
                    ex->t_indices[l][at] = (int32_t)i;
                    ex->t_weights[l][at++] = ex->weights[l][e];
                }
        ex->t_indptr[l][j + 1] = at;
    }
    ex->batch.graphs[l] = (struct layer_graph){
        .n_dst = n_dst,
        .n_src = n_src,
        .indptr = indptr,
        .indices = ex->indices[l],
        .weights = ex->weights[l],
        .self = graph != GRAPH_MEAN ? ex->self[l] : NULL,
        .t_indptr = ex->t_indptr[l],
        .t_indices = ex->t_indices[l],
        .t_weights = ex->t_weights[l],
    };
}

/* shrinking: each layer has fewer destinations than sources, as in a sampled batch. */
static struct example *example_new(const struct model_spec *spec, bool shrinking, bool sparse,
                                   uint64_t version, uint64_t seed) {
    struct example *ex = mem_alloc(sizeof *ex);
    uint64_t key = rng_key(seed, 3);
    uint32_t n = 13;
    for (size_t l = 0; l < spec->hops.count; l++) {
        uint32_t n_src = n;
        n = shrinking ? n - 3 : n;
        make_layer(ex, l, n, n_src, spec->hops.graph[l], rng_key(seed, shrinking ? l + 10 : 10));
    }
    ex->batch.step = seed;
    ex->batch.version = version;
    ex->batch.hops = spec->hops.count;
    ex->batch.n_input = 13;
    ex->batch.n_output = n;
    ex->batch.nodes = ex->nodes;
    ex->batch.features = ex->features;
    ex->batch.embeddings = ex->embeddings;
    ex->batch.labels = ex->labels;
    ex->batch.split = ex->split;
    for (uint32_t i = 0; i < 13; i++) {
        ex->nodes[i] = 1000 - 7 * (int64_t)i;
        ex->labels[i] = i == 2 ? -1 : (int32_t)(i % spec->classes);
        ex->split[i] = i % 4 == 3 ? SPLIT_VALID : SPLIT_TRAIN;
        ex->batch.train_count += i < n && i != 2 && i % 4 != 3;
        uint32_t fixed = spec->input_dim - spec->embedding;
        for (uint32_t j = 0; j < spec->input_dim; j++) {
            /* A learned 0 would lie on the kinks of what makes attention of it. */
            bool zero = sparse && j < fixed && (i + j) % 10 != 0;
            float value = zero ? 0 : rng_float(rng_at(key, i * spec->input_dim + j)) * 2 - 1;
            if (j < fixed)
                ex->features[i * fixed + j] = value;
            else
                ex->embeddings[i * spec->embedding + j - fixed] = value;
        }
    }
    return ex;
}

/* x [n, d] through dropout, as kernels.h and model.c say: keyed by seed, step, stream, node. */
static uint64_t dropout_key(const struct model_spec *spec, const struct batch *batch,
                            uint64_t stream) {
    return rng_key(rng_key(spec->seed, batch->step), stream);
}

static void ref_dropout(const struct model_spec *spec, const struct batch *batch, uint64_t stream,
                        float p, size_t n, size_t d, double *x) {
    uint64_t key = dropout_key(spec, batch, stream);
    for (size_t i = 0; i < n && p > 0; i++)
        for (size_t j = 0; j < d; j++) {
            bool keep = rng_float(rng_at(key, (uint64_t)batch->nodes[i] * d + j)) >= p;
            x[i * d + j] = keep ? x[i * d + j] / (1 - (double)p) : 0;
        }
}

/* y [n, out] += x [n, in] w [in, out] */
static void ref_multiply(size_t n, size_t in, size_t out, const double *x, const double *w,
                         double *y) {
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < out; j++)
            for (size_t k = 0; k < in; k++)
                y[i * out + j] += x[i * in + k] * w[k * out + j];
}

/* y [n, out] = x [n, in] w [in, out], then w is behind its numbers. */
static void ref_product(size_t n, const struct layer_spec *layer, const double *x,
                        const double **weights, double *y) {
    ref_multiply(n, layer->in, layer->out, x, *weights, y);
    *weights += (size_t)layer->in * layer->out;
}

static double ref_activation(int activation, double x) {
    switch (activation) {
    case ACTIVATION_RELU:
        return x > 0 ? x : 0;
    case ACTIVATION_ELU:
        return x > 0 ? x : exp(x) - 1;
    case ACTIVATION_GELU:
        return x * 0.5 * erfc(-x / sqrt(2));
    default:
        return x;
    }
}

/* A layer of a batch. */
struct ref_pass {
    const struct layer_spec *layer;
    const struct batch *batch;
    const struct layer_graph *graph;
    uint64_t key; /* of attention's dropout */
    bool train;
};

static double leaky(double slope, double x) {
    return x > 0 ? x : slope * x;
}

/* Is the coefficient of this edge and head kept, as attention.h says? */
static bool ref_attends(const struct ref_pass *pass, size_t i, size_t j, size_t h) {
    const int64_t *nodes = pass->batch->nodes;
    uint64_t counter = (uint64_t)nodes[j] * ((pass->layer->heads + 1) / 2) + h / 2;
    uint64_t bits = rng_at(rng_key(pass->key, (uint64_t)nodes[i]), counter);
    uint64_t drawn = (h % 2 == 0 ? bits >> 8 : bits >> 40) & 0xffffff;
    return (float)drawn * 0x1p-24F >= pass->layer->attention_dropout;
}

/* GAT and GATv2, edge by edge; the node itself is one more neighbour. */
static void ref_attention(const struct ref_pass *pass, const double *x, const double **weights,
                          double *y) {
    const struct layer_spec *layer = pass->layer;
    const struct layer_graph *graph = pass->graph;
    size_t heads = layer->heads, in = layer->in, out = layer->out;
    size_t head = layer->average ? out : out / heads, all = heads * head;
    bool v2 = layer->kind == LAYER_gatv2;
    double p = pass->train ? (double)layer->attention_dropout : 0;
    static double zl[NODES_MAX * 64], zr[NODES_MAX * 64];
    memset(zl, 0, sizeof zl);
    memset(zr, 0, sizeof zr);
    ref_multiply(graph->n_src, in, all, x, *weights, zl);
    *weights += in * all;
    ref_multiply(graph->n_src, in, all, x, v2 ? *weights : *weights - in * all, zr);
    *weights += v2 ? in * all : 0;
    const double *a_src = *weights, *a_dst = v2 ? NULL : *weights + all;
    *weights += v2 ? all : 2 * all;
    for (size_t i = 0; i < graph->n_dst; i++)
        for (size_t h = 0; h < heads; h++) {
            double total = 0, sum[WIDTH_MAX] = {0};
            for (int64_t e = graph->indptr[i] - 1; e < graph->indptr[i + 1]; e++) {
                size_t j = e < graph->indptr[i] ? i : (size_t)graph->indices[e];
                const double *l = zl + j * all + h * head, *r = zr + i * all + h * head;
                double score = 0;
                for (size_t k = 0; k < head; k++)
                    score += v2 ? a_src[h * head + k] * leaky((double)layer->slope, l[k] + r[k])
                                : a_src[h * head + k] * l[k] + a_dst[h * head + k] * r[k];
                double weight = exp(v2 ? score : leaky((double)layer->slope, score));
                total += weight;
                bool kept = p == 0 || ref_attends(pass, i, j, h);
                for (size_t k = 0; k < head && kept; k++)
                    sum[k] += weight * l[k] / (1 - p);
            }
            for (size_t k = 0; k < head; k++)
                if (layer->average)
                    y[i * out + k] += sum[k] / total / (double)heads;
                else
                    y[i * out + h * head + k] = sum[k] / total;
        }
}

/* GraphSAGE's pooling aggregator. */
static void ref_pooling(const struct ref_pass *pass, const double *x, const double **weights,
                        double *y) {
    const struct layer_graph *graph = pass->graph;
    size_t in = pass->layer->in, out = pass->layer->out;
    double z[NODES_MAX * WIDTH_MAX] = {0}, max[NODES_MAX * WIDTH_MAX] = {0};
    ref_multiply(graph->n_src, in, in, x, *weights, z);
    *weights += in * in;
    for (size_t i = 0; i < graph->n_dst; i++)
        for (int64_t e = graph->indptr[i]; e < graph->indptr[i + 1]; e++)
            for (size_t c = 0; c < in; c++)
                max[i * in + c] =
                    fmax(max[i * in + c], z[(size_t)graph->indices[e] * in + c] + (*weights)[c]);
    *weights += in;
    ref_multiply(graph->n_dst, in, out, x, *weights, y);
    *weights += in * out;
    ref_multiply(graph->n_dst, in, out, max, *weights, y);
    *weights += in * out;
}

/* What a layer itself computes: y [n, out] of x and of ax, the sums over the edges. */
static void ref_layer(const struct ref_pass *pass, size_t n, const double *x, const double *ax,
                      const double *start, const double **weights, double *y) {
    const struct layer_spec *layer = pass->layer;
    double hidden[NODES_MAX * WIDTH_MAX] = {0};
    size_t out = layer->out;
    switch (layer->kind) {
    case LAYER_linear:
        ref_product(n, layer, x, weights, y);
        return;
    case LAYER_gcn:
    case LAYER_sage_gcn:
        ref_product(n, layer, ax, weights, y);
        return;
    case LAYER_sage:
        ref_product(n, layer, x, weights, y);
        ref_product(n, layer, ax, weights, y);
        return;
    case LAYER_gin:
        ref_product(n, layer, ax, weights, hidden);
        for (size_t i = 0; i < n * out; i++)
            hidden[i] = fmax(hidden[i] + (*weights)[i % out], 0);
        *weights += out;
        ref_multiply(n, out, out, hidden, *weights, y);
        *weights += out * out;
        return;
    case LAYER_gat:
    case LAYER_gatv2:
        ref_attention(pass, x, weights, y);
        return;
    case LAYER_sage_max:
        ref_pooling(pass, x, weights, y);
        return;
    case LAYER_identity:
        memcpy(y, x, n * out * sizeof *y);
        return;
    case LAYER_propagate:
        memcpy(y, ax, n * out * sizeof *y);
        return;
    case LAYER_ppr:
        for (size_t i = 0; i < n * out; i++)
            y[i] = (1 - (double)layer->alpha) * ax[i] + (double)layer->alpha * start[i];
        return;
    default:
        ck_abort_msg("no reference for layer %s", layer_kind_name(layer->kind));
    }
}

/* Batch normalisation: by what the rows have, which measured is told, or by running statistics. */
static void ref_batch_norm(size_t n, size_t d, const double *scale, const double *statistics,
                           bool train, double *measured, double *y) {
    for (size_t j = 0; j < d; j++) {
        double mean = 0, var = 0;
        for (size_t i = 0; i < n; i++)
            mean += y[i * d + j] / (double)n;
        for (size_t i = 0; i < n; i++)
            var += pow(y[i * d + j] - mean, 2) / (double)n;
        measured[j] = mean;
        measured[d + j] = var * (double)n / (double)(n - 1);
        mean = train ? mean : statistics[j];
        var = train ? var : statistics[d + j];
        for (size_t i = 0; i < n; i++)
            y[i * d + j] = (y[i * d + j] - mean) / sqrt(var + 1e-5) * scale[j] + scale[d + j];
    }
}

/* And what follows each. */
static void ref_finish(const struct model_spec *spec, size_t l, const struct batch *batch,
                       bool train, size_t n, const double *x, const double **weights,
                       const double **statistics, double **measured, double *y) {
    const struct layer_spec *layer = &spec->layers[l];
    size_t out = layer->out;
    bool weightless = layer->kind == LAYER_propagate || layer->kind == LAYER_ppr ||
                      layer->kind == LAYER_identity || layer->kind == LAYER_jump;
    for (size_t i = 0; i < n * out && !weightless; i++)
        y[i] += (*weights)[i % out];
    *weights += weightless ? 0 : out;
    for (size_t i = 0; i < n && layer->norm == NORM_LAYER; i++) {
        double mean = 0, square = 0;
        for (size_t j = 0; j < out; j++)
            mean += y[i * out + j] / (double)out;
        for (size_t j = 0; j < out; j++)
            square += pow(y[i * out + j] - mean, 2) / (double)out;
        for (size_t j = 0; j < out; j++)
            y[i * out + j] =
                (y[i * out + j] - mean) / sqrt(square + 1e-5) * (*weights)[j] + (*weights)[out + j];
    }
    if (layer->norm == NORM_BATCH) {
        ref_batch_norm(n, out, *weights, *statistics, train, *measured, y);
        *statistics += 2 * out;
        *measured += 2 * out;
    }
    *weights += layer->norm != NORM_NONE ? 2 * out : 0;
    if (layer->residual && layer->in == out)
        for (size_t i = 0; i < n * out; i++)
            y[i] += x[i];
    else if (layer->residual)
        ref_product(n, layer, x, weights, y);
    for (size_t i = 0; i < n * out; i++)
        y[i] = ref_activation(layer->activation, y[i]);
    ref_dropout(spec, batch, l + 1, train ? layer->dropout : 0, n, out, y);
}

/* What goes into the model: features, and learned rows behind them. */
static void ref_inputs(const struct model_spec *spec, const struct batch *batch, double *ret) {
    size_t learned = spec->embedding, fixed = spec->input_dim - learned;
    for (size_t i = 0; i < batch->n_input; i++) {
        for (size_t j = 0; j < fixed; j++)
            *ret++ = batch->features[i * fixed + j];
        for (size_t j = 0; j < learned; j++)
            *ret++ = batch->embeddings[i * learned + j];
    }
}

static size_t count_weights(const struct model_spec *spec, size_t *ret_statistics) {
    struct tensor_spec *tensors;
    size_t count = model_tensors(spec, &tensors), floats = 0;
    *ret_statistics = 0;
    for (size_t i = 0; i < count; i++) {
        size_t size = (size_t)tensors[i].rows * tensors[i].cols;
        *ret_statistics += tensors[i].statistic ? size : 0;
        floats += size;
    }
    mem_free(tensors);
    return floats - *ret_statistics;
}

/* What a pass measured for batch normalisation, by the last ref_loss. */
static double ref_measured[8 * WIDTH_MAX];

/* Jumping knowledge over the outputs of the layers before layer l. */
static void ref_jump(const struct model_spec *spec, size_t l, size_t n,
                     double outputs[][NODES_MAX * WIDTH_MAX], double *y) {
    const struct layer_spec *jump = &spec->layers[l];
    size_t column = 0;
    for (size_t k = 0; k < l; k++) {
        size_t d = spec->layers[k].out;
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < d; j++) {
                double x = outputs[k][i * d + j];
                if (jump->mode == JUMP_CONCAT)
                    y[i * jump->out + column + j] = x;
                else
                    y[i * d + j] = k == 0 ? x : fmax(x, y[i * d + j]);
            }
        column += d;
    }
}

/* The mean cross-entropy over training outputs, and the logits (may be NULL). */
static double ref_loss(const struct model_spec *spec, const struct batch *batch,
                       const double *inputs, const double *weights, bool train,
                       double *ret_logits) {
    double x[NODES_MAX * WIDTH_MAX], y[NODES_MAX * WIDTH_MAX], ax[NODES_MAX * WIDTH_MAX];
    double start[NODES_MAX * WIDTH_MAX];
    static double outputs[STACK_MAX][NODES_MAX * WIDTH_MAX];
    size_t n = batch->n_input, statistics_count;
    const double *statistics = weights + count_weights(spec, &statistics_count);
    double *measured = ref_measured;
    memcpy(x, inputs, n * spec->input_dim * sizeof *x);
    ref_dropout(spec, batch, 0, train ? spec->input_dropout : 0, n, spec->input_dim, x);
    for (size_t l = 0; l < spec->count; l++) {
        const struct layer_spec *layer = &spec->layers[l];
        const struct layer_graph *graph =
            layer->graph == GRAPH_NONE ? NULL : &batch->graphs[layer->hop];
        size_t in = layer->in;
        n = graph ? graph->n_dst : n;
        memset(ax, 0, sizeof ax);
        memset(y, 0, sizeof y);
        for (size_t i = 0; graph && i < n; i++)
            for (size_t j = 0; j < in; j++) {
                if (graph->self)
                    ax[i * in + j] = graph->self[i] * x[i * in + j];
                for (int64_t e = graph->indptr[i]; e < graph->indptr[i + 1]; e++)
                    ax[i * in + j] += graph->weights[e] * x[(size_t)graph->indices[e] * in + j];
            }
        if (layer->kind == LAYER_ppr && layer->start == l - 1)
            memcpy(start, x, sizeof start);
        const struct ref_pass pass = {layer, batch, graph,
                                      rng_key(dropout_key(spec, batch, l + 1), 0x617474), train};
        if (layer->kind == LAYER_jump)
            ref_jump(spec, l, n, outputs, y);
        else
            ref_layer(&pass, n, x, ax, start, &weights, y);
        ref_finish(spec, l, batch, train, n, x, &weights, &statistics, &measured, y);
        memcpy(x, y, sizeof y);
        memcpy(outputs[l], y, sizeof y);
    }
    double loss = 0;
    for (size_t i = 0; i < batch->n_output; i++) {
        double total = 0;
        for (size_t c = 0; c < spec->classes; c++)
            total += exp(x[i * spec->classes + c]);
        if (batch->split[i] == SPLIT_TRAIN && batch->labels[i] >= 0)
            loss += log(total) - x[i * spec->classes + (size_t)batch->labels[i]];
    }
    if (ret_logits)
        memcpy(ret_logits, x, batch->n_output * spec->classes * sizeof *x);
    return loss / batch->train_count;
}

/* The difference quotient of the loss by each of `count` numbers, which are inputs or weights. */
static double ref_slopes(const struct model_spec *spec, const struct batch *batch,
                         const double *inputs, const double *weights, double *numbers, size_t count,
                         double *slopes) {
    double squares = 0, h = 1e-6;
    for (size_t i = 0; i < count; i++) {
        double before = numbers[i];
        numbers[i] = before + h;
        double above = ref_loss(spec, batch, inputs, weights, true, NULL);
        numbers[i] = before - h;
        slopes[i] = (above - ref_loss(spec, batch, inputs, weights, true, NULL)) / (2 * h);
        numbers[i] = before;
        squares += slopes[i] * slopes[i];
    }
    return sqrt(squares / (double)count);
}

static void check_rows(const struct model_spec *spec, const struct batch *batch,
                       const float *gradient, const double *weights, const char *what) {
    double inputs[NODES_MAX * WIDTH_MAX], slopes[NODES_MAX * WIDTH_MAX];
    size_t learned = spec->embedding, fixed = spec->input_dim - learned;
    ref_inputs(spec, batch, inputs);
    double scale =
        ref_slopes(spec, batch, inputs, weights, inputs, batch->n_input * spec->input_dim, slopes);
    /* Just 0: behind a relu that lets nothing through. */
    ck_assert_msg(scale > 1e-5 || scale == 0, "%s: too small to check: %g", what, scale);
    for (size_t i = 0; i < batch->n_input * learned; i++) {
        double slope = slopes[i / learned * spec->input_dim + fixed + i % learned];
        ck_assert_msg(fabs(gradient[i] - slope) <= 1e-4 * fmax(scale, fabs(slope)),
                      "%s: row %zu, number %zu: gradient %.9g, not %.9g", what, i / learned,
                      i % learned, (double)gradient[i], slope);
    }
}

/* Loss, logits without dropout, and the gradients of every weight and learned row. The quotient's
 * own error is near 1e-9; 1e-4 of the gradients' root mean square leaves room for the model's
 * floats, and no term can be missing or wrong within it. */
static void check_model(struct model *model, const struct model_spec *spec,
                        const struct example *ex, const char *what) {
    size_t statistics, floats = count_weights(spec, &statistics), all = floats + statistics;
    float *weights = mem_array(all, sizeof *weights);
    double *exact = mem_array(all, sizeof *exact), *slopes = mem_array(floats, sizeof *slopes);
    float *gradient = mem_array(all, sizeof *gradient);
    for (size_t i = 0; i < all; i++) {
        exact[i] = weights[i] =
            rng_float(rng_at(rng_key(spec->seed, 8), i)) + (i < floats ? -0.45F : 0.3F);
        gradient[i] = 1e9F; /* overwritten, not added to */
    }

    struct model_result result;
    const struct batch *batch = &ex->batch;
    model_forward(model, batch, weights, true, &result);
    model_backward(model, batch, weights, gradient);
    double inputs[NODES_MAX * WIDTH_MAX];
    ref_inputs(spec, batch, inputs);
    double loss = ref_loss(spec, batch, inputs, exact, true, NULL);
    ck_assert_uint_eq(result.count[SPLIT_TRAIN], batch->train_count);
    ck_assert_msg(fabs(result.loss_sum[SPLIT_TRAIN] / batch->train_count - loss) < 1e-5 * loss,
                  "%s: loss %.9g, not %.9g", what,
                  result.loss_sum[SPLIT_TRAIN] / batch->train_count, loss);

    for (size_t i = 0; i < statistics; i++)
        ck_assert_msg(fabs(gradient[floats + i] - ref_measured[i]) <=
                          1e-4 * fmax(1e-2, fabs(ref_measured[i])),
                      "%s: statistic %zu: %.9g, not %.9g", what, i, (double)gradient[floats + i],
                      ref_measured[i]);

    const float *rows = model_embedding_gradient(model);
    ck_assert_int_eq(rows != NULL, spec->embedding > 0);
    if (rows)
        check_rows(spec, batch, rows, exact, what);
    double scale = ref_slopes(spec, batch, inputs, exact, exact, floats, slopes);
    ck_assert_msg(floats == 0 || scale > 1e-4, "%s: nothing to check, all gradients are about 0",
                  what);
    for (size_t i = 0; i < floats; i++)
        ck_assert_msg(fabs(gradient[i] - slopes[i]) <= 1e-4 * fmax(scale, fabs(slopes[i])),
                      "%s: weight %zu of %zu: gradient %.9g, not %.9g", what, i, floats,
                      (double)gradient[i], slopes[i]);

    double logits[NODES_MAX * WIDTH_MAX];
    ref_loss(spec, batch, inputs, exact, false, logits);
    const float *got = model_forward(model, batch, weights, false, NULL);
    for (size_t i = 0; i < batch->n_output * spec->classes; i++)
        ck_assert_msg(fabs(got[i] - logits[i]) < 1e-4, "%s: logit %zu: %g, not %g", what, i,
                      (double)got[i], logits[i]);
    mem_free(weights);
    mem_free(exact);
    mem_free(slopes);
    mem_free(gradient);
}

static struct model_spec spec_of(const char *stack, uint32_t in, uint32_t learned) {
    struct model_spec spec = {.seed = 11, .embedding = learned};
    struct error err;
    ck_assert_msg(model_spec_parse(stack, in, 4, &spec, &err) == 0, "%s", err.text);
    return spec;
}

/* One model, one shape: every way a pass can go. Each batch comes twice and another one comes
 * between, so whatever a model keeps from batch to batch is used, and must be the right one's. */
static void check_shape(const char *stack, uint32_t in, uint32_t learned, bool shrinking,
                        bool sparse, float input_dropout) {
    struct model_spec spec = spec_of(stack, in, learned);
    spec.input_dropout = input_dropout;
    char what[400];
    struct example *kept = example_new(&spec, shrinking, sparse, 7, 5);
    struct example *once = example_new(&spec, !shrinking, sparse, 0, 6);
    struct example *other = example_new(&spec, shrinking, !sparse, 8, 9);
    struct example *forward_only = example_new(&spec, shrinking, sparse, 9, 12);
    if (!learned && spec.layers[0].order != ORDER_WEIGHTS && spec.layers[0].graph != GRAPH_NONE)
        forward_only->batch.graphs[0].t_indptr = NULL; /* the first layer's transpose is optional */
    struct example *const rounds[] = {kept, kept, once, kept, other, kept, other, forward_only};
    struct model *model = model_new(&spec);
    for (size_t i = 0; i < ARRAY_LEN(rounds); i++) {
        snprintf(what, sizeof what,
                 "%s, %u inputs, %u learned, %s, %s, input dropout %g, batch %zu", stack, in,
                 learned, shrinking ? "shrinking" : "square", sparse ? "sparse" : "dense",
                 (double)input_dropout, i);
        rounds[i]->batch.step++; /* another dropout */
        check_model(model, &spec, rounds[i], what);
    }
    model_free(model);
    mem_free(kept);
    mem_free(once);
    mem_free(other);
    mem_free(forward_only);
}

/* Every kind of layer first, in the middle and last; everything that can follow or go around one;
 * what is the same in each step, before and after what is not. */
static const char *const stacks[] = {
    "gcn",
    "gcn width=6 activation=relu dropout=0.4; gcn",
    "gcn width=6 activation=relu dropout=0.4; gcn width=6 activation=relu dropout=0.4; gcn",
    "sage",
    "sage width=6 activation=relu dropout=0.4; sage",
    "sage width=6 activation=relu dropout=0.4; sage width=6 activation=relu dropout=0.4; sage",
    "linear",
    "linear width=6 activation=relu dropout=0.4; linear",
    "sage_gcn width=6 activation=relu; sage_gcn",
    "gin",
    "gin width=6 activation=relu dropout=0.4; gin",
    "sage_max",
    "sage_max width=6 activation=relu dropout=0.4; sage_max",
    "gat heads=3 average=true",
    "gat width=3 heads=4 activation=elu dropout=0.3 attention_dropout=0.4; gat",
    "gat width=4 heads=2 residual=true activation=elu; gat heads=2 average=true "
    "attention_dropout=0.3 slope=0.1",
    "gatv2",
    "gatv2 width=3 heads=2 activation=elu attention_dropout=0.4; gatv2 heads=3 average=true",
    "gcn width=5 activation=relu; gatv2 width=2 heads=3 norm=layer residual=true; gat width=5; "
    "sage",
    "propagate; propagate; linear",
    "propagate; propagate dropout=0.2; gcn width=6 activation=relu; linear",
    "linear width=6 activation=relu dropout=0.4; linear; ppr alpha=0.2; ppr alpha=0.2; ppr",
    "gcn width=6 norm=layer activation=gelu dropout=0.3 residual=true; sage width=6 norm=layer "
    "residual=true activation=elu; linear width=5 activation=elu dropout=0.2; gin",
    "linear width=3 residual=true activation=gelu; gcn residual=true norm=layer",
    "linear width=6; gcn width=6 residual=true activation=relu; ppr; ppr activation=elu; linear "
    "width=5 norm=layer; ppr alpha=0.5; linear",
    "gcn width=6 norm=batch activation=relu dropout=0.3; sage width=6 norm=batch residual=true "
    "activation=elu; linear width=5 residual=true norm=batch; gcn",
    "gcn width=5 activation=relu; sage width=4 activation=elu; jump dropout=0.3; linear",
    "linear width=6; gin width=6 activation=relu; gcn width=6 norm=batch; jump mode=max "
    "norm=layer; "
    "gcn",
    "propagate; jump; linear",
    "identity dropout=0.3; gcn width=6; identity residual=true norm=layer activation=elu; linear",
    "propagate; gcn width=5 dropout=0.3; jump; sage",
    "gcn width=5; jump mode=max; ppr; ppr; linear",
};

/* Loss, logits and gradients are those of the formulas. */
START_TEST(gradients_are_slopes) {
    for (int flags = 0; flags < 16; flags++)
        check_shape(stacks[_i], flags & 1 ? 11 : 3, 0, flags & 2, flags & 4, flags & 8 ? 0.3F : 0);
}
END_TEST

/* The same of learned rows, behind features and alone. */
START_TEST(gradients_of_rows_are_slopes) {
    for (int flags = 0; flags < 8; flags++)
        check_shape(stacks[_i], flags & 1 ? 11 : 3, flags & 1 ? 5 : 3, flags & 2, false,
                    flags & 4 ? 0.3F : 0);
}
END_TEST

/* And of learned rows that are all there is to learn. */
START_TEST(gradients_of_rows_alone_are_slopes) {
    static const char *const weightless[] = {"identity", "propagate; propagate dropout=0.3",
                                             "identity; ppr alpha=0.2; ppr",
                                             "identity; propagate; propagate; jump mode=max"};
    for (int flags = 0; flags < 4; flags++)
        check_shape(weightless[_i], 4, flags & 1 ? 4 : 3, flags & 2, false, flags & 2 ? 0 : 0.3F);
}
END_TEST

/* The same with the reference kernels. */
START_TEST(gradients_are_slopes_with_reference_kernels) {
    setenv("GRAPHPS_KERNELS", "ref", 1);
    ck_assert_ptr_eq(kernels(), &kernels_ref);
    check_shape(stacks[_i], 11, 0, true, true, 0.3F);
    check_shape(stacks[_i], 11, 0, true, false, 0);
    check_shape(stacks[_i], 11, 5, true, false, 0.3F);
}
END_TEST

/* A batch without training nodes, or without any node, has the gradient 0. */
START_TEST(nothing_to_learn_is_zero) {
    struct model_spec spec = spec_of(stacks[_i], 5, 0);
    size_t statistics, floats = count_weights(&spec, &statistics);
    float *weights = mem_array(floats + statistics, sizeof *weights);
    float *gradient = mem_array(floats + statistics, sizeof *gradient);
    for (size_t i = 0; i < floats; i++)
        weights[i] = 0.1F * (float)(i % 7);
    struct example *ex = example_new(&spec, true, false, 0, 5);
    struct model *model = model_new(&spec);
    for (int empty = 0; empty < 2; empty++) {
        ex->batch.train_count = 0;
        memset(ex->split, SPLIT_TEST, sizeof ex->split);
        if (empty) {
            ex->batch.n_input = ex->batch.n_output = 0;
            for (size_t l = 0; l < spec.hops.count; l++)
                ex->batch.graphs[l].n_src = ex->batch.graphs[l].n_dst = 0;
        }
        for (size_t i = 0; i < floats; i++)
            gradient[i] = NAN;
        struct model_result result;
        model_forward(model, &ex->batch, weights, true, &result);
        model_backward(model, &ex->batch, weights, gradient);
        ck_assert_uint_eq(result.count[SPLIT_TRAIN], 0);
        ck_assert_uint_eq(result.count[SPLIT_TEST] > 0, !empty);
        for (size_t i = 0; i < floats; i++)
            ck_assert_msg(gradient[i] == 0, "weight %zu: gradient %g", i, (double)gradient[i]);
    }
    model_free(model);
    mem_free(ex);
    mem_free(weights);
    mem_free(gradient);
}
END_TEST

/* A smaller batch runs in the memory planned for the larger one before it. */
START_TEST(memory_is_planned_once) {
    struct model_spec spec = spec_of("gcn width=6 activation=relu; gcn", 5, 0);
    size_t statistics, floats = count_weights(&spec, &statistics);
    float *weights = mem_array(floats + statistics, sizeof *weights);
    struct example *large = example_new(&spec, false, false, 0, 5);
    struct example *small = example_new(&spec, true, false, 0, 5);
    struct model *model = model_new(&spec);
    const float *logits = model_forward(model, &large->batch, weights, true, NULL);
    ck_assert_ptr_eq(model_forward(model, &small->batch, weights, true, NULL), logits);
    ck_assert_ptr_eq(model_forward(model, &large->batch, weights, false, NULL), logits);
    model_free(model);
    mem_free(large);
    mem_free(small);
    mem_free(weights);
}
END_TEST

/* Names, shapes, initial weights and decay are what shards are told; decay_layers first is Kipf &
 * Welling's. */
START_TEST(tensors_are_named_and_shaped) {
    struct model_spec spec = spec_of(
        "sage width=6 activation=relu; linear width=7 residual=true norm=batch; sage", 5, 0);
    spec.decay_layers = DECAY_FIRST;
    static const struct tensor_spec wanted[] = {
        {"layer0.self", 5, 6, TENSOR_GLOROT_UNIFORM, true},
        {"layer0.neighbor", 5, 6, TENSOR_GLOROT_UNIFORM, true},
        {"layer0.bias", 1, 6, TENSOR_ZEROS, false},
        {"layer1.weight", 6, 7, TENSOR_GLOROT_UNIFORM, false},
        {"layer1.bias", 1, 7, TENSOR_ZEROS, false},
        {"layer1.norm_scale", 1, 7, TENSOR_ONES, false},
        {"layer1.norm_shift", 1, 7, TENSOR_ZEROS, false},
        {"layer1.residual", 6, 7, TENSOR_GLOROT_UNIFORM, false},
        {"layer2.self", 7, 4, TENSOR_GLOROT_UNIFORM, false},
        {"layer2.neighbor", 7, 4, TENSOR_GLOROT_UNIFORM, false},
        {"layer2.bias", 1, 4, TENSOR_ZEROS, false},
        {"layer1.norm_mean", 1, 7, TENSOR_ZEROS, false, true},
        {"layer1.norm_var", 1, 7, TENSOR_ONES, false, true},
    };
    struct tensor_spec *tensors;
    ck_assert_uint_eq(model_tensors(&spec, &tensors), ARRAY_LEN(wanted));
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        ck_assert_str_eq(tensors[i].name, wanted[i].name);
        ck_assert_uint_eq(tensors[i].rows, wanted[i].rows);
        ck_assert_uint_eq(tensors[i].cols, wanted[i].cols);
        ck_assert_int_eq(tensors[i].init, wanted[i].init);
        ck_assert_int_eq(tensors[i].decay, wanted[i].decay);
        ck_assert_int_eq(tensors[i].statistic, wanted[i].statistic);
    }
    mem_free(tensors);

    struct config *config = config_new();
    struct error err = {0};
    ck_assert_msg(config_set(config, "model.kind=gcn", &err) == 0, "%s", err.text);
    ck_assert_msg(config_set(config, "model.layers=3", &err) == 0, "%s", err.text);
    ck_assert_msg(config_set(config, "model.hidden=17", &err) == 0, "%s", err.text);
    ck_assert_msg(config_set(config, "optimizer.decay_layers=all", &err) == 0, "%s", err.text);
    model_spec_from(config, 9, 4, &spec);
    ck_assert_uint_eq(model_tensors(&spec, &tensors), 6);
    ck_assert_str_eq(tensors[2].name, "layer1.weight");
    ck_assert_uint_eq(tensors[0].rows, 9);
    ck_assert_uint_eq(tensors[2].cols, 17);
    ck_assert_uint_eq(tensors[4].cols, 4);
    ck_assert(tensors[4].decay && !tensors[5].decay);
    mem_free(tensors);
    config_free(config);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("model");
    TCase *tcase = tcase_create("model");
    tcase_set_timeout(tcase, 100);
    tcase_add_loop_test(tcase, gradients_are_slopes, 0, (int)ARRAY_LEN(stacks));
    tcase_add_loop_test(tcase, gradients_of_rows_are_slopes, 0, (int)ARRAY_LEN(stacks));
    tcase_add_loop_test(tcase, gradients_of_rows_alone_are_slopes, 0, 4);
    tcase_add_loop_test(tcase, gradients_are_slopes_with_reference_kernels, 0,
                        (int)ARRAY_LEN(stacks));
    tcase_add_loop_test(tcase, nothing_to_learn_is_zero, 0, (int)ARRAY_LEN(stacks));
    tcase_add_test(tcase, memory_is_planned_once);
    tcase_add_test(tcase, tensors_are_named_and_shaped);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
