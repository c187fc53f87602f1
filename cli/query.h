/* One question to shard 0, blocking: the job's status. */
#pragma once

#include "common/config.h"
#include "proto/wire.h"

/* Asks the shard at host:port. *ret: wire_free it. ERR_UNREACHABLE, ERR_WRONG_JOB, ... */
int query_status(const char *address, const char *job, uint32_t timeout_ms, Graphps__Status **ret,
                 struct error *reterr);
/* Where shard 0 is: servers.addresses, or what `graphps train` wrote into the job's directory.
 * *ret: mem_free it. ERR_UNREACHABLE: it does not run here, yet. */
int query_find_address(const struct config *config, char **ret, struct error *reterr);
