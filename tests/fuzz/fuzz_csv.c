/* The CSV reader against bytes from anywhere, plain or (when they begin like it) gzip: it ends with
 * rows that fit the bytes, or with a sentence that names the line. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/graph/csv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/tmp/graphps-fuzz-csv-XXXXXX";

static const char *file_path(const char *name) {
    static char path[64];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void remove_dir(void) {
    unlink(file_path("x.csv"));
    unlink(file_path("x.csv.gz"));
    rmdir(dir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int made;
    if (!made++) {
        if (!mkdtemp(dir))
            abort();
        atexit(remove_dir);
    }
    int gz = size > 1 && data[0] == 0x1f && data[1] == 0x8b;
    unlink(file_path(gz ? "x.csv" : "x.csv.gz"));
    FILE *file = fopen(file_path(gz ? "x.csv.gz" : "x.csv"), "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0)
        abort();

    struct csv *csv = NULL;
    struct error err = {0};
    int r = csv_open(dir, "x", "is noise", &csv, &err);
    uint64_t bytes = 0, line = 0;
    while (r == 0 && (r = csv_next(csv, &err)) == 1) {
        if (csv->count == 0 || csv->line <= line)
            abort();
        line = csv->line;
        for (size_t i = 0; i < csv->count; i++) {
            volatile float number = 0;
            float value;
            int64_t integer;
            if (csv_float(csv->fields[i], &value) && csv_int(csv->fields[i], &integer))
                number = value;
            (void)number;
            bytes += strlen(csv->fields[i]) + 1;
        }
        r = 0;
    }
    /* Every field ends with a comma, a line break or the end. */
    if (r == 0 && !gz && bytes > size + 1)
        abort();
    if (r < 0 && (err.code != r || !strchr(err.text, ':')))
        abort();
    csv_close(csv);
    return 0;
}
