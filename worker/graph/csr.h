/* Rows of neighbours in compressed form: indptr int64 [rows + 1], indices int32 [indptr[rows]].
 * Pure functions on arrays that somebody else owns. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

#define CSR_NODES_MAX INT32_MAX

/* Is it a CSR of these counts whose every index is below cols? what names it in the message. */
int csr_check(const char *what, const int64_t *indptr, const int32_t *indices, uint64_t rows,
              uint64_t entries, uint64_t cols, struct error *reterr);
/* Sorts a row and, unique, drops repeats; returns how many entries are left. */
uint64_t csr_row_sort(int32_t *row, uint64_t n, bool unique);
/* The transpose of a square one; rows come out ascending. t_indptr [nodes + 1] is zeroed by the
 * caller, t_indices has room for all entries. */
void csr_transpose(const int64_t *indptr, const int32_t *indices, uint64_t nodes, int64_t *t_indptr,
                   int32_t *t_indices);
/* Does every edge have its inverse? Rows ascending, without repeats. */
bool csr_symmetric(const int64_t *indptr, const int32_t *indices, uint64_t nodes);
/* Sorts n keys, ascending by their upper 32 bits; equal ones stay in order. Linear in n. spare [n].
 */
void csr_sort_keys(uint64_t *keys, uint64_t *spare, uint64_t n);

/* For qsort and bsearch of int32_t. */
int csr_compare(const void *a, const void *b);
