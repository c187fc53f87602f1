/* Readers of one file of an import each: texts here, arrays below. They feed a build; the files are
 * found by import_files.c and import_ogb.c. */
#pragma once

#include "worker/graph/build.h"

/* How rows of a text belong to nodes. */
struct part_rows {
    const char *path;
    bool ids;        /* the first column is the node's id; else row k is node first + k */
    uint64_t first;  /* without ids */
    uint64_t count;  /* rows that must be there, without ids; UINT64_MAX: any */
    const char *why; /* where count is from */
};

/* The nodes themselves: id[,type]; closes the set of nodes. */
int text_nodes(struct build *build, const char *path, struct error *reterr);
/* Nodes (if they are not known yet: then these are all) and features. dim_before and dim_all: the
 * file's columns come after dim_before columns of zeros, of dim_all in all; 0 and 0: they are all.
 */
int text_features(struct build *build, const struct part_rows *rows, uint32_t dim_before,
                  uint32_t dim_all, struct error *reterr);
/* How many columns the file's rows have, *ret. */
int text_columns(struct build *build, const char *path, size_t *ret, struct error *reterr);
/* One label a row; without ids several columns are 0 or 1 for each class. Words, with ids only, are
 * numbered in sorted order. */
int text_labels(struct build *build, const struct part_rows *rows, struct error *reterr);
/* An id and the node's target values, as many in each row. */
int text_targets(struct build *build, const char *path, struct error *reterr);
/* Ids, one a row, of one split. Integers without ids are those of limit nodes from first on; limit
 * 0: all. */
int text_split(struct build *build, const char *path, enum split split, uint64_t first,
               uint64_t limit, struct error *reterr);
/* id,split with train, valid (val), test or none. */
int text_split_column(struct build *build, const char *path, struct error *reterr);

/* Which columns of a text are what; SIZE_MAX: none. */
struct edge_columns {
    size_t from, to, weight, type;
    size_t count; /* of fields in every row */
    bool header;
    char kinds[2][64]; /* bipartite: what sources and targets are called */
};
int edge_columns_find(struct build *build, const char *path, struct edge_columns *ret,
                      struct error *reterr);
/* Edges of a file. offsets: added to integers of sources and targets (OGB's ids within a type).
 * type: of all of them when there is no column of types; -1: none. column_weights, column_types: of
 * the file's k-th row, from other files; NULL. */
struct text_edges {
    const char *path;
    struct edge_columns columns;
    enum split kind;
    int64_t offsets[2];
    uint64_t limits[2]; /* without ids: how many nodes sources and targets have; 0: all nodes */
    int32_t type;
    const float *column_weights;
    const int32_t *column_types;
    uint64_t count; /* rows that must be there; UINT64_MAX: any */
    const char *why;
    char delimiter; /* 0: as the options say */
};
int text_edges(struct build *build, const struct text_edges *edges, struct error *reterr);
/* A file with one number in each row: for OGB's edge_x.csv. types: numbers of build->type_ids. */
int text_weights(struct build *build, const char *path, float **ret, uint64_t *ret_count,
                 struct error *reterr);
int text_types(struct build *build, const char *path, int32_t **ret, uint64_t *ret_count,
               struct error *reterr);

/* The same from .npy and .npz files. Without ids of their own: row k is node k. */
int array_features(struct build *build, const char *path, struct error *reterr);
int array_labels(struct build *build, const char *path, struct error *reterr);
int array_targets(struct build *build, const char *path, struct error *reterr);
/* Numbers of nodes, or a mask of all. */
int array_split(struct build *build, const char *path, enum split split, struct error *reterr);
int array_split_column(struct build *build, const char *path, struct error *reterr);
/* [m, 2], [2, m] (edge_index), or a sparse matrix: CSR, CSC or COO in an .npz as SciPy saves it. */
int array_edges(struct build *build, const char *path, enum split kind, struct error *reterr);
/* Does it have weights? */
bool array_edges_weighted(const char *path);

/* https://math.nist.gov/MatrixMarket/formats.html, coordinate: entry (i, j) is an edge from i to j,
 * ids are 1 to n. */
struct mtx {
    bool symmetric, weighted;
};
int mtx_header(const char *path, struct mtx *ret, struct error *reterr);
int mtx_edges(struct build *build, const char *path, enum split kind, struct error *reterr);
