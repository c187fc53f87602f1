/* The error table, and filling a struct error. Knows no other module. */
#include "common/error.h"

#include <stdio.h>
#include <string.h>

struct error_row {
    int code;
    bool retryable;
    int exit_code;
    const char *name;
    const char *sentence;
};

static const struct error_row error_table[] = {
#define ERROR(name, number, retryable, exit_code, sentence)                                        \
    {-(number), retryable, exit_code, #name, sentence},
#include "common/error.def"
#undef ERROR
};

static const struct error_row *error_find(int code) {
    for (size_t i = 0; i < sizeof error_table / sizeof error_table[0]; i++)
        if (error_table[i].code == code)
            return &error_table[i];
    return NULL;
}

const char *error_name(int code) {
    const struct error_row *row = error_find(code);
    return code == 0 ? "NONE" : row ? row->name : "UNKNOWN";
}

const char *error_sentence(int code) {
    const struct error_row *row = error_find(code);
    return code == 0 ? "no error" : row ? row->sentence : "unknown error";
}

bool error_retryable(int code) {
    const struct error_row *row = error_find(code);
    return row && row->retryable;
}

int error_exit_code(int code) {
    const struct error_row *row = error_find(code);
    return code == 0 ? 0 : row ? row->exit_code : 70;
}

int error_set(struct error *reterr, int code, const char *format, ...) {
    if (reterr) {
        /* Beside the old text, which may be among the arguments. */
        struct error fresh = {.code = code};
        va_list args;
        va_start(args, format);
        vsnprintf(fresh.text, sizeof fresh.text, format, args);
        va_end(args);
        *reterr = fresh;
    }
    return code;
}

int error_prefix(struct error *reterr, const char *format, ...) {
    if (!reterr)
        return ERR_INTERNAL;

    struct error fresh = {.code = reterr->code};
    va_list args;
    va_start(args, format);
    int n = vsnprintf(fresh.text, sizeof fresh.text, format, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof fresh.text)
        snprintf(fresh.text + n, sizeof fresh.text - (size_t)n, ": %s", error_text(reterr));
    *reterr = fresh;
    return fresh.code;
}

const char *error_text(const struct error *err) {
    return err->text[0] ? err->text : error_sentence(err->code);
}
