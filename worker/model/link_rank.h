/* How well held-out links are told from others, by the embeddings of their ends.
 *
 * Ranks: each link is a question twice, for its target given the source and for its source given
 * the target (Bordes et al., NIPS 2013, section 4.1). Candidates are own nodes of the right type;
 * left out are the given node and all that make a known link (the filtered setting there), held-out
 * ones included. Equal scores count half.
 *
 * Recall@k and NDCG@k, where all own nodes are candidates: each source (and type of link) with its
 * held-out targets is a query.
 *
 * ROC-AUC and average precision: each link against a pair of random own nodes of its ends' types
 * that is no known link, the same pairs in each evaluation.
 *
 * All of it is of one store, so with several workers candidates are the own nodes of one, which
 * are fewer: ranks are lower than one worker would find them. */
#pragma once

#include "common/config.h"
#include "proto/score.h"
#include "worker/graph/store.h"

struct link_rank_spec {
    int decoder; /* DECODER_* */
    uint32_t dim;
    uint64_t candidates; /* of each node type, drawn from the seed; 0: all own nodes */
    uint64_t seed;
    uint32_t k; /* of Recall@k and NDCG@k */
};

/* What a job asks for. */
struct link_rank_spec link_rank_spec_from(const struct config *config);

struct link_rank;
struct link_rank *link_rank_new(const struct link_rank_spec *spec, const struct store *store);
struct link_rank *link_rank_free(struct link_rank *rank); /* takes NULL */
/* Adds those of the valid and test links to eval, which score_links_begin has prepared. y:
 * embeddings of the own nodes and those one hop around; weights: the decoder's. The same sums for
 * any number of threads. */
void link_rank_run(struct link_rank *rank, const float *y, const float *weights,
                   Graphps__Eval *eval);
/* About what it takes. */
size_t link_rank_bytes(const struct link_rank_spec *spec, const struct store *store);
