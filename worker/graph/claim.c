/* Locks of open file descriptions: unlike a process's own they survive another descriptor's close,
 * and unlike flock's they can be asked for without being taken. */
#include "worker/graph/claim.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/mem.h"

static int lock_set(int fd, short type) {
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET};
    return fcntl(fd, F_OFD_SETLK, &lock) < 0 ? errno : 0;
}

/* Whether the path still leads to what was locked. */
static bool is_there(int fd, const char *path) {
    struct stat locked, found;
    return fstat(fd, &locked) == 0 && stat(path, &found) == 0 && locked.st_ino == found.st_ino &&
           locked.st_dev == found.st_dev;
}

int claim_take(const char *dir, int *ret_fd, struct error *reterr) {
    _cleanup_(mem_free_p) char *path = mem_printf("%s/manifest.json", dir);
    *ret_fd = -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT)
        return error_set(reterr, ERR_IO, "%s: %s", path, strerror(errno));
    int why = fd < 0 ? 0 : lock_set(fd, F_RDLCK);
    if (why == EAGAIN || why == EACCES) {
        close(fd);
        return error_set(reterr, ERR_IN_USE, "%s: is just being removed", dir);
    }
    if (fd < 0 || !is_there(fd, path)) {
        if (fd >= 0)
            close(fd);
        return error_set(reterr, ERR_NOT_FOUND, "%s: has just been removed", dir);
    }
    if (why) {
        close(fd);
        return 0;
    }
    *ret_fd = fd;
    return 0;
}

bool claim_held(const char *dir) {
    _cleanup_(mem_free_p) char *path = mem_printf("%s/manifest.json", dir);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    bool held = fd >= 0 && fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
    if (fd >= 0)
        close(fd);
    return held;
}

int claim_take_alone(const char *dir, int *ret_fd, struct error *reterr) {
    _cleanup_(mem_free_p) char *path = mem_printf("%s/manifest.json", dir);
    *ret_fd = -1;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    int why = fd < 0 ? 0 : lock_set(fd, F_WRLCK);
    /* A manifest that may not be written can still be asked about. */
    if (why == EAGAIN || why == EACCES || (fd < 0 && claim_held(dir))) {
        if (fd >= 0)
            close(fd);
        return error_set(reterr, ERR_IN_USE, "%s: is in use by a running process", dir);
    }
    if (why) {
        close(fd);
        return 0;
    }
    *ret_fd = fd;
    return 0;
}
