/* graphps partition: a snapshot is cut into the parts that workers train on. */
#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/partition_cut.h"
#include "cli/partition_print.h"
#include "common/lock.h"
#include "common/mem.h"
#include "worker/graph/catalog.h"

enum { KEY_OVERWRITE = 256 };

static const struct argp_option options[] = {
    {"parts", 'p', "N", 0, "How many parts: as many as there will be workers", 0},
    {"halo", 'h', "HOPS", 0,
     "Hops of neighbours copied into each part: as many as the model has layers (default: 2)", 0},
    {"method", 'm', "auto|metis|fennel|random", 0, "How to cut, see below (default: auto)", 0},
    {"seed", 's', "N", 0, "Seed of the cut (default: 1)", 0},
    {"root", 'r', "DIR", 0, "Where snapshots are kept (default: graphps-data)", 0},
    {"overwrite", KEY_OVERWRITE, NULL, 0,
     "Replace a partitioning of as many parts and hops; it stays until the new one is complete", 0},
    {0},
};

struct arguments {
    const char *snapshot, *root;
    uint64_t parts, halo, seed;
    enum assign_method method;
    bool seed_given, method_given, overwrite;
};

static uint64_t parse_number(const char *what, const char *arg, uint64_t min, uint64_t max,
                             struct argp_state *state) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(arg, &end, 10);
    if (arg[0] < '0' || arg[0] > '9' || *end || errno || value < min || value > max)
        argp_error(state, "%s is a number from %" PRIu64 " to %" PRIu64 ", not \"%s\"", what, min,
                   max, arg);
    return value;
}

static error_t parse_option(int key, char *arg, struct argp_state *state) {
    struct arguments *arguments = state->input;
    switch (key) {
    case 'p':
        arguments->parts = parse_number("--parts", arg, 1, PARTS_MAX, state);
        return 0;
    case 'h':
        arguments->halo = parse_number("--halo", arg, 0, HALO_MAX, state);
        return 0;
    case 's':
        arguments->seed = parse_number("--seed", arg, 0, UINT32_MAX, state);
        arguments->seed_given = true;
        return 0;
    case 'm':
        if (strcmp(arg, "none") == 0 || !assign_method_parse(arg, &arguments->method))
            argp_error(state, "--method is auto, metis, fennel or random, not \"%s\"", arg);
        arguments->method_given = arguments->method != ASSIGN_AUTO;
        return 0;
    case KEY_OVERWRITE:
        arguments->overwrite = true;
        return 0;
    case 'r':
        arguments->root = arg;
        return 0;
    case ARGP_KEY_ARG:
        if (arguments->snapshot)
            argp_error(state, "only one snapshot, please; \"%s\" is too many", arg);
        arguments->snapshot = arg;
        return 0;
    case ARGP_KEY_END:
        if (!arguments->snapshot || !arguments->parts)
            argp_error(state, "give a snapshot and --parts");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* One that was there serves when nothing else was asked for. */
static int check_existing(const struct arguments *arguments, const struct partition_info *info,
                          const char *where, struct error *reterr) {
    const char *method = assign_method_name(arguments->method);
    if (info->parts > 1 && arguments->method_given && strcmp(method, info->method) != 0)
        return error_set(reterr, ERR_EXISTS,
                         "%s: is there already, cut with method %s; --overwrite cuts it with %s",
                         where, info->method, method);
    if (info->parts > 1 && arguments->seed_given && info->seed != arguments->seed)
        return error_set(reterr, ERR_EXISTS,
                         "%s: is there already, cut with seed %" PRIu64
                         "; --overwrite cuts it with seed %" PRIu64,
                         where, info->seed, arguments->seed);
    return 0;
}

static int run(const struct arguments *arguments, const char *command,
               struct snapshot **ret_snapshot, struct error *reterr) {
    _cleanup_(mem_free_p) char *dir = NULL;
    int r = snapshot_find(arguments->root, arguments->snapshot, &dir, reterr);
    if (r == 0)
        r = snapshot_open(dir, true, ret_snapshot, reterr);
    if (r < 0)
        return r;
    struct snapshot *snapshot = *ret_snapshot;
    uint32_t parts = (uint32_t)arguments->parts, halo = (uint32_t)arguments->halo;
    _cleanup_(mem_free_p) char *where = partition_dir(dir, parts, halo);
    if (arguments->overwrite || !file_exists(where))
        fprintf(stderr,
                "cutting %s@%s (%" PRIu64 " nodes, %" PRIu64 " edges) into %" PRIu32
                " part%s ...\n",
                snapshot->name, snapshot->version, snapshot->nodes, snapshot->edges, parts,
                parts == 1 ? "" : "s");
    const struct partition_options cut = {.parts = parts,
                                          .halo = halo,
                                          .seed = arguments->seed,
                                          .method = arguments->method,
                                          .overwrite = arguments->overwrite};
    uint64_t started = time_now_ms();
    struct partition_outcome outcome;
    r = partition_cut(command, snapshot, &cut, &outcome, reterr);
    if (r < 0)
        return r;
    double seconds = (double)(time_now_ms() - started) / 1000;

    struct partition_info info;
    r = partition_info_read(where, false, &info, reterr);
    if (r < 0)
        return r;
    if (outcome.existed)
        r = check_existing(arguments, &info, where, reterr);
    struct error catalog = {0};
    if (r == 0 && catalog_add_partition(arguments->root, where, &catalog) < 0)
        fprintf(stderr, "graphps partition: warning: the catalog was not updated: %s\n",
                error_text(&catalog));
    if (r == 0) {
        if (outcome.why[0])
            printf("cut with %s: %s\n", assign_method_name(outcome.method), outcome.why);
        partition_print(snapshot, &info);
        if (outcome.existed)
            printf("it was there already, in %s\n", where);
        else
            printf("written in %.1f s to %s\n", seconds, where);
    }
    partition_info_done(&info);
    return r;
}

int cmd_partition(int argc, char **argv) {
    static const struct argp argp = {
        .options = options,
        .parser = parse_option,
        .args_doc = "SNAPSHOT",
        .doc = "Cut a snapshot into parts, one for each worker.\v"
               "SNAPSHOT is name, name@version, or a directory. A partitioning that is there "
               "already is left as it is, without --overwrite.\n\n"
               "metis cuts the fewest edges, but needs memory for them all. fennel reads the graph "
               "some ten times and needs memory for the nodes only; it cuts more. random deals "
               "nodes out by lot, to compare with. auto is metis for graphs of less than 2^31 "
               "edges for which the memory suffices, else fennel. With each of them no part has "
               "more than a tenth above the mean of nodes, edges and training nodes, and one "
               "node's.",
    };
    struct arguments arguments = {.root = "graphps-data", .halo = 2, .seed = 1};
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);

    struct snapshot *snapshot = NULL;
    struct error err = {0};
    int r = run(&arguments, argv[0], &snapshot, &err);
    snapshot_close(snapshot);
    return r < 0 ? cli_fail(argv[0], &err) : 0;
}
