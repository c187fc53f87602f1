/* The mean of some runs' scores and how sure it is. */
#pragma once

#include <stddef.h>

struct verify_stats {
    size_t count;
    double mean, deviation; /* of the sample; 0 of one run */
    /* Half of the 95 % confidence interval of the mean by Student's t; 0 of one run, of which
     * nothing is known. */
    double half;
    double least, most;
};

struct verify_stats verify_stats_of(const double *scores, size_t count);
