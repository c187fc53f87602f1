/* Cutting as `graphps partition` and `graphps train` do it: with progress on standard error, and a
 * Ctrl-C that takes back what was written. */
#pragma once

#include "worker/graph/partition.h"

/* partition_run, but for options->watch, which is its own. command begins the lines of a log.
 * SIGINT, SIGTERM and SIGHUP mean ERR_INTERRUPTED while it runs, also when they come too late; a
 * second one kills. */
int partition_cut(const char *command, const struct snapshot *snapshot,
                  const struct partition_options *options, struct partition_outcome *ret,
                  struct error *reterr);
