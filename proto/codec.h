/* Gradients <-> payload bytes, one block at a time. All numbers are little-endian, all lengths
 * multiples of 4.
 *
 * fp32: n floats.
 *
 * int8: a float scale, a float minimum, then n bytes q, meaning minimum + q * scale (q in 0..255),
 * padded with zeros.
 *
 * fp16: n IEEE halves, padded with zeros; what is finite and beyond +-65504 is sent as that.
 *
 * topk: of the n values the k of largest magnitude (Aji & Heafield, EMNLP 2017; Lin et al., ICLR
 * 2018): k, then k indices, ascending, then k floats; the others count as 0.
 *
 * Error feedback (Seide et al., Interspeech 2014): what rounding lost or what stayed behind is kept
 * in a residual and added to the next gradient. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* In the order of push.encoding and of graphps.proto's Encoding. */
enum codec { CODEC_FP32, CODEC_INT8, CODEC_FP16, CODEC_TOPK, CODEC_END };
/* push.topk_ratio as it is by default: k = max(1, ceil(ratio * n)). Other codecs ignore it. */
#define CODEC_TOPK_RATIO 0.01

/* For the sender: bytes of a block of n floats, n > 0. */
size_t codec_bytes(enum codec codec, double topk_ratio, size_t n);
/* Encodes gradient [n] (finite) into bytes [codec_bytes] (4-byte aligned) and returns how many were
 * written; residual [n] is read and rewritten, NULL to let go of what is lost. fp32 has none. */
size_t codec_encode(enum codec codec, double topk_ratio, const float *gradient, size_t n,
                    float *residual, uint8_t *bytes);

/* For the receiver, who believes nothing: the length of the block of n floats that begins at bytes
 * (4-byte aligned), of which `available` are there. ERR_PROTOCOL when that is too few, or the block
 * claims to hold more than n values. */
int codec_size(enum codec codec, const uint8_t *bytes, size_t available, size_t n,
               size_t *ret_bytes);
/* Of a block whose size is known to be there. ERR_NOT_FINITE: a number is not, or decodes to one
 * that is not. ERR_PROTOCOL: indices that do not ascend, or reach n. Called on all blocks of a push
 * before any is admitted. */
int codec_check(enum codec codec, const uint8_t *bytes, size_t n);
/* sum[n] += weight * decoded; of a block that was checked. */
void codec_add(enum codec codec, const uint8_t *bytes, size_t n, float weight, float *sum);
