/* What a shard does when it saves: save_checkpoint DIRECTORY GENERATION writes one whose weights
 * all are the generation's number, and prunes all older ones but one. For test_save, which kills
 * it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/checkpoint.h"

enum { ROWS = 300, COLS = 100, BLOCK_BYTES = 65536, KEEP = 2 };

static struct checkpoint *sample(uint64_t generation) {
    const struct tensor_spec spec = {.name = "w", .rows = ROWS, .cols = COLS};
    struct layout *layout;
    struct error err;
    if (layout_new(&spec, 1, BLOCK_BYTES, 1, &layout, &err) < 0)
        abort();
    struct checkpoint *c = checkpoint_new(layout->block_count, 1, 1);
    snprintf(c->job, sizeof c->job, "save");
    c->run = 1;
    c->generation = generation;
    c->shards = 1;
    c->block_bytes = BLOCK_BYTES;
    c->tensors[0] = spec;
    for (size_t i = 0; i < layout->block_count; i++) {
        c->block_ids[i] = (uint32_t)i;
        c->floats[i] = layout->blocks[i].floats;
        c->versions[i] = 1;
        c->weights[i] = buf_new(c->floats[i] * sizeof(float));
        for (uint32_t k = 0; k < c->floats[i]; k++)
            ((float *)(void *)c->weights[i]->data)[k] = (float)generation;
    }
    layout_free(layout);
    return c;
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 64;
    struct checkpoint_store store = checkpoint_store_files(argv[1]);
    uint64_t generation = strtoull(argv[2], NULL, 10);
    struct checkpoint *checkpoint = sample(generation);
    struct checkpoint_stream *stream = checkpoint_stream_new(checkpoint, NULL);
    struct error err = {0};
    printf("saving\n");
    fflush(stdout);
    int r = store.write(store.ctx, generation, 0, 1, stream, &err);
    checkpoint_stream_free(stream);
    checkpoint_free(checkpoint);
    if (r == 0)
        r = store.prune(store.ctx, 0, 1, generation, KEEP, &err);
    if (r < 0)
        fprintf(stderr, "%s\n", error_text(&err));
    return r < 0 ? 1 : 0;
}
