/* The norm of a worker's whole gradient, and its scaling. */
#include "worker/clip.h"

#include <math.h>

#include "common/vec.h"

/* Squares are summed in a fixed number of pieces, so that the sum does not depend on the threads.
 */
#define PIECES 64

static double sum_squares(const float *x, size_t n) {
    double squares[PIECES], total = 0;
#pragma omp parallel for schedule(static) if (n >= 65536)
    for (int piece = 0; piece < PIECES; piece++) {
        size_t begin = n * (size_t)piece / PIECES, end = n * (size_t)(piece + 1) / PIECES;
        squares[piece] = vec()->dot(x + begin, x + begin, end - begin);
    }
    for (int piece = 0; piece < PIECES; piece++)
        total += squares[piece];
    return total;
}

double clip_gradient(float *gradient, size_t n, float *rows, size_t m, double norm_max) {
    double norm = sqrt(sum_squares(gradient, n) + (m > 0 ? sum_squares(rows, m) : 0));
    if (norm > norm_max) {
        vec()->scale((float)(norm_max / norm), gradient, n);
        if (m > 0)
            vec()->scale((float)(norm_max / norm), rows, m);
    }
    return norm;
}
