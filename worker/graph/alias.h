/* Drawing in proportion to weights in constant time: an alias table for each row of a CSR. A. J.
 * Walker, "An efficient method for generating discrete random variables with general
 * distributions", ACM TOMS 1977; built as in M. D. Vose, "A linear algorithm for generating random
 * numbers with a given distribution", IEEE TSE 1991. An entry of weight 0 is never drawn. Inside
 * worker/graph only. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct alias {
    float *share;       /* [entries] of an entry's own place; the rest of it is another's */
    uint32_t *other;    /* [entries] that other, counted from the row's begin */
    double *total;      /* [rows] sum of the weights */
    uint32_t *positive; /* [rows] how many are above 0 */
};

/* Are all weights finite and not negative? what names them in the message. */
int alias_check(const char *what, const float *weights, uint64_t entries, struct error *reterr);
/* Of weights that are. */
struct alias *alias_new(const int64_t *indptr, uint64_t rows, const float *weights);
struct alias *alias_free(struct alias *alias); /* takes NULL */
size_t alias_bytes(const int64_t *indptr, uint64_t rows);

/* An entry of the row with this begin and degree (with a positive one), counted from begin. */
static inline uint64_t alias_draw(const struct alias *alias, int64_t begin, uint64_t degree,
                                  uint64_t bits) {
    unsigned __int128 product = (unsigned __int128)bits * degree;
    uint64_t k = (uint64_t)(product >> 64), rest = (uint64_t)product;
    float within = (float)(int64_t)(rest >> 1) * 0x1p-63F; /* fine where shares are small */
    return within < alias->share[(uint64_t)begin + k] ? k : alias->other[(uint64_t)begin + k];
}
