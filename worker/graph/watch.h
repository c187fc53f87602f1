/* What long work tells of itself, and how it learns that it shall end. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

struct watch_step {
    const char *what;     /* "writing" */
    const char *unit;     /* "bytes"; NULL: the work cannot tell how far it is */
    uint64_t done, total; /* total 0: unknown */
};

/* Called now and then, always on the thread that began the work. False: it shall end. */
typedef bool watch_tell(void *ctx, const struct watch_step *step);
struct watch {
    watch_tell *tell; /* may be NULL */
    void *ctx;
};

/* ERR_INTERRUPTED when the work shall end. */
int watch_step(const struct watch *watch, const char *what, const char *unit, uint64_t done,
               uint64_t total, struct error *reterr);
