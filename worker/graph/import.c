/* Import: checks the wish, lets the format's reader fill a directory beside the final one, writes
 * the manifest and moves it into place. */
#include "worker/graph/import.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/file.h"
#include "common/mem.h"
#include "worker/graph/build.h"
#include "worker/graph/catalog.h"
#include "worker/graph/manifest.h"
#include "worker/graph/version.h"

static void json_decref_p(json_t **json) {
    json_decref(*json);
}

static int check_options(const struct import_options *options, struct error *reterr) {
    if (!version_name_valid(options->name))
        return error_set(reterr, ERR_USAGE,
                         "name \"%.80s\": a name is 1 to 64 letters, digits, . _ or -, beginning "
                         "with a letter or digit",
                         options->name);
    if (!version_valid(options->version))
        return error_set(reterr, ERR_USAGE,
                         "version \"%.80s\": a version is MAJOR.MINOR.PATCH, such as 1.0.0 (see "
                         "semver.org)",
                         options->version);
    if (options->split && options->format != IMPORT_OGB)
        return error_set(reterr, ERR_USAGE,
                         "only the ogb format has several splits to choose from");
    if (!file_exists(options->source))
        return error_set(reterr, ERR_NOT_FOUND, "%s: there is no such directory", options->source);
    return 0;
}

static int write_column(const char *dir, const char *name, enum npy_type type, uint64_t count,
                        const void *items, struct error *reterr) {
    _cleanup_(mem_free_p) char *path = mem_printf("%s/%s.npy", dir, name);
    return npy_write(path, type, count, 0, items, reterr);
}

static int write_arrays(const struct build *build, struct error *reterr) {
    const struct idmap *ids = build->ids && !idmap_trivial(build->ids) ? build->ids : NULL;
    const struct {
        const char *name;
        enum npy_type type;
        uint64_t count;
        const void *items;
    } columns[] = {
        {"indptr", NPY_I8, build->nodes + 1, build->indptr},
        {"indices", NPY_I4, build->summary->edges, build->indices},
        {"labels", NPY_I4, build->nodes, build->labels},
        {"split", NPY_U1, build->nodes, build->split},
        {"id_offsets", NPY_I8, build->nodes + 1, ids ? ids->offsets : NULL},
        {"id_bytes", NPY_U1, ids ? (uint64_t)ids->offsets[ids->count] : 0, ids ? ids->bytes : NULL},
    };
    int r = 0;
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(columns); i++)
        if (columns[i].items)
            r = write_column(build->tmp, columns[i].name, columns[i].type, columns[i].count,
                             columns[i].items, reterr);
    return r;
}

static void summarize(struct build *build) {
    struct import_summary *summary = build->summary;
    uint64_t counts[4] = {0};
    for (uint64_t i = 0; i < build->nodes; i++) {
        if (build->labels[i] < 0) {
            build->labels[i] = -1; /* also those that no row named */
            summary->unlabelled++;
        } else {
            counts[build->split[i]]++;
        }
    }
    summary->nodes = build->nodes;
    summary->feature_dim = build->feature_dim;
    summary->classes = build->classes;
    summary->train = counts[SPLIT_TRAIN];
    summary->valid = counts[SPLIT_VALID];
    summary->test = counts[SPLIT_TEST];
}

static int write_manifest(const struct build *build, char **ret_digest, struct error *reterr) {
    const struct import_summary *summary = build->summary;
    char created[32];
    time_t now = time(NULL);
    struct tm utc;
    strftime(created, sizeof created, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    _cleanup_(json_decref_p) json_t *manifest = json_pack(
        "{s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:b}", "name", build->options->name, "version",
        build->options->version, "created", created, "nodes", (json_int_t)summary->nodes, "edges",
        (json_int_t)summary->edges, "feature_dim", (json_int_t)summary->feature_dim, "classes",
        (json_int_t)summary->classes, "undirected", (int)summary->symmetric);
    if (build->class_names) {
        char shown[400];
        json_t *names = json_array();
        json_object_set_new(manifest, "class_names", names);
        for (uint32_t i = 0; i < build->classes; i++)
            if (json_array_append_new(names, json_string(build->class_names[i])) < 0)
                return error_set(reterr, ERR_FORMAT, "the label \"%.80s\" is not UTF-8 text",
                                 csv_printable(build->class_names[i], shown, sizeof shown));
    }
    int r = manifest_write(build->tmp, manifest, reterr);
    if (r == 0)
        *ret_digest = mem_strdup(json_string_value(json_object_get(manifest, "digest")));
    return r;
}

static int read_graph(struct build *build, struct error *reterr) {
    switch (build->options->format) {
    case IMPORT_OGB:
        return import_ogb(build, reterr);
    case IMPORT_CSV:
        return import_csv(build, reterr);
    case IMPORT_NPY:
        return import_npy(build, reterr);
    }
    return error_set(reterr, ERR_INTERNAL, "no such format");
}

static int fill(struct build *build, char **ret_digest, struct error *reterr) {
    int r = read_graph(build, reterr);
    if (r < 0)
        return r;
    if (build->classes == 0)
        return error_set(reterr, ERR_FORMAT, "%s: no node has a label", build->options->source);
    summarize(build);
    r = write_arrays(build, reterr);
    return r ? r : write_manifest(build, ret_digest, reterr);
}

/* Into place; one that is there already steps aside first and is removed last. */
static int commit(const char *tmp, const char *dir, struct error *reterr) {
    if (!file_exists(dir))
        return dir_commit(tmp, dir, reterr);
    _cleanup_(mem_free_p) char *old = mem_printf("%s.old-%d", dir, (int)getpid());
    if (rename(dir, old) < 0) {
        int r = error_set(reterr, ERR_IO, "%s: cannot be moved aside: %m", dir);
        (void)dir_remove(tmp, NULL);
        return r;
    }
    int r = dir_commit(tmp, dir, reterr);
    if (r == 0)
        return dir_remove(old, reterr);
    if (rename(old, dir) < 0)
        return error_set(reterr, ERR_IO, "%s: cannot be moved back from %s: %m", dir, old);
    return r;
}

int import_run(const struct import_options *options, import_progress *progress, void *ctx,
               struct import_summary *ret, struct error *reterr) {
    int r = check_options(options, reterr);
    if (r < 0)
        return r;
    struct import_summary summary = {0};
    _cleanup_(mem_free_p) char *snapshots = mem_printf("%s/snapshots", options->root);
    _cleanup_(mem_free_p) char *dir =
        mem_printf("%s/%s@%s", snapshots, options->name, options->version);
    if (strlen(dir) >= sizeof summary.dir)
        return error_set(reterr, ERR_USAGE, "%s: the path is too long", options->root);
    if (file_exists(dir) && !options->overwrite)
        return error_set(reterr, ERR_EXISTS,
                         "%s: exists already; give another --version, or --overwrite", dir);
    _cleanup_(mem_free_p) char *beside = mem_printf("%s.new", dir);
    _cleanup_(mem_free_p) char *tmp = NULL;
    r = dir_make(snapshots, reterr);
    if (r == 0)
        r = dir_create(beside, &tmp, reterr);
    if (r < 0)
        return r;
    strcpy(summary.dir, dir);
    struct build build = {.options = options,
                          .progress = progress,
                          .progress_ctx = ctx,
                          .tmp = tmp,
                          .summary = &summary};
    _cleanup_(mem_free_p) char *digest = NULL;
    r = fill(&build, &digest, reterr);
    build_done(&build);
    if (r < 0) {
        (void)dir_remove(tmp, NULL); /* the first error is the one to tell */
        return r;
    }
    r = commit(tmp, dir, reterr);
    if (r < 0)
        return r;
    r = catalog_add_snapshot(options->root, options->name, options->version, digest, summary.nodes,
                             summary.edges, dir, reterr);
    if (r < 0)
        return error_prefix(reterr, "the snapshot is complete, but not in the catalog");
    *ret = summary;
    return 0;
}
