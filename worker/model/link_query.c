/* Links sorted by what is asked. */
#include "worker/model/link_query.h"

#include <stdlib.h>

#include "common/mem.h"

struct item {
    int32_t kept, relation, answer;
    uint8_t wanted;
};

static int compare(const void *a, const void *b) {
    const struct item *x = a, *y = b;
    if (x->wanted != y->wanted)
        return x->wanted < y->wanted ? -1 : 1;
    if (x->kept != y->kept)
        return x->kept < y->kept ? -1 : 1;
    if (x->relation != y->relation)
        return x->relation < y->relation ? -1 : 1;
    return x->answer < y->answer ? -1 : x->answer > y->answer;
}

void link_queries_init(struct link_queries *queries, const struct store *store,
                       const struct links *links, bool sources) {
    _cleanup_(mem_free_p) struct item *items = mem_array(links->count, sizeof *items);
    for (size_t i = 0; i < links->count; i++) {
        int32_t u = links->sources[i], v = links->targets[i];
        items[i] = (struct item){
            .kept = sources ? v : u,
            .relation = links->relations ? links->relations[i] : 0,
            .answer = sources ? u : v,
            .wanted = store->node_type ? store->node_type[sources ? u : v] : 0,
        };
    }
    if (links->count > 0)
        qsort(items, links->count, sizeof *items, compare);
    *queries = (struct link_queries){
        .sources = sources,
        .answer_count = links->count,
        .queries = mem_array(links->count, sizeof *queries->queries),
        .answers = mem_array(links->count, sizeof *queries->answers),
    };
    for (size_t i = 0; i < links->count; i++) {
        const struct item *item = &items[i], *before = item - 1;
        if (i == 0 || item->wanted != before->wanted || item->kept != before->kept ||
            item->relation != before->relation)
            queries->queries[queries->count++] = (struct link_query){
                .kept = item->kept, .relation = item->relation, .wanted = item->wanted, .first = i};
        queries->queries[queries->count - 1].count++;
        queries->answers[i] = item->answer;
    }
}

void link_queries_done(struct link_queries *queries) {
    mem_free(queries->queries);
    mem_free(queries->answers);
}
