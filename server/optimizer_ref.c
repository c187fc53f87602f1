/* The update rules in plain C, the reference for the fast twin, and the choice between them. */
#include "server/optimizer_ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The gradient as the rules see it. */
static float ref_gradient(const struct optimizer_terms *t, float w, float g) {
    return t->gradient * g + t->l2 * w;
}

static void ref_sgd(const struct optimizer_terms *terms, size_t n, const float *w, const float *g,
                    float *state, float *next) {
    const struct optimizer_terms t = *terms;
    for (size_t i = 0; i < n; i++)
        next[i] = w[i] - t.lr * ref_gradient(&t, w[i], g[i]);
}

static void ref_momentum(const struct optimizer_terms *terms, size_t n, const float *w,
                         const float *g, float *v, float *next) {
    const struct optimizer_terms t = *terms;
    for (size_t i = 0; i < n; i++) {
        float gradient = ref_gradient(&t, w[i], g[i]);
        v[i] = t.momentum * v[i] + gradient;
        next[i] = w[i] - t.lr * (t.nesterov ? gradient + t.momentum * v[i] : v[i]);
    }
}

static void ref_adam(const struct optimizer_terms *terms, size_t n, const float *w, const float *g,
                     float *state, float *next) {
    const struct optimizer_terms t = *terms;
    float *m = state, *v = state + n;
    for (size_t i = 0; i < n; i++) {
        float gradient = ref_gradient(&t, w[i], g[i]);
        m[i] = t.beta1 * m[i] + (1 - t.beta1) * gradient;
        v[i] = t.beta2 * v[i] + (1 - t.beta2) * gradient * gradient;
        next[i] = t.keep * w[i] - t.lr * m[i] / (sqrtf(v[i]) * t.unbias + t.eps);
    }
}

static void ref_adagrad(const struct optimizer_terms *terms, size_t n, const float *w,
                        const float *g, float *s, float *next) {
    const struct optimizer_terms t = *terms;
    for (size_t i = 0; i < n; i++) {
        float gradient = ref_gradient(&t, w[i], g[i]);
        s[i] = s[i] + gradient * gradient;
        next[i] = w[i] - t.lr * gradient / (sqrtf(s[i]) + t.eps);
    }
}

static void ref_none(const struct optimizer_terms *terms, size_t n, const float *w, const float *g,
                     float *state, float *next) {
    float factor = terms->gradient;
    for (size_t i = 0; i < n; i++)
        next[i] = w[i] + factor * g[i];
}

const struct optimizer_ops optimizer_ref = {
    .name = "ref",
    .step =
        {
            [OPTIMIZER_SGD] = ref_sgd,
            [OPTIMIZER_MOMENTUM] = ref_momentum,
            [OPTIMIZER_ADAM] = ref_adam,
            [OPTIMIZER_ADAMW] = ref_adam,
            [OPTIMIZER_ADAGRAD] = ref_adagrad,
            [OPTIMIZER_NONE] = ref_none,
        },
};

const struct optimizer_ops *optimizer_avx2(void) {
#ifdef GRAPHPS_HAVE_AVX2
    if (__builtin_cpu_supports("avx2"))
        return &optimizer_avx2_ops;
#endif
    return NULL;
}

const struct optimizer_ops *optimizer_ops(void) {
    /* Two threads that come first together choose the same. */
    static const struct optimizer_ops *_Atomic chosen;
    const struct optimizer_ops *ops = chosen;
    if (!ops) {
        const char *kernels = getenv("GRAPHPS_KERNELS");
        const struct optimizer_ops *fast = optimizer_avx2();
        ops = fast && !(kernels && strcmp(kernels, "ref") == 0) ? fast : &optimizer_ref;
        chosen = ops;
    }
    return ops;
}
