/* graphps verify: does a job learn as well as it should, and as well on several machines as in one
 * process? Trains it in several ways over several seeds, each run by a `graphps train` of its own,
 * and compares the means of the test scores. What is done is kept beside the job's directory, so a
 * verification that was interrupted goes on. */
#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/process.h"
#include "cli/progress.h"
#include "cli/verify_stats.h"
#include "common/file.h"
#include "common/lock.h"
#include "common/mem.h"
#include "proto/score.h"

enum { KEY_SEEDS = 256, KEY_TOLERANCE, KEY_PUBLISHED, KEY_JSON };
#define SEEDS_MAX 1000
#define RESULT_BYTES_MAX (1u << 20)
#define EXIT_DIFFERS 1

static const struct argp_option options[] = {
    {"seeds", KEY_SEEDS, "N", 0, "Runs of each way, with job.seed 1 to N (default: 10)", 0},
    {"tolerance", KEY_TOLERANCE, "POINTS", 0,
     "How far means may be apart, in percentage points; of RMSE and MAE in percent of what they "
     "are "
     "compared with (default: 0.7)",
     0},
    {"published", KEY_PUBLISHED, "PERCENT", 0,
     "The score to reach; of RMSE and MAE the error (default: job.published of the job file)", 0},
    {"json", KEY_JSON, NULL, 0, "One JSON document instead of the table", 0},
    {0},
};
static const struct argp_child children[] = {{&args_job_argp, 0, NULL, 0}, {0}};

/* The ways, each a job file with some options set. The first is what the others are compared with.
 */
static const struct way {
    const char *name, *sentence;
    const char *sets[3];
} ways[] = {
    {"single", "one worker", {"workers.count=1", "consistency.mode=bsp", "push.encoding=fp32"}},
    {"bsp", "the job's workers in step", {"consistency.mode=bsp", "push.encoding=fp32"}},
    {"async", "nobody waits", {"consistency.mode=async", "push.encoding=fp32"}},
    {"int8", "async, gradients in 8 bits", {"consistency.mode=async", "push.encoding=int8"}},
};
enum { WAYS = ARRAY_LEN(ways) };

struct arguments {
    struct args_job job;
    long seeds;
    double tolerance, published; /* published < 0: not given */
    bool json;
};

struct verify {
    const char *command;
    const struct arguments *arguments;
    const struct config *config;
    int dir_fd;                  /* locked; -1: not yet */
    char *dir, *state_path;      /* <job.dir>-verify and the file in it */
    char *identity;              /* what the scores are of */
    char metric[32], digest[64]; /* of the scores and the snapshot, once there is one */
    double *scores;              /* [WAYS, seeds]; NAN: not run yet */
    long begun_with;             /* runs that were there */
    struct progress progress;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int number) {
    (void)number;
    interrupted = 1;
}

static double parse_number(const char *option, const char *arg, double min, double max,
                           struct argp_state *state) {
    char *end;
    double number = strtod(arg, &end);
    if (end == arg || *end || !(number >= min && number <= max))
        argp_error(state, "%s is a number from %g to %g, not \"%s\"", option, min, max, arg);
    return number;
}

static error_t parse_option(int key, char *arg, struct argp_state *state) {
    struct arguments *arguments = state->input;
    double number;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &arguments->job;
        return 0;
    case KEY_SEEDS:
        number = parse_number("--seeds", arg, 1, SEEDS_MAX, state);
        if (number != floor(number))
            argp_error(state, "--seeds is a whole number, not \"%s\"", arg);
        arguments->seeds = (long)number;
        return 0;
    case KEY_TOLERANCE:
        arguments->tolerance = parse_number("--tolerance", arg, 0, 100, state);
        return 0;
    case KEY_PUBLISHED:
        arguments->published = parse_number("--published", arg, 0, 1e9, state);
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

static double *score_at(struct verify *v, size_t way, long seed) {
    return &v->scores[way * (size_t)v->arguments->seeds + (size_t)(seed - 1)];
}

/* --- what is done already --- */

static void state_read(struct verify *v) {
    char *text = NULL;
    size_t len;
    if (file_read_whole(v->state_path, RESULT_BYTES_MAX, &text, &len, NULL) < 0)
        return;
    json_t *state = json_loadb(text, len, 0, NULL);
    const char *identity = json_string_value(json_object_get(state, "identity"));
    const char *metric = json_string_value(json_object_get(state, "metric"));
    const char *digest = json_string_value(json_object_get(state, "snapshot_digest"));
    if (identity && strcmp(identity, v->identity) == 0 && metric && digest) {
        snprintf(v->metric, sizeof v->metric, "%s", metric);
        snprintf(v->digest, sizeof v->digest, "%s", digest);
        for (size_t w = 0; w < WAYS; w++) {
            json_t *scores = json_object_get(json_object_get(state, "scores"), ways[w].name);
            for (long seed = 1; seed <= v->arguments->seeds; seed++) {
                json_t *score = json_array_get(scores, (size_t)(seed - 1));
                if (json_is_number(score))
                    *score_at(v, w, seed) = json_number_value(score);
            }
        }
    }
    json_decref(state);
    mem_free(text);
}

static json_t *scores_json(struct verify *v) {
    json_t *all = json_object();
    for (size_t w = 0; w < WAYS; w++) {
        json_t *scores = json_array();
        for (long seed = 1; seed <= v->arguments->seeds; seed++) {
            double score = *score_at(v, w, seed);
            json_array_append_new(scores, isnan(score) ? json_null() : json_real(score));
        }
        json_object_set_new(all, ways[w].name, scores);
    }
    return all;
}

static int state_write(struct verify *v, struct error *reterr) {
    json_t *state = json_pack("{s:s, s:s, s:s, s:o}", "identity", v->identity, "metric", v->metric,
                              "snapshot_digest", v->digest, "scores", scores_json(v));
    char *text = json_dumps(state, JSON_INDENT(2));
    int r = file_write_whole(v->state_path, text, strlen(text), reterr);
    free(text);
    json_decref(state);
    return r;
}

/* Two at once would take each other's runs away. */
static int dir_claim(struct verify *v, struct error *reterr) {
    int r = dir_make(v->dir, reterr);
    if (r < 0)
        return r;
    v->dir_fd = open(v->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (v->dir_fd < 0)
        return error_set(reterr, ERR_IO, "%s: %s", v->dir, strerror(errno));
    if (flock(v->dir_fd, LOCK_EX | LOCK_NB) < 0)
        return error_set(reterr, ERR_IN_USE, "%s: another graphps verify is at work there", v->dir);
    return 0;
}

static long runs_done(struct verify *v) {
    long done = 0;
    for (size_t i = 0; i < WAYS * (size_t)v->arguments->seeds; i++)
        done += !isnan(v->scores[i]);
    return done;
}

/* --- one run --- */

/* A command of graphps on the job, and how many arguments it has so far; room for a few more. */
static char **argv_begin(const struct verify *v, const char *command, size_t *ret_count) {
    const struct args_job *job = &v->arguments->job;
    char self[PATH_MAX] = "graphps";
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : (ssize_t)strlen(self)] = '\0';
    char **argv = mem_array(job->set_count + 16, sizeof *argv);
    size_t count = 0;
    argv[count++] = mem_strdup(self);
    argv[count++] = mem_strdup(command);
    argv[count++] = mem_printf("--config=%s", job->config_path);
    for (size_t i = 0; i < job->set_count; i++)
        argv[count++] = mem_printf("--set=%s", job->sets[i]);
    *ret_count = count;
    return argv;
}

static void run_prepare(struct verify *v, const struct way *way, long seed, const char *dir,
                        struct process *process) {
    char name[32];
    size_t count;
    char **argv = argv_begin(v, "train", &count);
    for (size_t i = 0; i < ARRAY_LEN(way->sets) && way->sets[i]; i++)
        argv[count++] = mem_printf("--set=%s", way->sets[i]);
    argv[count++] = mem_printf("--set=job.seed=%ld", seed);
    argv[count++] = mem_printf("--set=job.dir=%s", dir);
    snprintf(name, sizeof name, "%s, seed %ld", way->name, seed);
    process_init(process, name, mem_printf("%s/%s-%ld.log", v->dir, way->name, seed), argv);
}

/* Waits for the child; an interruption is handed on, and waited for too. */
static void run_wait(struct verify *v, struct process *process) {
    bool told = false;
    while (!process_reap(process)) {
        if (interrupted && !told) {
            process_signal(process, SIGINT);
            told = true;
        }
        progress_tell(&v->progress, "training", (uint64_t)(runs_done(v) - v->begun_with),
                      (uint64_t)(WAYS * v->arguments->seeds - v->begun_with), time_now_ms());
        poll(NULL, 0, 50);
    }
}

static int score_read(struct verify *v, const char *dir, double *ret, struct error *reterr) {
    _cleanup_(mem_free_p) char *path = mem_printf("%s/result.json", dir);
    char *text = NULL;
    size_t len;
    enum score score;
    int r = file_read_whole(path, RESULT_BYTES_MAX, &text, &len, reterr);
    if (r < 0)
        return r;
    json_t *result = json_loadb(text, len, 0, NULL);
    const char *metric = json_string_value(json_object_get(result, "metric"));
    json_t *value =
        score_find(metric, &score) ? json_object_get(result, score_key(SCORE_TEST, score)) : NULL;
    const char *digest = json_string_value(json_object_get(result, "snapshot_digest"));
    if (digest && v->digest[0] && strcmp(v->digest, digest) != 0) {
        r = error_set(reterr, ERR_CONFIG,
                      "the snapshot is not that of the runs that are there; remove %s", v->dir);
    } else if (json_is_number(value)) {
        *ret = (score_is_error(score) ? 1 : 100) * json_number_value(value);
        snprintf(v->metric, sizeof v->metric, "%s", metric);
        snprintf(v->digest, sizeof v->digest, "%s", digest ? digest : "");
    } else {
        r = error_set(reterr, ERR_CONFIG,
                      "%s: it has no test score: does the snapshot have labelled test nodes, or "
                      "test edges?",
                      path);
    }
    json_decref(result);
    mem_free(text);
    return r;
}

/* "test  300 links, ROC-AUC 69.89 %, MRR 6.32 %, ...", as `graphps predict --evaluate` says it. */
static int rank_read(const char *log, enum score score, double *ret, struct error *reterr) {
    char *text = NULL, title[64], *end;
    size_t len;
    int r = file_read_whole(log, RESULT_BYTES_MAX, &text, &len, reterr);
    if (r < 0)
        return r;
    snprintf(title, sizeof title, ", %s ", score_title(score));
    const char *line = strncmp(text, "test ", 5) == 0 ? text : strstr(text, "\ntest ");
    const char *at = line ? strstr(line, title) : NULL;
    double value = at ? strtod(at + strlen(title), &end) : NAN;
    if (!at || end == at + strlen(title))
        r = error_set(reterr, ERR_INTERNAL, "%s: no %s of the test links in it", log,
                      score_title(score));
    else
        *ret = value;
    mem_free(text);
    return r;
}

/* Workers rank links among their own nodes, the fewer the more workers there are: what is compared
 * is how the trained model ranks them among all. */
static int rank_links(struct verify *v, long seed, const char *dir, double *ret,
                      struct error *reterr) {
    struct process process;
    enum score score = SCORE_MRR;
    char ending[64];
    size_t count;
    char **argv = argv_begin(v, "predict", &count);
    argv[count++] = mem_printf("--set=job.seed=%ld", seed);
    argv[count++] = mem_printf("--model=%s/model.safetensors", dir);
    argv[count++] = mem_strdup("--evaluate");
    score_find(v->metric, &score);
    process_init(&process, "the evaluation", mem_printf("%s/evaluation.log", dir), argv);
    int r = process_start(&process, reterr);
    if (r == 0)
        run_wait(v, &process);
    if (r == 0 && (process.killed_by || process.exit_code != 0)) {
        progress_end(&v->progress);
        process_print_tail(&process, 5);
        r = interrupted
                ? error_set(reterr, ERR_INTERRUPTED, "interrupted in an evaluation")
                : error_set(reterr, ERR_INTERNAL, "%s %s; its log is %s", process.name,
                            process_ending(&process, ending, sizeof ending), process.log_path);
    }
    if (r == 0)
        r = rank_read(process.log_path, score, ret, reterr);
    process_done(&process);
    return r;
}

static int run_one(struct verify *v, size_t way, long seed, struct error *reterr) {
    struct process process;
    char ending[64];
    _cleanup_(mem_free_p) char *dir = mem_printf("%s/%s-%ld", v->dir, ways[way].name, seed);
    if (file_exists(dir))
        dir_remove(dir, NULL); /* of a run that was killed */
    run_prepare(v, &ways[way], seed, dir, &process);
    unlink(process.log_path);
    int r = process_start(&process, reterr);
    if (r == 0)
        run_wait(v, &process);
    if (r == 0 && interrupted) {
        r = error_set(reterr, ERR_INTERRUPTED,
                      "interrupted after %ld of %ld runs; the same command goes on", runs_done(v),
                      (long)WAYS * v->arguments->seeds);
    } else if (r == 0 && (process.killed_by || process.exit_code != 0)) {
        progress_end(&v->progress);
        r = error_set(reterr, ERR_INTERNAL, "%s %s; its log is %s", process.name,
                      process_ending(&process, ending, sizeof ending), process.log_path);
        process_print_tail(&process, 5);
    } else if (r == 0) {
        double score = NAN;
        r = score_read(v, dir, &score, reterr);
        if (r == 0 && v->config->train_task == TASK_LINKS)
            r = rank_links(v, seed, dir, &score, reterr);
        if (r == 0)
            *score_at(v, way, seed) = score;
    }
    /* The logs of one that failed say why. */
    if ((r == 0 || r == ERR_INTERRUPTED) && file_exists(dir))
        dir_remove(dir, NULL);
    if (r == 0) {
        unlink(process.log_path);
        r = state_write(v, reterr);
    }
    process_done(&process);
    return r;
}

static int run_all(struct verify *v, struct error *reterr) {
    long all = (long)WAYS * v->arguments->seeds, done = runs_done(v);
    if (done == all) { /* asked anew */
        for (size_t i = 0; i < (size_t)all; i++)
            v->scores[i] = NAN;
        v->digest[0] = '\0';
    } else if (done > 0) {
        fprintf(stderr, "%s: going on: %ld of %ld runs are there\n", v->command, done, all);
    }
    v->begun_with = runs_done(v);
    int r = 0;
    for (long seed = 1; r == 0 && seed <= v->arguments->seeds; seed++)
        for (size_t w = 0; r == 0 && w < WAYS; w++)
            if (isnan(*score_at(v, w, seed)))
                r = run_one(v, w, seed, reterr);
    progress_end(&v->progress);
    return r;
}

/* --- the verdict --- */

struct verdict {
    struct verify_stats stats[WAYS];
    double published; /* 0: none is known */
    bool reached[WAYS], alike[WAYS], holds;
};

static enum score metric_of(const struct verify *v) {
    enum score score = SCORE_ACCURACY;
    score_find(v->metric, &score);
    return score;
}

/* How far from `of` is near: of errors, whose unit is the target's, a share of it. */
static double margin(const struct verify *v, double of) {
    return score_is_error(metric_of(v)) ? fabs(of) * v->arguments->tolerance / 100
                                        : v->arguments->tolerance;
}

static bool reaches(const struct verify *v, double mean, double published) {
    if (score_is_error(metric_of(v)))
        return published == 0 || mean <= published + margin(v, published);
    return mean >= published - margin(v, published);
}

static struct verdict judge(struct verify *v) {
    struct verdict verdict = {.published = v->arguments->published >= 0 ? v->arguments->published
                                                                        : v->config->job_published,
                              .holds = true};
    for (size_t w = 0; w < WAYS; w++) {
        struct verify_stats *stats = &verdict.stats[w];
        *stats = verify_stats_of(score_at(v, w, 1), (size_t)v->arguments->seeds);
        double single = verdict.stats[0].mean;
        verdict.reached[w] = reaches(v, stats->mean, verdict.published);
        verdict.alike[w] = fabs(stats->mean - single) <= margin(v, single);
        verdict.holds = verdict.holds && verdict.reached[w] && verdict.alike[w];
    }
    return verdict;
}

static void print_table(struct verify *v, const struct verdict *verdict) {
    enum score score = metric_of(v);
    bool error = score_is_error(score);
    const char *unit = error ? "" : " points";
    printf("test %s%s, %ld seed%s, means with 95 %% confidence\n\n", score_title(score),
           error ? " (lower is better)" : " in %", v->arguments->seeds,
           v->arguments->seeds > 1 ? "s" : "");
    /* A percentage has two decimals, an error the digits that the smallest needs. */
    int d = 2;
    for (double least = verdict->stats[0].least; error && d < 8 && least > 0 && least < 10;
         least *= 10)
        d++;
    printf("%-8s %17s %9s %15s %11s %10s\n", "", "mean", "deviation", "least to most", "to single",
           "published");
    for (size_t w = 0; w < WAYS; w++) {
        const struct verify_stats *stats = &verdict->stats[w];
        char mean[40], range[40], single[20] = "", published[20] = "-";
        if (stats->count > 1)
            snprintf(mean, sizeof mean, "%.*f +- %.*f", d, stats->mean, d, stats->half);
        else
            snprintf(mean, sizeof mean, "%.*f", d, stats->mean);
        snprintf(range, sizeof range, "%.*f to %.*f", d, stats->least, d, stats->most);
        if (w > 0)
            snprintf(single, sizeof single, "%+.*f", d, stats->mean - verdict->stats[0].mean);
        if (verdict->published > 0)
            snprintf(published, sizeof published, "%.*f", d, verdict->published);
        printf("%-8s %17s %9.*f %15s %11s %10s  %s\n", ways[w].name, mean, d, stats->deviation,
               range, single, published, ways[w].sentence);
    }
    printf("\n");
    for (size_t w = 0; w < WAYS; w++) {
        if (!verdict->reached[w])
            printf("%s is %.*f%s %s the published %.*f\n", ways[w].name, d,
                   fabs(verdict->published - verdict->stats[w].mean), unit,
                   error ? "above" : "below", d, verdict->published);
        if (!verdict->alike[w])
            printf("%s is %.*f%s from single\n", ways[w].name, d,
                   fabs(verdict->stats[w].mean - verdict->stats[0].mean), unit);
    }
    if (verdict->holds)
        printf("holds: all means are within %.2f%s of single%s\n", v->arguments->tolerance,
               error ? " %" : " points",
               verdict->published > 0 ? ", and reach the published score up to as much" : "");
    else
        printf("does not hold (tolerance %.2f%s)\n", v->arguments->tolerance,
               error ? " %" : " points");
}

static void print_json(struct verify *v, const struct verdict *verdict) {
    json_t *all = json_array();
    for (size_t w = 0; w < WAYS; w++) {
        const struct verify_stats *stats = &verdict->stats[w];
        json_array_append_new(all,
                              json_pack("{s:s, s:f, s:o, s:f, s:f, s:f, s:b, s:b}", "name",
                                        ways[w].name, "mean", stats->mean, "confidence_95",
                                        stats->count > 1 ? json_real(stats->half) : json_null(),
                                        "deviation", stats->deviation, "least", stats->least,
                                        "most", stats->most, "reaches_published",
                                        verdict->reached[w], "like_single", verdict->alike[w]));
    }
    json_t *document =
        json_pack("{s:i, s:s, s:s, s:i, s:f, s:o, s:o, s:o, s:b}", "schema_version", 1, "job",
                  v->config->job_name, "metric", v->metric, "seeds", (int)v->arguments->seeds,
                  "tolerance", v->arguments->tolerance, "published",
                  verdict->published > 0 ? json_real(verdict->published) : json_null(), "ways", all,
                  "scores", scores_json(v), "holds", verdict->holds);
    json_dumpf(document, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    printf("\n");
    json_decref(document);
}

/* --- --- */

static void verify_done(struct verify *v) {
    if (v->dir_fd >= 0)
        close(v->dir_fd);
    mem_free(v->dir);
    mem_free(v->state_path);
    mem_free(v->identity);
    mem_free(v->scores);
}

static int verify_run(struct verify *v, bool *ret_holds, struct error *reterr) {
    size_t count = WAYS * (size_t)v->arguments->seeds;
    _cleanup_(mem_free_p) char *options_text = config_shared_text(v->config);
    v->dir = mem_printf("%s-verify", v->config->job_dir);
    v->state_path = mem_printf("%s/scores.json", v->dir);
    v->identity =
        mem_printf("%s%s of %lld workers, %lld shards", options_text, v->config->data_snapshot,
                   (long long)v->config->workers_count, (long long)v->config->servers_count);
    v->scores = mem_array(count, sizeof *v->scores);
    for (size_t i = 0; i < count; i++)
        v->scores[i] = NAN;
    int r = dir_claim(v, reterr);
    if (r < 0)
        return r;
    state_read(v);
    progress_begin(&v->progress, stderr, v->command, "runs", time_now_ms());
    r = run_all(v, reterr);
    if (r < 0)
        return r;
    struct verdict verdict = judge(v);
    if (v->arguments->json)
        print_json(v, &verdict);
    else
        print_table(v, &verdict);
    *ret_holds = verdict.holds;
    return 0;
}

int cmd_verify(int argc, char **argv) {
    static const struct argp argp = {
        .options = options,
        .parser = parse_option,
        .args_doc = "JOB.yaml",
        .doc =
            "Train a job in four ways over several seeds and compare the test scores.\v"
            "The ways: single (one worker), bsp and async (the job's workers), int8 (async with "
            "8-bit gradients). Their means have to be within the tolerance of single's, and "
            "reach the published score (job.published) up to it. Of links the scores are those of "
            "`graphps predict --evaluate`, among all nodes. Runs that are done are kept in "
            "<job.dir>-verify: an interrupted verification goes on, a complete one begins anew.\n\n"
            "Exit codes: 0 it holds, 1 it does not, 70 a run failed, 75 interrupted, 78 a fault "
            "in the command line or the job file.",
        .children = children,
    };
    struct arguments arguments = {.seeds = 10, .tolerance = 0.7, .published = -1};
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    arguments.job.program = argv[0];
    struct config *config = NULL;
    int r = cli_load_job(&arguments.job, &config);
    if (r < 0) {
        args_job_done(&arguments.job);
        return error_exit_code(r);
    }
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    struct verify v = {.dir_fd = -1, .command = argv[0], .arguments = &arguments, .config = config};
    struct error err = {0};
    bool holds = false;
    r = verify_run(&v, &holds, &err);
    int code = r < 0 ? cli_fail(argv[0], &err) : holds ? 0 : EXIT_DIFFERS;
    verify_done(&v);
    config_free(config);
    args_job_done(&arguments.job);
    return code;
}
