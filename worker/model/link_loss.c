/* Losses of links. */
#include "worker/model/link_loss.h"

#include <math.h>

/* Links are summed in a fixed number of pieces, so that sums do not depend on the threads. */
#define PIECES 64

/* log(1 + exp(x)) without overflow: -log sigma(-x). Its derivative is sigma(x). */
static double softplus(double x) {
    return (x > 0 ? x : 0) + log1p(exp(-fabs(x)));
}

static double sigmoid(double x) {
    return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x));
}

static uint64_t negatives_of(const struct link_pairs *pairs, uint64_t first) {
    uint64_t count = 0;
    for (uint64_t k = 0; k < pairs->each; k++)
        count += pairs->sources[first + k] >= 0;
    return count;
}

typedef double link_loss(const struct link_pairs *pairs, uint64_t i, const float *scores,
                         float *dscores);

static double sum_links(const struct link_pairs *pairs, const float *scores, float *dscores,
                        link_loss *loss) {
    double sums[PIECES] = {0}, sum = 0;
    uint64_t n = pairs->count;
#pragma omp parallel for schedule(static) if (link_pairs_all(pairs) >= 4096)
    for (uint64_t piece = 0; piece < PIECES; piece++)
        for (uint64_t i = n * piece / PIECES; i < n * (piece + 1) / PIECES; i++)
            sums[piece] += loss(pairs, i, scores, dscores);
    for (int piece = 0; piece < PIECES; piece++)
        sum += sums[piece];
    return sum;
}

static double bce(const struct link_pairs *pairs, uint64_t i, const float *scores, float *dscores) {
    uint64_t first = pairs->count + i * pairs->each, m = negatives_of(pairs, first);
    double s = (double)scores[i], half = 0.5 / (double)pairs->count, others = 0;
    double each = m > 0 ? half / (double)m : 0;
    dscores[i] = (float)(-sigmoid(-s) * half);
    for (uint64_t p = first; p < first + pairs->each; p++) {
        bool there = pairs->sources[p] >= 0;
        others += there ? softplus((double)scores[p]) : 0;
        dscores[p] = there ? (float)(sigmoid((double)scores[p]) * each) : 0;
    }
    return (softplus(-s) + (m > 0 ? others / (double)m : 0)) / 2;
}

double link_loss_bce(const struct link_pairs *pairs, const float *scores, float *dscores) {
    return sum_links(pairs, scores, dscores, bce);
}

static double bpr(const struct link_pairs *pairs, uint64_t i, const float *scores, float *dscores) {
    uint64_t first = pairs->count + i * pairs->each, m = negatives_of(pairs, first);
    double each = m > 0 ? 1 / (double)m : 0, share = each / (double)pairs->count;
    double loss = 0, own = 0;
    for (uint64_t p = first; p < first + pairs->each; p++) {
        double behind = (double)scores[p] - (double)scores[i]; /* below 0 where all is well */
        bool there = pairs->sources[p] >= 0;
        double slope = there ? sigmoid(behind) * share : 0;
        loss += there ? softplus(behind) : 0;
        dscores[p] = (float)slope;
        own -= slope;
    }
    dscores[i] = (float)own;
    return loss * each;
}

double link_loss_bpr(const struct link_pairs *pairs, const float *scores, float *dscores) {
    return sum_links(pairs, scores, dscores, bpr);
}
