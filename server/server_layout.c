/* What the workers declare: tensors and tables, built by the first, compared with those of all
 * others.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "server/server.h"

/* More floats on a shard, state included, are not made while everybody waits: at 5 ns each and
 * more, where memory is fresh, this is a tenth of a second. */
#define BUILD_AT_ONCE_FLOATS (16u << 20)

/* A tensor's block: weights from the checkpoint, or initial ones. */
static void build_block(const struct server *server, const struct server_built *built, size_t i,
                        const struct checkpoint *checkpoint) {
    const struct layout *layout = built->layout;
    uint32_t id = layout->shard_blocks[layout->shard_starts[server->shard] + i];
    const struct layout_block *placed = &layout->blocks[id];
    size_t state_floats = optimizer_state_floats(&server->optimizer);
    struct block *block = &built->blocks[i];
    struct buf *weights;
    if (checkpoint) {
        weights = buf_ref(checkpoint->weights[i]);
    } else {
        weights = buf_new(placed->floats * sizeof(float));
        layout_init_block(layout, placed->id, built->seed, (float *)(void *)weights->data);
    }
    block_init(block, placed->id, placed->floats, layout->tensors[placed->tensor].decay, weights,
               state_floats);
    block->statistic = layout->tensors[placed->tensor].statistic;
    if (!checkpoint)
        return;
    block->version = checkpoint->versions[i];
    block->clock = checkpoint->clocks[i];
    block->steps = checkpoint->steps[i];
    if (state_floats)
        memcpy(block->state->data, checkpoint->state[i]->data, block->state->len);
}

static void internal_error(const struct error *err) {
    fprintf(stderr, "graphps: internal error: %s\n", error_text(err));
    abort();
}

/* A row from a checkpoint, when this shard is the one that has it. */
struct restoring {
    const struct server *server;
    struct table *table;
};

static int restore_row(void *ctx, const struct table_row *row, struct error *reterr) {
    const struct restoring *restoring = ctx;
    if (layout_row_shard(row->row, restoring->server->shards) != restoring->server->shard)
        return 0;
    return table_restore_row(restoring->table, row, reterr);
}

/* A table and the blocks that keep its stripes' books. */
static void build_table(const struct server *server, const struct server_built *built, size_t i,
                        const struct checkpoint *checkpoint) {
    const struct layout_table *table = &built->layout->tables[i];
    /* Weights are kept for evaluation, which is of learned rows alone. */
    const struct config *config = server->config;
    uint32_t kept = config->model_embedding == 0 ? 0 : server->rule.bsp ? 1 : 2;
    const struct table_spec spec = {.name = table->name,
                                    .number = (uint32_t)i,
                                    .rows = table->rows,
                                    .dim = table->dim,
                                    .init_scale = table->init_scale,
                                    .kept = kept};
    struct error err = {0};
    if (table_new(&spec, built->seed, LAYOUT_STRIPES, &server->optimizer, &built->tables[i], &err) <
        0)
        internal_error(&err); /* the layout's limits are the table's */
    for (uint32_t stripe = 0; stripe < LAYOUT_STRIPES; stripe++) {
        struct block *block = &built->blocks[built->block_count + i * LAYOUT_STRIPES + stripe];
        block_init_stripe(block, built->tables[i], stripe);
        if (checkpoint) {
            block->version = checkpoint->tables[i].versions[stripe];
            block->clock = checkpoint->tables[i].clocks[stripe];
        }
    }
    if (checkpoint && checkpoint->best)
        table_keep(built->tables[i], TABLE_BEST);
    struct restoring restoring = {server, built->tables[i]};
    if (checkpoint && checkpoint_rows(checkpoint, i, restore_row, &restoring, &err) < 0)
        internal_error(&err); /* decoding has looked at every row's number */
}

void server_build(struct server *server, struct layout *layout, uint64_t seed,
                  const struct checkpoint *checkpoint, struct server_built *ret) {
    struct server_built built = {
        .layout = layout,
        .seed = seed,
        .block_count =
            layout->shard_starts[server->shard + 1] - layout->shard_starts[server->shard],
        .stripe_count = layout->table_count * LAYOUT_STRIPES,
        .tables = mem_array(layout->table_count, sizeof(struct table *)),
    };
    built.blocks = mem_array(built.block_count + built.stripe_count, sizeof *built.blocks);
    for (size_t i = 0; i < built.block_count; i++)
        build_block(server, &built, i, checkpoint);
    for (size_t i = 0; i < layout->table_count; i++)
        build_table(server, &built, i, checkpoint);
    *ret = built;
}

void server_install_locked(struct server *server, const struct server_built *built) {
    server->layout = built->layout;
    server->seed = built->seed;
    server->blocks = built->blocks;
    server->block_count = built->block_count;
    server->stripe_count = built->stripe_count;
    server->tables = built->tables;
    server->table_count = built->layout->table_count;
    server->aggregator_ops = (struct aggregator_ops){.applied = server_applied,
                                                     .inline_floats = server->ops->inline_floats};
    server->aggregator =
        aggregator_new(server->blocks, server->block_count + server->stripe_count, &server->rule,
                       &server->optimizer, &server->schedule, &server->aggregator_ops, server);
}

void server_build_declared(struct server *server) {
    struct server_built built;
    /* Both set before the state, and not changed in it. */
    server_build(server, server->declared, server->seed, NULL, &built);
    pthread_rwlock_wrlock(&server->admission);
    server->declared = NULL;
    server_install_locked(server, &built);
    pthread_rwlock_unlock(&server->admission);
    server_set_state(server, SERVER_SERVING);
    log_info("first weights made", "parameters_here=%llu blocks_here=%zu",
             (unsigned long long)built.layout->shard_floats[server->shard], built.block_count);
}

/* The tensors a worker declares, as the layout wants them. */
static int hello_tensors(const Graphps__Hello *hello, struct tensor_spec *tensors,
                         struct error *reterr) {
    for (size_t i = 0; i < hello->n_tensors; i++) {
        const Graphps__TensorSpec *spec = hello->tensors[i];
        size_t len = strlen(spec->name);
        if (len > LAYOUT_NAME_MAX)
            return error_set(reterr, ERR_WRONG_LAYOUT, "tensor %zu: its name has %zu bytes", i,
                             len);
        memcpy(tensors[i].name, spec->name, len + 1);
        tensors[i].rows = spec->rows;
        tensors[i].cols = spec->cols;
        tensors[i].init = (enum tensor_init)spec->init; /* layout_new refuses what is none */
        tensors[i].decay = spec->decay;
        tensors[i].statistic = spec->statistic;
    }
    return 0;
}

/* Its tables, and the layout's hash with them. */
static int hello_tables(const Graphps__Hello *hello, struct layout *layout, struct error *reterr) {
    _cleanup_(mem_free_p) struct layout_table *tables = mem_array(hello->n_tables, sizeof *tables);
    for (size_t i = 0; i < hello->n_tables; i++) {
        const Graphps__TableSpec *spec = hello->tables[i];
        size_t len = strlen(spec->name);
        if (len > LAYOUT_NAME_MAX)
            return error_set(reterr, ERR_WRONG_LAYOUT, "table %zu: its name has %zu bytes", i, len);
        memcpy(tables[i].name, spec->name, len + 1);
        tables[i].rows = spec->rows;
        tables[i].dim = spec->dim;
        tables[i].init_scale = spec->init_scale;
    }
    return layout_add_tables(layout, tables, hello->n_tables, reterr);
}

static int tables_difference(const struct server *server, const Graphps__Hello *hello,
                             struct error *reterr) {
    const struct layout *layout = server->layout;
    if (layout->table_count != hello->n_tables)
        return error_set(reterr, ERR_WRONG_LAYOUT, "rank %u: %zu tables, the run has %zu",
                         hello->rank, hello->n_tables, layout->table_count);
    for (size_t i = 0; i < layout->table_count; i++) {
        const struct layout_table *ours = &layout->tables[i];
        const Graphps__TableSpec *theirs = hello->tables[i];
        if (strcmp(ours->name, theirs->name) != 0 || ours->rows != theirs->rows ||
            ours->dim != theirs->dim || ours->init_scale != theirs->init_scale)
            return error_set(reterr, ERR_WRONG_LAYOUT,
                             "rank %u: table %zu is '%.63s', %llu x %u, +-%g; the run has '%s', "
                             "%llu x %u, +-%g there",
                             hello->rank, i, theirs->name, (unsigned long long)theirs->rows,
                             theirs->dim, (double)theirs->init_scale, ours->name,
                             (unsigned long long)ours->rows, ours->dim, (double)ours->init_scale);
    }
    return 0;
}

/* The first thing in which a worker's tensors and ours are not the same. */
static int layout_difference(const struct server *server, const Graphps__Hello *hello,
                             struct error *reterr) {
    const struct layout *layout = server->layout;
    for (size_t i = 0; i < layout->tensor_count && i < hello->n_tensors; i++) {
        const struct tensor_spec *ours = &layout->tensors[i];
        const Graphps__TensorSpec *theirs = hello->tensors[i];
        if (strcmp(ours->name, theirs->name) != 0)
            return error_set(reterr, ERR_WRONG_LAYOUT,
                             "rank %u: tensor %zu is '%.63s', the run has '%s' there", hello->rank,
                             i, theirs->name, ours->name);
        if (ours->rows != theirs->rows || ours->cols != theirs->cols)
            return error_set(reterr, ERR_WRONG_LAYOUT,
                             "rank %u: tensor '%s' is %u x %u, the run has %u x %u", hello->rank,
                             ours->name, theirs->rows, theirs->cols, ours->rows, ours->cols);
        if ((int)ours->init != (int)theirs->init || ours->decay != theirs->decay ||
            ours->statistic != theirs->statistic)
            return error_set(reterr, ERR_WRONG_LAYOUT,
                             "rank %u: tensor '%s' has another initialisation, decay or update "
                             "than the run",
                             hello->rank, ours->name);
    }
    if (layout->tensor_count != hello->n_tensors)
        return error_set(reterr, ERR_WRONG_LAYOUT, "rank %u: %zu tensors, the run has %zu",
                         hello->rank, hello->n_tensors, layout->tensor_count);
    int r = tables_difference(server, hello, reterr);
    if (r < 0)
        return r;
    return error_set(reterr, ERR_WRONG_LAYOUT,
                     "rank %u: the same tensors, cut in another way; servers.block_bytes must be "
                     "the same on all",
                     hello->rank);
}

static int layout_check(const struct server *server, const Graphps__Hello *hello,
                        struct error *reterr) {
    if (hello->layout_hash != server->layout->hash)
        return layout_difference(server, hello, reterr);
    if (hello->seed != server->seed)
        return error_set(reterr, ERR_CONFIG, "rank %u: job.seed is %llu, the run has %llu",
                         hello->rank, (unsigned long long)hello->seed,
                         (unsigned long long)server->seed);
    if (strcmp(hello->snapshot_digest, server->snapshot_digest) != 0)
        return error_set(reterr, ERR_CONFIG,
                         "rank %u: its snapshot (digest %.40s) is not the one this run trains on "
                         "(digest %.40s); give the run the same data.snapshot everywhere, or "
                         "another job.dir",
                         hello->rank, hello->snapshot_digest, server->snapshot_digest);
    return 0;
}

static int layout_begin_locked(struct server *server, const Graphps__Hello *hello,
                               struct error *reterr) {
    if (hello->n_tensors == 0 && hello->n_tables == 0)
        return error_set(reterr, ERR_WRONG_LAYOUT, "rank %u declares no tensors and no tables",
                         hello->rank);
    if (hello->seed != (uint64_t)server->config->job_seed)
        return error_set(reterr, ERR_CONFIG, "rank %u: job.seed is %llu, shard %u has %lld",
                         hello->rank, (unsigned long long)hello->seed, server->shard,
                         (long long)server->config->job_seed);
    if (strlen(hello->snapshot_digest) >= sizeof server->snapshot_digest)
        return error_set(reterr, ERR_LIMIT, "rank %u: a snapshot digest of %zu bytes", hello->rank,
                         strlen(hello->snapshot_digest));
    _cleanup_(mem_free_p) struct tensor_spec *tensors =
        mem_array(hello->n_tensors, sizeof *tensors);
    struct layout *layout;
    int r = hello_tensors(hello, tensors, reterr);
    if (r == 0)
        r = layout_new(tensors, hello->n_tensors, (uint32_t)server->config->servers_block_bytes,
                       server->shards, &layout, reterr);
    if (r < 0)
        return r;
    r = hello_tables(hello, layout, reterr);
    if (r < 0) {
        layout_free(layout);
        return r;
    }
    if (layout->hash != hello->layout_hash) {
        layout_free(layout);
        return error_set(reterr, ERR_WRONG_LAYOUT,
                         "rank %u: its tensors are cut in another way here; servers.block_bytes "
                         "and servers.count must be the same on all",
                         hello->rank);
    }
    server->seed = hello->seed;
    snprintf(server->snapshot_digest, sizeof server->snapshot_digest, "%s", hello->snapshot_digest);
    log_info("layout declared", "by_rank=%u tensors=%zu parameters=%llu blocks_here=%u tables=%zu",
             hello->rank, layout->tensor_count, (unsigned long long)layout->floats,
             layout->shard_starts[server->shard + 1] - layout->shard_starts[server->shard],
             layout->table_count);
    uint64_t floats =
        layout->shard_floats[server->shard] * (1 + optimizer_state_floats(&server->optimizer));
    if (floats > BUILD_AT_ONCE_FLOATS) {
        server->declared = layout;
        atomic_store(&server->state, SERVER_BUILDING);
        return 0;
    }
    struct server_built built;
    server_build(server, layout, server->seed, NULL, &built);
    server_install_locked(server, &built);
    atomic_store(&server->state, SERVER_SERVING);
    return 0;
}

int server_declare_layout(struct server *server, const Graphps__Hello *hello,
                          struct error *reterr) {
    if (atomic_load(&server->state) == SERVER_WAITING) {
        pthread_rwlock_wrlock(&server->admission);
        int r = 0;
        if (atomic_load(&server->state) == SERVER_WAITING)
            r = layout_begin_locked(server, hello, reterr);
        bool aside = server->declared != NULL;
        pthread_rwlock_unlock(&server->admission);
        if (r < 0)
            return r;
        if (aside)
            server->ops->work(server->ops_ctx);
    }
    int r;
    pthread_rwlock_rdlock(&server->admission);
    if (!server->layout)
        r = error_set(reterr, ERR_NOT_READY, "shard %u is %s", server->shard,
                      server_state_name(atomic_load(&server->state)));
    else
        r = layout_check(server, hello, reterr);
    pthread_rwlock_unlock(&server->admission);
    return r;
}
