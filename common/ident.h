/* Who am I: the shard or rank of this process, from the command line, else GRAPHPS_SHARD or
 * GRAPHPS_RANK, else (rank) Kubernetes' JOB_COMPLETION_INDEX, else the ordinal that ends the host
 * name of a StatefulSet's pod ("name-3"). The first that is there counts, right or wrong. */
#pragma once

#include <stdint.h>

#include "common/error.h"

/* argument: the text after --shard or --rank, NULL when not given. *ret is from 0 to count - 1;
 * ERR_USAGE names where the wrong number came from, or all the ways to give one. */
int ident_shard(const char *argument, int64_t count, int *ret_shard, struct error *reterr);
int ident_rank(const char *argument, int64_t count, int *ret_rank, struct error *reterr);

enum ident_kind { IDENT_SHARD, IDENT_RANK };
/* Both of the above, with the host name given ("" for none). */
int ident_find(enum ident_kind kind, const char *argument, const char *host_name, int64_t count,
               int *ret, struct error *reterr);
