/* Do a job and the graph it is to learn from fit together? What the launcher asks before it starts
 * anything, and each worker again. */
#pragma once

#include "common/config.h"
#include "proto/graphps.pb-c.h"
#include "worker/graph/store.h"

/* What is learnt: links if the job says so, else what the snapshot's labels are. */
Graphps__Task job_task(const struct config *config, const struct store *store);
/* ERR_CONFIG names the option or what the snapshot lacks. */
int job_check(const struct config *config, const struct store *store, struct error *reterr);
