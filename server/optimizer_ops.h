/* The loops behind the update rules: a portable reference and a fast twin, of which one is chosen
 * once for this processor (GRAPHPS_KERNELS=ref forces the reference). Both give the same bits:
 * neither contracts a * b + c, and division and root are exact everywhere. Used by optimizer.c, its
 * test and its benchmark. */
#pragma once

#include "server/optimizer.h"

/* What does not depend on the element. */
struct optimizer_terms {
    float gradient; /* multiplies it before all else */
    float lr;       /* adam: divided by 1 - beta1^step */
    float l2;       /* decay that is part of the gradient */
    float keep;     /* 1 - lr * weight_decay of decoupled decay, 1 without it */
    float momentum, beta1, beta2, eps;
    float unbias; /* adam: 1 / sqrt(1 - beta2^step) */
    bool nesterov;
};

struct optimizer_ops {
    const char *name;
    /* By kind. next may be w itself; state is one array [n] after the other. Arrays may be
     * unaligned and n may be 0. */
    void (*step[OPTIMIZER_NONE + 1])(const struct optimizer_terms *terms, size_t n, const float *w,
                                     const float *g, float *state, float *next);
};

extern const struct optimizer_ops optimizer_ref;
/* For optimizer_ref.c alone: not every processor can run it, so it is reached through
 * optimizer_avx2(). */
extern const struct optimizer_ops optimizer_avx2_ops;
/* NULL where the compiler or the processor has none. */
const struct optimizer_ops *optimizer_avx2(void);
const struct optimizer_ops *optimizer_ops(void);
