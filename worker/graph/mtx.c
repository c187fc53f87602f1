/* MatrixMarket files: a banner, and then rows that the reader of edges understands. */
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "worker/graph/parts.h"
#include "worker/graph/source.h"
#include "worker/graph/text.h"

#define BANNER "%%MatrixMarket"

int mtx_header(const char *path, struct mtx *ret, struct error *reterr) {
    struct source *source = NULL;
    char text[256] = "", object[32] = "", format[32] = "", field[32] = "", symmetry[32] = "";
    size_t len = 0;
    int r = source_open(path, &source, reterr);
    if (r < 0)
        return r;
    r = source_read(source, text, sizeof text - 1, &len, reterr);
    source_close(source);
    if (r < 0) {
        error_prefix(reterr, "%s", path);
        return r;
    }
    if (strncasecmp(text, BANNER, strlen(BANNER)) != 0 ||
        sscanf(text + strlen(BANNER), " %31s %31s %31s %31s", object, format, field, symmetry) != 4)
        return error_set(reterr, ERR_FORMAT,
                         "%s:1: does not begin with \"%%%%MatrixMarket matrix coordinate ...\"",
                         path);
    bool weighted = !strcasecmp(field, "real") || !strcasecmp(field, "integer");
    bool symmetric = !strcasecmp(symmetry, "symmetric");
    if (strcasecmp(object, "matrix") != 0 || strcasecmp(format, "coordinate") != 0 ||
        (!weighted && strcasecmp(field, "pattern") != 0) ||
        (!symmetric && strcasecmp(symmetry, "general") != 0))
        return error_set(reterr, ERR_FORMAT,
                         "%s:1: \"%s %s %s %s\" is not read; it must be matrix coordinate, real, "
                         "integer or pattern, general or symmetric",
                         path, object, format, field, symmetry);
    *ret = (struct mtx){.symmetric = symmetric, .weighted = weighted};
    return 0;
}

/* The line of sizes: rows, columns, entries. */
static int read_sizes(struct build *build, const char *path, int64_t sizes[3],
                      struct error *reterr) {
    const struct rows_options options = {
        .path = path, .delimiter = ROWS_BLANKS, .threads = 1, .rejects = &build->summary->rejects};
    struct rows *rows = NULL;
    int r = rows_open(&options, &rows, reterr);
    if (r < 0)
        return r;
    bool ok = rows->first.count == 3;
    for (size_t i = 0; ok && i < 3; i++)
        ok = text_int(rows->first.fields[i].text, &sizes[i]) && sizes[i] >= 0;
    if (!ok)
        r = rows_fault(rows, rows->first.line, 0, ERR_FORMAT, reterr,
                       "the first line after the comments must be: rows columns entries");
    else if (sizes[0] != sizes[1])
        r = rows_fault(rows, rows->first.line, 0, ERR_FORMAT, reterr,
                       "%lld rows and %lld columns; the edges of one kind of nodes are a square "
                       "matrix",
                       (long long)sizes[0], (long long)sizes[1]);
    rows_close(rows);
    return r;
}

/* Nodes 1 to n, when no other file has said which there are. */
static int add_nodes(struct build *build, const char *path, uint64_t n, uint64_t entries,
                     struct error *reterr) {
    int r = build_nodes_said(build, path, n, entries, reterr);
    build->ids = ids_new();
    for (uint64_t i = 1; r == 0 && i <= n; i++) {
        struct id_key key = id_key_integer((int64_t)i);
        int32_t number;
        ids_add(build->ids, &key, 1, n, &number);
    }
    build->open = false;
    build->nodes_path = path;
    return r;
}

int mtx_edges(struct build *build, const char *path, enum split kind, struct error *reterr) {
    struct mtx mtx;
    int64_t sizes[3];
    int r = mtx_header(path, &mtx, reterr);
    if (r == 0)
        r = read_sizes(build, path, sizes, reterr);
    if (r == 0 && build->open)
        r = add_nodes(build, path, (uint64_t)sizes[0], (uint64_t)sizes[2], reterr);
    if (r < 0)
        return r;
    build->undirected |= mtx.symmetric;
    const struct text_edges edges = {.path = path,
                                     .columns = {.from = 0,
                                                 .to = 1,
                                                 .weight = mtx.weighted ? 2 : SIZE_MAX,
                                                 .type = SIZE_MAX,
                                                 .count = mtx.weighted ? 3 : 2,
                                                 .header = true},
                                     .kind = kind,
                                     .offsets = {-1, -1},
                                     .type = -1,
                                     .count = (uint64_t)sizes[2],
                                     .why = "the line of sizes",
                                     .delimiter = ROWS_BLANKS};
    return text_edges(build, &edges, reterr);
}
