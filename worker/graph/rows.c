/* Reading and cutting a text into parts of whole rows, and the threads that parse them.
 *
 * Part number s lives in slots[s % slot_count]. The reading thread fills it when the caller is done
 * with the part before it there; a parsing thread takes the next one that is filled; the caller
 * uses them in order. */
#include "worker/graph/rows.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/lock.h"
#include "common/mem.h"
#include "worker/graph/rows_internal.h"
#include "worker/graph/source.h"
#include "worker/graph/text.h"

#define PART_BYTES (256u << 10)
#define ROW_BYTES_MAX (256u << 20)
#define THREADS_MAX 64

/* Where in a row a character stands; what ends a row depends on it. */
enum cut_state { CUT_START, CUT_PLAIN, CUT_QUOTED, CUT_CLOSED };

struct rows_reader {
    /* Set by rows_open and rows_run, not changed while threads run. */
    struct source *source;
    struct rejects *rejects;
    uint8_t classes[256];
    uint32_t threads;
    size_t part_bytes;
    const struct rows_ops *ops;
    void *ctx;
    size_t slot_count;
    struct rows_part *slots;

    /* The reading thread's own. */
    char *carry; /* text behind the last whole row */
    size_t carry_len, carry_cap;
    uint64_t next_line;
    bool heading; /* lines are cut, whatever quotes are in them */
    bool ended;
    struct error failure; /* of reading; told after the rows before it */

    struct lock lock;
    pthread_cond_t changed;
    /* guards: filled, taken, used, parsed[slot], last, stop. Everything in a slot belongs to the
     * reading thread until filled, to a parsing thread until parsed, to the caller until used. */
    uint64_t filled, taken, used;
    bool *parsed;  /* [slot_count] */
    uint64_t last; /* parts in all, once the reading thread knows */
    bool stop;
};

int rows_fault(const struct rows *rows, uint64_t line, uint32_t column, int code,
               struct error *reterr, const char *format, ...) {
    char text[480], shown[480], place[16] = "";
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (column > 0)
        snprintf(place, sizeof place, ":%u", column);
    return error_set(reterr, code, "%s:%llu%s: %s", rows->path, (unsigned long long)line, place,
                     text_printable(text, shown, sizeof shown));
}

/* One more row that is wrong: 0 when that is still allowed. */
static int reject(struct rejects *rejects, const struct error *err, struct error *reterr) {
    if (rejects->count < ARRAY_LEN(rejects->told))
        snprintf(rejects->told[rejects->count], sizeof rejects->told[0], "%s", err->text);
    if (++rejects->count <= rejects->allowed)
        return 0;
    if (rejects->allowed == 0)
        return error_set(reterr, err->code, "%s", err->text);
    return error_set(reterr, err->code,
                     "more than %llu rows are wrong, which is what --skip-bad allows; the last: %s",
                     (unsigned long long)rejects->allowed, err->text);
}

int rows_reject(struct rows *rows, uint64_t line, uint32_t column, int code, struct error *reterr,
                const char *format, ...) {
    char text[480];
    struct error err = {0};
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    rows_fault(rows, line, column, code, &err, "%s", text);
    return reject(rows->reader_p->rejects, &err, reterr);
}

static bool is_delimiter(char delimiter, char c) {
    return c == delimiter || (delimiter == ROWS_BLANKS && c == '\t');
}

/* Walks on to the end of the text; *end is moved behind every row that ends. */
static enum cut_state cut(const struct rows *rows, enum cut_state state, const char *text,
                          size_t at, size_t len, size_t *end) {
    for (; at < len; at++) {
        char c = text[at];
        if (state == CUT_QUOTED) {
            state = c == '"' ? CUT_CLOSED : CUT_QUOTED;
        } else if (state == CUT_CLOSED && c == '"') {
            state = CUT_QUOTED; /* "" inside quotes */
        } else if (c == '\n') {
            state = CUT_START;
            *end = at + 1;
        } else if (is_delimiter(rows->delimiter, c)) {
            state = CUT_START;
        } else if (c == '"' && state == CUT_START) {
            state = CUT_QUOTED;
        } else if (state == CUT_CLOSED || rows->reader_p->classes[(uint8_t)c] != CLASS_BLANK) {
            state = CUT_PLAIN; /* quotes behind a closed quote open nothing, as in row.c */
        }                      /* blanks before a field change nothing */
    }
    return state;
}

static void part_reserve(struct rows_part *part, size_t bytes) {
    if (bytes <= part->cap)
        return;
    size_t cap = bytes > 2 * part->cap ? bytes : 2 * part->cap;
    char *text = mem_raw(cap);
    if (part->len)
        memcpy(text, part->text, part->len);
    mem_free(part->text);
    part->text = text;
    part->cap = cap;
}

/* Whole rows, about part_bytes of them, from the carry and the source; len 0 at the end. */
static int part_read(struct rows *rows, struct rows_part *part, struct error *reterr) {
    struct rows_reader *reader = rows->reader_p;
    size_t end = 0, at = 0;
    enum cut_state state = CUT_START;
    bool quotes = false;
    int r = 0;
    part->len = 0;
    part_reserve(part, reader->carry_len + reader->part_bytes + 1);
    memcpy(part->text, reader->carry, reader->carry_len);
    part->len = reader->carry_len;
    part->line = reader->next_line;
    while (r == 0 && !reader->ended && (end == 0 || part->len < reader->part_bytes)) {
        size_t got = 0;
        part_reserve(part, part->len + reader->part_bytes + 1);
        r = source_read(reader->source, part->text + part->len, reader->part_bytes, &got, reterr);
        part->len += got;
        reader->ended = r < 0 || got == 0;
        /* A last row without a line break gets one; one that is cut off by an error is none. */
        if (reader->ended && r == 0 && part->len > 0 && part->text[part->len - 1] != '\n')
            part->text[part->len++] = '\n';
        if (!reader->heading && !quotes && memchr(part->text + at, '"', part->len - at)) {
            quotes = true;
            at = end;
        }
        if (quotes) {
            state = cut(rows, state, part->text, at, part->len, &end);
        } else {
            const char *last = memrchr(part->text + at, '\n', part->len - at);
            end = last ? (size_t)(last - part->text) + 1 : end;
        }
        at = part->len;
        if (at - end > ROW_BYTES_MAX)
            r = error_set(reterr, ERR_RANGE, "the row is longer than %u MiB", ROW_BYTES_MAX >> 20);
    }
    if (reader->ended && r == 0)
        end = part->len; /* with a quote that is not closed, perhaps: the walk says so */
    size_t left = part->len - end;
    if (left > reader->carry_cap) {
        mem_free(reader->carry);
        reader->carry_cap = 2 * left;
        reader->carry = mem_raw(reader->carry_cap);
    }
    memcpy(reader->carry, part->text + end, left);
    reader->carry_len = left;
    part->len = end;
    for (size_t i = 0; i < end; i++)
        reader->next_line += part->text[i] == '\n';
    part->done = reader->source->done;
    if (r < 0) /* where reading ended, not where the row begins */
        for (size_t i = 0; i < left; i++)
            reader->next_line += reader->carry[i] == '\n';
    return r;
}

static char delimiter_of(const char *line, size_t len) {
    static const char candidates[] = "\t,;";
    for (const char *c = candidates; *c; c++) {
        bool quoted = false;
        for (size_t i = 0; i < len && line[i] != '\n'; i++) {
            quoted ^= line[i] == '"';
            if (line[i] == *c && !quoted)
                return *c;
        }
    }
    /* "a b" is two fields, "ab" one, whatever is between fields. */
    return memchr(line, ' ', len) && memchr(line, ' ', len) < memchr(line, '\n', len) ? ROWS_BLANKS
                                                                                      : ',';
}

/* What is at the head of the file and is no row: a byte order mark, comments, empty lines. line: of
 * text. */
static size_t head_length(const char *text, size_t len, uint64_t *line) {
    size_t at = *line == 1 && len >= 3 && !memcmp(text, "\xef\xbb\xbf", 3) ? 3 : 0;
    for (;;) {
        size_t next = at;
        while (next < len && (text[next] == ' ' || text[next] == '\r'))
            next++;
        if (at == len || (text[at] != '#' && text[at] != '%' && next < len && text[next] != '\n'))
            return at;
        const char *end = memchr(text + at, '\n', len - at);
        at = end ? (size_t)(end - text) + 1 : len;
        ++*line;
    }
}

static void classes_set(struct rows *rows) {
    uint8_t *classes = rows->reader_p->classes;
    classes[' '] = classes['\t'] = classes['\r'] = CLASS_BLANK;
    classes[(uint8_t)rows->delimiter] = CLASS_DELIMITER;
    if (rows->delimiter == ROWS_BLANKS)
        classes['\t'] = CLASS_DELIMITER;
    classes['\n'] = CLASS_NEWLINE;
    classes[0] = CLASS_ZERO;
}

/* Lines that end with a carriage return alone, as some spreadsheets write them, would all be one.
 */
static bool has_lone_returns(const char *text, size_t len) {
    if (memchr(text, '"', len))
        return false;
    for (size_t i = 0; i + 1 < len; i++)
        if (text[i] == '\r' && text[i + 1] != '\r' && text[i + 1] != '\n')
            return true;
    return false;
}

/* The first row, on a copy, for the walk changes what it walks over. What the file is like is told
 * from it, so it is never one that may be left out. */
static int first_row(struct rows *rows, const struct rows_part *part, struct error *reterr) {
    struct rows_part copy = *part;
    copy.text = rows->text_p = mem_raw(part->len + 1);
    memcpy(copy.text, part->text, part->len);
    struct row row = row_make(rows->reader_p->classes, rows->delimiter == ROWS_BLANKS, 0);
    row_begin(&row, &copy);
    bool found = row_next(&row);
    if (!found)
        row.count = 0;
    rows->first = row;
    if (found && has_lone_returns(part->text, (size_t)(row.walk_p->at - copy.text)))
        return rows_fault(rows, row.line, 0, ERR_FORMAT, reterr,
                          "lines end with a carriage return alone; save it with line feeds");
    const struct rows_fault *fault = &copy.told[0];
    return found || copy.faults == 0 ? 0
                                     : rows_fault(rows, fault->line, fault->column, fault->code,
                                                  reterr, "%s", fault->text);
}

/* Puts text back, in front of what comes next. */
static void carry_set(struct rows_reader *reader, const char *text, size_t len) {
    char *all = mem_raw(len + reader->carry_len + 1);
    memcpy(all, text, len);
    memcpy(all + len, reader->carry, reader->carry_len);
    mem_free(reader->carry);
    reader->carry = all;
    reader->carry_len += len;
    reader->carry_cap = reader->carry_len + 1;
}

/* A part that will be put back: what is wrong behind it is found again, at its line, when
 * everything before it has been used. */
static int part_peek(struct rows *rows, struct rows_part *part, struct error *reterr) {
    struct rows_reader *reader = rows->reader_p;
    int r = part_read(rows, part, &reader->failure);
    if (r < 0 && part->len == 0)
        return rows_fault(rows, reader->next_line, 0, r, reterr, "%s", reader->failure.text);
    reader->failure = (struct error){0};
    reader->ended = false;
    return 0;
}

/* Past the head, whose lines *line counts; the delimiter is told from the line that follows. */
static int head_read(struct rows *rows, char delimiter, uint64_t *line, struct error *reterr) {
    struct rows_reader *reader = rows->reader_p;
    struct rows_part part = {0};
    size_t head;
    int r;
    reader->heading = true;
    do {
        r = part_peek(rows, &part, reterr);
        head = head_length(part.text, part.len, line);
    } while (r == 0 && part.len > 0 && head == part.len);
    reader->heading = false;
    reader->next_line = *line;
    if (r == 0) {
        rows->delimiter = delimiter ? delimiter : delimiter_of(part.text + head, part.len - head);
        classes_set(rows);
        carry_set(reader, part.text + head, part.len - head);
    }
    mem_free(part.text);
    return r;
}

int rows_open(const struct rows_options *options, struct rows **ret, struct error *reterr) {
    struct source *source = NULL;
    int r = source_open(options->path, &source, reterr);
    if (r < 0)
        return r;
    struct rows *rows = mem_alloc(sizeof *rows);
    struct rows_reader *reader = rows->reader_p = mem_alloc(sizeof *reader);
    rows->path = mem_strdup(options->path);
    rows->total = source->total;
    reader->source = source;
    reader->rejects = options->rejects;
    reader->threads = options->threads < THREADS_MAX ? options->threads : THREADS_MAX;
    reader->part_bytes = options->part_bytes ? options->part_bytes : PART_BYTES;
    reader->next_line = 1;
    reader->carry = mem_raw(1);
    lock_init(&reader->lock, LOCK_ROWS, "rows");
    lock_cond_init(&reader->changed);
    uint64_t line = 1;
    r = head_read(rows, options->delimiter, &line, reterr);
    struct rows_part part = {0};
    if (r == 0)
        r = part_peek(rows, &part, reterr);
    if (r == 0) {
        carry_set(reader, part.text, part.len);
        reader->next_line = line;
        r = first_row(rows, &part, reterr);
    }
    mem_free(part.text);
    if (r < 0)
        rows_close(rows);
    else
        *ret = rows;
    return r;
}

struct rows *rows_close(struct rows *rows) {
    if (!rows)
        return NULL;
    struct rows_reader *reader = rows->reader_p;
    if (rows->first.walk_p)
        row_done(&rows->first);
    lock_done(&reader->lock);
    pthread_cond_destroy(&reader->changed);
    source_close(reader->source);
    mem_free(reader->carry);
    mem_free(reader);
    mem_free(rows->text_p);
    mem_free(rows->path);
    mem_free(rows);
    return NULL;
}

static void *reading_thread(void *arg) {
    struct rows *rows = arg;
    struct rows_reader *reader = rows->reader_p;
    for (uint64_t s = 0;; s++) {
        struct rows_part *part = &reader->slots[s % reader->slot_count];
        lock_take(&reader->lock);
        while (!reader->stop && s >= reader->used + reader->slot_count)
            lock_wait(&reader->lock, &reader->changed, -1);
        bool stop = reader->stop;
        lock_release(&reader->lock);
        bool more =
            !stop && reader->failure.code == 0 && part_read(rows, part, &reader->failure) == 0;
        more = more && part->len > 0;
        bool rest = !stop && !more && reader->failure.code < 0 && part->len > 0;
        lock_take(&reader->lock);
        reader->filled = s + (more || rest);
        if (!more)
            reader->last = reader->filled;
        pthread_cond_broadcast(&reader->changed);
        lock_release(&reader->lock);
        if (!more)
            return NULL;
    }
}

static void *parsing_thread(void *arg) {
    struct rows *rows = arg;
    struct rows_reader *reader = rows->reader_p;
    struct row row =
        row_make(reader->classes, rows->delimiter == ROWS_BLANKS, reader->rejects->allowed);
    lock_take(&reader->lock);
    for (;;) {
        while (!reader->stop && reader->taken == reader->filled && reader->taken < reader->last)
            lock_wait(&reader->lock, &reader->changed, -1);
        if (reader->stop || reader->taken == reader->filled)
            break;
        size_t slot = reader->taken++ % reader->slot_count;
        struct rows_part *part = &reader->slots[slot];
        lock_release(&reader->lock);
        row_begin(&row, part);
        reader->ops->parse(reader->ctx, &row, part->parsed);
        lock_take(&reader->lock);
        reader->parsed[slot] = true;
        pthread_cond_broadcast(&reader->changed);
    }
    lock_release(&reader->lock);
    row_done(&row);
    return NULL;
}

/* What the walk found wrong in a part. */
static int part_faults(const struct rows *rows, const struct rows_part *part,
                       struct error *reterr) {
    struct rejects *rejects = rows->reader_p->rejects;
    uint64_t told = part->faults < FAULTS_TOLD ? part->faults : FAULTS_TOLD;
    int r = 0;
    for (uint64_t i = 0; r == 0 && i < told; i++) {
        const struct rows_fault *fault = &part->told[i];
        struct error err = {0};
        rows_fault(rows, fault->line, fault->column, fault->code, &err, "%s", fault->text);
        r = reject(rejects, &err, reterr);
    }
    if (r == 0 && part->faults > told) {
        rejects->count += part->faults - told;
        if (rejects->count > rejects->allowed)
            r = error_set(reterr, part->told[told - 1].code,
                          "%s: more than %llu rows are wrong, which is what --skip-bad allows; one "
                          "of them: line %llu: %s",
                          rows->path, (unsigned long long)rejects->allowed,
                          (unsigned long long)part->told[told - 1].line, part->told[told - 1].text);
    }
    return r;
}

/* The next part in order, parsed; NULL at the end. */
static struct rows_part *part_wait(struct rows_reader *reader) {
    lock_take(&reader->lock);
    size_t slot = reader->used % reader->slot_count;
    while (!reader->parsed[slot] && reader->used < reader->last)
        lock_wait(&reader->lock, &reader->changed, -1);
    bool end = !reader->parsed[slot];
    lock_release(&reader->lock);
    return end ? NULL : &reader->slots[slot];
}

static void part_release(struct rows_reader *reader) {
    lock_take(&reader->lock);
    reader->parsed[reader->used++ % reader->slot_count] = false;
    pthread_cond_broadcast(&reader->changed);
    lock_release(&reader->lock);
}

static int use_parts(struct rows *rows, struct error *reterr) {
    struct rows_reader *reader = rows->reader_p;
    struct rows_part *part;
    while ((part = part_wait(reader))) {
        rows->done = part->done;
        int r = reader->ops->use(reader->ctx, part->parsed, reterr);
        if (r == 0)
            r = part_faults(rows, part, reterr);
        if (r < 0)
            return r;
        part_release(reader);
    }
    return 0;
}

static void start(pthread_t *thread, void *(*run)(void *), struct rows *rows) {
    if (pthread_create(thread, NULL, run, rows) != 0) {
        fprintf(stderr, "graphps: the machine refused a thread for reading\n");
        exit(70);
    }
}

int rows_run(struct rows *rows, bool header, const struct rows_ops *ops, void *ctx,
             struct error *reterr) {
    struct rows_reader *reader = rows->reader_p;
    if (header) {
        size_t len = (size_t)(rows->first.walk_p->at - rows->text_p);
        memmove(reader->carry, reader->carry + len, reader->carry_len - len);
        reader->carry_len -= len;
        reader->next_line = rows->first.walk_p->next_line;
    }
    reader->ops = ops;
    reader->ctx = ctx;
    reader->slot_count = reader->threads + 2;
    reader->slots = mem_array(reader->slot_count, sizeof *reader->slots);
    reader->parsed = mem_array(reader->slot_count, sizeof *reader->parsed);
    reader->last = UINT64_MAX;
    for (size_t i = 0; i < reader->slot_count; i++)
        reader->slots[i].parsed = ops->make(ctx);
    pthread_t threads[THREADS_MAX + 1];
    start(&threads[0], reading_thread, rows);
    for (uint32_t i = 1; i <= reader->threads; i++)
        start(&threads[i], parsing_thread, rows);

    int r = use_parts(rows, reterr);
    lock_take(&reader->lock);
    reader->stop = true;
    pthread_cond_broadcast(&reader->changed);
    lock_release(&reader->lock);
    for (uint32_t i = 0; i <= reader->threads; i++)
        pthread_join(threads[i], NULL);
    if (r == 0 && reader->failure.code < 0)
        r = rows_fault(rows, reader->next_line, 0, reader->failure.code, reterr, "%s",
                       reader->failure.text);
    rows->junk = reader->source->junk;
    for (size_t i = 0; i < reader->slot_count; i++) {
        ops->free(reader->slots[i].parsed);
        mem_free(reader->slots[i].text);
    }
    mem_free(reader->slots);
    mem_free(reader->parsed);
    return r;
}
