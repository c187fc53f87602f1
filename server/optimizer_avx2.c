/* The update rules on 8 floats at a time. Compiled with -mavx2 and entered only after the processor
 * was asked. The last, incomplete 8 go through the same lines under a mask, so that there is one
 * text of each rule here; operations are in the reference's order, one rounding each. */
#include "server/optimizer_ops.h"

#include <immintrin.h>

/* Which lanes there are of the last 8; those that are missing read as 0 and are not written. */
static inline __m256i lanes_of(size_t left) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(left < 8 ? (int)left : 8), lane);
}

static inline __m256 load(const float *from, size_t left, __m256i lanes) {
    return left >= 8 ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, lanes);
}

static inline void store(float *to, size_t left, __m256i lanes, __m256 x) {
    if (left >= 8)
        _mm256_storeu_ps(to, x);
    else
        _mm256_maskstore_ps(to, lanes, x);
}

/* The terms in every lane. */
struct lanes {
    __m256 gradient, lr, l2, keep, momentum, beta1, rest1, beta2, rest2, eps, unbias;
};

static inline struct lanes lanes_make(const struct optimizer_terms *t) {
    return (struct lanes){
        .gradient = _mm256_set1_ps(t->gradient),
        .lr = _mm256_set1_ps(t->lr),
        .l2 = _mm256_set1_ps(t->l2),
        .keep = _mm256_set1_ps(t->keep),
        .momentum = _mm256_set1_ps(t->momentum),
        .beta1 = _mm256_set1_ps(t->beta1),
        .rest1 = _mm256_set1_ps(1 - t->beta1),
        .beta2 = _mm256_set1_ps(t->beta2),
        .rest2 = _mm256_set1_ps(1 - t->beta2),
        .eps = _mm256_set1_ps(t->eps),
        .unbias = _mm256_set1_ps(t->unbias),
    };
}

/* The gradient as the rules see it. */
static inline __m256 gradient8(const struct lanes *t, __m256 w, __m256 g) {
    return _mm256_add_ps(_mm256_mul_ps(t->gradient, g), _mm256_mul_ps(t->l2, w));
}

/* One round of a loop: 8 elements, of which `left` are there. */

static inline void sgd8(const struct lanes *t, size_t left, const float *w_at, const float *g_at,
                        float *next) {
    __m256i lanes = lanes_of(left);
    __m256 w = load(w_at, left, lanes), g = gradient8(t, w, load(g_at, left, lanes));
    store(next, left, lanes, _mm256_sub_ps(w, _mm256_mul_ps(t->lr, g)));
}

static inline void momentum8(const struct lanes *t, bool nesterov, size_t left, const float *w_at,
                             const float *g_at, float *v_at, float *next) {
    __m256i lanes = lanes_of(left);
    __m256 w = load(w_at, left, lanes), g = gradient8(t, w, load(g_at, left, lanes));
    __m256 v = _mm256_add_ps(_mm256_mul_ps(t->momentum, load(v_at, left, lanes)), g);
    __m256 step = nesterov ? _mm256_add_ps(g, _mm256_mul_ps(t->momentum, v)) : v;
    store(v_at, left, lanes, v);
    store(next, left, lanes, _mm256_sub_ps(w, _mm256_mul_ps(t->lr, step)));
}

static inline void adam8(const struct lanes *t, size_t left, const float *w_at, const float *g_at,
                         float *m_at, float *v_at, float *next) {
    __m256i lanes = lanes_of(left);
    __m256 w = load(w_at, left, lanes), g = gradient8(t, w, load(g_at, left, lanes));
    __m256 m =
        _mm256_add_ps(_mm256_mul_ps(t->beta1, load(m_at, left, lanes)), _mm256_mul_ps(t->rest1, g));
    __m256 v = _mm256_add_ps(_mm256_mul_ps(t->beta2, load(v_at, left, lanes)),
                             _mm256_mul_ps(_mm256_mul_ps(t->rest2, g), g));
    __m256 below = _mm256_add_ps(_mm256_mul_ps(_mm256_sqrt_ps(v), t->unbias), t->eps);
    __m256 step = _mm256_div_ps(_mm256_mul_ps(t->lr, m), below);
    store(m_at, left, lanes, m);
    store(v_at, left, lanes, v);
    store(next, left, lanes, _mm256_sub_ps(_mm256_mul_ps(t->keep, w), step));
}

static inline void adagrad8(const struct lanes *t, size_t left, const float *w_at,
                            const float *g_at, float *s_at, float *next) {
    __m256i lanes = lanes_of(left);
    __m256 w = load(w_at, left, lanes), g = gradient8(t, w, load(g_at, left, lanes));
    __m256 s = _mm256_add_ps(load(s_at, left, lanes), _mm256_mul_ps(g, g));
    __m256 below = _mm256_add_ps(_mm256_sqrt_ps(s), t->eps);
    store(s_at, left, lanes, s);
    store(next, left, lanes, _mm256_sub_ps(w, _mm256_div_ps(_mm256_mul_ps(t->lr, g), below)));
}

static inline void none8(const struct lanes *t, size_t left, const float *w_at, const float *g_at,
                         float *next) {
    __m256i lanes = lanes_of(left);
    __m256 w = load(w_at, left, lanes), g = load(g_at, left, lanes);
    store(next, left, lanes, _mm256_add_ps(w, _mm256_mul_ps(t->gradient, g)));
}

/* The loops: whole rounds, where left is a constant, then what is left. */

static void avx2_sgd(const struct optimizer_terms *terms, size_t n, const float *w, const float *g,
                     float *state, float *next) {
    const struct lanes t = lanes_make(terms);
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        sgd8(&t, 8, w + i, g + i, next + i);
    if (i < n)
        sgd8(&t, n - i, w + i, g + i, next + i);
}

static void avx2_momentum(const struct optimizer_terms *terms, size_t n, const float *w,
                          const float *g, float *v, float *next) {
    const struct lanes t = lanes_make(terms);
    bool nesterov = terms->nesterov;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        momentum8(&t, nesterov, 8, w + i, g + i, v + i, next + i);
    if (i < n)
        momentum8(&t, nesterov, n - i, w + i, g + i, v + i, next + i);
}

static void avx2_adam(const struct optimizer_terms *terms, size_t n, const float *w, const float *g,
                      float *state, float *next) {
    const struct lanes t = lanes_make(terms);
    float *m = state, *v = state + n;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        adam8(&t, 8, w + i, g + i, m + i, v + i, next + i);
    if (i < n)
        adam8(&t, n - i, w + i, g + i, m + i, v + i, next + i);
}

static void avx2_adagrad(const struct optimizer_terms *terms, size_t n, const float *w,
                         const float *g, float *s, float *next) {
    const struct lanes t = lanes_make(terms);
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        adagrad8(&t, 8, w + i, g + i, s + i, next + i);
    if (i < n)
        adagrad8(&t, n - i, w + i, g + i, s + i, next + i);
}

static void avx2_none(const struct optimizer_terms *terms, size_t n, const float *w, const float *g,
                      float *state, float *next) {
    const struct lanes t = lanes_make(terms);
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        none8(&t, 8, w + i, g + i, next + i);
    if (i < n)
        none8(&t, n - i, w + i, g + i, next + i);
}

const struct optimizer_ops optimizer_avx2_ops = {
    .name = "avx2",
    .step =
        {
            [OPTIMIZER_SGD] = avx2_sgd,
            [OPTIMIZER_MOMENTUM] = avx2_momentum,
            [OPTIMIZER_ADAM] = avx2_adam,
            [OPTIMIZER_ADAMW] = avx2_adam,
            [OPTIMIZER_ADAGRAD] = avx2_adagrad,
            [OPTIMIZER_NONE] = avx2_none,
        },
};
