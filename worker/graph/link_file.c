/* Rows of ids to numbers. */
#include "worker/graph/link_file.h"

#include <string.h>

#include "common/mem.h"
#include "worker/graph/ids.h"
#include "worker/graph/rows.h"

enum { ID_BYTES = IDS_TEXT_MAX + 1 };

struct reading {
    struct link_file *file;
    size_t cap, columns;
    struct ids *nodes, *types; /* types NULL: edges have none */
};

struct parsed {
    size_t n, cap;
    int32_t (*links)[3];
};

static void *parsed_make(void *ctx) {
    return mem_alloc(sizeof(struct parsed));
}

static void parsed_free(void *item) {
    struct parsed *parsed = item;
    mem_free(parsed->links);
    mem_free(parsed);
}

static bool find(const struct ids *ids, const struct row *row, size_t field, int32_t *ret) {
    const struct rows_field *text = &row->fields[field];
    *ret = -1;
    if (text->len > 0 && text->len <= IDS_TEXT_MAX) {
        struct id_key key = id_key(text->text, text->len);
        ids_find(ids, &key, 1, ret);
    }
    return *ret >= 0;
}

static void parse_row(const struct reading *reading, struct row *row, struct parsed *parsed) {
    static const char *const names[] = {"source", "target"};
    int32_t *link = parsed->links[parsed->n];
    if (row->count != reading->columns) {
        row_reject_count(row, reading->columns, "there should be %zu: source, target%s",
                         reading->columns, reading->types ? ", type" : "");
        return;
    }
    for (size_t k = 0; k < 2; k++)
        if (!find(reading->nodes, row, k, &link[k])) {
            row_reject(row, k, ERR_NOT_FOUND, "%s \"%.60s\" is no node of the snapshot", names[k],
                       row->fields[k].text);
            return;
        }
    if (reading->types && !find(reading->types, row, 2, &link[2]))
        row_reject(row, 2, ERR_NOT_FOUND, "\"%.60s\" is no type of the snapshot's edges",
                   row->fields[2].text);
    else
        parsed->n++;
}

static void parse(void *ctx, struct row *row, void *item) {
    struct parsed *parsed = item;
    parsed->n = 0;
    while (row_next(row)) {
        if (parsed->n == parsed->cap) {
            size_t old = parsed->cap;
            parsed->cap = old ? 2 * old : 1024;
            parsed->links = mem_resize(parsed->links, old * sizeof *parsed->links,
                                       parsed->cap * sizeof *parsed->links);
        }
        parse_row(ctx, row, parsed);
    }
}

static void grow(int32_t **items, size_t old, size_t cap) {
    *items = mem_resize(*items, old * sizeof **items, cap * sizeof **items);
}

static int use(void *ctx, void *item, struct error *reterr) {
    struct reading *reading = ctx;
    const struct parsed *parsed = item;
    struct link_file *file = reading->file;
    if (file->count + parsed->n > reading->cap) {
        size_t old = reading->cap;
        reading->cap = 2 * (file->count + parsed->n);
        grow(&file->sources, old, reading->cap);
        grow(&file->targets, old, reading->cap);
        if (reading->types)
            grow(&file->relations, old, reading->cap);
    }
    for (size_t i = 0; i < parsed->n; i++, file->count++) {
        file->sources[file->count] = parsed->links[i][0];
        file->targets[file->count] = parsed->links[i][1];
        if (reading->types)
            file->relations[file->count] = parsed->links[i][2];
    }
    return 0;
}

static struct ids *node_ids(const struct snapshot *snapshot) {
    struct ids *ids = ids_new();
    _cleanup_(mem_free_p) char *text = mem_raw(ID_BYTES);
    for (uint64_t i = 0; i < snapshot->nodes; i++) {
        const char *id = snapshot_id(snapshot, i, text, ID_BYTES);
        struct id_key key = id_key(id, strlen(id));
        int32_t number;
        ids_add(ids, &key, 1, INT32_MAX, &number);
    }
    return ids;
}

static struct ids *type_ids(const struct snapshot *snapshot) {
    struct ids *ids = snapshot->edge_types ? ids_new() : NULL;
    for (uint32_t i = 0; i < snapshot->edge_types; i++) {
        const char *name = snapshot->edge_type_names[i];
        struct id_key key = id_key(name, strlen(name));
        int32_t number;
        ids_add(ids, &key, 1, INT32_MAX, &number);
    }
    return ids;
}

static bool is_header(const struct rows *rows) {
    static const char *const names[] = {"source", "target", "type"};
    bool all = rows->first.count >= 2;
    for (size_t i = 0; i < rows->first.count && all; i++)
        all = i < 3 && strcmp(rows->first.fields[i].text, names[i]) == 0;
    return all;
}

int link_file_read(const char *path, const struct snapshot *snapshot, struct link_file *ret,
                   struct error *reterr) {
    static const struct rows_ops ops = {
        .make = parsed_make, .free = parsed_free, .parse = parse, .use = use};
    struct rejects rejects = {0};
    const struct rows_options options = {.path = path, .threads = 1, .rejects = &rejects};
    struct rows *rows;
    *ret = (struct link_file){0};
    int r = rows_open(&options, &rows, reterr);
    if (r < 0)
        return r;
    struct reading reading = {.file = ret,
                              .columns = snapshot->edge_types ? 3 : 2,
                              .nodes = node_ids(snapshot),
                              .types = type_ids(snapshot)};
    r = rows_run(rows, is_header(rows), &ops, &reading, reterr);
    rows_close(rows);
    ids_free(reading.nodes);
    ids_free(reading.types);
    return r;
}

void link_file_done(struct link_file *file) {
    mem_free(file->sources);
    mem_free(file->targets);
    mem_free(file->relations);
    *file = (struct link_file){0};
}
