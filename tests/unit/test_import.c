/* Imports: the same graph from three formats, ids and classes as words, every kind of wrong input
 * with the place and cause it is told with, and nothing left behind. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "common/mem.h"
#include "tests/test.h"
#include "worker/graph/claim.h"
#include "worker/graph/import.h"
#include "worker/graph/snapshot.h"
#include "worker/graph/text.h"

/* A file of a source directory; text NULL: there is none. */
struct source_file {
    const char *name, *text;
};

#define FILES_MAX 12

/* The graph of these tests: 6 nodes; edges with a self-loop (4-4) and a repeat (0-1), one split
 * each way; node 5 has no label. */
static const struct source_file csv_files[] = {
    {"features.csv", "id,x,y\n0,1,0\n1,0.5,2\n2,3,-1e-3\n3,0,0\n4,7,8\n5,1,1\n"},
    {"labels.csv", "id,label\n0,2\n1,0\n2,2\n3,1\n4,0\n5,\n"},
    {"train.csv", "id\n0\n1\n"},
    {"valid.csv", "id\n2\n"},
    {"test.csv", "id\n3\n4\n"},
    {"edges.csv", "source,target\n0,1\n1,2\n0,1\n4,4\n3,0\n5,2\n"},
};
static const struct source_file ogb_files[] = {
    {"raw/num-node-list.csv", "6\n"},
    {"raw/num-edge-list.csv", "6\n"},
    {"raw/node-feat.csv", "1,0\n0.5,2\n3,-1e-3\n0,0\n7,8\n1,1\n"},
    {"raw/node-label.csv", "2.0\n0.0\n2.0\n1.0\n0.0\nnan\n"},
    {"split/scheme/train.csv", "0\n1\n"},
    {"split/scheme/valid.csv", "2\n"},
    {"split/scheme/test.csv", "3\n4\n"},
    {"raw/edge.csv", "0,1\n1,2\n0,1\n4,4\n3,0\n5,2\n"},
};

static void write_gz(const char *path, const char *text) {
    gzFile gz = gzopen(path, "wb");
    ck_assert_ptr_nonnull(gz);
    ck_assert_int_eq(gzwrite(gz, text, (unsigned)strlen(text)), (int)strlen(text));
    ck_assert_int_eq(gzclose(gz), Z_OK);
}

/* A fresh directory with the files, one of them replaced or added by change (may be NULL). */
static const char *make_source(const struct source_file *files, size_t count,
                               const struct source_file *change, bool gz) {
    const char *dir = test_tmpdir();
    ck_assert_int_eq(dir_make(test_path(dir, "raw"), NULL), 0);
    ck_assert_int_eq(dir_make(test_path(dir, "split/scheme"), NULL), 0);
    for (size_t i = 0; i <= count; i++) {
        const struct source_file *file = i < count ? &files[i] : change;
        if (!file || (i < count && change && !strcmp(change->name, file->name)) || !file->text)
            continue;
        char name[64];
        snprintf(name, sizeof name, "%s%s", file->name, gz ? ".gz" : "");
        if (gz)
            write_gz(test_path(dir, name), file->text);
        else
            test_write_file(test_path(dir, name), file->text, strlen(file->text));
    }
    return dir;
}

static const char *make_npy(void) {
    static const float features[] = {1, 0, 0.5, 2, 3, -1e-3f, 0, 0, 7, 8, 1, 1};
    static const double labels[] = {2, 0, 2, 1, 0, NAN};
    static const int32_t edges[] = {0, 1, 1, 2, 0, 1, 4, 4, 3, 0, 5, 2};
    static const int64_t train[] = {1, 0}, valid[] = {2}, tests[] = {4, 3};
    const char *dir = test_tmpdir();
    ck_assert_int_eq(npy_write(test_path(dir, "features.npy"), NPY_F4, 6, 2, features, NULL), 0);
    ck_assert_int_eq(npy_write(test_path(dir, "labels.npy"), NPY_F8, 6, 0, labels, NULL), 0);
    ck_assert_int_eq(npy_write(test_path(dir, "edges.npy"), NPY_I4, 6, 2, edges, NULL), 0);
    ck_assert_int_eq(npy_write(test_path(dir, "train.npy"), NPY_I8, 2, 0, train, NULL), 0);
    ck_assert_int_eq(npy_write(test_path(dir, "valid.npy"), NPY_I8, 1, 0, valid, NULL), 0);
    ck_assert_int_eq(npy_write(test_path(dir, "test.npy"), NPY_I8, 2, 0, tests, NULL), 0);
    return dir;
}

static int run_import(enum import_format format, const char *source, const char *root,
                      struct import_summary *ret, struct error *err) {
    const struct import_options options = {
        .format = format, .source = source, .root = root, .name = "g", .version = "1.0.0"};
    return import_run(&options, NULL, NULL, ret, err);
}

static struct snapshot *import_good(enum import_format format, const char *source) {
    struct import_summary summary;
    struct snapshot *snapshot = NULL;
    struct error err = {0};
    ck_assert_msg(run_import(format, source, test_tmpdir(), &summary, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(summary.edges_read, 6);
    ck_assert_uint_eq(summary.self_loops, 1);
    ck_assert_uint_eq(summary.repeats, 1);
    ck_assert_uint_eq(summary.unlabelled, 1);
    ck_assert(!summary.symmetric);
    ck_assert_msg(snapshot_open(summary.dir, true, &snapshot, &err) == 0, "%s", err.text);
    return snapshot;
}

/* The three formats (csv also gzipped, npy also as [2, m]) give the same bytes on disk. */
START_TEST(test_formats_agree) {
    const char *npy = make_npy();
    struct snapshot *snapshots[] = {
        import_good(IMPORT_CSV, make_source(csv_files, ARRAY_LEN(csv_files), NULL, false)),
        import_good(IMPORT_CSV, make_source(csv_files, ARRAY_LEN(csv_files), NULL, true)),
        import_good(IMPORT_OGB, make_source(ogb_files, ARRAY_LEN(ogb_files), NULL, true)),
        import_good(IMPORT_NPY, npy),
    };
    static const int64_t indptr[] = {0, 1, 2, 4, 4, 4, 4};
    static const int32_t indices[] = {3, 0, 1, 5}, labels[] = {2, 0, 2, 1, 0, -1};
    static const float features[] = {1, 0, 0.5, 2, 3, -1e-3f, 0, 0, 7, 8, 1, 1};
    static const uint8_t split[] = {1, 1, 2, 3, 3, 0};
    for (size_t i = 0; i < ARRAY_LEN(snapshots); i++) {
        struct snapshot *s = snapshots[i];
        ck_assert_uint_eq(s->nodes, 6);
        ck_assert_uint_eq(s->edges, 4);
        ck_assert_uint_eq(s->feature_dim, 2);
        ck_assert_uint_eq(s->classes, 3);
        ck_assert_mem_eq(s->indptr.data, indptr, sizeof indptr);
        ck_assert_mem_eq(s->indices.data, indices, sizeof indices);
        ck_assert_mem_eq(s->features.data, features, sizeof features);
        ck_assert_mem_eq(s->labels.data, labels, sizeof labels);
        ck_assert_mem_eq(s->split.data, split, sizeof split);
        ck_assert_ptr_null(s->id_offsets.data); /* "0", "1", ... say nothing */
        ck_assert_ptr_null(s->class_names);
        ck_assert_str_eq(s->digest, snapshots[0]->digest);
    }
    for (size_t i = 0; i < ARRAY_LEN(snapshots); i++)
        snapshot_close(snapshots[i]);

    static const int16_t columns[] = {0, 1, 0, 4, 3, 5, 1, 2, 1, 4, 0, 2};
    static const uint8_t split_column[] = {1, 1, 2, 3, 3, 0};
    ck_assert_int_eq(remove(test_path(npy, "edges.npy")), 0);
    ck_assert_int_eq(remove(test_path(npy, "train.npy")), 0);
    ck_assert_int_eq(remove(test_path(npy, "valid.npy")), 0);
    ck_assert_int_eq(remove(test_path(npy, "test.npy")), 0);
    ck_assert_int_eq(npy_write(test_path(npy, "edge_index.npy"), NPY_I2, 2, 6, columns, NULL), 0);
    ck_assert_int_eq(npy_write(test_path(npy, "split.npy"), NPY_U1, 6, 0, split_column, NULL), 0);
    struct snapshot *s = import_good(IMPORT_NPY, npy);
    ck_assert_mem_eq(s->indices.data, indices, sizeof indices);
    ck_assert_mem_eq(s->split.data, split, sizeof split);
    snapshot_close(s);
}
END_TEST

/* --undirected adds what is missing and nothing twice. */
START_TEST(test_undirected) {
    struct import_options options = {.format = IMPORT_CSV,
                                     .source =
                                         make_source(csv_files, ARRAY_LEN(csv_files), NULL, false),
                                     .root = test_tmpdir(),
                                     .name = "g",
                                     .version = "1.0.0",
                                     .undirected = true};
    struct import_summary summary;
    struct snapshot *s = NULL;
    struct error err = {0};
    ck_assert_msg(import_run(&options, NULL, NULL, &summary, &err) == 0, "%s", err.text);
    ck_assert(summary.symmetric);
    ck_assert_uint_eq(summary.edges, 8);
    ck_assert_int_eq(snapshot_open(summary.dir, true, &s, &err), 0);
    static const int64_t indptr[] = {0, 2, 4, 6, 7, 7, 8};
    static const int32_t indices[] = {1, 3, 0, 2, 1, 5, 0, 2};
    ck_assert(s->undirected);
    ck_assert_mem_eq(s->indptr.data, indptr, sizeof indptr);
    ck_assert_mem_eq(s->indices.data, indices, sizeof indices);
    snapshot_close(s);
}
END_TEST

/* G11: ids are any text, quoted where they need it, and come out as they went in; classes given as
 * words are numbered in sorted order. */
START_TEST(test_words) {
    static const struct source_file files[] = {
        {"features.csv",
         "\xef\xbb\xbfid,x\r\nlib c,1\r\n\"a,b\",2\r\n\"say \"\"hi\"\"\",3\r\n007,4\r\n"},
        {"labels.csv", "id,label\n007,web\n\"a,b\",admin\nlib c,web\n"},
        {"train.csv", "id\n007\n"},
        {"valid.csv", "id\n\"say \"\"hi\"\"\"\n"},
        {"test.csv", "id\n"},
        {"edges.csv", "source,target\n007,lib c\n\"a,b\" , 007\n\n"},
    };
    static const char *const ids[] = {"lib c", "a,b", "say \"hi\"", "007"};
    static const int32_t labels[] = {1, 0, -1, 1}, indices[] = {3, 1};
    struct import_summary summary;
    struct snapshot *s = NULL;
    struct error err = {0};
    ck_assert_msg(run_import(IMPORT_CSV, make_source(files, ARRAY_LEN(files), NULL, false),
                             test_tmpdir(), &summary, &err) == 0,
                  "%s", err.text);
    ck_assert_int_eq(snapshot_open(summary.dir, true, &s, &err), 0);
    char buf[32];
    for (uint64_t i = 0; i < 4; i++)
        ck_assert_str_eq(snapshot_id(s, i, buf, sizeof buf), ids[i]);
    ck_assert_str_eq(snapshot_id(s, 2, buf, 4), "say");
    ck_assert_mem_eq(s->labels.data, labels, sizeof labels);
    ck_assert_mem_eq(s->indices.data, indices, sizeof indices);
    ck_assert_uint_eq(s->classes, 2);
    ck_assert_str_eq(s->class_names[0], "admin");
    ck_assert_str_eq(s->class_names[1], "web");
    snapshot_close(s);
}
END_TEST

/* One wrong file, and what is said about it. */
struct fault {
    const char *file, *text;
    int code;
    const char *message;
};

static const struct fault csv_faults[] = {
    {"edges.csv", "source,target\n0,1\n0,zz\n", ERR_NOT_FOUND,
     "edges.csv:3:3: target \"zz\" is no id in "},
    {"edges.csv", "source,target\n6,1\n", ERR_NOT_FOUND, "edges.csv:2:1: source \"6\""},
    {"edges.csv", "source;target\n0,1\n", ERR_FORMAT,
     "edges.csv:2:4: 1 fields where the header has 2"},
    {"edges.csv", "0\n1\n", ERR_FORMAT, "edges.csv:1:2: an edge needs two fields"},
    {"edges.csv", "", ERR_FORMAT, "edges.csv:1: there is no edge in it"},
    {"edges.csv", "source,target\n0,1\n0,\n", ERR_FORMAT, "edges.csv:3:3: the target is empty"},
    {"edges.csv", "source,target,weight\n0,1,x\n", ERR_FORMAT,
     "edges.csv:2:5: the weight \"x\" is no finite number"},
    {"edges.csv", "source,target\n0,1\n0,1,2\n", ERR_FORMAT,
     "edges.csv:3:5: 3 fields where the header has 2"},
    {"edges.csv", "source,target\n0\n", ERR_FORMAT, "edges.csv:2:2: 1 fields"},
    {"edges.csv", "source,target\n\"0,1\n", ERR_FORMAT,
     "edges.csv:2:2: a quoted field is not closed"},
    {"edges.csv", "source,target\n0, \"1\" \n0,\"1\"\"\",\"2\"\n", ERR_FORMAT,
     "edges.csv:3:10: 3 fields where the header has 2"},
    {"edges.csv", "source,target,weight\n0,\"1\"\n", ERR_FORMAT,
     "edges.csv:2:6: 2 fields where the header has 3"},
    {"edges.csv", "source,target\n\"0\"x,1\n", ERR_FORMAT,
     "edges.csv:2:4: \"x\" after the closing quote"},
    {"edges.csv", NULL, ERR_NOT_FOUND, "there is no edges.csv"},
    {"edges.csv.gz", "source,target\n", ERR_USAGE, "are there; remove one"},
    {"features.csv", "id,x,y\n0,1,0\n1,2,nan\n", ERR_NOT_FINITE,
     "features.csv:3:5: feature 1 is nan"},
    {"features.csv", "id,x,y\n0,-inf,0\n", ERR_NOT_FINITE,
     "features.csv:2:3: feature 0 is infinite"},
    {"features.csv", "id,x,y\n0,0,1e39\n", ERR_NOT_FINITE, "features.csv:2:5: feature 1"},
    {"features.csv", "id,x,y\n0,1,two\n", ERR_FORMAT,
     "features.csv:2:5: \"two\" in field 3 is not a number"},
    {"features.csv", "id,x,y\n0,1,\n", ERR_FORMAT, "features.csv:2:5: \"\" in field 3"},
    {"features.csv", "id,x,y\n0,1,2\n1,1,2\n\n0,1,2\n", ERR_FORMAT,
     "features.csv:5:1: duplicate id \"0\""},
    {"features.csv", "id,x,y\n,1,2\n", ERR_FORMAT, "features.csv:2:1: the id is empty"},
    {"features.csv", "id,x,y\n", ERR_FORMAT, "features.csv: there are no nodes in it"},
    {"features.csv", "id\n0\n", ERR_RANGE, "features.csv:1: 0 features a node"},
    {"labels.csv", "id,label\n0,1\n1,-2\n", ERR_RANGE, "labels.csv:3:3: label -2 is out of range"},
    {"labels.csv", "id,label\n0,1048576\n", ERR_RANGE,
     "labels.csv:2:3: label 1048576 is out of range"},
    {"labels.csv", "id,label\n9,1\n", ERR_NOT_FOUND, "labels.csv:2:1: id \"9\""},
    {"labels.csv", "id,label\n0,1\n0,1\n", ERR_FORMAT,
     "labels.csv:3:1: node \"0\" has a label already"},
    {"train.csv", "id\n0\n77\n", ERR_NOT_FOUND, "train.csv:3:1: id \"77\" is no id"},
    {"train.csv", "id\n0\n0\n", ERR_FORMAT, "train.csv:3:1: node \"0\" is listed twice"},
    {"valid.csv", "id\n2\n1\n", ERR_FORMAT, "valid.csv:3:1: node \"1\" is in train and in valid"},
    {"split.csv", "id,split\n0,train\n", ERR_USAGE, "are there; remove one"},
};

static const struct fault ogb_faults[] = {
    {"raw/edge.csv", "0,1\n0,6\n", ERR_RANGE,
     "raw/edge.csv:2:3: target 6 is no node; nodes are 0 to 5"},
    {"raw/edge.csv", "0,1\n-1,3\n", ERR_RANGE, "raw/edge.csv:2:1: source -1 is no node"},
    {"raw/edge.csv", "0,1\n0\n", ERR_FORMAT,
     "raw/edge.csv:2:2: 1 fields where the first row has 2"},
    {"raw/edge.csv", "0,1\n0,x\n", ERR_FORMAT,
     "raw/edge.csv:2:3: \"x\" in field 2 is not an integer"},
    {"raw/edge.csv", "0,1\n", ERR_FORMAT, "has 1 rows where num-edge-list says 6"},
    {"raw/node-feat.csv", "1,0\n0,0\n", ERR_FORMAT, "has 2 rows where num-node-list says 6"},
    {"raw/node-feat.csv", "1,0\n0\n", ERR_FORMAT, "raw/node-feat.csv:2:2: 1 fields"},
    {"raw/node-feat.csv", "1,0\n0,inf\n", ERR_NOT_FINITE,
     "raw/node-feat.csv:2:3: feature 1 is infinite"},
    {"raw/node-label.csv", "1\n-2\n", ERR_RANGE, "raw/node-label.csv:2:1: label -2 of node 1"},
    {"raw/node-label.csv", "1\n1.5\n", ERR_FORMAT, "raw/node-label.csv:2:1: \"1.5\""},
    {"raw/node-label.csv", "1,0\n2,1\n", ERR_FORMAT,
     "raw/node-label.csv:2:1: \"2\" in field 1 is not 0 or 1"},
    {"raw/node-label.csv", "1\n1\n1\n1\n1\n1\n1\n", ERR_FORMAT, "raw/node-label.csv:7:"},
    {"raw/num-node-list.csv", "3\n3\n", ERR_FORMAT, "raw/num-node-list.csv:2: a second number"},
    {"raw/num-node-list.csv", "", ERR_FORMAT, "the file is empty"},
    {"split/scheme/train.csv", "0\n6\n", ERR_RANGE, "train.csv:2:1: node 6 does not exist"},
    {"split/scheme/test.csv", "0\n", ERR_FORMAT, "test.csv:1:1: node 0 is in train and in test"},
    {"split/scheme/train.csv", NULL, ERR_NOT_FOUND, "no directory with a train.csv.gz in it"},
};

static void expect_fault(enum import_format format, const char *source, int code,
                         const char *message) {
    struct import_summary summary;
    struct error err = {0};
    const char *root = test_tmpdir();
    int r = run_import(format, source, root, &summary, &err);
    ck_assert_msg(r == code && strstr(err.text, message), "expected %s \"%s\", got %s \"%s\"",
                  error_name(code), message, error_name(r), err.text);
    /* Nothing half-written stays. */
    char **names;
    size_t count;
    ck_assert_int_eq(dir_list(test_path(root, "snapshots"), &names, &count, &err), 0);
    ck_assert_uint_eq(count, 0);
    dir_list_free(names, count);
}

/* Every fault of a csv source is told with file, line and cause. */
START_TEST(test_csv_fault) {
    const struct fault *fault = &csv_faults[_i];
    const struct source_file change = {fault->file, fault->text};
    expect_fault(IMPORT_CSV, make_source(csv_files, ARRAY_LEN(csv_files), &change, false),
                 fault->code, fault->message);
}
END_TEST

/* The same for OGB's layout. */
START_TEST(test_ogb_fault) {
    const struct fault *fault = &ogb_faults[_i];
    const struct source_file change = {fault->file, fault->text};
    expect_fault(IMPORT_OGB, make_source(ogb_files, ARRAY_LEN(ogb_files), &change, false),
                 fault->code, fault->message);
}
END_TEST

/* A set with several splits is refused with their names, until one is chosen. */
START_TEST(test_ogb_splits) {
    const char *source = make_source(ogb_files, ARRAY_LEN(ogb_files), NULL, false);
    ck_assert_int_eq(dir_make(test_path(source, "split/other"), NULL), 0);
    test_write_file(test_path(source, "split/other/train.csv"), "5\n", 2);
    test_write_file(test_path(source, "split/other/valid.csv"), "", 0);
    test_write_file(test_path(source, "split/other/test.csv"), "", 0);
    expect_fault(IMPORT_OGB, source, ERR_USAGE, "choose one with --split: other, scheme");
    struct import_options options = {.format = IMPORT_OGB,
                                     .source = source,
                                     .root = test_tmpdir(),
                                     .name = "g",
                                     .version = "1.0.0",
                                     .split = "nothing"};
    struct import_summary summary;
    struct error err = {0};
    ck_assert_int_eq(import_run(&options, NULL, NULL, &summary, &err), ERR_NOT_FOUND);
    ck_assert_ptr_nonnull(strstr(err.text, "no split \"nothing\"; there is: other, scheme"));
    options.split = "other";
    ck_assert_msg(import_run(&options, NULL, NULL, &summary, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(summary.train, 0); /* node 5 has no label */
}
END_TEST

/* Wrong arrays are told with the row. */
START_TEST(test_npy_fault) {
    static const int32_t edges[] = {0, 1, 1, 6, 0, 1};
    static const float features[] = {1, 0, 0.5, 2, NAN, 1, 0, 0, 7, 8, 1, 1};
    static const int32_t labels[] = {2, 0, -7, 1, 0, 1};
    static const double halves[] = {2, 0, 1, 0.5, 0, 1};
    static const int64_t nodes[] = {0, 6};
    static const uint8_t splits[] = {1, 4, 0, 0, 0, 0};
    const struct {
        const char *file;
        enum npy_type type;
        uint64_t rows, cols;
        const void *items;
        int code;
        const char *message;
    } faults[] = {
        {"edges.npy", NPY_I4, 3, 2, edges, ERR_RANGE, "edges.npy[1]: target 6 is no node"},
        {"edges.npy", NPY_I4, 1, 6, edges, ERR_FORMAT, "has type <i4 and shape [1, 6]"},
        {"edges.npy", NPY_F4, 6, 2, features, ERR_FORMAT, "must be integers"},
        {"features.npy", NPY_F4, 6, 2, features, ERR_NOT_FINITE,
         "features.npy[2]: feature 0 is nan"},
        {"features.npy", NPY_F4, 6, 0, features, ERR_FORMAT, "it must be [nodes, features]"},
        {"labels.npy", NPY_I4, 6, 0, labels, ERR_RANGE, "labels.npy[2]: label -7"},
        {"labels.npy", NPY_F8, 6, 0, halves, ERR_FORMAT, "labels.npy[3]: label 0.5"},
        {"labels.npy", NPY_I4, 5, 0, labels, ERR_FORMAT,
         "it must have one for each of the 6 nodes"},
        {"train.npy", NPY_I8, 2, 0, nodes, ERR_RANGE,
         "train.npy[1]: node 6 is no node; nodes are 0 to 5"},
        {"valid.npy", NPY_I8, 1, 0, nodes, ERR_FORMAT, "valid.npy[0]: node 0 is in train and"},
        {"split.npy", NPY_U1, 6, 0, splits, ERR_USAGE, "split.npy and"},
    };
    const char *dir = make_npy();
    ck_assert_int_eq(npy_write(test_path(dir, faults[_i].file), faults[_i].type, faults[_i].rows,
                               faults[_i].cols, faults[_i].items, NULL),
                     0);
    expect_fault(IMPORT_NPY, dir, faults[_i].code, faults[_i].message);
}
END_TEST

/* A download that broke off, a damaged one, and a file that is no gzip at all are told apart from
 * a graph that is smaller. */
START_TEST(test_gzip_faults) {
    const char *source = make_source(csv_files, ARRAY_LEN(csv_files), NULL, true);
    char *text = malloc(20 * 20000 + 64), *end = text;
    end += sprintf(end, "source,target\n");
    for (int i = 0; i < 20000; i++)
        end += sprintf(end, "%d,%d\n", i * 7919 % 6, i * 104729 % 6);
    const char *edges = test_path(source, "edges.csv.gz");
    write_gz(edges, text);
    free(text);
    size_t len;
    char *bytes = test_read_file(edges, &len);
    test_write_file(edges, bytes, len / 2);
    expect_fault(IMPORT_CSV, source, ERR_FORMAT, "the gzip file ends too early; it is truncated");
    struct import_summary summary;
    struct error err = {0};
    run_import(IMPORT_CSV, source, test_tmpdir(), &summary, &err);
    const char *line = strstr(err.text, "edges.csv.gz:");
    ck_assert_msg(line && atoi(line + strlen("edges.csv.gz:")) > 1000, "%s", err.text);

    test_write_file(edges, bytes, len - 4); /* all the text is there, its length is not */
    expect_fault(IMPORT_CSV, source, ERR_FORMAT, "truncated");
    bytes[len - 6] ^= 1; /* the CRC */
    test_write_file(edges, bytes, len);
    expect_fault(IMPORT_CSV, source, ERR_FORMAT, "damaged");
    test_write_file(edges, "source,target\n0,1\n", 18);
    expect_fault(IMPORT_CSV, source, ERR_FORMAT, "is not a gzip file");
    test_write_file(edges, "", 0);
    expect_fault(IMPORT_CSV, source, ERR_FORMAT, "edges.csv.gz");
    free(bytes);
}
END_TEST

/* An existing version is replaced only on request, and stays when its successor is faulty. */
START_TEST(test_overwrite) {
    const struct source_file more = {"train.csv", "id\n0\n1\n5\n"};
    const struct source_file wrong = {"edges.csv", "source,target\n0,9\n"};
    const char *good = make_source(csv_files, ARRAY_LEN(csv_files), NULL, false);
    const char *better = make_source(csv_files, ARRAY_LEN(csv_files), &more, false);
    const char *bad = make_source(csv_files, ARRAY_LEN(csv_files), &wrong, false);
    const char *root = test_tmpdir();
    struct import_options options = {
        .format = IMPORT_CSV, .source = good, .root = root, .name = "g", .version = "1.0.0"};
    struct import_summary summary;
    struct error err = {0};
    ck_assert_int_eq(import_run(&options, NULL, NULL, &summary, &err), 0);
    ck_assert_int_eq(import_run(&options, NULL, NULL, &summary, &err), ERR_EXISTS);
    options.overwrite = true;
    options.source = bad;
    ck_assert_int_eq(import_run(&options, NULL, NULL, &summary, &err), ERR_NOT_FOUND);
    struct snapshot *s = NULL;
    ck_assert_int_eq(snapshot_open(summary.dir, true, &s, &err), 0);
    ck_assert_int_eq(((const uint8_t *)s->split.data)[5], SPLIT_NONE);
    snapshot_close(s);
    options.source = better;
    ck_assert_msg(import_run(&options, NULL, NULL, &summary, &err) == 0, "%s", err.text);
    ck_assert_int_eq(snapshot_open(summary.dir, true, &s, &err), 0);
    ck_assert_int_eq(((const uint8_t *)s->split.data)[5], SPLIT_TRAIN);
    snapshot_close(s);
    char **names;
    size_t count;
    ck_assert_int_eq(dir_list(test_path(root, "snapshots"), &names, &count, &err), 0);
    ck_assert_uint_eq(count, 1);
    dir_list_free(names, count);

    options.name = "../evil";
    ck_assert_int_eq(import_run(&options, NULL, NULL, &summary, &err), ERR_USAGE);
    options.name = "g";
    options.version = "1.0";
    ck_assert_int_eq(import_run(&options, NULL, NULL, &summary, &err), ERR_USAGE);
    ck_assert_ptr_nonnull(strstr(err.text, "MAJOR.MINOR.PATCH"));
}
END_TEST

/* Another process has finished the same snapshot while this import was under way. */
static void made_meanwhile(void *dir, const char *what, uint64_t done, uint64_t total,
                           uint64_t rows) {
    (void)what, (void)done, (void)total, (void)rows;
    ck_assert_int_eq(dir_make(dir, NULL), 0);
}

/* A snapshot never changes: neither one that another import has made since this one began, nor one
 * that is in use. */
START_TEST(test_immutable) {
    const char *root = test_tmpdir(), *dir = test_path(root, "snapshots/g@1.0.0");
    struct import_options options = {.format = IMPORT_CSV,
                                     .source =
                                         make_source(csv_files, ARRAY_LEN(csv_files), NULL, false),
                                     .root = root,
                                     .name = "g",
                                     .version = "1.0.0"};
    struct import_summary summary;
    struct error err = {0};
    ck_assert_int_eq(import_run(&options, made_meanwhile, (void *)(uintptr_t)dir, &summary, &err),
                     ERR_EXISTS);
    ck_assert_ptr_nonnull(strstr(err.text, "another process has made it meanwhile"));
    ck_assert_int_eq(rmdir(dir), 0); /* it is empty, as it was made */
    ck_assert_msg(import_run(&options, NULL, NULL, &summary, &err) == 0, "%s", err.text);

    int claim;
    ck_assert_int_eq(claim_take(dir, &claim, &err), 0);
    options.overwrite = true;
    ck_assert_int_eq(import_run(&options, NULL, NULL, &summary, &err), ERR_IN_USE);
    char **names;
    size_t count;
    ck_assert_int_eq(dir_list(test_path(root, "snapshots"), &names, &count, &err), 0);
    ck_assert_uint_eq(count, 1);
    dir_list_free(names, count);
    close(claim);
    ck_assert_msg(import_run(&options, NULL, NULL, &summary, &err) == 0, "%s", err.text);
}
END_TEST

/* The published set: its counts are the published ones. */
START_TEST(test_cora) {
    const char *data = test_data_dir("test_cora");
    if (!data)
        return;
    struct import_options options = {.format = IMPORT_OGB,
                                     .source = test_path(data, "cora"),
                                     .root = test_tmpdir(),
                                     .name = "cora",
                                     .version = "1.0.0",
                                     .split = "planetoid_public",
                                     .undirected = true};
    struct import_summary summary;
    struct error err = {0};
    ck_assert_msg(import_run(&options, NULL, NULL, &summary, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(summary.nodes, 2708);
    ck_assert_uint_eq(summary.edges, 10556);
    ck_assert_uint_eq(summary.feature_dim, 1433);
    ck_assert_uint_eq(summary.classes, 7);
    ck_assert_uint_eq(summary.train, 140);
    ck_assert_uint_eq(summary.valid, 500);
    ck_assert_uint_eq(summary.test, 1000);
    ck_assert(summary.symmetric);
}
END_TEST

/* What follows the end of a gzip file or an array is left out, and said once, even of the edges,
 * which are read twice; zeros there are padding, and another member belongs to it. */
START_TEST(test_remarks) {
    struct import_summary summary;
    struct error err = {0};
    const char *source = make_source(csv_files, ARRAY_LEN(csv_files), NULL, true);
    const char *edges = test_path(source, "edges.csv.gz"), *root = test_tmpdir();
    size_t len, more_len;
    write_gz(edges, "0,1\n");
    char *more = test_read_file(edges, &more_len);
    write_gz(edges, "source,target\n1,2\n");
    char *bytes = test_read_file(edges, &len), all[400] = "";
    ck_assert_uint_lt(len + more_len + 64, sizeof all);
    memcpy(all, bytes, len);
    memcpy(all + len, more, more_len);
    test_write_file(edges, all, len + more_len + 64);
    ck_assert_msg(run_import(IMPORT_CSV, source, root, &summary, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(summary.edges, 2);
    ck_assert_str_eq(summary.remarks, "");

    memcpy(all + len, "junk", 4);
    test_write_file(edges, all, len + 4);
    ck_assert_msg(run_import(IMPORT_CSV, source, test_tmpdir(), &summary, &err) == 0, "%s",
                  err.text);
    ck_assert_uint_eq(summary.edges, 1);
    const char *said = strstr(summary.remarks, "edges.csv.gz: something follows the end");
    ck_assert_msg(said && strchr(said, '\n')[1] == 0, "%s", summary.remarks);
    free(bytes);
    free(more);

    const char *npy = make_npy(), *labels = test_path(npy, "labels.npy");
    bytes = test_read_file(labels, &len);
    bytes = realloc(bytes, len + 8);
    test_write_file(labels, bytes, len + 8);
    free(bytes);
    ck_assert_msg(run_import(IMPORT_NPY, npy, test_tmpdir(), &summary, &err) == 0, "%s", err.text);
    ck_assert_ptr_nonnull(strstr(summary.remarks, "labels.npy: something follows the end"));
}
END_TEST

/* A text of the user's reaches no terminal as it is. */
START_TEST(test_printable) {
    char buf[64], small[8];
    ck_assert_str_eq(text_printable("a\tb\n\x1b[31m \xc3\xa4 \xc2\x9b\x7f", buf, sizeof buf),
                     "a\\x09b\\n\\x1b[31m \xc3\xa4 \\x9b\\x7f");
    ck_assert_str_eq(text_printable("\x1b\x1b\x1b", small, sizeof small), "\\x1b");
    const struct source_file change = {"train.csv", "id\n\x1b[2J\n"};
    expect_fault(IMPORT_CSV, make_source(csv_files, ARRAY_LEN(csv_files), &change, false),
                 ERR_NOT_FOUND, "\"\\x1b[2J\" is no id");
}
END_TEST

int main(void) {
    Suite *suite = suite_create("import");
    TCase *tcase = tcase_create("import");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, test_formats_agree);
    tcase_add_test(tcase, test_undirected);
    tcase_add_test(tcase, test_words);
    tcase_add_loop_test(tcase, test_csv_fault, 0, ARRAY_LEN(csv_faults));
    tcase_add_loop_test(tcase, test_ogb_fault, 0, ARRAY_LEN(ogb_faults));
    tcase_add_loop_test(tcase, test_npy_fault, 0, 11);
    tcase_add_test(tcase, test_ogb_splits);
    tcase_add_test(tcase, test_gzip_faults);
    tcase_add_test(tcase, test_remarks);
    tcase_add_test(tcase, test_printable);
    tcase_add_test(tcase, test_overwrite);
    tcase_add_test(tcase, test_immutable);
    tcase_add_test(tcase, test_cora);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
