/* Softmax cross-entropy and accuracy:
 *     loss_i = log(sum_c exp(z_ic)) - z_i,label          dz_i = (softmax(z_i) - onehot) w_i / count
 * Of a training label the share e is spread over the K classes: (1 - e) onehot + e / K in place of
 * onehot. Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016, section 7:
 *     loss_i = log(sum_c exp(z_ic)) - z_i,label + e (z_i,label - mean_c z_ic)
 * The largest logit is subtracted before exp, so nothing overflows. */
#include "worker/model/loss.h"

#include <math.h>
#include <string.h>

#include "worker/graph/snapshot.h"
#include "worker/kernels/kernels.h"

/* Rows are summed in a fixed number of pieces, so that sums do not depend on the threads. */
#define PIECES 64

/* What smoothing adds to a row's loss. */
static double smoothing_cost(const float *z, size_t classes, int32_t label, float smoothing) {
    double total = 0;
    for (size_t c = 0; c < classes; c++)
        total += (double)z[c];
    return (double)smoothing * ((double)z[label] - total / (double)classes);
}

static void row_forward(const float *z, size_t classes, int32_t label, uint8_t split,
                        float smoothing, struct model_result *sum) {
    size_t best = kernels()->largest(classes, z);
    double total = kernels()->exp_sum(classes, z, z[best], NULL);
    sum->loss_sum[split] += log(total) + ((double)z[best] - (double)z[label]);
    if (smoothing > 0 && split == SPLIT_TRAIN)
        sum->loss_sum[split] += smoothing_cost(z, classes, label, smoothing);
    sum->correct[split] += best == (size_t)label;
    sum->count[split]++;
}

void loss_forward(size_t n, size_t classes, const float *logits, const int32_t *labels,
                  const uint8_t *split, float smoothing, struct model_result *ret) {
    struct model_result pieces[PIECES] = {0};
#pragma omp parallel for schedule(static) if (n * classes >= 4096)
    for (int piece = 0; piece < PIECES; piece++)
        for (size_t i = n * (size_t)piece / PIECES; i < n * (size_t)(piece + 1) / PIECES; i++)
            if (labels[i] >= 0)
                row_forward(logits + i * classes, classes, labels[i], split[i], smoothing,
                            &pieces[piece]);

    *ret = (struct model_result){0};
    for (int piece = 0; piece < PIECES; piece++)
        for (int s = SPLIT_NONE; s <= SPLIT_TEST; s++) {
            ret->loss_sum[s] += pieces[piece].loss_sum[s];
            ret->correct[s] += pieces[piece].correct[s];
            ret->count[s] += pieces[piece].count[s];
        }
}

void loss_backward(size_t n, size_t classes, const float *logits, const int32_t *labels,
                   const uint8_t *split, const float *weights, uint32_t train_count,
                   float smoothing, float *dlogits) {
#pragma omp parallel for schedule(static) if (n * classes >= 4096)
    for (size_t i = 0; i < n; i++) {
        const float *z = logits + i * classes;
        float *dz = dlogits + i * classes;
        if (labels[i] < 0 || split[i] != SPLIT_TRAIN) {
            memset(dz, 0, classes * sizeof *dz);
            continue;
        }
        double total = kernels()->exp_sum(classes, z, z[kernels()->largest(classes, z)], dz);
        double share = (weights ? (double)weights[i] : 1) / train_count;
        float factor = (float)(share / total);
        float spread = (float)(share * (double)smoothing / (double)classes);
        for (size_t c = 0; c < classes; c++)
            dz[c] = dz[c] * factor - spread;
        dz[labels[i]] -= (float)(share * (1 - (double)smoothing));
    }
}
