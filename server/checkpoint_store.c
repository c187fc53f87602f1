/* Generations of one shard as files below <job_dir>/checkpoints. Owns names, directories and the
 * order in which things become durable or go; the bytes are checkpoint.c's. A generation's
 * directory is shared by all shards of this machine, each touches its own files. */
#include "server/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/file.h"

/* Who wants the stream to stop waits for the disk to take so much, not for all of a large file. */
#define SYNC_BYTES ((uint64_t)8 << 20)

char *checkpoint_store_dir(const char *job_dir, uint64_t generation) {
    return mem_printf("%s/checkpoints/%08" PRIu64, job_dir, generation);
}

void checkpoint_store_name(uint32_t shard, uint32_t shards, char ret[CHECKPOINT_NAME_BYTES]) {
    snprintf(ret, CHECKPOINT_NAME_BYTES, "shard-%" PRIu32 "-of-%" PRIu32 ".ckpt", shard, shards);
}

bool checkpoint_store_parse(const char *name, uint32_t *ret_shard, uint32_t *ret_shards) {
    char again[CHECKPOINT_NAME_BYTES];
    uint32_t shard, shards;
    if (sscanf(name, "shard-%" SCNu32 "-of-%" SCNu32 ".ckpt", &shard, &shards) != 2)
        return false;
    checkpoint_store_name(shard, shards, again);
    if (strcmp(name, again) != 0 || shards == 0 || shards > LAYOUT_SHARDS_MAX)
        return false;
    *ret_shard = shard;
    *ret_shards = shards;
    return true;
}

static char *file_path(const char *job_dir, uint64_t generation, uint32_t shard, uint32_t shards) {
    char name[CHECKPOINT_NAME_BYTES];
    checkpoint_store_name(shard, shards, name);
    _cleanup_(mem_free_p) char *dir = checkpoint_store_dir(job_dir, generation);
    return mem_printf("%s/%s", dir, name);
}

/* A new directory is only there after a power cut when the one above it was synced. */
static int dir_sync(const char *path, struct error *reterr) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int why = fd < 0 || fsync(fd) != 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    return why == 0 ? 0 : error_set(reterr, ERR_IO, "cannot sync %s: %s", path, strerror(why));
}

static int file_write_stream(const char *path, struct checkpoint_stream *stream,
                             struct error *reterr) {
    struct file_writer *file;
    const void *data;
    size_t len;
    uint64_t synced = 0;
    int r = file_create(path, &file, reterr);
    if (r != 0)
        return r;
    while (r == 0 && (r = checkpoint_stream_next(stream, &data, &len, reterr)) > 0) {
        r = file_append(file, data, len, reterr);
        if (r == 0 && checkpoint_stream_bytes(stream) - synced >= SYNC_BYTES) {
            synced = checkpoint_stream_bytes(stream);
            r = file_sync(file, reterr);
        }
    }
    if (r == 0)
        return file_commit(file, reterr);
    file_abandon(file);
    return r;
}

static int store_write(void *ctx, uint64_t generation, uint32_t shard, uint32_t shards,
                       struct checkpoint_stream *stream, struct error *reterr) {
    const char *job_dir = ctx;
    _cleanup_(mem_free_p) char *all = mem_printf("%s/checkpoints", job_dir);
    _cleanup_(mem_free_p) char *dir = checkpoint_store_dir(job_dir, generation);
    _cleanup_(mem_free_p) char *path = file_path(job_dir, generation, shard, shards);
    int r = dir_make(dir, reterr);
    if (r == 0)
        r = dir_sync(job_dir, reterr);
    if (r == 0)
        r = dir_sync(all, reterr);
    if (r == 0)
        r = file_write_stream(path, stream, reterr);
    if (r != 0) {
        rmdir(dir); /* when nothing is in it: failed attempts leave nothing behind */
        error_prefix(reterr, "checkpoint %" PRIu64, generation);
    }
    return r;
}

static void map_gone(void *ctx, size_t len_bytes) {
    file_unmap(ctx);
    mem_free(ctx);
}

/* A mapping, so that the rows of tables are read from the file as they are put in their place. */
static int store_read(void *ctx, uint64_t generation, uint32_t shard, uint32_t shards,
                      struct buf **ret, struct error *reterr) {
    _cleanup_(mem_free_p) char *path = file_path(ctx, generation, shard, shards);
    struct file_map *map = mem_alloc(sizeof *map);
    int r = file_map(path, map, reterr);
    if (r != 0) {
        mem_free(map);
        return r;
    }
    *ret = buf_wrap(map->data, map->len, map_gone, map);
    return 0;
}

/* The number of a generation's directory; false for any other name. */
static bool generation_parse(const char *name, uint64_t *ret) {
    char again[32];
    uint64_t generation = strtoull(name, NULL, 10);
    snprintf(again, sizeof again, "%08" PRIu64, generation);
    *ret = generation;
    return strcmp(name, again) == 0;
}

static int compare_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

int checkpoint_store_generations(const char *job_dir, uint64_t **ret, size_t *ret_count,
                                 struct error *reterr) {
    _cleanup_(mem_free_p) char *all = mem_printf("%s/checkpoints", job_dir);
    char **names = NULL;
    size_t name_count = 0, count = 0;
    struct error err = {0};
    int r = dir_list(all, &names, &name_count, &err);
    if (r != 0 && r != ERR_NOT_FOUND)
        return error_set(reterr, r, "%s", error_text(&err));

    uint64_t *generations = mem_array(name_count, sizeof *generations);
    for (size_t i = 0; i < name_count; i++)
        count += generation_parse(names[i], &generations[count]);
    dir_list_free(names, name_count);
    qsort(generations, count, sizeof *generations, compare_u64);
    *ret = generations;
    *ret_count = count;
    return 0;
}

/* 0: whole. Otherwise see is_unusable; the text names the file. */
static int file_check(const char *path, struct error *reterr) {
    struct file_map map;
    int r = file_map(path, &map, reterr);
    if (r != 0)
        return r;
    r = checkpoint_check(map.data, map.len, reterr);
    file_unmap(&map);
    return r == 0 ? 0 : error_prefix(reterr, "%s", path);
}

/* What a check of files says of these alone: they cannot be used. Anything else: they may be good
 * and are out of reach, which must not pass for "no checkpoint". */
static bool is_unusable(int r) {
    return r == ERR_NOT_FOUND || r == ERR_FORMAT || r == ERR_CHECKSUM || r == ERR_IO;
}

/* Another number of shards that has files of a generation; 0: none, or this number has some. */
static uint32_t other_shards(const char *job_dir, uint64_t generation, uint32_t shards) {
    _cleanup_(mem_free_p) char *dir = checkpoint_store_dir(job_dir, generation);
    uint32_t shard, found, others = 0;
    bool ours = false;
    char **names = NULL;
    size_t count = 0;
    struct error err = {0};
    if (dir_list(dir, &names, &count, &err) != 0)
        return 0;
    for (size_t i = 0; i < count; i++)
        if (checkpoint_store_parse(names[i], &shard, &found)) {
            ours |= found == shards;
            others = found == shards ? others : found;
        }
    dir_list_free(names, count);
    return ours ? 0 : others;
}

/* 0: this shard can be restored from the generation, by its own file or those of another number of
 * shards. ERR_NOT_FOUND: a file is missing. */
static int generation_check(const char *job_dir, uint64_t generation, uint32_t shard,
                            uint32_t shards, struct error *reterr) {
    _cleanup_(mem_free_p) char *own = file_path(job_dir, generation, shard, shards);
    int r = file_check(own, reterr);
    uint32_t others = r == ERR_NOT_FOUND ? other_shards(job_dir, generation, shards) : 0;
    for (uint32_t k = 0; k < others && (k == 0 || r == 0); k++) {
        _cleanup_(mem_free_p) char *path = file_path(job_dir, generation, k, others);
        r = file_check(path, reterr);
    }
    return r;
}

/* Nothing that can be used: was the run begun with another number of shards? Then starting fresh
 * here would drop it without a word. */
static int check_others(const char *job_dir, const uint64_t *generations, size_t count,
                        uint32_t shards, struct error *reterr) {
    uint32_t others = 0;
    for (size_t i = count; i-- > 0 && others == 0;)
        others = other_shards(job_dir, generations[i], shards);
    if (others == 0)
        return 0;
    return error_set(reterr, ERR_CONFIG,
                     "%s holds checkpoints of %u shard%s, servers.count is %u now, and no "
                     "generation's files are all there: put them all into this directory, set "
                     "servers.count back, or give the new run another job.dir",
                     job_dir, others, others == 1 ? "" : "s", shards);
}

static int store_wrote(void *ctx, uint64_t generation, uint32_t shards, uint32_t *ret,
                       struct error *reterr) {
    uint32_t others = other_shards(ctx, generation, shards);
    *ret = others ? others : shards;
    return 0;
}

static int store_list(void *ctx, uint32_t shard, uint32_t shards, uint64_t **ret, size_t *ret_count,
                      struct error *reterr) {
    _cleanup_(mem_free_p) uint64_t *generations = NULL;
    size_t found, count = 0;
    int r = checkpoint_store_generations(ctx, &generations, &found, reterr);
    if (r != 0)
        return r;
    for (size_t i = 0; i < found; i++) {
        struct error err = {0};
        r = generation_check(ctx, generations[i], shard, shards, &err);
        if (r == 0)
            generations[count++] = generations[i];
        else if (!is_unusable(r))
            return error_set(reterr, r, "%s", error_text(&err));
    }
    if (count == 0 && (r = check_others(ctx, generations, found, shards, reterr)) != 0)
        return r;
    *ret = TAKE_PTR(generations);
    *ret_count = count;
    return 0;
}

static void store_faults(void *ctx, uint32_t shard, uint32_t shards, const uint64_t *listed,
                         size_t listed_count, checkpoint_tell *tell, void *to) {
    _cleanup_(mem_free_p) uint64_t *generations = NULL;
    size_t found, at = 0;
    if (checkpoint_store_generations(ctx, &generations, &found, NULL) != 0)
        return;
    for (size_t i = 0; i < found; i++) {
        while (at < listed_count && listed[at] < generations[i])
            at++;
        struct error err = {0};
        if (at < listed_count && listed[at] == generations[i])
            continue;
        int r = generation_check(ctx, generations[i], shard, shards, &err);
        if (r != 0 && r != ERR_NOT_FOUND)
            tell(to, &err);
    }
}

/* This shard's file, what a crash left of writing it, and the directory when that was all. Shard 0
 * also removes what another number of shards wrote. */
static int generation_remove(const char *job_dir, uint64_t generation, uint32_t shard,
                             uint32_t shards, struct error *reterr) {
    _cleanup_(mem_free_p) char *dir = checkpoint_store_dir(job_dir, generation);
    char file[CHECKPOINT_NAME_BYTES], tmp[CHECKPOINT_NAME_BYTES + 8];
    checkpoint_store_name(shard, shards, file);
    snprintf(tmp, sizeof tmp, "%s.tmp-", file);
    char **names;
    size_t count;
    struct error err = {0};
    int r = dir_list(dir, &names, &count, &err);
    if (r == ERR_NOT_FOUND) /* another shard was faster */
        return 0;
    if (r != 0)
        return error_set(reterr, r, "%s", error_text(&err));
    for (size_t i = 0; r == 0 && i < count; i++) {
        uint32_t whose, others;
        bool foreign =
            shard == 0 && checkpoint_store_parse(names[i], &whose, &others) && others != shards;
        if (!foreign && strcmp(names[i], file) != 0 && strncmp(names[i], tmp, strlen(tmp)) != 0)
            continue;
        _cleanup_(mem_free_p) char *path = mem_printf("%s/%s", dir, names[i]);
        if (unlink(path) != 0 && errno != ENOENT)
            r = error_set(reterr, ERR_IO, "cannot remove %s: %s", path, strerror(errno));
    }
    dir_list_free(names, count);
    if (r == 0 && rmdir(dir) != 0 && errno != ENOTEMPTY && errno != EEXIST && errno != ENOENT)
        r = error_set(reterr, ERR_IO, "cannot remove %s: %s", dir, strerror(errno));
    return r;
}

static int store_prune(void *ctx, uint32_t shard, uint32_t shards, uint64_t newest, uint32_t keep,
                       struct error *reterr) {
    const char *job_dir = ctx;
    _cleanup_(mem_free_p) uint64_t *generations = NULL;
    size_t count;
    int r = checkpoint_store_generations(job_dir, &generations, &count, reterr);
    uint32_t kept = 0;
    for (size_t i = count; r == 0 && i-- > 0;) {
        if (generations[i] > newest)
            continue;
        /* What another number of shards wrote may be all there is to go on from. */
        _cleanup_(mem_free_p) char *path = file_path(job_dir, generations[i], shard, shards);
        if (kept < keep && (file_exists(path) || other_shards(job_dir, generations[i], shards) > 0))
            kept++;
        else
            r = generation_remove(job_dir, generations[i], shard, shards, reterr);
    }
    return r;
}

struct checkpoint_store checkpoint_store_files(const char *job_dir) {
    return (struct checkpoint_store){
        .ctx = (void *)(uintptr_t)job_dir,
        .write = store_write,
        .read = store_read,
        .list = store_list,
        .faults = store_faults,
        .wrote = store_wrote,
        .prune = store_prune,
    };
}
