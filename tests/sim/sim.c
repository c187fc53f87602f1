/* Time, processes and the network of the simulated world. */
#include "tests/sim/sim.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRACE_LINES 250
#define TRACE_BYTES 200

/* --- chance --- */

uint64_t sim_random(struct world *world, uint64_t below) {
    return rng_below(rng_at(world->key, world->draws++), below);
}

bool sim_chance(struct world *world, unsigned per_mille) {
    return sim_random(world, 1000) < per_mille;
}

/* --- the trace --- */

static char trace_ring[TRACE_LINES][TRACE_BYTES];
static size_t trace_count;

void sim_trace(struct world *world, const char *format, ...) {
    if (!world->trace)
        return;
    char *line = trace_ring[trace_count++ % TRACE_LINES];
    int n = snprintf(line, TRACE_BYTES, "%7" PRIu64 "  ", world->now_ms);
    va_list args;
    va_start(args, format);
    vsnprintf(line + n, TRACE_BYTES - (size_t)n, format, args);
    va_end(args);
}

void sim_fail(struct world *world, const char *format, ...) {
    size_t first = trace_count > TRACE_LINES ? trace_count - TRACE_LINES : 0;
    for (size_t i = first; i < trace_count; i++)
        fprintf(stderr, "%s\n", trace_ring[i % TRACE_LINES]);
    fprintf(stderr, "seed %" PRIu64 " at %" PRIu64 " ms: ", world->seed, world->now_ms);
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n(`test_sim %" PRIu64 "` runs it again and shows the trace)\n", world->seed);
    exit(1);
}

/* --- the queue --- */

static bool event_before(const struct event *a, const struct event *b) {
    return a->at_ms != b->at_ms ? a->at_ms < b->at_ms : a->order < b->order;
}

void sim_at(struct world *world, uint64_t delay_ms, struct event event) {
    event.at_ms = world->now_ms + delay_ms;
    event.order = ++world->last_order;
    if (event.pipe)
        pipe_ref(event.pipe);
    if (world->event_count == world->event_cap) {
        size_t cap = world->event_cap ? world->event_cap * 2 : 256;
        world->events =
            mem_resize(world->events, world->event_cap * sizeof event, cap * sizeof event);
        world->event_cap = cap;
    }
    size_t i = world->event_count++;
    while (i > 0 && event_before(&event, &world->events[(i - 1) / 2])) {
        world->events[i] = world->events[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    world->events[i] = event;
}

static struct event event_pop(struct world *world) {
    struct event first = world->events[0], last = world->events[--world->event_count];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= world->event_count)
            break;
        if (child + 1 < world->event_count &&
            event_before(&world->events[child + 1], &world->events[child]))
            child++;
        if (event_before(&last, &world->events[child]))
            break;
        world->events[i] = world->events[child];
        i = child;
    }
    world->events[i] = last;
    return first;
}

/* --- processes --- */

struct proc *proc_new(struct world *world, bool is_worker, uint32_t number) {
    if (world->proc_count == SIM_PROCS_MAX)
        sim_fail(world, "%d processes were started", SIM_PROCS_MAX);
    struct proc *proc = mem_alloc(sizeof *proc);
    world->procs[world->proc_count++] = proc;
    proc->world = world;
    proc->is_worker = is_worker;
    proc->number = number;
    proc->incarnation = rng_mix(world->key + world->proc_count) | 1;
    proc->alive = true;
    sim_trace(world, "%s %u starts (life %zu)", is_worker ? "worker" : "shard", number,
              world->proc_count);
    if (is_worker)
        rank_begin(proc);
    else
        shard_begin(proc);
    sim_at(world, 1, (struct event){.kind = EVENT_TICK, .proc = proc});
    return proc;
}

void proc_kill(struct world *world, struct proc *proc) {
    proc->alive = false;
    if (proc->is_worker)
        rank_end(proc);
    else
        shard_end(proc);
}

/* --- connections --- */

void pipe_ref(struct pipe *pipe) {
    pipe->refs++;
}

void pipe_unref(struct pipe *pipe) {
    if (--pipe->refs == 0)
        mem_free(pipe);
}

void pipe_start(struct proc *client, uint32_t shard) {
    struct world *world = client->world;
    struct proc *server = world->shards[shard];
    if (!server || !server->alive || sim_chance(world, 50)) { /* refused, or lost */
        sim_at(world, 20 + sim_random(world, 80),
               (struct event){.kind = EVENT_CONNECT, .proc = client, .number = shard});
        return;
    }
    struct pipe *pipe = mem_alloc(sizeof *pipe);
    pipe->refs = 2; /* its ends */
    pipe->world = world;
    pipe->client = client;
    pipe->server = server;
    pipe->shard = shard;
    pipe->client_open = pipe->server_open = true;
    pipe->session = session_new(server->server, pipe, client->is_worker ? "worker" : "shard");
    if (server->served_count == ARRAY_LEN(server->served))
        sim_fail(world, "too many connections");
    server->served[server->served_count++] = pipe;
    if (client->is_worker)
        client->pipes[shard] = pipe;
    else
        client->link = pipe;
    sim_at(world, 1 + sim_random(world, 10),
           (struct event){.kind = EVENT_OPENED, .proc = client, .pipe = pipe});
}

void pipe_cut(struct pipe *pipe) {
    struct world *world = pipe->world;
    for (int end = 0; end < 2; end++)
        sim_at(world, sim_random(world, 30),
               (struct event){.kind = EVENT_CLOSED,
                              .proc = end ? pipe->client : pipe->server,
                              .pipe = pipe,
                              .to_client = end});
}

void pipe_close_client(struct pipe *pipe) {
    struct proc *client = pipe->client;
    if (!pipe->client_open)
        return;
    pipe->client_open = false;
    uint32_t shard = pipe->shard;
    if (client->is_worker)
        client->pipes[shard] = NULL;
    else
        client->link = NULL;
    if (client->alive) {
        if (client->is_worker)
            rank_closed(client, shard);
        sim_at(client->world, 10 + sim_random(client->world, 60),
               (struct event){.kind = EVENT_CONNECT, .proc = client, .number = shard});
    }
    pipe_unref(pipe);
}

void pipe_send(struct pipe *pipe, bool to_client, struct frame_out *frame) {
    struct world *world = pipe->world;
    if (pipe->client_open && pipe->server_open && !pipe->server->server_dying) {
        struct buf *bytes = frame_out_flatten(frame);
        unsigned copies = sim_chance(world, 20) ? 2 : sim_chance(world, 10) ? 0 : 1;
        for (unsigned i = 0; i < copies; i++) {
            uint64_t delay_ms = 1 + sim_random(world, 8);
            if (sim_chance(world, 20))
                delay_ms += sim_random(world, 150);
            sim_at(world, delay_ms,
                   (struct event){.kind = EVENT_FRAME,
                                  .proc = to_client ? pipe->client : pipe->server,
                                  .pipe = pipe,
                                  .to_client = to_client,
                                  .bytes = buf_ref(bytes)});
        }
        buf_unref(bytes);
    }
    frame_out_free(frame);
}

static void frame_arrives(struct world *world, struct event *event) {
    struct pipe *pipe = event->pipe;
    if (!pipe->client_open || !pipe->server_open)
        return;
    struct frame_in frame;
    size_t used;
    struct error err;
    if (frame_in_parse(event->bytes->data, event->bytes->len, 1 << 20, &frame, &used, &err) < 0)
        sim_fail(world, "a frame that cannot be read: %s", error_text(&err));
    if (!event->to_client)
        shard_frame(pipe, &frame);
    else if (pipe->client->is_worker)
        rank_frame(pipe, &frame);
    else
        shard_link_frame(pipe->client, &frame);
    frame_in_done(&frame);
}

/* --- one step --- */

static void event_happen(struct world *world, struct event *event) {
    struct proc *proc = event->proc;
    switch (event->kind) {
    case EVENT_TICK:
        if (proc->is_worker)
            rank_tick(proc);
        else
            shard_tick(proc);
        break;
    case EVENT_FRAME:
        frame_arrives(world, event);
        break;
    case EVENT_OPENED:
        if (event->pipe->client_open && proc->is_worker)
            rank_opened(proc, event->pipe->shard);
        else if (event->pipe->client_open)
            shard_report(proc);
        break;
    case EVENT_CLOSED:
        if (event->to_client)
            pipe_close_client(event->pipe);
        else
            shard_closed(event->pipe);
        break;
    case EVENT_CONNECT:
        if (proc->is_worker ? !proc->pipes[event->number] : !proc->link)
            pipe_start(proc, event->number);
        break;
    case EVENT_AGGREGATE:
        shard_aggregate(proc);
        break;
    case EVENT_WORK:
        shard_work(proc);
        break;
    case EVENT_REPORT:
        shard_report(proc);
        break;
    case EVENT_COMPUTED:
        rank_computed(proc);
        break;
    case EVENT_START:
        if (event->to_client) {
            world->starting_worker[event->number] = false;
            if (!world->rank_done[event->number])
                world->workers[event->number] = proc_new(world, true, event->number);
        } else {
            world->starting_shard[event->number] = false;
            world->shards[event->number] = proc_new(world, false, event->number);
        }
        break;
    case EVENT_ACCIDENT:
        accident_happen(world);
        break;
    }
}

bool sim_step(struct world *world) {
    if (world->event_count == 0)
        return false;
    struct event event = event_pop(world);
    world->now_ms = event.at_ms;
    /* What is meant for the dead is lost, except that a living end learns of it. */
    bool happens = !event.proc || event.proc->alive;
    if (happens && event.proc && event.proc->paused_ms > world->now_ms) {
        uint64_t wait_ms = event.proc->paused_ms - world->now_ms;
        sim_at(world, wait_ms, event);
        happens = false;
        event.bytes = NULL; /* goes with it */
    }
    if (happens)
        event_happen(world, &event);
    buf_unref(event.bytes);
    if (event.pipe)
        pipe_unref(event.pipe);
    return true;
}

/* --- the world --- */

static struct config *config_make(struct world *world) {
    struct config *config = config_new();
    mem_free(config->job_name);
    config->job_name = mem_strdup("sim");
    config->workers_count = SIM_WORKERS;
    config->servers_count = SIM_SHARDS;
    config->servers_block_bytes = 64;
    config->consistency_mode = (int)(world->seed % 3);
    config->consistency_staleness = (int64_t)sim_random(world, 3);
    config->optimizer_kind = OPTIMIZER_SGD;
    config->optimizer_lr = SIM_LR;
    config->optimizer_schedule = (int)(world->seed / 6 % 3);
    config->optimizer_lr_min = SIM_LR / 8;
    config->optimizer_step_every = 1;
    config->optimizer_step_gamma = 0.5;
    config->optimizer_warmup = world->seed / 18 % 2 ? 0.75 : 0;
    config->workers_lease_ms = world->harsh ? 600 : 1500;
    config->workers_join_timeout_ms = 3000;
    config->net_give_up_s = 60;
    config->checkpoint_every_s = 1;
    config->checkpoint_keep = 2;
    config->train_epochs = 3 + (int64_t)sim_random(world, 3);
    config->train_patience = sim_chance(world, 250) ? 1 : 0;
    config->aggregation_max_pushes = (int64_t)sim_random(world, 3);
    return config;
}

static struct layout *layout_make(struct world *world) {
    struct tensor_spec tensors[] = {
        {.name = "a.weight", .rows = 5, .cols = 16, .init = TENSOR_GLOROT_UNIFORM},
        {.name = "a.bias", .rows = 1, .cols = 7, .init = TENSOR_ZEROS},
        {.name = "b.weight", .rows = 3, .cols = 11, .init = TENSOR_GLOROT_UNIFORM},
    };
    struct layout *layout;
    struct error err;
    if (layout_new(tensors, ARRAY_LEN(tensors), 64, SIM_SHARDS, &layout, &err) < 0)
        sim_fail(world, "%s", error_text(&err));
    return layout;
}

struct world *world_new(uint64_t seed, bool trace) {
    struct world *world = mem_alloc(sizeof *world);
    world->seed = seed;
    world->key = rng_key(seed, 7);
    world->now_ms = 1000;
    world->trace = trace;
    world->exact = true;
    world->harsh = seed / 3 % 2 == 0;
    world->config = config_make(world);
    world->layout = layout_make(world);
    world->steps_per_epoch = 2 + (uint32_t)sim_random(world, 4);
    trace_count = 0;
    return world;
}

struct world *world_free(struct world *world) {
    for (size_t i = 0; i < world->proc_count; i++)
        if (world->procs[i]->alive)
            proc_kill(world, world->procs[i]);
    while (world->event_count > 0) { /* they hold the last references */
        struct event event = event_pop(world);
        buf_unref(event.bytes);
        if (event.pipe)
            pipe_unref(event.pipe);
    }
    for (size_t i = 0; i < SIM_SHARDS; i++)
        place_done(&world->places[i]);
    for (size_t i = 0; i < world->proc_count; i++)
        mem_free(world->procs[i]);
    mem_free(world->sent);
    mem_free(world->candidate_weights);
    layout_free(world->layout);
    config_free(world->config);
    mem_free(world->events);
    mem_free(world);
    return NULL;
}

ProtobufCMessage *sim_message(const struct frame_out *frame) {
    struct buf *flat = frame_out_flatten(frame);
    struct frame_in view;
    struct error err;
    size_t used;
    ProtobufCMessage *message = NULL;
    if (frame_in_parse(flat->data, flat->len, 1 << 20, &view, &used, &err) < 0 ||
        wire_unpack(&view, &message, &err) < 0)
        abort(); /* a frame of our own */
    frame_in_done(&view);
    buf_unref(flat);
    return message;
}
