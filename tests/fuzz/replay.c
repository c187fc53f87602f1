/* Runs a fuzz target without a fuzzer: over each file given (or in a directory given), over every
 * truncation of it, and over seeded mutations of it, the same at each run. Every input is a heap
 * block of its exact length, so that a sanitizer sees a read beyond it. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/rng.h"

/* Unless --inputs says otherwise, for targets that take milliseconds an input. */
#define MUTATIONS 2000
#define TRUNCATIONS_MAX 20000
#define FILE_BYTES_MAX (1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t runs;
static uint64_t mutations = MUTATIONS, truncations = TRUNCATIONS_MAX; /* of each file */

static void run(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy)
        abort();
    if (size)
        memcpy(copy, data, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
    runs++;
}

/* Changes 1 to 8 places: another byte, one bit, an extreme, a run cut out or doubled. */
static void mutate(const uint8_t *data, size_t size, uint64_t key) {
    static const uint8_t extremes[] = {0x00, 0x01, 0x7f, 0x80, 0xff, '\'', '"', '\n'};
    size_t cap = size + 8 * 64, len = size;
    uint8_t *copy = malloc(cap);
    if (!copy)
        abort();
    memcpy(copy, data, size);
    uint64_t counter = 0;
    size_t changes = 1 + (size_t)rng_below(rng_at(key, counter++), 8);
    for (size_t i = 0; i < changes && len > 0; i++) {
        size_t at = (size_t)rng_below(rng_at(key, counter++), len);
        uint64_t bits = rng_at(key, counter++);
        size_t count = 1 + bits % 63;
        switch (rng_below(rng_at(key, counter++), 6)) {
        case 0:
        case 1:
            copy[at] = (uint8_t)bits;
            break;
        case 2:
            copy[at] ^= (uint8_t)(1u << bits % 8);
            break;
        case 3:
            copy[at] = extremes[bits % sizeof extremes];
            break;
        case 4:
            count = count < len - at ? count : len - at;
            memmove(copy + at, copy + at + count, len - at - count);
            len -= count;
            break;
        default:
            count = count < len - at ? count : len - at;
            memmove(copy + at + count, copy + at, len - at);
            len += count;
        }
    }
    run(copy, len);
    free(copy);
}

static int replay_file(const char *path) {
    FILE *file = fopen(path, "rbe");
    uint8_t *data = malloc(FILE_BYTES_MAX);
    if (!file || !data) {
        fprintf(stderr, "cannot read %s\n", path);
        return 1;
    }
    size_t size = fread(data, 1, FILE_BYTES_MAX, file);
    fclose(file);

    run(data, size);
    for (size_t len = 0; len < size; len += 1 + size / truncations)
        run(data, len);
    for (uint64_t i = 0; i < mutations; i++)
        mutate(data, size, rng_key(size, i));
    free(data);
    return 0;
}

static int replay_dir(const char *path) {
    struct dirent **entries;
    int count = scandir(path, &entries, NULL, alphasort), failed = 0;
    for (int i = 0; i < count; i++) {
        char file[4096];
        if (entries[i]->d_name[0] != '.') {
            snprintf(file, sizeof file, "%s/%s", path, entries[i]->d_name);
            failed |= replay_file(file);
        }
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
    return count < 0 ? 1 : failed;
}

int main(int argc, char **argv) {
    int failed = 0;
    for (int i = 1; i < argc; i++) {
        struct stat st;
        if (strncmp(argv[i], "--inputs=", 9) == 0) {
            mutations = truncations = strtoull(argv[i] + 9, NULL, 10) | 1;
            continue;
        }
        failed |= stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode) ? replay_dir(argv[i])
                                                                 : replay_file(argv[i]);
    }
    printf("%llu inputs ran\n", (unsigned long long)runs);
    if (runs == 0)
        fprintf(stderr, "no input: name files or directories of inputs\n");
    return failed || runs == 0;
}
