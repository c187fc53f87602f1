/* The CSV reader: one pass over characters, one buffer for the row, offsets of its fields. Gzip is
 * undone member by member here, not by zlib's gzread, which is silent about what follows them. */
#include "worker/graph/csv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "common/file.h"
#include "common/mem.h"

#define INPUT_BYTES (128u << 10)
#define ROW_BYTES_MAX (256u << 20)
#define FIELDS_MAX ((1u << 24) + 2)
#define GZIP_MAGIC_0 0x1f
#define GZIP_MAGIC_1 0x8b

struct csv_reader {
    int fd;
    uint8_t *raw; /* of the file; what is not used yet is packed.next_in, .avail_in */
    z_stream packed;
    bool gzip;
    bool between; /* the members of a gzip file */
    bool ended;
    uint64_t raw_bytes; /* read so far */
    uint64_t next_line; /* the line the next character is on */
    char *input;
    size_t input_at, input_len;
    char *row;
    size_t row_len, row_cap;
    size_t *starts; /* [csv->count] offsets into row */
    size_t fields_cap;
};

int csv_fault(const struct csv *csv, int code, struct error *reterr, const char *format, ...) {
    char text[480], shown[480];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return error_set(reterr, code, "%s:%llu: %s", csv->path, (unsigned long long)csv->line,
                     csv_printable(text, shown, sizeof shown));
}

const char *csv_printable(const char *text, char *buf, size_t buf_bytes) {
    size_t len = 0;
    for (const unsigned char *at = (const unsigned char *)text; *at && len + 5 < buf_bytes; at++) {
        bool wide = at[0] == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0; /* U+0080 to U+009F */
        at += wide;
        if (*at == '\n')
            len += (size_t)snprintf(buf + len, buf_bytes - len, "\\n");
        else if (*at < 0x20 || *at == 0x7f || wide)
            len += (size_t)snprintf(buf + len, buf_bytes - len, "\\x%02x", *at);
        else
            buf[len++] = (char)*at;
    }
    buf[len] = 0;
    return buf;
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

/* 1: there are bytes of the file; 0: its end. */
static int raw_fill(struct csv *csv, struct error *reterr) {
    struct csv_reader *reader = csv->reader_p;
    z_stream *packed = &reader->packed;
    if (packed->avail_in > 0)
        return 1;
    size_t len = 0;
    ssize_t got = 1;
    while (len < INPUT_BYTES && got != 0) {
        got = read(reader->fd, reader->raw + len, INPUT_BYTES - len);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            csv->line = reader->next_line;
            return csv_fault(csv, ERR_IO, reterr, "cannot be read: %s", strerror(errno));
        }
        len += (size_t)got;
    }
    reader->raw_bytes += len;
    packed->next_in = reader->raw;
    packed->avail_in = (uInt)len;
    return len > 0;
}

/* Unpacks some of a gzip file: 1, or 0 at the end. As gzip does, zeros behind the last member are
 * padding and other bytes are left out. */
static int input_unpack(struct csv *csv, struct error *reterr) {
    struct csv_reader *reader = csv->reader_p;
    z_stream *packed = &reader->packed;
    while (packed->avail_out == INPUT_BYTES) {
        int r = raw_fill(csv, reterr);
        if (r < 0 || (r == 0 && reader->between))
            return r;
        csv->line = reader->next_line;
        if (r == 0)
            return csv_fault(csv, ERR_FORMAT, reterr,
                             "the gzip file ends too early; it is truncated, fetch it again");
        if (reader->between && *packed->next_in == 0) {
            packed->next_in++;
            packed->avail_in--;
            continue;
        }
        if (reader->between && *packed->next_in != GZIP_MAGIC_0) {
            csv->junk = true;
            return 0;
        }
        if (reader->between)
            inflateReset(packed);
        int code = inflate(packed, Z_NO_FLUSH);
        reader->between = code == Z_STREAM_END;
        /* What came before the damage goes first; zlib will say the same again. */
        if (code != Z_OK && code != Z_STREAM_END && packed->avail_out == INPUT_BYTES)
            return csv_fault(csv, code == Z_MEM_ERROR ? ERR_NO_MEMORY : ERR_FORMAT, reterr,
                             "the gzip file is damaged (%s)",
                             packed->msg ? packed->msg : zError(code));
    }
    return 1;
}

static int input_open(struct csv *csv, struct error *reterr) {
    struct csv_reader *reader = csv->reader_p;
    z_stream *packed = &reader->packed;
    struct stat status;
    reader->fd = open(csv->path, O_RDONLY | O_CLOEXEC);
    if (reader->fd < 0)
        return error_set(reterr, errno == EACCES ? ERR_USAGE : ERR_IO, "%s: cannot be opened: %m",
                         csv->path);
    if (fstat(reader->fd, &status) == 0) {
        if (S_ISDIR(status.st_mode))
            return error_set(reterr, ERR_USAGE, "%s: is a directory, where a file is needed",
                             csv->path);
        csv->total = (uint64_t)status.st_size;
    }
    int r = raw_fill(csv, reterr);
    if (r < 0)
        return r;
    size_t len = strlen(csv->path);
    reader->gzip = packed->avail_in >= 2 && packed->next_in[0] == GZIP_MAGIC_0 &&
                   packed->next_in[1] == GZIP_MAGIC_1;
    reader->between = true;
    if (!reader->gzip && !strcmp(csv->path + len - 3, ".gz"))
        return error_set(reterr, ERR_FORMAT, "%s: is not a gzip file, though its name says so",
                         csv->path);
    /* 15 + 16: the largest window, and a gzip header. */
    if (reader->gzip && inflateInit2(packed, 15 + 16) != Z_OK)
        return error_set(reterr, ERR_NO_MEMORY, "%s: no memory to unpack it", csv->path);
    return 0;
}

int csv_open(const char *dir, const char *stem, const char *what, struct csv **ret,
             struct error *reterr) {
    int r;
    _cleanup_(mem_free_p) char *path = csv_path(dir, stem, what, &r, reterr);
    if (r < 0)
        return r;
    struct csv *csv = mem_alloc(sizeof *csv);
    struct csv_reader *reader = mem_alloc(sizeof *reader);
    csv->path = TAKE_PTR(path);
    csv->reader_p = reader;
    reader->fd = -1;
    reader->next_line = 1;
    reader->raw = mem_alloc(INPUT_BYTES);
    reader->input = mem_alloc(INPUT_BYTES);
    reader->row_cap = 4096;
    reader->row = mem_alloc(reader->row_cap);
    reader->fields_cap = 64;
    reader->starts = mem_array(reader->fields_cap, sizeof *reader->starts);
    csv->fields = mem_array(reader->fields_cap, sizeof *csv->fields);
    if ((r = input_open(csv, reterr)) < 0)
        csv_close(csv);
    else
        *ret = csv;
    return r;
}

struct csv *csv_close(struct csv *csv) {
    if (!csv)
        return NULL;
    struct csv_reader *reader = csv->reader_p;
    if (reader->fd >= 0)
        close(reader->fd);
    if (reader->gzip)
        inflateEnd(&reader->packed);
    mem_free(reader->raw);
    mem_free(reader->input);
    mem_free(reader->row);
    mem_free(reader->starts);
    mem_free(reader);
    mem_free(csv->fields);
    mem_free(csv->path);
    mem_free(csv);
    return NULL;
}

/* 1: there is input; 0: the end. */
static int input_fill(struct csv *csv, struct error *reterr) {
    struct csv_reader *reader = csv->reader_p;
    z_stream *packed = &reader->packed;
    int r = 1;
    if (reader->ended)
        return 0;
    packed->next_out = (Bytef *)reader->input;
    packed->avail_out = INPUT_BYTES;
    if (reader->gzip) {
        r = input_unpack(csv, reterr);
    } else if ((r = raw_fill(csv, reterr)) == 1) {
        memcpy(reader->input, packed->next_in, packed->avail_in);
        packed->avail_out -= packed->avail_in;
        packed->avail_in = 0;
    }
    if (r < 0)
        return r;
    csv->done = reader->raw_bytes - packed->avail_in;
    reader->input_at = 0;
    reader->input_len = INPUT_BYTES - packed->avail_out;
    reader->ended = r == 0;
    return r;
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
