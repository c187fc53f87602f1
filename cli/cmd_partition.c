/* graphps partition: a snapshot is cut into the parts that workers train on. */
#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/partition_print.h"
#include "common/lock.h"
#include "common/mem.h"
#include "worker/graph/catalog.h"

static const struct argp_option options[] = {
    {"parts", 'p', "N", 0, "How many parts: as many as there will be workers", 0},
    {"halo", 'h', "HOPS", 0,
     "Hops of neighbours copied into each part: as many as the model has layers (default: 2)", 0},
    {"seed", 's', "N", 0, "Seed of the cut (default: 1)", 0},
    {"root", 'r', "DIR", 0, "Where snapshots are kept (default: graphps-data)", 0},
    {0},
};

struct arguments {
    const char *snapshot, *root;
    uint64_t parts, halo, seed;
    bool seed_given;
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
        arguments->parts = parse_number("--parts", arg, 1, 4096, state);
        return 0;
    case 'h':
        arguments->halo = parse_number("--halo", arg, 0, HALO_MAX, state);
        return 0;
    case 's':
        arguments->seed = parse_number("--seed", arg, 0, UINT32_MAX, state);
        arguments->seed_given = true;
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

static int run(const struct arguments *arguments, struct snapshot **ret_snapshot,
               struct error *reterr) {
    _cleanup_(mem_free_p) char *dir = NULL;
    int r = snapshot_find(arguments->root, arguments->snapshot, &dir, reterr);
    if (r == 0)
        r = snapshot_open(dir, true, ret_snapshot, reterr);
    if (r < 0)
        return r;
    struct snapshot *snapshot = *ret_snapshot;
    uint32_t parts = (uint32_t)arguments->parts, halo = (uint32_t)arguments->halo;
    _cleanup_(mem_free_p) char *where = partition_dir(dir, parts, halo);
    if (!file_exists(where))
        fprintf(stderr,
                "cutting %s@%s (%" PRIu64 " nodes, %" PRIu64 " edges) into %" PRIu32
                " part%s ...\n",
                snapshot->name, snapshot->version, snapshot->nodes, snapshot->edges, parts,
                parts == 1 ? "" : "s");
    uint64_t started = time_now_ms();
    bool existed;
    r = partition_make(snapshot, parts, halo, arguments->seed, &existed, reterr);
    if (r < 0)
        return r;
    double seconds = (double)(time_now_ms() - started) / 1000;

    struct partition_info info;
    r = partition_info_read(where, false, &info, reterr);
    if (r < 0)
        return r;
    if (existed && arguments->seed_given && info.seed != arguments->seed)
        r = error_set(reterr, ERR_EXISTS,
                      "%s: is there already, cut with seed %" PRIu64
                      "; remove it to have it cut with seed %" PRIu64,
                      where, info.seed, arguments->seed);
    struct error catalog = {0};
    if (r == 0 && catalog_add_partition(arguments->root, where, &catalog) < 0)
        fprintf(stderr, "graphps partition: warning: the catalog was not updated: %s\n",
                error_text(&catalog));
    if (r == 0) {
        partition_print(snapshot, &info);
        if (existed)
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
               "already is left as it is.",
    };
    struct arguments arguments = {.root = "graphps-data", .halo = 2, .seed = 1};
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);

    struct snapshot *snapshot = NULL;
    struct error err = {0};
    int r = run(&arguments, &snapshot, &err);
    snapshot_close(snapshot);
    return r < 0 ? cli_fail(argv[0], &err) : 0;
}
