/* A snapshot under construction: every format's reader feeds it nodes, features, labels, splits and
 * edges, and it checks them alike. Features go straight to disk, edges to a file aside. */
#pragma once

#include <stdarg.h>

#include "common/npy.h"
#include "worker/graph/csr.h"
#include "worker/graph/edges.h"
#include "worker/graph/ids.h"
#include "worker/graph/import.h"
#include "worker/graph/snapshot.h"

#define LABEL_MAX (1 << 20)
#define FEATURE_DIM_MAX (1u << 24)
#define TARGETS_MAX 4096u

/* Where in the user's files something stands: "path:line:column" of a text, whose rows may be left
 * out when they are wrong, or "path[row]" of an array. */
struct place {
    struct rows *rows; /* NULL: an array */
    const char *path;
    uint64_t number;
    uint32_t column;
};
static inline struct place place_line(struct rows *rows, uint64_t line, uint32_t column) {
    return (struct place){rows, rows->path, line, column};
}
static inline struct place place_item(const char *path, uint64_t item) {
    return (struct place){NULL, path, item, 0};
}

/* Edges set aside for link prediction. */
struct aside {
    int32_t *items; /* [count, 2 or 3] */
    uint64_t count, cap;
};

struct build {
    const struct import_options *options;
    import_progress *progress; /* may be NULL */
    void *progress_ctx;
    const char *tmp; /* the directory being filled */
    struct import_summary *summary;
    uint32_t threads; /* that parse texts */

    /* Nodes. open: ids that no file of nodes or features has named are new nodes. */
    bool open;
    const char *nodes_path; /* the file that named them; NULL while open */
    bool arrived;           /* splits: nodes are numbered as edges and labels brought them */
    struct ids *ids;        /* NULL: the numbers themselves are the ids, 0 .. nodes-1 */
    uint64_t numbers_end;   /* no ids, edges read: numbers from here on are no nodes; else 0 */
    uint64_t nodes, cap;
    int32_t *labels;     /* [cap], LABEL_UNSEEN before build_label */
    uint8_t *split;      /* [cap] */
    uint8_t *node_types; /* [cap]; NULL: all alike */
    char **node_type_names;
    uint32_t node_type_count;

    uint32_t feature_dim, classes;
    struct npy_writer *features;
    char **class_names;   /* [classes] or NULL */
    float *targets;       /* [cap, classes]; NULL: labels are classes */
    int32_t *label_pairs; /* [label_pair_count, 2] node, class; several labels a node */
    uint64_t label_pair_count, label_pair_cap;

    bool undirected; /* add the inverse of every edge */
    struct edges *edges;
    struct ids *type_ids; /* names of edge types as they came */
    struct aside valid_edges, test_edges;
    struct edges_csr csr;

    uint64_t progress_was; /* done when progress was last told */
    uint64_t rows;         /* of the file at hand, that are used; for progress */
};

void build_done(struct build *build);

/* Something is wrong at a place: 0 when the row may be left out (and is counted), else code. */
int build_reject(const struct place *place, int code, struct error *reterr, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* Something the user should know of a file, for the summary. */
void build_remark(struct build *build, const char *path, const char *text);
/* Tells progress; ERR_INTERRUPTED after import_interrupt. */
int build_progress(struct build *build, const char *what, uint64_t done, uint64_t total,
                   struct error *reterr);

/* Room for that many nodes in the columns; nodes grows to it. ERR_RANGE above 2^31 - 1. */
int build_nodes(struct build *build, uint64_t nodes, struct error *reterr);
/* The same, for a file that says how many there are: ERR_RANGE when its entries are so few that
 * this must be wrong, so that the cost of a file is bounded by its size. */
int build_nodes_said(struct build *build, const char *path, uint64_t nodes, uint64_t entries,
                     struct error *reterr);
/* The graph's edges are read, and nodes are numbers: what comes after them may name further ones,
 * but within the same bounds, lest one wrong number make a billion nodes. */
void build_numbers_end(struct build *build);
/* The nodes' numbers of keys [n]; new ids become nodes while open. -1: there is no such node. */
int build_resolve(struct build *build, const struct id_key *keys, size_t n, int32_t *numbers,
                  struct error *reterr);
/* Says so: what is "source", "target" or "id"; as build_reject. */
int build_unknown(struct build *build, const struct place *place, const char *what,
                  const struct id_key *key, struct error *reterr);
/* A node as the user calls it, for messages; into buf. */
const char *build_name(const struct build *build, uint64_t node, char *buf, size_t buf_bytes);
const char *build_split_name(enum split split);

/* Features, row by row: node 0, 1, ... n rows at once, checked to be finite by the caller. */
int build_features_begin(struct build *build, const struct place *place, uint64_t feature_dim,
                         struct error *reterr);
int build_features(struct build *build, const float *rows, uint64_t n, struct error *reterr);
int build_features_end(struct build *build, const char *path, struct error *reterr);

/* The columns. A negative label is an error; missing: there is none. */
int build_label(struct build *build, const struct place *place, uint64_t node, bool missing,
                int64_t label, struct error *reterr);
/* One of several labels of a node; a node that is named at all is labelled. */
int build_label_one_more(struct build *build, const struct place *place, uint64_t node,
                         int64_t label, struct error *reterr);
void build_labelled(struct build *build, uint64_t node);
/* It has no labels after all: those beyond the first pairs were its. */
void build_unlabelled(struct build *build, uint64_t node, uint64_t pairs);
/* Regression: every node has so many target values, in place of labels. The nodes' rows follow, [n]
 * values each, of a text in these columns (else NULL); a nan among them: the node has none. */
int build_targets_begin(struct build *build, const struct place *place, uint64_t targets,
                        struct error *reterr);
int build_target_row(struct build *build, const struct place *place, uint64_t node,
                     const float *values, const uint32_t *columns, struct error *reterr);
int build_split(struct build *build, const struct place *place, uint64_t node, enum split split,
                struct error *reterr);
/* Labelled nodes to train, valid, test by options->ratio. ERR_USAGE when there are none. */
int build_split_ratio(struct build *build, struct error *reterr);

/* Edges: weights and types as they will come with every one. */
int build_edges_begin(struct build *build, bool weights, bool types, struct error *reterr);
/* kind: SPLIT_TRAIN for those of the graph, SPLIT_VALID and SPLIT_TEST for those set aside. Ends
 * are checked by the caller. */
int build_edges(struct build *build, enum split kind, const struct edge_batch *batch,
                struct error *reterr);
/* Of the finished CSR: of the pairs of nodes that have edges, options->hold_out of them are set
 * aside with these; then all edges set aside leave
 * it, with their repeats and, where the graph is undirected, their inverses. ERR_RANGE when the
 * shares come to no edge, or to all. */
int build_hold_out(struct build *build, struct error *reterr);
/* After everything has been read: new numbers where ids came in no order, then the CSR. */
int build_finish(struct build *build, struct error *reterr);

/* The readers of whole layouts. */
int import_ogb(struct build *build, struct error *reterr);
int import_files(struct build *build, struct error *reterr);
