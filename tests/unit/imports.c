/* Files from texts, and snapshots to texts. */
#include "tests/unit/imports.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zip.h>
#include <zlib.h>

#include "common/mem.h"
#include "common/vec.h"
#include "tests/test.h"

static bool ends_with(const char *name, const char *end) {
    size_t len = strlen(name), end_len = strlen(end);
    return len > end_len && !strcmp(name + len - end_len, end);
}

static void write_gz(const char *path, const char *text) {
    gzFile gz = gzopen(path, "wb");
    ck_assert_ptr_nonnull(gz);
    ck_assert_int_eq(gzwrite(gz, text, (unsigned)strlen(text)), (int)strlen(text));
    ck_assert_int_eq(gzclose(gz), Z_OK);
}

static enum npy_type type_named(const char *name) {
    for (int type = 0; type < NPY_TYPE_END; type++)
        if (!strcmp(npy_type_name((enum npy_type)type), name))
            return (enum npy_type)type;
    ck_abort_msg("no type %s", name);
}

static void put_item(enum npy_type type, void *items, size_t i, const char *text) {
    double real = strtod(text, NULL);
    long long whole = strtoll(text, NULL, 10);
    switch (type) {
    case NPY_F2:
        vec()->halve(&(float){(float)real}, 1, NULL, (uint16_t *)items + i);
        break;
    case NPY_F4:
        ((float *)items)[i] = (float)real;
        break;
    case NPY_F8:
        ((double *)items)[i] = real;
        break;
    case NPY_I1:
    case NPY_U1:
    case NPY_BOOL:
        ((int8_t *)items)[i] = (int8_t)whole;
        break;
    case NPY_I2:
    case NPY_U2:
        ((int16_t *)items)[i] = (int16_t)whole;
        break;
    case NPY_I4:
    case NPY_U4:
        ((int32_t *)items)[i] = (int32_t)whole;
        break;
    default:
        ((int64_t *)items)[i] = whole;
    }
}

/* What numpy.save says of a transposed array. */
static void say_fortran(const char *path) {
    size_t len;
    char *bytes = test_read_file(path, &len), *order = strstr(bytes + 10, "False");
    ck_assert_ptr_nonnull(order);
    memcpy(order, "True ", 5);
    test_write_file(path, bytes, len);
    free(bytes);
}

/* "<type> [<shape>] items..." of one or two dimensions; an F before it: items lie in Fortran
 * order. */
static void write_npy(const char *path, const char *text) {
    bool fortran = *text == 'F';
    text += fortran;
    char type_name[8];
    unsigned long long rows = 0, cols = 0;
    int at = 0;
    if (sscanf(text, "%7s [%llu, %llu]%n", type_name, &rows, &cols, &at) != 3 || at == 0) {
        cols = at = 0;
        ck_assert_msg(sscanf(text, "%7s [%llu]%n", type_name, &rows, &at) == 2 && at > 0, "%s",
                      text);
    }
    enum npy_type type = type_named(type_name);
    size_t count = rows * (cols ? cols : 1), i = 0;
    void *items = calloc(count + 1, 8);
    char *copy = strdup(text + at);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " ")) {
        ck_assert_uint_lt(i, count);
        put_item(type, items, i++, word);
    }
    ck_assert_uint_eq(i, count);
    ck_assert_int_eq(npy_write(path, type, rows, cols, items, NULL), 0);
    if (fortran)
        say_fortran(path);
    free(copy);
    free(items);
}

/* NumPy's scalar of bytes, |S3. */
static void write_format(const char *path, const char *format) {
    char bytes[131];
    int len =
        snprintf(bytes, sizeof bytes,
                 "\x93NUMPY\x01%cv%c{'descr': '|S3', 'fortran_order': False, 'shape': (), }", 0, 0);
    memset(bytes + len, ' ', 128 - (size_t)len);
    bytes[127] = '\n';
    memcpy(bytes + 128, format, 3);
    test_write_file(path, bytes, sizeof bytes);
}

static void write_npz(const char *path, const char *text) {
    int code = 0;
    zip_t *zip = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, &code);
    ck_assert_ptr_nonnull(zip);
    char *copy = strdup(text), *save = NULL;
    char paths[8][512];
    size_t n = 0;
    for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save), n++) {
        char *rest = strchr(line, ' '), name[64];
        ck_assert(rest && n < 8);
        *rest++ = 0;
        int len = snprintf(paths[n], sizeof paths[n], "%s.%s.npy", path, line);
        ck_assert_int_lt(len, (int)sizeof paths[n]);
        /* write_npy uses strtok, which is why this loop does not. */
        if (!strcmp(line, "format"))
            write_format(paths[n], rest);
        else
            write_npy(paths[n], rest);
        snprintf(name, sizeof name, "%s.npy", line);
        zip_source_t *source = zip_source_file(zip, paths[n], 0, -1);
        ck_assert_int_ge(zip_file_add(zip, name, source, 0), 0);
    }
    ck_assert_int_eq(zip_close(zip), 0);
    for (size_t i = 0; i < n; i++)
        remove(paths[i]);
    free(copy);
}

void imports_write(const char *dir, const struct imports_file *files, size_t count) {
    for (size_t i = 0; i < count && files[i].name; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", dir, files[i].name);
        *strrchr(path, '/') = 0;
        ck_assert_int_eq(dir_make(path, NULL), 0);
        path[strlen(path)] = '/';
        if (ends_with(path, ".gz"))
            write_gz(path, files[i].text);
        else if (ends_with(path, ".npy"))
            write_npy(path, files[i].text);
        else if (ends_with(path, ".npz"))
            write_npz(path, files[i].text);
        else
            test_write_file(path, files[i].text, strlen(files[i].text));
    }
}

struct snapshot *imports_good(const struct import_options *options, struct import_summary *ret) {
    struct snapshot *snapshot = NULL;
    struct error err = {0};
    ck_assert_msg(import_run(options, NULL, NULL, ret, &err) == 0, "%s", err.text);
    ck_assert_msg(snapshot_open(ret->dir, true, &snapshot, &err) == 0, "%s", err.text);
    return snapshot;
}

/* A text that grows. */
struct text {
    char *bytes;
    size_t len, cap;
};

static void add(struct text *text, const char *format, ...) {
    va_list args;
    if (text->cap - text->len < 4096) {
        text->cap = 2 * text->cap + 8192;
        text->bytes = realloc(text->bytes, text->cap);
        ck_assert_ptr_nonnull(text->bytes);
        text->bytes[text->len] = 0;
    }
    va_start(args, format);
    text->len += (size_t)vsnprintf(text->bytes + text->len, 4096, format, args);
    va_end(args);
}

char *imports_nodes(const struct snapshot *s) {
    struct text text = {0};
    char id[512];
    for (uint64_t i = 0; i < s->nodes; i++)
        add(&text, "%s%s", i ? " " : "", snapshot_id(s, i, id, sizeof id));
    return text.bytes;
}

static void add_ends(struct text *text, const struct snapshot *s, uint64_t from, uint64_t to) {
    char id[512];
    add(text, "%s%s", text->len ? " " : "", snapshot_id(s, from, id, sizeof id));
    add(text, ">%s", snapshot_id(s, to, id, sizeof id));
}

char *imports_edges(const struct snapshot *s) {
    const int64_t *indptr = s->indptr.data;
    const int32_t *indices = s->indices.data, *types = s->edge_type.data;
    const float *weights = s->edge_weights.data;
    struct text text = {0};
    add(&text, "");
    for (uint64_t i = 0; i < s->nodes; i++)
        for (int64_t e = indptr[i]; e < indptr[i + 1]; e++) {
            add_ends(&text, s, (uint64_t)indices[e], i);
            if (types)
                add(&text, ":%s", s->edge_type_names[types[e]]);
            if (weights)
                add(&text, "*%g", (double)weights[e]);
        }
    return text.bytes;
}

char *imports_aside(const struct snapshot *s, const struct npy *edges) {
    const int32_t *items = edges->data;
    struct text text = {0};
    add(&text, "");
    for (uint64_t i = 0; items && i < edges->shape[0]; i++) {
        const int32_t *item = items + i * edges->shape[1];
        add_ends(&text, s, (uint64_t)item[0], (uint64_t)item[1]);
        if (edges->shape[1] == 3)
            add(&text, ":%s", s->edge_type_names[item[2]]);
    }
    return text.bytes;
}

static void add_class(struct text *text, const struct snapshot *s, uint64_t class) {
    if (s->class_names)
        add(text, "%s", s->class_names[class]);
    else
        add(text, "%llu", (unsigned long long)class);
}

char *imports_labels(const struct snapshot *s) {
    const int32_t *labels = s->labels.data;
    const uint8_t *several = s->multi_labels.data;
    struct text text = {0};
    for (uint64_t i = 0; i < s->nodes; i++) {
        add(&text, "%s%s", i ? " " : "", labels[i] < 0 ? "-" : "");
        bool any = false;
        for (uint64_t k = 0; several && k < s->classes; k++)
            if (several[i * s->classes + k]) {
                ck_assert_int_eq(labels[i], 0);
                add(&text, "%s", any ? "+" : "");
                add_class(&text, s, k);
                any = true;
            }
        if (several && labels[i] >= 0 && !any)
            add(&text, "none");
        const float *targets = s->targets.data;
        for (uint64_t k = 0; targets && labels[i] >= 0 && k < s->classes; k++)
            add(&text, "%s%g", k ? "/" : "", (double)targets[i * s->classes + k]);
        if (!several && !targets && labels[i] >= 0)
            add_class(&text, s, (uint64_t)labels[i]);
    }
    return text.bytes;
}

char *imports_splits(const struct snapshot *s) {
    struct text text = {0};
    for (uint64_t i = 0; i < s->nodes; i++)
        add(&text, "%c", ".tvx"[((const uint8_t *)s->split.data)[i]]);
    return text.bytes;
}

char *imports_features(const struct snapshot *s) {
    struct text text = {0};
    add(&text, "");
    for (uint64_t i = 0; s->features.data && i < s->features.count; i++)
        add(&text, "%s%g",
            i == 0               ? ""
            : i % s->feature_dim ? ","
                                 : ";",
            npy_double(&s->features, i));
    return text.bytes;
}

char *imports_types(const struct snapshot *s) {
    const uint8_t *types = s->node_type.data;
    struct text text = {0};
    add(&text, "");
    for (uint64_t i = 0; types && i < s->nodes; i++)
        add(&text, "%s%s", i ? " " : "", s->node_type_names[types[i]]);
    return text.bytes;
}

static void expect(const char *about, const char *what, const char *wanted, char *found) {
    if (wanted)
        ck_assert_msg(!strcmp(wanted, found), "%s: %s\n  wanted \"%s\"\n  found  \"%s\"", about,
                      what, wanted, found);
    free(found);
}

static void expect_snapshot(const struct imports_case *wanted, const struct snapshot *s) {
    expect(wanted->about, "nodes", wanted->nodes, imports_nodes(s));
    expect(wanted->about, "edges", wanted->edges, imports_edges(s));
    expect(wanted->about, "valid edges", wanted->valid_edges, imports_aside(s, &s->valid_edges));
    expect(wanted->about, "test edges", wanted->test_edges, imports_aside(s, &s->test_edges));
    expect(wanted->about, "labels", wanted->labels, imports_labels(s));
    expect(wanted->about, "splits", wanted->splits, imports_splits(s));
    expect(wanted->about, "features", wanted->features, imports_features(s));
    expect(wanted->about, "types", wanted->types, imports_types(s));
}

/* The snapshots below root, and nothing beside them. */
static void expect_entries(const char *about, const char *root, size_t wanted) {
    char **names;
    size_t count;
    const char *dir = test_path(root, "snapshots");
    if (!file_exists(dir)) /* refused before it was made */
        ck_assert_uint_eq(wanted, 0);
    if (!file_exists(dir))
        return;
    ck_assert_int_eq(dir_list(dir, &names, &count, NULL), 0);
    ck_assert_msg(count == wanted, "%s: %zu entries where %zu should be, one is %s", about, count,
                  wanted, count ? names[0] : "");
    dir_list_free(names, count);
}

void imports_check(const struct imports_case *wanted) {
    const char *dir = test_tmpdir(), *root = test_tmpdir();
    imports_write(dir, wanted->files, IMPORTS_FILES);
    struct import_options options = wanted->options;
    options.root = root;
    options.name = "g";
    options.version = "1.0.0";
    if (!options.edges || options.source)
        options.source = options.source ? test_path(dir, options.source) : dir;
    const char **paths[] = {&options.edges,   &options.valid_edges, &options.test_edges,
                            &options.nodes,   &options.features,    &options.labels,
                            &options.targets, &options.train,       &options.valid,
                            &options.test};
    for (size_t i = 0; i < ARRAY_LEN(paths); i++)
        if (*paths[i])
            *paths[i] = test_path(dir, *paths[i]);
    struct import_summary *summary = calloc(1, sizeof *summary);
    struct error err = {0};
    if (wanted->code < 0) {
        int r = import_run(&options, NULL, NULL, summary, &err);
        ck_assert_msg(r == wanted->code && strstr(err.text, wanted->message),
                      "%s: expected %s \"%s\", got %s \"%s\"", wanted->about,
                      error_name(wanted->code), wanted->message, error_name(r), err.text);
        expect_entries(wanted->about, root, 0);
        free(summary);
        return;
    }
    ck_assert_msg(import_run(&options, NULL, NULL, summary, &err) == 0, "%s: %s", wanted->about,
                  err.text);
    struct snapshot *s = NULL;
    ck_assert_msg(snapshot_open(summary->dir, true, &s, &err) == 0, "%s: %s", wanted->about,
                  err.text);
    expect_snapshot(wanted, s);
    expect_entries(wanted->about, root, 1);
    ck_assert_msg(!wanted->remark || strstr(summary->remarks, wanted->remark), "%s: remarks \"%s\"",
                  wanted->about, summary->remarks);
    ck_assert_msg(wanted->rejects == summary->rejects.count, "%s: %llu rejects", wanted->about,
                  (unsigned long long)summary->rejects.count);
    snapshot_close(s);
    free(summary);
}
