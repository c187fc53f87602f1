/* catalog.db, an SQLite file beside the snapshots: snapshots with their parents, partitionings, the
 * runs that used them and the models that came of it; for people and tools, training never depends
 * on it. The directory is the truth and this its index: what is copied there or removed by hand
 * is so whatever the catalog says.
 *
 *   snapshots(name, version, digest, nodes, edges, dir, created, parent, parent_digest)
 *             parent "name@version": what the import replaced (--overwrite, other contents), or
 *             else the newest version of that name below it that was there when it was imported;
 *             NULL when there was none
 *   partitions(name, version, partition ("2x1"), digest (the snapshot's), parts, halo, method,
 *             seed, edge_cut, created, dir)
 *   runs(dir, job, snapshot ("name@version"), digest, partition, state, valid_score,
 *             test_score, metric ("accuracy", ...: which score), started, updated, ended)
 *   models(path, job, md5, snapshot, digest, valid_score, test_score, metric, created)
 *
 * Paths below the root are kept relative to it, so that it can be moved; others are absolute. Times
 * are UTC, "2024-05-06T07:08:09Z". PRAGMA user_version is the schema's number; an older file is
 * upgraded in one transaction when it is opened (in memory where it cannot be written), a newer one
 * refused with ERR_FORMAT.
 *
 * Every call opens, does one transaction, closes; a busy database is waited for up to 10 s. Several
 * processes may use it at once. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct catalog_snapshot {
    const char *name, *version, *digest, *dir, *created;
    const char *parent, *parent_digest; /* NULL: none */
    uint64_t nodes, edges;
};
struct catalog_partition {
    const char *name, *version, *partition, *digest, *method, *created, *dir;
    uint32_t parts, halo;
    uint64_t seed, edge_cut;
};
/* One is known by its directory: a later state replaces the earlier. After "done" a new run may
 * take the directory; until then it is the same one, resumed. */
struct catalog_run {
    const char *job, *dir;
    const char *snapshot, *digest, *partition; /* digest and partition: NULL when unknown */
    const char *state;                         /* "running", "done", "failed", "interrupted" */
    double valid_score, test_score;            /* NAN when unknown */
    const char *metric;                        /* which score; NULL when unknown */
    const char *started, *ended;               /* not read when it is put; ended NULL: not yet */
};
struct catalog_model {
    const char *path, *job, *md5;
    const char *snapshot, *digest; /* NULL when unknown */
    double valid_score, test_score;
    const char *metric;
    const char *created; /* not read when it is added */
};

/* When it was created is what the manifest in dir says. */
int catalog_add_snapshot(const char *root, const char *name, const char *version,
                         const char *digest, uint64_t nodes, uint64_t edges, const char *dir,
                         struct error *reterr);
/* A partitioning, by its directory below a snapshot's; the rest is what the two manifests say. One
 * that is recorded already keeps its time. A snapshot outside of the root is none of the catalog's:
 * nothing happens. */
int catalog_add_partition(const char *root, const char *partition_dir, struct error *reterr);
int catalog_put_run(const char *root, const struct catalog_run *run, struct error *reterr);
/* A run's directory was moved, with the models in it. */
int catalog_move_run(const char *root, const char *from, const char *to, struct error *reterr);
int catalog_add_model(const char *root, const struct catalog_model *model, struct error *reterr);
/* Forgets a snapshot with its partitionings, or (partition not NULL) one of these. Runs and models
 * stay: they happened. */
int catalog_forget(const char *root, const char *name, const char *version, const char *partition,
                   struct error *reterr);

/* All of it; directories and paths come with the root in front, where they lie below it. */
struct catalog {
    struct catalog_snapshot *snapshots;
    struct catalog_partition *partitions;
    struct catalog_run *runs; /* by the time they started */
    struct catalog_model *models;
    size_t snapshot_count, partition_count, run_count, model_count;
    char **texts; /* what the above point to */
    size_t text_count;
};
/* Nothing in it when there is no catalog.db. */
int catalog_read(const char *root, struct catalog *ret, struct error *reterr);
void catalog_done(struct catalog *catalog);
