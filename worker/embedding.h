/* The learned rows of nodes (model.embedding): a table on the shards, whose row is a node's global
 * number. Whoever computes on a batch fetches the rows of all its input nodes first, and pushes
 * their gradients with those of the weights, under the same clock and rules. */
#pragma once

#include "common/model_spec.h"
#include "worker/client.h"
#include "worker/graph/batch.h"
#include "worker/graph/store.h"

/* Adds the table to a layout when the model has learned rows. ERR_CONFIG: it would be too large. */
int embedding_declare(const struct model_spec *spec, const struct store *store,
                      struct layout *layout, struct error *reterr);

struct embedding;
/* All are borrowed and outlive it. */
struct embedding *embedding_new(const struct store *store, const struct layout *layout);
struct embedding *embedding_free(struct embedding *embedding); /* takes NULL */

/* Sets batch->embeddings, [n_input, embedding], good until the next call of either. candidate: the
 * rows kept for that epoch; 0: those of now. */
int embedding_fetch(struct embedding *embedding, struct client *client, uint32_t candidate,
                    struct batch *batch, struct error *reterr);
/* The same of nodes of the store, first to first + count - 1, to ret [count, embedding]. */
int embedding_take(struct embedding *embedding, struct client *client, uint32_t candidate,
                   uint64_t first, uint32_t count, float *ret, struct error *reterr);
/* Just before the client_push of the same step: the gradients of the rows that were fetched last,
 * or NULL for a step that has none and counts all the same. */
int embedding_push(struct embedding *embedding, struct client *client, const float *gradient,
                   uint64_t clock, double weight, struct error *reterr);
/* Bytes of it, for batches of so many inputs. */
size_t embedding_bytes(size_t inputs, uint32_t dim);
