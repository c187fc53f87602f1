/* One node after the other: who its neighbours are with, what room there is. */
#include "worker/graph/stream.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"

#define PASSES_MAX 10
/* Another pass when more than one node of so many moved in the last. */
#define MOVED_SHARE 200
#define MEND_PASSES 8
#define TELL_NODES 65536
/* Entries ahead of the one being counted whose owner is fetched from memory. */
#define PREFETCH_ENTRIES 32

enum { STREAM_START = 0x66656e6e };

struct stream {
    struct balance *balance;
    const int64_t *indptr;
    const int32_t *indices;
    int32_t *owner; /* -1: none yet */
    uint32_t parts;
    uint32_t *near;    /* [parts] neighbours of the node at hand */
    uint32_t *touched; /* [parts] those with any; touched_count used */
    uint32_t touched_count;
    double share[BALANCE_KINDS]; /* of a thing, in nodes: what fill adds up */
    double price;                /* alpha gamma of the paper, gamma = 1.5 */
    /* The emptiest part: a tree whose leaves (from width) are parts, each knot the emptier of the
     * two below it. */
    uint32_t width, *tree;
};

/* How full a part is, as a number of average nodes. */
static double fill(const struct stream *stream, uint32_t part) {
    double sum = 0;
    for (int c = 0; c < BALANCE_KINDS; c++)
        sum += (double)stream->balance->load[part][c] * stream->share[c];
    return sum;
}

static uint32_t emptier(const struct stream *stream, uint32_t a, uint32_t b) {
    if (b >= stream->parts)
        return a;
    return fill(stream, b) < fill(stream, a) ? b : a;
}

static void tree_update(struct stream *stream, uint32_t part) {
    for (uint32_t at = (stream->width + part) / 2; at; at /= 2)
        stream->tree[at] = emptier(stream, stream->tree[2 * at], stream->tree[2 * at + 1]);
}

static void stream_init(struct stream *stream, struct balance *balance, int32_t *owner) {
    const struct snapshot *s = balance->snapshot;
    *stream = (struct stream){.balance = balance,
                              .indptr = s->indptr.data,
                              .indices = s->indices.data,
                              .owner = owner,
                              .parts = balance->parts,
                              .width = 1};
    stream->near = mem_array(stream->parts, sizeof *stream->near);
    stream->touched = mem_array(stream->parts, sizeof *stream->touched);
    int kinds = 0;
    for (int c = 0; c < BALANCE_KINDS; c++)
        kinds += balance->total[c] > 0;
    for (int c = 0; c < BALANCE_KINDS; c++)
        if (balance->total[c])
            stream->share[c] = (double)s->nodes / ((double)balance->total[c] * kinds);
    double n = (double)s->nodes, m = (double)s->edges / 2;
    stream->price = 1.5 * sqrt(stream->parts) * m / (n * sqrt(n));
    while (stream->width < stream->parts)
        stream->width *= 2;
    stream->tree = mem_array(2 * (size_t)stream->width, sizeof *stream->tree);
    for (uint32_t k = 0; k < stream->width; k++)
        stream->tree[stream->width + k] = k;
    for (uint32_t at = stream->width - 1; at; at--)
        stream->tree[at] = emptier(stream, stream->tree[2 * at], stream->tree[2 * at + 1]);
}

static void stream_done(struct stream *stream) {
    mem_free(stream->near);
    mem_free(stream->touched);
    mem_free(stream->tree);
}

static void look_around(struct stream *stream, uint64_t node) {
    for (uint32_t t = 0; t < stream->touched_count; t++)
        stream->near[stream->touched[t]] = 0;
    stream->touched_count = 0;
    int64_t last = (int64_t)stream->balance->snapshot->edges - 1;
    for (int64_t e = stream->indptr[node]; e < stream->indptr[node + 1]; e++) {
        int64_t ahead = e + PREFETCH_ENTRIES < last ? e + PREFETCH_ENTRIES : last;
        __builtin_prefetch(&stream->owner[stream->indices[ahead]]);
        int32_t part = stream->owner[stream->indices[e]];
        if (part < 0 || (uint64_t)stream->indices[e] == node)
            continue;
        if (stream->near[part]++ == 0)
            stream->touched[stream->touched_count++] = (uint32_t)part;
    }
}

static double score(const struct stream *stream, uint32_t part) {
    return (double)stream->near[part] - stream->price * sqrt(fill(stream, part));
}

/* How far above its limits a part would be, at the worst of them. */
static double excess(const struct balance *balance, uint32_t part, const uint64_t *weights) {
    double worst = 0;
    for (int c = 0; c < BALANCE_KINDS; c++)
        if (weights[c]) {
            double now = (double)(balance->load[part][c] + weights[c]) / (double)balance->limit[c];
            worst = now > worst ? now : worst;
        }
    return worst;
}

/* The best part with room among those with neighbours and the emptiest; else the emptiest of all
 * that have room; else the one that it exceeds least. look_around comes before. */
static uint32_t choose(const struct stream *stream, const uint64_t *weights) {
    const struct balance *balance = stream->balance;
    uint32_t best = UINT32_MAX, empty = stream->tree[1];
    double best_score = -INFINITY;
    if (balance_has_room(balance, empty, weights)) {
        best = empty;
        best_score = score(stream, empty);
    }
    for (uint32_t t = 0; t < stream->touched_count; t++) {
        uint32_t part = stream->touched[t];
        double here = score(stream, part);
        if ((here > best_score || (here == best_score && part < best)) &&
            balance_has_room(balance, part, weights)) {
            best = part;
            best_score = here;
        }
    }
    if (best != UINT32_MAX)
        return best;
    double least = INFINITY;
    for (uint32_t part = 0; part < stream->parts; part++) {
        /* Any with room before any without. */
        double here = balance_has_room(balance, part, weights)
                          ? fill(stream, part) - (double)balance->snapshot->nodes * 4
                          : excess(balance, part, weights);
        if (here < least) {
            best = part;
            least = here;
        }
    }
    return best;
}

static void put(struct stream *stream, uint64_t node, uint32_t part, const uint64_t *weights) {
    stream->owner[node] = (int32_t)part;
    balance_add(stream->balance, part, weights);
    tree_update(stream, part);
}

static void take(struct stream *stream, uint64_t node, const uint64_t *weights) {
    uint32_t part = (uint32_t)stream->owner[node];
    stream->owner[node] = -1;
    balance_take(stream->balance, part, weights);
    tree_update(stream, part);
}

static int pass(struct stream *stream, uint64_t start, uint32_t number, const struct watch *watch,
                uint64_t *ret_moved, struct error *reterr) {
    uint64_t n = stream->balance->snapshot->nodes, moved = 0;
    char what[32];
    snprintf(what, sizeof what, "Fennel, pass %u", number + 1);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t node = start + i < n ? start + i : start + i - n, weights[BALANCE_KINDS];
        int32_t before = stream->owner[node];
        balance_weigh(stream->balance, node, weights);
        look_around(stream, node);
        if (before >= 0)
            take(stream, node, weights);
        uint32_t part = choose(stream, weights);
        put(stream, node, part, weights);
        moved += before != (int32_t)part;
        if (i % TELL_NODES == 0) {
            int r = watch_step(watch, what, "nodes", i, n, reterr);
            if (r < 0)
                return r;
        }
    }
    *ret_moved = moved;
    return 0;
}

int stream_fennel(struct balance *balance, uint64_t seed, const struct watch *watch, int32_t *owner,
                  struct error *reterr) {
    uint64_t n = balance->snapshot->nodes, moved = n;
    uint64_t start = rng_below(rng_at(rng_key(seed, STREAM_START), 0), n);
    memset(owner, 0xff, n * sizeof *owner);
    memset(balance->load, 0, balance->parts * sizeof *balance->load);
    struct stream stream;
    stream_init(&stream, balance, owner);
    int r = 0;
    for (uint32_t k = 0; r == 0 && k < PASSES_MAX && moved * MOVED_SHARE > n; k++)
        r = pass(&stream, start, k, watch, &moved, reterr);
    stream_done(&stream);
    return r;
}

/* Is it the last of its kind in its part? */
static bool is_last(const struct balance *balance, uint32_t part, const uint64_t *weights) {
    return balance->load[part][BALANCE_NODES] == 1 ||
           (weights[BALANCE_TRAIN] && balance->load[part][BALANCE_TRAIN] == 1);
}

/* Would the part be less above its limits without the node? */
static bool helps(const struct balance *balance, uint32_t part, const uint64_t *weights) {
    for (int c = 0; c < BALANCE_KINDS; c++)
        if (weights[c] && balance->load[part][c] > balance->limit[c])
            return true;
    return false;
}

static bool any_over(const struct balance *balance) {
    for (uint32_t k = 0; k < balance->parts; k++)
        if (balance_is_over(balance, k))
            return true;
    return false;
}

/* keep: a node stays while it has more than that share of its neighbours in its part that it would
 * not find in the other. */
static void mend_pass(struct stream *stream, double keep) {
    struct balance *balance = stream->balance;
    for (uint64_t i = 0; i < balance->snapshot->nodes; i++) {
        uint32_t part = (uint32_t)stream->owner[i];
        uint64_t weights[BALANCE_KINDS];
        if (!balance_is_over(balance, part))
            continue;
        balance_weigh(balance, i, weights);
        if (!helps(balance, part, weights) || is_last(balance, part, weights))
            continue;
        look_around(stream, i);
        take(stream, i, weights);
        double here = excess(balance, part, weights);
        uint32_t to = choose(stream, weights);
        double loss = (double)stream->near[part] - (double)stream->near[to];
        bool better = balance_has_room(balance, to, weights) || excess(balance, to, weights) < here;
        if (!better || loss > keep * (double)weights[BALANCE_EDGES])
            to = part;
        put(stream, i, to, weights);
    }
}

void stream_mend(struct balance *balance, int32_t *owner) {
    balance_count(balance, owner);
    if (!any_over(balance))
        return;
    struct stream stream;
    stream_init(&stream, balance, owner);
    for (int k = 0; k < MEND_PASSES && any_over(balance); k++)
        mend_pass(&stream, k < 4 ? k * 0.25 : 1);
    stream_done(&stream);
}
