/* Rows of numbers, made by hand: printf would take ten times as long, and for features the C
 * library's locale and rounding would have a say. */
#include "worker/graph/generate_rows.h"

#include <stdio.h>
#include <string.h>

#include "common/mem.h"

#define NUMBER_BYTES 11     /* a number below 2^31 and what follows it */
#define FIXED_BYTES 8       /* ,-1.2345 */
#define FEATURES_AT_ONCE 64 /* made, then formatted, in the cache */

static const char digit_pairs[201] = "00010203040506070809101112131415161718192021222324"
                                     "25262728293031323334353637383940414243444546474849"
                                     "50515253545556575859606162636465666768697071727374"
                                     "75767778798081828384858687888990919293949596979899";

static uint8_t *put_number(uint8_t *to, uint32_t number) {
    uint8_t digits[10];
    size_t at = sizeof digits;
    while (number >= 100) {
        at -= 2;
        memcpy(digits + at, digit_pairs + 2 * (number % 100), 2);
        number /= 100;
    }
    if (number >= 10) {
        at -= 2;
        memcpy(digits + at, digit_pairs + 2 * number, 2);
    } else {
        digits[--at] = (uint8_t)('0' + number);
    }
    memcpy(to, digits + at, sizeof digits - at);
    return to + sizeof digits - at;
}

/* A feature with all its four decimals. Half of them are negative, so that a branch on the sign
 * would be foretold wrong every other time. */
static uint8_t *put_fixed(uint8_t *to, int32_t value) {
    uint32_t size = (uint32_t)(value < 0 ? -value : value);
    uint32_t decimals = size % GENERATED_FEATURE_UNIT;
    *to = '-';
    to += value < 0;
    to[0] = (uint8_t)('0' + size / GENERATED_FEATURE_UNIT);
    to[1] = '.';
    memcpy(to + 2, digit_pairs + 2 * (decimals / 100), 2);
    memcpy(to + 4, digit_pairs + 2 * (decimals % 100), 2);
    return to + 6;
}

static size_t edge_texts(const struct generate_file *file, const struct generated *graph,
                         uint64_t first, uint64_t end, uint8_t *to) {
    uint8_t *at = to;
    for (uint64_t edge = first; edge < end; edge++) {
        uint32_t ends[2];
        generated_edge(graph, edge, ends);
        at = put_number(at, ends[0]);
        *at++ = ',';
        at = put_number(at, ends[1]);
        *at++ = '\n';
    }
    return (size_t)(at - to);
}

static size_t edge_items(const struct generate_file *file, const struct generated *graph,
                         uint64_t first, uint64_t end, uint8_t *to) {
    for (uint64_t edge = first; edge < end; edge++) {
        uint32_t ends[2];
        generated_edge(graph, edge, ends);
        memcpy(to + (edge - first) * sizeof ends, ends, sizeof ends);
    }
    return (end - first) * 2 * sizeof(uint32_t);
}

static size_t feature_texts(const struct generate_file *file, const struct generated *graph,
                            uint64_t first, uint64_t end, uint8_t *to) {
    uint8_t *at = to;
    for (uint32_t node = (uint32_t)first; node < end; node++) {
        uint32_t label = generated_label(graph, node);
        at = put_number(at, node);
        for (uint32_t done = 0, count; done < graph->features; done += count) {
            int32_t features[FEATURES_AT_ONCE];
            count = graph->features - done;
            if (count > FEATURES_AT_ONCE)
                count = FEATURES_AT_ONCE;
            generated_features(graph, node, label, done, count, features);
            for (uint32_t i = 0; i < count; i++) {
                *at++ = ',';
                at = put_fixed(at, features[i]);
            }
        }
        *at++ = '\n';
    }
    return (size_t)(at - to);
}

/* A quotient of two whole floats, correctly rounded: what the text parses to. */
static size_t feature_items(const struct generate_file *file, const struct generated *graph,
                            uint64_t first, uint64_t end, uint8_t *to) {
    float *at = (float *)to;
    for (uint32_t node = (uint32_t)first; node < end; node++) {
        uint32_t label = generated_label(graph, node);
        for (uint32_t done = 0, count; done < graph->features; done += count) {
            int32_t features[FEATURES_AT_ONCE];
            count = graph->features - done;
            if (count > FEATURES_AT_ONCE)
                count = FEATURES_AT_ONCE;
            generated_features(graph, node, label, done, count, features);
            for (uint32_t i = 0; i < count; i++)
                *at++ = (float)features[i] / GENERATED_FEATURE_UNIT;
        }
    }
    return (size_t)((uint8_t *)at - to);
}

static size_t label_texts(const struct generate_file *file, const struct generated *graph,
                          uint64_t first, uint64_t end, uint8_t *to) {
    uint8_t *at = to;
    for (uint32_t node = (uint32_t)first; node < end; node++) {
        at = put_number(at, node);
        *at++ = ',';
        at = put_number(at, generated_label(graph, node));
        *at++ = '\n';
    }
    return (size_t)(at - to);
}

static size_t label_items(const struct generate_file *file, const struct generated *graph,
                          uint64_t first, uint64_t end, uint8_t *to) {
    for (uint32_t node = (uint32_t)first; node < end; node++) {
        uint32_t label = generated_label(graph, node);
        memcpy(to + (node - first) * sizeof label, &label, sizeof label);
    }
    return (end - first) * sizeof(uint32_t);
}

static size_t split_texts(const struct generate_file *file, const struct generated *graph,
                          uint64_t first, uint64_t end, uint8_t *to) {
    uint8_t *at = to;
    for (uint32_t node = (uint32_t)first; node < end; node++)
        if (generated_split(graph, node) == file->split) {
            at = put_number(at, node);
            *at++ = '\n';
        }
    return (size_t)(at - to);
}

static size_t split_items(const struct generate_file *file, const struct generated *graph,
                          uint64_t first, uint64_t end, uint8_t *to) {
    for (uint32_t node = (uint32_t)first; node < end; node++)
        to[node - first] = (uint8_t)generated_split(graph, node);
    return end - first;
}

static const struct generate_file texts[] = {
    {.name = "edges.csv",
     .header = "source,target\n",
     .of_edges = true,
     .row_bytes = 2 * NUMBER_BYTES,
     .rows = edge_texts},
    {.name = "features.csv",
     .row_bytes = NUMBER_BYTES,
     .row_feature_bytes = FIXED_BYTES,
     .rows = feature_texts},
    {.name = "labels.csv",
     .header = "id,label\n",
     .row_bytes = 2 * NUMBER_BYTES,
     .rows = label_texts},
    {.name = "train.csv",
     .header = "id\n",
     .row_bytes = NUMBER_BYTES,
     .split = SPLIT_TRAIN,
     .rows = split_texts},
    {.name = "valid.csv",
     .header = "id\n",
     .row_bytes = NUMBER_BYTES,
     .split = SPLIT_VALID,
     .rows = split_texts},
    {.name = "test.csv",
     .header = "id\n",
     .row_bytes = NUMBER_BYTES,
     .split = SPLIT_TEST,
     .rows = split_texts},
};

static const struct generate_file arrays_of[] = {
    {.name = "edges.npy",
     .array = true,
     .type = NPY_I4,
     .of_edges = true,
     .row_bytes = 2 * sizeof(int32_t),
     .rows = edge_items},
    {.name = "features.npy",
     .array = true,
     .type = NPY_F4,
     .row_feature_bytes = sizeof(float),
     .rows = feature_items},
    {.name = "labels.npy",
     .array = true,
     .type = NPY_I4,
     .row_bytes = sizeof(int32_t),
     .rows = label_items},
    {.name = "split.npy", .array = true, .type = NPY_U1, .row_bytes = 1, .rows = split_items},
};

const struct generate_file *generate_files(bool arrays, size_t *ret_count) {
    *ret_count = arrays ? ARRAY_LEN(arrays_of) : ARRAY_LEN(texts);
    return arrays ? arrays_of : texts;
}

size_t generate_row_bytes_max(const struct generate_file *file, const struct generated *graph) {
    return file->row_bytes + file->row_feature_bytes * graph->features;
}

char *generate_features_header(const struct generated *graph) {
    size_t bytes = sizeof "id\n" + (size_t)graph->features * sizeof ",f4294967295";
    char *header = mem_raw(bytes);
    size_t len = (size_t)snprintf(header, bytes, "id");
    for (uint32_t f = 0; f < graph->features; f++)
        len += (size_t)snprintf(header + len, bytes - len, ",f%u", f);
    snprintf(header + len, bytes - len, "\n");
    return header;
}
