/* Threads share the rows out: none needs a histogram of its own. */
#include "worker/model/spread.h"

#include <assert.h>

#include "proto/score.h"

void spread_add(size_t n, size_t classes, const float *logits, const int32_t *labels,
                const uint8_t *multi_labels, const uint8_t *split_of, enum split split,
                uint64_t *histogram) {
    assert(multi_labels || classes == 2);
    size_t rows = multi_labels ? classes : 1, cells = score_histogram_cells(rows) / rows;
    unsigned bits = score_bin_bits(rows);
#pragma omp parallel for schedule(static) if (n * rows >= 65536)
    for (size_t row = 0; row < rows; row++)
        for (size_t i = 0; i < n; i++) {
            if (labels[i] < 0 || split_of[i] != split)
                continue;
            const float *z = logits + i * classes;
            bool is = multi_labels ? multi_labels[i * classes + row] != 0 : labels[i] == 1;
            size_t bin = score_bin(multi_labels ? z[row] : z[1] - z[0], bits);
            histogram[row * cells + 2 * bin + is]++;
        }
}
