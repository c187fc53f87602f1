/* graphps train: one job on this machine, from the snapshot to the exported model. Prepares the
 * run's directory (run_place.c), supervises the processes (launch.c), shows progress
 * (train_display.c), sums up.
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
#include <unistd.h>

#include "cli/cli.h"
#include "cli/launch.h"
#include "cli/model_file.h"
#include "cli/query.h"
#include "cli/run_place.h"
#include "cli/train_display.h"
#include "common/file.h"
#include "common/lock.h"
#include "common/mem.h"
#include "worker/graph/catalog.h"

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
    struct run_place place;
    struct launch launch;
    struct train_display display;
    Graphps__Status *status; /* the newest one, or NULL */
    uint64_t started_ms, asked_ms;
    uint64_t answered_ms, silent_ms; /* shard 0: its newest answer, and how long it owes one */
    uint64_t ending_ms;              /* when the end of an undone run began; 0: it did not */
    sig_atomic_t ending_signals;     /* one more than these, and it ends at once */
    struct error failure;            /* why it ends; code 0: for a signal */
};

static volatile sig_atomic_t signals_seen;

/* Who ends a process and its group, as timeout(1) does, sends two signals at once: only one that
 * comes this long after the first asks for haste. */
#define HASTE_AFTER_MS 1000

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
    else if (run->ending_ms && now_ms - run->ending_ms < HASTE_AFTER_MS)
        run->ending_signals = signals_seen;
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
    const char *title = score_title(facts->metric);
    double valid = facts->scores[SCORE_VALID][facts->metric];
    double test = facts->scores[SCORE_TEST][facts->metric];
    const struct score_text valid_text = score_text(facts->metric, valid, 2);
    bool links = facts->task == GRAPHPS__TASK__LINKS;
    const char *validation = links ? "edges set aside for validation" : "labelled validation nodes";
    const char *tests = links ? "edges set aside for the test" : "labelled test nodes";
    if (facts->best_epoch == 0 && isnan(test))
        printf("no scores        there are no %s to choose the best weights by, and no %s; the "
               "last weights are kept (%s)\n",
               validation, tests, stop);
    else if (facts->best_epoch == 0)
        printf("test %s    %s (the last weights': there are no %s to choose the best by; %s)\n",
               title, score_text(facts->metric, test, 2).text, validation, stop);
    else if (isnan(test))
        printf("test %s    there are no %s (best validation epoch %u: %s; %s)\n", title, tests,
               facts->best_epoch, valid_text.text, stop);
    else
        printf("test %s    %s (best validation epoch %u: %s; %s)\n", title,
               score_text(facts->metric, test, 2).text, facts->best_epoch, valid_text.text, stop);
    for (enum score score = 0; facts->metric != SCORE_ACCURACY && score < SCORES; score++)
        if (score != facts->metric && !isnan(facts->scores[SCORE_TEST][score]))
            printf("test %s    %s\n", score_title(score),
                   score_text(score, facts->scores[SCORE_TEST][score], 2).text);
    printf("wall time        %.1f s%s\n", (double)(time_now_ms() - run->started_ms) / 1000,
           run->place.resumed ? " since it was resumed" : "");
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

/* By the processes' names. */
static json_t *run_peaks(const struct run *run) {
    json_t *peaks = json_object();
    for (size_t i = 0; i < run->launch.shards + run->launch.workers; i++)
        json_object_set_new(peaks, run->launch.processes[i].name,
                            json_integer((json_int_t)run->launch.processes[i].peak_bytes));
    return peaks;
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
                                         .snapshot = run->place.snapshot,
                                         .digest = run->place.digest,
                                         .valid_score = facts.scores[SCORE_VALID][facts.metric],
                                         .test_score = facts.scores[SCORE_TEST][facts.metric],
                                         .metric = score_name(facts.metric)};
    if (run_place_record(&run->place, "done", &facts, &catalog) < 0 ||
        catalog_add_model(config->data_root, &record, &catalog) < 0)
        fprintf(stderr, "%s: the catalog was not updated: %s\n", run->command,
                error_text(&catalog));

    _cleanup_(mem_free_p) char *path = mem_printf("%s/result.json", config->job_dir);
    json_t *result =
        json_pack("{s:s, s:s, s:s, s:i, s:i, s:s, s:f, s:b, s:I, s:I, s:s, s:s}", "job",
                  config->job_name, "snapshot", run->place.snapshot, "snapshot_digest",
                  run->place.digest, "best_epoch", (int)facts.best_epoch, "last_epoch",
                  (int)facts.last_epoch, "metric", score_name(facts.metric), "wall_s",
                  (double)(time_now_ms() - run->started_ms) / 1000, "resumed", run->place.resumed,
                  "bytes_pushed", (json_int_t)facts.bytes_pushed, "bytes_pulled",
                  (json_int_t)facts.bytes_pulled, "model", model, "stop_reason", facts.stop_reason);
    for (enum score_set set = SCORE_VALID; set < SCORE_SETS; set++)
        for (enum score score = 0; score < SCORES; score++)
            if (score_of_task(score, facts.task))
                json_object_set_new(result, score_key(set, score),
                                    json_number(facts.scores[set][score]));
    json_object_set_new(result, "peak_memory_bytes", run_peaks(run));
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
    if (curable && model_file_generation(run->config->job_dir, &generation, NULL, NULL, NULL) == 0)
        error_set(reterr, reterr->code, "%s; the same command goes on from checkpoint %lu in %s",
                  error_text(reterr), (unsigned long)generation, run->config->job_dir);
    return reterr->code;
}

/* What the same command will do: only the disk knows whether there is a checkpoint. */
static int run_interrupted(const struct run *run, struct error *reterr) {
    const char *dir = run->config->job_dir;
    uint64_t generation;
    struct error why = {0};
    int r = model_file_generation(dir, &generation, NULL, NULL, &why);
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
    struct run run = {.config = config, .command = command, .started_ms = time_now_ms()};
    char config_path[PATH_MAX];
    if (!realpath(arguments->job.config_path, config_path))
        return error_set(reterr, ERR_IO, "%s: %s", arguments->job.config_path, strerror(errno));
    run_place_init(&run.place, config, command);
    int r = run_place_lock(&run.place, reterr);
    if (r == 0)
        r = run_place_prepare(&run.place, arguments->fresh, reterr);
    bool prepared = r == 0;
    if (r == 0)
        r = launch_init(&run.launch, config, config_path, arguments->job.sets,
                        arguments->job.set_count, reterr);
    if (r == 0) {
        struct sigaction action = {.sa_handler = on_signal};
        sigaction(SIGINT, &action, NULL);
        sigaction(SIGTERM, &action, NULL);
        sigaction(SIGHUP, &action, NULL);
        run_place_record(&run.place, "running", NULL, NULL);
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
        run_place_record(&run.place, run.ending_ms && !run.failure.code ? "interrupted" : "failed",
                         NULL, NULL);
    launch_done(&run.launch);
    fflush(stdout);
    run_heed_output(&run);
    if (run.status)
        wire_free(&run.status->base);
    run_place_done(&run.place, prepared);
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
