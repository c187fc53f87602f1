/* What all processes of a job must agree on: the options that decide what is learnt. One process
 * says them to another as text, so that the other can name the first that differs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config.h"
#include "common/config_option.h"
#include "common/mem.h"

static bool option_is_shared(const struct config_option *option) {
    static const char *const sections[] = {"model",       "train",       "link", "optimizer",
                                           "consistency", "aggregation", "push"};
    if (strcmp(option->name, "threads") == 0 || strcmp(option->name, "sampler_threads") == 0)
        return false; /* a matter of the machine */
    if (strcmp(option->name, "normalize_features") == 0 || strcmp(option->name, "halo") == 0)
        return true; /* of data the only ones; where it lies is each machine's own */
    for (size_t i = 0; i < ARRAY_LEN(sections); i++)
        if (strcmp(option->section, sections[i]) == 0)
            return true;
    return false;
}

char *config_shared_text(const struct config *config) {
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    for (size_t i = 0; out && i < config_option_count; i++) {
        const struct config_option *option = &config_options[i];
        if (!option_is_shared(option))
            continue;
        fprintf(out, "%s.%s: ", option->section, option->name);
        config_option_print(option, config, out);
        fputc('\n', out);
    }
    if (!out || fclose(out) != 0)
        abort(); /* out of memory for a kilobyte */
    char *copy = mem_strdup(text);
    free(text);
    return copy;
}

int config_shared_check(const struct config *config, const char *other, struct error *reterr) {
    _cleanup_(mem_free_p) char *mine = config_shared_text(config);
    const char *a = mine, *b = other;
    while (*a && *b) {
        size_t a_len = strcspn(a, "\n"), b_len = strcspn(b, "\n");
        if (a_len != b_len || memcmp(a, b, a_len) != 0)
            return error_set(
                reterr, ERR_WRONG_JOB,
                "a worker says %.*s, the shard %.*s; all processes of a job are started from one "
                "file with the same --set",
                b_len < 120 ? (int)b_len : 120, b, (int)a_len, a);
        a += a_len + (a[a_len] != 0);
        b += b_len + (b[b_len] != 0);
    }
    if (*a || *b)
        return error_set(reterr, ERR_WRONG_JOB,
                         "the worker has other options than the shard: is it the "
                         "same release?");
    return 0;
}
