/* A job of real processes on loopback ports that the system chooses: shards and workers by number,
 * killed, frozen, restarted on the same port, asked over HTTP. Fails the test as child.h does. */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "tests/child.h"

enum cluster_role { CLUSTER_SHARD, CLUSTER_WORKER };
/* The deadline of a start, and a good one for whatever takes a moment, sanitizers included. */
enum { CLUSTER_TIMEOUT_MS = 60000 };

struct cluster;

/* In a fresh temp directory; starts nothing. */
struct cluster *cluster_new(int shards, int workers);
/* Kills all; takes NULL, returns NULL. */
struct cluster *cluster_free(struct cluster *cluster);
const char *cluster_dir(const struct cluster *cluster);
const char *cluster_job_path(const struct cluster *cluster);

/* The job file. The numbers of shards and workers are passed with --set and need not stand there.
 */
void cluster_write_job(struct cluster *cluster, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* One more --set for every process that is started after this. */
void cluster_set(struct cluster *cluster, const char *assignment);

/* Gives every shard its address before it is started, so that processes can be started in any
 * order. The ports stay ours until cluster_free. */
void cluster_reserve(struct cluster *cluster);
/* Processes that are started after this read their number in this environment variable instead of
 * on the command line; NULL: as before. */
void cluster_number_from(struct cluster *cluster, const char *variable);

/* Shard 0, the other shards, all workers. */
void cluster_start(struct cluster *cluster);
/* Starts one again or for the first time: a shard listens on the port it had; returns when it
 * listens. Without cluster_reserve shard 0 must have been started before any other process. */
void cluster_start_one(struct cluster *cluster, enum cluster_role role, int number);

int cluster_count(const struct cluster *cluster, enum cluster_role role);
struct child *cluster_child(struct cluster *cluster, enum cluster_role role, int number);
void cluster_signal(struct cluster *cluster, enum cluster_role role, int number, int signal_number);
/* SIGKILL, and gone when this returns. */
void cluster_kill(struct cluster *cluster, enum cluster_role role, int number);
int cluster_wait(struct cluster *cluster, enum cluster_role role, int number, int timeout_ms);
/* In the log of the process's present life. */
void cluster_wait_log(struct cluster *cluster, enum cluster_role role, int number, const char *text,
                      int timeout_ms);

/* "127.0.0.1:40113", where a shard listens. */
const char *cluster_address(struct cluster *cluster, int shard);
/* Where a process serves HTTP, once it does. */
const char *cluster_http_address(struct cluster *cluster, enum cluster_role role, int number);
/* GET http://address/path: the body, free() it; *ret_status the HTTP status. */
char *cluster_get(const char *address, const char *path, int *ret_status);
/* /stats of a process; json_decref it. */
json_t *cluster_stats(struct cluster *cluster, enum cluster_role role, int number);
