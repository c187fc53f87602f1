/* The table of decoders. */
#include "worker/model/decoder.h"

#include "common/config.h"

extern const struct decoder decoder_dot, decoder_distmult;

const struct decoder *decoder_of(int kind) {
    return kind == DECODER_DISTMULT ? &decoder_distmult : &decoder_dot;
}

size_t decoder_tensors(int kind, uint32_t relations, uint32_t dim, struct tensor_spec *ret) {
    if (!decoder_of(kind)->relational)
        return 0;
    *ret = (struct tensor_spec){.name = "decoder.relation",
                                .rows = relations,
                                .cols = dim,
                                .init = TENSOR_GLOROT_UNIFORM,
                                .decay = true};
    return 1;
}
