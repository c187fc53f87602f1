/* Rows by way of a stream in memory, so that a file is written by file.h's rules. */
#include "cli/predict_out.h"

#include <stdlib.h>
#include <string.h>

#include "common/file.h"

bool predict_out_piped(const char *path) {
    return strcmp(path, "-") == 0;
}

int predict_out(const char *path, const char *head, uint64_t count, predict_out_row *put, void *ctx,
                struct error *reterr) {
    struct file_writer *file = NULL;
    int r = predict_out_piped(path) ? 0 : file_create(path, &file, reterr);
    if (r < 0)
        return r;
    char *text = NULL;
    size_t len = 0;
    FILE *row = file ? open_memstream(&text, &len) : stdout;
    if (!row)
        r = error_set(reterr, ERR_NO_MEMORY, "%s: no memory for a row", path);
    else
        fputs(head, row);
    if (file && row && count == 0) {
        fflush(row);
        r = file_append(file, text, len, reterr);
    }
    for (uint64_t i = 0; i < count && r == 0; i++) {
        put(row, ctx, i);
        if (!file)
            continue;
        fflush(row);
        r = file_append(file, text, len, reterr);
        rewind(row);
    }
    if (!file)
        return r;
    if (row)
        fclose(row);
    free(text);
    if (r == 0)
        return file_commit(file, reterr);
    file_abandon(file);
    return r;
}

void predict_out_field(FILE *out, const char *text) {
    bool quoted = strpbrk(text, ",\"\n\r") != NULL;
    if (quoted)
        fputc('"', out);
    for (; *text; text++) {
        if (quoted && *text == '"')
            fputc('"', out);
        fputc(*text, out);
    }
    if (quoted)
        fputc('"', out);
}
