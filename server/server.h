/* struct server: one shard's whole state, and the seam to the world. The core (session, ledger,
 * block, aggregator, coordinator, server.c) is handed frames and time and hands back frames and
 * writes; threads, sockets and disks are a thin shell around it (main.c, io.c), or a simulation.
 *
 * Order of locks: admission, coordinator, ledger (seats), block, queue (common/lock.h). */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "common/config.h"
#include "proto/layout.h"
#include "proto/wire.h"
#include "server/aggregator.h"
#include "server/checkpoint.h"
#include "server/coordinator.h"
#include "server/schedule.h"
#include "server/table.h"

/* The seam. conn is an opaque handle that can be referenced. All may be called from any thread. */
struct server_ops {
    void (*send)(void *ctx, void *conn, struct frame_out *frame); /* takes the frame */
    void (*ref)(void *ctx, void *conn);
    void (*unref)(void *ctx, void *conn);
    void (*work)(void *ctx); /* server_work should be called soon, on a thread that may block */
    /* Shards k > 0: server_report should be sent soon, before the next one is due; may be NULL. */
    void (*report)(void *ctx);
    /* Monotonic ns, for latency metrics alone; NULL: none are recorded. */
    uint64_t (*now_ns)(void *ctx);
    /* Runs work(argument), which takes no lock for long, with little of a busy processor, and
     * returns what it returns; NULL: work is called as it is. */
    int (*quietly)(void *ctx, int (*work)(void *argument), void *argument);
    uint32_t inline_floats; /* aggregator.h */
};

enum server_state {
    SERVER_STARTING,  /* waits to be told which generation to restore */
    SERVER_RESTORING, /* loading it */
    SERVER_WAITING,   /* fresh: no worker has declared the layout yet */
    SERVER_BUILDING,  /* one has, and the first weights of a large model are being made */
    SERVER_SERVING,
    SERVER_FINISHED, /* everything is written: the process may leave */
};

/* Who holds a rank on this shard. */
struct seat {
    struct ledger_entry ledger;
    void *conn; /* a reference, NULL when nobody is connected */
};

struct server {
    /* set at start, never changed */
    const struct config *config;
    uint32_t shard, shards;
    uint64_t incarnation;
    char address[300], http[300];
    const struct server_ops *ops;
    void *ops_ctx;
    struct checkpoint_store store;
    struct block_rule rule;
    struct optimizer optimizer;
    struct schedule schedule; /* in it what has been learnt of the workers: atomics */
    struct roster roster;
    struct coordinator *coordinator; /* shard 0, else NULL */

    /* Readers: whoever admits a push or reads layout, blocks, aggregator. Writer: the checkpoint's
     * cut and the one-time set-up of layout and blocks. LOCK_ADMISSION. */
    pthread_rwlock_t admission;
    _Atomic int state; /* enum server_state; written under admission (writing) */
    struct layout *layout;
    struct layout *declared; /* in SERVER_BUILDING: what will be the layout; else NULL */
    uint64_t seed;
    char snapshot_digest[64];
    struct block *blocks; /* [block_count + stripe_count]: of tensors, then table by table */
    size_t block_count, stripe_count;
    struct table **tables; /* [table_count] */
    size_t table_count;
    _Atomic uint64_t evicted_clock; /* rows last touched before it were let go */
    struct aggregator_ops aggregator_ops;
    struct aggregator *aggregator;
    struct lock seats_lock; /* LOCK_LEDGER; guards seats */
    struct seat *seats;     /* [workers.count] */

    struct lock orders_lock;     /* LOCK_ORDERS; guards the group below */
    Graphps__PeerOrder order;    /* the newest one; roster and roster_from are owned */
    _Atomic uint64_t order_done; /* its roster and best are carried out */
    uint64_t reported_ms;        /* shard 0: when its own report last had a status */
    uint64_t report_id;          /* shard 0: of its own reports */
    uint64_t *generations;       /* on disk, ascending; looked at once, at the start */
    size_t generation_count;
    uint64_t generation; /* newest written or restored */
    uint64_t generation_failed;
    uint64_t run;                   /* 0 until it is restored or told to start fresh */
    struct buf **best, **candidate; /* [block_count] or NULL */
    uint32_t best_epoch, candidate_epoch;
    bool leaving;
    uint64_t leave_generation; /* a generation above this is the last one */
    bool work_running, finished;
    struct error finish; /* why it is FINISHED; code 0: the job is done */

    /* shard 0: there is something to report to its own coordinator; when to do so without that
     * (server_tick's alone) */
    atomic_bool news;
    uint64_t self_report_ms;

    atomic_bool abandon; /* server_abandon was called */

    /* counts for status */
    _Atomic uint64_t pushes_repeated;
    atomic_uint connections;
};

/* job_dir is taken from the config; store: where checkpoints live. */
int server_new(const struct config *config, uint32_t shard, uint64_t incarnation,
               const char *address, const struct server_ops *ops, void *ops_ctx,
               const struct checkpoint_store *store, struct server **ret, struct error *reterr);
struct server *server_free(struct server *server);

/* Every few ms: aggregator_tick, coordinator_tick; shard 0 also reports to and orders itself.
 * Returns when it wants to be called again (absolute ms). The process leaves when server->state is
 * SERVER_FINISHED, shards k > 0 after a last report; its exit code is that of server->finish. */
uint64_t server_tick(struct server *server, uint64_t now_ms);
/* Slow work that is due: restore, checkpoint (cut, encode, write, prune). May block on the disk. */
void server_work(struct server *server, uint64_t now_ms);
/* Shards k > 0: the report to send to shard 0 now and then (every 200 ms and on change), and its
 * answer. Packed frames. */
struct frame_out *server_report(struct server *server, uint64_t id, uint64_t now_ms);
void server_ordered(struct server *server, const Graphps__PeerOrder *order, uint64_t now_ms);
/* SIGTERM: ask for a checkpoint and leave when it is written. Shard 0: interrupts the run. */
void server_leave(struct server *server, uint64_t now_ms);
/* No checkpoint is waited for any longer: one that is being written stops soon and leaves nothing
 * behind. From any thread. */
void server_abandon(struct server *server);
bool server_ready(struct server *server, char *why, size_t why_bytes);
void server_status(struct server *server, Graphps__ShardStatus *ret); /* strings borrowed */
json_t *server_stats_json(struct server *server, uint64_t now_ms);

/* For sessions. */
void server_send(struct server *server, void *conn, enum frame_type type,
                 const ProtobufCMessage *message);
void server_send_error(struct server *server, void *conn, uint64_t id, int code, const char *text);
/* The first worker's layout on a fresh shard, or a check against the one there is. ERR_WRONG_LAYOUT
 * names the first difference. */
int server_declare_layout(struct server *server, const Graphps__Hello *hello, struct error *reterr);
/* Shard 0: reports to its own coordinator and carries out what it orders, while there is news. */
void server_self_report(struct server *server, uint64_t now_ms);
/* All blocks of a push are applied: marks it and acknowledges. The aggregator's callback. */
void server_applied(void *server, const struct push *push);

/* Between server*.c. */
const char *server_state_name(int state);
bool server_work_due_locked(struct server *server); /* orders_lock is held */
void server_set_state(struct server *server, enum server_state state);
void server_finish(struct server *server, int code, const char *text);
/* Rows that servers.evict_after is about: are there enough of them (admission is held for reading)?
 * Slow work: lets go of them. */
bool server_evict_due(const struct server *server);
void server_evict(struct server *server);
/* There is something to report, something to do. */
void server_news(struct server *server);
/* What is made of a layout: aside, while the shard talks on, then put in place at once. */
struct server_built {
    struct layout *layout;
    uint64_t seed;
    struct block *blocks;
    size_t block_count, stripe_count;
    struct table **tables;
};
/* Layout (taken over), blocks and tables; weights from the checkpoint, or initial ones (NULL).
 * Takes as long as writing all of that. Uses what of the server never changes. */
void server_build(struct server *server, struct layout *layout, uint64_t seed,
                  const struct checkpoint *checkpoint, struct server_built *ret);
/* These are the server's now, with an aggregator. Admission is held for writing. */
void server_install_locked(struct server *server, const struct server_built *built);
/* Slow work of SERVER_BUILDING, after which the shard serves. */
void server_build_declared(struct server *server);
