/* Nodes and their features from texts. */
#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "common/vec.h"
#include "worker/graph/parts.h"
#include "worker/graph/text.h"

#define HALF_MAX 65504.0f
#define TYPE_BYTES_MAX 255
#define TYPES_MAX 256

struct parsed {
    size_t n, cap;
    struct id_key *keys;
    int32_t *numbers;
    uint64_t *lines;
    float *values; /* [n, dim]; for nodes: unused */
    struct id_key *types;
};

struct reading {
    struct build *build;
    struct rows *rows;
    bool ids, features;
    size_t columns;       /* of the file */
    uint32_t before, dim; /* zeros before its features; all of a node's features */
    uint64_t count, seen; /* rows that must be there; rows used */
    const char *why;
    size_t type_column; /* nodes: SIZE_MAX none */
    struct ids *types;  /* nodes: names of their types */
};

static void *parsed_make(void *ctx) {
    return mem_alloc(sizeof(struct parsed));
}

static void parsed_free(void *item) {
    struct parsed *parsed = item;
    mem_free(parsed->keys);
    mem_free(parsed->numbers);
    mem_free(parsed->lines);
    mem_free(parsed->values);
    mem_free(parsed->types);
    mem_free(parsed);
}

static void parsed_grow(const struct reading *reading, struct parsed *parsed) {
    size_t old = parsed->cap, cap = old ? 2 * old : 256, dim = reading->dim;
    parsed->keys = mem_resize(parsed->keys, old * sizeof *parsed->keys, cap * sizeof *parsed->keys);
    parsed->types =
        mem_resize(parsed->types, old * sizeof *parsed->types, cap * sizeof *parsed->types);
    parsed->numbers =
        mem_resize(parsed->numbers, old * sizeof *parsed->numbers, cap * sizeof *parsed->numbers);
    parsed->lines =
        mem_resize(parsed->lines, old * sizeof *parsed->lines, cap * sizeof *parsed->lines);
    parsed->values = mem_resize(parsed->values, old * dim * sizeof *parsed->values,
                                cap * dim * sizeof *parsed->values);
    parsed->cap = cap;
}

/* The row's numbers; zeros stay where the file has no columns. */
static bool parse_values(const struct reading *reading, struct row *row, float *values) {
    size_t skipped = reading->ids, dim = reading->columns - skipped;
    float *to = values + reading->before;
    for (size_t i = 0; i < dim; i++)
        if (!text_float(row->fields[i + skipped].text, &to[i])) {
            row_reject(row, i + skipped, ERR_FORMAT, "\"%.60s\" in field %zu is not a number",
                       row->fields[i + skipped].text, i + skipped + 1);
            return false;
        }
    size_t i = 0;
    if (!vec()->finite(to, dim)) {
        while (isfinite(to[i]))
            i++;
        row_reject(
            row, i + skipped, ERR_NOT_FINITE,
            "feature %zu is %s; every feature must be a finite number (32 bits: below 3.4e38)", i,
            isnan(to[i]) ? "nan" : "infinite");
        return false;
    }
    for (i = 0; reading->build->options->half && i < dim; i++)
        if (fabsf(to[i]) > HALF_MAX) {
            row_reject(row, i + skipped, ERR_RANGE,
                       "feature %zu is %g; 16 bits hold numbers up to 65504", i, (double)to[i]);
            return false;
        }
    return true;
}

static bool parse_row(const struct reading *reading, struct row *row, struct parsed *parsed) {
    size_t n = parsed->n;
    if (row->count != reading->columns) {
        row_reject_count(row, reading->columns, "there should be %zu", reading->columns);
        return false;
    }
    parsed->lines[n] = row->line;
    if (reading->ids) {
        const struct rows_field *id = &row->fields[0];
        if (id->len == 0 || id->len > IDS_TEXT_MAX) {
            row_reject(row, 0, ERR_FORMAT, id->len ? "the id is too long" : "the id is empty");
            return false;
        }
        parsed->keys[n] = id_key(id->text, id->len);
    }
    if (reading->type_column != SIZE_MAX) {
        const struct rows_field *type = &row->fields[reading->type_column];
        if (type->len == 0 || type->len > TYPE_BYTES_MAX) {
            row_reject(row, reading->type_column, ERR_FORMAT,
                       type->len ? "the type is too long" : "the type is empty");
            return false;
        }
        parsed->types[n] = id_key(type->text, type->len);
    }
    return !reading->features || parse_values(reading, row, parsed->values + n * reading->dim);
}

static void parse(void *ctx, struct row *row, void *item) {
    const struct reading *reading = ctx;
    struct parsed *parsed = item;
    parsed->n = 0;
    while (row_next(row)) {
        if (parsed->n == parsed->cap)
            parsed_grow(reading, parsed);
        if (parse_row(reading, row, parsed))
            parsed->n++;
    }
}

/* Row i's id is that of a node already. */
static int duplicate(struct reading *reading, const struct parsed *parsed, size_t i,
                     struct error *reterr) {
    char text[104];
    struct place place = place_line(reading->rows, parsed->lines[i], 1);
    return build_reject(
        &place, ERR_FORMAT, reterr, "duplicate id \"%s\"; node %d (counted from 0) has it already",
        ids_text(reading->build->ids, (uint64_t)parsed->numbers[i], text, sizeof text),
        parsed->numbers[i]);
}

static int set_type(struct reading *reading, const struct parsed *parsed, size_t i,
                    struct error *reterr) {
    int32_t type;
    if (reading->type_column == SIZE_MAX)
        return 0;
    if (!ids_add(reading->types, &parsed->types[i], 1, TYPES_MAX, &type))
        return rows_fault(reading->rows, parsed->lines[i], 0, ERR_RANGE, reterr,
                          "more than %d types of nodes", TYPES_MAX);
    reading->build->node_types[parsed->numbers[i]] = (uint8_t)type;
    return 0;
}

/* The rows that bring a new node each, moved together; returns how many, or an error. */
static int64_t new_nodes(struct reading *reading, struct parsed *parsed, struct error *reterr) {
    struct build *build = reading->build;
    uint64_t next = ids_count(build->ids);
    if (!ids_add(build->ids, parsed->keys, parsed->n, CSR_NODES_MAX, parsed->numbers))
        return build_nodes(build, (uint64_t)CSR_NODES_MAX + 1, reterr);
    int r = build_nodes(build, ids_count(build->ids), reterr);
    if (r < 0)
        return r;
    size_t left = 0;
    for (size_t i = 0; i < parsed->n; i++) {
        if ((uint64_t)parsed->numbers[i] != next) {
            r = duplicate(reading, parsed, i, reterr);
            if (r < 0)
                return r;
            continue;
        }
        next++;
        r = set_type(reading, parsed, i, reterr);
        if (r < 0)
            return r;
        if (reading->features && left != i)
            memmove(parsed->values + left * reading->dim, parsed->values + i * reading->dim,
                    reading->dim * sizeof(float));
        left++;
    }
    return (int64_t)left;
}

static int use(void *ctx, void *item, struct error *reterr) {
    struct reading *reading = ctx;
    struct parsed *parsed = item;
    struct build *build = reading->build;
    build->rows = reading->seen;
    int r = build_progress(build, reading->features ? "features" : "nodes", reading->rows->done,
                           reading->rows->total, reterr);
    if (r < 0 || parsed->n == 0)
        return r;
    reading->seen += parsed->n;
    if (reading->seen > reading->count)
        return rows_fault(reading->rows, parsed->lines[parsed->n - 1], 0, ERR_FORMAT, reterr,
                          "the file has at least %llu rows where %s says %llu",
                          (unsigned long long)reading->count + 1, reading->why,
                          (unsigned long long)reading->count);
    int64_t n = (int64_t)parsed->n;
    if (reading->ids)
        n = new_nodes(reading, parsed, reterr);
    else if (reading->count == UINT64_MAX)
        r = build_nodes(build, reading->seen, reterr);
    if (n < 0 || r < 0)
        return n < 0 ? (int)n : r;
    return reading->features ? build_features(build, parsed->values, (uint64_t)n, reterr) : 0;
}

static const struct rows_ops ops = {
    .make = parsed_make, .free = parsed_free, .parse = parse, .use = use};

/* none: for files whose rows belong to nodes by their number, of which none may be left out. */
static int rows_begin(struct build *build, const char *path, struct rejects *none,
                      struct rows **ret, struct error *reterr) {
    const struct rows_options options = {.path = path,
                                         .delimiter = build->options->delimiter,
                                         .threads = build->threads,
                                         .rejects = none ? none : &build->summary->rejects};
    return rows_open(&options, ret, reterr);
}

static void rows_end(struct build *build, struct rows *rows) {
    if (rows->junk)
        build_remark(build, rows->path,
                     "something follows the end of the gzip data; it was left out");
    rows_close(rows);
}

static const char *const id_names[] = {"id", "node", "node_id", "nodeid", "name", NULL};

static bool named(const struct rows_field *field, const char *const *names) {
    for (; *names; names++)
        if (!strcasecmp(field->text, *names))
            return true;
    return false;
}

int text_nodes(struct build *build, const char *path, struct error *reterr) {
    static const char *const type_names[] = {"type", "node_type", NULL};
    struct reading reading = {
        .build = build, .ids = true, .count = UINT64_MAX, .type_column = SIZE_MAX};
    int r = rows_begin(build, path, NULL, &reading.rows, reterr);
    if (r < 0)
        return r;
    const struct row *first = &reading.rows->first;
    bool header = first->count > 0 && named(&first->fields[0], id_names);
    reading.columns = first->count;
    for (size_t i = 1; header && i < first->count; i++)
        if (named(&first->fields[i], type_names))
            reading.type_column = i;
    build->ids = ids_new();
    if (reading.type_column != SIZE_MAX) {
        reading.types = ids_new();
        build->node_types = mem_alloc(1);
    }
    r = rows_run(reading.rows, header, &ops, &reading, reterr);
    if (r == 0 && build->nodes == 0)
        r = error_set(reterr, ERR_FORMAT, "%s: there are no nodes in it", path);
    if (r == 0 && reading.types) {
        char text[256];
        build->node_type_count = (uint32_t)ids_count(reading.types);
        build->node_type_names = mem_array(build->node_type_count, sizeof *build->node_type_names);
        for (uint32_t i = 0; i < build->node_type_count; i++)
            build->node_type_names[i] = mem_strdup(ids_text(reading.types, i, text, sizeof text));
    }
    ids_free(reading.types);
    rows_end(build, reading.rows);
    build->open = false;
    build->nodes_path = path;
    return r;
}

int text_columns(struct build *build, const char *path, size_t *ret, struct error *reterr) {
    struct rows *rows = NULL;
    int r = rows_begin(build, path, NULL, &rows, reterr);
    if (r < 0)
        return r;
    *ret = rows->first.count;
    rows_close(rows);
    return 0;
}

/* With ids the file says which nodes there are; it must be the first that does. */
static int features_run(struct build *build, const struct part_rows *part, uint32_t dim_before,
                        uint32_t dim_all, struct rows *rows, struct error *reterr) {
    const struct row *first = &rows->first;
    bool header = part->ids && first->count > 0 && named(&first->fields[0], id_names);
    if (first->count == 0)
        return rows_fault(rows, 1, 0, ERR_FORMAT, reterr, "there are no nodes in it");
    uint32_t own = (uint32_t)(first->count - part->ids);
    struct reading reading = {.build = build,
                              .rows = rows,
                              .ids = part->ids,
                              .features = true,
                              .columns = first->count,
                              .before = dim_before,
                              .dim = dim_all ? dim_all : own,
                              .count = part->count,
                              .why = part->why,
                              .type_column = SIZE_MAX};
    int r = 0;
    if (!build->features) {
        struct place place = place_line(rows, first->line, 0);
        r = build_features_begin(build, &place, reading.dim, reterr);
        if (r == 0 && !build->features) /* put up with as a wrong row: there is no going on */
            r = rows_fault(rows, first->line, 0, ERR_FORMAT, reterr, "there are no features in it");
    }
    if (part->ids)
        build->ids = ids_new();
    if (r == 0)
        r = rows_run(rows, header, &ops, &reading, reterr);
    if (r == 0 && part->count != UINT64_MAX && reading.seen != part->count)
        r = error_set(reterr, ERR_FORMAT, "%s: the file has %llu rows where %s says %llu",
                      part->path, (unsigned long long)reading.seen, part->why,
                      (unsigned long long)part->count);
    return r;
}

int text_features(struct build *build, const struct part_rows *part, uint32_t dim_before,
                  uint32_t dim_all, struct error *reterr) {
    struct rows *rows = NULL;
    struct rejects none = {0};
    int r = rows_begin(build, part->path, part->ids ? NULL : &none, &rows, reterr);
    if (r < 0)
        return r;
    r = features_run(build, part, dim_before, dim_all, rows, reterr);
    rows_end(build, rows);
    if (r == 0 && dim_all == 0)
        r = build_features_end(build, part->path, reterr);
    build->open = false;
    build->nodes_path = part->path;
    return r;
}
