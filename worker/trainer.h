/* The training loop of one worker: weights, batch, forward, backward, push, gate; and the
 * evaluation at the end of an epoch. */
#pragma once

#include "common/config.h"
#include "worker/client.h"
#include "worker/graph/store.h"

/* Trains until the job is over (0), a fault, or an interrupt (ERR_INTERRUPTED after the step in
 * hand is acknowledged). */
int trainer_run(const struct config *config, uint32_t rank, const struct store *store,
                struct client *client, struct error *reterr);
