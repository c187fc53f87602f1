/* The CSV reader: one pass over characters, one buffer for the row, offsets of its fields. */
#include "worker/graph/csv.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

#include "common/file.h"
#include "common/mem.h"

#define INPUT_BYTES (128u << 10)
#define ROW_BYTES_MAX (256u << 20)
#define FIELDS_MAX ((1u << 24) + 2)

struct csv_reader {
    gzFile gz;
    bool ended;
    uint64_t next_line; /* the line the next character is on */
    char *input;
    size_t input_at, input_len;
    char *row;
    size_t row_len, row_cap;
    size_t *starts; /* [csv->count] offsets into row */
    size_t fields_cap;
};

int csv_fault(const struct csv *csv, int code, struct error *reterr, const char *format, ...) {
    char text[480];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return error_set(reterr, code, "%s:%llu: %s", csv->path, (unsigned long long)csv->line, text);
}

static char *csv_path(const char *dir, const char *stem, const char *what, int *ret,
                      struct error *reterr) {
    char *gz = mem_printf("%s/%s.csv.gz", dir, stem), *plain = mem_printf("%s/%s.csv", dir, stem);
    bool has_gz = file_exists(gz), has_plain = file_exists(plain);
    *ret = 0;
    if (has_gz && has_plain)
        *ret = error_set(reterr, ERR_USAGE, "both %s and %s are there; remove one", gz, plain);
    else if (!has_gz && !has_plain)
        *ret = error_set(reterr, ERR_NOT_FOUND, "%s: there is no such file, nor %s.csv.gz; it %s",
                         plain, stem, what);
    char *path = has_gz ? gz : plain;
    mem_free(has_gz ? plain : gz);
    return path;
}

int csv_open(const char *dir, const char *stem, const char *what, struct csv **ret,
             struct error *reterr) {
    int r;
    _cleanup_(mem_free_p) char *path = csv_path(dir, stem, what, &r, reterr);
    if (r < 0)
        return r;
    gzFile gz = gzopen(path, "rbe");
    if (!gz)
        return error_set(reterr, ERR_IO, "%s: %m", path);
    gzbuffer(gz, INPUT_BYTES);
    size_t len = strlen(path);
    if (!strcmp(path + len - 3, ".gz") && gzdirect(gz)) {
        gzclose(gz);
        return error_set(reterr, ERR_FORMAT, "%s: is not a gzip file, though its name says so",
                         path);
    }
    struct csv *csv = mem_alloc(sizeof *csv);
    struct csv_reader *reader = mem_alloc(sizeof *reader);
    struct stat stat_buf;
    if (stat(path, &stat_buf) == 0)
        csv->total = (uint64_t)stat_buf.st_size;
    csv->path = TAKE_PTR(path);
    csv->reader_p = reader;
    reader->gz = gz;
    reader->next_line = 1;
    reader->input = mem_alloc(INPUT_BYTES);
    reader->row_cap = 4096;
    reader->row = mem_alloc(reader->row_cap);
    reader->fields_cap = 64;
    reader->starts = mem_array(reader->fields_cap, sizeof *reader->starts);
    csv->fields = mem_array(reader->fields_cap, sizeof *csv->fields);
    *ret = csv;
    return 0;
}

struct csv *csv_close(struct csv *csv) {
    if (!csv)
        return NULL;
    gzclose_r(csv->reader_p->gz);
    mem_free(csv->reader_p->input);
    mem_free(csv->reader_p->row);
    mem_free(csv->reader_p->starts);
    mem_free(csv->reader_p);
    mem_free(csv->fields);
    mem_free(csv->path);
    mem_free(csv);
    return NULL;
}

/* 1: there is input; 0: the end. */
static int input_fill(struct csv *csv, struct error *reterr) {
    struct csv_reader *reader = csv->reader_p;
    if (reader->ended)
        return 0;
    int got = gzread(reader->gz, reader->input, INPUT_BYTES);
    int code = Z_OK;
    const char *text = gzerror(reader->gz, &code);
    /* At the end of a file that was cut off gzread gives what there was, or nothing, and says so
     * only through gzerror. */
    if (got < 0 || (got < (int)INPUT_BYTES && code == Z_BUF_ERROR)) {
        for (int i = 0; i < got; i++)
            reader->next_line += reader->input[i] == '\n';
        csv->line = reader->next_line;
        if (code == Z_BUF_ERROR)
            return csv_fault(csv, ERR_FORMAT, reterr,
                             "the gzip file ends too early; it is truncated, fetch it again");
        if (code == Z_DATA_ERROR)
            return csv_fault(csv, ERR_FORMAT, reterr, "the gzip file is damaged (%s)", text);
        return csv_fault(csv, ERR_IO, reterr, "cannot be read: %s", text);
    }
    z_off_t offset = gzoffset(reader->gz);
    csv->done = offset > 0 ? (uint64_t)offset : 0;
    reader->input_at = 0;
    reader->input_len = (size_t)got;
    reader->ended = got == 0;
    return got > 0;
}

static int row_put(struct csv *csv, char c, struct error *reterr) {
    struct csv_reader *reader = csv->reader_p;
    if (reader->row_len == reader->row_cap) {
        if (reader->row_cap >= ROW_BYTES_MAX)
            return csv_fault(csv, ERR_LIMIT, reterr, "the row is longer than %u MiB",
                             ROW_BYTES_MAX >> 20);
        reader->row = mem_resize(reader->row, reader->row_cap, reader->row_cap * 2);
        reader->row_cap *= 2;
    }
    reader->row[reader->row_len++] = c;
    return 0;
}

static int field_begin(struct csv *csv, struct error *reterr) {
    struct csv_reader *reader = csv->reader_p;
    if (csv->count == reader->fields_cap) {
        if (reader->fields_cap >= FIELDS_MAX)
            return csv_fault(csv, ERR_LIMIT, reterr, "the row has more than %u fields", FIELDS_MAX);
        size_t cap = reader->fields_cap;
        reader->starts = mem_resize(reader->starts, cap * sizeof(size_t), 2 * cap * sizeof(size_t));
        csv->fields = mem_resize(csv->fields, cap * sizeof(char *), 2 * cap * sizeof(char *));
        reader->fields_cap = 2 * cap;
    }
    reader->starts[csv->count++] = reader->row_len;
    return 0;
}

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\r';
}

/* Ends the field in the row buffer; an unquoted one loses the spaces behind it. */
static int field_end(struct csv *csv, bool quoted, struct error *reterr) {
    struct csv_reader *reader = csv->reader_p;
    while (!quoted && reader->row_len > reader->starts[csv->count - 1] &&
           is_space(reader->row[reader->row_len - 1]))
        reader->row_len--;
    return row_put(csv, 0, reterr);
}

/* Where in a field we are. */
enum state {
    FIELD_START,  /* only spaces so far */
    FIELD_PLAIN,  /* in an unquoted field */
    FIELD_QUOTED, /* between quotes */
    FIELD_CLOSED, /* after the closing quote */
};

/* One row, with the input's first character known to be there. Returns 1, or 0 for an empty line.
 */
static int row_read(struct csv *csv, struct error *reterr) {
    struct csv_reader *reader = csv->reader_p;
    enum state state = FIELD_START;
    bool empty = true;
    int r = field_begin(csv, reterr);
    while (r == 0) {
        bool end = false;
        char c = '\n'; /* the end of the file ends the row */
        if (reader->input_at == reader->input_len) {
            r = input_fill(csv, reterr);
            if (r < 0)
                return r;
            end = r == 0;
            r = 0;
        }
        if (!end) {
            c = reader->input[reader->input_at++];
            reader->next_line += c == '\n';
        }
        if (c == 0 && !end)
            return csv_fault(csv, ERR_FORMAT, reterr, "a zero byte; this is no CSV text");
        if (state == FIELD_QUOTED) {
            if (end)
                return csv_fault(csv, ERR_FORMAT, reterr, "a quoted field is not closed");
            if (c == '"')
                state = FIELD_CLOSED;
            else
                r = row_put(csv, c, reterr);
        } else if (c == ',' || c == '\n') {
            empty = empty && c == '\n' && state == FIELD_START;
            r = field_end(csv, state == FIELD_CLOSED, reterr);
            if (c == '\n')
                return r ? r : !empty;
            if (r == 0)
                r = field_begin(csv, reterr);
            state = FIELD_START;
        } else if (state == FIELD_CLOSED && c == '"') {
            r = row_put(csv, c, reterr); /* "" inside quotes */
            state = FIELD_QUOTED;
        } else if (state == FIELD_START && c == '"') {
            state = FIELD_QUOTED;
        } else if (state == FIELD_CLOSED && !is_space(c)) {
            return csv_fault(csv, ERR_FORMAT, reterr, "\"%c\" after the closing quote of field %zu",
                             c, csv->count);
        } else if (state == FIELD_PLAIN || !is_space(c)) {
            r = row_put(csv, c, reterr);
            state = FIELD_PLAIN;
        }
    }
    return r;
}

int csv_next(struct csv *csv, struct error *reterr) {
    struct csv_reader *reader = csv->reader_p;
    int r = 0;
    while (r == 0) {
        csv->line = reader->next_line;
        csv->count = 0;
        reader->row_len = 0;
        if (reader->input_at == reader->input_len) {
            r = input_fill(csv, reterr);
            if (r <= 0)
                return r;
        }
        /* A byte order mark is no part of the first field. */
        if (csv->line == 1 && csv->reader_p->input_at == 0 && reader->input_len >= 3 &&
            !memcmp(reader->input, "\xef\xbb\xbf", 3))
            reader->input_at = 3;
        r = row_read(csv, reterr);
    }
    if (r < 0)
        return r;
    for (size_t i = 0; i < csv->count; i++)
        csv->fields[i] = reader->row + reader->starts[i];
    return 1;
}

bool csv_int(const char *text, int64_t *ret) {
    bool negative = *text == '-';
    const char *at = text + (*text == '-' || *text == '+');
    int64_t value = 0;
    size_t digits = 0;
    for (; *at >= '0' && *at <= '9'; at++, digits++) {
        if (value > (INT64_MAX - 9) / 10)
            return false;
        value = value * 10 + (*at - '0');
    }
    if (digits == 0)
        return false;
    if (*at == '.') /* NumPy writes integers among NaNs as floats */
        at += 1 + strspn(at + 1, "0");
    if (*at)
        return false;
    *ret = negative ? -value : value;
    return true;
}

bool csv_float(const char *text, float *ret) {
    /* Most features are small whole numbers; they need no strtof. */
    if (text[0] >= '0' && text[0] <= '9' && text[1] == 0) {
        *ret = (float)(text[0] - '0');
        return true;
    }
    char *end;
    float value = strtof(text, &end);
    if (end == text || *end)
        return false;
    *ret = value;
    return true;
}
