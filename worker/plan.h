/* What a job will take, before it runs: memory of each process, bytes on the wire, time. Memory is
 * counted as the system counts a process's own peak: mapped files that are read belong to it,
 * though processes of one machine share them. */
#pragma once

#include "common/config.h"
#include "worker/graph/store.h"

struct plan_worker {
    uint64_t mapped_bytes;   /* the part's files; shared by processes that open the same part */
    uint64_t feature_bytes;  /* of those, the features, which only batches and evaluation read */
    uint64_t batch_bytes;    /* graphs and features of batches, all that are made ahead */
    uint64_t model_bytes;    /* activations, gradients, evaluation */
    uint64_t exchange_bytes; /* weights, gradients, pushes under way */
    uint64_t prepare_bytes;  /* before there are batches: of another peak, not added to theirs */
    uint64_t base_bytes;     /* program and libraries */
    uint64_t steps;          /* an epoch */
    uint64_t edges;          /* that one step multiplies by, over all layers */
    uint64_t inputs;         /* nodes that go into the largest batch */
    double step_seconds;     /* computing one step; 0 before plan_time */
};
/* The peak: while it prepares or while it trains. */
uint64_t plan_worker_bytes(const struct plan_worker *worker);
/* Memory. In sampled mode some batches are made to see how large they are. parameters: of the
 * model. */
void plan_worker(const struct config *config, const struct store *store, uint64_t parameters,
                 struct plan_worker *ret);
/* Fills step_seconds by computing for about two seconds with the threads that are set. */
void plan_time(const struct config *config, const struct store *store, struct plan_worker *worker);

struct plan_shard {
    uint64_t weights_bytes, state_bytes, pushes_bytes, base_bytes;
    uint64_t rows_bytes; /* of learned rows, with what the optimizer and evaluations keep of them */
};
uint64_t plan_shard_bytes(const struct plan_shard *shard);
/* floats: of the shard that has most; state_floats: an optimizer's numbers for each. */
void plan_shard(const struct config *config, uint64_t floats, size_t state_floats,
                struct plan_shard *ret);

/* Adds learned rows: one for each of `nodes`, of which a step of all workers together pushes
 * `pushed`. */
void plan_shard_rows(const struct config *config, uint64_t nodes, uint64_t pushed,
                     size_t state_floats, struct plan_shard *shard);

/* Bytes that this process may still have: the machine's, or its control group's limit. */
uint64_t plan_available_bytes(void);
