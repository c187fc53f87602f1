/* What the subcommands share: the job's configuration, and how a failure is told. */
#include "cli/cli.h"

#include <stdio.h>

static int check_job(const struct config *config, const char *path, struct config_faults *faults,
                     struct error *reterr) {
    struct error err = {0};
    int snapshot = config_check_snapshot(config, path, faults, reterr);
    int security = config_check_security(config, CONFIG_ALL_SHARDS, path, faults,
                                         snapshot < 0 ? &err : reterr);
    return snapshot < 0 ? snapshot : security;
}

int cli_load_job(const struct args_job *args, struct config **ret) {
    return args_load_config(args, check_job, ret);
}

int cli_fail(const char *command, const struct error *err) {
    fprintf(stderr, "%s: %s\n", command, error_text(err));
    return error_exit_code(err->code);
}
