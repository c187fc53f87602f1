/* Edit distance between short names (optimal string alignment), and the best of several offers.
 * Knows nothing about what the names stand for. */
#include "common/nearest.h"

#include <string.h>

enum { NEAREST_MAX = 63 };

static size_t min_size(size_t a, size_t b) {
    return a < b ? a : b;
}

size_t nearest_distance(const char *a, const char *b) {
    size_t a_len = strnlen(a, NEAREST_MAX), b_len = strnlen(b, NEAREST_MAX);
    size_t rows[3][NEAREST_MAX + 1]; /* the last three rows of the table, by i % 3 */

    for (size_t j = 0; j <= b_len; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= a_len; i++) {
        size_t *row = rows[i % 3], *above = rows[(i + 2) % 3], *two_above = rows[(i + 1) % 3];
        row[0] = i;
        for (size_t j = 1; j <= b_len; j++) {
            size_t best = above[j - 1] + (a[i - 1] != b[j - 1]);
            best = min_size(best, min_size(above[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = min_size(best, two_above[j - 2] + 1);
            row[j] = best;
        }
    }
    return rows[a_len % 3][b_len];
}

void nearest_init(struct nearest *nearest, const char *name) {
    nearest->name = name;
    nearest->best = NULL;
    /* One more than the farthest that is still a help: a third of the letters, and at least one. */
    nearest->distance = strnlen(name, NEAREST_MAX) / 3 + 2;
}

void nearest_offer(struct nearest *nearest, const char *candidate) {
    size_t distance = nearest_distance(nearest->name, candidate);
    /* Nothing in common is no help, however short the names are. */
    if (distance < nearest->distance && distance < strlen(candidate)) {
        nearest->distance = distance;
        nearest->best = candidate;
    }
}
