/* What is added to a report of links. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "proto/score_internal.h"

static Graphps__LinkSums *sums_of(const Graphps__Eval *eval, enum score_set set) {
    assert(set != SCORE_TRAIN);
    return set == SCORE_VALID ? eval->valid_links : eval->test_links;
}

static uint64_t share(double value) {
    return (uint64_t)llround(value * SCORE_LINK_UNIT);
}

static void histogram_begin(size_t *ret_n, uint64_t **histogram) {
    *ret_n = score_histogram_cells(1);
    if (!*histogram)
        *histogram = mem_array(*ret_n, sizeof **histogram);
    memset(*histogram, 0, *ret_n * sizeof **histogram);
}

static void sums_begin(Graphps__LinkSums **sums) {
    if (!*sums)
        *sums = mem_alloc(sizeof **sums);
    graphps__link_sums__init(*sums);
}

void score_links_begin(Graphps__Eval *eval) {
    eval->task = GRAPHPS__TASK__LINKS;
    eval->classes = 1;
    eval->valid_count = eval->test_count = 0;
    histogram_begin(&eval->n_valid_histogram, &eval->valid_histogram);
    histogram_begin(&eval->n_test_histogram, &eval->test_histogram);
    sums_begin(&eval->valid_links);
    sums_begin(&eval->test_links);
}

double score_rank(uint64_t better, uint64_t equal) {
    return (double)better + (double)equal / 2 + 1;
}

void score_rank_add(Graphps__Eval *eval, enum score_set set, uint64_t better, uint64_t equal) {
    Graphps__LinkSums *sums = sums_of(eval, set);
    double rank = score_rank(better, equal);
    sums->reciprocal_ranks += share(1 / rank);
    sums->hits_at_1 += rank <= 1;
    sums->hits_at_3 += rank <= 3;
    sums->hits_at_10 += rank <= 10;
    *(set == SCORE_VALID ? &eval->valid_count : &eval->test_count) += 1;
}

void score_query_add(Graphps__Eval *eval, enum score_set set, size_t n, const double *ranks,
                     uint32_t k) {
    Graphps__LinkSums *sums = sums_of(eval, set);
    size_t found = 0;
    double gain = 0, ideal = 0;
    for (size_t i = 0; i < n; i++) {
        if (i < k)
            ideal += 1 / log2((double)i + 2);
        if (ranks[i] <= k) {
            found++;
            gain += 1 / log2(ranks[i] + 1);
        }
    }
    sums->queries++;
    sums->recalls += share((double)found / (double)n);
    sums->ndcgs += share(fmin(gain / ideal, 1)); /* rounding */
}

void score_auc_add(Graphps__Eval *eval, enum score_set set, float output, bool positive) {
    uint64_t *histogram = set == SCORE_VALID ? eval->valid_histogram : eval->test_histogram;
    histogram[2 * score_bin(output, score_bin_bits(1)) + positive]++;
}
