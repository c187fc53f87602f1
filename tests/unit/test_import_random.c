/* Random small graphs of every kind of ids, written as texts or arrays with random options, and
 * read back: the snapshot has the edges, weights, types, labels, splits and features that a slow
 * and simple reckoning here says, by the user's ids. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "tests/test.h"
#include "tests/unit/imports.h"

#define GRAPHS TEST_REPEATS(200)
#define STRIDE 5
#define NODES_MAX 14
#define EDGES_MAX 60
#define LINES_MAX 4096

enum ids { IDS_DENSE, IDS_SPARSE, IDS_TEXTS, IDS_MIXED };

struct graph {
    uint64_t key, counter;
    enum ids ids;
    size_t nodes, edges;
    char id[NODES_MAX][32];
    struct {
        size_t from, to, type;
        double weight;
    } edge[EDGES_MAX];
    bool weights, types, features, labels, splits;
    int label[NODES_MAX], split[NODES_MAX]; /* -1, SPLIT_NONE: not named */
    double feature[NODES_MAX][2];
    struct import_options options;
};

static uint64_t draw(struct graph *g, uint64_t n) {
    return rng_below(rng_at(g->key, g->counter++), n);
}

static void draw_ids(struct graph *g) {
    static const char *const texts[] = {"a b", "c,d", "e\"f", "g\nh", "\xc3\xa9", "007", "1.0"};
    g->ids = (enum ids)draw(g, 4);
    for (size_t i = 0; i < g->nodes; i++) {
        bool text = g->ids == IDS_TEXTS || (g->ids == IDS_MIXED && draw(g, 2));
        if (text)
            snprintf(g->id[i], sizeof g->id[i], "%s%zu", texts[draw(g, ARRAY_LEN(texts))], i);
        else if (g->ids == IDS_DENSE)
            snprintf(g->id[i], sizeof g->id[i], "%zu", i);
        else
            snprintf(g->id[i], sizeof g->id[i], "%lld",
                     (long long)((draw(g, 1ull << 58) - (1ll << 57)) * 16 + i));
    }
}

static struct graph draw_graph(uint64_t seed) {
    struct graph g = {.key = rng_key(4711, seed)};
    g.nodes = 1 + draw(&g, NODES_MAX);
    g.edges = 1 + draw(&g, EDGES_MAX);
    draw_ids(&g);
    g.weights = draw(&g, 2);
    g.types = draw(&g, 2);
    g.features = draw(&g, 2);
    g.labels = draw(&g, 2);
    g.splits = draw(&g, 2);
    for (size_t e = 0; e < g.edges; e++) {
        g.edge[e].from = draw(&g, g.nodes);
        g.edge[e].to = draw(&g, g.nodes);
        g.edge[e].type = draw(&g, 3);
        g.edge[e].weight = g.weights ? (double)draw(&g, 64) / 4 - 8 : 1; /* sums are exact */
    }
    for (size_t i = 0; i < g.nodes; i++) {
        g.label[i] = (int)draw(&g, 4) - 1;
        g.split[i] = (int)draw(&g, 4);
        g.feature[i][0] = (double)draw(&g, 1000) / 8;
        g.feature[i][1] = -(double)draw(&g, 1000);
    }
    g.options.undirected = draw(&g, 2);
    g.options.self_loops = draw(&g, 2);
    g.options.dedup = (enum dedup)draw(&g, 3);
    g.options.half = draw(&g, 2);
    return g;
}

/* A field as CSV wants it, quoted where it must be and sometimes else. */
static void put_field(struct graph *g, FILE *file, const char *text) {
    if (!strpbrk(text, ",\"\n \xc3") && draw(g, 4)) {
        fputs(text, file);
        return;
    }
    fputc('"', file);
    for (; *text; text++)
        fprintf(file, *text == '"' ? "\"\"" : "%c", *text);
    fputc('"', file);
}

static FILE *create(const char *dir, const char *name) {
    FILE *file = fopen(test_path(dir, name), "w");
    ck_assert_ptr_nonnull(file);
    return file;
}

static void end_row(struct graph *g, FILE *file) {
    fputs(draw(g, 3) ? "\n" : "\r\n", file);
    if (draw(g, 10) == 0)
        fputs("\n", file);
}

static void write_texts(struct graph *g, const char *dir) {
    FILE *file = create(dir, "edges.csv");
    fprintf(file, "source,target%s%s\n", g->weights ? ",weight" : "", g->types ? ",type" : "");
    for (size_t e = 0; e < g->edges; e++) {
        put_field(g, file, g->id[g->edge[e].from]);
        fputs(draw(g, 5) ? "," : " , ", file);
        put_field(g, file, g->id[g->edge[e].to]);
        if (g->weights)
            fprintf(file, ",%g", g->edge[e].weight);
        if (g->types)
            fprintf(file, ",t%zu", g->edge[e].type);
        end_row(g, file);
    }
    fclose(file);
    if (g->features) {
        file = create(dir, "features.csv");
        fputs("id,x,y\n", file);
        for (size_t i = 0; i < g->nodes; i++) {
            put_field(g, file, g->id[i]);
            fprintf(file, ",%g,%g", g->feature[i][0], g->feature[i][1]);
            end_row(g, file);
        }
        fclose(file);
    }
    if (g->labels) {
        file = create(dir, "labels.csv");
        fputs("id,label\n", file);
        for (size_t i = 0; i < g->nodes; i++) {
            put_field(g, file, g->id[i]);
            if (g->label[i] < 0)
                fputs(",", file);
            else
                fprintf(file, ",%d", g->label[i]);
            end_row(g, file);
        }
        fclose(file);
    }
}

/* Labels name all nodes, so that splits can. */
static void write_splits(struct graph *g, const char *dir) {
    static const char *const names[] = {"none", "train", "valid", "test"};
    FILE *file = create(dir, "split.csv");
    fputs("id,split\n", file);
    for (size_t i = 0; i < g->nodes; i++) {
        put_field(g, file, g->id[i]);
        fprintf(file, ",%s", names[g->split[i]]);
        end_row(g, file);
    }
    fclose(file);
}

static void write_arrays(struct graph *g, const char *dir) {
    int32_t edges[EDGES_MAX * 2], labels[NODES_MAX];
    float features[NODES_MAX * 2];
    bool index = g->edges != 2 && draw(g, 2);
    for (size_t e = 0; e < g->edges; e++) {
        edges[index ? e : 2 * e] = (int32_t)g->edge[e].from;
        edges[index ? g->edges + e : 2 * e + 1] = (int32_t)g->edge[e].to;
    }
    for (size_t i = 0; i < g->nodes; i++) {
        labels[i] = g->label[i];
        for (size_t k = 0; k < 2; k++)
            features[2 * i + k] = (float)g->feature[i][k];
    }
    const char *path = test_path(dir, index ? "edge_index.npy" : "edges.npy");
    ck_assert_int_eq(
        npy_write(path, NPY_I4, index ? 2 : g->edges, index ? g->edges : 2, edges, NULL), 0);
    if (g->features)
        ck_assert_int_eq(
            npy_write(test_path(dir, "features.npy"), NPY_F4, g->nodes, 2, features, NULL), 0);
    if (g->labels)
        ck_assert_int_eq(npy_write(test_path(dir, "labels.npy"), NPY_I4, g->nodes, 0, labels, NULL),
                         0);
}

/* Lines of text, sorted. */
struct lines {
    size_t n;
    char line[LINES_MAX][256];
};

static int compare_lines(const void *a, const void *b) {
    return strcmp(a, b);
}

#define LINE(lines, ...)                                                                           \
    do {                                                                                           \
        ck_assert_uint_lt((lines)->n, LINES_MAX);                                                  \
        snprintf((lines)->line[(lines)->n++], sizeof(lines)->line[0], __VA_ARGS__);                \
    } while (0)

/* One edge more, by the rule of --dedup. place: of what is kept, in the order of the file. */
struct kept {
    size_t from, to, type;
    double weight;
};
static void keep(const struct graph *g, struct kept *kept, size_t *n, struct kept edge) {
    for (size_t i = 0; g->options.dedup != DEDUP_NONE && i < *n; i++)
        if (kept[i].from == edge.from && kept[i].to == edge.to && kept[i].type == edge.type) {
            if (g->options.dedup == DEDUP_SUM)
                kept[i].weight += edge.weight;
            return;
        }
    kept[(*n)++] = edge;
}

static void reckon(const struct graph *g, struct lines *lines) {
    struct kept kept[2 * EDGES_MAX];
    size_t n = 0;
    for (size_t e = 0; e < g->edges; e++) {
        struct kept edge = {g->edge[e].from, g->edge[e].to, g->types ? g->edge[e].type : 0,
                            g->edge[e].weight};
        if (edge.from == edge.to && !g->options.self_loops)
            continue;
        keep(g, kept, &n, edge);
        if (g->options.undirected && edge.from != edge.to)
            keep(g, kept, &n, (struct kept){edge.to, edge.from, edge.type, edge.weight});
    }
    bool weights = g->weights || g->options.dedup == DEDUP_SUM;
    for (size_t i = 0; i < n; i++)
        LINE(lines, "%s > %s t%zu %g", g->id[kept[i].from], g->id[kept[i].to], kept[i].type,
             weights ? kept[i].weight : 0);
    for (size_t i = 0; i < g->nodes; i++) {
        bool there = g->features || g->labels;
        for (size_t e = 0; !there && e < g->edges; e++)
            there = g->edge[e].from == i || g->edge[e].to == i;
        if (there)
            LINE(lines, "%s: %d %d %g %g", g->id[i], g->labels ? g->label[i] : -1,
                 g->labels && g->splits ? g->split[i] : 0, g->features ? g->feature[i][0] : 0,
                 g->features ? g->feature[i][1] : 0);
    }
}

static void read_back(const struct snapshot *s, struct lines *lines) {
    const int64_t *indptr = s->indptr.data;
    char from[64], to[64];
    for (uint64_t i = 0; i < s->nodes; i++) {
        snapshot_id(s, i, to, sizeof to);
        for (int64_t e = indptr[i]; e < indptr[i + 1]; e++) {
            snapshot_id(s, (uint64_t)((const int32_t *)s->indices.data)[e], from, sizeof from);
            const int32_t *types = s->edge_type.data;
            const float *weights = s->edge_weights.data;
            LINE(lines, "%s > %s %s %g", from, to, types ? s->edge_type_names[types[e]] : "t0",
                 weights ? (double)weights[e] : 0);
        }
        LINE(lines, "%s: %d %d %g %g", to, ((const int32_t *)s->labels.data)[i],
             ((const uint8_t *)s->split.data)[i],
             s->features.data ? npy_double(&s->features, 2 * i) : 0,
             s->features.data ? npy_double(&s->features, 2 * i + 1) : 0);
    }
}

START_TEST(test_random) {
    static struct lines wanted, found;
    static struct import_summary summary;
    /* In memory where it can be: every import waits for the disk several times. */
    char memory[] = "/dev/shm/graphps-test-XXXXXX";
    const char *root = mkdtemp(memory) ? memory : test_tmpdir();
    for (uint64_t seed = (uint64_t)_i; seed < GRAPHS; seed += STRIDE) {
        struct graph g = draw_graph(seed);
        const char *dir = test_path(root, "in");
        ck_assert_int_eq(dir_remove(dir, NULL), 0);
        ck_assert_int_eq(dir_make(dir, NULL), 0);
        bool arrays = g.ids == IDS_DENSE && draw(&g, 2);
        if (arrays) {
            g.weights = g.types = false;
            for (size_t e = 0; e < g.edges; e++)
                g.edge[e].weight = 1;
            if (!g.features && !g.labels)
                g.labels = true; /* else nodes end with the largest one named */
            write_arrays(&g, dir);
        } else {
            write_texts(&g, dir);
        }
        if (g.labels && g.splits)
            write_splits(&g, dir);
        g.options.source = dir;
        g.options.root = test_path(root, "out");
        g.options.name = "g";
        g.options.version = "1.0.0";
        g.options.overwrite = true;
        struct snapshot *s = imports_good(&g.options, &summary);
        wanted.n = found.n = 0;
        reckon(&g, &wanted);
        read_back(s, &found);
        snapshot_close(s);
        qsort(wanted.line, wanted.n, sizeof wanted.line[0], compare_lines);
        qsort(found.line, found.n, sizeof found.line[0], compare_lines);
        for (size_t i = 0; i < wanted.n || i < found.n; i++)
            ck_assert_msg(i < wanted.n && i < found.n && !strcmp(wanted.line[i], found.line[i]),
                          "graph %llu: wanted \"%s\", found \"%s\"", (unsigned long long)seed,
                          i < wanted.n ? wanted.line[i] : "", i < found.n ? found.line[i] : "");
    }
    ck_assert_int_eq(dir_remove(root, NULL), 0);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("import_random");
    TCase *tcase = tcase_create("import_random");
    tcase_set_timeout(tcase, 110);
    tcase_add_loop_test(tcase, test_random, 0, STRIDE);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
