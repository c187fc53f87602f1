/* Files and directories: whole and atomic, or not at all. Every error names the path and what the
 * system said. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

/* A file being written beside its final name ("<path>.tmp-<pid>"): nothing is seen under the name
 * before file_commit, which fsyncs, renames and fsyncs the directory. file_abandon removes it. */
struct file_writer;
int file_create(const char *path, struct file_writer **ret, struct error *reterr);
/* What file_create would refuse: to be asked before long work whose result goes there. */
int file_may_create(const char *path, struct error *reterr);
int file_append(struct file_writer *file, const void *data, size_t len, struct error *reterr);
/* Overwrites bytes written before (a header whose counts are known only at the end). */
int file_patch(struct file_writer *file, uint64_t offset, const void *data, size_t len,
               struct error *reterr);
/* Frees the writer, also on failure. */
/* Waits until what was appended is on the disk, so that file_commit will not have to: for a writer
 * that may have to abandon a large file soon. */
int file_sync(struct file_writer *file, struct error *reterr);
int file_commit(struct file_writer *file, struct error *reterr);
struct file_writer *file_abandon(struct file_writer *file); /* takes NULL */
int file_write_whole(const char *path, const void *data, size_t len, struct error *reterr);

/* The whole file, 0-terminated beyond *ret_len; mem_free it. ERR_LIMIT above max_bytes,
 * ERR_NOT_FOUND. */
int file_read_whole(const char *path, size_t max_bytes, char **ret, size_t *ret_len,
                    struct error *reterr);

/* A file mapped read-only. An empty file maps to data NULL, len 0. */
struct file_map {
    const uint8_t *data;
    size_t len;
};
int file_map(const char *path, struct file_map *ret, struct error *reterr);
void file_unmap(struct file_map *map);

/* MD5 of a file as 32 hex digits, and its length. */
int file_md5(const char *path, char ret_hex[33], uint64_t *ret_len, struct error *reterr);
/* The same, telling now and then how many bytes of it are done. */
typedef void file_tell(void *ctx, uint64_t done_bytes);
int file_md5_told(const char *path, file_tell *tell, void *ctx, char ret_hex[33], uint64_t *ret_len,
                  struct error *reterr);

bool file_exists(const char *path);
/* mkdir -p */
int dir_make(const char *path, struct error *reterr);
/* rm -r; a missing directory is no error. */
int dir_remove(const char *path, struct error *reterr);
/* Names in a directory but "." and "..", sorted; count through ret_count; free with dir_list_free.
 */
int dir_list(const char *path, char ***ret_names, size_t *ret_count, struct error *reterr);
void dir_list_free(char **names, size_t count);
/* Makes a temp directory beside path, to be filled and then renamed to path with dir_commit, which
 * fsyncs all that is in it, and removes it on failure. *ret_tmp: mem_free it. ERR_EXISTS when path
 * is there already. */
int dir_create(const char *path, char **ret_tmp, struct error *reterr);
int dir_commit(const char *tmp, const char *path, struct error *reterr);
/* As dir_commit for a path that is there: the two change places at once, so that tmp is what path
 * was; it is to be removed. ERR_USAGE: this file system cannot, and nothing has changed. */
int dir_exchange(const char *tmp, const char *path, struct error *reterr);
/* Says that the temp directory is in use until the descriptor returned is closed; -1: the file
 * system has no locks. dir_sweep removes temp directories of path that a crash left: those that
 * nobody holds. */
int dir_hold(const char *tmp);
void dir_sweep(const char *path);
