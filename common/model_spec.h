/* What a model is: a list of layers, from the short form of a job file (model.kind, layers, hidden,
 * ...) or its long one (model.stack, a line for each layer, such as "gcn width=64 activation=relu
 * dropout=0.5"). Text and numbers only: what layers compute is worker/model's matter. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct config;

#define STACK_MAX 32 /* layers */
#define HOPS_MAX 16  /* of them propagating */
#define LAYER_TEXT_MAX 160
#define STACK_TEXT_MAX (STACK_MAX * LAYER_TEXT_MAX)

/* How a layer's edges are weighed; d: degree of a node in the whole graph without itself. With edge
 * weights w an edge counts for its w: in d (a sum of weights then), in the mean, in the sum; the
 * node itself counts 1. */
enum graph_norm {
    GRAPH_SYM,          /* w / sqrt((d_i + 1)(d_j + 1)), the node itself 1 / (d_i + 1) */
    GRAPH_MEAN,         /* w / (sum of w of neighbours present), the node itself not at all */
    GRAPH_WALK,         /* w / (d_i + 1), also the node itself (w 1) */
    GRAPH_SUM,          /* w, the node itself 1 */
    GRAPH_SYM_WEIGHTED, /* the same with w from the graph; above w is 1 */
    GRAPH_MEAN_WEIGHTED,
    GRAPH_WALK_WEIGHTED,
    GRAPH_SUM_WEIGHTED,
    GRAPH_BARE, /* not at all: the layer weighs or chooses them */
    GRAPH_NONE, /* no edges */
};

static inline bool graph_is_weighted(int graph) {
    return graph >= GRAPH_SYM_WEIGHTED && graph <= GRAPH_SUM_WEIGHTED;
}
/* The norm without the weights. */
static inline int graph_plain(int graph) {
    return graph_is_weighted(graph) ? graph - GRAPH_SYM_WEIGHTED : graph;
}

/* The layers that propagate, the nearest to the input first. */
struct hops {
    size_t count;
    int graph[HOPS_MAX]; /* enum graph_norm */
    /* Outputs are wanted of nodes so many hops around the owned ones: 1 where links into those are
     * scored, else 0. */
    size_t outer;
};

enum layer_kind {
#define LAYER(name, graph, order, takes, sentence) LAYER_##name,
#include "common/layers.def"
#undef LAYER
    LAYER_KINDS
};

/* How jumping knowledge joins the outputs of layers. */
enum jump { JUMP_NONE, JUMP_CONCAT, JUMP_MAX };

/* What a layer multiplies first, the graph or the weights; either: what takes less time. */
enum layer_order { ORDER_WEIGHTS, ORDER_GRAPH, ORDER_EITHER };
enum activation { ACTIVATION_RELU, ACTIVATION_ELU, ACTIVATION_GELU, ACTIVATION_NONE };
enum layer_norm { NORM_NONE, NORM_LAYER, NORM_BATCH };

struct layer_spec {
    int kind;       /* enum layer_kind */
    uint32_t in;    /* floats of a row that goes in */
    uint32_t out;   /* and that comes out */
    uint32_t width; /* as given; 0: not given, out is the number of classes or as wide as in */
    int norm, activation;
    float dropout;
    bool residual; /* what goes in is added before the activation, by a matrix if widths differ */
    float alpha;   /* ppr: share of the start */
    int mode;      /* jump: enum jump */
    bool edge_weights; /* the graph's count */
    /* Attention: width is a head's, out that of all together or, when they are averaged, a head's.
     */
    uint32_t heads;
    bool average;
    float attention_dropout;
    float slope; /* of its leaky relu */
    /* Made from the list: */
    int graph;    /* enum graph_norm */
    int order;    /* enum layer_order */
    size_t hop;   /* number among the propagating layers; of others the next one's */
    size_t start; /* ppr: the layer whose output it starts from; jump: its own number */
};

struct model_spec {
    size_t count; /* layers */
    struct layer_spec layers[STACK_MAX];
    struct hops hops;
    uint32_t input_dim, classes;
    uint32_t embedding; /* the last so many of input_dim are a row that is learned for each node */
    float input_dropout;
    float label_smoothing;
    int decay_layers; /* DECAY_ALL, DECAY_FIRST */
    uint64_t seed;    /* of dropout */
};

/* A fault: of which entry of model.stack, or MODEL_FAULT_LIST, of the list as a whole. */
#define MODEL_FAULT_LIST SIZE_MAX
typedef void model_fault(void *ctx, size_t entry, const char *text);
/* Are the model's options sound? Tells every fault; returns how many there are. */
size_t model_spec_check(const struct config *config, model_fault *tell, void *ctx);
/* From options that are sound and a graph's dimensions; input_dim becomes feature_dim and what
 * model.embedding puts behind. With train.task links the model puts out embeddings of link.dim
 * numbers in place of classes. */
void model_spec_from(const struct config *config, uint32_t feature_dim, uint32_t classes,
                     struct model_spec *ret);
/* How many layers propagate: what does not depend on a graph. */
size_t model_spec_hops(const struct config *config);
/* Does a layer use the graph's edge weights? */
bool model_spec_weighted(const struct model_spec *spec);
/* Is the transpose of the first layer's graph of use, which is the largest of all? When no input
 * needs a gradient, not where it propagates features that are narrower than its output. */
bool model_spec_first_transpose(const struct model_spec *spec);
/* The layers as lines of model.stack, joined by "; ". buf_bytes STACK_TEXT_MAX is enough. */
void model_spec_print(const struct model_spec *spec, char *buf, size_t buf_bytes);
/* Do both compute the same of the same weights? Dropout is not asked about. */
bool model_spec_same(const struct model_spec *a, const struct model_spec *b);
/* Numbers that come out for each node. They are as many as classes unless no layer has weights. */
uint32_t model_spec_outputs(const struct model_spec *spec);
/* The layers from such a text; the other fields are left as they are, and embedding says whether a
 * list without weights learns. ERR_CONFIG. */
int model_spec_parse(const char *text, uint32_t input_dim, uint32_t classes,
                     struct model_spec *spec, struct error *reterr);
const char *layer_kind_name(int kind);
