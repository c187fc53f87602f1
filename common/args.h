/* The command line that every program shares: --config FILE and --set section.option=value, as an
 * argp child, and the configuration that comes from both. Prints nothing itself. */
#pragma once

#include <argp.h>
#include <stddef.h>

#include "common/config.h"

struct args_job {
    const char *config_path; /* --config, or what the program puts here; NULL: the defaults */
    const char **sets;       /* --set, in order; the texts are argv's */
    size_t set_count;
};

/* A child for struct argp.children; its input (state->child_inputs[i]) is a struct args_job. */
extern const struct argp args_job_argp;

/* What --set does, for a program that gets assignments in another way. */
void args_job_set(struct args_job *args, const char *assignment);

/* Defaults, then the file, then every --set, then config_finish. All that is wrong is added to
 * *faults (starts as {0}; config_faults_done it), the first of it in *reterr; *ret only when
 * nothing is. */
int args_load_config(const struct args_job *args, struct config **ret, struct config_faults *faults,
                     struct error *reterr);
void args_job_done(struct args_job *args);
