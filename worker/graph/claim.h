/* Who uses a snapshot or a partitioning: a shared lock on its manifest.json, held by every process
 * of a run for its life, so that `graphps snapshots rm` sees them. The kernel lets it go when the
 * process ends, however it ends; over NFS it holds between machines. */
#pragma once

#include <stdbool.h>

#include "common/error.h"

/* Until *ret_fd is closed. ERR_IN_USE: it is being removed; ERR_NOT_FOUND: it has been. *ret_fd is
 * -1 where the file system knows no locks: such a directory is nobody's to protect. */
int claim_take(const char *dir, int *ret_fd, struct error *reterr);
/* For who is going to remove it: ERR_IN_USE when anybody holds it. *ret_fd is -1 when the manifest
 * is not there or cannot be locked for writing. */
int claim_take_alone(const char *dir, int *ret_fd, struct error *reterr);
/* Does anybody hold it? Takes nothing. */
bool claim_held(const char *dir);
