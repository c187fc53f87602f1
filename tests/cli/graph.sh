#!/bin/sh
# graphps import, partition, inspect and predict as a user meets them: what they print, their exit
# codes, and what they say when something is wrong. Usage: graph.sh GRAPHPS
set -eu
graphps=$(realpath "$1")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

fail() {
    echo "FAILED: $*" >&2
    echo "--- output" >&2
    cat out >&2
    exit 1
}
# run CODE ARGUMENT...: output and errors go to the file out.
run() {
    expected=$1
    shift
    code=0
    "$graphps" "$@" >out 2>&1 || code=$?
    [ "$code" = "$expected" ] || fail "graphps $*: exit code $code, not $expected"
}
# says TEXT: it stands in the output of the last run.
says() {
    grep -qF -- "$1" out || fail "the output does not say: $1"
}

# A ring of 20 named nodes with a chord each, listed once; two classes, three splits.
mkdir source
awk 'BEGIN {
    print "source,target" >"source/edges.csv"
    print "id,left,right" >"source/features.csv"
    print "id,label" >"source/labels.csv"
    for (k = 0; k < 3; k++)
        print "id" >("source/" substr("train,valid,test,", 6 * k + 1, k < 2 ? 5 : 4) ".csv")
    for (i = 0; i < 20; i++) {
        print "v" i ",v" (i + 1) % 20 >"source/edges.csv"
        print "v" i ",v" (i + 3) % 20 >"source/edges.csv"
        print "v" i "," (i < 10) "," (i >= 10) / 2 >"source/features.csv"
        print "v" i "," (i < 10 ? "low" : "high") >"source/labels.csv"
        print "v" i >("source/" (i % 4 == 0 ? "train" : i % 4 == 1 ? "valid" : "test") ".csv")
    }
    print "v3,v3" >"source/edges.csv"
}'

run 0 import --format csv source --name ring --version 1.0.0
says "imported ring@1.0.0"
says "40 (41 read; dropped: 1 self-loops, 0 repeats)"
says "symmetric  no"
says "import it with --undirected"
run 78 import --format csv source --name ring --version 1.0.0
says "exists already"
gzip source/edges.csv
run 0 import --format csv source --name ring --version 1.1.0 --undirected
says "where      graphps-data/snapshots/ring@1.1.0"
says "nodes      20"
says "80 (41 read, inverses added; dropped: 1 self-loops, 0 repeats)"
says "symmetric  yes"
says "5 train, 5 valid, 10 test"
grep -q hint out && fail "a hint without a reason"

run 0 partition ring --parts 2 --halo 1
says "cutting ring@1.1.0 (20 nodes, 80 edges) into 2 parts"
says "partitioning 2x1: 2 parts, halo of 1 hops, seed 1, edge cut "
run 0 partition ring@1.1.0 --parts 2 --halo 1
says "it was there already"
run 78 partition ring --parts 2 --halo 1 --seed 7
says "cut with seed 1; --overwrite cuts it with seed 7"
run 78 partition ring --parts 2 --halo 1 --method random
says "cut with method metis; --overwrite cuts it with random"
run 0 partition ring --parts 2 --halo 1 --method random --seed 7 --overwrite
says "seed 7, edge cut "
says "method random; the largest part over the mean: nodes 1.000, edges 1.000, training nodes 1.200"
run 0 partition ring --parts 2 --halo 1 --method metis --overwrite
says "method metis; the largest part over the mean: nodes 1."
says "halo share"
ls graphps-data/snapshots/ring@1.1.0/partitions >out
[ "$(cat out)" = 2x1 ] || fail "something lies beside the partitioning"
run 78 partition ring --parts 2 --method best
says "--method is auto, metis, fennel or random, not \"best\""
run 78 partition ring --parts 21
says "21 parts of ring@1.1.0: there must be 1 to 20"
run 78 partition ring --parts two
says "--parts is a number from 1 to 4096, not \"two\""
run 78 partition circle --parts 2
says "there is: ring@1.0.0, ring@1.1.0"

# Edges set aside for link prediction are told of wherever edges are.
run 0 import --format csv source --name aside --version 1.0.0 --undirected --hold-out 0.1,0.2
says "edges      56 (41 read"
says "aside      4 edges to choose by, 8 to test on; 24 entries left the graph with them"
run 0 inspect aside
says "aside       4 edges to choose by, 8 to test on"
run 0 snapshots show aside
says "aside       4 edges to choose by, 8 to test on"
run 78 import source --name aside --version 1.0.1 --hold-out 0.1
says '--hold-out is two shares such as 0.05,0.1, not "0.1"'

run 0 inspect ring
says "snapshot    ring@1.1.0"
says "edges       80, symmetric: yes"
says "in-degree   min 4, mean 4.00, max 4;"
says "isolated    0 nodes"
says "features    2 a node, 50.00 % of them not zero"
says "splits      5 train, 5 valid, 10 test, 0 in none; 0 nodes without a label"
says "classes     2"
grep -Eq "^ +0 +10 +2 +2 +6  high$" out || fail "no row of class high"
grep -Eq "^ +1 +10 +3 +3 +4  low$" out || fail "no row of class low"
says "partitioning 2x1:"
# The parts own all 20 nodes and all 5 training nodes.
awk '/^partitioning/ { parts = 1 }
    parts && ($1 == 0 || $1 == 1) { owned += $2; train += $3 }
    END { exit !(owned == 20 && train == 5) }' out || fail "the parts do not add up"

# A changed byte in a snapshot or a part is found, and the file is named.
part=graphps-data/snapshots/ring@1.1.0/partitions/2x1/part-1/features.npy
printf 'x' | dd of=$part bs=1 seek=140 conv=notrunc 2>dd.log
run 78 inspect ring
says "part-1/features.npy: checksum mismatch"
run 0 inspect ring --no-verify
says "(not verified)"

# A snapshot's directory is found without ./ before it, when no snapshot has the name.
cp -r graphps-data/snapshots/ring@1.0.0 copy
run 0 inspect copy
says "where       copy"

# As many parts as nodes, without METIS' own complaints.
run 0 partition ring --parts 20 --halo 0
! grep -qF '***' out || fail "METIS speaks"

# A model says the same into a file and into a pipe; where it cannot go is known before the work.
cat >job.yaml <<'END'
data: {snapshot: ring@1.0.0}
model: {hidden: 4}
train: {epochs: 2}
servers: {count: 1}
workers: {count: 1}
END
run 0 partition ring@1.0.0 --parts 1
run 0 train job.yaml
model=$(find graphps-data/runs -name '*.safetensors')
run 0 predict --config job.yaml --model "$model" --out file.csv
says "file.csv: 20 nodes of ring@1.0.0"
"$graphps" predict --config job.yaml --model "$model" --out - >piped.csv 2>out
says "standard output: 20 nodes of ring@1.0.0"
cmp file.csv piped.csv || fail "the pipe got something else than the file"
run 78 predict --config job.yaml --model nowhere --out source
says "source is there and is a directory"
run 78 predict --config job.yaml --model "$model" --out /dev/stdout
says "/dev/stdout is there and is not a file"

# Faults of the user's files and command lines.
gzip -d source/edges.csv.gz
echo "v1,v99" >>source/edges.csv
run 78 import --format csv source --name ring --version 2.0.0
says "graphps import: source/edges.csv:43:4: target \"v99\" is no id in source/features.csv"
[ ! -e graphps-data/snapshots/ring@2.0.0 ] || fail "a faulty import left a snapshot"
run 78 import --format tsv source --name ring --version 2.0.0
says "--format is ogb, csv, npy or mtx, not \"tsv\""
run 78 import --format csv source --name ring
says "give a directory or a file of edges, --name and --version"
run 78 import --format csv nowhere --name ring --version 2.0.0
says "nowhere: there is no such file or directory"
run 78 import --format ogb source --name ring --version 2.0.0
says "has neither raw/ nor ogb/raw/"
sed -i '$d' source/edges.csv
mv source/test.csv source/test
mkdir source/test.csv
run 78 import --format csv source --name ring --version 1.9.0
says "source/test.csv: is a directory, where a file is needed"
rmdir source/test.csv
mv source/test source/test.csv
gzip source/edges.csv
echo rubbish >>source/edges.csv.gz
sed -i "s/,low/,$(printf 'l\033ow')/" source/labels.csv
run 0 import --format csv source --name ring --version 1.9.0
says "graphps import: warning: source/edges.csv.gz: something follows the end of the gzip data"
run 0 inspect ring@1.9.0
says '  l\x1bow'
for command in import partition inspect predict; do
    run 0 $command --help
    says "Usage: graphps $command"
done
echo "graphps import, partition, inspect and predict: passed"
