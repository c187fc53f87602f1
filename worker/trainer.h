/* The training loop of one worker: weights, batch, forward, backward, push, gate; and the
 * evaluation at the end of an epoch. */
#pragma once

#include <jansson.h>

#include "common/config.h"
#include "worker/client.h"
#include "worker/graph/store.h"

struct trainer;

/* Builds the model and its layout for this partition. config and store are borrowed for the
 * trainer's life. */
int trainer_new(const struct config *config, uint32_t rank, const struct store *store,
                struct trainer **ret, struct error *reterr);
struct trainer *trainer_free(struct trainer *trainer); /* takes NULL */
/* What the client has to know; borrowed. */
const struct layout *trainer_layout(const struct trainer *trainer);
uint32_t trainer_steps_per_epoch(const struct trainer *trainer);

/* Trains until the job is over (0), a fault, or an interrupt (ERR_INTERRUPTED after the step in
 * hand is acknowledged). */
int trainer_run(struct trainer *trainer, struct client *client, struct error *reterr);

struct trainer_totals {
    uint64_t steps; /* of this process */
    double seconds, compute_s;
};
void trainer_totals(struct trainer *trainer, struct trainer_totals *ret);
/* Adds step, epoch and the last evaluation to /stats; from any thread. */
void trainer_add_stats(struct trainer *trainer, json_t *stats);
