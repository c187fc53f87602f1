/* Imports of what belongs to nodes, as texts: nodes and their types, features, labels, splits. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "tests/test.h"
#include "tests/unit/imports.h"

#define EDGES                                                                                      \
    { "edges.csv", "source,target\na,b\nb,c\n" }

static const struct imports_case nodes[] = {
    {.about = "nodes in their order, some without edges",
     .files = {EDGES, {"nodes.csv", "id\nz\nc\nb\na\n"}},
     .nodes = "z c b a",
     .edges = "b>c a>b"},
    {.about = "integers in their order, which is not ascending",
     .files = {{"edges.csv", "5,3\n"}, {"nodes.csv", "5\n3\n4\n"}},
     .nodes = "5 3 4",
     .edges = "5>3"},
    {.about = "types, among other columns",
     .files = {EDGES, {"nodes.csv", "name;colour;type\na;red;user\nb;red;item\nc;blue;user\n"}},
     .types = "user item user"},
    {.about = "an empty type",
     .files = {EDGES, {"nodes.csv", "id,type\na,user\nb,\nc,x\n"}},
     .code = ERR_FORMAT,
     .message = "nodes.csv:3:3: the type is empty"},
    {.about = "an edge to a node that is not there",
     .files = {EDGES, {"nodes.csv", "id\na\nb\n"}},
     .code = ERR_NOT_FOUND,
     .message = "edges.csv:3:3: target \"c\" is no id in"},
    {.about = "twice the same node",
     .files = {EDGES, {"nodes.csv", "id\na\nb\na\n"}},
     .code = ERR_FORMAT,
     .message = "nodes.csv:4:1: duplicate id \"a\"; node 0"},
    {.about = "files by option, one elsewhere",
     .files = {{"x/links", "a b\n"}, {"y/nodes.list", "id\na\nb\nc\n"}},
     .options = {.edges = "x/links", .nodes = "y/nodes.list"},
     .nodes = "a b c",
     .edges = "a>b"},
};

static const struct imports_case features[] = {
    {.about = "numbers in every spelling",
     .files = {{"edges.csv", "a,b\n"}, {"features.csv", "id,x,y\na, 1e-3 ,-0.5\nb,+2,\"3\"\n"}},
     .features = "0.001,-0.5;2,3"},
    {.about = "16 bits: the nearest, subnormal and largest numbers",
     .files = {{"edges.csv", "a,b\n"}, {"features.csv", "id,x,y\na,0.1,65504\nb,-65504,6e-8\n"}},
     .options = {.half = true},
     .features = "0.0999756,65504;-65504,5.96046e-08"},
    {.about = "16 bits: too large",
     .files = {{"edges.csv", "a,b\n"}, {"features.csv", "id,x,y\na,1,2\nb,1,-65505\n"}},
     .options = {.half = true},
     .code = ERR_RANGE,
     .message = "features.csv:3:5: feature 1 is -65505; 16 bits hold numbers up to 65504"},
    {.about = "16 bits of nothing",
     .files = {EDGES},
     .options = {.half = true},
     .features = "",
     .remark = "--fp16 has changed nothing"},
    {.about = "labels and splits without features",
     .files = {EDGES, {"labels.csv", "id,label\nb,3\n"}, {"train.csv", "id\nb\n"}},
     .features = "",
     .labels = "- 3 -",
     .splits = ".t."},
};

static const struct imports_case labels[] = {
    {.about = "integers, 1.0 among them; missing in every spelling",
     .files = {{"edges.csv", "a,b\nc,d\ne,f\n"},
               {"labels.csv", "id,label\na,2\nb,1.0\nc,nan\nd,-1\ne,\n"}},
     .labels = "2 1 - - - -"},
    {.about = "words, sorted, without a header; one of them an integer",
     .files = {{"edges.csv", "a,b\nc,d\n"}, {"labels.csv", "a,web\nb,7\nd,admin\n"}},
     .labels = "web 7 - admin"},
    {.about = "several words a row, and the same node again",
     .files = {{"edges.csv", "a,b\nc,d\n"}, {"labels.csv", "id,label\na,x,y\nb,y\nb,z\nb,y\nc,\n"}},
     .options = {.multi_label = true},
     .labels = "x+y y+z none -"},
    {.about = "several integers",
     .files = {{"edges.csv", "a,b\n"}, {"labels.csv", "id,label\na,3,0\nb,1\n"}},
     .options = {.multi_label = true},
     .labels = "0+3 1"},
    {.about = "several, but none anywhere",
     .files = {{"edges.csv", "a,b\n"}, {"labels.csv", "id,label\na,\nb,nan\n"}},
     .options = {.multi_label = true},
     .labels = "- -"},
    {.about = "several, but no file of labels",
     .files = {{"edges.csv", "a,b\n"}},
     .options = {.multi_label = true},
     .remark = "--multi-label has changed nothing"},
    {.about = "two in a row, unasked",
     .files = {{"edges.csv", "a,b\n"}, {"labels.csv", "id,label\na,3,0\nb,1\n"}},
     .code = ERR_FORMAT,
     .message = "labels.csv:2:5: 3 fields where there should be 2"},
    {.about = "a node twice, unasked",
     .files = {{"edges.csv", "a,b\n"}, {"labels.csv", "id,label\na,3\na,3\n"}},
     .code = ERR_FORMAT,
     .message = "labels.csv:3:1: node \"a\" has a label already"},
};

static const struct imports_case targets[] = {
    {.about = "a number a node, missing in every spelling; a file that names no new node",
     .files = {{"edges.csv", "a,b\nc,d\n"},
               {"features.csv", "id,x\na,1\nb,2\nc,3\nd,4\n"},
               {"targets.csv", "id,y\nb,-1\na,0.25\nc,nan\nd,\n"}},
     .labels = "0.25 -1 - -"},
    {.about = "several, one of them missing; nodes numbered as they come",
     .files = {{"edges.csv", "5,3\n"}, {"t.txt", "id x y\n3 1 2e3\n5 -4 nan\n"}},
     .options = {.targets = "t.txt"},
     .nodes = "3 5",
     .labels = "1/2000 -"},
    {.about = "a ratio of those that have them",
     .files = {{"edges.csv", "a,b\n"}, {"targets.csv", "a,0\nb,\n"}},
     .options = {.ratio = {1, 0, 0}},
     .labels = "0 -",
     .splits = "t."},
    {.about = "a word",
     .files = {{"edges.csv", "a,b\n"}, {"targets.csv", "id,y\na,1\nb,high\n"}},
     .code = ERR_FORMAT,
     .message = "targets.csv:3:3: \"high\" is not a number"},
    {.about = "an infinite one",
     .files = {{"edges.csv", "a,b\n"}, {"targets.csv", "id,y\na,1e39\n"}},
     .code = ERR_NOT_FINITE,
     .message = "target 0 of node \"a\" is infinite"},
    {.about = "an infinite one, in which column",
     .files = {{"edges.csv", "a,b\n"}, {"targets.csv", "id,x,y\nb,1,2\na,1,-inf\n"}},
     .code = ERR_NOT_FINITE,
     .message = "targets.csv:3:5: target 1 of node \"a\" is infinite"},
    {.about = "a node twice",
     .files = {{"edges.csv", "a,b\n"}, {"targets.csv", "id,y\na,1\na,2\n"}},
     .code = ERR_FORMAT,
     .message = "targets.csv:3:1: node \"a\" has targets already"},
    {.about = "ids alone",
     .files = {{"edges.csv", "a,b\n"}, {"targets.csv", "a\nb\n"}},
     .code = ERR_FORMAT,
     .message = "its rows should be a node's id and the values"},
    {.about = "labels too",
     .files = {{"edges.csv", "a,b\n"}, {"targets.csv", "a,1\n"}, {"labels.csv", "a,1\n"}},
     .code = ERR_USAGE,
     .message = "nodes have labels or targets"},
    {.about = "several labels",
     .files = {{"edges.csv", "a,b\n"}, {"targets.csv", "a,1\n"}},
     .options = {.multi_label = true},
     .code = ERR_USAGE,
     .message = "--multi-label is for labels"},
};

#define FOUR                                                                                       \
    {"edges.csv", "a,b\nc,d\n"}, {                                                                 \
        "labels.csv", "a,0\nb,0\nc,1\nd,1\n"                                                       \
    }
static const struct imports_case splits[] = {
    {.about = "a column of them, in every spelling",
     .files = {FOUR, {"split.csv", "id,split\na,Train\nb,val\nc,TEST\nd,none\n"}},
     .splits = "tvx."},
    {.about = "a column without a header, an empty field",
     .files = {FOUR, {"split.csv", "d,validation\nb,\n"}},
     .splits = "...v"},
    {.about = "an unknown one",
     .files = {FOUR, {"split.csv", "id,split\na,learn\n"}},
     .code = ERR_RANGE,
     .message = "split.csv:2:3: \"learn\" is no split"},
    {.about = "files under other usual names",
     .files = {FOUR, {"train_mask.csv", "a\n"}, {"val.csv", "b\n"}, {"test_mask.txt", "c\n"}},
     .splits = "tvx."},
    {.about = "files by option",
     .files = {FOUR, {"x", "a\n"}, {"y", "b\n"}, {"z", "c\n"}},
     .options = {.train = "x", .valid = "y", .test = "z"},
     .splits = "tvx."},
    {.about = "a ratio beside files",
     .files = {FOUR, {"train.csv", "a\n"}},
     .options = {.ratio = {0.5, 0.5, 0}},
     .code = ERR_USAGE,
     .message = "--split-ratio, and"},
    {.about = "a ratio without labels",
     .files = {{"edges.csv", "a,b\n"}},
     .options = {.ratio = {0.5, 0.5, 0}},
     .code = ERR_USAGE,
     .message = "none has"},
    {.about = "a ratio beyond 1",
     .files = {FOUR},
     .options = {.ratio = {0.5, 0.5, 0.1}},
     .code = ERR_USAGE,
     .message = "at most 1 together"},
};

#define CASES(list)                                                                                \
    START_TEST(test_##list) {                                                                      \
        imports_check(&list[_i]);                                                                  \
    }                                                                                              \
    END_TEST

CASES(nodes)
CASES(features)
CASES(labels)
CASES(targets)
CASES(splits)

/* More than 256 types of nodes have no room in a byte. */
START_TEST(test_many_types) {
    for (int types = 256; types <= 257; types++) {
        char text[8192], *end = text + sprintf(text, "id,type\n");
        for (int i = 0; i < types; i++)
            end += sprintf(end, "%d,t%d\n", i, i);
        const struct imports_file files[] = {{"nodes.csv", text}, {"edges.csv", "0,1\n"}};
        const char *dir = test_tmpdir();
        imports_write(dir, files, 2);
        struct import_options options = {
            .source = dir, .root = test_tmpdir(), .name = "g", .version = "1.0.0"};
        static struct import_summary summary;
        struct error err = {0};
        int r = import_run(&options, NULL, NULL, &summary, &err);
        if (types == 256) {
            ck_assert_msg(r == 0, "%s", err.text);
            ck_assert_uint_eq(summary.node_types, 256);
        } else {
            ck_assert_int_eq(r, ERR_RANGE);
            ck_assert_ptr_nonnull(strstr(err.text, "nodes.csv:258: more than 256 types"));
        }
    }
}
END_TEST

/* A split at random has the counts that were asked for, each node once, and is the same for a seed
 * and another for another. */
START_TEST(test_ratio) {
    static const struct {
        double ratio[3];
        uint64_t counts[3];
    } wanted[] = {{{0.6, 0.2, 0.2}, {600, 200, 200}},
                  {{0.1, 0, 0}, {100, 0, 0}},
                  {{0.3333, 0.3333, 0.3334}, {333, 334, 333}},
                  {{1, 0, 0}, {1000, 0, 0}}};
    char *text = malloc(64000), *end = text + sprintf(text, "id,label\n");
    for (int i = 0; i < 1010; i++) /* ten of them without a label */
        end += sprintf(end, i % 101 ? "%d,%d\n" : "%d,\n", i, i % 3);
    const struct imports_file files[] = {{"labels.csv", text}, {"edges.csv", "0,1\n"}};
    const char *dir = test_tmpdir();
    imports_write(dir, files, 2);
    free(text);
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        char *found[3];
        for (int run = 0; run < 3; run++) {
            struct import_options options = {.source = dir,
                                             .root = test_path(dir, "out"),
                                             .name = "g",
                                             .version = "1.0.0",
                                             .overwrite = true,
                                             .split_seed = run == 2 ? 8 : 7};
            memcpy(options.ratio, wanted[i].ratio, sizeof options.ratio);
            static struct import_summary summary;
            struct snapshot *s = imports_good(&options, &summary);
            ck_assert_uint_eq(summary.train, wanted[i].counts[0]);
            ck_assert_uint_eq(summary.valid, wanted[i].counts[1]);
            ck_assert_uint_eq(summary.test, wanted[i].counts[2]);
            found[run] = imports_splits(s);
            for (uint64_t n = 0; n < s->nodes; n++)
                ck_assert(((const int32_t *)s->labels.data)[n] >= 0 || found[run][n] == '.');
            snapshot_close(s);
        }
        ck_assert_str_eq(found[0], found[1]);
        ck_assert(wanted[i].ratio[0] == 1 || strcmp(found[0], found[2]) != 0);
        for (int run = 0; run < 3; run++)
            free(found[run]);
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("import_nodes");
    TCase *tcase = tcase_create("import_nodes");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_nodes, 0, ARRAY_LEN(nodes));
    tcase_add_loop_test(tcase, test_features, 0, ARRAY_LEN(features));
    tcase_add_loop_test(tcase, test_labels, 0, ARRAY_LEN(labels));
    tcase_add_loop_test(tcase, test_targets, 0, ARRAY_LEN(targets));
    tcase_add_loop_test(tcase, test_splits, 0, ARRAY_LEN(splits));
    tcase_add_test(tcase, test_many_types);
    tcase_add_test(tcase, test_ratio);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
