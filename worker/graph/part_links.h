/* The held-out links of a part: of those that the snapshot sets aside, the ones whose target it
 * owns. */
#pragma once

#include "worker/graph/part.h"

/* Deals the snapshot's links out to the parts; owner [nodes]. held_out_done frees them. */
void held_out_deal(const struct snapshot *snapshot, uint32_t parts, const int32_t *owner,
                   struct held_out ret[PART_LINKS]);
void held_out_done(struct held_out held[PART_LINKS]);

/* The bytes of a part's links on disk, at most. */
uint64_t part_links_bytes(const struct cut *cut, uint32_t number);
/* Gives their sources, where they have none yet, local numbers from local on; returns the next. */
uint64_t part_links_collect(const struct cut *cut, struct desk *desk, uint32_t number,
                            uint64_t local);
/* Writes <split>_sources.npy and so on, and counts part->links. */
int part_links_write(struct cut *cut, const struct desk *desk, uint32_t number, const char *dir,
                     struct part *part, struct error *reterr);
