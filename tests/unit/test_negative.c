/* Edges that are not there: never one that is, every other equally often, and the same again. */
#include "tests/test.h"

#include <math.h>
#include <string.h>

#include "worker/graph/negative.h"

enum { NODES = 40, TARGETS = 5 };
/* Rows of: few neighbours; all but two others (walked); itself and a repeat (walked); all others;
 * none. */
static int64_t indptr[TARGETS + 1];
static int32_t indices[4 * NODES];
static struct store store;

static void make_store(void) {
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
    indptr[4] = indptr[5] = at;
    store = (struct store){
        .local = NODES, .owned = NODES, .rows = TARGETS, .indptr = indptr, .indices = indices};
}

static bool is_edge(int32_t target, int32_t source) {
    bool found = false;
    for (int64_t e = indptr[target]; e < indptr[target + 1]; e++)
        found |= indices[e] == source;
    return found;
}

/* Uniform over what is no edge: chi-square, with Wilson & Hilferty's approximation. */
START_TEST(draws_are_even) {
    enum { EDGES = 3000, EACH = 4 };
    int32_t target = _i, sources[EACH];
    int64_t counts[NODES] = {0};
    double free = 0, sum = 0;
    make_store();
    for (int32_t j = 0; j < NODES; j++)
        free += j != target && !is_edge(target, j);
    for (uint64_t edge = 0; edge < EDGES; edge++) {
        struct negative_key key = {.seed = 1, .epoch = 2, .batch = edge / 100, .edge = edge};
        ck_assert_uint_eq(negative_draw(&store, target, key, EACH, sources), free > 0 ? EACH : 0);
        for (int k = 0; k < EACH && free > 0; k++)
            counts[sources[k]]++;
    }
    for (int32_t j = 0; j < NODES; j++) {
        bool negative = j != target && !is_edge(target, j);
        ck_assert_msg(negative ? counts[j] > 0 : counts[j] == 0, "node %d: %lld", j,
                      (long long)counts[j]);
        if (negative)
            sum += pow((double)counts[j] - EDGES * EACH / free, 2) / (EDGES * EACH / free);
    }
    double n = free - 1, z = (cbrt(sum / n) - (1 - 2 / (9 * n))) / sqrt(2 / (9 * n));
    ck_assert_msg(free <= 1 || fabs(z) < 4, "chi-square %g with %g degrees of freedom", sum, n);
}
END_TEST

/* Another seed, epoch, batch or edge draws other nodes; few draws are the first of many. */
START_TEST(draws_depend_on_the_key) {
    enum { MANY = 16 };
    int32_t first[MANY], again[MANY];
    make_store();
    struct negative_key key = {1, 2, 3, 4},
                        others[] = {{2, 2, 3, 4}, {1, 3, 3, 4}, {1, 2, 4, 4}, {1, 2, 3, 5}};
    negative_draw(&store, 0, key, MANY, first);
    negative_draw(&store, 0, key, 3, again);
    ck_assert_mem_eq(first, again, 3 * sizeof *first);
    for (int k = 0; k < 4; k++) {
        negative_draw(&store, 0, others[k], MANY, again);
        ck_assert(memcmp(first, again, sizeof first) != 0);
    }
}
END_TEST

START_TEST(in_batch_leaves_edges_out) {
    static const int32_t sources[] = {17, 5, 0, 5, 3, 38};
    static const int32_t wanted[] = {5, 5, 38}; /* of target 0, which has 3, 17 and 39 */
    int32_t found[6];
    make_store();
    ck_assert_uint_eq(negative_in_batch(&store, 0, sources, 6, found), 3);
    ck_assert_mem_eq(found, wanted, sizeof wanted);
    ck_assert_uint_eq(negative_in_batch(&store, 3, sources, 6, found), 0);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("negative");
    TCase *tcase = tcase_create("negative");
    tcase_add_loop_test(tcase, draws_are_even, 0, TARGETS);
    tcase_add_test(tcase, draws_depend_on_the_key);
    tcase_add_test(tcase, in_batch_leaves_edges_out);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
