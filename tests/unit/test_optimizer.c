/* server/optimizer: every rule against the formula of its paper, written out in double. */
#include "tests/test.h"

#include <math.h>
#include <string.h>

#include "common/config.h"
#include "common/mem.h"
#include "common/rng.h"
#include "server/optimizer.h"

enum { STEPS = 7, SIZE_MAX_FLOATS = 1027 };
static const size_t sizes[] = {1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, SIZE_MAX_FLOATS};

/* One weight's life in double. */
struct model {
    double w, v, m, s;
};

static void model_step(struct model *x, const struct optimizer *o, double g, int step, bool decay) {
    double wd = decay ? o->weight_decay : 0, lr = o->lr;
    if (o->kind != OPTIMIZER_ADAMW)
        g += wd * x->w;
    switch (o->kind) {
    case OPTIMIZER_SGD:
        x->w -= lr * g;
        break;
    case OPTIMIZER_MOMENTUM:
        x->v = (double)o->momentum * x->v + g;
        x->w -= lr * (o->nesterov ? g + (double)o->momentum * x->v : x->v);
        break;
    default: {
        double b1 = o->beta1, b2 = o->beta2, before = x->w;
        x->m = b1 * x->m + (1 - b1) * g;
        x->s = b2 * x->s + (1 - b2) * g * g;
        double m_hat = x->m / (1 - pow(b1, step)), s_hat = x->s / (1 - pow(b2, step));
        x->w -= lr * m_hat / (sqrt(s_hat) + (double)o->eps);
        if (o->kind == OPTIMIZER_ADAMW)
            x->w -= lr * wd * before;
    }
    }
}

static void compare(const struct optimizer *o, size_t n, bool decay) {
    uint64_t key = rng_key(n, (uint64_t)o->kind);
    float *w = mem_array(n, sizeof *w), *next = mem_array(n, sizeof *w);
    float *g = mem_array(n, sizeof *g), *expected = mem_array(n, sizeof *w);
    float *state = mem_array(n, optimizer_state_floats(o) * sizeof *state);
    struct model *models = mem_array(n, sizeof *models);
    for (size_t i = 0; i < n; i++)
        models[i].w = w[i] = rng_float(rng_at(key, i)) * 4 - 2;
    for (int step = 1; step <= STEPS; step++) {
        for (size_t i = 0; i < n; i++) {
            g[i] = rng_float(rng_at(key, (size_t)step * 10000 + i)) * 2 - 1;
            model_step(&models[i], o, g[i], step, decay);
            expected[i] = (float)models[i].w;
        }
        optimizer_step(o, n, w, g, state, (uint64_t)step, decay, next);
        test_floats_equal("weights", next, expected, n, 3e-6, 3e-6);
        float *swap = w;
        w = next;
        next = swap;
    }
    mem_free(w);
    mem_free(next);
    mem_free(g);
    mem_free(expected);
    mem_free(state);
    mem_free(models);
}

static struct optimizer rule(int kind) {
    return (struct optimizer){.kind = kind,
                              .lr = 0.05f,
                              .momentum = 0.9f,
                              .beta1 = 0.9f,
                              .beta2 = 0.99f,
                              .eps = 1e-8f,
                              .weight_decay = 0.1f};
}

/* Promise: several steps of each rule follow its formula, with and without decay, at any size. */
START_TEST(formulas) {
    struct optimizer rules[] = {rule(OPTIMIZER_SGD), rule(OPTIMIZER_MOMENTUM),
                                rule(OPTIMIZER_MOMENTUM), rule(OPTIMIZER_ADAM),
                                rule(OPTIMIZER_ADAMW)};
    rules[2].nesterov = true;
    for (size_t k = 0; k < ARRAY_LEN(rules); k++)
        for (size_t s = 0; s < ARRAY_LEN(sizes); s++)
            for (int decay = 0; decay < 2; decay++)
                compare(&rules[k], sizes[s], decay);
}
END_TEST

/* Promise: first steps computed by hand, so that the test's own formulas are tested too. */
START_TEST(by_hand) {
    float w = 1, g = 0.5f, next, state[2] = {0};
    struct optimizer o = {.kind = OPTIMIZER_SGD, .lr = 0.1f, .weight_decay = 0.5f};
    optimizer_step(&o, 1, &w, &g, NULL, 1, true, &next);
    ck_assert_float_eq_tol(next, 0.9f, 1e-7f); /* 1 - 0.1 (0.5 + 0.5) */
    optimizer_step(&o, 1, &w, &g, NULL, 1, false, &next);
    ck_assert_float_eq_tol(next, 0.95f, 1e-7f);

    o = (struct optimizer){.kind = OPTIMIZER_MOMENTUM, .lr = 0.1f, .momentum = 0.5f};
    optimizer_step(&o, 1, &w, &g, state, 1, false, &next); /* v = 0.5 */
    ck_assert_float_eq_tol(next, 0.95f, 1e-7f);
    optimizer_step(&o, 1, &w, &g, state, 2, false, &next); /* v = 0.75 */
    ck_assert_float_eq_tol(next, 0.925f, 1e-7f);
    o.nesterov = true;
    optimizer_step(&o, 1, &w, &g, state, 3, false, &next); /* v = 0.875, g + v / 2 = 0.9375 */
    ck_assert_float_eq_tol(next, 0.90625f, 1e-7f);

    /* The first step of adam is lr * sign(g), whatever g. */
    o = rule(OPTIMIZER_ADAM);
    state[0] = state[1] = 0;
    optimizer_step(&o, 1, &w, &g, state, 1, false, &next);
    ck_assert_float_eq_tol(next, 0.95f, 1e-6f);
    o = rule(OPTIMIZER_ADAMW);
    state[0] = state[1] = 0;
    optimizer_step(&o, 1, &w, &g, state, 1, true, &next);
    ck_assert_float_eq_tol(next, 0.945f, 1e-6f); /* and 0.05 * 0.1 * 1 of decay */
}
END_TEST

/* Promise: the options reach the rule, and each rule says how much state it keeps. */
START_TEST(options) {
    struct config *config = config_new();
    config->optimizer_kind = OPTIMIZER_ADAMW;
    config->optimizer_lr = 0.25;
    config->optimizer_momentum = 0.5;
    config->optimizer_nesterov = true;
    config->optimizer_beta1 = 0.75;
    config->optimizer_beta2 = 0.875;
    config->optimizer_eps = 0.0625;
    config->optimizer_weight_decay = 0.03125;
    struct optimizer o;
    optimizer_init(&o, config);
    ck_assert(o.kind == OPTIMIZER_ADAMW && o.lr == 0.25f && o.momentum == 0.5f && o.nesterov &&
              o.beta1 == 0.75f && o.beta2 == 0.875f && o.eps == 0.0625f &&
              o.weight_decay == 0.03125f);
    config_free(config);

    const size_t floats[] = {
        [OPTIMIZER_SGD] = 0, [OPTIMIZER_MOMENTUM] = 1, [OPTIMIZER_ADAM] = 2, [OPTIMIZER_ADAMW] = 2};
    for (int kind = 0; kind < (int)ARRAY_LEN(floats); kind++)
        ck_assert_uint_eq(optimizer_state_floats(&(struct optimizer){.kind = kind}), floats[kind]);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("optimizer");
    TCase *tcase = tcase_create("optimizer");
    tcase_add_test(tcase, formulas);
    tcase_add_test(tcase, by_hand);
    tcase_add_test(tcase, options);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
