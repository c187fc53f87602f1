/* Whole numbers: sums are the same in whatever order threads add them. */
#include "worker/model/confusion.h"

#include <assert.h>

#include "proto/score.h"

static void add_class(const float *z, size_t classes, size_t label, size_t step, uint64_t *counts) {
    size_t best = 0;
    for (size_t c = 1; c < classes; c++)
        if (z[c] > z[best])
            best = c;
    if (best == label) {
        counts[label * step + SCORE_TP]++;
    } else {
        counts[best * step + SCORE_FP]++;
        counts[label * step + SCORE_FN]++;
    }
}

static void add_classes(const float *z, size_t classes, const uint8_t *y, size_t step,
                        uint64_t *counts) {
    for (size_t c = 0; c < classes; c++) {
        bool predicted = z[c] > 0, true_here = y[c] != 0;
        counts[c * step + SCORE_TP] += predicted && true_here;
        counts[c * step + SCORE_FP] += predicted && !true_here;
        counts[c * step + SCORE_FN] += !predicted && true_here;
    }
}

void confusion_add(size_t n, size_t classes, const float *logits, const int32_t *labels,
                   const uint8_t *multi_labels, const uint8_t *split_of, enum split split,
                   size_t rows, uint64_t *counts) {
    assert(rows == classes || rows == 1);
    /* Between one class's cells and the next one's. */
    size_t step = rows == 1 ? 0 : SCORE_CELLS;
#pragma omp parallel for schedule(static) reduction(+ : counts[ : rows * SCORE_CELLS])             \
    if (n * classes >= 65536)
    for (size_t i = 0; i < n; i++) {
        if (labels[i] < 0 || split_of[i] != split)
            continue;
        if (multi_labels)
            add_classes(logits + i * classes, classes, multi_labels + i * classes, step, counts);
        else
            add_class(logits + i * classes, classes, (size_t)labels[i], step, counts);
    }
}
