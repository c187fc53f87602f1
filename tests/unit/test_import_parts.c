/* Texts of several parts: read with parts of a few bytes and of the usual size, by any number of
 * threads, the rows are the same; and files beyond a part import as small ones do. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "tests/test.h"
#include "tests/unit/imports.h"

/* All fields of all rows with their lines, as one text. */
struct parsed {
    char *text;
    size_t len, cap;
};

static void *parsed_make(void *ctx) {
    return calloc(1, sizeof(struct parsed));
}

static void parsed_free(void *item) {
    free(((struct parsed *)item)->text);
    free(item);
}

static void put(struct parsed *to, const char *text, size_t len) {
    if (to->len + len + 1 > to->cap) {
        to->cap = 2 * (to->len + len + 1);
        to->text = realloc(to->text, to->cap);
        ck_assert_ptr_nonnull(to->text);
    }
    memcpy(to->text + to->len, text, len);
    to->len += len;
    to->text[to->len] = 0;
}

static void parse(void *ctx, struct row *row, void *item) {
    struct parsed *parsed = item;
    parsed->len = 0;
    while (row_next(row)) {
        char line[32];
        put(parsed, line,
            (size_t)snprintf(line, sizeof line, "%llu:", (unsigned long long)row->line));
        for (size_t i = 0; i < row->count; i++) {
            put(parsed, row->fields[i].text, row->fields[i].len);
            put(parsed, "|", 1);
        }
    }
}

static int use(void *ctx, void *item, struct error *reterr) {
    struct parsed *from = item;
    if (from->len)
        put(ctx, from->text, from->len);
    return 0;
}

static const struct rows_ops ops = {
    .make = parsed_make, .free = parsed_free, .parse = parse, .use = use};

/* What comes of a file, faults and their count included; free() it. */
static char *read_rows(const char *path, size_t part_bytes, uint32_t threads, uint64_t allowed) {
    struct rejects rejects = {.allowed = allowed};
    const struct rows_options options = {
        .path = path, .threads = threads, .rejects = &rejects, .part_bytes = part_bytes};
    struct parsed all = {0};
    struct rows *rows = NULL;
    struct error err = {0};
    char end[1024];
    int r = rows_open(&options, &rows, &err);
    put(&all, end,
        (size_t)snprintf(end, sizeof end, "%c%zu ", r ? '?' : rows->delimiter,
                         r ? 0 : rows->first.count));
    if (r == 0)
        r = rows_run(rows, false, &ops, &all, &err);
    if (r < 0)
        all.len = 0; /* how many rows were given out before a fault depends on the parts */
    put(&all, end,
        (size_t)snprintf(end, sizeof end, " %s %s %llu", r ? error_name(r) : "", err.text,
                         r ? 0 : (unsigned long long)rejects.count));
    rows_close(rows);
    return all.text;
}

/* Random texts of the characters that matter. */
START_TEST(test_any_parts) {
    static const char *const pieces[] = {"a",        "bc",   ",", ",",    "\n", "\n",
                                         "\"",       "\"\"", " ", "\t",   "\r", "\r\n",
                                         "\"x\ny\"", "# \"", ";", "\"q\""};
    const char *path = test_path(test_tmpdir(), "text.csv");
    for (uint64_t seed = 0; seed < 400; seed++) {
        char text[512];
        size_t len = 0;
        uint64_t key = rng_key(77, seed), count = 2 + rng_below(rng_at(key, 0), 60);
        for (uint64_t i = 0; i < count; i++) {
            const char *piece = pieces[rng_below(rng_at(key, i + 1), ARRAY_LEN(pieces))];
            memcpy(text + len, piece, strlen(piece));
            len += strlen(piece);
        }
        test_write_file(path, text, len);
        uint64_t allowed = seed % 4;
        char *whole = read_rows(path, 4096, 1, allowed);
        static const size_t part_bytes[] = {1, 2, 3, 7, 19};
        for (size_t i = 0; i < ARRAY_LEN(part_bytes); i++) {
            char *parts = read_rows(path, part_bytes[i], 1 + i % 3, allowed);
            ck_assert_msg(!strcmp(whole, parts), "text \"%.*s\", parts of %zu\n  %s\n  %s",
                          (int)len, text, part_bytes[i], whole, parts);
            free(parts);
        }
        free(whole);
    }
}
END_TEST

/* Comments longer than a part, and a first row longer than one. */
START_TEST(test_long_head) {
    const char *path = test_path(test_tmpdir(), "text.csv");
    static const char text[] = "\xef\xbb\xbf# one \"\n# two,\"\n#\n\"a\nb\",\"c;d\"\ne,f\n";
    test_write_file(path, text, strlen(text));
    for (size_t part_bytes = 1; part_bytes < 40; part_bytes++) {
        char *found = read_rows(path, part_bytes, 2, 0);
        ck_assert_str_eq(found, ",2 4:a\nb|c;d|6:e|f|   0");
        free(found);
    }
}
END_TEST

/* Three million bytes of edges with names, among them one whose line breaks lie across the cut of
 * parts, and a row longer than a part: as many edges and nodes as were written, every name whole.
 */
START_TEST(test_large) {
    const char *dir = test_tmpdir(), *path = test_path(dir, "edges.csv");
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    static char breaks[40000], name[65001];
    for (size_t i = 0; i < sizeof breaks - 1; i++)
        breaks[i] = i % 2 ? '\n' : ','; /* every cut would be wrong */
    memset(name, 'n', sizeof name - 1);
    fprintf(file, "source,target,note\n");
    uint64_t rows = 0, at = 0;
    for (; at < 3000000; rows++)
        if (rows % 1000 == 999)
            at += (uint64_t)fprintf(file, "\"%s\",\"%s%llu\",\n", breaks, breaks,
                                    (unsigned long long)rows);
        else
            at += (uint64_t)fprintf(file, "v%llu,v%llu,\n", (unsigned long long)(rows % 5000),
                                    (unsigned long long)(rows * 7 % 5000));
    fprintf(file, "%s,x,\"", name);
    for (int i = 0; i < 300000; i++)
        fputs("\n\"\"y,", file); /* a megabyte and a half that is not read */
    fprintf(file, "\"\nlast,row,\n");
    ck_assert_int_eq(fclose(file), 0);
    struct import_options options = {.source = path,
                                     .root = test_path(dir, "out"),
                                     .name = "g",
                                     .version = "1.0.0",
                                     .dedup = DEDUP_NONE,
                                     .self_loops = true};
    static struct import_summary summary;
    struct snapshot *s = imports_good(&options, &summary);
    ck_assert_uint_eq(summary.edges_read, rows + 2);
    ck_assert_uint_eq(summary.edges, rows + 2);
    const int64_t *offsets = s->id_offsets.data;
    const char *bytes = s->id_bytes.data;
    uint64_t plain = 0, broken = 0;
    for (uint64_t i = 0; i < s->nodes; i++) {
        const char *id = bytes + offsets[i];
        size_t len = (size_t)(offsets[i + 1] - offsets[i]);
        if (len >= sizeof breaks - 1 && len < sizeof name - 1)
            ck_assert_int_eq(memcmp(id, breaks, sizeof breaks - 1), 0);
        if (len == sizeof name - 1)
            ck_assert_int_eq(memcmp(id, name, len), 0);
        broken += len >= sizeof breaks - 1;
        plain += len < 10;
    }
    ck_assert_uint_eq(plain, 5000 + 3);         /* x, last, row */
    ck_assert_uint_eq(broken, rows / 1000 + 2); /* targets, their source, and the long name */
    snapshot_close(s);
}
END_TEST

/* --skip-bad over several parts: wrong rows at known lines, as many as are allowed and one more. */
START_TEST(test_skip_bad) {
    const char *dir = test_tmpdir(), *path = test_path(dir, "edges.csv");
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    uint64_t wrong = 0;
    for (uint64_t i = 0; i < 300000; i++)
        if (i % 1237 == 1236) {
            fputs(i % 2 ? "only one\n" : ",empty\n", file);
            wrong++;
        } else {
            fprintf(file, "%llu,%llu\n", (unsigned long long)(i * 31 % 10007),
                    (unsigned long long)(i % 9973));
        }
    ck_assert_int_eq(fclose(file), 0);
    struct import_options options = {.source = path,
                                     .root = test_path(dir, "out"),
                                     .name = "g",
                                     .version = "1.0.0",
                                     .dedup = DEDUP_NONE,
                                     .self_loops = true,
                                     .skip_bad = wrong};
    static struct import_summary summary;
    struct snapshot *s = imports_good(&options, &summary);
    ck_assert_uint_eq(summary.rejects.count, wrong);
    ck_assert_uint_eq(summary.edges, 300000 - wrong);
    ck_assert_ptr_nonnull(strstr(summary.rejects.told[0], "edges.csv:1237:1: the source is empty"));
    ck_assert_ptr_nonnull(strstr(summary.rejects.told[1], "edges.csv:2474:9: 1 fields"));
    snapshot_close(s);
    struct error err = {0};
    options.skip_bad--;
    options.version = "1.0.1";
    ck_assert_int_eq(import_run(&options, NULL, NULL, &summary, &err), ERR_FORMAT);
    char wanted[64];
    snprintf(wanted, sizeof wanted, "more than %llu rows are wrong", (unsigned long long)wrong - 1);
    ck_assert_msg(strstr(err.text, wanted) != NULL, "%s", err.text);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("import_parts");
    TCase *tcase = tcase_create("import_parts");
    tcase_set_timeout(tcase, 110);
    tcase_add_test(tcase, test_any_parts);
    tcase_add_test(tcase, test_long_head);
    tcase_add_test(tcase, test_large);
    tcase_add_test(tcase, test_skip_bad);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
