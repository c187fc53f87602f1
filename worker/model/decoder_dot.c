/* The inner product: Kipf & Welling, "Variational graph auto-encoders", 2016.
 *     s = z_u . z_v          dz_u = ds z_v,  dz_v = ds z_u
 * The gradient is a product with the pairs as a sparse matrix, so no two threads meet in a row. */
#include "common/vec.h"
#include "worker/kernels/kernels.h"
#include "worker/model/decoder.h"

static void score(const struct link_pairs *pairs, size_t dim, const float *y, const float *weights,
                  float *scores) {
    (void)weights;
#pragma omp parallel for schedule(static) if (link_pairs_all(pairs) * dim >= 16384)
    for (uint64_t p = 0; p < link_pairs_all(pairs); p++)
        scores[p] = pairs->sources[p] < 0
                        ? 0
                        : (float)vec()->dot(y + (size_t)pairs->sources[p] * dim,
                                            y + (size_t)pairs->targets[p] * dim, dim);
}

static void backward(const struct link_pairs *pairs, const struct incidence *incidence, size_t dim,
                     const float *y, const float *weights, const float *dscores, float *dy,
                     float *dweights) {
    (void)pairs;
    (void)weights;
    (void)dweights;
    incidence_weigh(incidence, dscores);
    kernels()->spmm(incidence->nodes, dim, incidence->indptr, incidence->others, incidence->weights,
                    NULL, y, dim, dy, dim);
}

static void query(size_t dim, const float *y, const float *weights, int32_t relation, float *q) {
    (void)weights;
    (void)relation;
    for (size_t j = 0; j < dim; j++)
        q[j] = y[j];
}

extern const struct decoder decoder_dot;
const struct decoder decoder_dot = {.score = score, .backward = backward, .query = query};
