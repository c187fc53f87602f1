/* Nodes are matched by sorting both sides' ids and merging them (not at all where the ids stand in
 * the same order); then the rows of matched nodes are merged. */
#include "worker/graph/diff.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"

#define TELL_EVERY 65536

/* One edge as b numbers things: a node or type that b has not is -1. */
struct end {
    int32_t node, type;
    float weight;
    int32_t own; /* the node's number in its own snapshot */
};

struct sides {
    const struct snapshot *a, *b;
    int32_t *b_of, *a_of;                       /* nodes; -1: not there */
    int32_t *class_of, *node_type_of, *type_of; /* a's numbers to b's; -1: not there */
    diff_tell *tell;
    void *ctx;
    struct diff *diff;
};

static void tell(const struct sides *sides, const char *what, uint64_t done, uint64_t total) {
    if (sides->tell && done % TELL_EVERY == 0)
        sides->tell(sides->ctx, what, done, total);
}

static void note_node(struct diff_nodes *nodes, uint64_t in_a, uint64_t in_b) {
    if (nodes->count < DIFF_EXAMPLES)
        nodes->first[nodes->count] = (struct diff_node){in_a, in_b};
    nodes->count++;
}

static void note_edge(struct diff_edges *edges, uint64_t source, uint64_t target) {
    if (edges->count < DIFF_EXAMPLES)
        edges->first[edges->count] = (struct diff_edge){source, target};
    edges->count++;
}

/* --- ids --- */

struct id {
    const char *text;
    size_t len;
    char digits[24];
};

static int64_t id_number(const struct snapshot *s, uint64_t node) {
    return s->ids.data ? ((const int64_t *)s->ids.data)[node] : (int64_t)node;
}

static void id_read(const struct snapshot *s, uint64_t node, struct id *ret) {
    const int64_t *offsets = s->id_offsets.data;
    if (offsets) {
        ret->text = (const char *)s->id_bytes.data + offsets[node];
        ret->len = (size_t)(offsets[node + 1] - offsets[node]);
    } else {
        ret->len = (size_t)snprintf(ret->digits, sizeof ret->digits, "%lld",
                                    (long long)id_number(s, node));
        ret->text = ret->digits;
    }
}

/* As numbers when both sides have only such, else as texts: an order for both. */
static int id_compare(const struct snapshot *s, uint64_t node, const struct snapshot *t,
                      uint64_t other, bool texts) {
    if (!texts) {
        int64_t left = id_number(s, node), right = id_number(t, other);
        return (left > right) - (left < right);
    }
    struct id left, right;
    id_read(s, node, &left);
    id_read(t, other, &right);
    int r = memcmp(left.text, right.text, left.len < right.len ? left.len : right.len);
    return r ? r : (left.len > right.len) - (left.len < right.len);
}

struct sorting {
    const struct snapshot *snapshot;
    bool texts;
};

static int node_compare(const void *a, const void *b, void *ctx) {
    const struct sorting *sorting = ctx;
    return id_compare(sorting->snapshot, (uint64_t) * (const int32_t *)a, sorting->snapshot,
                      (uint64_t) * (const int32_t *)b, sorting->texts);
}

/* The nodes by their ids; mem_free it. */
static int32_t *nodes_sorted(const struct snapshot *s, bool texts) {
    struct sorting sorting = {s, texts};
    int32_t *nodes = mem_array(s->nodes, sizeof *nodes);
    bool sorted = true;
    for (uint64_t i = 0; i < s->nodes; i++) {
        nodes[i] = (int32_t)i;
        sorted = sorted && (i == 0 || id_compare(s, i - 1, s, i, texts) < 0);
    }
    if (!sorted)
        qsort_r(nodes, s->nodes, sizeof *nodes, node_compare, &sorting);
    return nodes;
}

static int check_unique(const struct snapshot *s, const int32_t *nodes, bool texts,
                        struct error *reterr) {
    char id[80];
    for (uint64_t i = 1; i < s->nodes; i++)
        if (id_compare(s, (uint64_t)nodes[i - 1], s, (uint64_t)nodes[i], texts) == 0)
            return error_set(reterr, ERR_FORMAT,
                             "%s: nodes %d and %d have the same id, \"%s\"; nodes cannot be "
                             "told apart",
                             s->dir, nodes[i - 1], nodes[i],
                             snapshot_id(s, (uint64_t)nodes[i], id, sizeof id));
    return 0;
}

static bool bytes_equal(const struct npy *a, const struct npy *b, size_t item_bytes) {
    return a->count == b->count && memcmp(a->data, b->data, a->count * item_bytes) == 0;
}

/* Do both have the same ids in the same order? */
static bool ids_equal(const struct snapshot *a, const struct snapshot *b) {
    if (a->id_offsets.data || b->id_offsets.data)
        return a->id_offsets.data && b->id_offsets.data &&
               bytes_equal(&a->id_offsets, &b->id_offsets, 8) &&
               bytes_equal(&a->id_bytes, &b->id_bytes, 1);
    if (a->ids.data || b->ids.data)
        return a->ids.data && b->ids.data && bytes_equal(&a->ids, &b->ids, 8);
    return true; /* numbers 0, 1, ...: as many as both have */
}

static void match(struct sides *sides, uint64_t in_a, uint64_t in_b) {
    sides->b_of[in_a] = (int32_t)in_b;
    sides->a_of[in_b] = (int32_t)in_a;
    sides->diff->common++;
}

static int match_sorted(struct sides *sides, struct error *reterr) {
    const struct snapshot *a = sides->a, *b = sides->b;
    bool texts = a->id_offsets.data || b->id_offsets.data;
    _cleanup_(mem_free_p) int32_t *in_a = nodes_sorted(a, texts);
    _cleanup_(mem_free_p) int32_t *in_b = nodes_sorted(b, texts);
    int r = check_unique(a, in_a, texts, reterr);
    if (r == 0)
        r = check_unique(b, in_b, texts, reterr);
    for (uint64_t i = 0, k = 0; r == 0 && i < a->nodes && k < b->nodes;) {
        uint64_t left = (uint64_t)in_a[i], right = (uint64_t)in_b[k];
        int order = id_compare(a, left, b, right, texts);
        if (order == 0)
            match(sides, left, right);
        i += order <= 0;
        k += order >= 0;
    }
    return r;
}

static int match_nodes(struct sides *sides, struct error *reterr) {
    const struct snapshot *a = sides->a, *b = sides->b;
    sides->b_of = mem_array(a->nodes, sizeof *sides->b_of);
    sides->a_of = mem_array(b->nodes, sizeof *sides->a_of);
    memset(sides->b_of, 0xff, a->nodes * sizeof *sides->b_of);
    memset(sides->a_of, 0xff, b->nodes * sizeof *sides->a_of);
    int r = 0;
    if (ids_equal(a, b))
        for (uint64_t i = 0; i < a->nodes && i < b->nodes; i++)
            match(sides, i, i);
    else
        r = match_sorted(sides, reterr);
    for (uint64_t i = 0; i < a->nodes; i++)
        if (sides->b_of[i] < 0)
            note_node(&sides->diff->removed, i, 0);
        else
            sides->diff->order |= (uint64_t)sides->b_of[i] != i;
    for (uint64_t i = 0; i < b->nodes; i++)
        if (sides->a_of[i] < 0)
            note_node(&sides->diff->added, 0, i);
    return r;
}

/* --- names --- */

struct named {
    const char *name;
    int32_t number;
};

static int named_compare(const void *a, const void *b) {
    return strcmp(((const struct named *)a)->name, ((const struct named *)b)->name);
}

/* a's numbers as b's, by name where both have names; mem_free it. One more than a has. */
static int32_t *match_names(char *const *a, uint32_t a_count, char *const *b, uint32_t b_count) {
    int32_t *ret = mem_array((size_t)a_count + 1, sizeof *ret);
    if (!a || !b) {
        for (uint32_t i = 0; i < a_count; i++)
            ret[i] = i < b_count ? (int32_t)i : -1;
        return ret;
    }
    _cleanup_(mem_free_p) struct named *names = mem_array((size_t)b_count + 1, sizeof *names);
    for (uint32_t i = 0; i < b_count; i++)
        names[i] = (struct named){b[i], (int32_t)i};
    qsort(names, b_count, sizeof *names, named_compare);
    for (uint32_t i = 0; i < a_count; i++) {
        const struct named wanted = {.name = a[i]};
        const struct named *found = bsearch(&wanted, names, b_count, sizeof *names, named_compare);
        ret[i] = found ? found->number : -1;
    }
    return ret;
}

/* --- nodes --- */

static bool labels_differ(const struct sides *sides, uint64_t in_a, uint64_t in_b) {
    const struct snapshot *a = sides->a, *b = sides->b;
    const uint8_t *many_a = a->multi_labels.data, *many_b = b->multi_labels.data;
    int32_t label_a = ((const int32_t *)a->labels.data)[in_a];
    int32_t label_b = ((const int32_t *)b->labels.data)[in_b];
    if (label_a < 0 || label_b < 0)
        return (label_a < 0) != (label_b < 0);
    const float *targets_a = a->targets.data, *targets_b = b->targets.data;
    if (targets_a || targets_b)
        return !targets_a || !targets_b || a->classes != b->classes ||
               memcmp(targets_a + in_a * a->classes, targets_b + in_b * b->classes,
                      a->classes * sizeof *targets_a) != 0;
    if (!many_a && !many_b)
        return sides->class_of[label_a] != label_b;
    if (!many_a || !many_b)
        return true;
    uint64_t shared = 0, held_a = 0, held_b = 0;
    for (uint32_t c = 0; c < a->classes; c++) {
        bool has = many_a[in_a * a->classes + c];
        int32_t theirs = sides->class_of[c];
        held_a += has;
        shared += has && theirs >= 0 && many_b[in_b * b->classes + (uint32_t)theirs];
    }
    for (uint32_t c = 0; c < b->classes; c++)
        held_b += many_b[in_b * b->classes + c] != 0;
    return shared != held_a || shared != held_b;
}

static bool features_differ(const struct sides *sides, uint64_t in_a, uint64_t in_b) {
    const struct npy *a = &sides->a->features, *b = &sides->b->features;
    uint64_t dim = sides->a->feature_dim;
    if (!a->data || !b->data || dim != sides->b->feature_dim)
        return false;
    if (a->type == b->type) {
        size_t bytes = dim * npy_item_bytes(a->type);
        const char *left = a->data, *right = b->data;
        return memcmp(left + in_a * bytes, right + in_b * bytes, bytes) != 0;
    }
    for (uint64_t k = 0; k < dim; k++)
        if (npy_double(a, in_a * dim + k) != npy_double(b, in_b * dim + k))
            return true;
    return false;
}

static bool types_differ(const struct sides *sides, uint64_t in_a, uint64_t in_b) {
    const uint8_t *a = sides->a->node_type.data, *b = sides->b->node_type.data;
    if (!a || !b)
        return a || b;
    return sides->node_type_of[a[in_a]] != b[in_b];
}

/* Nodes of b in order: their rows are read one after the other. */
static void compare_nodes(const struct sides *sides) {
    struct diff *diff = sides->diff;
    const uint8_t *split_a = sides->a->split.data, *split_b = sides->b->split.data;
    for (uint64_t i = 0; i < sides->b->nodes; i++) {
        tell(sides, "nodes", i, sides->b->nodes);
        if (sides->a_of[i] < 0)
            continue;
        uint64_t in_a = (uint64_t)sides->a_of[i];
        if (labels_differ(sides, in_a, i))
            note_node(&diff->labels, in_a, i);
        if (split_a[in_a] != split_b[i])
            note_node(&diff->splits, in_a, i);
        if (features_differ(sides, in_a, i))
            note_node(&diff->features, in_a, i);
        if (types_differ(sides, in_a, i))
            note_node(&diff->types, in_a, i);
    }
}

/* --- edges --- */

static int end_compare(const void *a, const void *b) {
    const struct end *left = a, *right = b;
    if (left->node != right->node)
        return left->node < right->node ? -1 : 1;
    if (left->type != right->type)
        return left->type < right->type ? -1 : 1;
    return (left->weight > right->weight) - (left->weight < right->weight);
}

/* A node's row, sorted as b numbers things. node_of and type_of: NULL for b itself. */
static size_t row_read(const struct snapshot *s, uint64_t node, const int32_t *node_of,
                       const int32_t *type_of, struct end *ret) {
    const int64_t *indptr = s->indptr.data;
    const int32_t *indices = s->indices.data, *types = s->edge_type.data;
    const float *weights = s->edge_weights.data;
    size_t count = 0;
    bool sorted = true;
    for (int64_t e = indptr[node]; e < indptr[node + 1]; e++) {
        int32_t type = types ? types[e] : 0;
        ret[count] = (struct end){.node = node_of ? node_of[indices[e]] : indices[e],
                                  .type = types && type_of ? type_of[type] : type,
                                  .weight = weights ? weights[e] : 1,
                                  .own = indices[e]};
        sorted = sorted && (count == 0 || end_compare(&ret[count - 1], &ret[count]) <= 0);
        count++;
    }
    if (!sorted)
        qsort(ret, count, sizeof *ret, end_compare);
    return count;
}

/* The ends of two rows of one node, both sorted; what b cannot name comes first. */
static void rows_merge(const struct sides *sides, const struct end *a, size_t a_count,
                       const struct end *b, size_t b_count, uint64_t in_a, uint64_t in_b) {
    struct diff *diff = sides->diff;
    size_t i = 0, k = 0;
    while (i < a_count || k < b_count) {
        int order;
        if (i == a_count || k == b_count)
            order = i == a_count ? 1 : -1;
        else if (a[i].node != b[k].node)
            order = a[i].node < b[k].node ? -1 : 1;
        else
            order = (a[i].type > b[k].type) - (a[i].type < b[k].type);
        if (order < 0)
            note_edge(&diff->edges_removed, (uint64_t)a[i].own, in_a);
        else if (order > 0)
            note_edge(&diff->edges_added, (uint64_t)b[k].own, in_b);
        else
            diff->weights_changed += a[i].weight != b[k].weight;
        i += order <= 0;
        k += order >= 0;
    }
}

static size_t degree_max(const struct snapshot *s) {
    const int64_t *indptr = s->indptr.data;
    int64_t most = 1;
    for (uint64_t i = 0; i < s->nodes; i++)
        if (indptr[i + 1] - indptr[i] > most)
            most = indptr[i + 1] - indptr[i];
    return (size_t)most;
}

static void compare_edges(const struct sides *sides) {
    const struct snapshot *a = sides->a, *b = sides->b;
    _cleanup_(mem_free_p) struct end *row_a = mem_array(degree_max(a), sizeof *row_a);
    _cleanup_(mem_free_p) struct end *row_b = mem_array(degree_max(b), sizeof *row_b);
    const int64_t *indptr_a = a->indptr.data, *indptr_b = b->indptr.data;
    uint64_t total = a->edges + b->edges, done = 0;
    for (uint64_t i = 0; i < a->nodes; i++) {
        tell(sides, "edges", done, total);
        size_t count = row_read(a, i, sides->b_of, sides->type_of, row_a), count_b = 0;
        int32_t in_b = sides->b_of[i];
        done += (uint64_t)(indptr_a[i + 1] - indptr_a[i]);
        if (in_b >= 0) {
            count_b = row_read(b, (uint64_t)in_b, NULL, NULL, row_b);
            done += count_b;
        }
        rows_merge(sides, row_a, count, row_b, count_b, i, in_b < 0 ? 0 : (uint64_t)in_b);
    }
    for (uint64_t i = 0; i < b->nodes; i++) {
        if (sides->a_of[i] >= 0)
            continue;
        for (int64_t e = indptr_b[i]; e < indptr_b[i + 1]; e++)
            note_edge(&sides->diff->edges_added, (uint64_t)((const int32_t *)b->indices.data)[e],
                      i);
    }
}

/* --- edges set aside --- */

struct triple {
    int32_t source, target, type;
};

static int triple_compare(const void *a, const void *b) {
    const struct triple *left = a, *right = b;
    if (left->source != right->source)
        return left->source < right->source ? -1 : 1;
    if (left->target != right->target)
        return left->target < right->target ? -1 : 1;
    return (left->type > right->type) - (left->type < right->type);
}

static struct triple *triples_read(const struct snapshot *s, const struct npy *edges,
                                   const int32_t *node_of, const int32_t *type_of,
                                   size_t *ret_count) {
    uint64_t cols = s->edge_types ? 3 : 2, count = edges->data ? edges->count / cols : 0;
    const int32_t *items = edges->data;
    struct triple *ret = mem_array(count + 1, sizeof *ret);
    for (uint64_t i = 0; i < count; i++) {
        const int32_t *row = items + i * cols;
        int32_t type = cols == 3 ? row[2] : 0;
        ret[i] =
            (struct triple){node_of ? node_of[row[0]] : row[0], node_of ? node_of[row[1]] : row[1],
                            cols == 3 && type_of ? type_of[type] : type};
    }
    qsort(ret, count, sizeof *ret, triple_compare);
    *ret_count = count;
    return ret;
}

static void compare_aside(const struct sides *sides, int which) {
    const struct snapshot *a = sides->a, *b = sides->b;
    size_t a_count, b_count, i = 0, k = 0;
    _cleanup_(mem_free_p) struct triple *left = triples_read(
        a, which ? &a->test_edges : &a->valid_edges, sides->b_of, sides->type_of, &a_count);
    _cleanup_(mem_free_p) struct triple *right =
        triples_read(b, which ? &b->test_edges : &b->valid_edges, NULL, NULL, &b_count);
    while (i < a_count || k < b_count) {
        int order = i == a_count ? 1 : k == b_count ? -1 : triple_compare(&left[i], &right[k]);
        sides->diff->aside_removed[which] += order < 0;
        sides->diff->aside_added[which] += order > 0;
        i += order <= 0;
        k += order >= 0;
    }
}

int diff_snapshots(const struct snapshot *a, const struct snapshot *b, diff_tell *told, void *ctx,
                   struct diff *ret, struct error *reterr) {
    *ret = (struct diff){0};
    struct sides sides = {.a = a, .b = b, .tell = told, .ctx = ctx, .diff = ret};
    tell(&sides, "ids", 0, a->nodes + b->nodes);
    int r = match_nodes(&sides, reterr);
    if (r == 0) {
        sides.class_of = match_names(a->class_names, a->classes, b->class_names, b->classes);
        sides.node_type_of =
            match_names(a->node_type_names, a->node_types, b->node_type_names, b->node_types);
        sides.type_of =
            match_names(a->edge_type_names, a->edge_types, b->edge_type_names, b->edge_types);
        compare_nodes(&sides);
        compare_edges(&sides);
        compare_aside(&sides, 0);
        compare_aside(&sides, 1);
    }
    mem_free(sides.b_of);
    mem_free(sides.a_of);
    mem_free(sides.class_of);
    mem_free(sides.node_type_of);
    mem_free(sides.type_of);
    return r;
}

bool diff_none(const struct diff *d) {
    return !d->order && !d->removed.count && !d->added.count && !d->labels.count &&
           !d->splits.count && !d->features.count && !d->types.count && !d->edges_removed.count &&
           !d->edges_added.count && !d->weights_changed && !d->aside_removed[0] &&
           !d->aside_removed[1] && !d->aside_added[0] && !d->aside_added[1];
}
