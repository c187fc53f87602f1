/* The list of faults, and what a fault looks like. Knows no YAML and no option. */
#include "common/config_sink.h"

#include <stdarg.h>
#include <stdio.h>

#include "common/mem.h"

void config_faults_add(struct config_faults *faults, const char *text) {
    if (faults->count > CONFIG_FAULTS_MAX)
        return;
    if (faults->count == CONFIG_FAULTS_MAX)
        text = "more faults are not shown";
    faults->texts = mem_resize(faults->texts, faults->count * sizeof(char *),
                               (faults->count + 1) * sizeof(char *));
    faults->texts[faults->count++] = mem_strdup(text);
}

void config_sink_add(struct config_sink *sink, const char *text) {
    if (sink->count++ == 0)
        error_set(sink->reterr, ERR_CONFIG, "%s", text);
    if (sink->list)
        config_faults_add(sink->list, text);
}

void config_sink_add_at(struct config_sink *sink, size_t line, size_t column, const char *format,
                        ...) {
    char what[560];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    _cleanup_(mem_free_p) char *text = mem_printf("%s:%zu:%zu: %s", sink->path, line, column, what);
    config_sink_add(sink, text);
}

void config_faults_done(struct config_faults *faults) {
    for (size_t i = 0; i < faults->count; i++)
        mem_free(faults->texts[i]);
    mem_free(faults->texts);
    *faults = (struct config_faults){0};
}
