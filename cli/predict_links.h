/* What `graphps predict` does with a model of links: nodes' embeddings, scores of pairs that the
 * user names, ranks of the held-out links among all nodes. */
#pragma once

#include <stdio.h>

#include "common/config.h"
#include "worker/graph/store.h"

struct predict_links {
    const struct config *config;
    const struct snapshot *snapshot;
    const struct store *store; /* the whole snapshot */
    int decoder;               /* DECODER_* */
    uint32_t dim;
    const float *outputs; /* [nodes, dim] */
    const float *weights; /* the decoder's */
};

/* "dot", ... to DECODER_*; -1: there is none such. */
int predict_links_decoder(const char *name);
/* id,e0,e1,... of every node, to a file or "-". */
int predict_links_embeddings(const struct predict_links *links, const char *path,
                             struct error *reterr);
/* source,target[,type],score of each pair in the file pairs, in its order. *ret: how many. */
int predict_links_scores(const struct predict_links *links, const char *pairs, const char *path,
                         size_t *ret, struct error *reterr);
/* The scores of valid and test links, each ranked among all nodes (worker/model/link_rank.h). */
void predict_links_evaluate(const struct predict_links *links, FILE *out);
