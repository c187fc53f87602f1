/* The coordinator's inside, shared by its files and by nobody else:
 *   coordinator.c          life, lock, outgoing frames, the phases of a job, time
 *   coordinator_workers.c  ranks: greeting, leases, clocks, gates, the roster
 *   coordinator_epochs.c   reports of an epoch, best, early stop
 *   coordinator_peers.c    shards: restore, generations, orders
 *   coordinator_status.c   what people are told
 *   coordinator_save.c     what a checkpoint keeps
 * Every function whose first argument is struct coordinator, but the public ones, wants the lock
 * held. Frames are queued under it and sent when it is released. */
#pragma once

#include "common/list.h"
#include "common/lock.h"
#include "proto/score.h"
#include "server/coordinator.h"
#include "server/server.h"

enum worker_state {
    WORKER_EXPECTED, /* counts, though it has not been heard of in this life */
    WORKER_LIVE,
    WORKER_LOST,
    WORKER_DONE,
};

/* A request whose answer is held back. */
struct held {
    void *conn; /* a reference; NULL: none is held */
    uint64_t id, number;
    uint64_t since_ms;
};

struct traffic {
    uint64_t bytes_pushed, bytes_pulled, pushes;
};

struct worker {
    enum worker_state state;
    uint64_t attempt, incarnation; /* 0: nobody yet */
    uint64_t clock;                /* finished steps */
    uint64_t from;                 /* the first clock it takes part in */
    uint64_t heard_ms;
    uint32_t epoch_from; /* the first epoch it reports */
    uint32_t evaled;     /* the newest it has reported */
    uint32_t steps_per_epoch;
    struct held gate, eval, bye;
    struct traffic traffic, earlier; /* of its present process, of all before it */
    uint64_t rss_bytes, rss_peak_bytes;
    uint64_t owned_nodes, train_nodes;
    char http[300];
};

/* An epoch of which reports came and not all are in. */
struct epoch {
    struct list node;
    uint32_t epoch;
    Graphps__Eval sum;            /* proto/score.h */
    Graphps__EpochStatus trained; /* its training numbers; a candidate's: when it was chosen */
    uint32_t uncounted;           /* coordinator.uncounted then */
    bool reported[];              /* [workers] */
};

struct peer {
    bool known; /* it has reported in this life of ours */
    bool restored, leaving;
    bool leave_ordered; /* a generation was ordered since it began to leave */
    uint64_t incarnation, report_id, run;
    uint64_t order, generation, checkpoint_failed, ordered;
    uint32_t best_epoch, candidate_epoch;
    uint64_t *generations;
    size_t generation_count;
    uint64_t heard_ms;
    void *conn;                  /* a reference, for orders unasked; NULL for ourselves */
    Graphps__ShardStatus status; /* strings are the arrays below */
    char state[16], address[300], http[300];
};

enum job_phase {
    JOB_STARTING, /* ranks are expected that have not come */
    JOB_TRAINING,
    JOB_DRAINING, /* stop is told, goodbyes are awaited */
    JOB_CLOSING,  /* the last generation is being written */
    JOB_LEAVING,  /* finish is ordered */
    JOB_OVER,     /* every shard knows, or had time to */
};

struct coordinator {
    /* set at start, never changed */
    const struct config *config;
    struct server *server;
    size_t worker_count, shard_count;
    bool bsp, ssp;

    struct lock lock; /* LOCK_COORDINATOR; guards all below */
    struct list outgoing;

    enum job_phase phase;
    uint64_t started_ms, ticked_ms; /* 0: not yet */
    uint64_t newest_ms;             /* coordinator_enter */
    uint64_t phase_ms;              /* since when in this phase */
    uint64_t earlier_ms;            /* how long the run had gone on in lives before */
    char stop_reason[64];
    int finish_code; /* ERR_... that the processes end with, 0 */
    uint64_t warned_ms, waiting_since_ms;

    struct worker *workers; /* [worker_count] */
    uint64_t joining_ms;    /* the join time-out runs from here; 0: not yet */
    uint64_t nobody_ms;     /* since when no rank is live */
    uint64_t gate_end;      /* clocks below were let through by a gate */
    uint64_t *roster;       /* [worker_count]: from, ROSTER_ABSENT; as ordered */
    uint64_t roster_epoch;
    uint64_t roster_order; /* the order that carried this roster first */

    struct list epochs; /* struct epoch, ascending */
    uint32_t epoch_complete;
    uint32_t classes; /* as the reports say; 0: none has, in this life */
    Graphps__Task task;
    Graphps__EpochStatus last, best; /* epoch 0: none */
    uint64_t best_valid_count;       /* validation nodes behind best */
    /* Patience: epochs from the best to the newest evaluated on the same nodes. Those that fewer
     * ranks reported than were behind the best are no sign that it gets no better. */
    uint32_t idle;
    uint32_t uncounted, best_uncounted; /* such epochs so far, and when best was found */
    /* async, ssp: weights that all shards keep while the ranks evaluate them, each when it comes to
     * the end of an epoch; nobody waits for that. The next one is chosen when this is decided. */
    struct epoch *candidate;  /* being kept or evaluated, or NULL */
    uint32_t candidate_epoch; /* the newest one ordered */
    bool candidate_open;      /* all shards keep it */

    struct peer *peers; /* [shard_count] */
    uint64_t run;       /* 0: not known yet */
    bool decided;       /* what shard 0 restores */
    uint64_t restore;
    uint64_t order; /* number of the present order */
    bool order_news;
    uint64_t generation;      /* ordered, 0: none */
    uint64_t generation_seen; /* highest number anybody has used */
    uint64_t generation_ms;   /* when it was ordered */
    uint64_t complete;
    bool writing;        /* `generation` is neither complete nor given up */
    bool generation_due; /* bsp: to be ordered when all stand at a gate */
    unsigned final_tries;
    json_t *saved; /* the state as it was when `generation` was ordered */
    uint64_t finish_order;
};

/* coordinator.c */
void coordinator_lock(struct coordinator *c);
/* The same where time comes in. Callers on several threads looked at the clock before they had the
 * lock: one that comes later with an older time gets the newest, so that for us none passes
 * backwards and nobody is found silent since a moment to come. */
void coordinator_enter(struct coordinator *c, uint64_t *now_ms);
/* Sends what was queued. */
void coordinator_unlock(struct coordinator *c);
void coordinator_send(struct coordinator *c, void *conn, enum frame_type type,
                      const ProtobufCMessage *message);
/* Drops a reference after the lock is released. */
void coordinator_drop(struct coordinator *c, void *conn);
void coordinator_stop(struct coordinator *c, const char *reason, int finish_code, uint64_t now_ms);
/* Whatever just changed: carries it through to roster, epochs, gates, orders and phases. Every
 * handler ends with it. */
void coordinator_advance(struct coordinator *c, uint64_t now_ms);

/* coordinator_workers.c */
bool worker_counts(const struct worker *worker);
/* Another process has the rank: what those before it sent is added up. */
void worker_turn(struct worker *worker);
/* Finished steps as far as bounds are concerned. */
uint64_t worker_clock(const struct worker *worker);
void worker_hold(struct coordinator *c, struct held *held, void *conn, uint64_t id, uint64_t number,
                 uint64_t now_ms);
void worker_release(struct coordinator *c, struct held *held);
/* The rank a message is of. ERR_RANGE, ERR_FENCED, ERR_NOT_ATTACHED. */
int worker_heard(struct coordinator *c, uint32_t rank, uint64_t incarnation, uint64_t now_ms,
                 struct worker **ret, struct error *reterr);
bool worker_must_stop(const struct coordinator *c, const struct worker *worker);
/* Lowest and highest clock of those that count; 0 and 0 for nobody. */
void workers_span(const struct coordinator *c, uint64_t *ret_slowest, uint64_t *ret_fastest);
size_t workers_in(const struct coordinator *c, enum worker_state state);
void workers_tick(struct coordinator *c, uint64_t now_ms);
void workers_update_roster(struct coordinator *c);
void workers_open_gates(struct coordinator *c, uint64_t now_ms);
/* The last ones stay until the end is on disk: a shard 0 that dies before finds them again. */
void workers_release_byes(struct coordinator *c);

/* coordinator_epochs.c */
void epochs_advance(struct coordinator *c, uint64_t now_ms);
void epochs_release(struct coordinator *c, uint64_t now_ms);
void epochs_free(struct coordinator *c);
/* The score that says which epoch is the best. */
enum score epochs_metric(const struct coordinator *c);
/* Is the last set of weights that is to be evaluated evaluated? */
bool epochs_judged(const struct coordinator *c);
size_t epochs_owing(const struct coordinator *c, uint32_t *ret_epoch);
/* Are all reports of the epochs that end at or before this clock in, and the best kept? */
bool epochs_settled(const struct coordinator *c, uint64_t clock);

/* coordinator_peers.c */
void peers_order_changed(struct coordinator *c);
void peers_fill_order(const struct coordinator *c, size_t shard, Graphps__PeerOrder *order);
/* Sends the order to all shards that are connected, if it changed. */
void peers_send_orders(struct coordinator *c);
/* Have all shards carried out the order of that number? */
bool peers_done(const struct coordinator *c, uint64_t order);
bool peers_hold_best(const struct coordinator *c);
bool peers_hold_candidate(const struct coordinator *c);
bool peers_restored(const struct coordinator *c);
/* Orders a new generation, unless one is being written. */
bool peers_begin_generation(struct coordinator *c, uint64_t now_ms);
void peers_advance(struct coordinator *c, uint64_t now_ms);
void peers_tick(struct coordinator *c, uint64_t now_ms);

/* coordinator_status.c: whom everybody waits for, "" for nobody. */
void coordinator_culprit(const struct coordinator *c, uint64_t now_ms, char *text, size_t bytes);
const char *worker_state_name(enum worker_state state);
/* How long the run has gone on, in all its lives. */
uint64_t coordinator_run_ms(const struct coordinator *c, uint64_t now_ms);
/* "3.2 s" */
const char *coordinator_seconds(uint64_t ms, char text[24]);

/* coordinator_save.c */
json_t *coordinator_snapshot(const struct coordinator *c);
