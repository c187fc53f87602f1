/* The threads of a shard beside its network threads: one for slow work (restore, checkpoint), and
 * the aggregator's. */
#pragma once

#include <stdbool.h>

#include "common/error.h"

struct server;
struct threads;

int threads_new(struct server *server, struct threads **ret, struct error *reterr);
/* server_work should run soon; from any thread. */
void threads_wake(struct threads *threads);
/* Starts the aggregator's threads once the server has an aggregator; otherwise, and afterwards,
 * does nothing. From one thread. */
int threads_aggregate(struct threads *threads, struct error *reterr);
/* Waits until slow work that was begun has ended, and does no more; false: it goes on after
 * timeout_ms. Takes NULL. */
bool threads_end(struct threads *threads, int timeout_ms);
/* Calls work(argument) on a thread of its own that leaves a busy processor to all others but for a
 * tenth of one, and returns what it returned. */
int threads_quietly(int (*work)(void *argument), void *argument);
/* Waits for them: what is in work is finished. Takes NULL. */
struct threads *threads_free(struct threads *threads);
