/* Where a run of `graphps train` lives and what it is made from: its directory, which one launcher
 * holds at a time, the snapshot and the partitioning, which are not removed under it, and its line
 * in the catalog. */
#pragma once

#include "common/config.h"
#include "common/error.h"

struct model_facts;

struct run_place {
    const struct config *config; /* borrowed */
    const char *command;         /* "graphps train"; borrowed */
    char *snapshot;              /* "cora@1.0.0", once it is found */
    char *digest;                /* its contents' */
    char *partition;             /* "2x1", its directory's name */
    bool resumed;                /* earlier launches have done a part of it */
    bool to_begin;               /* what the directory holds is moved aside first */
    bool made_dir;               /* and nobody had, before */
    int lock_fd;
    int claims[2]; /* on the snapshot and the partitioning, or -1 */
};

void run_place_init(struct run_place *place, const struct config *config, const char *command);
/* A run that did not begin leaves no directory that was not there. */
void run_place_done(struct run_place *place, bool begun);
/* An exclusive lock on the run's directory, which is made: two launchers would restart each other's
 * shards. ERR_IN_USE, ERR_CONFIG, ERR_IO. */
int run_place_lock(struct run_place *place, struct error *reterr);
/* Finds the snapshot and cuts it where that is missing; refuses what does not fit into memory and a
 * resumption on another snapshot; moves what an earlier run left aside, unless this one goes on
 * from it. From here on the snapshot is not removed under the run. */
int run_place_prepare(struct run_place *place, bool fresh, struct error *reterr);
/* The run's line in the catalog; facts: what it came to, or NULL. For people only: a run does not
 * fail for want of a catalog. */
int run_place_record(const struct run_place *place, const char *state,
                     const struct model_facts *facts, struct error *reterr);
