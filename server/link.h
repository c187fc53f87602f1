/* The link of a shard k > 0 to shard 0: connects, comes back after a loss, sends reports, takes
 * orders, and says whom it waits for. Lives on loop 0; what the orders mean is server.c's. */
#pragma once

#include <uv.h>

#include "common/config.h"
#include "common/error.h"

struct link;
struct server;

/* All are borrowed until link_free. failed: called once, from the loop, when shard 0 refuses this
 * shard or has not answered for net.give_up_s. */
struct link *link_new(uv_loop_t *loop, const struct config *config, struct server *server,
                      void (*failed)(void *ctx, const struct error *why), void *ctx);
/* Every few ms, from the loop. */
void link_step(struct link *link, uint64_t now_ms);
/* A report should go out soon; from any thread. */
void link_report(struct link *link);
/* From the loop: a last report, then closes; the loop ends its handles. */
void link_stop(struct link *link, uint64_t now_ms);
/* After the loop has ended. Takes NULL. */
struct link *link_free(struct link *link);
