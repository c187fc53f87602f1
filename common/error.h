/* Errors are values. A function returns 0 or a negative code (ERR_...); what a person should read
 * travels in a struct error that the caller owns. The list of codes is error.def. */
#pragma once

#include <stdarg.h>
#include <stdbool.h>

enum error_code {
    ERR_NONE = 0,
#define ERROR(name, number, retryable, exit_code, sentence) ERR_##name = -(number),
#include "common/error.def"
#undef ERROR
};

/* What went wrong, for a person: names the place and the cause, and says what to do. */
struct error {
    int code; /* 0 or ERR_... */
    char text[640];
};

/* "NO_MEMORY" and its sentence; "UNKNOWN" for a number nobody knows. Static strings. */
const char *error_name(int code);
const char *error_sentence(int code);
/* May the same request succeed later? */
bool error_retryable(int code);
/* The process's exit code for this error (G9); 0 for ERR_NONE, 70 for an unknown one. */
int error_exit_code(int code);

/* Fills *reterr (may be NULL) and returns code, so that it can stand in a return statement. */
int error_set(struct error *reterr, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Puts "prefix: " before the text that is there; returns the code that is there. */
int error_prefix(struct error *reterr, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* The text, or the code's sentence when the text is empty. Borrowed from *err. */
const char *error_text(const struct error *err);
