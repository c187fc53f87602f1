/* Writes a generated graph (power_law.h) as a snapshot, to measure `graphps partition` and training
 * on: some features, communities modulo 40 as labels, a tenth of the nodes trains. No test runs it.
 *     make_graph ROOT [nodes [edges a node [floats [share within communities, %]]]]
 * makes ROOT/snapshots/generated@1.0.0. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/power_law.h"
#include "common/mem.h"
#include "common/rng.h"
#include "worker/graph/csr.h"
#include "worker/graph/manifest.h"
#include "worker/graph/snapshot.h"

#define CLASSES 40
#define CHUNK_ROWS 16384

static int write_features(const char *dir, uint64_t nodes, uint64_t dim, struct error *reterr) {
    _cleanup_(mem_free_p) char *path = mem_printf("%s/features.npy", dir);
    _cleanup_(mem_free_p) float *rows = mem_array(CHUNK_ROWS * dim, sizeof *rows);
    struct npy_writer *writer;
    int r = npy_create(path, NPY_F4, dim, &writer, reterr);
    if (r < 0)
        return r;
    for (uint64_t i = 0; r == 0 && i < nodes; i += CHUNK_ROWS) {
        uint64_t count = (nodes - i < CHUNK_ROWS ? nodes - i : CHUNK_ROWS) * dim;
        for (uint64_t f = 0; f < count; f++)
            rows[f] = rng_float(rng_at(2, i * dim + f));
        r = npy_append(writer, rows, count, reterr);
    }
    if (r == 0)
        return npy_commit(writer, reterr);
    npy_abandon(writer);
    return r;
}

static int write_graph(const char *dir, const struct power_law *graph, uint64_t dim,
                       struct error *reterr) {
    uint64_t n = graph->nodes, entries = (uint64_t)graph->indptr[n];
    _cleanup_(mem_free_p) uint8_t *split = mem_array(n, sizeof *split);
    for (uint64_t i = 0; i < n; i++) {
        split[i] = (uint8_t)(rng_below(rng_at(3, i), 10) ? SPLIT_TEST : SPLIT_TRAIN);
        graph->community[i] %= CLASSES;
    }
    const struct {
        const char *name;
        enum npy_type type;
        uint64_t count;
        const void *items;
    } arrays[] = {
        {"indptr", NPY_I8, n + 1, graph->indptr},
        {"indices", NPY_I4, entries, graph->indices},
        {"labels", NPY_I4, n, graph->community},
        {"split", NPY_U1, n, split},
    };
    int r = dim ? write_features(dir, n, dim, reterr) : 0;
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(arrays); i++) {
        _cleanup_(mem_free_p) char *path = mem_printf("%s/%s.npy", dir, arrays[i].name);
        r = npy_write(path, arrays[i].type, arrays[i].count, 0, arrays[i].items, reterr);
    }
    if (r < 0)
        return r;
    json_t *manifest = json_pack("{s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:b}", "name", "generated",
                                 "version", "1.0.0", "created", "1970-01-01T00:00:00Z", "nodes",
                                 (json_int_t)n, "edges", (json_int_t)entries, "feature_dim",
                                 (json_int_t)dim, "classes", (json_int_t)CLASSES, "undirected", 1);
    r = manifest_write(dir, manifest, reterr);
    json_decref(manifest);
    return r;
}

int main(int argc, char **argv) {
    uint64_t args[] = {1000000, 10, 64, 80};
    for (int i = 2; i < argc && i < 2 + (int)ARRAY_LEN(args); i++)
        args[i - 2] = strtoull(argv[i], NULL, 10);
    if (argc < 2 || args[0] < 64 || args[0] > CSR_NODES_MAX || !args[1] || args[3] > 100) {
        fprintf(stderr, "usage: make_graph ROOT [nodes [edges a node [floats [inside %%]]]]\n");
        return 2;
    }
    struct error err = {0};
    _cleanup_(mem_free_p) char *snapshots = mem_printf("%s/snapshots", argv[1]);
    _cleanup_(mem_free_p) char *dir = mem_printf("%s/generated@1.0.0", snapshots);
    _cleanup_(mem_free_p) char *tmp = NULL;
    struct power_law graph = power_law_make(args[0], args[0] * args[1], args[3]);
    int r = dir_make(snapshots, &err);
    if (r == 0)
        r = dir_create(dir, &tmp, &err);
    if (r == 0)
        r = write_graph(tmp, &graph, args[2], &err);
    if (r == 0)
        r = dir_commit(tmp, dir, &err);
    if (r < 0)
        fprintf(stderr, "make_graph: %s\n", error_text(&err));
    else
        printf("%s: %llu nodes, %lld entries, %llu floats\n", dir, (unsigned long long)graph.nodes,
               (long long)graph.indptr[graph.nodes], (unsigned long long)args[2]);
    power_law_done(&graph);
    return r < 0;
}
