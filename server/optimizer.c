/* The update rules. Owns the arithmetic of one step on one block and nothing else: no locks, no
 * memory, no metrics. Loops are plain so that the compiler turns them into vectors; constants that
 * do not depend on the element are computed in double, once. */
#include "server/optimizer.h"

#include <assert.h>
#include <math.h>

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
    };
}

size_t optimizer_state_floats(const struct optimizer *optimizer) {
    switch (optimizer->kind) {
    case OPTIMIZER_SGD:
        return 0;
    case OPTIMIZER_MOMENTUM:
        return 1;
    default:
        return 2;
    }
}

/* In all of them l2 is the decay that is part of the gradient: g + l2 * w. */

static void sgd_step(float lr, float l2, size_t n, const float *restrict w, const float *restrict g,
                     float *restrict next) {
    for (size_t i = 0; i < n; i++)
        next[i] = w[i] - lr * (g[i] + l2 * w[i]);
}

static void momentum_step(float lr, float l2, float mu, bool nesterov, size_t n,
                          const float *restrict w, const float *restrict g, float *restrict v,
                          float *restrict next) {
    if (nesterov) {
        for (size_t i = 0; i < n; i++) {
            float gradient = g[i] + l2 * w[i];
            v[i] = mu * v[i] + gradient;
            next[i] = w[i] - lr * (gradient + mu * v[i]);
        }
        return;
    }
    for (size_t i = 0; i < n; i++) {
        v[i] = mu * v[i] + (g[i] + l2 * w[i]);
        next[i] = w[i] - lr * v[i];
    }
}

/* keep = 1 - lr * weight_decay of the decoupled decay, 1 without it. */
static void adam_step(const struct optimizer *o, float l2, float keep, uint64_t step, size_t n,
                      const float *restrict w, const float *restrict g, float *restrict m,
                      float *restrict v, float *restrict next) {
    float beta1 = o->beta1, beta2 = o->beta2, eps = o->eps;
    float rate = (float)(o->lr / (1 - pow(beta1, (double)step)));
    float unbias = (float)(1 / sqrt(1 - pow(beta2, (double)step)));
    for (size_t i = 0; i < n; i++) {
        float gradient = g[i] + l2 * w[i];
        m[i] = beta1 * m[i] + (1 - beta1) * gradient;
        v[i] = beta2 * v[i] + (1 - beta2) * gradient * gradient;
        next[i] = keep * w[i] - rate * m[i] / (sqrtf(v[i]) * unbias + eps);
    }
}

void optimizer_step(const struct optimizer *optimizer, size_t n, const float *weights,
                    const float *gradient, float *state, uint64_t step, bool decay, float *next) {
    assert(step > 0);
    float wd = decay ? optimizer->weight_decay : 0;
    switch (optimizer->kind) {
    case OPTIMIZER_SGD:
        sgd_step(optimizer->lr, wd, n, weights, gradient, next);
        break;
    case OPTIMIZER_MOMENTUM:
        momentum_step(optimizer->lr, wd, optimizer->momentum, optimizer->nesterov, n, weights,
                      gradient, state, next);
        break;
    case OPTIMIZER_ADAM:
        adam_step(optimizer, wd, 1, step, n, weights, gradient, state, state + n, next);
        break;
    case OPTIMIZER_ADAMW:
        adam_step(optimizer, 0, 1 - optimizer->lr * wd, step, n, weights, gradient, state,
                  state + n, next);
        break;
    }
}
