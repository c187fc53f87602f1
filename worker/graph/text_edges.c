/* Edges from a text. Threads of the row reader turn rows into ids and numbers; nodes are looked up
 * in the file's order, so that new ones are numbered as they come. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "worker/graph/parts.h"
#include "worker/graph/text.h"

/* One part's edges. */
struct parsed {
    size_t n, cap;
    struct id_key *ends; /* [cap, 2] source, target */
    int32_t *end_numbers;
    struct id_key *types;
    int32_t *numbers[3]; /* of sources, targets and types */
    float *weights;
    uint64_t *lines;
    uint32_t *columns[2];
    char *composed; /* ids of bipartite graphs: "kind:id" */
    size_t composed_len, composed_cap;
};

struct reading {
    struct build *build;
    const struct text_edges *edges;
    struct rows *rows;
    uint64_t seen, refused; /* rows used, and those of them that were left out */
    bool guessed;           /* nobody said whether there is a header; it has none of the names */
};

static void *parsed_make(void *ctx) {
    return mem_alloc(sizeof(struct parsed));
}

static void parsed_free(void *item) {
    struct parsed *parsed = item;
    mem_free(parsed->ends);
    mem_free(parsed->end_numbers);
    mem_free(parsed->types);
    for (size_t i = 0; i < 3; i++)
        mem_free(parsed->numbers[i]);
    mem_free(parsed->weights);
    mem_free(parsed->lines);
    mem_free(parsed->columns[0]);
    mem_free(parsed->columns[1]);
    mem_free(parsed->composed);
    mem_free(parsed);
}

static void *grown(void *array, size_t old, size_t cap, size_t size_bytes) {
    return mem_resize(array, old * size_bytes, cap * size_bytes);
}

static void parsed_grow(struct parsed *parsed) {
    size_t old = parsed->cap, cap = old ? 2 * old : 4096;
    parsed->ends = grown(parsed->ends, old, cap, 2 * sizeof *parsed->ends);
    parsed->end_numbers = grown(parsed->end_numbers, old, cap, 2 * sizeof *parsed->end_numbers);
    parsed->types = grown(parsed->types, old, cap, sizeof *parsed->types);
    for (size_t i = 0; i < 3; i++)
        parsed->numbers[i] = grown(parsed->numbers[i], old, cap, sizeof(int32_t));
    parsed->weights = grown(parsed->weights, old, cap, sizeof *parsed->weights);
    parsed->lines = grown(parsed->lines, old, cap, sizeof *parsed->lines);
    parsed->columns[0] = grown(parsed->columns[0], old, cap, sizeof(uint32_t));
    parsed->columns[1] = grown(parsed->columns[1], old, cap, sizeof(uint32_t));
    parsed->cap = cap;
}

/* "kind:id" into the part's own memory; the key holds an offset until all are there. */
static struct id_key composed_key(struct parsed *parsed, const char *kind,
                                  const struct rows_field *id) {
    size_t len = strlen(kind) + 1 + id->len;
    if (parsed->composed_len + len + 1 > parsed->composed_cap) {
        size_t cap = 2 * (parsed->composed_len + len + 1) + 65536;
        parsed->composed = mem_resize(parsed->composed, parsed->composed_cap, cap);
        parsed->composed_cap = cap;
    }
    char *to = parsed->composed + parsed->composed_len;
    snprintf(to, len + 1, "%s:%s", kind, id->text);
    struct id_key key = id_key(to, len);
    key.text = (const char *)parsed->composed_len;
    parsed->composed_len += len + 1;
    return key;
}

static bool parse_end(const struct reading *reading, struct row *row, struct parsed *parsed,
                      int end, struct id_key *ret) {
    const struct edge_columns *columns = &reading->edges->columns;
    size_t column = end ? columns->to : columns->from;
    const struct rows_field *field = &row->fields[column];
    const char *what = end ? "target" : "source";
    if (field->len == 0 || field->len > IDS_TEXT_MAX - 64) {
        row_reject(row, column, ERR_FORMAT, field->len ? "the %s is too long" : "the %s is empty",
                   what);
        return false;
    }
    if (columns->kinds[0][0]) {
        *ret = composed_key(parsed, columns->kinds[end], field);
    } else if (reading->build->ids) {
        *ret = id_key(field->text, field->len);
    } else {
        int64_t number;
        if (!text_int(field->text, &number)) {
            row_reject(row, column, ERR_FORMAT, "\"%.60s\" in field %zu is not an integer",
                       field->text, column + 1);
            return false;
        }
        uint64_t limit = reading->edges->limits[end];
        if (limit > 0 && (number < 0 || (uint64_t)number >= limit)) {
            row_reject(row, column, ERR_RANGE,
                       "%s %lld is no node; nodes of its type are 0 to %llu", what,
                       (long long)number, (unsigned long long)limit - 1);
            return false;
        }
        *ret = id_key_integer(number + reading->edges->offsets[end]);
    }
    parsed->columns[end][parsed->n] = row_column(row, column);
    return true;
}

static bool parse_row(const struct reading *reading, struct row *row, struct parsed *parsed) {
    const struct edge_columns *columns = &reading->edges->columns;
    size_t n = parsed->n;
    if (row->count != columns->count) {
        row_reject_count(row, columns->count, "%s has %zu",
                         columns->header ? "the header" : "the first row", columns->count);
        return false;
    }
    if (!parse_end(reading, row, parsed, 0, &parsed->ends[2 * n]) ||
        !parse_end(reading, row, parsed, 1, &parsed->ends[2 * n + 1]))
        return false;
    if (columns->weight != SIZE_MAX) {
        const char *text = row->fields[columns->weight].text;
        if (!text_float(text, &parsed->weights[n]) || !isfinite(parsed->weights[n])) {
            row_reject(row, columns->weight, ERR_FORMAT, "the weight \"%.60s\" is no finite number",
                       text);
            return false;
        }
    }
    if (columns->type != SIZE_MAX) {
        const struct rows_field *type = &row->fields[columns->type];
        if (type->len == 0 || type->len > IDS_TEXT_MAX) {
            row_reject(row, columns->type, ERR_FORMAT, "the type is empty or too long");
            return false;
        }
        parsed->types[n] = id_key(type->text, type->len);
    }
    parsed->lines[n] = row->line;
    return true;
}

static void parse(void *ctx, struct row *row, void *item) {
    const struct reading *reading = ctx;
    struct parsed *parsed = item;
    parsed->n = parsed->composed_len = 0;
    while (row_next(row)) {
        if (parsed->n == parsed->cap)
            parsed_grow(parsed);
        if (parse_row(reading, row, parsed))
            parsed->n++;
    }
    if (!reading->edges->columns.kinds[0][0])
        return;
    for (size_t i = 0; i < 2 * parsed->n; i++)
        parsed->ends[i].text = parsed->composed + (size_t)parsed->ends[i].text;
}

/* Weights and types of rows that stand in other files, or in none. */
static int fill_columns(struct reading *reading, struct parsed *parsed, struct error *reterr) {
    const struct text_edges *edges = reading->edges;
    struct build *build = reading->build;
    if (reading->seen + parsed->n > edges->count)
        return rows_fault(reading->rows, parsed->lines[edges->count - reading->seen], 0, ERR_FORMAT,
                          reterr, "the file has at least %llu rows where %s says %llu",
                          (unsigned long long)edges->count + 1, edges->why,
                          (unsigned long long)edges->count);
    if (edges->columns.type != SIZE_MAX) {
        if (!ids_add(build->type_ids, parsed->types, parsed->n, 1u << 20, parsed->numbers[2]))
            return rows_fault(reading->rows, parsed->lines[0], 0, ERR_RANGE, reterr,
                              "more than %u types of edges", 1u << 20);
    } else {
        for (size_t i = 0; build->type_ids && i < parsed->n; i++)
            parsed->numbers[2][i] = edges->column_types ? edges->column_types[reading->seen + i]
                                                        : (edges->type >= 0 ? edges->type : 0);
    }
    if (edges->columns.weight == SIZE_MAX)
        for (size_t i = 0; i < parsed->n; i++)
            parsed->weights[i] =
                edges->column_weights ? edges->column_weights[reading->seen + i] : 1;
    reading->seen += parsed->n;
    return 0;
}

/* Two words above integers are a header of other names, which would become an edge between two
 * nodes that nobody has. */
static int first_rows_check(struct reading *reading, const struct parsed *parsed,
                            struct error *reterr) {
    const struct id_key *ends = parsed->ends;
    bool guessed = reading->guessed;
    reading->guessed = false;
    if (!guessed || parsed->n < 2 || parsed->lines[0] != reading->rows->first.line ||
        !ends[0].text || !ends[1].text || ends[2].text || ends[3].text)
        return 0;
    char from[64], to[64];
    return rows_fault(reading->rows, parsed->lines[0], 0, ERR_FORMAT, reterr,
                      "\"%s\" and \"%s\" look like a header, for integers follow; say --header "
                      "yes, or --header no if they are nodes",
                      text_printable(ends[0].text, from, sizeof from),
                      text_printable(ends[1].text, to, sizeof to));
}

/* Both ends known? Else the edge is refused, or left out. */
static int ends_there(struct reading *reading, struct parsed *parsed, size_t i,
                      struct error *reterr) {
    for (int end = 0; end < 2; end++) {
        if (parsed->end_numbers[2 * i + (size_t)end] >= 0)
            continue;
        struct place place = place_line(reading->rows, parsed->lines[i], parsed->columns[end][i]);
        return build_unknown(reading->build, &place, end ? "target" : "source",
                             &parsed->ends[2 * i + (size_t)end], reterr);
    }
    return 1;
}

static int use(void *ctx, void *item, struct error *reterr) {
    struct reading *reading = ctx;
    struct parsed *parsed = item;
    struct build *build = reading->build;
    build->rows = reading->seen;
    int r = build_progress(build, "edges", reading->rows->done, reading->rows->total, reterr);
    if (r < 0 || parsed->n == 0)
        return r;
    r = first_rows_check(reading, parsed, reterr);
    if (r == 0)
        r = build_resolve(build, parsed->ends, 2 * parsed->n, parsed->end_numbers, reterr);
    if (r == 0)
        r = fill_columns(reading, parsed, reterr);
    if (r < 0)
        return r;
    size_t left = 0;
    for (size_t i = 0; i < parsed->n; i++) {
        r = ends_there(reading, parsed, i, reterr);
        if (r < 0)
            return r;
        if (r == 0) {
            reading->refused++;
            continue;
        }
        parsed->numbers[0][left] = parsed->end_numbers[2 * i];
        parsed->numbers[1][left] = parsed->end_numbers[2 * i + 1];
        parsed->numbers[2][left] = parsed->numbers[2][i];
        parsed->weights[left] = parsed->weights[i];
        left++;
    }
    if (build->node_types && reading->edges->columns.kinds[0][0])
        for (size_t i = 0; i < left; i++)
            build->node_types[parsed->numbers[1][i]] = 1;
    const struct edge_batch batch = {.n = left,
                                     .from = parsed->numbers[0],
                                     .to = parsed->numbers[1],
                                     .types = build->type_ids ? parsed->numbers[2] : NULL,
                                     .weights = parsed->weights};
    return build_edges(build, reading->edges->kind, &batch, reterr);
}

static const struct rows_ops ops = {
    .make = parsed_make, .free = parsed_free, .parse = parse, .use = use};

static struct rows_options rows_options(const struct build *build, const char *path) {
    return (struct rows_options){.path = path,
                                 .delimiter = build->options->delimiter,
                                 .threads = build->threads,
                                 .rejects = &build->summary->rejects};
}

int text_edges(struct build *build, const struct text_edges *edges, struct error *reterr) {
    struct rows_options options = rows_options(build, edges->path);
    if (edges->delimiter)
        options.delimiter = edges->delimiter;
    struct reading reading = {.build = build,
                              .edges = edges,
                              .guessed = build->ids && !edges->columns.header &&
                                         !edges->columns.kinds[0][0] &&
                                         build->options->header == HEADER_AUTO};
    int r = rows_open(&options, &reading.rows, reterr);
    if (r < 0)
        return r;
    const struct rejects *rejects = &build->summary->rejects;
    uint64_t rejects_before = rejects->count;
    r = rows_run(reading.rows, edges->columns.header, &ops, &reading, reterr);
    uint64_t rows = reading.seen + rejects->count - rejects_before - reading.refused;
    if (r == 0 && edges->count != UINT64_MAX && rows != edges->count)
        r = error_set(reterr, ERR_FORMAT, "%s: the file has %llu rows where %s says %llu",
                      edges->path, (unsigned long long)rows, edges->why,
                      (unsigned long long)edges->count);
    if (r == 0 && reading.rows->junk)
        build_remark(build, edges->path,
                     "something follows the end of the gzip data; it was left out");
    rows_close(reading.rows);
    return r;
}

/* Names that columns commonly have. */
static const char *const from_names[] = {"source", "src",    "from",  "fromnodeid", "head",
                                         "u",      "user",   "node1", "id1",        "subject",
                                         "start",  "caller", NULL};
static const char *const to_names[] = {"target", "dst", "to",     "tonodeid", "tail",   "v", "item",
                                       "node2",  "id2", "object", "end",      "callee", NULL};
static const char *const weight_names[] = {"weight", NULL};
static const char *const type_names[] = {"type", "rel", "relation", "edge_type", NULL};

static size_t column_named(const struct row *row, const char *const *names) {
    for (size_t i = 0; i < row->count; i++)
        for (const char *const *name = names; *name; name++)
            if (!strcasecmp(row->fields[i].text, *name))
                return i;
    return SIZE_MAX;
}

/* An option's column: a name of the header, or a number from 1. */
static int column_wanted(const struct rows *rows, bool header, const char *wanted,
                         const char *option, size_t *ret, struct error *reterr) {
    if (!wanted)
        return 0;
    for (size_t i = 0; header && i < rows->first.count; i++)
        if (!strcmp(rows->first.fields[i].text, wanted)) {
            *ret = i;
            return 0;
        }
    int64_t number;
    if (text_int(wanted, &number) && number >= 1 && (uint64_t)number <= rows->first.count) {
        *ret = (size_t)number - 1;
        return 0;
    }
    return rows_fault(rows, rows->first.line, 0, ERR_USAGE, reterr,
                      "there is no column \"%s\", which --%s names; there are %zu%s", wanted,
                      option, rows->first.count, header ? ", see the file's first row" : "");
}

static bool is_header(const struct build *build, const struct row *first) {
    const struct import_options *options = build->options;
    if (options->header != HEADER_AUTO)
        return options->header == HEADER_YES;
    if (column_named(first, from_names) != SIZE_MAX && column_named(first, to_names) != SIZE_MAX)
        return true;
    const char *wanted[] = {options->from, options->to, options->weight, options->type};
    int64_t number;
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++)
        if (wanted[i] && !text_int(wanted[i], &number))
            return true;
    return false;
}

static int find_columns(struct build *build, const struct rows *rows, struct edge_columns *ret,
                        struct error *reterr) {
    const struct import_options *options = build->options;
    const struct row *first = &rows->first;
    bool header = is_header(build, first);
    *ret = (struct edge_columns){.from = 0,
                                 .to = 1,
                                 .weight = SIZE_MAX,
                                 .type = SIZE_MAX,
                                 .count = first->count,
                                 .header = header};
    if (header) {
        size_t from = column_named(first, from_names), to = column_named(first, to_names);
        if (from != SIZE_MAX && to != SIZE_MAX) {
            ret->from = from;
            ret->to = to;
        }
        ret->weight = column_named(first, weight_names);
        ret->type = column_named(first, type_names);
    }
    int r = column_wanted(rows, header, options->from, "source", &ret->from, reterr);
    if (r == 0)
        r = column_wanted(rows, header, options->to, "target", &ret->to, reterr);
    if (r == 0)
        r = column_wanted(rows, header, options->weight, "weight", &ret->weight, reterr);
    if (r == 0)
        r = column_wanted(rows, header, options->type, "type", &ret->type, reterr);
    if (r < 0)
        return r;
    if (first->count >= 2 && ret->from == ret->to)
        return rows_fault(rows, first->line, 0, ERR_USAGE, reterr,
                          "field %zu would be both the source and the target of an edge; give "
                          "--source and --target",
                          ret->from + 1);
    if (first->count < 2)
        return rows_fault(rows, first->line, (uint32_t)first->fields[0].len + 1, ERR_FORMAT, reterr,
                          "an edge needs two fields, its source and its target; this row has %zu "
                          "(--delimiter says what is between fields)",
                          first->count);
    for (int end = 0; options->bipartite && end < 2; end++) {
        const char *kind = header ? first->fields[end ? ret->to : ret->from].text
                           : end  ? "target"
                                  : "source";
        if (!*kind || strlen(kind) >= sizeof ret->kinds[end])
            return rows_fault(rows, first->line, 0, ERR_USAGE, reterr,
                              "--bipartite: the two kinds of nodes are named as their columns; a "
                              "name is 1 to %zu bytes long",
                              sizeof ret->kinds[end] - 1);
        strcpy(ret->kinds[end], kind);
    }
    if (options->bipartite && !strcmp(ret->kinds[0], ret->kinds[1]))
        return rows_fault(rows, first->line, 0, ERR_USAGE, reterr,
                          "--bipartite: the two kinds of nodes are named as their columns, and "
                          "both are called \"%s\"",
                          ret->kinds[0]);
    return 0;
}

static void remark_left_out(struct build *build, const struct rows *rows,
                            const struct edge_columns *columns) {
    char list[200] = "";
    size_t len = 0;
    for (size_t i = 0; i < columns->count; i++) {
        if (i == columns->from || i == columns->to || i == columns->weight || i == columns->type ||
            len > sizeof list - 50)
            continue;
        char shown[40];
        len += (size_t)snprintf(
            list + len, sizeof list - len, "%s%s", len ? ", " : "",
            columns->header ? text_printable(rows->first.fields[i].text, shown, sizeof shown)
                            : (snprintf(shown, sizeof shown, "%zu", i + 1), shown));
    }
    _cleanup_(mem_free_p) char *text = mem_printf(
        "columns that were not read: %s (--weight and --type name those that should)", list);
    if (len)
        build_remark(build, rows->path, text);
}

int edge_columns_find(struct build *build, const char *path, struct edge_columns *ret,
                      struct error *reterr) {
    const struct rows_options options = rows_options(build, path);
    struct rows *rows = NULL;
    int r = rows_open(&options, &rows, reterr);
    if (r < 0)
        return r;
    if (rows->first.count == 0)
        r = rows_fault(rows, 1, 0, ERR_FORMAT, reterr, "there is no edge in it");
    else
        r = find_columns(build, rows, ret, reterr);
    if (r == 0)
        remark_left_out(build, rows, ret);
    rows_close(rows);
    return r;
}
