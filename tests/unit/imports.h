/* Imports in a few lines: files given as texts go into a fresh directory, are imported, and the
 * snapshot is shown as text by the user's ids. For the tests of import. */
#pragma once

#include "worker/graph/import.h"
#include "worker/graph/snapshot.h"

/* The name decides what text becomes: <...>.gz is packed; <...>.npy is "<type> [<shape>] items...",
 * such as "<i8 [2, 2] 0 1 1 2"; <...>.npz has such a line for each member, its name first, and
 * "format csr" as SciPy writes it. All else is written as it is. */
struct imports_file {
    const char *name, *text;
};
#define IMPORTS_FILES 14

/* What is done, and what must come of it; what is NULL (or 0) is not looked at. Options that name
 * files name those below; name, version, root and, unless edges is given, source are filled in. */
struct imports_case {
    const char *about;
    struct imports_file files[IMPORTS_FILES];
    struct import_options options;
    const char *nodes, *edges, *valid_edges, *test_edges, *labels, *splits, *features, *types;
    const char *remark; /* somewhere in the summary's */
    uint64_t rejects;
    int code; /* of the error, whose text has message in it */
    const char *message;
};

/* Fails the test when something else comes of it, or something half-written is left. */
void imports_check(const struct imports_case *wanted);
/* Writes files to a fresh directory below tmp (made when it is not there). */
void imports_write(const char *dir, const struct imports_file *files, size_t count);
/* Imports, or fails the test. Close the snapshot. */
struct snapshot *imports_good(const struct import_options *options, struct import_summary *ret);

/* As text, free() it. nodes: "a b"; edges by target, in the order of the snapshot: "a>b", with
 * ":type" and "*weight" where there are some; labels: "red - 2" or, several, "red+2 - none";
 * targets: "0.5 - 3", or "0.5/1 - 3/2";
 * splits: "tvx." for train, valid, test, none; features: "1,0;2,5"; types: "user item". */
char *imports_nodes(const struct snapshot *snapshot);
char *imports_edges(const struct snapshot *snapshot);
char *imports_aside(const struct snapshot *snapshot, const struct npy *edges);
char *imports_labels(const struct snapshot *snapshot);
char *imports_splits(const struct snapshot *snapshot);
char *imports_features(const struct snapshot *snapshot);
char *imports_types(const struct snapshot *snapshot);
