/* NumPy arrays on disk. Owns the header: parsing it without trust, writing it with room for counts
 * that are known only at the end. Does not convert between byte orders, layouts or types; it says
 * how NumPy does. */
#include "common/npy.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/vec.h"

/* Magic, version 1.0 and length take 10 bytes; the text is padded so that data starts aligned. */
#define NPY_HEADER_BYTES 128

static const struct {
    const char *name;
    size_t bytes;
} npy_types[NPY_TYPE_END] = {
    [NPY_F2] = {"<f2", 2}, [NPY_F4] = {"<f4", 4}, [NPY_F8] = {"<f8", 8}, [NPY_I1] = {"|i1", 1},
    [NPY_I2] = {"<i2", 2}, [NPY_I4] = {"<i4", 4}, [NPY_I8] = {"<i8", 8}, [NPY_U1] = {"|u1", 1},
    [NPY_U2] = {"<u2", 2}, [NPY_U4] = {"<u4", 4}, [NPY_U8] = {"<u8", 8}, [NPY_BOOL] = {"|b1", 1},
};

size_t npy_item_bytes(enum npy_type type) {
    return npy_types[type].bytes;
}

const char *npy_type_name(enum npy_type type) {
    return npy_types[type].name;
}

bool npy_type_is_integer(enum npy_type type) {
    return type != NPY_F2 && type != NPY_F4 && type != NPY_F8 && type != NPY_BOOL;
}

/* The header's text: a Python literal of a dictionary with three keys. */
struct cursor {
    const char *at, *end;
};

static void skip_space(struct cursor *cursor) {
    while (cursor->at < cursor->end &&
           (*cursor->at == ' ' || *cursor->at == '\t' || *cursor->at == '\n'))
        cursor->at++;
}

static bool take(struct cursor *cursor, const char *token) {
    skip_space(cursor);
    size_t len = strlen(token);
    if ((size_t)(cursor->end - cursor->at) < len || memcmp(cursor->at, token, len) != 0)
        return false;
    cursor->at += len;
    return true;
}

/* 'text' or "text", without escapes; it stays where it is. */
static bool take_string(struct cursor *cursor, const char **ret, size_t *ret_len) {
    skip_space(cursor);
    if (cursor->at == cursor->end || (*cursor->at != '\'' && *cursor->at != '"'))
        return false;
    char quote = *cursor->at++;
    const char *close = memchr(cursor->at, quote, (size_t)(cursor->end - cursor->at));
    if (!close)
        return false;
    *ret = cursor->at;
    *ret_len = (size_t)(close - cursor->at);
    cursor->at = close + 1;
    return true;
}

static bool take_number(struct cursor *cursor, uint64_t *ret) {
    skip_space(cursor);
    uint64_t value = 0;
    const char *start = cursor->at;
    for (; cursor->at < cursor->end && *cursor->at >= '0' && *cursor->at <= '9'; cursor->at++)
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*cursor->at - '0'), &value))
            return false;
    if (cursor->at == start)
        return false;
    if (cursor->at < cursor->end && *cursor->at == 'L') /* as Python 2 wrote them */
        cursor->at++;
    *ret = value;
    return true;
}

static int parse_type(const char *text, size_t len, struct npy *npy, struct error *reterr) {
    for (int type = 0; type < NPY_TYPE_END; type++) {
        const char *name = npy_types[type].name;
        /* Byte order means nothing for one byte. */
        if (len == 3 && memcmp(text + 1, name + 1, 2) == 0 &&
            (text[0] == name[0] || npy_types[type].bytes == 1)) {
            npy->type = type;
            return 0;
        }
    }
    return error_set(
        reterr, ERR_FORMAT,
        "elements of type '%.*s' are not supported; convert them, with array.astype('<f4') or "
        "array.astype('<i8'), and save it again",
        (int)(len < 40 ? len : 40), text);
}

static int parse_shape(struct cursor *cursor, struct npy *npy, struct error *reterr) {
    size_t dims = 0;
    if (!take(cursor, "("))
        return error_set(reterr, ERR_FORMAT, "the header's shape is no tuple");
    while (!take(cursor, ")")) {
        if (dims == NPY_DIMS_MAX)
            return error_set(reterr, ERR_FORMAT,
                             "arrays of more than %d dimensions are not supported", NPY_DIMS_MAX);
        if (!take_number(cursor, &npy->shape[dims]))
            return error_set(reterr, ERR_FORMAT,
                             "the header's shape holds something that is no size");
        dims++;
        if (take(cursor, ","))
            continue;
        if (!take(cursor, ")"))
            return error_set(reterr, ERR_FORMAT, "the header's shape does not end");
        break;
    }
    npy->dims = dims;
    return 0;
}

static int parse_header(struct cursor cursor, struct npy *npy, struct error *reterr) {
    enum { DESCR = 1, ORDER = 2, SHAPE = 4 };
    int seen = 0, r = 0;
    bool fortran = false;
    if (!take(&cursor, "{"))
        return error_set(reterr, ERR_FORMAT, "the header is no dictionary");
    while (!take(&cursor, "}")) {
        const char *key, *text;
        size_t key_len, len;
        int which = 0;
        if (!take_string(&cursor, &key, &key_len) || !take(&cursor, ":"))
            return error_set(reterr, ERR_FORMAT, "the header is no dictionary of names and values");
        if (key_len == 5 && memcmp(key, "descr", 5) == 0) {
            which = DESCR;
            if (!take_string(&cursor, &text, &len))
                return error_set(reterr, ERR_FORMAT,
                                 "arrays of records are not supported; save each field by itself");
            r = parse_type(text, len, npy, reterr);
        } else if (key_len == 13 && memcmp(key, "fortran_order", 13) == 0) {
            which = ORDER;
            fortran = take(&cursor, "True");
            if (!fortran && !take(&cursor, "False"))
                return error_set(reterr, ERR_FORMAT, "fortran_order is neither True nor False");
        } else if (key_len == 5 && memcmp(key, "shape", 5) == 0) {
            which = SHAPE;
            r = parse_shape(&cursor, npy, reterr);
        } else {
            return error_set(reterr, ERR_FORMAT, "the header holds an unknown name '%.*s'",
                             (int)(key_len < 40 ? key_len : 40), key);
        }
        if (r != 0)
            return r;
        if (seen & which)
            return error_set(reterr, ERR_FORMAT, "the header holds '%.*s' twice", (int)key_len,
                             key);
        seen |= which;
        if (!take(&cursor, ",") && !(cursor.at < cursor.end && *cursor.at == '}'))
            return error_set(reterr, ERR_FORMAT, "the header's dictionary does not end");
    }
    if (seen != (DESCR | ORDER | SHAPE))
        return error_set(reterr, ERR_FORMAT, "the header lacks descr, fortran_order or shape");
    skip_space(&cursor);
    if (cursor.at != cursor.end)
        return error_set(reterr, ERR_FORMAT, "the header goes on after its dictionary");
    npy->fortran = fortran && npy->dims > 1;
    return 0;
}

int npy_check_order(const struct npy *npy, struct error *reterr) {
    return npy->fortran ? error_set(reterr, ERR_FORMAT,
                                    "the array is in Fortran order; save "
                                    "numpy.ascontiguousarray(array) instead")
                        : 0;
}

int npy_parse(const uint8_t *bytes, size_t len, struct npy *ret, struct error *reterr) {
    if (len < 10 || memcmp(bytes, "\x93NUMPY", 6) != 0)
        return error_set(reterr, ERR_FORMAT,
                         "no NumPy array (it does not begin as a .npy file does)");
    if (bytes[6] < 1 || bytes[6] > 3 || bytes[7] != 0)
        return error_set(reterr, ERR_FORMAT, "a .npy file of version %d.%d; 1.0 to 3.0 can be read",
                         bytes[6], bytes[7]);

    size_t start = bytes[6] == 1 ? 10 : 12;
    size_t text_len = bytes[8] | (size_t)bytes[9] << 8;
    if (start > len)
        return error_set(reterr, ERR_FORMAT, "the file ends within its header");
    if (bytes[6] > 1)
        text_len |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
    if (text_len > len - start)
        return error_set(reterr, ERR_FORMAT, "the file ends within its header");

    struct npy npy = {0};
    struct cursor cursor = {(const char *)bytes + start, (const char *)bytes + start + text_len};
    int r = parse_header(cursor, &npy, reterr);
    if (r != 0)
        return r;

    /* The product is checked without the zeros first: no product of sizes overflows later. */
    uint64_t count = 1, item_bytes = npy_types[npy.type].bytes, data_bytes;
    bool empty = false;
    for (size_t i = 0; i < npy.dims; i++) {
        empty = empty || npy.shape[i] == 0;
        if (npy.shape[i] != 0 && __builtin_mul_overflow(count, npy.shape[i], &count))
            return error_set(reterr, ERR_FORMAT, "the array's shape is larger than any memory");
    }
    if (__builtin_mul_overflow(count, item_bytes, &data_bytes))
        return error_set(reterr, ERR_FORMAT, "the array's shape is larger than any memory");
    if (empty)
        count = data_bytes = 0;
    size_t offset = start + text_len;
    if (data_bytes > len - offset)
        return error_set(reterr, ERR_FORMAT,
                         "the file is cut off: %" PRIu64
                         " bytes of data are announced, %zu are there",
                         data_bytes, len - offset);
    if (offset % item_bytes != 0)
        return error_set(
            reterr, ERR_FORMAT,
            "the header of %zu bytes leaves the data unaligned; save the array again with "
            "numpy.save",
            offset);
    npy.count = count;
    npy.extra = len - offset - data_bytes;
    npy.data = bytes + offset;
    *ret = npy;
    return 0;
}

int npy_open(const char *path, struct npy *ret, struct error *reterr) {
    struct file_map map;
    int r = file_map(path, &map, reterr);
    if (r != 0)
        return r;
    struct npy npy;
    r = npy_parse(map.data, map.len, &npy, reterr);
    if (r != 0) {
        file_unmap(&map);
        error_prefix(reterr, "%s", path);
        return r;
    }
    npy.map = map;
    *ret = npy;
    return 0;
}

static void shape_text(char *to, size_t bytes, size_t dims, const uint64_t *shape) {
    size_t len = (size_t)snprintf(to, bytes, "(");
    for (size_t i = 0; i < dims; i++) {
        const char *comma = dims == 1 || i + 1 < dims ? "," : "";
        const char *space = i + 1 < dims ? " " : "";
        if (shape[i] == UINT64_MAX)
            len += (size_t)snprintf(to + len, bytes - len, "any%s%s", comma, space);
        else
            len +=
                (size_t)snprintf(to + len, bytes - len, "%" PRIu64 "%s%s", shape[i], comma, space);
    }
    snprintf(to + len, bytes - len, ")");
}

int npy_open_as(const char *path, enum npy_type type, uint64_t rows, uint64_t cols, struct npy *ret,
                struct error *reterr) {
    struct npy npy;
    int r = npy_open(path, &npy, reterr);
    if (r != 0)
        return r;
    r = npy_check_order(&npy, reterr);
    if (r != 0) {
        npy_close(&npy);
        error_prefix(reterr, "%s", path);
        return r;
    }
    size_t dims = cols == 0 ? 1 : 2;
    uint64_t shape[2] = {rows, cols};
    bool fits = npy.type == type && npy.dims == dims;
    for (size_t i = 0; fits && i < dims; i++)
        fits = shape[i] == UINT64_MAX || shape[i] == npy.shape[i];
    if (!fits) {
        char is[128], wanted[128];
        shape_text(is, sizeof is, npy.dims, npy.shape);
        shape_text(wanted, sizeof wanted, dims, shape);
        npy_close(&npy);
        return error_set(reterr, ERR_FORMAT,
                         "%s holds %s of shape %s, where %s of shape %s is needed", path,
                         npy_type_name(npy.type), is, npy_type_name(type), wanted);
    }
    *ret = npy;
    return 0;
}

void npy_close(struct npy *npy) {
    file_unmap(&npy->map);
    npy->data = NULL;
    npy->count = 0;
}

/* memcpy: an array inside other bytes may lie unaligned. */
#define ITEM(type, to)                                                                             \
    type item;                                                                                     \
    memcpy(&item, at, sizeof item);                                                                \
    return (to)item

double npy_double(const struct npy *npy, uint64_t i) {
    const uint8_t *at = (const uint8_t *)npy->data + i * npy_types[npy->type].bytes;
    switch (npy->type) {
    case NPY_F2: {
        uint16_t item;
        float value = 0;
        memcpy(&item, at, sizeof item);
        vec_ref.half_axpy(1, &item, 1, &value);
        return (double)value;
    }
    case NPY_F4: {
        ITEM(float, double);
    }
    case NPY_F8: {
        ITEM(double, double);
    }
    case NPY_U8: {
        ITEM(uint64_t, double);
    }
    default:
        return (double)npy_int(npy, i);
    }
}

/* A float that no int64_t holds becomes the nearest one; NaN the smallest, which no range accepts.
 */
static int64_t int_of_double(double value) {
    if (!(value > -0x1p63))
        return INT64_MIN;
    return value < 0x1p63 ? (int64_t)value : INT64_MAX;
}

int64_t npy_int(const struct npy *npy, uint64_t i) {
    const uint8_t *at = (const uint8_t *)npy->data + i * npy_types[npy->type].bytes;
    switch (npy->type) {
    case NPY_F2:
    case NPY_F4:
    case NPY_F8:
        return int_of_double(npy_double(npy, i));
    case NPY_I1: {
        ITEM(int8_t, int64_t);
    }
    case NPY_I2: {
        ITEM(int16_t, int64_t);
    }
    case NPY_I4: {
        ITEM(int32_t, int64_t);
    }
    case NPY_I8: {
        ITEM(int64_t, int64_t);
    }
    case NPY_U2: {
        ITEM(uint16_t, int64_t);
    }
    case NPY_U4: {
        ITEM(uint32_t, int64_t);
    }
    case NPY_U8: {
        uint64_t item;
        memcpy(&item, at, sizeof item);
        return item <= INT64_MAX ? (int64_t)item : INT64_MAX;
    }
    default: /* NPY_U1, NPY_BOOL */
        return *at;
    }
}

struct npy_writer {
    struct file_writer *file;
    enum npy_type type;
    uint64_t cols;  /* 0: one dimension */
    uint64_t items; /* appended so far */
};

static void header_make(uint8_t *to, enum npy_type type, uint64_t rows, uint64_t cols) {
    char shape[64];
    shape_text(shape, sizeof shape, cols == 0 ? 1 : 2, (uint64_t[2]){rows, cols});
    memset(to, ' ', NPY_HEADER_BYTES);
    memcpy(to, "\x93NUMPY\x01\x00", 8);
    to[8] = NPY_HEADER_BYTES - 10;
    to[9] = 0;
    char text[NPY_HEADER_BYTES];
    int len = snprintf(text, sizeof text, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }",
                       npy_types[type].name, shape);
    memcpy(to + 10, text, (size_t)len);
    to[NPY_HEADER_BYTES - 1] = '\n';
}

int npy_create(const char *path, enum npy_type type, uint64_t cols, struct npy_writer **ret,
               struct error *reterr) {
    struct file_writer *file;
    int r = file_create(path, &file, reterr);
    if (r != 0)
        return r;
    uint8_t header[NPY_HEADER_BYTES];
    header_make(header, type, 0, cols);
    r = file_append(file, header, sizeof header, reterr);
    if (r != 0) {
        file_abandon(file);
        return r;
    }
    struct npy_writer *writer = mem_alloc(sizeof *writer);
    *writer = (struct npy_writer){.file = file, .type = type, .cols = cols};
    *ret = writer;
    return 0;
}

int npy_append(struct npy_writer *writer, const void *items, uint64_t count, struct error *reterr) {
    int r = file_append(writer->file, items, count * npy_types[writer->type].bytes, reterr);
    if (r == 0)
        writer->items += count;
    return r;
}

int npy_commit(struct npy_writer *writer, struct error *reterr) {
    uint64_t cols = writer->cols, width = cols == 0 ? 1 : cols;
    if (writer->items % width != 0) {
        int r = error_set(reterr, ERR_INTERNAL,
                          "an array of %" PRIu64 " columns was given %" PRIu64 " items", cols,
                          writer->items);
        npy_abandon(writer);
        return r;
    }
    uint8_t header[NPY_HEADER_BYTES];
    header_make(header, writer->type, writer->items / width, cols);
    int r = file_patch(writer->file, 0, header, sizeof header, reterr);
    if (r != 0) {
        npy_abandon(writer);
        return r;
    }
    r = file_commit(writer->file, reterr);
    mem_free(writer);
    return r;
}

struct npy_writer *npy_abandon(struct npy_writer *writer) {
    if (writer) {
        file_abandon(writer->file);
        mem_free(writer);
    }
    return NULL;
}

int npy_write(const char *path, enum npy_type type, uint64_t rows, uint64_t cols, const void *items,
              struct error *reterr) {
    struct npy_writer *writer;
    int r = npy_create(path, type, cols, &writer, reterr);
    if (r != 0)
        return r;
    r = npy_append(writer, items, rows * (cols == 0 ? 1 : cols), reterr);
    if (r != 0) {
        npy_abandon(writer);
        return r;
    }
    return npy_commit(writer, reterr);
}
