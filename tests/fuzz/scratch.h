/* A directory of the fuzz targets that need files, removed at the end: in memory where it can be.
 */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/file.h"

static char scratch[64];

static void scratch_remove(void) {
    (void)dir_remove(scratch, NULL);
}

static void scratch_make(void) {
    if (*scratch)
        return;
    snprintf(scratch, sizeof scratch, "%s/graphps-fuzz-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(scratch))
        abort();
    atexit(scratch_remove);
}

/* Static storage per call up to 4 calls. */
static const char *scratch_path(const char *name) {
    static char paths[4][256];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", scratch, name);
    return path;
}

static void scratch_write(const char *name, const void *data, size_t size) {
    FILE *file = fopen(scratch_path(name), "wbe");
    if (!file || (size && fwrite(data, 1, size, file) != size) || fclose(file) != 0)
        abort();
}
