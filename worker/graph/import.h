/* Raw files -> snapshot. A fault names file, line and cause; nothing is left half-written. */
#pragma once

#include "common/error.h"
#include <stdbool.h>
#include <stdint.h>

enum import_format { IMPORT_OGB, IMPORT_CSV, IMPORT_NPY };

struct import_options {
    enum import_format format;
    const char *source;  /* directory */
    const char *root;    /* data.root */
    const char *name;    /* letters, digits, . _ - */
    const char *version; /* semantic: 1.0.0 */
    const char *split;   /* OGB: folder below split/; NULL: the only one there is */
    bool undirected;     /* add the inverse of every edge (OGB's add_inverse_edge) */
    bool overwrite;      /* replace a snapshot of that name and version */
};

struct import_summary {
    uint64_t nodes, edges_read, edges, self_loops,
        repeats;    /* dropped self-loops and repeated edges */
    bool symmetric; /* every edge has its inverse */
    uint32_t feature_dim, classes;
    uint64_t train, valid, test; /* labelled nodes of each */
    uint64_t unlabelled;         /* of all nodes */
    char remarks[1024];          /* lines on files that are not quite as they should be */
    char dir[4096];
};

/* Called now and then with what is being read, in bytes; total 0: unknown. May be NULL. */
typedef void import_progress(void *ctx, const char *what, uint64_t done, uint64_t total);

int import_run(const struct import_options *options, import_progress *progress, void *ctx,
               struct import_summary *ret, struct error *reterr);
