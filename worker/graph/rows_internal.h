/* What the two halves of the row reader share: rows.c reads, cuts and runs the threads; row.c walks
 * over a part. */
#pragma once

#include "worker/graph/rows.h"

#define FIELDS_MAX ((1u << 24) + 2)
#define FAULTS_TOLD 5

struct rows_fault {
    uint64_t line;
    uint32_t column; /* 0: the row as a whole */
    int code;
    char text[360];
};

/* Whole rows of the file, the last with its line break. */
struct rows_part {
    char *text;
    size_t len, cap;
    uint64_t line; /* of the first character */
    uint64_t done; /* bytes of the file read by then */
    uint64_t faults;
    struct rows_fault told[FAULTS_TOLD];
    void *parsed;
};

/* What a character is to the walk. */
enum rows_class { CLASS_OTHER, CLASS_BLANK, CLASS_ZERO, CLASS_DELIMITER, CLASS_NEWLINE };

struct rows_walk {
    struct rows_part *part;
    const uint8_t *classes; /* [256] enum rows_class */
    bool blanks;            /* any number of them is one delimiter */
    uint64_t allowed;       /* faults after which walking on is of no use */
    char *at, *end, *begin; /* begin: of the row */
    uint64_t next_line;
    size_t cap;
    bool stopped;
};

/* Points the row at the part's beginning. Its fields' memory is kept from part to part. */
void row_begin(struct row *row, struct rows_part *part);
struct row row_make(const uint8_t *classes, bool blanks, uint64_t allowed);
void row_done(struct row *row);
