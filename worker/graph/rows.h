/* The rows of a text table (CSV after RFC 4180: quotes, "" inside them, line breaks inside them; or
 * fields between tabs, semicolons or blanks), plain or gzip. One thread reads and cuts the text
 * into parts of whole rows, several parse them, and the caller gets what they made of it in the
 * file's order. Spaces around unquoted fields are dropped, empty lines skipped, and so are lines at
 * the head of the file that begin with # or %. Knows no column's meaning. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* Rows that are wrong: how many are put up with, over all files of an import. */
struct rejects {
    uint64_t allowed, count;
    char told[5][640]; /* the first ones, as sentences */
};

#define ROWS_BLANKS ' ' /* fields between any number of blanks */

struct rows_options {
    const char *path;
    char delimiter;          /* 0: told from the first row: tab, comma, semicolon, else blanks */
    uint32_t threads;        /* that parse; at least 1 */
    struct rejects *rejects; /* borrowed */
    size_t part_bytes;       /* for tests; 0: 1 MiB */
};

struct rows_field {
    char *text; /* 0-terminated; may be written to until the next row */
    size_t len;
};

/* A row, and where the walk over its part is. */
struct row {
    uint64_t line; /* where it begins, from 1 */
    size_t count;
    struct rows_field *fields;
    struct rows_walk *walk_p;
};

struct rows {
    char *path, *text_p;
    char delimiter;
    struct row first;     /* the first row; count 0: there is none */
    uint64_t done, total; /* bytes of the file on disk, for progress */
    bool junk;            /* at the end: something follows the gzip data, and was left out */
    struct rows_reader *reader_p;
};

/* Reads as far as the first row, which must be right. */
int rows_open(const struct rows_options *options, struct rows **ret, struct error *reterr);
struct rows *rows_close(struct rows *rows); /* takes NULL */

struct rows_ops {
    /* A place for what is parsed from one part, used again for others. */
    void *(*make)(void *ctx);
    void (*free)(void *parsed);
    /* Empties parsed and walks a part's rows: while (row_next(row)) ... In any thread, in any
     * order. What fields point to stays until use has returned. */
    void (*parse)(void *ctx, struct row *row, void *parsed);
    /* Takes what was parsed, in the file's order, in the thread that called rows_run. */
    int (*use)(void *ctx, void *parsed, struct error *reterr);
};
/* All rows; without the first one when it was a header. An error is that of the first row in the
 * file's order that is wrong beyond what rejects allows. */
int rows_run(struct rows *rows, bool header, const struct rows_ops *ops, void *ctx,
             struct error *reterr);
/* Inside parse: the next row. False at the end of the part, or when nothing more is of use. */
bool row_next(struct row *row);
/* Inside parse: this row is wrong at a field (from 0), go on with the next. */
void row_reject(struct row *row, size_t field, int code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* The same where it has not as many fields as wanted: at the first one too many, or where one is
 * missing. Says how many there are, and then what the format says. */
void row_reject_count(struct row *row, size_t wanted, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The column, from 1, where a field begins. */
uint32_t row_column(const struct row *row, size_t field);
/* Inside use: a row that was parsed is wrong. 0 when that is allowed; else code. column 0: the row
 * as a whole. */
int rows_reject(struct rows *rows, uint64_t line, uint32_t column, int code, struct error *reterr,
                const char *format, ...) __attribute__((format(printf, 6, 7)));
/* Fills *reterr with "path:line: ..." and returns code; column as above. */
int rows_fault(const struct rows *rows, uint64_t line, uint32_t column, int code,
               struct error *reterr, const char *format, ...) __attribute__((format(printf, 6, 7)));
