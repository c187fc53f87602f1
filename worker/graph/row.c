/* The walk over a part's rows: fields are cut where they lie. Where a row ends is a matter of
 * quotes and line breaks alone, whatever else is wrong with it, so that this agrees with the
 * cutting in rows.c. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "worker/graph/rows_internal.h"
#include "worker/graph/text.h"

struct row row_make(const uint8_t *classes, bool blanks, uint64_t allowed) {
    struct rows_walk *walk = mem_alloc(sizeof *walk);
    *walk = (struct rows_walk){.classes = classes, .blanks = blanks, .allowed = allowed, .cap = 64};
    return (struct row){.fields = mem_array(walk->cap, sizeof(struct rows_field)), .walk_p = walk};
}

void row_done(struct row *row) {
    mem_free(row->fields);
    mem_free(row->walk_p);
}

void row_begin(struct row *row, struct rows_part *part) {
    struct rows_walk *walk = row->walk_p;
    walk->part = part;
    walk->at = part->text;
    walk->end = part->text + part->len;
    walk->next_line = part->line;
    walk->stopped = false;
    part->faults = 0;
}

static void reject(struct row *row, uint32_t column, int code, const char *text) {
    struct rows_walk *walk = row->walk_p;
    struct rows_part *part = walk->part;
    if (part->faults < FAULTS_TOLD) {
        struct rows_fault *fault = &part->told[part->faults];
        *fault = (struct rows_fault){.line = row->line, .column = column, .code = code};
        text_printable(text, fault->text, sizeof fault->text);
    }
    walk->stopped = ++part->faults > walk->allowed;
}

/* From 1. */
static uint32_t column_at(const struct row *row, const char *at) {
    return (uint32_t)(at - row->walk_p->begin) + 1;
}

uint32_t row_column(const struct row *row, size_t field) {
    return column_at(row, row->fields[field].text);
}

void row_reject(struct row *row, size_t field, int code, const char *format, ...) {
    char text[480];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    reject(row, row_column(row, field), code, text);
}

void row_reject_count(struct row *row, size_t wanted, const char *format, ...) {
    char text[480];
    int len = snprintf(text, sizeof text, "%zu fields where ", row->count);
    va_list args;
    va_start(args, format);
    vsnprintf(text + len, sizeof text - (size_t)len, format, args);
    va_end(args);
    const struct rows_field *last = &row->fields[row->count - 1];
    bool quoted = last->text > row->walk_p->begin && last->text[-1] == '"';
    reject(row,
           row->count > wanted ? row_column(row, wanted)
                               : column_at(row, last->text + last->len + quoted),
           ERR_FORMAT, text);
}

static void field_add(struct row *row, char *text, size_t len) {
    struct rows_walk *walk = row->walk_p;
    if (row->count == walk->cap && walk->cap < FIELDS_MAX) {
        row->fields = mem_resize(row->fields, walk->cap * sizeof *row->fields,
                                 2 * walk->cap * sizeof *row->fields);
        walk->cap *= 2;
    }
    if (row->count < walk->cap)
        row->fields[row->count] = (struct rows_field){text, len};
    row->count++;
}

/* What else was found wrong with the row at hand. */
struct flaw {
    const char *zero, *open; /* the first zero byte, a field whose quotes are not closed; or NULL */
    const char *stray;       /* after a closing quote */
    size_t stray_field;
};

static void note_zero(struct flaw *flaw, const char *at) {
    if (!*at && !flaw->zero)
        flaw->zero = at;
}

/* After the opening quote. Takes the quotes out, leaves at on what follows the field. */
static char *quoted_field(struct row *row, char *at, struct flaw *flaw) {
    struct rows_walk *walk = row->walk_p;
    char *start = at, *to = at;
    for (;; at++) {
        if (at == walk->end) {
            flaw->open = start;
            break;
        }
        if (*at == '"') {
            if (at[1] != '"')
                break;
            at++;
        }
        walk->next_line += *at == '\n';
        note_zero(flaw, at);
        *to++ = *at;
    }
    if (at < walk->end)
        at++;
    for (; at < walk->end && walk->classes[(uint8_t)*at] != CLASS_NEWLINE &&
           walk->classes[(uint8_t)*at] != CLASS_DELIMITER;
         at++)
        if (walk->classes[(uint8_t)*at] != CLASS_BLANK && !flaw->stray) {
            flaw->stray = at;
            flaw->stray_field = row->count;
            note_zero(flaw, at);
        }
    size_t len = (size_t)(to - start);
    field_add(row, start, len);
    return at;
}

static char *plain_field(struct row *row, char *at, struct flaw *flaw) {
    struct rows_walk *walk = row->walk_p;
    const uint8_t *classes = walk->classes;
    char *start = at;
    uint8_t class;
    for (; (class = classes[(uint8_t)*at]) < CLASS_DELIMITER; at++)
        if (class == CLASS_ZERO)
            note_zero(flaw, at);
    char *stop = at;
    while (stop > start && classes[(uint8_t)stop[-1]] == CLASS_BLANK)
        stop--;
    field_add(row, start, (size_t)(stop - start));
    return at;
}

/* Returns whether there was anything on the line. */
static bool row_read(struct row *row, struct flaw *flaw) {
    struct rows_walk *walk = row->walk_p;
    const uint8_t *classes = walk->classes;
    char *at = walk->at;
    bool any = false;
    row->count = 0;
    row->line = walk->next_line;
    walk->begin = at;
    for (;;) {
        while (classes[(uint8_t)*at] == CLASS_BLANK ||
               (walk->blanks && classes[(uint8_t)*at] == CLASS_DELIMITER))
            at++;
        if (walk->blanks && *at == '\n' && any)
            break;
        bool quoted = *at == '"';
        at = quoted ? quoted_field(row, at + 1, flaw) : plain_field(row, at, flaw);
        any |= quoted || row->fields[0].len > 0 || row->count > 1;
        if (at == walk->end || *at == '\n')
            break;
        at++;
    }
    if (at < walk->end) {
        walk->next_line++;
        at++;
    }
    walk->at = at;
    return any;
}

bool row_next(struct row *row) {
    struct rows_walk *walk = row->walk_p;
    while (!walk->stopped && walk->at < walk->end) {
        struct flaw flaw = {0};
        char text[96];
        if (!row_read(row, &flaw) && !flaw.zero)
            continue;
        if (flaw.zero) {
            reject(row, column_at(row, flaw.zero), ERR_FORMAT, "a zero byte; this is no text");
        } else if (flaw.open) {
            reject(row, column_at(row, flaw.open), ERR_FORMAT, "a quoted field is not closed");
        } else if (flaw.stray) {
            snprintf(text, sizeof text, "\"%c\" after the closing quote of field %zu", *flaw.stray,
                     flaw.stray_field + 1);
            reject(row, column_at(row, flaw.stray), ERR_FORMAT, text);
        } else if (row->count > walk->cap) {
            snprintf(text, sizeof text, "the row has more than %u fields", FIELDS_MAX);
            reject(row, row_column(row, FIELDS_MAX - 1), ERR_RANGE, text);
        } else {
            /* Only now, for the delimiters were needed until here. */
            for (size_t i = 0; i < row->count; i++)
                row->fields[i].text[row->fields[i].len] = 0;
            return true;
        }
    }
    return false;
}
