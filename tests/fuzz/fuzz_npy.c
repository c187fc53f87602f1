/* The .npy header parser against bytes from anywhere: what it accepts must lie within the bytes. */
#include <stdint.h>
#include <stdlib.h>

#include "common/npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct npy npy;
    struct error err = {0};
    int r = npy_parse(data, size, &npy, &err);
    if (r != 0) {
        if (err.code != r || !err.text[0])
            abort();
        return 0;
    }

    const uint8_t *start = npy.data;
    size_t offset = (size_t)(start - data);
    if (offset > size || npy.count > (size - offset) / npy_item_bytes(npy.type))
        abort();
    uint64_t count = 1;
    for (size_t i = 0; i < npy.dims; i++)
        count *= npy.shape[i];
    if (count != npy.count)
        abort();
    if (npy.count > 0) {
        volatile double number = npy_double(&npy, 0) + npy_double(&npy, npy.count - 1);
        volatile int64_t integer = npy_int(&npy, 0) ^ npy_int(&npy, npy.count - 1);
        (void)number, (void)integer;
    }
    return 0;
}
