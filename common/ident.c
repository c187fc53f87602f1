/* The number of this process, from the first place that has one. Knows nothing of jobs and peers.
 */
#include "common/ident.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Decimal digits and nothing else, at most nine of them; -1 for anything else. */
static int64_t read_number(const char *text, size_t len) {
    if (len == 0 || len > 9 || strspn(text, "0123456789") < len)
        return -1;
    return strtoll(text, NULL, 10);
}

static int take(const char *source, const char *text, int64_t number, int64_t count, int *ret,
                struct error *reterr) {
    if (number < 0 || number >= count)
        return error_set(reterr, ERR_USAGE, "%s: expected a number from 0 to %lld, found \"%.80s\"",
                         source, (long long)count - 1, text);
    *ret = (int)number;
    return 0;
}

/* The digits after the last '-' of "name-3" or "name-3.service.namespace"; NULL when it does not
 * end so. An ordinal has no leading zeros. */
static const char *host_ordinal(const char *host_name, size_t *ret_len) {
    size_t len = strcspn(host_name, ".");
    const char *dash = memrchr(host_name, '-', len);
    if (!dash || dash == host_name)
        return NULL;
    size_t digits = len - (size_t)(dash + 1 - host_name);
    if (read_number(dash + 1, digits) < 0 || (dash[1] == '0' && digits > 1))
        return NULL;
    *ret_len = digits;
    return dash + 1;
}

int ident_find(enum ident_kind kind, const char *argument, const char *host_name, int64_t count,
               int *ret, struct error *reterr) {
    const char *option = kind == IDENT_SHARD ? "--shard" : "--rank";
    if (argument)
        return take(option, argument, read_number(argument, strlen(argument)), count, ret, reterr);

    const char *variables[] = {kind == IDENT_SHARD ? "GRAPHPS_SHARD" : "GRAPHPS_RANK",
                               kind == IDENT_SHARD ? NULL : "JOB_COMPLETION_INDEX"};
    for (size_t i = 0; i < 2 && variables[i]; i++) {
        const char *value = getenv(variables[i]);
        if (value)
            return take(variables[i], value, read_number(value, strlen(value)), count, ret, reterr);
    }

    size_t len;
    const char *ordinal = host_ordinal(host_name, &len);
    if (!ordinal)
        return error_set(reterr, ERR_USAGE,
                         "%s is not known: give %s or the variable %s%s (a host name that ends in "
                         "-NUMBER serves too, but this one is \"%.64s\")",
                         kind == IDENT_SHARD ? "which shard this is" : "which rank this is", option,
                         variables[0], kind == IDENT_SHARD ? "" : " or JOB_COMPLETION_INDEX",
                         host_name);
    int r = take("the number that ends the host name", host_name, read_number(ordinal, len), count,
                 ret, reterr);
    if (r && reterr) {
        size_t used = strlen(reterr->text);
        snprintf(reterr->text + used, sizeof reterr->text - used, "; give %s or the variable %s",
                 option, variables[0]);
    }
    return r;
}

static int find_here(enum ident_kind kind, const char *argument, int64_t count, int *ret,
                     struct error *reterr) {
    char host_name[256] = "";
    if (gethostname(host_name, sizeof host_name - 1))
        host_name[0] = 0;
    return ident_find(kind, argument, host_name, count, ret, reterr);
}

int ident_shard(const char *argument, int64_t count, int *ret_shard, struct error *reterr) {
    return find_here(IDENT_SHARD, argument, count, ret_shard, reterr);
}

int ident_rank(const char *argument, int64_t count, int *ret_rank, struct error *reterr) {
    return find_here(IDENT_RANK, argument, count, ret_rank, reterr);
}
