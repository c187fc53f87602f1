/* Which part owns which node, by one of three methods; parts keep balance.h's limits. */
#pragma once

#include "worker/graph/snapshot.h"
#include "worker/graph/watch.h"

enum assign_method {
    ASSIGN_AUTO,   /* METIS while it fits, else Fennel */
    ASSIGN_NONE,   /* one part: nothing to cut */
    ASSIGN_METIS,  /* assign_metis.h: the fewest edges cut, memory that grows with the edges */
    ASSIGN_FENNEL, /* stream.h: memory that grows with the nodes */
    ASSIGN_RANDOM, /* by lot: what the others are measured by */
};
const char *assign_method_name(enum assign_method method); /* "metis" */
bool assign_method_parse(const char *name, enum assign_method *ret);

struct assign_options {
    uint32_t parts;
    enum assign_method method;
    uint64_t seed;
    uint64_t memory_bytes; /* what ASSIGN_AUTO may give to METIS; 0: what the machine has to give */
};

/* What ASSIGN_AUTO comes to; other methods stay as they are, but for one part. why [why_bytes] gets
 * the reason when it is not METIS, else "". */
enum assign_method assign_choose(const struct snapshot *snapshot,
                                 const struct assign_options *options, char *why, size_t why_bytes);
/* owner [nodes] gets 0..parts-1; 1 <= parts <= nodes; options->method is not ASSIGN_AUTO. Every
 * part owns a node, and a training node while there are as many. Deterministic in seed. ERR_RANGE:
 * too many edges for METIS; ERR_NO_MEMORY; ERR_INTERRUPTED. */
int assign_owners(const struct snapshot *snapshot, const struct assign_options *options,
                  const struct watch *watch, int32_t *owner, struct error *reterr);
