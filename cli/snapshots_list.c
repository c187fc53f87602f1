/* graphps snapshots list and show: the shelf as a table, as text and as JSON. */
#include <argp.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/shelf.h"
#include "cli/snapshots.h"
#include "common/file.h"
#include "common/mem.h"
#include "proto/score.h"

static const struct argp_option options[] = {
    {"root", 'r', "DIR", 0, "Where snapshots are kept (default: graphps-data)", 0},
    {"json", 'j', NULL, 0, "As JSON", 0},
    {0},
};

struct arguments {
    const char *root, *name;
    bool json, named;
};

static error_t parse_option(int key, char *arg, struct argp_state *state) {
    struct arguments *arguments = state->input;
    switch (key) {
    case 'r':
        arguments->root = arg;
        return 0;
    case 'j':
        arguments->json = true;
        return 0;
    case ARGP_KEY_ARG:
        if (!arguments->named || arguments->name)
            argp_error(state, "\"%s\" is too many", arg);
        arguments->name = arg;
        return 0;
    case ARGP_KEY_END:
        if (arguments->named && !arguments->name)
            argp_error(state, "give a snapshot");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* --- JSON --- */

static json_t *text_json(const char *text) {
    return text ? json_string(text) : json_null();
}

static json_t *real_json(double value) {
    return isnan(value) ? json_null() : json_real(value);
}

/* Under the names that result.json has, "valid_accuracy", where it is known which score they are.
 */
static void scores_json(json_t *json, const char *metric, double valid, double test) {
    enum score score = SCORE_ACCURACY;
    score_find(metric, &score);
    json_object_set_new(json, "metric", text_json(metric));
    json_object_set_new(json, score_key(SCORE_VALID, score), real_json(valid));
    json_object_set_new(json, score_key(SCORE_TEST, score), real_json(test));
}

static json_t *partition_json(const struct shelf_partition *p) {
    if (p->state == SHELF_DAMAGED)
        return json_pack("{s:s, s:s, s:o}", "name", p->name, "state", shelf_state_name(p->state),
                         "fault", text_json(p->fault));
    return json_pack("{s:s, s:s, s:I, s:I, s:o, s:I, s:I, s:I, s:o, s:s}", "name", p->name, "state",
                     shelf_state_name(p->state), "parts", (json_int_t)p->parts, "halo",
                     (json_int_t)p->halo, "method", text_json(p->method), "seed",
                     (json_int_t)p->seed, "edge_cut", (json_int_t)p->edge_cut, "bytes",
                     (json_int_t)p->bytes, "created", text_json(p->created), "dir", p->dir);
}

static json_t *runs_json(const struct shelf *shelf, const struct shelf_entry *entry) {
    json_t *list = json_array();
    for (size_t i = 0; i < shelf->catalog.run_count; i++) {
        const struct catalog_run *run = &shelf->catalog.runs[i];
        if (!shelf_used(entry, run->snapshot, run->digest))
            continue;
        json_t *json =
            json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:o}", "job", run->job, "dir", run->dir,
                      "state", shelf_run_state(entry, run), "digest", text_json(run->digest),
                      "partition", text_json(run->partition), "started", text_json(run->started),
                      "ended", text_json(run->ended));
        scores_json(json, run->metric, run->valid_score, run->test_score);
        json_array_append_new(list, json);
    }
    return list;
}

static json_t *models_json(const struct shelf *shelf, const struct shelf_entry *entry) {
    json_t *list = json_array();
    for (size_t i = 0; i < shelf->catalog.model_count; i++) {
        const struct catalog_model *model = &shelf->catalog.models[i];
        if (!shelf_used(entry, model->snapshot, model->digest))
            continue;
        json_t *json = json_pack("{s:s, s:s, s:s, s:o}", "path", model->path, "job", model->job,
                                 "md5", model->md5, "created", text_json(model->created));
        scores_json(json, model->metric, model->valid_score, model->test_score);
        json_array_append_new(list, json);
    }
    return list;
}

/* What is not known of one that is damaged or missing is null. */
static json_t *entry_json(const struct shelf *shelf, const struct shelf_entry *entry) {
    bool damaged = entry->state == SHELF_DAMAGED, here = entry->state == SHELF_HERE;
    json_t *partitions = json_array();
    for (size_t k = 0; k < entry->partition_count; k++)
        json_array_append_new(partitions, partition_json(&entry->partitions[k]));
    return json_pack(
        "{s:s, s:s, s:s, s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:o, s:o, s:b, "
        "s:o, s:o, s:o}",
        "name", entry->name, "version", entry->version, "state", shelf_state_name(entry->state),
        "fault", text_json(entry->fault), "dir", entry->dir, "digest", text_json(entry->digest),
        "created", text_json(entry->created), "nodes",
        damaged ? json_null() : json_integer((json_int_t)entry->nodes), "edges",
        damaged ? json_null() : json_integer((json_int_t)entry->edges), "feature_dim",
        here ? json_integer((json_int_t)entry->feature_dim) : json_null(), "classes",
        here ? json_integer((json_int_t)entry->classes) : json_null(), "valid_edges",
        here ? json_integer((json_int_t)entry->valid_edges) : json_null(), "test_edges",
        here ? json_integer((json_int_t)entry->test_edges) : json_null(), "bytes",
        (json_int_t)entry->bytes, "parent", text_json(entry->parent), "parent_digest",
        text_json(entry->parent_digest), "in_use", (int)entry->in_use, "partitions", partitions,
        "runs", runs_json(shelf, entry), "models", models_json(shelf, entry));
}

static int print_json(json_t *json, struct error *reterr) {
    int written = json ? json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : -1;
    json_decref(json);
    if (written < 0)
        return error_set(reterr, ERR_IO, "the JSON cannot be written");
    putchar('\n');
    return 0;
}

/* --- text --- */

static void warn(const char *command, const struct shelf *shelf) {
    if (shelf->catalog_fault.code)
        fprintf(stderr, "%s: warning: %s; parents, runs and models are not shown\n", command,
                error_text(&shelf->catalog_fault));
    if (shelf->leftover_count)
        fprintf(stderr,
                "%s: warning: %zu director%s left of an interrupted removal (%s%s); the next "
                "`graphps snapshots rm` removes %s\n",
                command, shelf->leftover_count, shelf->leftover_count == 1 ? "y is" : "ies are",
                shelf->leftovers[0], shelf->leftover_count == 1 ? "" : ", ...",
                shelf->leftover_count == 1 ? "it" : "them");
}

static void runs_text(const struct shelf *shelf, const struct shelf_entry *entry, char buf[48]) {
    size_t runs = 0, running = 0;
    for (size_t i = 0; i < shelf->catalog.run_count; i++) {
        const struct catalog_run *run = &shelf->catalog.runs[i];
        if (!shelf_used(entry, run->snapshot, run->digest))
            continue;
        runs++;
        running += !strcmp(shelf_run_state(entry, run), "running");
    }
    if (running)
        snprintf(buf, 48, "%zu (%zu running)", runs, running);
    else
        snprintf(buf, 48, "%zu", runs);
}

/* "2x1,4x2" */
static char *partitions_text(const struct shelf_entry *entry) {
    char *text = mem_strdup("");
    for (size_t k = 0; k < entry->partition_count; k++) {
        if (entry->partitions[k].state == SHELF_MISSING)
            continue;
        char *longer = mem_printf("%s%s%s", text, *text ? "," : "", entry->partitions[k].name);
        mem_free(text);
        text = longer;
    }
    return text;
}

static void print_table(const struct shelf *shelf) {
    int width = 8;
    for (size_t i = 0; i < shelf->count; i++)
        if ((int)strlen(shelf->entries[i].label) > width)
            width = (int)strlen(shelf->entries[i].label);
    printf("%-*s  %-20s %11s %12s %8s %7s %10s  %-13s  %s\n", width, "snapshot", "created", "nodes",
           "edges", "features", "classes", "on disk", "runs", "partitions");
    for (size_t i = 0; i < shelf->count; i++) {
        const struct shelf_entry *entry = &shelf->entries[i];
        char size[32], runs[48];
        _cleanup_(mem_free_p) char *partitions = partitions_text(entry);
        runs_text(shelf, entry, runs);
        shelf_bytes(entry->bytes, size);
        printf("%-*s  ", width, entry->label);
        if (entry->state == SHELF_HERE)
            printf("%-20s %11" PRIu64 " %12" PRIu64 " %8" PRIu64 " %7" PRIu64 " %10s  %-13s  %s\n",
                   entry->created ? entry->created : "?", entry->nodes, entry->edges,
                   entry->feature_dim, entry->classes, size, runs, partitions);
        else if (entry->state == SHELF_MISSING)
            printf("%-20s %11" PRIu64 " %12" PRIu64 " %8s %7s %10s  %-13s  missing\n",
                   entry->created, entry->nodes, entry->edges, "-", "-", "-", runs);
        else
            printf("%-20s %11s %12s %8s %7s %10s  %-13s  damaged\n", "?", "?", "?", "?", "?", size,
                   runs);
    }
    for (size_t i = 0; i < shelf->count; i++) {
        const struct shelf_entry *entry = &shelf->entries[i];
        if (entry->state == SHELF_DAMAGED)
            printf("%s is damaged: %s\n", entry->label, entry->fault);
        else if (entry->state == SHELF_MISSING)
            printf("%s is missing: it was removed by hand; `graphps snapshots rm %s` forgets it\n",
                   entry->label, entry->label);
    }
}

static void print_partition(const struct shelf_entry *entry, const struct shelf_partition *p) {
    char size[32];
    printf("  %-8s", p->name);
    if (p->state == SHELF_DAMAGED) {
        printf("  damaged: %s\n", p->fault);
        return;
    }
    printf("  %" PRIu32 " parts, halo of %" PRIu32 " hops, %s, seed %" PRIu64 ", edge cut %" PRIu64
           " (%.2f %%), made %s",
           p->parts, p->halo, p->method, p->seed, p->edge_cut,
           entry->edges ? 100 * (double)p->edge_cut / (double)entry->edges : 0,
           p->created ? p->created : "?");
    if (p->state == SHELF_MISSING) {
        puts("; missing: removed by hand");
        return;
    }
    double nodes = (double)entry->nodes / p->parts, train = (double)p->train / p->parts;
    printf(
        ", %s\n            largest part: %.3f of the mean in nodes, %.3f in training nodes; halo "
        "%.2f nodes for each owned one\n",
        shelf_bytes(p->bytes, size), nodes > 0 ? (double)p->owned_max / nodes : 0,
        train > 0 ? (double)p->train_max / train : 0,
        entry->nodes ? (double)p->halo_nodes / (double)entry->nodes : 0);
}

/* An accuracy where it is not named. */
static void print_scores(const char *metric, double valid, double test) {
    enum score score = SCORE_ACCURACY;
    bool named = score_find(metric, &score) && score != SCORE_ACCURACY;
    if (!isnan(valid))
        printf(", validation %s%s%s", named ? score_title(score) : "", named ? " " : "",
               score_text(score, valid, 2).text);
    if (!isnan(test))
        printf(", test %s", score_text(score, test, 2).text);
}

/* Runs and models of the same name and version whose contents were others are told apart. */
static void print_uses(const struct shelf *shelf, const struct shelf_entry *entry) {
    size_t runs = 0, models = 0;
    for (size_t i = 0; i < shelf->catalog.run_count; i++) {
        const struct catalog_run *run = &shelf->catalog.runs[i];
        if (strcmp(run->snapshot, entry->label) != 0)
            continue;
        bool same = shelf_used(entry, run->snapshot, run->digest);
        if (runs++ == 0)
            puts("runs");
        printf("  %s: %s, started %s", run->job, same ? shelf_run_state(entry, run) : run->state,
               run->started);
        if (run->ended)
            printf(", ended %s", run->ended);
        print_scores(run->metric, run->valid_score, run->test_score);
        if (run->partition)
            printf(", partitioning %s", run->partition);
        if (!same)
            printf(", on other contents of that name (digest %s)", run->digest);
        else if (!run->digest)
            printf(", digest not recorded");
        printf("; %s%s\n", run->dir, file_exists(run->dir) ? "" : " (gone)");
    }
    for (size_t i = 0; i < shelf->catalog.model_count; i++) {
        const struct catalog_model *model = &shelf->catalog.models[i];
        if (!shelf_used(entry, model->snapshot, model->digest))
            continue;
        if (models++ == 0)
            puts("models");
        printf("  %s: %s", model->job, model->created);
        print_scores(model->metric, model->valid_score, model->test_score);
        printf("; %s%s\n", model->path, file_exists(model->path) ? "" : " (gone)");
    }
    if (!runs)
        puts("runs        none recorded");
}

static void print_entry(const struct shelf *shelf, const struct shelf_entry *entry) {
    char size[32];
    printf("snapshot    %s%s\n", entry->label,
           entry->state == SHELF_MISSING ? " (missing: it was removed by hand)" : "");
    printf("where       %s\n", entry->dir);
    if (entry->fault)
        printf("damaged     %s\n", entry->fault);
    if (entry->digest)
        printf("digest      %s\n", entry->digest);
    if (entry->catalog_digest && entry->digest && strcmp(entry->catalog_digest, entry->digest) != 0)
        printf("imported    with other contents (digest %s): these were put in their place by "
               "hand\n",
               entry->catalog_digest);
    else if (!entry->catalog_digest && !shelf->catalog_fault.code)
        puts("imported    not into this directory: it was put there by hand");
    if (entry->created)
        printf("created     %s\n", entry->created);
    if (entry->parent && strcmp(entry->parent, entry->label) == 0)
        printf("parent      the %s that it replaced (digest %s)\n", entry->parent,
               entry->parent_digest);
    else if (entry->parent)
        printf("parent      %s (digest %s)\n", entry->parent,
               entry->parent_digest ? entry->parent_digest : "unknown");
    else
        puts("parent      none");
    if (entry->state != SHELF_DAMAGED)
        printf("nodes       %" PRIu64 "\nedges       %" PRIu64 "\n", entry->nodes, entry->edges);
    if (entry->state == SHELF_HERE) {
        _cleanup_(mem_free_p) char *targets = mem_printf("%s/targets.npy", entry->dir);
        printf("features    %" PRIu64 "\n%s     %" PRIu64 "\n", entry->feature_dim,
               file_exists(targets) ? "targets" : "classes", entry->classes);
    }
    if (entry->valid_edges || entry->test_edges)
        printf("aside       %" PRIu64 " edges to choose by, %" PRIu64 " to test on\n",
               entry->valid_edges, entry->test_edges);
    if (entry->state != SHELF_MISSING)
        printf("on disk     %s, partitionings included\n", shelf_bytes(entry->bytes, size));
    if (entry->in_use)
        puts("in use      by a running process");
    puts(entry->partition_count ? "partitions" : "partitions  none");
    for (size_t k = 0; k < entry->partition_count; k++)
        print_partition(entry, &entry->partitions[k]);
    print_uses(shelf, entry);
}

/* --- the commands --- */

static int run_list(const char *command, const struct arguments *arguments, struct error *reterr) {
    struct shelf shelf;
    int r = shelf_read(arguments->root, &shelf, reterr);
    if (r < 0)
        return r;
    warn(command, &shelf);
    if (arguments->json) {
        json_t *list = json_array();
        for (size_t i = 0; i < shelf.count; i++)
            json_array_append_new(list, entry_json(&shelf, &shelf.entries[i]));
        r = print_json(list, reterr);
    } else if (shelf.count) {
        print_table(&shelf);
    }
    if (!shelf.count)
        fprintf(stderr, "%s: there is no snapshot in %s/snapshots; graphps import makes one\n",
                command, arguments->root);
    shelf_done(&shelf);
    return r;
}

static int run_show(const char *command, const struct arguments *arguments, struct error *reterr) {
    struct shelf shelf;
    const struct shelf_entry *entry;
    int r = shelf_read(arguments->root, &shelf, reterr);
    if (r < 0)
        return r;
    warn(command, &shelf);
    r = shelf_find(&shelf, arguments->name, true, &entry, reterr);
    if (r == 0 && arguments->json)
        r = print_json(entry_json(&shelf, entry), reterr);
    else if (r == 0)
        print_entry(&shelf, entry);
    shelf_done(&shelf);
    return r;
}

static int run(const char *command,
               int (*what)(const char *, const struct arguments *, struct error *),
               const struct arguments *arguments) {
    struct error err = {0};
    int r = what(command, arguments, &err);
    if (r == 0 && fflush(stdout) != 0)
        r = error_set(&err, ERR_IO, "the output cannot be written: %m");
    return r < 0 ? cli_fail(command, &err) : 0;
}

int snapshots_list(int argc, char **argv) {
    static const struct argp argp = {
        .options = options,
        .parser = parse_option,
        .doc = "List the snapshots on disk, with their partitionings and how many runs used them.\v"
               "What was copied there by hand is listed too; what the catalog knows but the disk "
               "does not have is marked as missing.",
    };
    struct arguments arguments = {.root = "graphps-data"};
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    return run(argv[0], run_list, &arguments);
}

int snapshots_show(int argc, char **argv) {
    static const struct argp argp = {
        .options = options,
        .parser = parse_option,
        .args_doc = "SNAPSHOT",
        .doc = "Show one snapshot: its parent, its partitionings and how even they are, the runs "
               "that used it and the models that came of them.\v"
               "SNAPSHOT is name@version, or name: the newest version. Its parent is what it "
               "replaced (import --overwrite), or else the newest version below it that was there "
               "when it was imported. A run that says it runs though no process holds the snapshot "
               "has died.",
    };
    struct arguments arguments = {.root = "graphps-data", .named = true};
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    return run(argv[0], run_show, &arguments);
}
