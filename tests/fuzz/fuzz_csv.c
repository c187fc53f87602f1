/* The row reader against bytes from anywhere, plain or (when they begin like it) gzip: it ends with
 * rows that fit the bytes, the same for one thread and several and however the text is parted, or
 * with a sentence that names the line. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/graph/rows.h"
#include "worker/graph/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char path[] = "/tmp/graphps-fuzz-csv-XXXXXX";

static void remove_file(void) {
    unlink(path);
}

/* What was read, in a few numbers. */
struct sum {
    uint64_t rows, fields, bytes, line, hash;
};

static void *sum_make(void *ctx) {
    return calloc(1, sizeof(struct sum));
}

static void check_numbers(const char *text) {
    float value;
    int64_t integer;
    if (text_float(text, &value)) {
        float wanted = strtof(text, NULL);
        if (memcmp(&wanted, &value, sizeof value) != 0 && !(isnan(wanted) && isnan(value)))
            abort();
    }
    if (text_int(text, &integer) && (!text_float(text, &value) || (double)value > 1e19))
        abort();
}

static void parse(void *ctx, struct row *row, void *parsed) {
    struct sum *sum = parsed;
    *sum = (struct sum){0};
    while (row_next(row)) {
        if (row->count == 0 || row->line <= sum->line)
            abort();
        sum->line = row->line;
        sum->rows++;
        sum->fields += row->count;
        uint64_t hash = row->line;
        for (size_t i = 0; i < row->count; i++) {
            if (strlen(row->fields[i].text) != row->fields[i].len)
                abort();
            check_numbers(row->fields[i].text);
            sum->bytes += row->fields[i].len + 1;
            for (const char *at = row->fields[i].text; *at; at++)
                hash = hash * 31 + (uint8_t)*at + row_column(row, i);
        }
        sum->hash += hash * row->line; /* the same however rows are parted */
    }
}

static int use(void *ctx, void *parsed, struct error *reterr) {
    struct sum *sum = parsed, *all = ctx;
    if (sum->rows && sum->line <= all->line)
        abort();
    all->rows += sum->rows;
    all->fields += sum->fields;
    all->bytes += sum->bytes;
    all->line = sum->rows ? sum->line : all->line;
    all->hash += sum->hash;
    return 0;
}

static const struct rows_ops ops = {.make = sum_make, .free = free, .parse = parse, .use = use};

static int read_all(uint32_t threads, size_t part_bytes, uint64_t allowed, bool header,
                    struct sum *ret, struct rejects *rejects, struct error *err) {
    *rejects = (struct rejects){.allowed = allowed};
    const struct rows_options options = {
        .path = path, .threads = threads, .rejects = rejects, .part_bytes = part_bytes};
    struct rows *rows = NULL;
    int r = rows_open(&options, &rows, err);
    if (r == 0)
        r = rows_run(rows, header && rows->first.count > 0, &ops, ret, err);
    rows_close(rows);
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int fd = -1;
    if (fd < 0) {
        fd = mkstemp(path);
        if (fd < 0)
            abort();
        atexit(remove_file);
    }
    if (ftruncate(fd, 0) < 0 || pwrite(fd, data, size, 0) != (ssize_t)size)
        abort();
    bool gz = size > 1 && data[0] == 0x1f && data[1] == 0x8b;
    for (uint64_t allowed = 0; allowed < 4; allowed += 3) {
        struct sum sums[2] = {{0}, {0}};
        struct rejects rejects[2];
        struct error errs[2] = {{0}, {0}};
        int one = read_all(1, 4096, allowed, size % 2, &sums[0], &rejects[0], &errs[0]);
        int two = read_all(2, 1 + size % 61, allowed, size % 2, &sums[1], &rejects[1], &errs[1]);
        if (one != two || (one == 0 && memcmp(&sums[0], &sums[1], sizeof sums[0]) != 0) ||
            strcmp(errs[0].text, errs[1].text) != 0)
            abort();
        /* Every field ends with a delimiter, a line break or the end. */
        if (one == 0 && !gz && sums[0].bytes > size + 1)
            abort();
        if (one < 0 && (errs[0].code != one || !strchr(errs[0].text, ':')))
            abort();
        if (one == 0 && rejects[0].count > allowed)
            abort();
    }
    return 0;
}
