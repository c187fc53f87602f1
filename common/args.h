/* The command line that every program shares: --config FILE and --set section.option=value, as an
 * argp child, and the configuration that comes from both, with its faults told to a person. */
#pragma once

#include <argp.h>
#include <stddef.h>

#include "common/config.h"

struct args_job {
    const char *program;     /* what messages begin with; the argp child takes it from argv[0] */
    const char *config_path; /* --config, or what the program puts here; NULL: the defaults */
    const char **sets;       /* --set, in order; the texts are argv's */
    const char **options;    /* with which option each came: "--set" */
    size_t set_count;
};

/* A child for struct argp.children; its input (state->child_inputs[i]) is a struct args_job. */
extern const struct argp args_job_argp;

/* What --set does, for a program that gets assignments in another way. */
void args_job_set(struct args_job *args, const char *assignment);
/* The same; what is wrong with it is said of that option ("--optimizer"). */
void args_job_set_by(struct args_job *args, const char *option, const char *assignment);

/* What a program asks of a job file beyond config_finish: config_check_snapshot and its like. */
typedef int args_check(const struct config *config, const char *path, struct config_faults *faults,
                       struct error *reterr);
/* Defaults, then the file, then every --set, then config_finish and check (may be NULL). Prints all
 * that is wrong on standard error, a line each, and returns the first code; *ret only when nothing
 * is. */
int args_load_config(const struct args_job *args, args_check *check, struct config **ret);
void args_job_done(struct args_job *args);
