/* Texts of the user's files as numbers, and as a terminal may show them. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The whole text as a number: an integer (3, -1, 3.0), a float (nan and inf too), correctly
 * rounded. False: it is none. */
bool text_int(const char *text, int64_t *ret);
bool text_float(const char *text, float *ret);

/* Into buf, without the characters that a terminal would obey, which are written as \n and \x1b.
 * Cut when buf is too small. */
const char *text_printable(const char *text, char *buf, size_t buf_bytes);
