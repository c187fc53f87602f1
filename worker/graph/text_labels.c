/* Labels, targets and splits from texts. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "worker/graph/parts.h"
#include "worker/graph/text.h"

#define LABEL_BYTES_MAX 1000

/* A row's node and what is said of it. Rows of these files are short and few of each text are
 * different, so what is parsed is the fields as they are. */
struct item {
    uint64_t line;
    struct id_key node;
    size_t first, count; /* into fields */
};
struct parsed {
    size_t n, cap, fields_len, fields_cap;
    struct item *items;
    struct id_key *nodes;
    int32_t *numbers;
    struct rows_field *fields;
    uint32_t *columns; /* of fields */
};

struct reading {
    struct build *build;
    struct rows *rows;
    const char *what; /* for progress */
    bool ids;         /* fields[0] is the node */
    bool guessed;     /* a first row that has none of a header's names */
    size_t columns;   /* 0: any */
    uint64_t first, limit, count, seen;
    const char *why;
    /* One row; node -1 never comes. */
    int (*use_row)(struct reading *reading, const struct parsed *parsed, const struct item *item,
                   int32_t node, struct error *reterr);
    /* labels */
    struct ids *texts;    /* as they came */
    struct place *places; /* [count of texts] where each was seen first */
    size_t places_cap;
    bool words;    /* one of them is no integer */
    float *values; /* targets: room for a row's */
    /* splits */
    enum split split;
    bool split_column;
};

static void *parsed_make(void *ctx) {
    return mem_alloc(sizeof(struct parsed));
}

static void parsed_free(void *parsed_p) {
    struct parsed *parsed = parsed_p;
    mem_free(parsed->items);
    mem_free(parsed->nodes);
    mem_free(parsed->numbers);
    mem_free(parsed->fields);
    mem_free(parsed->columns);
    mem_free(parsed);
}

static void parsed_reserve(struct parsed *parsed, size_t fields) {
    if (parsed->n == parsed->cap) {
        size_t old = parsed->cap, cap = old ? 2 * old : 1024;
        parsed->items =
            mem_resize(parsed->items, old * sizeof *parsed->items, cap * sizeof *parsed->items);
        parsed->nodes =
            mem_resize(parsed->nodes, old * sizeof *parsed->nodes, cap * sizeof *parsed->nodes);
        parsed->numbers = mem_resize(parsed->numbers, old * sizeof *parsed->numbers,
                                     cap * sizeof *parsed->numbers);
        parsed->cap = cap;
    }
    if (parsed->fields_len + fields > parsed->fields_cap) {
        size_t old = parsed->fields_cap, cap = 2 * (parsed->fields_len + fields) + 1024;
        parsed->fields =
            mem_resize(parsed->fields, old * sizeof *parsed->fields, cap * sizeof *parsed->fields);
        parsed->columns = mem_resize(parsed->columns, old * sizeof *parsed->columns,
                                     cap * sizeof *parsed->columns);
        parsed->fields_cap = cap;
    }
}

static void parse(void *ctx, struct row *row, void *parsed_p) {
    const struct reading *reading = ctx;
    struct parsed *parsed = parsed_p;
    parsed->n = parsed->fields_len = 0;
    while (row_next(row)) {
        parsed_reserve(parsed, row->count);
        if (reading->columns && row->count != reading->columns) {
            row_reject_count(row, reading->columns, "there should be %zu", reading->columns);
            continue;
        }
        if (reading->ids && (row->fields[0].len == 0 || row->fields[0].len > IDS_TEXT_MAX)) {
            row_reject(row, 0, ERR_FORMAT,
                       row->fields[0].len ? "the id is too long" : "the id is empty");
            continue;
        }
        if (reading->ids)
            parsed->nodes[parsed->n] = id_key(row->fields[0].text, row->fields[0].len);
        struct item *item = &parsed->items[parsed->n++];
        *item = (struct item){
            .line = row->line, .first = parsed->fields_len, .count = row->count - reading->ids};
        for (size_t i = reading->ids; i < row->count; i++) {
            parsed->fields[parsed->fields_len] = row->fields[i];
            parsed->columns[parsed->fields_len++] = row_column(row, i);
        }
    }
}

/* Integers without a file of ids count from first. */
static int shift(struct reading *reading, struct parsed *parsed, struct error *reterr) {
    for (size_t i = 0; i < parsed->n; i++) {
        struct id_key *key = &parsed->nodes[i];
        struct place place = place_line(reading->rows, parsed->items[i].line, 1);
        if (key->text || key->integer < 0 || (uint64_t)key->integer >= reading->limit) {
            int r = key->text ? build_reject(&place, ERR_FORMAT, reterr,
                                             "\"%.60s\" in field 1 is not an integer", key->text)
                              : build_reject(&place, ERR_RANGE, reterr,
                                             "node %lld does not exist; nodes are 0 to %llu",
                                             (long long)key->integer,
                                             (unsigned long long)reading->limit - 1);
            if (r < 0)
                return r;
            key->text = "";
            key->len = 0; /* resolves to no node */
        } else {
            key->integer += (int64_t)reading->first;
        }
    }
    return 0;
}

/* A word above integers may be a header of another name, which has become a node. */
static void first_rows_check(struct reading *reading, const struct parsed *parsed) {
    if (reading->guessed && reading->seen == 0 && parsed->n > 1 && parsed->nodes[0].text &&
        !parsed->nodes[1].text)
        build_remark(reading->build, reading->rows->path,
                     "the first row was taken for a node, though integers follow; if it is a "
                     "header, call its first column id");
}

static int use(void *ctx, void *parsed_p, struct error *reterr) {
    struct reading *reading = ctx;
    struct parsed *parsed = parsed_p;
    struct build *build = reading->build;
    build->rows = reading->seen;
    int r = build_progress(build, reading->what, reading->rows->done, reading->rows->total, reterr);
    if (r == 0 && reading->ids && parsed->n > 0) {
        first_rows_check(reading, parsed);
        if (reading->limit)
            r = shift(reading, parsed, reterr);
        if (r == 0)
            r = build_resolve(build, parsed->nodes, parsed->n, parsed->numbers, reterr);
    }
    for (size_t i = 0; r >= 0 && i < parsed->n; i++) {
        const struct item *item = &parsed->items[i];
        if (reading->seen++ == reading->count)
            return rows_fault(reading->rows, item->line, 0, ERR_FORMAT, reterr,
                              "the file has at least %llu rows where %s says %llu",
                              (unsigned long long)reading->count + 1, reading->why,
                              (unsigned long long)reading->count);
        int32_t node =
            reading->ids ? parsed->numbers[i] : (int32_t)(reading->first + reading->seen - 1);
        struct place place = place_line(reading->rows, item->line, 1);
        if (node < 0 && reading->limit)
            continue; /* told already */
        if (node < 0)
            r = build_unknown(build, &place, "id", &parsed->nodes[i], reterr);
        else
            r = reading->use_row(reading, parsed, item, node, reterr);
    }
    return r < 0 ? r : 0;
}

static const struct rows_ops ops = {
    .make = parsed_make, .free = parsed_free, .parse = parse, .use = use};

static int run(struct reading *reading, const char *path, const char *const *second_names,
               struct error *reterr) {
    struct build *build = reading->build;
    struct rejects none = {0}; /* rows without ids belong to nodes by their number */
    const struct rows_options options = {.path = path,
                                         .delimiter = build->options->delimiter,
                                         .threads = build->threads,
                                         .rejects =
                                             reading->ids ? &build->summary->rejects : &none};
    int r = rows_open(&options, &reading->rows, reterr);
    if (r < 0)
        return r;
    static const char *const id_names[] = {"id", "node", "node_id", "nodeid", "name", NULL};
    const struct row *first = &reading->rows->first;
    bool header = false;
    for (const char *const *name = id_names; reading->ids && first->count > 0 && *name; name++)
        header |= !strcasecmp(first->fields[0].text, *name);
    for (const char *const *name = second_names; name && first->count > 1 && *name; name++)
        header |= !strcasecmp(first->fields[1].text, *name);
    reading->guessed = reading->ids && !header;
    r = rows_run(reading->rows, header, &ops, reading, reterr);
    if (r == 0 && reading->count != UINT64_MAX && reading->seen != reading->count)
        r = error_set(reterr, ERR_FORMAT, "%s: the file has %llu rows where %s says %llu", path,
                      (unsigned long long)reading->seen, reading->why,
                      (unsigned long long)reading->count);
    if (r == 0 && reading->rows->junk)
        build_remark(build, path, "something follows the end of the gzip data; it was left out");
    rows_close(reading->rows);
    return r;
}

static bool label_missing(const char *text) {
    return !*text || !strcasecmp(text, "nan") || !strcmp(text, "-1");
}

/* The label's number in the order of arrival. */
static int label_add(struct reading *reading, const struct rows_field *field,
                     const struct place *place, int64_t *ret, struct error *reterr) {
    struct id_key key = id_key(field->text, field->len);
    uint64_t before = ids_count(reading->texts);
    int32_t number;
    int64_t integer;
    if (!ids_add(reading->texts, &key, 1, LABEL_MAX, &number))
        return rows_fault(reading->rows, place->number, place->column, ERR_RANGE, reterr,
                          "more than %d different labels", LABEL_MAX);
    *ret = number;
    if (ids_count(reading->texts) == before)
        return 0;
    reading->words |= !text_int(field->text, &integer);
    if (before == reading->places_cap) {
        size_t old = reading->places_cap, cap = old ? 2 * old : 256;
        reading->places = mem_resize(reading->places, old * sizeof *reading->places,
                                     cap * sizeof *reading->places);
        reading->places_cap = cap;
    }
    reading->places[before] = *place;
    return 0;
}

static int use_label(struct reading *reading, const struct parsed *parsed, const struct item *item,
                     int32_t node, struct error *reterr) {
    struct build *build = reading->build;
    for (size_t i = 0; i < item->count; i++) {
        const struct rows_field *field = &parsed->fields[item->first + i];
        struct place place =
            place_line(reading->rows, item->line, parsed->columns[item->first + i]);
        bool missing = label_missing(field->text);
        int64_t label = -1;
        if (field->len > LABEL_BYTES_MAX) {
            int r = build_reject(&place, ERR_FORMAT, reterr, "the label is longer than %d bytes",
                                 LABEL_BYTES_MAX);
            if (r < 0)
                return r;
            continue;
        }
        int r = missing ? 0 : label_add(reading, field, &place, &label, reterr);
        if (r == 0 && build->options->multi_label) {
            if (!missing)
                r = build_label_one_more(build, &place, (uint64_t)node, label, reterr);
        } else if (r == 0) {
            place.column = 1;
            r = build_label(build, &place, (uint64_t)node, missing, label, reterr);
        }
        if (r < 0)
            return r;
    }
    if (build->options->multi_label)
        build_labelled(build, (uint64_t)node);
    return 0;
}

static int compare_words(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Words: sorted they are the classes. final [count of texts] gets each text's class. */
static void classes_from_words(struct build *build, const struct ids *texts, int32_t *final) {
    uint32_t count = (uint32_t)ids_count(texts);
    char text[1024];
    build->class_names = mem_array(count, sizeof *build->class_names);
    for (uint32_t i = 0; i < count; i++)
        build->class_names[i] = mem_strdup(ids_text(texts, i, text, sizeof text));
    qsort(build->class_names, count, sizeof *build->class_names, compare_words);
    struct ids *sorted = ids_new();
    _cleanup_(mem_free_p) int32_t *class_of = mem_array(count + 1, sizeof *class_of);
    for (uint32_t i = 0; i < count; i++) {
        struct id_key key = id_key(build->class_names[i], strlen(build->class_names[i]));
        ids_add(sorted, &key, 1, LABEL_MAX, &class_of[i]);
    }
    for (uint32_t i = 0; i < count; i++) {
        const char *word = ids_text(texts, i, text, sizeof text);
        struct id_key key = id_key(word, strlen(word));
        ids_find(sorted, &key, 1, &final[i]);
    }
    ids_free(sorted);
    build->classes = count;
}

static int classes_from_integers(struct build *build, const struct reading *reading,
                                 const char *path, int32_t *final, struct error *reterr) {
    build->classes = 0;
    for (uint64_t i = 0; i < ids_count(reading->texts); i++) {
        char text[64];
        int64_t label = 0;
        text_int(ids_text(reading->texts, i, text, sizeof text), &label);
        if (label < 0 || label >= LABEL_MAX)
            return error_set(
                reterr, ERR_RANGE,
                "%s:%llu:%u: label %lld is out of range; labels are 0 to %d, or words, "
                "and -1, nan or nothing where there is none",
                path, (unsigned long long)reading->places[i].number, reading->places[i].column,
                (long long)label, LABEL_MAX - 1);
        final[i] = (int32_t)label;
        if (label >= build->classes)
            build->classes = (uint32_t)label + 1;
    }
    return 0;
}

static int labels_with_ids(struct build *build, const char *path, struct error *reterr) {
    static const char *const names[] = {"label", "class", "y", "target", NULL};
    struct reading reading = {.build = build,
                              .what = "labels",
                              .ids = true,
                              .columns = build->options->multi_label ? 0 : 2,
                              .count = UINT64_MAX,
                              .use_row = use_label,
                              .texts = ids_new()};
    int r = run(&reading, path, names, reterr);
    uint64_t count = ids_count(reading.texts);
    _cleanup_(mem_free_p) int32_t *final = mem_array(count + 1, sizeof *final);
    if (r == 0 && reading.words)
        classes_from_words(build, reading.texts, final);
    else if (r == 0)
        r = classes_from_integers(build, &reading, path, final, reterr);
    for (uint64_t i = 0; r == 0 && !build->options->multi_label && i < build->nodes; i++)
        if (build->labels[i] >= 0)
            build->labels[i] = final[build->labels[i]];
    for (uint64_t i = 0; r == 0 && i < build->label_pair_count; i++)
        build->label_pairs[2 * i + 1] = final[build->label_pairs[2 * i + 1]];
    build->summary->multi_label = build->options->multi_label && build->classes > 0;
    for (uint64_t i = 0; r == 0 && build->classes == 0 && i < build->nodes; i++)
        build->labels[i] = -1; /* no row has named a class */
    ids_free(reading.texts);
    mem_free(reading.places);
    return r;
}

/* Without ids: one integer; or 0 or 1 for each class, nan somewhere for a node that has no labels.
 */
static int use_bare_label(struct reading *reading, const struct parsed *parsed,
                          const struct item *item, int32_t node, struct error *reterr) {
    struct build *build = reading->build;
    bool any_missing = false;
    for (size_t i = 0; i < item->count; i++)
        any_missing |= label_missing(parsed->fields[item->first + i].text);
    for (size_t i = 0; i < item->count; i++) {
        const char *text = parsed->fields[item->first + i].text;
        struct place place =
            place_line(reading->rows, item->line, parsed->columns[item->first + i]);
        int64_t label = -1;
        bool missing = label_missing(text);
        int r = 0;
        if (!missing && (!text_int(text, &label) || (item->count > 1 && (label < 0 || label > 1))))
            r = build_reject(&place, ERR_FORMAT, reterr, "\"%.60s\" in field %zu is not %s", text,
                             i + 1, item->count > 1 ? "0 or 1" : "an integer");
        else if (item->count == 1)
            r = build_label(build, &place, (uint64_t)node, missing, label, reterr);
        else if (!any_missing && label == 1)
            r = build_label_one_more(build, &place, (uint64_t)node, (int64_t)i, reterr);
        else if (!any_missing)
            build_labelled(build, (uint64_t)node);
        if (r < 0)
            return r;
    }
    if (item->count > 1 && build->classes < item->count)
        build->classes = (uint32_t)item->count;
    return 0;
}

int text_labels(struct build *build, const struct part_rows *rows, struct error *reterr) {
    if (rows->ids)
        return labels_with_ids(build, rows->path, reterr);
    size_t columns = 0;
    int r = text_columns(build, rows->path, &columns, reterr);
    if (r < 0)
        return r;
    if (columns > 1)
        build->summary->multi_label = true;
    struct reading reading = {.build = build,
                              .what = "labels",
                              .columns = columns ? columns : 1,
                              .first = rows->first,
                              .count = rows->count,
                              .why = rows->why,
                              .use_row = use_bare_label};
    return run(&reading, rows->path, NULL, reterr);
}

static int use_target(struct reading *reading, const struct parsed *parsed, const struct item *item,
                      int32_t node, struct error *reterr) {
    struct place place = place_line(reading->rows, item->line, 1);
    for (size_t i = 0; i < item->count; i++) {
        const char *text = parsed->fields[item->first + i].text;
        reading->values[i] = NAN;
        if (*text && !text_float(text, &reading->values[i])) {
            place.column = parsed->columns[item->first + i];
            return build_reject(&place, ERR_FORMAT, reterr, "\"%.60s\" is not a number", text);
        }
    }
    return build_target_row(reading->build, &place, (uint64_t)node, reading->values,
                            parsed->columns + item->first, reterr);
}

int text_targets(struct build *build, const char *path, struct error *reterr) {
    static const char *const names[] = {"target", "y", "value", NULL};
    struct place place = {.path = path};
    size_t columns = 0;
    int r = text_columns(build, path, &columns, reterr);
    if (r == 0 && columns < 2)
        r = error_set(reterr, ERR_FORMAT,
                      "%s: its rows should be a node's id and the values of its targets", path);
    if (r == 0)
        r = build_targets_begin(build, &place, columns - 1, reterr);
    if (r < 0)
        return r;
    struct reading reading = {.build = build,
                              .what = "targets",
                              .ids = true,
                              .columns = columns,
                              .count = UINT64_MAX,
                              .use_row = use_target,
                              .values = mem_array(columns, sizeof(float))};
    r = run(&reading, path, names, reterr);
    mem_free(reading.values);
    return r;
}

static int use_split(struct reading *reading, const struct parsed *parsed, const struct item *item,
                     int32_t node, struct error *reterr) {
    static const struct {
        const char *name;
        enum split split;
    } names[] = {{"train", SPLIT_TRAIN}, {"valid", SPLIT_VALID},
                 {"val", SPLIT_VALID},   {"validation", SPLIT_VALID},
                 {"test", SPLIT_TEST},   {"none", SPLIT_NONE},
                 {"", SPLIT_NONE}};
    struct place place = place_line(reading->rows, item->line, 1);
    enum split split = reading->split;
    if (reading->split_column) {
        const char *text = parsed->fields[item->first].text;
        size_t i = 0;
        while (i < ARRAY_LEN(names) && strcasecmp(text, names[i].name) != 0)
            i++;
        place.column = parsed->columns[item->first];
        if (i == ARRAY_LEN(names))
            return build_reject(&place, ERR_RANGE, reterr,
                                "\"%.60s\" is no split; they are train, valid, test and none",
                                text);
        split = names[i].split;
        if (split == SPLIT_NONE)
            return 0;
    }
    return build_split(reading->build, &place, (uint64_t)node, split, reterr);
}

int text_split(struct build *build, const char *path, enum split split, uint64_t first,
               uint64_t limit, struct error *reterr) {
    struct reading reading = {.build = build,
                              .what = build_split_name(split),
                              .ids = true,
                              .columns = 1,
                              .first = first,
                              .limit = limit,
                              .count = UINT64_MAX,
                              .use_row = use_split,
                              .split = split};
    return run(&reading, path, NULL, reterr);
}

int text_split_column(struct build *build, const char *path, struct error *reterr) {
    static const char *const names[] = {"split", "set", NULL};
    struct reading reading = {.build = build,
                              .what = "split",
                              .ids = true,
                              .columns = 2,
                              .count = UINT64_MAX,
                              .use_row = use_split,
                              .split_column = true};
    return run(&reading, path, names, reterr);
}
