/* The parent of a benchmark of the engine: starts the shards (as `graphps train` does, without
 * workers), the clients and the pairs that speak bare TCP, lets bare and graphps measure in turn,
 * since a machine's speed varies from minute to minute, and makes medians of what they counted. */
#include "cli/bench.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli/launch.h"
#include "cli/query.h"
#include "common/file.h"
#include "common/lock.h"
#include "common/mem.h"

#define POLL_MS 100
#define START_MS 60000
#define START_MS_PER_MFLOAT 500 /* of the model: shards make its weights and the state for them */
#define SLACK_MS 60000 /* on top of ten times --seconds, before a process counts as stuck */
#define LEAVE_MS 2000
#define STATUS_MS 5000
#define SETTLE_MS 300 /* shards tell shard 0 their counters every 200 ms */
#define PHASES 4      /* of a repeat: rate and latency, of bare and of graphps */
#define LOAD_WARM_MS 200
#define LOAD_SECONDS 1e6 /* until it is stopped */
#define P999_SAMPLES_MIN 1000

struct child {
    char name[48];
    pid_t pid; /* 0: none, or reaped */
    int fd;    /* our end of its socket, -1: it has none */
    bool waited_for;
    struct bench_desk *desk;
};

struct crew {
    size_t count;
    struct child *children;
};

struct run {
    const struct bench_settings *settings;
    const struct bench_ops *ops;
    void *ctx;
    struct bench_plan plan;
    char *dir, *job_path; /* NULL: the shards are not ours */
    struct launch launch;
    bool launched;
    struct crew clients, askers, servers; /* the latter two speak bare TCP */
    struct crew load;                     /* a client, or none */
    uint64_t done, total;                 /* measurements */
    char stage[64];
};

/* --- children --- */

/* Forks: 1 in the child, 0 in the parent. With a desk there is a socket too; the child's end is
 * *ret_fd. */
static int child_fork(struct child *child, bool desk, int *ret_fd, struct error *reterr) {
    int ends[2] = {-1, -1};
    child->fd = -1;
    if (desk) {
        child->desk = mmap(NULL, sizeof *child->desk, PROT_READ | PROT_WRITE,
                           MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (child->desk == MAP_FAILED) {
            child->desk = NULL;
            return error_set(reterr, ERR_IO, "mmap: %s", strerror(errno));
        }
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
            return error_set(reterr, ERR_IO, "socketpair: %s", strerror(errno));
    }
    pid_t parent = getpid(), pid = fork();
    if (pid < 0) {
        int why = errno;
        close(ends[0]);
        close(ends[1]);
        return error_set(reterr, ERR_IO, "cannot start %s: %s", child->name, strerror(why));
    }
    if (pid == 0) {
        /* A Ctrl-C on the terminal reaches the parent alone, which ends its children. */
        setpgid(0, 0);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(75);
        signal(SIGINT, SIG_DFL);
        signal(SIGTERM, SIG_DFL);
        signal(SIGHUP, SIG_DFL);
        signal(SIGPIPE, SIG_IGN);
        if (desk)
            close(ends[0]);
        *ret_fd = ends[1];
        return 1;
    }
    if (desk)
        close(ends[1]);
    child->pid = pid;
    child->fd = ends[0];
    return 0;
}

static void child_end(struct child *child) {
    if (child->pid > 0) {
        kill(child->pid, SIGKILL);
        waitpid(child->pid, NULL, 0);
    }
    if (child->fd >= 0)
        close(child->fd);
    if (child->desk)
        munmap(child->desk, sizeof *child->desk);
}

static void crew_init(struct crew *crew, size_t count, const char *name) {
    crew->children = mem_array(count, sizeof *crew->children);
    crew->count = count;
    for (size_t i = 0; i < count; i++) {
        crew->children[i].fd = -1;
        snprintf(crew->children[i].name, sizeof crew->children[i].name, "%s %zu", name, i);
    }
}

static void crew_done(struct crew *crew) {
    for (size_t i = 0; i < crew->count; i++)
        child_end(&crew->children[i]);
    mem_free(crew->children);
}

/* --- waiting --- */

/* Is anything wrong that concerns the whole run? */
static int run_look(struct run *run, struct error *reterr) {
    char ending[64];
    run->ops->on_progress(run->ctx, run->stage, run->done, run->total);
    if (run->ops->interrupted(run->ctx))
        return error_set(reterr, ERR_INTERRUPTED, "interrupted");
    for (size_t i = 0; run->launched && i < run->launch.shards; i++) {
        struct process *shard = &run->launch.processes[i];
        if (!process_reap(shard) && !shard->exited)
            continue;
        process_print_tail(shard, 8);
        return error_set(reterr, ERR_INTERNAL, "%s %s", shard->name,
                         process_ending(shard, ending, sizeof ending));
    }
    return 0;
}

static int run_sleep(struct run *run, long ms, struct error *reterr) {
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
    return run_look(run, reterr);
}

/* Why a child ended: what it has left on its desk, if it could. */
static int child_failed(struct run *run, const struct child *child, struct error *reterr) {
    /* When a shard has died, that is the cause; the kernel may need a moment to say so. */
    if (run_sleep(run, POLL_MS, reterr) < 0)
        return reterr->code;
    const struct error *left = &child->desk->error;
    if (left->code)
        return error_set(reterr, left->code, "%s: %s", child->name, error_text(left));
    return error_set(reterr, ERR_INTERNAL, "%s has died", child->name);
}

/* What a child has written on its socket, or that it is gone. */
static int child_hear(struct run *run, struct child *child, struct error *reterr) {
    char word;
    ssize_t n = read(child->fd, &word, 1);
    if (n < 0 && errno == EINTR)
        return 0;
    child->waited_for = false;
    return n == 1 && word == BENCH_DONE ? 0 : child_failed(run, child, reterr);
}

/* Until all have said that they are done. */
static int crew_wait(struct run *run, struct crew *crew, uint64_t timeout_ms,
                     struct error *reterr) {
    uint64_t deadline_ms = time_now_ms() + timeout_ms;
    _cleanup_(mem_free_p) struct pollfd *items = mem_array(crew->count, sizeof *items);
    for (;;) {
        const struct child *late = NULL;
        for (size_t i = 0; i < crew->count; i++) {
            struct child *child = &crew->children[i];
            items[i] = (struct pollfd){.fd = child->waited_for ? child->fd : -1, .events = POLLIN};
            late = child->waited_for ? child : late;
        }
        if (!late)
            return 0;
        if (time_now_ms() > deadline_ms)
            return error_set(reterr, ERR_TIMEOUT, "%s: nothing heard for %llu s", late->name,
                             (unsigned long long)timeout_ms / 1000);
        int n = poll(items, crew->count, POLL_MS);
        int r = run_look(run, reterr);
        for (size_t i = 0; i < crew->count && n > 0 && r == 0; i++)
            if (items[i].revents)
                r = child_hear(run, &crew->children[i], reterr);
        if (r < 0)
            return r;
    }
}

static int crew_begin(struct run *run, struct crew *crew, const struct bench_order *order,
                      struct error *reterr) {
    for (size_t i = 0; i < crew->count; i++) {
        crew->children[i].desk->order = *order;
        atomic_store(&crew->children[i].desk->stop, false);
    }
    for (size_t i = 0; i < crew->count; i++) {
        struct child *child = &crew->children[i];
        child->waited_for = true;
        /* It may have ended while others measured. */
        if (send(child->fd, &(char){BENCH_GO}, 1, MSG_NOSIGNAL) != 1)
            return child_failed(run, child, reterr);
    }
    return 0;
}

static int crew_measure(struct run *run, struct crew *crew, const struct bench_order *order,
                        struct error *reterr) {
    int r = crew_begin(run, crew, order, reterr);
    if (r == 0)
        r = crew_wait(run, crew, (uint64_t)(order->seconds * 10000) + SLACK_MS, reterr);
    run->done++;
    return r;
}

/* --- starting and ending --- */

static int run_make_dir(struct run *run, struct error *reterr) {
    const char *parent = getenv("TMPDIR");
    struct config *config = run->settings->config;
    char *dir = mem_printf("%s/graphps-bench-XXXXXX", parent && *parent ? parent : "/tmp");
    if (!mkdtemp(dir)) {
        int r = error_set(reterr, ERR_IO, "cannot make the directory %s: %s", dir, strerror(errno));
        mem_free(dir);
        return r;
    }
    run->dir = dir;
    run->job_path = mem_printf("%s/job.yaml", dir);
    _cleanup_(mem_free_p) char *job_dir = mem_printf("job.dir=%s", dir);
    _cleanup_(mem_free_p) char *root = mem_printf("data.root=%s", dir);
    int r = config_set(config, job_dir, reterr);
    if (r < 0 || (r = config_set(config, root, reterr)) < 0)
        return r;
    char *text = NULL;
    size_t len;
    FILE *memory = open_memstream(&text, &len);
    config_print(config, memory);
    fclose(memory);
    r = file_write_whole(run->job_path, text, len, reterr);
    free(text);
    return r;
}

static void note(void *ctx, const char *text) {
    fprintf(stderr, "%s\n", text);
}

/* The launcher's shards, and in the place of its workers our clients. */
static int run_start_shards(struct run *run, struct error *reterr) {
    int r = launch_init(&run->launch, run->settings->config, run->job_path, NULL, 0, reterr);
    run->launched = true;
    run->launch.workers = 0;
    if (r < 0)
        return r;
    uint64_t deadline_ms = time_now_ms() + START_MS;
    while (!run->launch.workers_started) {
        uint64_t now_ms = time_now_ms();
        if (run->ops->interrupted(run->ctx))
            return error_set(reterr, ERR_INTERRUPTED, "interrupted");
        if (launch_step(&run->launch, now_ms, note, NULL, reterr) == LAUNCH_FAILED)
            return reterr->code;
        if (now_ms > deadline_ms)
            return error_set(reterr, ERR_TIMEOUT, "the shards do not listen after %d s",
                             START_MS / 1000);
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    run->plan.addresses = run->launch.addresses;
    return 0;
}

static int run_start_client(struct run *run, struct child *child, size_t rank,
                            struct error *reterr) {
    int fd, r = child_fork(child, true, &fd, reterr);
    if (r == 1)
        _exit(bench_client_main(&run->plan, (uint32_t)rank, fd, child->desk));
    child->waited_for = true; /* until it is welcome on all shards */
    return r < 0 ? r : run_look(run, reterr);
}

static int run_start_bare(struct run *run, size_t i, struct error *reterr) {
    struct child *server = &run->servers.children[i], *asker = &run->askers.children[i];
    int listener, fd;
    uint16_t port;
    int r = bench_bare_listen(&listener, &port, reterr);
    if (r < 0)
        return r;
    r = child_fork(server, false, &fd, reterr);
    if (r == 1)
        _exit(bench_bare_serve(listener));
    close(listener);
    if (r < 0 || (r = child_fork(asker, true, &fd, reterr)) < 0)
        return r;
    if (r == 1)
        _exit(bench_bare_main(&run->plan, port, fd, asker->desk));
    return 0;
}

static int run_start(struct run *run, struct error *reterr) {
    const struct config *config = run->settings->config;
    bool ours = config->servers_addresses.count == 0;
    int r = bench_plan_init(&run->plan, run->settings, reterr);
    if (r < 0 || (ours && (r = run_make_dir(run, reterr)) < 0))
        return r;
    run->ops->on_begin(run->ctx);
    snprintf(run->stage, sizeof run->stage, "starting");
    if (!ours)
        run->plan.addresses = config->servers_addresses.items;
    else if ((r = run_start_shards(run, reterr)) < 0)
        return r;
    size_t workers = (size_t)config->workers_count - run->settings->load;
    crew_init(&run->clients, workers, "client");
    crew_init(&run->load, run->settings->load, "load client");
    crew_init(&run->askers, workers, "bare client");
    crew_init(&run->servers, workers, "bare server");
    for (size_t i = 0; i < workers && r == 0; i++)
        r = run_start_client(run, &run->clients.children[i], i, reterr);
    if (r == 0 && run->settings->load)
        r = run_start_client(run, &run->load.children[0], workers, reterr);
    for (size_t i = 0; i < workers && r == 0; i++)
        r = run_start_bare(run, i, reterr);
    uint64_t start_ms = START_MS + (run->plan.layout->floats >> 20) * START_MS_PER_MFLOAT;
    if (r == 0)
        r = crew_wait(run, &run->clients, start_ms, reterr);
    return r < 0 ? r : crew_wait(run, &run->load, start_ms, reterr);
}

/* Clients say goodbye, which shards that are not ours are owed; all others are killed. */
static void run_end(struct run *run, bool politely) {
    uint64_t deadline_ms = time_now_ms() + LEAVE_MS;
    for (size_t i = 0; politely && i < run->clients.count; i++)
        send(run->clients.children[i].fd, &(char){BENCH_QUIT}, 1, MSG_NOSIGNAL);
    for (size_t i = 0; politely && i < run->clients.count; i++) {
        struct child *child = &run->clients.children[i];
        while (child->pid > 0 && time_now_ms() < deadline_ms) {
            if (waitpid(child->pid, NULL, WNOHANG) == child->pid)
                child->pid = 0;
            else
                nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        }
    }
    crew_done(&run->clients);
    crew_done(&run->load);
    crew_done(&run->askers);
    crew_done(&run->servers);
    if (run->launched) {
        run->launch.workers = (size_t)run->settings->config->workers_count; /* to be freed */
        launch_done(&run->launch);
    }
    bench_plan_done(&run->plan);
    if (run->dir)
        dir_remove(run->dir, NULL);
    mem_free(run->dir);
    mem_free(run->job_path);
}

/* --- figures --- */

/* What one repeat found. All fields are doubles: see take_median. */
struct take {
    struct bench_speed graphps, bare;
    double ratio;
    double shard_allocations, client_allocations, batch_mean, lock_waits;
    double loaded_p50_us, loaded_p99_us;
};

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of a field of all takes that know it; NAN when none does. */
static double take_median(const struct take *takes, size_t count, size_t offset) {
    _cleanup_(mem_free_p) double *values = mem_array(count, sizeof *values);
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        double value = *(const double *)(const void *)((const char *)&takes[i] + offset);
        if (!isnan(value))
            values[n++] = value;
    }
    if (n == 0)
        return NAN;
    qsort(values, n, sizeof *values, compare_doubles);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static struct bench_speed speed_median(const struct take *takes, size_t count, size_t offset) {
    struct bench_speed speed;
#define MEDIAN(field)                                                                              \
    speed.field = take_median(takes, count, offset + offsetof(struct bench_speed, field))
    MEDIAN(gb_per_s);
    MEDIAN(operations_per_s);
    MEDIAN(p50_us);
    MEDIAN(p99_us);
    MEDIAN(p999_us);
    MEDIAN(samples);
    MEDIAN(cpu_s_per_gb);
#undef MEDIAN
    return speed;
}

static double cpu_seconds(pid_t pid) {
    clockid_t clock;
    struct timespec time;
    if (pid <= 0 || clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &time) < 0)
        return NAN;
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double crew_cpu_seconds(const struct crew *crew) {
    double seconds = 0;
    for (size_t i = 0; i < crew->count; i++)
        seconds += cpu_seconds(crew->children[i].pid);
    return seconds;
}

/* Of all that take part; NAN with shards that are not ours. */
static double graphps_cpu_seconds(const struct run *run) {
    double seconds = run->launched ? crew_cpu_seconds(&run->clients) : NAN;
    for (size_t i = 0; run->launched && i < run->launch.shards; i++)
        seconds += cpu_seconds(run->launch.processes[i].pid);
    return seconds;
}

static double bare_cpu_seconds(const struct run *run) {
    return crew_cpu_seconds(&run->askers) + crew_cpu_seconds(&run->servers);
}

static double operation_bytes(const struct run *run, const struct bench_order *order) {
    return (order->pattern == BENCH_BOTH ? 2.0 : 1.0) * run->settings->sizes[order->size];
}

static uint64_t crew_operations(const struct crew *crew) {
    uint64_t operations = 0;
    for (size_t i = 0; i < crew->count; i++)
        operations += crew->children[i].desk->result.all_operations;
    return operations;
}

static void speed_set_rate(const struct run *run, const struct crew *crew,
                           const struct bench_order *order, double cpu_s,
                           struct bench_speed *speed) {
    double bytes = operation_bytes(run, order);
    speed->operations_per_s = 0;
    for (size_t i = 0; i < crew->count; i++) {
        const struct bench_result *result = &crew->children[i].desk->result;
        speed->operations_per_s += (double)result->operations / ((double)result->elapsed_ns / 1e9);
    }
    speed->gb_per_s = speed->operations_per_s * bytes / 1e9;
    speed->cpu_s_per_gb = cpu_s / ((double)crew_operations(crew) * bytes / 1e9);
}

static int compare_numbers(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double quantile_us(const uint32_t *sorted_ns, size_t count, double q) {
    size_t at = (size_t)ceil(q * (double)count);
    return sorted_ns[at > 0 ? at - 1 : 0] / 1e3;
}

static void speed_set_latency(const struct crew *crew, struct bench_speed *speed) {
    _cleanup_(mem_free_p) uint32_t *all = mem_array(crew->count * BENCH_SAMPLES, sizeof *all);
    size_t count = 0;
    for (size_t i = 0; i < crew->count; i++) {
        const struct bench_result *result = &crew->children[i].desk->result;
        memcpy(all + count, result->latency_ns, result->sample_count * sizeof *all);
        count += result->sample_count;
    }
    qsort(all, count, sizeof *all, compare_numbers);
    speed->p50_us = quantile_us(all, count, 0.5);
    speed->p99_us = quantile_us(all, count, 0.99);
    speed->p999_us = count < P999_SAMPLES_MIN ? NAN : quantile_us(all, count, 0.999);
    speed->samples = (double)count;
}

/* --- what shards tell of themselves --- */

struct counters {
    double allocations, updates, merged, lock_waits; /* since they were started */
    double lock_wait_p99_us;
};

static int counters_read(struct run *run, struct counters *ret, struct error *reterr) {
    Graphps__Status *status = NULL;
    int r = run_sleep(run, SETTLE_MS, reterr);
    if (r == 0)
        r = query_status(run->plan.addresses[0], run->plan.config->job_name, STATUS_MS, &status,
                         reterr);
    if (r < 0)
        return r;
    *ret = (struct counters){0};
    for (size_t i = 0; i < status->n_shards; i++) {
        const Graphps__ShardStatus *shard = status->shards[i];
        ret->allocations += (double)shard->allocations;
        ret->updates += (double)shard->updates;
        ret->merged += shard->batch_mean * (double)shard->updates;
        ret->lock_waits += (double)shard->lock_waits;
        ret->lock_wait_p99_us = fmax(ret->lock_wait_p99_us, shard->lock_wait_p99_seconds * 1e6);
    }
    wire_free(&status->base);
    return 0;
}

static void take_set_counters(const struct run *run, const struct counters *before,
                              const struct counters *after, struct take *take) {
    double operations = (double)crew_operations(&run->clients), updates;
    uint64_t allocations = 0, counted = 0;
    for (size_t i = 0; i < run->clients.count; i++) {
        allocations += run->clients.children[i].desk->result.allocations;
        counted += run->clients.children[i].desk->result.operations;
    }
    updates = after->updates - before->updates;
    take->client_allocations = (double)allocations / (double)counted;
    take->shard_allocations = (after->allocations - before->allocations) / operations;
    take->lock_waits = (after->lock_waits - before->lock_waits) / operations;
    take->batch_mean = updates > 0 ? (after->merged - before->merged) / updates : NAN;
}

/* --- measuring --- */

/* Latencies once more, while another client pushes. */
static int run_take_loaded(struct run *run, const struct bench_order *order, struct take *take,
                           struct error *reterr) {
    const struct bench_settings *settings = run->settings;
    struct bench_order load = {.size = settings->load_size,
                               .pattern = BENCH_PUSH,
                               .depth = bench_depth(settings, settings->sizes[settings->load_size]),
                               .seconds = LOAD_SECONDS};
    struct bench_speed speed;
    int r = crew_begin(run, &run->load, &load, reterr);
    if (r == 0)
        r = run_sleep(run, LOAD_WARM_MS, reterr);
    if (r == 0)
        r = crew_measure(run, &run->clients, order, reterr);
    if (r < 0)
        return r;
    atomic_store(&run->load.children[0].desk->stop, true);
    speed_set_latency(&run->clients, &speed);
    take->loaded_p50_us = speed.p50_us;
    take->loaded_p99_us = speed.p99_us;
    return crew_wait(run, &run->load, SLACK_MS, reterr);
}

/* Bare, then graphps; first the rate, then the latency. counted: with what the shards say, which is
 * worth knowing once everything is warm. */
static int run_take(struct run *run, struct bench_order order, bool counted, double *lock_p99_us,
                    struct take *take, struct error *reterr) {
    struct counters before, after;
    take->shard_allocations = take->client_allocations = take->batch_mean = take->lock_waits = NAN;
    take->loaded_p50_us = take->loaded_p99_us = NAN;
    order.single = false;
    double cpu_s = bare_cpu_seconds(run);
    int r = crew_measure(run, &run->askers, &order, reterr);
    if (r < 0)
        return r;
    speed_set_rate(run, &run->askers, &order, bare_cpu_seconds(run) - cpu_s, &take->bare);
    if (counted && (r = counters_read(run, &before, reterr)) < 0)
        return r;
    cpu_s = graphps_cpu_seconds(run);
    if ((r = crew_measure(run, &run->clients, &order, reterr)) < 0)
        return r;
    speed_set_rate(run, &run->clients, &order, graphps_cpu_seconds(run) - cpu_s, &take->graphps);
    if (counted && (r = counters_read(run, &after, reterr)) < 0)
        return r;
    if (counted) {
        take_set_counters(run, &before, &after, take);
        *lock_p99_us = after.lock_wait_p99_us;
    }
    take->ratio = take->graphps.gb_per_s / take->bare.gb_per_s;

    order.single = true;
    if ((r = crew_measure(run, &run->askers, &order, reterr)) < 0)
        return r;
    speed_set_latency(&run->askers, &take->bare);
    if ((r = crew_measure(run, &run->clients, &order, reterr)) < 0)
        return r;
    speed_set_latency(&run->clients, &take->graphps);
    return run->settings->load ? run_take_loaded(run, &order, take, reterr) : 0;
}

static int run_row(struct run *run, size_t size, enum bench_pattern pattern, struct error *reterr) {
    const struct bench_settings *settings = run->settings;
    uint32_t bytes = settings->sizes[size], repeat = settings->repeat;
    struct bench_order order = {.size = size,
                                .pattern = pattern,
                                .depth = bench_depth(settings, bytes),
                                .seconds = settings->seconds};
    struct bench_row row = {.size_bytes = bytes,
                            .pattern = pattern,
                            .depth = order.depth,
                            .push_bytes = bench_push_bytes(&run->plan, size),
                            .ask_bytes = bench_ask_bytes(&run->plan, size, pattern),
                            .answer_bytes = bench_answer_bytes(&run->plan, size, pattern),
                            .rows = settings->table_rows ? bench_row_count(settings, size) : 0};
    _cleanup_(mem_free_p) struct take *takes = mem_array(repeat, sizeof *takes);
    for (uint32_t i = 0; i < repeat; i++) {
        int r =
            run_take(run, order, i > 0 || repeat == 1, &row.lock_wait_p99_us, &takes[i], reterr);
        if (r < 0)
            return r;
    }
    row.graphps = speed_median(takes, repeat, offsetof(struct take, graphps));
    row.bare = speed_median(takes, repeat, offsetof(struct take, bare));
    row.ratio = take_median(takes, repeat, offsetof(struct take, ratio));
    row.shard_allocations = take_median(takes, repeat, offsetof(struct take, shard_allocations));
    row.client_allocations = take_median(takes, repeat, offsetof(struct take, client_allocations));
    row.batch_mean = take_median(takes, repeat, offsetof(struct take, batch_mean));
    row.lock_waits = take_median(takes, repeat, offsetof(struct take, lock_waits));
    row.loaded_p50_us = take_median(takes, repeat, offsetof(struct take, loaded_p50_us));
    row.loaded_p99_us = take_median(takes, repeat, offsetof(struct take, loaded_p99_us));
    run->ops->on_row(run->ctx, &row);
    return 0;
}

int bench_ps(const struct bench_settings *settings, const struct bench_ops *ops, void *ctx,
             struct error *reterr) {
    struct run run = {.settings = settings, .ops = ops, .ctx = ctx};
    run.total = (uint64_t)settings->measured_count * settings->pattern_count * settings->repeat *
                (PHASES + settings->load);
    int r = run_start(&run, reterr);
    for (size_t i = 0; i < settings->measured_count && r == 0; i++)
        for (size_t k = 0; k < settings->pattern_count && r == 0; k++) {
            snprintf(run.stage, sizeof run.stage, "measuring");
            r = run_row(&run, i, settings->patterns[k], reterr);
        }
    run_end(&run, r == 0);
    return r;
}
