/* Snapshots: found by name and version, refused when damaged. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "tests/graphs.h"
#include "tests/test.h"
#include "worker/graph/csr.h"
#include "worker/graph/import.h"
#include "worker/graph/snapshot.h"
#include "worker/graph/version.h"

static const char *small_snapshot(const char *root) {
    return graphs_snapshot(root, "g", 40, 4, 4, 5, 1);
}

static void expect_open(const char *dir, bool verify, int code, const char *message) {
    struct snapshot *s = NULL;
    struct error err = {0};
    int r = snapshot_open(dir, verify, &s, &err);
    ck_assert_msg(r == code && (!message || strstr(err.text, message)),
                  "expected %s \"%s\", got %s \"%s\"", error_name(code), message ? message : "",
                  error_name(r), err.text);
    ck_assert(r == 0 ? s != NULL : s == NULL);
    snapshot_close(s);
}

/* A single changed byte in any array is noticed, and the file named; --no-verify looks past it, but
 * not past a file that is shorter, or missing. */
START_TEST(test_damage) {
    static const char *const files[] = {"indptr.npy", "indices.npy", "features.npy",
                                        "labels.npy", "split.npy",   "id_bytes.npy"};
    const char *dir = small_snapshot(test_tmpdir());
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        char message[64];
        const char *path = test_path(dir, files[i]);
        size_t len;
        char *bytes = test_read_file(path, &len);
        bytes[len - 1] ^= 0x40;
        test_write_file(path, bytes, len);
        snprintf(message, sizeof message, "%s: checksum mismatch", files[i]);
        expect_open(dir, true, ERR_CHECKSUM, message);
        bytes[len - 1] ^= 0x40;
        test_write_file(path, bytes, len - 1);
        snprintf(message, sizeof message, "%s: has %zu bytes where", files[i], len - 1);
        expect_open(dir, false, ERR_CHECKSUM, message);
        test_write_file(path, bytes, len);
        free(bytes);
    }
    expect_open(dir, true, 0, NULL);
    const char *features = test_path(dir, "features.npy");
    size_t len;
    char *bytes = test_read_file(features, &len);
    bytes[len - 1] ^= 1;
    test_write_file(features, bytes, len);
    expect_open(dir, false, 0, NULL);
    ck_assert_int_eq(remove(features), 0);
    expect_open(dir, false, ERR_NOT_FOUND, "features.npy");
    free(bytes);
}
END_TEST

/* Even without checksums no index leads out of an array. */
START_TEST(test_damaged_index) {
    const char *dir = small_snapshot(test_tmpdir());
    static const char *const files[] = {"indices.npy", "indptr.npy", "labels.npy",
                                        "id_offsets.npy"};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        const char *path = test_path(dir, files[i]);
        size_t len;
        char *bytes = test_read_file(path, &len);
        char was = bytes[len - 1];
        bytes[len - 1] = 0x40; /* the last number's highest byte */
        test_write_file(path, bytes, len);
        expect_open(dir, false, ERR_FORMAT, NULL);
        bytes[len - 1] = was;
        test_write_file(path, bytes, len);
        free(bytes);
    }
    expect_open(dir, false, 0, NULL);
}
END_TEST

/* A manifest that is no JSON, of another format, or changed by hand is refused with its path. */
START_TEST(test_manifest) {
    const struct {
        const char *from, *to;
        int code;
        const char *message;
    } changes[] = {
        {"\"format\": 1", "\"format\": 2", ERR_FORMAT, "made by another version of graphps"},
        {"\"nodes\": 40", "\"nodes\": 41", ERR_FORMAT, ".npy"},
        {"\"nodes\": 40", "\"nodes\": -1", ERR_FORMAT, "\"nodes\" is missing or not an integer"},
        {"\"nodes\": 40", "\"nodes\": {", ERR_FORMAT, "manifest.json:"},
        {"\"name\": \"features.npy\"", "\"name\": \"../features.npy\"", ERR_FORMAT, "\"files\""},
        {"\"digest\": \"", "\"digest\": \"0", ERR_CHECKSUM, "\"digest\" is not the MD5"},
        {"\"c3\"", "3", ERR_FORMAT, "entry 3 of \"class_names\""},
    };
    const char *dir = small_snapshot(test_tmpdir());
    const char *path = test_path(dir, "manifest.json");
    char *text = test_read_file(path, NULL);
    for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
        char *at = strstr(text, changes[i].from);
        ck_assert_msg(at != NULL, "no %s in %s", changes[i].from, text);
        char *changed = mem_printf("%.*s%s%s", (int)(at - text), text, changes[i].to,
                                   at + strlen(changes[i].from));
        test_write_file(path, changed, strlen(changed));
        expect_open(dir, false, changes[i].code, changes[i].message);
        mem_free(changed);
    }
    free(text);
    expect_open("/nowhere", false, ERR_NOT_FOUND, "/nowhere/manifest.json");
}
END_TEST

/* semver.org's own example of precedence. */
START_TEST(test_versions) {
    static const char *const ascending[] = {
        "0.9.9",       "1.0.0-alpha",  "1.0.0-alpha.1", "1.0.0-alpha.beta",
        "1.0.0-beta",  "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1",
        "1.0.0",       "1.0.1",        "1.2.0",         "1.10.0",
        "2.0.0+build", "10.0.0"};
    static const char *const wrong[] = {"",         "1",          "1.0",    "1.0.0.0",   "01.0.0",
                                        "1.0.0-",   "1.0.0-a..b", "1.0.0+", "v1.0.0",    "1.0.x",
                                        "1.0.0/..", "1.0.0 ",     "-1.0.0", "1.0.0-a_b", "1..0"};
    for (size_t i = 0; i < ARRAY_LEN(ascending); i++) {
        ck_assert_msg(version_valid(ascending[i]), "%s", ascending[i]);
        for (size_t j = 0; j < ARRAY_LEN(ascending); j++) {
            int order = version_compare(ascending[i], ascending[j]);
            ck_assert_msg((order > 0) - (order < 0) == (i > j) - (i < j), "%s and %s: %d",
                          ascending[i], ascending[j], order);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        ck_assert_msg(!version_valid(wrong[i]), "%s", wrong[i]);
}
END_TEST

static void expect_found(const char *root, const char *snapshot, const char *entry) {
    _cleanup_(mem_free_p) char *dir = NULL;
    struct error err = {0};
    ck_assert_msg(snapshot_find(root, snapshot, &dir, &err) == 0, "%s", err.text);
    ck_assert_str_eq(strrchr(dir, '/') + 1, entry);
}

/* A name alone is the newest version of exactly that name; what is not there is answered with what
 * is. Unfinished directories are not seen. */
START_TEST(test_find) {
    const char *root = test_tmpdir();
    static const char *const versions[] = {"1.9.0", "1.10.0", "1.10.1-rc.1"};
    char source[300];
    snprintf(source, sizeof source, "%s/source", root);
    graphs_make_community(source, 20, 2, 4, 3, 1);
    struct error err = {0};
    char *dir = NULL;
    ck_assert_int_eq(snapshot_find(root, "g", &dir, &err), ERR_NOT_FOUND);
    ck_assert_ptr_nonnull(strstr(err.text, "make one with graphps import"));
    for (size_t i = 0; i <= ARRAY_LEN(versions); i++) {
        struct import_options options = {.format = IMPORT_CSV,
                                         .source = source,
                                         .root = root,
                                         .name = i ? "g" : "g2",
                                         .version = i ? versions[i - 1] : "7.0.0"};
        struct import_summary summary;
        ck_assert_int_eq(import_run(&options, NULL, NULL, &summary, &err), 0);
    }
    ck_assert_int_eq(dir_make(test_path(root, "snapshots/g@9.0.0"), &err), 0);
    expect_found(root, "g", "g@1.10.1-rc.1");
    expect_found(root, "g@1.9.0", "g@1.9.0");
    expect_found(root, "g2", "g2@7.0.0");
    expect_found("elsewhere", test_path(root, "snapshots/g@1.10.0"), "g@1.10.0");
    ck_assert_int_eq(snapshot_find(root, "g@2.0.0", &dir, &err), ERR_NOT_FOUND);
    ck_assert_ptr_nonnull(strstr(err.text, "there is: g2@7.0.0, g@1.10.0, g@1.10.1-rc.1, g@1.9.0"));
    ck_assert_int_eq(snapshot_find(root, "./nothing", &dir, &err), ERR_NOT_FOUND);
    ck_assert_int_eq(snapshot_find(root, "", &dir, &err), ERR_NOT_FOUND);
    ck_assert_ptr_null(dir);
}
END_TEST

/* Sorting, symmetry and the transpose, on rows short and long. */
START_TEST(test_csr) {
    enum { NODES = 300 };
    int64_t indptr[NODES + 1] = {0}, t_indptr[NODES + 1] = {0};
    static int32_t indices[NODES * NODES], t_indices[NODES * NODES];
    int64_t entries = 0;
    /* Row i has the numbers below i, each twice, in falling order. */
    for (int i = 0; i < NODES; i++) {
        for (int j = 2 * i - 1; j >= 0; j--)
            indices[entries + 2 * i - 1 - j] = j / 2;
        ck_assert_uint_eq(csr_row_sort(indices + entries, (uint64_t)i * 2, true), (uint64_t)i);
        entries += i;
        indptr[i + 1] = entries;
    }
    for (int i = 0; i < NODES; i++) {
        ck_assert_int_eq(indptr[i + 1] - indptr[i], i);
        for (int j = 0; j < i; j++)
            ck_assert_int_eq(indices[indptr[i] + j], j);
    }
    ck_assert(!csr_symmetric(indptr, indices, NODES));
    csr_transpose(indptr, indices, NODES, t_indptr, t_indices);
    for (int i = 0; i < NODES; i++)
        for (int64_t e = t_indptr[i]; e < t_indptr[i + 1]; e++)
            ck_assert_int_eq(t_indices[e], i + 1 + (e - t_indptr[i]));
    ck_assert_int_eq(t_indptr[NODES], indptr[NODES]);

    int64_t ring[] = {0, 2, 4, 6, 8};
    int32_t ends[] = {1, 3, 0, 2, 1, 3, 0, 2};
    ck_assert(csr_symmetric(ring, ends, 4));
    ends[7] = 1; /* 3 -> 1 without 1 -> 3, and 2 -> 3 without 3 -> 2 */
    ck_assert(!csr_symmetric(ring, ends, 4));
}
END_TEST

int main(void) {
    Suite *suite = suite_create("snapshot");
    TCase *tcase = tcase_create("snapshot");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, test_damage);
    tcase_add_test(tcase, test_damaged_index);
    tcase_add_test(tcase, test_manifest);
    tcase_add_test(tcase, test_versions);
    tcase_add_test(tcase, test_find);
    tcase_add_test(tcase, test_csr);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
