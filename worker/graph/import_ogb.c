/* `--format ogb`: the raw layout of the Open Graph Benchmark (Hu et al., NeurIPS 2020), of one
 * graph whose nodes are all alike or, as in OGB-MAG, of several types. Files have no headers.
 *
 *   raw/num-node-list num-edge-list edge node-feat node-label edge_<x>   .csv.gz, the last three
 *   split/<scheme>/train valid test                                      where there are any
 * with types:
 *   raw/num-node-dict triplet-type-list
 *   raw/node-feat/<type>/node-feat node-label/<type>/node-label
 *   raw/relations/<type>___<relation>___<type>/edge num-edge-list
 *   split/<scheme>/<type>/train valid test
 *
 * Types come one after the other; their features in columns of their own, with zeros elsewhere. */
#include <stdio.h>
#include <string.h>

#include "common/file.h"
#include "common/mem.h"
#include "worker/graph/parts.h"
#include "worker/graph/text.h"

#define TYPES_MAX 255
#define TYPE_BYTES_MAX 255
#define RELATIONS_MAX 4096

struct type {
    char *name; /* NULL: the only one */
    uint64_t first, count;
};

struct ogb {
    char *base, *raw, *split; /* directories; split NULL: there are none */
    struct type types[TYPES_MAX];
    size_t type_count;
    const char *counts; /* the file that says how many nodes there are, for messages */
};

static void ogb_done(struct ogb *ogb) {
    for (size_t i = 0; i < ogb->type_count; i++)
        mem_free(ogb->types[i].name);
    mem_free(ogb->base);
    mem_free(ogb->raw);
    mem_free(ogb->split);
}

/* source may be the directory of raw/, or that of ogb/. */
static int find_raw(const char *source, struct ogb *ogb, struct error *reterr) {
    static const char *const below[] = {"", "/ogb"};
    for (size_t i = 0; i < ARRAY_LEN(below); i++) {
        ogb->raw = mem_printf("%s%s/raw", source, below[i]);
        if (file_exists(ogb->raw)) {
            ogb->base = mem_printf("%s%s", source, below[i]);
            return 0;
        }
        mem_free(TAKE_PTR(ogb->raw));
    }
    return error_set(reterr, ERR_NOT_FOUND,
                     "%s: has neither raw/ nor ogb/raw/; name the directory that holds OGB's raw/",
                     source);
}

/* dir/stem.csv.gz or dir/stem.csv; *ret NULL: there is neither. */
static int find_text(const char *dir, const char *stem, char **ret, struct error *reterr) {
    char *gz = mem_printf("%s/%s.csv.gz", dir, stem), *plain = mem_printf("%s/%s.csv", dir, stem);
    bool has_gz = file_exists(gz), has_plain = file_exists(plain);
    int r = 0;
    *ret = NULL;
    if (has_gz && has_plain)
        r = error_set(reterr, ERR_USAGE, "both %s and %s are there; remove one", gz, plain);
    else if (has_gz || has_plain)
        *ret = mem_strdup(has_gz ? gz : plain);
    mem_free(gz);
    mem_free(plain);
    return r;
}

static int need_text(const char *dir, const char *stem, const char *what, char **ret,
                     struct error *reterr) {
    int r = find_text(dir, stem, ret, reterr);
    if (r == 0 && !*ret)
        r = error_set(reterr, ERR_NOT_FOUND,
                      "%s/%s.csv: there is no such file, nor %s.csv.gz; it %s", dir, stem, stem,
                      what);
    return r;
}

static bool has_scheme(const char *splits, const char *name) {
    static const char *const files[] = {"train.csv.gz", "train.csv", "nodetype-has-split.csv.gz",
                                        "nodetype-has-split.csv"};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        _cleanup_(mem_free_p) char *path = mem_printf("%s/%s/%s", splits, name, files[i]);
        if (file_exists(path))
            return true;
    }
    return false;
}

static int find_split(struct ogb *ogb, const char *wanted, struct error *reterr) {
    _cleanup_(mem_free_p) char *splits = mem_printf("%s/split", ogb->base);
    char **names = NULL, list[300] = "";
    const char *only = NULL;
    size_t count = 0, schemes = 0, len = 0;
    if (!file_exists(splits) && !wanted)
        return 0;
    int r = dir_list(splits, &names, &count, reterr);
    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++) {
        if (!has_scheme(splits, names[i]))
            continue;
        schemes++;
        if (!only || (wanted && !strcmp(names[i], wanted)))
            only = names[i];
        if (len < sizeof list - 70)
            len += (size_t)snprintf(list + len, sizeof list - len, "%s%.60s", len ? ", " : "",
                                    names[i]);
    }
    if (schemes == 0)
        r = error_set(reterr, ERR_NOT_FOUND, "%s: no directory with a train.csv.gz in it", splits);
    else if (wanted && strcmp(only, wanted) != 0)
        r = error_set(reterr, ERR_NOT_FOUND, "%s: no split \"%s\"; there is: %s", splits, wanted,
                      list);
    else if (!wanted && schemes > 1)
        r = error_set(reterr, ERR_USAGE, "%s: there are %zu splits, choose one with --split: %s",
                      splits, schemes, list);
    else
        ogb->split = mem_printf("%s/%s", splits, only);
    dir_list_free(names, count);
    return r;
}

/* A table of a few short rows. */
struct table {
    char *fields[RELATIONS_MAX * 3];
    size_t count, rows;
};

static void *table_make(void *ctx) {
    return mem_alloc(sizeof(struct table));
}

static void table_free(void *item) {
    struct table *table = item;
    for (size_t i = 0; i < table->count; i++)
        mem_free(table->fields[i]);
    mem_free(table);
}

static void table_parse(void *ctx, struct row *row, void *item) {
    struct table *table = item;
    while (row_next(row)) {
        table->rows++;
        for (size_t i = 0; i < row->count; i++) {
            if (table->count == ARRAY_LEN(table->fields))
                return;
            table->fields[table->count++] = mem_strdup(row->fields[i].text);
        }
    }
}

static int table_use(void *ctx, void *item, struct error *reterr) {
    struct table *from = item, *to = ctx;
    for (size_t i = 0; i < from->count && to->count < ARRAY_LEN(to->fields); i++)
        to->fields[to->count++] = TAKE_PTR(from->fields[i]);
    to->rows += from->rows;
    from->count = from->rows = 0;
    return 0;
}

static int table_read(struct build *build, const char *path, struct table *ret,
                      struct error *reterr) {
    static const struct rows_ops ops = {
        .make = table_make, .free = table_free, .parse = table_parse, .use = table_use};
    const struct rows_options options = {
        .path = path, .delimiter = ',', .threads = 1, .rejects = &build->summary->rejects};
    struct rows *rows = NULL;
    int r = rows_open(&options, &rows, reterr);
    if (r < 0)
        return r;
    r = rows_run(rows, false, &ops, ret, reterr);
    rows_close(rows);
    return r;
}

static void table_free_p(struct table **table) {
    table_free(*table);
}

/* A file with one number: OGB's list of graphs, which has one entry here. */
static int read_count(struct build *build, const char *dir, const char *stem, const char *what,
                      uint64_t *ret, struct error *reterr) {
    _cleanup_(mem_free_p) char *path = NULL;
    _cleanup_(table_free_p) struct table *table = table_make(NULL);
    int64_t value = 0;
    int r = need_text(dir, stem, what, &path, reterr);
    if (r == 0)
        r = table_read(build, path, table, reterr);
    if (r < 0)
        return r;
    if (table->count == 0)
        return error_set(reterr, ERR_FORMAT, "%s:1: the file is empty", path);
    if (table->count > 1)
        return error_set(
            reterr, ERR_FORMAT,
            "%s:2: a second number: this set has several graphs, graphps trains on one", path);
    if (!text_int(table->fields[0], &value) || value < 0)
        return error_set(reterr, ERR_FORMAT, "%s:1: \"%.60s\" is no number of nodes or edges", path,
                         table->fields[0]);
    *ret = (uint64_t)value;
    return 0;
}

static const struct type *type_named(const struct ogb *ogb, const char *name) {
    for (size_t i = 0; i < ogb->type_count; i++)
        if (!strcmp(ogb->types[i].name, name))
            return &ogb->types[i];
    return NULL;
}

/* Names in the first row, counts in the second. */
static int read_types(struct build *build, struct ogb *ogb, const char *path,
                      struct error *reterr) {
    _cleanup_(table_free_p) struct table *table = table_make(NULL);
    int r = table_read(build, path, table, reterr);
    if (r < 0)
        return r;
    size_t n = table->count / 2;
    if (table->rows != 2 || table->count % 2 || n < 1 || n > TYPES_MAX)
        return error_set(
            reterr, ERR_FORMAT,
            "%s: must be a row with 1 to %d types of nodes and a row with their counts", path,
            TYPES_MAX);
    ogb->counts = "num-node-dict";
    uint64_t first = 0;
    for (size_t i = 0; i < n; i++) {
        int64_t count;
        if (!text_int(table->fields[n + i], &count) || count < 1 || count > INT32_MAX)
            return error_set(reterr, ERR_FORMAT, "%s:2: \"%.60s\" is no number of nodes", path,
                             table->fields[n + i]);
        if (!*table->fields[i] || strlen(table->fields[i]) > TYPE_BYTES_MAX ||
            type_named(ogb, table->fields[i]))
            return error_set(reterr, ERR_FORMAT,
                             "%s:1: \"%.60s\" is no name of a type: it is empty, longer than %d "
                             "bytes, or there twice",
                             path, table->fields[i], TYPE_BYTES_MAX);
        ogb->types[i] = (struct type){TAKE_PTR(table->fields[i]), first, (uint64_t)count};
        ogb->type_count++;
        first += (uint64_t)count;
    }
    return 0;
}

static int read_counts(struct build *build, struct ogb *ogb, struct error *reterr) {
    _cleanup_(mem_free_p) char *dict = NULL;
    int r = find_text(ogb->raw, "num-node-dict", &dict, reterr);
    if (r == 0 && dict) {
        r = read_types(build, ogb, dict, reterr);
    } else if (r == 0) {
        ogb->type_count = 1;
        ogb->counts = "num-node-list";
        r = read_count(build, ogb->raw, "num-node-list", "has the number of nodes",
                       &ogb->types[0].count, reterr);
    }
    if (r < 0)
        return r;
    const struct type *last = &ogb->types[ogb->type_count - 1];
    if (last->first + last->count == 0)
        return error_set(reterr, ERR_FORMAT, "%s: there are no nodes", ogb->raw);
    build->open = false;
    build->nodes_path = ogb->counts;
    return build_nodes(build, last->first + last->count, reterr);
}

/* "dir", or "dir/<type>" where there are types. */
static char *type_dir(const char *dir, const struct type *type) {
    return type->name ? mem_printf("%s/%s", dir, type->name) : mem_strdup(dir);
}

/* Of the files raw/<what>[/<type>]/<what>: paths [type_count], NULL where there is none. */
static int find_typed(const struct ogb *ogb, const char *what, char **paths, struct error *reterr) {
    for (size_t i = 0; i < ogb->type_count; i++) {
        const struct type *type = &ogb->types[i];
        _cleanup_(mem_free_p) char *dir =
            type->name ? mem_printf("%s/%s/%s", ogb->raw, what, type->name) : mem_strdup(ogb->raw);
        int r = find_text(dir, what, &paths[i], reterr);
        if (r < 0)
            return r;
    }
    return 0;
}

static int zero_features(struct build *build, uint64_t rows, struct error *reterr) {
    _cleanup_(mem_free_p) float *zeros = mem_array(build->feature_dim, sizeof *zeros);
    int r = 0;
    for (uint64_t i = 0; r == 0 && i < rows; i++)
        r = build_features(build, zeros, 1, reterr);
    return r;
}

static int read_features(struct build *build, const struct ogb *ogb, char *const *paths,
                         struct error *reterr) {
    size_t columns[TYPES_MAX] = {0}, all = 0, before = 0;
    const char *any = NULL;
    for (size_t i = 0; i < ogb->type_count; i++) {
        int r = paths[i] ? text_columns(build, paths[i], &columns[i], reterr) : 0;
        if (r < 0)
            return r;
        all += columns[i];
        any = any ? any : paths[i];
    }
    if (!any)
        return 0;
    struct place place = place_item(any, 0);
    int r = build_features_begin(build, &place, all, reterr);
    for (size_t i = 0; r == 0 && i < ogb->type_count; i++) {
        const struct type *type = &ogb->types[i];
        const struct part_rows rows = {
            .path = paths[i], .first = type->first, .count = type->count, .why = ogb->counts};
        r = paths[i] ? text_features(build, &rows, (uint32_t)before, (uint32_t)all, reterr)
                     : zero_features(build, type->count, reterr);
        before += columns[i];
    }
    build->nodes_path = ogb->counts;
    return r < 0 ? r : build_features_end(build, any, reterr);
}

static int read_labels(struct build *build, const struct ogb *ogb, char *const *paths,
                       struct error *reterr) {
    int r = 0;
    for (size_t i = 0; r == 0 && i < ogb->type_count; i++) {
        const struct part_rows rows = {.path = paths[i],
                                       .first = ogb->types[i].first,
                                       .count = ogb->types[i].count,
                                       .why = ogb->counts};
        if (paths[i])
            r = text_labels(build, &rows, reterr);
    }
    return r;
}

static int read_splits(struct build *build, const struct ogb *ogb, struct error *reterr) {
    int r = 0;
    for (size_t i = 0; r == 0 && ogb->split && i < ogb->type_count; i++) {
        const struct type *type = &ogb->types[i];
        _cleanup_(mem_free_p) char *dir = type_dir(ogb->split, type);
        if (!file_exists(dir))
            continue;
        for (enum split s = SPLIT_TRAIN; r == 0 && s <= SPLIT_TEST; s++) {
            _cleanup_(mem_free_p) char *path = NULL;
            r = need_text(dir, build_split_name(s), "lists its split's nodes", &path, reterr);
            if (r == 0)
                r = text_split(build, path, s, type->first, type->count, reterr);
        }
    }
    return r;
}

/* raw/edge_<name>; without a name of the user's the usual one, if it is there. */
static int find_attribute(const struct ogb *ogb, const char *wanted, const char *usual, char **ret,
                          struct error *reterr) {
    char stem[96];
    snprintf(stem, sizeof stem, "edge_%.80s", wanted ? wanted : usual);
    return wanted ? need_text(ogb->raw, stem, "has an attribute of every edge", ret, reterr)
                  : find_text(ogb->raw, stem, ret, reterr);
}

static const struct edge_columns two_columns = {
    .from = 0, .to = 1, .weight = SIZE_MAX, .type = SIZE_MAX, .count = 2};

static int same_count(const char *path, uint64_t found, uint64_t edges, struct error *reterr) {
    if (found == edges)
        return 0;
    return error_set(reterr, ERR_FORMAT, "%s: the file has %llu rows where num-edge-list says %llu",
                     path, (unsigned long long)found, (unsigned long long)edges);
}

/* The edges of a graph whose nodes are all alike. */
static int read_edges(struct build *build, const struct ogb *ogb, struct error *reterr) {
    const struct import_options *options = build->options;
    _cleanup_(mem_free_p) char *path = NULL, *weight_path = NULL, *type_path = NULL;
    _cleanup_(mem_free_p) float *weights = NULL;
    _cleanup_(mem_free_p) int32_t *types = NULL;
    uint64_t count = 0, rows = 0;
    int r = read_count(build, ogb->raw, "num-edge-list", "has the number of edges", &count, reterr);
    if (r == 0)
        r = need_text(ogb->raw, "edge", "has the edges", &path, reterr);
    if (r == 0)
        r = find_attribute(ogb, options->weight, "weight", &weight_path, reterr);
    if (r == 0)
        r = find_attribute(ogb, options->type, "reltype", &type_path, reterr);
    if (r == 0 && (weight_path || type_path) && options->skip_bad)
        r = error_set(reterr, ERR_USAGE,
                      "--skip-bad does not go with %s: rows belong together by their number",
                      weight_path ? weight_path : type_path);
    if (r == 0)
        r = build_edges_begin(build, weight_path != NULL, type_path != NULL, reterr);
    if (r == 0 && weight_path) {
        r = text_weights(build, weight_path, &weights, &rows, reterr);
        r = r ? r : same_count(weight_path, rows, count, reterr);
    }
    if (r == 0 && type_path) {
        r = text_types(build, type_path, &types, &rows, reterr);
        r = r ? r : same_count(type_path, rows, count, reterr);
    }
    const struct text_edges edges = {.path = path,
                                     .columns = two_columns,
                                     .kind = SPLIT_TRAIN,
                                     .type = -1,
                                     .column_weights = weights,
                                     .column_types = types,
                                     .count = count,
                                     .why = "num-edge-list"};
    return r < 0 ? r : text_edges(build, &edges, reterr);
}

static int read_relation(struct build *build, const struct ogb *ogb, char *const *triplet,
                         const char *list, struct error *reterr) {
    const struct type *from = type_named(ogb, triplet[0]), *to = type_named(ogb, triplet[2]);
    if (!from || !to)
        return error_set(reterr, ERR_FORMAT, "%s: \"%.60s\" is no type of nodes in num-node-dict",
                         list, from ? triplet[2] : triplet[0]);
    _cleanup_(mem_free_p) char *dir =
        mem_printf("%s/relations/%s___%s___%s", ogb->raw, triplet[0], triplet[1], triplet[2]);
    _cleanup_(mem_free_p) char *name = mem_printf("%s/%s/%s", triplet[0], triplet[1], triplet[2]);
    _cleanup_(mem_free_p) char *path = NULL;
    uint64_t count = 0;
    int r = read_count(build, dir, "num-edge-list", "has the number of edges", &count, reterr);
    if (r == 0)
        r = need_text(dir, "edge", "has the edges", &path, reterr);
    struct id_key key = id_key(name, strlen(name));
    struct text_edges edges = {.path = path,
                               .columns = two_columns,
                               .kind = SPLIT_TRAIN,
                               .offsets = {(int64_t)from->first, (int64_t)to->first},
                               .limits = {from->count, to->count},
                               .count = count,
                               .why = "num-edge-list"};
    ids_add(build->type_ids, &key, 1, RELATIONS_MAX, &edges.type);
    return r < 0 ? r : text_edges(build, &edges, reterr);
}

static int read_relations(struct build *build, const struct ogb *ogb, struct error *reterr) {
    _cleanup_(mem_free_p) char *path = NULL;
    _cleanup_(table_free_p) struct table *table = table_make(NULL);
    int r = build->options->weight || build->options->type
                ? error_set(reterr, ERR_USAGE,
                            "%s: has several types of nodes; --weight and --type are for graphs "
                            "with one",
                            ogb->raw)
                : 0;
    if (r == 0)
        r = need_text(ogb->raw, "triplet-type-list", "has the types of edges", &path, reterr);
    if (r == 0)
        r = table_read(build, path, table, reterr);
    if (r == 0 && (table->rows * 3 != table->count || table->rows >= RELATIONS_MAX))
        r = error_set(reterr, ERR_FORMAT, "%s: rows must be: type,relation,type", path);
    if (r == 0)
        r = build_edges_begin(build, false, true, reterr);
    for (size_t i = 0; r == 0 && i < table->rows; i++)
        r = read_relation(build, ogb, &table->fields[3 * i], path, reterr);
    return r;
}

/* Ids of several types are "<type>:<number>". */
static void name_nodes(struct build *build, const struct ogb *ogb) {
    build->ids = ids_new();
    build->node_types = mem_resize(NULL, 0, build->cap);
    build->node_type_count = (uint32_t)ogb->type_count;
    build->node_type_names = mem_array(ogb->type_count, sizeof *build->node_type_names);
    for (size_t t = 0; t < ogb->type_count; t++) {
        const struct type *type = &ogb->types[t];
        build->node_type_names[t] = mem_strdup(type->name);
        memset(build->node_types + type->first, (int)t, type->count);
        for (uint64_t i = 0; i < type->count; i++) {
            char text[300];
            int len = snprintf(text, sizeof text, "%.255s:%llu", type->name, (unsigned long long)i);
            struct id_key key = id_key(text, (size_t)len);
            int32_t number;
            ids_add(build->ids, &key, 1, build->nodes, &number);
        }
    }
}

/* What the user's options mean for other formats only. */
static int check_options(const struct import_options *options, struct error *reterr) {
    if (options->edges || options->valid_edges || options->test_edges || options->nodes ||
        options->features || options->labels || options->targets || options->train ||
        options->valid || options->test || options->from || options->to ||
        options->header != HEADER_AUTO || options->delimiter || options->bipartite ||
        options->multi_label)
        return error_set(reterr, ERR_USAGE,
                         "--format ogb: the layout says where everything is; options that name "
                         "files and columns do not go with it, but --weight X and --type X (of "
                         "edge_X.csv) do");
    return 0;
}

static int read_all(struct build *build, struct ogb *ogb, struct error *reterr) {
    char *features[TYPES_MAX] = {0}, *labels[TYPES_MAX] = {0};
    int r = find_typed(ogb, "node-feat", features, reterr);
    if (r == 0)
        r = find_typed(ogb, "node-label", labels, reterr);
    if (r == 0)
        r = read_features(build, ogb, features, reterr);
    if (r == 0)
        r = read_labels(build, ogb, labels, reterr);
    if (r == 0)
        r = read_splits(build, ogb, reterr);
    bool typed = ogb->types[0].name != NULL;
    if (r == 0)
        r = typed ? read_relations(build, ogb, reterr) : read_edges(build, ogb, reterr);
    if (r == 0 && typed)
        name_nodes(build, ogb);
    if (r == 0 && build->options->ratio[0] > 0)
        r = build_split_ratio(build, reterr);
    for (size_t i = 0; i < TYPES_MAX; i++) {
        mem_free(features[i]);
        mem_free(labels[i]);
    }
    return r < 0 ? r : build_finish(build, reterr);
}

int import_ogb(struct build *build, struct error *reterr) {
    struct ogb ogb = {0};
    int r = check_options(build->options, reterr);
    if (r == 0)
        r = find_raw(build->options->source, &ogb, reterr);
    if (r == 0)
        r = read_counts(build, &ogb, reterr);
    if (r == 0 && build->options->ratio[0] == 0)
        r = find_split(&ogb, build->options->split, reterr);
    if (r == 0)
        r = read_all(build, &ogb, reterr);
    build->nodes_path = NULL;
    ogb_done(&ogb);
    return r;
}
