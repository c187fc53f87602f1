/* One option at a time: the table made from options.def, and values from text and back. Knows no
 * files and no YAML beyond how a single value is written. */
#include "common/config_option.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/nearest.h"

enum { STRING_BYTES_MAX = 4096, CHOICES_MAX = 16, CHOICE_BYTES = 24 };

const struct config_option config_options[] = {
#define ROW(section_, name_, kind_)                                                                \
    .section = #section_, .name = #name_, .kind = kind_,                                           \
    .offset = offsetof(struct config, section_##_##name_)
#define STRING(section_, name_, def, help_)                                                        \
    {ROW(section_, name_, OPTION_STRING), .default_text = def, .unit = "", .help = help_},
#define INT(section_, name_, def, min, max, unit_, help_)                                          \
    {ROW(section_, name_, OPTION_INT),                                                             \
     .default_text = #def,                                                                         \
     .int_min = min,                                                                               \
     .int_max = max,                                                                               \
     .min_text = #min,                                                                             \
     .max_text = #max,                                                                             \
     .unit = unit_,                                                                                \
     .help = help_},
#define FLOAT(section_, name_, def, min, max, unit_, help_)                                        \
    {ROW(section_, name_, OPTION_FLOAT),                                                           \
     .default_text = #def,                                                                         \
     .float_min = min,                                                                             \
     .float_max = max,                                                                             \
     .min_text = #min,                                                                             \
     .max_text = #max,                                                                             \
     .unit = unit_,                                                                                \
     .help = help_},
#define BOOL(section_, name_, def, help_)                                                          \
    {ROW(section_, name_, OPTION_BOOL), .default_text = #def, .unit = "", .help = help_},
#define ENUM(section_, name_, def, choices_, help_)                                                \
    {ROW(section_, name_, OPTION_ENUM), .default_text = #def, .unit = "", .choices = choices_,     \
     .help = help_},
#define INTS(section_, name_, def, min, max, most_, help_)                                         \
    {ROW(section_, name_, OPTION_INTS),                                                            \
     .default_text = def,                                                                          \
     .int_min = min,                                                                               \
     .int_max = max,                                                                               \
     .min_text = #min,                                                                             \
     .max_text = #max,                                                                             \
     .most = most_,                                                                                \
     .unit = "",                                                                                   \
     .help = help_},
#define STRINGS(section_, name_, most_, help_)                                                     \
    {ROW(section_, name_, OPTION_STRINGS), .default_text = "", .most = most_, .unit = "",          \
     .help = help_},
#include "common/options.def"
};
const size_t config_option_count = ARRAY_LEN(config_options);

static void *field(const struct config_option *option, struct config *config) {
    return (char *)config + option->offset;
}

static const void *field_const(const struct config_option *option, const struct config *config) {
    return (const char *)config + option->offset;
}

const struct config_option *config_option_section(const char *section) {
    for (size_t i = 0; i < config_option_count; i++)
        if (strcmp(config_options[i].section, section) == 0)
            return &config_options[i];
    return NULL;
}

const struct config_option *config_option_find(const char *section, const char *name) {
    for (size_t i = 0; i < config_option_count; i++)
        if (strcmp(config_options[i].section, section) == 0 &&
            strcmp(config_options[i].name, name) == 0)
            return &config_options[i];
    return NULL;
}

bool config_option_is_list(const struct config_option *option) {
    return option->kind == OPTION_INTS || option->kind == OPTION_STRINGS;
}

/* "a|b|c" cut into names once, so that a name can be borrowed for the process's life. */
static char choice_names[ARRAY_LEN(config_options)][CHOICES_MAX][CHOICE_BYTES];
static pthread_once_t choice_names_once = PTHREAD_ONCE_INIT;

static void choice_names_fill(void) {
    for (size_t i = 0; i < config_option_count; i++) {
        const char *at = config_options[i].choices;
        for (size_t k = 0; at && k < CHOICES_MAX; k++) {
            size_t len = strcspn(at, "|");
            snprintf(choice_names[i][k], CHOICE_BYTES, "%.*s", (int)len, at);
            at = at[len] ? at + len + 1 : NULL;
        }
    }
}

const char *config_option_choice(const struct config_option *option, int index) {
    pthread_once(&choice_names_once, choice_names_fill);
    if (index < 0 || index >= CHOICES_MAX)
        return NULL;
    const char *name = choice_names[option - config_options][index];
    return name[0] ? name : NULL;
}

const char *config_option_expected(const struct config_option *option) {
    static _Thread_local char text[192];
    char unit[32] = "";
    if (option->unit[0])
        snprintf(unit, sizeof unit, " (%s)", option->unit);

    switch (option->kind) {
    case OPTION_STRING:
        return "text";
    case OPTION_BOOL:
        return "true or false";
    case OPTION_STRINGS:
        snprintf(text, sizeof text, "a list of at most %zu texts", option->most);
        break;
    case OPTION_INT:
        snprintf(text, sizeof text, "an integer from %s to %s%s", option->min_text,
                 option->max_text, unit);
        break;
    case OPTION_FLOAT:
        snprintf(text, sizeof text, "a number from %s to %s%s", option->min_text, option->max_text,
                 unit);
        break;
    case OPTION_INTS:
        snprintf(text, sizeof text, "a list of 1 to %zu integers from %s to %s", option->most,
                 option->min_text, option->max_text);
        break;
    case OPTION_ENUM: {
        const char *choice;
        size_t used = (size_t)snprintf(text, sizeof text, "one of");
        for (int i = 0; (choice = config_option_choice(option, i)); i++)
            used +=
                (size_t)snprintf(text + used, sizeof text - used, "%s %s", i ? "," : "", choice);
        break;
    }
    }
    return text;
}

/* A value as an error shows it: in quotes, cut when it is long. Unfit bytes become '?'. */
static const char *shown(const char *text, size_t len, bool quoted) {
    static _Thread_local char buffer[72];
    size_t used = 0, most = 56;
    if (len == 0 && !quoted)
        return "nothing";
    buffer[used++] = '"';
    for (size_t i = 0; i < len && i < most; i++)
        buffer[used++] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? '?' : text[i];
    if (len > most) {
        /* Not in the middle of a character. */
        while (used > 1 && ((unsigned char)buffer[used - 1] & 0xc0) == 0x80)
            used--;
        if (used > 1 && ((unsigned char)buffer[used - 1] & 0xc0) == 0xc0)
            used--;
        memcpy(buffer + used, "...", 3);
        used += 3;
    }
    buffer[used++] = '"';
    buffer[used] = 0;
    return buffer;
}

static int refuse(const struct config_option *option, const char *text, size_t len, bool quoted,
                  struct error *reterr) {
    bool number = option->kind == OPTION_INT || option->kind == OPTION_INTS ||
                  option->kind == OPTION_FLOAT || option->kind == OPTION_BOOL;
    return error_set(reterr, ERR_CONFIG, "expected %s, found %s%s", config_option_expected(option),
                     shown(text, len, quoted),
                     quoted && number ? " in quotes; leave the quotes out" : "");
}

static int out_of_range(const struct config_option *option, const char *text, size_t len,
                        struct error *reterr) {
    return error_set(reterr, ERR_CONFIG, "%s is out of range, expected %s", shown(text, len, false),
                     config_option_expected(option));
}

/* Decimal digits with an optional sign, and nothing else. */
static int read_int(const struct config_option *option, const char *text, size_t len, bool quoted,
                    int64_t *ret, struct error *reterr) {
    size_t sign = len > 0 && (text[0] == '-' || text[0] == '+');
    if (quoted || len == sign || strspn(text + sign, "0123456789") != len - sign)
        return refuse(option, text, len, quoted, reterr);

    errno = 0;
    long long value = strtoll(text, NULL, 10);
    if (errno == ERANGE || value < option->int_min || value > option->int_max)
        return out_of_range(option, text, len, reterr);
    *ret = value;
    return 0;
}

/* Decimal, with point and exponent; strtod alone would also take "nan", "inf" and "0x1p3". */
static int read_float(const struct config_option *option, const char *text, size_t len, bool quoted,
                      double *ret, struct error *reterr) {
    char *end = NULL;
    double value = strtod(text, &end);
    if (quoted || len == 0 || strspn(text, "+-0123456789.eE") != len || end != text + len)
        return refuse(option, text, len, quoted, reterr);
    if (!isfinite(value) || value < option->float_min || value > option->float_max)
        return out_of_range(option, text, len, reterr);
    *ret = value;
    return 0;
}

/* Valid UTF-8 without control characters and without the marks that YAML reads as line breaks:
 * what is accepted here can be logged on one line and printed as YAML again. */
static bool text_is_plain(const char *text, size_t len) {
    for (size_t i = 0; i < len;) {
        unsigned char lead = (unsigned char)text[i];
        size_t more = lead < 0x80 ? 0 : lead < 0xc2 ? 9 : lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
        if (lead > 0xf4 || more > len - i - 1)
            return false;

        uint32_t code = more == 0 ? lead : lead & (0x3fu >> more);
        for (size_t k = 1; k <= more; k++) {
            if (((unsigned char)text[i + k] & 0xc0) != 0x80)
                return false;
            code = code << 6 | ((unsigned char)text[i + k] & 0x3f);
        }
        static const uint32_t smallest[] = {0, 0x80, 0x800, 0x10000};
        bool control = code < 0x20 || (code >= 0x7f && code < 0xa0);
        bool break_or_mark = code == 0x2028 || code == 0x2029 || code == 0xfeff;
        bool no_character = (code >= 0xd800 && code < 0xe000) || code == 0xfffe || code == 0xffff;
        if (code < smallest[more] || code > 0x10ffff || control || break_or_mark || no_character)
            return false;
        i += more + 1;
    }
    return true;
}

static int read_string(const char *text, size_t len, struct error *reterr) {
    if (len > STRING_BYTES_MAX)
        return error_set(reterr, ERR_CONFIG, "text of %zu bytes, at most %d are allowed", len,
                         STRING_BYTES_MAX);
    if (!text_is_plain(text, len))
        return error_set(reterr, ERR_CONFIG,
                         "the text %s holds control characters or is not valid UTF-8",
                         shown(text, len, true));
    return 0;
}

static int read_choice(const struct config_option *option, const char *text, size_t len,
                       bool quoted, int *ret, struct error *reterr) {
    const char *choice;
    struct nearest nearest;
    nearest_init(&nearest, text);
    for (int i = 0; (choice = config_option_choice(option, i)); i++) {
        if (strlen(choice) == len && strcmp(choice, text) == 0) {
            *ret = i;
            return 0;
        }
        nearest_offer(&nearest, choice);
    }
    refuse(option, text, len, quoted, reterr);
    if (nearest.best && reterr) {
        size_t used = strlen(reterr->text);
        snprintf(reterr->text + used, sizeof reterr->text - used, "; did you mean \"%s\"?",
                 nearest.best);
    }
    return ERR_CONFIG;
}

int config_option_assign(const struct config_option *option, struct config *config,
                         const char *text, size_t len, bool quoted, struct error *reterr) {
    void *to = field(option, config);
    int r;

    switch (option->kind) {
    case OPTION_STRING:
        r = read_string(text, len, reterr);
        if (r == 0) {
            mem_free(*(char **)to);
            *(char **)to = mem_strdup(text);
        }
        return r;
    case OPTION_INT:
        return read_int(option, text, len, quoted, to, reterr);
    case OPTION_FLOAT:
        return read_float(option, text, len, quoted, to, reterr);
    case OPTION_BOOL:
        if (quoted || strlen(text) != len ||
            (strcmp(text, "true") != 0 && strcmp(text, "false") != 0))
            return refuse(option, text, len, quoted, reterr);
        *(bool *)to = text[0] == 't';
        return 0;
    case OPTION_ENUM:
        return read_choice(option, text, len, quoted, to, reterr);
    case OPTION_INTS:
    case OPTION_STRINGS:
        break;
    }
    return refuse(option, text, len, quoted, reterr);
}

int config_option_append(const struct config_option *option, struct config *config,
                         const char *text, size_t len, bool quoted, struct error *reterr) {
    struct int_list *ints = field(option, config);
    struct string_list *strings = field(option, config);
    size_t count = option->kind == OPTION_INTS ? ints->count : strings->count;
    if (count >= option->most)
        return error_set(reterr, ERR_CONFIG, "too many entries, expected %s",
                         config_option_expected(option));

    int r;
    if (option->kind == OPTION_INTS) {
        r = read_int(option, text, len, quoted, &ints->items[count], reterr);
        if (r == 0)
            ints->count++;
    } else {
        r = read_string(text, len, reterr);
        if (r == 0) {
            strings->items =
                mem_resize(strings->items, count * sizeof(char *), (count + 1) * sizeof(char *));
            strings->places = mem_resize(strings->places, count * sizeof *strings->places,
                                         (count + 1) * sizeof *strings->places);
            strings->places[count] = (struct config_place){0};
            strings->items[strings->count++] = mem_strdup(text);
        }
    }
    return r;
}

void config_option_place(const struct config_option *option, struct config *config,
                         struct config_place place) {
    struct string_list *strings = field(option, config);
    strings->places[strings->count - 1] = place;
}

/* "[a, b]" or "a, b" without the brackets and the spaces around it; *ret_len its length. */
static const char *list_inside(const char *text, size_t *ret_len) {
    text += strspn(text, " ");
    size_t len = strlen(text);
    while (len > 0 && text[len - 1] == ' ')
        len--;
    if (len >= 2 && text[0] == '[' && text[len - 1] == ']') {
        text++;
        len -= 2;
    }
    *ret_len = len;
    return text;
}

int config_option_assign_text(const struct config_option *option, struct config *config,
                              const char *text, struct error *reterr) {
    if (!config_option_is_list(option))
        return config_option_assign(option, config, text, strlen(text), false, reterr);

    size_t len;
    const char *at = list_inside(text, &len);
    const char *end = at + len;
    if (option->kind == OPTION_INTS && strspn(at, " ") >= len)
        return refuse(option, "", 0, false, reterr);

    config_option_clear(option, config);
    while (at < end) {
        at += strspn(at, " ");
        const char *comma = memchr(at, ',', at < end ? (size_t)(end - at) : 0);
        const char *stop = comma ? comma : end;
        size_t item_len = stop > at ? (size_t)(stop - at) : 0;
        while (item_len > 0 && at[item_len - 1] == ' ')
            item_len--;

        _cleanup_(mem_free_p) char *item = mem_printf("%.*s", (int)item_len, at);
        int r = config_option_append(option, config, item, item_len, false, reterr);
        if (r)
            return r;
        at = stop + 1;
    }
    return 0;
}

void config_option_reset(const struct config_option *option, struct config *config) {
    const char *text = option->default_text;
    if (option->kind == OPTION_ENUM)
        text = config_option_choice(option, atoi(text));

    config_option_clear(option, config);
    if (option->kind == OPTION_STRINGS)
        return;
    struct error err = {0};
    if (config_option_assign_text(option, config, text, &err)) {
        fprintf(stderr, "graphps: internal error: the default of %s.%s in options.def: %s\n",
                option->section, option->name, err.text);
        abort();
    }
}

void config_option_clear(const struct config_option *option, struct config *config) {
    void *to = field(option, config);
    if (option->kind == OPTION_STRING) {
        mem_free(*(char **)to);
        *(char **)to = NULL;
    } else if (option->kind == OPTION_STRINGS) {
        struct string_list *list = to;
        for (size_t i = 0; i < list->count; i++)
            mem_free(list->items[i]);
        mem_free(list->items);
        mem_free(list->places);
        *list = (struct string_list){0};
    } else if (option->kind == OPTION_INTS) {
        *(struct int_list *)to = (struct int_list){0};
    }
}

bool config_option_equal(const struct config_option *option, const struct config *a,
                         const struct config *b) {
    const void *left = field_const(option, a), *right = field_const(option, b);
    switch (option->kind) {
    case OPTION_STRING:
        return strcmp(*(char *const *)left, *(char *const *)right) == 0;
    case OPTION_INT:
        return *(const int64_t *)left == *(const int64_t *)right;
    case OPTION_FLOAT:
        return *(const double *)left == *(const double *)right;
    case OPTION_BOOL:
        return *(const bool *)left == *(const bool *)right;
    case OPTION_ENUM:
        return *(const int *)left == *(const int *)right;
    case OPTION_INTS: {
        const struct int_list *x = left, *y = right;
        return x->count == y->count && memcmp(x->items, y->items, x->count * sizeof(int64_t)) == 0;
    }
    case OPTION_STRINGS: {
        const struct string_list *x = left, *y = right;
        bool equal = x->count == y->count;
        for (size_t i = 0; equal && i < x->count; i++)
            equal = strcmp(x->items[i], y->items[i]) == 0;
        return equal;
    }
    }
    return false;
}

static void print_quoted(const char *text, FILE *out) {
    putc('"', out);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            putc('\\', out);
        putc(*text, out);
    }
    putc('"', out);
}

/* The shorter of two forms, as long as it reads back to the same number. */
static void print_float(double value, FILE *out) {
    char text[40];
    snprintf(text, sizeof text, "%.15g", value);
    if (strtod(text, NULL) != value)
        snprintf(text, sizeof text, "%.17g", value);
    fputs(text, out);
}

void config_option_print(const struct config_option *option, const struct config *config,
                         FILE *out) {
    const void *from = field_const(option, config);
    switch (option->kind) {
    case OPTION_STRING:
        print_quoted(*(char *const *)from, out);
        break;
    case OPTION_INT:
        fprintf(out, "%lld", (long long)*(const int64_t *)from);
        break;
    case OPTION_FLOAT:
        print_float(*(const double *)from, out);
        break;
    case OPTION_BOOL:
        fputs(*(const bool *)from ? "true" : "false", out);
        break;
    case OPTION_ENUM:
        fputs(config_option_choice(option, *(const int *)from), out);
        break;
    case OPTION_INTS: {
        const struct int_list *list = from;
        for (size_t i = 0; i < list->count; i++)
            fprintf(out, "%s%lld", i ? ", " : "[", (long long)list->items[i]);
        fputs(list->count ? "]" : "[]", out);
        break;
    }
    case OPTION_STRINGS: {
        const struct string_list *list = from;
        putc('[', out);
        for (size_t i = 0; i < list->count; i++) {
            fputs(i ? ", " : "", out);
            print_quoted(list->items[i], out);
        }
        putc(']', out);
        break;
    }
    }
}
