/* Files read in blocks. Gzip is undone member by member here, not by zlib's gzread, which is silent
 * about what follows them. */
#include "worker/graph/source.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "common/mem.h"

#define INPUT_BYTES (256u << 10)
#define GZIP_MAGIC_0 0x1f
#define GZIP_MAGIC_1 0x8b

struct source_reader {
    int fd;
    uint8_t *raw; /* what is not used yet is packed.next_in, .avail_in */
    z_stream packed;
    bool gzip;
    bool between; /* the members of a gzip file */
};

/* As much as there is, up to bytes. */
static int read_some(struct source *source, void *to, size_t bytes, size_t *ret_len,
                     struct error *reterr) {
    size_t len = 0;
    while (len < bytes) {
        ssize_t got = read(source->reader_p->fd, (char *)to + len, bytes - len);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return error_set(reterr, ERR_IO, "cannot be read: %m");
        if (got == 0)
            break;
        len += (size_t)got;
    }
    *ret_len = len;
    return 0;
}

/* 1: there are bytes of the file; 0: its end. */
static int raw_fill(struct source *source, struct error *reterr) {
    struct source_reader *reader = source->reader_p;
    z_stream *packed = &reader->packed;
    if (packed->avail_in > 0)
        return 1;
    size_t len = 0;
    int r = read_some(source, reader->raw, INPUT_BYTES, &len, reterr);
    if (r < 0)
        return r;
    packed->next_in = reader->raw;
    packed->avail_in = (uInt)len;
    source->done += len;
    return len > 0;
}

int source_open(const char *path, struct source **ret, struct error *reterr) {
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* waits for no writer of a pipe */
    if (fd < 0)
        return error_set(reterr,
                         errno == ENOENT   ? ERR_NOT_FOUND
                         : errno == EACCES ? ERR_USAGE
                                           : ERR_IO,
                         "%s: cannot be opened: %m", path);
    struct source *source = mem_alloc(sizeof *source);
    struct source_reader *reader = mem_alloc(sizeof *reader);
    source->path = mem_strdup(path);
    source->reader_p = reader;
    reader->fd = fd;
    reader->raw = mem_raw(INPUT_BYTES);
    reader->between = true;
    struct stat status;
    int r = 0;
    if (fstat(fd, &status) == 0) {
        source->total = (uint64_t)status.st_size;
        if (S_ISDIR(status.st_mode))
            r = error_set(reterr, ERR_USAGE, "%s: is a directory, where a file is needed", path);
        else if (!S_ISREG(status.st_mode))
            r = error_set(reterr, ERR_USAGE,
                          "%s: is a pipe or a device; it must be a file, for it is read more than "
                          "once",
                          path);
    }
    if (r == 0 && (r = raw_fill(source, reterr)) < 0)
        error_prefix(reterr, "%s", path);
    z_stream *packed = &reader->packed;
    size_t len = strlen(path);
    reader->gzip = r == 1 && packed->avail_in >= 2 && packed->next_in[0] == GZIP_MAGIC_0 &&
                   packed->next_in[1] == GZIP_MAGIC_1;
    if (r >= 0 && !reader->gzip && len > 3 && !strcmp(path + len - 3, ".gz"))
        r = error_set(reterr, ERR_FORMAT, "%s: is not a gzip file, though its name says so", path);
    /* 15 + 16: the largest window, and a gzip header. */
    else if (reader->gzip && inflateInit2(packed, 15 + 16) != Z_OK)
        r = error_set(reterr, ERR_NO_MEMORY, "%s: no memory to unpack it", path);
    if (r < 0) {
        source_close(source);
        return r;
    }
    *ret = source;
    return 0;
}

struct source *source_close(struct source *source) {
    if (!source)
        return NULL;
    struct source_reader *reader = source->reader_p;
    close(reader->fd);
    if (reader->gzip)
        inflateEnd(&reader->packed);
    mem_free(reader->raw);
    mem_free(reader);
    mem_free(source->path);
    mem_free(source);
    return NULL;
}

/* As gzip does, zeros behind the last member are padding and other bytes are left out. */
static int unpack(struct source *source, struct error *reterr) {
    struct source_reader *reader = source->reader_p;
    z_stream *packed = &reader->packed;
    uInt wanted = packed->avail_out;
    while (packed->avail_out > 0 && !source->junk) {
        int r = raw_fill(source, reterr);
        if (r < 0 || (r == 0 && reader->between))
            return r;
        /* What came before the damage goes first; the same is found again at the next call. */
        bool first = packed->avail_out == wanted;
        if (reader->between && *packed->next_in == 0) {
            packed->next_in++;
            packed->avail_in--;
            continue;
        }
        if (reader->between && *packed->next_in != GZIP_MAGIC_0) {
            source->junk = true;
            return 0;
        }
        if (reader->between)
            inflateReset(packed);
        /* Also without input: it may have more to give than there was room for last time. */
        int code = inflate(packed, Z_NO_FLUSH);
        reader->between = code == Z_STREAM_END;
        if (r == 0 && code == Z_BUF_ERROR)
            return first
                       ? error_set(reterr, ERR_FORMAT,
                                   "the gzip file ends too early; it is truncated, fetch it again")
                       : 0;
        if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR)
            return packed->avail_out == wanted
                       ? error_set(reterr, code == Z_MEM_ERROR ? ERR_NO_MEMORY : ERR_FORMAT,
                                   "the gzip file is damaged (%s)",
                                   packed->msg ? packed->msg : zError(code))
                       : 0;
    }
    return 0;
}

int source_read(struct source *source, char *text, size_t bytes, size_t *ret_len,
                struct error *reterr) {
    struct source_reader *reader = source->reader_p;
    z_stream *packed = &reader->packed;
    if (reader->gzip) {
        packed->next_out = (Bytef *)text;
        packed->avail_out = (uInt)bytes;
        int r = unpack(source, reterr);
        *ret_len = bytes - packed->avail_out;
        return r;
    }
    size_t len = packed->avail_in < bytes ? packed->avail_in : bytes, more = 0;
    memcpy(text, packed->next_in, len);
    packed->next_in += len;
    packed->avail_in -= (uInt)len;
    int r = read_some(source, text + len, bytes - len, &more, reterr);
    source->done += more;
    *ret_len = len + more;
    return r;
}
