/* graphps bench: measurements that a user can repeat. So far there is one, of the parameter engine.
 * The command line; what is measured and how is bench_ps.c's, what it looks like bench_print.c's.
 */
#include <argp.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/bench.h"
#include "cli/cli.h"
#include "cli/progress.h"
#include "common/lock.h"
#include "common/mem.h"

#define SIZE_MAX_BYTES (256u << 20)
#define SECONDS_MAX 3600
#define BARE_BUFFER_MIN_BYTES 4096
#define TABLE_ROWS 10000000
#define TABLE_DIM 64

/* --- the command line --- */

enum {
    KEY_SIZES = 256,
    KEY_PATTERNS,
    KEY_DEPTH,
    KEY_SECONDS,
    KEY_REPEAT,
    KEY_BARE_BUFFER,
    KEY_SPREAD,
    KEY_LOAD,
    KEY_TABLE,
    KEY_TABLE_ROWS,
    KEY_DIM,
    KEY_SHARDS,
    KEY_WORKERS,
    KEY_OPTIMIZER,
    KEY_ENCODING,
    KEY_MODE,
    KEY_IO_THREADS,
    KEY_AGGREGATOR_THREADS,
    KEY_SERVERS,
    KEY_JOB,
    KEY_PRINT_JOB,
    KEY_JSON,
};

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "What is measured:", 1},
    {"sizes", KEY_SIZES, "LIST", 0,
     "Bytes of fp32 that a message has for each shard (default: 4K,64K,1M,16M)", 1},
    {"patterns", KEY_PATTERNS, "LIST", 0, "Of push, pull, push+pull (default: all)", 1},
    {"depth", KEY_DEPTH, "N", 0,
     "Requests in flight for each client and shard, at most 64 (default: 64 up to 16K, 32 up to "
     "256K, else 4)",
     1},
    {"spread", KEY_SPREAD, "N", 0,
     "Messages' worth of parameters on each shard, of which each request takes one at random "
     "(default: 1, all requests hit the same)",
     1},
    {"load", KEY_LOAD, "SIZE", 0,
     "Measure latencies once more while another client pushes messages of this size", 1},
    {"table", KEY_TABLE, NULL, 0,
     "Rows of a table instead of tensors, drawn by Zipf's law, each once in a message", 1},
    {"table-rows", KEY_TABLE_ROWS, "N", 0, "Rows the table has (default: 10M)", 1},
    {"dim", KEY_DIM, "N", 0, "Floats of a row (default: 64)", 1},
    {"seconds", KEY_SECONDS, "S", 0, "Time of a measurement (default: 1)", 1},
    {"repeat", KEY_REPEAT, "N", 0, "How often; medians are printed (default: 5)", 1},
    {"bare-buffer", KEY_BARE_BUFFER, "SIZE", 0,
     "Send buffer (SO_SNDBUF) of the bare connections, capped by net.core.wmem_max (default: the "
     "kernel's own choice; graphps takes 256K within a machine)",
     1},
    {NULL, 0, NULL, 0, "The job:", 2},
    {"shards", KEY_SHARDS, "N", 0, "Shards to start (default: 1)", 2},
    {"workers", KEY_WORKERS, "N", 0, "Clients, each a process (default: 1)", 2},
    {"optimizer", KEY_OPTIMIZER, "KIND", 0, "As optimizer.kind (default: none, which adds up)", 2},
    {"encoding", KEY_ENCODING, "KIND", 0, "As push.encoding (default: fp32)", 2},
    {"mode", KEY_MODE, "MODE", 0, "As consistency.mode; only async is measured", 2},
    {"io-threads", KEY_IO_THREADS, "N", 0, "As servers.io_threads", 2},
    {"aggregator-threads", KEY_AGGREGATOR_THREADS, "N", 0, "As aggregation.threads", 2},
    {"set", 's', "SECTION.OPTION=VALUE", 0, "Set any option of the job (may be repeated)", 2},
    {NULL, 0, NULL, 0, "Shards that run already:", 3},
    {"servers", KEY_SERVERS, "HOST:PORT,...", 0,
     "Measure these, shard 0 first, and start none; they need the job file that --print-job "
     "prints for the same options (see below)",
     3},
    {"job", KEY_JOB, "NAME", 0, "Their job.name (default: bench)", 3},
    {"print-job", KEY_PRINT_JOB, NULL, 0, "Print that job file and measure nothing", 3},
    {NULL, 0, NULL, 0, "Output:", 4},
    {"json", KEY_JSON, NULL, 0, "One JSON document instead of the tables", 4},
    {0},
};

struct arguments {
    struct bench_settings settings;
    struct args_job job; /* assignments, in order */
    size_t text_count;
    char **texts;        /* those among them that we have made */
    uint32_t load_bytes; /* 0: none */
    bool given_shards, given_servers, given_table, print_job, json;
};

static const struct {
    const char *name;
    enum bench_pattern pattern;
} patterns[BENCH_PATTERNS] = {
    {"push", BENCH_PUSH}, {"pull", BENCH_PULL}, {"push+pull", BENCH_BOTH}};

static uint32_t parse_bytes(const char *option, const char *word, struct argp_state *state) {
    char *end;
    errno = 0;
    unsigned long long bytes = strtoull(word, &end, 10);
    unsigned shift = *end == 'K' ? 10 : *end == 'M' ? 20 : 0;
    if (end == word || *word == '-' || errno || strlen(end) > (shift ? 1u : 0u) ||
        bytes > SIZE_MAX_BYTES >> shift)
        argp_error(state, "--%s: \"%s\" is no size up to 256M, such as 4K or 16M", option, word);
    return (uint32_t)(bytes << shift);
}

static uint32_t parse_message(const char *option, const char *word, struct argp_state *state) {
    uint32_t bytes = parse_bytes(option, word, state);
    if (bytes < 64 || bytes % 4 != 0)
        argp_error(state, "--%s: \"%s\": a message has at least 64 bytes and whole floats", option,
                   word);
    return bytes;
}

static uint32_t parse_buffer(const char *word, struct argp_state *state) {
    uint32_t bytes = parse_bytes("bare-buffer", word, state);
    if (bytes < BARE_BUFFER_MIN_BYTES)
        argp_error(state, "--bare-buffer: \"%s\" is too small for a send buffer; at least 4K",
                   word);
    return bytes;
}

static void parse_size(struct bench_settings *settings, const char *word,
                       struct argp_state *state) {
    uint32_t bytes = parse_message("sizes", word, state);
    for (size_t i = 0; i < settings->size_count; i++)
        if (settings->sizes[i] == bytes)
            argp_error(state, "--sizes: %s comes twice", word);
    if (settings->size_count == BENCH_SIZES_MAX)
        argp_error(state, "--sizes: at most %d", BENCH_SIZES_MAX);
    settings->sizes[settings->size_count++] = bytes;
}

static void parse_pattern(struct bench_settings *settings, const char *word,
                          struct argp_state *state) {
    size_t i = 0;
    while (i < ARRAY_LEN(patterns) && strcmp(patterns[i].name, word) != 0)
        i++;
    if (i == ARRAY_LEN(patterns))
        argp_error(state, "--patterns: \"%s\" is none of push, pull, push+pull", word);
    for (size_t k = 0; k < settings->pattern_count; k++)
        if (settings->patterns[k] == patterns[i].pattern)
            argp_error(state, "--patterns: %s comes twice", word);
    settings->patterns[settings->pattern_count++] = patterns[i].pattern;
}

static void parse_list(struct bench_settings *settings, const char *list, struct argp_state *state,
                       void (*parse)(struct bench_settings *, const char *, struct argp_state *)) {
    _cleanup_(mem_free_p) char *copy = mem_strdup(list);
    char *rest = copy;
    for (char *word; (word = strsep(&rest, ","));)
        parse(settings, word, state);
}

static uint32_t parse_count(const char *option, const char *text, uint32_t most,
                            struct argp_state *state) {
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (end == text || *end || errno || *text == '-' || value < 1 || value > most)
        argp_error(state, "--%s: \"%s\" is no number from 1 to %u", option, text, most);
    return (uint32_t)value;
}

static uint64_t parse_rows(const char *text, struct argp_state *state) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    unsigned long long unit = *end == 'K' ? 1000 : *end == 'M' ? 1000000 : 1;
    if (end == text || end[unit > 1] || errno || *text == '-' || value < 1 ||
        value > LAYOUT_ROWS_MAX / unit)
        argp_error(state, "--table-rows: \"%s\" is no number of rows up to %llu", text,
                   (unsigned long long)LAYOUT_ROWS_MAX);
    return value * unit;
}

static double parse_seconds(const char *text, struct argp_state *state) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= 0.001 && value <= SECONDS_MAX))
        argp_error(state, "--seconds: \"%s\" is no number from 0.001 to %d", text, SECONDS_MAX);
    return value;
}

static void arguments_done(struct arguments *arguments) {
    args_job_done(&arguments->job);
    for (size_t i = 0; i < arguments->text_count; i++)
        mem_free(arguments->texts[i]);
    mem_free(arguments->texts);
}

/* An option of ours that is one of the job's. */
static void set_option(struct arguments *arguments, const char *option, const char *path,
                       const char *value) {
    size_t count = arguments->text_count++;
    arguments->texts = mem_resize(arguments->texts, count * sizeof(char *),
                                  arguments->text_count * sizeof(char *));
    arguments->texts[count] = mem_printf("%s=%s", path, value);
    args_job_set_by(&arguments->job, option, arguments->texts[count]);
}

static void set_servers(struct arguments *arguments, const char *list, struct argp_state *state) {
    char count[16];
    unsigned n = 0;
    const char *at = list, *end;
    do {
        end = at + strcspn(at, ",");
        if (at + strspn(at, " []") >= end) /* which the configuration reads as no item */
            argp_error(state, "--servers: \"%s\": an address is missing", list);
        at = end + 1;
        n++;
    } while (*end);
    snprintf(count, sizeof count, "%u", n);
    arguments->given_servers = true;
    set_option(arguments, "--servers", "servers.addresses", list);
    set_option(arguments, "--servers", "servers.count", count);
}

static void finish_options(struct arguments *arguments, struct argp_state *state) {
    struct bench_settings *settings = &arguments->settings;
    if (arguments->given_shards && arguments->given_servers)
        argp_error(state, "--servers says how many shards there are; leave --shards out");
    if (!arguments->given_table && (settings->table_rows || settings->table_dim))
        argp_error(state, "--table-rows and --dim are for --table");
    if (arguments->given_table && settings->spread > 1)
        argp_error(state, "--spread is for tensors; rows are drawn anew for every message");
    if (arguments->given_table && settings->table_rows == 0)
        settings->table_rows = TABLE_ROWS;
    if (settings->table_dim == 0)
        settings->table_dim = TABLE_DIM;
    if (settings->size_count == 0)
        parse_list(settings, "4K,64K,1M,16M", state, parse_size);
    if (settings->pattern_count == 0)
        parse_list(settings, "push,pull,push+pull", state, parse_pattern);
    settings->measured_count = settings->size_count;
    settings->load = arguments->load_bytes > 0;
    while (settings->load && settings->load_size < settings->size_count &&
           settings->sizes[settings->load_size] != arguments->load_bytes)
        settings->load_size++;
    if (settings->load && settings->load_size == settings->size_count) {
        if (settings->size_count == BENCH_SIZES_MAX)
            argp_error(state, "--sizes: at most %d, --load counted too", BENCH_SIZES_MAX);
        settings->sizes[settings->size_count++] = arguments->load_bytes;
    }
}

static error_t parse_option(int key, char *arg, struct argp_state *state) {
    static const struct {
        int key;
        const char *option, *path;
    } of_job[] = {
        {KEY_WORKERS, "--workers", "workers.count"},
        {KEY_OPTIMIZER, "--optimizer", "optimizer.kind"},
        {KEY_ENCODING, "--encoding", "push.encoding"},
        {KEY_MODE, "--mode", "consistency.mode"},
        {KEY_IO_THREADS, "--io-threads", "servers.io_threads"},
        {KEY_JOB, "--job", "job.name"},
        {KEY_AGGREGATOR_THREADS, "--aggregator-threads", "aggregation.threads"},
    };
    struct arguments *arguments = state->input;
    struct bench_settings *settings = &arguments->settings;
    for (size_t i = 0; i < ARRAY_LEN(of_job); i++)
        if (of_job[i].key == key) {
            set_option(arguments, of_job[i].option, of_job[i].path, arg);
            return 0;
        }
    switch (key) {
    case KEY_SIZES:
        parse_list(settings, arg, state, parse_size);
        return 0;
    case KEY_PATTERNS:
        parse_list(settings, arg, state, parse_pattern);
        return 0;
    case KEY_DEPTH:
        settings->depth = parse_count("depth", arg, BENCH_DEPTH_MAX, state);
        return 0;
    case KEY_SPREAD:
        settings->spread = parse_count("spread", arg, LAYOUT_BLOCKS_MAX, state);
        return 0;
    case KEY_LOAD:
        arguments->load_bytes = parse_message("load", arg, state);
        return 0;
    case KEY_TABLE:
        arguments->given_table = true;
        return 0;
    case KEY_TABLE_ROWS:
        settings->table_rows = parse_rows(arg, state);
        return 0;
    case KEY_DIM:
        settings->table_dim = parse_count("dim", arg, LAYOUT_DIM_MAX, state);
        return 0;
    case KEY_REPEAT:
        settings->repeat = parse_count("repeat", arg, 1000, state);
        return 0;
    case KEY_BARE_BUFFER:
        settings->bare_buffer_bytes = parse_buffer(arg, state);
        return 0;
    case KEY_SECONDS:
        settings->seconds = parse_seconds(arg, state);
        return 0;
    case KEY_SHARDS:
        arguments->given_shards = true;
        set_option(arguments, "--shards", "servers.count", arg);
        return 0;
    case KEY_SERVERS:
        set_servers(arguments, arg, state);
        return 0;
    case 's':
        args_job_set(&arguments->job, arg);
        return 0;
    case KEY_PRINT_JOB:
        arguments->print_job = true;
        return 0;
    case KEY_JSON:
        arguments->json = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\"", arg);
        return 0;
    case ARGP_KEY_END:
        finish_options(arguments, state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* What the job is when nothing is said: a counter of bytes that neither saves nor forgets. */
static int load_config(const struct arguments *arguments, struct config **ret) {
    static const char *const defaults[] = {
        "job.name=bench",           "servers.count=1",      "workers.count=1",
        "optimizer.kind=none",      "checkpoint.every_s=0", "launch.max_restarts=0",
        "workers.lease_ms=3600000", "log.level=warning",
    };
    const struct bench_settings *settings = &arguments->settings;
    struct args_job job = {.program = "graphps bench"};
    uint64_t longest = 8u << 20;
    for (size_t i = 0; i < settings->size_count; i++)
        longest = settings->sizes[i] > longest ? settings->sizes[i] : longest;
    /* topk's indices can double a payload. */
    _cleanup_(mem_free_p) char *frame =
        mem_printf("net.max_frame_bytes=%llu", 2 * (unsigned long long)longest);
    for (size_t i = 0; i < ARRAY_LEN(defaults); i++)
        args_job_set(&job, defaults[i]);
    args_job_set(&job, frame);
    if (arguments->print_job) /* shards by themselves are to outlast pauses between runs */
        args_job_set(&job, "net.give_up_s=604800");
    for (size_t i = 0; i < arguments->job.set_count; i++)
        args_job_set_by(&job, arguments->job.options[i], arguments->job.sets[i]);
    int r = args_load_config(&job, NULL, ret);
    args_job_done(&job);
    return r;
}

/* What a job may say, but a benchmark cannot measure. */
static int check_config(const struct config *config, struct error *reterr) {
    if (config->consistency_mode != CONSISTENCY_ASYNC)
        return error_set(reterr, ERR_CONFIG,
                         "consistency.mode is %s: only async is measured, where pushes are "
                         "merged as they come; in the others workers wait for each other",
                         config_choice(config, "consistency.mode"));
    if (config->aggregation_staleness_max || config->aggregation_staleness_damping)
        return error_set(reterr, ERR_CONFIG,
                         "%s has no meaning here: the benchmark's clients compute nothing, so "
                         "there are no weights whose age would count; leave it out",
                         config->aggregation_staleness_max ? "aggregation.staleness_max"
                                                           : "aggregation.staleness_damping");
    const struct {
        const char *name;
        bool given;
    } steps[] = {{"servers.evict_after", config->servers_evict_after > 0},
                 {"optimizer.schedule", config->optimizer_schedule != SCHEDULE_CONSTANT},
                 {"optimizer.warmup", config->optimizer_warmup > 0},
                 {"optimizer.clip_norm", config->optimizer_clip_norm > 0},
                 {"train.label_smoothing", config->train_label_smoothing > 0}};
    for (size_t i = 0; i < ARRAY_LEN(steps); i++)
        if (steps[i].given)
            return error_set(reterr, ERR_CONFIG,
                             "%s has no meaning here: the benchmark's clients train nothing and "
                             "count no steps; leave it out",
                             steps[i].name);
    return 0;
}

/* --- running --- */

struct output {
    struct arguments *arguments;
    struct bench_machine machine;
    struct progress progress;
    bool begun; /* it shows something */
    size_t row_count;
    struct bench_row rows[BENCH_SIZES_MAX * BENCH_PATTERNS];
};

static volatile sig_atomic_t signals_seen;

static void on_signal(int number) {
    signals_seen = 1;
}

static void on_begin(void *ctx) {
    struct output *output = ctx;
    if (!output->arguments->json)
        bench_print_head(&output->arguments->settings, &output->machine);
    progress_begin(&output->progress, stderr, "graphps bench ps", "measurements", time_now_ms());
    output->begun = true;
}

static void on_row(void *ctx, const struct bench_row *row) {
    struct output *output = ctx;
    output->rows[output->row_count++] = *row;
    if (output->arguments->json)
        return;
    progress_end(&output->progress);
    bench_print_row(row);
}

static void on_progress(void *ctx, const char *stage, uint64_t done, uint64_t total) {
    progress_tell(&((struct output *)ctx)->progress, stage, done, total, time_now_ms());
}

/* Whoever reads what we print may leave (`| head -1`) long before we print again. */
static bool is_output_lost(void) {
    struct pollfd out = {.fd = STDOUT_FILENO};
    return ferror(stdout) || (poll(&out, 1, 0) > 0 && (out.revents & (POLLERR | POLLHUP)));
}

static bool is_interrupted(void *ctx) {
    return signals_seen > 0 || is_output_lost();
}

static int run_ps(struct arguments *arguments, struct error *reterr) {
    static const struct bench_ops ops = {.on_begin = on_begin,
                                         .on_row = on_row,
                                         .on_progress = on_progress,
                                         .interrupted = is_interrupted};
    struct output *output = mem_alloc(sizeof *output);
    output->arguments = arguments;
    bench_machine_look(&output->machine);
    int r = bench_ps(&arguments->settings, &ops, output, reterr);
    if (output->begun)
        progress_end(&output->progress);
    if (r == 0 && arguments->json)
        bench_print_json(&arguments->settings, &output->machine, output->rows, output->row_count);
    else if (r == 0)
        bench_print_costs(output->rows, output->row_count);
    mem_free(output);
    fflush(stdout);
    bool lost =
        r == 0 ? ferror(stdout) : r == ERR_INTERRUPTED && signals_seen == 0 && is_output_lost();
    if (lost)
        r = error_set(
            reterr, ERR_INTERRUPTED,
            "the standard output cannot be written: nobody reads it any more, or its disk "
            "is full");
    return r;
}

static int cmd_bench_ps(int argc, char **argv) {
    static const struct argp argp = {
        .options = options,
        .parser = parse_option,
        .doc =
            "Measure pushes to and pulls from parameter shards over loopback, next to what bare "
            "TCP "
            "reaches.\v"
            "Bare TCP and graphps measure in turn, and the ratio is the median of the ratios of "
            "neighbours in time. Bare TCP moves payloads as long as those that travel, encoded; "
            "GB/s of both are the bytes of fp32 that these stand for. In push+pull an operation is "
            "a push and a pull that are under way "
            "together.\n\n"
            "Shards to measure with --servers are started like this, one process each:\n"
            "  graphps bench ps --shards 2 --print-job >bench.yaml\n"
            "  graphps-server --config bench.yaml --set "
            "servers.addresses=127.0.0.1:7001,127.0.0.1:7002 --shard 0\n"
            "They stay until they are interrupted, or no client came for a week (net.give_up_s). "
            "They keep the first model they are told: further runs need the same --sizes, "
            "--spread, --table and what goes with it, and always the same --job, --workers, "
            "--load, --optimizer, --encoding and --set. Interrupted, they write a checkpoint below "
            "job.dir (graphps-data/runs/bench), from which they go on when they are started again; "
            "for another model remove that directory first, or print the job file with another "
            "--set job.dir=DIR.\n\n"
            "Exit codes: 0, 70 internal error, 75 interrupted or a shard that cannot be reached, "
            "76 "
            "a shard of another job, 78 wrong command line.",
    };
    struct arguments arguments = {.settings = {.spread = 1, .repeat = 5, .seconds = 1}};
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    struct config *config = NULL;
    struct error err = {0};
    int exit_code = error_exit_code(load_config(&arguments, &config));
    if (config && check_config(config, &err) < 0) {
        exit_code = cli_fail(argv[0], &err);
        config = config_free(config);
    }
    arguments.settings.config = config;
    if (config && arguments.settings.load) {
        /* A batch is not to wait for the load's client, which pushes elsewhere, or nothing. */
        if (config->aggregation_max_pushes == 0)
            config->aggregation_max_pushes = config->workers_count;
        config->workers_count++;
    }
    if (config && arguments.print_job)
        config_print(config, stdout);
    else if (config && run_ps(&arguments, &err) < 0)
        exit_code = cli_fail(argv[0], &err);
    config_free(config);
    arguments_done(&arguments);
    return exit_code;
}

/* --- graphps bench --- */

struct choice {
    int at; /* in argv; 0: none */
};

static error_t parse_choice(int key, char *arg, struct argp_state *state) {
    struct choice *choice = state->input;
    switch (key) {
    case ARGP_KEY_ARG:
        if (strcmp(arg, "ps") != 0)
            argp_error(state, "unknown benchmark \"%s\"; there is: ps", arg);
        choice->at = state->next - 1;
        state->next = state->argc;
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_state_help(state, stderr,
                        ARGP_HELP_USAGE | ARGP_HELP_LONG | ARGP_HELP_DOC | ARGP_HELP_EXIT_ERR);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int cmd_bench(int argc, char **argv) {
    static const struct argp argp = {
        .parser = parse_choice,
        .args_doc = "ps [OPTION...]",
        .doc = "Measure the parameter engine on this machine.\v"
               "Benchmarks:\n"
               "  ps         Pushes and pulls of tensors and of table rows, next to bare TCP\n\n"
               "graphps bench ps --help describes it.",
    };
    struct choice choice = {0};
    argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &choice);
    char name[] = "graphps bench ps";
    argv[choice.at] = name;
    return cmd_bench_ps(argc - choice.at, argv + choice.at);
}
