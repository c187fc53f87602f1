/* What a kind of layer is: functions over flat float arrays, forward and backward beside each other
 * in one file named like it. Shapes: x [n_src, in], y [n_dst, out]; without edges n_dst = n_src.
 * The bias that follows, normalisation, activation, dropout and what is added around a layer are
 * the same for all kinds (finish.h). Gradients are overwritten. Inside worker/model only.
 *
 * A layer has two halves, so that inference can run it a block of rows at a time: project maps each
 * row of x alone, forward takes the projections of all sources to the rows of y. */
#pragma once

#include "common/model_spec.h"
#include "proto/layout.h"
#include "worker/graph/batch.h"
#include "worker/model/matrix.h"

#define LAYER_TENSORS_MAX 4

struct layer_pass {
    const struct layer_spec *spec;
    const struct layer_graph *graph; /* NULL: no edges */
    size_t n_src, n_dst;
    const struct matrix *x;     /* [n_src, in]; with weights first NULL in a block of rows */
    const struct matrix *x_dst; /* [n_dst or more, in]: the rows of the destinations */
    const float *start;         /* ppr: [n_dst or more, in] what it starts from, these rows first */
    const float *const *outputs; /* jump: of each layer before it [n_dst or more, its out] */
    /* Multiplying by the graph and by the weights may be done in either order. True: the graph
     * first, and saved keeps A x for the backward pass. */
    bool graph_first;
    bool saved_valid; /* saved holds A x already, from an earlier pass over the same x */
    const float *weights;
    float *z;     /* [n_src, room.z] projections; lies where scratch does unless it is kept */
    float *saved; /* [n_dst, in] with graph_first, or as wide as room.saved says; belongs to
                     forward and backward together */
    float *own;   /* [room.own] the same, for whatever the layer likes */
    /* Of attention: destination i is source first + i; dropout while training. */
    size_t first;
    float attention_dropout;
    uint64_t key;
    const int64_t *nodes; /* [n_src] global numbers */
    float *scratch;       /* [room.scratch]; free between calls, and within one once z is used up */
};

/* Floats that a layer needs. */
struct layer_room {
    size_t z;       /* of each source's projection; 0: there is none */
    bool z_kept;    /* backward needs it */
    size_t own;     /* in all */
    size_t saved;   /* of each destination, with graph_first; 0: in */
    size_t scratch; /* in all, besides z */
};

/* Floats of each row of saved. */
static inline size_t layer_saved(const struct layer_spec *spec, const struct layer_room *room) {
    return room->saved ? room->saved : spec->in;
}

struct layer {
    /* Does forward read x_dst? */
    bool takes_own_rows;
    /* Fills ret with at most LAYER_TENSORS_MAX tensors (name, rows, cols, init), in the order in
     * which weights has them, and returns how many. NULL: it has no weights, hence no bias. */
    size_t (*tensors)(const struct layer_spec *spec, struct tensor_spec *ret);
    struct layer_room (*room)(const struct layer_spec *spec, size_t n_dst, size_t n_src,
                              bool graph_first, bool train);
    /* The projections of sources first to first + rows - 1, x being their rows; how they lie in z
     * is the layer's matter. NULL when room.z is always 0. */
    void (*project)(const struct layer_pass *pass, const struct matrix *x, size_t first,
                    size_t rows);
    void (*forward)(const struct layer_pass *pass, float *y);
    /* dy [n_dst, out] may be changed; dx [n_src, in] or NULL when nobody needs it; dstart: is added
     * to, its first n_dst rows. */
    void (*backward)(const struct layer_pass *pass, float *dy, float *dweights, float *dx,
                     float *dstart);
};

#define LAYER(name, graph, order, takes, sentence) extern const struct layer layer_##name;
#include "common/layers.def"
#undef LAYER
const struct layer *layer_of(int kind);
/* Floats of all its weights. */
size_t layer_weights(const struct layer_spec *spec);

/* The share of the layer k before it in a jump: its outputs x [n, its out] into y [n, out], which
 * the layers below k are in already. */
void jump_put(const struct layer_spec *jump, size_t k, size_t n, const float *x, float *y);
/* And of its gradient dy [n, out] in dx [n or more, its out], which is added to. */
void jump_back(const struct layer_pass *pass, size_t k, const float *dy, float *dx);

/* y [n_dst, d] = A x [n_src, d], the self term included. */
void adjacency_multiply(const struct layer_graph *graph, size_t d, const float *x, float *y);
/* The same with rows of y that are ldy floats apart. */
void adjacency_multiply_into(const struct layer_graph *graph, size_t d, const float *x, float *y,
                             size_t ldy);
/* dx [n_src, d] = transposed A dy [n_dst, d], the self term included. */
void adjacency_multiply_back(const struct layer_graph *graph, size_t d, const float *dy, float *dx);
/* The same with rows of dy that are lddy floats apart. */
void adjacency_multiply_back_from(const struct layer_graph *graph, size_t d, const float *dy,
                                  size_t lddy, float *dx);
