/* The attention kernels: the reference against dense loops in double precision and their finite
 * differences, the fast twin against the reference. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "worker/kernels/attention.h"
#include "worker/kernels/kernels.h"

enum form { GAT, GATV2 };

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

static float *random_floats(size_t count, uint64_t seed, float range) {
    float *x = mem_array(count + 1, sizeof *x);
    for (size_t i = 0; i < count; i++)
        x[i] = (rng_float(rng_at(rng_key(seed, 1), i)) * 2 - 1) * range;
    return x;
}

/* A graph with rows of every kind: without edges, a few, one of hub edges; and a source with about
 * as many destinations. */
struct graph {
    int64_t *indptr, *t_indptr, *nodes;
    int32_t *indices, *t_indices;
};

static void transpose(struct graph *graph, size_t n_dst, size_t n_src) {
    int64_t entries = graph->indptr[n_dst];
    graph->t_indptr = mem_array(n_src + 2, sizeof *graph->t_indptr);
    graph->t_indices = mem_array((size_t)entries + 1, sizeof *graph->t_indices);
    int64_t *at = graph->t_indptr + 1;
    for (int64_t e = 0; e < entries; e++)
        if ((size_t)graph->indices[e] + 1 < n_src)
            at[graph->indices[e] + 1]++;
    for (size_t j = 1; j < n_src; j++)
        at[j] += at[j - 1];
    for (size_t i = 0; i < n_dst; i++)
        for (int64_t e = graph->indptr[i]; e < graph->indptr[i + 1]; e++)
            graph->t_indices[at[graph->indices[e]]++] = (int32_t)i;
    graph->t_indptr[0] = 0;
}

static struct graph graph_make(size_t n_dst, size_t n_src, size_t hub) {
    struct graph graph = {.indptr = mem_array(n_dst + 1, sizeof *graph.indptr),
                          .nodes = mem_array(n_src, sizeof *graph.nodes),
                          .indices = mem_array(n_dst * 8 + hub, sizeof *graph.indices)};
    int64_t out = 0;
    for (size_t i = 0; i < n_dst; i++) {
        size_t degree = i == 2 ? hub : i % 4 == 3 ? 0 : i * 7 % 6;
        for (size_t k = 0, j = i * 13; k < degree; k++) {
            j = degree == hub ? k : (j + 1 + k * 5) % n_src;
            if (j % n_src != i)
                graph.indices[out++] = (int32_t)(j % n_src);
        }
        if (i != 1 && i % 4 != 3 && i != 2)
            graph.indices[out++] = 1; /* the source that many listen to */
        graph.indptr[i + 1] = out;
    }
    for (size_t j = 0; j < n_src; j++)
        graph.nodes[j] = (int64_t)(rng_at(8, j) >> 30);
    transpose(&graph, n_dst, n_src);
    return graph;
}

static void graph_done(struct graph *graph) {
    mem_free(graph->indptr);
    mem_free(graph->indices);
    mem_free(graph->t_indptr);
    mem_free(graph->t_indices);
    mem_free(graph->nodes);
}

static struct attention attention_of(const struct graph *graph, size_t n_dst, size_t n_src,
                                     size_t heads, size_t width, float p) {
    return (struct attention){.n_dst = n_dst,
                              .n_src = n_src,
                              .heads = heads,
                              .width = width,
                              .indptr = graph->indptr,
                              .indices = graph->indices,
                              .t_indptr = graph->t_indptr,
                              .t_indices = graph->t_indices,
                              .slope = 0.2F,
                              .p = p,
                              .key = 77,
                              .nodes = graph->nodes,
                              .parts = 3};
}

/* Everything that goes in and comes out. Rows are gap floats longer than d; what lies there must
 * stay 77. */
struct run {
    size_t n_dst, n_src, d, ld, heads;
    float *z, *zr, *a_src, *a_dst, *dy; /* in; GATv2: a is a_src */
    float *s_src, *s_dst, *y, *max, *sum, *dz, *dzr, *da_src, *da_dst;
};

static struct run run_make(const struct attention *at, size_t gap, float range) {
    size_t d = at->heads * at->width, ld = d + gap;
    struct run run = {at->n_dst, at->n_src, d, ld, at->heads, NULL};
    run.z = random_floats(at->n_src * ld, 1, 1);
    run.zr = random_floats(at->n_dst * ld, 2, 1);
    run.a_src = random_floats(d, 3, range);
    run.a_dst = random_floats(d, 4, range);
    run.dy = random_floats(at->n_dst * ld, 5, 1);
    float **out[] = {&run.s_src, &run.s_dst, &run.y,      &run.max,   &run.sum,
                     &run.dz,    &run.dzr,   &run.da_src, &run.da_dst};
    size_t counts[] = {at->n_src * at->heads,
                       at->n_dst * at->heads,
                       at->n_dst * ld,
                       at->n_dst * at->heads,
                       at->n_dst * at->heads,
                       at->n_src * ld,
                       at->n_dst * ld,
                       d,
                       d};
    for (size_t i = 0; i < ARRAY_LEN(out); i++) {
        *out[i] = mem_array(counts[i] + 1, sizeof(float));
        for (size_t c = 0; c <= counts[i]; c++)
            (*out[i])[c] = 77;
    }
    return run;
}

static void run_done(struct run *run) {
    float *arrays[] = {run->z,     run->zr,    run->a_src,  run->a_dst, run->dy,
                       run->s_src, run->s_dst, run->y,      run->max,   run->sum,
                       run->dz,    run->dzr,   run->da_src, run->da_dst};
    for (size_t i = 0; i < ARRAY_LEN(arrays); i++)
        mem_free(arrays[i]);
}

static void run_forward(const struct attention_kernels *twin, const struct attention *at,
                        enum form form, struct run *run) {
    if (form == GAT) {
        twin->gat_scores(at, run->z, run->ld, run->a_src, run->a_dst, run->s_src, run->s_dst);
        twin->gat_forward(at, run->z, run->ld, run->s_src, run->s_dst, run->y, run->ld, run->max,
                          run->sum);
    } else
        twin->gatv2_forward(at, run->z, run->ld, run->zr, run->ld, run->a_src, run->y, run->ld,
                            run->max, run->sum);
}

static void run_backward(const struct attention_kernels *twin, const struct attention *at,
                         enum form form, struct run *run) {
    size_t floats = form == GAT ? attention_gat_scratch(at) : attention_gatv2_scratch(at);
    float *scratch = mem_array(floats, sizeof *scratch);
    for (size_t i = 0; i < floats; i++)
        scratch[i] = NAN; /* nothing may be expected of it */
    if (form == GAT)
        twin->gat_backward(at, run->z, run->ld, run->a_src, run->a_dst, run->s_src, run->s_dst,
                           run->max, run->sum, run->y, run->ld, run->dy, run->ld, scratch, run->dz,
                           run->ld, run->da_src, run->da_dst);
    else
        twin->gatv2_backward(at, run->z, run->ld, run->zr, run->ld, run->a_src, run->max, run->sum,
                             run->y, run->ld, run->dy, run->ld, scratch, run->dz, run->ld, run->dzr,
                             run->ld, run->da_src);
    mem_free(scratch);
}

/* attention.h literally, in double precision: y [n_dst, d]. Inputs as doubles, dense. */
struct dense {
    double *z, *zr, *a_src, *a_dst;
};

static double dense_leaky(double x) {
    return x > 0 ? x : (double)0.2F * x;
}

static double dense_score(const struct attention *at, enum form form, const struct dense *in,
                          size_t i, size_t j, size_t h) {
    size_t d = at->heads * at->width;
    double sum = 0;
    for (size_t c = h * at->width; c < (h + 1) * at->width; c++)
        sum += form == GAT ? in->a_src[c] * in->z[j * d + c] + in->a_dst[c] * in->z[i * d + c]
                           : in->a_src[c] * dense_leaky(in->z[j * d + c] + in->zr[i * d + c]);
    return form == GAT ? dense_leaky(sum) : sum;
}

static bool dense_kept(const struct attention *at, size_t i, size_t j, size_t h) {
    if (at->p <= 0)
        return true;
    uint64_t bits = rng_at(rng_key(at->key, (uint64_t)at->nodes[i]),
                           (uint64_t)at->nodes[j] * ((at->heads + 1) / 2) + h / 2);
    return rng_float(h % 2 ? bits : bits << 32) >= at->p;
}

static void dense_row(const struct attention *at, enum form form, const struct dense *in, size_t i,
                      size_t h, double *y) {
    size_t d = at->heads * at->width;
    double max = dense_score(at, form, in, i, i, h), sum = 0;
    for (int64_t e = at->indptr[i]; e < at->indptr[i + 1]; e++)
        max = fmax(max, dense_score(at, form, in, i, (size_t)at->indices[e], h));
    for (size_t c = 0; c < at->width; c++)
        y[i * d + h * at->width + c] = 0;
    for (int64_t e = at->indptr[i] - 1; e < at->indptr[i + 1]; e++) {
        size_t j = e < at->indptr[i] ? i : (size_t)at->indices[e];
        double weight = exp(dense_score(at, form, in, i, j, h) - max);
        sum += weight;
        if (dense_kept(at, i, j, h))
            for (size_t c = h * at->width; c < (h + 1) * at->width; c++)
                y[i * d + c] += weight / (1 - (double)at->p) * in->z[j * d + c];
    }
    for (size_t c = h * at->width; c < (h + 1) * at->width; c++)
        y[i * d + c] /= sum;
}

static void dense_forward(const struct attention *at, enum form form, const struct dense *in,
                          double *y) {
    for (size_t i = 0; i < at->n_dst; i++)
        for (size_t h = 0; h < at->heads; h++)
            dense_row(at, form, in, i, h, y);
}

static double *widen(const float *x, size_t rows, size_t d, size_t ld) {
    double *wide = mem_array(rows * d, sizeof *wide);
    for (size_t i = 0; i < rows * d; i++)
        wide[i] = (double)x[i / d * ld + i % d];
    return wide;
}

static struct dense dense_of(const struct run *run) {
    return (struct dense){
        widen(run->z, run->n_src, run->d, run->ld), widen(run->zr, run->n_dst, run->d, run->ld),
        widen(run->a_src, 1, run->d, run->d), widen(run->a_dst, 1, run->d, run->d)};
}

static void dense_done(struct dense *in) {
    mem_free(in->z);
    mem_free(in->zr);
    mem_free(in->a_src);
    mem_free(in->a_dst);
}

static const size_t shapes[][2] = {{1, 1}, {1, 7}, {2, 3}, {3, 5}, {8, 8}, {4, 16}};

/* Also with scores of some hundreds, of which exp alone would be infinite. */
START_TEST(reference_forward_is_a_softmax_over_neighbours) {
    struct graph graph = graph_make(11, 29, 20);
    for (size_t s = 0; s < ARRAY_LEN(shapes); s++)
        for (int flags = 0; flags < 8; flags++) {
            enum form form = flags & 1 ? GATV2 : GAT;
            struct attention at =
                attention_of(&graph, 11, 29, shapes[s][0], shapes[s][1], flags & 2 ? 0.4F : 0);
            struct run run = run_make(&at, s % 3, flags & 4 ? 300 : 1);
            struct dense in = dense_of(&run);
            double *y = mem_array(11 * run.d, sizeof *y);
            dense_forward(&at, form, &in, y);
            run_forward(&attention_ref, &at, form, &run);
            for (size_t i = 0; i < 11; i++)
                for (size_t c = 0; c < run.ld; c++) {
                    double wanted = c < run.d ? y[i * run.d + c] : 77;
                    /* A score of 1000 is good to 1e-4, and so is its exponential. */
                    ck_assert_msg(fabs((double)run.y[i * run.ld + c] - wanted) <
                                      (flags & 4 ? 2e-3 : 2e-6),
                                  "form %d %zux%zu (%zu, %zu): %g, not %g", form, at.heads,
                                  at.width, i, c, (double)run.y[i * run.ld + c], wanted);
                }
            mem_free(y);
            dense_done(&in);
            run_done(&run);
        }
    graph_done(&graph);
}
END_TEST

static double loss(const struct attention *at, enum form form, const struct dense *in,
                   const double *dy, double *y) {
    size_t count = at->n_dst * at->heads * at->width;
    double sum = 0;
    dense_forward(at, form, in, y);
    for (size_t i = 0; i < count; i++)
        sum += y[i] * dy[i];
    return sum;
}

static void check_gradient(const char *what, const struct attention *at, enum form form,
                           const struct dense *in, const struct run *run, double *x, size_t rows,
                           const float *gradient, size_t ld) {
    const double step = 1e-5;
    double *dy = widen(run->dy, run->n_dst, run->d, run->ld);
    double *y = mem_array(run->n_dst * run->d, sizeof *y);
    for (size_t i = 0; i < rows * run->d; i++) {
        double old = x[i];
        x[i] = old + step;
        double up = loss(at, form, in, dy, y);
        x[i] = old - step;
        double wanted = (up - loss(at, form, in, dy, y)) / (2 * step);
        x[i] = old;
        double got = (double)gradient[i / run->d * ld + i % run->d];
        ck_assert_msg(fabs(got - wanted) < 2e-5 * (1 + fabs(wanted)),
                      "form %d %zux%zu p %g: %s[%zu] = %g, not %g", form, at->heads, at->width,
                      (double)at->p, what, i, got, wanted);
    }
    mem_free(dy);
    mem_free(y);
}

START_TEST(reference_backward_is_the_finite_difference) {
    struct graph graph = graph_make(7, 12, 9);
    for (size_t s = 0; s < 4; s++)
        for (int flags = 0; flags < 4; flags++) {
            enum form form = flags & 1 ? GATV2 : GAT;
            struct attention at =
                attention_of(&graph, 7, 12, shapes[s][0], shapes[s][1], flags & 2 ? 0.4F : 0);
            struct run run = run_make(&at, s % 3, 1);
            struct dense in = dense_of(&run);
            run_forward(&attention_ref, &at, form, &run);
            run_backward(&attention_ref, &at, form, &run);
            check_gradient("dz", &at, form, &in, &run, in.z, 12, run.dz, run.ld);
            check_gradient("da_src", &at, form, &in, &run, in.a_src, 1, run.da_src, run.d);
            if (form == GAT)
                check_gradient("da_dst", &at, form, &in, &run, in.a_dst, 1, run.da_dst, run.d);
            else
                check_gradient("dzr", &at, form, &in, &run, in.zr, 7, run.dzr, run.ld);
            dense_done(&in);
            run_done(&run);
        }
    graph_done(&graph);
}
END_TEST

/* Runs both twins over one graph and compares all that comes out. */
static void compare(const struct graph *graph, size_t n_dst, size_t n_src, size_t heads,
                    size_t width, float p, float range, double tolerance) {
    for (int form = GAT; form <= GATV2; form++) {
        struct attention at = attention_of(graph, n_dst, n_src, heads, width, p);
        struct run ref = run_make(&at, width % 3, range), fast = run_make(&at, width % 3, range);
        run_forward(&attention_ref, &at, form, &ref);
        run_backward(&attention_ref, &at, form, &ref);
        run_forward(attention_avx2(), &at, form, &fast);
        run_backward(attention_avx2(), &at, form, &fast);
        struct {
            const char *name;
            const float *wanted, *got;
            size_t count;
        } outs[] = {
            {"s_src", ref.s_src, fast.s_src, n_src * heads},
            {"s_dst", ref.s_dst, fast.s_dst, n_dst * heads},
            {"y", ref.y, fast.y, n_dst * ref.ld},
            {"max", ref.max, fast.max, n_dst * heads},
            {"sum", ref.sum, fast.sum, n_dst * heads},
            {"dz", ref.dz, fast.dz, n_src * ref.ld},
            {"dzr", ref.dzr, fast.dzr, n_dst * ref.ld},
            {"da_src", ref.da_src, fast.da_src, ref.d},
            {"da_dst", ref.da_dst, fast.da_dst, ref.d},
        };
        for (size_t i = 0; i < ARRAY_LEN(outs); i++) {
            char what[96];
            snprintf(what, sizeof what, "form %d %zux%zu p %g: %s", form, heads, width, (double)p,
                     outs[i].name);
            /* One float past the end must be as untouched as the gaps. */
            test_floats_equal(what, outs[i].wanted, outs[i].got, outs[i].count + 1, tolerance,
                              tolerance);
        }
        run_done(&ref);
        run_done(&fast);
    }
}

START_TEST(fast_equals_reference) {
    static const size_t sizes[] = {1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33};
    if (!attention_avx2())
        return;
    struct graph graph = graph_make(23, 171, 150);
    for (size_t h = 0; h < ARRAY_LEN(sizes); h++)
        for (size_t w = 0; w < ARRAY_LEN(sizes); w++)
            compare(&graph, 23, 171, smaller(sizes[h], ATTENTION_HEADS_MAX), sizes[w],
                    (h + w) % 2 ? 0.4F : 0, 0.5F, 5e-5);
    static const size_t usual[][2] = {{1, 40}, {2, 24}, {3, 64}, {4, 32}, {4, 64},
                                      {6, 16}, {8, 64}, {12, 8}, {4, 4},  {16, 136}};
    for (size_t s = 0; s < ARRAY_LEN(usual); s++)
        for (int p = 0; p < 2; p++)
            compare(&graph, 23, 171, usual[s][0], usual[s][1], p ? 0.6F : 0, 0.5F, 5e-5);
    graph_done(&graph);
}
END_TEST

/* Nothing but own edges, no destination, and rows that begin with no source of their own. */
START_TEST(fast_equals_reference_without_edges) {
    if (!attention_avx2())
        return;
    struct graph graph = graph_make(23, 171, 150);
    memset(graph.indptr, 0, 24 * sizeof *graph.indptr);
    memset(graph.t_indptr, 0, 172 * sizeof *graph.t_indptr);
    compare(&graph, 23, 171, 8, 8, 0.5F, 1, 1e-5);
    compare(&graph, 23, 171, 3, 5, 0, 1, 1e-5);
    compare(&graph, 0, 171, 2, 9, 0.5F, 1, 1e-5);
    graph_done(&graph);
}
END_TEST

/* A row of 5000 edges, then a source of some 3700: many blocks, the maximum rising from one to the
 * next; also with scores that would overflow. */
START_TEST(fast_equals_reference_at_a_hub) {
    static const size_t sizes[][3] = {{23, 5300, 5000}, {5000, 23, 19}};
    static const size_t usual[][2] = {{8, 8}, {4, 32}, {1, 7}};
    for (size_t g = 0; attention_avx2() && g < ARRAY_LEN(sizes); g++) {
        size_t n_dst = sizes[g][0], n_src = sizes[g][1] > n_dst ? sizes[g][1] : n_dst;
        struct graph graph = graph_make(n_dst, n_src, sizes[g][2]);
        for (size_t s = 0; s < ARRAY_LEN(usual); s++)
            compare(&graph, n_dst, n_src, usual[s][0], usual[s][1], s % 2 ? 0.5F : 0, 0.5F, 5e-4);
        /* Scores of some 100 are rounded to 1e-5, and so are their exponentials. */
        compare(&graph, n_dst, n_src, 8, 8, 0.5F, 100, 2e-2);
        graph_done(&graph);
    }
}
END_TEST

/* The same global nodes under other local numbers, with the edges of each row the other way round:
 * had a draw depended on either, outputs would differ by whole neighbours. */
START_TEST(draws_do_not_depend_on_order_or_numbering) {
    enum { DST = 40, SRC = 90, HEADS = 5, WIDTH = 9, D = HEADS * WIDTH };
    const struct attention_kernels *twins[] = {&attention_ref, attention_avx2()};
    struct graph one = graph_make(DST, SRC, 70);
    struct graph two = graph_make(DST, SRC, 70);
    /* Destinations keep their numbers, other sources are mirrored. */
    for (size_t j = DST; j < SRC; j++)
        two.nodes[j] = one.nodes[DST + SRC - 1 - j];
    for (size_t i = 0; i < DST; i++)
        for (int64_t e = one.indptr[i]; e < one.indptr[i + 1]; e++) {
            int32_t j = one.indices[one.indptr[i] + one.indptr[i + 1] - 1 - e];
            two.indices[e] = j < DST ? j : DST + SRC - 1 - j;
        }
    mem_free(two.t_indptr);
    mem_free(two.t_indices);
    transpose(&two, DST, SRC);
    struct attention at_one = attention_of(&one, DST, SRC, HEADS, WIDTH, 0.5F);
    struct attention at_two = attention_of(&two, DST, SRC, HEADS, WIDTH, 0.5F);
    for (size_t t = 0; t < ARRAY_LEN(twins); t++)
        for (int form = GAT; twins[t] && form <= GATV2; form++) {
            struct run a = run_make(&at_one, 0, 1), b = run_make(&at_two, 0, 1);
            for (size_t j = DST; j < SRC; j++)
                memcpy(b.z + j * D, a.z + (DST + SRC - 1 - j) * D, D * sizeof *b.z);
            run_forward(twins[t], &at_one, form, &a);
            run_backward(twins[t], &at_one, form, &a);
            run_forward(twins[t], &at_two, form, &b);
            run_backward(twins[t], &at_two, form, &b);
            test_floats_equal("y", a.y, b.y, DST * D, 1e-5, 1e-5);
            for (size_t j = 0; j < SRC; j++)
                test_floats_equal("dz", a.dz + j * D, b.dz + (j < DST ? j : DST + SRC - 1 - j) * D,
                                  D, 1e-4, 1e-4);
            run_done(&a);
            run_done(&b);
        }
    graph_done(&one);
    graph_done(&two);
}
END_TEST

/* Rows without edges show each draw of their own: y is 0 or z / (1 - p). Every head drops p of
 * them, and any two heads both of them p * p, as independent draws do. */
START_TEST(draws_are_independent) {
    enum { N = 40000, HEADS = 5 };
    const double p = 0.3;
    struct graph graph = {.indptr = mem_array(N + 1, sizeof *graph.indptr),
                          .nodes = mem_array(N, sizeof *graph.nodes)};
    for (size_t i = 0; i < N; i++)
        graph.nodes[i] = (int64_t)i;
    struct attention at = attention_of(&graph, N, N, HEADS, 1, (float)p);
    struct run run = run_make(&at, 0, 1);
    for (size_t i = 0; i < N * HEADS; i++)
        run.z[i] = 1;
    run_forward(attention_kernels(), &at, GAT, &run);
    for (size_t h = 0; h < HEADS; h++)
        for (size_t g = h; g < HEADS; g++) {
            size_t both = 0;
            for (size_t i = 0; i < N; i++)
                both += run.y[i * HEADS + h] == 0 && run.y[i * HEADS + g] == 0;
            double wanted = g == h ? p : p * p, share = (double)both / N;
            double deviation = sqrt(wanted * (1 - wanted) / N);
            ck_assert_msg(fabs(share - wanted) < 5 * deviation,
                          "heads %zu and %zu drop %.4f, not %.4f", h, g, share, wanted);
        }
    run_done(&run);
    graph_done(&graph);
}
END_TEST

/* With the same parts the same bits, twice and with any number of threads. */
START_TEST(threads_do_not_change_results) {
    const struct attention_kernels *twins[] = {&attention_ref, attention_avx2()};
    size_t n = 3000;
    struct graph graph = graph_make(n, n, 2000);
    struct attention at = attention_of(&graph, n, n, 8, 8, 0.5F);
    for (size_t t = 0; t < ARRAY_LEN(twins); t++)
        for (int form = GAT; twins[t] && form <= GATV2; form++) {
            static const int threads[] = {1, 3, 3};
            struct run runs[ARRAY_LEN(threads)];
            for (size_t r = 0; r < ARRAY_LEN(threads); r++) {
                kernels_set_threads(threads[r]);
                runs[r] = run_make(&at, 0, 1);
                run_forward(twins[t], &at, form, &runs[r]);
                run_backward(twins[t], &at, form, &runs[r]);
                ck_assert_mem_eq(runs[0].y, runs[r].y, n * 64 * sizeof(float));
                ck_assert_mem_eq(runs[0].dz, runs[r].dz, n * 64 * sizeof(float));
                ck_assert_mem_eq(runs[0].dzr, runs[r].dzr, n * 64 * sizeof(float));
                ck_assert_mem_eq(runs[0].da_src, runs[r].da_src, 64 * sizeof(float));
                ck_assert_mem_eq(runs[0].da_dst, runs[r].da_dst, 64 * sizeof(float));
            }
            for (size_t r = 0; r < ARRAY_LEN(threads); r++)
                run_done(&runs[r]);
        }
    graph_done(&graph);
}
END_TEST

START_TEST(reference_can_be_forced) {
    setenv("GRAPHPS_KERNELS", "ref", 1);
    ck_assert_ptr_eq(attention_kernels(), &attention_ref);
}
END_TEST
START_TEST(fast_twin_is_chosen) {
    unsetenv("GRAPHPS_KERNELS");
    ck_assert_ptr_eq(attention_kernels(), attention_avx2() ? attention_avx2() : &attention_ref);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("attention");
    TCase *tcase = tcase_create("attention");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, reference_forward_is_a_softmax_over_neighbours);
    tcase_add_test(tcase, reference_backward_is_the_finite_difference);
    tcase_add_test(tcase, fast_equals_reference);
    tcase_add_test(tcase, fast_equals_reference_without_edges);
    tcase_add_test(tcase, fast_equals_reference_at_a_hub);
    tcase_add_test(tcase, draws_do_not_depend_on_order_or_numbering);
    tcase_add_test(tcase, draws_are_independent);
    tcase_add_test(tcase, threads_do_not_change_results);
    tcase_add_test(tcase, reference_can_be_forced);
    tcase_add_test(tcase, fast_twin_is_chosen);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
