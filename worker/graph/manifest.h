/* manifest.json: names every array of a snapshot or of a part with its length and MD5, beside the
 * counts its owner keeps there. Written last, so a directory without one is no snapshot. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

/* Adds "format", "files" (all .npy files in dir, sorted) and "digest" to fields and writes
 * dir/manifest.json. */
int manifest_write(const char *dir, json_t *fields, struct error *reterr);
enum manifest_check { MANIFEST_ALONE, MANIFEST_LENGTHS, MANIFEST_MD5 };
/* Reads and checks it: its form; that the files are there and as long as it says; and that they
 * have the MD5 it says (ERR_CHECKSUM names the file). The caller decrefs *ret. ERR_NOT_FOUND. */
int manifest_read(const char *dir, enum manifest_check check, json_t **ret, struct error *reterr);
bool manifest_has_file(const json_t *manifest, const char *name);

/* A field of it. ERR_FORMAT names directory and field when it is missing, of another type, or more
 * than max. Texts are borrowed from the manifest. */
int manifest_uint(const json_t *manifest, const char *dir, const char *key, uint64_t max,
                  uint64_t *ret, struct error *reterr);
int manifest_text(const json_t *manifest, const char *dir, const char *key, const char **ret,
                  struct error *reterr);
