/* graphps snapshots: finds the subcommand and hands it the rest of the command line. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/snapshots.h"
#include "common/mem.h"
#include "common/nearest.h"

static const struct {
    const char *name, *sentence;
    int (*run)(int argc, char **argv);
} subcommands[] = {
    {"list", "What is there, and what used it", snapshots_list},
    {"show", "One snapshot: its parent, partitionings, runs and models", snapshots_show},
    {"verify", "Check the MD5 of every file", snapshots_verify},
    {"diff", "What differs between two snapshots, node by node and edge by edge", snapshots_diff},
    {"rm", "Remove a snapshot or one of its partitionings", snapshots_rm},
};

static void print_help(FILE *out) {
    fputs("Usage: graphps snapshots COMMAND [OPTION...]\n"
          "List, check, compare and remove snapshots.\n\n"
          "Commands:\n",
          out);
    for (size_t i = 0; i < ARRAY_LEN(subcommands); i++)
        fprintf(out, "  %-10s %s\n", subcommands[i].name, subcommands[i].sentence);
    fputs("\ngraphps snapshots COMMAND --help describes one command.\n"
          "Exit codes: 0 done, 70 damaged or failed, 75 in use (try again), 77 still referred to,\n"
          "78 a mistake in the command line.\n",
          out);
}

int cmd_snapshots(int argc, char **argv) {
    const char *first = argc > 1 ? argv[1] : NULL;
    if (!first) {
        print_help(stderr);
        return error_exit_code(ERR_USAGE);
    }
    if (!strcmp(first, "--help") || !strcmp(first, "-?") || !strcmp(first, "help")) {
        print_help(stdout);
        return fflush(stdout) ? error_exit_code(ERR_IO) : 0;
    }
    struct nearest nearest;
    nearest_init(&nearest, first);
    for (size_t i = 0; i < ARRAY_LEN(subcommands); i++) {
        if (!strcmp(first, subcommands[i].name)) {
            char name[64];
            snprintf(name, sizeof name, "graphps snapshots %s", first);
            argv[1] = name;
            return subcommands[i].run(argc - 1, argv + 1);
        }
        nearest_offer(&nearest, subcommands[i].name);
    }
    if (*first == '-')
        fprintf(stderr, "%s: unrecognized option '%s'", argv[0], first);
    else
        fprintf(stderr, "%s: unknown command \"%s\"", argv[0], first);
    if (nearest.best)
        fprintf(stderr, "; did you mean \"%s\"?", nearest.best);
    fprintf(stderr, "\nTry \"%s --help\".\n", argv[0]);
    return error_exit_code(ERR_USAGE);
}
