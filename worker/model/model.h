/* A model: layers over a batch, weights and gradients in flat arrays laid out as the job's tensors
 * (proto/layout.h). Kinds: gcn, sage, mlp. Nothing is allocated inside forward and backward once
 * the largest batch has been seen. */
#pragma once

#include "common/config.h"
#include "proto/layout.h"
#include "worker/graph/batch.h"

struct model;

struct model_spec {
    int kind; /* MODEL_GCN, MODEL_SAGE, MODEL_MLP */
    size_t layers;
    uint32_t input_dim, hidden, classes;
    float dropout, input_dropout;
    float label_smoothing;
    int decay_layers; /* DECAY_ALL, DECAY_FIRST */
    uint64_t seed;    /* of dropout */
};

/* Fills spec from the config and a graph's dimensions. */
void model_spec_from(const struct config *config, uint32_t input_dim, uint32_t classes,
                     struct model_spec *ret);
/* The tensors in order: "layer0.weight" [in, out], "layer0.bias" [1, out], ... (sage: "layerK.self"
 * [in, out], "layerK.neighbor" [in, out], "layerK.bias"). *ret: mem_free it. */
size_t model_tensors(const struct model_spec *spec, struct tensor_spec **ret);

struct model *model_new(const struct model_spec *spec);
struct model *model_free(struct model *model);

/* Bytes that passes over such a batch take: of the batch only counts are read (n_src, n_dst,
 * whether t_indptr is there) and its version. filled: how many of its features are not zero. */
size_t model_bytes(const struct model_spec *spec, const struct batch *batch, uint64_t filled,
                   bool train);

struct model_result {
    double loss_sum[4]; /* cross-entropy summed over labelled outputs, by enum split; that of
                         * training outputs with label smoothing */
    uint64_t correct[4], count[4];
};

/* Forward. weights: flat, layout order. train: with dropout. result may be NULL. The logits
 * [n_output, classes] stay valid until the next call. */
const float *model_forward(struct model *model, const struct batch *batch, const float *weights,
                           bool train, struct model_result *result);
/* After model_forward(train = true) on the same batch and weights: gradient = d(mean cross-entropy
 * over training outputs)/d(weights), flat, overwritten. */
void model_backward(struct model *model, const struct batch *batch, const float *weights,
                    float *gradient);
