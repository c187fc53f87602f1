/* Compressed rows: check, sort, transpose, symmetry. */
#include "worker/graph/csr.h"

#include <stdlib.h>
#include <string.h>

#include "common/mem.h"

int csr_check(const char *what, const int64_t *indptr, const int32_t *indices, uint64_t rows,
              uint64_t entries, uint64_t cols, struct error *reterr) {
    if (indptr[0] != 0 || (uint64_t)indptr[rows] != entries)
        return error_set(reterr, ERR_FORMAT, "%s: indptr does not run from 0 to %llu", what,
                         (unsigned long long)entries);
    for (uint64_t i = 0; i < rows; i++)
        if (indptr[i] > indptr[i + 1])
            return error_set(reterr, ERR_FORMAT, "%s: indptr falls at row %llu", what,
                             (unsigned long long)i);
    for (uint64_t e = 0; e < entries; e++)
        if (indices[e] < 0 || (uint64_t)indices[e] >= cols)
            return error_set(reterr, ERR_FORMAT, "%s: entry %llu of indices is %d, not in 0..%llu",
                             what, (unsigned long long)e, indices[e], (unsigned long long)cols - 1);
    return 0;
}

int csr_compare(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

uint64_t csr_row_sort(int32_t *row, uint64_t n, bool unique) {
    if (n > 24) {
        qsort(row, n, sizeof *row, csr_compare);
    } else {
        /* Most rows are short, where insertion beats the calls of qsort. */
        for (uint64_t i = 1; i < n; i++) {
            int32_t value = row[i];
            uint64_t j = i;
            for (; j > 0 && row[j - 1] > value; j--)
                row[j] = row[j - 1];
            row[j] = value;
        }
    }
    if (!unique || n == 0)
        return n;
    uint64_t left = 1;
    for (uint64_t i = 1; i < n; i++)
        if (row[i] != row[left - 1])
            row[left++] = row[i];
    return left;
}

void csr_transpose(const int64_t *indptr, const int32_t *indices, uint64_t nodes, int64_t *t_indptr,
                   int32_t *t_indices) {
    for (int64_t e = 0; e < indptr[nodes]; e++)
        t_indptr[indices[e] + 1]++;
    for (uint64_t i = 0; i < nodes; i++)
        t_indptr[i + 1] += t_indptr[i];
    /* t_indptr[i] serves as the place of row i's next entry: it ends at the start of row i + 1 and
     * is moved back afterwards. */
    for (uint64_t i = 0; i < nodes; i++)
        for (int64_t e = indptr[i]; e < indptr[i + 1]; e++)
            t_indices[t_indptr[indices[e]]++] = (int32_t)i;
    for (uint64_t i = nodes; i > 0; i--)
        t_indptr[i] = t_indptr[i - 1];
    t_indptr[0] = 0;
}

static bool has_entry(const int32_t *row, int64_t n, int32_t wanted) {
    int64_t low = 0, high = n;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (row[middle] < wanted)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && row[low] == wanted;
}

bool csr_symmetric(const int64_t *indptr, const int32_t *indices, uint64_t nodes) {
    /* Most that are not are so at once, and need no memory. */
    for (uint64_t i = 0; i < nodes && i < 256; i++)
        for (int64_t e = indptr[i]; e < indptr[i + 1]; e++) {
            int32_t j = indices[e];
            if (!has_entry(indices + indptr[j], indptr[j + 1] - indptr[j], (int32_t)i))
                return false;
        }
    /* Row i is walked in ascending order of i, so the entries i that others hold of it are met in
     * ascending order too: one cursor per row finds each inverse without a search. */
    _cleanup_(mem_free_p) int64_t *cursor = mem_array(nodes, sizeof *cursor);
    for (uint64_t i = 0; i < nodes; i++)
        cursor[i] = indptr[i];
    for (uint64_t i = 0; i < nodes; i++)
        for (int64_t e = indptr[i]; e < indptr[i + 1]; e++) {
            int32_t j = indices[e];
            if (cursor[j] >= indptr[j + 1] || indices[cursor[j]] != (int32_t)i)
                return false;
            cursor[j]++;
        }
    return true;
}

void csr_sort_keys(uint64_t *keys, uint64_t *spare, uint64_t n) {
    if (n <= 48) { /* as in row_sort */
        for (uint64_t i = 1; i < n; i++) {
            uint64_t key = keys[i], j = i;
            for (; j > 0 && keys[j - 1] >> 32 > key >> 32; j--)
                keys[j] = keys[j - 1];
            keys[j] = key;
        }
        return;
    }
    /* By one byte after the other, from the lowest; four times, so the result is in keys again. */
    uint64_t starts[4][256] = {0};
    for (uint64_t i = 0; i < n; i++)
        for (int byte = 0; byte < 4; byte++)
            starts[byte][keys[i] >> (32 + 8 * byte) & 255]++;
    for (int byte = 0; byte < 4; byte++) {
        uint64_t sum = 0;
        for (int v = 0; v < 256; v++) {
            uint64_t count = starts[byte][v];
            starts[byte][v] = sum;
            sum += count;
        }
        for (uint64_t i = 0; i < n; i++)
            spare[starts[byte][keys[i] >> (32 + 8 * byte) & 255]++] = keys[i];
        uint64_t *swap = keys;
        keys = spare;
        spare = swap;
    }
}
