/* Rows that no gradient has touched for long are let go: a table of everything that was ever seen
 * would grow for ever. They come back with their initial values when they are met again. */
#include <inttypes.h>

#include "common/log.h"
#include "common/metrics.h"
#include "server/server.h"

/* Finished steps of the slowest worker that counts; 0: none does. */
static uint64_t slowest_clock(const struct server *server) {
    const struct roster *roster = &server->roster;
    uint64_t slowest = UINT64_MAX;
    for (size_t rank = 0; rank < roster->workers; rank++) {
        uint64_t clock = atomic_load(&roster->clock[rank]);
        if (atomic_load(&roster->from[rank]) != ROSTER_ABSENT && clock < slowest)
            slowest = clock;
    }
    return slowest == UINT64_MAX ? 0 : slowest;
}

bool server_evict_due(const struct server *server) {
    uint64_t after = (uint64_t)server->config->servers_evict_after;
    if (after == 0 || server->table_count == 0)
        return false;
    /* Looked for in steps of a quarter of the time, which is how exact it is. */
    uint64_t slowest = slowest_clock(server), done = atomic_load(&server->evicted_clock);
    return slowest > after && slowest - after >= done + (after + 3) / 4;
}

void server_evict(struct server *server) {
    pthread_rwlock_rdlock(&server->admission);
    bool due = server_evict_due(server); /* then the tables are there, and stay */
    pthread_rwlock_unlock(&server->admission);
    if (!due)
        return;
    uint64_t before = slowest_clock(server) - (uint64_t)server->config->servers_evict_after;
    size_t rows = 0;
    for (size_t i = 0; i < server->table_count; i++)
        for (uint32_t stripe = 0; stripe < LAYOUT_STRIPES; stripe++)
            rows += table_evict(server->tables[i], stripe,
                                before < UINT32_MAX ? (uint32_t)before : UINT32_MAX);
    atomic_store(&server->evicted_clock, before);
    metric_add(METRIC_ROWS_EVICTED, rows);
    log_debug("rows evicted", "before_clock=%" PRIu64 " rows=%zu", before, rows);
}
