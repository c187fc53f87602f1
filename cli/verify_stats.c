/* Student, "The Probable Error of a Mean", Biometrika 1908. */
#include "cli/verify_stats.h"

#include <math.h>

#include "common/mem.h"

/* The 97.5 % quantiles of t for 1, 2, ... degrees of freedom. */
static const double quantiles[] = {
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201,  2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080,  2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
};

/* Beyond the table the normal quantile, corrected (Abramowitz & Stegun 26.7.5, two terms). */
static double quantile(size_t freedom) {
    if (freedom <= ARRAY_LEN(quantiles))
        return quantiles[freedom - 1];
    double z = 1.959964, n = (double)freedom;
    return z + (z * z * z + z) / (4 * n) + (5 * pow(z, 5) + 16 * pow(z, 3) + 3 * z) / (96 * n * n);
}

struct verify_stats verify_stats_of(const double *scores, size_t count) {
    struct verify_stats stats = {.count = count};
    if (count == 0)
        return stats;
    stats.least = stats.most = scores[0];
    for (size_t i = 0; i < count; i++) {
        stats.mean += scores[i] / (double)count;
        stats.least = fmin(stats.least, scores[i]);
        stats.most = fmax(stats.most, scores[i]);
    }
    if (count == 1)
        return stats;
    double squares = 0;
    for (size_t i = 0; i < count; i++)
        squares += (scores[i] - stats.mean) * (scores[i] - stats.mean);
    stats.deviation = sqrt(squares / (double)(count - 1));
    stats.half = quantile(count - 1) * stats.deviation / sqrt((double)count);
    return stats;
}
