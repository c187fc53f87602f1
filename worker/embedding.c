/* Rows of a batch: one array, and the order in which they travel. */
#include "worker/embedding.h"

#include <math.h>

#include "common/mem.h"

struct embedding {
    const struct store *store;
    const struct layout *layout;
    struct row_plan plan; /* of what was fetched last */
    float *rows;          /* [capacity, dim] */
    size_t capacity;
};

int embedding_declare(const struct model_spec *spec, const struct store *store,
                      struct layout *layout, struct error *reterr) {
    struct error cause;
    if (spec->embedding == 0)
        return 0;
    /* Rows of length 1, about, whatever their number of floats. */
    const struct layout_table table = {.name = "embedding",
                                       .rows = store->nodes_total,
                                       .dim = spec->embedding,
                                       .init_scale = sqrtf(3 / (float)spec->embedding)};
    int r = layout_add_tables(layout, &table, 1, &cause);
    return r < 0
               ? error_set(reterr, r == ERR_LIMIT ? ERR_CONFIG : r,
                           "model.embedding of the %llu nodes of %s: %s",
                           (unsigned long long)store->nodes_total, store->snapshot_name, cause.text)
               : 0;
}

struct embedding *embedding_new(const struct store *store, const struct layout *layout) {
    struct embedding *embedding = mem_alloc(sizeof *embedding);
    embedding->store = store;
    embedding->layout = layout;
    return embedding;
}

struct embedding *embedding_free(struct embedding *embedding) {
    if (embedding) {
        row_plan_done(&embedding->plan);
        mem_free(embedding->rows);
        mem_free(embedding);
    }
    return NULL;
}

int embedding_fetch(struct embedding *embedding, struct client *client, uint32_t candidate,
                    struct batch *batch, struct error *reterr) {
    size_t dim = embedding->layout->tables[0].dim;
    if (batch->n_input > embedding->capacity) {
        mem_free(embedding->rows);
        embedding->capacity = batch->version ? batch->n_input : batch->n_input + batch->n_input / 8;
        embedding->rows = mem_raw(embedding->capacity * dim * sizeof *embedding->rows);
    }
    row_plan_make(&embedding->plan, batch->nodes, batch->n_input, embedding->layout->shard_count);
    batch->embeddings = embedding->rows;
    return client_rows(client, &embedding->plan, candidate, embedding->rows, reterr);
}

int embedding_take(struct embedding *embedding, struct client *client, uint32_t candidate,
                   uint64_t first, uint32_t count, float *ret, struct error *reterr) {
    row_plan_make(&embedding->plan, embedding->store->nodes + first, count,
                  embedding->layout->shard_count);
    return client_rows(client, &embedding->plan, candidate, ret, reterr);
}

int embedding_push(struct embedding *embedding, struct client *client, const float *gradient,
                   uint64_t clock, double weight, struct error *reterr) {
    if (!gradient)
        row_plan_make(&embedding->plan, NULL, 0, embedding->layout->shard_count);
    return client_push_rows(client, &embedding->plan, gradient, clock, weight, reterr);
}

size_t embedding_bytes(size_t inputs, uint32_t dim) {
    return inputs * (dim * sizeof(float) + 2 * sizeof(uint32_t));
}
