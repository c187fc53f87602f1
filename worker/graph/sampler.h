/* Batches from a store. Full: one batch over all owned nodes, made once. Sampled: each epoch walks
 * the owned training nodes (or clusters of nodes) in a new seeded order; threads sample ahead into
 * a small ring. What is sampled depends on (seed, step, layer, global node) and the node's row
 * alone. */
#pragma once

#include "common/config.h"
#include "worker/graph/batch.h"
#include "worker/graph/store.h"

/* All owned nodes, full neighbourhoods: graph l (0-based of L hops) computes the nodes within L-1-l
 * hops, so nothing is computed that no owned node needs. hops->outer more of each where outputs are
 * wanted of nodes around them too. Needs store->halo >= L + hops->outer or parts == 1
 * (a smaller halo is allowed: the outermost rows then see what is there, which is an approximation,
 * said in a warning by the caller). Without hops the batch is the owned nodes. step is 0: the
 * trainer sets it in a copy of the struct. */
struct full_batch;
struct full_batch *full_batch_new(const struct store *store, const struct hops *hops);
const struct batch *full_batch_get(const struct full_batch *full);
struct full_batch *full_batch_free(struct full_batch *full);
/* Of such a batch the counts (n_src, n_dst, n_input, n_output) and indptr, without making it;
 * t_indptr says by not being NULL that there would be transposes. And the bytes that making it
 * takes. */
struct batch full_batch_shape(const struct store *store, const struct hops *hops);
void full_batch_shape_done(struct batch *shape);
size_t full_batch_bytes(const struct store *store, const struct hops *hops);

struct sampler;
/* Can such a job sample from this store? ERR_CONFIG says what is missing. To be asked before
 * sampler_new. */
int sampler_check(const struct store *store, const struct config *config, struct error *reterr);
/* steps_per_epoch = ceil(store->train_nodes_max / batch_size), or ceil(clusters /
 * clusters_per_batch): the same on every worker; a worker with fewer training nodes walks some of
 * them twice. With train.task links an epoch walks the edges into owned nodes, of which the worker
 * that has most has store->owned_edges_max; outputs are the ends of the step's links and negatives,
 * and the step's links are left out of the graph in both directions, so that none is told by itself
 * (as DGL and PyG do by default). Starts the threads at step first_step. With train.sampler cluster
 * or saint it first cuts the clusters or counts the walks, which takes seconds on a large part. */
struct sampler *sampler_new(const struct store *store, const struct config *config,
                            uint64_t first_step);
/* The same for a look at the sizes of some batches and the time they take: clusters are cut in a
 * simpler way, and walks are counted for one epoch. */
struct sampler *sampler_new_trial(const struct store *store, const struct config *config);
uint64_t sampler_steps_per_epoch(const struct store *store, const struct config *config);
/* The batch of the next step, in order; borrowed until the next call. Waits for the thread. */
const struct batch *sampler_next(struct sampler *sampler);
/* The memory it takes, all batches made ahead included, as large as the largest so far. Stops it:
 * it can only be freed then. */
size_t sampler_bytes(struct sampler *sampler);
/* What sampler_new takes before the first batch, and gives back (of a trial: would take). */
size_t sampler_prepare_bytes(const struct sampler *sampler);
struct sampler *sampler_free(struct sampler *sampler); /* stops the thread; takes NULL */
