/* Squared error:
 *     loss_i = mean_k (z_ik - y_ik)^2          dz_ik = 2 (z_ik - y_ik) w_i / (count K) */
#include "worker/model/loss_square.h"

#include <math.h>
#include <string.h>

#include "worker/graph/snapshot.h"

/* Rows are summed in a fixed number of pieces, so that sums do not depend on the threads. */
#define PIECES 64

static void row_forward(const float *z, size_t targets, const float *y, uint8_t split,
                        struct model_result *sum) {
    double squares = 0, sizes = 0;
    for (size_t k = 0; k < targets; k++) {
        double error = (double)z[k] - (double)y[k];
        squares += error * error;
        sizes += fabs(error);
    }
    sum->loss_sum[split] += squares / (double)targets;
    sum->absolute_sum[split] += sizes / (double)targets;
    sum->count[split]++;
}

void loss_square_forward(size_t n, size_t targets, const float *outputs, const int32_t *labels,
                         const float *values, const uint8_t *split, struct model_result *ret) {
    struct model_result pieces[PIECES] = {0};
#pragma omp parallel for schedule(static) if (n * targets >= 4096)
    for (int piece = 0; piece < PIECES; piece++)
        for (size_t i = n * (size_t)piece / PIECES; i < n * (size_t)(piece + 1) / PIECES; i++)
            if (labels[i] >= 0)
                row_forward(outputs + i * targets, targets, values + i * targets, split[i],
                            &pieces[piece]);

    *ret = (struct model_result){0};
    for (int piece = 0; piece < PIECES; piece++)
        for (int s = SPLIT_NONE; s <= SPLIT_TEST; s++) {
            ret->loss_sum[s] += pieces[piece].loss_sum[s];
            ret->absolute_sum[s] += pieces[piece].absolute_sum[s];
            ret->count[s] += pieces[piece].count[s];
        }
}

void loss_square_backward(size_t n, size_t targets, const float *outputs, const int32_t *labels,
                          const float *values, const uint8_t *split, const float *weights,
                          uint32_t train_count, float *doutputs) {
#pragma omp parallel for schedule(static) if (n * targets >= 4096)
    for (size_t i = 0; i < n; i++) {
        const float *z = outputs + i * targets, *y = values + i * targets;
        float *dz = doutputs + i * targets;
        if (labels[i] < 0 || split[i] != SPLIT_TRAIN) {
            memset(dz, 0, targets * sizeof *dz);
            continue;
        }
        float share = (float)(2 * (weights ? (double)weights[i] : 1) /
                              ((double)train_count * (double)targets));
        for (size_t k = 0; k < targets; k++)
            dz[k] = (z[k] - y[k]) * share;
    }
}
