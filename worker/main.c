/* graphps-worker: trains on one partition. Reads the job file, starts everything in order
 * (partition, model, HTTP, client), trains, says goodbye, stops in reverse order. The loop is
 * trainer.c's. */
#include <argp.h>
#include <inttypes.h>
#include <malloc.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/args.h"
#include "common/file.h"
#include "common/httpd.h"
#include "common/ident.h"
#include "common/lock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/metrics.h"
#include "common/model_spec.h"
#include "common/rng.h"
#include "proto/address.h"
#include "worker/cpus.h"
#include "worker/graph/catalog.h"
#include "worker/graph/claim.h"
#include "worker/kernels/kernels.h"
#include "worker/trainer.h"

/* Without an answer on a living connection, a request is sent again after this time. */
#define RESEND_MS 3000
#define BYE_DONE_MS 10000
#define SIGNAL_END SIGUSR1 /* ends the signal thread */

struct shell {
    /* set at start, never changed */
    struct args_job job;
    const char *rank_text, *http_port_file;
    struct config *config;
    char *options; /* config_shared_text */
    char *http;    /* the pages' address; the client says it, who outlives them */
    int rank;
    struct store *store;
    char *partition; /* "2x1": the name of the partitioning's directory */
    int claims[2];   /* on the snapshot and the partitioning, for as long as we live */
    struct trainer *trainer;
    struct httpd *httpd;
    struct client *client;
    struct client *_Atomic published; /* for other threads: the client, while it lives */
    atomic_bool signalled;
    pthread_t signals;
};

/* ---- the command line ---- */

const char *argp_program_version = "graphps-worker " GRAPHPS_VERSION;

enum { KEY_HTTP_PORT_FILE = 256 };

static const struct argp_option shell_options[] = {
    {"rank", 'r', "R", 0,
     "Which worker this is, from 0 (else GRAPHPS_RANK, else JOB_COMPLETION_INDEX, else the number "
     "that ends the host name)",
     0},
    {"http-port-file", KEY_HTTP_PORT_FILE, "FILE", 0, "Write the address of the HTTP pages to FILE",
     0},
    {0},
};

static error_t shell_parse_option(int key, char *arg, struct argp_state *state) {
    struct shell *shell = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &shell->job;
        return 0;
    case 'r':
        shell->rank_text = arg;
        return 0;
    case KEY_HTTP_PORT_FILE:
        shell->http_port_file = arg;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "'%s': no arguments are expected", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child shell_children[] = {{&args_job_argp, 0, NULL, 0}, {0}};
static const struct argp shell_argp = {
    .options = shell_options,
    .parser = shell_parse_option,
    .doc = "One worker of a graphps job: computes gradients on its partition of the graph.\v"
           "Exit codes: 0 the job is done, 70 internal error, 75 try again (interrupted, a shard "
           "that cannot be reached), 76 the peers do not fit, 77 not allowed, 78 wrong "
           "configuration.",
    .children = shell_children,
};

/* ---- signals ---- */

/* All threads block them; this one takes them, so nothing is interrupted half-way. */
static void *signals_run(void *ctx) {
    struct shell *shell = ctx;
    sigset_t set;
    int number;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGNAL_END);
    while (sigwait(&set, &number) == 0 && number != SIGNAL_END) {
        struct client *client = atomic_load(&shell->published);
        if (!client || shell->signalled) {
            log_warning("leaving at once", "signal=%s", log_quote(strsignal(number)));
            _exit(error_exit_code(ERR_INTERRUPTED));
        }
        log_info("asked to end: finishing the step first", "signal=%s",
                 log_quote(strsignal(number)));
        shell->signalled = true;
        client_interrupt(client);
    }
    return NULL;
}

/* Before any other thread starts. */
static int signals_start(struct shell *shell, struct error *reterr) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGNAL_END);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    int r = pthread_create(&shell->signals, NULL, signals_run, shell);
    if (r != 0)
        return error_set(reterr, ERR_IO, "cannot start a thread: %s", strerror(r));
    return 0;
}

static void signals_stop(struct shell *shell) {
    pthread_kill(shell->signals, SIGNAL_END);
    pthread_join(shell->signals, NULL);
}

/* ---- being watched ---- */

static json_t *shell_stats(void *ctx) {
    struct shell *shell = ctx;
    struct client *client = atomic_load(&shell->published);
    json_t *stats = client ? client_stats_json(client) : json_object();
    json_object_set_new(stats, "role", json_string("worker"));
    json_object_set_new(stats, "rank", json_integer(shell->rank));
    json_object_set_new(stats, "job", json_string(shell->config->job_name));
    json_object_set_new(stats, "rss_bytes", json_integer((json_int_t)process_rss_bytes()));
    json_object_set_new(stats, "rss_peak_bytes",
                        json_integer((json_int_t)process_rss_peak_bytes()));
    trainer_add_stats(shell->trainer, stats);
    return stats;
}

static bool shell_ready(void *ctx, char *why, size_t why_bytes) {
    struct client *client = atomic_load(&((struct shell *)ctx)->published);
    if (client)
        return client_ready(client, why, why_bytes);
    snprintf(why, why_bytes, "the process is starting or leaving");
    return false;
}

static const struct httpd_ops shell_httpd_ops = {.stats = shell_stats, .ready = shell_ready};

static int shell_start_http(struct shell *shell, struct error *reterr) {
    const struct config *config = shell->config;
    int64_t port = config->http_port ? config->http_port + config->servers_count + shell->rank : 0;
    if (port > UINT16_MAX)
        return error_set(reterr, ERR_CONFIG,
                         "http.port + servers.count + rank is %" PRId64 "; ports end at %d", port,
                         UINT16_MAX);
    int r = httpd_start(config->http_host, (uint16_t)port, "worker", shell->rank, &shell_httpd_ops,
                        shell, &shell->httpd, reterr);
    if (r < 0)
        return r;
    const struct string_list *addresses = &config->servers_addresses;
    char host[ADDRESS_HOST_MAX];
    uint16_t shard_port;
    bool known =
        addresses->count > 0 && address_split(addresses->items[0], host, &shard_port, NULL) == 0;
    httpd_advertise(shell->httpd, known ? host : NULL);
    if (!shell->http_port_file)
        return 0;
    _cleanup_(mem_free_p) char *line = mem_printf("%s\n", httpd_address(shell->httpd));
    return file_write_whole(shell->http_port_file, line, strlen(line), reterr);
}

/* ---- starting ---- */

/* A run whose processes were started by hand is recorded by rank 0, if it may write there; what it
 * came to is the launcher's to say, if there is one. */
static void shell_record(const struct shell *shell, const char *state) {
    if (shell->rank != 0 || !shell->store)
        return;
    const struct catalog_run record = {
        .job = shell->config->job_name,
        .dir = shell->config->job_dir,
        .snapshot = shell->store->snapshot_name,
        .digest = shell->store->digest,
        .partition = shell->partition,
        .state = state,
        .valid_score = NAN,
        .test_score = NAN,
    };
    struct error err = {0};
    if (catalog_put_run(shell->config->data_root, &record, &err) < 0)
        log_debug("the catalog was not updated", "why=%s", log_quote(error_text(&err)));
}

static int shell_open_store(struct shell *shell, struct error *reterr) {
    const struct config *config = shell->config;
    _cleanup_(mem_free_p) char *dir = NULL;
    int r = snapshot_find(config->data_root, config->data_snapshot, &dir, reterr);
    if (r == 0)
        r = claim_take(dir, &shell->claims[0], reterr);
    if (r < 0)
        return r;
    r = store_open(dir, (uint32_t)config->workers_count, (uint32_t)config->data_halo,
                   (uint32_t)shell->rank, config->data_verify, config->data_normalize_features,
                   &shell->store, reterr);
    if (r < 0)
        return r;
    _cleanup_(mem_free_p) char *partition =
        partition_dir(dir, (uint32_t)config->workers_count, (uint32_t)config->data_halo);
    shell->partition = mem_strdup(strrchr(partition, '/') + 1);
    r = claim_take(partition, &shell->claims[1], reterr);
    if (r < 0)
        return r;
    const struct store *store = shell->store;
    bool links = config->train_task == TASK_LINKS;
    size_t hops = model_spec_hops(config) + links; /* both ends of a link are computed */
    if (store->parts > 1 && store->halo < hops)
        log_warning("the halo is smaller than the model is deep: nodes at the border see only some "
                    "of their neighbours",
                    "halo=%u hops=%zu option=data.halo", store->halo, hops);
    if (links ? store->indptr[store->owned] == 0 : store->train_nodes == 0)
        log_warning(links ? "no edge in this partition" : "no training node in this partition",
                    "owned=%" PRIu64, store->owned);
    return 0;
}

static int shell_start(struct shell *shell, struct error *reterr) {
    const struct config *config = shell->config;
    int threads = config->train_threads ? (int)config->train_threads : cpus_available();
    kernels_set_threads(threads);
    int r = shell_open_store(shell, reterr);
    if (r < 0)
        return r;
    const struct store *store = shell->store;
    r = trainer_new(config, (uint32_t)shell->rank, store, &shell->trainer, reterr);
    if (r < 0)
        return r;
    if ((r = shell_start_http(shell, reterr)) < 0)
        return r;
    shell->options = config_shared_text(config);
    shell->http = mem_strdup(httpd_address(shell->httpd));
    struct outbox_spec spec = {
        .job = config->job_name,
        .snapshot_digest = store->digest,
        .http = shell->http,
        .options = shell->options,
        .rank = (uint32_t)shell->rank,
        .workers = (uint32_t)config->workers_count,
        .incarnation = rng_entropy(),
        .seed = (uint64_t)config->job_seed,
        .owned_nodes = store->owned,
        .train_nodes = store->train_nodes,
        .steps_per_epoch = trainer_steps_per_epoch(shell->trainer),
        .layout = trainer_layout(shell->trainer),
        .codec = (enum codec)config->push_encoding, /* the same order (codec.h) */
        .topk_ratio = config->push_topk_ratio,
        .payload_max_bytes = frame_cut_bytes(config->net_max_frame_bytes),
        .frame_max_bytes = (uint32_t)config->net_max_frame_bytes,
        .resend_ms = RESEND_MS,
    };
    r = client_start(config, &spec, &shell->client, reterr);
    if (r < 0)
        return r;
    atomic_store(&shell->published, shell->client);
    log_info("worker is up",
             "http=%s snapshot=%s owned=%" PRIu64 " halo=%" PRIu64 " training=%" PRIu64
             " threads=%d kernels=%s blas=%s incarnation=%016" PRIx64,
             httpd_address(shell->httpd), store->snapshot_name, store->owned,
             store->local - store->owned, store->train_nodes, threads, kernels()->name,
             kernels_blas(), spec.incarnation);
    return 0;
}

/* ---- running ---- */

static int shell_train(struct shell *shell, struct error *reterr) {
    uint64_t clock;
    /* One whom the shards refuse has no part in the run. */
    int r = client_wait_welcome(shell->client, &clock, reterr);
    bool welcome = r == 0;
    if (welcome) {
        shell_record(shell, "running");
        r = trainer_run(shell->trainer, shell->client, reterr);
    }
    if (r == 0 || r == ERR_INTERRUPTED) {
        struct error err;
        uint64_t timeout_ms =
            r == 0 ? BYE_DONE_MS : (uint64_t)shell->config->checkpoint_grace_s * 1000 / 4;
        /* Shard 0 may be gone by now; its lease on us ends by itself. */
        if (client_bye(shell->client, r == 0, timeout_ms, &err) < 0)
            log_warning("left without an answer", "why=%s", log_quote(error_text(&err)));
    }
    if (welcome)
        shell_record(shell, r == 0 ? "done" : r == ERR_INTERRUPTED ? "interrupted" : "failed");
    struct trainer_totals trained;
    struct client_totals sent;
    trainer_totals(shell->trainer, &trained);
    client_totals(shell->client, &sent);
    log_info(r == 0 ? "finished" : "stopped",
             "steps=%" PRIu64 " seconds=%.3f compute_seconds=%.3f waited_seconds=%.3f "
             "pushes=%" PRIu64 " bytes_pushed=%" PRIu64 " bytes_pulled=%" PRIu64
             " peak_memory_bytes=%" PRIu64,
             trained.steps, trained.seconds, trained.compute_s, sent.waited_s, sent.pushes,
             sent.bytes_pushed, sent.bytes_pulled, process_rss_peak_bytes());
    return r;
}

static int shell_run(struct shell *shell, struct error *reterr) {
    int r = signals_start(shell, reterr);
    if (r < 0) {
        log_error("cannot start", "why=%s", log_quote(error_text(reterr)));
        return r;
    }
    r = shell_start(shell, reterr);
    if (r < 0) {
        log_error("cannot start", "code=%s why=%s", error_name(r), log_quote(error_text(reterr)));
    } else {
        r = shell_train(shell, reterr);
        if (r < 0 && r != ERR_INTERRUPTED) /* that was asked for, and "stopped" said it */
            log_error("giving up", "code=%s why=%s", error_name(r), log_quote(error_text(reterr)));
    }
    /* Nobody may look at the client any more when it goes. */
    signals_stop(shell);
    shell->httpd = httpd_stop(shell->httpd);
    atomic_store(&shell->published, NULL);
    shell->client = client_stop(shell->client);
    shell->trainer = trainer_free(shell->trainer);
    shell->store = store_close(shell->store);
    return r;
}

int main(int argc, char **argv) {
    struct shell shell = {.claims = {-1, -1}};
    struct error err = {0};
    cpus_yield_when_idle(argv);
    argp_err_exit_status = error_exit_code(ERR_USAGE);
    argp_parse(&shell_argp, argc, argv, 0, NULL, &shell);
    mallopt(M_ARENA_MAX, 2); /* several threads, little heap each: memory stays near what is used */

    int r = args_load_config(&shell.job, config_check_snapshot, &shell.config);
    if (r == 0) {
        r = ident_rank(shell.rank_text, shell.config->workers_count, &shell.rank, &err);
        if (r == 0)
            r = config_check_security(shell.config, CONFIG_NO_SHARD, shell.job.config_path, NULL,
                                      &err);
        if (r < 0)
            fprintf(stderr, "%s: %s\n", shell.job.program, error_text(&err));
    }
    if (r == 0) {
        log_init("worker", shell.rank, (enum log_level)shell.config->log_level,
                 strcmp(config_choice(shell.config, "log.format"), "json") == 0);
        r = shell_run(&shell, &err);
    }
    config_free(shell.config);
    mem_free(shell.partition);
    mem_free(shell.options);
    mem_free(shell.http);
    args_job_done(&shell.job);
    return error_exit_code(r);
}
