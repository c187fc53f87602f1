/* A checkpoint in memory. To bytes: checkpoint_encode.c, and back: checkpoint_decode.c; files and
 * directories: checkpoint_store.c; what a restore makes of it: server_checkpoint.c. */
#include "server/checkpoint.h"

struct checkpoint *checkpoint_new(size_t block_count, size_t ledger_count, size_t tensor_count) {
    struct checkpoint *c = mem_alloc(sizeof *c);
    c->tensor_count = tensor_count;
    c->tensors = mem_array(tensor_count, sizeof *c->tensors);
    c->block_count = block_count;
    c->block_ids = mem_array(block_count, sizeof *c->block_ids);
    c->floats = mem_array(block_count, sizeof *c->floats);
    c->versions = mem_array(block_count, sizeof *c->versions);
    c->clocks = mem_array(block_count, sizeof *c->clocks);
    c->steps = mem_array(block_count, sizeof *c->steps);
    c->weights = mem_array(block_count, sizeof(struct buf *));
    c->ledger_count = ledger_count;
    c->ledger = mem_array(ledger_count, sizeof *c->ledger);
    return c;
}

struct checkpoint *checkpoint_free(struct checkpoint *checkpoint) {
    if (!checkpoint)
        return NULL;
    for (size_t i = 0; i < checkpoint->block_count; i++) {
        buf_unref(checkpoint->weights[i]);
        if (checkpoint->state)
            buf_unref(checkpoint->state[i]);
        if (checkpoint->best)
            buf_unref(checkpoint->best[i]);
    }
    mem_free(checkpoint->tensors);
    mem_free(checkpoint->block_ids);
    mem_free(checkpoint->floats);
    mem_free(checkpoint->versions);
    mem_free(checkpoint->clocks);
    mem_free(checkpoint->steps);
    mem_free(checkpoint->weights);
    mem_free(checkpoint->state);
    mem_free(checkpoint->best);
    mem_free(checkpoint->ledger);
    for (size_t i = 0; i < checkpoint->table_count; i++)
        table_snapshot_end(checkpoint->tables[i].snapshot);
    mem_free(checkpoint->tables);
    for (size_t i = 0; i < checkpoint->source_count; i++) {
        buf_unref(checkpoint->sources[i].bytes);
        mem_free(checkpoint->sources[i].tables);
    }
    mem_free(checkpoint->sources);
    json_decref(checkpoint->coordinator);
    mem_free(checkpoint);
    return NULL;
}
