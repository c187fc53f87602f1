/* Blocks of edges in a file, and the CSR made of them. Every step gives the same result for any
 * number of threads: each row is filled by one thread, in the order of the file. */
#include "worker/graph/edges.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "worker/graph/csr.h"

#ifdef _OPENMP
#include <omp.h>
#endif

#define BLOCK_EDGES (64u << 10)

/* The columns of a block; types and weights NULL when edges have none. */
struct block_view {
    size_t n;
    int32_t *from, *to, *types;
    float *weights;
};

struct edges {
    int fd;
    char *dir; /* of the file */
    bool weights, types;
    uint64_t count;
    size_t edge_bytes;
    uint8_t *block; /* being filled */
    size_t filled;
};

static struct block_view block_view(const struct edges *edges, uint8_t *block, size_t n) {
    struct block_view view = {.n = n};
    view.from = (int32_t *)(void *)block;
    view.to = view.from + BLOCK_EDGES;
    int32_t *next = view.to + BLOCK_EDGES;
    if (edges->types) {
        view.types = next;
        next += BLOCK_EDGES;
    }
    if (edges->weights)
        view.weights = (float *)(void *)next;
    return view;
}

int edges_new(const char *dir, bool weights, bool types, struct edges **ret, struct error *reterr) {
    /* Not every file system has O_TMPFILE; a file that is unlinked at once is as good. */
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) {
        _cleanup_(mem_free_p) char *path = mem_printf("%s/edges.tmp", dir);
        fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0)
            return error_set(reterr, ERR_IO, "%s: cannot be made: %m", path);
        unlink(path);
    }
    struct edges *edges = mem_alloc(sizeof *edges);
    edges->fd = fd;
    edges->dir = mem_strdup(dir);
    edges->weights = weights;
    edges->types = types;
    edges->edge_bytes = 8 + 4 * (size_t)weights + 4 * (size_t)types;
    edges->block = mem_alloc(BLOCK_EDGES * edges->edge_bytes);
    *ret = edges;
    return 0;
}

struct edges *edges_free(struct edges *edges) {
    if (!edges)
        return NULL;
    close(edges->fd);
    mem_free(edges->dir);
    mem_free(edges->block);
    mem_free(edges);
    return NULL;
}

uint64_t edges_count(const struct edges *edges) {
    return edges->count;
}

static size_t block_bytes(const struct edges *edges) {
    return BLOCK_EDGES * edges->edge_bytes;
}

static int block_write(const struct edges *edges, uint64_t number, const uint8_t *block,
                       struct error *reterr) {
    size_t bytes = block_bytes(edges);
    for (size_t at = 0; at < bytes;) {
        ssize_t put = pwrite(edges->fd, block + at, bytes - at, (off_t)(number * bytes + at));
        if (put < 0 && errno != EINTR)
            return error_set(reterr, ERR_IO,
                             "the edges cannot be written to a temporary file in %s: %m",
                             edges->dir);
        at += put > 0 ? (size_t)put : 0;
    }
    return 0;
}

static int block_read(const struct edges *edges, uint64_t number, uint8_t *block,
                      struct error *reterr) {
    size_t bytes = block_bytes(edges);
    for (size_t at = 0; at < bytes;) {
        ssize_t got = pread(edges->fd, block + at, bytes - at, (off_t)(number * bytes + at));
        if ((got < 0 && errno != EINTR) || got == 0)
            return error_set(reterr, ERR_IO, "the edges cannot be read back: %m");
        at += got > 0 ? (size_t)got : 0;
    }
    return 0;
}

static uint64_t block_count(const struct edges *edges) {
    return (edges->count + BLOCK_EDGES - 1) / BLOCK_EDGES;
}

static size_t block_edges(const struct edges *edges, uint64_t number) {
    uint64_t left = edges->count - number * BLOCK_EDGES;
    return left < BLOCK_EDGES ? (size_t)left : BLOCK_EDGES;
}

int edges_add(struct edges *edges, const struct edge_batch *batch, struct error *reterr) {
    for (size_t at = 0; at < batch->n;) {
        size_t room = BLOCK_EDGES - edges->filled, left = batch->n - at;
        size_t n = left < room ? left : room;
        struct block_view view = block_view(edges, edges->block, BLOCK_EDGES);
        memcpy(view.from + edges->filled, batch->from + at, n * sizeof *view.from);
        memcpy(view.to + edges->filled, batch->to + at, n * sizeof *view.to);
        if (edges->types)
            memcpy(view.types + edges->filled, batch->types + at, n * sizeof *view.types);
        if (edges->weights)
            memcpy(view.weights + edges->filled, batch->weights + at, n * sizeof *view.weights);
        edges->filled += n;
        edges->count += n;
        at += n;
        if (edges->filled < BLOCK_EDGES)
            continue;
        int r = block_write(edges, edges->count / BLOCK_EDGES - 1, edges->block, reterr);
        if (r < 0)
            return r;
        edges->filled = 0;
    }
    return 0;
}

/* Is it worth several threads? Without OpenMP nobody asks. */
__attribute__((unused)) static bool is_large(const struct edges *edges) {
    return edges->count > BLOCK_EDGES;
}

/* Shared by the threads of one pass: the first error, and a block's memory for each of them. */
struct pass {
    int code;
    struct error err;
};

static void pass_failed(struct pass *pass, const struct error *err) {
#pragma omp critical(edges_pass)
    if (pass->code == 0) {
        pass->code = err->code;
        pass->err = *err;
    }
}

static bool pass_going(struct pass *pass) {
    int code;
#pragma omp atomic read
    code = pass->code;
    return code == 0;
}

/* Pass 1 for one block: new numbers, put back into the file, and the rows' lengths. */
static int block_count_rows(const struct edges *edges, const struct edges_rule *rule,
                            uint64_t number, uint8_t *block, int64_t *indptr, uint64_t *loops,
                            struct error *reterr) {
    int r = block_read(edges, number, block, reterr);
    if (r < 0)
        return r;
    struct block_view view = block_view(edges, block, block_edges(edges, number));
    for (size_t i = 0; i < view.n; i++) {
        if (rule->node_numbers) {
            view.from[i] = rule->node_numbers[view.from[i]];
            view.to[i] = rule->node_numbers[view.to[i]];
        }
        if (rule->type_numbers)
            view.types[i] = rule->type_numbers[view.types[i]];
        bool loop = view.from[i] == view.to[i];
        *loops += loop;
        if (loop && !rule->self_loops)
            continue;
#pragma omp atomic
        indptr[view.to[i] + 1]++;
        if (rule->undirected && !loop) {
#pragma omp atomic
            indptr[view.from[i] + 1]++;
        }
    }
    if (rule->node_numbers || rule->type_numbers)
        r = block_write(edges, number, block, reterr);
    return r;
}

static int count_rows(const struct edges *edges, const struct edges_rule *rule,
                      struct edges_csr *csr, struct error *reterr) {
    struct pass pass = {0};
    uint64_t loops = 0;
    csr->indptr = mem_array(rule->nodes + 1, sizeof *csr->indptr);
#pragma omp parallel reduction(+ : loops) if (is_large(edges))
    {
        _cleanup_(mem_free_p) uint8_t *block = mem_raw(block_bytes(edges));
#pragma omp for schedule(dynamic)
        for (uint64_t b = 0; b < block_count(edges); b++) {
            struct error err = {0};
            if (pass_going(&pass) &&
                block_count_rows(edges, rule, b, block, csr->indptr, &loops, &err) < 0)
                pass_failed(&pass, &err);
        }
    }
    if (pass.code < 0)
        return error_set(reterr, pass.code, "%s", pass.err.text);
    csr->self_loops = loops;
    for (uint64_t i = 0; i < rule->nodes; i++)
        csr->indptr[i + 1] += csr->indptr[i];
    return 0;
}

static void place(struct edges_csr *csr, int32_t row, int32_t source, const struct block_view *view,
                  size_t i) {
    int64_t at = csr->indptr[row]++;
    csr->indices[at] = source;
    if (view->types)
        csr->types[at] = view->types[i];
    if (view->weights)
        csr->weights[at] = view->weights[i];
}

/* Pass 2 for the rows begin .. end-1: indptr[i] serves as the place of row i's next entry. */
static int place_range(const struct edges *edges, const struct edges_rule *rule,
                       struct edges_csr *csr, int32_t begin, int32_t end, struct error *reterr) {
    _cleanup_(mem_free_p) uint8_t *block = mem_raw(block_bytes(edges));
    for (uint64_t b = 0; b < block_count(edges); b++) {
        int r = block_read(edges, b, block, reterr);
        if (r < 0)
            return r;
        struct block_view view = block_view(edges, block, block_edges(edges, b));
        for (size_t i = 0; i < view.n; i++) {
            int32_t from = view.from[i], to = view.to[i];
            if (from == to && !rule->self_loops)
                continue;
            if (to >= begin && to < end)
                place(csr, to, from, &view, i);
            if (rule->undirected && from != to && from >= begin && from < end)
                place(csr, from, to, &view, i);
        }
    }
    return 0;
}

/* The first row whose entries begin at or after a share of all. */
static uint64_t row_at_share(const struct edges_csr *csr, uint64_t nodes, uint64_t share,
                             uint64_t shares) {
    int64_t wanted = (int64_t)((unsigned __int128)csr->indptr[nodes] * share / shares);
    uint64_t low = 0, high = nodes;
    while (low < high) {
        uint64_t middle = (low + high) / 2;
        if (csr->indptr[middle] < wanted)
            low = middle + 1;
        else
            high = middle;
    }
    return share == shares ? nodes : low;
}

static int place_rows(const struct edges *edges, const struct edges_rule *rule,
                      struct edges_csr *csr, struct error *reterr) {
    uint64_t entries = (uint64_t)csr->indptr[rule->nodes];
    csr->indices = mem_raw((entries + 1) * sizeof *csr->indices);
    if (edges->types)
        csr->types = mem_raw((entries + 1) * sizeof *csr->types);
    if (edges->weights)
        csr->weights = mem_raw((entries + 1) * sizeof *csr->weights);
    uint64_t shares = 1;
#ifdef _OPENMP
    shares = is_large(edges) ? (uint64_t)omp_get_max_threads() : 1;
#endif
    _cleanup_(mem_free_p) uint64_t *bounds = mem_array(shares + 1, sizeof *bounds);
    for (uint64_t s = 0; s <= shares; s++)
        bounds[s] = row_at_share(csr, rule->nodes, s, shares);
    struct pass pass = {0};
#pragma omp parallel for schedule(static, 1) if (shares > 1)
    for (uint64_t s = 0; s < shares; s++) {
        struct error err = {0};
        if (place_range(edges, rule, csr, (int32_t)bounds[s], (int32_t)bounds[s + 1], &err) < 0)
            pass_failed(&pass, &err);
    }
    if (pass.code < 0)
        return error_set(reterr, pass.code, "%s", pass.err.text);
    for (uint64_t i = rule->nodes; i > 0; i--)
        csr->indptr[i] = csr->indptr[i - 1];
    csr->indptr[0] = 0;
    return 0;
}

/* An entry with what belongs to it, for sorting. */
struct entry {
    int32_t source, type;
    int64_t at;    /* order of the file among equals */
    double weight; /* so that a sum of many is not rounded at each */
};

static int compare_entries(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    if (x->source != y->source)
        return x->source < y->source ? -1 : 1;
    if (x->type != y->type)
        return x->type < y->type ? -1 : 1;
    return (x->at > y->at) - (x->at < y->at);
}

/* Sorts a row with types or weights; returns how many entries are left. */
static int64_t row_sort_entries(struct edges_csr *csr, enum dedup dedup, int64_t begin, int64_t end,
                                struct entry **entries, int64_t *cap) {
    if (end == begin)
        return 0;
    if (end - begin > *cap) {
        mem_free(*entries);
        *cap = 2 * (end - begin);
        *entries = mem_raw((size_t)*cap * sizeof **entries);
    }
    struct entry *row = *entries;
    for (int64_t e = begin; e < end; e++)
        row[e - begin] = (struct entry){csr->indices[e], csr->types ? csr->types[e] : 0, e,
                                        csr->weights ? csr->weights[e] : 0};
    qsort(row, (size_t)(end - begin), sizeof *row, compare_entries);
    int64_t left = 0;
    for (int64_t i = 0; i < end - begin; i++) {
        if (dedup != DEDUP_NONE && left > 0 && row[left - 1].source == row[i].source &&
            row[left - 1].type == row[i].type) {
            if (dedup == DEDUP_SUM)
                row[left - 1].weight += row[i].weight;
            continue;
        }
        row[left++] = row[i];
    }
    for (int64_t i = 0; i < left; i++) {
        csr->indices[begin + i] = row[i].source;
        if (csr->types)
            csr->types[begin + i] = row[i].type;
        if (csr->weights)
            csr->weights[begin + i] = (float)row[i].weight;
    }
    return left;
}

/* Every row sorted, its repeats dropped, and the rows moved together. */
static void sort_rows(const struct edges *edges, const struct edges_rule *rule,
                      struct edges_csr *csr) {
    uint64_t nodes = rule->nodes;
    _cleanup_(mem_free_p) int32_t *left = mem_raw(nodes * sizeof *left + 1);
    bool plain = !csr->types && !csr->weights;
#pragma omp parallel if (is_large(edges))
    {
        struct entry *entries = NULL;
        int64_t cap = 0;
#pragma omp for schedule(dynamic, 1024)
        for (uint64_t i = 0; i < nodes; i++) {
            int64_t begin = csr->indptr[i], end = csr->indptr[i + 1];
            if (plain)
                left[i] = (int32_t)csr_row_sort(csr->indices + begin, (uint64_t)(end - begin),
                                                rule->dedup != DEDUP_NONE);
            else
                left[i] = (int32_t)row_sort_entries(csr, rule->dedup, begin, end, &entries, &cap);
        }
        mem_free(entries);
    }
    int64_t begin = 0, out = 0;
    for (uint64_t i = 0; i < nodes; i++) {
        int64_t end = csr->indptr[i + 1];
        size_t n = (size_t)left[i];
        if (out != begin) {
            memmove(csr->indices + out, csr->indices + begin, n * sizeof *csr->indices);
            if (csr->types)
                memmove(csr->types + out, csr->types + begin, n * sizeof *csr->types);
            if (csr->weights)
                memmove(csr->weights + out, csr->weights + begin, n * sizeof *csr->weights);
        }
        out += left[i];
        begin = end;
        csr->indptr[i + 1] = out;
    }
    csr->repeats = (uint64_t)(begin - out);
}

int edges_build(struct edges *edges, struct edges_rule *rule, struct edges_csr *ret,
                struct error *reterr) {
    assert(rule->nodes <= CSR_NODES_MAX);
    *ret = (struct edges_csr){0};
    int r = 0;
    if (edges->filled > 0)
        r = block_write(edges, edges->count / BLOCK_EDGES, edges->block, reterr);
    if (r == 0)
        r = count_rows(edges, rule, ret, reterr);
    mem_free(TAKE_PTR(rule->node_numbers));
    mem_free(TAKE_PTR(rule->type_numbers));
    if (r == 0)
        r = place_rows(edges, rule, ret, reterr);
    if (r < 0) {
        edges_csr_done(ret);
        return r;
    }
    sort_rows(edges, rule, ret);
    ret->symmetric = rule->undirected || csr_symmetric(ret->indptr, ret->indices, rule->nodes);
    return 0;
}

void edges_csr_done(struct edges_csr *csr) {
    mem_free(csr->indptr);
    mem_free(csr->indices);
    mem_free(csr->types);
    mem_free(csr->weights);
    *csr = (struct edges_csr){0};
}
