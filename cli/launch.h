/* All processes of one job on this machine: started in order, restarted when they die, ended
 * together. One thread; launch_step is called again and again. */
#pragma once

#include "cli/process.h"
#include "common/config.h"

struct launch {
    const struct config *config;
    const char *config_path;
    const char *const *sets; /* the user's --set assignments */
    size_t set_count;
    char *programs; /* directory of graphps-server and graphps-worker */
    size_t shards, workers;
    struct process *processes; /* [shards + workers] */
    char **addresses;          /* [shards], of listening shards; NULL: not known yet */
    bool workers_started;
    bool ending;            /* nobody is restarted any more */
    uint64_t done_ms;       /* when shard 0 had left because the job is done; 0: it has not */
    bool stragglers_told;   /* whoever is here still after that was asked to go */
    struct process *failed; /* LAUNCH_FAILED: whose fault it is; NULL: no process's */
};

/* What happened, in a sentence, for people. */
typedef void launch_note(void *ctx, const char *text);

enum launch_state {
    LAUNCH_RUNNING,
    LAUNCH_DONE,   /* all have ended; launch_job_done says how */
    LAUNCH_FAILED, /* a process failed for good; *reterr says which and why. The others go on */
};

/* Borrows all but what it makes. config_path is made absolute by the caller. */
int launch_init(struct launch *launch, const struct config *config, const char *config_path,
                const char *const *sets, size_t set_count, struct error *reterr);
/* Kills what still runs. */
void launch_done(struct launch *launch);
/* Reaps, restarts, starts what can start now, ends whom the job has left behind. Says through note
 * whom it restarts or ends. */
enum launch_state launch_step(struct launch *launch, uint64_t now_ms, launch_note *note, void *ctx,
                              struct error *reterr);
/* Shard 0 has left with exit code 0: the job is done and its last checkpoint complete. */
bool launch_job_done(const struct launch *launch);
/* A shard that served was last heard at heard_ms, and nothing came of it for silent_ms since. When
 * that is too long for a process that works, it is killed, and restarted like one that died. */
void launch_heed_silence(struct launch *launch, size_t shard, uint64_t heard_ms, uint64_t silent_ms,
                         launch_note *note, void *ctx);
/* SIGTERM for shard 0 alone (which stops the run in order), or a signal for all. */
void launch_interrupt(struct launch *launch);
void launch_signal(struct launch *launch, int signal_number);
const char *launch_address(const struct launch *launch); /* shard 0's, or NULL */
