/* Starting and supervising a job's processes. Shard 0 is started first; when it listens, the other
 * shards; when all listen, the workers. What the run does is shard 0's business, not ours; when it
 * leaves with exit code 0, the job is done, whoever is left. */
#include "cli/launch.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/job_plan.h"
#include "common/file.h"
#include "common/mem.h"

#define BACKOFF_FIRST_MS 200
#define ARGS_MAX 16
#define LEAVE_MS 2000       /* after shard 0 the others leave by themselves within this, */
#define STRAGGLER_MS 2000   /* or, after SIGTERM, within this */
#define SILENT_LEASES 3     /* a shard that is silent for so many leases hangs, */
#define SILENT_MIN_MS 10000 /* but not before this */

static int launch_find_programs(char **ret, struct error *reterr) {
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0)
        return error_set(reterr, ERR_INTERNAL, "cannot find out where graphps lies");
    self[n] = '\0';
    *strrchr(self, '/') = '\0';
    _cleanup_(mem_free_p) char *server = mem_printf("%s/graphps-server", self);
    if (!file_exists(server))
        return error_set(reterr, ERR_NOT_FOUND,
                         "%s does not exist; graphps-server and graphps-worker are expected beside "
                         "graphps",
                         server);
    *ret = mem_strdup(self);
    return 0;
}

static void launch_prepare(struct launch *launch, size_t i) {
    bool shard = i < launch->shards;
    size_t number = shard ? i : i - launch->shards;
    char name[32];
    snprintf(name, sizeof name, "%s %zu", shard ? "shard" : "worker", number);
    char *log = mem_printf("%s/logs/%s-%zu.log", launch->config->job_dir,
                           shard ? "shard" : "worker", number);

    size_t most = ARGS_MAX + 2 * launch->set_count, n = 0;
    char **argv = mem_array(most, sizeof *argv);
    argv[n++] = mem_printf("%s/graphps-%s", launch->programs, shard ? "server" : "worker");
    argv[n++] = mem_printf("--config=%s", launch->config_path);
    argv[n++] = mem_printf("--%s=%zu", shard ? "shard" : "rank", number);
    for (size_t k = 0; k < launch->set_count; k++)
        argv[n++] = mem_printf("--set=%s", launch->sets[k]);
    /* The children must agree with us on these, whatever directory they think they are in. */
    argv[n++] = mem_printf("--set=job.dir=%s", launch->config->job_dir);
    argv[n++] = mem_printf("--set=data.root=%s", launch->config->data_root);
    if (shard)
        argv[n++] = mem_printf("--port-file=%s/ports/shard-%zu", launch->config->job_dir, number);
    else if (launch->config->train_threads == 0)
        argv[n++] = mem_printf("--set=train.threads=%d", job_plan_threads(launch->config));
    process_init(&launch->processes[i], name, log, argv);
}

/* --set assignments that depend on where shards listen; replaced at every start. */
static void launch_set_addresses(struct launch *launch, struct process *process, bool shard,
                                 size_t number) {
    if (launch->config->servers_addresses.count > 0)
        return;
    size_t n = 0;
    while (process->argv[n] && strncmp(process->argv[n], "--set=servers.addresses=", 24) != 0)
        n++;
    for (size_t k = n; process->argv[k]; k++) {
        mem_free(process->argv[k]);
        process->argv[k] = NULL;
    }
    char *list = mem_strdup("--set=servers.addresses=");
    for (size_t k = 0; k < launch->shards; k++) {
        char *longer = mem_printf("%s%s%s", list, k ? "," : "",
                                  launch->addresses[k] ? launch->addresses[k] : "127.0.0.1:0");
        mem_free(list);
        list = longer;
    }
    process->argv[n++] = list;
    if (shard) /* a shard that comes back must be found where it was */
        process->argv[n++] =
            mem_printf("--set=servers.listen=%s",
                       launch->addresses[number] ? launch->addresses[number] : "127.0.0.1:0");
}

int launch_init(struct launch *launch, const struct config *config, const char *config_path,
                const char *const *sets, size_t set_count, struct error *reterr) {
    *launch = (struct launch){.config = config,
                              .config_path = config_path,
                              .sets = sets,
                              .set_count = set_count,
                              .shards = (size_t)config->servers_count,
                              .workers = (size_t)config->workers_count};
    int r = launch_find_programs(&launch->programs, reterr);
    if (r < 0)
        return r;
    _cleanup_(mem_free_p) char *logs = mem_printf("%s/logs", config->job_dir);
    _cleanup_(mem_free_p) char *ports = mem_printf("%s/ports", config->job_dir);
    _cleanup_(mem_free_p) char *addresses = mem_printf("%s/addresses", config->job_dir);
    if ((r = dir_make(logs, reterr)) < 0 || (r = dir_remove(ports, reterr)) < 0 ||
        (r = dir_make(ports, reterr)) < 0)
        return r;
    unlink(addresses);
    launch->processes = mem_array(launch->shards + launch->workers, sizeof *launch->processes);
    launch->addresses = mem_array(launch->shards, sizeof *launch->addresses);
    for (size_t i = 0; i < launch->shards + launch->workers; i++)
        launch_prepare(launch, i);
    return 0;
}

void launch_done(struct launch *launch) {
    launch_signal(launch, SIGKILL);
    for (size_t i = 0; launch->processes && i < launch->shards + launch->workers; i++) {
        while (launch->processes[i].pid != 0 && !process_reap(&launch->processes[i]))
            usleep(1000); /* killed: the kernel is about to hand it over */
        process_done(&launch->processes[i]);
    }
    for (size_t k = 0; launch->addresses && k < launch->shards; k++)
        mem_free(launch->addresses[k]);
    mem_free(launch->processes);
    mem_free(launch->addresses);
    mem_free(launch->programs);
}

static int launch_start(struct launch *launch, size_t i, struct error *reterr) {
    bool shard = i < launch->shards;
    launch_set_addresses(launch, &launch->processes[i], shard, shard ? i : i - launch->shards);
    return process_start(&launch->processes[i], reterr);
}

/* Reads the port files that have appeared; true when all shards listen. */
static bool launch_read_ports(struct launch *launch) {
    bool all = true;
    for (size_t k = 0; k < launch->shards; k++) {
        if (launch->addresses[k])
            continue;
        _cleanup_(mem_free_p) char *path =
            mem_printf("%s/ports/shard-%zu", launch->config->job_dir, k);
        char *text;
        size_t len;
        if (file_read_whole(path, 1024, &text, &len, NULL) < 0) {
            all = false;
            continue;
        }
        text[strcspn(text, "\n")] = '\0';
        launch->addresses[k] = text;
    }
    return all;
}

static int launch_write_addresses(struct launch *launch, struct error *reterr) {
    _cleanup_(mem_free_p) char *text = mem_strdup("");
    for (size_t k = 0; k < launch->shards; k++) {
        char *longer = mem_printf("%s%s\n", text, launch->addresses[k]);
        mem_free(text);
        text = longer;
    }
    _cleanup_(mem_free_p) char *path = mem_printf("%s/addresses", launch->config->job_dir);
    return file_write_whole(path, text, strlen(text), reterr);
}

/* Starts what may start now. */
static int launch_advance(struct launch *launch, struct error *reterr) {
    int r = 0;
    bool all = launch_read_ports(launch);
    for (size_t k = 0; k < launch->shards && r == 0; k++) {
        struct process *process = &launch->processes[k];
        if (process->pid == 0 && !process->exited && (k == 0 || launch->addresses[0]))
            r = launch_start(launch, k, reterr);
    }
    if (r < 0 || !all || launch->workers_started)
        return r;
    r = launch_write_addresses(launch, reterr);
    for (size_t k = 0; k < launch->workers && r == 0; k++)
        r = launch_start(launch, launch->shards + k, reterr);
    launch->workers_started = true;
    return r;
}

/* The error whose exit code is the child's, so that the launcher ends with the same. */
static int process_error(const struct process *process) {
    switch (process->killed_by ? 75 : process->exit_code) {
    case 75:
        return ERR_UNREACHABLE;
    case 76:
        return ERR_PROTOCOL;
    case 77:
        return ERR_NOT_ALLOWED;
    case 78:
        return ERR_CONFIG;
    default:
        return ERR_INTERNAL;
    }
}

/* 76, 77 and 78 are faults that no restart cures (docs/guarantees.md, G9). */
static bool process_curable(const struct process *process) {
    return process->killed_by || process->exit_code == 70 || process->exit_code == 75;
}

static bool worker_left(const struct process *worker) {
    return worker->exited && worker->exit_code == 0 && !worker->killed_by;
}

static bool launch_workers_done(const struct launch *launch) {
    for (size_t i = launch->shards; i < launch->shards + launch->workers; i++)
        if (!worker_left(&launch->processes[i]))
            return false;
    return true;
}

static int launch_bury(struct launch *launch, struct process *process, uint64_t now_ms,
                       launch_note *note, void *ctx, struct error *reterr) {
    char ending[64], text[256];
    process_ending(process, ending, sizeof ending);
    if ((process->exit_code == 0 && !process->killed_by) || launch->ending ||
        launch_job_done(launch))
        return 0;
    if (!process_curable(process) || process->restarts >= launch->config->launch_max_restarts) {
        launch->failed = process;
        return error_set(reterr, process_error(process), "%s %s%s; its log is %s", process->name,
                         ending,
                         process_curable(process) ? " once more than launch.max_restarts allows"
                                                  : ", which no restart cures",
                         process->log_path);
    }
    uint64_t pause_ms = BACKOFF_FIRST_MS << (process->restarts < 5 ? process->restarts : 5);
    process->restarts++;
    process->restart_at_ms = now_ms + pause_ms;
    snprintf(text, sizeof text, "%s %s; restart %u of %ld in %lu ms", process->name, ending,
             process->restarts, (long)launch->config->launch_max_restarts, (unsigned long)pause_ms);
    note(ctx, text);
    return 0;
}

/* A worker that was let go at the end of a run which then goes on after all. */
static void launch_recall(struct launch *launch, uint64_t now_ms, launch_note *note, void *ctx) {
    for (size_t i = launch->shards; i < launch->shards + launch->workers; i++) {
        struct process *worker = &launch->processes[i];
        if (!worker_left(worker) || worker->restart_at_ms != 0)
            continue;
        char text[128];
        snprintf(text, sizeof text, "%s has left, but the job goes on: starting it again",
                 worker->name);
        note(ctx, text);
        worker->restart_at_ms = now_ms;
    }
}

/* Workers are let go when the last checkpoint is written or has failed: a shard alone would wait
 * for workers that never come. */
static int launch_restart(struct launch *launch, size_t i, uint64_t now_ms, launch_note *note,
                          void *ctx, struct error *reterr) {
    struct process *process = &launch->processes[i];
    if (!launch_workers_done(launch)) {
        int r = launch_start(launch, i, reterr);
        if (r == 0 && i == 0)
            launch_recall(launch, now_ms, note, ctx);
        return r;
    }
    char ending[64];
    launch->failed = process;
    return error_set(reterr, process_error(process),
                     "%s %s when all workers had finished; its log is %s", process->name,
                     process_ending(process, ending, sizeof ending), process->log_path);
}

bool launch_job_done(const struct launch *launch) {
    const struct process *first = &launch->processes[0];
    return first->exited && first->exit_code == 0 && !first->killed_by;
}

/* The job is done and on disk, or shard 0 has ended it. Whoever is here still was given up by shard
 * 0 (its lease ended while it was stopped or cut off) and would wait for shards that never come
 * back. */
static void launch_end_stragglers(struct launch *launch, uint64_t now_ms, launch_note *note,
                                  void *ctx) {
    if (launch->done_ms == 0)
        launch->done_ms = now_ms;
    if (now_ms - launch->done_ms < LEAVE_MS)
        return;
    bool late = now_ms - launch->done_ms >= LEAVE_MS + STRAGGLER_MS;
    for (size_t i = 0; i < launch->shards + launch->workers; i++) {
        struct process *process = &launch->processes[i];
        if (process->pid == 0 && process->restart_at_ms == 0)
            continue;
        if (!launch->stragglers_told) {
            char text[128];
            snprintf(text, sizeof text,
                     launch->ending ? "%s has not left by itself: ending it"
                                    : "%s was left behind: the job is done without it",
                     process->name);
            note(ctx, text);
        }
        process->restart_at_ms = 0;
        if (!launch->stragglers_told || late)
            process_signal(process, late ? SIGKILL : SIGTERM);
    }
    launch->stragglers_told = true;
}

void launch_heed_silence(struct launch *launch, size_t shard, uint64_t heard_ms, uint64_t silent_ms,
                         launch_note *note, void *ctx) {
    struct process *process = &launch->processes[shard];
    uint64_t most_ms = SILENT_LEASES * (uint64_t)launch->config->workers_lease_ms;
    if (most_ms < SILENT_MIN_MS)
        most_ms = SILENT_MIN_MS;
    /* Heard before it was started was another life: this one may still be restoring. */
    if (launch->ending || process->pid == 0 || process->hung || heard_ms < process->started_ms ||
        silent_ms < most_ms)
        return;
    char text[128];
    snprintf(text, sizeof text,
             "%s has been silent for %.0f s, but its process is there: killing it", process->name,
             (double)silent_ms / 1000);
    note(ctx, text);
    process->hung = true;
    process_signal(process, SIGKILL);
}

enum launch_state launch_step(struct launch *launch, uint64_t now_ms, launch_note *note, void *ctx,
                              struct error *reterr) {
    bool alive = false;
    for (size_t i = 0; i < launch->shards + launch->workers; i++) {
        struct process *process = &launch->processes[i];
        if (process_reap(process) && launch_bury(launch, process, now_ms, note, ctx, reterr) < 0)
            return LAUNCH_FAILED;
        if (process->restart_at_ms != 0 && now_ms >= process->restart_at_ms && !launch->ending &&
            !launch_job_done(launch) && launch_restart(launch, i, now_ms, note, ctx, reterr) < 0)
            return LAUNCH_FAILED;
        alive |= process->pid != 0 || (process->restart_at_ms != 0 && !launch->ending);
    }
    const struct process *first = &launch->processes[0];
    if (launch_job_done(launch) || (launch->ending && first->exited && first->pid == 0)) {
        launch_end_stragglers(launch, now_ms, note, ctx);
    } else if (!launch->ending) {
        if (launch_advance(launch, reterr) < 0)
            return LAUNCH_FAILED;
        alive |= !launch->workers_started;
    }
    return alive ? LAUNCH_RUNNING : LAUNCH_DONE;
}

void launch_interrupt(struct launch *launch) {
    launch->ending = true;
    process_signal(&launch->processes[0], SIGTERM);
}

void launch_signal(struct launch *launch, int signal_number) {
    launch->ending = true;
    for (size_t i = 0; launch->processes && i < launch->shards + launch->workers; i++)
        process_signal(&launch->processes[i], signal_number);
}

const char *launch_address(const struct launch *launch) {
    return launch->addresses[0];
}
