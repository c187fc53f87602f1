/* train.task links: what the trainer does otherwise than for nodes. The model's outputs are
 * embeddings; the decoder's weights
 * come before the model's own. */
#pragma once

#include "common/config.h"
#include "worker/graph/store.h"
#include "worker/model/model.h"
#include "worker/report.h"

struct link_task;
/* The job's tensors: the decoder's and the model's. *ret: mem_free it. */
size_t link_task_tensors(const struct config *config, const struct store *store,
                         const struct model_spec *spec, struct tensor_spec **ret);
/* config and store are borrowed. ERR_CONFIG: too many links for full mode. */
int link_task_new(const struct config *config, const struct store *store, struct link_task **ret,
                  struct error *reterr);
/* Where the model's own weights begin in those of the job. */
size_t link_task_model_at(const struct link_task *task);
struct link_task *link_task_free(struct link_task *task); /* takes NULL */
/* Puts the step's links into full mode's batch; a sampled one has its own. */
void link_task_fill(struct link_task *task, struct batch *batch);
/* Forward and backward of a batch with links; adds loss and count to the report. */
void link_task_step(struct link_task *task, struct model *model, const struct batch *batch,
                    const float *weights, float *gradient, struct report *report);
/* Ranks of the held-out links by the outputs of all own nodes and those one hop around. */
void link_task_evaluate(struct link_task *task, const float *outputs, const float *weights,
                        struct report *report);
