/* graphps snapshots rm: a snapshot or a partitioning goes as a whole. It is renamed to a name under
 * which nothing is found, loses its manifest, then its files; killed at any moment, either all of
 * it is there or nothing that opens. */
#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/shelf.h"
#include "cli/snapshots.h"
#include "common/file.h"
#include "common/mem.h"
#include "worker/graph/claim.h"

enum { KEY_FORCE = 256 };

static const struct argp_option options[] = {
    {"partition", 'p', "NAME", 0, "Only this partitioning of it, such as 2x1", 0},
    {"force", KEY_FORCE, NULL, 0, "Also when runs or models refer to it (not while it is in use)",
     0},
    {"root", 'r', "DIR", 0, "Where snapshots are kept (default: graphps-data)", 0},
    {0},
};

struct arguments {
    const char *root, *name, *partition;
    bool force;
};

static error_t parse_option(int key, char *arg, struct argp_state *state) {
    struct arguments *arguments = state->input;
    switch (key) {
    case 'r':
        arguments->root = arg;
        return 0;
    case 'p':
        arguments->partition = arg;
        return 0;
    case KEY_FORCE:
        arguments->force = true;
        return 0;
    case ARGP_KEY_ARG:
        if (arguments->name)
            argp_error(state, "only one snapshot, please; \"%s\" is too many", arg);
        arguments->name = arg;
        return 0;
    case ARGP_KEY_END:
        if (!arguments->name)
            argp_error(state, "give a snapshot");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* A path whose file was removed refers to nothing any more; one that cannot be seen may. */
static bool is_gone(const char *path) {
    struct stat st;
    return lstat(path, &st) < 0 && (errno == ENOENT || errno == ENOTDIR);
}

/* Who refers to a snapshot: the runs that used it and their models. To a partitioning: the runs
 * that could still go on with it. The first ones are named. */
static int check_references(const struct shelf *shelf, const struct shelf_entry *entry,
                            const char *partition, struct error *reterr) {
    const struct catalog *catalog = &shelf->catalog;
    char list[400] = "";
    size_t count = 0, len = 0;
    for (size_t i = 0; i < catalog->run_count + catalog->model_count; i++) {
        bool run = i < catalog->run_count;
        const struct catalog_run *r = run ? &catalog->runs[i] : NULL;
        const struct catalog_model *m = run ? NULL : &catalog->models[i - catalog->run_count];
        if (!shelf_used(entry, run ? r->snapshot : m->snapshot, run ? r->digest : m->digest) ||
            is_gone(run ? r->dir : m->path))
            continue;
        if (partition &&
            (!run || !strcmp(r->state, "done") || !r->partition || strcmp(r->partition, partition)))
            continue;
        if (count++ < 3)
            len += (size_t)snprintf(list + len, sizeof list - len, "%s%s %.100s", len ? ", " : "",
                                    run ? "run" : "model", run ? r->dir : m->path);
    }
    if (!count)
        return 0;
    return error_set(reterr, ERR_NOT_ALLOWED,
                     "%s%s%s: %zu %s to it: %s%s; --force removes it all the same", entry->label,
                     partition ? " partitioning " : "", partition ? partition : "", count,
                     count == 1 ? "run or model refers" : "runs and models refer", list,
                     count > 3 ? ", ..." : "");
}

/* In use is more than what the catalog says: names the runs that it knows to be running. */
static int tell_users(const struct shelf *shelf, const struct shelf_entry *entry,
                      struct error *reterr) {
    for (size_t i = 0; i < shelf->catalog.run_count; i++) {
        const struct catalog_run *run = &shelf->catalog.runs[i];
        if (shelf_used(entry, run->snapshot, run->digest) && !strcmp(run->state, "running"))
            return error_set(reterr, ERR_IN_USE,
                             "%s is in use: the run of %s in %s is running on it; try again when "
                             "it has ended",
                             entry->label, run->job, run->dir);
    }
    return error_set(reterr, ERR_IN_USE,
                     "%s is in use by a running process; try again when it has ended",
                     entry->label);
}

static int sync_above(const char *path, struct error *reterr) {
    _cleanup_(mem_free_p) char *above = mem_strdup(path);
    *strrchr(above, '/') = 0;
    int fd = open(above, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int why = fd < 0 || (fsync(fd) < 0 && errno != EINVAL) ? errno : 0;
    if (fd >= 0)
        close(fd);
    return why ? error_set(reterr, ERR_IO, "%s: cannot be synced: %s", above, strerror(why)) : 0;
}

/* Another that sweeps at the same time takes files away from under us; gone is gone. */
static int remove_aside(const char *aside, struct error *reterr) {
    _cleanup_(mem_free_p) char *manifest = mem_printf("%s/manifest.json", aside);
    struct error err = {0};
    struct stat st;
    /* From here on nothing opens it, not by its path either. What a link leads to is not ours. */
    if (lstat(aside, &st) == 0 && S_ISDIR(st.st_mode))
        (void)unlink(manifest);
    int r = 0;
    for (int i = 0; i < 3; i++) {
        r = dir_remove(aside, &err);
        if (r == 0 || is_gone(aside))
            return 0;
    }
    return error_set(reterr, r, "%s", error_text(&err));
}

/* One that is gone already is only forgotten. */
static int remove_dir(const char *dir, bool present, struct error *reterr) {
    if (!present)
        return 0;
    _cleanup_(mem_free_p) char *aside = shelf_aside(dir);
    if (rename(dir, aside) < 0)
        return error_set(
            reterr, errno == EACCES || errno == EPERM || errno == EROFS ? ERR_NOT_ALLOWED : ERR_IO,
            "%s: cannot be moved aside to be removed: %s", dir, strerror(errno));
    int r = sync_above(dir, reterr);
    return r < 0 ? r : remove_aside(aside, reterr);
}

/* What earlier removals did not come to. */
static void sweep(const char *command, const struct shelf *shelf) {
    struct error err = {0};
    for (size_t i = 0; i < shelf->leftover_count; i++)
        if (remove_aside(shelf->leftovers[i], &err) < 0)
            fprintf(stderr, "%s: warning: what an interrupted removal left stays: %s\n", command,
                    error_text(&err));
}

static int find_partition(const struct shelf_entry *entry, const char *name,
                          const struct shelf_partition **ret, struct error *reterr) {
    char list[300] = "";
    size_t len = 0;
    for (size_t k = 0; k < entry->partition_count; k++) {
        if (!strcmp(entry->partitions[k].name, name)) {
            *ret = &entry->partitions[k];
            return 0;
        }
        if (len < sizeof list - 60)
            len += (size_t)snprintf(list + len, sizeof list - len, "%s%.50s", len ? ", " : "",
                                    entry->partitions[k].name);
    }
    return error_set(reterr, ERR_NOT_FOUND, "%s has no partitioning \"%s\"%s%s", entry->label, name,
                     len ? "; there is: " : "; there is none", list);
}

static int remove_entry(const char *command, const struct arguments *arguments,
                        const struct shelf *shelf, const struct shelf_entry *entry,
                        struct error *reterr) {
    const struct shelf_partition *p = NULL;
    int claim = -1;
    int r = arguments->partition ? find_partition(entry, arguments->partition, &p, reterr) : 0;
    const char *dir = p ? p->dir : entry->dir;
    bool present = (p ? p->state : entry->state) != SHELF_MISSING;
    if (r == 0 && shelf->catalog_fault.code && !arguments->force)
        r = error_set(reterr, shelf->catalog_fault.code,
                      "%s, so nobody knows which runs refer to %s; --force removes it all the same",
                      error_text(&shelf->catalog_fault), entry->label);
    if (r == 0 && present && (r = claim_take_alone(dir, &claim, reterr)) == ERR_IN_USE)
        r = tell_users(shelf, entry, reterr);
    if (r == 0 && !arguments->force)
        r = check_references(shelf, entry, arguments->partition, reterr);
    if (r == 0)
        r = remove_dir(dir, present, reterr);
    if (claim >= 0)
        close(claim);
    if (r < 0)
        return r;
    struct error err = {0};
    if (catalog_forget(arguments->root, entry->name, entry->version, arguments->partition, &err) <
        0)
        fprintf(stderr, "%s: warning: the catalog was not updated: %s\n", command,
                error_text(&err));
    char size[32];
    if (present)
        printf("removed %s%s%s (%s)\n", entry->label, p ? " partitioning " : "", p ? p->name : "",
               shelf_bytes(p ? p->bytes : entry->bytes, size));
    else
        printf("forgot %s%s%s, which was missing\n", entry->label, p ? " partitioning " : "",
               p ? p->name : "");
    return 0;
}

static int run(const char *command, const struct arguments *arguments, struct error *reterr) {
    struct shelf shelf;
    const struct shelf_entry *entry;
    int r = shelf_read(arguments->root, &shelf, reterr);
    if (r < 0)
        return r;
    sweep(command, &shelf);
    r = shelf_find(&shelf, arguments->name, false, &entry, reterr);
    if (r == 0)
        r = remove_entry(command, arguments, &shelf, entry, reterr);
    shelf_done(&shelf);
    return r;
}

int snapshots_rm(int argc, char **argv) {
    static const struct argp argp = {
        .options = options,
        .parser = parse_option,
        .args_doc = "SNAPSHOT",
        .doc = "Remove a snapshot with its partitionings, or one of these; asks nothing.\v"
               "SNAPSHOT is name@version, or name when there is one version only. It stays while a "
               "run is using it (75), and while runs that used it or their models are on disk (77) "
               "unless --force is given. A partitioning stays for runs that are not done. One that "
               "was removed by hand is forgotten.",
    };
    struct arguments arguments = {.root = "graphps-data"};
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    struct error err = {0};
    int r = run(argv[0], &arguments, &err);
    return r < 0 ? cli_fail(argv[0], &err) : 0;
}
