/* Links sorted by source and by target: counted, then placed. */
#include "worker/graph/known.h"

#include "common/mem.h"

struct sorted {
    int64_t *indptr; /* [nodes + 1] */
    int32_t *ends, *relations;
};

struct known {
    struct sorted by_source, by_target; /* of local, and of owned nodes */
};

struct link {
    int32_t source, target, relation;
};

/* Calls what is done with each link, in a fixed order. */
static void each_link(const struct store *store, void (*use)(struct known *, struct link),
                      struct known *known) {
    for (uint64_t i = 0; i < store->owned; i++)
        for (int64_t e = store->indptr[i]; e < store->indptr[i + 1]; e++)
            use(known, (struct link){store->indices[e], (int32_t)i,
                                     store->edge_type ? store->edge_type[e] : 0});
    for (int s = SPLIT_VALID; s <= SPLIT_TEST; s++)
        for (size_t i = 0; i < store->links[s].count; i++)
            use(known, (struct link){store->links[s].sources[i], store->links[s].targets[i],
                                     store->links[s].relations ? store->links[s].relations[i] : 0});
}

/* Counts stand one place to the right of where their running sum begins, so that the filling, which
 * moves each row's begin to its end, leaves the whole in place (as mfg_transpose does). */
static void count(struct known *known, struct link link) {
    known->by_source.indptr[link.source + 2]++;
    known->by_target.indptr[link.target + 2]++;
}

static void place_in(struct sorted *sorted, int32_t node, int32_t end, int32_t relation) {
    int64_t at = sorted->indptr[node + 1]++;
    sorted->ends[at] = end;
    if (sorted->relations)
        sorted->relations[at] = relation;
}

static void place(struct known *known, struct link link) {
    place_in(&known->by_source, link.source, link.target, link.relation);
    place_in(&known->by_target, link.target, link.source, link.relation);
}

static void make_room(struct sorted *sorted, uint64_t nodes, bool typed) {
    for (uint64_t i = 1; i <= nodes + 1; i++)
        sorted->indptr[i] += sorted->indptr[i - 1];
    size_t count = (size_t)sorted->indptr[nodes + 1];
    sorted->ends = mem_raw(count * sizeof *sorted->ends);
    sorted->relations = typed ? mem_raw(count * sizeof *sorted->relations) : NULL;
}

struct known *known_new(const struct store *store) {
    struct known *known = mem_alloc(sizeof *known);
    known->by_source.indptr = mem_array(store->local + 2, sizeof(int64_t));
    known->by_target.indptr = mem_array(store->owned + 2, sizeof(int64_t));
    each_link(store, count, known);
    make_room(&known->by_source, store->local, store->edge_type != NULL);
    make_room(&known->by_target, store->owned, store->edge_type != NULL);
    each_link(store, place, known);
    return known;
}

static void sorted_done(struct sorted *sorted) {
    mem_free(sorted->indptr);
    mem_free(sorted->ends);
    mem_free(sorted->relations);
}

struct known *known_free(struct known *known) {
    if (known) {
        sorted_done(&known->by_source);
        sorted_done(&known->by_target);
        mem_free(known);
    }
    return NULL;
}

static struct known_list list_of(const struct sorted *sorted, int32_t node) {
    int64_t begin = sorted->indptr[node];
    return (struct known_list){
        .count = (size_t)(sorted->indptr[node + 1] - begin),
        .ends = sorted->ends + begin,
        .relations = sorted->relations ? sorted->relations + begin : NULL,
    };
}

struct known_list known_targets(const struct known *known, int32_t source) {
    return list_of(&known->by_source, source);
}

struct known_list known_sources(const struct known *known, int32_t target) {
    return list_of(&known->by_target, target);
}

bool known_link(const struct known *known, int32_t source, int32_t target) {
    struct known_list list = known_targets(known, source);
    for (size_t i = 0; i < list.count; i++)
        if (list.ends[i] == target)
            return true;
    return false;
}
