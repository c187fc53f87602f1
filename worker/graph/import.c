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
#include "worker/graph/claim.h"
#include "worker/graph/manifest.h"
#include "worker/graph/text.h"
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
    if (options->split && options->format != IMPORT_OGB && options->format != IMPORT_AUTO)
        return error_set(reterr, ERR_USAGE,
                         "only the ogb format has several splits to choose from");
    if (!options->source && !options->edges)
        return error_set(reterr, ERR_USAGE, "name a directory, a file of edges, or --edges");
    if (options->source && !file_exists(options->source))
        return error_set(reterr, ERR_NOT_FOUND, "%s: there is no such file or directory",
                         options->source);
    double sum = 0;
    for (size_t i = 0; i < ARRAY_LEN(options->ratio); i++) {
        if (!(options->ratio[i] >= 0))
            return error_set(reterr, ERR_USAGE, "--split-ratio: shares are 0 or more");
        sum += options->ratio[i];
    }
    if (sum > 1 + 1e-9 || (sum > 0 && options->ratio[0] == 0))
        return error_set(reterr, ERR_USAGE,
                         "--split-ratio: shares of train, valid and test are at most 1 together, "
                         "and that of train is more than 0");
    if (!(options->hold_out[0] >= 0) || !(options->hold_out[1] >= 0) ||
        options->hold_out[0] + options->hold_out[1] >= 1)
        return error_set(reterr, ERR_USAGE,
                         "--hold-out: shares are 0 or more, and less than 1 together");
    return 0;
}

static int write_column(const char *dir, const char *name, enum npy_type type, uint64_t rows,
                        uint64_t cols, const void *items, struct error *reterr) {
    _cleanup_(mem_free_p) char *path = mem_printf("%s/%s.npy", dir, name);
    return npy_write(path, type, rows, cols, items, reterr);
}

static int write_ids(const struct build *build, struct error *reterr) {
    struct ids *ids = build->ids;
    build->summary->ids = "0 to n-1";
    if (!ids || ids_trivial(ids))
        return 0;
    if (ids_integers(ids)) {
        build->summary->ids = "integers";
        return write_column(build->tmp, "ids", NPY_I8, build->nodes, 0, ids_values(ids), reterr);
    }
    _cleanup_(mem_free_p) int64_t *offsets = NULL;
    _cleanup_(mem_free_p) uint8_t *bytes = NULL;
    build->summary->ids = "texts";
    ids_texts(ids, &offsets, &bytes);
    int r = write_column(build->tmp, "id_offsets", NPY_I8, build->nodes + 1, 0, offsets, reterr);
    return r < 0 ? r
                 : write_column(build->tmp, "id_bytes", NPY_U1, (uint64_t)offsets[build->nodes], 0,
                                bytes, reterr);
}

/* [nodes, classes] of 0 and 1, row by row. */
static int write_multi_labels(const struct build *build, struct error *reterr) {
    uint64_t cells = build->nodes * build->classes;
    _cleanup_(mem_free_p) uint8_t *matrix = mem_alloc(cells + 1);
    for (uint64_t i = 0; i < build->label_pair_count; i++)
        matrix[(uint64_t)build->label_pairs[2 * i] * build->classes +
               (uint64_t)build->label_pairs[2 * i + 1]] = 1;
    return write_column(build->tmp, "multi_labels", NPY_U1, build->nodes, build->classes, matrix,
                        reterr);
}

static int write_arrays(struct build *build, struct error *reterr) {
    const struct import_summary *summary = build->summary;
    uint64_t aside_cols = build->type_ids ? 3 : 2;
    const struct {
        const char *name;
        enum npy_type type;
        uint64_t rows, cols;
        const void *items;
    } columns[] = {
        {"indptr", NPY_I8, build->nodes + 1, 0, build->csr.indptr},
        {"indices", NPY_I4, summary->edges, 0, build->csr.indices},
        {"labels", NPY_I4, build->nodes, 0, build->labels},
        {"split", NPY_U1, build->nodes, 0, build->split},
        {"node_types", NPY_U1, build->nodes, 0, build->node_types},
        {"edge_types", NPY_I4, summary->edges, 0, build->csr.types},
        {"edge_weights", NPY_F4, summary->edges, 0, build->csr.weights},
        {"valid_edges", NPY_I4, summary->valid_edges, aside_cols, build->valid_edges.items},
        {"test_edges", NPY_I4, summary->test_edges, aside_cols, build->test_edges.items},
    };
    int r = 0;
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(columns); i++) {
        r = build_progress(build, "writing", 0, 0, reterr);
        if (r == 0 && columns[i].items)
            r = write_column(build->tmp, columns[i].name, columns[i].type, columns[i].rows,
                             columns[i].cols, columns[i].items, reterr);
    }
    if (r == 0 && summary->multi_label)
        r = write_multi_labels(build, reterr);
    return r < 0 ? r : write_ids(build, reterr);
}

/* How many nodes of each type, for people. */
static void summarize_types(const struct build *build) {
    uint64_t counts[256] = {0};
    char *text = build->summary->types;
    size_t len = 0, bytes = sizeof build->summary->types;
    for (uint64_t i = 0; build->node_types && i < build->nodes; i++)
        counts[build->node_types[i]]++;
    for (uint32_t t = 0; t < build->node_type_count; t++) {
        char name[64];
        if (len > bytes - 100) {
            snprintf(text + len, bytes - len, ", ...");
            return;
        }
        len += (size_t)snprintf(text + len, bytes - len, "%s%llu %s", len ? ", " : "",
                                (unsigned long long)counts[t],
                                text_printable(build->node_type_names[t], name, sizeof name));
    }
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
    summary->half = build->feature_dim && build->options->half;
    summary->node_types = build->node_type_count;
    summarize_types(build);
    summary->edge_types = build->type_ids ? (uint32_t)ids_count(build->type_ids) : 0;
}

/* A list of names for the manifest. */
static int put_names(json_t *manifest, const char *key, char *const *names, uint32_t count,
                     struct error *reterr) {
    if (!names || count == 0)
        return 0;
    char shown[400];
    json_t *list = json_array();
    json_object_set_new(manifest, key, list);
    for (uint32_t i = 0; i < count; i++)
        if (json_array_append_new(list, json_string(names[i])) < 0)
            return error_set(reterr, ERR_FORMAT, "\"%.80s\", one of \"%s\", is not UTF-8 text",
                             text_printable(names[i], shown, sizeof shown), key);
    return 0;
}

static int put_edge_types(json_t *manifest, const struct build *build, struct error *reterr) {
    uint32_t count = build->summary->edge_types;
    char **names = mem_array(count + 1, sizeof *names), text[1024];
    for (uint32_t i = 0; i < count; i++)
        names[i] = mem_strdup(ids_text(build->type_ids, i, text, sizeof text));
    int r = put_names(manifest, "edge_types", names, count, reterr);
    for (uint32_t i = 0; i < count; i++)
        mem_free(names[i]);
    mem_free(names);
    return r;
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
    int r = put_names(manifest, "class_names", build->class_names, build->classes, reterr);
    if (r == 0)
        r = put_names(manifest, "node_types", build->node_type_names, build->node_type_count,
                      reterr);
    if (r == 0 && summary->edge_types)
        r = put_edge_types(manifest, build, reterr);
    if (r == 0)
        r = manifest_write(build->tmp, manifest, reterr);
    if (r == 0)
        *ret_digest = mem_strdup(json_string_value(json_object_get(manifest, "digest")));
    return r;
}

static bool is_ogb(const char *source) {
    _cleanup_(mem_free_p) char *raw = mem_printf("%s/raw", source ? source : "");
    _cleanup_(mem_free_p) char *below = mem_printf("%s/ogb/raw", source ? source : "");
    return source && (file_exists(raw) || file_exists(below));
}

static int fill(struct build *build, char **ret_digest, struct error *reterr) {
    const struct import_options *options = build->options;
    bool ogb = options->format == IMPORT_OGB ||
               (options->format == IMPORT_AUTO && !options->edges && is_ogb(options->source));
    if (!ogb && options->split)
        return error_set(reterr, ERR_USAGE,
                         "only the ogb format has several splits to choose from");
    int r = ogb ? import_ogb(build, reterr) : import_files(build, reterr);
    if (r < 0)
        return r;
    summarize(build);
    const char *where = options->source ? options->source : options->edges;
    if (options->half && build->feature_dim == 0)
        build_remark(build, where, "--fp16 has changed nothing: there are no features");
    if (options->multi_label && !build->summary->multi_label)
        build_remark(build, where,
                     "--multi-label has changed nothing: there are no labels in a text");
    r = write_arrays(build, reterr);
    if (r == 0)
        r = build_progress(build, "checksums", 0, 0, reterr);
    if (r == 0)
        r = write_manifest(build, ret_digest, reterr);
    return r ? r : build_progress(build, "moving into place", 0, 0, reterr);
}

/* Into place; with overwrite one that is there already changes places with it, or, where that
 * cannot be, steps aside first and is removed last. One that was made since the beginning stays. */
static int replace(const char *tmp, const char *dir, struct error *reterr) {
    struct error err = {0};
    int exchanged = dir_exchange(tmp, dir, &err);
    if (exchanged == 0)
        return dir_remove(tmp, reterr);
    if (exchanged != ERR_USAGE) {
        (void)dir_remove(tmp, NULL);
        return error_set(reterr, exchanged, "%s", err.text);
    }
    _cleanup_(mem_free_p) char *old = mem_printf("%s@old.tmp-%d", dir, (int)getpid());
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

static int in_use(const char *dir, struct error *reterr) {
    return error_set(reterr, ERR_IN_USE,
                     "%s: a running process uses it; try again when it has ended, or give another "
                     "--version",
                     dir);
}

static int commit(const char *tmp, const char *dir, bool overwrite, struct error *reterr) {
    if (!overwrite || !file_exists(dir)) {
        int r = dir_commit(tmp, dir, reterr);
        return r == ERR_EXISTS ? error_set(reterr, r,
                                           "%s: another process has made it meanwhile; give "
                                           "another --version, or --overwrite",
                                           dir)
                               : r;
    }
    int claim = -1;
    int r = claim_take_alone(dir, &claim, reterr);
    if (r == 0) {
        r = replace(tmp, dir, reterr);
    } else {
        (void)dir_remove(tmp, NULL);
        if (r == ERR_IN_USE)
            r = in_use(dir, reterr);
    }
    if (claim >= 0)
        close(claim);
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
    if (claim_held(dir)) /* asked again at the end, but nobody shall wait until then for a no */
        return in_use(dir, reterr);
    /* What follows a second @ is no version, so that this is taken for no snapshot. */
    _cleanup_(mem_free_p) char *beside = mem_printf("%s@new", dir),
                               *old = mem_printf("%s@old", dir);
    _cleanup_(mem_free_p) char *tmp = NULL;
    r = dir_make(snapshots, reterr);
    if (r < 0)
        return r;
    dir_sweep(beside);
    if (file_exists(dir))
        dir_sweep(old);
    r = dir_create(beside, &tmp, reterr);
    if (r < 0)
        return r;
    int hold = dir_hold(tmp);
    strcpy(summary.dir, dir);
    summary.rejects.allowed = options->skip_bad;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    struct build build = {.options = options,
                          .progress = progress,
                          .progress_ctx = ctx,
                          .tmp = tmp,
                          .summary = &summary,
                          .threads = cores > 1 ? (uint32_t)cores : 1,
                          .open = true,
                          .undirected = options->undirected,
                          .progress_was = UINT64_MAX};
    _cleanup_(mem_free_p) char *digest = NULL;
    r = fill(&build, &digest, reterr);
    build_done(&build);
    if (r < 0)
        (void)dir_remove(tmp, NULL); /* the first error is the one to tell */
    else
        r = commit(tmp, dir, options->overwrite, reterr);
    if (hold >= 0)
        close(hold);
    if (r < 0)
        return r;
    r = catalog_add_snapshot(options->root, options->name, options->version, digest, summary.nodes,
                             summary.edges, dir, reterr);
    if (r < 0)
        return error_prefix(reterr, "the snapshot is complete, but not in the catalog");
    *ret = summary;
    return 0;
}
