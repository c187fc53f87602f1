/* NumPy's .npy arrays (format versions 1.0 to 3.0, little-endian): mapped for reading,
 * streamed for writing. https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html */
#pragma once

#include "common/file.h"

enum npy_type {
    NPY_F2,
    NPY_F4,
    NPY_F8,
    NPY_I1,
    NPY_I2,
    NPY_I4,
    NPY_I8,
    NPY_U1,
    NPY_U2,
    NPY_U4,
    NPY_U8,
    NPY_BOOL,
    NPY_TYPE_END
};
#define NPY_DIMS_MAX 4

size_t npy_item_bytes(enum npy_type type);
const char *npy_type_name(enum npy_type type); /* "<f4" */
bool npy_type_is_integer(enum npy_type type);  /* bool is none */

struct npy {
    enum npy_type type;
    size_t dims;
    uint64_t shape[NPY_DIMS_MAX];
    uint64_t count;   /* product of shape */
    const void *data; /* borrowed from the map */
    bool fortran;     /* two dimensions or more, the first one running fastest */
    uint64_t extra;   /* bytes behind the data, which nothing uses */
    struct file_map map;
};

/* Reads the header out of bytes; checks that the data that follows is complete. data is set to
 * point into bytes. Pure: fuzzed. */
int npy_parse(const uint8_t *bytes, size_t len, struct npy *ret, struct error *reterr);
/* Maps a file. npy_close undoes it and takes a zeroed struct. */
int npy_open(const char *path, struct npy *ret, struct error *reterr);
/* ERR_FORMAT, with what to do, unless the last dimension runs fastest. */
int npy_check_order(const struct npy *npy, struct error *reterr);
/* The same as npy_open, and refuses (ERR_FORMAT, naming both) another type, shape or order. rows or
 * cols of UINT64_MAX: any; cols 0: one dimension. */
int npy_open_as(const char *path, enum npy_type type, uint64_t rows, uint64_t cols, struct npy *ret,
                struct error *reterr);
void npy_close(struct npy *npy);
/* Element i, as they lie in the file, as a double / an integer, whatever the type. */
double npy_double(const struct npy *npy, uint64_t i);
int64_t npy_int(const struct npy *npy, uint64_t i);

/* Streams an array whose rows are not counted yet: rows is patched in at commit. cols 0: one
 * dimension. */
struct npy_writer;
int npy_create(const char *path, enum npy_type type, uint64_t cols, struct npy_writer **ret,
               struct error *reterr);
/* count items (not rows) */
int npy_append(struct npy_writer *writer, const void *items, uint64_t count, struct error *reterr);
int npy_commit(struct npy_writer *writer, struct error *reterr); /* frees it, also on failure */
struct npy_writer *npy_abandon(struct npy_writer *writer);
/* A whole array at once. cols 0: one dimension of rows. */
int npy_write(const char *path, enum npy_type type, uint64_t rows, uint64_t cols, const void *items,
              struct error *reterr);
