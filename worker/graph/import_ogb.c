/* `--format ogb`: the raw layout of the Open Graph Benchmark (Hu et al., NeurIPS 2020), one
 * homogeneous graph with one label a node: raw/{num-node-list, num-edge-list, edge, node-feat,
 * node-label}.csv.gz and split/<scheme>/{train,valid,test}.csv.gz, without headers. */
#include <stdio.h>
#include <string.h>

#include "common/file.h"
#include "common/mem.h"
#include "worker/graph/build.h"

struct ogb {
    char *raw, *split; /* directories */
    uint64_t nodes, edges;
};

static void csv_close_p(struct csv **csv) {
    csv_close(*csv);
}

/* source may be the directory of raw/, or that of ogb/. */
static int find_raw(const char *source, struct ogb *ogb, char **ret_base, struct error *reterr) {
    static const char *const below[] = {"", "/ogb"};
    for (size_t i = 0; i < ARRAY_LEN(below); i++) {
        ogb->raw = mem_printf("%s%s/raw", source, below[i]);
        if (file_exists(ogb->raw)) {
            *ret_base = mem_printf("%s%s", source, below[i]);
            return 0;
        }
        mem_free(TAKE_PTR(ogb->raw));
    }
    return error_set(reterr, ERR_NOT_FOUND,
                     "%s: has neither raw/ nor ogb/raw/; name the directory that holds OGB's raw/ "
                     "and split/",
                     source);
}

static int find_split(const char *base, const char *wanted, struct ogb *ogb, struct error *reterr) {
    _cleanup_(mem_free_p) char *splits = mem_printf("%s/split", base);
    char **names = NULL, list[300] = "";
    const char *only = NULL;
    size_t count = 0, schemes = 0, len = 0;
    int r = file_exists(splits)
                ? dir_list(splits, &names, &count, reterr)
                : error_set(reterr, ERR_NOT_FOUND,
                            "%s: there is no such directory; it has the splits, each in a "
                            "directory with train.csv.gz, valid.csv.gz and test.csv.gz",
                            splits);
    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++) {
        _cleanup_(mem_free_p) char *gz = mem_printf("%s/%s/train.csv.gz", splits, names[i]);
        _cleanup_(mem_free_p) char *plain = mem_printf("%s/%s/train.csv", splits, names[i]);
        if (!file_exists(gz) && !file_exists(plain))
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

/* 1 and a row of count fields (0: any), 0 at the end. */
static int next_row(struct build *build, struct csv *csv, size_t count, const char *what,
                    struct error *reterr) {
    build_progress(build, what, csv->done, csv->total);
    int r = csv_next(csv, reterr);
    if (r == 0)
        build_csv_ended(build, csv);
    if (r == 1 && count && csv->count != count)
        r = csv_fault(csv, ERR_FORMAT, reterr, "%zu fields where there should be %zu", csv->count,
                      count);
    return r;
}

static int field_int(const struct csv *csv, size_t field, int64_t *ret, struct error *reterr) {
    if (!csv_int(csv->fields[field], ret))
        return csv_fault(csv, ERR_FORMAT, reterr, "\"%.60s\" in field %zu is not an integer",
                         csv->fields[field], field + 1);
    return 0;
}

/* A file with one number: OGB's list of graphs, which has one entry here. */
static int read_count(struct build *build, const struct ogb *ogb, const char *stem,
                      const char *what, uint64_t *ret, struct error *reterr) {
    _cleanup_(csv_close_p) struct csv *csv = NULL;
    int64_t value = 0;
    int r = csv_open(ogb->raw, stem, what, &csv, reterr);
    if (r == 0)
        r = next_row(build, csv, 1, stem, reterr);
    if (r == 0 && csv)
        return csv_fault(csv, ERR_FORMAT, reterr, "the file is empty");
    if (r == 1)
        r = field_int(csv, 0, &value, reterr);
    if (r == 0 && value < 0)
        r = csv_fault(csv, ERR_RANGE, reterr, "%lld is negative", (long long)value);
    if (r == 0)
        r = next_row(build, csv, 1, stem, reterr);
    if (r == 1)
        r = csv_fault(csv, ERR_FORMAT, reterr,
                      "a second number: this set has several graphs, graphps trains on one");
    if (r == 0)
        *ret = (uint64_t)value;
    return r;
}

static int read_counts(struct build *build, struct ogb *ogb, struct error *reterr) {
    _cleanup_(mem_free_p) char *dict = mem_printf("%s/num-node-dict.csv.gz", ogb->raw);
    if (file_exists(dict))
        return error_set(reterr, ERR_FORMAT,
                         "%s: this is a heterogeneous graph (several node types); graphps imports "
                         "graphs with one type",
                         dict);
    int r = read_count(build, ogb, "num-node-list", "has the number of nodes", &ogb->nodes, reterr);
    if (r == 0)
        r = read_count(build, ogb, "num-edge-list", "has the number of edges", &ogb->edges, reterr);
    return r;
}

static int count_check(const struct csv *csv, uint64_t found, uint64_t said, const char *list,
                       struct error *reterr) {
    if (found == said)
        return 0;
    return csv_fault(csv, ERR_FORMAT, reterr, "the file has %s%llu rows where %s says %llu",
                     found > said ? "at least " : "", (unsigned long long)found, list,
                     (unsigned long long)said);
}

static int features_row(struct build *build, const struct csv *csv, float *row,
                        struct error *reterr) {
    struct place place = build_place(csv);
    for (uint32_t i = 0; i < build->feature_dim; i++)
        if (!csv_float(csv->fields[i], &row[i]))
            return csv_fault(csv, ERR_FORMAT, reterr, "\"%.60s\" in field %u is not a number",
                             csv->fields[i], i + 1);
    return build_features(build, &place, row, reterr);
}

static int read_features(struct build *build, const struct ogb *ogb, struct error *reterr) {
    _cleanup_(csv_close_p) struct csv *csv = NULL;
    _cleanup_(mem_free_p) float *row = NULL;
    int r =
        csv_open(ogb->raw, "node-feat",
                 "has the nodes' features, which every graph needs (one constant column will do)",
                 &csv, reterr);
    if (r < 0)
        return r;
    size_t columns = 0;
    while ((r = next_row(build, csv, columns, "features", reterr)) == 1) {
        if (!row) {
            struct place place = build_place(csv);
            columns = csv->count;
            row = mem_array(columns, sizeof *row);
            r = build_features_begin(build, &place, columns, reterr);
        }
        if (r >= 0)
            r = features_row(build, csv, row, reterr);
        if (r == 0 && build->nodes > ogb->nodes)
            r = count_check(csv, build->nodes, ogb->nodes, "num-node-list", reterr);
        if (r < 0)
            return r;
    }
    if (r == 0)
        r = count_check(csv, build->nodes, ogb->nodes, "num-node-list", reterr);
    return r < 0 ? r : build_features_end(build, csv->path, reterr);
}

static int read_labels(struct build *build, const struct ogb *ogb, struct error *reterr) {
    _cleanup_(csv_close_p) struct csv *csv = NULL;
    int r = csv_open(ogb->raw, "node-label", "has the nodes' labels", &csv, reterr);
    uint64_t node = 0;
    while (r == 0 && (r = next_row(build, csv, 0, "labels", reterr)) == 1) {
        struct place place = build_place(csv);
        int64_t label = -1;
        r = 0;
        if (csv->count != 1)
            return csv_fault(csv, ERR_FORMAT, reterr,
                             "%zu labels; graphps trains on one label a node", csv->count);
        if (node == ogb->nodes)
            return count_check(csv, node + 1, ogb->nodes, "num-node-list", reterr);
        if (strcasecmp(csv->fields[0], "nan") != 0)
            r = field_int(csv, 0, &label, reterr);
        if (r == 0)
            r = build_label(build, &place, node++, label == -1, label, reterr);
    }
    return r < 0 ? r : count_check(csv, node, ogb->nodes, "num-node-list", reterr);
}

static int read_split(struct build *build, const struct ogb *ogb, enum split split,
                      struct error *reterr) {
    const char *stem = build_split_name(split);
    _cleanup_(csv_close_p) struct csv *csv = NULL;
    int r = csv_open(ogb->split, stem, "lists its split's nodes", &csv, reterr);
    while (r == 0 && (r = next_row(build, csv, 1, stem, reterr)) == 1) {
        struct place place = build_place(csv);
        int64_t node;
        r = field_int(csv, 0, &node, reterr);
        if (r == 0 && (node < 0 || (uint64_t)node >= build->nodes))
            r = csv_fault(csv, ERR_RANGE, reterr, "node %lld does not exist; nodes are 0 to %llu",
                          (long long)node, (unsigned long long)build->nodes - 1);
        if (r == 0)
            r = build_split(build, &place, (uint64_t)node, split, reterr);
    }
    return r;
}

static int read_edges(void *source, struct build *build, struct error *reterr) {
    const struct ogb *ogb = source;
    _cleanup_(csv_close_p) struct csv *csv = NULL;
    const char *what = build->placing ? "edges, placed" : "edges, counted";
    int r = csv_open(ogb->raw, "edge", "has the edges", &csv, reterr);
    while (r == 0 && (r = next_row(build, csv, 2, what, reterr)) == 1) {
        struct place place = build_place(csv);
        int64_t from, to = 0;
        r = field_int(csv, 0, &from, reterr);
        if (r == 0)
            r = field_int(csv, 1, &to, reterr);
        if (r == 0)
            r = build_edge(build, &place, from, to, reterr);
    }
    return r < 0 ? r : count_check(csv, build->read_edges, ogb->edges, "num-edge-list", reterr);
}

int import_ogb(struct build *build, struct error *reterr) {
    struct ogb ogb = {0};
    _cleanup_(mem_free_p) char *base = NULL;
    int r = find_raw(build->options->source, &ogb, &base, reterr);
    if (r == 0)
        r = read_counts(build, &ogb, reterr);
    if (r == 0)
        r = find_split(base, build->options->split, &ogb, reterr);
    if (r == 0)
        r = read_features(build, &ogb, reterr);
    if (r == 0)
        r = read_labels(build, &ogb, reterr);
    for (enum split split = SPLIT_TRAIN; r == 0 && split <= SPLIT_TEST; split++)
        r = read_split(build, &ogb, split, reterr);
    if (r == 0)
        r = build_edges(build, read_edges, &ogb, reterr);
    mem_free(ogb.raw);
    mem_free(ogb.split);
    return r;
}
