/* A whole model from the files of all shards of one generation, for export. Owns the checks that
 * the files belong together; which generation a running shard restores is the coordinator's
 * decision. */
#include "server/checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/file.h"

/* What is put together, shard by shard. */
struct collected {
    struct checkpoint *first; /* of shard 0, its arrays of floats too */
    struct layout *layout;    /* from it */
    float *weights;           /* [layout->floats], then the tables' rows */
    bool wanted;              /* weights are */
};

static uint64_t table_floats(const struct checkpoint *checkpoint, size_t table) {
    return checkpoint->tables[table].spec.rows * checkpoint->tables[table].spec.dim;
}

static void collected_done(struct collected *c) {
    checkpoint_free(c->first);
    layout_free(c->layout);
    mem_free(c->weights);
}

/* How many shards wrote into this directory. */
static int dir_shards(const char *dir, uint32_t *ret_shards, struct error *reterr) {
    char **names;
    size_t count;
    int r = dir_list(dir, &names, &count, reterr);
    if (r != 0)
        return r;
    uint32_t shards = 0;
    for (size_t i = 0; r == 0 && i < count; i++) {
        uint32_t shard, of;
        if (!checkpoint_store_parse(names[i], &shard, &of))
            continue;
        if (shards != 0 && of != shards)
            r = error_set(reterr, ERR_FORMAT,
                          "%s holds checkpoints of runs with %" PRIu32 " and with %" PRIu32
                          " shards; move one of them away",
                          dir, shards, of);
        shards = of;
    }
    dir_list_free(names, count);
    if (r == 0 && shards == 0)
        r = error_set(reterr, ERR_NOT_FOUND, "there is no checkpoint in %s", dir);
    if (r == 0)
        *ret_shards = shards;
    return r;
}

static void map_gone(void *ctx, size_t len_bytes) {
    file_unmap(ctx);
    mem_free(ctx);
}

static int shard_read(const char *dir, uint32_t shard, uint32_t shards, struct checkpoint **ret,
                      struct error *reterr) {
    char name[CHECKPOINT_NAME_BYTES];
    checkpoint_store_name(shard, shards, name);
    _cleanup_(mem_free_p) char *path = mem_printf("%s/%s", dir, name);
    _cleanup_(buf_unref_p) struct buf *bytes = NULL;
    struct checkpoint *checkpoint;
    struct file_map *map = mem_alloc(sizeof *map);
    int r = file_map(path, map, reterr);
    if (r == 0)
        bytes = buf_wrap(map->data, map->len, map_gone, map);
    else
        mem_free(map);
    if (r == ERR_NOT_FOUND)
        return error_set(reterr, r, "the checkpoint in %s is incomplete: %s is missing", dir, name);
    if (r != 0)
        return r;
    r = checkpoint_decode(bytes->data, bytes->len, &checkpoint, reterr);
    if (r != 0)
        return error_prefix(reterr, "%s", path);
    checkpoint->sources[0].bytes = buf_ref(bytes); /* where its rows are */
    if (checkpoint->shard != shard || checkpoint->shards != shards) {
        r = error_set(reterr, ERR_FORMAT, "%s holds shard %" PRIu32 " of %" PRIu32, path,
                      checkpoint->shard, checkpoint->shards);
        checkpoint_free(checkpoint);
        return r;
    }
    *ret = checkpoint;
    return 0;
}

/* Do two shards' files tell of the same moment of the same run? */
static int shard_matches(const char *dir, const struct checkpoint *first,
                         const struct checkpoint *other, bool which_best, struct error *reterr) {
    const char *what = checkpoint_difference(first, other);
    if (!what && which_best && first->best_epoch != other->best_epoch)
        what = "the epoch of the best weights";
    if (!what)
        return 0;
    return error_set(reterr, ERR_FORMAT,
                     "the files of shards %" PRIu32 " and %" PRIu32 " in %s differ in %s",
                     first->shard, other->shard, dir, what);
}

/* Where a row of a table goes. */
struct placing {
    const struct layout_table *spec;
    bool best;
    float *rows; /* [spec->rows, spec->dim] */
};

static int row_place(void *ctx, const struct table_row *row, struct error *reterr) {
    const struct placing *placing = ctx;
    size_t dim = placing->spec->dim;
    if (placing->best && !row->best)
        return error_set(reterr, ERR_FORMAT, "table '%s' has no best rows", placing->spec->name);
    memcpy(placing->rows + row->row * dim, placing->best ? row->best : row->floats,
           dim * sizeof(float));
    return 0;
}

static float *rows_of(const struct collected *c, size_t table) {
    float *rows = c->weights + c->layout->floats;
    for (size_t i = 0; i < table; i++)
        rows += table_floats(c->first, i);
    return rows;
}

/* Tensors as zeros, all rows as they are before anybody touches them. */
static void weights_make(struct collected *c) {
    uint64_t floats = c->layout->floats;
    for (size_t i = 0; i < c->first->table_count; i++)
        floats += table_floats(c->first, i);
    c->weights = mem_array(floats, sizeof *c->weights);
    for (size_t i = 0; i < c->first->table_count; i++) {
        const struct layout_table *spec = &c->first->tables[i].spec;
        uint64_t key = layout_row_key(c->first->seed, (uint32_t)i);
        float *rows = rows_of(c, i);
        for (uint64_t row = 0; row < spec->rows; row++)
            layout_init_row(key, row, spec->dim, spec->init_scale, rows + row * spec->dim);
    }
}

/* Copies a shard's blocks to their places in the model, if they are just the layout's. */
static int shard_place(const char *dir, struct collected *c, const struct checkpoint *checkpoint,
                       bool which_best, struct error *reterr) {
    const struct layout *layout = c->layout;
    if (!checkpoint_fits(checkpoint, layout))
        return error_set(reterr, ERR_FORMAT,
                         "the blocks of shard %" PRIu32 " in %s are not those of its tensors",
                         checkpoint->shard, dir);
    if (which_best && !checkpoint->best)
        return error_set(reterr, ERR_NOT_FOUND,
                         "no best weights were kept in %s; take the latest ones", dir);
    /* Only now, when blocks of that size have been seen. */
    if (!c->wanted)
        return 0;
    if (!c->weights)
        weights_make(c);
    for (size_t i = 0; i < checkpoint->table_count; i++) {
        struct placing placing = {&c->first->tables[i].spec, which_best, rows_of(c, i)};
        int r = checkpoint_rows(checkpoint, i, row_place, &placing, reterr);
        if (r != 0)
            return error_prefix(reterr, "%s", dir);
    }
    struct buf **bufs = which_best ? checkpoint->best : checkpoint->weights;
    for (size_t i = 0; i < checkpoint->block_count; i++)
        memcpy(c->weights + layout->blocks[checkpoint->block_ids[i]].offset, bufs[i]->data,
               checkpoint->floats[i] * sizeof(float));
    return 0;
}

/* Shard 0's file also says what the layout is. */
static int collect_first(const char *dir, uint32_t shards, struct collected *c,
                         struct error *reterr) {
    int r = shard_read(dir, 0, shards, &c->first, reterr);
    if (r != 0)
        return r;
    r = layout_new(c->first->tensors, c->first->tensor_count, c->first->block_bytes, shards,
                   &c->layout, reterr);
    if (r != 0)
        return error_prefix(reterr, "the checkpoint in %s", dir);
    return 0;
}

static int collect_dir(const char *dir, bool which_best, bool wanted, struct collected *ret,
                       struct error *reterr) {
    struct collected c = {.wanted = wanted};
    uint32_t shards;
    int r = dir_shards(dir, &shards, reterr);
    if (r != 0)
        return r;
    r = collect_first(dir, shards, &c, reterr);
    if (r == 0)
        r = shard_place(dir, &c, c.first, which_best, reterr);
    for (uint32_t shard = 1; r == 0 && shard < shards; shard++) {
        struct checkpoint *checkpoint = NULL;
        r = shard_read(dir, shard, shards, &checkpoint, reterr);
        if (r == 0)
            r = shard_matches(dir, c.first, checkpoint, which_best, reterr);
        if (r == 0)
            r = shard_place(dir, &c, checkpoint, which_best, reterr);
        checkpoint_free(checkpoint);
    }
    if (r != 0) {
        collected_done(&c);
        return r;
    }
    *ret = c;
    return 0;
}

/* The newest generation that can be used; when there is none, why the newest two cannot. */
static int collect_newest(const char *job_dir, bool which_best, bool wanted, struct collected *ret,
                          struct error *reterr) {
    _cleanup_(mem_free_p) uint64_t *generations = NULL;
    size_t count;
    int r = checkpoint_store_generations(job_dir, &generations, &count, reterr);
    if (r != 0)
        return r;
    if (count == 0)
        return error_set(reterr, ERR_NOT_FOUND,
                         "no checkpoint was written below %s/checkpoints yet", job_dir);
    struct error newest = {0}, before = {0};
    for (size_t i = count; i-- > 0;) {
        _cleanup_(mem_free_p) char *dir = checkpoint_store_dir(job_dir, generations[i]);
        struct error err = {0};
        r = collect_dir(dir, which_best, wanted, ret, &err);
        if (r == 0)
            return 0;
        if (newest.code == 0)
            newest = err;
        else if (before.code == 0)
            before = err;
    }
    if (before.code == 0)
        return error_set(reterr, newest.code, "%s", error_text(&newest));
    return error_set(reterr, newest.code, "%s; nor can one before it be used: %s",
                     error_text(&newest), error_text(&before));
}

void checkpoint_collect_faults(const char *path, bool which_best, uint64_t taken,
                               checkpoint_tell *tell, void *to) {
    _cleanup_(mem_free_p) uint64_t *generations = NULL;
    size_t count;
    if (checkpoint_store_generations(path, &generations, &count, NULL) != 0)
        return;
    for (size_t i = 0; i < count; i++) {
        if (generations[i] <= taken)
            continue;
        _cleanup_(mem_free_p) char *dir = checkpoint_store_dir(path, generations[i]);
        struct collected c;
        struct error err = {0};
        int r = collect_dir(dir, which_best, false, &c, &err);
        if (r == 0) /* written since */
            collected_done(&c);
        else if (r != ERR_NOT_FOUND)
            tell(to, &err);
    }
}

/* With the tables behind them. */
static void tensors_collect(const struct checkpoint *checkpoint, struct tensor_spec **ret,
                            size_t *ret_count) {
    size_t count = checkpoint->tensor_count + checkpoint->table_count;
    struct tensor_spec *tensors = mem_array(count, sizeof *tensors);
    memcpy(tensors, checkpoint->tensors, checkpoint->tensor_count * sizeof *tensors);
    for (size_t i = 0; i < checkpoint->table_count; i++) {
        const struct layout_table *spec = &checkpoint->tables[i].spec;
        struct tensor_spec *tensor = &tensors[checkpoint->tensor_count + i];
        memcpy(tensor->name, spec->name, sizeof tensor->name);
        tensor->rows = (uint32_t)spec->rows;
        tensor->cols = spec->dim;
    }
    *ret = tensors;
    *ret_count = count;
}

int checkpoint_collect(const char *path, bool which_best, struct tensor_spec **ret_tensors,
                       size_t *ret_count, float **ret_weights, uint64_t *ret_generation,
                       json_t **ret_coordinator, struct error *reterr) {
    _cleanup_(mem_free_p) char *checkpoints = mem_printf("%s/checkpoints", path);
    struct collected c;
    if (!file_exists(path))
        return error_set(reterr, ERR_NOT_FOUND,
                         "%s is not there; name a job's directory or one generation in its "
                         "checkpoints",
                         path);
    bool wanted = ret_weights != NULL;
    int r = file_exists(checkpoints) ? collect_newest(path, which_best, wanted, &c, reterr)
                                     : collect_dir(path, which_best, wanted, &c, reterr);
    if (r != 0)
        return r;
    if (wanted) {
        tensors_collect(c.first, ret_tensors, ret_count);
        *ret_weights = TAKE_PTR(c.weights);
    }
    *ret_generation = c.first->generation;
    *ret_coordinator = TAKE_PTR(c.first->coordinator);
    if (*ret_coordinator)
        json_object_set_new(*ret_coordinator, "snapshot_digest",
                            json_string(c.first->snapshot_digest));
    collected_done(&c);
    return 0;
}
