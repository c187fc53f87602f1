/* graphps config: the option table on paper, and job files looked at. */
#include <stdio.h>

#include "cli/cli.h"

enum { /* no short forms */ KEY_DEFAULTS = 256, KEY_MARKDOWN, KEY_CHECK, KEY_SHOW };

struct arguments {
    int action; /* a KEY_... */
    struct args_job job;
};

static const struct argp_option options[] = {
    {"defaults", KEY_DEFAULTS, NULL, 0, "Print every option with its default, range and meaning",
     0},
    {"check", KEY_CHECK, "FILE", 0, "Name every fault of a job file", 0},
    {"show", KEY_SHOW, "FILE", 0, "Print the options that the file sets to other than the defaults",
     0},
    {"markdown", KEY_MARKDOWN, NULL, 0, "Print the documentation page of all options", 0},
    {"set", 's', "SECTION.OPTION=VALUE", 0,
     "With --check and --show: set an option over the file (may be repeated)", 0},
    {0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state) {
    struct arguments *arguments = state->input;
    switch (key) {
    case KEY_DEFAULTS:
    case KEY_MARKDOWN:
    case KEY_CHECK:
    case KEY_SHOW:
        if (arguments->action)
            argp_error(state, "give only one of --defaults, --check, --show, --markdown");
        arguments->action = key;
        arguments->job.config_path = arg;
        return 0;
    case 's':
        args_job_set(&arguments->job, arg);
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\"", arg);
        return 0;
    case ARGP_KEY_END:
        if (!arguments->action)
            argp_error(state, "give one of --defaults, --check, --show, --markdown");
        if (arguments->job.set_count > 0 && !arguments->job.config_path)
            argp_error(state, "--set goes with --check and --show");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int cmd_config(int argc, char **argv) {
    static const struct argp argp = {
        .options = options,
        .parser = parse_option,
        .doc = "Print every option, or check a job file.\v"
               "--check ends with exit code 0 when the file has no fault, else with 78.",
    };
    struct arguments arguments = {.job = {.program = argv[0]}};
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);

    int r = 0;
    if (arguments.action == KEY_DEFAULTS) {
        config_print_defaults(stdout);
    } else if (arguments.action == KEY_MARKDOWN) {
        config_print_markdown(stdout);
    } else {
        struct config *config = NULL;
        bool check = arguments.action == KEY_CHECK;
        r = check ? cli_load_job(&arguments.job, &config)
                  : args_load_config(&arguments.job, NULL, &config);
        if (r == 0 && check)
            printf("%s: no faults\n", arguments.job.config_path);
        else if (r == 0)
            config_print_given(config, stdout);
        config_free(config);
    }
    args_job_done(&arguments.job);
    return error_exit_code(r == ERR_NOT_ALLOWED ? ERR_CONFIG : r); /* a fault like any other here */
}
