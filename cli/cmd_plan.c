/* graphps plan: what a job will need, before it runs. */
#include <argp.h>
#include <jansson.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/job_plan.h"
#include "common/file.h"
#include "common/mem.h"
#include "worker/kernels/kernels.h"

enum { KEY_NO_TIME = 256, KEY_JSON };

static const struct argp_option options[] = {
    {"no-time", KEY_NO_TIME, NULL, 0, "Compute nothing: memory, wire and disk only", 0},
    {"json", KEY_JSON, NULL, 0, "As JSON, bytes and seconds as numbers", 0},
    {0},
};
static const struct argp_child children[] = {{&args_job_argp, 0, NULL, 0}, {0}};

struct arguments {
    struct args_job job;
    bool no_time, json;
};

static error_t parse_option(int key, char *arg, struct argp_state *state) {
    struct arguments *arguments = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &arguments->job;
        return 0;
    case KEY_NO_TIME:
        arguments->no_time = true;
        return 0;
    case KEY_JSON:
        arguments->json = true;
        return 0;
    case ARGP_KEY_ARG:
        if (arguments->job.config_path)
            argp_error(state, "only one job file, please; \"%s\" is too many", arg);
        arguments->job.config_path = arg;
        return 0;
    case ARGP_KEY_END:
        if (!arguments->job.config_path)
            argp_error(state, "give a job file");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const char *bytes_text(uint64_t bytes, char buf[16]) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;
    for (; value >= 1024 && unit < 4; unit++)
        value /= 1024;
    snprintf(buf, 16, unit && value < 100 ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return buf;
}

static void print_memory(const struct config *config, const struct job_plan *plan) {
    char a[16], b[16], c[16], d[16], e[16], f[16];
    bool prepares = false;
    for (int64_t w = 0; w < config->workers_count; w++)
        prepares = prepares || plan->workers[w].prepare_bytes > 0;
    printf("%-10s %10s %10s %10s %10s %10s %10s%s\n", "memory", "all", "files", "batches", "model",
           "exchange", "program", prepares ? "    or first" : "");
    for (int64_t w = 0; w < config->workers_count; w++) {
        const struct plan_worker *worker = &plan->workers[w];
        printf("worker %-3d %10s %10s %10s %10s %10s %10s", (int)w,
               bytes_text(plan_worker_bytes(worker), a), bytes_text(worker->mapped_bytes, b),
               bytes_text(worker->batch_bytes, c), bytes_text(worker->model_bytes, d),
               bytes_text(worker->exchange_bytes, e), bytes_text(worker->base_bytes, f));
        if (prepares)
            printf("  %10s", bytes_text(worker->prepare_bytes, a));
        printf("\n");
    }
    printf("%-10s %10s %10s %10s %10s %10s%s\n", "", "all", "weights", "optimizer", "pushes",
           "program", plan->rows ? "       rows" : "");
    printf("%-10s %10s %10s %10s %10s %10s", "each shard",
           bytes_text(plan_shard_bytes(&plan->shard), a), bytes_text(plan->shard.weights_bytes, b),
           bytes_text(plan->shard.state_bytes, c), bytes_text(plan->shard.pushes_bytes, d),
           bytes_text(plan->shard.base_bytes, e));
    if (plan->rows)
        printf(" %10s", bytes_text(plan->shard.rows_bytes, f));
    printf("\n%-10s %10s, %s of them in files, of %s that are free here\n", "together",
           bytes_text(plan->memory_bytes, a), bytes_text(plan->files_bytes, b),
           bytes_text(plan->available_bytes, c));
    if (plan->memory_bytes > plan->available_bytes &&
        plan->memory_bytes - plan->files_bytes <= plan->available_bytes)
        printf("           the files do not fit beside the rest: parts of them are read again and "
               "again\n");
}

static void print_plan(const struct config *config, const struct snapshot *snapshot,
                       const struct job_plan *plan) {
    char a[16], b[16];
    printf("job %s on %s@%s: %ld shards, %ld workers, %lu parameters\n", config->job_name,
           snapshot->name, snapshot->version, (long)config->servers_count,
           (long)config->workers_count, (unsigned long)plan->parameters);
    if (plan->rows)
        printf("%-10s %lu of %ld floats are learned\n", "rows", (unsigned long)plan->rows,
               (long)config->model_embedding);
    print_memory(config, plan);
    printf("%-10s %s pushed and at most %s pulled by each worker in a step; %lu steps an epoch\n",
           "wire", bytes_text(plan->push_bytes, a), bytes_text(plan->pull_bytes, b),
           (unsigned long)plan->workers[0].steps);
    printf("%-10s %s for parts and %ld checkpoints\n", "disk", bytes_text(plan->disk_bytes, a),
           (long)config->checkpoint_keep);
    fflush(stdout);
}

static void print_time(const struct config *config, const struct plan_worker *worker,
                       uint32_t rank) {
    double epoch = worker->step_seconds * (double)worker->steps;
    printf("%-10s about %.3g s a step, %.3g s an epoch, %.3g s for %ld epochs (worker %u alone on "
           "%d threads,\n           without evaluation and waiting)\n",
           "time", worker->step_seconds, epoch, epoch * (double)config->train_epochs,
           (long)config->train_epochs, rank, job_plan_threads(config));
}

/* --- JSON --- */

static json_t *worker_json(const struct plan_worker *worker) {
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "memory_bytes",
        (json_int_t)plan_worker_bytes(worker), "files_bytes", (json_int_t)worker->mapped_bytes,
        "batches_bytes", (json_int_t)worker->batch_bytes, "model_bytes",
        (json_int_t)worker->model_bytes, "exchange_bytes", (json_int_t)worker->exchange_bytes,
        "program_bytes", (json_int_t)worker->base_bytes, "prepare_bytes",
        (json_int_t)worker->prepare_bytes, "steps_per_epoch", (json_int_t)worker->steps);
}

static json_t *shard_json(const struct plan_shard *shard) {
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I}", "memory_bytes", (json_int_t)plan_shard_bytes(shard),
        "rows_bytes", (json_int_t)shard->rows_bytes, "weights_bytes",
        (json_int_t)shard->weights_bytes, "optimizer_bytes", (json_int_t)shard->state_bytes,
        "pushes_bytes", (json_int_t)shard->pushes_bytes, "program_bytes",
        (json_int_t)shard->base_bytes);
}

static json_t *plan_json(const struct config *config, const struct snapshot *snapshot,
                         const struct job_plan *plan) {
    json_t *workers = json_array();
    for (int64_t w = 0; w < config->workers_count; w++)
        json_array_append_new(workers, worker_json(&plan->workers[w]));
    _cleanup_(mem_free_p) char *name = mem_printf("%s@%s", snapshot->name, snapshot->version);
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:I, s:o}",
                     "job", config->job_name, "snapshot", name, "rows", (json_int_t)plan->rows,
                     "parameters", (json_int_t)plan->parameters, "memory_bytes",
                     (json_int_t)plan->memory_bytes, "files_bytes", (json_int_t)plan->files_bytes,
                     "available_bytes", (json_int_t)plan->available_bytes, "push_bytes",
                     (json_int_t)plan->push_bytes, "pull_bytes", (json_int_t)plan->pull_bytes,
                     "disk_bytes", (json_int_t)plan->disk_bytes, "servers_count",
                     (json_int_t)config->servers_count, "each_shard", shard_json(&plan->shard),
                     "workers_count", (json_int_t)config->workers_count, "workers", workers);
}

/* Null where nothing was computed. */
static void print_json(const struct config *config, const struct snapshot *snapshot,
                       const struct job_plan *plan, const struct plan_worker *timed) {
    json_t *json = plan_json(config, snapshot, plan);
    json_object_set_new(json, "step_seconds", timed ? json_real(timed->step_seconds) : json_null());
    json_object_set_new(json, "epoch_seconds",
                        timed ? json_real(timed->step_seconds * (double)timed->steps)
                              : json_null());
    json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    printf("\n");
    json_decref(json);
}

/* The slowest worker decides, which is the one with the most edges. */
static int take_time(const struct config *config, const char *dir, struct job_plan *plan,
                     uint32_t *ret_rank, struct error *reterr) {
    uint32_t slowest = 0;
    for (uint32_t w = 1; w < (uint32_t)config->workers_count; w++)
        if (plan->workers[w].edges > plan->workers[slowest].edges)
            slowest = w;
    struct store *store = NULL;
    int r = store_open(dir, (uint32_t)config->workers_count, (uint32_t)config->data_halo, slowest,
                       false, config->data_normalize_features, &store, reterr);
    if (r < 0)
        return r;
    kernels_set_threads(job_plan_threads(config));
    plan_time(config, store, &plan->workers[slowest]);
    store_close(store);
    *ret_rank = slowest;
    return 0;
}

static int run(const struct config *config, const struct arguments *arguments,
               struct error *reterr) {
    _cleanup_(mem_free_p) char *dir = NULL;
    struct snapshot *snapshot = NULL;
    struct job_plan plan = {0};
    int r = snapshot_find(config->data_root, config->data_snapshot, &dir, reterr);
    if (r == 0)
        r = snapshot_open(dir, false, &snapshot, reterr);
    if (r == 0)
        r = snapshot_trainable(snapshot, config->model_embedding > 0,
                               config->train_task == TASK_LINKS, reterr);
    if (r == 0)
        r = job_plan_make(config, dir, &plan, reterr);
    bool made = r == 0, timed = false;
    uint32_t rank = 0;
    if (made && !arguments->json)
        print_plan(config, snapshot, &plan);
    if (made)
        r = job_plan_check(&plan, config, reterr);
    if (r == 0 && !arguments->no_time) {
        r = take_time(config, dir, &plan, &rank, reterr);
        timed = r == 0;
    }
    if (made && arguments->json)
        print_json(config, snapshot, &plan, timed ? &plan.workers[rank] : NULL);
    else if (timed)
        print_time(config, &plan.workers[rank], rank);
    job_plan_done(&plan);
    snapshot_close(snapshot);
    return r;
}

int cmd_plan(int argc, char **argv) {
    static const struct argp argp = {
        .options = options,
        .parser = parse_option,
        .children = children,
        .args_doc = "JOB.yaml",
        .doc =
            "Predict what a job needs: memory, bytes on the wire, time, disk.\v"
            "The snapshot must have been cut into as many parts as the job has workers "
            "(graphps partition). Memory is that of all processes on this machine at their "
            "peaks; when there is less, files left aside, the exit code is 70, and graphps train "
            "refuses with "
            "the same sentence. \"or first\" stands for batches and model together: what cutting "
            "clusters takes before there are any. Time comes from computing for some two "
            "seconds.\n\n"
            "With --json, one object: job, snapshot, parameters; memory_bytes (of all processes), "
            "files_bytes (those of them that the system can let go and read again) "
            "and available_bytes; push_bytes and pull_bytes (of one worker, each step); "
            "disk_bytes; each_shard and workers, each with memory_bytes (its peak) and what that "
            "is made of; step_seconds and epoch_seconds, null when they were not measured.",
    };
    struct arguments arguments = {0};
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    struct config *config = NULL;
    int exit_code = error_exit_code(cli_load_job(&arguments.job, &config));
    if (config) {
        struct error err = {0};
        if (run(config, &arguments, &err) < 0)
            exit_code = cli_fail(argv[0], &err);
    }
    config_free(config);
    args_job_done(&arguments.job);
    return exit_code;
}
