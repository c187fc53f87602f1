/* graphps inspect: what is in a snapshot and its partitionings. */
#include <argp.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/partition_print.h"
#include "common/mem.h"
#include "worker/graph/csr.h"
#include "worker/graph/text.h"

#define CLASSES_SHOWN 100

enum { KEY_NO_VERIFY = 256 };

static const struct argp_option options[] = {
    {"root", 'r', "DIR", 0, "Where snapshots are kept (default: graphps-data)", 0},
    {"no-verify", KEY_NO_VERIFY, NULL, 0, "Do not verify the checksums of all files", 0},
    {0},
};

struct arguments {
    const char *snapshot, *root;
    bool no_verify;
};

static error_t parse_option(int key, char *arg, struct argp_state *state) {
    struct arguments *arguments = state->input;
    switch (key) {
    case 'r':
        arguments->root = arg;
        return 0;
    case KEY_NO_VERIFY:
        arguments->no_verify = true;
        return 0;
    case ARGP_KEY_ARG:
        if (arguments->snapshot)
            argp_error(state, "only one snapshot, please; \"%s\" is too many", arg);
        arguments->snapshot = arg;
        return 0;
    case ARGP_KEY_END:
        if (!arguments->snapshot)
            argp_error(state, "give a snapshot");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void print_degrees(const struct snapshot *s) {
    static const int percents[] = {1, 25, 50, 75, 90, 99};
    const int64_t *indptr = s->indptr.data;
    const int32_t *indices = s->indices.data;
    _cleanup_(mem_free_p) int32_t *degrees = mem_array(s->nodes, sizeof *degrees);
    _cleanup_(mem_free_p) bool *sends = mem_array(s->nodes, sizeof *sends);
    for (uint64_t e = 0; e < s->edges; e++)
        sends[indices[e]] = true;
    uint64_t isolated = 0;
    for (uint64_t i = 0; i < s->nodes; i++) {
        degrees[i] = (int32_t)(indptr[i + 1] - indptr[i]);
        isolated += degrees[i] == 0 && !sends[i];
    }
    qsort(degrees, s->nodes, sizeof *degrees, csr_compare);
    printf("in-degree   min %" PRId32 ", mean %.2f, max %" PRId32 ";", degrees[0],
           (double)s->edges / (double)s->nodes, degrees[s->nodes - 1]);
    for (size_t i = 0; i < ARRAY_LEN(percents); i++)
        printf(" p%d %" PRId32, percents[i], degrees[(s->nodes - 1) * (uint64_t)percents[i] / 100]);
    printf("\nisolated    %" PRIu64 " nodes without any edge\n", isolated);
}

static void print_aside(const struct snapshot *s) {
    uint64_t cols = s->edge_types ? 3 : 2;
    if (s->valid_edges.data || s->test_edges.data)
        printf("aside       %" PRIu64 " edges to choose by, %" PRIu64 " to test on\n",
               s->valid_edges.count / cols, s->test_edges.count / cols);
}

static void print_features(const struct snapshot *s) {
    uint64_t nonzero = 0, count = s->nodes * s->feature_dim;
    for (uint64_t i = 0; i < count; i++)
        nonzero += npy_double(&s->features, i) != 0;
    if (count == 0)
        puts("features    none");
    else
        printf("features    %" PRIu32 " a node, %.2f %% of them not zero\n", s->feature_dim,
               100.0 * (double)nonzero / (double)count);
}

static void print_classes(const struct snapshot *s) {
    const int32_t *labels = s->labels.data;
    const uint8_t *split = s->split.data;
    _cleanup_(mem_free_p) uint64_t *counts = mem_array(s->classes, 4 * sizeof *counts);
    uint64_t splits[4] = {0}, labelled = 0;
    for (uint64_t i = 0; i < s->nodes; i++) {
        splits[split[i]]++;
        if (labels[i] >= 0) {
            labelled++;
            counts[4 * (size_t)labels[i] + split[i]]++;
        }
    }
    printf("splits      %" PRIu64 " train, %" PRIu64 " valid, %" PRIu64 " test, %" PRIu64
           " in none; %" PRIu64 " nodes without a label\n",
           splits[SPLIT_TRAIN], splits[SPLIT_VALID], splits[SPLIT_TEST], splits[SPLIT_NONE],
           s->nodes - labelled);
    printf("classes     %" PRIu32 "\n", s->classes);
    printf("  %5s %10s %10s %10s %10s%s\n", "class", "nodes", "train", "valid", "test",
           s->class_names ? "  name" : "");
    for (uint32_t c = 0; c < s->classes && c < CLASSES_SHOWN; c++) {
        const uint64_t *row = &counts[4 * (size_t)c];
        char name[512];
        printf("  %5" PRIu32 " %10" PRIu64 " %10" PRIu64 " %10" PRIu64 " %10" PRIu64 "%s%s\n", c,
               row[0] + row[1] + row[2] + row[3], row[SPLIT_TRAIN], row[SPLIT_VALID],
               row[SPLIT_TEST], s->class_names ? "  " : "",
               s->class_names ? text_printable(s->class_names[c], name, sizeof name) : "");
    }
    if (s->classes > CLASSES_SHOWN)
        printf("  and %" PRIu32 " more\n", s->classes - CLASSES_SHOWN);
}

static int print_partitionings(const struct snapshot *s, bool verify, struct error *reterr) {
    _cleanup_(mem_free_p) char *all = mem_printf("%s/partitions", s->dir);
    char **names = NULL;
    size_t count = 0;
    int r = 0;
    if (file_exists(all))
        r = dir_list(all, &names, &count, reterr);
    for (size_t i = 0; r == 0 && i < count; i++) {
        unsigned parts, halo;
        char rest;
        struct partition_info info;
        /* Others are being written, or were when a process died. */
        if (sscanf(names[i], "%ux%u%c", &parts, &halo, &rest) != 2)
            continue;
        _cleanup_(mem_free_p) char *dir = partition_dir(s->dir, parts, halo);
        r = partition_info_read(dir, verify, &info, reterr);
        if (r < 0)
            break;
        putchar('\n');
        partition_print(s, &info);
        partition_info_done(&info);
    }
    dir_list_free(names, count);
    return r;
}

static int run(const struct arguments *arguments, struct snapshot **ret_snapshot,
               struct error *reterr) {
    _cleanup_(mem_free_p) char *dir = NULL;
    int r = snapshot_find(arguments->root, arguments->snapshot, &dir, reterr);
    if (r == 0)
        r = snapshot_open(dir, !arguments->no_verify, ret_snapshot, reterr);
    if (r < 0)
        return r;
    const struct snapshot *s = *ret_snapshot;
    printf("snapshot    %s@%s\n", s->name, s->version);
    printf("where       %s\n", s->dir);
    printf("digest      %s%s\n", s->digest, arguments->no_verify ? " (not verified)" : "");
    printf("nodes       %" PRIu64 "%s\n", s->nodes, s->id_offsets.data ? ", with ids" : "");
    printf("edges       %" PRIu64 ", symmetric: %s\n", s->edges, s->undirected ? "yes" : "no");
    print_aside(s);
    print_degrees(s);
    print_features(s);
    print_classes(s);
    return print_partitionings(s, !arguments->no_verify, reterr);
}

int cmd_inspect(int argc, char **argv) {
    static const struct argp argp = {
        .options = options,
        .parser = parse_option,
        .args_doc = "SNAPSHOT",
        .doc = "Show what is in a snapshot and in its partitionings.\v"
               "SNAPSHOT is name, name@version, or a directory.",
    };
    struct arguments arguments = {.root = "graphps-data"};
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);

    struct snapshot *snapshot = NULL;
    struct error err = {0};
    int r = run(&arguments, &snapshot, &err);
    snapshot_close(snapshot);
    return r < 0 ? cli_fail(argv[0], &err) : 0;
}
