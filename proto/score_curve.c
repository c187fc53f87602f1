/* ROC-AUC and average precision, of histograms. Whole numbers until the end: the same sums in
 * whatever order they came together. */
#include <math.h>
#include <string.h>

#include "proto/score.h"

size_t score_histogram_rows(Graphps__Task task, uint32_t classes) {
    switch (task) {
    case GRAPHPS__TASK__SINGLE_LABEL:
        return classes == 2 ? 1 : 0;
    case GRAPHPS__TASK__MULTI_LABEL:
        return classes <= SCORE_HISTOGRAM_ROWS_MAX ? classes : 0;
    case GRAPHPS__TASK__LINKS:
        return 1;
    default:
        return 0;
    }
}

unsigned score_bin_bits(size_t rows) {
    unsigned bits = 14;
    while ((rows * 2) << bits > SCORE_HISTOGRAM_MAX)
        bits--;
    return bits;
}

size_t score_histogram_cells(size_t rows) {
    return (rows * 2) << score_bin_bits(rows);
}

size_t score_bin(float output, unsigned bits) {
    uint32_t word, half;
    memcpy(&word, &output, sizeof word);
    word &= 0x7fffffff;
    if (word >= (127u + 16) << 23) /* 2^16, where a 16-bit float ends */
        half = 31 << 10;
    else if (word < (127u - 14) << 23)
        half = (uint32_t)(fabsf(output) * 0x1p24F);
    else
        half = (word >> 13) - ((127u - 15) << 10);
    return (output < 0 ? 0x7fff - half : 0x8000 + half) >> (16 - bits);
}

/* Of one row [bins, 2]; -1: all of its outputs are true ones, or none. */
static double row_roc_auc(size_t bins, const uint64_t *row) {
    uint64_t positives = 0, negatives = 0;
    double won = 0;
    for (size_t bin = 0; bin < bins; bin++) {
        uint64_t negative = row[2 * bin], positive = row[2 * bin + 1];
        won += (double)positive * ((double)negatives + (double)negative / 2);
        negatives += negative;
        positives += positive;
    }
    return negatives && positives ? won / ((double)negatives * (double)positives) : -1;
}

/* psi(x), x > 0: Abramowitz & Stegun, "Handbook of Mathematical Functions", 6.3.5 and 6.3.18. */
static double digamma(double x) {
    double sum = 0;
    for (; x < 8; x++)
        sum -= 1 / x;
    double y = 1 / (x * x);
    return sum + log(x) - 1 / (2 * x) -
           y * (1.0 / 12 - y * (1.0 / 120 - y * (1.0 / 252 - y / 240)));
}

/* A bin's true and untrue ones are taken as evenly mixed: the i-th of p true ones has i q / p of
 * the q others before it. So each counts for (positives + i) / (all + c i), c = 1 + q / p, and
 * together for p / c + (positives - a) / c * sum 1 / (a + i), a = all / c. */
static double row_average_precision(size_t bins, const uint64_t *row) {
    double positives = 0, all = 0, sum = 0;
    for (size_t bin = bins; bin-- > 0;) {
        double q = (double)row[2 * bin], p = (double)row[2 * bin + 1];
        if (p > 0) {
            double c = 1 + q / p, a = all / c;
            sum += p / c + (positives - a) / c * (digamma(a + p + 1) - digamma(a + 1));
        }
        positives += p;
        all += p + q;
    }
    return positives > 0 && positives < all ? sum / positives : -1;
}

static double rows_mean(size_t rows, const uint64_t *histogram,
                        double (*of_row)(size_t bins, const uint64_t *row)) {
    size_t seen = 0, bins = (size_t)1 << score_bin_bits(rows);
    double sum = 0;
    for (size_t row = 0; row < rows; row++) {
        double own = of_row(bins, histogram + row * bins * 2);
        if (own >= 0) {
            sum += own;
            seen++;
        }
    }
    return seen ? sum / (double)seen : -1;
}

double score_roc_auc(size_t rows, const uint64_t *histogram) {
    return rows_mean(rows, histogram, row_roc_auc);
}

double score_average_precision(size_t rows, const uint64_t *histogram) {
    return rows_mean(rows, histogram, row_average_precision);
}
