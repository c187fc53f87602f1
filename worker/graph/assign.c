/* Choosing a method, cutting by lot, and seeing to it that no part is left empty. */
#include "worker/graph/assign.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "worker/graph/assign_metis.h"
#include "worker/graph/balance.h"
#include "worker/graph/stream.h"

enum { STREAM_LOTS = 0x6c6f7473 };

/* Nodes of about the same degree are dealt out together. */
#define DEGREE_CLASSES 33

static const char *const method_names[] = {
    [ASSIGN_AUTO] = "auto",     [ASSIGN_NONE] = "none",     [ASSIGN_METIS] = "metis",
    [ASSIGN_FENNEL] = "fennel", [ASSIGN_RANDOM] = "random",
};

const char *assign_method_name(enum assign_method method) {
    return method_names[method];
}

bool assign_method_parse(const char *name, enum assign_method *ret) {
    for (size_t i = 0; i < ARRAY_LEN(method_names); i++)
        if (strcmp(name, method_names[i]) == 0) {
            *ret = (enum assign_method)i;
            return true;
        }
    return false;
}

static uint64_t read_number(const char *path, const char *key) {
    FILE *file = fopen(path, "re");
    char line[256];
    uint64_t number = UINT64_MAX;
    size_t len = strlen(key);
    while (file && number == UINT64_MAX && fgets(line, sizeof line, file)) {
        char *end;
        if (strncmp(line, key, len) != 0)
            continue;
        unsigned long long value = strtoull(line + len, &end, 10);
        if (end != line + len)
            number = value;
    }
    if (file)
        fclose(file);
    return number;
}

/* What the kernel says it can give without swapping, or the container's share of it. */
static uint64_t memory_available(void) {
    uint64_t kib = read_number("/proc/meminfo", "MemAvailable:");
    uint64_t bytes = kib < UINT64_MAX / 1024 ? kib * 1024 : UINT64_MAX;
    uint64_t most = read_number("/sys/fs/cgroup/memory.max", "");
    uint64_t used = read_number("/sys/fs/cgroup/memory.current", "");
    /* Files in the page cache count as used, but make way. */
    uint64_t cached = read_number("/sys/fs/cgroup/memory.stat", "file ");
    if (most == UINT64_MAX || used == UINT64_MAX)
        return bytes;
    if (cached != UINT64_MAX)
        used -= cached < used ? cached : used;
    uint64_t left = most > used ? most - used : 0;
    return left < bytes ? left : bytes;
}

enum assign_method assign_choose(const struct snapshot *s, const struct assign_options *options,
                                 char *why, size_t why_bytes) {
    why[0] = 0;
    if (options->parts == 1)
        return ASSIGN_NONE;
    if (options->method != ASSIGN_AUTO)
        return options->method;
    uint64_t entries = assign_metis_entries(s), needed = assign_metis_bytes(s);
    uint64_t there = options->memory_bytes ? options->memory_bytes : memory_available();
    if (entries > INT32_MAX)
        snprintf(why, why_bytes,
                 "METIS counts in 32 bits and takes at most 2^31 - 1 edges, not %" PRIu64, entries);
    else if (needed > there)
        snprintf(why, why_bytes,
                 "METIS would need about %.1f GB of memory, and %.1f GB are available",
                 (double)needed * 1e-9, (double)there * 1e-9);
    return why[0] ? ASSIGN_FENNEL : ASSIGN_METIS;
}

/* METIS may leave a part without nodes, or without one of the few training nodes: a worker that
 * has none cannot contribute. Such a part gets one from the part that has most. Does nothing when
 * there are fewer than parts. */
static void spread(struct balance *balance, int kind, int32_t *owner) {
    balance_count(balance, owner);
    for (uint32_t k = 0; k < balance->parts && balance->total[kind] >= balance->parts; k++) {
        if (balance->load[k][kind])
            continue;
        uint32_t rich = 0;
        for (uint32_t other = 1; other < balance->parts; other++)
            if (balance->load[other][kind] > balance->load[rich][kind])
                rich = other;
        uint64_t i = 0, weights[BALANCE_KINDS];
        while (balance_weigh(balance, i, weights), !weights[kind] || (uint32_t)owner[i] != rich)
            i++;
        owner[i] = (int32_t)k;
        balance_take(balance, rich, weights);
        balance_add(balance, k, weights);
    }
}

/* By lot among nodes of one class: training nodes or others, with about the same number of edges.
 * Each class goes on dealing where the one before ended. */
static void cut_by_lot(const struct balance *balance, uint64_t seed, int32_t *owner) {
    uint64_t n = balance->snapshot->nodes, key = rng_key(seed, STREAM_LOTS);
    _cleanup_(mem_free_p) int32_t *dealt = mem_array(n, sizeof *dealt);
    _cleanup_(mem_free_p) uint8_t *class_of = mem_array(n, sizeof *class_of);
    uint64_t starts[2 * DEGREE_CLASSES + 1] = {0};
    for (uint64_t i = 0; i < n; i++) {
        uint64_t weights[BALANCE_KINDS];
        balance_weigh(balance, i, weights);
        unsigned bits =
            weights[BALANCE_EDGES] ? 64 - (unsigned)__builtin_clzll(weights[BALANCE_EDGES]) : 0;
        class_of[i] = (uint8_t)((weights[BALANCE_TRAIN] ? DEGREE_CLASSES : 0) +
                                (bits < DEGREE_CLASSES ? bits : DEGREE_CLASSES - 1));
        starts[class_of[i] + 1]++;
    }
    for (size_t c = 0; c < 2 * DEGREE_CLASSES; c++)
        starts[c + 1] += starts[c];
    uint64_t at[2 * DEGREE_CLASSES];
    memcpy(at, starts, sizeof at);
    for (uint64_t i = 0; i < n; i++)
        dealt[at[class_of[i]]++] = (int32_t)i;
    for (size_t c = 0; c < 2 * DEGREE_CLASSES; c++)
        for (uint64_t i = starts[c + 1]; i > starts[c] + 1; i--) {
            uint64_t j = starts[c] + rng_below(rng_at(key, i), i - starts[c]);
            int32_t swap = dealt[i - 1];
            dealt[i - 1] = dealt[j];
            dealt[j] = swap;
        }
    for (uint64_t i = 0; i < n; i++)
        owner[dealt[i]] = (int32_t)(i % balance->parts);
}

int assign_owners(const struct snapshot *s, const struct assign_options *options,
                  const struct watch *watch, int32_t *owner, struct error *reterr) {
    memset(owner, 0, s->nodes * sizeof *owner);
    if (options->parts == 1)
        return 0;
    struct balance balance;
    balance_init(&balance, s, options->parts);
    int r = 0;
    if (options->method == ASSIGN_RANDOM)
        cut_by_lot(&balance, options->seed, owner);
    else if (options->method == ASSIGN_FENNEL)
        r = stream_fennel(&balance, options->seed, watch, owner, reterr);
    else
        r = assign_metis(&balance, options->seed, watch, owner, reterr);
    if (r == 0) {
        spread(&balance, BALANCE_NODES, owner);
        spread(&balance, BALANCE_TRAIN, owner);
        stream_mend(&balance, owner);
    }
    balance_done(&balance);
    return r;
}
