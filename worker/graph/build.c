/* What all formats share: checking rows, columns and edges, and building the CSR. */
#include "worker/graph/build.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/vec.h"
#include "worker/graph/csr.h"

#define FEATURE_DIM_MAX (1u << 24)
#define LABEL_UNSEEN (-2) /* no row has named this node yet */

void build_done(struct build *build) {
    npy_abandon(build->features);
    idmap_free(build->ids);
    for (uint32_t i = 0; build->class_names && i < build->classes; i++)
        mem_free(build->class_names[i]);
    mem_free(build->class_names);
    mem_free(build->labels);
    mem_free(build->split);
    mem_free(build->indptr);
    mem_free(build->indices);
    mem_free(build->cursor);
}

int build_fault(const struct place *place, int code, struct error *reterr, const char *format,
                ...) {
    char text[480], shown[480];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return error_set(reterr, code, place->array ? "%s[%llu]: %s" : "%s:%llu: %s", place->path,
                     (unsigned long long)place->number, csv_printable(text, shown, sizeof shown));
}

void build_remark(struct build *build, const char *path, const char *text) {
    char *remarks = build->summary->remarks;
    size_t len = strlen(remarks);
    _cleanup_(mem_free_p) char *line = mem_printf("%s: %s\n", path, text);
    /* Edges are read twice. */
    if (!strstr(remarks, line) && len + strlen(line) < sizeof build->summary->remarks)
        strcpy(remarks + len, line);
}

void build_csv_ended(struct build *build, const struct csv *csv) {
    if (csv->junk)
        build_remark(build, csv->path,
                     "something follows the end of the gzip data; it was left out");
}

struct place build_place(const struct csv *csv) {
    return (struct place){.path = csv->path, .number = csv->line};
}

void build_progress(struct build *build, const char *what, uint64_t done, uint64_t total) {
    if (!build->progress || done == build->progress_was)
        return;
    build->progress_was = done;
    build->progress(build->progress_ctx, what, done, total);
}

const char *build_name(const struct build *build, uint64_t node, char *buf, size_t buf_bytes) {
    if (build->ids) {
        char *text = idmap_text(build->ids, node);
        snprintf(buf, buf_bytes, "\"%s\"", text);
        mem_free(text);
    } else {
        snprintf(buf, buf_bytes, "%llu", (unsigned long long)node);
    }
    return buf;
}

const char *build_split_name(enum split split) {
    static const char *const names[] = {"none", "train", "valid", "test"};
    return names[split];
}

int build_features_begin(struct build *build, const struct place *place, uint64_t feature_dim,
                         struct error *reterr) {
    if (feature_dim < 1 || feature_dim > FEATURE_DIM_MAX)
        return build_fault(place, ERR_RANGE, reterr, "%llu features a node; there must be 1 to %u",
                           (unsigned long long)feature_dim, FEATURE_DIM_MAX);
    build->feature_dim = (uint32_t)feature_dim;
    _cleanup_(mem_free_p) char *path = mem_printf("%s/features.npy", build->tmp);
    return npy_create(path, NPY_F4, feature_dim, &build->features, reterr);
}

int build_features(struct build *build, const struct place *place, const float *row,
                   struct error *reterr) {
    if (build->nodes == CSR_NODES_MAX)
        return build_fault(place, ERR_LIMIT, reterr, "more than 2^31 - 1 nodes");
    if (!vec()->finite(row, build->feature_dim)) {
        uint32_t column = 0;
        while (isfinite(row[column]))
            column++;
        char name[96];
        return build_fault(place, ERR_NOT_FINITE, reterr,
                           "feature %u of node %s is %s; every feature must be a finite number "
                           "(32 bits: below 3.4e38)",
                           column, build_name(build, build->nodes, name, sizeof name),
                           isnan(row[column]) ? "nan" : "infinite");
    }
    build->nodes++;
    return npy_append(build->features, row, build->feature_dim, reterr);
}

int build_features_end(struct build *build, const char *path, struct error *reterr) {
    if (build->nodes == 0)
        return error_set(reterr, ERR_FORMAT, "%s: there are no nodes in it", path);
    int r = npy_commit(TAKE_PTR(build->features), reterr);
    if (r < 0)
        return r;
    build->labels = mem_array(build->nodes, sizeof *build->labels);
    build->split = mem_array(build->nodes, sizeof *build->split);
    for (uint64_t i = 0; i < build->nodes; i++)
        build->labels[i] = LABEL_UNSEEN;
    return 0;
}

int build_label(struct build *build, const struct place *place, uint64_t node, bool missing,
                int64_t label, struct error *reterr) {
    char name[96];
    if (build->labels[node] != LABEL_UNSEEN)
        return build_fault(place, ERR_FORMAT, reterr, "node %s has a label already",
                           build_name(build, node, name, sizeof name));
    if (!missing && (label < 0 || label >= LABEL_MAX))
        return build_fault(place, ERR_RANGE, reterr,
                           "label %lld of node %s is out of range; labels are 0 to %d, and -1, nan "
                           "or nothing where there is none",
                           (long long)label, build_name(build, node, name, sizeof name),
                           LABEL_MAX - 1);
    build->labels[node] = missing ? -1 : (int32_t)label;
    if (!missing && label >= build->classes)
        build->classes = (uint32_t)label + 1;
    return 0;
}

int build_split(struct build *build, const struct place *place, uint64_t node, enum split split,
                struct error *reterr) {
    char name[96];
    if (build->split[node] == split)
        return build_fault(place, ERR_FORMAT, reterr, "node %s is listed twice",
                           build_name(build, node, name, sizeof name));
    if (build->split[node] != SPLIT_NONE)
        return build_fault(place, ERR_FORMAT, reterr,
                           "node %s is in %s and in %s; it can be in one of them only",
                           build_name(build, node, name, sizeof name),
                           build_split_name(build->split[node]), build_split_name(split));
    build->split[node] = (uint8_t)split;
    return 0;
}

static int edge_place(struct build *build, const struct place *place, int64_t from, int64_t to,
                      struct error *reterr) {
    if (!build->placing) {
        build->indptr[to + 1]++;
        return 0;
    }
    if (build->cursor[to] == build->indptr[to + 1])
        return build_fault(place, ERR_IO, reterr,
                           "the file has changed since it was counted; import again");
    build->indices[build->cursor[to]++] = (int32_t)from;
    return 0;
}

int build_edge(struct build *build, const struct place *place, int64_t from, int64_t to,
               struct error *reterr) {
    for (int i = 0; i < 2; i++) {
        int64_t node = i ? to : from;
        if (node < 0 || (uint64_t)node >= build->nodes)
            return build_fault(place, ERR_RANGE, reterr,
                               "edge %s node %lld, which does not exist; nodes are 0 to %llu",
                               i ? "to" : "from", (long long)node,
                               (unsigned long long)build->nodes - 1);
    }
    build->read_edges++;
    if (from == to) {
        build->summary->self_loops += !build->placing;
        return 0;
    }
    int r = edge_place(build, place, from, to, reterr);
    if (r == 0 && build->options->undirected)
        r = edge_place(build, place, to, from, reterr);
    return r;
}

int build_edges(struct build *build, build_read *read, void *source, struct error *reterr) {
    build->indptr = mem_array(build->nodes + 1, sizeof *build->indptr);
    build->cursor = mem_array(build->nodes, sizeof *build->cursor);
    int r = read(source, build, reterr);
    if (r < 0)
        return r;
    build->summary->edges_read = build->read_edges;
    for (uint64_t i = 0; i < build->nodes; i++) {
        build->indptr[i + 1] += build->indptr[i];
        build->cursor[i] = build->indptr[i];
    }
    uint64_t entries = (uint64_t)build->indptr[build->nodes];
    build->indices = mem_array(entries ? entries : 1, sizeof *build->indices);
    build->placing = true;
    build->read_edges = 0;
    r = read(source, build, reterr);
    if (r < 0)
        return r;
    for (uint64_t i = 0; i < build->nodes; i++)
        if (build->cursor[i] != build->indptr[i + 1])
            return error_set(reterr, ERR_IO,
                             "%s: the edges changed while they were read; import again",
                             build->options->source);
    build->summary->repeats = csr_sort_unique(build->indptr, build->indices, build->nodes);
    build->summary->edges = (uint64_t)build->indptr[build->nodes];
    build->summary->symmetric = csr_symmetric(build->indptr, build->indices, build->nodes);
    return 0;
}
