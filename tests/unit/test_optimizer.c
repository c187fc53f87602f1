/* server/optimizer: every rule against the formula of its paper, written out in double. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/config.h"
#include "common/mem.h"
#include "common/rng.h"
#include "server/optimizer_ops.h"

enum { STEPS = 7, SIZE_MAX_FLOATS = 1027 };
static const size_t sizes[] = {1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, SIZE_MAX_FLOATS};

/* One weight's life in double. */
struct model {
    double w, v, m, s; /* s: of adam the second moment, of adagrad the sum of squares */
};

static void model_step(struct model *x, const struct optimizer *o, double g, int step, bool decay) {
    double wd = decay ? o->weight_decay : 0, lr = o->lr;
    if (o->kind != OPTIMIZER_ADAMW && o->kind != OPTIMIZER_NONE)
        g += wd * x->w;
    switch (o->kind) {
    case OPTIMIZER_SGD:
        x->w -= lr * g;
        break;
    case OPTIMIZER_MOMENTUM:
        x->v = (double)o->momentum * x->v + g;
        x->w -= lr * (o->nesterov ? g + (double)o->momentum * x->v : x->v);
        break;
    case OPTIMIZER_ADAGRAD:
        x->s += g * g;
        x->w -= lr * g / (sqrt(x->s) + (double)o->eps);
        break;
    case OPTIMIZER_NONE:
        x->w += g;
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

/* All kinds; momentum also in Nesterov's form. */
enum { RULES = OPTIMIZER_NONE + 2 };
static struct optimizer rule_at(size_t i) {
    struct optimizer o = rule(i < RULES - 1 ? (int)i : OPTIMIZER_MOMENTUM);
    o.nesterov = i == RULES - 1;
    return o;
}

/* Promise: several steps of each rule follow its formula, with and without decay, at any size. */
START_TEST(formulas) {
    for (size_t k = 0; k < RULES; k++)
        for (size_t s = 0; s < ARRAY_LEN(sizes); s++)
            for (int decay = 0; decay < 2; decay++) {
                struct optimizer o = rule_at(k);
                compare(&o, sizes[s], decay);
            }
}
END_TEST

/* Promise: a row is updated where it lies, by the same formulas, with a factor on the gradient,
 * each row by its own count of steps, and without decay. */
START_TEST(rows) {
    enum { DIM = 19, ROWS = 3 };
    for (size_t k = 0; k < RULES; k++) {
        struct optimizer o = rule_at(k);
        size_t floats = optimizer_state_floats(&o);
        float w[ROWS][DIM] = {{0}}, state[ROWS][2 * DIM] = {{0}}, g[DIM];
        struct model models[ROWS][DIM] = {{{0}}};
        int steps[ROWS] = {0};
        for (size_t update = 0; update < 12; update++) {
            size_t row = update % 4 % ROWS; /* 0 1 2 0, so that one row is ahead */
            steps[row]++;
            float expected[DIM];
            for (size_t i = 0; i < DIM; i++) {
                g[i] = rng_float(rng_at(k, update * DIM + i)) * 8 - 4;
                model_step(&models[row][i], &o, (double)g[i] * 0.25, steps[row], false);
                expected[i] = (float)models[row][i].w;
            }
            optimizer_row(&o, DIM, w[row], g, 0.25f, state[row], (uint64_t)steps[row]);
            test_floats_equal("row", w[row], expected, DIM, 3e-6, 3e-6);
            for (size_t i = floats * DIM; i < 2 * DIM; i++)
                ck_assert(state[row][i] == 0);
        }
    }
}
END_TEST

/* Promise: after very many steps too the bias is taken off as the paper says. */
START_TEST(late_steps) {
    const uint64_t steps[] = {2, 10, 999, 12345, 1000000, UINT64_MAX};
    for (size_t s = 0; s < ARRAY_LEN(steps); s++) {
        struct optimizer o = rule(OPTIMIZER_ADAM);
        o.beta2 = 0.9999f;
        float w = 1, g = 0.5f, next, state[2] = {0.25f, 0.0625f};
        double m = (double)o.beta1 * 0.25 + (1 - (double)o.beta1) * 0.5;
        double v = (double)o.beta2 * 0.0625 + (1 - (double)o.beta2) * 0.25;
        m /= 1 - pow(o.beta1, (double)steps[s]);
        v /= 1 - pow(o.beta2, (double)steps[s]);
        optimizer_step(&o, 1, &w, &g, state, steps[s], false, &next);
        ck_assert_double_eq_tol((double)next, 1 - (double)o.lr * m / (sqrt(v) + 1e-8), 2e-7);
    }
}
END_TEST

/* Promise: the fast loops give the reference's bits, at any size and alignment, into another array
 * and in place, and write nothing beyond n. */
START_TEST(same_bits) {
    const struct optimizer_ops *fast = optimizer_avx2();
    if (!fast) {
        printf("SKIPPED: this processor has no AVX2\n");
        return;
    }
    enum { ALL = SIZE_MAX_FLOATS + 16 };
    static float w[2][ALL], g[ALL], state[2][2 * ALL], next[2][ALL];
    for (size_t k = 0; k < RULES; k++)
        for (size_t s = 0; s <= ARRAY_LEN(sizes); s++)
            for (size_t shift = 0; shift < 16; shift++) {
                size_t n = s < ARRAY_LEN(sizes) ? sizes[s] : 0;
                struct optimizer o = rule_at(k);
                struct optimizer_terms terms = {.gradient = 0.7f,
                                                .lr = o.lr,
                                                .l2 = 0.01f,
                                                .keep = 0.99f,
                                                .momentum = 0.9f,
                                                .beta1 = 0.9f,
                                                .beta2 = 0.99f,
                                                .eps = 1e-6f,
                                                .unbias = 1.3f,
                                                .nesterov = o.nesterov};
                for (size_t i = 0; i < 2 * ALL; i++) {
                    float x = rng_float(rng_at(k, i)) - 0.5f;
                    w[0][i / 2] = w[1][i / 2] = next[0][i / 2] = next[1][i / 2] = x;
                    g[i / 2] = i % 14 == 0 ? 0 : x * 3;
                    state[0][i] = state[1][i] = i % 5 == 0 ? 0 : fabsf(x);
                }
                size_t from = shift / 2, in_place = shift % 2;
                for (int step = 0; step < 3; step++)
                    for (size_t twin = 0; twin < 2; twin++) {
                        const struct optimizer_ops *ops = twin ? fast : &optimizer_ref;
                        ops->step[o.kind](&terms, n, w[twin] + from, g + from, state[twin] + from,
                                          (in_place ? w[twin] : next[twin]) + from);
                    }
                ck_assert_mem_eq(w[0], w[1], sizeof w[0]);
                ck_assert_mem_eq(next[0], next[1], sizeof next[0]);
                ck_assert_mem_eq(state[0], state[1], sizeof state[0]);
            }
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

    o = (struct optimizer){.kind = OPTIMIZER_ADAGRAD, .lr = 0.1f, .eps = 0.5f};
    state[0] = 2;
    optimizer_step(&o, 1, &w, &g, state, 1, false, &next); /* s = 2.25: 0.1 * 0.5 / (1.5 + 0.5) */
    ck_assert(state[0] == 2.25f);
    ck_assert_float_eq_tol(next, 0.975f, 1e-7f);
    o = rule(OPTIMIZER_NONE);
    optimizer_step(&o, 1, &w, &g, NULL, 1, true, &next);
    ck_assert(next == 1.5f); /* no rate, no decay */
    optimizer_row(&o, 1, &w, &g, -2, NULL, 1);
    ck_assert(w == 0);
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
    /* The kinds are numbered as the option's choices stand. */
    static const char *const names[] = {"sgd", "momentum", "adam", "adamw", "adagrad", "none"};
    for (int kind = 0; kind <= OPTIMIZER_NONE; kind++) {
        config->optimizer_kind = kind;
        ck_assert_str_eq(config_choice(config, "optimizer.kind"), names[kind]);
    }
    config_free(config);

    const size_t floats[] = {[OPTIMIZER_SGD] = 0,   [OPTIMIZER_MOMENTUM] = 1, [OPTIMIZER_ADAM] = 2,
                             [OPTIMIZER_ADAMW] = 2, [OPTIMIZER_ADAGRAD] = 1,  [OPTIMIZER_NONE] = 0};
    for (int kind = 0; kind < (int)ARRAY_LEN(floats); kind++)
        ck_assert_uint_eq(optimizer_state_floats(&(struct optimizer){.kind = kind}), floats[kind]);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("optimizer");
    TCase *tcase = tcase_create("optimizer");
    tcase_add_test(tcase, formulas);
    tcase_add_test(tcase, rows);
    tcase_add_test(tcase, late_steps);
    tcase_add_test(tcase, same_bits);
    tcase_add_test(tcase, by_hand);
    tcase_add_test(tcase, options);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
