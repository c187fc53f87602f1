/* Files and directories: whole under their name or not there at all, and errors that name the path.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"
#include "common/mem.h"
#include "tests/test.h"

static size_t entries_in(const char *dir) {
    char **names;
    size_t count;
    ck_assert_int_eq(dir_list(dir, &names, &count, NULL), 0);
    dir_list_free(names, count);
    return count;
}

static void assert_content(const char *path, const char *wanted) {
    char *text = test_read_file(path, NULL);
    ck_assert_str_eq(text, wanted);
    free(text);
}

/* Until the commit the name shows what was there before; afterwards the new bytes and no temp file.
 */
START_TEST(test_commit) {
    const char *dir = test_tmpdir(), *path = test_path(dir, "a");
    struct file_writer *file;
    struct error err = {0};
    ck_assert_int_eq(file_write_whole(path, "old", 3, &err), 0);
    ck_assert_int_eq(file_create(path, &file, &err), 0);
    ck_assert_int_eq(file_append(file, "ne", 2, &err), 0);
    ck_assert_int_eq(file_append(file, "w", 1, &err), 0);
    ck_assert_int_eq(file_append(file, NULL, 0, &err), 0);
    assert_content(path, "old");
    ck_assert_int_eq(file_commit(file, &err), 0);
    assert_content(path, "new");
    ck_assert_uint_eq(entries_in(dir), 1);
}
END_TEST

/* An abandoned file leaves no trace. */
START_TEST(test_abandon) {
    const char *dir = test_tmpdir(), *path = test_path(dir, "a");
    struct file_writer *file;
    ck_assert_int_eq(file_create(path, &file, NULL), 0);
    ck_assert_int_eq(file_append(file, "x", 1, NULL), 0);
    ck_assert_ptr_null(file_abandon(file));
    ck_assert_ptr_null(file_abandon(NULL));
    ck_assert(!file_exists(path));
    ck_assert_uint_eq(entries_in(dir), 0);
}
END_TEST

/* A disk that takes no more: the error names the file, the old bytes stay, no temp file stays. */
START_TEST(test_write_fails) {
    const char *dir = test_tmpdir(), *path = test_path(dir, "a");
    struct error err = {0};
    ck_assert_int_eq(file_write_whole(path, "old", 3, &err), 0);
    char *large = mem_alloc(1 << 20);
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){1 << 16, 1 << 16});
    ck_assert_int_eq(file_write_whole(path, large, 1 << 20, &err), ERR_IO);
    ck_assert_msg(strstr(err.text, path) && strstr(err.text, "large"), "%s", err.text);
    /* Small pieces fail too, at the latest when the buffer is flushed by the commit. */
    struct file_writer *file;
    ck_assert_int_eq(file_create(path, &file, &err), 0);
    int r = file_append(file, large, 60000, &err);
    for (int i = 0; r == 0 && i < 3; i++)
        r = file_append(file, large, 5000, &err);
    if (r == 0)
        r = file_commit(file, &err);
    else
        file_abandon(file);
    ck_assert_int_eq(r, ERR_IO);
    mem_free(large);
    assert_content(path, "old");
    ck_assert_uint_eq(entries_in(dir), 1);
}
END_TEST

/* A name that cannot be taken: the temp file goes. */
START_TEST(test_rename_fails) {
    const char *dir = test_tmpdir(), *path = test_path(dir, "a");
    struct error err = {0};
    struct file_writer *file;
    ck_assert_int_eq(file_create(path, &file, &err), 0);
    ck_assert_int_eq(dir_make(path, NULL), 0);
    ck_assert_int_eq(file_commit(file, &err), ERR_USAGE);
    ck_assert_ptr_nonnull(strstr(err.text, path));
    ck_assert_uint_eq(entries_in(dir), 1);
    ck_assert_int_eq(file_may_create(path, &err), ERR_EXISTS);
    ck_assert_ptr_nonnull(strstr(err.text, "is a directory"));
    ck_assert_int_eq(file_write_whole(path, "x", 1, &err), ERR_EXISTS);
    ck_assert_int_eq(file_may_create(test_path(dir, "b"), &err), 0);
    const char *missing = test_path(dir, "no/such/file");
    ck_assert_int_eq(file_may_create(missing, &err), ERR_NOT_FOUND);
    ck_assert_int_eq(file_write_whole(missing, "x", 1, &err), ERR_NOT_FOUND);
    ck_assert_ptr_nonnull(strstr(err.text, missing));
}
END_TEST

/* A patch overwrites what was written, buffered or not, and nothing beyond it. */
START_TEST(test_patch) {
    const char *path = test_path(test_tmpdir(), "a");
    size_t len = 200001;
    uint8_t *bytes = mem_alloc(len);
    for (size_t i = 0; i < len; i++)
        bytes[i] = (uint8_t)(i * 7);
    struct file_writer *file;
    ck_assert_int_eq(file_create(path, &file, NULL), 0);
    size_t sizes[] = {1, 65535, 2, 65536, 3, 65537, 3387};
    size_t at = 0;
    for (size_t i = 0; i < ARRAY_LEN(sizes); at += sizes[i++])
        ck_assert_int_eq(file_append(file, bytes + at, sizes[i], NULL), 0);
    ck_assert_uint_eq(at, len);
    memcpy(bytes, "HEAD", 4);
    bytes[len - 1] = 'T';
    struct error err = {0};
    ck_assert_int_eq(file_patch(file, 0, "HEAD", 4, &err), 0);
    ck_assert_int_eq(file_patch(file, len - 1, "T", 1, &err), 0);
    ck_assert_int_eq(file_patch(file, len, "T", 1, &err), ERR_INTERNAL);
    ck_assert_int_eq(file_patch(file, UINT64_MAX, "TT", 2, &err), ERR_INTERNAL);
    ck_assert_int_eq(file_commit(file, &err), 0);
    size_t read_len;
    char *read_back = test_read_file(path, &read_len);
    ck_assert_uint_eq(read_len, len);
    ck_assert_mem_eq(read_back, bytes, len);
    free(read_back);
    mem_free(bytes);
}
END_TEST

/* A file is read up to the limit and not one byte beyond; files without a size are read too. */
START_TEST(test_read_whole) {
    const char *dir = test_tmpdir(), *path = test_path(dir, "a");
    char *text = NULL;
    size_t len = 99;
    struct error err = {0};
    test_write_file(path, "0123456789", 10);
    ck_assert_int_eq(file_read_whole(path, 10, &text, &len, &err), 0);
    ck_assert_uint_eq(len, 10);
    ck_assert_str_eq(text, "0123456789");
    mem_free(text);
    text = NULL;
    ck_assert_int_eq(file_read_whole(path, 9, &text, &len, &err), ERR_LIMIT);
    ck_assert_ptr_nonnull(strstr(err.text, path));
    ck_assert_ptr_null(text);
    ck_assert_int_eq(file_read_whole(test_path(dir, "b"), 9, &text, &len, &err), ERR_NOT_FOUND);
    ck_assert_int_eq(file_read_whole(dir, 9, &text, &len, &err), ERR_USAGE);

    test_write_file(path, "", 0);
    ck_assert_int_eq(file_read_whole(path, 0, &text, &len, &err), 0);
    ck_assert_uint_eq(len, 0);
    ck_assert_str_eq(text, "");
    mem_free(text);

    /* /proc says size 0; maps is longer than the first guess in any process. */
    ck_assert_int_eq(file_read_whole("/proc/self/maps", 1 << 20, &text, &len, &err), 0);
    ck_assert_uint_gt(len, 0);
    ck_assert_uint_eq(strlen(text), len);
    mem_free(text);
    ck_assert_int_eq(file_read_whole("/dev/zero", 100000, &text, &len, &err), ERR_LIMIT);
}
END_TEST

/* A map shows the file's bytes; an empty file is no error, a directory is. */
START_TEST(test_map) {
    const char *dir = test_tmpdir(), *path = test_path(dir, "a");
    struct file_map map = {0};
    struct error err = {0};
    test_write_file(path, "bytes", 5);
    ck_assert_int_eq(file_map(path, &map, &err), 0);
    ck_assert_uint_eq(map.len, 5);
    ck_assert_mem_eq(map.data, "bytes", 5);
    file_unmap(&map);
    file_unmap(&map);
    test_write_file(path, "", 0);
    ck_assert_int_eq(file_map(path, &map, &err), 0);
    ck_assert_ptr_null(map.data);
    ck_assert_uint_eq(map.len, 0);
    file_unmap(&map);
    ck_assert_int_eq(file_map(dir, &map, &err), ERR_FORMAT);
    ck_assert_int_eq(file_map(test_path(dir, "b"), &map, &err), ERR_NOT_FOUND);
}
END_TEST

/* The digests RFC 1321 prints, and one that needs several reads. */
START_TEST(test_md5) {
    const char *path = test_path(test_tmpdir(), "a");
    char hex[33] = "untouched";
    uint64_t len = 1;
    struct error err = {0};
    ck_assert_int_eq(file_md5(path, hex, &len, &err), ERR_NOT_FOUND);
    ck_assert_str_eq(hex, "untouched");
    test_write_file(path, "", 0);
    ck_assert_int_eq(file_md5(path, hex, &len, &err), 0);
    ck_assert_str_eq(hex, "d41d8cd98f00b204e9800998ecf8427e");
    ck_assert_uint_eq(len, 0);
    test_write_file(path, "abc", 3);
    ck_assert_int_eq(file_md5(path, hex, &len, &err), 0);
    ck_assert_str_eq(hex, "900150983cd24fb0d6963f7d28e17f72");
    char *million = mem_alloc(1000000);
    memset(million, 'a', 1000000);
    test_write_file(path, million, 1000000);
    mem_free(million);
    ck_assert_int_eq(file_md5(path, hex, &len, &err), 0);
    ck_assert_str_eq(hex, "7707d6ae4e027c70eea2a935c2296f21");
    ck_assert_uint_eq(len, 1000000);
}
END_TEST

/* mkdir -p: parents too, again is fine, a file in the way is named. */
START_TEST(test_dir_make) {
    const char *dir = test_tmpdir();
    struct error err = {0};
    ck_assert_int_eq(dir_make(test_path(dir, "a/b//c/"), &err), 0);
    ck_assert_int_eq(dir_make(test_path(dir, "a/b/c"), &err), 0);
    ck_assert(file_exists(test_path(dir, "a/b/c")));
    ck_assert_int_eq(dir_make("/", &err), 0);
    test_write_file(test_path(dir, "a/file"), "x", 1);
    ck_assert_int_eq(dir_make(test_path(dir, "a/file/c"), &err), ERR_EXISTS);
    ck_assert_ptr_nonnull(strstr(err.text, "a/file is there"));
}
END_TEST

/* rm -r takes the whole tree, a link itself and not what it points at; nothing there is fine. */
START_TEST(test_dir_remove) {
    const char *dir = test_tmpdir();
    ck_assert_int_eq(dir_make(test_path(dir, "keep"), NULL), 0);
    test_write_file(test_path(dir, "keep/me"), "x", 1);
    ck_assert_int_eq(dir_make(test_path(dir, "t/a/b"), NULL), 0);
    test_write_file(test_path(dir, "t/a/b/c"), "x", 1);
    ck_assert_int_eq(symlink(test_path(dir, "keep"), test_path(dir, "t/link")), 0);
    ck_assert_int_eq(dir_remove(test_path(dir, "t"), NULL), 0);
    ck_assert(!file_exists(test_path(dir, "t")));
    ck_assert(file_exists(test_path(dir, "keep/me")));
    ck_assert_int_eq(dir_remove(test_path(dir, "t"), NULL), 0);
}
END_TEST

/* Names come sorted, all of them, without "." and "..". */
START_TEST(test_dir_list) {
    const char *dir = test_tmpdir();
    for (int i = 39; i >= 0; i--) {
        char name[16];
        snprintf(name, sizeof name, "f%02d", i);
        test_write_file(test_path(dir, name), "", 0);
    }
    char **names;
    size_t count;
    struct error err = {0};
    ck_assert_int_eq(dir_list(dir, &names, &count, &err), 0);
    ck_assert_uint_eq(count, 40);
    ck_assert_str_eq(names[0], "f00");
    for (size_t i = 1; i < count; i++)
        ck_assert_int_lt(strcmp(names[i - 1], names[i]), 0);
    dir_list_free(names, count);
    ck_assert_int_eq(dir_list(test_path(dir, "no"), &names, &count, &err), ERR_NOT_FOUND);
}
END_TEST

/* A directory appears whole under its name; one that is there already is neither replaced nor
 * filled, even when it appeared meanwhile, and what a crashed process left is no obstacle. */
START_TEST(test_dir_commit) {
    const char *dir = test_tmpdir(), *path = test_path(dir, "snapshot");
    struct error err = {0};
    char *tmp, *again;
    char stale[512];
    snprintf(stale, sizeof stale, "%s.tmp-%d", path, (int)getpid());
    ck_assert_int_eq(dir_make(stale, NULL), 0);
    test_write_file(test_path(stale, "stale"), "x", 1);

    ck_assert_int_eq(dir_create(path, &tmp, &err), 0);
    ck_assert_uint_eq(entries_in(tmp), 0);
    ck_assert_int_eq(dir_make(test_path(tmp, "part-0"), NULL), 0);
    test_write_file(test_path(tmp, "part-0/a"), "x", 1);
    ck_assert(!file_exists(path));
    ck_assert_int_eq(dir_commit(tmp, path, &err), 0);
    mem_free(tmp);
    assert_content(test_path(path, "part-0/a"), "x");
    ck_assert_uint_eq(entries_in(dir), 1);

    ck_assert_int_eq(dir_create(path, &again, &err), ERR_EXISTS);
    ck_assert_ptr_nonnull(strstr(err.text, path));

    /* Empty: plain rename(2) would replace it. */
    const char *late = test_path(dir, "late");
    ck_assert_int_eq(dir_create(late, &tmp, &err), 0);
    ck_assert_int_eq(dir_make(late, NULL), 0);
    ck_assert_int_eq(dir_commit(tmp, late, &err), ERR_EXISTS);
    mem_free(tmp);
    ck_assert_uint_eq(entries_in(dir), 2);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("file");
    TCase *tcase = tcase_create("file");
    tcase_add_test(tcase, test_commit);
    tcase_add_test(tcase, test_abandon);
    tcase_add_test(tcase, test_write_fails);
    tcase_add_test(tcase, test_rename_fails);
    tcase_add_test(tcase, test_patch);
    tcase_add_test(tcase, test_read_whole);
    tcase_add_test(tcase, test_map);
    tcase_add_test(tcase, test_md5);
    tcase_add_test(tcase, test_dir_make);
    tcase_add_test(tcase, test_dir_remove);
    tcase_add_test(tcase, test_dir_list);
    tcase_add_test(tcase, test_dir_commit);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
