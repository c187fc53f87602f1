/* Reading and writing the note. */
#include "worker/graph/stamp.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/file.h"
#include "common/mem.h"

#define STAMP_NAME ".verified"
#define STAMP_BYTES_MAX (1u << 20)
/* File systems count time in steps, some of them of two seconds. */
#define YOUNG_S 2

static const char *const levels[] = {
    [STAMP_NONE] = "none", [STAMP_CHECKED] = "checked", [STAMP_VERIFIED] = "verified"};

static char *stamp_text(enum stamp_level level, const char *state) {
    return mem_printf("graphps 1: these files were %s\n%s", levels[level], state);
}

static char *add_file(char *before, const char *dir, const char *name) {
    _cleanup_(mem_free_p) char *path = mem_printf("%s/%s", dir, name);
    _cleanup_(mem_free_p) char *taken = before;
    struct stat file = {0};
    (void)stat(path, &file); /* a missing one has no length, no time and no inode */
    return mem_printf("%s%s length=%lld modified=%lld.%09ld changed=%lld.%09ld inode=%llu\n", taken,
                      name, (long long)file.st_size, (long long)file.st_mtim.tv_sec,
                      file.st_mtim.tv_nsec, (long long)file.st_ctim.tv_sec, file.st_ctim.tv_nsec,
                      (unsigned long long)file.st_ino);
}

char *stamp_state(const char *dir, const json_t *manifest) {
    const json_t *files = json_object_get(manifest, "files");
    char *state = add_file(mem_strdup(""), dir, "manifest.json");
    for (size_t i = 0; i < json_array_size(files); i++)
        state = add_file(state, dir,
                         json_string_value(json_object_get(json_array_get(files, i), "name")));
    return state;
}

enum stamp_level stamp_read(const char *dir, const char *state) {
    _cleanup_(mem_free_p) char *path = mem_printf("%s/" STAMP_NAME, dir);
    _cleanup_(mem_free_p) char *found = NULL;
    size_t len = 0;
    struct error err;
    if (file_read_whole(path, STAMP_BYTES_MAX, &found, &len, &err) < 0)
        return STAMP_NONE;
    for (enum stamp_level level = STAMP_VERIFIED; level > STAMP_NONE; level--) {
        _cleanup_(mem_free_p) char *text = stamp_text(level, state);
        if (strcmp(found, text) == 0)
            return level;
    }
    return STAMP_NONE;
}

static bool is_young(const char *state) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    for (const char *at = state; (at = strstr(at, " changed=")); at++)
        if (strtoll(at + strlen(" changed="), NULL, 10) > now.tv_sec - YOUNG_S)
            return true;
    return false;
}

void stamp_write(const char *dir, const char *state, enum stamp_level level) {
    _cleanup_(mem_free_p) char *path = mem_printf("%s/" STAMP_NAME, dir);
    _cleanup_(mem_free_p) char *text = stamp_text(level, state);
    struct error err;
    if (!is_young(state))
        (void)file_write_whole(path, text, strlen(text), &err); /* without it: looked at again */
}
