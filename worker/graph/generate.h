/* A generated graph (generated.h) as files that `graphps import` reads: in a directory that appears
 * under its name when it is complete, or not at all. The same options give the same bytes, whatever
 * the number of threads. Memory does not grow with the graph. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "worker/graph/generated.h"

#define GENERATE_NODES_MAX INT32_MAX
#define GENERATE_FEATURES_MAX 65536
#define GENERATE_CLASSES_MAX 65536
#define GENERATE_THREADS_MAX 1024

enum generate_format {
    GENERATE_CSV, /* edges, features, labels, train, valid, test .csv */
    GENERATE_NPY, /* edges int32 [m, 2], features float32 [n, f], labels int32, split uint8 .npy */
};

struct generate_options {
    enum generated_kind kind;
    enum generate_format format;
    uint64_t nodes, edges, features, classes, seed;
    uint64_t threads; /* 0: as many as there are processors */
    const char *out;  /* the directory */
    bool overwrite;   /* replace it, when it holds nothing but what is generated */
};

/* Called now and then with the file being written, in bytes; total is estimated from those that are
 * there. Never by two threads at once. May be NULL. */
typedef void generate_progress(void *ctx, const char *what, uint64_t done, uint64_t total);
/* Ends a run at the next occasion, with ERR_INTERRUPTED and nothing left behind. For signal
 * handlers. */
void generate_interrupt(void);

/* ERR_RANGE for sizes no graph can have, ERR_EXISTS. *ret_bytes: of all files. */
int generate_run(const struct generate_options *options, generate_progress *progress, void *ctx,
                 uint64_t *ret_bytes, struct error *reterr);
