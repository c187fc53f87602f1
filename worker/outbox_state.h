/* The outbox's inside, shared by outbox.c (what the trainer does, what is sent and when),
 * outbox_answer.c (what the shards answer) and outbox_view.c (what can be asked). Nobody else
 * includes it. */
#pragma once

#include "worker/outbox.h"

/* A request that is refused for now, or a greeting that follows a lost one, waits this long. */
#define OUTBOX_PAUSE_MS 50
/* Sequences a shard's ledger can tell apart above the lowest that is not acknowledged. */
#define OUTBOX_WINDOW 64

/* One request: unanswered while open. The id stays the same when it is sent again, so that a late
 * answer to the first sending counts. */
struct request {
    uint64_t id;
    bool open;
    bool sent;         /* at least once */
    uint32_t tries;    /* on this connection */
    uint64_t due_ms;   /* send (again) then */
    uint64_t since_ms; /* first wanted */
    uint64_t sent_ns;  /* first sent, 0 without a clock */
};

/* A push, kept until its step is finished. */
struct parcel {
    struct parcel *next;
    struct request request;
    uint64_t sequence, clock;
    double weight;
    uint32_t chunk;
    uint32_t stripe, stripes, rows; /* of a table; stripes 0: of blocks */
    uint32_t version_count;
    bool counted; /* acknowledged at least once, by any life of the shard */
    struct buf *payload;
    uint64_t versions[]; /* [version_count] */
};

/* Some blocks of a shard that travel in one frame, and the pull of them. */
struct chunk {
    enum codec codec; /* of pushes: statistics are all or nothing, so they travel as they are */
    uint32_t first, count; /* layout->shard_blocks[first .. first + count - 1] */
    struct request pull;
    struct request kept; /* the pull of a candidate */
};

/* Some rows of a shard that travel in one frame: plan->order[first .. first + count - 1]. */
struct row_chunk {
    struct request request;
    uint32_t first, count;
};

struct outbox_shard {
    bool open;        /* there is a connection */
    bool welcomed;    /* on this connection */
    bool known;       /* welcomed at least once */
    uint64_t down_ms; /* since when there is no connection */
    uint64_t heard_ms;
    uint64_t incarnation; /* of the shard, 0: not known */
    struct request hello;
    uint64_t sequence; /* of the last push */
    struct parcel *parcels, **parcels_end;
    struct chunk *chunks;
    uint32_t chunk_count;
    bool pull_again;
    struct row_chunk *row_chunks;
    uint32_t row_chunk_count, row_chunk_capacity;
    uint64_t row_versions[LAYOUT_STRIPES]; /* of the rows held; 0: not known */
    char said[200];                        /* why it put us off, "" when it did not */
};

struct outbox {
    struct outbox_spec spec;
    struct outbox_ops ops;
    void *ctx;
    Graphps__TensorSpec *tensors, **tensor_list;
    Graphps__TableSpec *tables, **table_list;
    struct outbox_shard *shards; /* [layout->shard_count] */
    uint64_t last_id;
    float *weights;     /* [layout->floats] */
    uint64_t *versions; /* [block_count] held; 0: none */
    uint64_t *copied;   /* [block_count] versions of the last outbox_copy */
    bool has_copied;
    bool *held; /* [block_count] at least once */
    size_t held_count;
    float *candidate;         /* [layout->floats], made when first needed */
    uint32_t candidate_epoch; /* the one that was asked for */
    uint32_t candidate_due;
    uint64_t changed;
    float *residual; /* [layout->floats], int8 only */
    /* the rows that were asked for last */
    const struct row_plan *row_plan;
    float *row_out;
    uint32_t rows_candidate;

    uint64_t attempt, start_clock;
    uint64_t next_clock; /* above the last step pushed */
    uint64_t finished;
    bool gated; /* gate is set */
    uint64_t gate;
    bool stop;
    uint32_t evaled;
    bool said_goodbye;
    struct error error;

    /* to shard 0 alone */
    struct request clock, eval, heartbeat, bye;
    uint64_t clock_value;
    Graphps__Eval eval_message; /* owns its tables: score_sum_copy */
    bool bye_done;
    uint32_t beat_every_ms;
    uint64_t heartbeat_ms; /* the next one */

    uint64_t rss_bytes, rss_peak_bytes;
    uint64_t bytes_pushed, bytes_pulled, pushes;
};

/* Opens (again, under a new id) a request that is due at due_ms. */
void outbox_ask(struct outbox *outbox, struct request *request, uint64_t since_ms, uint64_t due_ms);
/* Asks a shard for what is newer in all its chunks. */
void outbox_ask_pull(struct outbox *outbox, struct outbox_shard *shard, uint64_t now_ms);
bool outbox_pull_open(const struct outbox_shard *shard);
/* Acknowledgements came or the start clock moved: frees what is finished, tells shard 0. */
void outbox_advance(struct outbox *outbox, uint64_t now_ms);
/* Closes the connection for a reason and waits for the next one. */
void outbox_drop(struct outbox *outbox, uint32_t shard, const struct error *why, uint64_t now_ms);
/* Sends what is due to a shard. */
void outbox_flush(struct outbox *outbox, uint32_t shard, uint64_t now_ms);
