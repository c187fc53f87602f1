/* Imports of arrays: .npy, .npz dense and as SciPy saves sparse matrices; of MatrixMarket; and of
 * OGB's layouts with what test_import.c leaves out. */
#include <string.h>

#include "common/mem.h"
#include "tests/test.h"
#include "tests/unit/imports.h"

#define PAIRS                                                                                      \
    { "edges.npy", "<i4 [3, 2] 0 1 1 2 2 0" }
#define CSR "indptr <i4 [4] 0 1 3 4\nindices <i4 [4] 1 0 2 1\nshape <i8 [2] 3 3\nformat csr\n"

static const struct imports_case edges[] = {
    {.about = "pairs", .files = {PAIRS}, .nodes = "0 1 2", .edges = "2>0 0>1 1>2"},
    {.about = "edge_index, of which two edges could be either",
     .files = {{"edge_index.npy", "<i8 [2, 2] 0 1 2 0"}},
     .edges = "1>0 0>2"},
    {.about = "two pairs", .files = {{"edges.npy", "<u2 [2, 2] 0 1 2 0"}}, .edges = "2>0 0>1"},
    {.about = "edge_index.T as it is saved",
     .files = {{"edges.npy", "F<i8 [3, 2] 0 1 2 1 2 0"}},
     .edges = "2>0 0>1 1>2"},
    {.about = "pairs, turned",
     .files = {{"edge_index.npy", "F<i8 [2, 3] 0 1 1 2 2 0"}},
     .edges = "2>0 0>1 1>2"},
    {.about = "features, turned",
     .files = {PAIRS, {"features.npy", "F<f4 [3, 2] 5 6 7 8 9 0"}},
     .code = ERR_FORMAT,
     .message = "features.npy: the array is in Fortran order"},
    {.about = "numbers leave nodes without edges",
     .files = {{"edges.npy", "|u1 [1, 2] 0 3"}},
     .nodes = "0 1 2 3"},
    {.about = "integers of 64 bits are ids",
     .files = {{"edges.npy", "<i8 [2, 2] 90000000000 7 -7 7"}},
     .nodes = "-7 7 90000000000",
     .edges = "-7>7 90000000000>7"},
    {.about = "so are sparse ones, and lists of nodes are of ids then",
     .files = {{"edges.npy", "<i4 [2, 2] 2000000000 7 9 7"},
               {"train.npy", "<i8 [2] 7 2000000000"},
               {"labels.csv", "7,0\n2000000000,1\n"}},
     .nodes = "7 9 2000000000",
     .labels = "0 - 1",
     .splits = "t.t"},
    {.about = "names of nodes beside arrays: rows are nodes",
     .files = {PAIRS,
               {"nodes.csv", "id,type\nx,u\n7,u\n0,v\n"},
               {"features.npy", "<f4 [3, 1] 5 6 7"},
               {"train.npy", "<i8 [1] 2"},
               {"labels.csv", "0,1\n"}},
     .nodes = "x 7 0",
     .edges = "0>x x>7 7>0",
     .splits = "..t",
     .labels = "- - 1"},
    {.about = "a number beyond the named nodes",
     .files = {PAIRS, {"nodes.csv", "id\nx\ny\n"}},
     .code = ERR_RANGE,
     .message = "edges.npy[1]: target 2 is no node; nodes are 0 to 1"},
    {.about = "npz, dense",
     .files = {{"edges.npz", "edge_index <i8 [2, 3] 0 1 2 1 2 0\n"}},
     .edges = "2>0 0>1 1>2"},
    {.about = "SciPy's CSR, all ones: no weights",
     .files = {{"edges.npz", CSR "data <f8 [4] 1 1 1 1\n"}},
     .nodes = "0 1 2",
     .edges = "1>0 0>1 2>1 1>2"},
    {.about = "SciPy's CSR, weights",
     .files = {{"edges.npz", CSR "data <f8 [4] 1 2 3 0.5\n"}},
     .edges = "1>0*2 0>1*1 2>1*0.5 1>2*3"},
    {.about = "SciPy's CSC: columns are targets",
     .files = {{"edges.npz", "indptr <i8 [4] 0 1 3 3\nindices <i8 [3] 2 0 2\ndata <f4 [3] 1 2 3\n"
                             "shape <i8 [2] 3 3\nformat csc\n"}},
     .edges = "2>0*1 0>1*2 2>1*3"},
    {.about = "SciPy's COO, with nodes beyond its entries",
     .files = {{"edges.npz", "row <i4 [2] 0 2\ncol <i4 [2] 1 0\ndata <i8 [2] 4 5\n"
                             "shape <i8 [2] 4 4\nformat coo\n"}},
     .nodes = "0 1 2 3",
     .edges = "2>0*5 0>1*4"},
    {.about = "an entry outside its matrix",
     .files = {{"edges.npz", "row <i4 [2] 0 2\ncol <i4 [2] 1 4\ndata <i8 [2] 4 5\n"
                             "shape <i8 [2] 4 4\nformat coo\n"}},
     .code = ERR_RANGE,
     .message = "edges.npz[1]: target 4 is no node; nodes are 0 to 3"},
    {.about = "a weight that is no number",
     .files = {{"edges.npz", CSR "data <f8 [4] 1 2 nan 0.5\n"}},
     .code = ERR_NOT_FINITE,
     .message = "edges.npz[2]: the weight is nan"},
    {.about = "a matrix that is not square",
     .files = {{"edges.npz", "indptr <i8 [3] 0 1 1\nindices <i8 [1] 2\ndata <f4 [1] 1\n"
                             "shape <i8 [2] 2 3\nformat csr\n"}},
     .code = ERR_FORMAT,
     .message = "a matrix of shape [2, 3]"},
    {.about = "indptr that descends",
     .files = {{"edges.npz", "indptr <i8 [4] 0 3 1 4\nindices <i8 [4] 1 0 2 1\n"
                             "data <f4 [4] 1 1 1 1\nshape <i8 [2] 3 3\nformat csr\n"}},
     .code = ERR_FORMAT,
     .message = "are not those of a sparse matrix"},
    {.about = "another of SciPy's forms",
     .files = {{"edges.npz", "data <i8 [1, 2] 0 1\noffsets <i8 [1] 0\nshape <i8 [2] 2 2\n"
                             "format dia\n"}},
     .code = ERR_FORMAT,
     .message = "in dia form"},
    {.about = "sources by name",
     .files = {PAIRS},
     .options = {.from = "a"},
     .code = ERR_USAGE,
     .message = "are for edges in a text"},
    {.about = "set aside as an array",
     .files = {PAIRS, {"test_edges.npy", "<i8 [1, 2] 2 1"}},
     .test_edges = "2>1"},
};

static const struct imports_case columns[] = {
    {.about = "features of 16 bits and 64 bits",
     .files = {PAIRS, {"features.npy", "<f2 [3, 2] 1 2 3 4 5 0.5"}},
     .features = "1,2;3,4;5,0.5"},
    {.about = "features as integers, dense npz",
     .files = {PAIRS, {"features.npz", "x <i8 [3, 1] 1 -2 3\n"}},
     .features = "1;-2;3"},
    {.about = "features as CSR, an entry twice",
     .files = {PAIRS,
               {"features.npz", "indptr <i8 [4] 0 2 2 3\nindices <i4 [3] 1 1 0\n"
                                "data <f8 [3] 1 2 4\nshape <i8 [2] 3 2\nformat csr\n"}},
     .features = "0,3;0,0;4,0"},
    {.about = "features as CSR, beyond 16 bits",
     .files = {PAIRS,
               {"features.npz", "indptr <i8 [4] 0 2 2 3\nindices <i4 [3] 1 1 0\n"
                                "data <f8 [3] 40000 40000 4\nshape <i8 [2] 3 2\nformat csr\n"}},
     .options = {.half = true},
     .code = ERR_RANGE,
     .message = "features.npz[0]: feature 1 is 80000; 16 bits"},
    {.about = "features as CSC",
     .files = {PAIRS,
               {"features.npz", "indptr <i8 [4] 0 1 1 1\nindices <i8 [1] 2\ndata <f4 [1] 1\n"
                                "shape <i8 [2] 3 3\nformat csc\n"}},
     .code = ERR_FORMAT,
     .message = "in csc form; save it as csr"},
    {.about = "labels say how many nodes there are",
     .files = {{"edges.csv", "0,1\n"}, {"labels.npy", "<i8 [4] 1 -1 0 2"}},
     .nodes = "0 1 2 3",
     .labels = "1 - 0 2"},
    {.about = "targets say how many nodes there are",
     .files = {{"edges.csv", "0,1\n"}, {"targets.npy", "<f8 [4] 1.5 nan 0 -2"}},
     .labels = "1.5 - 0 -2"},
    {.about = "integers as targets, in an archive",
     .files = {PAIRS, {"targets.npz", "y <i4 [3, 2] 1 2 -1 4 5 6\n"}},
     .labels = "1/2 -1/4 5/6"},
    {.about = "labels [n, 1]",
     .files = {PAIRS, {"labels.npy", "<i8 [3, 1] 1 0 2"}},
     .labels = "1 0 2"},
    {.about = "several: a nan anywhere, and the node has none",
     .files = {PAIRS, {"labels.npy", "<f4 [3, 2] 1 1 1 nan 0 0"}},
     .labels = "0+1 - none"},
    {.about = "several, bool",
     .files = {PAIRS, {"labels.npz", "y |b1 [3, 2] 1 0 0 1 0 0\n"}},
     .labels = "0 1 none"},
    {.about = "several: 2",
     .files = {PAIRS, {"labels.npy", "<i8 [3, 2] 1 1 1 2 0 0"}},
     .code = ERR_RANGE,
     .message = "labels.npy[1]: column 1 is 2; labels are 0 or 1"},
    {.about = "several: a half",
     .files = {PAIRS, {"labels.npy", "<f8 [3, 2] 1 1 1 0.5 0 0"}},
     .code = ERR_FORMAT,
     .message = "labels.npy[1]: label 0.5 is not a whole number"},
    {.about = "masks",
     .files = {PAIRS,
               {"labels.npy", "<i8 [3] 0 0 0"},
               {"train_mask.npy", "|b1 [3] 1 0 0"},
               {"val_mask.npy", "|b1 [3] 0 0 1"},
               {"test_mask.npy", "|b1 [3] 0 1 0"}},
     .splits = "txv"},
    {.about = "a mask of another length",
     .files = {PAIRS, {"labels.npy", "<i8 [3] 0 0 0"}, {"train_mask.npy", "|b1 [2] 1 0"}},
     .code = ERR_FORMAT,
     .message = "train_mask.npy: has type |b1 and shape [2]"},
    {.about = "splits in one array",
     .files = {PAIRS, {"labels.npy", "<i8 [3] 0 0 0"}, {"split.npy", "|u1 [3] 3 0 1"}},
     .splits = "x.t"},
    {.about = "a mask where nothing numbers nodes",
     .files = {{"edges.csv", "9,7\n"}, {"train_mask.npy", "|b1 [2] 1 0"}},
     .code = ERR_USAGE,
     .message = "nothing says which node is number 0"},
    {.about = "a list of ids there",
     .files = {{"edges.csv", "9,7\n"}, {"train.npy", "<i4 [1] 9"}, {"test.npy", "<i4 [1] 8"}},
     .code = ERR_NOT_FOUND,
     .message = "test.npy[0]: node \"8\" is no id in"},
};

#define MTX "%%MatrixMarket matrix coordinate "
static const struct imports_case matrices[] = {
    {.about = "pattern, general, comments: ids are 1 to n",
     .files = {{"edges.mtx", MTX "pattern general\n% \"a, comment\n%\n 4 4 2 \n1 2\n\n3\t1\n"}},
     .nodes = "1 2 3 4",
     .edges = "3>1 1>2"},
    {.about = "real, symmetric: inverses",
     .files = {{"edges.mtx", MTX "real symmetric\n3 3 2\n2 1 0.5\n3 1 -2\n"}},
     .edges = "2>1*0.5 3>1*-2 1>2*0.5 1>3*-2"},
    {.about = "integer, packed, with features and labels: rows are nodes, ids 1 to n",
     .files = {{"edges.mtx.gz", MTX "INTEGER General\n2 2 1\n2 1 7\n"},
               {"labels.csv", "2,a\n1,b\n"}},
     .labels = "b a",
     .edges = "2>1*7"},
    {.about = "features number the nodes from 0",
     .files = {{"edges.mtx", MTX "pattern general\n2 2 1\n2 1\n"},
               {"features.npy", "<f4 [2, 1] 1 2"}},
     .nodes = "0 1",
     .edges = "1>0"},
    {.about = "texts beside it have a delimiter of their own",
     .files = {{"edges.mtx", MTX "pattern general\n2 2 1\n2\t1\n"}, {"labels.csv", "1;x\n2;y\n"}},
     .options = {.delimiter = ';'},
     .edges = "2>1",
     .labels = "x y"},
    {.about = "more entries than it says",
     .files = {{"edges.mtx", MTX "pattern general\n3 3 1\n2 1\n3 1\n"}},
     .code = ERR_FORMAT,
     .message = "edges.mtx:4: the file has at least 2 rows where the line of sizes says 1"},
    {.about = "fewer",
     .files = {{"edges.mtx", MTX "pattern general\n3 3 2\n2 1\n"}},
     .code = ERR_FORMAT,
     .message = "has 1 rows where the line of sizes says 2"},
    {.about = "an entry outside",
     .files = {{"edges.mtx", MTX "pattern general\n3 3 1\n0 1\n"}},
     .code = ERR_NOT_FOUND,
     .message = "edges.mtx:3:1: source \"0\" is no id in"},
    {.about = "no square",
     .files = {{"edges.mtx", MTX "pattern general\n3 4 1\n1 1\n"}},
     .code = ERR_FORMAT,
     .message = "edges.mtx:2: 3 rows and 4 columns"},
    {.about = "complex",
     .files = {{"edges.mtx", MTX "complex general\n3 3 1\n1 1 1 1\n"}},
     .code = ERR_FORMAT,
     .message = "\"matrix coordinate complex general\" is not read"},
    {.about = "no banner",
     .files = {{"edges.mtx", "3 3 1\n1 1\n"}},
     .code = ERR_FORMAT,
     .message = "edges.mtx:1: does not begin with"},
};

#define OGB                                                                                        \
    {"raw/num-node-list.csv.gz", "3\n"}, {"raw/num-edge-list.csv.gz", "3\n"}, {                    \
        "raw/edge.csv.gz", "0,1\n0,1\n2,0\n"                                                       \
    }
#define MAG                                                                                        \
    {"raw/num-node-dict.csv", "author,paper\n2,3\n"},                                              \
        {"raw/triplet-type-list.csv", "author,writes,paper\npaper,cites,paper\n"},                 \
        {"raw/relations/author___writes___paper/num-edge-list.csv", "2\n"},                        \
        {"raw/relations/author___writes___paper/edge.csv", "0,2\n1,0\n"},                          \
        {"raw/relations/paper___cites___paper/num-edge-list.csv", "1\n"}, {                        \
        "raw/relations/paper___cites___paper/edge.csv", "2,0\n"                                    \
    }
static const struct imports_case layouts[] = {
    {.about = "weights and types beside the edges",
     .files = {OGB, {"raw/edge_weight.csv", "1\n2\n4\n"}, {"raw/edge_reltype.csv", "5\n5\n3\n"}},
     .options = {.dedup = DEDUP_SUM},
     .edges = "2>0:3*4 0>1:5*3"},
    {.about = "weights by name, several labels, one column of which is nan",
     .files = {OGB,
               {"raw/edge_trust.csv.gz", "1\n-2\n4\n"},
               {"raw/node-label.csv.gz", "1,0,1\n0,0,0\nnan,1,0\n"}},
     .options = {.weight = "trust", .undirected = true},
     .edges = "1>0*1 2>0*4 0>1*1 0>2*4",
     .labels = "0+2 none -"},
    {.about = "below ogb/",
     .files = {{"ogb/raw/num-node-list.csv", "2\n"},
               {"ogb/raw/num-edge-list.csv", "1\n"},
               {"ogb/raw/edge.csv", "0,1\n"}},
     .edges = "0>1"},
    {.about = "fewer weights than edges",
     .files = {OGB, {"raw/edge_weight.csv", "1\n2\n"}},
     .code = ERR_FORMAT,
     .message = "edge_weight.csv: the file has 2 rows where num-edge-list says 3"},
    {.about = "a ratio instead of splits",
     .files = {OGB, {"raw/node-label.csv", "0\n1\n1\n"}, {"split/a/train.csv", "0\n"}},
     .options = {.ratio = {1, 0, 0}},
     .splits = "ttt"},
    {.about = "several types of nodes: features in columns of their own, labels of one type",
     .files = {MAG,
               {"raw/node-feat/paper/node-feat.csv", "1,2\n3,4\n5,6\n"},
               {"raw/node-feat/author/node-feat.csv.gz", "7\n8\n"},
               {"raw/node-label/paper/node-label.csv", "0\n2\n1\n"},
               {"split/time/paper/train.csv", "2\n"},
               {"split/time/paper/valid.csv", "0\n"},
               {"split/time/paper/test.csv", "1\n"},
               {"split/time/nodetype-has-split.csv", "author,paper\nFalse,True\n"}},
     .nodes = "author:0 author:1 paper:0 paper:1 paper:2",
     .types = "author author paper paper paper",
     .edges = "author:1>paper:0:author/writes/paper paper:2>paper:0:paper/cites/paper "
              "author:0>paper:2:author/writes/paper",
     .features = "7,0,0;8,0,0;0,1,2;0,3,4;0,5,6",
     .labels = "- - 0 2 1",
     .splits = "..vxt"},
    {.about = "a node beyond its type",
     .files = {{"raw/num-node-dict.csv", "author,paper\n2,3\n"},
               {"raw/triplet-type-list.csv", "author,writes,paper\n"},
               {"raw/relations/author___writes___paper/num-edge-list.csv", "2\n"},
               {"raw/relations/author___writes___paper/edge.csv", "0,2\n2,0\n"}},
     .code = ERR_RANGE,
     .message = "edge.csv:2:1: source 2 is no node; nodes of its type are 0 to 1"},
    {.about = "a split beyond its type",
     .files = {MAG,
               {"split/a/author/train.csv", "0\n2\n"},
               {"split/a/author/valid.csv", ""},
               {"split/a/author/test.csv", ""},
               {"split/a/nodetype-has-split.csv", "author,paper\nTrue,False\n"}},
     .code = ERR_RANGE,
     .message = "train.csv:2:1: node 2 does not exist; nodes are 0 to 1"},
    {.about = "two types of one name",
     .files = {{"raw/num-node-dict.csv", "paper,paper\n2,3\n"},
               {"raw/triplet-type-list.csv", "paper,cites,paper\n"},
               {"raw/relations/paper___cites___paper/num-edge-list.csv", "1\n"},
               {"raw/relations/paper___cites___paper/edge.csv", "0,1\n"}},
     .code = ERR_FORMAT,
     .message = "num-node-dict.csv:1: \"paper\" is no name of a type"},
    {.about = "a relation of a type that is not there",
     .files = {{"raw/num-node-dict.csv", "paper\n2\n"},
               {"raw/triplet-type-list.csv", "paper,cites,book\n"}},
     .code = ERR_FORMAT,
     .message = "triplet-type-list.csv: \"book\" is no type of nodes"},
};

#define CASES(list)                                                                                \
    START_TEST(test_##list) {                                                                      \
        imports_check(&list[_i]);                                                                  \
    }                                                                                              \
    END_TEST

CASES(edges)
CASES(columns)
CASES(matrices)
CASES(layouts)

int main(void) {
    Suite *suite = suite_create("import_arrays");
    TCase *tcase = tcase_create("import_arrays");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_edges, 0, ARRAY_LEN(edges));
    tcase_add_loop_test(tcase, test_columns, 0, ARRAY_LEN(columns));
    tcase_add_loop_test(tcase, test_matrices, 0, ARRAY_LEN(matrices));
    tcase_add_loop_test(tcase, test_layouts, 0, ARRAY_LEN(layouts));
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
