/* Shard 0's second half: who takes part, how far everybody is, who may go on, when the job ends,
 * which generation everybody restores and writes. A pure state machine: messages and time in,
 * replies out through server_send; no clock, no socket, no file. Its lock (LOCK_COORDINATOR) is
 * taken inside.
 *
 * Workers: EXPECTED (from the start until net join timeout) -> LIVE (while its lease runs) -> LOST
 * (rejoins as LIVE) ; DONE. EXPECTED and LIVE ranks are the roster. A rank that joins or rejoins
 * takes part from the lowest clock of the live ones (its own last clock when it never left the
 * roster), and no gate is opened before every shard has carried out the roster's order. Gate{c}:
 * async at once; ssp when c - slowest <= staleness; bsp when slowest >= c. Epoch e is complete when
 * every roster rank has reported it (or left). Best: highest validation score (train.metric), ties
 * by lower loss, among epochs evaluated on equally many nodes; patience counts no others. Stop: all
 * epochs done, or patience, or an interrupt; then every worker is told stop, says bye, a final
 * generation is written on all shards, and only then finish is ordered. */
#pragma once

#include <jansson.h>

#include "common/config.h"
#include "proto/wire.h"

struct coordinator;
struct server;

struct coordinator *coordinator_new(const struct config *config, struct server *server);
struct coordinator *coordinator_free(struct coordinator *coordinator);

/* Handlers of worker messages; conn is where the reply goes (referenced while a reply is held).
 * Each returns 0, having replied or held the reply, or an error for the caller to send. now_ms is
 * monotonic, wall_ms is the real time (attempts are numbered max(last + 1, wall_ms), so that they
 * grow over restarts of shard 0). */
int coordinator_hello(struct coordinator *c, void *conn, const Graphps__Hello *hello,
                      uint64_t now_ms, uint64_t wall_ms, Graphps__Welcome *welcome,
                      struct error *reterr);
int coordinator_clock(struct coordinator *c, void *conn, const Graphps__Clock *clock,
                      uint64_t now_ms, struct error *reterr);
int coordinator_eval(struct coordinator *c, void *conn, const Graphps__Eval *eval, uint64_t now_ms,
                     struct error *reterr);
int coordinator_heartbeat(struct coordinator *c, void *conn, const Graphps__Heartbeat *beat,
                          uint64_t now_ms, struct error *reterr);
int coordinator_bye(struct coordinator *c, void *conn, const Graphps__Bye *bye, uint64_t now_ms,
                    struct error *reterr);
/* What a shard (itself included, conn NULL) reports; fills the order wanted of it. Level-triggered:
 * losing any number of reports or orders loses nothing. When the order changes later, it is sent to
 * conn unasked. order's arrays are allocated; free with coordinator_order_done. */
int coordinator_report(struct coordinator *c, void *conn, const Graphps__PeerReport *report,
                       uint64_t now_ms, Graphps__PeerOrder *order, struct error *reterr);
/* Has the order changed since the one numbered `order`? Shard 0 asks itself after each message. */
bool coordinator_has_news(struct coordinator *c, uint64_t order);
void coordinator_order_done(Graphps__PeerOrder *order);
/* A connection is gone: replies held for it are dropped. */
void coordinator_disconnected(struct coordinator *c, void *conn);
/* Leases, join time-out, held replies, checkpoint interval. */
void coordinator_tick(struct coordinator *c, uint64_t now_ms);
/* Somebody asks shard 0 to end (SIGTERM, Ctrl-C): stop the run, checkpoint. */
void coordinator_interrupt(struct coordinator *c, uint64_t now_ms);

/* For `graphps status`, /stats and the launcher. Allocates inside; free with
 * coordinator_status_done. */
void coordinator_status(struct coordinator *c, uint64_t now_ms, Graphps__Status *ret);
void coordinator_status_done(Graphps__Status *status);
/* What a checkpoint keeps, and back. An object whose keys others read (graphps export, predict):
 *
 *   "model": {"kind", "layers", "hidden", "normalize_features" (bool), "snapshot"}, of the config;
 *   "task": what is learnt (score_task_name);
 *   "metric": the score that "best" is the best by (score_name);
 *   "best", "last": coordinator_epoch_json, epoch 0: none;
 *   "workers": [{"bytes_pushed", "bytes_pulled", "pushes", ...}], by rank, of the whole run;
 *   "run_ms", over all launches; "idle", as Status.idle_epochs; "stop_reason", "" until it stops;
 *
 * and what else the coordinator needs to go on. */
json_t *coordinator_save(struct coordinator *c);
/* {"epoch", "train_loss", "valid_loss", "valid_epoch", "workers", "valid_workers"} and every score
 * of the task (score_key): "valid_accuracy", "test_micro_f1", ..., -1: not known. */
json_t *coordinator_epoch_json(const Graphps__EpochStatus *epoch, Graphps__Task task);
int coordinator_load(struct coordinator *c, const json_t *state, struct error *reterr);
/* Is a state of the model that the job file describes? Other weights of the same shapes would be
 * taken for those of this one. ERR_CONFIG says what differs. */
int coordinator_check_model(const struct config *config, const json_t *state, struct error *reterr);
/* A checkpoint's ledger knows who holds a rank better than the state saved a moment before it. */
void coordinator_learn(struct coordinator *c, uint32_t rank, uint64_t attempt,
                       uint64_t incarnation);
