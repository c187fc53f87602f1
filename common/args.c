/* --config and --set of every program. Knows no other option. */
#include "common/args.h"

#include "common/config_sink.h"
#include "common/mem.h"

static const struct argp_option options[] = {
    {"config", 'c', "FILE", 0, "The job file", 1},
    {"set", 's', "SECTION.OPTION=VALUE", 0, "Set an option over the job file (may be repeated)", 1},
    {0},
};

void args_job_set(struct args_job *args, const char *assignment) {
    args->sets = mem_resize(args->sets, args->set_count * sizeof *args->sets,
                            (args->set_count + 1) * sizeof *args->sets);
    args->sets[args->set_count++] = assignment;
}

static error_t parse_option(int key, char *arg, struct argp_state *state) {
    struct args_job *args = state->input;
    switch (key) {
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
    *args = (struct args_job){0};
}

int args_load_config(const struct args_job *args, struct config **ret, struct config_faults *faults,
                     struct error *reterr) {
    struct config *config = config_new();
    struct error first = {0}, err = {0};

    /* A wrong option does not end the search: a person wants to see all that is wrong at once. */
    if (args->config_path) {
        config_load(config, args->config_path, faults, &first);
        if (first.code && first.code != ERR_CONFIG)
            config_faults_add(faults, error_text(&first));
    }
    if (first.code == 0 || first.code == ERR_CONFIG) {
        for (size_t i = 0; i < args->set_count; i++)
            if (config_set(config, args->sets[i], &err)) {
                error_prefix(&err, "--set");
                config_faults_add(faults, error_text(&err));
                if (!first.code)
                    first = err;
            }
        if (config_finish(config, args->config_path, faults, &err) && !first.code)
            first = err;
    }

    if (first.code) {
        config_free(config);
        return error_set(reterr, first.code, "%s", error_text(&first));
    }
    *ret = config;
    return 0;
}
