/* The right name nearest to a wrong one, for "did you mean ...?". Offers come one by one, so any
 * table can be walked; nothing is copied. */
#pragma once

#include <stddef.h>

struct nearest {
    const char *name; /* the wrong name; borrowed */
    const char *best; /* the nearest offer so far, NULL while none is near; borrowed */
    size_t distance;
};

void nearest_init(struct nearest *nearest, const char *name);
void nearest_offer(struct nearest *nearest, const char *candidate);
/* Letters inserted, left out, replaced, or swapped with their neighbour; names are cut at 63 bytes.
 */
size_t nearest_distance(const char *a, const char *b);
