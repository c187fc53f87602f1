/* Gradient clipping by global norm: where |g| > c, g becomes g c / |g|. Pascanu, Mikolov & Bengio,
 * "On the difficulty of training recurrent neural networks", ICML 2013, algorithm 1. */
#pragma once

#include <stddef.h>

/* gradient [n] and rows [m], the gradient of rows of a table (NULL with m 0), together one vector;
 * finite, in place; norm_max > 0. Returns the L2 norm it had. The same bits for any number of
 * threads. */
double clip_gradient(float *gradient, size_t n, float *rows, size_t m, double norm_max);
