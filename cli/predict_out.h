/* Rows of CSV, one by one, into a file beside its name or to standard output. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/error.h"

/* "-" */
bool predict_out_piped(const char *path);
/* Writes head, then count rows. What was written to standard output is looked at by main, when all
 * is printed. */
typedef void predict_out_row(FILE *out, void *ctx, uint64_t i);
int predict_out(const char *path, const char *head, uint64_t count, predict_out_row *row, void *ctx,
                struct error *reterr);
/* A field, in quotes where CSV wants them. */
void predict_out_field(FILE *out, const char *text);
