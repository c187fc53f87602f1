/* Gradients <-> payload bytes. The vector work is common/vec's; here is the form on the wire, and
 * the choice of the k largest. */
#include "proto/codec.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "common/pool.h"
#include "common/vec.h"

/* In front of a block's int8 values. */
struct codec_scale {
    float scale, minimum;
};

/* In topk: the count, as many indices, as many values. */
enum { TOPK_HEAD_BYTES = 4, TOPK_ITEM_BYTES = 8 };

static size_t topk_count(double ratio, size_t n) {
    double share = ceil(ratio * (double)n);
    return share < 1 ? 1 : share < (double)n ? (size_t)share : n;
}

size_t codec_bytes(enum codec codec, double topk_ratio, size_t n) {
    switch (codec) {
    case CODEC_INT8:
        return sizeof(struct codec_scale) + (n + 3) / 4 * 4;
    case CODEC_FP16:
        return (n + 1) / 2 * 4;
    case CODEC_TOPK:
        return TOPK_HEAD_BYTES + topk_count(topk_ratio, n) * TOPK_ITEM_BYTES;
    default:
        return n * sizeof(float);
    }
}

/* --- int8 --- */

static size_t int8_encode(const float *gradient, size_t n, float *residual, uint8_t *bytes) {
    float min, max;
    vec()->minmax(gradient, residual, n, &min, &max);
    /* Divided first, since max - min may overflow. */
    struct codec_scale head = {.scale = max / 255 - min / 255, .minimum = min};
    memcpy(bytes, &head, sizeof head);
    uint8_t *q = bytes + sizeof head;
    vec()->quantize(gradient, n, head.minimum, head.scale, residual, q);
    size_t total = codec_bytes(CODEC_INT8, 0, n);
    memset(q + n, 0, total - sizeof head - n);
    return total;
}

/* --- fp16 --- */

static size_t fp16_encode(const float *gradient, size_t n, float *residual, uint8_t *bytes) {
    uint16_t *halves = (uint16_t *)(void *)bytes;
    vec()->halve(gradient, n, residual, halves);
    if (n % 2)
        halves[n] = 0;
    return (n + n % 2) * sizeof *halves;
}

/* --- topk --- */

/* The magnitude as bits, which are in the order of the magnitudes. */
static uint32_t size_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x7fffffff;
}

/* The want-th largest of bits [n], all below 2^31, 1 <= want <= n, by bisection: at most 31 looks
 * at each, many at a time. */
static uint32_t topk_select(const uint32_t *bits, size_t n, size_t want) {
    /* At least `want` are >= low; fewer are >= high. */
    uint32_t low = 0, high = 1u << 31;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (vec()->count(bits, n, middle) >= want)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* A magnitude that a little more than k of the values reach, by a sample from places that no
 * pattern of the block meets again and again. A guess alone: the choice is exact whatever it says.
 */
static uint32_t topk_floor(const float *values, size_t n, size_t k) {
    enum { SAMPLE = 512 };
    double expected = (double)k / (double)n * SAMPLE;
    size_t want = (size_t)(expected + 3 * sqrt(expected) + 3);
    if (n < 8 * SAMPLE || want > SAMPLE / 2)
        return 0;
    uint32_t bits[SAMPLE];
    for (uint32_t i = 0; i < SAMPLE; i++) {
        uint32_t place = i * 2654435769u; /* the golden ratio's multiples, as parts of 2^32 */
        bits[i] = size_bits(values[(uint64_t)place * n >> 32]);
    }
    return topk_select(bits, SAMPLE, want);
}

static size_t topk_encode(double ratio, const float *gradient, size_t n, float *residual,
                          uint8_t *bytes) {
    size_t k = topk_count(ratio, n);
    assert(n <= UINT32_MAX);
    const float *values = gradient;
    if (residual) {
        vec()->axpy(1, gradient, residual, n);
        values = residual;
    }
    POOL_ARRAY(uint32_t, among, n);
    size_t count = vec()->collect(values, n, topk_floor(values, n, k), among);
    if (count < k) /* the sample misled */
        count = vec()->collect(values, n, 0, among);
    POOL_ARRAY(uint32_t, sizes, count);
    for (size_t i = 0; i < count; i++)
        sizes[i] = size_bits(values[among[i]]);

    /* All above `least`, and of those that equal it the first. */
    uint32_t head = (uint32_t)k, least = topk_select(sizes, count, k);
    size_t ties = k - vec()->count(sizes, count, least + 1), taken = 0;
    uint32_t *index = (uint32_t *)(void *)(bytes + TOPK_HEAD_BYTES);
    float *kept = (float *)(void *)(index + k);
    memcpy(bytes, &head, sizeof head);
    for (size_t i = 0; taken < k; i++) {
        bool tie = sizes[i] == least && ties > 0;
        ties -= tie;
        index[taken] = among[i];
        kept[taken] = values[among[i]];
        taken += sizes[i] > least || tie;
    }
    for (size_t i = 0; residual && i < k; i++)
        residual[index[i]] = 0;
    return TOPK_HEAD_BYTES + k * TOPK_ITEM_BYTES;
}

/* A topk block as it lies in the payload. */
struct topk_view {
    size_t count;
    const uint32_t *index;
    const float *values;
};

static struct topk_view topk_view(const uint8_t *bytes) {
    const uint32_t *words = (const uint32_t *)(const void *)bytes;
    return (struct topk_view){words[0], words + 1,
                              (const float *)(const void *)(words + 1 + words[0])};
}

static int topk_check(const uint8_t *bytes, size_t n) {
    struct topk_view view = topk_view(bytes);
    bool disorder = false;
    for (size_t i = 1; i < view.count; i++)
        disorder |= view.index[i] <= view.index[i - 1];
    /* They ascend, so the last is the largest. */
    if (disorder || (view.count > 0 && view.index[view.count - 1] >= n))
        return ERR_PROTOCOL;
    return vec()->finite(view.values, view.count) ? 0 : ERR_NOT_FINITE;
}

/* --- all --- */

size_t codec_encode(enum codec codec, double topk_ratio, const float *gradient, size_t n,
                    float *residual, uint8_t *bytes) {
    assert(n > 0);
    switch (codec) {
    case CODEC_INT8:
        return int8_encode(gradient, n, residual, bytes);
    case CODEC_FP16:
        return fp16_encode(gradient, n, residual, bytes);
    case CODEC_TOPK:
        return topk_encode(topk_ratio, gradient, n, residual, bytes);
    default:
        memcpy(bytes, gradient, n * sizeof *gradient);
        return n * sizeof *gradient;
    }
}

int codec_size(enum codec codec, const uint8_t *bytes, size_t available, size_t n,
               size_t *ret_bytes) {
    size_t size = TOPK_HEAD_BYTES;
    if (codec != CODEC_TOPK) {
        size = codec_bytes(codec, 0, n);
    } else if (available >= TOPK_HEAD_BYTES) {
        uint32_t count;
        memcpy(&count, bytes, sizeof count);
        if (count > n)
            return ERR_PROTOCOL;
        size += (size_t)count * TOPK_ITEM_BYTES;
    }
    if (available < size)
        return ERR_PROTOCOL;
    *ret_bytes = size;
    return 0;
}

int codec_check(enum codec codec, const uint8_t *bytes, size_t n) {
    struct codec_scale head;
    switch (codec) {
    case CODEC_INT8:
        memcpy(&head, bytes, sizeof head);
        /* The largest value that can come out; it is not finite when one of the two is not. */
        return isfinite(head.minimum + 255 * head.scale) ? 0 : ERR_NOT_FINITE;
    case CODEC_FP16:
        return vec()->half_finite((const uint16_t *)(const void *)bytes, n) ? 0 : ERR_NOT_FINITE;
    case CODEC_TOPK:
        return topk_check(bytes, n);
    default:
        return vec()->finite((const float *)(const void *)bytes, n) ? 0 : ERR_NOT_FINITE;
    }
}

void codec_add(enum codec codec, const uint8_t *bytes, size_t n, float weight, float *sum) {
    struct codec_scale head;
    struct topk_view view;
    switch (codec) {
    case CODEC_INT8:
        memcpy(&head, bytes, sizeof head);
        vec()->dequantize_axpy(weight, bytes + sizeof head, n, head.minimum, head.scale, sum);
        break;
    case CODEC_FP16:
        vec()->half_axpy(weight, (const uint16_t *)(const void *)bytes, n, sum);
        break;
    case CODEC_TOPK:
        view = topk_view(bytes);
        vec()->scatter_axpy(weight, view.index, view.values, view.count, sum);
        break;
    default:
        vec()->axpy(weight, (const float *)(const void *)bytes, sum, n);
    }
}
