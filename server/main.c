/* graphps-server: one shard. Reads the job file, starts everything in order (HTTP, listening,
 * server, threads, network, link to shard 0), runs loop 0, stops in reverse order. Decides nothing
 * about training: that is server.c and what it calls. */
#include <argp.h>
#include <malloc.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/args.h"
#include "common/file.h"
#include "common/httpd.h"
#include "common/ident.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/metrics.h"
#include "common/pool.h"
#include "common/rng.h"
#include "proto/address.h"
#include "proto/conn.h"
#include "server/io.h"
#include "server/link.h"
#include "server/server.h"
#include "server/threads.h"

#define TICK_SERVING_MS 2 /* at most: finer than aggregation.max_wait_ms can matter */
#define TICK_WAITING_MS 20
#define INLINE_FLOATS 65536 /* 256 KiB: some 20 us of work */
#define TRIM_MS 10000       /* memory that was not needed for so long goes back to the system */
#define LEAVE_MS 5000       /* for what is in work when the process has decided to leave */
#define READY_MS 500        /* between two looks at readiness, for the metric */

struct shell {
    /* set at start, never changed */
    struct args_job job;
    const char *shard_text, *port_file, *http_port_file;
    struct config *config;
    int shard;
    struct checkpoint_store store;

    struct httpd *httpd;
    struct io *io;
    struct server *server;
    struct server *_Atomic published; /* for the HTTP thread: the server, once it is complete */
    struct threads *threads;
    struct link *link; /* shards k > 0 */

    /* loop 0 only */
    uv_timer_t tick, grace;
    uv_signal_t signals[2];     /* of shell_signals */
    uint64_t ready_ms, trim_ms; /* when to look next */
    bool signalled, stopping;
    int exit_code;
};

/* ---- the command line ---- */

const char *argp_program_version = "graphps-server " GRAPHPS_VERSION;

enum { KEY_PORT_FILE = 256, KEY_HTTP_PORT_FILE };

static const struct argp_option shell_options[] = {
    {"shard", 'k', "K", 0,
     "Which shard this is, from 0 (else GRAPHPS_SHARD, else the number that ends the host name)",
     0},
    {"port-file", KEY_PORT_FILE, "FILE", 0, "Write the address listened on (host:port) to FILE", 0},
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
    case 'k':
        shell->shard_text = arg;
        return 0;
    case KEY_PORT_FILE:
        shell->port_file = arg;
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
    .doc =
        "One shard of a graphps job: holds a part of the model, takes gradients, serves "
        "weights. Shard 0 also coordinates the job.\v"
        "Exit codes: 0 the job is done, 70 internal error, 75 try again (interrupted, address in "
        "use, a peer that cannot be reached), 76 the peers do not fit, 77 not allowed, 78 wrong "
        "configuration.",
    .children = shell_children,
};

/* ---- stopping ---- */

static const int shell_signals[] = {SIGTERM, SIGINT};

/* While the loop does not run: what is on disk is whole at each moment. */
static void shell_on_early_signal(int number) {
    _exit(error_exit_code(ERR_INTERRUPTED));
}

static void shell_stop(struct shell *shell, int exit_code) {
    if (shell->stopping)
        return;
    shell->stopping = true;
    shell->exit_code = exit_code;
    uv_close((uv_handle_t *)&shell->tick, NULL);
    uv_close((uv_handle_t *)&shell->grace, NULL);
    for (size_t i = 0; i < ARRAY_LEN(shell->signals); i++) {
        uv_close((uv_handle_t *)&shell->signals[i], NULL);
        signal(shell_signals[i], shell_on_early_signal);
    }
    if (shell->server)
        server_abandon(shell->server);
    if (shell->link)
        link_stop(shell->link, time_now_ms());
    io_stop(shell->io);
}

static void shell_fail(void *ctx, const struct error *why) {
    struct shell *shell = ctx;
    log_error("giving up", "code=%s why=%s", error_name(why->code), log_quote(error_text(why)));
    shell_stop(shell, error_exit_code(why->code));
}

static void shell_on_grace(uv_timer_t *timer) {
    struct shell *shell = timer->data;
    log_warning("leaving without a new checkpoint", "after_s=%lld option=checkpoint.grace_s",
                (long long)shell->config->checkpoint_grace_s);
    shell_stop(shell, error_exit_code(ERR_INTERRUPTED));
}

static void shell_on_signal(uv_signal_t *handle, int number) {
    struct shell *shell = handle->data;
    if (shell->signalled) {
        log_warning("leaving at once", "signal=%s", strsignal(number));
        shell_stop(shell, error_exit_code(ERR_INTERRUPTED));
        return;
    }
    log_info("asked to end: writing a checkpoint first", "signal=%s grace_s=%lld",
             strsignal(number), (long long)shell->config->checkpoint_grace_s);
    shell->signalled = true;
    uv_timer_start(&shell->grace, shell_on_grace,
                   (uint64_t)shell->config->checkpoint_grace_s * 1000, 0);
    server_leave(shell->server, time_now_ms());
}

/* ---- running ---- */

static void shell_on_tick(uv_timer_t *timer) {
    struct shell *shell = timer->data;
    struct error err = {0};
    uint64_t now_ms = time_now_ms();
    uint64_t next_ms = server_tick(shell->server, now_ms);
    if (shell->link)
        link_step(shell->link, now_ms);
    if (shell->stopping) /* the link may have given up */
        return;

    if (now_ms >= shell->ready_ms) {
        char why[512];
        metric_set(METRIC_READY, server_ready(shell->server, why, sizeof why));
        io_measure(shell->io);
        shell->ready_ms = now_ms + READY_MS;
    }
    if (now_ms >= shell->trim_ms) {
        pool_trim();
        shell->trim_ms = now_ms + TRIM_MS;
    }
    int state = atomic_load(&shell->server->state);
    if (threads_aggregate(shell->threads, &err) < 0) {
        shell_fail(shell, &err);
    } else if (state == SERVER_FINISHED) {
        const struct error *finish = &shell->server->finish; /* not changed after the state */
        log_write(finish->code ? LOG_WARNING : LOG_INFO, "finished", "code=%s why=%s",
                  error_name(finish->code), log_quote(finish->code ? error_text(finish) : "done"));
        shell_stop(shell, error_exit_code(finish->code));
    } else {
        uint64_t most_ms = state == SERVER_SERVING ? TICK_SERVING_MS : TICK_WAITING_MS;
        uint64_t wait_ms = next_ms > now_ms ? next_ms - now_ms : 1;
        uv_timer_start(&shell->tick, shell_on_tick, wait_ms < most_ms ? wait_ms : most_ms, 0);
    }
}

static void shell_work(void *ctx) {
    threads_wake(((struct shell *)ctx)->threads);
}

static void shell_report(void *ctx) {
    struct shell *shell = ctx;
    if (shell->link)
        link_report(shell->link);
}

static uint64_t shell_now_ns(void *ctx) {
    return time_now_ns();
}

static int shell_quietly(void *ctx, int (*work)(void *argument), void *argument) {
    return threads_quietly(work, argument);
}

static const struct server_ops shell_server_ops = {
    .send = io_send,
    .ref = io_ref,
    .unref = io_unref,
    .work = shell_work,
    .report = shell_report,
    .now_ns = shell_now_ns,
    .quietly = shell_quietly,
    .inline_floats = INLINE_FLOATS,
};

static json_t *shell_stats(void *ctx) {
    struct server *server = atomic_load(&((struct shell *)ctx)->published);
    return server ? server_stats_json(server, time_now_ms()) : json_object();
}

static bool shell_ready(void *ctx, char *why, size_t why_bytes) {
    struct server *server = atomic_load(&((struct shell *)ctx)->published);
    if (server)
        return server_ready(server, why, why_bytes);
    snprintf(why, why_bytes, "the process is starting");
    return false;
}

static const struct httpd_ops shell_httpd_ops = {.stats = shell_stats, .ready = shell_ready};

/* ---- starting ---- */

static int shell_listen(struct shell *shell, struct error *reterr) {
    const struct config *config = shell->config;
    bool listed = config->servers_addresses.count > 0;
    const char *address = config->servers_listen[0] ? config->servers_listen
                          : listed                  ? config->servers_addresses.items[shell->shard]
                                                    : "127.0.0.1:0";
    if (shell->shard > 0 && !listed)
        return error_set(reterr, ERR_CONFIG,
                         "servers.addresses is empty: shard %d cannot know where shard 0 is",
                         shell->shard);
    return io_new(config, address, &shell->io, reterr);
}

static int shell_start_http(struct shell *shell, struct error *reterr) {
    const struct config *config = shell->config;
    int64_t port = config->http_port ? config->http_port + shell->shard : 0;
    if (port > UINT16_MAX)
        return error_set(reterr, ERR_CONFIG, "http.port + shard is %lld; ports end at %d",
                         (long long)port, UINT16_MAX);
    int r = httpd_start(config->http_host, (uint16_t)port, "shard", shell->shard, &shell_httpd_ops,
                        shell, &shell->httpd, reterr);
    if (r < 0)
        return r;
    /* The workers reach this shard there, so others reach its pages. */
    const struct string_list *addresses = &config->servers_addresses;
    const char *own = addresses->count > 0 ? addresses->items[shell->shard] : io_address(shell->io);
    char host[ADDRESS_HOST_MAX];
    uint16_t own_port;
    httpd_advertise(shell->httpd, address_split(own, host, &own_port, NULL) == 0 ? host : NULL);
    return 0;
}

static int shell_write_address(const char *path, const char *address, struct error *reterr) {
    if (!path)
        return 0;
    _cleanup_(mem_free_p) char *line = mem_printf("%s\n", address);
    return file_write_whole(path, line, strlen(line), reterr);
}

static int shell_start(struct shell *shell, struct error *reterr) {
    int r = shell_listen(shell, reterr);
    if (r < 0)
        return r;
    if ((r = shell_start_http(shell, reterr)) < 0)
        return r;

    shell->store = checkpoint_store_files(shell->config->job_dir);
    r = server_new(shell->config, (uint32_t)shell->shard, rng_entropy(), io_address(shell->io),
                   &shell_server_ops, shell, &shell->store, &shell->server, reterr);
    if (r < 0)
        return r;
    snprintf(shell->server->http, sizeof shell->server->http, "%s", httpd_address(shell->httpd));
    atomic_store(&shell->published, shell->server);

    if ((r = threads_new(shell->server, &shell->threads, reterr)) < 0)
        return r;
    if ((r = io_start(shell->io, shell->server, reterr)) < 0)
        return r;
    if (shell->shard > 0)
        shell->link = link_new(io_loop(shell->io), shell->config, shell->server, shell_fail, shell);
    if ((r = shell_write_address(shell->http_port_file, httpd_address(shell->httpd), reterr)) < 0)
        return r;
    return shell_write_address(shell->port_file, io_address(shell->io), reterr);
}

/* Handles of loop 0 exist from here on, whether or not the start succeeds. */
static void shell_init_handles(struct shell *shell) {
    uv_loop_t *loop = io_loop(shell->io);
    uv_timer_init(loop, &shell->tick);
    uv_timer_init(loop, &shell->grace);
    shell->tick.data = shell->grace.data = shell;
    for (size_t i = 0; i < ARRAY_LEN(shell_signals); i++) {
        uv_signal_init(loop, &shell->signals[i]);
        shell->signals[i].data = shell;
        uv_signal_start(&shell->signals[i], shell_on_signal, shell_signals[i]);
    }
    uv_timer_start(&shell->tick, shell_on_tick, 0, 0);
}

/* Every worker, shard and page is a descriptor. */
static void shell_raise_limits(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    mallopt(M_ARENA_MAX, 2); /* many threads, little heap each: keeps memory near what is used */
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < ARRAY_LEN(shell_signals); i++)
        signal(shell_signals[i], shell_on_early_signal);
}

static int shell_run(struct shell *shell) {
    struct error err = {0};
    int r = shell_start(shell, &err);
    if (shell->io)
        shell_init_handles(shell);
    if (r < 0) {
        log_error("cannot start", "code=%s why=%s", error_name(err.code),
                  log_quote(error_text(&err)));
        if (shell->io)
            shell_stop(shell, error_exit_code(r));
    } else {
        log_info("shard is up", "address=%s http=%s shards=%lld workers=%lld incarnation=%016llx",
                 io_address(shell->io), httpd_address(shell->httpd),
                 (long long)shell->config->servers_count, (long long)shell->config->workers_count,
                 (unsigned long long)shell->server->incarnation);
    }
    if (shell->io)
        uv_run(io_loop(shell->io), UV_RUN_DEFAULT);

    atomic_store(&shell->published, NULL);
    shell->httpd = httpd_stop(shell->httpd);
    shell->io = io_free(shell->io); /* first: sessions wake the threads and the link */
    if (shell->exit_code != 0 && !threads_end(shell->threads, LEAVE_MS)) {
        log_warning("leaving although the disk has not answered", "after_ms=%d", LEAVE_MS);
        _exit(shell->exit_code);
    }
    shell->threads = threads_free(shell->threads);
    shell->link = link_free(shell->link);
    shell->server = server_free(shell->server);
    return r < 0 ? error_exit_code(r) : shell->exit_code;
}

int main(int argc, char **argv) {
    struct shell shell = {0};
    struct error err = {0};
    conn_count_allocations();
    argp_err_exit_status = error_exit_code(ERR_USAGE);
    argp_parse(&shell_argp, argc, argv, 0, NULL, &shell);
    shell_raise_limits();

    int exit_code, r = args_load_config(&shell.job, NULL, &shell.config);
    if (r == 0) {
        r = ident_shard(shell.shard_text, shell.config->servers_count, &shell.shard, &err);
        if (r == 0)
            r = config_check_security(shell.config, shell.shard, shell.job.config_path, NULL, &err);
        if (r < 0)
            fprintf(stderr, "%s: %s\n", shell.job.program, error_text(&err));
    }
    if (r < 0) {
        exit_code = error_exit_code(r);
    } else {
        log_init("shard", shell.shard, (enum log_level)shell.config->log_level,
                 strcmp(config_choice(shell.config, "log.format"), "json") == 0);
        exit_code = shell_run(&shell);
    }
    config_free(shell.config);
    args_job_done(&shell.job);
    return exit_code;
}
