/* graphps snapshots verify: every file of snapshots and partitionings against its manifest. */
#include <argp.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"
#include "cli/progress.h"
#include "cli/shelf.h"
#include "cli/snapshots.h"
#include "common/file.h"
#include "common/lock.h"
#include "common/mem.h"
#include "worker/graph/manifest.h"

enum { KEY_ALL = 256 };

static const struct argp_option options[] = {
    {"all", KEY_ALL, NULL, 0, "All snapshots that are there", 0},
    {"root", 'r', "DIR", 0, "Where snapshots are kept (default: graphps-data)", 0},
    {0},
};

struct arguments {
    const char *root;
    char **names;
    size_t count;
    bool all;
};

static error_t parse_option(int key, char *arg, struct argp_state *state) {
    struct arguments *arguments = state->input;
    switch (key) {
    case 'r':
        arguments->root = arg;
        return 0;
    case KEY_ALL:
        arguments->all = true;
        return 0;
    case ARGP_KEY_ARGS:
        arguments->names = state->argv + state->next;
        arguments->count = (size_t)(state->argc - state->next);
        return 0;
    case ARGP_KEY_END:
        if (!arguments->all && !arguments->count)
            argp_error(state, "give snapshots, or --all");
        if (arguments->all && arguments->count)
            argp_error(state, "give snapshots, or --all, not both");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

struct verifying {
    const char *label; /* of the snapshot at hand */
    struct progress progress;
    uint64_t done_bytes, total_bytes; /* of all snapshots */
    uint64_t files, bytes;            /* of the one at hand */
    size_t faults;
};

static void json_decref_p(json_t **json) {
    json_decref(*json);
}

static void fault(struct verifying *v, const char *text) {
    progress_end(&v->progress);
    if (v->faults++ == 0)
        printf("%s: DAMAGED\n", v->label);
    printf("  %s\n", text);
    fflush(stdout);
}

static void told(void *ctx, uint64_t file_done) {
    struct verifying *v = ctx;
    progress_tell(&v->progress, "verifying", v->done_bytes + file_done, v->total_bytes,
                  time_now_ms());
}

static void verify_file(struct verifying *v, const char *dir, const json_t *entry) {
    const char *name = json_string_value(json_object_get(entry, "name"));
    const char *md5 = json_string_value(json_object_get(entry, "md5"));
    uint64_t expected = (uint64_t)json_integer_value(json_object_get(entry, "bytes")), len;
    _cleanup_(mem_free_p) char *path = mem_printf("%s/%s", dir, name);
    _cleanup_(mem_free_p) char *text = NULL;
    struct error err = {0};
    struct stat st;
    char found[33];
    v->files++;
    v->bytes += expected;
    if (stat(path, &st) < 0)
        text = mem_printf("%s: %m, though its manifest lists it", path);
    else if ((uint64_t)st.st_size != expected)
        text = mem_printf("%s: has %llu bytes, not %" PRIu64, path, (unsigned long long)st.st_size,
                          expected);
    else if (file_md5_told(path, told, v, found, &len, &err) < 0)
        text = mem_strdup(error_text(&err));
    else if (strcmp(found, md5) != 0)
        text = mem_printf("%s: has MD5 %s, not %s", path, found, md5);
    if (text)
        fault(v, text);
    v->done_bytes += expected;
    told(v, 0);
}

/* Of a directory whose manifest is returned, or NULL and a fault. */
static json_t *verify_dir(struct verifying *v, const char *dir) {
    struct error err = {0};
    json_t *manifest = NULL;
    if (manifest_read(dir, MANIFEST_ALONE, &manifest, &err) < 0) {
        fault(v, error_text(&err));
        return NULL;
    }
    const json_t *files = json_object_get(manifest, "files");
    for (size_t i = 0; i < json_array_size(files); i++)
        verify_file(v, dir, json_array_get(files, i));
    return manifest;
}

static void verify_owner(struct verifying *v, const char *dir, const json_t *manifest,
                         const char *digest) {
    const char *of = json_string_value(json_object_get(manifest, "snapshot_digest"));
    if (of && digest && !strcmp(of, digest))
        return;
    _cleanup_(mem_free_p) char *text =
        mem_printf("%s: was cut from a snapshot of digest %s, this one has %s", dir,
                   of ? of : "unknown", digest ? digest : "none that can be read");
    fault(v, text);
}

static void verify_partition(struct verifying *v, const struct shelf_partition *p,
                             const char *digest) {
    if (p->state == SHELF_MISSING)
        return;
    if (p->state == SHELF_DAMAGED) {
        fault(v, p->fault);
        return;
    }
    _cleanup_(json_decref_p) json_t *manifest = verify_dir(v, p->dir);
    if (manifest)
        verify_owner(v, p->dir, manifest, digest);
    for (uint32_t k = 0; k < p->parts; k++) {
        _cleanup_(mem_free_p) char *dir = mem_printf("%s/part-%" PRIu32, p->dir, k);
        _cleanup_(json_decref_p) json_t *part = verify_dir(v, dir);
        if (part)
            verify_owner(v, dir, part, digest);
    }
}

/* Files that are as they were may still not fit each other, when it is the manifest that was
 * changed. */
static void verify_opens(struct verifying *v, const struct shelf_entry *entry) {
    struct snapshot *snapshot = NULL;
    struct error err = {0};
    if (snapshot_open(entry->dir, false, &snapshot, &err) < 0)
        fault(v, error_text(&err));
    snapshot_close(snapshot);
}

static void verify_entry(struct verifying *v, const struct shelf_entry *entry) {
    char size[32];
    v->label = entry->label;
    v->files = v->bytes = v->faults = 0;
    if (entry->state == SHELF_MISSING) {
        _cleanup_(mem_free_p) char *text =
            mem_printf("%s: is missing: it was removed by hand", entry->dir);
        fault(v, text);
        return;
    }
    if (entry->state == SHELF_DAMAGED) {
        fault(v, entry->fault);
        return;
    }
    json_decref(verify_dir(v, entry->dir));
    if (!v->faults)
        verify_opens(v, entry);
    for (size_t k = 0; k < entry->partition_count; k++)
        verify_partition(v, &entry->partitions[k], entry->digest);
    progress_end(&v->progress);
    if (!v->faults)
        printf("%s: ok (%" PRIu64 " files, %s)%s%s\n", entry->label, v->files,
               shelf_bytes(v->bytes, size),
               entry->catalog_digest && strcmp(entry->catalog_digest, entry->digest) != 0
                   ? "; not what was imported, which had digest "
                   : "",
               entry->catalog_digest && strcmp(entry->catalog_digest, entry->digest) != 0
                   ? entry->catalog_digest
                   : "");
    fflush(stdout);
}

/* The snapshots that are meant, once each; *ret: mem_free. */
static int choose(const struct shelf *shelf, const struct arguments *arguments,
                  const struct shelf_entry ***ret, size_t *ret_count, struct error *reterr) {
    size_t most = arguments->all ? shelf->count : arguments->count;
    const struct shelf_entry **chosen = mem_array(most ? most : 1, sizeof *chosen);
    for (size_t i = 0; i < most; i++) {
        const struct shelf_entry *entry = &shelf->entries[i];
        int r = arguments->all ? 0 : shelf_find(shelf, arguments->names[i], true, &entry, reterr);
        if (r < 0) {
            mem_free(chosen);
            return r;
        }
        size_t k = 0;
        while (k < *ret_count && chosen[k] != entry)
            k++;
        if (k == *ret_count)
            chosen[(*ret_count)++] = entry;
    }
    *ret = chosen;
    return 0;
}

static int run(const char *command, const struct arguments *arguments, struct error *reterr) {
    struct shelf shelf;
    int r = shelf_read(arguments->root, &shelf, reterr);
    if (r < 0)
        return r;
    const struct shelf_entry **chosen = NULL;
    size_t count = 0, damaged = 0;
    r = choose(&shelf, arguments, &chosen, &count, reterr);
    if (r == 0 && shelf.catalog_fault.code)
        fprintf(stderr, "%s: warning: %s\n", command, error_text(&shelf.catalog_fault));
    if (r == 0 && !count)
        fprintf(stderr, "%s: there is no snapshot in %s/snapshots\n", command, arguments->root);
    struct verifying v = {0};
    for (size_t i = 0; i < count; i++)
        v.total_bytes += chosen[i]->bytes;
    progress_begin(&v.progress, stderr, command, "bytes", time_now_ms());
    for (size_t i = 0; r == 0 && i < count; i++) {
        verify_entry(&v, chosen[i]);
        damaged += v.faults > 0;
    }
    progress_end(&v.progress);
    if (damaged)
        r = error_set(reterr, ERR_CHECKSUM, "%zu of %zu snapshots %s damaged", damaged, count,
                      damaged == 1 ? "is" : "are");
    mem_free(chosen);
    shelf_done(&shelf);
    return r;
}

int snapshots_verify(int argc, char **argv) {
    static const struct argp argp = {
        .options = options,
        .parser = parse_option,
        .args_doc = "[SNAPSHOT...]",
        .doc = "Check every file of snapshots and of their partitionings: its length and its MD5 "
               "against the manifest, and that the snapshot opens.\v"
               "SNAPSHOT is name@version, or name: the newest version. Exit codes: 0 all is as "
               "it was written, 70 something is damaged or missing (every such file is named), 78 "
               "no such snapshot.",
    };
    struct arguments arguments = {.root = "graphps-data"};
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    struct error err = {0};
    int r = run(argv[0], &arguments, &err);
    if (r == 0)
        return 0;
    cli_fail(argv[0], &err);
    /* Damage is what was asked about, no mistake of the command line's. */
    return error_exit_code(r == ERR_CHECKSUM ? ERR_IO : r);
}
