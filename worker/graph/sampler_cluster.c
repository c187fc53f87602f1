/* ClusterGCN. Chiang et al., "Cluster-GCN: An Efficient Algorithm for Training Deep and Large Graph
 * Convolutional Networks", KDD 2019. The owned nodes are cut into clusters that have few edges
 * between them (METIS, as in the paper); a batch is the graph among the nodes of some clusters
 * chosen at random, edges between them included (section 3.2, stochastic multiple partitions), its
 * propagation normalised by the degrees within it, and its loss is that of their training nodes. An
 * epoch takes every cluster once. Edges that leave the batch are lost, so what a batch computes is
 * biased towards what is near; the paper does not correct that either. */
#include <malloc.h>
#include <math.h>
#include <metis.h>

#include "worker/graph/csr.h"
#include "worker/graph/sampler_core.h"

/* With fewer nodes a part METIS cuts off empty parts, and says so on standard output. */
#define METIS_NODES_MIN 8

_Static_assert(sizeof(idx_t) == sizeof(int32_t), "METIS is built with 32-bit indices");

struct clusters {
    uint64_t count;
    uint64_t *begin; /* [count + 1] of nodes */
    int32_t *nodes;  /* [owned] by cluster, training nodes first in each */
    uint64_t *train; /* [count] how many those are */
};

/* The rows among owned nodes alone. */
static void owned_rows(const struct store *store, int64_t *indptr, int32_t *indices) {
    int64_t out = 0;
    for (uint64_t i = 0; i < store->owned; i++) {
        for (int64_t e = store->indptr[i]; e < store->indptr[i + 1]; e++)
            if ((uint64_t)store->indices[e] < store->owned && (uint64_t)store->indices[e] != i)
                indices[out++] = store->indices[e];
        indptr[i + 1] = out;
    }
}

/* METIS wants every edge once from both of its ends: the union of the ascending rows of in-edges
 * and out-edges. */
static int64_t merge_row(const int32_t *a, const int32_t *a_end, const int32_t *b,
                         const int32_t *b_end, idx_t *ret) {
    int64_t out = 0;
    while (a < a_end || b < b_end) {
        int32_t from_a = a < a_end ? *a : INT32_MAX, from_b = b < b_end ? *b : INT32_MAX;
        int32_t least = from_a < from_b ? from_a : from_b;
        ret[out++] = least;
        while (a < a_end && *a == least)
            a++;
        while (b < b_end && *b == least)
            b++;
    }
    return out;
}

/* Pieces of equal size of a walk, breadth first, so that neighbours are near: for what METIS does
 * not take. */
static void cut_walk(const struct store *store, uint64_t count, int32_t *cluster) {
    uint64_t n = store->owned, seen = 0;
    _cleanup_(mem_free_p) int32_t *walk = mem_array(n, sizeof *walk);
    memset(cluster, 0xff, n * sizeof *cluster);
    for (uint64_t start = 0, at = 0; start < n; start++) {
        if (cluster[start] < 0)
            walk[seen++] = (int32_t)start;
        cluster[start] = 0;
        for (; at < seen; at++)
            for (int64_t e = store->indptr[walk[at]]; e < store->indptr[walk[at] + 1]; e++)
                if ((uint64_t)store->indices[e] < n && cluster[store->indices[e]] < 0) {
                    cluster[store->indices[e]] = 0;
                    walk[seen++] = store->indices[e];
                }
    }
    for (uint64_t i = 0; i < n; i++)
        cluster[walk[i]] = (int32_t)(i * count / n);
}

/* Into xadj [owned + 1] and adjncy, which has room for every entry twice. */
static void merge_rows(const struct store *store, idx_t *xadj, idx_t *adjncy) {
    uint64_t n = store->owned, entries = (uint64_t)store->indptr[n];
    _cleanup_(mem_free_p) int64_t *indptr = mem_array(n + 1, sizeof *indptr);
    _cleanup_(mem_free_p) int64_t *t_indptr = mem_array(n + 1, sizeof *t_indptr);
    _cleanup_(mem_free_p) int32_t *indices = mem_raw(entries * sizeof *indices);
    _cleanup_(mem_free_p) int32_t *t_indices = mem_raw(entries * sizeof *t_indices);
    owned_rows(store, indptr, indices);
    csr_transpose(indptr, indices, n, t_indptr, t_indices);
    for (uint64_t i = 0; i < n; i++)
        xadj[i + 1] = xadj[i] + (idx_t)merge_row(indices + indptr[i], indices + indptr[i + 1],
                                                 t_indices + t_indptr[i],
                                                 t_indices + t_indptr[i + 1], adjncy + xadj[i]);
}

static bool takes_metis(const struct store *store, uint64_t clusters) {
    return clusters > 1 && store->owned / clusters >= METIS_NODES_MIN &&
           2 * (uint64_t)store->indptr[store->owned] <= INT32_MAX;
}

static bool cut_metis(const struct store *store, uint64_t clusters, uint64_t seed,
                      int32_t *cluster) {
    uint64_t n = store->owned, entries = (uint64_t)store->indptr[n];
    if (!takes_metis(store, clusters))
        return false;
    _cleanup_(mem_free_p) idx_t *xadj = mem_array(n + 1, sizeof *xadj);
    _cleanup_(mem_free_p) idx_t *adjncy = mem_raw(2 * entries * sizeof *adjncy);
    merge_rows(store, xadj, adjncy);
    if (xadj[n] == 0)
        return false;
    idx_t options[METIS_NOPTIONS];
    METIS_SetDefaultOptions(options);
    options[METIS_OPTION_SEED] = (idx_t)(seed & INT32_MAX);
    options[METIS_OPTION_NUMBERING] = 0;
    idx_t nodes = (idx_t)n, constraints = 1, k = (idx_t)clusters, objective = 0;
    int r = METIS_PartGraphKway(&nodes, &constraints, xadj, adjncy, NULL, NULL, NULL, &k, NULL,
                                NULL, options, &objective, cluster);
    malloc_trim(0); /* what METIS has freed is in pieces of the heap */
    return r == METIS_OK;
}

/* Entries of METIS's graph, from a sample of the rows' entries: how many lead to owned nodes, and
 * how many of those have one in the other direction, which does not count twice. */
static double merged_entries(const struct store *store) {
    enum { SAMPLE = 4096 };
    uint64_t n = store->owned, entries = (uint64_t)store->indptr[n], taken = 0, within = 0,
             both = 0;
    uint64_t every = 1 + entries / SAMPLE;
    for (uint64_t i = 0, e = 0; i < n; i++)
        for (; e < (uint64_t)store->indptr[i + 1]; e += every, taken++) {
            uint64_t j = (uint64_t)store->indices[e];
            if (j >= n || j == i)
                continue;
            within++;
            int64_t at = store->indptr[j], end = store->indptr[j + 1];
            while (at < end && (uint64_t)store->indices[at] != i)
                at++;
            both += at < end;
        }
    return taken ? (double)(2 * within - both) / (double)taken * (double)entries : 0;
}

/* METIS 5.1's peak resident memory was measured: it takes 24 bytes for each node, and for each
 * entry of the graph it is given 43 to 62 on graphs of 14 000 to 400 000 nodes with 5 to 40
 * neighbours, cut into 10 to 1000 (62 within a worker, on `graphps generate`'s 200 000 nodes with
 * 20 each; 32 with 80 neighbours, as those merge sooner into few nodes). Before it is called,
 * merge_rows has four arrays of its own. */
static size_t prepare_bytes(const struct sampler *sampler) {
    const struct store *store = sampler->store;
    if (!takes_metis(store, sampler->item_count))
        return 0;
    double n = (double)store->owned, entries = (double)store->indptr[store->owned];
    double given = 3 * 4 * n + 4 * merged_entries(store);
    double metis = 24 * n + 62 * merged_entries(store), merging = 16 * n + 8 * entries;
    return (size_t)(given + (metis > merging ? metis : merging));
}

/* Counting sort by cluster, training nodes before the others. */
static void sort_nodes(struct clusters *clusters, const struct store *store,
                       const int32_t *cluster) {
    for (uint64_t i = 0; i < store->owned; i++)
        clusters->begin[cluster[i] + 1]++;
    for (uint64_t c = 0; c < clusters->count; c++)
        clusters->begin[c + 1] += clusters->begin[c];
    _cleanup_(mem_free_p) uint64_t *next = mem_array(clusters->count, sizeof *next);
    memcpy(next, clusters->begin, clusters->count * sizeof *next);
    for (int trains = 1; trains >= 0; trains--)
        for (uint64_t i = 0; i < store->owned; i++)
            if (subgraph_trains(store, (int32_t)i) == trains) {
                clusters->nodes[next[cluster[i]]++] = (int32_t)i;
                clusters->train[cluster[i]] += (uint64_t)trains;
            }
}

static void prepare(struct sampler *sampler, struct maker *maker) {
    const struct store *store = sampler->store;
    struct clusters *clusters = sampler->clusters = mem_alloc(sizeof *clusters);
    _cleanup_(mem_free_p) int32_t *cluster = mem_array(store->owned, sizeof *cluster);
    clusters->count = sampler->item_count;
    clusters->begin = mem_array(clusters->count + 1, sizeof *clusters->begin);
    clusters->nodes = mem_array(store->owned, sizeof *clusters->nodes);
    clusters->train = mem_array(clusters->count, sizeof *clusters->train);
    if (clusters->count > 1 &&
        (sampler->trial || !cut_metis(store, clusters->count, sampler->seed, cluster)))
        cut_walk(store, clusters->count, cluster);
    sort_nodes(clusters, store, cluster);
}

static void done(struct sampler *sampler) {
    if (sampler->clusters) {
        mem_free(sampler->clusters->begin);
        mem_free(sampler->clusters->nodes);
        mem_free(sampler->clusters->train);
        mem_free(sampler->clusters);
    }
}

static size_t bytes(const struct sampler *sampler) {
    return sampler->clusters->count * 2 * sizeof(uint64_t) +
           sampler->store->owned * sizeof(int32_t);
}

/* By the degrees within the batch. */
static void make_weights(struct maker *maker, struct slot *slot) {
    struct slot_layer *layer = &slot->layers[0];
    const int64_t *indptr = layer->indptr.items;
    uint32_t n = maker->map.count;
    int graph = maker->sampler->hops.graph[0];
    RESERVE(&maker->scales, n);
    float *scales = maker->scales.items;
    for (uint32_t i = 0; i < n; i++)
        scales[i] = 1 / sqrtf((float)(indptr[i + 1] - indptr[i]) + 1);
    for (uint32_t i = 0; i < n; i++) {
        float degree = (float)(indptr[i + 1] - indptr[i]);
        float factor = sampler_mean_factor(graph, degree, scales[i]) / degree;
        layer->self.items[i] = sampler_self(graph, scales[i]);
        for (int64_t e = indptr[i]; e < indptr[i + 1]; e++)
            layer->weights.items[e] =
                factor * (graph == GRAPH_SYM ? scales[layer->indices.items[e]] : 1);
    }
}

static void make(struct maker *maker, struct slot *slot) {
    const struct clusters *clusters = maker->sampler->clusters;
    uint64_t begin, share = sampler_take_share(maker, slot->batch.step, &begin);
    for (uint64_t k = 0; k < share; k++) {
        int32_t c = maker->order[(begin + k) % clusters->count];
        for (uint64_t i = 0; i < clusters->train[c]; i++)
            sampler_add(maker, slot, clusters->nodes[clusters->begin[c] + i]);
    }
    uint32_t n_output = maker->map.count;
    for (uint64_t k = 0; k < share; k++) {
        int32_t c = maker->order[(begin + k) % clusters->count];
        for (uint64_t i = clusters->begin[c] + clusters->train[c]; i < clusters->begin[c + 1]; i++)
            sampler_add(maker, slot, clusters->nodes[i]);
    }
    subgraph_take_edges(maker, slot);
    make_weights(maker, slot);
    subgraph_finish(maker, slot, n_output);
}

const struct sampler_method sampler_cluster = {
    .prepare = prepare,
    .done = done,
    .bytes = bytes,
    .prepare_bytes = prepare_bytes,
    .make = make,
};
