/* graphps import: the user's files become a snapshot. */
#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/progress.h"
#include "common/lock.h"
#include "common/mem.h"
#include "worker/graph/import.h"

enum {
    KEY_UNDIRECTED = 256,
    KEY_SPLIT,
    KEY_OVERWRITE,
    KEY_EDGES,
    KEY_VALID_EDGES,
    KEY_TEST_EDGES,
    KEY_NODES,
    KEY_FEATURES,
    KEY_LABELS,
    KEY_TARGETS,
    KEY_TRAIN,
    KEY_VALID,
    KEY_TEST,
    KEY_SOURCE,
    KEY_TARGET,
    KEY_WEIGHT,
    KEY_TYPE,
    KEY_HEADER,
    KEY_DELIMITER,
    KEY_BIPARTITE,
    KEY_SELF_LOOPS,
    KEY_DEDUP,
    KEY_MULTI_LABEL,
    KEY_FP16,
    KEY_RATIO,
    KEY_HOLD_OUT,
    KEY_SPLIT_SEED,
    KEY_SKIP_BAD,
};

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "The snapshot:", 1},
    {"name", 'n', "NAME", 0, "Its name", 1},
    {"version", 'v', "VERSION", 0, "Its version, such as 1.0.0", 1},
    {"root", 'r', "DIR", 0, "Where snapshots are kept (default: graphps-data)", 1},
    {"overwrite", KEY_OVERWRITE, NULL, 0,
     "Replace a snapshot of that name and version, with its partitions", 1},
    {NULL, 0, NULL, 0, "Files, instead of those in DIR:", 2},
    {"format", 'f', "KIND", 0,
     "ogb, csv (texts only), npy (arrays only) or mtx; default: what is there", 2},
    {"edges", KEY_EDGES, "FILE", 0, "The edges", 2},
    {"valid-edges", KEY_VALID_EDGES, "FILE", 0, "Edges set aside to choose a model by", 2},
    {"test-edges", KEY_TEST_EDGES, "FILE", 0, "Edges set aside to test it on", 2},
    {"nodes", KEY_NODES, "FILE", 0, "The nodes' ids, and their types", 2},
    {"features", KEY_FEATURES, "FILE", 0, "The nodes' features", 2},
    {"labels", KEY_LABELS, "FILE", 0, "The nodes' labels", 2},
    {"targets", KEY_TARGETS, "FILE", 0, "In place of labels: numbers to predict for each node", 2},
    {"train", KEY_TRAIN, "FILE", 0, "Nodes to train on", 2},
    {"valid", KEY_VALID, "FILE", 0, "Nodes to choose a model by", 2},
    {"test", KEY_TEST, "FILE", 0, "Nodes to test it on", 2},
    {NULL, 0, NULL, 0, "Texts:", 3},
    {"source", KEY_SOURCE, "COLUMN", 0, "Of the edges, by name or by number from 1", 3},
    {"target", KEY_TARGET, "COLUMN", 0, "", 3},
    {"weight", KEY_WEIGHT, "COLUMN", 0, "The edges' weights; ogb: X of edge_X.csv", 3},
    {"type", KEY_TYPE, "COLUMN", 0, "The edges' types; ogb: X of edge_X.csv", 3},
    {"header", KEY_HEADER, "yes|no", 0,
     "Whether the edges' first row names columns (default: whether it looks like that)", 3},
    {"delimiter", KEY_DELIMITER, "CHAR", 0,
     "Between fields: a character, tab, or blank for any number of blanks (default: what the first "
     "row has of tab, comma, semicolon, blank)",
     3},
    {"skip-bad", KEY_SKIP_BAD, "N", 0, "Leave out up to N rows that are wrong, and tell of them",
     3},
    {NULL, 0, NULL, 0, "The graph:", 4},
    {"undirected", KEY_UNDIRECTED, NULL, 0,
     "Add the inverse of every edge (a graph whose edges are listed once)", 4},
    {"self-loops", KEY_SELF_LOOPS, NULL, 0, "Keep them (default: dropped; layers add their own)",
     4},
    {"dedup", KEY_DEDUP, "first|sum|none", 0,
     "Of edges with the same ends and type keep the first, one with the sum of weights (1 each "
     "where there are none), or all (default: first)",
     4},
    {"bipartite", KEY_BIPARTITE, NULL, 0,
     "Sources and targets are nodes of two types, named as their columns: user:7 is not item:7", 4},
    {"multi-label", KEY_MULTI_LABEL, NULL, 0,
     "Rows of labels may name several, and the same node again", 4},
    {"fp16", KEY_FP16, NULL, 0, "Keep features as 16-bit floats", 4},
    {"split", KEY_SPLIT, "NAME", 0, "ogb: which directory below split/, when there are several", 4},
    {"split-ratio", KEY_RATIO, "TRAIN,VALID,TEST", 0,
     "Split labelled nodes at random, such as 0.6,0.2,0.2", 4},
    {"hold-out", KEY_HOLD_OUT, "VALID,TEST", 0,
     "Set edges aside for link prediction, at random: shares such as 0.05,0.1 of the pairs of "
     "nodes",
     4},
    {"split-seed", KEY_SPLIT_SEED, "N", 0, "Seed of --split-ratio and --hold-out (default: 1)", 4},
    {0},
};

struct arguments {
    struct import_options import;
};

static void parse_format(const char *arg, struct argp_state *state) {
    static const struct {
        const char *name;
        enum import_format format;
    } formats[] = {
        {"ogb", IMPORT_OGB}, {"csv", IMPORT_CSV}, {"npy", IMPORT_NPY}, {"mtx", IMPORT_MTX}};
    struct arguments *arguments = state->input;
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (strcmp(arg, formats[i].name) == 0) {
            arguments->import.format = formats[i].format;
            return;
        }
    argp_error(state, "--format is ogb, csv, npy or mtx, not \"%s\"", arg);
}

static void parse_delimiter(const char *arg, struct argp_state *state) {
    struct arguments *arguments = state->input;
    if (strcmp(arg, "tab") == 0)
        arguments->import.delimiter = '\t';
    else if (strcmp(arg, "blank") == 0)
        arguments->import.delimiter = ROWS_BLANKS;
    else if (strlen(arg) == 1 && *arg > ' ' && *arg != '"' && *arg < 0x7f)
        arguments->import.delimiter = *arg;
    else
        argp_error(state, "--delimiter is one character, tab or blank, not \"%s\"", arg);
}

static void parse_dedup(const char *arg, struct argp_state *state) {
    struct arguments *arguments = state->input;
    if (strcmp(arg, "first") == 0)
        arguments->import.dedup = DEDUP_FIRST;
    else if (strcmp(arg, "sum") == 0)
        arguments->import.dedup = DEDUP_SUM;
    else if (strcmp(arg, "none") == 0)
        arguments->import.dedup = DEDUP_NONE;
    else
        argp_error(state, "--dedup is first, sum or none, not \"%s\"", arg);
}

static void parse_ratio(const char *arg, struct argp_state *state) {
    struct arguments *arguments = state->input;
    double *ratio = arguments->import.ratio;
    int end = 0;
    if (sscanf(arg, "%lf,%lf,%lf%n", &ratio[0], &ratio[1], &ratio[2], &end) != 3 || arg[end])
        argp_error(state, "--split-ratio is three shares such as 0.6,0.2,0.2, not \"%s\"", arg);
}

static void parse_hold_out(const char *arg, struct argp_state *state) {
    struct arguments *arguments = state->input;
    double *share = arguments->import.hold_out;
    int end = 0;
    if (sscanf(arg, "%lf,%lf%n", &share[0], &share[1], &end) != 2 || arg[end] ||
        !(share[0] > 0 || share[1] > 0))
        argp_error(state, "--hold-out is two shares such as 0.05,0.1, not \"%s\"", arg);
}

static uint64_t parse_number(const char *option, const char *arg, struct argp_state *state) {
    char *end;
    errno = 0;
    unsigned long long number = strtoull(arg, &end, 10);
    if (*arg < '0' || *arg > '9' || *end || errno)
        argp_error(state, "--%s is a number, not \"%s\"", option, arg);
    return number;
}

/* Options that are a text, and where it goes. */
static const char **text_option(struct import_options *import, int key) {
    switch (key) {
    case 'n':
        return &import->name;
    case 'v':
        return &import->version;
    case 'r':
        return &import->root;
    case KEY_SPLIT:
        return &import->split;
    case KEY_EDGES:
        return &import->edges;
    case KEY_VALID_EDGES:
        return &import->valid_edges;
    case KEY_TEST_EDGES:
        return &import->test_edges;
    case KEY_NODES:
        return &import->nodes;
    case KEY_FEATURES:
        return &import->features;
    case KEY_LABELS:
        return &import->labels;
    case KEY_TARGETS:
        return &import->targets;
    case KEY_TRAIN:
        return &import->train;
    case KEY_VALID:
        return &import->valid;
    case KEY_TEST:
        return &import->test;
    case KEY_SOURCE:
        return &import->from;
    case KEY_TARGET:
        return &import->to;
    case KEY_WEIGHT:
        return &import->weight;
    case KEY_TYPE:
        return &import->type;
    default:
        return NULL;
    }
}

static error_t parse_option(int key, char *arg, struct argp_state *state) {
    struct arguments *arguments = state->input;
    struct import_options *import = &arguments->import;
    const char **text = text_option(import, key);
    if (text) {
        *text = arg;
        return 0;
    }
    switch (key) {
    case 'f':
        parse_format(arg, state);
        return 0;
    case KEY_HEADER:
        if (strcmp(arg, "yes") != 0 && strcmp(arg, "no") != 0)
            argp_error(state, "--header is yes or no, not \"%s\"", arg);
        import->header = *arg == 'y' ? HEADER_YES : HEADER_NO;
        return 0;
    case KEY_DELIMITER:
        parse_delimiter(arg, state);
        return 0;
    case KEY_DEDUP:
        parse_dedup(arg, state);
        return 0;
    case KEY_RATIO:
        parse_ratio(arg, state);
        return 0;
    case KEY_HOLD_OUT:
        parse_hold_out(arg, state);
        return 0;
    case KEY_SPLIT_SEED:
        import->split_seed = parse_number("split-seed", arg, state);
        return 0;
    case KEY_SKIP_BAD:
        import->skip_bad = parse_number("skip-bad", arg, state);
        return 0;
    case KEY_UNDIRECTED:
        import->undirected = true;
        return 0;
    case KEY_SELF_LOOPS:
        import->self_loops = true;
        return 0;
    case KEY_BIPARTITE:
        import->bipartite = true;
        return 0;
    case KEY_MULTI_LABEL:
        import->multi_label = true;
        return 0;
    case KEY_FP16:
        import->half = true;
        return 0;
    case KEY_OVERWRITE:
        import->overwrite = true;
        return 0;
    case ARGP_KEY_ARG:
        if (import->source)
            argp_error(state, "only one directory or file, please; \"%s\" is too many", arg);
        import->source = arg;
        return 0;
    case ARGP_KEY_END:
        if ((!import->source && !import->edges) || !import->name || !import->version)
            argp_error(state, "give a directory or a file of edges, --name and --version");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void tell(void *ctx, const char *what, uint64_t done, uint64_t total, uint64_t rows) {
    progress_tell_rows(ctx, what, done, total, rows, time_now_ms());
}

static void print_edges(const struct import_options *import, const struct import_summary *sum) {
    printf("  edges      %" PRIu64 " (%" PRIu64 " read%s; %s: %" PRIu64 " self-loops, %s%" PRIu64
           " repeats)\n",
           sum->edges, sum->edges_read, import->undirected ? ", inverses added" : "",
           import->self_loops ? "kept" : "dropped", sum->self_loops,
           import->self_loops ? "dropped: " : "", sum->repeats);
    if (sum->valid_edges || sum->test_edges)
        printf("  aside      %" PRIu64 " edges to choose by, %" PRIu64 " to test on; %" PRIu64
               " entries left the graph with them\n",
               sum->valid_edges, sum->test_edges, sum->set_aside);
    printf("  symmetric  %s\n", sum->symmetric ? "yes" : "no");
    if (sum->weighted)
        puts("  weights    one for each edge");
    if (sum->edge_types)
        printf("  types      %" PRIu32 " of edges\n", sum->edge_types);
}

static void print_summary(const struct import_options *import, const struct import_summary *sum,
                          double seconds) {
    printf("imported %s@%s in %.1f s\n", import->name, import->version, seconds);
    printf("  where      %s\n", sum->dir);
    printf("  nodes      %" PRIu64 " (ids: %s)\n", sum->nodes, sum->ids);
    if (sum->node_types)
        printf("  of them    %s\n", sum->types);
    print_edges(import, sum);
    printf("  features   %" PRIu32 "%s\n", sum->feature_dim, sum->half ? ", 16 bits each" : "");
    printf("  %s    %" PRIu32 "%s\n", sum->regression ? "targets" : "classes", sum->classes,
           sum->multi_label ? ", several to a node" : "");
    printf("  splits     %" PRIu64 " train, %" PRIu64 " valid, %" PRIu64
           " test (labelled nodes); %" PRIu64 " nodes without a label\n",
           sum->train, sum->valid, sum->test, sum->unlabelled);
    if (!sum->symmetric && !import->bipartite && sum->edge_types == 0)
        puts("hint: messages go from source to target only. If the graph is undirected and its "
             "edges are\n      listed once (as OGB does), import it with --undirected.");
    if (sum->train == 0 && sum->classes > 0)
        puts("hint: no labelled node is in train; there is nothing to train on.");
}

static void print_remarks(const char *command, struct import_summary *sum) {
    for (char *line = strtok(sum->remarks, "\n"); line; line = strtok(NULL, "\n"))
        fprintf(stderr, "%s: warning: %s\n", command, line);
    const struct rejects *rejects = &sum->rejects;
    if (rejects->count == 0)
        return;
    fprintf(stderr, "%s: warning: %" PRIu64 " rows were wrong and left out%s:\n", command,
            rejects->count, rejects->count > ARRAY_LEN(rejects->told) ? "; the first of them" : "");
    for (uint64_t i = 0; i < rejects->count && i < ARRAY_LEN(rejects->told); i++)
        fprintf(stderr, "  %s\n", rejects->told[i]);
}

static void on_signal(int signal) {
    import_interrupt();
}

int cmd_import(int argc, char **argv) {
    static const struct argp argp = {
        .options = options,
        .parser = parse_option,
        .args_doc = "[DIR|FILE]",
        .doc =
            "Turn graph files into a snapshot.\v"
            "DIR has edges, and what there is of nodes, features, labels (or targets), train, "
            "valid, test (or "
            "split, or train_mask, ...), valid_edges and test_edges: each a text (.csv, .tsv, "
            ".txt, "
            "also .gz) or an array (.npy; .npz with a matrix, also SciPy's sparse ones; edges also "
            ".mtx). FILE is the edges alone.\n\n"
            "Texts: edges.csv has a source and a target in each row, with a header or without; "
            "features.csv an id and numbers; labels.csv an id and a label, an integer or a word; "
            "targets.csv an id and one or several numbers; "
            "train.csv, valid.csv, test.csv an id; split.csv an id and train, valid or test; "
            "nodes.csv an id, and a type if its header says so. Ids are integers or any text, and "
            "come out again in predictions. Nodes are those of nodes.csv or features.csv; without "
            "them all that edges name.\n\n"
            "Arrays: edges.npy [m, 2] or edge_index.npy [2, m], features.npy [n, f], labels.npy "
            "[n] "
            "or 0 and 1 as [n, classes], targets.npy [n] or [n, targets], train.npy (node numbers "
            "or a mask), split.npy [n] (0 "
            "none, "
            "1 train, 2 valid, 3 test).\n\n"
            "ogb: the raw layout of the Open Graph Benchmark, DIR/raw/*.csv.gz and "
            "DIR/split/NAME/*.csv.gz, of nodes all alike or of several types. OGB lists undirected "
            "edges once: add --undirected for them.",
    };
    struct arguments arguments = {.import = {.root = "graphps-data", .split_seed = 1}};
    /* Large arrays come from the system and go back to it. By default the allocator, once it has
     * seen some go, keeps the next ones to itself: half as much memory again at the peak. */
    mallopt(M_MMAP_THRESHOLD, 256 << 10);
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);

    struct progress progress;
    struct import_summary *summary = calloc(1, sizeof *summary);
    struct error err = {0};
    uint64_t started = time_now_ms();
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    progress_begin(&progress, stderr, argv[0], "bytes", started);
    int r = summary ? import_run(&arguments.import, tell, &progress, summary, &err)
                    : error_set(&err, ERR_NO_MEMORY, "out of memory");
    progress_end(&progress);
    if (r < 0) {
        free(summary);
        return cli_fail(argv[0], &err);
    }
    print_remarks(argv[0], summary);
    print_summary(&arguments.import, summary, (double)(time_now_ms() - started) / 1000);
    free(summary);
    return 0;
}
