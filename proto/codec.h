/* Gradients <-> payload bytes, one block at a time. fp32: n floats, little-endian. int8: a float
 * scale, a float minimum, then n bytes q, meaning minimum + q * scale (q in 0..255), padded with
 * zeros to a multiple of 4. Error feedback (Seide et al., Interspeech 2014): what rounding lost is
 * kept in a residual and added to the next gradient. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum codec { CODEC_FP32, CODEC_INT8, CODEC_END };

/* Payload bytes of a block of n floats. */
size_t codec_bytes(enum codec codec, size_t n);
/* Encodes gradient [n] (finite) into bytes [codec_bytes]; residual [n] is read and rewritten, may
 * be NULL for CODEC_FP32. */
void codec_encode(enum codec codec, const float *gradient, size_t n, float *residual,
                  uint8_t *bytes);
/* A scale or minimum that is not finite, a float that is not finite: ERR_NOT_FINITE. Called on all
 * blocks of a push before any is admitted. bytes is 4-byte aligned. */
int codec_check(enum codec codec, const uint8_t *bytes, size_t n);
/* sum[n] += weight * decoded */
void codec_add(enum codec codec, const uint8_t *bytes, size_t n, float weight, float *sum);
