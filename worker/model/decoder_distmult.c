/* DistMult: Yang, Yih, He, Gao & Deng, "Embedding entities and relations for learning and inference
 * in knowledge bases", ICLR 2015. Of a link of type r:
 *     s = sum_j z_uj w_rj z_vj     dz_u = ds (w_r * z_v),  dz_v = ds (w_r * z_u),
 *                                  dw_r = sum over its pairs of ds (z_u * z_v)
 * Rows of dz are summed by node and columns of dw by column, so no two threads meet, and sums do
 * not depend on their number. */
#include <string.h>

#include "worker/model/decoder.h"

enum { COLUMNS = 16 }; /* of dw that a thread takes: a line of the cache */

static size_t relation_of(const struct link_pairs *pairs, uint64_t pair) {
    return pairs->relations ? (size_t)pairs->relations[link_pairs_link(pairs, pair)] : 0;
}

static void score(const struct link_pairs *pairs, size_t dim, const float *y, const float *weights,
                  float *scores) {
#pragma omp parallel for schedule(static) if (link_pairs_all(pairs) * dim >= 16384)
    for (uint64_t p = 0; p < link_pairs_all(pairs); p++) {
        double sum = 0;
        if (pairs->sources[p] >= 0) {
            const float *u = y + (size_t)pairs->sources[p] * dim;
            const float *v = y + (size_t)pairs->targets[p] * dim;
            const float *w = weights + relation_of(pairs, p) * dim;
            for (size_t j = 0; j < dim; j++)
                sum += (double)(u[j] * w[j]) * (double)v[j];
        }
        scores[p] = (float)sum;
    }
}

static void backward_embeddings(const struct link_pairs *pairs, const struct incidence *incidence,
                                size_t dim, const float *y, const float *weights,
                                const float *dscores, float *dy) {
#pragma omp parallel for schedule(dynamic, 64) if (link_pairs_all(pairs) * dim >= 16384)
    for (size_t i = 0; i < incidence->nodes; i++) {
        float *dz = dy + i * dim;
        memset(dz, 0, dim * sizeof *dz);
        for (int64_t e = incidence->indptr[i]; e < incidence->indptr[i + 1]; e++) {
            uint32_t pair = incidence->pairs[e];
            const float *other = y + (size_t)incidence->others[e] * dim;
            const float *w = weights + relation_of(pairs, pair) * dim;
            for (size_t j = 0; j < dim; j++)
                dz[j] += dscores[pair] * w[j] * other[j];
        }
    }
}

static void backward_relations(const struct link_pairs *pairs, size_t dim, const float *y,
                               const float *dscores, float *dweights) {
#pragma omp parallel for schedule(static, 1) if (link_pairs_all(pairs) * dim >= 16384)
    for (size_t first = 0; first < dim; first += COLUMNS) {
        size_t end = first + COLUMNS < dim ? first + COLUMNS : dim;
        for (uint64_t p = 0; p < link_pairs_all(pairs); p++) {
            if (pairs->sources[p] < 0)
                continue;
            const float *u = y + (size_t)pairs->sources[p] * dim;
            const float *v = y + (size_t)pairs->targets[p] * dim;
            float *dw = dweights + relation_of(pairs, p) * dim;
            for (size_t j = first; j < end; j++)
                dw[j] += dscores[p] * u[j] * v[j];
        }
    }
}

static void backward(const struct link_pairs *pairs, const struct incidence *incidence, size_t dim,
                     const float *y, const float *weights, const float *dscores, float *dy,
                     float *dweights) {
    backward_embeddings(pairs, incidence, dim, y, weights, dscores, dy);
    backward_relations(pairs, dim, y, dscores, dweights);
}

static void query(size_t dim, const float *y, const float *weights, int32_t relation, float *q) {
    const float *w = weights + (size_t)relation * dim;
    for (size_t j = 0; j < dim; j++)
        q[j] = y[j] * w[j];
}

extern const struct decoder decoder_distmult;
const struct decoder decoder_distmult = {
    .relational = true, .score = score, .backward = backward, .query = query};
