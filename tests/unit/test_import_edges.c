/* Imports of edges as texts: how rows are cut, which columns are what, ids of every kind, repeats,
 * self-loops, inverses, two kinds of nodes, edges set aside, rows that are left out. */
#include <string.h>
#include <sys/stat.h>

#include "common/mem.h"
#include "tests/test.h"
#include "tests/unit/imports.h"

#define EDGES(text)                                                                                \
    {                                                                                              \
        { "edges.csv", text }                                                                      \
    }

static const struct imports_case forms[] = {
    {.about = "no header, commas",
     .files = EDGES("0,1\n1,2\n"),
     .nodes = "0 1 2",
     .edges = "0>1 1>2"},
    {.about = "header, no final newline",
     .files = EDGES("source,target\na,b\nb,c"),
     .nodes = "a b c",
     .edges = "a>b b>c"},
    {.about = "SNAP: comments, tabs, a header in a comment",
     .files = {{"edges.txt", "# Directed graph\n# FromNodeId\tToNodeId\n0\t1\n1\t2\n"}},
     .edges = "0>1 1>2"},
    {.about = "comments with % (KONECT), any blanks, some at the ends",
     .files = {{"edges.txt", "% sym\n%\n 0   1 \n1\t 2\n\n  2 0\r\n"}},
     .edges = "2>0 0>1 1>2"},
    {.about = "a comment's quotes and delimiters say nothing",
     .files = {{"edges.txt", "# \"x;y,z\n# it's\n0 1\n"}},
     .edges = "0>1"},
    {.about = "semicolons", .files = EDGES("source;target\na,x;b\n"), .edges = "a,x>b"},
    {.about = "byte order mark before a header, CRLF, spaces around fields",
     .files = EDGES("\xef\xbb\xbfsource,target\r\n a ,\tb\r\nb, c d\r\n"),
     .nodes = "a b c d",
     .edges = "a>b b>c d"},
    {.about = "byte order mark before a comment",
     .files = EDGES("\xef\xbb\xbf# x\n0,1\n"),
     .edges = "0>1"},
    {.about = "quoted ids with line breaks, delimiters, quotes, spaces that stay",
     .files = EDGES("source,target\n\"a\nb\",\"c,d\"\n\"say \"\"x\"\"\",\" y \"\r\n"),
     .nodes = "a\nb c,d say \"x\"  y ",
     .edges = "a\nb>c,d say \"x\"> y "},
    {.about = "# is a comment at the head only",
     .files = EDGES("# x\n0,1\n#2,1\n"),
     .edges = "0>1 #2>1"},
    {.about = "a tab told, though commas are in ids",
     .files = EDGES("a,1\tb,2\n"),
     .options = {.delimiter = '\t'},
     .edges = "a,1>b,2"},
    {.about = "a pipe told",
     .files = EDGES("a b|c\n"),
     .options = {.delimiter = '|'},
     .edges = "a b>c"},
    {.about = "gzip without .gz in the name is the reader's business",
     .files = {{"edges.csv.gz", "source,target\n0,1\n"}},
     .edges = "0>1"},
    {.about = "the file alone",
     .files = {{"links.tsv", "a\tb\n"}},
     .options = {.source = "links.tsv"},
     .edges = "a>b"},
    {.about = "the file alone, and another",
     .files = {{"links.tsv", "a\tb\n"}, {"edges.csv", "a,b\n"}},
     .options = {.source = "links.tsv", .edges = "edges.csv"},
     .code = ERR_USAGE,
     .message = "links.tsv is a file of edges, and --edges names one too"},
    {.about = "a text where arrays are asked for",
     .files = EDGES("a,b\n"),
     .options = {.edges = "edges.csv", .format = IMPORT_NPY},
     .code = ERR_USAGE,
     .message = "edges.csv: is no file of the kind that --format names"},
    {.about = "a text where a matrix is asked for",
     .files = EDGES("a,b\n"),
     .options = {.source = "edges.csv", .format = IMPORT_MTX},
     .code = ERR_USAGE,
     .message = "edges.csv: is no file of the kind that --format names"},
    {.about = "header asked for",
     .files = EDGES("one,two\na,b\n"),
     .options = {.header = HEADER_YES},
     .edges = "a>b"},
    {.about = "no header, though it looks like one",
     .files = EDGES("u,v\na,b\n"),
     .options = {.header = HEADER_NO},
     .edges = "u>v a>b"},
    {.about = "words above integers",
     .files = EDGES("paper_a,paper_b\n7,3\n3,9\n"),
     .code = ERR_FORMAT,
     .message = "edges.csv:1: \"paper_a\" and \"paper_b\" look like a header"},
    {.about = "words above integers are nodes, if one says so",
     .files = EDGES("a,b\n7,3\n"),
     .options = {.header = HEADER_NO},
     .edges = "a>b 7>3"},
    {.about = "one word above integers", .files = EDGES("a,7\n7,3\n"), .edges = "a>7 7>3"},
    {.about = "a quoted field that is open in the first row",
     .files = EDGES("\"a,b\n1,2\n"),
     .code = ERR_FORMAT,
     .message = "edges.csv:1:2: a quoted field is not closed"},
    {.about = "a zero byte (UTF-16) in the first row", /* written as a text it ends there */
     .files = EDGES("\xff\xfe"),
     .code = ERR_FORMAT,
     .message = "edges.csv:1:3: an edge needs two fields"},
    {.about = "carriage returns alone",
     .files = EDGES("source,target\r1,2\r2,3\r"),
     .code = ERR_FORMAT,
     .message = "edges.csv:1: lines end with a carriage return alone"},
    {.about = "two carriage returns", .files = EDGES("1,2\r\r\n2,3\r\r\n"), .edges = "1>2 2>3"},
    {.about = "empty lines among comments",
     .files = EDGES("\n# x\n \r\n# y\n0,1\n"),
     .edges = "0>1"},
    {.about = "comments only",
     .files = EDGES("# a\n# b\n"),
     .code = ERR_FORMAT,
     .message = "there is no edge in it"},
    {.about = "held out and given too",
     .files = {{"edges.csv", "0,1\n"}, {"test_edges.csv", "1,0\n"}},
     .options = {.hold_out = {0, 0.5}},
     .code = ERR_USAGE,
     .message = "test_edges.csv too: give one of them"},
    {.about = "all held out",
     .files = EDGES("0,1\n"),
     .options = {.hold_out = {0.5, 0.5}},
     .code = ERR_USAGE,
     .message = "--hold-out: shares are 0 or more, and less than 1 together"},
    {.about = "header only",
     .files = EDGES("source,target\n"),
     .code = ERR_FORMAT,
     .message = "there are no nodes"},
    {.about = "header only, with nodes",
     .files = {{"edges.csv", "source,target\n"}, {"nodes.csv", "id\nx\ny\n"}},
     .nodes = "x y",
     .edges = ""},
};

static const struct imports_case columns[] = {
    {.about = "by name, in another order",
     .files = EDGES("when,b,a,w,k\n9,y,x,0.5,likes\n"),
     .options = {.from = "a", .to = "b", .weight = "w", .type = "k"},
     .edges = "x>y:likes*0.5",
     .remark = "columns that were not read: when"},
    {.about = "by number, without a header",
     .files = EDGES("9,y,x,0.5,likes\n"),
     .options = {.from = "3", .to = "2", .weight = "4", .type = "5"},
     .edges = "x>y:likes*0.5",
     .remark = "columns that were not read: 1"},
    {.about = "weight and type by their usual names",
     .files = EDGES("source,target,weight,type\na,b,-1.5e1,k\n"),
     .edges = "a>b:k*-15"},
    {.about = "a triple of a knowledge graph",
     .files = EDGES("head,rel,tail\na,r2,b\na,r1,b\n"),
     .edges = "a>b:r2 a>b:r1"},
    {.about = "integer types in their order, whatever comes first",
     .files = EDGES("head,rel,tail\na,10,b\na,9,b\nc,10,b\n"),
     .edges = "a>b:9 a>b:10 c>b:10"},
    {.about = "no such column",
     .files = EDGES("source,target\na,b\n"),
     .options = {.weight = "w"},
     .code = ERR_USAGE,
     .message = "edges.csv:1: there is no column \"w\", which --weight names; there are 2"},
    {.about = "no such number",
     .files = EDGES("a,b\n"),
     .options = {.weight = "3"},
     .code = ERR_USAGE,
     .message = "no column \"3\""},
    {.about = "the same for both ends",
     .files = EDGES("a,b\n"),
     .options = {.to = "1"},
     .code = ERR_USAGE,
     .message = "field 1 would be both the source and the target"},
    {.about = "an infinite weight",
     .files = EDGES("source,target,weight\na,b,1\na,c,inf\n"),
     .code = ERR_FORMAT,
     .message = "edges.csv:3:5: the weight \"inf\" is no finite number"},
    {.about = "an empty type",
     .files = EDGES("source,target,type\na,b,\n"),
     .code = ERR_FORMAT,
     .message = "edges.csv:2:5: the type is empty"},
};

static const struct imports_case ids[] = {
    {.about = "integers ascend, sparse, negative and 64 bits wide",
     .files = EDGES("900000000000,7\n-5,900000000000\n9223372036854775807,-9223372036854775808\n"
                    "1000000000000000000,7\n"),
     .nodes = "-9223372036854775808 -5 7 900000000000 1000000000000000000 9223372036854775807",
     .edges = "9223372036854775807>-9223372036854775808 900000000000>7 1000000000000000000>7 "
              "-5>900000000000"},
    {.about = "one beyond 64 bits is a text, and nothing is sorted",
     .files = EDGES("9,7\n9223372036854775808,7\n-9223372036854775809,7\n"),
     .nodes = "9 7 9223372036854775808 -9223372036854775809"},
    {.about = "integers and texts mixed come as they are, in their order",
     .files = EDGES("7,x\n3,007\n+3,-0\n3.0,7\n"),
     .nodes = "7 x 3 007 +3 -0 3.0",
     .edges = "3.0>7 7>x 3>007 +3>-0"},
    {.about = "1 to n", .files = EDGES("1,2\n2,3\n"), .nodes = "1 2 3", .edges = "1>2 2>3"},
    {.about = "labels bring nodes too, and columns follow the order of ids",
     .files = {{"edges.csv", "30,10\n"},
               {"labels.csv", "id,label\n20,b\n30,a\n"},
               {"train.csv", "30\n"},
               {"test.csv", "id\n20\n"}},
     .nodes = "10 20 30",
     .edges = "30>10",
     .labels = "- b a",
     .splits = ".xt"},
    {.about = "labels under a header that is not known",
     .files = {{"edges.csv", "30,10\n"}, {"labels.csv", "paper,kind\n10,a\n"}},
     .nodes = "30 10 paper",
     .labels = "- a kind",
     .remark = "labels.csv: the first row was taken for a node, though integers follow"},
    {.about = "a split of a node that is not there",
     .files = {{"edges.csv", "30,10\n"}, {"labels.csv", "10,1\n"}, {"train.csv", "id\n11\n"}},
     .code = ERR_NOT_FOUND,
     .message = "train.csv:2:1: id \"11\" is no id in"},
    {.about = "UTF-8", .files = EDGES("\xc3\xa4,\xe2\x82\xac\n"), .edges = "\xc3\xa4>\xe2\x82\xac"},
};

#define REPEATS "source,target,weight\nb,a,1\na,b,2\nb,a,4\nb,a,8\nc,c,16\n"
#define TYPED "source,target,type\nb,a,x\nb,a,y\nb,a,x\na,b,x\n"
static const struct imports_case rules[] = {
    {.about = "first", .files = EDGES(REPEATS), .edges = "a>b*2 b>a*1"},
    {.about = "sum",
     .files = EDGES(REPEATS),
     .options = {.dedup = DEDUP_SUM},
     .edges = "a>b*2 b>a*13"},
    {.about = "none",
     .files = EDGES(REPEATS),
     .options = {.dedup = DEDUP_NONE},
     .edges = "a>b*2 b>a*1 b>a*4 b>a*8"},
    {.about = "first, inverses",
     .files = EDGES(REPEATS),
     .options = {.undirected = true},
     .edges = "a>b*1 b>a*1"},
    {.about = "sum, inverses",
     .files = EDGES(REPEATS),
     .options = {.undirected = true, .dedup = DEDUP_SUM},
     .edges = "a>b*15 b>a*15"},
    {.about = "none, inverses",
     .files = EDGES(REPEATS),
     .options = {.undirected = true, .dedup = DEDUP_NONE},
     .edges = "a>b*1 a>b*2 a>b*4 a>b*8 b>a*1 b>a*2 b>a*4 b>a*8"},
    {.about = "self-loops, once even with inverses",
     .files = EDGES(REPEATS),
     .options = {.undirected = true, .self_loops = true},
     .edges = "a>b*1 b>a*1 c>c*16"},
    {.about = "types are told apart", .files = EDGES(TYPED), .edges = "a>b:x b>a:x b>a:y"},
    {.about = "types, inverses",
     .files = EDGES(TYPED),
     .options = {.undirected = true},
     .edges = "a>b:x a>b:y b>a:x b>a:y"},
    {.about = "types, none",
     .files = EDGES(TYPED),
     .options = {.dedup = DEDUP_NONE},
     .edges = "a>b:x b>a:x b>a:x b>a:y"},
    {.about = "nothing but ends, first", .files = EDGES("b,a\nb,a\na,a\n"), .edges = "b>a"},
    {.about = "nothing but ends, none, self-loops",
     .files = EDGES("b,a\nb,a\na,a\n"),
     .options = {.dedup = DEDUP_NONE, .self_loops = true},
     .edges = "b>a b>a a>a"},
    {.about = "the sum of edges without weights is how often they came",
     .files = EDGES("b,a\nb,a\na,b\n"),
     .options = {.dedup = DEDUP_SUM},
     .edges = "a>b*1 b>a*2"},
    {.about = "a sum beyond 32 bits",
     .files = EDGES("source,target,weight\nb,a,3e38\nb,a,3e38\n"),
     .options = {.dedup = DEDUP_SUM},
     .code = ERR_NOT_FINITE,
     .message = "--dedup sum"},
};

static const struct imports_case kinds[] = {
    {.about = "bipartite: named as the columns",
     .files = EDGES("user,item\n7,7\n8,7\n7,x\n"),
     .options = {.bipartite = true},
     .nodes = "user:7 item:7 user:8 item:x",
     .types = "user item user item",
     .edges = "user:7>item:7 user:8>item:7 user:7>item:x"},
    {.about = "bipartite without a header, undirected, labels by those ids",
     .files = {{"edges.csv", "1,1\n"}, {"labels.csv", "source:1,a\n"}},
     .options = {.bipartite = true, .undirected = true},
     .nodes = "source:1 target:1",
     .edges = "target:1>source:1 source:1>target:1",
     .labels = "a -"},
    {.about = "edges set aside are named as those of the graph, whatever their header",
     .files = {{"edges.csv", "user,item\n7,7\n"},
               {"valid_edges.csv", "u,v\n7,9\n"},
               {"test_edges.csv", "8,7\n"}},
     .options = {.bipartite = true},
     .nodes = "user:7 item:7 item:9 user:8",
     .types = "user item item user",
     .valid_edges = "user:7>item:9",
     .test_edges = "user:8>item:7"},
    {.about = "both kinds of one name",
     .files = EDGES("x,x\n1,2\n"),
     .options = {.bipartite = true, .header = HEADER_YES},
     .code = ERR_USAGE,
     .message = "\"x\""},
    {.about = "a kind without a name",
     .files = EDGES(",x\n1,2\n"),
     .options = {.bipartite = true, .header = HEADER_YES},
     .code = ERR_USAGE,
     .message = "name"},
    {.about = "bipartite with nodes of its own",
     .files = {{"edges.csv", "a,b\n"}, {"nodes.csv", "id\na\nb\n"}},
     .options = {.bipartite = true},
     .code = ERR_USAGE,
     .message = "--bipartite makes the nodes from the edges"},
    {.about = "edges set aside, with types; new nodes there",
     .files = {{"edges.csv", "head,rel,tail\n2,10,1\n1,9,2\n"},
               {"valid_edges.csv", "head,rel,tail\n1,10,2\n5,9,5\n"},
               {"test_edges.csv", "head,rel,tail\n2,11,1\n"}},
     .nodes = "1 2 5",
     .edges = "2>1:10 1>2:9",
     .valid_edges = "1>2:10 5>5:9",
     .test_edges = "2>1:11"},
    {.about = "set aside without the types that the graph has",
     .files = {{"edges.csv", "head,rel,tail\n2,10,1\n"}, {"test_edges.csv", "1,2\n"}},
     .code = ERR_FORMAT,
     .message = "test_edges.csv: has no column of types"},
    {.about = "an empty part set aside",
     .files = {{"edges.csv", "source,target\n2,1\n"}, {"valid_edges.csv", "source,target\n"}},
     .edges = "2>1",
     .valid_edges = ""},
    {.about = "what is set aside leaves the graph, not its inverse, where edges have a direction",
     .files = {{"edges.csv", "a,b\nb,a\nb,c\nb,c\nc,d\n"},
               {"valid_edges.csv", "b,c\n"},
               {"test_edges.csv", "b,a\nd,c\n"}},
     .options = {.dedup = DEDUP_NONE},
     .edges = "a>b c>d",
     .valid_edges = "b>c",
     .test_edges = "b>a d>c"},
    {.about = "with its inverse, and weights of others stay theirs",
     .files = {{"edges.csv", "source,target,weight\na,b,1\nb,c,2\nc,a,3\nc,c,4\n"},
               {"test_edges.csv", "c,b\nc,c\n"}},
     .options = {.undirected = true, .self_loops = true},
     .edges = "b>a*1 c>a*3 a>b*1 a>c*3",
     .test_edges = "c>b c>c"},
    {.about = "with its inverse also where the file lists both",
     .files = {{"edges.csv", "a,b\nb,a\nb,c\nc,b\n"}, {"valid_edges.csv", "b,c\n"}},
     .edges = "b>a a>b"},
    {.about = "of its type alone, and relations have a direction",
     .files = {{"edges.csv", "head,rel,tail\na,r,b\nb,r,a\na,s,b\n"},
               {"valid_edges.csv", "head,rel,tail\na,r,b\n"}},
     .edges = "b>a:r a>b:s"},
    {.about = "unless they have none",
     .files = {{"edges.csv", "head,rel,tail\na,r,b\na,s,b\n"},
               {"valid_edges.csv", "head,rel,tail\nb,r,a\n"}},
     .options = {.undirected = true},
     .edges = "b>a:s a>b:s"},
    {.about = "set aside twice",
     .files = {{"edges.csv", "a,b\nb,c\n"},
               {"valid_edges.csv", "a,c\nb,c\n"},
               {"test_edges.csv", "c,b\na,c\na,c\n"}},
     .options = {.undirected = true},
     .edges = "b>a a>b",
     .remark = "2 of the test edges are validation edges too"},
    {.about = "a share of no edge",
     .files = EDGES("a,b\nb,c\nc,d\n"),
     .options = {.hold_out = {0.5, 0.1}},
     .code = ERR_RANGE,
     .message = "--hold-out: 0.1 of 3 pairs of nodes with edges is none"},
    {.about = "shares of all edges",
     .files = EDGES("a,b\nb,a\n"), /* one pair */
     .options = {.hold_out = {0, 0.9}},
     .code = ERR_RANGE,
     .message = "--hold-out: of 1 pairs of nodes with edges none is left"},
    {.about = "a fault in edges set aside",
     .files = {{"edges.csv", "source,target\na,b\n"},
               {"nodes.csv", "id\na\nb\n"},
               {"test_edges.csv", "source,target\nb,a\nb,x\n"}},
     .code = ERR_NOT_FOUND,
     .message = "test_edges.csv:3:3: target \"x\" is no id in"},
};

static const struct imports_case bad_rows[] = {
    {.about = "three of several files, as many as are allowed",
     .files = {{"features.csv", "id,x\na,1\nb,nan\nc,3\n"},
               {"edges.csv", "source,target\na,c\nc\nc,b\n"},
               {"labels.csv", "id,label\na,x\nb,y\n"}},
     .options = {.skip_bad = 4},
     .rejects = 4,
     .nodes = "a c",
     .edges = "a>c",
     .labels = "x -"},
    {.about = "one more than is allowed",
     .files = {{"features.csv", "id,x\na,1\nb,nan\nc,3\n"},
               {"edges.csv", "source,target\na,c\nc\nc,b\n"},
               {"labels.csv", "id,label\na,x\nb,y\n"}},
     .options = {.skip_bad = 3},
     .code = ERR_NOT_FOUND,
     .message = "more than 3 rows are wrong, which is what --skip-bad allows; the last: "},
    {.about = "after a wrong quote the rows that follow are whole",
     .files = EDGES("source,target\n\"a\"x,b\nc,d\n\"e\" \"f\n\"g\",h\n"),
     .options = {.skip_bad = 2},
     .rejects = 2,
     .edges = "c>d g>h"},
    {.about = "the first row is wrong: nothing can be told from it",
     .files = EDGES("\"a\"x,b\nc,d\n"),
     .options = {.skip_bad = 9},
     .code = ERR_FORMAT,
     .message = "edges.csv:1:4: \"x\" after the closing quote"},
    {.about = "a count of edges counts those that are left out",
     .files = {{"raw/num-node-list.csv", "3\n"},
               {"raw/num-edge-list.csv", "4\n"},
               {"raw/edge.csv", "0,1\nx,1\n0,3\n1,2\n"}},
     .options = {.skip_bad = 2},
     .rejects = 2,
     .edges = "0>1 1>2"},
    {.about = "so does that of a matrix",
     .files = {{"edges.mtx", "%%MatrixMarket matrix coordinate pattern general\n3 3 3\n1 2\n1 4\n"
                             "1\n"}},
     .options = {.skip_bad = 2},
     .rejects = 2,
     .edges = "1>2"},
    {.about = "rows that belong to nodes by their number cannot be left out",
     .files = {{"raw/num-node-list.csv", "2\n"},
               {"raw/num-edge-list.csv", "1\n"},
               {"raw/node-feat.csv", "1,2\n1,nan\n"},
               {"raw/edge.csv", "0,1\n"}},
     .options = {.skip_bad = 9},
     .code = ERR_NOT_FINITE,
     .message = "node-feat.csv:2:3: feature 1 is nan"},
};

#define CASES(list)                                                                                \
    START_TEST(test_##list) {                                                                      \
        imports_check(&list[_i]);                                                                  \
    }                                                                                              \
    END_TEST

CASES(forms)
CASES(columns)
CASES(ids)
CASES(rules)
CASES(kinds)
CASES(bad_rows)

/* A pipe is refused at once, not waited for. */
START_TEST(test_pipes) {
    static const char *const names[] = {"edges.csv", "edges.csv.gz", "edges.npy", "edges.npz",
                                        "edges.mtx"};
    const char *dir = test_tmpdir();
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct import_options options = {.source = test_path(dir, names[i]),
                                         .root = test_path(dir, "out"),
                                         .name = "g",
                                         .version = "1.0.0"};
        static struct import_summary summary;
        struct error err = {0};
        ck_assert_int_eq(mkfifo(options.source, 0600), 0);
        ck_assert_int_lt(import_run(&options, NULL, NULL, &summary, &err), 0);
        ck_assert_msg(strstr(err.text, names[i]) != NULL, "%s", err.text);
    }
}
END_TEST

/* The byte itself is told, in a field with quotes too. */
START_TEST(test_zero_byte) {
    static const struct {
        const char *text;
        const char *message;
    } cases[] = {{"source,target\na,b\nbc,d@f\n", "edges.csv:3:5: a zero byte"},
                 {"source,target\na,\"b\"\"c@\"\n", "edges.csv:2:8: a zero byte"}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const char *dir = test_tmpdir();
        static struct import_summary summary;
        struct error err = {0};
        char text[64];
        size_t len = strlen(cases[i].text);
        memcpy(text, cases[i].text, len);
        *(char *)memchr(text, '@', len) = 0;
        test_write_file(test_path(dir, "edges.csv"), text, len);
        struct import_options options = {
            .source = dir, .root = test_tmpdir(), .name = "g", .version = "1.0.0"};
        ck_assert_int_eq(import_run(&options, NULL, NULL, &summary, &err), ERR_FORMAT);
        ck_assert_msg(strstr(err.text, cases[i].message), "%s", err.text);
    }
}
END_TEST

/* What was left out is told: each row with its place, the first five. */
START_TEST(test_told) {
    const struct imports_file files[] = {
        {"edges.csv", "source,target\na,b\n1\n2\n,3\n4\n5\n6\nb,a\n"}};
    const char *dir = test_tmpdir();
    imports_write(dir, files, 1);
    struct import_options options = {
        .source = dir, .root = test_tmpdir(), .name = "g", .version = "1.0.0", .skip_bad = 6};
    static struct import_summary summary;
    struct snapshot *s = imports_good(&options, &summary);
    ck_assert_uint_eq(summary.rejects.count, 6);
    ck_assert_uint_eq(summary.edges, 2);
    const char *const told[] = {"edges.csv:3:2: 1 fields", "edges.csv:4:2: 1 fields",
                                "edges.csv:5:1: the source is empty", "edges.csv:6:2: 1 fields",
                                "edges.csv:7:2: 1 fields"};
    for (size_t i = 0; i < ARRAY_LEN(told); i++)
        ck_assert_msg(strstr(summary.rejects.told[i], told[i]), "%s", summary.rejects.told[i]);
    snapshot_close(s);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("import_edges");
    TCase *tcase = tcase_create("import_edges");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_forms, 0, ARRAY_LEN(forms));
    tcase_add_loop_test(tcase, test_columns, 0, ARRAY_LEN(columns));
    tcase_add_loop_test(tcase, test_ids, 0, ARRAY_LEN(ids));
    tcase_add_loop_test(tcase, test_rules, 0, ARRAY_LEN(rules));
    tcase_add_loop_test(tcase, test_kinds, 0, ARRAY_LEN(kinds));
    tcase_add_loop_test(tcase, test_bad_rows, 0, ARRAY_LEN(bad_rows));
    tcase_add_test(tcase, test_pipes);
    tcase_add_test(tcase, test_zero_byte);
    tcase_add_test(tcase, test_told);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
