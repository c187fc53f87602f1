/* Sigmoid binary cross-entropy, for classes that do not exclude each other:
 *     loss_i = mean_c [ -y log s(z) - (1 - y) log(1 - s(z)) ]       s(z) = 1 / (1 + exp(-z))
 *            = mean_c [ max(z, 0) - z y + log(1 + exp(-|z|)) ]      dz_ic = (s(z) - y) w_i / (count
 * C) In the second form exp's argument is never positive, so nothing overflows and nothing is lost
 * where the sigmoid is within rounding of 0 or 1. */
#include "worker/model/loss_multi.h"

#include <math.h>
#include <string.h>

#include "worker/graph/snapshot.h"

/* Rows are summed in a fixed number of pieces, so that sums do not depend on the threads. */
#define PIECES 64
/* A sum of logarithms is one logarithm of a product, of so many factors between 1 and 2. */
#define LOG_EVERY 512

static void row_forward(const float *z, size_t classes, const uint8_t *y, uint8_t split,
                        struct model_result *sum) {
    double total = 0, product = 1;
    bool right = true;
    for (size_t c = 0; c < classes; c++) {
        float size = fabsf(z[c]);
        bool true_here = y[c] != 0;
        /* max(z, 0) - z y: how far the logit is on the wrong side. */
        total += (z[c] > 0) != true_here ? (double)size : 0;
        product *= 1 + (double)expf(-size);
        if (c % LOG_EVERY == LOG_EVERY - 1) {
            total += log(product);
            product = 1;
        }
        right &= (z[c] > 0) == true_here;
    }
    total += log(product);
    sum->loss_sum[split] += total / (double)classes;
    sum->correct[split] += right;
    sum->count[split]++;
}

void loss_multi_forward(size_t n, size_t classes, const float *logits, const int32_t *labels,
                        const uint8_t *multi_labels, const uint8_t *split,
                        struct model_result *ret) {
    struct model_result pieces[PIECES] = {0};
#pragma omp parallel for schedule(static) if (n * classes >= 4096)
    for (int piece = 0; piece < PIECES; piece++)
        for (size_t i = n * (size_t)piece / PIECES; i < n * (size_t)(piece + 1) / PIECES; i++)
            if (labels[i] >= 0)
                row_forward(logits + i * classes, classes, multi_labels + i * classes, split[i],
                            &pieces[piece]);

    *ret = (struct model_result){0};
    for (int piece = 0; piece < PIECES; piece++)
        for (int s = SPLIT_NONE; s <= SPLIT_TEST; s++) {
            ret->loss_sum[s] += pieces[piece].loss_sum[s];
            ret->correct[s] += pieces[piece].correct[s];
            ret->count[s] += pieces[piece].count[s];
        }
}

/* Neither side overflows: the argument of exp is never positive. */
static float sigmoid(float z) {
    float e = expf(-fabsf(z));
    return (z >= 0 ? 1 : e) / (1 + e);
}

void loss_multi_backward(size_t n, size_t classes, const float *logits, const int32_t *labels,
                         const uint8_t *multi_labels, const uint8_t *split, const float *weights,
                         uint32_t train_count, float *dlogits) {
#pragma omp parallel for schedule(static) if (n * classes >= 4096)
    for (size_t i = 0; i < n; i++) {
        const float *z = logits + i * classes;
        const uint8_t *y = multi_labels + i * classes;
        float *dz = dlogits + i * classes;
        if (labels[i] < 0 || split[i] != SPLIT_TRAIN) {
            memset(dz, 0, classes * sizeof *dz);
            continue;
        }
        float share =
            (float)((weights ? (double)weights[i] : 1) / ((double)train_count * (double)classes));
        for (size_t c = 0; c < classes; c++)
            dz[c] = (sigmoid(z[c]) - (y[c] != 0)) * share;
    }
}
