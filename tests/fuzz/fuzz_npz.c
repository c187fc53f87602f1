/* The reader of .npz archives against bytes from anywhere: every member that is read lies within
 * its bytes, or there is a sentence that names the file. */
#include "tests/fuzz/scratch.h"
#include "worker/graph/npz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int r, const struct npy *npy, const struct error *err) {
    if (r < 0 && (err->code != r || !strstr(err->text, ".npz")))
        abort();
    if (r < 0 || npy->count == 0)
        return;
    volatile double sum = npy_double(npy, 0) + npy_double(npy, npy->count - 1);
    volatile int64_t whole = npy_int(npy, 0) ^ npy_int(npy, npy->count - 1);
    (void)sum, (void)whole;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const names[] = {"indptr", "indices", "data", "shape", "row",
                                        "col",    "arr_0",   "x",    "y"};
    struct npz *npz = NULL;
    struct npy npy = {0};
    struct error err = {0};
    scratch_make();
    scratch_write("a.npz", data, size);
    int r = npz_open(scratch_path("a.npz"), &npz, &err);
    check(r, &npy, &err);
    if (r < 0)
        return 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        err = (struct error){0};
        bool there = npz_has(npz, names[i]);
        r = npz_array(npz, names[i], &npy, &err);
        if (!there && r != ERR_NOT_FOUND)
            abort();
        check(r, &npy, &err);
    }
    for (size_t dims = 1; dims <= 2; dims++) {
        const char *name;
        err = (struct error){0};
        check(npz_first(npz, dims, &npy, &name, &err), &npy, &err);
    }
    if (strlen(npz_sparse_format(npz)) > 3)
        abort();
    npz_close(npz);
    return 0;
}
