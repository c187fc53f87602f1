/* A partition as a worker sees it: mapped arrays, read-only. */
#pragma once

#include "worker/graph/partition.h"

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
    const int64_t *nodes;  /* [local] global numbers */
    const int32_t *degree; /* [local] in the whole graph */
    const int64_t *indptr; /* [rows + 1] */
    const int32_t *indices;
    const float *features;      /* [local, feature_dim] */
    const int32_t *labels;      /* [local], -1: none */
    const uint8_t *split;       /* [local] enum split */
    uint64_t train_nodes;       /* of the owned ones; labelled */
    uint64_t train_nodes_max;   /* of the part that has most: the same on all workers */
    uint64_t train_nodes_total; /* of the snapshot */
    struct npy files[8];
    float *normalized; /* features is this when row-normalised, else NULL */
    void *made[2];     /* nodes and degree of store_from_snapshot, else NULL */
};

/* normalize: features is a row-normalised private copy. ERR_NOT_FOUND says which `graphps
 * partition` command makes it. */
int store_open(const char *snapshot_dir, uint32_t parts, uint32_t halo, uint32_t part, bool verify,
               bool normalize, struct store **ret, struct error *reterr);
/* The whole snapshot as one part without a halo, its arrays borrowed from it. Never fails. */
struct store *store_from_snapshot(const struct snapshot *snapshot, bool normalize);
struct store *store_close(struct store *store); /* takes NULL */
