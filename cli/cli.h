/* What the subcommands of graphps share. */
#pragma once

#include "common/args.h"
#include "common/config.h"
#include "common/error.h"

#define COMMAND(name, sentence) int cmd_##name(int argc, char **argv);
#include "cli/commands.def"
#undef COMMAND

/* args_load_config for who wants the whole job to run: also refused is what its processes would
 * refuse. */
int cli_load_job(const struct args_job *args, struct config **ret);
/* Prints "command: what went wrong" on standard error and returns the exit code. command is
 * argv[0]. */
int cli_fail(const char *command, const struct error *err);
