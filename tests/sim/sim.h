/* A small world with its own time, network, disks and crashes, in which the real server core and
 * the real outbox run. Everything that happens follows from the seed.
 *
 *   sim.c          time: the queue of events, processes, connections, frames
 *   sim_shard.c    a server process: struct server, its sessions, its disk
 *   sim_worker.c   a worker process: the outbox under a trainer without a model
 *   sim_check.c    what must hold: each merged batch is watched on its way into the weights
 *   test_sim.c     seeds, accidents, the end */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/config.h"
#include "common/rng.h"
#include "server/server.h"
#include "server/session.h"
#include "worker/outbox.h"

#define SIM_WORKERS 3
#define SIM_SHARDS 2
#define SIM_BLOCKS_MAX 32
#define SIM_LR 0.0625f
#define SIM_PROCS_MAX 96 /* of all lives of all processes */

struct world;

enum event_kind {
    EVENT_TICK,      /* of a process */
    EVENT_FRAME,     /* arrives at one end of a connection */
    EVENT_OPENED,    /* a client's connection is there */
    EVENT_CLOSED,    /* an end learns that its connection is gone */
    EVENT_CONNECT,   /* a client tries again */
    EVENT_AGGREGATE, /* an aggregator thread of a shard gets its turn */
    EVENT_WORK,      /* the thread for slow work */
    EVENT_REPORT,
    EVENT_COMPUTED, /* a worker's step */
    EVENT_START,    /* a process begins */
    EVENT_ACCIDENT,
};

struct event {
    uint64_t at_ms, order;
    enum event_kind kind;
    struct proc *proc; /* NULL for EVENT_START and EVENT_ACCIDENT */
    struct pipe *pipe; /* a reference, or NULL */
    bool to_client;
    uint32_t number; /* shard for EVENT_CONNECT; place for EVENT_START */
    struct buf *bytes;
};

/* A connection: the server's end is a session, the client's is a worker's outbox or a shard's
 * link. */
struct pipe {
    uint32_t refs;
    struct world *world;
    struct proc *client, *server;
    uint32_t shard; /* it leads to */
    bool client_open, server_open;
    struct session *session;
    uint64_t welcome_life; /* what the client was told: the server's incarnation */
};

enum trainer_state {
    TRAINER_WELCOME,
    TRAINER_GATE,
    TRAINER_WEIGHTS,
    TRAINER_COMPUTE,
    TRAINER_FINISHED,
    TRAINER_EVAL,
    TRAINER_CANDIDATE,  /* async, ssp: the weights kept for evaluation are pulled */
    TRAINER_CANDIDATED, /* their report is under way */
    TRAINER_LAST,
    TRAINER_BYE,
};

/* One life of a process. */
struct proc {
    struct world *world;
    bool is_worker, alive;
    uint32_t number; /* shard or rank */
    uint64_t incarnation;
    uint64_t paused_ms; /* does nothing until then */

    /* a shard */
    struct server *server;
    bool server_dying; /* its memory goes: nothing leaves it any more */
    bool restored;     /* the checker knows what */
    bool crash_after_write, work_wanted;
    uint64_t ending_ms; /* it has finished and leaves then */
    struct pipe *served[64];
    size_t served_count;
    struct pipe *link; /* k > 0: to shard 0 */
    uint64_t report_id, reported_ms;

    /* a worker */
    struct outbox *outbox;
    struct pipe *pipes[SIM_SHARDS];
    uint64_t lives[SIM_SHARDS]; /* of the shard that welcomed it last */
    enum trainer_state state;
    uint64_t clock;
    bool first, leaving;
    uint32_t candidate; /* the epoch whose kept weights it evaluates */
    uint64_t finished;  /* steps known to be finished; their pushes were looked at */
    uint64_t told;      /* start_clock of the last Welcome on its way to it */
    uint64_t told_by;   /* the life of shard 0 that sent it */
    float *weights, *gradient;
};

/* A push, and what of it is in the weights of a shard's present line of life. */
struct applied {
    uint32_t rank;
    uint64_t incarnation, sequence, clock;
    uint32_t merged; /* bits by shard_index */
};
struct lineage {
    size_t count, cap;
    struct applied *items;
};

/* One file. */
struct saved {
    uint64_t generation;
    struct buf *bytes;
    struct lineage lineage;
    float *weights; /* as watched */
    uint64_t clock; /* bsp: of its blocks; UINT64_MAX when they differ */
    struct saved *next;
};

/* A push that a worker has sent. */
struct sent {
    uint32_t shard, rank;
    uint64_t incarnation, sequence, clock;
    uint32_t blocks; /* bits by shard_index */
};

/* What outlives a shard's process: its disk, and the checker's notes on it. */
struct place {
    struct saved *saved;          /* newest first */
    struct lineage lineage, lost; /* lost: was in the weights before a crash, is not now */
    float *weights;               /* [SIM_BLOCKS_MAX * 16] as they must be, by shard_index * 16 */
    bool over;                    /* the process ended because the job is done */
};

struct world {
    uint64_t seed, key, draws;
    uint64_t now_ms, last_order;
    struct event *events; /* a heap */
    size_t event_count, event_cap;
    bool trace;

    struct config *config;
    struct layout *layout;
    uint32_t steps_per_epoch;
    bool harsh; /* single shards crash, workers leave; else only what bsp must not notice */

    struct proc *procs[SIM_PROCS_MAX];
    size_t proc_count;
    struct proc *shards[SIM_SHARDS];   /* the present life, or NULL */
    struct proc *workers[SIM_WORKERS]; /* the newest life, or NULL */
    bool rank_done[SIM_WORKERS];
    bool starting_shard[SIM_SHARDS], starting_worker[SIM_WORKERS];
    struct place places[SIM_SHARDS];
    uint64_t accidents_end_ms;
    bool exact;         /* nothing happened that bsp may notice */
    uint32_t candidate; /* the epoch whose kept weights were seen last, 0: forget */
    float *candidate_weights;
    struct sent *sent;
    size_t sent_count, sent_cap;
    uint64_t acks, repeats, merges, crashes, gates;
};

/* --- sim.c --- */
uint64_t sim_random(struct world *world, uint64_t below);
bool sim_chance(struct world *world, unsigned per_mille);
void sim_at(struct world *world, uint64_t delay_ms, struct event event);
void sim_trace(struct world *world, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Ends the run with the seed, the reason and the last lines of the trace. */
void sim_fail(struct world *world, const char *format, ...)
    __attribute__((format(printf, 2, 3), noreturn));
struct proc *proc_new(struct world *world, bool is_worker, uint32_t number);
/* The process dies: its connections break, its memory goes. */
void proc_kill(struct world *world, struct proc *proc);
/* A client's attempt to connect to a shard. */
void pipe_start(struct proc *client, uint32_t shard);
/* Both ends learn of it, later; what is under way is lost. */
void pipe_cut(struct pipe *pipe);
void pipe_close_client(struct pipe *pipe);
void pipe_ref(struct pipe *pipe);
void pipe_unref(struct pipe *pipe);
/* Puts a frame on its way; takes it. */
void pipe_send(struct pipe *pipe, bool to_client, struct frame_out *frame);
/* Handles the next event; false when there is none. */
bool sim_step(struct world *world);
/* The message of a frame on its way out. wire_free. */
ProtobufCMessage *sim_message(const struct frame_out *frame);
struct world *world_new(uint64_t seed, bool trace);
struct world *world_free(struct world *world);

/* --- sim_shard.c --- */
void shard_begin(struct proc *proc);
void shard_end(struct proc *proc);
void shard_tick(struct proc *proc);
void shard_frame(struct pipe *pipe, const struct frame_in *frame);
void shard_closed(struct pipe *pipe);
void shard_aggregate(struct proc *proc);
void shard_work(struct proc *proc);
void shard_report(struct proc *proc);
void shard_link_frame(struct proc *proc, const struct frame_in *frame);
void place_done(struct place *place);

/* --- sim_worker.c --- */
void rank_begin(struct proc *proc);
void rank_end(struct proc *proc);
void rank_tick(struct proc *proc);
void rank_opened(struct proc *proc, uint32_t shard);
void rank_closed(struct proc *proc, uint32_t shard);
void rank_frame(struct pipe *pipe, const struct frame_in *frame);
void rank_computed(struct proc *proc);
/* The gradient of float i, exact in binary; in bsp it depends on the weights too. */
float sim_gradient(const struct world *world, uint32_t rank, uint64_t clock, uint64_t i,
                   float weight);
double sim_weight(uint32_t rank);

/* --- test_sim.c --- */
void accident_happen(struct world *world);

/* --- sim_check.c --- */
/* The world whose batches are watched; the test sets it before a run. */
void check_watch(struct world *world);
void check_sent(struct pipe *pipe, enum frame_type type, const ProtobufCMessage *message);
void check_push_sent(struct proc *proc, uint32_t shard, const Graphps__Push *push);
void check_saved(struct proc *proc, struct saved *saved);
void check_restored(struct proc *proc);
void lineage_done(struct lineage *lineage);
void check_finished(struct proc *proc);
void check_candidate(struct proc *proc);
void check_end(struct world *world);
