/* Graph attention. Veličković et al., "Graph Attention Networks", ICLR 2018, eq. 1 to 6:
 *     Z = X W        y_i = sum over j in N(i) and i of alpha_ij z_j        (each head)
 *     alpha_i = softmax over j of leakyrelu(a_src . z_j + a_dst . z_i)
 * Heads are put side by side or averaged. The sums and their gradients: worker/kernels/attention.h.
 */
#include "worker/kernels/kernels.h"
#include "worker/model/attend.h"

static size_t tensors(const struct layer_spec *spec, struct tensor_spec *ret) {
    uint32_t width = (uint32_t)attend_width(spec), head = (uint32_t)attend_head(spec);
    ret[0] = (struct tensor_spec){"weight", spec->in, width, TENSOR_GLOROT_UNIFORM, true};
    ret[1] = (struct tensor_spec){"attention_src", spec->heads, head, TENSOR_GLOROT_UNIFORM, true};
    ret[2] = (struct tensor_spec){"attention_dst", spec->heads, head, TENSOR_GLOROT_UNIFORM, true};
    return 3;
}

/* Projections: z of all sources, [n_src, width], then each head's score of each as a source and as
 * a destination, [n_src, heads] both. */
struct projected {
    float *z, *s_src, *s_dst;
};

static struct projected projected(const struct layer_pass *pass) {
    float *s_src = pass->z + pass->n_src * attend_width(pass->spec);
    return (struct projected){pass->z, s_src, s_src + pass->n_src * pass->spec->heads};
}

/* What forward leaves: what the heads gave, and each softmax's maximum and sum. */
struct kept {
    float *raw, *max, *sum;
};

static struct kept kept(const struct layer_pass *pass) {
    float *raw = pass->own, *max = raw + pass->n_dst * attend_width(pass->spec);
    return (struct kept){raw, max, max + pass->n_dst * pass->spec->heads};
}

static struct layer_room room(const struct layer_spec *spec, size_t n_dst, size_t n_src,
                              bool graph_first, bool train) {
    size_t width = attend_width(spec);
    struct layer_pass pass = {.spec = spec, .n_dst = n_dst, .n_src = n_src};
    struct attention at = attend_view(&pass);
    (void)graph_first;
    return (struct layer_room){
        .z = width + 2 * spec->heads,
        .z_kept = true,
        .own = n_dst * (width + 2 * spec->heads),
        /* The gradient of z, that of what the heads gave, and the kernel's. */
        .scratch = train ? (n_src + n_dst) * width + 16 + attention_gat_scratch(&at) : 0,
    };
}

static void project(const struct layer_pass *pass, const struct matrix *x, size_t first,
                    size_t rows) {
    const struct layer_spec *spec = pass->spec;
    size_t width = attend_width(spec), heads = spec->heads;
    const float *a_src = pass->weights + spec->in * width, *a_dst = a_src + width;
    struct projected all = projected(pass);
    struct attention at = attend_view(pass);
    at.n_src = at.n_dst = rows;
    float *z = all.z + first * width;
    matrix_multiply(x, rows, pass->weights, width, z);
    attention_kernels()->gat_scores(&at, z, width, a_src, a_dst, all.s_src + first * heads,
                                    all.s_dst + first * heads);
}

static void forward(const struct layer_pass *pass, float *y) {
    const struct layer_spec *spec = pass->spec;
    size_t width = attend_width(spec);
    struct projected all = projected(pass);
    struct attention at = attend_view(pass);
    struct kept keep = kept(pass);
    attention_kernels()->gat_forward(&at, all.z, width, all.s_src,
                                     all.s_dst + pass->first * spec->heads, keep.raw, width,
                                     keep.max, keep.sum);
    attend_gather(spec, pass->n_dst, keep.raw, y);
}

static void backward(const struct layer_pass *pass, float *dy, float *dweights, float *dx,
                     float *dstart) {
    const struct layer_spec *spec = pass->spec;
    size_t in = spec->in, width = attend_width(spec);
    const float *a_src = pass->weights + in * width, *a_dst = a_src + width;
    float *da_src = dweights + in * width, *da_dst = da_src + width;
    float *dz = pass->scratch, *draw = dz + pass->n_src * width;
    float *rest = dz + ((pass->n_src + pass->n_dst) * width + 15) / 16 * 16;
    struct projected all = projected(pass);
    struct attention at = attend_view(pass);
    struct kept keep = kept(pass);
    (void)dstart;
    const float *dheads = attend_scatter(spec, pass->n_dst, dy, draw);
    attention_kernels()->gat_backward(&at, all.z, width, a_src, a_dst, all.s_src, all.s_dst,
                                      keep.max, keep.sum, keep.raw, width, dheads, width, rest, dz,
                                      width, da_src, da_dst);
    matrix_multiply_back(pass->x, pass->n_src, dz, width, NULL, dweights);
    if (dx)
        gemm(false, true, pass->n_src, in, width, 1, dz, width, pass->weights, width, 0, dx, in);
}

const struct layer layer_gat = {
    .tensors = tensors,
    .room = room,
    .project = project,
    .forward = forward,
    .backward = backward,
};
