/* METIS, what it needs before and what it leaves to mend after. */
#include "worker/graph/assign.h"

#include <metis.h>
#include <stdbool.h>
#include <string.h>

#include "common/mem.h"
#include "worker/graph/csr.h"

/* With fewer nodes a part METIS cuts off empty parts, and says so on standard output. */
#define METIS_NODES_MIN 8

_Static_assert(sizeof(idx_t) == sizeof(int32_t), "METIS is built with 32-bit indices");

/* METIS wants every edge from both of its ends. A row of the result is the union of the ascending
 * rows of in-edges and out-edges. */
static int symmetrize(const struct snapshot *s, idx_t **ret_xadj, idx_t **ret_adjncy,
                      struct error *reterr) {
    const int64_t *indptr = s->indptr.data;
    const int32_t *indices = s->indices.data;
    uint64_t most = s->undirected ? s->edges : 2 * s->edges;
    if (most > INT32_MAX)
        return error_set(reterr, ERR_LIMIT,
                         "%s@%s has %llu edges; METIS counts in 32 bits and takes at most 2^31 - 1 "
                         "(an edge without its inverse counts twice). Train it as one part",
                         s->name, s->version, (unsigned long long)s->edges);
    idx_t *xadj = mem_array(s->nodes + 1, sizeof *xadj);
    idx_t *adjncy = mem_array(most ? most : 1, sizeof *adjncy);
    *ret_xadj = xadj;
    *ret_adjncy = adjncy;
    if (s->undirected) {
        for (uint64_t i = 0; i <= s->nodes; i++)
            xadj[i] = (idx_t)indptr[i];
        if (s->edges)
            memcpy(adjncy, indices, s->edges * sizeof *adjncy);
        return 0;
    }
    _cleanup_(mem_free_p) int64_t *t_indptr = mem_array(s->nodes + 1, sizeof *t_indptr);
    _cleanup_(mem_free_p) int32_t *t_indices =
        mem_array(s->edges ? s->edges : 1, sizeof *t_indices);
    csr_transpose(indptr, indices, s->nodes, t_indptr, t_indices);
    idx_t out = 0;
    for (uint64_t i = 0; i < s->nodes; i++) {
        int64_t a = indptr[i], b = t_indptr[i];
        while (a < indptr[i + 1] || b < t_indptr[i + 1]) {
            int32_t from_a = a < indptr[i + 1] ? indices[a] : INT32_MAX;
            int32_t from_b = b < t_indptr[i + 1] ? t_indices[b] : INT32_MAX;
            adjncy[out++] = from_a < from_b ? from_a : from_b;
            a += from_a <= from_b;
            b += from_b <= from_a;
        }
        xadj[i + 1] = out;
    }
    return 0;
}

/* METIS may leave a part without nodes, or without one of the few training nodes: a worker that
 * has none cannot contribute. Such a part gets one from the part that has most. Does nothing when
 * there are fewer than parts. */
static void spread(uint64_t nodes, const idx_t *weights, size_t stride, uint32_t parts,
                   int32_t *owner) {
    _cleanup_(mem_free_p) uint64_t *count = mem_array(parts, sizeof *count);
    uint64_t total = 0;
    for (uint64_t i = 0; i < nodes; i++)
        if (weights[i * stride]) {
            count[owner[i]]++;
            total++;
        }
    for (uint32_t k = 0; k < parts && total >= parts; k++) {
        if (count[k])
            continue;
        uint32_t rich = 0;
        for (uint32_t other = 1; other < parts; other++)
            if (count[other] > count[rich])
                rich = other;
        uint64_t i = 0;
        while (!weights[i * stride] || (uint32_t)owner[i] != rich)
            i++;
        owner[i] = (int32_t)k;
        count[rich]--;
        count[k]++;
    }
}

/* Parts of a few nodes: equal pieces of a walk, breadth first, so that neighbours are near. */
static void cut_walk(uint64_t nodes, const idx_t *xadj, const idx_t *adjncy, uint32_t parts,
                     int32_t *owner) {
    _cleanup_(mem_free_p) int32_t *walk = mem_array(nodes, sizeof *walk);
    _cleanup_(mem_free_p) bool *seen = mem_array(nodes, sizeof *seen);
    uint64_t count = 0;
    for (uint64_t start = 0, at = 0; start < nodes; start++) {
        if (!seen[start])
            walk[count++] = (int32_t)start;
        seen[start] = true;
        for (; at < count; at++)
            for (idx_t e = xadj[walk[at]]; e < xadj[walk[at] + 1]; e++)
                if (!seen[adjncy[e]]) {
                    seen[adjncy[e]] = true;
                    walk[count++] = adjncy[e];
                }
    }
    for (uint64_t i = 0; i < nodes; i++)
        owner[walk[i]] = (int32_t)(i * parts / nodes);
}

/* weights: per node 1, and 1 for a training node. */
static int cut(const struct snapshot *s, uint32_t parts, uint64_t seed, idx_t *weights,
               bool any_train, int32_t *owner, struct error *reterr) {
    _cleanup_(mem_free_p) idx_t *xadj = NULL;
    _cleanup_(mem_free_p) idx_t *adjncy = NULL;
    int r = symmetrize(s, &xadj, &adjncy, reterr);
    if (r < 0)
        return r;
    if (s->nodes / parts < METIS_NODES_MIN) {
        cut_walk(s->nodes, xadj, adjncy, parts, owner);
        return 0;
    }
    idx_t options[METIS_NOPTIONS];
    METIS_SetDefaultOptions(options);
    options[METIS_OPTION_SEED] = (idx_t)(seed & INT32_MAX);
    options[METIS_OPTION_NUMBERING] = 0;
    /* A weight that is 0 everywhere cannot be balanced: without training nodes only nodes count. */
    idx_t count = (idx_t)s->nodes, constraints = any_train ? 2 : 1, k = (idx_t)parts, objective = 0;
    r = METIS_PartGraphKway(&count, &constraints, xadj, adjncy, any_train ? weights : NULL, NULL,
                            NULL, &k, NULL, NULL, options, &objective, owner);
    if (r == METIS_ERROR_MEMORY)
        return error_set(reterr, ERR_NO_MEMORY, "METIS ran out of memory cutting %s@%s", s->name,
                         s->version);
    if (r != METIS_OK)
        return error_set(reterr, ERR_INTERNAL, "METIS could not cut %s@%s into %u parts (%d)",
                         s->name, s->version, parts, r);
    return 0;
}

int assign_owners(const struct snapshot *s, uint32_t parts, uint64_t seed, int32_t *owner,
                  struct error *reterr) {
    memset(owner, 0, s->nodes * sizeof *owner);
    if (parts == 1)
        return 0;
    const int32_t *labels = s->labels.data;
    const uint8_t *split = s->split.data;
    _cleanup_(mem_free_p) idx_t *weights = mem_array(2 * s->nodes, sizeof *weights);
    bool any_train = false;
    for (uint64_t i = 0; i < s->nodes; i++) {
        weights[2 * i] = 1;
        weights[2 * i + 1] = split[i] == SPLIT_TRAIN && labels[i] >= 0;
        any_train |= weights[2 * i + 1];
        owner[i] = (int32_t)(i * parts / s->nodes); /* stays where there is no edge to cut */
    }
    int r = s->edges ? cut(s, parts, seed, weights, any_train, owner, reterr) : 0;
    if (r < 0)
        return r;
    spread(s->nodes, weights, 2, parts, owner);
    spread(s->nodes, weights + 1, 2, parts, owner);
    return 0;
}
