/* The worker's network thread: one connection to every shard, the outbox behind a lock, waits with
 * a deadline and a culprit. */
#pragma once

#include "common/config.h"
#include <jansson.h>
#include "worker/outbox.h"

struct client;

/* Starts the thread; connects (with backoff 50 ms .. 2 s) to config->servers_addresses. spec is
 * copied, what it points to is borrowed. */
int client_start(const struct config *config, const struct outbox_spec *spec, struct client **ret,
                 struct error *reterr);
struct client *client_stop(struct client *client); /* takes NULL */

/* Each waits until done; logs whom it waits for after 2 s and then every 10 s, sets
 * WAITING_SECONDS, and gives up with ERR_UNREACHABLE naming the culprit after net.give_up_s;
 * returns the final error at once when there is one; ERR_INTERRUPTED when *interrupted is set (a
 * signal). */
int client_wait_welcome(struct client *client, uint64_t *ret_start_clock, struct error *reterr);
/* Copies the newest weights. fresh: asks for newer ones first and waits for the answer; else asks,
 * and takes what is held. */
int client_weights(struct client *client, float *weights, bool fresh, struct error *reterr);
void client_push(struct client *client, const float *gradient, uint64_t clock, double weight);
/* Waits until steps < finished are acknowledged. */
int client_wait_finished(struct client *client, uint64_t finished, struct error *reterr);
/* Waits until step `clock` may start. *ret_stop: the job is over instead. */
int client_wait_gate(struct client *client, uint64_t clock, bool *ret_stop, struct error *reterr);
int client_eval(struct client *client, const Graphps__Eval *eval,
                struct error *reterr); /* waits for Evaled */
bool client_stopped(struct client *client);
/* Says goodbye and waits for the answer, at most timeout_ms. */
int client_bye(struct client *client, bool done, uint64_t timeout_ms, struct error *reterr);
void client_interrupt(
    struct client *client); /* async-signal-unsafe; from the loop's signal handler */
bool client_interrupted(const struct client *client);
/* For /stats. */
json_t *client_stats_json(struct client *client);
