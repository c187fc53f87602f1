/* Building the tables. */
#include "worker/graph/alias.h"

#include <math.h>

#include "common/mem.h"

int alias_check(const char *what, const float *weights, uint64_t entries, struct error *reterr) {
    for (uint64_t e = 0; e < entries; e++)
        if (!isfinite(weights[e]) || weights[e] < 0)
            return error_set(reterr, ERR_CONFIG,
                             "%s: entry %llu is %g; neighbours can be drawn in proportion to "
                             "weights that are finite and not negative (train.weighted: false "
                             "draws all alike)",
                             what, (unsigned long long)e, (double)weights[e]);
    return 0;
}

/* Places are filled one after the other: a place that is not full gets the rest from an entry that
 * has more than a place, which then is one or the other itself. waiting [degree]: those that have
 * less from the front, those that have more from the back. parts [degree]: each one's weight in
 * places. */
static void build_row(struct alias *alias, uint64_t row, int64_t begin, uint64_t degree,
                      const float *weights, uint32_t *waiting, double *parts) {
    double total = 0;
    uint64_t heaviest = 0, less = 0, more = degree;
    for (uint64_t k = 0; k < degree; k++) {
        total += weights[k];
        alias->positive[row] += weights[k] > 0;
        heaviest = weights[k] > weights[heaviest] ? k : heaviest;
    }
    alias->total[row] = total;
    for (uint64_t k = 0; k < degree; k++) {
        parts[k] = total > 0 ? weights[k] / total * (double)degree : 1;
        waiting[parts[k] < 1 ? less++ : --more] = (uint32_t)k;
    }
    float *share = alias->share + begin;
    uint32_t *other = alias->other + begin;
    while (less > 0 && more < degree) {
        uint32_t small = waiting[--less], large = waiting[more];
        share[small] = (float)parts[small];
        other[small] = large;
        parts[large] -= 1 - parts[small];
        if (parts[large] < 1) {
            more++;
            waiting[less++] = large;
        }
    }
    /* What rounding leaves over has a place of its own, or is nothing. */
    while (less > 0 || more < degree) {
        uint32_t left = less > 0 ? waiting[--less] : waiting[more++];
        share[left] = weights[left] > 0 ? 1 : 0;
        other[left] = (uint32_t)heaviest;
    }
}

struct alias *alias_new(const int64_t *indptr, uint64_t rows, const float *weights) {
    struct alias *alias = mem_alloc(sizeof *alias);
    uint64_t entries = (uint64_t)indptr[rows], longest = 0;
    alias->share = mem_array(entries, sizeof *alias->share);
    alias->other = mem_array(entries, sizeof *alias->other);
    alias->total = mem_array(rows, sizeof *alias->total);
    alias->positive = mem_array(rows, sizeof *alias->positive);
    for (uint64_t i = 0; i < rows; i++) {
        uint64_t degree = (uint64_t)(indptr[i + 1] - indptr[i]);
        longest = degree > longest ? degree : longest;
    }
    _cleanup_(mem_free_p) uint32_t *waiting = mem_array(longest, sizeof *waiting);
    _cleanup_(mem_free_p) double *parts = mem_array(longest, sizeof *parts);
    for (uint64_t i = 0; i < rows; i++)
        build_row(alias, i, indptr[i], (uint64_t)(indptr[i + 1] - indptr[i]), weights + indptr[i],
                  waiting, parts);
    return alias;
}

struct alias *alias_free(struct alias *alias) {
    if (alias) {
        mem_free(alias->share);
        mem_free(alias->other);
        mem_free(alias->total);
        mem_free(alias->positive);
        mem_free(alias);
    }
    return NULL;
}

size_t alias_bytes(const int64_t *indptr, uint64_t rows) {
    struct alias *alias = NULL; /* for the sizes alone */
    return (size_t)indptr[rows] * (sizeof *alias->share + sizeof *alias->other) +
           rows * (sizeof *alias->total + sizeof *alias->positive);
}
