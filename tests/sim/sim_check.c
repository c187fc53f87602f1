/* What must hold. Every batch is watched on its way into the weights (block_take and block_publish
 * are wrapped by the linker), so that who is in the weights, how often, and with what effect is
 * known here without asking the ledger. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "server/checkpoint.h"
#include "tests/sim/sim.h"

static struct world *watched;

void check_watch(struct world *world) {
    watched = world;
}

/* --- lines of life --- */

void lineage_done(struct lineage *lineage) {
    mem_free(lineage->items);
    *lineage = (struct lineage){0};
}

static struct applied *lineage_find(struct lineage *lineage, uint32_t rank, uint64_t incarnation,
                                    uint64_t sequence) {
    for (size_t i = lineage->count; i-- > 0;) {
        struct applied *item = &lineage->items[i];
        if (item->incarnation == incarnation && item->sequence == sequence && item->rank == rank)
            return item;
    }
    return NULL;
}

static struct applied *lineage_add(struct lineage *lineage, struct applied item) {
    if (lineage->count == lineage->cap) {
        size_t cap = lineage->cap ? lineage->cap * 2 : 64;
        lineage->items = mem_resize(lineage->items, lineage->cap * sizeof item, cap * sizeof item);
        lineage->cap = cap;
    }
    lineage->items[lineage->count] = item;
    return &lineage->items[lineage->count++];
}

static void lineage_copy(struct lineage *to, const struct lineage *from) {
    lineage_done(to);
    for (size_t i = 0; i < from->count; i++)
        lineage_add(to, from->items[i]);
}

/* --- what workers sent --- */

static struct sent *sent_find(struct world *world, uint32_t shard, uint32_t rank,
                              uint64_t incarnation, uint64_t sequence) {
    for (size_t i = world->sent_count; i-- > 0;) {
        struct sent *sent = &world->sent[i];
        if (sent->incarnation == incarnation && sent->sequence == sequence &&
            sent->shard == shard && sent->rank == rank)
            return sent;
    }
    return NULL;
}

void check_push_sent(struct proc *proc, uint32_t shard, const Graphps__Push *push) {
    struct world *world = proc->world;
    uint32_t blocks = 0;
    for (size_t i = 0; i < push->n_blocks; i++)
        blocks |= 1u << world->layout->blocks[push->blocks[i]].shard_index;
    struct sent *before = sent_find(world, shard, push->rank, push->incarnation, push->sequence);
    if (before) {
        if (before->clock != push->clock || before->blocks != blocks)
            sim_fail(world, "worker %u sends sequence %" PRIu64 " with another content", push->rank,
                     push->sequence);
        return;
    }
    if (world->sent_count == world->sent_cap) {
        size_t cap = world->sent_cap ? world->sent_cap * 2 : 256;
        world->sent = mem_resize(world->sent, world->sent_cap * sizeof *world->sent,
                                 cap * sizeof *world->sent);
        world->sent_cap = cap;
    }
    world->sent[world->sent_count++] = (struct sent){.shard = shard,
                                                     .rank = push->rank,
                                                     .incarnation = push->incarnation,
                                                     .sequence = push->sequence,
                                                     .clock = push->clock,
                                                     .blocks = blocks};
}

/* --- batches --- */

static struct proc *block_owner(const struct block *block) {
    for (size_t i = 0; i < watched->proc_count; i++) {
        struct proc *proc = watched->procs[i];
        if (!proc->is_worker && proc->server && block >= proc->server->blocks &&
            block < proc->server->blocks + proc->server->block_count)
            return proc;
    }
    sim_fail(watched, "a block of nobody");
}

/* What the batch taken last must do to its block. */
static struct {
    uint32_t parts, ranks; /* ranks: bits */
    uint64_t clock;
    double total;
    float mean[SIM_BLOCKS_MAX * 16];
} batch;

static bool is_bsp(const struct world *world) {
    return world->config->consistency_mode == CONSISTENCY_BSP;
}

static void batch_part(struct proc *proc, const struct block *block, const struct pending *part) {
    struct world *world = proc->world;
    struct place *place = &world->places[proc->number];
    const struct push *push = part->push;
    uint32_t bit = 1u << (block - proc->server->blocks);
    world->merges++;
    if (is_bsp(world))
        for (size_t i = 0; i < place->lineage.count; i++) {
            const struct applied *item = &place->lineage.items[i];
            if (item->rank == push->rank && item->clock == push->clock && (item->merged & bit))
                sim_fail(world, "shard %u: two gradients of rank %u for step %" PRIu64,
                         proc->number, push->rank, push->clock);
        }
    struct applied *item =
        lineage_find(&place->lineage, push->rank, push->incarnation, push->sequence);
    if (!item)
        item = lineage_add(&place->lineage, (struct applied){.rank = push->rank,
                                                             .incarnation = push->incarnation,
                                                             .sequence = push->sequence,
                                                             .clock = push->clock});
    if (item->merged & bit)
        sim_fail(world, "shard %u: push %" PRIu64 " of rank %u is applied twice to block %u",
                 proc->number, push->sequence, push->rank, block->id);
    item->merged |= bit;
    const struct sent *sent =
        sent_find(world, proc->number, push->rank, push->incarnation, push->sequence);
    if (!sent || sent->clock != push->clock)
        sim_fail(world, "shard %u applies a push that nobody sent", proc->number);

    const float *gradient = (const float *)(const void *)part->bytes;
    uint64_t offset = world->layout->blocks[block->id].offset;
    for (uint32_t i = 0; i < block->floats; i++) {
        if (!is_bsp(world) &&
            gradient[i] != sim_gradient(world, push->rank, push->clock, offset + i, 0))
            sim_fail(world, "shard %u: the gradient of rank %u, step %" PRIu64 " was changed",
                     proc->number, push->rank, push->clock);
        batch.mean[i] += push->weight * gradient[i];
    }
    batch.total += push->weight;
    batch.parts++;
    batch.ranks |= 1u << push->rank;
}

/* The learning rate of a step, in bsp that of its clock, else that of the highest that this line of
 * the shard's history has merged, restarts or not. */
static float step_rate(const struct world *world, uint64_t clock, const struct lineage *lineage) {
    struct schedule schedule;
    schedule_init(&schedule, world->config);
    atomic_init(&schedule.steps_per_epoch, world->steps_per_epoch);
    for (size_t i = 0; !is_bsp(world) && i < lineage->count; i++)
        if (i == 0 || lineage->items[i].clock > clock)
            clock = lineage->items[i].clock;
    return schedule_rate(&schedule, clock);
}

uint32_t __real_block_take(struct block *block, const struct block_rule *rule, struct list *out,
                           struct list *late, uint64_t *ret_clock);
uint32_t __wrap_block_take(struct block *block, const struct block_rule *rule, struct list *out,
                           struct list *late, uint64_t *ret_clock);
uint32_t __wrap_block_take(struct block *block, const struct block_rule *rule, struct list *out,
                           struct list *late, uint64_t *ret_clock) {
    uint32_t count = __real_block_take(block, rule, out, late, ret_clock);
    struct proc *proc = block_owner(block);
    memset(&batch, 0, sizeof batch);
    batch.clock = *ret_clock;
    for (LIST_EACH(node, out))
        batch_part(proc, block, LIST_OWNER(node, struct pending, node));
    if (is_bsp(proc->world) && count > 0) {
        if (batch.clock < block->clock)
            sim_fail(proc->world, "shard %u: block %u goes back to step %" PRIu64, proc->number,
                     block->id, batch.clock);
        if (proc->world->exact &&
            (batch.clock != block->clock || batch.ranks != (1u << SIM_WORKERS) - 1))
            sim_fail(proc->world,
                     "shard %u: block %u at step %" PRIu64 " merges step %" PRIu64 " of ranks %x",
                     proc->number, block->id, block->clock, batch.clock, batch.ranks);
    }
    return count;
}

bool __real_block_publish(struct block *block, const struct block_rule *rule, bool updated,
                          struct buf *weights, uint64_t clock, uint64_t now_ms);
bool __wrap_block_publish(struct block *block, const struct block_rule *rule, bool updated,
                          struct buf *weights, uint64_t clock, uint64_t now_ms);
bool __wrap_block_publish(struct block *block, const struct block_rule *rule, bool updated,
                          struct buf *weights, uint64_t clock, uint64_t now_ms) {
    struct proc *proc = block_owner(block);
    struct place *place = &proc->world->places[proc->number];
    float *must = place->weights + 16 * (block - proc->server->blocks);
    if ((weights == NULL) != (batch.parts == 0))
        sim_fail(proc->world, "shard %u: %u parts and %s weights", proc->number, batch.parts,
                 weights ? "new" : "no new");
    if (memcmp(must, block->weights->data, block->floats * sizeof *must) != 0)
        sim_fail(proc->world, "shard %u: block %u was changed behind our back", proc->number,
                 block->id);
    if (weights) {
        const float *is = (const float *)(const void *)weights->data;
        float lr = step_rate(proc->world, clock, &place->lineage);
        for (uint32_t i = 0; i < block->floats; i++) {
            double wanted = must[i] - lr * (batch.mean[i] / batch.total);
            if (!(fabs(wanted - is[i]) <= 1e-5 * (1 + fabs(wanted))))
                sim_fail(proc->world, "shard %u: block %u[%u] became %.9g, must be %.9g",
                         proc->number, block->id, i, is[i], wanted);
            must[i] = is[i];
        }
    }
    return __real_block_publish(block, rule, updated, weights, clock, now_ms);
}

/* --- acknowledgements and gates --- */

/* Is all of the push in the weights (bsp: or its step closed without it)? */
static bool push_is_in(struct proc *proc, const struct sent *sent) {
    struct lineage *lineage = &proc->world->places[proc->number].lineage;
    struct applied *item = lineage_find(lineage, sent->rank, sent->incarnation, sent->sequence);
    uint32_t in = item ? item->merged : 0;
    for (size_t i = 0; is_bsp(proc->world) && i < proc->server->block_count; i++)
        if (proc->server->blocks[i].clock > sent->clock)
            in |= 1u << i;
    return (sent->blocks & ~in) == 0;
}

static void check_pushed(struct pipe *pipe, const Graphps__Pushed *pushed) {
    struct world *world = pipe->world;
    struct proc *shard = pipe->server, *worker = pipe->client;
    const struct sent *sent =
        sent_find(world, shard->number, worker->number, worker->incarnation, pushed->sequence);
    world->acks++;
    world->repeats += pushed->repeat;
    if (!sent)
        sim_fail(world, "shard %u acknowledges a push that was not sent", shard->number);
    if (push_is_in(shard, sent))
        return;
    /* A late repeat of what a crash took and its sender has finished with. */
    if (pushed->repeat && lineage_find(&world->places[shard->number].lost, sent->rank,
                                       sent->incarnation, sent->sequence))
        return;
    sim_fail(world, "shard %u acknowledges push %" PRIu64 " of rank %u, which is not applied",
             shard->number, pushed->sequence, worker->number);
}

/* Steps that a rank's process has finished in truth. */
static uint64_t true_clock(const struct pipe *pipe, const Graphps__WorkerStatus *status) {
    const struct world *world = pipe->world;
    for (size_t i = 0; i < world->proc_count; i++) {
        const struct proc *proc = world->procs[i];
        /* Before this life of shard 0 has welcomed it, it is where it will be told to begin. */
        if (proc->is_worker && proc->incarnation == status->incarnation &&
            proc->told_by == pipe->server->incarnation)
            return proc->finished > proc->told ? proc->finished : proc->told;
    }
    return status->clock;
}

static void check_gate(struct pipe *pipe, const Graphps__Gate *gate) {
    struct world *world = pipe->world;
    if (gate->stop || world->config->consistency_mode == CONSISTENCY_ASYNC)
        return;
    Graphps__Status status;
    coordinator_status(pipe->server->server->coordinator, world->now_ms, &status);
    uint64_t slowest = UINT64_MAX;
    for (size_t i = 0; i < status.n_workers; i++) {
        const char *state = status.workers[i]->state;
        if (strcmp(state, "live") != 0 && strcmp(state, "expected") != 0)
            continue;
        uint64_t clock = true_clock(pipe, status.workers[i]);
        slowest = clock < slowest ? clock : slowest;
    }
    coordinator_status_done(&status);
    uint64_t bound = is_bsp(world) ? 0 : (uint64_t)world->config->consistency_staleness;
    world->gates++;
    if (slowest != UINT64_MAX && gate->clock > slowest + bound)
        sim_fail(world, "rank %u may start step %" PRIu64 ", the slowest is at %" PRIu64,
                 pipe->client->number, gate->clock, slowest);
}

void check_sent(struct pipe *pipe, enum frame_type type, const ProtobufCMessage *message) {
    if (!pipe->client->is_worker)
        return;
    if (type == FRAME_PUSHED)
        check_pushed(pipe, (const Graphps__Pushed *)message);
    else if (type == FRAME_GATE)
        check_gate(pipe, (const Graphps__Gate *)message);
    else if (type == FRAME_WELCOME && pipe->shard == 0) {
        uint64_t start_clock = ((const Graphps__Welcome *)message)->start_clock;
        if (start_clock > pipe->client->told)
            pipe->client->told = start_clock;
        pipe->client->told_by = pipe->server->incarnation;
    }
}

/* What a worker has finished with is in the weights of every shard whose present life it knows. */
void check_finished(struct proc *proc) {
    struct world *world = proc->world;
    uint64_t finished = outbox_finished(proc->outbox);
    if (finished <= proc->finished)
        return;
    for (size_t i = world->sent_count; i-- > 0;) {
        const struct sent *sent = &world->sent[i];
        if (sent->incarnation != proc->incarnation || sent->clock < proc->finished ||
            sent->clock >= finished)
            continue;
        struct proc *shard = world->shards[sent->shard];
        if (shard && shard->incarnation == proc->lives[sent->shard] && !push_is_in(shard, sent))
            sim_fail(world,
                     "worker %u has finished step %" PRIu64 ", but push %" PRIu64
                     " is not in shard %u",
                     proc->number, sent->clock, sent->sequence, sent->shard);
    }
    proc->finished = finished;
}

/* Everybody evaluates the same weights, while no shard has died: one that starts again keeps none.
 */
void check_candidate(struct proc *proc) {
    struct world *world = proc->world;
    size_t bytes = world->layout->floats * sizeof(float);
    if (!world->candidate_weights)
        world->candidate_weights = mem_alloc(bytes);
    if (world->exact && world->candidate == proc->candidate &&
        memcmp(world->candidate_weights, proc->weights, bytes) != 0)
        sim_fail(world, "worker %u evaluates other weights than the others in epoch %u",
                 proc->number, proc->candidate);
    world->candidate = proc->candidate;
    memcpy(world->candidate_weights, proc->weights, bytes);
}

/* --- checkpoints --- */

static uint64_t blocks_clock(const struct checkpoint *saved) {
    uint64_t clock = saved->clocks[0];
    for (size_t i = 1; i < saved->block_count; i++)
        if (saved->clocks[i] != clock)
            clock = UINT64_MAX;
    return clock;
}

/* The ledger counts each push of the weights once, and no other. */
static void check_ledger(struct proc *proc, const struct checkpoint *saved) {
    struct world *world = proc->world;
    uint64_t counted[SIM_WORKERS] = {0};
    const struct lineage *lineage = &world->places[proc->number].lineage;
    for (size_t i = 0; i < lineage->count; i++) {
        const struct applied *item = &lineage->items[i];
        const struct sent *sent =
            sent_find(world, proc->number, item->rank, item->incarnation, item->sequence);
        counted[item->rank]++;
        if (item->merged != sent->blocks)
            sim_fail(world, "shard %u saves half of push %" PRIu64 " of rank %u", proc->number,
                     item->sequence, item->rank);
    }
    for (size_t i = 0; i < SIM_WORKERS; i++)
        if (saved->ledger[i].counted != counted[i])
            sim_fail(world,
                     "shard %u: the ledger counts %" PRIu64 " pushes of rank %zu, applied "
                     "are %" PRIu64,
                     proc->number, saved->ledger[i].counted, i, counted[i]);
}

void check_saved(struct proc *proc, struct saved *saved) {
    struct world *world = proc->world;
    struct place *place = &world->places[proc->number];
    struct checkpoint *checkpoint;
    struct error err;
    if (checkpoint_decode(saved->bytes->data, saved->bytes->len, &checkpoint, &err) < 0)
        sim_fail(world, "a checkpoint that cannot be read: %s", error_text(&err));
    for (size_t i = 0; i < checkpoint->block_count; i++)
        if (memcmp(checkpoint->weights[i]->data, place->weights + 16 * i,
                   checkpoint->floats[i] * sizeof(float)) != 0)
            sim_fail(world, "shard %u: block %zu is saved with other weights", proc->number, i);
    if (!is_bsp(world))
        check_ledger(proc, checkpoint);
    saved->clock = blocks_clock(checkpoint);
    checkpoint_free(checkpoint);
    lineage_copy(&saved->lineage, &place->lineage);
    saved->weights = mem_array(SIM_BLOCKS_MAX * 16, sizeof(float));
    memcpy(saved->weights, place->weights, SIM_BLOCKS_MAX * 16 * sizeof(float));
    sim_trace(world, "shard %u writes generation %" PRIu64 " at step %" PRId64, proc->number,
              saved->generation, (int64_t)saved->clock);
}

/* All shards must restore one generation, of one step, for bsp not to notice. */
static void check_generation(struct proc *proc, const struct saved *saved) {
    struct world *world = proc->world;
    for (uint32_t s = 0; s < SIM_SHARDS; s++) {
        const struct saved *other = world->places[s].saved;
        while (other && other->generation != saved->generation)
            other = other->next;
        if (other && other->clock == saved->clock && saved->clock != UINT64_MAX)
            continue;
        if (is_bsp(world) && world->exact)
            sim_fail(world, "generation %" PRIu64 " is not of one step on all shards",
                     saved->generation);
        world->exact = false;
    }
}

void check_restored(struct proc *proc) {
    struct world *world = proc->world;
    struct place *place = &world->places[proc->number];
    const struct saved *saved = place->saved;
    while (saved && saved->generation != proc->server->generation)
        saved = saved->next;
    if (proc->server->generation && !saved)
        sim_fail(world, "shard %u restored a generation that is not there", proc->number);
    sim_trace(world, "shard %u has restored generation %" PRIu64, proc->number,
              proc->server->generation);
    world->candidate = 0;
    struct lineage before = place->lineage;
    place->lineage = (struct lineage){0};
    if (saved)
        lineage_copy(&place->lineage, &saved->lineage);
    for (size_t i = 0; i < before.count; i++)
        lineage_add(&place->lost, before.items[i]);
    lineage_done(&before);

    mem_free(place->weights);
    place->weights = mem_array(SIM_BLOCKS_MAX * 16, sizeof(float));
    if (!saved) {
        const struct layout *layout = world->layout;
        uint32_t first = layout->shard_starts[proc->number];
        for (uint32_t i = first; i < layout->shard_starts[proc->number + 1]; i++)
            layout_init_block(layout, layout->shard_blocks[i], (uint64_t)world->config->job_seed,
                              place->weights + 16 * (i - first));
        return;
    }
    check_generation(proc, saved);
    memcpy(place->weights, saved->weights, SIM_BLOCKS_MAX * 16 * sizeof(float));
    for (size_t i = 0; i < proc->server->block_count; i++)
        if (memcmp(proc->server->blocks[i].weights->data, place->weights + 16 * i,
                   proc->server->blocks[i].floats * sizeof(float)) != 0)
            sim_fail(world, "shard %u: block %zu is restored with other weights", proc->number, i);
}

/* --- the end --- */

/* bsp in one process: the bits that any number of crashes must not change. */
static void reference_run(struct world *world, uint64_t steps, float *weights) {
    const struct layout *layout = world->layout;
    struct optimizer optimizer;
    optimizer_init(&optimizer, world->config);
    _cleanup_(mem_free_p) float *gradient = mem_array(layout->floats, sizeof *gradient);
    float sum[16], next[16];
    for (size_t b = 0; b < layout->block_count; b++)
        layout_init_block(layout, (uint32_t)b, (uint64_t)world->config->job_seed,
                          weights + layout->blocks[b].offset);
    _cleanup_(mem_free_p) float *sums = mem_array(layout->floats, sizeof *sums);
    for (uint64_t clock = 0; clock < steps; clock++) {
        double total = 0;
        optimizer.lr = step_rate(world, clock, NULL);
        memset(sums, 0, layout->floats * sizeof *sums);
        for (uint32_t rank = 0; rank < SIM_WORKERS; rank++)
            total += sim_weight(rank);
        for (uint32_t rank = 0; rank < SIM_WORKERS; rank++) {
            for (uint64_t i = 0; i < layout->floats; i++)
                gradient[i] = sim_gradient(world, rank, clock, i, weights[i]);
            for (size_t b = 0; b < layout->block_count; b++) {
                const struct layout_block *block = &layout->blocks[b];
                codec_add(CODEC_FP32, (const uint8_t *)(gradient + block->offset), block->floats,
                          (float)(sim_weight(rank) / total), sums + block->offset);
            }
        }
        for (size_t b = 0; b < layout->block_count; b++) {
            const struct layout_block *block = &layout->blocks[b];
            memcpy(sum, sums + block->offset, block->floats * sizeof *sum);
            optimizer_step(&optimizer, block->floats, weights + block->offset, sum, NULL, clock + 1,
                           false, next);
            memcpy(weights + block->offset, next, block->floats * sizeof *next);
        }
    }
}

static void check_equal(struct world *world, uint64_t steps, float *const saved[SIM_SHARDS]) {
    const struct layout *layout = world->layout;
    _cleanup_(mem_free_p) float *weights = mem_array(layout->floats, sizeof *weights);
    reference_run(world, steps, weights);
    for (size_t b = 0; b < layout->block_count; b++) {
        const struct layout_block *block = &layout->blocks[b];
        const float *is = saved[block->shard] + 16 * block->shard_index;
        if (memcmp(is, weights + block->offset, block->floats * sizeof *is) != 0)
            sim_fail(world, "bsp: block %zu differs from one process's after %" PRIu64 " steps", b,
                     steps);
    }
}

/* As many generations are left as are to be kept; the newest is complete, so no more is there. */
static void check_kept(struct world *world) {
    for (uint32_t s = 0; s < SIM_SHARDS; s++) {
        size_t kept = 0;
        for (const struct saved *saved = world->places[s].saved; saved; saved = saved->next)
            kept++;
        if (world->places[s].over && kept > (size_t)world->config->checkpoint_keep)
            sim_fail(world, "the job is done and shard %u has %zu generations", s, kept);
    }
}

void check_end(struct world *world) {
    const struct saved *first = world->places[0].saved;
    if (!first)
        sim_fail(world, "the job is done and nothing was saved");
    check_kept(world);
    if (!is_bsp(world) || !world->exact)
        return;
    float *weights[SIM_SHARDS];
    for (uint32_t s = 0; s < SIM_SHARDS; s++) {
        const struct saved *saved = world->places[s].saved;
        if (!saved || saved->generation != first->generation || saved->clock != first->clock)
            sim_fail(world, "the job is done and the shards have saved different things");
        weights[s] = saved->weights;
    }
    check_equal(world, first->clock, weights);
}
