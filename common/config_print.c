/* What is printed from the option table: the commented defaults, the documentation page, the
 * options that differ. Reads no file. */
#include "common/config_option.h"

#include <stdlib.h>
#include <string.h>

#include "common/mem.h"

static void config_free_p(struct config **config) {
    config_free(*config);
}

static bool opens_section(size_t i) {
    return i == 0 || strcmp(config_options[i].section, config_options[i - 1].section) != 0;
}

void config_print_defaults(FILE *out) {
    _cleanup_(config_free_p) struct config *config = config_new();
    fprintf(out,
            "# Every option of graphps %s with its default. A job file needs only those it "
            "changes.\n",
            GRAPHPS_VERSION);

    for (size_t i = 0; i < config_option_count; i++) {
        const struct config_option *option = &config_options[i];
        if (opens_section(i))
            fprintf(out, "\n%s:\n", option->section);
        fprintf(out, "  # %s\n  # Default ", option->help);
        config_option_print(option, config, out);
        fprintf(out, "; %s.\n  %s: ", config_option_expected(option), option->name);
        config_option_print(option, config, out);
        putc('\n', out);
    }
}

/* '|' would end a cell, '<' begin a tag. */
static void print_cell(const char *text, FILE *out) {
    for (; *text; text++) {
        if (*text == '|')
            fputs("\\|", out);
        else if (*text == '<')
            fputs("&lt;", out);
        else
            putc(*text, out);
    }
}

void config_print_markdown(FILE *out) {
    _cleanup_(config_free_p) struct config *config = config_new();
    fputs(
        "# Configuration\n\n"
        "One YAML file describes a job; every process of the job reads the same file. It holds "
        "sections, and in each\nsection the options that differ from the defaults below:\n\n"
        "```yaml\n"
        "job:\n"
        "  name: cora\n"
        "train:\n"
        "  epochs: 100\n"
        "```\n\n"
        "`graphps config --check job.yaml` names every fault with its line and column, "
        "`graphps config --show job.yaml`\nprints the options in force that differ from the "
        "defaults, `graphps config --defaults` prints a file with\nall options. Every program "
        "takes `--set section.option=value` (lists as `a,b,c`); it goes over the file, and the "
        "last one\nwins.\n\n"
        "Text may stand in quotes, numbers may not. YAML's anchors, aliases and tags are refused, "
        "and so is a file above 1 MiB.\n"
        "This page is made by `graphps config --markdown` from `common/options.def`.\n",
        out);

    for (size_t i = 0; i < config_option_count; i++) {
        const struct config_option *option = &config_options[i];
        if (opens_section(i))
            fprintf(
                out,
                "\n## %s\n\n| option | default | value | meaning |\n| --- | --- | --- | --- |\n",
                option->section);
        fprintf(out, "| `%s.%s` | `", option->section, option->name);
        config_option_print(option, config, out);
        fputs("` | ", out);
        print_cell(config_option_expected(option), out);
        fputs(" | ", out);
        print_cell(option->help, out);
        fputs(" |\n", out);
    }
}

static void print_differing(const struct config *config, bool given, FILE *out) {
    _cleanup_(config_free_p) struct config *defaults = config_new();
    const char *section = "";
    for (size_t i = 0; i < config_option_count; i++) {
        const struct config_option *option = &config_options[i];
        if (config_option_equal(option, config, defaults))
            continue;
        if (given && config->places[i].line == 0) /* config_finish's */
            continue;
        if (strcmp(section, option->section) != 0)
            fprintf(out, "%s:\n", option->section);
        section = option->section;
        fprintf(out, "  %s: ", option->name);
        config_option_print(option, config, out);
        putc('\n', out);
    }
}

void config_print(const struct config *config, FILE *out) {
    print_differing(config, false, out);
}

void config_print_given(const struct config *config, FILE *out) {
    print_differing(config, true, out);
}

const char *config_choice(const struct config *config, const char *path) {
    char section[64];
    const char *dot = strchr(path, '.');
    const struct config_option *option = NULL;
    if (dot) {
        snprintf(section, sizeof section, "%.*s", (int)(dot - path), path);
        option = config_option_find(section, dot + 1);
    }
    if (!option || option->kind != OPTION_ENUM) {
        fprintf(stderr, "graphps: internal error: no choice option \"%s\"\n", path);
        abort();
    }
    return config_option_choice(
        option, *(const int *)(const void *)((const char *)config + option->offset));
}
