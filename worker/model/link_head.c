/* Decoder, then loss, and back. */
#include "worker/model/link_head.h"

#include <string.h>

#include "common/mem.h"
#include "worker/model/decoder.h"
#include "worker/model/link_loss.h"
#include "worker/model/model.h"

struct link_head {
    struct link_head_spec spec;
    size_t room; /* pairs that there is room for */
    float *scores, *dscores;
    struct incidence incidence;
};

struct link_head_spec link_head_spec_from(const struct config *config, uint32_t edge_types) {
    return (struct link_head_spec){
        .decoder = config->link_decoder,
        .loss = config->link_loss,
        .dim = (uint32_t)config->link_dim,
        .relations = edge_types ? edge_types : 1,
    };
}

size_t link_head_tensors(const struct link_head_spec *head, const struct model_spec *spec,
                         struct tensor_spec **ret) {
    _cleanup_(mem_free_p) struct tensor_spec *own = NULL;
    size_t count = model_tensors(spec, &own);
    struct tensor_spec *all = mem_array(count + 1, sizeof *all);
    size_t decoders = decoder_tensors(head->decoder, head->relations, head->dim, all);
    memcpy(all + decoders, own, count * sizeof *all);
    *ret = all;
    return decoders + count;
}

size_t link_head_floats(const struct link_head_spec *head) {
    return decoder_of(head->decoder)->relational ? (size_t)head->relations * head->dim : 0;
}

struct link_head *link_head_new(const struct link_head_spec *spec) {
    struct link_head *head = mem_alloc(sizeof *head);
    head->spec = *spec;
    return head;
}

struct link_head *link_head_free(struct link_head *head) {
    if (head) {
        mem_free(head->scores);
        mem_free(head->dscores);
        incidence_done(&head->incidence);
        mem_free(head);
    }
    return NULL;
}

size_t link_head_bytes(uint64_t pairs, size_t outputs) {
    return 2 * pairs * sizeof(float) + incidence_bytes(pairs, outputs);
}

double link_head_forward(struct link_head *head, const struct link_pairs *pairs, const float *y,
                         const float *weights) {
    uint64_t all = link_pairs_all(pairs);
    if (all > head->room) {
        head->room = all;
        mem_free(head->scores);
        mem_free(head->dscores);
        head->scores = mem_raw(all * sizeof *head->scores);
        head->dscores = mem_raw(all * sizeof *head->dscores);
    }
    decoder_of(head->spec.decoder)->score(pairs, head->spec.dim, y, weights, head->scores);
    return head->spec.loss == LINK_BPR ? link_loss_bpr(pairs, head->scores, head->dscores)
                                       : link_loss_bce(pairs, head->scores, head->dscores);
}

void link_head_backward(struct link_head *head, const struct link_pairs *pairs, size_t n,
                        const float *y, const float *weights, float *dy, float *dweights) {
    incidence_make(&head->incidence, pairs, n);
    memset(dweights, 0, link_head_floats(&head->spec) * sizeof *dweights);
    decoder_of(head->spec.decoder)
        ->backward(pairs, &head->incidence, head->spec.dim, y, weights, head->dscores, dy,
                   dweights);
}
