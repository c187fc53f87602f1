/* Reading a job file: YAML events to options, every fault with its place, and the checks that
 * concern several options. One option's value is config_option.c's business, pages are
 * config_print.c's. */
#include "common/config.h"

#include <string.h>
#include <yaml.h>

#include "common/config_option.h"
#include "common/config_sink.h"
#include "common/file.h"
#include "common/mem.h"
#include "common/nearest.h"

enum { FILE_BYTES_MAX = 1 << 20, DEPTH_MAX = 8 };

struct config *config_new(void) {
    struct config *config = mem_alloc(sizeof *config);
    config->places = mem_array(config_option_count, sizeof *config->places);
    for (size_t i = 0; i < config_option_count; i++)
        config_option_reset(&config_options[i], config);
    return config;
}

struct config *config_free(struct config *config) {
    if (config) {
        for (size_t i = 0; i < config_option_count; i++)
            config_option_clear(&config_options[i], config);
        mem_free(config->places);
        mem_free(config);
    }
    return NULL;
}

#define fault_at_mark(sink, mark, ...)                                                             \
    config_sink_add_at(sink, (mark).line + 1, (mark).column + 1, __VA_ARGS__)

/* --- names ------------------------------------------------------------------------------------ */

/* What to say after 'unknown section "x"'. A dotted path or a bare option's name gets the place
 * where it belongs. */
static const char *section_hint(const char *name, char *buffer, size_t bytes) {
    const char *dot = strchr(name, '.');
    char section[64];
    if (dot && (size_t)(dot - name) < sizeof section) {
        snprintf(section, sizeof section, "%.*s", (int)(dot - name), name);
        if (config_option_find(section, dot + 1)) {
            snprintf(buffer, bytes, "; write \"%s:\", and \"%s: ...\" indented below it", section,
                     dot + 1);
            return buffer;
        }
    }

    struct nearest nearest;
    nearest_init(&nearest, name);
    for (size_t i = 0; i < config_option_count; i++)
        nearest_offer(&nearest, config_options[i].section);
    if (nearest.best && nearest.distance > 0) {
        snprintf(buffer, bytes, "; did you mean \"%s\"?", nearest.best);
        return buffer;
    }
    for (size_t i = 0; i < config_option_count; i++)
        if (strcmp(config_options[i].name, name) == 0) {
            snprintf(buffer, bytes, "; \"%s\" belongs below \"%s:\"", name,
                     config_options[i].section);
            return buffer;
        }

    size_t used = (size_t)snprintf(buffer, bytes, "; sections are ");
    for (size_t i = 0; i < config_option_count; i++)
        if (i == 0 || strcmp(config_options[i].section, config_options[i - 1].section) != 0)
            used += (size_t)snprintf(buffer + used, bytes - used, "%s%s", i ? ", " : "",
                                     config_options[i].section);
    return buffer;
}

/* What to say after 'unknown option "section.x"'. */
static const char *option_hint(const char *section, const char *name, char *buffer, size_t bytes) {
    struct nearest nearest;
    nearest_init(&nearest, name);
    for (size_t i = 0; i < config_option_count; i++)
        if (strcmp(config_options[i].section, section) == 0)
            nearest_offer(&nearest, config_options[i].name);
    if (nearest.best) {
        snprintf(buffer, bytes, "; did you mean \"%s.%s\"?", section, nearest.best);
        return buffer;
    }
    for (size_t i = 0; i < config_option_count; i++)
        if (strcmp(config_options[i].name, name) == 0) {
            snprintf(buffer, bytes, "; did you mean \"%s.%s\"?", config_options[i].section, name);
            return buffer;
        }

    size_t used = (size_t)snprintf(buffer, bytes, "; \"%s\" has ", section);
    const struct config_option *first = config_option_section(section);
    for (const struct config_option *o = first;
         o < config_options + config_option_count && strcmp(o->section, section) == 0; o++)
        used +=
            (size_t)snprintf(buffer + used, bytes - used, "%s%s", o == first ? "" : ", ", o->name);
    return buffer;
}

/* --- YAML ------------------------------------------------------------------------------------- */

struct reader {
    yaml_parser_t parser;
    yaml_event_t event; /* the present one; deleted when the next is fetched */
    bool stopped;       /* a fault after which the rest cannot be understood */
    struct config *config;
    struct config_sink *sink;
    const char *text;
    size_t len;
    size_t *option_lines; /* per option, the line where this file gave it first; 0: not yet */
};

/* A fault of the YAML itself. Libyaml's reader gives a byte offset, its scanner and parser a mark.
 */
static void reader_syntax_fault(struct reader *reader) {
    const yaml_parser_t *parser = &reader->parser;
    size_t line = parser->problem_mark.line, column = parser->problem_mark.column;
    const char *hint = "";

    if (parser->error == YAML_READER_ERROR) {
        line = column = 0;
        for (size_t i = 0; i < parser->problem_offset && i < reader->len; i++) {
            column++;
            if (reader->text[i] == '\n') {
                line++;
                column = 0;
            }
        }
    } else if (parser->problem_mark.index < reader->len &&
               reader->text[parser->problem_mark.index] == '\t') {
        hint = "; a tab stands here, indent with spaces";
    }
    config_sink_add_at(reader->sink, line + 1, column + 1, "not valid YAML: %s%s%s%s",
                       parser->problem ? parser->problem : "it cannot be read",
                       parser->context ? " " : "", parser->context ? parser->context : "", hint);
    reader->stopped = true;
}

/* Fetches the next event. False: there is none, the fault is noted. */
static bool reader_next(struct reader *reader) {
    yaml_event_delete(&reader->event);
    if (reader->stopped)
        return false;
    if (reader->sink->count > CONFIG_FAULTS_MAX) {
        reader->stopped = true;
        return false;
    }
    if (!yaml_parser_parse(&reader->parser, &reader->event)) {
        reader_syntax_fault(reader);
        return false;
    }

    /* Both make a file mean something else than it says at a glance, and aliases can blow it up. */
    const yaml_event_t *event = &reader->event;
    const yaml_char_t *anchor = NULL, *tag = NULL;
    if (event->type == YAML_SCALAR_EVENT) {
        anchor = event->data.scalar.anchor;
        tag = event->data.scalar.tag;
    } else if (event->type == YAML_SEQUENCE_START_EVENT) {
        anchor = event->data.sequence_start.anchor;
        tag = event->data.sequence_start.tag;
    } else if (event->type == YAML_MAPPING_START_EVENT) {
        anchor = event->data.mapping_start.anchor;
        tag = event->data.mapping_start.tag;
    } else if (event->type == YAML_ALIAS_EVENT) {
        fault_at_mark(reader->sink, event->start_mark,
                      "aliases (*name) are not allowed; write the value out");
    }
    if (anchor)
        fault_at_mark(reader->sink, event->start_mark,
                      "anchors (&name) are not allowed; leave it out");
    if (tag)
        fault_at_mark(reader->sink, event->start_mark,
                      "tags (!name) are not allowed; leave it out");
    return true;
}

/* Reads over the node that the present event starts. */
static void reader_skip(struct reader *reader) {
    int depth = 0;
    do {
        switch (reader->event.type) {
        case YAML_MAPPING_START_EVENT:
        case YAML_SEQUENCE_START_EVENT:
            if (++depth > DEPTH_MAX) {
                fault_at_mark(reader->sink, reader->event.start_mark, "nested too deeply");
                reader->stopped = true;
                return;
            }
            break;
        case YAML_MAPPING_END_EVENT:
        case YAML_SEQUENCE_END_EVENT:
            depth--;
            break;
        default:
            break;
        }
    } while (depth > 0 && reader_next(reader));
}

static const char *scalar_text(const yaml_event_t *event) {
    return (const char *)event->data.scalar.value;
}

static bool scalar_quoted(const yaml_event_t *event) {
    return event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
}

/* Nothing, written as YAML writes it. */
static bool scalar_null(const yaml_event_t *event) {
    const char *text = scalar_text(event);
    return !scalar_quoted(event) &&
           (text[0] == 0 || strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
}

static struct config_place place_at(yaml_mark_t mark) {
    return (struct config_place){.line = (int)mark.line + 1, .column = (int)mark.column + 1};
}

static void read_list(struct reader *reader, const struct config_option *option) {
    yaml_mark_t start = reader->event.start_mark;
    size_t faults_before = reader->sink->count;
    config_option_clear(option, reader->config);

    size_t entries = 0;
    while (reader_next(reader) && reader->event.type != YAML_SEQUENCE_END_EVENT) {
        struct error err = {0};
        const yaml_event_t *event = &reader->event;
        entries++;
        if (event->type == YAML_SCALAR_EVENT) {
            if (config_option_append(option, reader->config, scalar_text(event),
                                     event->data.scalar.length, scalar_quoted(event), &err))
                fault_at_mark(reader->sink, event->start_mark, "%s.%s: %s", option->section,
                              option->name, err.text);
            else if (option->kind == OPTION_STRINGS)
                config_option_place(option, reader->config, place_at(event->start_mark));
        } else if (event->type != YAML_ALIAS_EVENT) {
            fault_at_mark(reader->sink, event->start_mark, "%s.%s: expected %s, found %s inside it",
                          option->section, option->name, config_option_expected(option),
                          event->type == YAML_MAPPING_START_EVENT ? "a mapping" : "a list");
            reader_skip(reader);
        }
        if (entries > option->most) { /* said once is enough */
            while (reader_next(reader) && reader->event.type != YAML_SEQUENCE_END_EVENT)
                reader_skip(reader);
            break;
        }
    }
    if (entries == 0 && option->kind == OPTION_INTS && !reader->stopped)
        fault_at_mark(reader->sink, start, "%s.%s: expected %s, found none", option->section,
                      option->name, config_option_expected(option));
    /* A list with faults is never used; its default keeps later checks from adding to them. */
    if (reader->sink->count != faults_before) {
        config_option_reset(option, reader->config);
        reader->config->places[option - config_options] = (struct config_place){0};
    }
}

static void read_value(struct reader *reader, const struct config_option *option) {
    const yaml_event_t *event = &reader->event;
    yaml_mark_t mark = event->start_mark;
    size_t faults_before = reader->sink->count;
    struct error err = {0};

    switch (event->type) {
    case YAML_SCALAR_EVENT: {
        bool null = scalar_null(event);
        if (null && option->kind == OPTION_STRINGS)
            config_option_clear(option, reader->config);
        else if (config_option_assign(option, reader->config, null ? "" : scalar_text(event),
                                      null ? 0 : event->data.scalar.length, scalar_quoted(event),
                                      &err))
            fault_at_mark(reader->sink, mark, "%s.%s: %s", option->section, option->name, err.text);
        break;
    }
    case YAML_SEQUENCE_START_EVENT:
        if (config_option_is_list(option)) {
            read_list(reader, option);
            break;
        }
        fault_at_mark(reader->sink, mark, "%s.%s: expected %s, found a list", option->section,
                      option->name, config_option_expected(option));
        reader_skip(reader);
        break;
    case YAML_MAPPING_START_EVENT:
        fault_at_mark(reader->sink, mark, "%s.%s: expected %s, found a mapping", option->section,
                      option->name, config_option_expected(option));
        reader_skip(reader);
        break;
    default: /* an alias, noted already */
        break;
    }
    if (reader->sink->count == faults_before)
        reader->config->places[option - config_options] = place_at(mark);
}

/* Reads a key into name (cut when it is too long for any right one). False, with key and value
 * skipped, when it is no scalar. */
static bool read_key(struct reader *reader, char name[64]) {
    if (reader->event.type == YAML_SCALAR_EVENT) {
        const char *text = scalar_text(&reader->event);
        size_t len = strnlen(text, 63);
        for (size_t i = 0; i < len; i++)
            name[i] =
                (unsigned char)text[i] < 0x20 || (unsigned char)text[i] >= 0x7f ? '?' : text[i];
        name[len] = 0;
        /* A NUL inside would hide the rest of the key. */
        if (reader->event.data.scalar.length != strlen(text))
            snprintf(name, 64, "?");
        return true;
    }
    if (reader->event.type != YAML_ALIAS_EVENT)
        fault_at_mark(reader->sink, reader->event.start_mark,
                      "expected a name, found a list or mapping");
    reader_skip(reader);
    if (reader_next(reader))
        reader_skip(reader);
    return false;
}

static void read_section(struct reader *reader, const char *section) {
    char name[64], hint[480];
    while (reader_next(reader) && reader->event.type != YAML_MAPPING_END_EVENT) {
        if (!read_key(reader, name))
            continue;

        yaml_mark_t mark = reader->event.start_mark;
        const struct config_option *option = config_option_find(section, name);
        if (!option)
            fault_at_mark(reader->sink, mark, "unknown option \"%s.%s\"%s", section, name,
                          option_hint(section, name, hint, sizeof hint));
        else if (reader->option_lines[option - config_options] > 0)
            fault_at_mark(reader->sink, mark, "%s.%s was given before, on line %zu", section, name,
                          reader->option_lines[option - config_options]);
        else
            reader->option_lines[option - config_options] = mark.line + 1;

        if (!reader_next(reader))
            return;
        if (option)
            read_value(reader, option);
        else
            reader_skip(reader);
    }
}

static void read_root(struct reader *reader) {
    char name[64], hint[320];
    _cleanup_(mem_free_p) size_t *section_lines = mem_array(config_option_count, sizeof(size_t));

    while (reader_next(reader) && reader->event.type != YAML_MAPPING_END_EVENT) {
        if (!read_key(reader, name))
            continue;

        yaml_mark_t mark = reader->event.start_mark;
        const struct config_option *first = config_option_section(name);
        if (!first) {
            fault_at_mark(reader->sink, mark, "unknown section \"%s\"%s", name,
                          section_hint(name, hint, sizeof hint));
        } else {
            size_t *line = &section_lines[first - config_options];
            if (*line > 0)
                fault_at_mark(reader->sink, mark,
                              "section \"%s\" was given before, on line %zu; join them", name,
                              *line);
            else
                *line = mark.line + 1;
        }

        if (!reader_next(reader))
            return;
        yaml_event_type_t type = reader->event.type;
        if (first && type == YAML_MAPPING_START_EVENT) {
            read_section(reader, first->section);
            continue;
        }
        bool empty = type == YAML_SCALAR_EVENT && scalar_null(&reader->event);
        if (first && !empty && type != YAML_ALIAS_EVENT)
            fault_at_mark(
                reader->sink, reader->event.start_mark,
                "section \"%s\": expected options, each as \"name: value\" on an indented "
                "line of its own",
                name);
        reader_skip(reader);
    }
}

static void read_stream(struct reader *reader) {
    if (!reader_next(reader) || !reader_next(reader) || reader->event.type == YAML_STREAM_END_EVENT)
        return; /* an empty file: all defaults */
    if (!reader_next(reader))
        return;

    if (reader->event.type == YAML_MAPPING_START_EVENT) {
        read_root(reader);
    } else {
        if (reader->event.type != YAML_ALIAS_EVENT &&
            (reader->event.type != YAML_SCALAR_EVENT || !scalar_null(&reader->event)))
            fault_at_mark(reader->sink, reader->event.start_mark,
                          "expected sections, each as \"name:\" with its options indented below");
        reader_skip(reader);
    }

    if (reader_next(reader) && reader_next(reader) && reader->event.type != YAML_STREAM_END_EVENT)
        fault_at_mark(reader->sink, reader->event.start_mark,
                      "a second YAML document; a job file has one");
}

int config_parse(struct config *config, const char *path, const char *text, size_t len,
                 struct config_faults *faults, struct error *reterr) {
    struct config_sink sink = {.path = path, .list = faults, .reterr = reterr};
    if (len > FILE_BYTES_MAX) {
        config_sink_add_at(&sink, 1, 1, "the file has %zu bytes, at most %d are allowed", len,
                           FILE_BYTES_MAX);
        return ERR_CONFIG;
    }

    struct reader reader = {.config = config, .sink = &sink, .text = text, .len = len};
    if (!yaml_parser_initialize(&reader.parser))
        return error_set(reterr, ERR_NO_MEMORY, "%s: no memory to read it", path);
    reader.option_lines = mem_array(config_option_count, sizeof(size_t));
    yaml_parser_set_encoding(&reader.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, len);

    read_stream(&reader);

    yaml_event_delete(&reader.event);
    yaml_parser_delete(&reader.parser);
    mem_free(reader.option_lines);
    return sink.count > 0 ? ERR_CONFIG : 0;
}

int config_load(struct config *config, const char *path, struct config_faults *faults,
                struct error *reterr) {
    _cleanup_(mem_free_p) char *text = NULL;
    size_t len;
    int r = file_read_whole(path, FILE_BYTES_MAX, &text, &len, reterr);
    if (r == ERR_LIMIT) {
        struct config_sink sink = {.path = path, .list = faults, .reterr = reterr};
        config_sink_add_at(&sink, 1, 1, "the file is larger than %d bytes", FILE_BYTES_MAX);
        return ERR_CONFIG;
    }
    return r ? r : config_parse(config, path, text, len, faults, reterr);
}

/* --- the command line ------------------------------------------------------------------------- */

int config_set(struct config *config, const char *assignment, struct error *reterr) {
    char section[64], name[64], hint[480];
    size_t path_len = strcspn(assignment, "=");
    const char *dot = memchr(assignment, '.', path_len);
    if (!assignment[path_len] || !dot)
        return error_set(reterr, ERR_CONFIG, "\"%.200s\": expected section.option=value",
                         assignment);

    size_t section_len = (size_t)(dot - assignment), name_len = path_len - section_len - 1;
    snprintf(section, sizeof section, "%.*s", (int)section_len, assignment);
    snprintf(name, sizeof name, "%.*s", (int)name_len, dot + 1);
    if (!config_option_section(section))
        return error_set(reterr, ERR_CONFIG, "\"%.200s\": unknown section \"%s\"%s", assignment,
                         section, section_hint(section, hint, sizeof hint));
    const struct config_option *option = config_option_find(section, name);
    if (!option)
        return error_set(reterr, ERR_CONFIG, "\"%.200s\": unknown option \"%s.%s\"%s", assignment,
                         section, name, option_hint(section, name, hint, sizeof hint));

    struct error err = {0};
    int r = config_option_assign_text(option, config, assignment + path_len + 1, &err);
    if (r)
        return error_set(reterr, r, "\"%.200s\": %s", assignment, err.text);
    config->places[option - config_options] = (struct config_place){.line = CONFIG_PLACE_SET};
    return 0;
}
