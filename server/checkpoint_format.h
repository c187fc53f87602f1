/* The bytes of a checkpoint, for checkpoint_encode.c and checkpoint_decode.c alone. */
#pragma once

#include "server/checkpoint.h"

#define CHECKPOINT_MAGIC "GPSCKPT2"
#define CHECKPOINT_PREFIX_BYTES 16 /* magic, header length */
#define CHECKPOINT_SUFFIX_BYTES 8  /* checksum */
#define CHECKPOINT_PIECE_BYTES ((size_t)1 << 20)

/* In front of a row's floats. */
struct checkpoint_row_head {
    uint64_t row;
    uint32_t clock, steps;
};

/* A row in the file: head, weights, state, the best weights where there are any, zeros up to a
 * multiple of 8. */
static inline size_t checkpoint_row_bytes(const struct checkpoint *checkpoint, size_t table,
                                          bool best) {
    size_t floats = checkpoint->tables[table].spec.dim * (1 + checkpoint->state_floats + best);
    return sizeof(struct checkpoint_row_head) + (floats * sizeof(float) + 7) / 8 * 8;
}
