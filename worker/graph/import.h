/* Raw files -> snapshot. A fault names file, line, column and cause; nothing is left half-written.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "worker/graph/edges.h"
#include "worker/graph/rows.h"

/* AUTO: told from what is in source. CSV, NPY: of the files that AUTO looks for, the texts or the
 * arrays only. */
enum import_format { IMPORT_AUTO, IMPORT_OGB, IMPORT_CSV, IMPORT_NPY, IMPORT_MTX };
enum import_header { HEADER_AUTO, HEADER_YES, HEADER_NO };

struct import_options {
    enum import_format format;
    const char *source;  /* directory, or the file of the edges; NULL: files below say all */
    const char *root;    /* data.root */
    const char *name;    /* letters, digits, . _ - */
    const char *version; /* semantic: 1.0.0 */
    const char *split;   /* OGB: folder below split/; NULL: the only one there is */

    /* Files instead of those that source has under the usual names; NULL: those. */
    const char *edges, *valid_edges, *test_edges, *nodes, *features, *labels;
    const char *train, *valid, *test;

    /* Columns of the edges' text, by name or by number from 1; NULL: the usual ones. For OGB x of
     * edge_x.csv. */
    const char *from, *to, *weight, *type;
    enum import_header header; /* of the edges' text */
    char delimiter;            /* of all texts; 0: told from each */
    bool bipartite;            /* sources and targets are ids of two kinds */
    bool undirected;           /* add the inverse of every edge (OGB's add_inverse_edge) */
    bool self_loops;           /* keep them */
    enum dedup dedup;
    bool multi_label;   /* labels' rows may name several, or the same node several times */
    bool half;          /* features as 16-bit floats */
    double ratio[3];    /* of labelled nodes to train, valid, test; all 0: as files say */
    double hold_out[2]; /* shares of the edges that are set aside to validate and to test links */
    uint64_t split_seed;
    uint64_t skip_bad; /* wrong rows that are left out instead of refused */
    bool overwrite;    /* replace a snapshot of that name and version */
};

struct import_summary {
    uint64_t nodes, edges_read, edges, self_loops,
        repeats;    /* dropped self-loops (or kept ones) and repeated edges */
    bool symmetric; /* every edge has its inverse */
    uint64_t valid_edges, test_edges;
    uint32_t feature_dim, classes, node_types, edge_types;
    bool weighted, multi_label, half;
    uint64_t train, valid, test; /* labelled nodes of each */
    uint64_t unlabelled;         /* of all nodes */
    const char *ids;             /* "0 to n-1", "integers" or "texts" */
    char types[256];             /* "29858 user, 40981 item", cut with ... when there are many */
    struct rejects rejects;
    char remarks[2048]; /* lines on files that are not quite as they should be */
    char dir[4096];
};

/* Called now and then with what is being read, in bytes; total 0: unknown. rows: how many of them
 * were read so far. May be NULL. */
typedef void import_progress(void *ctx, const char *what, uint64_t done, uint64_t total,
                             uint64_t rows);
/* Ends a run at the next occasion, with ERR_INTERRUPTED and nothing left behind. For signal
 * handlers. */
void import_interrupt(void);

int import_run(const struct import_options *options, import_progress *progress, void *ctx,
               struct import_summary *ret, struct error *reterr);
