/* graphps: finds the subcommand and hands it the rest of the command line. The subcommands are
 * listed in commands.def. */
#include <argp.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "common/mem.h"
#include "common/nearest.h"

enum { EXIT_USAGE = 78, EXIT_IO = 70 };

struct command {
    const char *name;
    const char *sentence;
    int (*run)(int argc, char **argv);
};

static const struct command commands[] = {
#define COMMAND(name, sentence) {#name, sentence, cmd_##name},
#include "cli/commands.def"
#undef COMMAND
};

static void print_help(FILE *out) {
    fputs("Usage: graphps COMMAND [OPTION...]\n"
          "Trains graph neural networks with a parameter server.\n\n"
          "Commands:\n",
          out);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].sentence);
    fputs("\n"
          "graphps COMMAND --help (or graphps help COMMAND) describes one command.\n"
          "graphps --version prints the version.\n",
          out);
}

static const struct command *find_command(const char *name) {
    struct nearest nearest;
    nearest_init(&nearest, name);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
        nearest_offer(&nearest, commands[i].name);
    }
    fprintf(stderr, "graphps: unknown command \"%s\"", name);
    if (nearest.best)
        fprintf(stderr, "; did you mean \"%s\"?", nearest.best);
    fputs("\nTry \"graphps --help\".\n", stderr);
    return NULL;
}

static int run_command(const struct command *command, int argc, char **argv) {
    /* argp and getopt begin their messages with argv[0]. */
    char name[64];
    snprintf(name, sizeof name, "graphps %s", command->name);
    argv[0] = name;
    return command->run(argc, argv);
}

static int run(int argc, char **argv) {
    if (argc < 2) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    const char *first = argv[1];
    if (strcmp(first, "--version") == 0 || strcmp(first, "-V") == 0) {
        printf("graphps %s\n", GRAPHPS_VERSION);
        return 0;
    }
    bool help = strcmp(first, "--help") == 0 || strcmp(first, "-h") == 0 ||
                strcmp(first, "-?") == 0 || strcmp(first, "help") == 0;
    if (help && argc == 2) {
        print_help(stdout);
        return 0;
    }

    const struct command *command = find_command(help ? argv[2] : first);
    if (!command)
        return EXIT_USAGE;
    if (help) {
        char *arguments[] = {NULL, (char[]){"--help"}, NULL};
        return run_command(command, 2, arguments);
    }
    return run_command(command, argc - 1, argv + 1);
}

int main(int argc, char **argv) {
    argp_err_exit_status = EXIT_USAGE;
    int exit_code = run(argc, argv);
    /* What was printed is the result: a full disk or a closed pipe must not pass for success. */
    if ((fflush(stdout) || ferror(stdout)) && exit_code == 0) {
        perror("graphps: standard output");
        return EXIT_IO;
    }
    return exit_code;
}
