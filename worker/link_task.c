/* Links of a batch through model, decoder and loss, and back. */
#include "worker/link_task.h"

#include "common/mem.h"
#include "worker/graph/full_links.h"
#include "worker/model/link_head.h"
#include "worker/model/link_rank.h"

struct link_task {
    struct full_links *full; /* full mode, else NULL */
    struct link_head *head;
    struct link_rank *rank;
    size_t model_at; /* where the model's weights begin, behind the decoder's */
};

size_t link_task_tensors(const struct config *config, const struct store *store,
                         const struct model_spec *spec, struct tensor_spec **ret) {
    struct link_head_spec head = link_head_spec_from(config, store->edge_types);
    return link_head_tensors(&head, spec, ret);
}

int link_task_new(const struct config *config, const struct store *store, struct link_task **ret,
                  struct error *reterr) {
    struct full_links *full = NULL;
    if (config->train_mode == TRAIN_FULL) {
        int r = full_links_new(store, config, &full, reterr);
        if (r < 0)
            return r;
    }
    struct link_head_spec head = link_head_spec_from(config, store->edge_types);
    struct link_rank_spec rank = link_rank_spec_from(config);
    struct link_task *task = mem_alloc(sizeof *task);
    task->full = full;
    task->head = link_head_new(&head);
    task->rank = link_rank_new(&rank, store);
    task->model_at = link_head_floats(&head);
    *ret = task;
    return 0;
}

struct link_task *link_task_free(struct link_task *task) {
    if (task) {
        full_links_free(task->full);
        link_head_free(task->head);
        link_rank_free(task->rank);
        mem_free(task);
    }
    return NULL;
}

void link_task_fill(struct link_task *task, struct batch *batch) {
    if (!task->full)
        return;
    batch->links = full_links_get(task->full, batch->step);
    batch->train_count = (uint32_t)batch->links.count;
}

void link_task_step(struct link_task *task, struct model *model, const struct batch *batch,
                    const float *weights, float *gradient, struct report *report) {
    const float *y = model_forward(model, batch, weights + task->model_at, true, NULL);
    struct model_result result = {0};
    result.loss_sum[SPLIT_TRAIN] = link_head_forward(task->head, &batch->links, y, weights);
    result.count[SPLIT_TRAIN] = batch->links.count;
    report_training(report, batch, y, &result);
    link_head_backward(task->head, &batch->links, batch->n_output, y, weights,
                       model_output_gradient(model), gradient);
    model_backward_outputs(model, batch, weights + task->model_at, gradient + task->model_at);
}

void link_task_evaluate(struct link_task *task, const float *outputs, const float *weights,
                        struct report *report) {
    link_rank_run(task->rank, outputs, weights, report_links(report));
}

size_t link_task_model_at(const struct link_task *task) {
    return task->model_at;
}
