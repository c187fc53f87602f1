/* Writing, reading and verifying manifest.json. It knows nothing of what the arrays mean. */
#include "worker/graph/manifest.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/file.h"
#include "common/mem.h"

#define MANIFEST_FORMAT 1
#define MANIFEST_BYTES_MAX (64u << 20)
#define MD5_HEX 32

static void json_decref_p(json_t **json) {
    json_decref(*json);
}
static void free_p(char **text) {
    free(*text);
}

/* MD5 over the files' MD5s in the order they are listed: one number for the whole contents. */
static int files_digest(const json_t *files, char ret_hex[MD5_HEX + 1], struct error *reterr) {
    size_t count = json_array_size(files), len = count * MD5_HEX;
    _cleanup_(mem_free_p) char *text = mem_alloc(len + 1);
    for (size_t i = 0; i < count; i++)
        memcpy(text + i * MD5_HEX,
               json_string_value(json_object_get(json_array_get(files, i), "md5")), MD5_HEX);
    unsigned char md5[EVP_MAX_MD_SIZE];
    size_t md5_len = 0;
    if (!EVP_Q_digest(NULL, "MD5", NULL, text, len, md5, &md5_len) || md5_len * 2 != MD5_HEX)
        return error_set(reterr, ERR_INTERNAL, "MD5 is not available in this OpenSSL");
    for (size_t i = 0; i < md5_len; i++)
        snprintf(ret_hex + 2 * i, 3, "%02x", md5[i]);
    return 0;
}

static bool name_is_array(const char *name) {
    size_t len = strlen(name);
    return len > 4 && !strcmp(name + len - 4, ".npy") && !strchr(name, '/');
}

static int files_list(const char *dir, json_t *files, struct error *reterr) {
    char **names = NULL;
    size_t count = 0;
    int r = dir_list(dir, &names, &count, reterr);
    for (size_t i = 0; r == 0 && i < count; i++) {
        if (!name_is_array(names[i]))
            continue;
        char md5[MD5_HEX + 1];
        uint64_t bytes = 0;
        _cleanup_(mem_free_p) char *path = mem_printf("%s/%s", dir, names[i]);
        r = file_md5(path, md5, &bytes, reterr);
        if (r == 0)
            json_array_append_new(files, json_pack("{s:s,s:I,s:s}", "name", names[i], "bytes",
                                                   (json_int_t)bytes, "md5", md5));
    }
    dir_list_free(names, count);
    return r;
}

int manifest_write(const char *dir, json_t *fields, struct error *reterr) {
    _cleanup_(json_decref_p) json_t *files = json_array();
    char digest[MD5_HEX + 1];
    int r = files_list(dir, files, reterr);
    if (r == 0)
        r = files_digest(files, digest, reterr);
    if (r < 0)
        return r;
    json_object_set_new(fields, "format", json_integer(MANIFEST_FORMAT));
    json_object_set(fields, "files", files);
    json_object_set_new(fields, "digest", json_string(digest));
    _cleanup_(free_p) char *text = json_dumps(fields, JSON_INDENT(1));
    if (!text)
        return error_set(reterr, ERR_INTERNAL, "%s/manifest.json cannot be written as JSON", dir);
    _cleanup_(mem_free_p) char *path = mem_printf("%s/manifest.json", dir);
    return file_write_whole(path, text, strlen(text), reterr);
}

static int file_check(const char *dir, const json_t *entry, enum manifest_check check,
                      struct error *reterr) {
    const char *name = json_string_value(json_object_get(entry, "name"));
    const char *md5 = json_string_value(json_object_get(entry, "md5"));
    json_t *bytes = json_object_get(entry, "bytes");
    if (!name || !name_is_array(name) || !md5 || strlen(md5) != MD5_HEX || !json_is_integer(bytes))
        return error_set(reterr, ERR_FORMAT,
                         "%s/manifest.json: an entry of \"files\" is not {name, bytes, md5}", dir);
    if (check == MANIFEST_ALONE)
        return 0;
    _cleanup_(mem_free_p) char *path = mem_printf("%s/%s", dir, name);
    struct stat stat_buf;
    if (stat(path, &stat_buf) < 0)
        return error_set(reterr, ERR_NOT_FOUND, "%s: %m, though manifest.json lists it", path);
    if ((json_int_t)stat_buf.st_size != json_integer_value(bytes))
        return error_set(reterr, ERR_CHECKSUM,
                         "%s: has %lld bytes where manifest.json says %lld; the file was changed "
                         "or damaged, make it anew",
                         path, (long long)stat_buf.st_size, (long long)json_integer_value(bytes));
    if (check == MANIFEST_LENGTHS)
        return 0;
    char found[MD5_HEX + 1];
    uint64_t len = 0;
    int r = file_md5(path, found, &len, reterr);
    if (r == 0 && strcmp(found, md5) != 0)
        r = error_set(reterr, ERR_CHECKSUM,
                      "%s: checksum mismatch (MD5 %s where manifest.json says %s); the file was "
                      "changed or damaged, make it anew",
                      path, found, md5);
    return r;
}

int manifest_read(const char *dir, enum manifest_check check, json_t **ret, struct error *reterr) {
    _cleanup_(mem_free_p) char *path = mem_printf("%s/manifest.json", dir);
    _cleanup_(mem_free_p) char *text = NULL;
    size_t len = 0;
    int r = file_read_whole(path, MANIFEST_BYTES_MAX, &text, &len, reterr);
    if (r < 0)
        return r;
    json_error_t json_error;
    _cleanup_(json_decref_p) json_t *manifest =
        json_loadb(text, len, JSON_REJECT_DUPLICATES, &json_error);
    if (!json_is_object(manifest))
        return error_set(reterr, ERR_FORMAT, "%s:%d:%d: %s", path, manifest ? 1 : json_error.line,
                         manifest ? 1 : json_error.column,
                         manifest ? "not an object" : json_error.text);
    json_t *format = json_object_get(manifest, "format");
    if (!json_is_integer(format) || json_integer_value(format) != MANIFEST_FORMAT)
        return error_set(reterr, ERR_FORMAT,
                         "%s: \"format\" is not %d; it was made by another version of graphps, "
                         "import the graph again",
                         path, MANIFEST_FORMAT);
    json_t *files = json_object_get(manifest, "files");
    if (!json_is_array(files))
        return error_set(reterr, ERR_FORMAT, "%s: \"files\" is missing", path);
    for (size_t i = 0; r == 0 && i < json_array_size(files); i++)
        r = file_check(dir, json_array_get(files, i), check, reterr);
    char digest[MD5_HEX + 1];
    if (r == 0)
        r = files_digest(files, digest, reterr);
    const char *said = NULL;
    if (r == 0)
        r = manifest_text(manifest, dir, "digest", &said, reterr);
    if (r == 0 && strcmp(said, digest) != 0)
        r = error_set(reterr, ERR_CHECKSUM, "%s: \"digest\" is not the MD5 of the files' MD5s",
                      path);
    if (r == 0)
        *ret = TAKE_PTR(manifest);
    return r;
}

bool manifest_has_file(const json_t *manifest, const char *name) {
    const json_t *files = json_object_get(manifest, "files");
    for (size_t i = 0; i < json_array_size(files); i++)
        if (!strcmp(json_string_value(json_object_get(json_array_get(files, i), "name")), name))
            return true;
    return false;
}

int manifest_uint(const json_t *manifest, const char *dir, const char *key, uint64_t max,
                  uint64_t *ret, struct error *reterr) {
    const json_t *value = json_object_get(manifest, key);
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        (uint64_t)json_integer_value(value) > max)
        return error_set(reterr, ERR_FORMAT,
                         "%s/manifest.json: \"%s\" is missing or not an integer in 0..%llu", dir,
                         key, (unsigned long long)max);
    *ret = (uint64_t)json_integer_value(value);
    return 0;
}

int manifest_text(const json_t *manifest, const char *dir, const char *key, const char **ret,
                  struct error *reterr) {
    const char *text = json_string_value(json_object_get(manifest, key));
    if (!text)
        return error_set(reterr, ERR_FORMAT, "%s/manifest.json: \"%s\" is missing or not a text",
                         dir, key);
    *ret = text;
    return 0;
}
