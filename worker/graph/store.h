/* A partition as a worker sees it: mapped arrays, read-only. */
#pragma once

#include <stdbool.h>

#include "worker/graph/partition.h"

/* Held-out links whose target is owned. Without a halo those between owned nodes alone. */
struct links {
    size_t count;
    const int32_t *sources, *targets; /* [count] local numbers */
    const int32_t *relations;         /* [count] edge types, or NULL: there are none */
};

struct store {
    char snapshot_name[128];
    char digest[33]; /* of the snapshot */
    uint32_t part, parts, halo;
    uint64_t owned; /* nodes 0 .. owned-1 are ours */
    uint64_t local; /* owned + halo */
    uint64_t rows;  /* nodes that have their full neighbour row */
    /* [halo + 1]: nodes within h hops: hop_nodes[0] = owned, hop_nodes[halo] = local */
    uint64_t hop_nodes[HALO_MAX + 1];
    uint32_t feature_dim, classes;
    uint32_t node_types, edge_types; /* 0: all alike */
    const int64_t *nodes;            /* [local] global numbers */
    const int32_t *degree;           /* [local] in the whole graph */
    const int64_t *indptr;           /* [rows + 1]; entries below indptr[owned]: into owned nodes */
    const int32_t *indices;
    /* [local, feature_dim] as they lie on disk, one of them NULL; both when there are none: see
     * store_take_features. */
    const float *features;
    const uint16_t *half_features; /* IEEE halves */
    bool normalize;                /* rows are divided by their sum when they are taken */
    const int32_t *labels;         /* [local], -1: none */
    const uint8_t *split;          /* [local] enum split */
    /* What not every graph has, else NULL. */
    const uint8_t *multi_labels; /* [local, classes] 0 or 1 */
    const float *targets;        /* [local, classes]; labels are 0, or -1 where there are none */
    const uint8_t *node_type;    /* [local] below node_types */
    const int32_t *edge_type;    /* below edge_types, in the order of indices */
    const float *edge_weights;   /* in the order of indices */
    /* [local] sums of the weights of the edges into each in the whole graph */
    const float *weighted_degree;
    uint64_t train_nodes;       /* of the owned ones; labelled */
    uint64_t train_nodes_max;   /* of the part that has most: the same on all workers */
    uint64_t train_nodes_total; /* of the snapshot */
    uint64_t nodes_total;       /* the same */
    /* Edges into owned nodes, of the part that has most; 0: a part of an old release does not say.
     */
    uint64_t owned_edges_max;
    struct links links[4];   /* by enum split: validation and test */
    uint64_t links_total[4]; /* of the snapshot */
    struct npy files[20];
    void *made[9]; /* what store_from_snapshot made, else NULL */
};

/* Maps a part's arrays: its pages are shared by all processes that have it open. What is in them is
 * looked at once: a note beside them says that they were found right, and is believed while no file
 * has changed. verify: their checksums too. normalize: features are row-normalised. ERR_NOT_FOUND
 * says which `graphps partition` command makes it. */
int store_open(const char *snapshot_dir, uint32_t parts, uint32_t halo, uint32_t part, bool verify,
               bool normalize, struct store **ret, struct error *reterr);
/* The whole snapshot as one part without a halo, its arrays borrowed from it. Never fails. */
struct store *store_from_snapshot(const struct snapshot *snapshot, bool normalize);
struct store *store_close(struct store *store); /* takes NULL */

/* Features as a model wants them: floats, normalised if that was asked for. Of nodes locals
 * [count], or of count nodes from first on, to ret [count, feature_dim]. */
void store_take_features(const struct store *store, const int32_t *locals, size_t count,
                         float *ret);
void store_take_rows(const struct store *store, uint64_t first, size_t count, float *ret);
/* Are the mapped features just that already? */
bool store_features_plain(const struct store *store);
