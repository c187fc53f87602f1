/* Gradients <-> payload bytes. The vector work is common/vec's; here is the form on the wire. */
#include "proto/codec.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "common/vec.h"

/* In front of a block's int8 values. */
struct codec_scale {
    float scale, minimum;
};

size_t codec_bytes(enum codec codec, size_t n) {
    if (codec == CODEC_FP32)
        return n * sizeof(float);
    return sizeof(struct codec_scale) + (n + 3) / 4 * 4;
}

/* The range of gradient + residual, in pieces that stay in the first cache. */
static void codec_range(const float *gradient, const float *residual, size_t n, float *ret_min,
                        float *ret_max) {
    if (!residual) {
        vec()->minmax(gradient, n, ret_min, ret_max);
        return;
    }
    float sums[1024], min = INFINITY, max = -INFINITY;
    for (size_t at = 0; at < n; at += 1024) {
        size_t len = n - at < 1024 ? n - at : 1024;
        float piece_min, piece_max;
        memcpy(sums, gradient + at, len * sizeof *sums);
        vec()->axpy(1, residual + at, sums, len);
        vec()->minmax(sums, len, &piece_min, &piece_max);
        min = fminf(min, piece_min);
        max = fmaxf(max, piece_max);
    }
    *ret_min = min;
    *ret_max = max;
}

void codec_encode(enum codec codec, const float *gradient, size_t n, float *residual,
                  uint8_t *bytes) {
    assert(n > 0);
    if (codec == CODEC_FP32) {
        memcpy(bytes, gradient, n * sizeof *gradient);
        return;
    }
    float min, max;
    codec_range(gradient, residual, n, &min, &max);
    /* Divided first, since max - min may overflow. */
    struct codec_scale head = {.scale = max / 255 - min / 255, .minimum = min};
    memcpy(bytes, &head, sizeof head);
    uint8_t *q = bytes + sizeof head;
    vec()->quantize(gradient, n, head.minimum, head.scale, residual, q);
    memset(q + n, 0, codec_bytes(codec, n) - sizeof head - n);
}

int codec_check(enum codec codec, const uint8_t *bytes, size_t n) {
    if (codec == CODEC_FP32)
        return vec()->finite((const float *)(const void *)bytes, n) ? 0 : ERR_NOT_FINITE;
    struct codec_scale head;
    memcpy(&head, bytes, sizeof head);
    /* The largest value that can come out; it is not finite when one of the two is not. */
    return isfinite(head.minimum + 255 * head.scale) ? 0 : ERR_NOT_FINITE;
}

void codec_add(enum codec codec, const uint8_t *bytes, size_t n, float weight, float *sum) {
    if (codec == CODEC_FP32) {
        vec()->axpy(weight, (const float *)(const void *)bytes, sum, n);
        return;
    }
    struct codec_scale head;
    memcpy(&head, bytes, sizeof head);
    vec()->dequantize_axpy(weight, bytes + sizeof head, n, head.minimum, head.scale, sum);
}
