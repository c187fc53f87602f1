/* Collecting faults: all into the caller's list, the first into *reterr. Shared by config.c and
 * config_finish.c. */
#pragma once

#include "common/config.h"

struct config_sink {
    const char *path;
    struct config_faults *list; /* may be NULL */
    struct error *reterr;       /* may be NULL */
    size_t count;
};

/* Adds a copy of text; after CONFIG_FAULTS_MAX one line says that there are more. */
void config_faults_add(struct config_faults *faults, const char *text);
enum { CONFIG_FAULTS_MAX = 100 };

/* A fault whose text names its place itself. */
void config_sink_add(struct config_sink *sink, const char *text);
/* A fault at a line and column of sink->path, both counted from 1. */
void config_sink_add_at(struct config_sink *sink, size_t line, size_t column, const char *format,
                        ...) __attribute__((format(printf, 4, 5)));
