/* graphps export: a checkpoint becomes a safetensors file. */
#include <argp.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/model_file.h"

enum { KEY_WHICH = 256 };

static const struct argp_option options[] = {
    {"out", 'o', "FILE", 0, "The file to write, e.g. model.safetensors", 0},
    {"which", KEY_WHICH, "best|last", 0,
     "The weights of the best validation epoch (default, when there are any), or the last ones", 0},
    {0},
};

struct arguments {
    const char *checkpoint, *out;
    enum model_file_which which;
};

static error_t parse_option(int key, char *arg, struct argp_state *state) {
    struct arguments *arguments = state->input;
    switch (key) {
    case 'o':
        arguments->out = arg;
        return 0;
    case KEY_WHICH:
        if (strcmp(arg, "best") == 0)
            arguments->which = MODEL_FILE_BEST;
        else if (strcmp(arg, "last") == 0)
            arguments->which = MODEL_FILE_LAST;
        else
            argp_error(state, "--which is best or last, not \"%s\"", arg);
        return 0;
    case ARGP_KEY_ARG:
        if (arguments->checkpoint)
            argp_error(state, "only one checkpoint, please; \"%s\" is too many", arg);
        arguments->checkpoint = arg;
        return 0;
    case ARGP_KEY_END:
        if (!arguments->checkpoint || !arguments->out)
            argp_error(state, "give a checkpoint and --out FILE");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int cmd_export(int argc, char **argv) {
    static const struct argp argp = {
        .options = options,
        .parser = parse_option,
        .args_doc = "CHECKPOINT",
        .doc = "Write a checkpoint's model as safetensors.\v"
               "CHECKPOINT is a job's directory (its newest complete checkpoint is taken) or one "
               "generation's directory below it, checkpoints/00000012.",
    };
    struct arguments arguments = {.which = MODEL_FILE_BEST_OR_LAST};
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    struct error err = {0};
    struct model_facts facts;
    int r = model_file_export(arguments.checkpoint, arguments.which, arguments.out, &facts, &err);
    if (r < 0)
        return cli_fail(argv[0], &err);
    model_file_warn(argv[0], arguments.checkpoint, facts.best, facts.generation);
    printf("%s: the %s weights of generation %lu", arguments.out, facts.best ? "best" : "last",
           (unsigned long)facts.generation);
    if (facts.best)
        printf(" (epoch %u, validation %s %s", facts.best_epoch, score_title(facts.metric),
               score_text(facts.metric, facts.scores[SCORE_VALID][facts.metric], 2).text);
    if (facts.best && !isnan(facts.scores[SCORE_TEST][facts.metric]))
        printf(", test %s %s", score_title(facts.metric),
               score_text(facts.metric, facts.scores[SCORE_TEST][facts.metric], 2).text);
    if (facts.best)
        printf(")");
    printf("\n");
    return 0;
}
