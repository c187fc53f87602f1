/* A generated graph's files: for each a function that makes any stretch of its rows, as text or as
 * an array's items, so that threads can make stretches of one file side by side. Writes nothing to
 * disk. */
#pragma once

#include "worker/graph/generated.h"

struct generate_file {
    const char *name;   /* "edges.csv" */
    const char *header; /* a text's first row; NULL: an array, or features, whose row is as long as
                         * there are features (generate_features_header) */
    bool array;
    enum npy_type type;                  /* of an array */
    bool of_edges;                       /* a row for each edge, else for each node */
    size_t row_bytes, row_feature_bytes; /* a row is at most the one and features times the other */
    enum split split;                    /* of the nodes of train.csv and its like */
    /* Rows first .. end-1 to `to`; returns how many bytes. */
    size_t (*rows)(const struct generate_file *file, const struct generated *graph, uint64_t first,
                   uint64_t end, uint8_t *to);
};

/* As `graphps import` looks for them; arrays or texts. */
const struct generate_file *generate_files(bool arrays, size_t *ret_count);
size_t generate_row_bytes_max(const struct generate_file *file, const struct generated *graph);
/* "id,f0,f1,...\n"; mem_free it. */
char *generate_features_header(const struct generated *graph);
