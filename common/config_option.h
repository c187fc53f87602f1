/* The rows of options.def as data, and what one row can do: find itself, take a value from text,
 * compare, print. Shared by config.c (files and faults) and config_print.c (pages); other code uses
 * config.h. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/config.h"

enum config_option_kind {
    OPTION_STRING,
    OPTION_INT,
    OPTION_FLOAT,
    OPTION_BOOL,
    OPTION_ENUM,
    OPTION_INTS,
    OPTION_STRINGS,
};

struct config_option {
    const char *section, *name;
    enum config_option_kind kind;
    size_t offset;            /* of the field in struct config */
    const char *default_text; /* as config_option_assign takes it */
    int64_t int_min, int_max; /* OPTION_INT, OPTION_INTS */
    double float_min, float_max;
    const char *min_text, *max_text; /* as written in options.def; NULL where there is no range */
    size_t most;                     /* entries of a list */
    const char *unit;                /* "" for none */
    const char *choices;             /* "a|b|c" of OPTION_ENUM */
    const char *help;
};

/* Where an option's value came from, for faults that are found later. */
struct config_place {
    int line, column; /* line 0: the default; CONFIG_PLACE_SET: the command line */
};
enum { CONFIG_PLACE_SET = -1 };

/* In the order of options.def; the options of one section stand together. */
extern const struct config_option config_options[];
extern const size_t config_option_count;

/* NULL when there is none. */
const struct config_option *config_option_find(const char *section, const char *name);
/* The first option of a section; NULL when there is no such section. */
const struct config_option *config_option_section(const char *section);
bool config_option_is_list(const struct config_option *option);

/* Takes a value. quoted: it stood in quotes, so it is text and never a number. The error says what
 * was expected and what was found, without naming the option. */
int config_option_assign(const struct config_option *option, struct config *config,
                         const char *text, size_t len, bool quoted, struct error *reterr);
/* The same for one more entry of a list option; after an error the entries before it are there. */
int config_option_append(const struct config_option *option, struct config *config,
                         const char *text, size_t len, bool quoted, struct error *reterr);
/* Of a list of texts: where the last entry was written. */
void config_option_place(const struct config_option *option, struct config *config,
                         struct config_place place);
/* The whole of a list from "a, b, c", or a scalar. */
int config_option_assign_text(const struct config_option *option, struct config *config,
                              const char *text, struct error *reterr);
/* Puts the default in. */
void config_option_reset(const struct config_option *option, struct config *config);
/* Empties the field and frees what it owns. */
void config_option_clear(const struct config_option *option, struct config *config);

bool config_option_equal(const struct config_option *option, const struct config *a,
                         const struct config *b);
/* The value as YAML, on one line. */
void config_option_print(const struct config_option *option, const struct config *config,
                         FILE *out);
/* "an integer from 1 to 8 (hops)", "one of a, b, c", ... in a static thread-local buffer. */
const char *config_option_expected(const struct config_option *option);
/* The name of a choice of an OPTION_ENUM, static; NULL when there are not so many. */
const char *config_option_choice(const struct config_option *option, int index);
