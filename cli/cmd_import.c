/* graphps import: the user's files become a snapshot. */
#include <argp.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/progress.h"
#include "common/lock.h"
#include "worker/graph/import.h"

enum { KEY_UNDIRECTED = 256, KEY_SPLIT, KEY_OVERWRITE };

static const struct argp_option options[] = {
    {"format", 'f', "ogb|csv|npy", 0, "What is in DIR (see below)", 0},
    {"name", 'n', "NAME", 0, "Name of the snapshot", 0},
    {"version", 'v', "VERSION", 0, "Its version, such as 1.0.0", 0},
    {"undirected", KEY_UNDIRECTED, NULL, 0,
     "Add the inverse of every edge (a graph whose edges are listed once)", 0},
    {"split", KEY_SPLIT, "NAME", 0, "ogb: which directory below split/, when there are several", 0},
    {"root", 'r', "DIR", 0, "Where snapshots are kept (default: graphps-data)", 0},
    {"overwrite", KEY_OVERWRITE, NULL, 0,
     "Replace a snapshot of that name and version, with its partitions", 0},
    {0},
};

struct arguments {
    struct import_options import;
    const char *format;
};

static error_t parse_option(int key, char *arg, struct argp_state *state) {
    struct arguments *arguments = state->input;
    switch (key) {
    case 'f':
        arguments->format = arg;
        if (strcmp(arg, "ogb") == 0)
            arguments->import.format = IMPORT_OGB;
        else if (strcmp(arg, "csv") == 0)
            arguments->import.format = IMPORT_CSV;
        else if (strcmp(arg, "npy") == 0)
            arguments->import.format = IMPORT_NPY;
        else
            argp_error(state, "--format is ogb, csv or npy, not \"%s\"", arg);
        return 0;
    case 'n':
        arguments->import.name = arg;
        return 0;
    case 'v':
        arguments->import.version = arg;
        return 0;
    case KEY_UNDIRECTED:
        arguments->import.undirected = true;
        return 0;
    case KEY_SPLIT:
        arguments->import.split = arg;
        return 0;
    case 'r':
        arguments->import.root = arg;
        return 0;
    case KEY_OVERWRITE:
        arguments->import.overwrite = true;
        return 0;
    case ARGP_KEY_ARG:
        if (arguments->import.source)
            argp_error(state, "only one directory, please; \"%s\" is too many", arg);
        arguments->import.source = arg;
        return 0;
    case ARGP_KEY_END:
        if (!arguments->import.source || !arguments->format || !arguments->import.name ||
            !arguments->import.version)
            argp_error(state, "give a directory, --format, --name and --version");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void tell(void *ctx, const char *what, uint64_t done, uint64_t total) {
    progress_tell(ctx, what, done, total, time_now_ms());
}

static void print_summary(const struct import_options *import, const struct import_summary *sum,
                          double seconds) {
    printf("imported %s@%s in %.1f s\n", import->name, import->version, seconds);
    printf("  where      %s\n", sum->dir);
    printf("  nodes      %" PRIu64 "\n", sum->nodes);
    printf("  edges      %" PRIu64 " (%" PRIu64 " read%s; dropped: %" PRIu64 " self-loops, %" PRIu64
           " repeats)\n",
           sum->edges, sum->edges_read, import->undirected ? ", inverses added" : "",
           sum->self_loops, sum->repeats);
    printf("  symmetric  %s\n", sum->symmetric ? "yes" : "no");
    printf("  features   %" PRIu32 "\n", sum->feature_dim);
    printf("  classes    %" PRIu32 "\n", sum->classes);
    printf("  splits     %" PRIu64 " train, %" PRIu64 " valid, %" PRIu64
           " test (labelled nodes); %" PRIu64 " nodes without a label\n",
           sum->train, sum->valid, sum->test, sum->unlabelled);
    if (!sum->symmetric)
        puts("hint: messages go from source to target only. If the graph is undirected and its "
             "edges are\n      listed once (as OGB does), import it with --undirected.");
    if (sum->train == 0)
        puts("hint: no labelled node is in train; there is nothing to train on.");
}

int cmd_import(int argc, char **argv) {
    static const struct argp argp = {
        .options = options,
        .parser = parse_option,
        .args_doc = "DIR",
        .doc =
            "Turn graph files into a snapshot.\v"
            "csv: edges.csv (source,target), features.csv (id,<name>,...), labels.csv (id,label), "
            "train.csv, valid.csv, test.csv (id); each with this header line, plain or .gz. Ids "
            "are texts; labels are integers or words.\n\n"
            "ogb: the raw layout of the Open Graph Benchmark, raw/*.csv.gz and "
            "split/<name>/*.csv.gz. OGB lists undirected edges once: add --undirected for them.\n\n"
            "npy: edges.npy [m, 2] or edge_index.npy [2, m], features.npy [n, f], labels.npy [n], "
            "and train.npy, valid.npy, test.npy (node numbers) or split.npy [n] (0 none, 1 train, "
            "2 valid, 3 test).",
    };
    struct arguments arguments = {.import.root = "graphps-data"};
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);

    struct progress progress;
    struct import_summary summary;
    struct error err = {0};
    uint64_t started = time_now_ms();
    progress_begin(&progress, stderr, argv[0], "bytes", started);
    int r = import_run(&arguments.import, tell, &progress, &summary, &err);
    progress_end(&progress);
    if (r < 0)
        return cli_fail(argv[0], &err);
    for (char *line = strtok(summary.remarks, "\n"); line; line = strtok(NULL, "\n"))
        fprintf(stderr, "%s: warning: %s\n", argv[0], line);
    print_summary(&arguments.import, &summary, (double)(time_now_ms() - started) / 1000);
    return 0;
}
