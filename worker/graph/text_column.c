/* A text with one field in each row: OGB's attributes of edges, which lie beside edge.csv. */
#include <math.h>

#include "common/mem.h"
#include "worker/graph/parts.h"
#include "worker/graph/text.h"

struct parsed {
    size_t n, cap;
    float *weights;
    struct id_key *types;
    int32_t *numbers;
};

struct reading {
    struct build *build;
    struct rows *rows;
    bool typed;
    float *weights; /* [count] */
    int32_t *types;
    uint64_t count, cap;
};

static void *parsed_make(void *ctx) {
    return mem_alloc(sizeof(struct parsed));
}

static void parsed_free(void *item) {
    struct parsed *parsed = item;
    mem_free(parsed->weights);
    mem_free(parsed->types);
    mem_free(parsed->numbers);
    mem_free(parsed);
}

static void parse(void *ctx, struct row *row, void *item) {
    const struct reading *reading = ctx;
    struct parsed *parsed = item;
    parsed->n = 0;
    while (row_next(row)) {
        if (parsed->n == parsed->cap) {
            size_t old = parsed->cap, cap = old ? 2 * old : 4096;
            parsed->weights = mem_resize(parsed->weights, old * sizeof *parsed->weights,
                                         cap * sizeof *parsed->weights);
            parsed->types =
                mem_resize(parsed->types, old * sizeof *parsed->types, cap * sizeof *parsed->types);
            parsed->numbers = mem_resize(parsed->numbers, old * sizeof *parsed->numbers,
                                         cap * sizeof *parsed->numbers);
            parsed->cap = cap;
        }
        const struct rows_field *field = &row->fields[0];
        if (row->count != 1)
            row_reject_count(row, 1, "there should be 1");
        else if (reading->typed && (field->len == 0 || field->len > IDS_TEXT_MAX))
            row_reject(row, 0, ERR_FORMAT, "the type is empty or too long");
        else if (reading->typed)
            parsed->types[parsed->n++] = id_key(field->text, field->len);
        else if (!text_float(field->text, &parsed->weights[parsed->n]) ||
                 !isfinite(parsed->weights[parsed->n]))
            row_reject(row, 0, ERR_FORMAT, "\"%.60s\" is no finite number", field->text);
        else
            parsed->n++;
    }
}

static int use(void *ctx, void *item, struct error *reterr) {
    struct reading *reading = ctx;
    struct parsed *parsed = item;
    size_t old = reading->cap;
    if (reading->count + parsed->n > old) {
        reading->cap = 2 * (reading->count + parsed->n);
        if (reading->typed)
            reading->types = mem_resize(reading->types, old * sizeof *reading->types,
                                        reading->cap * sizeof *reading->types);
        else
            reading->weights = mem_resize(reading->weights, old * sizeof *reading->weights,
                                          reading->cap * sizeof *reading->weights);
    }
    if (reading->typed &&
        !ids_add(reading->build->type_ids, parsed->types, parsed->n, 1u << 20, parsed->numbers))
        return error_set(reterr, ERR_RANGE, "%s: more than %u types of edges", reading->rows->path,
                         1u << 20);
    for (size_t i = 0; i < parsed->n; i++)
        if (reading->typed)
            reading->types[reading->count + i] = parsed->numbers[i];
        else
            reading->weights[reading->count + i] = parsed->weights[i];
    reading->count += parsed->n;
    reading->build->rows = reading->count;
    return build_progress(reading->build, "attributes of edges", reading->rows->done,
                          reading->rows->total, reterr);
}

static const struct rows_ops ops = {
    .make = parsed_make, .free = parsed_free, .parse = parse, .use = use};

static int column(struct reading *reading, const char *path, struct error *reterr) {
    const struct rows_options options = {.path = path,
                                         .delimiter = ',',
                                         .threads = reading->build->threads,
                                         .rejects = &reading->build->summary->rejects};
    int r = rows_open(&options, &reading->rows, reterr);
    if (r < 0)
        return r;
    r = rows_run(reading->rows, false, &ops, reading, reterr);
    rows_close(reading->rows);
    return r;
}

int text_weights(struct build *build, const char *path, float **ret, uint64_t *ret_count,
                 struct error *reterr) {
    struct reading reading = {.build = build};
    int r = column(&reading, path, reterr);
    *ret = reading.weights;
    *ret_count = reading.count;
    return r;
}

int text_types(struct build *build, const char *path, int32_t **ret, uint64_t *ret_count,
               struct error *reterr) {
    struct reading reading = {.build = build, .typed = true};
    int r = column(&reading, path, reterr);
    *ret = reading.types;
    *ret_count = reading.count;
    return r;
}
