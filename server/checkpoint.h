/* A checkpoint: what one shard holds, as bytes, and generations of them on disk.
 *
 *   <job.dir>/checkpoints/<generation, 8 digits>/shard-<k>-of-<n>.ckpt
 *
 * One file: magic "GPSCKPT2", header length (8 bytes), a JSON header padded with spaces to a
 * multiple of 8 (job, generation, shard, tensors, tables, blocks with their versions, clocks and
 * steps, ledger, coordinator state, ...), weights, optimizer state and best weights of all blocks
 * in order, zeros up to a multiple of 8, the rows of tables (number, clock, steps, weights, state,
 * best weights if there are any, each padded likewise), then XXH3-64 of all that. Little-endian.
 * 64-bit numbers are JSON integers; above 2^63 - 1 the negative number of the same bits. Written
 * atomically. A generation is complete when all its shards' files are there; a damaged file is
 * refused and the generation before it is used. */
#pragma once

#include <jansson.h>
#include <stdatomic.h>

#include "proto/layout.h"
#include "server/block.h"
#include "server/ledger.h"
#include "server/table.h"

struct checkpoint_table {
    struct layout_table spec;
    uint64_t held;                                             /* rows in this file */
    bool best;                                                 /* with their best weights */
    uint64_t versions[LAYOUT_STRIPES], clocks[LAYOUT_STRIPES]; /* of the stripes */
    /* when saving: what is walked; the table is borrowed, the snapshot owned */
    struct table *table;
    struct table_snapshot *snapshot;
};

/* Rows where they lie in a file's bytes. */
struct checkpoint_source {
    struct buf *bytes; /* a reference, or NULL: the caller of checkpoint_decode keeps them */
    struct {
        const uint8_t *rows;
        uint64_t held;
        bool best;
    } * tables; /* [table_count] */
};

struct checkpoint {
    char job[128];
    uint64_t run; /* drawn when the run started fresh */
    uint64_t generation;
    uint32_t shard, shards;
    uint32_t block_bytes;
    uint64_t seed;
    uint64_t clock; /* the highest that was merged (schedule.h) */
    char snapshot_digest[64];
    int optimizer_kind;
    struct tensor_spec *tensors; /* [tensor_count], owned */
    size_t tensor_count;
    size_t block_count;           /* of this shard */
    uint32_t *block_ids, *floats; /* [block_count] */
    uint64_t *versions, *clocks, *steps;
    struct buf **weights; /* [block_count] references */
    struct buf **state;   /* [block_count] references, [state_floats * floats]; NULL for 0 */
    size_t state_floats;
    uint32_t best_epoch; /* 0: none */
    struct buf **best;   /* [block_count] references; NULL exactly when best_epoch is 0 */
    size_t table_count;
    struct checkpoint_table *tables; /* [table_count] */
    size_t source_count;             /* of one that was read */
    struct checkpoint_source *sources;
    size_t ledger_count;
    struct ledger_entry *ledger;
    json_t *coordinator; /* shard 0's, else NULL; owned */
};

/* With all arrays but state and best (mem_array of block_count pointers, where there are any). */
struct checkpoint *checkpoint_new(size_t block_count, size_t ledger_count, size_t tensor_count);
struct checkpoint *checkpoint_free(struct checkpoint *checkpoint);

/* To bytes, piece by piece. Walks the tables' snapshots and ends them. Not saved: the ledger's
 * pending bits. Both arguments are borrowed; stop may be NULL. */
struct checkpoint_stream;
struct checkpoint_stream *checkpoint_stream_new(struct checkpoint *checkpoint,
                                                const atomic_bool *stop);
/* 1: a piece, good until the next call; 0: that was all; ERR_INTERRUPTED: *stop has become true. */
int checkpoint_stream_next(struct checkpoint_stream *stream, const void **ret_data, size_t *ret_len,
                           struct error *reterr);
uint64_t checkpoint_stream_bytes(const struct checkpoint_stream *stream); /* handed out so far */
struct checkpoint_stream *checkpoint_stream_free(struct checkpoint_stream *stream);
/* All of it at once; the stream must not be stopped. */
struct buf *checkpoint_stream_whole(struct checkpoint_stream *stream);
struct buf *checkpoint_encode(struct checkpoint *checkpoint);

/* And back: checks everything: ERR_FORMAT, ERR_CHECKSUM. The rows of tables stay where they are in
 * bytes, which must outlive the checkpoint. */
int checkpoint_decode(const uint8_t *bytes, size_t len, struct checkpoint **ret,
                      struct error *reterr);

/* What tells that two shards' files are not of one moment of one run ("the job", ...); NULL:
 * nothing.
 */
const char *checkpoint_difference(const struct checkpoint *a, const struct checkpoint *b);
/* Its tensors and tables, cut for a number of shards. */
int checkpoint_layout(const struct checkpoint *checkpoint, uint32_t shards, struct layout **ret,
                      struct error *reterr);
/* Are its blocks just those that the layout gives its shard? */
bool checkpoint_fits(const struct checkpoint *checkpoint, const struct layout *layout);

/* Hands out all rows of a table, of a checkpoint that was read, until take fails. */
int checkpoint_rows(const struct checkpoint *checkpoint, size_t table,
                    int (*take)(void *ctx, const struct table_row *row, struct error *reterr),
                    void *ctx, struct error *reterr);

/* Is the file whole (magic, lengths, checksum)? Without decoding it. */
int checkpoint_check(const uint8_t *bytes, size_t len, struct error *reterr);

/* Hears why a checkpoint that is there is not used. */
typedef void checkpoint_tell(void *to, const struct error *fault);

/* Where generations live: files, or a simulated disk. */
struct checkpoint_store {
    void *ctx;
    /* Atomic: all of the stream or nothing. */
    int (*write)(void *ctx, uint64_t generation, uint32_t shard, uint32_t shards,
                 struct checkpoint_stream *stream, struct error *reterr);
    int (*read)(void *ctx, uint64_t generation, uint32_t shard, uint32_t shards, struct buf **ret,
                struct error *reterr);
    /* Generations whose file of this shard reads whole (checksum), or that another number of shards
     * wrote and whose files are all here and whole; ascending; *ret: mem_free. ERR_CONFIG when
     * there are only some files of such ones. */
    int (*list)(void *ctx, uint32_t shard, uint32_t shards, uint64_t **ret, size_t *ret_count,
                struct error *reterr);
    /* Tells why those are not in the list that have files of this shard, or of all of another
     * number of shards; a missing file alone is what a crash leaves, and nothing to tell. Apart
     * from list, so that only the damaged ones are read twice. NULL: there is nothing to tell. */
    void (*faults)(void *ctx, uint32_t shard, uint32_t shards, const uint64_t *listed,
                   size_t listed_count, checkpoint_tell *tell, void *to);
    /* How many shards wrote a generation: `shards` if it was that number. NULL: always. */
    int (*wrote)(void *ctx, uint64_t generation, uint32_t shards, uint32_t *ret,
                 struct error *reterr);
    /* Removes this shard's files (shard 0: also those of other numbers of shards) of all
     * generations but the newest keep that are <= newest, whoever wrote those. */
    int (*prune)(void *ctx, uint32_t shard, uint32_t shards, uint64_t newest, uint32_t keep,
                 struct error *reterr);
};
/* Files below job_dir; borrowed until the store's last use. */
struct checkpoint_store checkpoint_store_files(const char *job_dir);
/* "<job_dir>/checkpoints/<generation>"; mem_free it. */
char *checkpoint_store_dir(const char *job_dir, uint64_t generation);
/* The generations there is a directory of, ascending, whatever is in it. *ret: mem_free. */
int checkpoint_store_generations(const char *job_dir, uint64_t **ret, size_t *ret_count,
                                 struct error *reterr);
/* "shard-0-of-2.ckpt" */
#define CHECKPOINT_NAME_BYTES 48
void checkpoint_store_name(uint32_t shard, uint32_t shards, char ret[CHECKPOINT_NAME_BYTES]);
/* And back; false for any other name. */
bool checkpoint_store_parse(const char *name, uint32_t *ret_shard, uint32_t *ret_shards);

/* For export: reads the newest (or the given) complete generation below job_dir, or the generation
 * directory `path` itself, and puts the whole model together. which_best: the best weights
 * (ERR_NOT_FOUND when none were kept). *ret_tensors, *ret_weights: mem_free; a table is one more
 * tensor behind the others, of all its rows, those that nobody touched with their initial values.
 * ret_weights NULL: neither is made. *ret_coordinator:
 * json_decref (may be NULL); with the "snapshot_digest" of the run. Any number of shards. */
int checkpoint_collect(const char *path, bool which_best, struct tensor_spec **ret_tensors,
                       size_t *ret_count, float **ret_weights, uint64_t *ret_generation,
                       json_t **ret_coordinator, struct error *reterr);
/* Tells why checkpoint_collect passed over the generations that are newer than the one it took.
 * One that is incomplete is still being written, or was when somebody died: nothing to tell. */
void checkpoint_collect_faults(const char *path, bool which_best, uint64_t taken,
                               checkpoint_tell *tell, void *to);

/* The part of shard `shard` of `shards` from a generation that `from` shards wrote, as if it had
 * been written by that many: weights, optimizer state and best weights are cut anew; a block's
 * version, clock and steps are the largest of those it is made of; the ledger is that of shard
 * `shard`, or, where there was none, that of shard 0 without its counts: the processes that pushed
 * to other shards than these are refused anyhow (Hello.shards), and their attempts stay fenced. */
int checkpoint_reshard(const struct checkpoint_store *store, uint64_t generation, uint32_t from,
                       uint32_t shard, uint32_t shards, struct checkpoint **ret,
                       struct error *reterr);
