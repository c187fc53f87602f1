/* Telling. */
#include "worker/graph/watch.h"

int watch_step(const struct watch *watch, const char *what, const char *unit, uint64_t done,
               uint64_t total, struct error *reterr) {
    const struct watch_step step = {what, unit, done, total};
    if (!watch->tell || watch->tell(watch->ctx, &step))
        return 0;
    return error_set(reterr, ERR_INTERRUPTED, "interrupted; nothing was left behind");
}
