/* A snapshot under construction: every format's reader feeds it nodes, labels, splits and edges,
 * and it checks them alike. Features go straight to disk; edges are read twice, counted and then
 * placed, so that no list of them is ever kept beside the CSR. */
#pragma once

#include "worker/graph/csv.h"
#include "worker/graph/idmap.h"
#include "worker/graph/import.h"
#include "worker/graph/snapshot.h"

#define LABEL_MAX (1 << 20)

/* Where in the user's files something stands: "path:number" of a text's line, or "path[number]" of
 * an array's row. */
struct place {
    const char *path;
    uint64_t number;
    bool array;
};

struct build {
    const struct import_options *options;
    import_progress *progress; /* may be NULL */
    void *progress_ctx;
    const char *tmp; /* the directory being filled */
    struct import_summary *summary;

    uint64_t nodes;
    uint32_t feature_dim, classes;
    struct idmap *ids; /* NULL: ids are 0..nodes-1 */
    struct npy_writer *features;
    int32_t *labels;       /* [nodes], LABEL_UNSEEN before build_label */
    uint8_t *split;        /* [nodes] */
    char **class_names;    /* [classes] or NULL */
    int64_t *indptr;       /* [nodes + 1] */
    int32_t *indices;      /* [edges], allocated when they are counted */
    int64_t *cursor;       /* [nodes] where the next edge of a row goes */
    bool placing;          /* the second reading */
    uint64_t read_edges;   /* in this reading */
    uint64_t progress_was; /* done when progress was last told */
};

void build_done(struct build *build);

int build_fault(const struct place *place, int code, struct error *reterr, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
struct place build_place(const struct csv *csv);
/* Something the user should know of a file, for the summary. */
void build_remark(struct build *build, const char *path, const char *text);
/* To be called when csv_next has said 0: remarks what it saw. */
void build_csv_ended(struct build *build, const struct csv *csv);
void build_progress(struct build *build, const char *what, uint64_t done, uint64_t total);

/* 1. Features, row by row: node 0, 1, ... */
int build_features_begin(struct build *build, const struct place *place, uint64_t feature_dim,
                         struct error *reterr);
int build_features(struct build *build, const struct place *place, const float *row,
                   struct error *reterr);
int build_features_end(struct build *build, const char *path, struct error *reterr);
/* 2. and 3. The columns, each node at most once. A negative label is an error; missing: true. */
int build_label(struct build *build, const struct place *place, uint64_t node, bool missing,
                int64_t label, struct error *reterr);
int build_split(struct build *build, const struct place *place, uint64_t node, enum split split,
                struct error *reterr);
/* 4. Edges: read is called twice, and calls build_edge for each one both times. */
typedef int build_read(void *source, struct build *build, struct error *reterr);
int build_edges(struct build *build, build_read *read, void *source, struct error *reterr);
int build_edge(struct build *build, const struct place *place, int64_t from, int64_t to,
               struct error *reterr);

/* A node as the user calls it, for messages; into buf. */
const char *build_name(const struct build *build, uint64_t node, char *buf, size_t buf_bytes);
const char *build_split_name(enum split split);

/* The readers. */
int import_csv(struct build *build, struct error *reterr);
int import_ogb(struct build *build, struct error *reterr);
int import_npy(struct build *build, struct error *reterr);
