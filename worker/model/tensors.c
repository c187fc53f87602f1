/* Reading and writing safetensors. Knows the container, not what a model means. A file comes from
 * anywhere: the header is parsed within limits and every tensor must fit its bytes exactly. */
#include "worker/model/tensors.h"

#include <endian.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/file.h"
#include "common/mem.h"

#define HEADER_MAX_BYTES (16u << 20)
#define METADATA "__metadata__"

static void json_decref_p(json_t **json) {
    json_decref(*json);
}
static void file_abandon_p(struct file_writer **file) {
    file_abandon(*file);
}
static void free_p(char **text) {
    free(*text);
}

/* The header's text; free() it. NULL: the metadata is not what the format allows. */
static char *header_print(const struct tensor_spec *tensors, size_t count, json_t *metadata) {
    _cleanup_(json_decref_p) json_t *header = json_object();
    if (json_object_set(header, METADATA, metadata) != 0)
        return NULL;
    uint64_t offset = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t end = offset + (uint64_t)tensors[i].rows * tensors[i].cols * sizeof(float);
        json_t *entry = json_pack("{s:s, s:[I, I], s:[I, I]}", "dtype", "F32", "shape",
                                  (json_int_t)tensors[i].rows, (json_int_t)tensors[i].cols,
                                  "data_offsets", (json_int_t)offset, (json_int_t)end);
        if (json_object_set_new(header, tensors[i].name, entry) != 0)
            return NULL;
        offset = end;
    }
    return json_dumps(header, JSON_COMPACT);
}

static int metadata_check(const char *path, json_t *metadata, struct error *reterr) {
    const char *key;
    json_t *value;
    if (!json_is_object(metadata))
        return error_set(reterr, ERR_FORMAT, "%s: %s is not an object", path, METADATA);
    json_object_foreach(metadata, key, value) {
        if (!json_is_string(value))
            return error_set(reterr, ERR_FORMAT, "%s: %s.%.100s is not a string", path, METADATA,
                             key);
    }
    return 0;
}

int tensors_write(const char *path, const struct tensor_spec *tensors, size_t count,
                  const float *weights, json_t *metadata, struct error *reterr) {
    int r = metadata_check(path, metadata, reterr);
    if (r < 0)
        return r;
    _cleanup_(free_p) char *text = header_print(tensors, count, metadata);
    if (!text)
        return error_set(reterr, ERR_FORMAT, "%s: the header cannot be written as JSON", path);

    /* Spaces after the JSON, so that the data is aligned for whoever maps the file. */
    size_t text_bytes = strlen(text), header_bytes = (text_bytes + 8 + 63) / 64 * 64 - 8;
    if (header_bytes > HEADER_MAX_BYTES)
        return error_set(reterr, ERR_LIMIT, "%s: a header of %zu bytes; at most %u are allowed",
                         path, header_bytes, HEADER_MAX_BYTES);
    _cleanup_(mem_free_p) char *header = mem_alloc(8 + header_bytes);
    uint64_t length = htole64(header_bytes);
    memcpy(header, &length, 8);
    memset(header + 8, ' ', header_bytes);
    memcpy(header + 8, text, text_bytes);
    size_t floats = 0;
    for (size_t i = 0; i < count; i++)
        floats += (size_t)tensors[i].rows * tensors[i].cols;

    _cleanup_(file_abandon_p) struct file_writer *file = NULL;
    r = file_create(path, &file, reterr);
    if (r < 0)
        return r;
    r = file_append(file, header, 8 + header_bytes, reterr);
    if (r < 0)
        return r;
    r = file_append(file, weights, floats * sizeof(float), reterr);
    if (r < 0)
        return r;
    return file_commit(TAKE_PTR(file), reterr);
}

/* A tensor and the place of its numbers in the data. */
struct entry {
    struct tensor_spec tensor;
    uint64_t begin, end;
};

static int entry_compare(const void *a, const void *b) {
    uint64_t x = ((const struct entry *)a)->begin, y = ((const struct entry *)b)->begin;
    return x < y ? -1 : x > y;
}

/* An element of an array as a number in 0..most. */
static bool number_at(json_t *array, size_t i, uint64_t most, uint64_t *ret) {
    json_t *value = json_array_get(array, i);
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        (uint64_t)json_integer_value(value) > most)
        return false;
    *ret = (uint64_t)json_integer_value(value);
    return true;
}

static int entry_read(const char *path, const char *name, json_t *json, uint64_t data_bytes,
                      struct entry *ret, struct error *reterr) {
    size_t len = strlen(name);
    if (len == 0 || len > LAYOUT_NAME_MAX ||
        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._") != len)
        return error_set(reterr, ERR_FORMAT,
                         "%s: a tensor's name has %zu bytes or others than letters, digits, '.' "
                         "and '_'; 1 to %d are allowed",
                         path, len, LAYOUT_NAME_MAX);
    const char *dtype = json_string_value(json_object_get(json, "dtype"));
    if (!dtype || strcmp(dtype, "F32") != 0)
        return error_set(reterr, ERR_FORMAT, "%s: tensor %s: its dtype is %.20s; F32 is needed",
                         path, name, dtype ? dtype : "missing");

    json_t *shape = json_object_get(json, "shape"),
           *offsets = json_object_get(json, "data_offsets");
    size_t dims = json_array_size(shape);
    uint64_t rows = 1, cols, begin, end;
    if (dims < 1 || dims > 2 || !number_at(shape, dims - 1, UINT32_MAX, &cols) ||
        (dims == 2 && !number_at(shape, 0, UINT32_MAX, &rows)) || rows == 0 || cols == 0)
        return error_set(reterr, ERR_FORMAT,
                         "%s: tensor %s: its shape is not one or two positive numbers", path, name);
    if (json_array_size(offsets) != 2 || !number_at(offsets, 0, data_bytes, &begin) ||
        !number_at(offsets, 1, data_bytes, &end) || end < begin)
        return error_set(reterr, ERR_FORMAT,
                         "%s: tensor %s: its data_offsets are not within the %" PRIu64
                         " bytes of data",
                         path, name, data_bytes);
    /* rows * cols < 2^64; times 4 it may not be, hence the division. */
    if ((end - begin) % sizeof(float) != 0 || (end - begin) / sizeof(float) != rows * cols)
        return error_set(reterr, ERR_FORMAT,
                         "%s: tensor %s: %" PRIu64 " bytes of data for a shape of %" PRIu64
                         " x %" PRIu64,
                         path, name, end - begin, rows, cols);

    *ret = (struct entry){.begin = begin, .end = end};
    snprintf(ret->tensor.name, sizeof ret->tensor.name, "%s", name);
    ret->tensor.rows = (uint32_t)rows;
    ret->tensor.cols = (uint32_t)cols;
    return 0;
}

/* All tensors in the order of their data, which they must cover without gaps or overlaps. entries
 * has room for one per key of the header. */
static int entries_read(const char *path, json_t *header, uint64_t data_bytes,
                        struct entry *entries, size_t *ret_count, struct error *reterr) {
    const char *name;
    json_t *value;
    size_t count = 0;
    json_object_foreach(header, name, value) {
        if (strcmp(name, METADATA) == 0)
            continue;
        int r = entry_read(path, name, value, data_bytes, &entries[count], reterr);
        if (r < 0)
            return r;
        count++;
    }
    if (count == 0)
        return error_set(reterr, ERR_FORMAT, "%s: no tensor in it", path);

    qsort(entries, count, sizeof *entries, entry_compare);
    uint64_t covered = 0;
    for (size_t i = 0; i < count; i++) {
        if (entries[i].begin != covered)
            return error_set(reterr, ERR_FORMAT,
                             "%s: tensor %s: its data begins at byte %" PRIu64
                             ", where byte %" PRIu64 " is expected",
                             path, entries[i].tensor.name, entries[i].begin, covered);
        covered = entries[i].end;
    }
    if (covered != data_bytes)
        return error_set(reterr, ERR_FORMAT,
                         "%s: %" PRIu64 " bytes of data, the tensors have %" PRIu64, path,
                         data_bytes, covered);
    *ret_count = count;
    return 0;
}

static int header_read(const char *path, const struct file_map *map, json_t **ret,
                       uint64_t *ret_data, struct error *reterr) {
    uint64_t length = 0;
    if (map->len < 8)
        return error_set(reterr, ERR_FORMAT, "%s: %zu bytes are too few for a model file", path,
                         map->len);
    memcpy(&length, map->data, 8);
    length = le64toh(length);
    if (length > HEADER_MAX_BYTES || length > map->len - 8)
        return error_set(reterr, ERR_FORMAT,
                         "%s: it claims a header of %" PRIu64
                         " bytes, which it does not have or which is above %u",
                         path, length, HEADER_MAX_BYTES);
    json_error_t fault;
    json_t *header =
        json_loadb((const char *)map->data + 8, length, JSON_REJECT_DUPLICATES, &fault);
    if (!header)
        return error_set(reterr, ERR_FORMAT, "%s: its header is not JSON: %.200s (byte %d)", path,
                         fault.text, fault.position + 8);
    if (!json_is_object(header) || json_object_size(header) > LAYOUT_TENSORS_MAX + 1) {
        json_decref(header);
        return error_set(reterr, ERR_FORMAT,
                         "%s: its header is not an object of at most %d tensors", path,
                         LAYOUT_TENSORS_MAX);
    }
    *ret = header;
    *ret_data = 8 + length;
    return 0;
}

static int tensors_parse(const char *path, const struct file_map *map,
                         struct tensor_spec **ret_tensors, size_t *ret_count, float **ret_weights,
                         json_t **ret_metadata, struct error *reterr) {
    _cleanup_(json_decref_p) json_t *header = NULL;
    uint64_t data_at;
    int r = header_read(path, map, &header, &data_at, reterr);
    if (r < 0)
        return r;
    json_t *metadata = json_object_get(header, METADATA);
    if (metadata) {
        r = metadata_check(path, metadata, reterr);
        if (r < 0)
            return r;
    }

    _cleanup_(mem_free_p) struct entry *entries =
        mem_array(json_object_size(header), sizeof *entries);
    size_t count = 0, data_bytes = map->len - data_at;
    r = entries_read(path, header, data_bytes, entries, &count, reterr);
    if (r < 0)
        return r;

    struct tensor_spec *tensors = mem_array(count, sizeof *tensors);
    for (size_t i = 0; i < count; i++)
        tensors[i] = entries[i].tensor;
    float *weights = mem_alloc(data_bytes);
    memcpy(weights, map->data + data_at, data_bytes);
    *ret_tensors = tensors;
    *ret_count = count;
    *ret_weights = weights;
    *ret_metadata = metadata ? json_incref(metadata) : json_object();
    return 0;
}

int tensors_read(const char *path, struct tensor_spec **ret_tensors, size_t *ret_count,
                 float **ret_weights, json_t **ret_metadata, struct error *reterr) {
    struct file_map map;
    int r = file_map(path, &map, reterr);
    if (r < 0)
        return r;
    r = tensors_parse(path, &map, ret_tensors, ret_count, ret_weights, ret_metadata, reterr);
    file_unmap(&map);
    return r;
}
