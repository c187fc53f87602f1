/* A child process of a test: started with its output in a file, watched by events (its end through
 * a pidfd, its files through inotify), never waited for without a deadline. Every function fails
 * the test, with the end of the child's output, when it cannot do what it says. No child outlives
 * the test: the kernel kills it when the test's process ends. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct child {
    char name[32];
    char log_path[512]; /* output and errors of all its lives */
    size_t log_start;   /* where the present life begins in it */
    pid_t pid;          /* 0: not running */
    int pidfd;
    int code; /* of the last life: exit code, or 128 + signal */
};

/* name is for messages; log_path's directory must exist. */
void child_init(struct child *child, const char *name, const char *log_path);
/* argv[0] is the program's path; NULL-terminated. */
void child_start(struct child *child, const char *const *argv);
void child_signal(struct child *child, int signal_number);
/* Until it ends: its exit code, or 128 + signal. */
int child_wait(struct child *child, int timeout_ms);
/* The same, and fails the test when the code is another. */
void child_expect(struct child *child, int code, int timeout_ms);
/* Until text stands in the output of its present (or last) life. Fails when it ends before. */
void child_wait_log(struct child *child, const char *text, int timeout_ms);
/* Until the file is there. It must be in the log's directory. Fails when the child ends before. */
void child_wait_file(struct child *child, const char *path, int timeout_ms);
/* The output of its present (or last) life; free() it. */
char *child_log(const struct child *child);
/* SIGKILL, and reaped; no failure when it does not run. */
void child_stop(struct child *child);
/* The same, and returns when its own children, which die with it, have ended, too. */
void child_stop_family(struct child *child, int timeout_ms);

/* Where a built program is: $GRAPHPS_BIN/<name>, or below it in the folder that builds it. Static
 * storage per call up to 8 calls. */
const char *child_program(const char *name);
/* Runs a program to its end. *ret_output (may be NULL): output and errors, free() it. */
int child_run(const char *const *argv, int timeout_ms, char **ret_output);
