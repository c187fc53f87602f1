/* What the subcommands share: the job's configuration, and how a failure is told. */
#include "cli/cli.h"

#include <stdio.h>

int cli_load_config(const struct args_job *args, struct config **ret) {
    struct config_faults faults = {0};
    struct error err = {0};
    int r = args_load_config(args, ret, &faults, &err);
    for (size_t i = 0; i < faults.count; i++)
        fprintf(stderr, "%s\n", faults.texts[i]);
    config_faults_done(&faults);
    return r;
}

int cli_fail(const char *command, const struct error *err) {
    fprintf(stderr, "%s: %s\n", command, error_text(err));
    return error_exit_code(err->code);
}
