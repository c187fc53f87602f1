/* Rows of a CSV file (RFC 4180: quotes, "" inside them, line breaks inside them), plain or gzip,
 * streamed. Spaces around unquoted fields are dropped, empty lines skipped. Knows no column's
 * meaning. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct csv {
    char *path;
    uint64_t line;               /* where the row just read begins, from 1 */
    size_t count;                /* its fields */
    char **fields;               /* 0-terminated; borrowed until the next csv_next */
    uint64_t done, total;        /* bytes of the file on disk */
    bool junk;                   /* at the end: something follows the gzip data, and was left out */
    struct csv_reader *reader_p; /* private */
};

/* Opens dir/stem.csv.gz or dir/stem.csv; what says in a message what the file should hold.
 * ERR_NOT_FOUND when there is neither, ERR_USAGE when there are both. */
int csv_open(const char *dir, const char *stem, const char *what, struct csv **ret,
             struct error *reterr);
struct csv *csv_close(struct csv *csv); /* takes NULL */
/* 1: a row; 0: the end; or an error, such as ERR_FORMAT for a gzip file that ends too early. */
int csv_next(struct csv *csv, struct error *reterr);
/* Fills *reterr with "path:line: ..." and returns code. */
int csv_fault(const struct csv *csv, int code, struct error *reterr, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* A text of the user's as a terminal may show it, into buf: without the characters that it would
 * obey, which are written as \n and \x1b. Cut when buf is too small. */
const char *csv_printable(const char *text, char *buf, size_t buf_bytes);

/* The whole text as a number: an integer (3, -1, 3.0), a float (nan and inf too). False: it is
 * none. */
bool csv_int(const char *text, int64_t *ret);
bool csv_float(const char *text, float *ret);
