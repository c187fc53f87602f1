/* Pairs of nodes held out at random: their edges and what is left in the graph are the graph, by
 * the user's ids; they are as many as was asked for; nothing between the two is left; and the parts
 * of a partitioning have them, each once. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "tests/test.h"
#include "tests/unit/imports.h"
#include "worker/graph/store.h"

#define NODES 60
#define EDGES 900

/* An edge by the ids of its ends, which are "n<number>". */
struct link {
    int source, target, type;
};
struct link_list {
    size_t n;
    struct link link[4 * EDGES];
};

static int compare(const void *a, const void *b) {
    return memcmp(a, b, sizeof(struct link));
}

static void put(struct link_list *links, const struct snapshot *s, uint64_t from, uint64_t to,
                int32_t type) {
    char source[32], target[32];
    snapshot_id(s, from, source, sizeof source);
    snapshot_id(s, to, target, sizeof target);
    ck_assert_uint_lt(links->n, ARRAY_LEN(links->link));
    links->link[links->n++] =
        (struct link){atoi(source + 1), atoi(target + 1), s->edge_types ? type : 0};
}

static void put_graph(struct link_list *links, const struct snapshot *s) {
    const int64_t *indptr = s->indptr.data;
    const int32_t *indices = s->indices.data, *types = s->edge_type.data;
    for (uint64_t i = 0; i < s->nodes; i++)
        for (int64_t e = indptr[i]; e < indptr[i + 1]; e++)
            put(links, s, (uint64_t)indices[e], i,
                types ? atoi(s->edge_type_names[types[e]] + 1) : 0);
}

static size_t put_aside(struct link_list *links, const struct snapshot *s, const struct npy *aside,
                        bool both) {
    const int32_t *items = aside->data;
    for (uint64_t i = 0; i < aside->shape[0]; i++) {
        const int32_t *item = items + i * aside->shape[1];
        int32_t type = s->edge_types ? atoi(s->edge_type_names[item[2]] + 1) : 0;
        put(links, s, (uint64_t)item[0], (uint64_t)item[1], type);
        if (both && item[0] != item[1])
            put(links, s, (uint64_t)item[1], (uint64_t)item[0], type);
    }
    return aside->shape[0];
}

/* Sorts; drops repeats, and says how many there were. */
static size_t unique(struct link_list *links) {
    size_t n = 0;
    qsort(links->link, links->n, sizeof links->link[0], compare);
    for (size_t i = 0; i < links->n; i++)
        if (n == 0 || compare(&links->link[n - 1], &links->link[i]) != 0)
            links->link[n++] = links->link[i];
    size_t repeats = links->n - n;
    links->n = n;
    return repeats;
}

/* What the parts have of links, [0] valid, [1] test, by the user's ids. */
static void put_parts(struct link_list found[2], const struct snapshot *s) {
    struct error err = {0};
    bool existed;
    ck_assert_msg(partition_make(s, 3, 1, 1, &existed, &err) == 0, "%s", err.text);
    for (uint32_t part = 0; part < 3; part++) {
        struct store *store;
        ck_assert_msg(store_open(s->dir, 3, 1, part, true, false, &store, &err) == 0, "%s",
                      err.text);
        for (int k = 0; k < 2; k++) {
            const struct links *links = &store->links[SPLIT_VALID + k];
            for (size_t i = 0; i < links->count; i++) {
                int32_t type = links->relations ? links->relations[i] : 0;
                put(&found[k], s, (uint64_t)store->nodes[links->sources[i]],
                    (uint64_t)store->nodes[links->targets[i]],
                    links->relations ? atoi(s->edge_type_names[type] + 1) : 0);
            }
        }
        store_close(store);
    }
}

/* They are those of the snapshot; and a part that an older release cut, without any, is refused. */
static void check_parts(const struct snapshot *s) {
    static struct link_list wanted, found[2];
    struct store *store = NULL;
    struct error err = {0};
    found[0].n = found[1].n = 0;
    put_parts(found, s);
    for (int k = 0; k < 2; k++) {
        wanted.n = 0;
        put_aside(&wanted, s, k ? &s->test_edges : &s->valid_edges, false);
        ck_assert_uint_eq(wanted.n, found[k].n);
        unique(&wanted);
        ck_assert_uint_eq(unique(&found[k]), 0);
        ck_assert_mem_eq(wanted.link, found[k].link, wanted.n * sizeof wanted.link[0]);
    }
    const char *path = test_path(s->dir, "partitions/3x1/part-1/manifest.json");
    size_t len;
    char *manifest = test_read_file(path, &len), *key = strstr(manifest, "test_links_total");
    ck_assert_ptr_nonnull(key);
    key[0] = 'x';
    test_write_file(path, manifest, len);
    free(manifest);
    ck_assert_int_eq(store_open(s->dir, 3, 1, 1, true, false, &store, &err), ERR_FORMAT);
    ck_assert_msg(strstr(err.text, "was cut by an older graphps") != NULL, "%s", err.text);
}

struct graph {
    const char *about;
    bool undirected, listed_both, types, loops;
    enum dedup dedup;
    bool both; /* an edge is as good as its inverse */
};

static void write_edges(const struct graph *g, const char *dir, uint64_t seed) {
    FILE *file = fopen(test_path(dir, "edges.csv"), "w");
    ck_assert_ptr_nonnull(file);
    fprintf(file, "source,target%s\n", g->types ? ",type" : "");
    uint64_t key = rng_key(seed, 0);
    for (uint64_t e = 0; e < EDGES; e++) {
        unsigned ends[2] = {(unsigned)rng_below(rng_at(key, 3 * e), NODES),
                            (unsigned)rng_below(rng_at(key, 3 * e + 1), NODES)};
        unsigned type = (unsigned)rng_below(rng_at(key, 3 * e + 2), 3);
        for (int turned = 0; turned <= g->listed_both; turned++) {
            fprintf(file, "n%u,n%u", ends[turned], ends[!turned]);
            fprintf(file, g->types ? ",t%u\n" : "\n", type);
        }
    }
    ck_assert_int_eq(fclose(file), 0);
}

/* Marks the pairs of nodes that links are between; returns how many were not marked yet. */
static size_t mark(const struct link_list *links, bool ret[NODES][NODES]) {
    size_t count = 0;
    for (size_t i = 0; i < links->n; i++) {
        int a = links->link[i].source, b = links->link[i].target;
        bool *marked = &ret[a < b ? a : b][a < b ? b : a];
        count += a != b && !*marked;
        *marked |= a != b;
    }
    return count;
}

/* The shares are exact, and no pair is in two of the sets. */
static void check_pairs(const struct link_list *whole, const struct snapshot *s) {
    static struct link_list links;
    static bool all[NODES][NODES], held[NODES][NODES], valid[NODES][NODES];
    memset(all, 0, sizeof all);
    memset(held, 0, sizeof held);
    memset(valid, 0, sizeof valid);
    double pairs = (double)mark(whole, all);
    links.n = 0;
    put_aside(&links, s, &s->valid_edges, false);
    ck_assert_uint_eq(mark(&links, valid), (size_t)llround(0.1 * pairs));
    put_aside(&links, s, &s->test_edges, false);
    ck_assert_uint_eq(mark(&links, held), (size_t)llround(0.3 * pairs));
    links.n = 0;
    put_graph(&links, s);
    ck_assert_uint_eq(mark(&links, held), (size_t)(pairs - llround(0.3 * pairs)));
}

static const struct graph graphs[] = {
    {"directed", .dedup = DEDUP_FIRST},
    {"undirected, repeats and loops kept", .undirected = true, .loops = true, .dedup = DEDUP_NONE,
     .both = true},
    {"listed both ways", .listed_both = true, .loops = true, .dedup = DEDUP_SUM, .both = true},
    {"relations", .types = true, .loops = true},
    {"relations listed both ways", .types = true, .listed_both = true},
    {"relations, undirected", .types = true, .undirected = true, .both = true},
};

START_TEST(test_draw) {
    static struct import_summary summary;
    static struct link_list whole, left, aside;
    const struct graph *g = &graphs[_i];
    const char *dir = test_tmpdir();
    struct import_options options = {.source = dir,
                                     .root = test_tmpdir(),
                                     .name = "g",
                                     .version = "1.0.0",
                                     .undirected = g->undirected,
                                     .self_loops = g->loops,
                                     .dedup = g->dedup,
                                     .overwrite = true,
                                     .split_seed = 5};
    write_edges(g, dir, (uint64_t)_i);
    struct snapshot *s = imports_good(&options, &summary);
    whole.n = left.n = aside.n = 0;
    put_graph(&whole, s);
    unique(&whole);
    uint64_t entries = s->edges;
    bool symmetric = s->undirected;
    snapshot_close(s);

    options.hold_out[0] = 0.1;
    options.hold_out[1] = 0.2;
    s = imports_good(&options, &summary);
    put_graph(&left, s);
    size_t valid = put_aside(&aside, s, &s->valid_edges, g->both);
    size_t test = put_aside(&aside, s, &s->test_edges, g->both);
    ck_assert_uint_eq(valid, summary.valid_edges);
    ck_assert_uint_eq(test, summary.test_edges);
    ck_assert_uint_eq(s->edges + summary.set_aside, entries);
    ck_assert(s->undirected == symmetric);
    ck_assert_uint_eq(unique(&aside), 0); /* none is in both, or twice in one */
    unique(&left);
    ck_assert_uint_eq(left.n + aside.n, whole.n);
    memcpy(&left.link[left.n], aside.link, aside.n * sizeof aside.link[0]);
    left.n += aside.n;
    ck_assert_uint_eq(unique(&left), 0); /* none is in the graph as well */
    ck_assert_mem_eq(left.link, whole.link, whole.n * sizeof whole.link[0]);

    check_pairs(&whole, s);

    /* Edges without direction are turned at random. */
    size_t up = 0;
    for (size_t i = 0; i < test; i++)
        up += ((const int32_t *)s->test_edges.data)[s->test_edges.shape[1] * i] <
              ((const int32_t *)s->test_edges.data)[s->test_edges.shape[1] * i + 1];
    ck_assert_uint_gt(up, test / 4);
    ck_assert_uint_lt(up, test * 3 / 4);

    check_parts(s);
    char *digests[] = {strdup(s->digest), NULL, NULL};
    snapshot_close(s);
    for (uint64_t k = 1; k <= 2; k++) {
        options.split_seed = 4 + k;
        s = imports_good(&options, &summary);
        digests[k] = strdup(s->digest);
        snapshot_close(s);
    }
    ck_assert_str_eq(digests[0], digests[1]);
    ck_assert_str_ne(digests[0], digests[2]);
    for (size_t k = 0; k < 3; k++)
        free(digests[k]);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("hold_out");
    TCase *tcase = tcase_create("hold_out");
    tcase_add_loop_test(tcase, test_draw, 0, ARRAY_LEN(graphs));
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
