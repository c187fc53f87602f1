/* Layer-wise inference with all neighbours: each layer is computed for all nodes that the next one
 * needs, a block of rows at a time, before the next begins. Memory is that of two layers' outputs,
 * however many layers there are; nothing is kept for a backward pass. A jump's own outputs (of
 * concat as wide as all layers before it together) are one array more, filled layer by layer. */
#pragma once

#include "worker/graph/store.h"
#include "worker/model/model.h"

struct infer;
/* Both are borrowed and outlive it. */
struct infer *infer_new(const struct model_spec *spec, const struct store *store);
struct infer *infer_free(struct infer *infer); /* takes NULL */
/* Where a model with learned rows gets them: those of the store's nodes first .. first + count - 1,
 * [count, embedding], a few ten thousand at a time, some twice; < 0: they cannot be had. Set before
 * the first run; ctx is borrowed. */
typedef int infer_rows(void *ctx, uint64_t first, uint32_t count, float *ret);
void infer_set_rows(struct infer *infer, infer_rows *rows, void *ctx);
/* weights: flat, layout order. The logits [store->owned, classes], or the outputs of all nodes
 * within spec->hops.outer hops, stay valid until the next call; result may be NULL. NULL: learned
 * rows could not be had. The same numbers as model_forward over a full batch without dropout, up to
 * rounding. */
const float *infer_run(struct infer *infer, const float *weights, struct model_result *result);
/* What it allocates for a store of such a shape. */
size_t infer_bytes(const struct model_spec *spec, const struct store *store);
