/* Choice of the attention kernels, and how much scratch they want. */
#include "worker/kernels/attention_internal.h"

#include "worker/kernels/kernels.h"

const struct attention_kernels *attention_avx2(void) {
#ifdef KERNELS_AVX2
    if (kernels_avx2())
        return &attention_avx2_table;
#endif
    return NULL;
}

const struct attention_kernels *attention_kernels(void) {
#ifdef KERNELS_AVX2
    if (kernels() != &kernels_ref)
        return &attention_avx2_table;
#endif
    return &attention_ref;
}

size_t attention_gat_scratch(const struct attention *at) {
    return attention_scratch_place(at, true, NULL, NULL);
}

size_t attention_gatv2_scratch(const struct attention *at) {
    return attention_scratch_place(at, false, NULL, NULL);
}
