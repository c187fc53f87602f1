/* Held-out links as questions: given one end and the type of the link, which nodes are at the other
 * end? Inside worker/model only. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "worker/graph/store.h"

struct link_query {
    int32_t kept, relation;
    uint8_t wanted;      /* node type of the other ends; 0 where there are none */
    size_t first, count; /* its answers */
};

struct link_queries {
    bool sources;               /* are sources asked for? else targets */
    size_t count, answer_count; /* answer_count: as many as there are links */
    struct link_query *queries; /* [count] those that want one node type stand together */
    int32_t *answers;           /* [answer_count] true ends */
};

/* Of all links of a set. The same in whatever order they stand. */
void link_queries_init(struct link_queries *queries, const struct store *store,
                       const struct links *links, bool sources);
void link_queries_done(struct link_queries *queries);
