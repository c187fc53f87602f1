/* What a job on this machine will need, from its partitions: for `graphps plan`, and for `graphps
 * train` to refuse what the machine cannot hold. */
#pragma once

#include "common/config.h"
#include "common/error.h"
#include "worker/plan.h"

struct job_plan {
    struct plan_worker *workers;           /* [workers.count] */
    struct plan_shard shard;               /* the one with the most */
    uint64_t parameters;                   /* floats of the model */
    uint64_t push_bytes, pull_bytes;       /* of one worker, each step */
    uint64_t memory_bytes;                 /* all processes together, with the files */
    uint64_t files_bytes;                  /* of those, what lies in files and can be read again */
    uint64_t rows;                         /* learned, one for each node; 0: none are */
    uint64_t checkpoint_bytes, disk_bytes; /* of one generation; of all that are kept, with parts */
    uint64_t available_bytes;              /* memory of this machine */
};
/* snapshot_dir: its partitioning is there. */
int job_plan_make(const struct config *config, const char *snapshot_dir, struct job_plan *ret,
                  struct error *reterr);
/* Threads of each worker when all run on this machine: its processors shared out, unless the job
 * says how many. */
int job_plan_threads(const struct config *config);
void job_plan_done(struct job_plan *plan);
/* ERR_NO_MEMORY, with what is needed, what there is and what to change, when all processes are to
 * run here and do not fit, files left aside. */
int job_plan_check(const struct job_plan *plan, const struct config *config, struct error *reterr);
