/* Bias, normalisation, residual, activation and dropout, forward and backward. What most models
 * have, bias, relu and dropout, is one kernel. */
#include "worker/model/finish.h"

#include <math.h>
#include <string.h>

#include "worker/kernels/kernels.h"

#define NORM_EPSILON 1e-5F
/* A column's sum is made of this many partial sums, whatever the number of threads. */
#define PARTIAL_SUMS 32
#define WORK_MIN 65536

size_t column_sums_partial(size_t d) {
    return PARTIAL_SUMS * d;
}

void column_sums(size_t n, size_t d, const float *x, float *partial, float *ret) {
#pragma omp parallel for schedule(static) if (n * d >= WORK_MIN)
    for (int part = 0; part < PARTIAL_SUMS; part++) {
        float *sum = partial + (size_t)part * d;
        memset(sum, 0, d * sizeof *sum);
        size_t end = n * (size_t)(part + 1) / PARTIAL_SUMS;
        for (size_t i = n * (size_t)part / PARTIAL_SUMS; i < end; i++)
            for (size_t j = 0; j < d; j++)
                sum[j] += x[i * d + j];
    }
    memset(ret, 0, d * sizeof *ret);
    for (size_t part = 0; part < PARTIAL_SUMS; part++)
        for (size_t j = 0; j < d; j++)
            ret[j] += partial[part * d + j];
}

static bool by_matrix(const struct layer_spec *spec) {
    return spec->residual && spec->in != spec->out;
}

static bool curved(const struct layer_spec *spec) {
    return spec->activation == ACTIVATION_ELU || spec->activation == ACTIVATION_GELU;
}

size_t finish_tensors(const struct layer_spec *spec, bool has_weights, struct tensor_spec *ret) {
    size_t count = 0;
    if (has_weights)
        ret[count++] = (struct tensor_spec){"bias", 1, spec->out, TENSOR_ZEROS, false};
    if (spec->norm != NORM_NONE) {
        ret[count++] = (struct tensor_spec){"norm_scale", 1, spec->out, TENSOR_ONES, false};
        ret[count++] = (struct tensor_spec){"norm_shift", 1, spec->out, TENSOR_ZEROS, false};
    }
    if (by_matrix(spec))
        ret[count++] =
            (struct tensor_spec){"residual", spec->in, spec->out, TENSOR_GLOROT_UNIFORM, true};
    return count;
}

size_t finish_weights(const struct layer_spec *spec, bool has_weights) {
    struct tensor_spec tensors[FINISH_TENSORS_MAX];
    size_t count = finish_tensors(spec, has_weights, tensors), floats = 0;
    for (size_t t = 0; t < count; t++)
        floats += (size_t)tensors[t].rows * tensors[t].cols;
    return floats;
}

size_t finish_statistics(const struct layer_spec *spec, struct tensor_spec *ret) {
    if (spec->norm != NORM_BATCH)
        return 0;
    ret[0] = (struct tensor_spec){"norm_mean",      1, spec->out, TENSOR_ZEROS, .decay = false,
                                  .statistic = true};
    ret[1] = (struct tensor_spec){"norm_var",       1, spec->out, TENSOR_ONES, .decay = false,
                                  .statistic = true};
    return 2;
}

size_t finish_statistics_floats(const struct layer_spec *spec) {
    return spec->norm == NORM_BATCH ? 2 * (size_t)spec->out : 0;
}

/* Where the weights of each are, in floats from the first. */
struct places {
    size_t norm, residual;
};

static struct places places(const struct finish_pass *pass) {
    size_t out = pass->spec->out, norm = pass->has_bias ? out : 0;
    return (struct places){norm, norm + (pass->spec->norm != NORM_NONE ? 2 * out : 0)};
}

struct finish_room finish_room(const struct layer_spec *spec, size_t n, size_t n_src, bool train) {
    size_t floats = n * spec->out;
    bool normed = spec->norm != NORM_NONE;
    struct finish_room room = {.scratch = by_matrix(spec) ? n_src * spec->out : 0};
    if (spec->norm == NORM_BATCH && room.scratch < spec->out)
        room.scratch = spec->out;
    if (!train)
        return room;
    room.mask_bytes = spec->activation == ACTIVATION_RELU || spec->dropout > 0 ? floats : 0;
    room.normed = normed ? floats : 0;
    room.inverse = spec->norm == NORM_LAYER ? n : normed ? 3 * (size_t)spec->out : 0;
    room.before = curved(spec) ? floats : 0;
    room.kept = spec->residual ? floats : 0;
    size_t sums = column_sums_partial(spec->out) + (normed ? floats : 0);
    room.scratch = room.scratch > sums ? room.scratch : sums;
    return room;
}

static void layer_norm_forward(const struct finish_pass *pass, float *y) {
    size_t n = pass->n, d = pass->spec->out;
    const float *scale = pass->weights + places(pass).norm, *shift = scale + d;
#pragma omp parallel for schedule(static) if (n * d >= WORK_MIN)
    for (size_t i = 0; i < n; i++) {
        float *row = y + i * d, mean = 0, square = 0;
        for (size_t j = 0; j < d; j++)
            mean += row[j];
        mean /= (float)d;
        for (size_t j = 0; j < d; j++)
            square += (row[j] - mean) * (row[j] - mean);
        float inverse = 1 / sqrtf(square / (float)d + NORM_EPSILON);
        if (pass->inverse)
            pass->inverse[i] = inverse;
        for (size_t j = 0; j < d; j++) {
            float normed = (row[j] - mean) * inverse;
            if (pass->normed)
                pass->normed[i * d + j] = normed;
            row[j] = normed * scale[j] + shift[j];
        }
    }
}

/* y = (y - mean) inverse scale + shift, column by column; normed may be NULL. */
static void batch_norm_apply(const struct finish_pass *pass, const float *mean,
                             const float *inverse, float *y) {
    size_t n = pass->n, d = pass->spec->out;
    const float *scale = pass->weights + places(pass).norm, *shift = scale + d;
#pragma omp parallel for schedule(static) if (n * d >= WORK_MIN)
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < d; j++) {
            float normed = (y[i * d + j] - mean[j]) * inverse[j];
            if (pass->normed)
                pass->normed[i * d + j] = normed;
            y[i * d + j] = normed * scale[j] + shift[j];
        }
}

/* The variance is of what is left when the mean is taken: sums of squares would cancel. */
static void batch_norm_train(const struct finish_pass *pass, float *y) {
    size_t n = pass->n, d = pass->spec->out;
    float *inverse = pass->inverse, *mean = inverse + d, *var = mean + d;
    column_sums(n, d, y, pass->scratch, mean);
    for (size_t j = 0; j < d && n > 0; j++)
        mean[j] /= (float)n;
#pragma omp parallel for schedule(static) if (n * d >= WORK_MIN)
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < d; j++)
            pass->normed[i * d + j] = (y[i * d + j] - mean[j]) * (y[i * d + j] - mean[j]);
    column_sums(n, d, pass->normed, pass->scratch, var);
    for (size_t j = 0; j < d && n > 0; j++) {
        inverse[j] = 1 / sqrtf(var[j] / (float)n + NORM_EPSILON);
        var[j] /= n > 1 ? (float)(n - 1) : 1;
    }
    batch_norm_apply(pass, mean, inverse, y);
}

/* Of running statistics; inverse [out] is scratch. */
static void batch_norm_infer(const struct finish_pass *pass, float *inverse, float *y) {
    size_t d = pass->spec->out;
    const float *mean = pass->statistics, *var = mean + d;
    for (size_t j = 0; j < d; j++)
        inverse[j] = 1 / sqrtf(var[j] + NORM_EPSILON);
    batch_norm_apply(pass, mean, inverse, y);
}

void finish_measured(const struct finish_pass *pass, float *statistics) {
    if (pass->spec->norm == NORM_BATCH)
        memcpy(statistics, pass->inverse + pass->spec->out,
               2 * (size_t)pass->spec->out * sizeof *statistics);
}

static void norm_forward(const struct finish_pass *pass, float *y) {
    if (pass->spec->norm == NORM_LAYER)
        layer_norm_forward(pass, y);
    else if (pass->statistics)
        batch_norm_infer(pass, pass->scratch, y);
    else
        batch_norm_train(pass, y);
}

/* Gradients of scale and shift. */
static void norm_backward_weights(const struct finish_pass *pass, const float *dy,
                                  float *gradient) {
    size_t n = pass->n, d = pass->spec->out, at = places(pass).norm;
    float *products = pass->scratch + column_sums_partial(d);
#pragma omp parallel for schedule(static) if (n * d >= WORK_MIN)
    for (size_t i = 0; i < n * d; i++)
        products[i] = dy[i] * pass->normed[i];
    column_sums(n, d, products, pass->scratch, gradient + at);
    column_sums(n, d, dy, pass->scratch, gradient + at + d);
}

/* As below with means over columns; those of g and g h are scale times the weights' gradients. */
static void batch_norm_backward(const struct finish_pass *pass, float *dy, const float *gradient) {
    size_t n = pass->n, d = pass->spec->out, at = places(pass).norm;
    const float *scale = pass->weights + at, *dscale = gradient + at, *dshift = dscale + d;
#pragma omp parallel for schedule(static) if (n * d >= WORK_MIN)
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < d; j++)
            dy[i * d + j] =
                scale[j] * pass->inverse[j] *
                (dy[i * d + j] - (dshift[j] + pass->normed[i * d + j] * dscale[j]) / (float)n);
}

/* With g = dy scale and h the normalised row:  dx = (g - mean(g) - h mean(g h)) / deviation */
static void layer_norm_backward(const struct finish_pass *pass, float *dy) {
    size_t n = pass->n, d = pass->spec->out;
    const float *scale = pass->weights + places(pass).norm;
#pragma omp parallel for schedule(static) if (n * d >= WORK_MIN)
    for (size_t i = 0; i < n; i++) {
        float *row = dy + i * d, mean = 0, mean_normed = 0;
        const float *normed = pass->normed + i * d;
        for (size_t j = 0; j < d; j++) {
            row[j] *= scale[j];
            mean += row[j];
            mean_normed += row[j] * normed[j];
        }
        mean /= (float)d;
        mean_normed /= (float)d;
        for (size_t j = 0; j < d; j++)
            row[j] = (row[j] - mean - normed[j] * mean_normed) * pass->inverse[i];
    }
}

static void norm_backward(const struct finish_pass *pass, float *dy, float *gradient) {
    norm_backward_weights(pass, dy, gradient);
    if (pass->spec->norm == NORM_LAYER)
        layer_norm_backward(pass, dy);
    else
        batch_norm_backward(pass, dy, gradient);
}

static float elu(float x) {
    return x > 0 ? x : expm1f(x);
}

static float elu_slope(float x) {
    return x > 0 ? 1 : expf(x);
}

static float gelu(float x) {
    return 0.5F * x * (1 + erff(x * (float)M_SQRT1_2));
}

static float gelu_slope(float x) {
    float density = expf(-0.5F * x * x) * (float)(M_2_SQRTPI * M_SQRT1_2 * 0.5);
    return 0.5F * (1 + erff(x * (float)M_SQRT1_2)) + x * density;
}

static void curve_forward(const struct finish_pass *pass, float *y) {
    size_t count = pass->n * pass->spec->out;
    bool is_elu = pass->spec->activation == ACTIVATION_ELU;
    if (pass->before)
        memcpy(pass->before, y, count * sizeof *y);
#pragma omp parallel for schedule(static) if (count >= WORK_MIN)
    for (size_t i = 0; i < count; i++)
        y[i] = is_elu ? elu(y[i]) : gelu(y[i]);
}

static void curve_backward(const struct finish_pass *pass, float *dy) {
    size_t count = pass->n * pass->spec->out;
    bool is_elu = pass->spec->activation == ACTIVATION_ELU;
#pragma omp parallel for schedule(static) if (count >= WORK_MIN)
    for (size_t i = 0; i < count; i++)
        dy[i] *= is_elu ? elu_slope(pass->before[i]) : gelu_slope(pass->before[i]);
}

static void add(size_t count, const float *x, float *y) {
#pragma omp parallel for schedule(static) if (count >= WORK_MIN)
    for (size_t i = 0; i < count; i++)
        y[i] += x[i];
}

void finish_forward(const struct finish_pass *pass, float *y) {
    const struct layer_spec *spec = pass->spec;
    const float *bias = pass->has_bias ? pass->weights : NULL;
    bool relu = spec->activation == ACTIVATION_RELU;
    if (spec->norm != NORM_NONE || spec->residual || curved(spec)) {
        if (bias)
            kernels()->bias_act_dropout(pass->n, spec->out, y, bias, false, 0, 0, NULL, NULL);
        bias = NULL;
        if (spec->norm != NORM_NONE)
            norm_forward(pass, y);
        if (by_matrix(spec))
            matrix_multiply_add(pass->x_dst, pass->n, pass->weights + places(pass).residual,
                                spec->out, pass->scratch, y);
        else if (spec->residual)
            add(pass->n * spec->out, pass->x_dst->dense, y);
        if (curved(spec))
            curve_forward(pass, y);
    }
    if (bias || relu || pass->p > 0)
        kernels()->bias_act_dropout(pass->n, spec->out, y, bias, relu, pass->p, pass->key,
                                    pass->nodes, pass->mask);
}

void finish_backward(const struct finish_pass *pass, float *dy, float *gradient) {
    const struct layer_spec *spec = pass->spec;
    size_t count = pass->n * spec->out;
    if (pass->mask)
        kernels()->mask_scale(count, dy, pass->mask, spec->dropout);
    if (curved(spec))
        curve_backward(pass, dy);
    if (spec->residual)
        memcpy(pass->kept, dy, count * sizeof *dy);
    if (spec->norm != NORM_NONE)
        norm_backward(pass, dy, gradient);
    if (pass->has_bias)
        column_sums(pass->n, spec->out, dy, pass->scratch, gradient);
}

void finish_backward_around(const struct finish_pass *pass, float *gradient, float *dx) {
    const struct layer_spec *spec = pass->spec;
    size_t in = spec->in, out = spec->out, at = places(pass).residual;
    if (!spec->residual)
        return;
    if (!by_matrix(spec)) {
        if (dx)
            add(pass->n * out, pass->kept, dx);
        return;
    }
    matrix_multiply_back(pass->x_dst, pass->n, pass->kept, out, pass->scratch, gradient + at);
    if (dx)
        gemm(false, true, pass->n, in, out, 1, pass->kept, out, pass->weights + at, out, 1, dx, in);
}
