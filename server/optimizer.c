/* The update rules: what the options and the step make of a rule's constants, computed in double,
 * once a call. Owns no memory, no lock, no metric; the loops are optimizer_ref.c's and
 * optimizer_avx2.c's. */
#include "server/optimizer.h"

#include <assert.h>
#include <math.h>

#include "server/optimizer_ops.h"

void optimizer_init(struct optimizer *optimizer, const struct config *config) {
    *optimizer = (struct optimizer){
        .kind = config->optimizer_kind,
        .lr = (float)config->optimizer_lr,
        .momentum = (float)config->optimizer_momentum,
        .beta1 = (float)config->optimizer_beta1,
        .beta2 = (float)config->optimizer_beta2,
        .eps = (float)config->optimizer_eps,
        .weight_decay = (float)config->optimizer_weight_decay,
        .nesterov = config->optimizer_nesterov,
        .average = (float)config->model_norm_momentum,
    };
}

size_t optimizer_state_floats(const struct optimizer *optimizer) {
    switch (optimizer->kind) {
    case OPTIMIZER_SGD:
    case OPTIMIZER_NONE:
        return 0;
    case OPTIMIZER_MOMENTUM:
    case OPTIMIZER_ADAGRAD:
        return 1;
    default:
        return 2;
    }
}

/* base^exponent by squaring: a row of some hundred bytes would wait for pow, and this gives the
 * same bits with every C library. */
static double power(double base, uint64_t exponent) {
    double product = 1;
    for (; exponent > 0 && product > 0; exponent >>= 1) {
        if (exponent & 1)
            product *= base;
        base *= base;
    }
    return product;
}

static void update(const struct optimizer *o, size_t n, const float *weights, const float *gradient,
                   float factor, float *state, uint64_t step, float decay, float *next) {
    assert(step > 0);
    struct optimizer_terms terms = {
        .gradient = factor,
        .lr = o->lr,
        .l2 = o->kind == OPTIMIZER_ADAMW ? 0 : decay,
        .keep = o->kind == OPTIMIZER_ADAMW ? 1 - o->lr * decay : 1,
        .momentum = o->momentum,
        .beta1 = o->beta1,
        .beta2 = o->beta2,
        .eps = o->eps,
        .nesterov = o->nesterov,
    };
    if (o->kind == OPTIMIZER_ADAM || o->kind == OPTIMIZER_ADAMW) {
        terms.lr = (float)(o->lr / (1 - power(o->beta1, step)));
        terms.unbias = (float)(1 / sqrt(1 - power(o->beta2, step)));
    }
    optimizer_ops()->step[o->kind](&terms, n, weights, gradient, state, next);
}

void optimizer_step(const struct optimizer *optimizer, size_t n, const float *weights,
                    const float *gradient, float *state, uint64_t step, bool decay, float *next) {
    update(optimizer, n, weights, gradient, 1, state, step, decay ? optimizer->weight_decay : 0,
           next);
}

void optimizer_average(const struct optimizer *optimizer, size_t n, const float *weights,
                       const float *statistics, float *next) {
    for (size_t i = 0; i < n; i++)
        next[i] = weights[i] + optimizer->average * (statistics[i] - weights[i]);
}

void optimizer_row(const struct optimizer *optimizer, size_t dim, float *weights,
                   const float *gradient, float factor, float *state, uint64_t step) {
    update(optimizer, dim, weights, gradient, factor, state, step, 0, weights);
}
