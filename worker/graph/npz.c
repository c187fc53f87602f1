/* Members of an archive, read whole when they are asked for. */
#include "worker/graph/npz.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <zip.h>

#include "common/mem.h"

#define MEMBERS_MAX 64
#define NAME_MAX_BYTES 64

struct npz {
    char *path;
    zip_t *zip;
    size_t count;
    char names[MEMBERS_MAX][NAME_MAX_BYTES];
    uint8_t *bytes[MEMBERS_MAX]; /* read so far */
    uint64_t lens[MEMBERS_MAX];
    char format[8];
};

int npz_open(const char *path, struct npz **ret, struct error *reterr) {
    int code = 0;
    struct stat status;
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode))
        return error_set(reterr, ERR_FORMAT, "%s is no ordinary file", path);
    zip_t *zip = zip_open(path, ZIP_RDONLY, &code);
    if (!zip) {
        zip_error_t error;
        zip_error_init_with_code(&error, code);
        int r = error_set(reterr, code == ZIP_ER_NOENT ? ERR_NOT_FOUND : ERR_FORMAT,
                          "%s: cannot be opened as .npz: %s", path, zip_error_strerror(&error));
        zip_error_fini(&error);
        return r;
    }
    struct npz *npz = mem_alloc(sizeof *npz);
    npz->path = mem_strdup(path);
    npz->zip = zip;
    zip_int64_t entries = zip_get_num_entries(zip, 0);
    for (zip_int64_t i = 0; i < entries && npz->count < MEMBERS_MAX; i++) {
        const char *name = zip_get_name(zip, (zip_uint64_t)i, 0);
        size_t len = name ? strlen(name) : 0;
        if (len < 5 || len - 4 >= NAME_MAX_BYTES || strcmp(name + len - 4, ".npy") != 0)
            continue;
        snprintf(npz->names[npz->count++], NAME_MAX_BYTES, "%.*s", (int)len - 4, name);
    }
    *ret = npz;
    return 0;
}

struct npz *npz_close(struct npz *npz) {
    if (!npz)
        return NULL;
    for (size_t i = 0; i < npz->count; i++)
        mem_free(npz->bytes[i]);
    zip_discard(npz->zip);
    mem_free(npz->path);
    mem_free(npz);
    return NULL;
}

static size_t member(const struct npz *npz, const char *name) {
    for (size_t i = 0; i < npz->count; i++)
        if (!strcmp(npz->names[i], name))
            return i;
    return SIZE_MAX;
}

bool npz_has(const struct npz *npz, const char *name) {
    return member(npz, name) != SIZE_MAX;
}

static int member_read(struct npz *npz, size_t i, struct error *reterr) {
    if (npz->bytes[i])
        return 0;
    char name[NAME_MAX_BYTES + 8];
    snprintf(name, sizeof name, "%s.npy", npz->names[i]);
    zip_stat_t stat;
    zip_stat_init(&stat);
    zip_file_t *file = NULL;
    if (zip_stat(npz->zip, name, 0, &stat) == 0 && (stat.valid & ZIP_STAT_SIZE))
        file = zip_fopen(npz->zip, name, 0);
    if (!file)
        return error_set(reterr, ERR_FORMAT, "%s: member %s cannot be read: %s", npz->path, name,
                         zip_strerror(npz->zip));
    /* The directory's length is a claim: memory grows with what really comes. */
    uint64_t cap = stat.size < (1u << 20) ? stat.size + 1 : 1u << 20, len = 0;
    uint8_t *bytes = mem_raw(cap);
    zip_int64_t got;
    while ((got = zip_fread(file, bytes + len, cap - len)) > 0) {
        len += (uint64_t)got;
        if (len == cap) {
            uint64_t more = 2 * cap < stat.size + 1 ? 2 * cap : stat.size + 1;
            if (more <= cap)
                more = 2 * cap;
            uint8_t *grown = mem_raw(more);
            memcpy(grown, bytes, len);
            mem_free(bytes);
            bytes = grown;
            cap = more;
        }
    }
    zip_fclose(file);
    if (got < 0 || len != stat.size) {
        mem_free(bytes);
        return error_set(reterr, ERR_FORMAT, "%s: member %s is damaged", npz->path, name);
    }
    npz->bytes[i] = bytes;
    npz->lens[i] = len;
    return 0;
}

static int missing(const struct npz *npz, const char *what, struct error *reterr) {
    char list[300] = "";
    size_t len = 0;
    for (size_t i = 0; i < npz->count && len < sizeof list - NAME_MAX_BYTES - 2; i++)
        len +=
            (size_t)snprintf(list + len, sizeof list - len, "%s%s", len ? ", " : "", npz->names[i]);
    return error_set(reterr, ERR_NOT_FOUND, "%s: has no %s; there is: %s", npz->path, what,
                     *list ? list : "nothing");
}

static int parse(struct npz *npz, size_t i, struct npy *ret, struct error *reterr) {
    int r = member_read(npz, i, reterr);
    if (r < 0)
        return r;
    r = npy_parse(npz->bytes[i], npz->lens[i], ret, reterr);
    if (r == 0)
        r = npy_check_order(ret, reterr);
    if (r < 0)
        error_prefix(reterr, "%s: member %s", npz->path, npz->names[i]);
    return r;
}

int npz_array(struct npz *npz, const char *name, struct npy *ret, struct error *reterr) {
    size_t i = member(npz, name);
    if (i != SIZE_MAX)
        return parse(npz, i, ret, reterr);
    _cleanup_(mem_free_p) char *what = mem_printf("member \"%s\"", name);
    return missing(npz, what, reterr);
}

int npz_first(struct npz *npz, size_t dims, struct npy *ret, const char **ret_name,
              struct error *reterr) {
    for (size_t i = 0; i < npz->count; i++) {
        struct error ignored = {0};
        if (parse(npz, i, ret, &ignored) == 0 && ret->dims == dims) {
            *ret_name = npz->names[i];
            return 0;
        }
    }
    _cleanup_(mem_free_p) char *what = mem_printf("array of %zu dimensions", dims);
    return missing(npz, what, reterr);
}

const char *npz_sparse_format(struct npz *npz) {
    static const char *const formats[] = {"csr", "csc", "coo", "bsr", "dia"};
    size_t i = member(npz, "format");
    if (i == SIZE_MAX || member_read(npz, i, NULL) < 0)
        return "";
    /* An array of text, |S3 or <U3, which npy.h does not read: its bytes end the member. */
    uint64_t len = npz->lens[i], n = 0;
    char text[4] = "";
    for (uint64_t at = len > 12 ? len - 12 : 0; at < len && n < 3; at++)
        if (npz->bytes[i][at] >= 'a' && npz->bytes[i][at] <= 'z')
            text[n++] = (char)npz->bytes[i][at];
    for (size_t k = 0; k < ARRAY_LEN(formats); k++)
        if (!strcmp(text, formats[k]))
            return formats[k];
    return "?";
}
