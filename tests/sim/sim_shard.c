/* A shard's process in the simulated world: what io.c, link.c, threads.c and the disk are to the
 * real one. */
#include <inttypes.h>
#include <string.h>

#include "tests/sim/sim.h"

/* --- the seam --- */

static void ops_send(void *ctx, void *conn, struct frame_out *frame) {
    struct proc *proc = ctx;
    struct pipe *pipe = conn;
    enum frame_type type = frame->head->data[5];
    if (!proc->server_dying && pipe->server_open &&
        (type == FRAME_PUSHED || type == FRAME_GATE || type == FRAME_WELCOME)) {
        ProtobufCMessage *message = sim_message(frame);
        check_sent(pipe, type, message);
        wire_free(message);
    }
    pipe_send(pipe, true, frame);
}

static void ops_ref(void *ctx, void *conn) {
    pipe_ref(conn);
}

static void ops_unref(void *ctx, void *conn) {
    pipe_unref(conn);
}

static void ops_work(void *ctx) {
    struct proc *proc = ctx;
    if (!proc->server_dying && !proc->work_wanted)
        sim_at(proc->world, 1 + sim_random(proc->world, sim_chance(proc->world, 200) ? 150 : 20),
               (struct event){.kind = EVENT_WORK, .proc = proc});
    proc->work_wanted = true;
}

static void ops_report(void *ctx) {
    struct proc *proc = ctx;
    if (!proc->server_dying)
        sim_at(proc->world, sim_random(proc->world, 3),
               (struct event){.kind = EVENT_REPORT, .proc = proc});
}

#define SERVER_OPS                                                                                 \
    .send = ops_send, .ref = ops_ref, .unref = ops_unref, .work = ops_work, .report = ops_report
/* Batches are worked on when the aggregator's turn comes, or by the push that completes them. */
static const struct server_ops sim_server_ops[] = {{SERVER_OPS},
                                                   {SERVER_OPS, .inline_floats = UINT32_MAX}};

/* --- the disk: a write is there whole or not at all --- */

static void saved_free(struct saved *saved) {
    buf_unref(saved->bytes);
    lineage_done(&saved->lineage);
    mem_free(saved->weights);
    mem_free(saved);
}

void place_done(struct place *place) {
    while (place->saved) {
        struct saved *saved = place->saved;
        place->saved = saved->next;
        saved_free(saved);
    }
    lineage_done(&place->lineage);
    lineage_done(&place->lost);
    mem_free(place->weights);
}

static void notice_restored(struct proc *proc) {
    if (!proc->restored && proc->server->run) {
        proc->restored = true;
        check_restored(proc);
    }
}

static int disk_write(void *ctx, uint64_t generation, uint32_t shard, uint32_t shards,
                      struct checkpoint_stream *stream, struct error *reterr) {
    struct proc *proc = ctx;
    struct world *world = proc->world;
    notice_restored(proc); /* both may happen in one call of server_work */
    if (world->now_ms < world->accidents_end_ms && sim_chance(world, 60)) {
        sim_trace(world, "shard %u: disk full at generation %" PRIu64, shard, generation);
        return error_set(reterr, ERR_IO, "no space left (simulated)");
    }
    bool crash = world->harsh && world->now_ms < world->accidents_end_ms && sim_chance(world, 60);
    proc->crash_after_write = crash;
    if (crash && sim_chance(world, 500)) /* before the rename */
        return error_set(reterr, ERR_IO, "crashed (simulated)");
    struct saved *saved = mem_alloc(sizeof *saved);
    saved->generation = generation;
    saved->bytes = checkpoint_stream_whole(stream);
    saved->next = world->places[shard].saved;
    world->places[shard].saved = saved;
    check_saved(proc, saved);
    return 0;
}

static int disk_read(void *ctx, uint64_t generation, uint32_t shard, uint32_t shards,
                     struct buf **ret, struct error *reterr) {
    struct proc *proc = ctx;
    for (struct saved *saved = proc->world->places[shard].saved; saved; saved = saved->next)
        if (saved->generation == generation) {
            *ret = buf_ref(saved->bytes);
            return 0;
        }
    return error_set(reterr, ERR_NOT_FOUND, "no generation %" PRIu64, generation);
}

static int disk_list(void *ctx, uint32_t shard, uint32_t shards, uint64_t **ret, size_t *ret_count,
                     struct error *reterr) {
    struct proc *proc = ctx;
    size_t count = 0;
    for (struct saved *saved = proc->world->places[shard].saved; saved; saved = saved->next)
        count++;
    uint64_t *list = mem_array(count, sizeof *list);
    size_t i = count;
    for (struct saved *saved = proc->world->places[shard].saved; saved; saved = saved->next)
        list[--i] = saved->generation;
    *ret = list;
    *ret_count = count;
    return 0;
}

static int disk_prune(void *ctx, uint32_t shard, uint32_t shards, uint64_t newest, uint32_t keep,
                      struct error *reterr) {
    struct proc *proc = ctx;
    struct saved **at = &proc->world->places[shard].saved;
    while (*at) {
        struct saved *saved = *at;
        if (saved->generation <= newest && keep == 0) {
            *at = saved->next;
            saved_free(saved);
            continue;
        }
        keep -= saved->generation <= newest;
        at = &saved->next;
    }
    return 0;
}

/* --- the process --- */

void shard_begin(struct proc *proc) {
    struct checkpoint_store store = {.ctx = proc,
                                     .write = disk_write,
                                     .read = disk_read,
                                     .list = disk_list,
                                     .prune = disk_prune};
    struct error err;
    char address[32];
    snprintf(address, sizeof address, "shard-%u", proc->number);
    if (server_new(proc->world->config, proc->number, proc->incarnation, address,
                   &sim_server_ops[proc->world->seed / 3 % 2], proc, &store, &proc->server,
                   &err) < 0)
        sim_fail(proc->world, "server_new: %s", error_text(&err));
    if (proc->number > 0)
        pipe_start(proc, 0);
}

static void serve_end(struct proc *proc, struct pipe *pipe) {
    pipe->server_open = false;
    pipe->session = session_free(pipe->session);
    for (size_t i = 0; i < proc->served_count; i++)
        if (proc->served[i] == pipe)
            proc->served[i] = proc->served[--proc->served_count];
    pipe_unref(pipe);
}

void shard_end(struct proc *proc) {
    struct world *world = proc->world;
    proc->server_dying = true;
    while (proc->served_count > 0) {
        struct pipe *pipe = proc->served[0];
        sim_at(world, sim_random(world, 30),
               (struct event){
                   .kind = EVENT_CLOSED, .proc = pipe->client, .pipe = pipe, .to_client = true});
        serve_end(proc, pipe);
    }
    if (proc->link) {
        sim_at(
            world, sim_random(world, 30),
            (struct event){.kind = EVENT_CLOSED, .proc = proc->link->server, .pipe = proc->link});
        pipe_close_client(proc->link);
    }
    proc->server = server_free(proc->server);
    if (world->shards[proc->number] == proc)
        world->shards[proc->number] = NULL;
}

/* It leaves of its own: for good, or to be started again. */
static void shard_leave(struct proc *proc) {
    struct world *world = proc->world;
    struct error finish = proc->server->finish;
    uint32_t number = proc->number;
    sim_trace(world, "shard %u ends: %s", number, finish.code ? finish.text : "done");
    bool disk_full = finish.code == ERR_IO && proc->server->leaving;
    if (finish.code && finish.code != ERR_INTERRUPTED && !disk_full)
        sim_fail(world, "shard %u gave up: %s", number, error_text(&finish));
    world->places[number].over = finish.code == 0;
    proc_kill(world, proc);
    if (finish.code) {
        world->starting_shard[number] = true;
        sim_at(world, 50 + sim_random(world, 300),
               (struct event){.kind = EVENT_START, .number = number});
    }
}

/* Somebody was counted as lost: bsp went on without him. */
static void notice_lost(struct proc *proc) {
    Graphps__Status status;
    coordinator_status(proc->server->coordinator, proc->world->now_ms, &status);
    for (size_t i = 0; i < status.n_workers; i++)
        if (strcmp(status.workers[i]->state, "lost") == 0)
            proc->world->exact = false;
    coordinator_status_done(&status);
}

void shard_tick(struct proc *proc) {
    struct world *world = proc->world;
    if (proc->ending_ms && world->now_ms >= proc->ending_ms) {
        shard_leave(proc);
        return;
    }
    uint64_t next_ms = server_tick(proc->server, world->now_ms);
    if (proc->server->coordinator && world->exact)
        notice_lost(proc);
    if (proc->server->aggregator)
        sim_at(world, sim_random(world, 10), (struct event){.kind = EVENT_AGGREGATE, .proc = proc});
    if (world->now_ms - proc->reported_ms >= 200)
        shard_report(proc);
    if (!proc->ending_ms && atomic_load(&proc->server->state) == SERVER_FINISHED) {
        shard_report(proc);
        proc->ending_ms = world->now_ms + 100;
    }
    uint64_t wait_ms = next_ms - world->now_ms, most_ms = 5 + sim_random(world, 25);
    sim_at(world, wait_ms < most_ms ? wait_ms : most_ms,
           (struct event){.kind = EVENT_TICK, .proc = proc});
}

void shard_frame(struct pipe *pipe, const struct frame_in *frame) {
    struct proc *proc = pipe->server;
    struct world *world = proc->world;
    session_frame(pipe->session, frame, world->now_ms, world->now_ms);
    if (frame->type == FRAME_PUSH)
        sim_at(world, sim_random(world, sim_chance(world, 50) ? 60 : 6),
               (struct event){.kind = EVENT_AGGREGATE, .proc = proc});
}

void shard_closed(struct pipe *pipe) {
    if (pipe->server_open)
        serve_end(pipe->server, pipe);
}

void shard_aggregate(struct proc *proc) {
    struct world *world = proc->world;
    if (!proc->server->aggregator)
        return;
    for (uint64_t turns = 1 + sim_random(world, 8); turns > 0; turns--)
        if (!aggregator_run(proc->server->aggregator, world->now_ms))
            return;
}

void shard_work(struct proc *proc) {
    struct world *world = proc->world;
    proc->work_wanted = proc->crash_after_write = false;
    server_work(proc->server, world->now_ms);
    notice_restored(proc);
    if (proc->crash_after_write) {
        sim_trace(world, "shard %u crashes while it writes", proc->number);
        world->exact = false;
        world->crashes++;
        uint32_t number = proc->number;
        proc_kill(world, proc);
        world->starting_shard[number] = true;
        sim_at(world, 20 + sim_random(world, 400),
               (struct event){.kind = EVENT_START, .number = number});
    }
}

void shard_report(struct proc *proc) {
    if (proc->number == 0 || !proc->link)
        return;
    proc->reported_ms = proc->world->now_ms;
    pipe_send(proc->link, false,
              server_report(proc->server, ++proc->report_id, proc->world->now_ms));
}

void shard_link_frame(struct proc *proc, const struct frame_in *frame) {
    struct error err;
    ProtobufCMessage *message = NULL;
    if (wire_unpack(frame, &message, &err) < 0)
        sim_fail(proc->world, "shard %u cannot read an order: %s", proc->number, error_text(&err));
    if (frame->type == FRAME_PEER_ORDER)
        server_ordered(proc->server, (const Graphps__PeerOrder *)message, proc->world->now_ms);
    else if (frame->type != FRAME_ERROR || !((const Graphps__Error *)message)->retryable)
        sim_fail(proc->world, "shard %u is refused by shard 0: %s", proc->number,
                 frame->type == FRAME_ERROR ? ((const Graphps__Error *)message)->text : "?");
    wire_free(message);
}
