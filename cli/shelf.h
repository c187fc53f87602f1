/* What is on disk below a root, beside what its catalog knows: for `graphps snapshots`. */
#pragma once

#include "worker/graph/catalog.h"
#include "worker/graph/snapshot.h"

enum shelf_state {
    SHELF_HERE,
    SHELF_DAMAGED, /* its directory is there, but its manifest cannot be read */
    SHELF_MISSING  /* the catalog has it, the disk has not */
};
const char *shelf_state_name(enum shelf_state state); /* "here", "damaged", "missing" */

struct shelf_partition {
    char *name; /* "2x1": its directory's */
    char *dir;
    enum shelf_state state;
    char *fault; /* of a damaged one */
    uint32_t parts, halo;
    uint64_t seed, edge_cut, bytes;
    char *method, *created;
    uint64_t owned_max, train_max, train, halo_nodes; /* of the largest parts; of all parts */
};

struct shelf_entry {
    char *name, *version, *label; /* label: "name@version" */
    char *dir;                    /* where it is or would be */
    enum shelf_state state;
    char *fault;                  /* of a damaged one */
    char *digest, *created;       /* NULL: unknown */
    char *parent, *parent_digest; /* NULL: none, or unknown */
    char *catalog_digest;         /* NULL: not in the catalog */
    uint64_t nodes, edges, feature_dim, classes, valid_edges, test_edges;
    uint64_t bytes; /* of all files, partitionings included */
    bool in_use;    /* a process holds it (claim.h) */
    struct shelf_partition *partitions;
    size_t partition_count;
};

struct shelf {
    char *root;
    struct catalog catalog;
    struct error catalog_fault;  /* code 0, or why the catalog is empty here */
    struct shelf_entry *entries; /* by name, then by version */
    size_t count;
    char **leftovers; /* directories that an interrupted removal left */
    size_t leftover_count;
};

/* A catalog that cannot be read is no failure: see catalog_fault. */
int shelf_read(const char *root, struct shelf *ret, struct error *reterr);
void shelf_done(struct shelf *shelf);
/* name@version, or a name of which there is one version only or (newest) the newest that is not
 * missing. ERR_NOT_FOUND and ERR_USAGE list what there is. */
int shelf_find(const struct shelf *shelf, const char *name, bool newest,
               const struct shelf_entry **ret, struct error *reterr);
/* Did the run, or did what became the model, use what is in this snapshot now? */
bool shelf_used(const struct shelf_entry *entry, const char *snapshot, const char *digest);
/* "running", "done", "failed", "interrupted"; "died" for one that says it runs though no process
 * holds its snapshot. */
const char *shelf_run_state(const struct shelf_entry *entry, const struct catalog_run *run);

/* Where a snapshot or a partitioning steps aside to be removed: a name under which nothing is
 * found; mem_free it. */
char *shelf_aside(const char *dir);
/* "12.3 MB" */
const char *shelf_bytes(uint64_t bytes, char buf[32]);
