/* Files and directories on disk. Owns the order in which something becomes durable: written beside
 * its name, flushed, fsynced, closed, renamed, directory fsynced; removed when any of it fails.
 * Does not know what is in a file. */
#include "common/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/mem.h"

#define FILE_BUFFER_BYTES 65536

struct file_writer {
    int fd;
    char *path;
    char *tmp;
    uint64_t len; /* bytes appended, those in the buffer included */
    size_t buffered;
    uint8_t buffer[FILE_BUFFER_BYTES];
};

/* The system's word about a path as an error: "cannot <what> <path>: <why>". */
static int file_error(struct error *reterr, int why, const char *what, const char *path) {
    int code = why == ENOENT                   ? ERR_NOT_FOUND
               : why == EEXIST                 ? ERR_EXISTS
               : why == EACCES || why == EPERM ? ERR_NOT_ALLOWED
               : why == EISDIR || why == ENOTDIR || why == ENAMETOOLONG || why == ELOOP
                   ? ERR_USAGE /* the wrong path was given */
                   : ERR_IO;
    const char *hint = why == ENOSPC || why == EDQUOT ? " (free some space and try again)"
                       : why == EROFS                 ? " (name a writable directory)"
                                                      : "";
    return error_set(reterr, code, "cannot %s %s: %s%s", what, path, strerror(why), hint);
}

static int write_all(int fd, const void *data, size_t len) {
    const uint8_t *at = data;
    while (len > 0) {
        ssize_t n = write(fd, at, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

/* Makes a new or renamed entry of path's directory durable. */
static int parent_sync(const char *path, struct error *reterr) {
    _cleanup_(mem_free_p) char *copy = mem_strdup(path);
    const char *parent = dirname(copy);
    int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return file_error(reterr, errno, "open the directory", parent);
    /* Some network file systems know no fsync of a directory (EINVAL): nothing more can be done. */
    int r = fsync(fd) != 0 && errno != EINVAL ? errno : 0;
    close(fd);
    return r == 0 ? 0 : file_error(reterr, r, "sync the directory", parent);
}

static struct file_writer *file_free(struct file_writer *file) {
    mem_free(file->path);
    mem_free(file->tmp);
    mem_free(file);
    return NULL;
}

int file_may_create(const char *path, struct error *reterr) {
    /* A device or pipe would be replaced by the rename, not written to; so would /dev/stdout, even
     * when it leads to a file. */
    struct stat there;
    bool device_link =
        strncmp(path, "/dev/", 5) == 0 && lstat(path, &there) == 0 && S_ISLNK(there.st_mode);
    if (device_link || (stat(path, &there) == 0 && !S_ISREG(there.st_mode)))
        return error_set(reterr, ERR_EXISTS, "%s is there and is %s; choose another name", path,
                         S_ISDIR(there.st_mode) ? "a directory" : "not a file");
    _cleanup_(mem_free_p) char *copy = mem_strdup(path);
    return access(dirname(copy), W_OK) == 0 ? 0 : file_error(reterr, errno, "create", path);
}

int file_create(const char *path, struct file_writer **ret, struct error *reterr) {
    int may = file_may_create(path, reterr);
    if (may != 0)
        return may;
    struct file_writer *file = mem_alloc(sizeof *file);
    file->path = mem_strdup(path);
    file->tmp = mem_printf("%s.tmp-%d", path, (int)getpid());
    /* Not O_EXCL: in a container the process that crashed and left its file had the same id. */
    file->fd = open(file->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file->fd < 0) {
        int r = file_error(reterr, errno, "create", file->tmp);
        file_free(file);
        return r;
    }
    *ret = file;
    return 0;
}

static int file_flush(struct file_writer *file, struct error *reterr) {
    if (write_all(file->fd, file->buffer, file->buffered) != 0)
        return file_error(reterr, errno, "write", file->tmp);
    file->buffered = 0;
    return 0;
}

int file_append(struct file_writer *file, const void *data, size_t len, struct error *reterr) {
    if (len == 0)
        return 0;
    if (len > sizeof file->buffer - file->buffered) {
        int r = file_flush(file, reterr);
        if (r != 0)
            return r;
    }
    if (len >= sizeof file->buffer) {
        if (write_all(file->fd, data, len) != 0)
            return file_error(reterr, errno, "write", file->tmp);
    } else {
        memcpy(file->buffer + file->buffered, data, len);
        file->buffered += len;
    }
    file->len += len;
    return 0;
}

int file_patch(struct file_writer *file, uint64_t offset, const void *data, size_t len,
               struct error *reterr) {
    if (offset > file->len || len > file->len - offset)
        return error_set(reterr, ERR_INTERNAL,
                         "%s: bytes %llu to %llu cannot be patched, only %llu were written",
                         file->path, (unsigned long long)offset, (unsigned long long)(offset + len),
                         (unsigned long long)file->len);
    int r = file_flush(file, reterr);
    if (r != 0)
        return r;
    const uint8_t *at = data;
    while (len > 0) {
        ssize_t n = pwrite(file->fd, at, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return file_error(reterr, errno, "write", file->tmp);
        at += n;
        len -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

int file_sync(struct file_writer *file, struct error *reterr) {
    int r = file_flush(file, reterr);
    if (r == 0 && fdatasync(file->fd) != 0)
        r = file_error(reterr, errno, "sync", file->tmp);
    return r;
}

int file_commit(struct file_writer *file, struct error *reterr) {
    int r = file_flush(file, reterr);
    if (r == 0 && fsync(file->fd) != 0)
        r = file_error(reterr, errno, "sync", file->tmp);
    if (close(file->fd) != 0 && r == 0)
        r = file_error(reterr, errno, "close", file->tmp);
    if (r == 0 && rename(file->tmp, file->path) != 0)
        r = file_error(reterr, errno, "rename a finished file to", file->path);
    if (r != 0)
        unlink(file->tmp);
    else
        r = parent_sync(file->path, reterr);
    file_free(file);
    return r;
}

struct file_writer *file_abandon(struct file_writer *file) {
    if (!file)
        return NULL;
    close(file->fd);
    unlink(file->tmp);
    return file_free(file);
}

int file_write_whole(const char *path, const void *data, size_t len, struct error *reterr) {
    struct file_writer *file;
    int r = file_create(path, &file, reterr);
    if (r != 0)
        return r;
    r = file_append(file, data, len, reterr);
    if (r != 0) {
        file_abandon(file);
        return r;
    }
    return file_commit(file, reterr);
}

static int file_open_read(const char *path, struct error *reterr) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd >= 0 ? fd : file_error(reterr, errno, "open", path);
}

int file_read_whole(const char *path, size_t max_bytes, char **ret, size_t *ret_len,
                    struct error *reterr) {
    int fd = file_open_read(path, reterr);
    if (fd < 0)
        return fd;

    /* The size is only a first guess: pipes and /proc have none. */
    struct stat st;
    size_t cap = fstat(fd, &st) == 0 && st.st_size > 0 ? (size_t)st.st_size + 1 : 4096;
    if (cap > max_bytes)
        cap = max_bytes + 1;
    char *data = mem_alloc(cap + 1);
    size_t len = 0;
    int r = 0;
    for (;;) {
        ssize_t n = read(fd, data + len, cap - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            r = file_error(reterr, errno, "read", path);
            break;
        }
        len += (size_t)n;
        if (len > max_bytes) {
            r = error_set(reterr, ERR_LIMIT, "%s is too large: more than %zu bytes", path,
                          max_bytes);
            break;
        }
        if (n == 0)
            break;
        if (len == cap) {
            size_t grown = cap > max_bytes / 2 ? max_bytes + 1 : cap * 2;
            data = mem_resize(data, cap + 1, grown + 1);
            cap = grown;
        }
    }
    close(fd);
    if (r != 0) {
        mem_free(data);
        return r;
    }
    data[len] = 0;
    *ret = data;
    *ret_len = len;
    return 0;
}

int file_map(const char *path, struct file_map *ret, struct error *reterr) {
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* waits for no writer of a pipe */
    if (fd < 0)
        return file_error(reterr, errno, "open", path);

    struct stat st;
    int r = 0;
    void *data = NULL;
    if (fstat(fd, &st) != 0)
        r = file_error(reterr, errno, "read", path);
    else if (!S_ISREG(st.st_mode))
        r = error_set(reterr, ERR_FORMAT, "%s is no ordinary file", path);
    else if (st.st_size > 0) {
        data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            r = file_error(reterr, errno, "map", path);
    }
    close(fd);
    if (r == 0) {
        ret->data = data;
        ret->len = (size_t)st.st_size;
    }
    return r;
}

void file_unmap(struct file_map *map) {
    if (map->data)
        munmap((void *)(uintptr_t)map->data, map->len);
    map->data = NULL;
    map->len = 0;
}

int file_md5(const char *path, char ret_hex[33], uint64_t *ret_len, struct error *reterr) {
    return file_md5_told(path, NULL, NULL, ret_hex, ret_len, reterr);
}

int file_md5_told(const char *path, file_tell *tell, void *ctx, char ret_hex[33], uint64_t *ret_len,
                  struct error *reterr) {
    int fd = file_open_read(path, reterr);
    if (fd < 0)
        return fd;

    size_t cap = 1 << 18;
    uint8_t *buffer = mem_alloc(cap);
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned digest_len = 0;
    uint64_t len = 0;
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    int r = 0;
    /* A machine in FIPS mode refuses MD5. */
    if (!md || EVP_DigestInit_ex(md, EVP_md5(), NULL) != 1)
        r = error_set(reterr, ERR_INTERNAL, "OpenSSL on this machine refuses to compute MD5");
    while (r == 0) {
        ssize_t n = read(fd, buffer, cap);
        if (n == 0)
            break;
        if (n > 0) {
            EVP_DigestUpdate(md, buffer, (size_t)n);
            len += (uint64_t)n;
            if (tell)
                tell(ctx, len);
        } else if (errno != EINTR) {
            r = file_error(reterr, errno, "read", path);
        }
    }
    if (r == 0) {
        EVP_DigestFinal_ex(md, digest, &digest_len);
        for (unsigned i = 0; i < 16; i++)
            snprintf(ret_hex + 2 * i, 3, "%02x", digest[i]);
        *ret_len = len;
    }
    EVP_MD_CTX_free(md);
    mem_free(buffer);
    close(fd);
    return r;
}

bool file_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

int dir_make(const char *path, struct error *reterr) {
    _cleanup_(mem_free_p) char *partial = mem_strdup(path);
    for (char *at = partial + 1;; at++) {
        if (*at && *at != '/')
            continue;
        char separator = *at;
        *at = 0;
        if (mkdir(partial, 0777) != 0) {
            struct stat st;
            int why = errno;
            if (why != EEXIST)
                return file_error(reterr, why, "make the directory", partial);
            if (stat(partial, &st) != 0 || !S_ISDIR(st.st_mode))
                return error_set(reterr, ERR_EXISTS,
                                 "cannot make the directory %s: %s is there and is no directory",
                                 path, partial);
        }
        if (!separator)
            return 0;
        *at = separator;
        while (at[1] == '/')
            at++;
        if (!at[1])
            return 0;
    }
}

/* Calls visit for everything below path (contents before the directory, links not followed), then
 * for path itself. */
typedef int tree_visit(const char *path, bool is_dir, struct error *reterr);
static int tree_walk(const char *path, tree_visit *visit, struct error *reterr) {
    struct stat st;
    if (lstat(path, &st) != 0)
        return file_error(reterr, errno, "read", path);
    bool is_dir = S_ISDIR(st.st_mode);
    if (is_dir) {
        char **names;
        size_t count;
        int r = dir_list(path, &names, &count, reterr);
        for (size_t i = 0; r == 0 && i < count; i++) {
            _cleanup_(mem_free_p) char *child = mem_printf("%s/%s", path, names[i]);
            r = tree_walk(child, visit, reterr);
            if (r != 0) {
                dir_list_free(names, count);
                return r;
            }
        }
        if (r != 0)
            return r;
        dir_list_free(names, count);
    }
    return visit(path, is_dir, reterr);
}

static int visit_remove(const char *path, bool is_dir, struct error *reterr) {
    if ((is_dir ? rmdir(path) : unlink(path)) == 0 || errno == ENOENT)
        return 0;
    return file_error(reterr, errno, "remove", path);
}

int dir_remove(const char *path, struct error *reterr) {
    struct stat st;
    if (lstat(path, &st) != 0 && errno == ENOENT)
        return 0;
    return tree_walk(path, visit_remove, reterr);
}

static int name_compare(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int dir_list(const char *path, char ***ret_names, size_t *ret_count, struct error *reterr) {
    DIR *dir = opendir(path);
    if (!dir)
        return file_error(reterr, errno, "open the directory", path);

    size_t count = 0, cap = 16;
    char **names = mem_array(cap, sizeof *names);
    struct dirent *entry;
    while (errno = 0, (entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (count == cap) {
            names = mem_resize(names, cap * sizeof *names, 2 * cap * sizeof *names);
            cap *= 2;
        }
        names[count++] = mem_strdup(entry->d_name);
    }
    int why = errno;
    closedir(dir);
    if (why != 0) {
        dir_list_free(names, count);
        return file_error(reterr, why, "read the directory", path);
    }
    qsort(names, count, sizeof *names, name_compare);
    *ret_names = names;
    *ret_count = count;
    return 0;
}

void dir_list_free(char **names, size_t count) {
    for (size_t i = 0; i < count; i++)
        mem_free(names[i]);
    mem_free(names);
}

static int path_taken(const char *path, struct error *reterr) {
    return error_set(reterr, ERR_EXISTS, "%s exists already: remove it or choose another name",
                     path);
}

int dir_create(const char *path, char **ret_tmp, struct error *reterr) {
    struct stat st;
    if (lstat(path, &st) == 0)
        return path_taken(path, reterr);

    int len = (int)strlen(path);
    while (len > 1 && path[len - 1] == '/')
        len--;
    char *tmp = mem_printf("%.*s.tmp-%d", len, path, (int)getpid());
    /* What a crashed process of the same id left. */
    int r = dir_remove(tmp, reterr);
    if (r == 0 && mkdir(tmp, 0777) != 0)
        r = file_error(reterr, errno, "make the directory", tmp);
    if (r != 0) {
        mem_free(tmp);
        return r;
    }
    *ret_tmp = tmp;
    return 0;
}

static int visit_sync(const char *path, bool is_dir, struct error *reterr) {
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return file_error(reterr, errno, "open", path);
    int why = fsync(fd) != 0 && !(is_dir && errno == EINVAL) ? errno : 0;
    close(fd);
    return why == 0 ? 0 : file_error(reterr, why, "sync", path);
}

int dir_exchange(const char *tmp, const char *path, struct error *reterr) {
    int r = tree_walk(tmp, visit_sync, reterr);
    if (r == 0 && renameat2(AT_FDCWD, tmp, AT_FDCWD, path, RENAME_EXCHANGE) != 0)
        r = errno == EINVAL || errno == ENOSYS
                ? error_set(reterr, ERR_USAGE, "%s: this file system cannot exchange directories",
                            path)
                : file_error(reterr, errno, "exchange for a finished directory", path);
    return r == 0 ? parent_sync(path, reterr) : r;
}

int dir_hold(const char *tmp) {
    int fd = open(tmp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

/* "<base>.tmp-<pid>" */
static bool is_temp_of(const char *name, const char *base) {
    size_t len = strlen(base);
    if (strncmp(name, base, len) != 0 || strncmp(name + len, ".tmp-", 5) != 0)
        return false;
    const char *pid = name + len + 5;
    return *pid && strspn(pid, "0123456789") == strlen(pid);
}

void dir_sweep(const char *path) {
    const char *slash = strrchr(path, '/');
    char *parent = slash ? mem_printf("%.*s", (int)(slash - path), path) : mem_strdup(".");
    char **names = NULL;
    size_t count = 0;
    if (dir_list(*parent ? parent : "/", &names, &count, NULL) < 0)
        count = 0;
    for (size_t i = 0; i < count; i++) {
        if (!is_temp_of(names[i], slash ? slash + 1 : path))
            continue;
        char *tmp = mem_printf("%s/%s", parent, names[i]);
        int fd = dir_hold(tmp);
        if (fd >= 0) {
            (void)dir_remove(tmp, NULL);
            close(fd);
        }
        mem_free(tmp);
    }
    dir_list_free(names, count);
    mem_free(parent);
}

int dir_commit(const char *tmp, const char *path, struct error *reterr) {
    int r = tree_walk(tmp, visit_sync, reterr);
    if (r == 0 && renameat2(AT_FDCWD, tmp, AT_FDCWD, path, RENAME_NOREPLACE) != 0) {
        struct stat st;
        if (errno == EEXIST || (errno == EINVAL && lstat(path, &st) == 0))
            r = path_taken(path, reterr);
        else if (errno != EINVAL || rename(tmp, path) != 0)
            r = file_error(reterr, errno, "rename a finished directory to", path);
    }
    if (r != 0) {
        dir_remove(tmp, NULL);
        return r;
    }
    return parent_sync(path, reterr);
}
