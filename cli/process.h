/* A child process of `graphps train`: started with its output in a log file, killed by the kernel
 * when the launcher dies (PR_SET_PDEATHSIG), reaped with its exit code and peak memory. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

struct process {
    char name[32]; /* "shard 0", "worker 1" */
    char *log_path;
    off_t log_start; /* what is before it in the log was there before us */
    char **argv;     /* NULL-terminated, owned */
    pid_t pid;       /* 0: not running */
    uint64_t started_ms;
    bool hung;   /* this life ends because it did not answer */
    bool exited; /* has run and ended: exit_code, or killed_by a signal */
    int exit_code, killed_by;
    uint64_t peak_bytes;                 /* the largest of all its lives */
    uint64_t launcher_bytes, seen_bytes; /* of this life: ours as it began, its peak so far */
    uint32_t restarts;
    uint64_t restart_at_ms; /* when to start it again; 0: not waiting */
};

/* argv[0] is the program's path; takes argv and its strings (mem_alloc'ed). */
void process_init(struct process *process, const char *name, char *log_path, char **argv);
void process_done(struct process *process);
int process_start(struct process *process, struct error *reterr);
/* Looks, without waiting, whether it has ended; true when it has just ended. */
bool process_reap(struct process *process);
void process_signal(struct process *process, int signal_number);
/* "ended with exit code 76", "was killed by signal 9 (Killed)"; into buf. */
const char *process_ending(const struct process *process, char *buf, size_t buf_bytes);
/* Copies the last lines of its log to standard error, indented: those of its lives under us. */
void process_print_tail(const struct process *process, int lines);
