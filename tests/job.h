/* What the cluster tests share: the graph they train on, the job on it, its log lines and metrics,
 * and what is left when it has ended. */
#pragma once

#include <stdint.h>

#include "tests/cluster.h"

/* Makes the generated snapshot "community" in a fresh directory, once per test program: for an
 * unchecked fixture. */
void job_make_graph(uint32_t nodes, uint32_t classes, uint32_t features);
/* The directory that is the jobs' data.root, and the snapshot in it. */
const char *job_root(void);
const char *job_snapshot(void);
/* Cuts it; the halo is 2 hops, as deep as the jobs' model. */
void job_cut(uint32_t parts);

/* A cluster with a job file: GCN of 2 layers, 16 hidden, log level debug, run directory below
 * cluster_dir. mode: async, ssp or bsp. Nothing is started. */
struct cluster *job_new(int shards, int workers, const char *mode, int epochs);
/* Each of the job's updates takes at least this long, whatever the machine does: the shards'
 * batches close by time alone. Makes "in the middle of the run" a time that a test can meet (not
 * bsp). */
void job_pace(struct cluster *cluster, int ms);
/* The run directory, in a ring as test_path. */
const char *job_dir(const struct cluster *cluster);
/* All processes end with exit code 0, workers first. */
void job_wait(struct cluster *cluster);

struct job_end {
    uint64_t generation; /* of the last checkpoint that is complete */
    uint32_t best_epoch, last_epoch;
    double valid_accuracy, test_accuracy; /* of the best epoch */
};
/* Of a run directory's newest complete checkpoint. */
struct job_end job_end(const char *dir);
/* `graphps export` of the last (or best) weights of a run directory, flat in layout order:
 * mem_free it. */
float *job_weights(const char *dir, const char *which, uint64_t *ret_floats);

/* How often a text stands in a process's log of its present (or last) life. */
size_t job_log_count(struct child *child, const char *text);
/* The number after a text in that log, where it stands last; fails the test without one. */
uint64_t job_log_number(struct child *child, const char *text);
/* The value of a row of /metrics: its name, with labels as printed. */
double job_metric(struct cluster *cluster, enum cluster_role role, int number, const char *row);
