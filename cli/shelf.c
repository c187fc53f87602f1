/* Walks the directory and lays the catalog's rows beside it. */
#include "cli/shelf.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/file.h"
#include "common/mem.h"
#include "worker/graph/claim.h"
#include "worker/graph/manifest.h"
#include "worker/graph/partition.h"
#include "worker/graph/version.h"

#define REMOVED "~removed-" /* no version has a ~ in it */

static void json_decref_p(json_t **json) {
    json_decref(*json);
}

static char *text_or_null(const char *text) {
    return text ? mem_strdup(text) : NULL;
}

const char *shelf_state_name(enum shelf_state state) {
    static const char *const names[] = {"here", "damaged", "missing"};
    return names[state];
}

char *shelf_aside(const char *dir) {
    char *aside = mem_printf("%s" REMOVED "%d", dir, (int)getpid());
    for (int i = 1; file_exists(aside); i++) {
        mem_free(aside);
        aside = mem_printf("%s" REMOVED "%d.%d", dir, (int)getpid(), i);
    }
    return aside;
}

const char *shelf_bytes(uint64_t bytes, char buf[32]) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    double count = (double)bytes;
    size_t i = 0;
    for (; count >= 1000 && i < 4; i++)
        count /= 1000;
    snprintf(buf, 32, "%.*f %s", i ? 1 : 0, count, units[i]);
    return buf;
}

/* The lengths of all files below; what cannot be read counts nothing. */
static uint64_t tree_bytes(const char *path) {
    struct stat st;
    if (lstat(path, &st) < 0)
        return 0;
    if (!S_ISDIR(st.st_mode))
        return (uint64_t)st.st_size;
    char **names = NULL;
    size_t count = 0;
    uint64_t sum = 0;
    if (dir_list(path, &names, &count, NULL) < 0)
        return 0;
    for (size_t i = 0; i < count; i++) {
        _cleanup_(mem_free_p) char *child = mem_printf("%s/%s", path, names[i]);
        sum += tree_bytes(child);
    }
    dir_list_free(names, count);
    return sum;
}

static char *file_time(const char *dir) {
    _cleanup_(mem_free_p) char *path = mem_printf("%s/manifest.json", dir);
    struct stat st;
    struct tm utc;
    char text[32];
    if (stat(path, &st) < 0 ||
        !strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&st.st_mtime, &utc)))
        return NULL;
    return mem_strdup(text);
}

/* --- partitionings --- */

static const struct catalog_partition *
partition_row(const struct shelf *shelf, const struct shelf_entry *entry, const char *partition) {
    for (size_t i = 0; i < shelf->catalog.partition_count; i++) {
        const struct catalog_partition *row = &shelf->catalog.partitions[i];
        if (!strcmp(row->name, entry->name) && !strcmp(row->version, entry->version) &&
            !strcmp(row->partition, partition))
            return row;
    }
    return NULL;
}

static void partition_read(const struct shelf *shelf, const struct shelf_entry *entry,
                           struct shelf_partition *p) {
    _cleanup_(json_decref_p) json_t *manifest = NULL;
    struct partition_info info;
    struct error err = {0};
    const char *method = NULL;
    p->bytes = tree_bytes(p->dir);
    int r = partition_info_read(p->dir, false, &info, &err);
    if (r == 0)
        r = manifest_read(p->dir, MANIFEST_ALONE, &manifest, &err);
    if (r < 0) {
        p->state = SHELF_DAMAGED;
        p->fault = mem_strdup(error_text(&err));
        return;
    }
    method = json_string_value(json_object_get(manifest, "method"));
    const struct catalog_partition *row = partition_row(shelf, entry, p->name);
    bool same = row && entry->digest && !strcmp(row->digest, entry->digest) &&
                row->seed == info.seed && row->edge_cut == info.edge_cut;
    p->parts = info.parts;
    p->halo = info.halo;
    p->seed = info.seed;
    p->edge_cut = info.edge_cut;
    p->method = mem_strdup(method ? method : "metis");
    p->created = same ? mem_strdup(row->created) : file_time(p->dir);
    for (uint32_t k = 0; k < info.parts; k++) {
        const struct part_info *part = &info.part[k];
        p->owned_max = part->owned > p->owned_max ? part->owned : p->owned_max;
        p->train_max = part->train > p->train_max ? part->train : p->train_max;
        p->train += part->train;
        for (uint32_t h = 0; h < info.halo; h++)
            p->halo_nodes += part->halo[h];
    }
    partition_info_done(&info);
}

static struct shelf_partition *partition_add(struct shelf_entry *entry, const char *name) {
    size_t bytes = entry->partition_count * sizeof *entry->partitions;
    entry->partitions = mem_resize(entry->partitions, bytes, bytes + sizeof *entry->partitions);
    struct shelf_partition *p = &entry->partitions[entry->partition_count++];
    p->name = mem_strdup(name);
    p->dir = mem_printf("%s/partitions/%s", entry->dir, name);
    return p;
}

/* Others are being written, or were when a process died. */
static bool is_partition(const char *name) {
    return strncmp(name, ".", 1) != 0 && !strstr(name, ".tmp-") && !strstr(name, REMOVED);
}

static void partitions_read(const struct shelf *shelf, struct shelf_entry *entry) {
    _cleanup_(mem_free_p) char *all = mem_printf("%s/partitions", entry->dir);
    char **names = NULL;
    size_t count = 0;
    if (dir_list(all, &names, &count, NULL) == 0) {
        for (size_t i = 0; i < count; i++)
            if (is_partition(names[i]))
                partition_read(shelf, entry, partition_add(entry, names[i]));
        dir_list_free(names, count);
    }
    size_t here = entry->partition_count;
    for (size_t i = 0; i < shelf->catalog.partition_count; i++) {
        const struct catalog_partition *row = &shelf->catalog.partitions[i];
        if (strcmp(row->name, entry->name) != 0 || strcmp(row->version, entry->version) != 0)
            continue;
        size_t k = 0;
        while (k < here && strcmp(entry->partitions[k].name, row->partition) != 0)
            k++;
        if (k < here)
            continue;
        struct shelf_partition *p = partition_add(entry, row->partition);
        p->state = SHELF_MISSING;
        p->parts = row->parts;
        p->halo = row->halo;
        p->seed = row->seed;
        p->edge_cut = row->edge_cut;
        p->method = mem_strdup(row->method);
        p->created = mem_strdup(row->created);
    }
}

/* --- snapshots --- */

static int manifest_facts(struct shelf_entry *entry, const json_t *manifest, struct error *reterr) {
    const struct {
        const char *key;
        uint64_t *value;
    } counts[] = {{"nodes", &entry->nodes},
                  {"edges", &entry->edges},
                  {"feature_dim", &entry->feature_dim},
                  {"classes", &entry->classes},
                  {"valid_edges", &entry->valid_edges},
                  {"test_edges", &entry->test_edges}};
    const size_t needed = ARRAY_LEN(counts) - 2; /* the last are there if edges are set aside */
    const char *name, *version, *digest;
    int r = 0;
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(counts); i++)
        if (i < needed || json_object_get(manifest, counts[i].key))
            r = manifest_uint(manifest, entry->dir, counts[i].key, INT64_MAX, counts[i].value,
                              reterr);
    if (r == 0)
        r = manifest_text(manifest, entry->dir, "name", &name, reterr);
    if (r == 0)
        r = manifest_text(manifest, entry->dir, "version", &version, reterr);
    if (r == 0)
        r = manifest_text(manifest, entry->dir, "digest", &digest, reterr);
    if (r < 0)
        return r;
    if (strcmp(name, entry->name) != 0 || strcmp(version, entry->version) != 0)
        return error_set(reterr, ERR_FORMAT,
                         "%s/manifest.json: is of %s@%s, in a directory of another name",
                         entry->dir, name, version);
    entry->digest = mem_strdup(digest);
    entry->created = text_or_null(json_string_value(json_object_get(manifest, "created")));
    return 0;
}

static const struct catalog_snapshot *snapshot_row(const struct shelf *shelf,
                                                   const struct shelf_entry *entry) {
    for (size_t i = 0; i < shelf->catalog.snapshot_count; i++) {
        const struct catalog_snapshot *row = &shelf->catalog.snapshots[i];
        if (!strcmp(row->name, entry->name) && !strcmp(row->version, entry->version))
            return row;
    }
    return NULL;
}

static void entry_read(const struct shelf *shelf, struct shelf_entry *entry) {
    _cleanup_(json_decref_p) json_t *manifest = NULL;
    struct error err = {0};
    const struct catalog_snapshot *row = snapshot_row(shelf, entry);
    if (row)
        entry->catalog_digest = mem_strdup(row->digest);
    if (entry->state == SHELF_MISSING) {
        entry->digest = mem_strdup(row->digest);
        entry->created = mem_strdup(row->created);
        entry->nodes = row->nodes;
        entry->edges = row->edges;
    } else {
        int r = manifest_read(entry->dir, MANIFEST_ALONE, &manifest, &err);
        if (r == 0)
            r = manifest_facts(entry, manifest, &err);
        if (r < 0) {
            entry->state = SHELF_DAMAGED;
            entry->fault = mem_strdup(error_text(&err));
        }
        entry->bytes = tree_bytes(entry->dir);
        entry->in_use = claim_held(entry->dir);
    }
    /* Another's row says nothing of one that was put in its place by hand. */
    if (row && entry->digest && !strcmp(row->digest, entry->digest)) {
        entry->parent = text_or_null(row->parent);
        entry->parent_digest = text_or_null(row->parent_digest);
    }
    partitions_read(shelf, entry);
}

static void entry_add(struct shelf *shelf, const char *name, size_t name_len, const char *version,
                      enum shelf_state state) {
    size_t bytes = shelf->count * sizeof *shelf->entries;
    shelf->entries = mem_resize(shelf->entries, bytes, bytes + sizeof *shelf->entries);
    shelf->entries[shelf->count++] = (struct shelf_entry){
        .name = mem_printf("%.*s", (int)name_len, name),
        .version = mem_strdup(version),
        .label = mem_printf("%.*s@%s", (int)name_len, name, version),
        .dir = mem_printf("%s/snapshots/%.*s@%s", shelf->root, (int)name_len, name, version),
        .state = state,
    };
}

/* An import is writing it, is replacing it, or died at that: a pre-release's version would take the
 * endings for its own. */
static bool is_unfinished(const char *name) {
    const char *old = strstr(name, ".old-");
    return strstr(name, ".new.tmp-") || (old && strspn(old + 5, "0123456789") == strlen(old + 5));
}

static void leftover_add(struct shelf *shelf, char *path) {
    size_t bytes = shelf->leftover_count * sizeof *shelf->leftovers;
    shelf->leftovers = mem_resize(shelf->leftovers, bytes, bytes + sizeof *shelf->leftovers);
    shelf->leftovers[shelf->leftover_count++] = path;
}

/* What removals of partitionings left. */
static void partition_leftovers(struct shelf *shelf, const char *dir) {
    _cleanup_(mem_free_p) char *all = mem_printf("%s/partitions", dir);
    char **names = NULL;
    size_t count = 0;
    if (dir_list(all, &names, &count, NULL) < 0)
        return;
    for (size_t i = 0; i < count; i++)
        if (strstr(names[i], REMOVED))
            leftover_add(shelf, mem_printf("%s/%s", all, names[i]));
    dir_list_free(names, count);
}

static int entries_list(struct shelf *shelf, struct error *reterr) {
    _cleanup_(mem_free_p) char *snapshots = mem_printf("%s/snapshots", shelf->root);
    char **names = NULL;
    size_t count = 0;
    if (file_exists(snapshots)) {
        int r = dir_list(snapshots, &names, &count, reterr);
        if (r < 0)
            return r;
    }
    for (size_t i = 0; i < count; i++) {
        const char *at = strrchr(names[i], '@');
        if (strstr(names[i], REMOVED)) {
            leftover_add(shelf, mem_printf("%s/%s", snapshots, names[i]));
        } else if (at && version_valid(at + 1) && !is_unfinished(names[i])) {
            entry_add(shelf, names[i], (size_t)(at - names[i]), at + 1, SHELF_HERE);
            partition_leftovers(shelf, shelf->entries[shelf->count - 1].dir);
        }
    }
    dir_list_free(names, count);
    size_t here = shelf->count;
    for (size_t i = 0; i < shelf->catalog.snapshot_count; i++) {
        const struct catalog_snapshot *row = &shelf->catalog.snapshots[i];
        size_t k = 0;
        while (k < here && (strcmp(shelf->entries[k].name, row->name) != 0 ||
                            strcmp(shelf->entries[k].version, row->version) != 0))
            k++;
        if (k == here)
            entry_add(shelf, row->name, strlen(row->name), row->version, SHELF_MISSING);
    }
    return 0;
}

static int entry_compare(const void *a, const void *b) {
    const struct shelf_entry *left = a, *right = b;
    int r = strcmp(left->name, right->name);
    if (r)
        return r;
    /* A catalog that was written by hand may hold anything. */
    if (!version_valid(left->version) || !version_valid(right->version))
        return strcmp(left->version, right->version);
    return version_compare(left->version, right->version);
}

int shelf_read(const char *root, struct shelf *ret, struct error *reterr) {
    *ret = (struct shelf){.root = mem_strdup(root)};
    if (catalog_read(root, &ret->catalog, &ret->catalog_fault) < 0)
        error_prefix(&ret->catalog_fault, "the catalog cannot be read");
    int r = entries_list(ret, reterr);
    if (r < 0) {
        shelf_done(ret);
        return r;
    }
    if (ret->count)
        qsort(ret->entries, ret->count, sizeof *ret->entries, entry_compare);
    for (size_t i = 0; i < ret->count; i++)
        entry_read(ret, &ret->entries[i]);
    return 0;
}

void shelf_done(struct shelf *shelf) {
    for (size_t i = 0; i < shelf->count; i++) {
        struct shelf_entry *entry = &shelf->entries[i];
        char *texts[] = {entry->name,          entry->version,       entry->label,   entry->dir,
                         entry->fault,         entry->digest,        entry->created, entry->parent,
                         entry->parent_digest, entry->catalog_digest};
        for (size_t k = 0; k < ARRAY_LEN(texts); k++)
            mem_free(texts[k]);
        for (size_t k = 0; k < entry->partition_count; k++) {
            struct shelf_partition *p = &entry->partitions[k];
            char *mine[] = {p->name, p->dir, p->fault, p->method, p->created};
            for (size_t j = 0; j < ARRAY_LEN(mine); j++)
                mem_free(mine[j]);
        }
        mem_free(entry->partitions);
    }
    for (size_t i = 0; i < shelf->leftover_count; i++)
        mem_free(shelf->leftovers[i]);
    mem_free(shelf->leftovers);
    mem_free(shelf->entries);
    mem_free(shelf->root);
    catalog_done(&shelf->catalog);
    *shelf = (struct shelf){0};
}

int shelf_find(const struct shelf *shelf, const char *name, bool newest,
               const struct shelf_entry **ret, struct error *reterr) {
    char list[400] = "";
    size_t len = 0, versions = 0;
    const struct shelf_entry *found = NULL;
    for (size_t i = 0; i < shelf->count; i++) {
        const struct shelf_entry *entry = &shelf->entries[i];
        if (!strcmp(entry->label, name)) {
            *ret = entry;
            return 0;
        }
        if (!strcmp(entry->name, name)) {
            versions++;
            if (!found || entry->state != SHELF_MISSING)
                found = entry;
        }
    }
    if (versions == 1 || (newest && found)) {
        *ret = found;
        return 0;
    }
    for (size_t i = 0; i < shelf->count && len < sizeof list - 130; i++)
        if (!versions || !strcmp(shelf->entries[i].name, name))
            len += (size_t)snprintf(list + len, sizeof list - len, "%s%.120s", len ? ", " : "",
                                    shelf->entries[i].label);
    if (versions)
        return error_set(reterr, ERR_USAGE, "%s has %zu versions, name one of them: %s%s", name,
                         versions, list, len < sizeof list - 130 ? "" : ", ...");
    if (!shelf->count)
        return error_set(reterr, ERR_NOT_FOUND, "no snapshot \"%s\": there is none in %s/snapshots",
                         name, shelf->root);
    return error_set(reterr, ERR_NOT_FOUND, "no snapshot \"%s\" in %s/snapshots; there is: %s%s",
                     name, shelf->root, list, len < sizeof list - 130 ? "" : ", ...");
}

bool shelf_used(const struct shelf_entry *entry, const char *snapshot, const char *digest) {
    if (!snapshot || strcmp(snapshot, entry->label) != 0)
        return false;
    return !digest || !entry->digest || !strcmp(digest, entry->digest);
}

const char *shelf_run_state(const struct shelf_entry *entry, const struct catalog_run *run) {
    return strcmp(run->state, "running") != 0 || entry->in_use ? run->state : "died";
}
