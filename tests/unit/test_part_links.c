/* Held-out links through partitioning: put together again they are the snapshot's, and both ends of
 * each have complete neighbourhoods as deep as the halo less one hop. */
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "tests/graphs.h"
#include "tests/test.h"
#include "worker/graph/partition.h"
#include "worker/graph/store.h"

enum { NODES = 200, LINKS = 300, TYPES = 3, COLS_MAX = 3 };

/* A graph whose snapshot holds out random links, here in memory alone. */
struct held {
    struct snapshot *s;
    int32_t items[2][LINKS * COLS_MAX]; /* validation, test */
    int32_t *edge_type;
    uint64_t cols;
};

static struct held *held_new(bool types) {
    struct held *held = mem_alloc(sizeof *held);
    struct error err = {0};
    const char *dir = graphs_snapshot(test_tmpdir(), types ? "typed" : "plain", NODES, 4, 3, 6, 3);
    ck_assert_msg(snapshot_open(dir, true, &held->s, &err) == 0, "%s", err.text);
    held->cols = types ? 3 : 2;
    for (int split = 0; split < 2; split++)
        for (size_t i = 0; i < LINKS * held->cols; i++)
            held->items[split][i] = (int32_t)rng_below(rng_at(5 + (uint64_t)split, i),
                                                       i % held->cols == 2 ? TYPES : NODES);
    held->s->valid_edges = (struct npy){.data = held->items[0], .count = LINKS * held->cols};
    held->s->test_edges = (struct npy){.data = held->items[1], .count = LINKS * held->cols};
    if (types) {
        held->edge_type = mem_array(held->s->edges, sizeof *held->edge_type);
        held->s->edge_types = TYPES;
        held->s->edge_type = (struct npy){.data = held->edge_type, .count = held->s->edges};
    }
    return held;
}

static void held_free(struct held *held) {
    held->s->valid_edges = held->s->test_edges = (struct npy){0};
    if (held->edge_type)
        held->s->edge_type = (struct npy){0};
    mem_free(held->edge_type);
    snapshot_close(held->s);
    mem_free(held);
}

static int compare_links(const void *a, const void *b) {
    return memcmp(a, b, COLS_MAX * sizeof(int32_t));
}

/* The rows that depth hops around a local node need are there. */
static void check_neighbourhood(const struct store *store, int32_t local, uint32_t depth) {
    if (depth == 0)
        return;
    ck_assert_uint_lt((uint64_t)local, store->rows);
    for (int64_t e = store->indptr[local]; e < store->indptr[local + 1]; e++)
        check_neighbourhood(store, store->indices[e], depth - 1);
}

static void check_links(const struct held *held, uint32_t parts, uint32_t halo) {
    struct error err = {0};
    bool existed;
    static int32_t found[2][LINKS][COLS_MAX], wanted[2][LINKS][COLS_MAX];
    size_t count[2] = {0};
    memset(found, 0, sizeof found);
    memset(wanted, 0, sizeof wanted);
    ck_assert_msg(partition_make(held->s, parts, halo, 1, &existed, &err) == 0, "%s", err.text);
    for (uint32_t part = 0; part < parts; part++) {
        struct store *store;
        ck_assert_msg(store_open(held->s->dir, parts, halo, part, true, false, &store, &err) == 0,
                      "%s", err.text);
        for (int split = 0; split < 2; split++) {
            const struct links *links = &store->links[SPLIT_VALID + split];
            ck_assert_uint_eq(store->links_total[SPLIT_VALID + split], LINKS);
            for (size_t i = 0; i < links->count; i++) {
                int32_t *link = found[split][count[split]++];
                link[0] = (int32_t)store->nodes[links->sources[i]];
                link[1] = (int32_t)store->nodes[links->targets[i]];
                link[2] = links->relations ? links->relations[i] : 0;
                ck_assert_uint_lt((uint64_t)links->targets[i], store->owned);
                if (parts > 1) {
                    check_neighbourhood(store, links->sources[i], halo - 1);
                    check_neighbourhood(store, links->targets[i], halo);
                }
            }
        }
        store_close(store);
    }
    for (int split = 0; split < 2; split++) {
        ck_assert_uint_eq(count[split], LINKS);
        for (size_t i = 0; i < LINKS; i++)
            memcpy(wanted[split][i], held->items[split] + i * held->cols,
                   held->cols * sizeof(int32_t));
        qsort(wanted[split], LINKS, sizeof wanted[split][0], compare_links);
        qsort(found[split], LINKS, sizeof found[split][0], compare_links);
        ck_assert_mem_eq(found[split], wanted[split], sizeof wanted[split]);
    }
}

START_TEST(test_whole) {
    struct held *held = held_new(_i == 1);
    check_links(held, 1, 0);
    for (uint32_t halo = 1; halo <= 3; halo++)
        check_links(held, 4, halo);
    held_free(held);
}
END_TEST

/* Without a halo a part keeps the links between its own nodes. */
START_TEST(test_no_halo) {
    struct held *held = held_new(false);
    struct error err = {0};
    bool existed;
    size_t kept = 0, between = 0;
    static uint32_t owner[NODES];
    ck_assert_msg(partition_make(held->s, 2, 0, 1, &existed, &err) == 0, "%s", err.text);
    for (uint32_t part = 0; part < 2; part++) {
        struct store *store;
        ck_assert_int_eq(store_open(held->s->dir, 2, 0, part, true, false, &store, &err), 0);
        for (uint64_t l = 0; l < store->owned; l++)
            owner[store->nodes[l]] = part;
        kept += store->links[SPLIT_TEST].count;
        store_close(store);
    }
    for (size_t i = 0; i < LINKS; i++)
        between += owner[held->items[1][2 * i]] == owner[held->items[1][2 * i + 1]];
    ck_assert_uint_eq(kept, between);
    ck_assert_uint_lt(kept, LINKS);
    held_free(held);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("part_links");
    TCase *tcase = tcase_create("part_links");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_whole, 0, 2);
    tcase_add_test(tcase, test_no_halo);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
