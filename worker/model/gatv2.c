/* Graph attention whose order of neighbours depends on the node. Brody, Alon & Yahav, "How
 * Attentive are Graph Attention Networks?", ICLR 2022, eq. 7:
 *     L = X W_src        R = X_dst W_dst        y_i = sum over j in N(i) and i of alpha_ij l_j
 *     alpha_i = softmax over j of a . leakyrelu(l_j + r_i)        (each head)
 * Heads are put side by side or averaged. The sums and their gradients: worker/kernels/attention.h.
 */
#include "worker/kernels/kernels.h"
#include "worker/model/attend.h"

static size_t tensors(const struct layer_spec *spec, struct tensor_spec *ret) {
    uint32_t width = (uint32_t)attend_width(spec), head = (uint32_t)attend_head(spec);
    ret[0] = (struct tensor_spec){"weight_src", spec->in, width, TENSOR_GLOROT_UNIFORM, true};
    ret[1] = (struct tensor_spec){"weight_dst", spec->in, width, TENSOR_GLOROT_UNIFORM, true};
    ret[2] = (struct tensor_spec){"attention", spec->heads, head, TENSOR_GLOROT_UNIFORM, true};
    return 3;
}

/* What forward leaves: R, what the heads gave, and each softmax's maximum and sum. */
struct kept {
    float *r, *raw, *max, *sum;
};

static struct kept kept(const struct layer_pass *pass) {
    size_t floats = pass->n_dst * attend_width(pass->spec);
    float *r = pass->own, *raw = r + floats, *max = raw + floats;
    return (struct kept){r, raw, max, max + pass->n_dst * pass->spec->heads};
}

static struct layer_room room(const struct layer_spec *spec, size_t n_dst, size_t n_src,
                              bool graph_first, bool train) {
    size_t width = attend_width(spec);
    struct layer_pass pass = {.spec = spec, .n_dst = n_dst, .n_src = n_src};
    struct attention at = attend_view(&pass);
    size_t kernel = attention_gatv2_scratch(&at), padded = n_src * width;
    (void)graph_first;
    return (struct layer_room){
        .z = width,
        .z_kept = true,
        .own = 2 * n_dst * (width + spec->heads),
        /* The gradients of L, of what the heads gave and of R, then the kernel's, then padding. */
        .scratch =
            train ? (n_src + 2 * n_dst) * width + 16 + (kernel > padded ? kernel : padded) : 0,
    };
}

static void project(const struct layer_pass *pass, const struct matrix *x, size_t first,
                    size_t rows) {
    size_t width = attend_width(pass->spec);
    matrix_multiply(x, rows, pass->weights, width, pass->z + first * width);
}

static void forward(const struct layer_pass *pass, float *y) {
    const struct layer_spec *spec = pass->spec;
    size_t in = spec->in, width = attend_width(spec);
    const float *w_dst = pass->weights + in * width, *a = w_dst + in * width;
    struct attention at = attend_view(pass);
    struct kept keep = kept(pass);
    matrix_multiply(pass->x_dst, pass->n_dst, w_dst, width, keep.r);
    attention_kernels()->gatv2_forward(&at, pass->z, width, keep.r, width, a, keep.raw, width,
                                       keep.max, keep.sum);
    attend_gather(spec, pass->n_dst, keep.raw, y);
}

static void backward(const struct layer_pass *pass, float *dy, float *dweights, float *dx,
                     float *dstart) {
    const struct layer_spec *spec = pass->spec;
    size_t in = spec->in, width = attend_width(spec);
    const float *w_dst = pass->weights + in * width, *a = w_dst + in * width;
    float *dw_dst = dweights + in * width, *da = dw_dst + in * width;
    float *dl = pass->scratch, *draw = dl + pass->n_src * width, *dr = draw + pass->n_dst * width;
    float *rest = dl + ((pass->n_src + 2 * pass->n_dst) * width + 15) / 16 * 16;
    struct attention at = attend_view(pass);
    struct kept keep = kept(pass);
    (void)dstart;
    const float *dheads = attend_scatter(spec, pass->n_dst, dy, draw);
    attention_kernels()->gatv2_backward(&at, pass->z, width, keep.r, width, a, keep.max, keep.sum,
                                        keep.raw, width, dheads, width, rest, dl, width, dr, width,
                                        da);
    matrix_multiply_back(pass->x, pass->n_src, dl, width, NULL, dweights);
    matrix_multiply_back(pass->x_dst, pass->n_dst, dr, width, rest, dw_dst);
    if (!dx)
        return;
    gemm(false, true, pass->n_src, in, width, 1, dl, width, pass->weights, width, 0, dx, in);
    gemm(false, true, pass->n_dst, in, width, 1, dr, width, w_dst, width, 1, dx, in);
}

const struct layer layer_gatv2 = {
    .takes_own_rows = true,
    .tensors = tensors,
    .room = room,
    .project = project,
    .forward = forward,
    .backward = backward,
};
