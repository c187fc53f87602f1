/* graphps status: one table of all shards and workers of a running job. */
#include <argp.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/query.h"
#include "common/file.h"
#include "common/mem.h"
#include "proto/score.h"

enum { TIMEOUT_MS = 5000 };

static const struct argp_child children[] = {{&args_job_argp, 0, NULL, 0}, {0}};

static error_t parse_option(int key, char *arg, struct argp_state *state) {
    struct args_job *job = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = job;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\"", arg);
        return 0;
    case ARGP_KEY_END:
        if (!job->config_path)
            argp_error(state, "which job? Give --config FILE");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* A cell of the table; what nobody has said yet is a dash, not a 0. */
struct cell {
    char text[24];
};

static struct cell cell_count(bool known, uint64_t count) {
    struct cell cell = {"-"};
    if (known)
        snprintf(cell.text, sizeof cell.text, "%lu", (unsigned long)count);
    return cell;
}

static struct cell cell_fraction(bool known, int decimals, double value) {
    struct cell cell = {"-"};
    if (known)
        snprintf(cell.text, sizeof cell.text, "%.*f", decimals, value);
    return cell;
}

static struct cell cell_mib(bool known, uint64_t bytes) {
    double mib = (double)bytes / (1024.0 * 1024.0);
    return cell_fraction(known, mib < 10 ? 2 : 1, mib);
}

/* Numbers that some workers' nodes are missing from. */
static void print_part(uint32_t workers, size_t of) {
    if (workers > 0 && workers < of)
        printf(" (of %u of %zu workers)", workers, of);
}

static void print_score(const char *what, const Graphps__EpochStatus *epoch, enum score_set set,
                        enum score metric) {
    double value = score_of(epoch, set, metric);
    if (value >= 0)
        printf(", %s %s", what, score_text(metric, value, 2).text);
}

static void print_epoch(const char *what, const Graphps__EpochStatus *epoch,
                        const Graphps__Status *status) {
    if (!epoch || epoch->epoch == 0)
        return;
    enum score metric = SCORE_ACCURACY;
    score_find(status->metric, &metric);
    size_t workers = status->n_workers;
    printf("%s epoch %u: loss %.4f", what, epoch->epoch, epoch->train_loss);
    if (metric != SCORE_ACCURACY)
        printf(", %s", score_title(metric));
    print_score("train", epoch, SCORE_TRAIN, metric);
    print_part(epoch->workers, workers);
    if (epoch->valid_epoch > 0) {
        print_score("valid", epoch, SCORE_VALID, metric);
        print_score("test", epoch, SCORE_TEST, metric);
        if (epoch->valid_epoch != epoch->epoch)
            printf(" (epoch %u)", epoch->valid_epoch);
        print_part(epoch->valid_workers, workers);
    }
    printf("\n");
}

static void print_stop(const Graphps__Status *status) {
    uint32_t epoch = status->last ? status->last->epoch : 0;
    if (strcmp(status->stop_reason, "early stop") == 0)
        printf("stopping: early stop after epoch %u (no better one for %u epochs)\n", epoch,
               status->idle_epochs);
    else if (strcmp(status->stop_reason, "epochs") == 0)
        printf("stopping: all %u epochs done\n", status->epochs);
    else if (status->stop_reason[0])
        printf("stopping: %s\n", status->stop_reason);
}

static void print_head(const char *third, const char *fourth) {
    printf("\n%-10s %-9s %10s %10s %10s %9s %9s %9s %8s %s\n", "process", "state", "pushes", third,
           fourth, "in MiB", "out MiB", "RSS MiB", "seen s", "http");
}

static void print_shard(const Graphps__ShardStatus *s) {
    bool known = s->rss_bytes > 0; /* by its first report */
    printf("shard %-4u %-9s %10s %10s %10s %9s %9s %9s %8s %s\n", s->shard, s->state,
           cell_count(known, s->pushes_applied).text, cell_count(known, s->updates).text,
           cell_fraction(known, 2, s->staleness_mean).text, cell_mib(known, s->bytes_in).text,
           cell_mib(known, s->bytes_out).text, cell_mib(known, s->rss_bytes).text,
           cell_fraction(known, 1, (double)s->seen_ms / 1000).text, s->http);
}

static void print_worker(const Graphps__WorkerStatus *w) {
    bool joined = w->http[0] != 0;                /* by its hello, in this life of shard 0 */
    bool beaten = w->rss_bytes > 0;               /* by a heartbeat */
    bool counted = beaten || w->bytes_pulled > 0; /* or by its goodbye, if that came first */
    printf("worker %-3u %-9s %10s %10lu %10s %9s %9s %9s %8s %s\n", w->rank, w->state,
           cell_count(counted, w->pushes).text, (unsigned long)w->clock,
           cell_count(joined, w->owned_nodes).text, cell_mib(counted, w->bytes_pulled).text,
           cell_mib(counted, w->bytes_pushed).text, cell_mib(beaten, w->rss_bytes).text,
           cell_fraction(joined, 1, (double)w->seen_ms / 1000).text, w->http);
}

static void print_status(const Graphps__Status *status) {
    printf("job %s: %s (%s), up %.1f s, clocks %lu to %lu, checkpoint %lu\n", status->job,
           status->state, status->mode, (double)status->uptime_ms / 1000,
           (unsigned long)status->slowest_clock, (unsigned long)status->fastest_clock,
           (unsigned long)status->generation);
    print_epoch("last", status->last, status);
    print_epoch("best", status->best, status);
    print_stop(status);
    if (status->waiting_for[0])
        printf("waiting for %s\n", status->waiting_for);

    print_head("updates", "stale");
    for (size_t i = 0; i < status->n_shards; i++)
        print_shard(status->shards[i]);
    print_head("clock", "owned");
    for (size_t i = 0; i < status->n_workers; i++)
        print_worker(status->workers[i]);
}

/* Nobody answers: says whose answer that was to be, what is left of the job and what to do. */
static void explain_silence(const struct config *config, const char *config_path,
                            struct error *err) {
    _cleanup_(mem_free_p) char *result = mem_printf("%s/result.json", config->job_dir);
    _cleanup_(mem_free_p) char *checkpoints = mem_printf("%s/checkpoints", config->job_dir);
    const char *left = "holds no run of it; to start it";
    if (file_exists(result))
        left = "holds the result and the logs of a run that has ended; to run it anew";
    else if (file_exists(checkpoints))
        left = "holds the logs and checkpoints of a run without a result; to go on with it";
    struct error why = *err;
    error_set(err, why.code,
              "no process of the job %s answers at %s. %s %s: `graphps train %s`, or its shards "
              "and workers by hand",
              config->job_name, error_text(&why), config->job_dir, left, config_path);
}

int cmd_status(int argc, char **argv) {
    static const struct argp argp = {
        .parser = parse_option,
        .children = children,
        .doc = "Print one table of all shards and workers of a running job.\v"
               "Shard 0 is asked: at servers.addresses, or where `graphps train` started it.",
    };
    struct args_job job = {0};
    argp_parse(&argp, argc, argv, 0, NULL, &job);
    struct config *config = NULL;
    int exit_code = error_exit_code(args_load_config(&job, NULL, &config));
    if (config) {
        struct error err = {0};
        _cleanup_(mem_free_p) char *address = NULL;
        Graphps__Status *status = NULL;
        int r = query_find_address(config, &address, &err);
        if (r == 0)
            r = query_status(address, config->job_name, TIMEOUT_MS, &status, &err);
        if (address && (r == ERR_UNREACHABLE || r == ERR_CLOSED))
            explain_silence(config, job.config_path, &err);
        if (r == 0) {
            print_status(status);
            wire_free(&status->base);
        } else {
            exit_code = cli_fail(argv[0], &err);
        }
    }
    config_free(config);
    args_job_done(&job);
    return exit_code;
}
