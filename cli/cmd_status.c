/* graphps status: one table of all shards and workers of a running job. */
#include <argp.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/query.h"
#include "common/mem.h"

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

static const char *size_text(uint64_t bytes, char buf[16]) {
    double mib = (double)bytes / (1024.0 * 1024.0);
    snprintf(buf, 16, mib < 10 ? "%.2f" : "%.1f", mib);
    return buf;
}

static void print_epoch(const char *what, const Graphps__EpochStatus *epoch) {
    if (!epoch || epoch->epoch == 0)
        return;
    printf("%s epoch %u: loss %.4f, train %.2f %%, valid %.2f %%", what, epoch->epoch,
           epoch->train_loss, 100 * epoch->train_accuracy, 100 * epoch->valid_accuracy);
    if (epoch->test_accuracy >= 0)
        printf(", test %.2f %%", 100 * epoch->test_accuracy);
    printf("\n");
}

static void print_status(const Graphps__Status *status) {
    char a[16], b[16], c[16], d[16];
    printf("job %s: %s (%s), up %.1f s, clocks %lu to %lu, checkpoint %lu\n", status->job,
           status->state, status->mode, (double)status->uptime_ms / 1000,
           (unsigned long)status->slowest_clock, (unsigned long)status->fastest_clock,
           (unsigned long)status->generation);
    print_epoch("last", status->last);
    print_epoch("best", status->best);
    if (status->stop_reason[0])
        printf("stopping: %s\n", status->stop_reason);
    if (status->waiting_for[0])
        printf("waiting for %s\n", status->waiting_for);

    printf("\n%-10s %-9s %10s %10s %10s %9s %9s %9s %8s %s\n", "process", "state", "pushes",
           "updates", "stale", "in MiB", "out MiB", "RSS MiB", "seen s", "http");
    for (size_t i = 0; i < status->n_shards; i++) {
        const Graphps__ShardStatus *s = status->shards[i];
        printf("shard %-4u %-9s %10lu %10lu %10.2f %9s %9s %9s %8.1f %s\n", s->shard, s->state,
               (unsigned long)s->pushes_applied, (unsigned long)s->updates, s->staleness_mean,
               size_text(s->bytes_in, a), size_text(s->bytes_out, b), size_text(s->rss_bytes, c),
               (double)s->seen_ms / 1000, s->http);
    }
    printf("\n%-10s %-9s %10s %10s %10s %9s %9s %9s %8s %s\n", "process", "state", "pushes",
           "clock", "owned", "out MiB", "in MiB", "RSS MiB", "seen s", "http");
    for (size_t i = 0; i < status->n_workers; i++) {
        const Graphps__WorkerStatus *w = status->workers[i];
        printf("worker %-3u %-9s %10lu %10lu %10lu %9s %9s %9s %8.1f %s\n", w->rank, w->state,
               (unsigned long)w->pushes, (unsigned long)w->clock, (unsigned long)w->owned_nodes,
               size_text(w->bytes_pushed, a), size_text(w->bytes_pulled, b),
               size_text(w->rss_bytes, d), (double)w->seen_ms / 1000, w->http);
    }
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
    int exit_code = error_exit_code(cli_load_config(&job, &config));
    if (config) {
        struct error err = {0};
        _cleanup_(mem_free_p) char *address = NULL;
        Graphps__Status *status = NULL;
        int r = query_find_address(config, &address, &err);
        if (r == 0)
            r = query_status(address, config->job_name, TIMEOUT_MS, &status, &err);
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
