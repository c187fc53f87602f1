/* The worker's network thread: one connection to every shard, the outbox behind a lock, waits with
 * a deadline and a culprit. */
#pragma once

#include <jansson.h>

#include "common/config.h"
#include "worker/outbox.h"

struct client;

/* Starts the thread; connects (with backoff 50 ms .. 2 s) to config->servers_addresses. spec is
 * copied; what it points to and config are borrowed. */
int client_start(const struct config *config, const struct outbox_spec *spec, struct client **ret,
                 struct error *reterr);
struct client *client_stop(struct client *client); /* takes NULL */

/* Each wait lasts until done; it logs whom it waits for after 2 s and then every 10 s, sets
 * WAITING_SECONDS, and gives up with ERR_UNREACHABLE naming the culprit after net.give_up_s. It
 * returns the final error at once when there is one, and ERR_INTERRUPTED after client_interrupt:
 * at once, client_wait_finished only when checkpoint.grace_s / 2 have passed. */
int client_wait_welcome(struct client *client, uint64_t *ret_start_clock, struct error *reterr);
/* Copies the newest weights. fresh: asks for newer ones first and waits for the answer; else waits
 * for those only that have been asked for: in async the client asks by itself whenever a step is
 * acknowledged, so they hold every acknowledged step. */
int client_weights(struct client *client, float *weights, bool fresh, struct error *reterr);
void client_push(struct client *client, const float *gradient, uint64_t clock, double weight);
/* Rows of the table, as outbox_push_rows and outbox_pull_rows say; the latter waits for them.
 * candidate: the epoch whose kept rows are wanted, 0: those of now. */
int client_push_rows(struct client *client, const struct row_plan *plan, const float *gradient,
                     uint64_t clock, double weight, struct error *reterr);
int client_rows(struct client *client, const struct row_plan *plan, uint32_t candidate, float *rows,
                struct error *reterr);
/* Waits until steps < finished are acknowledged. */
int client_wait_finished(struct client *client, uint64_t finished, struct error *reterr);
/* The same for at most timeout_ms, and without an error: were they acknowledged? */
bool client_settled(struct client *client, uint64_t finished, uint64_t timeout_ms);
/* Waits until step *clock may start. *clock is raised when this worker was counted as lost and its
 * steps up to there are done without it. *ret_stop: the job is over instead. */
int client_wait_gate(struct client *client, uint64_t *clock, bool *ret_stop, struct error *reterr);
/* The same without waiting, for whoever needs no gate: returns whether the job is over. */
bool client_look(struct client *client, uint64_t *clock);
/* Reports, and waits until shard 0 has it, or the job is over. */
int client_eval(struct client *client, const Graphps__Eval *eval, struct error *reterr);
/* The candidate that the last client_eval was told to evaluate, 0: none. */
uint32_t client_candidate_due(struct client *client);
/* Copies the weights that the shards keep as the candidate of an epoch. */
int client_candidate(struct client *client, uint32_t epoch, float *weights, struct error *reterr);
/* Says goodbye and waits for the answer, at most timeout_ms. */
int client_bye(struct client *client, bool done, uint64_t timeout_ms, struct error *reterr);
/* From any thread, but not from a signal handler. */
void client_interrupt(struct client *client);
bool client_interrupted(const struct client *client);

struct client_totals {
    uint64_t bytes_pushed, bytes_pulled, pushes, finished;
    double waited_s; /* inside the waits above */
};
void client_totals(struct client *client, struct client_totals *ret);
/* For /stats: clock, bytes, pushes, waiting_for, and every shard's address and state. */
json_t *client_stats_json(struct client *client);
/* Is it connected to every shard? When not, why gets a sentence. */
bool client_ready(struct client *client, char *why, size_t why_bytes);
