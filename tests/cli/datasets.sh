#!/bin/sh
# Every published set below $GRAPHPS_DATA imports with the command that docs/import.md gives for it, and
# the statistics printed are those of its row in INDEX.md. Usage: datasets.sh GRAPHPS IMPORT.MD
set -eu
if [ -z "${GRAPHPS_DATA:-}" ]; then
    echo "SKIPPED: datasets: GRAPHPS_DATA is not set"
    exit 0
fi
graphps=$(realpath "$1")
page=$(realpath "$2")
data=$(realpath "$GRAPHPS_DATA")
dir=$(mktemp -d)
touch "$dir/out"
trap 'rm -rf "$dir"' EXIT
cd "$dir"

fail() {
    echo "FAILED: $*" >&2
    echo "--- output" >&2
    cat out >&2
    exit 1
}
# import NAME ARGUMENT... : files are named below the data directory, as in docs/import.md.
import() {
    name=$1
    shift
    command="graphps import --name $name --version 1.0.0 $*"
    grep -qxF "    $command" "$page" || fail "$page does not give the command: $command"
    [ -e "$data/$name" ] || fail "$name is not in the data directory"
    (cd "$data" && "$graphps" import --root "$dir/root" --name "$name" --version 1.0.0 "$@") >out 2>&1 ||
        fail "graphps import $*"
    rm -rf root/snapshots
}
# prints TEXT... : each stands in the output of the last import.
prints() {
    for text; do
        grep -qF -- "$text" out || fail "$name: the output does not say: $text"
    done
    echo "$name: ok"
}

import cora cora --split planetoid_public --undirected
prints "nodes      2708 " "edges      10556 (5278 read" "features   1433" "classes    7" \
    "splits     140 train, 500 valid, 1000 test"

# For link prediction: of 5278 edges, and none of them, nor its inverse, stays in the graph.
import cora cora --split planetoid_public --undirected --hold-out 0.05,0.1
prints "nodes      2708 " "edges      8972 (5278 read" "symmetric  yes" \
    "aside      264 edges to choose by, 528 to test on; 1584 entries left the graph with them"

import pubmed pubmed --split planetoid_public --undirected
prints "nodes      19717 " "(44324 read" "features   500" "classes    3" \
    "splits     60 train, 500 valid, 1000 test"

import amazon_computers amazon_computers --split random20_30_seed0 --undirected
prints "nodes      13752 " "(245861 read" "features   767" "classes    10" \
    "splits     200 train, 300 valid, 13252 test"

import coauthor_physics coauthor_physics --split random20_30_seed0 --undirected --fp16
prints "nodes      34493 " "(247962 read" "features   8415, 16 bits each" "classes    5" \
    "splits     100 train, 150 valid, 34243 test"

import aifb aifb --split rgcn_official
prints "nodes      8285 " "edges      29043 (29043 read" "types      45 of edges" "classes    4" \
    "splits     140 train, 0 valid, 36 test"

import heco_dblp heco_dblp --split heco_20_per_class
prints "14328 paper" "4057 author" "20 conference" "7723 term" "edges      119783 (" "classes    4" \
    "splits     80 train, 1000 valid, 1000 test"

import fb15k237 --nodes fb15k237/entities.csv.gz --edges fb15k237/triples_train.csv.gz \
    --valid-edges fb15k237/triples_valid.csv.gz --test-edges fb15k237/triples_test.csv.gz --self-loops
prints "nodes      14541 " "edges      272115 (272115 read" "types      237 of edges" \
    "aside      17535 edges to choose by, 20466 to test on; 0 entries left the graph with them"

import gowalla gowalla/train.csv.gz --test-edges gowalla/test.csv.gz --bipartite
prints "nodes      70839 " "29858 user, 40981 item" "edges      810128 (" \
    "aside      0 edges to choose by, 217242 to test on; 0 entries left the graph with them"

import bitcoin_otc bitcoin_otc --weight rating
prints "nodes      5881 " "edges      35592 (" "weights    one for each edge"

import nezha_trainticket nezha_trainticket --type window --weight calls
prints "nodes      28 " "edges      6524 (" "types      137 of edges"

import web_notredame web_notredame --self-loops
prints "nodes      325729 " "edges      1497134 ("

# Without labels, ids as text: the triples of fb15k237 with their entities' names.
mkdir words
zcat "$data/fb15k237/entities.csv.gz" | tr -d '\r' >words/names
zcat "$data/fb15k237/triples_train.csv.gz" | tr -d '\r' | awk -F, '
    FILENAME ~ /names/ { name[$1] = $2; next }
    FNR > 1 { print name[$1] "\t" name[$3] }' words/names - >words/edges.tsv
"$graphps" import --root root --name words --version 1.0.0 words/edges.tsv --self-loops --dedup none >out 2>&1 ||
    fail "a list of edges with names"
name=words
prints "nodes      14505 (ids: texts)" "edges      272115 (272115 read" "classes    0"
