/* A checkpoint: what one shard holds, as bytes, and generations of them on disk.
 *
 *   <job.dir>/checkpoints/<generation, 8 digits>/shard-<k>-of-<n>.ckpt
 *
 * One file: magic "GPSCKPT1", header length (8 bytes), a JSON header padded with spaces to a
 * multiple of 8 (job, generation, shard, tensors, blocks with their versions, clocks and steps,
 * ledger, coordinator state, ...), weights, optimizer state and best weights of all blocks in
 * order, then XXH3-64 of all that. Little-endian. 64-bit numbers are JSON integers; above 2^63 - 1
 * the negative number of the same bits. Written atomically. A generation is complete when all its
 * shards' files are there; a damaged file is refused and the generation before it is used. */
#pragma once

#include <jansson.h>

#include "proto/layout.h"
#include "server/block.h"
#include "server/ledger.h"

struct checkpoint {
    char job[128];
    uint64_t run; /* drawn when the run started fresh */
    uint64_t generation;
    uint32_t shard, shards;
    uint32_t block_bytes;
    uint64_t seed;
    char snapshot_digest[64];
    int optimizer_kind;
    struct tensor_spec *tensors; /* [tensor_count], owned */
    size_t tensor_count;
    size_t block_count;           /* of this shard */
    uint32_t *block_ids, *floats; /* [block_count] */
    uint64_t *versions, *clocks, *steps;
    struct buf **weights; /* [block_count] references */
    float **state;        /* [block_count] owned copies [state_floats * floats]; NULL for 0 */
    size_t state_floats;
    uint32_t best_epoch; /* 0: none */
    struct buf **best;   /* [block_count] references; NULL exactly when best_epoch is 0 */
    size_t ledger_count;
    struct ledger_entry *ledger;
    json_t *coordinator; /* shard 0's, else NULL; owned */
};

/* With all arrays but state and best (mem_array of block_count pointers, where there are any). */
struct checkpoint *checkpoint_new(size_t block_count, size_t ledger_count, size_t tensor_count);
struct checkpoint *checkpoint_free(struct checkpoint *checkpoint);

/* To bytes and back, pure. decode checks everything: ERR_FORMAT, ERR_CHECKSUM. Not saved: the
 * ledger's pending bits. */
struct buf *checkpoint_encode(const struct checkpoint *checkpoint);
int checkpoint_decode(const uint8_t *bytes, size_t len, struct checkpoint **ret,
                      struct error *reterr);

/* Is the file whole (magic, lengths, checksum)? Without decoding it. */
int checkpoint_check(const uint8_t *bytes, size_t len, struct error *reterr);

/* Where generations live: files, or a simulated disk. */
struct checkpoint_store {
    void *ctx;
    /* Atomic. */
    int (*write)(void *ctx, uint64_t generation, uint32_t shard, uint32_t shards,
                 const struct buf *bytes, struct error *reterr);
    int (*read)(void *ctx, uint64_t generation, uint32_t shard, uint32_t shards, struct buf **ret,
                struct error *reterr);
    /* Generations whose file of this shard reads whole (checksum), ascending; *ret: mem_free.
     * ERR_CONFIG when all there is was written by another number of shards. */
    int (*list)(void *ctx, uint32_t shard, uint32_t shards, uint64_t **ret, size_t *ret_count,
                struct error *reterr);
    /* Removes this shard's files of all generations but the newest keep that are <= newest. */
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
 * (ERR_NOT_FOUND when none were kept). *ret_tensors, *ret_weights: mem_free. *ret_coordinator:
 * json_decref (may be NULL). Any number of shards. */
int checkpoint_collect(const char *path, bool which_best, struct tensor_spec **ret_tensors,
                       size_t *ret_count, float **ret_weights, uint64_t *ret_generation,
                       json_t **ret_coordinator, struct error *reterr);
