/* The user's own files: edges, and what else there is of nodes, features, labels and splits, each a
 * text or an array, found under its usual name in a directory or named by an option. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/file.h"
#include "common/mem.h"
#include "worker/graph/parts.h"

enum { TEXTS = 1, ARRAYS = 2, MATRICES = 4 };

/* Paths, to be mem_freed; NULL: there is none. */
struct files {
    char *edges, *valid_edges, *test_edges, *nodes, *features, *labels, *targets;
    char *splits[4], *split; /* splits[SPLIT_TRAIN] .. */
};

static void files_done(struct files *files) {
    mem_free(files->edges);
    mem_free(files->valid_edges);
    mem_free(files->test_edges);
    mem_free(files->nodes);
    mem_free(files->features);
    mem_free(files->labels);
    mem_free(files->targets);
    for (size_t i = 0; i < ARRAY_LEN(files->splits); i++)
        mem_free(files->splits[i]);
    mem_free(files->split);
}

static bool ends_with(const char *path, const char *end) {
    size_t len = strlen(path), end_len = strlen(end);
    return len > end_len && !strcmp(path + len - end_len, end);
}

static bool is_array(const char *path) {
    return ends_with(path, ".npy") || ends_with(path, ".npz");
}

static bool is_matrix(const char *path) {
    return ends_with(path, ".mtx") || ends_with(path, ".mtx.gz");
}

/* The one file of that name (several stems mean the same), of the kinds wanted. */
static int find(const char *dir, const char *const *stems, unsigned kinds, char **ret,
                struct error *reterr) {
    static const struct {
        const char *end;
        unsigned kind;
    } ends[] = {{".csv", TEXTS},    {".csv.gz", TEXTS},   {".tsv", TEXTS},  {".tsv.gz", TEXTS},
                {".txt", TEXTS},    {".txt.gz", TEXTS},   {".npy", ARRAYS}, {".npz", ARRAYS},
                {".mtx", MATRICES}, {".mtx.gz", MATRICES}};
    for (; *stems; stems++)
        for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
            if (!(ends[i].kind & kinds))
                continue;
            _cleanup_(mem_free_p) char *path = mem_printf("%s/%s%s", dir, *stems, ends[i].end);
            if (!file_exists(path))
                continue;
            if (*ret)
                return error_set(reterr, ERR_USAGE,
                                 "both %s and %s are there; remove one, or name the one that is "
                                 "meant by its option",
                                 *ret, path);
            *ret = TAKE_PTR(path);
        }
    return 0;
}

static int wanted(const char *option, const char *path, char **ret, struct error *reterr) {
    if (!path)
        return 0;
    mem_free(*ret);
    *ret = NULL;
    if (!file_exists(path))
        return error_set(reterr, ERR_NOT_FOUND, "%s: there is no such file, which --%s names", path,
                         option);
    *ret = mem_strdup(path);
    return 0;
}

static unsigned kinds_of(enum import_format format) {
    switch (format) {
    case IMPORT_CSV:
        return TEXTS;
    case IMPORT_NPY:
        return ARRAYS;
    case IMPORT_MTX:
        return TEXTS | MATRICES;
    default:
        return TEXTS | ARRAYS | MATRICES;
    }
}

static unsigned kind_of(const char *path) {
    return is_array(path) ? ARRAYS : is_matrix(path) ? MATRICES : TEXTS;
}

static int find_in_directory(const struct import_options *options, struct files *files,
                             struct error *reterr) {
    const char *dir = options->source;
    const struct {
        const char *const stems[4];
        const char *instead; /* the option's file, which makes looking needless */
        char **to;
    } parts[] = {
        {{"edges", "edge_index", "edge_list"}, options->edges, &files->edges},
        {{"valid_edges", "val_edges"}, options->valid_edges, &files->valid_edges},
        {{"test_edges"}, options->test_edges, &files->test_edges},
        {{"nodes"}, options->nodes, &files->nodes},
        {{"features"}, options->features, &files->features},
        {{"labels"}, options->labels, &files->labels},
        {{"targets"}, options->targets, &files->targets},
        {{"train", "train_mask"}, options->train, &files->splits[SPLIT_TRAIN]},
        {{"valid", "val", "val_mask"}, options->valid, &files->splits[SPLIT_VALID]},
        {{"test", "test_mask"}, options->test, &files->splits[SPLIT_TEST]},
        {{"split"}, NULL, &files->split},
    };
    int r = 0;
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(parts); i++)
        if (!parts[i].instead)
            r = find(dir, parts[i].stems, kinds_of(options->format), parts[i].to, reterr);
    return r;
}

static int find_files(const struct import_options *options, struct files *files,
                      struct error *reterr) {
    int r = 0;
    struct stat status;
    bool directory =
        options->source && stat(options->source, &status) == 0 && S_ISDIR(status.st_mode);
    if (directory)
        r = find_in_directory(options, files, reterr);
    else if (options->source && options->edges)
        r = error_set(reterr, ERR_USAGE, "%s is a file of edges, and --edges names one too",
                      options->source);
    else if (options->source)
        r = wanted("edges", options->source, &files->edges, reterr);
    const struct {
        const char *option, *path;
        char **to;
    } named[] = {
        {"edges", options->edges, &files->edges},
        {"valid-edges", options->valid_edges, &files->valid_edges},
        {"test-edges", options->test_edges, &files->test_edges},
        {"nodes", options->nodes, &files->nodes},
        {"features", options->features, &files->features},
        {"labels", options->labels, &files->labels},
        {"targets", options->targets, &files->targets},
        {"train", options->train, &files->splits[SPLIT_TRAIN]},
        {"valid", options->valid, &files->splits[SPLIT_VALID]},
        {"test", options->test, &files->splits[SPLIT_TEST]},
    };
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(named); i++)
        r = wanted(named[i].option, named[i].path, named[i].to, reterr);
    if (r == 0 && files->edges && options->format != IMPORT_AUTO &&
        kind_of(files->edges) !=
            (options->format == IMPORT_MTX ? MATRICES : kinds_of(options->format)))
        r = error_set(reterr, ERR_USAGE, "%s: is no file of the kind that --format names",
                      files->edges);
    if (r == 0 && !files->edges)
        r = error_set(
            reterr, ERR_NOT_FOUND,
            "%s: there is no edges.csv (or .tsv, .txt, .npy, .npz, .mtx; texts also .gz), "
            "nor edge_index.npy; --edges names another file",
            options->source);
    if (r == 0 && files->labels && files->targets)
        r = error_set(reterr, ERR_USAGE,
                      "both %s and %s are there; nodes have labels or targets: remove one",
                      files->labels, files->targets);
    if (r == 0 && files->targets && options->multi_label)
        r = error_set(reterr, ERR_USAGE, "--multi-label is for labels, and there are targets: %s",
                      files->targets);
    for (enum split s = SPLIT_TRAIN; r == 0 && files->split && s <= SPLIT_TEST; s++)
        if (files->splits[s])
            r = error_set(reterr, ERR_USAGE, "both %s and %s are there; remove one", files->split,
                          files->splits[s]);
    return r;
}

/* Who says which nodes there are: a file of nodes, features, or labels (or targets) without ids;
 * else all that edges and labels name are. */
static int read_nodes(struct build *build, const struct files *files, struct error *reterr) {
    int r = 0;
    bool text_ids = !is_array(files->edges) && !is_matrix(files->edges);
    if (files->nodes && files->features && !is_array(files->features))
        return error_set(reterr, ERR_USAGE,
                         "both %s and %s name the nodes; with features in a text no file of nodes "
                         "is needed",
                         files->nodes, files->features);
    if (files->nodes)
        r = text_nodes(build, files->nodes, reterr);
    if (r == 0 && files->features && is_array(files->features))
        r = array_features(build, files->features, reterr);
    else if (r == 0 && files->features) {
        const struct part_rows rows = {.path = files->features, .ids = true, .count = UINT64_MAX};
        r = text_features(build, &rows, 0, 0, reterr);
    } else if (r == 0 && files->labels && is_array(files->labels) && build->open)
        return array_labels(build, files->labels, reterr);
    else if (r == 0 && files->targets && is_array(files->targets) && build->open)
        return array_targets(build, files->targets, reterr);
    if (r == 0 && build->open && text_ids)
        build->ids = ids_new();
    return r;
}

static void name_kinds(struct build *build, const struct edge_columns *columns) {
    build->node_types = mem_alloc(1);
    build->node_type_count = 2;
    build->node_type_names = mem_array(2, sizeof *build->node_type_names);
    for (size_t i = 0; i < 2; i++)
        build->node_type_names[i] = mem_strdup(columns->kinds[i]);
}

static int read_edges(struct build *build, const char *path, enum split kind,
                      struct error *reterr) {
    if (is_array(path))
        return array_edges(build, path, kind, reterr);
    if (is_matrix(path))
        return mtx_edges(build, path, kind, reterr);
    struct text_edges edges = {
        .path = path, .kind = kind, .type = -1, .count = UINT64_MAX, .why = ""};
    int r = edge_columns_find(build, path, &edges.columns, reterr);
    /* What the graph's own edges call the two kinds of nodes. */
    for (size_t i = 0; r == 0 && build->options->bipartite && i < 2; i++)
        strcpy(edges.columns.kinds[i], build->node_type_names[i]);
    if (r == 0 && !build->type_ids)
        edges.columns.type = SIZE_MAX;
    if (r == 0 && build->type_ids && edges.columns.type == SIZE_MAX)
        r = error_set(reterr, ERR_FORMAT, "%s: has no column of types, which the edges have", path);
    return r ? r : text_edges(build, &edges, reterr);
}

static int begin_edges(struct build *build, const char *path, struct error *reterr) {
    const struct import_options *options = build->options;
    bool weights = false, types = false;
    int r = 0;
    if (is_array(path)) {
        weights = array_edges_weighted(path);
    } else if (is_matrix(path)) {
        struct mtx mtx;
        r = mtx_header(path, &mtx, reterr);
        weights = r == 0 && mtx.weighted;
    } else {
        struct edge_columns columns;
        r = edge_columns_find(build, path, &columns, reterr);
        weights = r == 0 && columns.weight != SIZE_MAX;
        types = r == 0 && columns.type != SIZE_MAX;
        if (r == 0 && options->bipartite)
            name_kinds(build, &columns);
    }
    bool text = !is_array(path) && !is_matrix(path);
    if (r == 0 && !text &&
        (options->bipartite || options->from || options->to || options->weight || options->type ||
         options->header != HEADER_AUTO))
        r = error_set(reterr, ERR_USAGE,
                      "%s: --bipartite, --source, --target, --weight, --type and --header are for "
                      "edges in a text",
                      path);
    if (r == 0 && options->bipartite && (!build->open || !build->ids))
        r = error_set(
            reterr, ERR_USAGE,
            "--bipartite makes the nodes from the edges: it goes with no file of nodes or "
            "features");
    return r ? r : build_edges_begin(build, weights, types, reterr);
}

static int read_splits(struct build *build, const struct files *files, struct error *reterr) {
    const double *ratio = build->options->ratio;
    bool by_ratio = ratio[0] > 0 || ratio[1] > 0 || ratio[2] > 0;
    const char *named = files->split;
    for (enum split s = SPLIT_TRAIN; s <= SPLIT_TEST; s++)
        named = named ? named : files->splits[s];
    if (by_ratio && named)
        return error_set(reterr, ERR_USAGE, "--split-ratio, and %s too: give one of them", named);
    if (by_ratio)
        return build_split_ratio(build, reterr);
    if (files->split)
        return is_array(files->split) ? array_split_column(build, files->split, reterr)
                                      : text_split_column(build, files->split, reterr);
    int r = 0;
    for (enum split s = SPLIT_TRAIN; r == 0 && s <= SPLIT_TEST; s++)
        if (files->splits[s])
            r = is_array(files->splits[s]) ? array_split(build, files->splits[s], s, reterr)
                                           : text_split(build, files->splits[s], s, 0, 0, reterr);
    return r;
}

static int read_files(struct build *build, const struct files *files, struct error *reterr) {
    const double *share = build->options->hold_out;
    const char *aside = files->valid_edges ? files->valid_edges : files->test_edges;
    if (aside && (share[0] > 0 || share[1] > 0))
        return error_set(reterr, ERR_USAGE, "--hold-out, and %s too: give one of them", aside);
    int r = read_nodes(build, files, reterr);
    if (r == 0)
        r = begin_edges(build, files->edges, reterr);
    if (r == 0)
        r = read_edges(build, files->edges, SPLIT_TRAIN, reterr);
    if (r == 0 && build->open && !build->ids)
        build_numbers_end(build);
    if (r == 0 && files->valid_edges)
        r = read_edges(build, files->valid_edges, SPLIT_VALID, reterr);
    if (r == 0 && files->test_edges)
        r = read_edges(build, files->test_edges, SPLIT_TEST, reterr);
    bool labels_read =
        files->labels && is_array(files->labels) && build->nodes_path == files->labels;
    if (r == 0 && files->labels && !labels_read) {
        const struct part_rows rows = {.path = files->labels, .ids = true, .count = UINT64_MAX};
        r = is_array(files->labels) ? array_labels(build, files->labels, reterr)
                                    : text_labels(build, &rows, reterr);
    }
    bool targets_read =
        files->targets && is_array(files->targets) && build->nodes_path == files->targets;
    if (r == 0 && files->targets && !targets_read)
        r = is_array(files->targets) ? array_targets(build, files->targets, reterr)
                                     : text_targets(build, files->targets, reterr);
    /* A split names nodes that are there. */
    bool open = build->open;
    build->arrived = open;
    build->open = false;
    if (open)
        build->nodes_path = files->edges;
    if (r == 0)
        r = read_splits(build, files, reterr);
    build->open = open;
    return r;
}

int import_files(struct build *build, struct error *reterr) {
    struct files files = {0};
    int r = find_files(build->options, &files, reterr);
    if (r == 0)
        r = read_files(build, &files, reterr);
    if (r == 0)
        r = build_finish(build, reterr);
    build->nodes_path = NULL; /* it was one of files */
    files_done(&files);
    return r;
}
