/* The bytes of a text file, plain or gzip, one after the other. What comes is decided by how the
 * file begins, not by its name. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct source {
    char *path;
    uint64_t done, total; /* bytes of the file on disk */
    bool junk;            /* at the end: something follows the gzip data, and was left out */
    struct source_reader *reader_p;
};

int source_open(const char *path, struct source **ret, struct error *reterr);
struct source *source_close(struct source *source); /* takes NULL */
/* Up to bytes into text; *ret_len is 0 only at the end. Errors do not name the file: the caller
 * knows the line as well. ERR_FORMAT for a gzip file that ends too early; what came before that
 * has been given out. */
int source_read(struct source *source, char *text, size_t bytes, size_t *ret_len,
                struct error *reterr);
