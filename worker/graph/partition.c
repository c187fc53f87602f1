/* Cutting a snapshot and having the parts written. Who owns what is decided in assign.c, what a
 * part holds in part.c; here is what makes a partitioning of parts: threads, the manifest, and that
 * it appears as a whole. */
#include "worker/graph/partition.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "common/file.h"
#include "common/lock.h"
#include "common/mem.h"
#include "worker/graph/balance.h"
#include "worker/graph/claim.h"
#include "worker/graph/manifest.h"
#include "worker/graph/order.h"
#include "worker/graph/part_links.h"

#define TELL_MS 100
#define TELL_NODES (1u << 20)

static void json_decref_p(json_t **json) {
    json_decref(*json);
}
static void close_p(int *fd) {
    if (*fd >= 0)
        close(*fd);
}

static int check_request(const struct snapshot *s, const struct partition_options *options,
                         struct error *reterr) {
    uint64_t most = s->nodes < PARTS_MAX ? s->nodes : PARTS_MAX;
    if (options->parts < 1 || options->parts > most)
        return error_set(reterr, ERR_RANGE, "%u parts of %s@%s: there must be 1 to %llu",
                         options->parts, s->name, s->version, (unsigned long long)most);
    if (options->halo > HALO_MAX)
        return error_set(reterr, ERR_RANGE, "halo of %u hops: there can be 0 to %u", options->halo,
                         HALO_MAX);
    return 0;
}

/* The parts' nodes, part by part in the order of nearness, by counting. */
static void list_nodes(uint64_t nodes, uint32_t parts, const int32_t *owner, const int32_t *order,
                       int32_t *listed, uint64_t *starts) {
    _cleanup_(mem_free_p) uint64_t *at = mem_array(parts, sizeof *at);
    for (uint64_t i = 0; i < nodes; i++)
        starts[owner[i] + 1]++;
    for (uint32_t k = 0; k < parts; k++) {
        at[k] = starts[k];
        starts[k + 1] += starts[k];
    }
    for (uint64_t i = 0; i < nodes; i++)
        listed[at[owner[order[i]]]++] = order[i];
}

static int count_edge_cut(const struct snapshot *s, const int32_t *owner, const struct watch *watch,
                          uint64_t *ret, struct error *reterr) {
    const int64_t *indptr = s->indptr.data;
    const int32_t *indices = s->indices.data;
    uint64_t edge_cut = 0;
    for (uint64_t i = 0; i < s->nodes; i++) {
        for (int64_t e = indptr[i]; e < indptr[i + 1]; e++)
            edge_cut += owner[i] != owner[indices[e]];
        int r = i % TELL_NODES ? 0 : watch_step(watch, "counting", "nodes", i, s->nodes, reterr);
        if (r < 0)
            return r;
    }
    *ret = edge_cut;
    return 0;
}

/* Threads take one part after the other. */
struct crew {
    struct cut *cut;
    const char *dir;
    struct part *parts; /* [cut->parts] */
    atomic_uint next;
    sem_t ended; /* posted by a thread at its end */
};
struct hand {
    struct crew *crew;
    pthread_t thread;
    int r;
    struct error err;
};

static void *hand_work(void *arg) {
    struct hand *hand = arg;
    struct crew *crew = hand->crew;
    struct desk desk;
    desk_init(&desk, crew->cut->snapshot->nodes);
    while (hand->r == 0 && !atomic_load(&crew->cut->stop)) {
        uint32_t number = atomic_fetch_add(&crew->next, 1);
        if (number >= crew->cut->parts)
            break;
        hand->r = part_write(crew->cut, &desk, number, crew->dir, &crew->parts[number], &hand->err);
    }
    if (hand->r < 0)
        atomic_store(&crew->cut->stop, true);
    desk_done(&desk);
    sem_post(&crew->ended);
    return NULL;
}

static uint32_t count_cores(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

/* What is to be written is known for the parts that somebody has begun; the others are taken to be
 * like them. */
static int tell_written(const struct cut *cut, const struct watch *watch, struct error *reterr) {
    uint64_t written = atomic_load(&cut->written), expected = atomic_load(&cut->expected);
    uint64_t collected = atomic_load(&cut->collected), nodes = cut->snapshot->nodes;
    if (collected == 0)
        return watch_step(watch, "collecting", NULL, 0, 0, reterr);
    if (collected == nodes && written >= expected)
        return watch_step(watch, "checksums", NULL, 0, 0, reterr);
    uint64_t total = (uint64_t)((double)expected * (double)nodes / (double)collected);
    return watch_step(watch, "writing", "bytes", written, total, reterr);
}

/* Waits for all threads; returns the watch's word. */
static int crew_await(struct crew *crew, uint32_t started, const struct watch *watch,
                      struct error *reterr) {
    int r = 0;
    for (uint32_t ended = 0; ended < started;) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += TELL_MS * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
        ended += sem_clockwait(&crew->ended, CLOCK_MONOTONIC, &until) == 0;
        if (r == 0)
            r = tell_written(crew->cut, watch, reterr);
        if (r < 0)
            atomic_store(&crew->cut->stop, true);
    }
    return r;
}

static int write_parts(struct cut *cut, const struct watch *watch, const char *dir,
                       struct part *parts, struct error *reterr) {
    struct crew crew = {.cut = cut, .dir = dir, .parts = parts};
    uint32_t cores = count_cores(), wanted = cut->parts < cores ? cut->parts : cores, started = 0;
    _cleanup_(mem_free_p) struct hand *hands = mem_array(wanted, sizeof *hands);
    int r = 0;
    sem_init(&crew.ended, 0, 0);
    for (; started < wanted; started++) {
        hands[started].crew = &crew;
        if (pthread_create(&hands[started].thread, NULL, hand_work, &hands[started]) != 0)
            break; /* those that there are will do */
    }
    if (started == 0)
        r = error_set(reterr, ERR_NO_MEMORY, "the machine refused a thread for writing parts");
    else
        r = crew_await(&crew, started, watch, reterr);
    for (uint32_t t = 0; t < started; t++) {
        pthread_join(hands[t].thread, NULL);
        /* A thread that only heard of another's trouble is not the one to be told of. */
        if (hands[t].r < 0 && (r == 0 || hands[t].r != ERR_INTERRUPTED) && r != ERR_INTERRUPTED) {
            r = hands[t].r;
            if (reterr)
                *reterr = hands[t].err;
        }
    }
    sem_destroy(&crew.ended);
    return r;
}

static json_t *describe_part(const struct part *part, uint32_t halo) {
    json_t *hops = json_array();
    for (uint32_t h = 0; h <= halo; h++)
        json_array_append_new(hops, json_integer((json_int_t)part->hop_nodes[h]));
    double share = 1 - (double)part->owned / (double)part->hop_nodes[halo];
    return json_pack("{s:I,s:I,s:I,s:I,s:o,s:f}", "owned", (json_int_t)part->owned, "owned_edges",
                     (json_int_t)part->owned_edges, "edges", (json_int_t)part->edges, "train",
                     (json_int_t)part->train, "hop_nodes", hops, "halo_share", share);
}

static json_t *describe(const struct cut *cut, const struct balance *balance,
                        const struct part *parts, enum assign_method method, uint64_t seed,
                        uint64_t edge_cut) {
    json_t *manifest = json_pack(
        "{s:s,s:i,s:i,s:s,s:I,s:I,s:I,s:{s:f,s:f,s:f}}", "snapshot_digest", cut->snapshot->digest,
        "parts", (int)cut->parts, "halo", (int)cut->halo, "method", assign_method_name(method),
        "seed", (json_int_t)seed, "edges", (json_int_t)cut->snapshot->edges, "edge_cut",
        (json_int_t)edge_cut, "balance", "nodes", balance_ratio(balance, BALANCE_NODES), "edges",
        balance_ratio(balance, BALANCE_EDGES), "train", balance_ratio(balance, BALANCE_TRAIN));
    json_t *list = json_array();
    json_object_set_new(manifest, "part", list);
    for (uint32_t k = 0; k < cut->parts; k++)
        json_array_append_new(list, describe_part(&parts[k], cut->halo));
    return manifest;
}

static int fill(struct cut *cut, const struct partition_options *options, enum assign_method method,
                const char *tmp, struct error *reterr) {
    const struct snapshot *s = cut->snapshot;
    uint64_t edge_cut = 0;
    struct balance balance;
    _cleanup_(mem_free_p) struct part *parts = mem_array(cut->parts, sizeof *parts);
    balance_init(&balance, s, cut->parts);
    balance_count(&balance, cut->owner);
    cut->train_total = balance.total[BALANCE_TRAIN];
    for (uint32_t k = 0; k < cut->parts; k++)
        if (balance.load[k][BALANCE_TRAIN] > cut->train_max)
            cut->train_max = balance.load[k][BALANCE_TRAIN];
    for (uint32_t k = 0; k < cut->parts; k++)
        if (balance.load[k][BALANCE_EDGES] > cut->edges_max)
            cut->edges_max = balance.load[k][BALANCE_EDGES];
    int r = count_edge_cut(s, cut->owner, &options->watch, &edge_cut, reterr);
    if (r == 0)
        r = write_parts(cut, &options->watch, tmp, parts, reterr);
    if (r == 0) {
        _cleanup_(json_decref_p) json_t *manifest =
            describe(cut, &balance, parts, method, options->seed, edge_cut);
        r = manifest_write(tmp, manifest, reterr);
    }
    balance_done(&balance);
    return r;
}

/* Puts tmp where dir is or may be. One that is there is exchanged for it at a stroke. */
static int commit(const char *tmp, const char *dir, struct error *reterr) {
    if (!file_exists(dir))
        return dir_commit(tmp, dir, reterr);
    _cleanup_(mem_free_p) char *beside = mem_printf("%s.new", dir);
    int r = dir_commit(tmp, beside, reterr);
    if (r < 0)
        return r;
    if (renameat2(AT_FDCWD, beside, AT_FDCWD, dir, RENAME_EXCHANGE) == 0)
        return dir_remove(beside, reterr); /* the old one */
    /* A file system that cannot: for a moment there is none. */
    _cleanup_(mem_free_p) char *old = mem_printf("%s.old", dir);
    if (rename(dir, old) < 0 || rename(beside, dir) < 0)
        return error_set(reterr, ERR_IO, "%s: cannot be replaced by %s: %m", dir, beside);
    return dir_remove(old, reterr);
}

/* Owners, order, files. */
static int cut_snapshot(const struct snapshot *s, const struct partition_options *options,
                        enum assign_method method, const char *dir, struct error *reterr) {
    const struct assign_options assign = {
        .parts = options->parts, .method = method, .seed = options->seed};
    _cleanup_(mem_free_p) int32_t *owner = mem_array(s->nodes, sizeof *owner);
    _cleanup_(mem_free_p) int32_t *listed = mem_array(s->nodes, sizeof *listed);
    _cleanup_(mem_free_p) uint64_t *starts = mem_array((size_t)options->parts + 1, sizeof *starts);
    int r = assign_owners(s, &assign, &options->watch, owner, reterr);
    if (r < 0)
        return r;
    int32_t *order = mem_array(s->nodes, sizeof *order);
    r = order_near(s->nodes, s->indptr.data, s->indices.data, &options->watch, order, reterr);
    if (r == 0)
        list_nodes(s->nodes, options->parts, owner, order, listed, starts);
    mem_free(order);
    if (r < 0)
        return r;

    _cleanup_(mem_free_p) char *tmp = NULL, *fresh = mem_printf("%s.part", dir);
    struct cut cut = {.snapshot = s,
                      .parts = options->parts,
                      .halo = options->halo,
                      .owner = owner,
                      .listed = listed,
                      .starts = starts};
    r = dir_create(fresh, &tmp, reterr);
    if (r < 0)
        return r;
    held_out_deal(s, options->parts, owner, cut.held);
    r = fill(&cut, options, method, tmp, reterr);
    held_out_done(cut.held);
    if (r == 0)
        return commit(tmp, dir, reterr);
    (void)dir_remove(tmp, NULL); /* the first error is the one to tell */
    return r;
}

/* One process at a time cuts a snapshot: so what others left can be told from what they still
 * write. *ret_fd: to be closed; -1 where the file system has no locks. */
static int lock_partitions(const char *all, const struct watch *watch, int *ret_fd,
                           struct error *reterr) {
    int fd = open(all, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
    if (fd < 0)
        return error_set(reterr, ERR_IO, "%s: %m", all);
    while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno != EWOULDBLOCK && errno != EINTR) {
            close(fd);
            *ret_fd = -1;
            return 0;
        }
        r = watch_step(watch, "waiting for another process that cuts", NULL, 0, 0, reterr);
        if (r < 0) {
            close(fd);
            return r;
        }
        nanosleep(&(struct timespec){.tv_nsec = TELL_MS * 1000000L}, NULL);
    }
    *ret_fd = fd;
    return 0;
}

/* What a process that was killed left: everything but "<parts>x<halo>". */
static int remove_leftovers(const char *all, struct error *reterr) {
    char **names = NULL;
    size_t count = 0;
    int r = dir_list(all, &names, &count, reterr);
    for (size_t i = 0; r == 0 && i < count; i++) {
        unsigned parts, halo;
        char dot;
        if (sscanf(names[i], "%ux%u%c", &parts, &halo, &dot) != 3 || dot != '.')
            continue;
        _cleanup_(mem_free_p) char *path = mem_printf("%s/%s", all, names[i]);
        r = dir_remove(path, reterr);
    }
    dir_list_free(names, count);
    return r;
}

int partition_run(const struct snapshot *s, const struct partition_options *options,
                  struct partition_outcome *ret, struct error *reterr) {
    int r = check_request(s, options, reterr);
    if (r < 0)
        return r;
    struct partition_outcome outcome = {.existed = true};
    _cleanup_(mem_free_p) char *all = mem_printf("%s/partitions", s->dir);
    _cleanup_(mem_free_p) char *dir = partition_dir(s->dir, options->parts, options->halo);
    _cleanup_(close_p) int lock = -1, used = -1, replaced = -1;
    if (!options->overwrite && file_exists(dir)) {
        *ret = outcome;
        return 0;
    }
    /* `graphps snapshots rm` shall not take the snapshot away, nor we a partitioning that a run
     * reads: its workers may open it again. */
    r = claim_take(s->dir, &used, reterr);
    if (r == 0 && file_exists(dir))
        r = claim_take_alone(dir, &replaced, reterr);
    if (r == 0)
        r = dir_make(all, reterr);
    if (r == 0)
        r = lock_partitions(all, &options->watch, &lock, reterr);
    if (r == 0 && lock >= 0)
        r = remove_leftovers(all, reterr);
    if (r < 0)
        return r;
    if (options->overwrite || !file_exists(dir)) { /* another may have made it meanwhile */
        const struct assign_options assign = {.parts = options->parts,
                                              .method = options->method,
                                              .memory_bytes = options->memory_bytes};
        outcome.existed = false;
        outcome.method = assign_choose(s, &assign, outcome.why, sizeof outcome.why);
        r = cut_snapshot(s, options, outcome.method, dir, reterr);
    }
    if (r == 0)
        *ret = outcome;
    return r;
}

int partition_make(const struct snapshot *snapshot, uint32_t parts, uint32_t halo, uint64_t seed,
                   bool *ret_existed, struct error *reterr) {
    const struct partition_options options = {.parts = parts, .halo = halo, .seed = seed};
    struct partition_outcome outcome;
    int r = partition_run(snapshot, &options, &outcome, reterr);
    if (r == 0)
        *ret_existed = outcome.existed;
    return r;
}

char *partition_dir(const char *snapshot_dir, uint32_t parts, uint32_t halo) {
    return mem_printf("%s/partitions/%ux%u", snapshot_dir, parts, halo);
}
