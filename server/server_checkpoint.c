/* Slow work: restoring a generation and writing one, and what else is due. The cut is the only
 * moment at which pushes have to wait: references are taken then, bytes are made and written
 * afterwards. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/metrics.h"
#include "server/server.h"

/* --- the cut --- */

static void cut_blocks_locked(const struct server *server, struct checkpoint *cut) {
    if (cut->state_floats)
        cut->state = mem_array(cut->block_count, sizeof *cut->state);
    for (size_t i = 0; i < server->block_count; i++) {
        struct block *block = &server->blocks[i];
        cut->block_ids[i] = block->id;
        cut->floats[i] = block->floats;
        cut->weights[i] = block_read(block, &cut->versions[i]);
        cut->clocks[i] = block->clock;
        cut->steps[i] = block->steps;
        if (cut->state)
            cut->state[i] = buf_ref(block->state); /* the next step copies it */
    }
}

static void cut_tables_locked(const struct server *server, struct checkpoint *cut) {
    cut->table_count = server->table_count;
    cut->tables = mem_array(server->table_count, sizeof *cut->tables);
    for (size_t i = 0; i < server->table_count; i++) {
        uint64_t bytes;
        cut->tables[i].spec = server->layout->tables[i];
        cut->tables[i].table = server->tables[i];
        cut->tables[i].snapshot = table_snapshot_begin(server->tables[i]);
        cut->tables[i].best = table_snapshot_best(cut->tables[i].snapshot);
        table_counts(server->tables[i], &cut->tables[i].held, &bytes);
        for (size_t s = 0; s < LAYOUT_STRIPES; s++) {
            struct block *stripe = &server->blocks[server->block_count + i * LAYOUT_STRIPES + s];
            block_read(stripe, &cut->tables[i].versions[s]);
            cut->tables[i].clocks[s] = stripe->clock;
        }
    }
}

static void cut_best_locked(struct server *server, struct checkpoint *cut) {
    lock_take(&server->orders_lock);
    cut->run = server->run;
    if (server->best) {
        cut->best_epoch = server->best_epoch;
        cut->best = mem_array(cut->block_count, sizeof *cut->best);
        for (size_t i = 0; i < cut->block_count; i++)
            cut->best[i] = buf_ref(server->best[i]);
    }
    lock_release(&server->orders_lock);
}

static struct checkpoint *server_cut(struct server *server, uint64_t generation, uint64_t now_ms) {
    pthread_rwlock_wrlock(&server->admission);
    aggregator_drain(server->aggregator, now_ms);
    const struct layout *layout = server->layout;
    struct checkpoint *cut =
        checkpoint_new(server->block_count, server->roster.workers, layout->tensor_count);
    snprintf(cut->job, sizeof cut->job, "%s", server->config->job_name);
    cut->generation = generation;
    cut->shard = server->shard;
    cut->shards = server->shards;
    cut->block_bytes = (uint32_t)server->config->servers_block_bytes;
    cut->seed = server->seed;
    memcpy(cut->snapshot_digest, server->snapshot_digest, sizeof cut->snapshot_digest);
    cut->clock = atomic_load(&server->schedule.clock);
    cut->optimizer_kind = server->optimizer.kind;
    cut->state_floats = optimizer_state_floats(&server->optimizer);
    memcpy(cut->tensors, layout->tensors, layout->tensor_count * sizeof *cut->tensors);
    cut_blocks_locked(server, cut);
    cut_tables_locked(server, cut);
    lock_take(&server->seats_lock);
    for (size_t i = 0; i < server->roster.workers; i++)
        cut->ledger[i] = server->seats[i].ledger;
    lock_release(&server->seats_lock);
    cut_best_locked(server, cut);
    pthread_rwlock_unlock(&server->admission);
    if (server->coordinator)
        cut->coordinator = coordinator_save(server->coordinator);
    return cut;
}

struct write {
    struct server *server;
    uint64_t generation;
    struct checkpoint_stream *stream;
    struct error *reterr;
};

static int write_stream(void *argument) {
    const struct write *write = argument;
    const struct server *server = write->server;
    return server->store.write(server->store.ctx, write->generation, server->shard, server->shards,
                               write->stream, write->reterr);
}

static bool workers_are_here(struct server *server) {
    bool here = false;
    lock_take(&server->seats_lock);
    for (size_t i = 0; i < server->roster.workers; i++)
        here |= server->seats[i].conn != NULL;
    lock_release(&server->seats_lock);
    return here;
}

/* Only the cut keeps pushes waiting; what it holds is written while training goes on, and quietly
 * then: nobody waits for it. */
static int work_write(struct server *server, uint64_t generation, uint64_t now_ms,
                      struct error *reterr) {
    struct checkpoint *cut = server_cut(server, generation, now_ms);
    struct checkpoint_stream *stream = checkpoint_stream_new(cut, &server->abandon);
    struct write write = {server, generation, stream, reterr};
    int r = server->ops->quietly && workers_are_here(server)
                ? server->ops->quietly(server->ops_ctx, write_stream, &write)
                : write_stream(&write);
    uint64_t bytes = checkpoint_stream_bytes(stream);
    checkpoint_stream_free(stream);
    checkpoint_free(cut);
    if (r == 0)
        log_info("checkpoint written", "generation=%" PRIu64 " bytes=%" PRIu64, generation, bytes);
    return r;
}

/* Only once the newest is complete on all shards do older ones go. A shard that does not hold that
 * one, having come back with an older, keeps what it has. */
static void work_prune(struct server *server) {
    lock_take(&server->orders_lock);
    uint64_t complete = server->order.complete;
    bool held = server->run && server->generation >= complete;
    lock_release(&server->orders_lock);
    struct error err;
    if (complete && held &&
        server->store.prune(server->store.ctx, server->shard, server->shards, complete,
                            (uint32_t)server->config->checkpoint_keep, &err) < 0)
        log_warning("old checkpoints could not be removed", "why=%s", log_quote(error_text(&err)));
}

static void work_checkpoint(struct server *server, uint64_t generation, uint64_t now_ms) {
    struct error err = {0};
    uint64_t begun_ns = server->ops->now_ns ? server->ops->now_ns(server->ops_ctx) : 0;
    int r = atomic_load(&server->state) == SERVER_SERVING
                ? work_write(server, generation, now_ms, &err)
                : error_set(&err, ERR_NOT_READY, "no worker has declared the layout yet");
    if (r == 0 && server->ops->now_ns)
        metric_record(METRIC_CHECKPOINT_TIME, server->ops->now_ns(server->ops_ctx) - begun_ns);
    metric_add(r == 0 ? METRIC_CHECKPOINTS : METRIC_CHECKPOINTS_FAILED, 1);
    lock_take(&server->orders_lock);
    if (r == 0)
        server->generation = generation;
    else
        server->generation_failed = generation;
    bool leave = server->leaving && generation > server->leave_generation;
    lock_release(&server->orders_lock);
    if (r == 0)
        metric_set(METRIC_GENERATION, (double)generation);
    else if (r == ERR_INTERRUPTED)
        log_warning("the checkpoint was given up", "generation=%" PRIu64, generation);
    else
        log_error("the checkpoint could not be written", "generation=%" PRIu64 " why=%s",
                  generation, log_quote(error_text(&err)));
    if (leave)
        server_finish(server, r == 0 ? ERR_INTERRUPTED : r,
                      r == 0 ? "asked to end" : error_text(&err));
}

/* --- restoring --- */

/* What no other generation of this directory can cure: the job file was changed. */
static int restore_check_config(const struct server *server, const struct checkpoint *saved,
                                struct error *reterr) {
    const struct config *config = server->config;
    if (strcmp(saved->job, config->job_name) != 0)
        return error_set(reterr, ERR_WRONG_JOB,
                         "job.dir holds checkpoints of the job '%s', this one is '%s'; give it "
                         "another job.dir",
                         saved->job, config->job_name);
    if (saved->block_bytes != config->servers_block_bytes)
        return error_set(reterr, ERR_CONFIG,
                         "the run was begun with servers.block_bytes %u, it is %lld now; set it "
                         "back, or give the new run another job.dir",
                         saved->block_bytes, (long long)config->servers_block_bytes);
    if (saved->optimizer_kind != config->optimizer_kind)
        return error_set(reterr, ERR_CONFIG,
                         "the run was begun with another optimizer.kind; set it back, or give the "
                         "new run another job.dir");
    if (saved->seed != (uint64_t)config->job_seed)
        return error_set(reterr, ERR_CONFIG,
                         "the run was begun with job.seed %" PRIu64
                         ", it is %lld now; set it back, or give the new run another job.dir",
                         saved->seed, (long long)config->job_seed);
    if (saved->ledger_count != server->roster.workers)
        return error_set(reterr, ERR_CONFIG,
                         "the run was begun with %zu workers, workers.count is %zu; set it back, "
                         "or give the new run another job.dir",
                         saved->ledger_count, server->roster.workers);
    return 0;
}

/* This shard's part, whoever wrote the generation. */
static int restore_part(struct server *server, uint64_t generation, struct checkpoint **ret,
                        struct error *reterr) {
    const struct checkpoint_store *store = &server->store;
    uint32_t from = server->shards;
    _cleanup_(buf_unref_p) struct buf *bytes = NULL;
    int r = store->wrote ? store->wrote(store->ctx, generation, server->shards, &from, reterr) : 0;
    if (r < 0)
        return r;
    if (from != server->shards) {
        log_info("the generation was written by another number of shards: taking this one's part",
                 "generation=%" PRIu64 " shards=%u now=%u", generation, from, server->shards);
        return checkpoint_reshard(store, generation, from, server->shard, server->shards, ret,
                                  reterr);
    }
    r = store->read(store->ctx, generation, server->shard, server->shards, &bytes, reterr);
    if (r == 0)
        r = checkpoint_decode(bytes->data, bytes->len, ret, reterr);
    if (r == 0)
        (*ret)->sources[0].bytes = buf_ref(bytes);
    return r;
}

/* Reads and decodes; no change yet. *ret_fatal: no other generation will do either. */
static int restore_read(struct server *server, uint64_t generation, uint64_t run,
                        struct checkpoint **ret, struct layout **ret_layout, bool *ret_fatal,
                        struct error *reterr) {
    struct checkpoint *saved = NULL;
    *ret_fatal = false;
    int r = restore_part(server, generation, &saved, reterr);
    if (r < 0)
        return r;
    if (saved->shard != server->shard || saved->shards != server->shards)
        r = error_set(reterr, ERR_FORMAT, "it is of shard %u of %u", saved->shard, saved->shards);
    else if (saved->run == 0 || (run && saved->run != run))
        r = error_set(reterr, ERR_FORMAT, "it is of another run");
    if (r == 0) {
        r = restore_check_config(server, saved, reterr);
        *ret_fatal = r < 0;
    }
    struct layout *layout = NULL;
    if (r == 0)
        r = checkpoint_layout(saved, saved->shards, &layout, reterr);
    if (r == 0 && (saved->state_floats != optimizer_state_floats(&server->optimizer) ||
                   !checkpoint_fits(saved, layout)))
        r = error_set(reterr, ERR_FORMAT, "its blocks are not those of this shard");
    if (r == 0 && server->coordinator) {
        r = coordinator_load(server->coordinator, saved->coordinator, reterr);
        *ret_fatal = r == ERR_CONFIG;
    }
    if (r < 0) {
        layout_free(layout);
        checkpoint_free(saved);
        return r;
    }
    *ret = saved;
    *ret_layout = layout;
    return 0;
}

static void restore_take(struct server *server, const struct checkpoint *saved,
                         struct layout *layout) {
    struct server_built built;
    server_build(server, layout, saved->seed, saved, &built);
    pthread_rwlock_wrlock(&server->admission);
    memcpy(server->snapshot_digest, saved->snapshot_digest, sizeof server->snapshot_digest);
    server_install_locked(server, &built);
    atomic_store(&server->schedule.clock, saved->clock);
    lock_take(&server->seats_lock);
    for (size_t i = 0; i < saved->ledger_count; i++)
        server->seats[i].ledger = saved->ledger[i];
    lock_release(&server->seats_lock);
    lock_take(&server->orders_lock);
    server->generation = saved->generation;
    server->run = saved->run;
    if (saved->best) {
        server->best_epoch = saved->best_epoch;
        server->best = mem_array(saved->block_count, sizeof *server->best);
        for (size_t i = 0; i < saved->block_count; i++)
            server->best[i] = buf_ref(saved->best[i]);
    }
    lock_release(&server->orders_lock);
    pthread_rwlock_unlock(&server->admission);
    for (size_t i = 0; server->coordinator && i < saved->ledger_count; i++)
        coordinator_learn(server->coordinator, (uint32_t)i, saved->ledger[i].attempt,
                          saved->ledger[i].incarnation);
    server_set_state(server, SERVER_SERVING);
}

/* A generation that cannot be used is not offered any more. */
static void restore_drop(struct server *server, uint64_t generation) {
    lock_take(&server->orders_lock);
    size_t kept = 0;
    for (size_t i = 0; i < server->generation_count; i++)
        if (server->generations[i] != generation)
            server->generations[kept++] = server->generations[i];
    server->generation_count = kept;
    server->order.restore = false; /* shard 0 decides anew */
    lock_release(&server->orders_lock);
    server_set_state(server, SERVER_STARTING);
}

static void work_restore(struct server *server, uint64_t generation, uint64_t run) {
    if (generation == 0) {
        lock_take(&server->orders_lock);
        server->run = run;
        lock_release(&server->orders_lock);
        server_set_state(server, SERVER_WAITING);
        return;
    }
    server_set_state(server, SERVER_RESTORING);
    struct checkpoint *saved = NULL;
    struct layout *layout;
    struct error err = {0};
    bool fatal;
    if (restore_read(server, generation, run, &saved, &layout, &fatal, &err) == 0) {
        restore_take(server, saved, layout);
        checkpoint_free(saved);
        log_info("restored", "generation=%" PRIu64, generation);
        metric_set(METRIC_GENERATION, (double)generation);
        return;
    }
    log_error("a checkpoint cannot be restored", "generation=%" PRIu64 " why=%s", generation,
              log_quote(error_text(&err)));
    if (fatal)
        server_finish(server, err.code, error_text(&err));
    else
        restore_drop(server, generation);
}

/* --- what is due --- */

static bool restore_due_locked(const struct server *server) {
    return atomic_load(&server->state) == SERVER_STARTING && server->order.restore &&
           !server->order.finish && (server->order.restore_generation || server->order.run);
}

static bool checkpoint_due_locked(const struct server *server) {
    int state = atomic_load(&server->state);
    return (state == SERVER_SERVING || state == SERVER_WAITING) && !server->order.finish &&
           server->order.generation > server->generation &&
           server->order.generation != server->generation_failed;
}

static bool build_due_locked(const struct server *server) {
    return atomic_load(&server->state) == SERVER_BUILDING && !server->order.finish;
}

bool server_work_due_locked(struct server *server) {
    lock_assert_held(&server->orders_lock);
    return restore_due_locked(server) || build_due_locked(server) || checkpoint_due_locked(server);
}

void server_work(struct server *server, uint64_t now_ms) {
    lock_take(&server->orders_lock);
    bool mine = !server->work_running && server_work_due_locked(server);
    server->work_running |= mine;
    while (mine) {
        bool restore = restore_due_locked(server), build = build_due_locked(server);
        uint64_t generation = restore ? server->order.restore_generation : server->order.generation;
        uint64_t run = server->order.run;
        lock_release(&server->orders_lock);
        if (restore)
            work_restore(server, generation, run);
        else if (build)
            server_build_declared(server);
        else
            work_checkpoint(server, generation, now_ms);
        lock_take(&server->orders_lock);
        mine = server_work_due_locked(server);
        server->work_running = mine;
    }
    bool finish = server->order.finish && !server->work_running;
    int finish_code = -(int)server->order.finish_code;
    lock_release(&server->orders_lock);
    work_prune(server);
    if (finish) /* the run has ended, and nothing is left over */
        server_finish(server, finish_code, NULL);
    server_evict(server);
    server_news(server);
}
