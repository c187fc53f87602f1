/* graphps generate: files of a made-up graph, for `graphps import`. */
#include <argp.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/progress.h"
#include "common/lock.h"
#include "common/mem.h"
#include "worker/graph/generate.h"
#include "worker/graph/version.h"

enum { KEY_OVERWRITE = 256 };

#define TEXT_OF(number) #number
#define TEXT(number) TEXT_OF(number)
#define WITHIN TEXT(GENERATED_WITHIN_PERCENT)

static const struct argp_option options[] = {
    {"out", 'o', "DIR", 0, "The directory to make", 0},
    {"overwrite", KEY_OVERWRITE, NULL, 0, "Replace DIR if it holds a generated graph", 0},
    {"nodes", 'n', "N", 0, "How many nodes (default: 20K)", 0},
    {"edges", 'm', "N", 0, "How many edges are drawn (default: 10 for each node)", 0},
    {"kind", 'k', "rmat|sbm", 0, "The degrees: a power law, or all alike (default: sbm)", 0},
    {"features", 'f', "N", 0, "How many features a node has (default: 64)", 0},
    {"classes", 'c', "N", 0, "How many classes there are (default: 16)", 0},
    {"seed", 's', "N", 0, "Another seed, another graph (default: 1)", 0},
    {"format", 'F', "csv|npy", 0, "Texts, or NumPy's arrays (default: csv)", 0},
    {"threads", 't', "N", 0, "How many work (default: one for each processor)", 0},
    {0},
};

/* A whole number; K, M and G are thousands, millions and billions. */
static uint64_t parse_number(const char *option, const char *arg, struct argp_state *state) {
    static const char suffixes[] = "KMG";
    uint64_t unit = 1, number = 0;
    const char *at = arg;
    bool fits = true;
    for (; *at >= '0' && *at <= '9'; at++)
        fits = fits && !__builtin_mul_overflow(number, 10, &number) &&
               !__builtin_add_overflow(number, *at - '0', &number);
    bool digits = at > arg;
    const char *suffix = *at ? strchr(suffixes, *at) : NULL;
    for (const char *s = suffixes; suffix && s <= suffix; s++)
        unit *= 1000;
    at += suffix != NULL;
    fits = fits && !__builtin_mul_overflow(number, unit, &number);
    if (!digits || *at || !fits)
        argp_error(state, "--%s is a whole number such as 20000, 20K, 10M or 1G, not \"%s\"",
                   option, arg);
    return number;
}

static error_t parse_option(int key, char *arg, struct argp_state *state) {
    struct generate_options *generate = state->input;
    switch (key) {
    case 'o':
        generate->out = arg;
        return 0;
    case KEY_OVERWRITE:
        generate->overwrite = true;
        return 0;
    case 'n':
        generate->nodes = parse_number("nodes", arg, state);
        return 0;
    case 'm':
        generate->edges = parse_number("edges", arg, state);
        if (generate->edges == 0)
            argp_error(state, "--edges must be at least 1");
        return 0;
    case 'k':
        if (strcmp(arg, "rmat") != 0 && strcmp(arg, "sbm") != 0)
            argp_error(state, "--kind is rmat or sbm, not \"%s\"", arg);
        generate->kind = *arg == 'r' ? GENERATED_RMAT : GENERATED_SBM;
        return 0;
    case 'f':
        generate->features = parse_number("features", arg, state);
        return 0;
    case 'c':
        generate->classes = parse_number("classes", arg, state);
        return 0;
    case 's':
        generate->seed = parse_number("seed", arg, state);
        return 0;
    case 't':
        generate->threads = parse_number("threads", arg, state);
        if (generate->threads == 0)
            argp_error(state, "--threads must be at least 1");
        return 0;
    case 'F':
        if (strcmp(arg, "csv") != 0 && strcmp(arg, "npy") != 0)
            argp_error(state, "--format is csv or npy, not \"%s\"", arg);
        generate->format = *arg == 'c' ? GENERATE_CSV : GENERATE_NPY;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\"; the directory goes with --out", arg);
        return 0;
    case ARGP_KEY_END:
        if (!generate->out || !*generate->out)
            argp_error(state, "give --out, the directory to make");
        if (generate->edges == 0) {
            uint64_t pairs = generate->nodes * (generate->nodes - 1) / 2;
            generate->edges = generate->nodes * 10 < pairs ? generate->nodes * 10 : pairs;
        }
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void tell(void *ctx, const char *what, uint64_t done, uint64_t total) {
    progress_tell(ctx, what, done, total, time_now_ms());
}

static void on_signal(int signal) {
    generate_interrupt();
}

/* A word of a command line, in quotes where the shell would not take it as it is. */
static void print_word(const char *word) {
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+,:@=";
    if (strspn(word, plain) == strlen(word)) {
        fputs(word, stdout);
        return;
    }
    putchar('\'');
    for (; *word; word++)
        if (*word == '\'')
            fputs("'\\''", stdout);
        else
            putchar(*word);
    putchar('\'');
}

static void print_summary(const struct generate_options *generate, uint64_t bytes, double seconds) {
    static const char *const kinds[] = {[GENERATED_RMAT] = "rmat", [GENERATED_SBM] = "sbm"};
    const char *kind = kinds[generate->kind];
    _cleanup_(mem_free_p) char *copy = mem_strdup(generate->out);
    for (size_t len = strlen(copy); len > 1 && copy[len - 1] == '/'; len--)
        copy[len - 1] = 0;
    const char *slash = strrchr(copy, '/'), *name = slash ? slash + 1 : copy;
    printf("generated %s graph: %" PRIu64 " nodes, %" PRIu64 " edges, %" PRIu64
           " features, %" PRIu64 " classes\n",
           kind, generate->nodes, generate->edges, generate->features, generate->classes);
    printf("  where      %s\n", generate->out);
    printf("  size       %.1f MB in %.1f s (%.0f MB/s)\n", (double)bytes / 1e6, seconds,
           (double)bytes / 1e6 / (seconds > 0 ? seconds : 0.001));
    fputs("next: graphps import ", stdout);
    print_word(generate->out);
    printf(" --name %s --version 1.0.0 --undirected\n", version_name_valid(name) ? name : kind);
}

int cmd_generate(int argc, char **argv) {
    static const struct argp argp = {
        .options = options,
        .parser = parse_option,
        .doc =
            "Make up a graph whose labels a GNN can learn, for benchmarks and tests.\v"
            "The same options give the same files, to the bit, whatever --threads. Numbers may end "
            "in K, M or G: thousands, millions, billions.\n\n"
            "rmat: R-MAT with 0.57, 0.19, 0.19, 0.05, whose degrees follow a power law; half of "
            "the "
            "edges begin at each node in turn, so that with 2 edges a node or more none is without "
            "neighbours. sbm: the stochastic block model with classes of equal size. Either way, "
            "by "
            "design, " WITHIN " of 100 edges end in the class they begin in and the others "
            "anywhere. Features are the class's centroid in so much noise that a node's own say "
            "little of its class; 60, 20 and 20 of 100 nodes are in train, valid and test.\n\n"
            "Each edge is listed once: import with --undirected. --edges are drawn, none a loop; "
            "one that is drawn again counts once after the import (of 10 edges a node less than 1 "
            "of 100 in sbm; in rmat 13 of 100 with 20K nodes, 4 with 1M).\n\n"
            "DIR holds edges, features, labels, train, valid and test .csv; or edges int32 [m, 2], "
            "features float32 [n, f], labels int32 [n] and split uint8 [n] .npy (1 train, 2 valid, "
            "3 test), with the same graph. It appears when it is complete. Memory does not grow "
            "with the graph.",
    };
    struct generate_options generate = {
        .kind = GENERATED_SBM, .nodes = 20000, .features = 64, .classes = 16, .seed = 1};
    argp_parse(&argp, argc, argv, 0, NULL, &generate);

    struct progress progress;
    struct error err = {0};
    uint64_t started = time_now_ms(), bytes;
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    progress_begin(&progress, stderr, argv[0], "bytes", started);
    int r = generate_run(&generate, tell, &progress, &bytes, &err);
    progress_end(&progress);
    if (r < 0)
        return cli_fail(argv[0], &err);
    print_summary(&generate, bytes, (double)(time_now_ms() - started) / 1000);
    return 0;
}
