/* A whole import of bytes from anywhere. The first byte says which file they are, beside others
 * that are right; the second one the options. What comes of it is a snapshot that opens and fits
 * what was said of it, or a sentence, and nothing else is left. */
#include <math.h>

#include "tests/fuzz/scratch.h"
#include "worker/graph/import.h"
#include "worker/graph/snapshot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Letters, so that a corpus can be written by hand. */
static const struct {
    char letter;
    const char *name;
    bool beside; /* edges of a, b and c */
} kinds[] = {
    {'e', "edges.csv", false}, {'m', "edges.mtx", false},      {'a', "edges.npy", false},
    {'z', "edges.npz", false}, {'v', "valid_edges.csv", true}, {'w', "test_edges.npy", true},
    {'n', "nodes.csv", true},  {'f', "features.csv", true},    {'F', "features.npz", false},
    {'l', "labels.csv", true}, {'t', "train.csv", true},       {'s', "split.csv", true},
};

static void set_options(struct import_options *options, uint8_t bits) {
    options->undirected = bits & 1;
    options->self_loops = bits & 2;
    options->dedup = (enum dedup)((bits >> 2 & 3) % 3);
    options->hold_out[0] = options->hold_out[1] = (bits >> 2 & 3) == 3 ? 0.25 : 0;
    options->multi_label = bits & 16;
    options->half = bits & 32;
    options->skip_bad = bits & 64 ? 3 : 0;
    options->bipartite = bits & 128;
}

/* What is set aside is not in the graph. */
static void check_aside(const struct snapshot *s, const struct npy *aside) {
    const int64_t *indptr = s->indptr.data;
    const int32_t *items = aside->data, *sources = s->indices.data, *types = s->edge_type.data;
    for (uint64_t i = 0, cols = types ? 3 : 2; i < aside->count && i < 1000; i += cols)
        for (int64_t e = indptr[items[i + 1]]; e < indptr[items[i + 1] + 1]; e++)
            if (sources[e] == items[i] && (!types || types[e] == items[i + 2]))
                abort();
}

static void check(const struct import_summary *summary) {
    struct snapshot *s = NULL;
    struct error err = {0};
    char id[64];
    if (snapshot_open(summary->dir, true, &s, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    if (s->nodes != summary->nodes || s->edges != summary->edges ||
        s->classes != summary->classes || s->edge_types != summary->edge_types ||
        s->node_types != summary->node_types || s->feature_dim != summary->feature_dim)
        abort();
    for (uint64_t i = 0; i < s->nodes && i < 1000; i++)
        snapshot_id(s, i, id, sizeof id);
    check_aside(s, &s->valid_edges);
    check_aside(s, &s->test_edges);
    for (uint64_t i = 0; s->edge_weights.data && i < s->edges; i++)
        if (!isfinite(((const float *)s->edge_weights.data)[i]))
            abort();
    snapshot_close(s);
}

static void check_left(size_t wanted) {
    char **names = NULL;
    size_t count = 0;
    if (file_exists(scratch_path("out/snapshots")) &&
        dir_list(scratch_path("out/snapshots"), &names, &count, NULL) < 0)
        abort();
    if (count != wanted)
        abort();
    dir_list_free(names, count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    size_t kind = 0;
    scratch_make();
    while (size >= 2 && kind < sizeof kinds / sizeof *kinds && kinds[kind].letter != data[0])
        kind++;
    if (size < 2 || kind == sizeof kinds / sizeof *kinds)
        return 0;
    (void)dir_remove(scratch_path("in"), NULL);
    (void)dir_remove(scratch_path("out"), NULL);
    if (dir_make(scratch_path("in"), NULL) < 0)
        abort();
    char name[32];
    snprintf(name, sizeof name, "in/%s", kinds[kind].name);
    scratch_write(name, data + 2, size - 2);
    if (kinds[kind].beside)
        scratch_write("in/edges.csv", "source,target\na,b\nb,c\n", 22);
    else if (kinds[kind].letter == 'F')
        scratch_write("in/edges.csv", "0,1\n", 4);
    struct import_options options = {.source = scratch_path("in"),
                                     .root = scratch_path("out"),
                                     .name = "g",
                                     .version = "1.0.0-rc",
                                     .split_seed = 1};
    set_options(&options, data[1]);
    static struct import_summary summary;
    struct error err = {0};
    int r = import_run(&options, NULL, NULL, &summary, &err);
    if (r == 0 && summary.rejects.count > options.skip_bad)
        abort();
    if (r < 0 && (err.code != r || !err.text[0]))
        abort();
    if (r == 0)
        check(&summary);
    check_left(r == 0);
    return 0;
}
