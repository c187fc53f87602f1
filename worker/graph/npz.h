/* NumPy's .npz: a ZIP archive of .npy members, unpacked into memory. By libzip. */
#pragma once

#include "common/npy.h"

struct npz;
int npz_open(const char *path, struct npz **ret, struct error *reterr);
struct npz *npz_close(struct npz *npz);                /* takes NULL */
bool npz_has(const struct npz *npz, const char *name); /* without .npy */
/* A member; its data belongs to npz. ERR_NOT_FOUND lists what there is. */
int npz_array(struct npz *npz, const char *name, struct npy *ret, struct error *reterr);
/* The first member with so many dimensions, and its name (borrowed); else as above. */
int npz_first(struct npz *npz, size_t dims, struct npy *ret, const char **ret_name,
              struct error *reterr);
/* SciPy's "format" member: "csr", "csc", "coo"; "" when there is none. */
const char *npz_sparse_format(struct npz *npz);
