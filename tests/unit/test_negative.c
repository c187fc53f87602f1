/* Edges that are not there: never one that is, every other equally often, of the right type, one
 * end as often as the other, and the same again. */
#include "tests/test.h"

#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "worker/graph/negative.h"
#include "worker/graph/permute.h"

enum { NODES = 40, TARGETS = 5 };
/* Rows of: few neighbours; all but three others (walked); itself and a repeat (walked); all others;
 * none. What is no target has an empty row. */
static int64_t indptr[NODES + 1];
static int32_t indices[4 * NODES];
static uint8_t types[NODES];
static struct store store;

static void make_store(bool typed) {
    int64_t at = 0;
    static const int32_t few[] = {3, 17, 39};
    for (int k = 0; k < 3; k++)
        indices[at++] = few[k];
    indptr[1] = at;
    for (int32_t j = 0; j < NODES; j++)
        if (j != 1 && j != 6 && j != 39)
            indices[at++] = j;
    indptr[2] = at;
    for (int32_t j = 0; j < NODES - 1; j++)
        if (j != 20) {
            indices[at++] = j;
            if (j == 7)
                indices[at++] = j;
        }
    indptr[3] = at;
    for (int32_t j = 0; j < NODES; j++)
        if (j != 3)
            indices[at++] = j;
    for (int t = 4; t <= NODES; t++)
        indptr[t] = at;
    for (int32_t j = 0; j < NODES; j++)
        types[j] = j % 3 == 0;
    store = (struct store){.local = NODES,
                           .owned = NODES,
                           .rows = NODES,
                           .indptr = indptr,
                           .indices = indices,
                           .node_types = typed ? 2 : 0,
                           .node_type = typed ? types : NULL};
}

static bool is_edge(int32_t source, int32_t target) {
    bool found = false;
    for (int64_t e = indptr[target]; e < indptr[target + 1]; e++)
        found |= indices[e] == source;
    return found;
}

/* May node stand in the place of old? */
static bool may_replace(int32_t node, int32_t old, int32_t kept, bool source) {
    bool type = !store.node_type || types[node] == types[old];
    return type && node != kept && !(source ? is_edge(node, kept) : is_edge(kept, node));
}

/* Uniform over what is no edge: chi-square, with Wilson & Hilferty's approximation. */
static void check_even(const int64_t counts[NODES], const bool may[NODES]) {
    double free = 0, all = 0, sum = 0;
    for (int j = 0; j < NODES; j++) {
        free += may[j];
        all += (double)counts[j];
        ck_assert_msg(may[j] || counts[j] == 0, "node %d makes an edge or is of another type", j);
    }
    for (int j = 0; j < NODES; j++)
        if (may[j])
            sum += pow((double)counts[j] - all / free, 2) / (all / free);
    double n = free - 1, z = (cbrt(sum / n) - (1 - 2 / (9 * n))) / sqrt(2 / (9 * n));
    ck_assert_msg(free <= 1 || fabs(z) < 4, "chi-square %g with %g degrees of freedom", sum, n);
}

enum { LINKS = 3000, EACH = 4 };
static int32_t sources[LINKS * (1 + EACH)], targets[LINKS * (1 + EACH)];

/* LINKS times the link 5 -> target. */
static struct link_pairs make_links(int32_t target) {
    for (int i = 0; i < LINKS; i++) {
        sources[i] = 5;
        targets[i] = target;
    }
    return (struct link_pairs){
        .count = LINKS, .each = EACH, .sources = sources, .targets = targets};
}

START_TEST(draws_are_even) {
    int32_t target = _i % TARGETS;
    int64_t counts[2][NODES] = {0}, none = 0, replaced[2] = {0};
    bool may[2][NODES], any[2] = {false, false};
    make_store(_i >= TARGETS);
    struct link_pairs links = make_links(target);
    struct negatives *negatives = negatives_new(&store);
    negatives_fill(negatives, (struct negative_key){1, 2, 3}, false, 0, LINKS, &links);
    for (int32_t j = 0; j < NODES; j++) {
        may[0][j] = may_replace(j, target, 5, false);
        may[1][j] = may_replace(j, 5, target, true);
        any[0] |= may[0][j];
        any[1] |= may[1][j];
    }
    for (uint64_t p = LINKS; p < link_pairs_all(&links); p++) {
        if (sources[p] < 0) {
            none++;
            continue;
        }
        bool source = targets[p] == target;
        ck_assert(source || sources[p] == 5);
        /* 5 -> target itself, where that is no edge, may come of either. */
        bool both = source && sources[p] == 5;
        replaced[source]++;
        counts[source][source ? sources[p] : targets[p]] += !both;
    }
    may[0][target] = may[1][5] = false;
    ck_assert(any[0] && (any[1] ? none == 0 : none > 0));
    double all = (double)LINKS * EACH, even = sqrt(all) / 2;
    ck_assert(fabs((double)(any[1] ? replaced[1] : none) - all / 2) < 4 * even + all / 20);
    for (int source = 0; source < 2; source++)
        check_even(counts[source], may[source]);
    negatives_free(negatives);
}
END_TEST

/* Another seed, epoch, batch or worker draws other nodes; a range draws what the whole does. */
START_TEST(draws_depend_on_the_key) {
    static int32_t first[LINKS * (1 + EACH)];
    make_store(false);
    struct link_pairs links = make_links(0);
    struct negatives *negatives = negatives_new(&store);
    struct negative_key key = {1, 2, 3}, others[] = {{2, 2, 3}, {1, 3, 3}, {1, 2, 4}, {1, 2, 3}};
    negatives_fill(negatives, key, false, 0, LINKS, &links);
    memcpy(first, sources, sizeof first);
    memset(sources + LINKS, 0, LINKS * EACH * sizeof *sources);
    negatives_fill(negatives, key, false, 1000, LINKS, &links);
    negatives_fill(negatives, key, false, 0, 1000, &links);
    ck_assert_mem_eq(first, sources, sizeof first);
    for (int k = 0; k < 4; k++) {
        store.part = k == 3;
        negatives_fill(negatives, others[k], false, 0, LINKS, &links);
        ck_assert(memcmp(first, sources, sizeof first) != 0);
    }
    negatives_free(negatives);
}
END_TEST

/* In-batch: of the other links' ends, as often as they are listed, no edge among them; where there
 * are none, of all nodes. */
START_TEST(in_batch_takes_the_others_ends) {
    enum { N = 6, MANY = 500 };
    static int32_t s[N * (1 + MANY)] = {17, 5, 8, 5, 3, 38}, t[N * (1 + MANY)] = {0, 0, 0, 0, 0, 0};
    int64_t counts[NODES] = {0}, all = 0;
    make_store(false);
    struct link_pairs links = {.count = N, .each = MANY, .sources = s, .targets = t};
    struct negatives *negatives = negatives_new(&store);
    negatives_fill(negatives, (struct negative_key){1, 0, 0}, true, 0, 1, &links);
    for (int k = 0; k < MANY; k++)
        if (t[N + k] == 0) { /* the source was replaced */
            counts[s[N + k]]++;
            all++;
        } else { /* the only target in the batch is 17's already: any other node */
            ck_assert_int_eq(s[N + k], 17);
            ck_assert(!is_edge(17, t[N + k]));
        }
    ck_assert(all > MANY / 3 && all < MANY * 2 / 3);
    ck_assert_int_eq(counts[5] + counts[8] + counts[38], all); /* 17 and 3 are edges */
    ck_assert(counts[5] > counts[8] && counts[8] > 0 && counts[38] > 0);
    negatives_free(negatives);
}
END_TEST

START_TEST(pairs_are_no_edges) {
    int64_t seen[NODES] = {0};
    make_store(true);
    struct negatives *negatives = negatives_new(&store);
    for (uint64_t i = 0; i < 4000; i++) {
        int32_t u, v;
        ck_assert(negatives_pair(negatives, (struct negative_key){1, 0, 0}, i, 5, 3, &u, &v));
        ck_assert(u != v && !is_edge(u, v) && types[u] == types[5] && types[v] == types[3]);
        seen[u]++;
        seen[v]++;
    }
    for (int j = 0; j < NODES; j++)
        ck_assert_int_gt(seen[j], j == 3 ? -1 : 0); /* all others are edges into 3 */
    negatives_free(negatives);
}
END_TEST

/* The order of edges is an order: each number once, another key another order. */
START_TEST(permutation_is_one) {
    static const uint64_t sizes[] = {1, 2, 3, 4, 5, 16, 17, 1000};
    static bool seen[1000];
    for (size_t k = 0; k < ARRAY_LEN(sizes); k++) {
        struct permute a = permute_new(7, sizes[k]), b = permute_new(8, sizes[k]);
        uint64_t same = 0, fixed = 0;
        memset(seen, 0, sizeof seen);
        for (uint64_t i = 0; i < sizes[k]; i++) {
            uint64_t at = permute_at(&a, i);
            ck_assert(at < sizes[k] && !seen[at]);
            seen[at] = true;
            same += at == permute_at(&b, i);
            fixed += at == i;
        }
        ck_assert(sizes[k] < 1000 || (same < 10 && fixed < 10));
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("negative");
    TCase *tcase = tcase_create("negative");
    tcase_add_loop_test(tcase, draws_are_even, 0, 2 * TARGETS);
    tcase_add_test(tcase, draws_depend_on_the_key);
    tcase_add_test(tcase, in_batch_takes_the_others_ends);
    tcase_add_test(tcase, pairs_are_no_edges);
    tcase_add_test(tcase, permutation_is_one);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
