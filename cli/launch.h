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
    bool ending; /* nobody is restarted any more */
};

enum launch_state {
    LAUNCH_RUNNING,
    LAUNCH_DONE,   /* all have ended; with exit code 0 unless `ending` */
    LAUNCH_FAILED, /* a process failed for good; *reterr says which and why */
};

/* Borrows all but what it makes. config_path is made absolute by the caller. */
int launch_init(struct launch *launch, const struct config *config, const char *config_path,
                const char *const *sets, size_t set_count, struct error *reterr);
/* Kills what still runs. */
void launch_done(struct launch *launch);
/* Reaps, restarts, starts what can start now. Logs restarts to standard error through note(). */
enum launch_state launch_step(struct launch *launch, uint64_t now_ms,
                              void (*note)(void *ctx, const char *text), void *ctx,
                              struct error *reterr);
/* SIGTERM for shard 0 alone (which stops the run in order), or a signal for all. */
void launch_interrupt(struct launch *launch);
void launch_signal(struct launch *launch, int signal_number);
const char *launch_address(const struct launch *launch); /* shard 0's, or NULL */
