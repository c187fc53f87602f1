/* graphps snapshots diff: what differs, counted, with the first of each under the user's ids. */
#include <argp.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/progress.h"
#include "cli/snapshots.h"
#include "common/lock.h"
#include "common/mem.h"
#include "worker/graph/text.h"
#include "worker/graph/diff.h"

static const struct argp_option options[] = {
    {"root", 'r', "DIR", 0, "Where snapshots are kept (default: graphps-data)", 0},
    {0},
};

struct arguments {
    const char *root, *names[2];
};

static error_t parse_option(int key, char *arg, struct argp_state *state) {
    struct arguments *arguments = state->input;
    switch (key) {
    case 'r':
        arguments->root = arg;
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num > 1)
            argp_error(state, "two snapshots, please; \"%s\" is too many", arg);
        arguments->names[state->arg_num] = arg;
        return 0;
    case ARGP_KEY_END:
        if (state->arg_num < 2)
            argp_error(state, "give two snapshots");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void tell(void *ctx, const char *what, uint64_t done, uint64_t total) {
    progress_tell(ctx, what, done, total, time_now_ms());
}

static const char *shown_id(const struct snapshot *s, uint64_t node, char shown[320]) {
    char id[256];
    return text_printable(snapshot_id(s, node, id, sizeof id), shown, 320);
}

static void print_count(const char *what, uint64_t count) {
    if (count)
        printf("%s: %" PRIu64 "%s\n", what, count,
               count > DIFF_EXAMPLES ? "; the first of them:" : "");
}

static uint64_t shown_count(uint64_t count) {
    return count < DIFF_EXAMPLES ? count : DIFF_EXAMPLES;
}

/* s: whose ids are shown; the one that has all of these nodes. */
static void print_nodes(const char *what, const struct diff_nodes *nodes, const struct snapshot *s,
                        bool of_a) {
    char shown[320];
    print_count(what, nodes->count);
    for (uint64_t i = 0; i < shown_count(nodes->count); i++)
        printf("  %s\n", shown_id(s, of_a ? nodes->first[i].a : nodes->first[i].b, shown));
}

static void print_edges(const char *what, const struct diff_edges *edges,
                        const struct snapshot *s) {
    char source[320], target[320];
    print_count(what, edges->count);
    for (uint64_t i = 0; i < shown_count(edges->count); i++)
        printf("  %s -> %s\n", shown_id(s, edges->first[i].source, source),
               shown_id(s, edges->first[i].target, target));
}

static const char *label_text(const struct snapshot *s, uint64_t node, char shown[320]) {
    int32_t label = ((const int32_t *)s->labels.data)[node];
    if (label < 0)
        return "none";
    if (s->multi_labels.data)
        return "several";
    if (s->targets.data && s->classes > 1)
        return "others";
    if (s->targets.data) {
        snprintf(shown, 320, "%.9g", (double)((const float *)s->targets.data)[node]);
        return shown;
    }
    if (s->class_names)
        return text_printable(s->class_names[label], shown, 320);
    snprintf(shown, 320, "%" PRId32, label);
    return shown;
}

static const char *split_text(const struct snapshot *s, uint64_t node) {
    static const char *const names[] = {"none", "train", "valid", "test"};
    return names[((const uint8_t *)s->split.data)[node]];
}

static void print_labels(const struct snapshot *a, const struct snapshot *b,
                         const struct diff_nodes *nodes) {
    char id[320], left[320], right[320];
    print_count("labels changed", nodes->count);
    for (uint64_t i = 0; i < shown_count(nodes->count); i++)
        printf("  %s: %s, was %s\n", shown_id(b, nodes->first[i].b, id),
               label_text(b, nodes->first[i].b, right), label_text(a, nodes->first[i].a, left));
}

static void print_splits(const struct snapshot *a, const struct snapshot *b,
                         const struct diff_nodes *nodes) {
    char id[320];
    print_count("splits changed", nodes->count);
    for (uint64_t i = 0; i < shown_count(nodes->count); i++)
        printf("  %s: %s, was %s\n", shown_id(b, nodes->first[i].b, id),
               split_text(b, nodes->first[i].b), split_text(a, nodes->first[i].a));
}

static void print_counts(const char *what, uint64_t a, uint64_t b) {
    printf("%-12s %12" PRIu64 " %12" PRIu64, what, a, b);
    if (a != b)
        printf("   %+" PRId64, (int64_t)(b - a));
    putchar('\n');
}

static uint64_t aside_count(const struct snapshot *s, const struct npy *edges) {
    return edges->data ? edges->count / (s->edge_types ? 3 : 2) : 0;
}

static uint64_t split_count(const struct snapshot *s, enum split split) {
    const uint8_t *splits = s->split.data;
    uint64_t count = 0;
    for (uint64_t i = 0; i < s->nodes; i++)
        count += splits[i] == split;
    return count;
}

static void print_table(const struct snapshot *a, const struct snapshot *b) {
    _cleanup_(mem_free_p) char *left = mem_printf("%s@%s", a->name, a->version);
    _cleanup_(mem_free_p) char *right = mem_printf("%s@%s", b->name, b->version);
    printf("A  %s, digest %s\nB  %s, digest %s\n\n", left, a->digest, right, b->digest);
    printf("%-12s %12s %12s\n", "", "A", "B");
    print_counts("nodes", a->nodes, b->nodes);
    print_counts("edges", a->edges, b->edges);
    print_counts("features", a->feature_dim, b->feature_dim);
    print_counts("classes", a->classes, b->classes);
    print_counts("train", split_count(a, SPLIT_TRAIN), split_count(b, SPLIT_TRAIN));
    print_counts("valid", split_count(a, SPLIT_VALID), split_count(b, SPLIT_VALID));
    print_counts("test", split_count(a, SPLIT_TEST), split_count(b, SPLIT_TEST));
    if (a->node_types || b->node_types)
        print_counts("node types", a->node_types, b->node_types);
    if (a->edge_types || b->edge_types)
        print_counts("edge types", a->edge_types, b->edge_types);
    if (a->valid_edges.data || b->valid_edges.data)
        print_counts("valid edges", aside_count(a, &a->valid_edges),
                     aside_count(b, &b->valid_edges));
    if (a->test_edges.data || b->test_edges.data)
        print_counts("test edges", aside_count(a, &a->test_edges), aside_count(b, &b->test_edges));
}

/* What the tables of counts cannot tell: returns whether anything was printed. */
static bool print_forms(const struct snapshot *a, const struct snapshot *b) {
    const struct {
        bool a, b;
        const char *what;
    } forms[] = {
        {a->undirected, b->undirected, "every edge has its inverse"},
        {a->edge_weights.data != NULL, b->edge_weights.data != NULL, "edges have weights"},
        {a->multi_labels.data != NULL, b->multi_labels.data != NULL, "several labels a node"},
        {a->targets.data != NULL, b->targets.data != NULL, "targets in place of labels"},
        {a->class_names != NULL, b->class_names != NULL, "classes have names"},
        {a->features.type == NPY_F2, b->features.type == NPY_F2, "features are stored as fp16"},
    };
    bool any = false;
    for (size_t i = 0; i < ARRAY_LEN(forms); i++)
        if (forms[i].a != forms[i].b) {
            printf("%s: A %s, B %s\n", forms[i].what, forms[i].a ? "yes" : "no",
                   forms[i].b ? "yes" : "no");
            any = true;
        }
    const struct {
        char *const *a, *const *b;
        uint32_t a_count, b_count;
        const char *what;
    } names[] = {
        {a->class_names, b->class_names, a->classes, b->classes, "class"},
        {a->node_type_names, b->node_type_names, a->node_types, b->node_types, "node type"},
        {a->edge_type_names, b->edge_type_names, a->edge_types, b->edge_types, "edge type"},
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        for (uint32_t k = 0; names[i].a && names[i].b && k < names[i].a_count; k++)
            if (k >= names[i].b_count || strcmp(names[i].a[k], names[i].b[k]) != 0) {
                char left[320], right[320];
                printf("%s names differ, first at number %" PRIu32 ": A %s, B %s\n", names[i].what,
                       k, text_printable(names[i].a[k], left, sizeof left),
                       k < names[i].b_count ? text_printable(names[i].b[k], right, sizeof right)
                                            : "has none");
                any = true;
                break;
            }
    return any;
}

static void print_diff(const struct snapshot *a, const struct snapshot *b,
                       const struct diff *diff) {
    static const char *const aside[] = {"validation edges set aside", "test edges set aside"};
    print_table(a, b);
    putchar('\n');
    bool forms = print_forms(a, b);
    if (diff_none(diff)) {
        if (!forms && a->feature_dim == b->feature_dim && a->classes == b->classes)
            puts("no differences");
        return;
    }
    if (diff->order)
        puts("nodes stand at other numbers; they are compared by their ids");
    print_nodes("nodes removed", &diff->removed, a, true);
    print_nodes("nodes added", &diff->added, b, false);
    print_labels(a, b, &diff->labels);
    print_splits(a, b, &diff->splits);
    print_nodes("features changed", &diff->features, b, false);
    print_nodes("node types changed", &diff->types, b, false);
    print_edges("edges removed", &diff->edges_removed, a);
    print_edges("edges added", &diff->edges_added, b);
    if (diff->weights_changed)
        printf("weights changed: of %" PRIu64 " edges\n", diff->weights_changed);
    for (int i = 0; i < 2; i++)
        if (diff->aside_removed[i] || diff->aside_added[i])
            printf("%s: %" PRIu64 " removed, %" PRIu64 " added\n", aside[i], diff->aside_removed[i],
                   diff->aside_added[i]);
}

static int run(const char *command, const struct arguments *arguments, struct error *reterr) {
    struct snapshot *snapshots[2] = {NULL, NULL};
    struct progress progress;
    struct diff diff;
    int r = 0;
    progress_begin(&progress, stderr, command, "", time_now_ms());
    for (int i = 0; r == 0 && i < 2; i++) {
        _cleanup_(mem_free_p) char *dir = NULL;
        r = snapshot_find(arguments->root, arguments->names[i], &dir, reterr);
        if (r == 0)
            r = snapshot_open(dir, false, &snapshots[i], reterr);
    }
    if (r == 0)
        r = diff_snapshots(snapshots[0], snapshots[1], tell, &progress, &diff, reterr);
    progress_end(&progress);
    if (r == 0)
        print_diff(snapshots[0], snapshots[1], &diff);
    for (int i = 0; i < 2; i++)
        snapshot_close(snapshots[i]);
    if (r == 0 && fflush(stdout) != 0)
        r = error_set(reterr, ERR_IO, "the output cannot be written: %m");
    return r;
}

int snapshots_diff(int argc, char **argv) {
    static const struct argp argp = {
        .options = options,
        .parser = parse_option,
        .args_doc = "A B",
        .doc =
            "Say what differs between two snapshots: counts, nodes that are only in one, labels, "
            "splits, features, edges, each with the first ten.\v"
            "A and B are name@version, name (the newest version) or directories. Nodes are "
            "compared by the ids they were imported with, whatever their order. Edges are "
            "counted as the snapshots count them: an undirected one twice. The exit code is 0 "
            "whether they differ or not.",
    };
    struct arguments arguments = {.root = "graphps-data"};
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    struct error err = {0};
    int r = run(argv[0], &arguments, &err);
    return r < 0 ? cli_fail(argv[0], &err) : 0;
}
