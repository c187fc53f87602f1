/* The watching side of every process: GET and HEAD of /stats (JSON), /metrics (Prometheus text
 * 0.0.4), /healthz, /readyz, and / (a plain list of these). Runs on libmicrohttpd's own thread, so
 * it answers when a loop is stuck; /healthz says 503 then, from the age of the loops' heartbeats.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct httpd;

struct httpd_ops {
    /* Called on the HTTP thread. The object for /stats; httpd adds "metrics" and releases it. */
    json_t *(*stats)(void *ctx);
    /* Does the process do its work? When not, why gets a sentence. */
    bool (*ready)(void *ctx, char *why, size_t why_bytes);
};

/* Binds host:port (port 0: a free one). ERR_IN_USE names the address. role, number as in log_init.
 */
int httpd_start(const char *host, uint16_t port, const char *role, int number,
                const struct httpd_ops *ops, void *ctx, struct httpd **ret, struct error *reterr);
/* "127.0.0.1:40113" */
const char *httpd_address(const struct httpd *httpd);
/* An address bound to every one of the machine's (0.0.0.0, ::) is of no use to others. From here on
 * httpd_address names instead the one from which the host `towards` would be reached; this
 * machine's name when that is not known (NULL, or it does not resolve). To be called before others
 * look. */
void httpd_advertise(struct httpd *httpd, const char *towards);
struct httpd *httpd_stop(struct httpd *httpd); /* takes NULL */

/* Heartbeats: each loop or thread that must not hang registers a name once and beats at least every
 * second; /healthz fails when one is older than 10 s. At most 32; names are static strings. */
int heartbeat_register(const char *name);
void heartbeat_beat(int heartbeat);
/* The loop has ended on purpose; it is no longer looked at. */
void heartbeat_end(int heartbeat);
/* What /healthz answers at a time: false, and a sentence in why, when one is too old. */
bool heartbeat_healthy(uint64_t now_ms, char *why, size_t why_bytes);
