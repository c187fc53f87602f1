/* Opens every part, asks for its needs, adds up. */
#include "cli/job_plan.h"

#include <malloc.h>
#include <sched.h>
#include <stdio.h>

#include "common/mem.h"
#include "proto/codec.h"
#include "proto/layout.h"
#include "server/optimizer.h"
#include "worker/job_check.h"
#include "worker/model/link_head.h"
#include "worker/model/model.h"

/* The layout that the workers will declare. */
static int make_layout(const struct config *config, const struct store *store, struct layout **ret,
                       struct error *reterr) {
    struct model_spec spec;
    _cleanup_(mem_free_p) struct tensor_spec *tensors = NULL;
    model_spec_from(config, store->feature_dim, store->classes, &spec);
    struct link_head_spec head = link_head_spec_from(config, store->edge_types);
    size_t count = config->train_task == TASK_LINKS ? link_head_tensors(&head, &spec, &tensors)
                                                    : model_tensors(&spec, &tensors);
    struct error cause;
    int r = layout_new(tensors, count, (uint32_t)config->servers_block_bytes,
                       (size_t)config->servers_count, ret, &cause);
    return r < 0 ? error_set(reterr, r == ERR_LIMIT ? ERR_CONFIG : r, "the model: %s", cause.text)
                 : 0;
}

static void plan_shards(const struct config *config, const struct layout *layout,
                        struct job_plan *ret) {
    struct optimizer optimizer;
    optimizer_init(&optimizer, config);
    uint64_t most = 0;
    for (size_t s = 0; s < layout->shard_count; s++)
        most = most > layout->shard_floats[s] ? most : layout->shard_floats[s];
    size_t state_floats = optimizer_state_floats(&optimizer);
    plan_shard(config, most, state_floats, &ret->shard);
    ret->parameters = layout->floats;
    ret->pull_bytes = layout->floats * sizeof(float);
    for (size_t b = 0; b < layout->block_count; b++) {
        bool statistic = layout->tensors[layout->blocks[b].tensor].statistic;
        ret->push_bytes += codec_bytes(statistic ? CODEC_FP32 : (enum codec)config->push_encoding,
                                       config->push_topk_ratio, layout->blocks[b].floats);
    }
    /* Weights, the best ones, and the optimizer's numbers. */
    ret->checkpoint_bytes = layout->floats * sizeof(float) * (2 + state_floats);
}

/* What learned rows add, once it is known how many a step needs. */
static void plan_rows(const struct config *config, uint64_t nodes, struct job_plan *ret) {
    struct optimizer optimizer;
    optimizer_init(&optimizer, config);
    size_t state_floats = optimizer_state_floats(&optimizer), dim = (size_t)config->model_embedding;
    uint64_t pushed = 0, most = 0;
    for (int64_t w = 0; w < config->workers_count; w++) {
        uint64_t inputs = ret->workers[w].inputs;
        pushed += inputs;
        most = most > inputs ? most : inputs;
    }
    ret->rows = nodes;
    plan_shard_rows(config, nodes, pushed, state_floats, &ret->shard);
    ret->push_bytes +=
        most * (sizeof(uint64_t) + codec_bytes((enum codec)config->push_encoding, 1, dim));
    ret->pull_bytes += most * dim * sizeof(float);
    ret->checkpoint_bytes += nodes * (16 + (2 + state_floats) * dim * sizeof(float));
}

int job_plan_make(const struct config *config, const char *snapshot_dir, struct job_plan *ret,
                  struct error *reterr) {
    *ret = (struct job_plan){.available_bytes = plan_available_bytes()};
    ret->workers = mem_array((size_t)config->workers_count, sizeof *ret->workers);
    uint32_t parts = (uint32_t)config->workers_count;
    uint64_t nodes = 0;
    for (uint32_t part = 0; part < parts; part++) {
        struct store *store = NULL;
        struct layout *layout = NULL;
        int r = store_open(snapshot_dir, parts, (uint32_t)config->data_halo, part, false,
                           config->data_normalize_features, &store, reterr);
        if (r == 0)
            r = job_check(config, store, reterr);
        if (r == 0 && part == 0)
            r = make_layout(config, store, &layout, reterr);
        if (r == 0 && part == 0)
            plan_shards(config, layout, ret);
        if (r == 0) {
            plan_worker(config, store, ret->parameters, &ret->workers[part]);
            nodes = store->nodes_total;
            ret->memory_bytes += plan_worker_bytes(&ret->workers[part]);
            ret->files_bytes += ret->workers[part].mapped_bytes;
            ret->disk_bytes += ret->workers[part].mapped_bytes;
        }
        layout_free(layout);
        store_close(store);
        if (r < 0) {
            job_plan_done(ret);
            return r;
        }
    }
    if (config->model_embedding)
        plan_rows(config, nodes, ret);
    ret->memory_bytes += (uint64_t)config->servers_count * plan_shard_bytes(&ret->shard);
    /* One more while the oldest is still there. */
    ret->disk_bytes += ret->checkpoint_bytes * ((uint64_t)config->checkpoint_keep + 1);
    /* A launcher lives as long as its job: what the tried batches took goes back to the system. */
    malloc_trim(0);
    return 0;
}

int job_plan_threads(const struct config *config) {
    cpu_set_t cpus;
    int count = sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
    int each =
        config->train_threads ? (int)config->train_threads : count / (int)config->workers_count;
    return each < 1 ? 1 : each;
}

void job_plan_done(struct job_plan *plan) {
    mem_free(plan->workers);
    *plan = (struct job_plan){0};
}

int job_plan_check(const struct job_plan *plan, const struct config *config, struct error *reterr) {
    uint64_t needed = plan->memory_bytes - plan->files_bytes;
    if (config->servers_addresses.count > 0 || needed <= plan->available_bytes)
        return 0;
    return error_set(
        reterr, ERR_NO_MEMORY,
        "the job needs about %.1f GiB of memory on this machine, which has %.1f GiB free: %s; "
        "graphps plan shows what takes it",
        (double)needed / (1 << 30), (double)plan->available_bytes / (1 << 30),
        config->train_mode == TRAIN_SAMPLED
            ? "a smaller train.batch_size, train.fanout, model.hidden or workers.count takes less"
            : "train.mode sampled, a smaller model.hidden or workers.count takes less");
}
