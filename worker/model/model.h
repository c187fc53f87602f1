/* A model: layers over a batch, weights and gradients in flat arrays laid out as the job's tensors
 * (proto/layout.h). What the layers are: common/model_spec.h. Nothing is allocated inside forward
 * and backward once the largest batch has been seen. */
#pragma once

#include "common/config.h"
#include "common/model_spec.h"
#include "proto/layout.h"
#include "worker/graph/batch.h"
#include "worker/graph/store.h"

struct model;

/* The tensors in order, each layer's own first: "layer0.weight" [in, out], "layer0.bias" [1, out],
 * ...; the statistics of batch normalisation, "layer0.norm_mean" and "layer0.norm_var" [1, out],
 * after all others. *ret: mem_free it. */
size_t model_tensors(const struct model_spec *spec, struct tensor_spec **ret);

/* Floats of a layer's own weights: about what it multiplies each row by. */
size_t model_layer_floats(const struct layer_spec *layer);

struct model *model_new(const struct model_spec *spec);
struct model *model_free(struct model *model);

/* Bytes that passes over such a batch take: of the batch only counts are read (n_src, n_dst,
 * whether t_indptr is there) and its version. filled: how many of its features are not zero. */
size_t model_bytes(const struct model_spec *spec, const struct batch *batch, uint64_t filled,
                   bool train);

struct model_result {
    /* By enum split, over labelled outputs: the cross-entropy (of several labels a node: binary,
     * mean over the classes; of targets: the squared error, mean over them), those that are right
     * (in all classes), and how many there are. */
    double loss_sum[4];
    double
        absolute_sum[4]; /* of targets: |error|, the mean over a node's; the loss is its square */
    uint64_t correct[4], count[4];
};

/* Forward. weights: flat, layout order. train: with dropout. result may be NULL. The logits
 * [n_output, classes] stay valid until the next call. */
const float *model_forward(struct model *model, const struct batch *batch, const float *weights,
                           bool train, struct model_result *result);
/* After model_forward(train = true) on the same batch and weights: gradient = d(mean loss
 * over training outputs)/d(weights), flat, overwritten; in the statistics' places what the pass
 * measured of its batch. */
void model_backward(struct model *model, const struct batch *batch, const float *weights,
                    float *gradient);
/* The same for a loss of the caller's own: who fills the first with d(loss)/d(outputs), [n_output,
 * classes], between model_forward(train = true) and the second, gets d(loss)/d(weights). */
float *model_output_gradient(struct model *model);
void model_backward_outputs(struct model *model, const struct batch *batch, const float *weights,
                            float *gradient);
/* After model_backward: the gradient of batch->embeddings, [n_input, embedding], until the next
 * call; NULL where the model has none. The caller may change it. */
float *model_embedding_gradient(const struct model *model);
