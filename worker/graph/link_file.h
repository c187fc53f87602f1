/* Pairs of nodes that the user names, to be scored. */
#pragma once

#include "worker/graph/snapshot.h"

struct link_file {
    size_t count;
    int32_t *sources, *targets; /* [count] numbers in the snapshot */
    int32_t *relations;         /* [count] or NULL: the edges have no types */
};

/* A text table of source,target and, where the snapshot's edges have types, the type's name; ids
 * are the user's. A first row of just those words, source,target[,type], is a header. An id or a
 * type that the snapshot does not have is ERR_NOT_FOUND with its line. link_file_done also after a
 * fault. */
int link_file_read(const char *path, const struct snapshot *snapshot, struct link_file *ret,
                   struct error *reterr);
void link_file_done(struct link_file *file);
