/* All edges into a store's own nodes as links to be learnt, with negatives that are drawn anew for
 * each epoch: what full mode's one batch trains on. Numbers are local ones. */
#pragma once

#include "common/config.h"
#include "worker/graph/batch.h"
#include "worker/graph/store.h"

struct full_links;
/* ERR_CONFIG: they are too many for one step. The store is borrowed. */
int full_links_new(const struct store *store, const struct config *config, struct full_links **ret,
                   struct error *reterr);
struct full_links *full_links_free(struct full_links *links); /* takes NULL */
/* Valid until the next call. */
struct link_pairs full_links_get(struct full_links *links, uint64_t epoch);
/* What it takes for so many edges. */
size_t full_links_bytes(const struct store *store, const struct config *config);
