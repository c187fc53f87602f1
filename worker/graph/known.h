/* The links of a store that are known to be true: edges of its graph and held-out links. Evaluation
 * leaves them out of the candidates ("filtered", Bordes et al., NIPS 2013, section 4.1). Numbers
 * are local ones; targets are owned nodes. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "worker/graph/store.h"

/* The other ends of a node's links, and their types (NULL: all alike); in no order. */
struct known_list {
    size_t count;
    const int32_t *ends, *relations;
};

struct known;
struct known *known_new(const struct store *store); /* borrowed */
struct known *known_free(struct known *known);      /* takes NULL */
/* Of the links out of a local node to owned ones, and of those into an owned node. */
struct known_list known_targets(const struct known *known, int32_t source);
struct known_list known_sources(const struct known *known, int32_t target);
bool known_link(const struct known *known, int32_t source, int32_t target);
