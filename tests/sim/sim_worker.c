/* A worker's process in the simulated world: the real outbox under a trainer that does what
 * worker/trainer.c does, with gradients that are arithmetic instead of a model's. */
#include <inttypes.h>
#include <string.h>

#include "tests/sim/sim.h"

__attribute__((noinline)) float sim_gradient(const struct world *world, uint32_t rank,
                                             uint64_t clock, uint64_t i, float weight) {
    float constant = (float)((int)((rank * 3 + clock * 5 + i) % 7) - 3) * 0.125f;
    return world->config->consistency_mode == CONSISTENCY_BSP ? constant + 0.25f * weight
                                                              : constant;
}

double sim_weight(uint32_t rank) {
    return 1 + rank;
}

static void ops_send(void *ctx, uint32_t shard, struct frame_out *frame) {
    struct proc *proc = ctx;
    if (frame->head->data[5] == FRAME_PUSH) {
        ProtobufCMessage *push = sim_message(frame);
        check_push_sent(proc, shard, (const Graphps__Push *)push);
        wire_free(push);
    }
    pipe_send(proc->pipes[shard], false, frame);
}

static void ops_reconnect(void *ctx, uint32_t shard, const struct error *why) {
    struct proc *proc = ctx;
    sim_trace(proc->world, "worker %u drops its connection to shard %u: %s", proc->number, shard,
              error_text(why));
    pipe_cut(proc->pipes[shard]);
}

void rank_begin(struct proc *proc) {
    struct world *world = proc->world;
    static const struct outbox_ops ops = {.send = ops_send, .reconnect = ops_reconnect};
    struct outbox_spec spec = {
        .job = world->config->job_name,
        .snapshot_digest = "0123456789abcdef",
        .http = "",
        .rank = proc->number,
        .workers = SIM_WORKERS,
        .incarnation = proc->incarnation,
        .seed = (uint64_t)world->config->job_seed,
        .steps_per_epoch = world->steps_per_epoch,
        .layout = world->layout,
        .codec = CODEC_FP32,
        .payload_max_bytes = 128, /* two blocks a frame */
        .resend_ms = 100,
    };
    proc->outbox = outbox_new(&spec, &ops, proc);
    proc->weights = mem_array(world->layout->floats, sizeof(float));
    proc->gradient = mem_array(world->layout->floats, sizeof(float));
    proc->first = true;
    for (uint32_t s = 0; s < SIM_SHARDS; s++)
        pipe_start(proc, s);
}

void rank_end(struct proc *proc) {
    struct world *world = proc->world;
    for (uint32_t s = 0; s < SIM_SHARDS; s++)
        if (proc->pipes[s]) {
            sim_at(world, sim_random(world, 30),
                   (struct event){.kind = EVENT_CLOSED,
                                  .proc = proc->pipes[s]->server,
                                  .pipe = proc->pipes[s]});
            pipe_close_client(proc->pipes[s]);
        }
    proc->outbox = outbox_free(proc->outbox);
    mem_free(proc->weights);
    mem_free(proc->gradient);
    if (world->workers[proc->number] == proc)
        world->workers[proc->number] = NULL;
}

/* --- the trainer --- */

static void trainer_bye(struct proc *proc) {
    proc->state = TRAINER_BYE;
    outbox_bye(proc->outbox, !proc->leaving, proc->world->now_ms);
}

static void trainer_push(struct proc *proc) {
    struct world *world = proc->world;
    for (uint64_t i = 0; i < world->layout->floats; i++)
        proc->gradient[i] = sim_gradient(world, proc->number, proc->clock, i, proc->weights[i]);
    outbox_push(proc->outbox, proc->gradient, proc->clock, sim_weight(proc->number), world->now_ms);
    proc->clock++;
}

static uint32_t trainer_epoch(const struct proc *proc) {
    return (uint32_t)(proc->clock / proc->world->steps_per_epoch);
}

static void trainer_eval(struct proc *proc, uint32_t epoch, bool candidate) {
    bool valid = candidate || proc->world->config->consistency_mode == CONSISTENCY_BSP;
    Graphps__Eval eval = GRAPHPS__EVAL__INIT;
    eval.epoch = epoch;
    eval.candidate = candidate;
    eval.train_loss_sum = candidate ? 0 : 10.0 / epoch;
    eval.train_count = candidate ? 0 : 10;
    eval.valid_count = eval.test_count = valid ? 10 : 0;
    eval.valid_correct =
        valid ? rng_mix(proc->world->seed + epoch) % 5 + (epoch < 5 ? epoch : 5) : 0;
    outbox_eval(proc->outbox, &eval, proc->world->now_ms);
}

/* One move; false when it has to wait. */
static bool trainer_move(struct proc *proc) {
    struct world *world = proc->world;
    struct outbox *outbox = proc->outbox;
    bool overlap = world->config->consistency_mode == CONSISTENCY_ASYNC;
    uint64_t end = (uint64_t)world->config->train_epochs * world->steps_per_epoch;
    switch (proc->state) {
    case TRAINER_WELCOME:
        if (!outbox_welcomed(outbox))
            return false;
        proc->clock = outbox_start_clock(outbox);
        proc->state = TRAINER_GATE;
        return true;
    case TRAINER_GATE: {
        if (proc->clock < outbox_start_clock(outbox))
            proc->clock = outbox_start_clock(outbox);
        if (outbox_stop(outbox) || proc->leaving || proc->clock >= end) {
            proc->state = TRAINER_LAST;
            return true;
        }
        bool open = !overlap || proc->first ? outbox_gate_open(outbox, proc->clock)
                                            : outbox_finished(outbox) + 1 >= proc->clock;
        if (!open)
            return false;
        proc->first = false;
        outbox_pull(outbox, world->now_ms);
        proc->state = TRAINER_WEIGHTS;
        return true;
    }
    case TRAINER_WEIGHTS:
        if (!outbox_weights_current(outbox))
            return false;
        outbox_copy(outbox, proc->weights);
        proc->state = TRAINER_COMPUTE;
        sim_at(world, 5 + sim_random(world, 35),
               (struct event){.kind = EVENT_COMPUTED, .proc = proc});
        return false;
    case TRAINER_COMPUTE:
        return false;
    case TRAINER_FINISHED:
        if (!overlap && outbox_finished(outbox) < proc->clock)
            return false;
        proc->state = TRAINER_GATE;
        if (proc->clock % world->steps_per_epoch == 0) {
            trainer_eval(proc, trainer_epoch(proc), false);
            proc->state = TRAINER_EVAL;
        }
        return true;
    case TRAINER_EVAL:
        if (outbox_evaled(outbox) != trainer_epoch(proc))
            return false;
        proc->state = TRAINER_GATE;
        proc->candidate = outbox_candidate_due(outbox);
        if (proc->candidate) {
            outbox_pull_candidate(outbox, proc->candidate, world->now_ms);
            proc->state = TRAINER_CANDIDATE;
        }
        return true;
    case TRAINER_CANDIDATE:
        if (!outbox_candidate_held(outbox))
            return false;
        outbox_copy_candidate(outbox, proc->weights);
        check_candidate(proc);
        trainer_eval(proc, proc->candidate, true);
        proc->state = TRAINER_CANDIDATED;
        return true;
    case TRAINER_CANDIDATED:
        if (outbox_evaled(outbox) != proc->candidate)
            return false;
        proc->state = TRAINER_GATE;
        if (trainer_epoch(proc) >= world->config->train_epochs &&
            proc->candidate < world->config->train_epochs) {
            trainer_eval(proc, trainer_epoch(proc), false);
            proc->state = TRAINER_EVAL;
        }
        return true;
    case TRAINER_LAST:
        if (outbox_finished(outbox) < proc->clock)
            return false;
        trainer_bye(proc);
        return true;
    case TRAINER_BYE:
        return false;
    }
    return false;
}

static void start_again(struct world *world, uint32_t rank, uint64_t delay_ms) {
    world->starting_worker[rank] = true;
    sim_at(world, delay_ms, (struct event){.kind = EVENT_START, .number = rank, .to_client = true});
}

/* After anything happened to the outbox. */
static void trainer_step(struct proc *proc) {
    struct world *world = proc->world;
    while (!outbox_error(proc->outbox, NULL) && trainer_move(proc))
        ;
    check_finished(proc);
    struct error err;
    uint32_t rank = proc->number;
    int code = outbox_error(proc->outbox, &err);
    if (code) {
        sim_trace(world, "worker %u (%" PRIx64 ") ends: %s", rank, proc->incarnation,
                  error_text(&err));
        if (code != ERR_FENCED)
            sim_fail(world, "worker %u: %s", rank, error_text(&err));
        bool newest = world->workers[rank] == proc;
        proc_kill(world, proc);
        if (newest && !world->starting_worker[rank])
            start_again(world, rank, 100);
    } else if (outbox_said_goodbye(proc->outbox)) {
        sim_trace(world, "worker %u is %s at step %" PRIu64, rank, proc->leaving ? "away" : "done",
                  proc->clock);
        bool leaving = proc->leaving, newest = world->workers[rank] == proc;
        if (newest)
            world->rank_done[rank] = !leaving;
        proc_kill(world, proc);
        if (leaving && newest)
            start_again(world, rank, 20 + sim_random(world, 500));
    }
}

void rank_computed(struct proc *proc) {
    struct world *world = proc->world;
    if (proc->state != TRAINER_COMPUTE)
        return;
    if (proc->clock < outbox_start_clock(proc->outbox)) { /* the others went on meanwhile */
        proc->state = TRAINER_GATE;
    } else {
        sim_trace(world, "worker %u pushes step %" PRIu64, proc->number, proc->clock);
        trainer_push(proc);
        proc->state = TRAINER_FINISHED;
    }
    trainer_step(proc);
}

void rank_tick(struct proc *proc) {
    struct world *world = proc->world;
    uint64_t next_ms = outbox_tick(proc->outbox, world->now_ms);
    uint64_t wait_ms = next_ms - world->now_ms, most_ms = 10 + sim_random(world, 40);
    sim_at(world, wait_ms < most_ms ? wait_ms : most_ms,
           (struct event){.kind = EVENT_TICK, .proc = proc});
    trainer_step(proc);
}

void rank_opened(struct proc *proc, uint32_t shard) {
    outbox_opened(proc->outbox, shard, proc->world->now_ms);
}

void rank_closed(struct proc *proc, uint32_t shard) {
    outbox_closed(proc->outbox, shard, proc->world->now_ms);
}

void rank_frame(struct pipe *pipe, const struct frame_in *frame) {
    struct proc *proc = pipe->client;
    struct world *world = proc->world;
    if (frame->type == FRAME_WELCOME)
        proc->lives[pipe->shard] = pipe->server->incarnation;
    outbox_frame(proc->outbox, pipe->shard, frame, world->now_ms);
    trainer_step(proc);
}
