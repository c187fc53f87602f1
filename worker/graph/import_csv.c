/* `--format csv`: edges.csv (source,target), features.csv (id,...), labels.csv (id,label),
 * train.csv, valid.csv and test.csv (id), each plain or .gz, each with this header. Ids are texts;
 * nodes are numbered in the order of features.csv. Labels are integers, or words whose sorted order
 * numbers them. */
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "worker/graph/build.h"

static void csv_close_p(struct csv **csv) {
    csv_close(*csv);
}
static void idmap_free_p(struct idmap **map) {
    idmap_free(*map);
}

static int open_with_header(const struct build *build, const char *stem, const char *first,
                            const char *second, struct csv **ret, struct error *reterr) {
    _cleanup_(csv_close_p) struct csv *csv = NULL;
    int r = csv_open(build->options->source, stem,
                     !strcmp(stem, "edges")      ? "has the edges"
                     : !strcmp(stem, "features") ? "has the nodes and their features"
                     : !strcmp(stem, "labels")   ? "has the nodes' labels"
                                                 : "lists the ids of its split's nodes",
                     &csv, reterr);
    if (r == 0)
        r = csv_next(csv, reterr);
    if (r < 0)
        return r;
    size_t count = second ? 2 : 1;
    bool open_ended = !strcmp(stem, "features");
    if (r == 0 || (open_ended ? csv->count < 2 : csv->count != count) ||
        strcmp(csv->fields[0], first) || (second && strcmp(csv->fields[1], second)))
        return csv_fault(csv, ERR_FORMAT, reterr, "the first line must be the header \"%s%s%s\"",
                         first, second || open_ended ? "," : "",
                         second       ? second
                         : open_ended ? "<name of a feature>,..."
                                      : "");
    *ret = TAKE_PTR(csv);
    return 0;
}

/* 1 and a row of count fields, 0 at the end. */
static int next_row(struct build *build, struct csv *csv, size_t count, const char *what,
                    struct error *reterr) {
    build_progress(build, what, csv->done, csv->total);
    int r = csv_next(csv, reterr);
    if (r == 0)
        build_csv_ended(build, csv);
    if (r == 1 && csv->count != count)
        r = csv_fault(csv, ERR_FORMAT, reterr, "%zu fields where the header has %zu", csv->count,
                      count);
    return r;
}

static int node_find(const struct build *build, const struct csv *csv, const char *what,
                     const char *id, int64_t *ret, struct error *reterr) {
    *ret = idmap_find(build->ids, id);
    if (*ret < 0)
        return csv_fault(csv, ERR_NOT_FOUND, reterr, "%s \"%.100s\" is no id in features.csv", what,
                         id);
    return 0;
}

static int features_row(struct build *build, const struct csv *csv, float *row,
                        struct error *reterr) {
    struct place place = build_place(csv);
    bool is_new;
    if (!csv->fields[0][0])
        return csv_fault(csv, ERR_FORMAT, reterr, "the id is empty");
    int64_t node = idmap_add(build->ids, csv->fields[0], &is_new);
    if (!is_new)
        return csv_fault(csv, ERR_FORMAT, reterr,
                         "duplicate id \"%.100s\"; node %lld (counted from 0) has it already",
                         csv->fields[0], (long long)node);
    for (uint32_t i = 0; i < build->feature_dim; i++)
        if (!csv_float(csv->fields[i + 1], &row[i]))
            return csv_fault(csv, ERR_FORMAT, reterr, "\"%.60s\" in field %u is not a number",
                             csv->fields[i + 1], i + 2);
    return build_features(build, &place, row, reterr);
}

static int read_features(struct build *build, struct error *reterr) {
    _cleanup_(csv_close_p) struct csv *csv = NULL;
    int r = open_with_header(build, "features", "id", NULL, &csv, reterr);
    if (r < 0)
        return r;
    size_t columns = csv->count;
    struct place place = build_place(csv);
    build->ids = idmap_new();
    r = build_features_begin(build, &place, columns - 1, reterr);
    if (r < 0)
        return r;
    _cleanup_(mem_free_p) float *row = mem_array(columns, sizeof *row);
    while ((r = next_row(build, csv, columns, "features", reterr)) == 1) {
        r = features_row(build, csv, row, reterr);
        if (r < 0)
            return r;
    }
    return r < 0 ? r : build_features_end(build, csv->path, reterr);
}

/* Labels as they are read: texts numbered by arrival, and where each text was seen first. */
struct label_texts {
    struct idmap *map;
    uint64_t *lines; /* [map->count] */
    size_t lines_cap;
    bool words; /* one of them is no integer */
};

static bool label_missing(const char *text) {
    return !*text || !strcasecmp(text, "nan") || !strcmp(text, "-1");
}

static int label_add(struct label_texts *texts, const struct csv *csv, int64_t *ret,
                     struct error *reterr) {
    bool is_new;
    int64_t integer;
    *ret = idmap_add(texts->map, csv->fields[1], &is_new);
    if (!is_new)
        return 0;
    if (*ret >= LABEL_MAX)
        return csv_fault(csv, ERR_RANGE, reterr, "more than %d different labels", LABEL_MAX);
    texts->words |= !csv_int(csv->fields[1], &integer);
    if ((size_t)*ret == texts->lines_cap) {
        size_t cap = texts->lines_cap ? 2 * texts->lines_cap : 256;
        texts->lines = mem_resize(texts->lines, texts->lines_cap * sizeof *texts->lines,
                                  cap * sizeof *texts->lines);
        texts->lines_cap = cap;
    }
    texts->lines[*ret] = csv->line;
    return 0;
}

static int compare_words(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Words: sorted they are the classes. final [map->count] gets each text's class. */
static void classes_from_words(struct build *build, const struct label_texts *texts,
                               int32_t *final) {
    uint32_t count = (uint32_t)texts->map->count;
    build->class_names = mem_array(count, sizeof *build->class_names);
    for (uint32_t i = 0; i < count; i++)
        build->class_names[i] = idmap_text(texts->map, i);
    qsort(build->class_names, count, sizeof *build->class_names, compare_words);
    for (uint32_t i = 0; i < count; i++)
        final[idmap_find(texts->map, build->class_names[i])] = (int32_t)i;
    build->classes = count;
}

static int classes_from_integers(struct build *build, const struct label_texts *texts,
                                 const char *path, int32_t *final, struct error *reterr) {
    build->classes = 0;
    for (uint64_t i = 0; i < texts->map->count; i++) {
        _cleanup_(mem_free_p) char *text = idmap_text(texts->map, i);
        struct place place = {.path = path, .number = texts->lines[i]};
        int64_t label = 0;
        (void)csv_int(text, &label); /* it is one, label_add has looked */
        if (label < 0 || label >= LABEL_MAX)
            return build_fault(&place, ERR_RANGE, reterr,
                               "label %s is out of range; labels are words, or integers from 0 to "
                               "%d, and -1, nan or nothing where there is none",
                               text, LABEL_MAX - 1);
        final[i] = (int32_t)label;
        if (label >= build->classes)
            build->classes = (uint32_t)label + 1;
    }
    return 0;
}

static int read_labels(struct build *build, struct error *reterr) {
    _cleanup_(csv_close_p) struct csv *csv = NULL;
    int r = open_with_header(build, "labels", "id", "label", &csv, reterr);
    if (r < 0)
        return r;
    _cleanup_(idmap_free_p) struct idmap *map = idmap_new();
    _cleanup_(mem_free_p) uint64_t *lines = NULL;
    struct label_texts texts = {.map = map};
    while ((r = next_row(build, csv, 2, "labels", reterr)) == 1) {
        struct place place = build_place(csv);
        bool missing = label_missing(csv->fields[1]);
        int64_t node, label = 0;
        r = node_find(build, csv, "id", csv->fields[0], &node, reterr);
        if (r == 0 && !missing)
            r = label_add(&texts, csv, &label, reterr);
        lines = texts.lines;
        if (r == 0)
            r = build_label(build, &place, (uint64_t)node, missing, label, reterr);
        if (r < 0)
            return r;
    }
    if (r < 0)
        return r;
    _cleanup_(mem_free_p) int32_t *final = mem_array(map->count + 1, sizeof *final);
    if (texts.words)
        classes_from_words(build, &texts, final);
    else
        r = classes_from_integers(build, &texts, csv->path, final, reterr);
    for (uint64_t i = 0; r == 0 && i < build->nodes; i++)
        if (build->labels[i] >= 0)
            build->labels[i] = final[build->labels[i]];
    return r;
}

static int read_split(struct build *build, enum split split, struct error *reterr) {
    const char *stem = build_split_name(split);
    _cleanup_(csv_close_p) struct csv *csv = NULL;
    int r = open_with_header(build, stem, "id", NULL, &csv, reterr);
    if (r < 0)
        return r;
    while ((r = next_row(build, csv, 1, stem, reterr)) == 1) {
        struct place place = build_place(csv);
        int64_t node;
        r = node_find(build, csv, "id", csv->fields[0], &node, reterr);
        if (r == 0)
            r = build_split(build, &place, (uint64_t)node, split, reterr);
        if (r < 0)
            return r;
    }
    return r;
}

static int read_edges(void *source, struct build *build, struct error *reterr) {
    _cleanup_(csv_close_p) struct csv *csv = NULL;
    int r = open_with_header(build, "edges", "source", "target", &csv, reterr);
    if (r < 0)
        return r;
    const char *what = build->placing ? "edges, placed" : "edges, counted";
    while ((r = next_row(build, csv, 2, what, reterr)) == 1) {
        struct place place = build_place(csv);
        int64_t from, to = 0;
        r = node_find(build, csv, "source", csv->fields[0], &from, reterr);
        if (r == 0)
            r = node_find(build, csv, "target", csv->fields[1], &to, reterr);
        if (r == 0)
            r = build_edge(build, &place, from, to, reterr);
        if (r < 0)
            return r;
    }
    return r;
}

int import_csv(struct build *build, struct error *reterr) {
    int r = read_features(build, reterr);
    if (r == 0)
        r = read_labels(build, reterr);
    for (enum split split = SPLIT_TRAIN; r == 0 && split <= SPLIT_TEST; split++)
        r = read_split(build, split, reterr);
    if (r == 0)
        r = build_edges(build, read_edges, NULL, reterr);
    return r;
}
