/* --config and --set of every program. Knows no other option. */
#include "common/args.h"

#include <stdio.h>
#include <string.h>

#include "common/config_sink.h"
#include "common/mem.h"

static const struct argp_option options[] = {
    {"config", 'c', "FILE", 0, "The job file", 1},
    {"set", 's', "SECTION.OPTION=VALUE", 0, "Set an option over the job file (may be repeated)", 1},
    {0},
};

void args_job_set_by(struct args_job *args, const char *option, const char *assignment) {
    size_t count = args->set_count++;
    args->sets =
        mem_resize(args->sets, count * sizeof *args->sets, args->set_count * sizeof *args->sets);
    args->options = mem_resize(args->options, count * sizeof *args->options,
                               args->set_count * sizeof *args->options);
    args->sets[count] = assignment;
    args->options[count] = option;
}

void args_job_set(struct args_job *args, const char *assignment) {
    args_job_set_by(args, "--set", assignment);
}

static error_t parse_option(int key, char *arg, struct argp_state *state) {
    struct args_job *args = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        args->program = basename(state->argv[0]);
        return 0;
    case 'c':
        args->config_path = arg;
        return 0;
    case 's':
        args_job_set(args, arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp args_job_argp = {.options = options, .parser = parse_option};

void args_job_done(struct args_job *args) {
    mem_free(args->sets);
    mem_free(args->options);
    *args = (struct args_job){0};
}

/* A wrong option does not end the search: a person wants to see all that is wrong at once. */
static int load_config(const struct args_job *args, args_check *check, struct config *config,
                       struct config_faults *faults) {
    struct error err = {0};
    int first = 0, r;
    if (args->config_path && (first = config_load(config, args->config_path, faults, &err)) < 0 &&
        first != ERR_CONFIG) {
        config_faults_add(faults, error_text(&err));
        return first;
    }
    for (size_t i = 0; i < args->set_count; i++)
        if (config_set(config, args->sets[i], &err) < 0) {
            error_prefix(&err, "%s", args->options[i]);
            config_faults_add(faults, error_text(&err));
            first = first ? first : err.code;
        }
    /* What could not be read may be the very thing that a check would miss. */
    bool understood = first == 0;
    if ((r = config_finish(config, args->config_path, faults, &err)) < 0 && first == 0)
        first = r;
    if (understood && check && (r = check(config, args->config_path, faults, &err)) < 0 &&
        first == 0)
        first = r;
    return first;
}

int args_load_config(const struct args_job *args, args_check *check, struct config **ret) {
    struct config *config = config_new();
    struct config_faults faults = {0};
    int r = load_config(args, check, config, &faults);
    for (size_t i = 0; i < faults.count; i++)
        fprintf(stderr, "%s: %s\n", args->program, faults.texts[i]);
    config_faults_done(&faults);
    if (r < 0) {
        config_free(config);
        return r;
    }
    *ret = config;
    return 0;
}
