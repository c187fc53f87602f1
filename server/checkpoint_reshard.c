/* One shard's part of a generation that another number of shards wrote: all their files are read,
 * one at a time, and the blocks cut anew. Also what tells whether files belong together. */
#include <inttypes.h>
#include <string.h>

#include "server/checkpoint.h"

static bool same_tensors(const struct checkpoint *a, const struct checkpoint *b) {
    if (a->tensor_count != b->tensor_count)
        return false;
    for (size_t i = 0; i < a->tensor_count; i++) {
        const struct tensor_spec *x = &a->tensors[i], *y = &b->tensors[i];
        if (strcmp(x->name, y->name) != 0 || x->rows != y->rows || x->cols != y->cols ||
            x->init != y->init || x->decay != y->decay || x->statistic != y->statistic)
            return false;
    }
    return true;
}

static bool same_tables(const struct checkpoint *a, const struct checkpoint *b) {
    bool same = a->table_count == b->table_count;
    for (size_t i = 0; same && i < a->table_count; i++) {
        const struct layout_table *x = &a->tables[i].spec, *y = &b->tables[i].spec;
        same = strcmp(x->name, y->name) == 0 && x->rows == y->rows && x->dim == y->dim &&
               x->init_scale == y->init_scale;
    }
    return same;
}

const char *checkpoint_difference(const struct checkpoint *a, const struct checkpoint *b) {
    return strcmp(a->job, b->job) != 0        ? "the job"
           : a->run != b->run                 ? "the run"
           : a->generation != b->generation   ? "the generation"
           : a->block_bytes != b->block_bytes ? "the block size"
           : !same_tensors(a, b)              ? "the tensors"
           : !same_tables(a, b)               ? "the tables"
                                              : NULL;
}

int checkpoint_layout(const struct checkpoint *checkpoint, uint32_t shards, struct layout **ret,
                      struct error *reterr) {
    _cleanup_(mem_free_p) struct layout_table *tables =
        mem_array(checkpoint->table_count, sizeof *tables);
    for (size_t i = 0; i < checkpoint->table_count; i++)
        tables[i] = checkpoint->tables[i].spec;
    int r = layout_new(checkpoint->tensors, checkpoint->tensor_count, checkpoint->block_bytes,
                       shards, ret, reterr);
    if (r < 0)
        return r;
    r = layout_add_tables(*ret, tables, checkpoint->table_count, reterr);
    if (r < 0)
        *ret = layout_free(*ret);
    return r;
}

bool checkpoint_fits(const struct checkpoint *checkpoint, const struct layout *layout) {
    uint32_t shard = checkpoint->shard;
    if (shard >= layout->shard_count)
        return false;
    uint32_t start = layout->shard_starts[shard];
    bool fits = checkpoint->block_count == layout->shard_starts[shard + 1] - start;
    for (size_t i = 0; fits && i < checkpoint->block_count; i++) {
        const struct layout_block *block = &layout->blocks[layout->shard_blocks[start + i]];
        fits = checkpoint->block_ids[i] == block->id && checkpoint->floats[i] == block->floats;
    }
    return fits;
}

/* The new part, and what the old ones have in common. */
struct recut {
    struct layout *layout; /* the new one */
    struct checkpoint *part;
    bool best_differs; /* the old files keep the weights of different epochs: none are taken over */
};

static struct checkpoint *part_new(const struct checkpoint *first, const struct layout *layout,
                                   uint32_t shard) {
    const uint32_t *ids = layout->shard_blocks + layout->shard_starts[shard];
    size_t count = layout->shard_starts[shard + 1] - layout->shard_starts[shard];
    struct checkpoint *part = checkpoint_new(count, first->ledger_count, first->tensor_count);
    memcpy(part->job, first->job, sizeof part->job);
    part->run = first->run;
    part->generation = first->generation;
    part->shard = shard;
    part->shards = (uint32_t)layout->shard_count;
    part->block_bytes = first->block_bytes;
    part->seed = first->seed;
    memcpy(part->snapshot_digest, first->snapshot_digest, sizeof part->snapshot_digest);
    part->optimizer_kind = first->optimizer_kind;
    memcpy(part->tensors, first->tensors, first->tensor_count * sizeof *part->tensors);
    part->table_count = first->table_count;
    part->tables = mem_array(first->table_count, sizeof *part->tables);
    for (size_t i = 0; i < first->table_count; i++)
        part->tables[i].spec = first->tables[i].spec;
    part->state_floats = first->state_floats;
    if (part->state_floats)
        part->state = mem_array(count, sizeof *part->state);
    part->best_epoch = first->best_epoch;
    if (part->best_epoch)
        part->best = mem_array(count, sizeof *part->best);
    for (size_t i = 0; i < count; i++) {
        size_t floats = layout->blocks[ids[i]].floats;
        part->block_ids[i] = ids[i];
        part->floats[i] = (uint32_t)floats;
        part->weights[i] = buf_new(floats * sizeof(float));
        if (part->state)
            part->state[i] = buf_new(floats * part->state_floats * sizeof(float));
        if (part->best)
            part->best[i] = buf_new(floats * sizeof(float));
    }
    for (size_t i = 0; i < first->ledger_count; i++) {
        part->ledger[i] = first->ledger[i];
        part->ledger[i].counted = 0;
    }
    return part;
}

/* The floats that old block i and new block k have in common. */
static void copy_common(const struct checkpoint *old, size_t i, uint64_t old_offset,
                        const struct recut *recut, size_t k, uint64_t new_offset) {
    struct checkpoint *part = recut->part;
    uint64_t from = old_offset > new_offset ? old_offset : new_offset;
    uint64_t old_end = old_offset + old->floats[i], new_end = new_offset + part->floats[k];
    size_t bytes = ((old_end < new_end ? old_end : new_end) - from) * sizeof(float);
    size_t at_old = from - old_offset, at_new = from - new_offset;
    memcpy((float *)(void *)part->weights[k]->data + at_new,
           (const float *)(const void *)old->weights[i]->data + at_old, bytes);
    for (size_t s = 0; s < part->state_floats; s++)
        memcpy((float *)(void *)part->state[k]->data + s * part->floats[k] + at_new,
               (const float *)(const void *)old->state[i]->data + s * old->floats[i] + at_old,
               bytes);
    if (part->best && old->best)
        memcpy((float *)(void *)part->best[k]->data + at_new,
               (const float *)(const void *)old->best[i]->data + at_old, bytes);
    if (old->versions[i] > part->versions[k])
        part->versions[k] = old->versions[i];
    if (old->clocks[i] > part->clocks[k])
        part->clocks[k] = old->clocks[i];
    if (old->steps[i] > part->steps[k])
        part->steps[k] = old->steps[i];
}

/* Both lists of blocks ascend in the model. */
static void copy_blocks(const struct checkpoint *old, const struct layout *old_layout,
                        const struct recut *recut) {
    const struct checkpoint *part = recut->part;
    size_t k = 0;
    for (size_t i = 0; i < old->block_count; i++) {
        uint64_t begin = old_layout->blocks[old->block_ids[i]].offset;
        while (k < part->block_count &&
               recut->layout->blocks[part->block_ids[k]].offset + part->floats[k] <= begin)
            k++;
        for (size_t j = k; j < part->block_count; j++) {
            uint64_t offset = recut->layout->blocks[part->block_ids[j]].offset;
            if (offset >= begin + old->floats[i])
                break;
            copy_common(old, i, begin, recut, j, offset);
        }
    }
}

/* The rows stay where they are in the old files; the server takes those that are its own. */
static void sources_move(struct checkpoint *part, struct checkpoint *old) {
    size_t count = part->source_count, more = old->source_count;
    part->sources = mem_resize(part->sources, count * sizeof *part->sources,
                               (count + more) * sizeof *part->sources);
    memcpy(part->sources + count, old->sources, more * sizeof *part->sources);
    part->source_count = count + more;
    old->source_count = 0;
}

/* A row's stripe is the same whatever the number of shards. */
static void copy_stripes(const struct checkpoint *old, struct checkpoint *part) {
    for (size_t i = 0; i < part->table_count; i++)
        for (size_t s = 0; s < LAYOUT_STRIPES; s++) {
            struct checkpoint_table *to = &part->tables[i];
            const struct checkpoint_table *from = &old->tables[i];
            if (from->versions[s] > to->versions[s])
                to->versions[s] = from->versions[s];
            if (from->clocks[s] > to->clocks[s])
                to->clocks[s] = from->clocks[s];
        }
}

/* Takes over from one old file. first: shard 0's, or NULL when this is it. */
static int recut_add(struct recut *recut, struct checkpoint *old, const struct checkpoint *first,
                     uint32_t shard, uint32_t shards, struct error *reterr) {
    struct layout *old_layout;
    const char *what = first ? checkpoint_difference(first, old) : NULL;
    if (!what && first &&
        (first->state_floats != old->state_floats || first->ledger_count != old->ledger_count))
        what = "the optimizer or the workers";
    if (what)
        return error_set(reterr, ERR_FORMAT, "the files of shards 0 and %u differ in %s",
                         old->shard, what);
    int r = checkpoint_layout(old, old->shards, &old_layout, reterr);
    if (r == 0 && !checkpoint_fits(old, old_layout))
        r = error_set(reterr, ERR_FORMAT, "its blocks are not those of its tensors");
    if (r == 0 && !first)
        r = checkpoint_layout(old, shards, &recut->layout, reterr);
    if (r == 0 && !first)
        recut->part = part_new(old, recut->layout, shard);
    if (r == 0) {
        recut->best_differs |= old->best_epoch != recut->part->best_epoch;
        if (old->clock > recut->part->clock)
            recut->part->clock = old->clock;
        copy_blocks(old, old_layout, recut);
        copy_stripes(old, recut->part);
        sources_move(recut->part, old);
    }
    if (r == 0 && old->shard == shard)
        memcpy(recut->part->ledger, old->ledger, old->ledger_count * sizeof *old->ledger);
    layout_free(old_layout);
    return r;
}

static void drop_best(struct checkpoint *part) {
    for (size_t i = 0; part->best && i < part->block_count; i++)
        buf_unref(part->best[i]);
    mem_free(part->best);
    part->best = NULL;
    part->best_epoch = 0;
}

static int read_old(const struct checkpoint_store *store, uint64_t generation, uint32_t k,
                    uint32_t from, struct checkpoint **ret, struct error *reterr) {
    _cleanup_(buf_unref_p) struct buf *bytes = NULL;
    struct checkpoint *old = NULL;
    int r = store->read(store->ctx, generation, k, from, &bytes, reterr);
    if (r == 0)
        r = checkpoint_decode(bytes->data, bytes->len, &old, reterr);
    if (r == 0)
        old->sources[0].bytes = buf_ref(bytes);
    if (r == 0 && (old->shard != k || old->shards != from))
        r = error_set(reterr, ERR_FORMAT, "it is of shard %u of %u", old->shard, old->shards);
    if (r < 0) {
        checkpoint_free(old);
        return error_prefix(reterr, "shard %" PRIu32 " of %" PRIu32, k, from);
    }
    *ret = old;
    return 0;
}

int checkpoint_reshard(const struct checkpoint_store *store, uint64_t generation, uint32_t from,
                       uint32_t shard, uint32_t shards, struct checkpoint **ret,
                       struct error *reterr) {
    struct recut recut = {0};
    struct checkpoint *first = NULL;
    int r = 0;
    for (uint32_t k = 0; r == 0 && k < from; k++) {
        struct checkpoint *old = NULL;
        r = read_old(store, generation, k, from, &old, reterr);
        if (r == 0)
            r = recut_add(&recut, old, first, shard, shards, reterr);
        if (k == 0)
            first = old;
        else
            checkpoint_free(old);
    }
    if (r == 0 && shard == 0)
        recut.part->coordinator = TAKE_PTR(first->coordinator);
    if (r == 0 && recut.best_differs)
        drop_best(recut.part);
    checkpoint_free(first);
    layout_free(recut.layout);
    if (r < 0)
        checkpoint_free(recut.part);
    else
        *ret = recut.part;
    return r;
}
