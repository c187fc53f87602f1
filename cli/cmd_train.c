/* graphps train: one job on this machine, from the snapshot to the exported model. Prepares the
 * run's directory, supervises the processes (launch.c), shows progress (train_display.c), sums up.
 */
#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/job_plan.h"
#include "cli/launch.h"
#include "cli/model_file.h"
#include "cli/partition_cut.h"
#include "cli/query.h"
#include "cli/train_display.h"
#include "common/file.h"
#include "common/lock.h"
#include "common/mem.h"
#include "worker/graph/catalog.h"
#include "worker/graph/claim.h"

#define POLL_MS 50
#define STATUS_EVERY_MS 200
#define STATUS_TIMEOUT_MS 1000
#define TAIL_LINES 8 /* of the log of a process that failed */

enum { KEY_FRESH = 256 };

static const struct argp_option options[] = {
    {"fresh", KEY_FRESH, NULL, 0, "Start anew even when an interrupted run could be resumed", 0},
    {0},
};

static const struct argp_child children[] = {{&args_job_argp, 0, NULL, 0}, {0}};

struct arguments {
    struct args_job job;
    bool fresh;
};

struct run {
    const struct config *config;
    const char *command; /* "graphps train" */
    struct launch launch;
    struct train_display display;
    char *snapshot;          /* "cora@1.0.0", once it is found */
    char *digest;            /* its contents' */
    char *partition;         /* "2x1", its directory's name */
    Graphps__Status *status; /* the newest one, or NULL */
    uint64_t started_ms, asked_ms;
    uint64_t answered_ms, silent_ms; /* shard 0: its newest answer, and how long it owes one */
    uint64_t ending_ms;              /* when the end of an undone run began; 0: it did not */
    sig_atomic_t ending_signals;     /* one more than these, and it ends at once */
    struct error failure;            /* why it ends; code 0: for a signal */
    bool resumed;                    /* earlier launches have done a part of it */
    bool to_begin;                   /* what the directory holds is moved aside first */
    int lock_fd;
    int claims[2]; /* on the snapshot and the partitioning, or -1 */
};

static volatile sig_atomic_t signals_seen;

static void on_signal(int number) {
    (void)number;
    signals_seen++;
}

static error_t parse_option(int key, char *arg, struct argp_state *state) {
    struct arguments *arguments = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &arguments->job;
        return 0;
    case KEY_FRESH:
        arguments->fresh = true;
        return 0;
    case ARGP_KEY_ARG:
        if (arguments->job.config_path)
            argp_error(state, "only one job file, please; \"%s\" is too many", arg);
        arguments->job.config_path = arg;
        return 0;
    case ARGP_KEY_END:
        if (!arguments->job.config_path)
            argp_error(state, "which job? Give its YAML file");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void note(void *ctx, const char *text) {
    struct run *run = ctx;
    train_display_break(&run->display);
    printf("%s\n", text);
    fflush(stdout);
}

/* A disk that fails or is full is one thing, a directory that cannot be ours another. */
static int run_lock_fault(const char *dir, int why, const char *text, struct error *reterr) {
    if (why == EIO || why == ENOSPC || why == EDQUOT || why == ENOMEM || why == EMFILE ||
        why == ENFILE)
        return error_set(reterr, ERR_IO, "%s", text);
    return error_set(reterr, ERR_CONFIG,
                     "%s; the run's directory is %s: set job.dir to one that you can write to, "
                     "with room for a .lock file beside it",
                     text, dir);
}

/* An exclusive lock on the run's directory: two launchers would restart each other's shards. */
static int run_lock(struct run *run, struct error *reterr) {
    const char *dir = run->config->job_dir;
    struct error err = {0};
    errno = 0;
    if (dir_make(dir, &err) < 0)
        return run_lock_fault(dir, errno, error_text(&err), reterr);
    _cleanup_(mem_free_p) char *path = mem_printf("%s.lock", dir);
    run->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (run->lock_fd < 0 || access(dir, W_OK | X_OK) < 0) {
        int why = errno;
        error_set(&err, ERR_IO, "cannot write %s: %s", run->lock_fd < 0 ? path : dir,
                  strerror(why));
        return run_lock_fault(dir, why, error_text(&err), reterr);
    }
    if (flock(run->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return error_set(reterr, ERR_IN_USE, "another graphps train runs this job (%s is locked)",
                         path);
    return 0;
}

/* A run knows the contents it was trained on, not only their name. */
static int run_check_resumed(const struct run *run, const char *digest, struct error *reterr) {
    const struct config *config = run->config;
    struct catalog catalog;
    char was[128] = "";
    if (!digest[0] || strcmp(digest, run->digest) == 0)
        return 0;
    char *dir = realpath(config->job_dir, NULL);
    if (catalog_read(config->data_root, &catalog, NULL) == 0) {
        for (size_t i = 0; i < catalog.run_count; i++) {
            const struct catalog_run *row = &catalog.runs[i];
            char *at = realpath(row->dir, NULL);
            if (dir && at && strcmp(at, dir) == 0 && row->digest &&
                strcmp(row->digest, digest) == 0)
                snprintf(was, sizeof was, "%s, ", row->snapshot);
            free(at);
        }
        catalog_done(&catalog);
    }
    free(dir);
    return error_set(reterr, ERR_CONFIG,
                     "the interrupted run in %s was trained on another snapshot (%sdigest %s) than "
                     "data.snapshot \"%s\" is now (%s, digest %s); name the one it began with, or "
                     "give --fresh to begin anew",
                     config->job_dir, was, digest, config->data_snapshot, run->snapshot,
                     run->digest);
}

/* Goes an earlier run on, or is what it left in the way? */
static int run_look_at_dir(struct run *run, bool fresh, struct error *reterr) {
    const char *dir = run->config->job_dir;
    _cleanup_(mem_free_p) char *result = mem_printf("%s/result.json", dir);
    _cleanup_(mem_free_p) char *checkpoints = mem_printf("%s/checkpoints", dir);
    if (!file_exists(checkpoints) && !file_exists(result))
        return 0;
    if (file_exists(result) || fresh) {
        run->to_begin = true;
        return 0;
    }
    uint64_t generation = 0;
    char digest[64] = "";
    struct error why = {0};
    int r = model_file_generation(dir, &generation, digest, &why);
    if (r == 0 && (r = run_check_resumed(run, digest, reterr)) < 0)
        return r;
    if (r == ERR_NOT_FOUND)
        printf("the interrupted run in %s left no complete checkpoint to resume\n", dir);
    else if (r < 0)
        fprintf(stderr, "%s: warning: no checkpoint of the interrupted run in %s can be used: %s\n",
                run->command, dir, error_text(&why));
    else
        printf("resuming the interrupted run in %s from checkpoint %lu (--fresh starts anew)\n",
               dir, (unsigned long)generation);
    run->resumed = r == 0;
    if (r == 0)
        model_file_warn(run->command, dir, false, generation);
    return 0;
}

/* A run that has a result, or one that shall not be resumed, is moved aside, never deleted; the
 * catalog's record goes with it. */
static int run_move_aside(const struct run *run, struct error *reterr) {
    const char *dir = run->config->job_dir;
    char stamp[32];
    time_t now = time(NULL);
    struct tm utc;
    strftime(stamp, sizeof stamp, "%Y%m%dT%H%M%S", gmtime_r(&now, &utc));
    _cleanup_(mem_free_p) char *aside = NULL;
    for (int i = 0; !aside || file_exists(aside); i++) {
        mem_free(aside);
        aside = i == 0 ? mem_printf("%s.%s", dir, stamp) : mem_printf("%s.%s.%d", dir, stamp, i);
    }
    if (rename(dir, aside) < 0)
        return error_set(reterr, ERR_IO, "cannot move %s to %s: %s", dir, aside, strerror(errno));
    printf("the previous run was moved to %s\n", aside);
    int r = dir_make(dir, reterr);
    struct error catalog = {0};
    if (r == 0 && catalog_move_run(run->config->data_root, dir, aside, &catalog) < 0)
        fprintf(stderr, "%s: warning: the catalog was not updated: %s\n", run->command,
                error_text(&catalog));
    return r;
}

/* Each worker logs it too, but who reads that while the run does well? */
static void run_warn_of_halo(const struct run *run) {
    const struct config *config = run->config;
    if (config->model_kind == MODEL_MLP || config->workers_count == 1 ||
        config->data_halo >= config->model_layers)
        return;
    fprintf(stderr,
            "%s: warning: data.halo is %ld, but the model has %ld layers: nodes at the border of a "
            "part see only some of their neighbours\n",
            run->command, (long)config->data_halo, (long)config->model_layers);
}

static int run_cut(struct run *run, const struct snapshot *snapshot, struct error *reterr) {
    const struct config *config = run->config;
    uint32_t parts = (uint32_t)config->workers_count, halo = (uint32_t)config->data_halo;
    const struct partition_options cut = {
        .parts = parts, .halo = halo, .seed = (uint64_t)config->job_seed};
    struct partition_outcome outcome;
    run_warn_of_halo(run);
    _cleanup_(mem_free_p) char *made = partition_dir(snapshot->dir, parts, halo);
    run->partition = mem_strdup(strrchr(made, '/') + 1);
    if (!file_exists(made)) {
        printf("cutting %s@%s into %u parts with %u hops of halo\n", snapshot->name,
               snapshot->version, parts, halo);
        fflush(stdout);
    }
    int r = partition_cut(run->command, snapshot, &cut, &outcome, reterr);
    if (r == 0 && outcome.why[0])
        printf("cut with %s: %s\n", assign_method_name(outcome.method), outcome.why);
    if (r == 0)
        r = claim_take(made, &run->claims[1], reterr);
    struct error catalog = {0};
    if (r == 0 && catalog_add_partition(config->data_root, made, &catalog) < 0)
        fprintf(stderr, "%s: warning: the catalog was not updated: %s\n", run->command,
                error_text(&catalog));
    return r;
}

/* Rather a sentence now than a process that the kernel kills. */
static int run_check_memory(const struct run *run, const char *snapshot_dir, struct error *reterr) {
    struct job_plan plan;
    int r = job_plan_make(run->config, snapshot_dir, &plan, reterr);
    if (r == 0) {
        r = job_plan_check(&plan, run->config, reterr);
        job_plan_done(&plan);
    }
    return r;
}

/* From here on the snapshot is not removed under the run. */
static int run_prepare(struct run *run, bool fresh, struct error *reterr) {
    const struct config *config = run->config;
    _cleanup_(mem_free_p) char *dir = NULL;
    struct snapshot *snapshot = NULL;
    int r = snapshot_find(config->data_root, config->data_snapshot, &dir, reterr);
    if (r == 0)
        r = claim_take(dir, &run->claims[0], reterr);
    if (r == 0)
        r = snapshot_open(dir, false, &snapshot, reterr);
    if (r < 0)
        return r;
    run->snapshot = mem_printf("%s@%s", snapshot->name, snapshot->version);
    run->digest = mem_strdup(snapshot->digest);
    r = snapshot_trainable(snapshot, reterr);
    if (r == 0)
        r = run_look_at_dir(run, fresh, reterr);
    if (r == 0)
        r = run_cut(run, snapshot, reterr);
    if (r == 0)
        r = run_check_memory(run, dir, reterr);
    if (r == 0 && run->to_begin)
        r = run_move_aside(run, reterr);
    snapshot_close(snapshot);
    return r;
}

/* For people only: a run does not fail for want of a catalog. */
static int run_record(const struct run *run, const char *state, double valid, double test,
                      struct error *reterr) {
    const struct config *config = run->config;
    const struct catalog_run record = {
        .job = config->job_name,
        .dir = config->job_dir,
        .snapshot = run->snapshot ? run->snapshot : config->data_snapshot,
        .digest = run->digest,
        .partition = run->partition,
        .state = state,
        .valid_accuracy = valid,
        .test_accuracy = test,
    };
    return catalog_put_run(config->data_root, &record, reterr);
}

static void run_ask(struct run *run, uint64_t now_ms) {
    const char *address = launch_address(&run->launch);
    if (!address && run->config->servers_addresses.count > 0)
        address = run->config->servers_addresses.items[0];
    if (!address || now_ms - run->asked_ms < STATUS_EVERY_MS)
        return;
    /* Not by the clock alone: when it was we who stood still, shard 0 owes nothing for it. */
    uint64_t since_ms = now_ms - run->asked_ms;
    run->asked_ms = now_ms;
    Graphps__Status *status = NULL;
    /* Shard 0 may be starting, restarting or leaving: no answer is no news. */
    if (query_status(address, run->config->job_name, STATUS_TIMEOUT_MS, &status, NULL) < 0) {
        run->silent_ms += since_ms < 2 * STATUS_TIMEOUT_MS ? since_ms : 2 * STATUS_TIMEOUT_MS;
        return;
    }
    if (run->status)
        wire_free(&run->status->base);
    run->status = status;
    run->answered_ms = now_ms;
    run->silent_ms = 0;
    train_display_update(&run->display, status, now_ms);
}

/* A shard that hangs takes everybody with it: nobody can go on without its part of the weights.
 * Only one that serves is judged; to restore a large checkpoint may keep it busy for long. */
static void run_heed_silence(struct run *run) {
    const Graphps__Status *status = run->status;
    for (size_t k = 0; status && k < status->n_shards && k < run->launch.shards; k++) {
        uint64_t seen_ms = k == 0 ? 0 : status->shards[k]->seen_ms;
        if (strcmp(status->shards[k]->state, "serving") == 0 && seen_ms <= run->answered_ms)
            launch_heed_silence(&run->launch, k, run->answered_ms - seen_ms,
                                k == 0 ? run->silent_ms : seen_ms, note, run);
    }
}

/* Whoever reads what we print may leave (`| head -1`). A run's product is its files: it goes on, as
 * one under nohup does, and Ctrl-C still ends it in order. */
static void run_heed_output(const struct run *run) {
    struct pollfd out = {.fd = STDOUT_FILENO};
    if (!ferror(stdout) || poll(&out, 1, 0) <= 0 || !(out.revents & (POLLERR | POLLHUP)))
        return;
    fprintf(stderr,
            "%s: nobody reads the standard output any more; the run needs no reader, its logs and "
            "its result are in %s\n",
            run->command, run->config->job_dir);
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (null >= 0) {
        dup2(null, STDOUT_FILENO);
        close(null);
    }
    clearerr(stdout);
}

/* Asks the run to end in order, with a checkpoint; run_heed_signals sees to it that it does. */
static void run_end(struct run *run, const char *text, int signals, uint64_t now_ms) {
    run->ending_ms = now_ms;
    run->ending_signals = signals;
    note(run, text);
    launch_interrupt(&run->launch);
}

static void run_heed_signals(struct run *run, uint64_t now_ms) {
    uint64_t grace_ms = (uint64_t)run->config->checkpoint_grace_s * 1000;
    if (signals_seen > 0 && run->ending_ms == 0)
        run_end(run,
                "interrupted: the workers finish their step, the shards write a checkpoint (once "
                "more to kill them at once)",
                1, now_ms);
    else if (run->ending_ms &&
             (signals_seen > run->ending_signals || now_ms - run->ending_ms > 2 * grace_ms))
        launch_signal(&run->launch, SIGKILL);
    else if (run->ending_ms && now_ms - run->ending_ms > grace_ms)
        launch_signal(&run->launch, SIGTERM);
}

/* A process failed for good. What the others have done is kept, as on Ctrl-C: but not when it was a
 * shard, whose part of the weights went with it, nor when there is nothing to keep (a job that
 * never began shall be free to begin otherwise). */
static void run_fail(struct run *run, const struct error *why, uint64_t now_ms) {
    const struct process *failed = run->launch.failed;
    const Graphps__Status *status = run->status;
    run->failure = *why;
    train_display_break(&run->display);
    if (failed)
        process_print_tail(failed, TAIL_LINES);
    /* The one who ended may be but the first who lost patience with another. */
    bool patience = failed && !failed->killed_by && failed->exit_code == 75;
    if (patience && status && status->waiting_for[0])
        error_set(&run->failure, why->code, "%s; the job was last waiting for %s", error_text(why),
                  status->waiting_for);
    bool shard = failed && failed < run->launch.processes + run->launch.shards;
    if (!shard && status && status->fastest_clock > 0) {
        run_end(run,
                "the others finish their step, the shards write a checkpoint (Ctrl-C to kill them "
                "at once)",
                0, now_ms);
        return;
    }
    run->ending_ms = now_ms;
    launch_signal(&run->launch, SIGKILL);
}

/* Until all processes have ended. */
static void run_supervise(struct run *run) {
    for (;;) {
        uint64_t now_ms = time_now_ms();
        struct error err = {0};
        enum launch_state state = launch_step(&run->launch, now_ms, note, run, &err);
        if (state == LAUNCH_DONE)
            break;
        if (state == LAUNCH_FAILED)
            run_fail(run, &err, now_ms);
        run_ask(run, now_ms);
        run_heed_silence(run);
        run_heed_output(run);
        run_heed_signals(run, now_ms);
        nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000L}, NULL);
    }
    train_display_break(&run->display);
}

static void print_bytes(const char *what, uint64_t bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;
    for (; value >= 1024 && unit < ARRAY_LEN(units) - 1; unit++)
        value /= 1024;
    printf("%s%.*f %s", what, unit == 0 ? 0 : 1, value, units[unit]);
}

/* Why and when it ended, as a person says it. */
static void stop_text(const struct run *run, const struct model_facts *facts, char *buf,
                      size_t buf_bytes) {
    if (strcmp(facts->stop_reason, "epochs") == 0 && facts->last_epoch >= run->config->train_epochs)
        snprintf(buf, buf_bytes, "all %u epochs done", facts->last_epoch);
    else if (strcmp(facts->stop_reason, "early stop") == 0)
        snprintf(buf, buf_bytes, "early stop after epoch %u (no better one for %lld epochs)",
                 facts->last_epoch, (long long)run->config->train_patience);
    else
        snprintf(buf, buf_bytes, "ended after epoch %u: %s", facts->last_epoch, facts->stop_reason);
}

static void run_print_summary(const struct run *run, const struct model_facts *facts,
                              const char *model_path) {
    char stop[160];
    stop_text(run, facts, stop, sizeof stop);
    printf("\n");
    if (facts->best_epoch > 0 && isnan(facts->test_accuracy))
        printf("test accuracy    there are no labelled test nodes (best validation epoch %u: %.2f "
               "%%; %s)\n",
               facts->best_epoch, 100 * facts->valid_accuracy, stop);
    else if (facts->best_epoch > 0)
        printf("test accuracy    %.2f %% (best validation epoch %u: %.2f %%; %s)\n",
               100 * facts->test_accuracy, facts->best_epoch, 100 * facts->valid_accuracy, stop);
    printf("wall time        %.1f s%s\n", (double)(time_now_ms() - run->started_ms) / 1000,
           run->resumed ? " since it was resumed" : "");
    printf("peak memory    ");
    for (size_t i = 0; i < run->launch.shards + run->launch.workers; i++) {
        printf("%s %s ", i ? "," : "", run->launch.processes[i].name);
        print_bytes("", run->launch.processes[i].peak_bytes);
    }
    print_bytes("\ntraffic          pushed ", facts->bytes_pushed);
    print_bytes(", pulled ", facts->bytes_pulled);
    printf("\nmodel            %s\n", model_path);
}

/* JSON knows no NAN. */
static json_t *json_number(double value) {
    return isnan(value) ? json_null() : json_real(value);
}

static int run_finish(struct run *run, struct error *reterr) {
    const struct config *config = run->config;
    _cleanup_(mem_free_p) char *model = mem_printf("%s/model.safetensors", config->job_dir);
    struct model_facts facts;
    int r = model_file_export(config->job_dir, MODEL_FILE_BEST_OR_LAST, model, &facts, reterr);
    if (r < 0)
        return r;
    model_file_warn(run->command, config->job_dir, facts.best, facts.generation);
    char md5[33];
    uint64_t bytes;
    if ((r = file_md5(model, md5, &bytes, reterr)) < 0)
        return r;
    struct error catalog = {0};
    const struct catalog_model record = {.path = model,
                                         .job = config->job_name,
                                         .md5 = md5,
                                         .snapshot = run->snapshot,
                                         .digest = run->digest,
                                         .valid_accuracy = facts.valid_accuracy,
                                         .test_accuracy = facts.test_accuracy};
    if (run_record(run, "done", facts.valid_accuracy, facts.test_accuracy, &catalog) < 0 ||
        catalog_add_model(config->data_root, &record, &catalog) < 0)
        fprintf(stderr, "%s: the catalog was not updated: %s\n", run->command,
                error_text(&catalog));

    _cleanup_(mem_free_p) char *path = mem_printf("%s/result.json", config->job_dir);
    json_t *result = json_pack(
        "{s:s, s:s, s:s, s:i, s:i, s:o, s:o, s:f, s:b, s:I, s:I, s:s, s:s}", "job",
        config->job_name, "snapshot", run->snapshot, "snapshot_digest", run->digest, "best_epoch",
        (int)facts.best_epoch, "last_epoch", (int)facts.last_epoch, "valid_accuracy",
        json_number(facts.valid_accuracy), "test_accuracy", json_number(facts.test_accuracy),
        "wall_s", (double)(time_now_ms() - run->started_ms) / 1000, "resumed", run->resumed,
        "bytes_pushed", (json_int_t)facts.bytes_pushed, "bytes_pulled",
        (json_int_t)facts.bytes_pulled, "model", model, "stop_reason", facts.stop_reason);
    char *text = json_dumps(result, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    json_decref(result);
    r = file_write_whole(path, text, strlen(text), reterr);
    free(text);
    if (r == 0)
        run_print_summary(run, &facts, model);
    return r;
}

/* What failed, and what the same command will do then. */
static int run_failed(const struct run *run, struct error *reterr) {
    uint64_t generation;
    *reterr = run->failure;
    bool curable = error_exit_code(reterr->code) == 70 || error_exit_code(reterr->code) == 75;
    if (curable && model_file_generation(run->config->job_dir, &generation, NULL, NULL) == 0)
        error_set(reterr, reterr->code, "%s; the same command goes on from checkpoint %lu in %s",
                  error_text(reterr), (unsigned long)generation, run->config->job_dir);
    return reterr->code;
}

/* What the same command will do: only the disk knows whether there is a checkpoint. */
static int run_interrupted(const struct run *run, struct error *reterr) {
    const char *dir = run->config->job_dir;
    uint64_t generation;
    struct error why = {0};
    int r = model_file_generation(dir, &generation, NULL, &why);
    if (r == 0)
        return error_set(reterr, ERR_INTERRUPTED,
                         "interrupted; the same command goes on from checkpoint %lu in %s",
                         (unsigned long)generation, dir);
    if (r == ERR_NOT_FOUND)
        return error_set(reterr, ERR_INTERRUPTED,
                         "interrupted before any checkpoint was complete; the same command starts "
                         "anew");
    return error_set(reterr, ERR_INTERRUPTED,
                     "interrupted, and there is no checkpoint to go on from: %s", error_text(&why));
}

static int run_train(const struct config *config, const struct arguments *arguments,
                     const char *command, struct error *reterr) {
    struct run run = {.config = config,
                      .command = command,
                      .started_ms = time_now_ms(),
                      .lock_fd = -1,
                      .claims = {-1, -1}};
    char config_path[PATH_MAX];
    if (!realpath(arguments->job.config_path, config_path))
        return error_set(reterr, ERR_IO, "%s: %s", arguments->job.config_path, strerror(errno));
    int r = run_lock(&run, reterr);
    if (r == 0)
        r = run_prepare(&run, arguments->fresh, reterr);
    bool prepared = r == 0;
    if (r == 0)
        r = launch_init(&run.launch, config, config_path, arguments->job.sets,
                        arguments->job.set_count, reterr);
    if (r == 0) {
        struct sigaction action = {.sa_handler = on_signal};
        sigaction(SIGINT, &action, NULL);
        sigaction(SIGTERM, &action, NULL);
        sigaction(SIGHUP, &action, NULL);
        run_record(&run, "running", NAN, NAN, NULL);
        printf("training %s: %ld shards, %ld workers, %s; logs in %s/logs\n", config->job_name,
               (long)config->servers_count, (long)config->workers_count,
               config_choice(config, "consistency.mode"), config->job_dir);
        fflush(stdout);
        train_display_init(&run.display, time_now_ms());
        run_supervise(&run);
        /* It may have come to its end before it heard that it should. */
        if (launch_job_done(&run.launch))
            r = run_finish(&run, reterr);
        else if (run.failure.code)
            r = run_failed(&run, reterr);
        else
            r = run_interrupted(&run, reterr);
    }
    if (r < 0 && prepared) /* else it did not begin, and what is recorded of an earlier one stays */
        run_record(&run, run.ending_ms && !run.failure.code ? "interrupted" : "failed", NAN, NAN,
                   NULL);
    launch_done(&run.launch);
    fflush(stdout);
    run_heed_output(&run);
    if (run.status)
        wire_free(&run.status->base);
    mem_free(run.snapshot);
    mem_free(run.digest);
    mem_free(run.partition);
    for (size_t i = 0; i < ARRAY_LEN(run.claims); i++)
        if (run.claims[i] >= 0)
            close(run.claims[i]);
    if (run.lock_fd >= 0)
        close(run.lock_fd);
    return r;
}

int cmd_train(int argc, char **argv) {
    static const struct argp argp = {
        .options = options,
        .parser = parse_option,
        .children = children,
        .args_doc = "JOB.yaml",
        .doc =
            "Run a job on this machine: its shards and workers as child processes.\v"
            "An interrupted run (Ctrl-C, exit code 75) is resumed by the same command; a finished "
            "one is moved aside. The partitioning is made when it is missing.",
    };
    struct arguments arguments = {0};
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    signal(SIGPIPE, SIG_IGN); /* see run_heed_output */
    struct config *config = NULL;
    int r = cli_load_job(&arguments.job, &config);
    int exit_code = error_exit_code(r);
    if (r == 0) {
        struct error err = {0};
        r = run_train(config, &arguments, argv[0], &err);
        if (r < 0)
            exit_code = cli_fail(argv[0], &err);
    }
    config_free(config);
    args_job_done(&arguments.job);
    return exit_code;
}
