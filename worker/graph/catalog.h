/* catalog.db, an SQLite file beside the snapshots: snapshots, runs and exported models, for people
 * and tools; training never depends on it. Every call opens, writes one transaction, closes; a busy
 * database is waited for up to 10 s. */
#pragma once

#include <stdint.h>

#include "common/error.h"

int catalog_add_snapshot(const char *root, const char *name, const char *version,
                         const char *digest, uint64_t nodes, uint64_t edges, const char *dir,
                         struct error *reterr);
/* state: "running", "done", "failed", "interrupted"; a later call for the same dir updates the row.
 * Accuracies: NAN when unknown. */
int catalog_put_run(const char *root, const char *job, const char *dir, const char *snapshot,
                    const char *state, double valid_accuracy, double test_accuracy,
                    struct error *reterr);
int catalog_add_model(const char *root, const char *job, const char *path, const char *md5,
                      double valid_accuracy, double test_accuracy, struct error *reterr);
