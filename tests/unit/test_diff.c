/* diff_snapshots against a slow twin that knows nothing of order, on graphs made at random. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "tests/test.h"
#include "worker/graph/diff.h"

enum { NODES_MAX = 40, EDGES_MAX = 300, DIM = 2, CLASSES = 3, TYPES = 3, ASIDE = 6 };

enum ids { IDS_NONE, IDS_NUMBERS, IDS_TEXTS };

/* A snapshot in memory; its arrays lie here. */
struct graph {
    struct snapshot s;
    int64_t indptr[NODES_MAX + 1], ids[NODES_MAX], id_offsets[NODES_MAX + 1];
    int32_t indices[EDGES_MAX], labels[NODES_MAX], edge_type[EDGES_MAX], aside[3 * ASIDE];
    uint8_t split[NODES_MAX], node_type[NODES_MAX];
    uint8_t multi[NODES_MAX * CLASSES];
    float features[NODES_MAX * DIM], weights[EDGES_MAX];
    char id_bytes[NODES_MAX * 12];
    char *class_names[CLASSES], *type_names[TYPES];
};

/* What a graph is made from: of both graphs of a case, some things are the same. */
struct making {
    uint64_t seed;
    bool other;   /* the second one: a few things differ, the order does */
    enum ids ids; /* a node's id is that of its name */
    bool weights, multi;
};

static uint32_t number(const struct making *m, uint64_t what, uint64_t i, uint32_t below) {
    return (uint32_t)(rng_at(rng_key(m->seed, what), i) % below);
}

/* One of ten things is not the same in the other graph. */
static uint32_t mostly(const struct making *m, uint64_t what, uint64_t i, uint32_t below) {
    bool changed = m->other && number(m, what + 1000, i, 10) == 0;
    return number(m, what + (changed ? 500 : 0), i, below);
}

static void set(struct npy *npy, const void *data, uint64_t count, enum npy_type type) {
    npy->data = data;
    npy->count = count;
    npy->type = type;
}

/* Name n is there unless a number says no; names stand in an order of their own. */
static uint32_t make_names(const struct making *m, uint32_t names[NODES_MAX]) {
    uint32_t count = 0;
    for (uint32_t n = 0; n < NODES_MAX; n++)
        if (m->ids == IDS_NONE ? n < NODES_MAX - 5u * m->other : mostly(m, 1, n, 8) != 0)
            names[count++] = n;
    for (uint32_t i = count; m->ids != IDS_NONE && m->other && i-- > 1;) {
        uint32_t k = number(m, 2, i, i + 1), name = names[i];
        names[i] = names[k];
        names[k] = name;
    }
    return count;
}

static void make(const struct making *m, struct graph *g) {
    uint32_t names[NODES_MAX], edges = 0;
    uint32_t count = make_names(m, names);
    int32_t position[NODES_MAX];
    memset(g, 0, sizeof *g);
    memset(position, 0xff, sizeof position);
    for (uint32_t i = 0; i < count; i++)
        position[names[i]] = (int32_t)i;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t n = names[i];
        g->ids[i] = 1000 - 7 * (int64_t)n;
        g->id_offsets[i + 1] = g->id_offsets[i] + sprintf(g->id_bytes + g->id_offsets[i], "%lld",
                                                          (long long)g->ids[i]);
        g->labels[i] = (int32_t)mostly(m, 3, n, CLASSES + 1) - 1;
        g->split[i] = (uint8_t)mostly(m, 4, n, 4);
        for (uint32_t k = 0; k < DIM; k++)
            g->features[i * DIM + k] = (float)mostly(m, 5, n * DIM + k, 100);
        for (uint32_t c = 0; c < CLASSES; c++)
            g->multi[i * CLASSES + (m->other ? (c + 1) % CLASSES : c)] =
                (uint8_t)mostly(m, 6, n * CLASSES + c, 2);
        g->node_type[i] = (uint8_t)mostly(m, 7, n, TYPES);
        g->indptr[i] = edges;
        for (int32_t u = 0; u < (int32_t)count; u++)
            for (uint32_t t = 0; t < TYPES && edges < EDGES_MAX; t++) {
                /* The other graph's type t is the first one's t - 1. */
                uint32_t type = m->other ? (t + TYPES - 1) % TYPES : t;
                uint64_t pair = (n * NODES_MAX + names[u]) * TYPES + type;
                if (mostly(m, 8, pair, 40) != 0)
                    continue;
                g->indices[edges] = u;
                g->edge_type[edges] = (int32_t)t;
                g->weights[edges++] = (float)mostly(m, 9, pair, 5);
            }
    }
    g->indptr[count] = edges;
    uint32_t aside = 0;
    for (uint32_t k = 0; k < ASIDE; k++) {
        int32_t from = position[mostly(m, 10, k, NODES_MAX)], to = position[number(m, 11, k, 40)];
        uint32_t type = number(m, 12, k, TYPES);
        if (from < 0 || to < 0)
            continue;
        g->aside[3 * aside] = from;
        g->aside[3 * aside + 1] = to;
        g->aside[3 * aside++ + 2] = (int32_t)(m->other ? (type + 1) % TYPES : type);
    }
    for (uint32_t t = 0; t < TYPES; t++) {
        static char *const texts[] = {"x", "y", "z"};
        uint32_t at = m->other ? (t + 1) % TYPES : t;
        g->class_names[at] = texts[t];
        g->type_names[at] = texts[t];
    }
    for (uint32_t i = 0; m->other && i < count; i++) {
        g->labels[i] = g->labels[i] < 0 ? -1 : (g->labels[i] + 1) % CLASSES;
        g->node_type[i] = (uint8_t)((g->node_type[i] + 1) % TYPES);
    }
    struct snapshot *s = &g->s;
    *s = (struct snapshot){.dir = "memory",
                           .nodes = count,
                           .edges = edges,
                           .feature_dim = DIM,
                           .classes = CLASSES,
                           .node_types = TYPES,
                           .edge_types = TYPES,
                           .class_names = g->class_names,
                           .node_type_names = g->type_names,
                           .edge_type_names = g->type_names};
    set(&s->indptr, g->indptr, count + 1, NPY_I8);
    set(&s->indices, g->indices, edges, NPY_I4);
    set(&s->edge_type, g->edge_type, edges, NPY_I4);
    set(&s->labels, g->labels, count, NPY_I4);
    set(&s->split, g->split, count, NPY_U1);
    set(&s->node_type, g->node_type, count, NPY_U1);
    set(&s->features, g->features, count * DIM, NPY_F4);
    set(&s->valid_edges, g->aside, 3 * aside, NPY_I4);
    if (m->weights)
        set(&s->edge_weights, g->weights, edges, NPY_F4);
    if (m->multi)
        set(&s->multi_labels, g->multi, count * CLASSES, NPY_U1);
    if (m->ids == IDS_NUMBERS)
        set(&s->ids, g->ids, count, NPY_I8);
    if (m->ids == IDS_TEXTS) {
        set(&s->id_offsets, g->id_offsets, count + 1, NPY_I8);
        set(&s->id_bytes, g->id_bytes, (uint64_t)g->id_offsets[count], NPY_U1);
    }
}

/* --- the slow twin: things as texts, looked for one by one --- */

struct things {
    char (*texts)[64];
    size_t count;
};

static void add(struct things *things, const char *text) {
    strcpy(things->texts[things->count++], text);
}

/* How many of a are not in b, each counted as often as it is there. */
static uint64_t missing(const struct things *a, const struct things *b) {
    uint64_t sum = 0;
    bool *used = calloc(b->count + 1, 1);
    for (size_t i = 0; i < a->count; i++) {
        size_t k = 0;
        while (k < b->count && (used[k] || strcmp(a->texts[i], b->texts[k]) != 0))
            k++;
        if (k < b->count)
            used[k] = true;
        else
            sum++;
    }
    free(used);
    return sum;
}

enum kind { NODES, LABELS, SPLITS, FEATURES, NODE_TYPES, EDGES, WEIGHTS, ASIDES, KINDS };

static void texts_of(const struct graph *g, enum kind kind, struct things *ret) {
    const struct snapshot *s = &g->s;
    char id[32], other[32], text[64];
    for (uint64_t i = 0; i < s->nodes && kind < EDGES; i++) {
        snapshot_id(s, i, id, sizeof id);
        char multi[CLASSES + 1] = "";
        for (uint32_t c = 0; c < CLASSES; c++)
            multi[g->class_names[c][0] - 'x'] = g->multi[i * CLASSES + c] ? '1' : '0';
        if (kind == NODES)
            snprintf(text, sizeof text, "%s", id);
        else if (kind == LABELS && s->multi_labels.data)
            snprintf(text, sizeof text, "%s %s", id, g->labels[i] < 0 ? "none" : multi);
        else if (kind == LABELS)
            snprintf(text, sizeof text, "%s %s", id,
                     g->labels[i] < 0 ? "none" : g->class_names[g->labels[i]]);
        else if (kind == SPLITS)
            snprintf(text, sizeof text, "%s %d", id, g->split[i]);
        else if (kind == FEATURES)
            snprintf(text, sizeof text, "%s %g %g", id, (double)g->features[i * DIM],
                     (double)g->features[i * DIM + 1]);
        else
            snprintf(text, sizeof text, "%s %s", id, g->type_names[g->node_type[i]]);
        add(ret, text);
    }
    for (uint64_t i = 0; i < s->nodes && (kind == EDGES || kind == WEIGHTS); i++)
        for (int64_t e = g->indptr[i]; e < g->indptr[i + 1]; e++) {
            int len = snprintf(text, sizeof text, "%s %s %s", snapshot_id(s, i, id, sizeof id),
                               snapshot_id(s, (uint64_t)g->indices[e], other, sizeof other),
                               g->type_names[g->edge_type[e]]);
            if (kind == WEIGHTS)
                snprintf(text + len, sizeof text - (size_t)len, " %g", (double)g->weights[e]);
            add(ret, text);
        }
    for (uint64_t k = 0; kind == ASIDES && k < s->valid_edges.count / 3; k++) {
        const int32_t *row = &g->aside[3 * k];
        snprintf(text, sizeof text, "%s %s %s", snapshot_id(s, (uint64_t)row[0], id, sizeof id),
                 snapshot_id(s, (uint64_t)row[1], other, sizeof other), g->type_names[row[2]]);
        add(ret, text);
    }
}

struct expected {
    uint64_t removed[KINDS], added[KINDS];
};

static void expect(const struct graph *a, const struct graph *b, struct expected *ret) {
    static char left[EDGES_MAX][64], right[EDGES_MAX][64];
    for (int kind = 0; kind < KINDS; kind++) {
        struct things in_a = {left, 0}, in_b = {right, 0};
        texts_of(a, kind, &in_a);
        texts_of(b, kind, &in_b);
        ret->removed[kind] = missing(&in_a, &in_b);
        ret->added[kind] = missing(&in_b, &in_a);
    }
}

static void check(const struct graph *a, const struct graph *b, bool weights) {
    struct diff diff;
    struct error err = {0};
    struct expected e;
    ck_assert_msg(diff_snapshots(&a->s, &b->s, NULL, NULL, &diff, &err) == 0, "%s", err.text);
    expect(a, b, &e);
    ck_assert_uint_eq(diff.removed.count, e.removed[NODES]);
    ck_assert_uint_eq(diff.added.count, e.added[NODES]);
    ck_assert_uint_eq(diff.common, a->s.nodes - e.removed[NODES]);
    /* A node that is gone has no label either: only the common ones are compared. */
    ck_assert_uint_eq(diff.labels.count, e.removed[LABELS] - e.removed[NODES]);
    ck_assert_uint_eq(diff.splits.count, e.removed[SPLITS] - e.removed[NODES]);
    ck_assert_uint_eq(diff.features.count, e.removed[FEATURES] - e.removed[NODES]);
    ck_assert_uint_eq(diff.types.count, e.removed[NODE_TYPES] - e.removed[NODES]);
    ck_assert_uint_eq(diff.edges_removed.count, e.removed[EDGES]);
    ck_assert_uint_eq(diff.edges_added.count, e.added[EDGES]);
    ck_assert_uint_eq(diff.weights_changed, weights ? e.removed[WEIGHTS] - e.removed[EDGES] : 0);
    ck_assert_uint_eq(diff.aside_removed[0], e.removed[ASIDES]);
    ck_assert_uint_eq(diff.aside_added[0], e.added[ASIDES]);
}

START_TEST(test_against_the_slow_twin) {
    static struct graph a, b;
    const struct making first = {
        .seed = (uint64_t)_i, .ids = (enum ids)(_i % 3), .weights = _i % 2, .multi = _i % 4 > 1};
    struct making second = first;
    second.other = true;
    /* Numbers on one side and the same numbers as texts on the other are the same ids. */
    if (first.ids == IDS_NUMBERS && _i % 5 == 0)
        second.ids = IDS_TEXTS;
    make(&first, &a);
    make(&second, &b);
    ck_assert_uint_gt(a.s.edges, 40);
    ck_assert_uint_lt(a.s.edges, EDGES_MAX);
    check(&a, &b, first.weights);
    check(&b, &a, first.weights);

    struct diff diff;
    struct error err = {0};
    ck_assert_int_eq(diff_snapshots(&a.s, &a.s, NULL, NULL, &diff, &err), 0);
    ck_assert(diff_none(&diff));
    ck_assert_int_eq(diff_snapshots(&a.s, &b.s, NULL, NULL, &diff, &err), 0);
    ck_assert(!diff_none(&diff));
}
END_TEST

/* The first of each are the right ones, with numbers of the right side. */
START_TEST(test_examples) {
    static struct graph a, b;
    const struct making making = {.seed = 3, .ids = IDS_TEXTS};
    make(&making, &a);
    make(&making, &b);
    struct diff diff;
    struct error err = {0};
    uint64_t target = 5; /* or the next that has an edge */
    while (a.indptr[target] == a.indptr[target + 1])
        target++;
    int64_t e = a.indptr[target];
    a.labels[7] = 0;
    b.labels[7] = 1;
    b.indices[e] = (a.indices[e] + 1) % (int32_t)a.s.nodes;
    ck_assert_int_eq(diff_snapshots(&a.s, &b.s, NULL, NULL, &diff, &err), 0);
    ck_assert_uint_eq(diff.labels.count, 1);
    ck_assert_uint_eq(diff.labels.first[0].a, 7);
    ck_assert_uint_eq(diff.labels.first[0].b, 7);
    ck_assert_uint_eq(diff.edges_removed.count, 1);
    ck_assert_uint_eq(diff.edges_removed.first[0].source, (uint64_t)a.indices[e]);
    ck_assert_uint_eq(diff.edges_removed.first[0].target, target);
    ck_assert_uint_eq(diff.edges_added.first[0].source, (uint64_t)b.indices[e]);
    ck_assert(!diff.order);
}
END_TEST

/* Nodes that cannot be told apart are no ground to compare on. */
START_TEST(test_same_ids) {
    static struct graph a, b;
    const struct making making = {.seed = 4, .ids = IDS_NUMBERS};
    make(&making, &a);
    make(&making, &b);
    b.ids[9] = b.ids[2];
    struct diff diff;
    struct error err = {0};
    ck_assert_int_eq(diff_snapshots(&a.s, &b.s, NULL, NULL, &diff, &err), ERR_FORMAT);
    ck_assert_ptr_nonnull(strstr(err.text, "have the same id, \""));
}
END_TEST

int main(void) {
    Suite *suite = suite_create("diff");
    TCase *tcase = tcase_create("diff");
    tcase_add_loop_test(tcase, test_against_the_slow_twin, 0, 60);
    tcase_add_test(tcase, test_examples);
    tcase_add_test(tcase, test_same_ids);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
