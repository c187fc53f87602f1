/* Decoders and losses of links: scores and losses are those of their formulas, gradients those of
 * finite differences, the same for any number of threads. */
#include "tests/test.h"

#include <math.h>
#include <string.h>

#include "common/rng.h"
#include "worker/kernels/kernels.h"
#include "worker/model/decoder.h"
#include "worker/model/link_head.h"

enum { N = 7, DIM = 19, RELATIONS = 3, COUNT = 9, EACH = 2, PAIRS = COUNT * (1 + EACH) };

static int32_t sources[PAIRS], targets[PAIRS], relations[COUNT];
static float y[N * DIM], w[RELATIONS * DIM], dy[N * DIM], dw[RELATIONS * DIM];

/* Node 6 is in no pair; link 2 lacks a negative, link 4 both; a node meets itself. */
static struct link_pairs make_pairs(void) {
    for (int p = 0; p < PAIRS; p++) {
        sources[p] = (int32_t)rng_below(rng_at(5, (uint64_t)p), N - 1);
        targets[p] = (int32_t)rng_below(rng_at(6, (uint64_t)p), N - 1);
    }
    sources[1] = targets[1] = 3;
    static const int absent[] = {COUNT + 2 * EACH, COUNT + 4 * EACH, COUNT + 4 * EACH + 1};
    for (int k = 0; k < 3; k++)
        sources[absent[k]] = targets[absent[k]] = -1;
    for (int i = 0; i < COUNT; i++)
        relations[i] = i % RELATIONS;
    for (int i = 0; i < N * DIM; i++)
        y[i] = rng_float(rng_at(1, (uint64_t)i)) - 0.5F;
    for (int i = 0; i < RELATIONS * DIM; i++)
        w[i] = 2 * rng_float(rng_at(2, (uint64_t)i)) - 1;
    return (struct link_pairs){.count = COUNT,
                               .each = EACH,
                               .sources = sources,
                               .targets = targets,
                               .relations = relations};
}

static double score_by_formula(int decoder, int p) {
    int r = relations[p < COUNT ? p : (p - COUNT) / EACH];
    double sum = 0;
    for (int j = 0; j < DIM; j++)
        sum += (double)y[sources[p] * DIM + j] * (double)y[targets[p] * DIM + j] *
               (decoder == DECODER_DISTMULT ? (double)w[r * DIM + j] : 1);
    return sum;
}

static double loss_by_formula(int decoder, int loss) {
    double all = 0;
    for (int i = 0; i < COUNT; i++) {
        double own = score_by_formula(decoder, i), sum = 0, m = 0;
        for (int p = COUNT + i * EACH; p < COUNT + (i + 1) * EACH; p++) {
            if (sources[p] < 0)
                continue;
            double s = score_by_formula(decoder, p);
            sum -= loss == LINK_BPR ? log(1 / (1 + exp(s - own))) : log(1 - 1 / (1 + exp(-s)));
            m++;
        }
        sum = m > 0 ? sum / m : 0;
        all += loss == LINK_BPR ? sum : (sum - log(1 / (1 + exp(-own)))) / 2;
    }
    return all;
}

static void check_gradient(int decoder, int loss, float *x, const float *dx, int n,
                           const char *name) {
    for (int i = 0; i < n; i++) {
        const float step = 1e-2F;
        float was = x[i];
        x[i] = was + step;
        double above = loss_by_formula(decoder, loss), at = (double)x[i];
        x[i] = was - step;
        double below = loss_by_formula(decoder, loss);
        double wanted = (above - below) / (at - (double)x[i]) / COUNT;
        x[i] = was;
        ck_assert_msg(fabs((double)dx[i] - wanted) < 2e-6 + 1e-3 * fabs(wanted),
                      "d%s[%d] is %g, differences give %g", name, i, (double)dx[i], wanted);
    }
}

START_TEST(gradients_are_differences) {
    int decoder = _i / 2, loss = _i % 2;
    struct link_pairs pairs = make_pairs();
    struct link_head_spec spec = {decoder, loss, DIM, RELATIONS};
    struct link_head *head = link_head_new(&spec);
    memset(dy, 0xff, sizeof dy);
    memset(dw, 0xff, sizeof dw);
    double sum = link_head_forward(head, &pairs, y, w);
    link_head_backward(head, &pairs, N, y, w, dy, dw);
    ck_assert_double_eq_tol(sum, loss_by_formula(decoder, loss), 1e-5);
    check_gradient(decoder, loss, y, dy, N * DIM, "y");
    if (decoder == DECODER_DISTMULT)
        check_gradient(decoder, loss, w, dw, RELATIONS * DIM, "w");
    for (int j = 0; j < DIM; j++)
        ck_assert_float_eq(dy[6 * DIM + j], 0);
    link_head_free(head);
}
END_TEST

/* A question's product with the other end is the score. */
START_TEST(queries_score_alike) {
    float scores[PAIRS], q[DIM];
    struct link_pairs pairs = make_pairs();
    const struct decoder *decoder = decoder_of(_i);
    decoder->score(&pairs, DIM, y, w, scores);
    for (int p = 0; p < PAIRS; p++) {
        if (sources[p] < 0) {
            ck_assert_float_eq(scores[p], 0);
            continue;
        }
        int32_t r = relations[link_pairs_link(&pairs, (uint64_t)p)];
        ck_assert_double_eq_tol((double)scores[p], score_by_formula(_i, p), 1e-5);
        for (int side = 0; side < 2; side++) {
            double sum = 0;
            decoder->query(DIM, y + (side ? targets[p] : sources[p]) * DIM, w, r, q);
            for (int j = 0; j < DIM; j++)
                sum += (double)(q[j] * y[(side ? sources[p] : targets[p]) * DIM + j]);
            ck_assert_double_eq_tol(sum, (double)scores[p], 1e-5);
        }
    }
}
END_TEST

/* Enough pairs for all loops to be shared: the bits do not depend on the threads. */
START_TEST(threads_do_not_matter) {
    enum { NODES = 300, LINKS = 3000, ALL = LINKS * 2, WIDTH = 24 };
    static int32_t s[ALL], t[ALL], r[LINKS];
    static float z[NODES * WIDTH], v[RELATIONS * WIDTH], dz[2][NODES * WIDTH],
        dv[2][RELATIONS * WIDTH];
    double sums[2];
    for (uint64_t p = 0; p < ALL; p++) {
        s[p] = (int32_t)rng_below(rng_at(1, p), NODES);
        t[p] = (int32_t)rng_below(rng_at(2, p), NODES);
        r[p % LINKS] = (int32_t)(p % RELATIONS);
    }
    for (uint64_t i = 0; i < NODES * WIDTH; i++)
        z[i] = rng_float(rng_at(3, i)) - 0.5F;
    for (uint64_t i = 0; i < RELATIONS * WIDTH; i++)
        v[i] = rng_float(rng_at(4, i)) - 0.5F;
    struct link_pairs pairs = {LINKS, 1, s, t, r};
    struct link_head_spec spec = {_i, LINK_BPR, WIDTH, RELATIONS};
    for (int k = 0; k < 2; k++) {
        kernels_set_threads(k == 0 ? 1 : 3);
        struct link_head *head = link_head_new(&spec);
        sums[k] = link_head_forward(head, &pairs, z, v);
        link_head_backward(head, &pairs, NODES, z, v, dz[k], dv[k]);
        link_head_free(head);
    }
    ck_assert_mem_eq(&sums[0], &sums[1], sizeof sums[0]);
    ck_assert_mem_eq(dz[0], dz[1], sizeof dz[0]);
    ck_assert_mem_eq(dv[0], dv[1], sizeof dv[0]);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("link_head");
    TCase *tcase = tcase_create("link_head");
    tcase_set_timeout(tcase, 60); /* a loaded machine */
    tcase_add_loop_test(tcase, gradients_are_differences, 0, 4);
    tcase_add_loop_test(tcase, queries_score_alike, 0, 2);
    tcase_add_loop_test(tcase, threads_do_not_matter, 0, 2);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
