/* The list of faults, and what a fault looks like. Knows no YAML and no option. */
#include "common/config_sink.h"

#include <stdarg.h>
#include <stdio.h>

#include "common/mem.h"

void config_sink_add(struct config_sink *sink, char *text) {
    if (sink->count++ == 0)
        error_set(sink->reterr, ERR_CONFIG, "%s", text);
    struct config_faults *list = sink->list;
    if (list && list->count <= CONFIG_FAULTS_MAX) {
        if (list->count == CONFIG_FAULTS_MAX) {
            mem_free(text);
            text = mem_printf("%s: more faults are not shown", sink->path);
        }
        list->texts = mem_resize(list->texts, list->count * sizeof(char *),
                                 (list->count + 1) * sizeof(char *));
        list->texts[list->count++] = TAKE_PTR(text);
    }
    mem_free(text);
}

void config_sink_add_at(struct config_sink *sink, size_t line, size_t column, const char *format,
                        ...) {
    char what[560];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    config_sink_add(sink, mem_printf("%s:%zu:%zu: %s", sink->path, line, column, what));
}

void config_faults_done(struct config_faults *faults) {
    for (size_t i = 0; i < faults->count; i++)
        mem_free(faults->texts[i]);
    mem_free(faults->texts);
    *faults = (struct config_faults){0};
}
