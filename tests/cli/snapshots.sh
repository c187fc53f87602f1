#!/bin/sh
# graphps snapshots list, show, verify, diff and rm as a user meets them: what they print, their exit
# codes, what they find that was changed by hand, and what is left when rm is killed. Usage:
# snapshots.sh GRAPHPS
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
says() {
    grep -qF -- "$1" out || fail "the output does not say: $1"
}
matches() {
    grep -Eq -- "$1" out || fail "no line of the output matches: $1"
}
silent() {
    ! grep -qF -- "$1" out || fail "the output says: $1"
}
# source DIRECTORY NODES ORDER: a ring of named nodes, listed forwards (1) or backwards (-1).
source() {
    mkdir "$1"
    awk -v d="$1/" -v n="$2" -v order="$3" 'BEGIN {
        print "source,target" >(d "edges.csv")
        print "id,left,right" >(d "features.csv")
        print "id,label" >(d "labels.csv")
        for (k = 0; k < 3; k++)
            print "id" >(d substr("train,valid,test,", 6 * k + 1, k < 2 ? 5 : 4) ".csv")
        for (k = 0; k < n; k++) {
            i = order > 0 ? k : n - 1 - k
            print "v" i ",v" (i + 1) % 20 >(d "edges.csv")
            print "v" i "," (i < 10) "," (i >= 10) / 2 >(d "features.csv")
            print "v" i "," (i < 10 ? "low" : "high") >(d "labels.csv")
            print "v" i >(d (i % 4 == 0 ? "train" : i % 4 == 1 ? "valid" : "test") ".csv")
        }
    }'
}
import() {
    run 0 import --format csv "$1" --name ring --version "$2" $3
}
snapshots=graphps-data/snapshots

# --- nothing there yet
run 0 snapshots list
says "there is no snapshot in graphps-data/snapshots; graphps import makes one"
[ "$("$graphps" snapshots list --json 2>/dev/null)" = "[]" ] || fail "the empty list is not []"
run 0 snapshots verify --all
run 78 snapshots show ring
says 'no snapshot "ring": there is none in graphps-data/snapshots'

# --- list and show
source forwards 20 1
source backwards 20 -1
source more 22 1
import forwards 1.0.0 ""
import backwards 1.1.0 --undirected
run 0 partition ring@1.0.0 --parts 2 --halo 1 --seed 7
run 0 snapshots list
matches '^ring@1\.0\.0 +20..-..-..T..:..:..Z +20 +20 +2 +2 +[0-9.]+ kB +0 +2x1$'
matches '^ring@1\.1\.0 +20..-..-..T..:..:..Z +20 +40 +2 +2 +[0-9.]+ kB +0 +$'
digest() {
    sed -n 's/^ "digest": "\(.*\)",*$/\1/p' "$snapshots/$1/manifest.json"
}
run 0 snapshots show ring
says "snapshot    ring@1.1.0"
says "parent      ring@1.0.0 (digest $(digest ring@1.0.0))"
says "partitions  none"
says "runs        none recorded"
run 0 snapshots show ring@1.0.0
says "digest      $(digest ring@1.0.0)"
says "parent      none"
says "2x1       2 parts, halo of 1 hops, metis, seed 7, edge cut"
says "largest part: 1."
run 78 snapshots show ring@3.0.0
says "there is: ring@1.0.0, ring@1.1.0"

# A version between others descends from the one below it; one that is replaced from what was there,
# unless that held the same.
import more 1.0.5 ""
run 0 snapshots show ring@1.0.5
says "parent      ring@1.0.0 (digest"
before=$(digest ring@1.0.5)
import more 1.0.5 --overwrite
run 0 snapshots show ring@1.0.5
says "parent      ring@1.0.0 (digest"
import backwards 1.0.5 --overwrite
run 0 snapshots show ring@1.0.5
says "parent      the ring@1.0.5 that it replaced (digest $before)"

# --- diff: by ids, whatever the order
run 0 snapshots diff ring@1.0.0 ring@1.0.5
says "nodes stand at other numbers; they are compared by their ids"
silent "edges added"
silent "edges removed"
silent "labels changed"
run 0 snapshots diff ring@1.0.0 ring@1.1.0
says "edges                  20           40   +20"
says "every edge has its inverse: A no, B yes"
says "edges added: 20; the first of them:"
silent "edges removed"
[ "$(grep -c ' -> ' out)" = 10 ] || fail "not the first ten"
run 0 snapshots diff ring@1.0.0 ring@1.0.0
says "no differences"
cp -r more changed
sed -i 's/^v3,low/v3,high/; s/^v21,.*//' changed/labels.csv
sed -i '/^v21,/d' changed/features.csv
sed -i '/^v21/d' changed/edges.csv changed/labels.csv changed/train.csv changed/valid.csv changed/test.csv
sed -i 's/^v5,v6$/v5,v7/' changed/edges.csv
sed -i '/^v8$/d' changed/train.csv
import more 2.0.0 ""
import changed 2.1.0 ""
run 0 snapshots diff ring@2.0.0 ring@2.1.0
says "nodes                  22           21   -1"
sed -n '/^nodes removed/,$p' out >tail
cat >expected <<'END'
nodes removed: 1
  v21
labels changed: 1
  v3: high, was low
splits changed: 1
  v8: none, was train
edges removed: 2
  v21 -> v2
  v5 -> v6
edges added: 1
  v5 -> v7
END
cmp -s tail expected || fail "diff says something else"
run 78 snapshots diff ring@2.0.0
says "give two snapshots"
run 78 snapshots diff ring@2.0.0 circle
says "there is: ring@1.0.0"

# --- verify: every damaged file is named, the others are looked at all the same
run 0 snapshots verify --all
matches '^ring@1\.0\.0: ok \([0-9]+ files, [0-9.]+ kB\)$'
run 0 snapshots verify ring ring@2.1.0 ring@1.0.0
[ "$(grep -c ': ok' out)" = 2 ] || fail "the same snapshot was verified twice"
part=$snapshots/ring@1.0.0/partitions/2x1/part-1/features.npy
printf 'x' | dd of=$part bs=1 seek=140 conv=notrunc 2>dd.log
printf 'xx' >>$snapshots/ring@1.0.0/labels.npy
mv $snapshots/ring@2.0.0/split.npy split.npy
sed -i 's/"nodes": 21/"nodes": 20/' $snapshots/ring@2.1.0/manifest.json
run 70 snapshots verify --all
says "ring@1.0.0: DAMAGED"
says "$part: has MD5 "
says "$snapshots/ring@1.0.0/labels.npy: has "
says "ring@2.0.0: DAMAGED"
says "split.npy: No such file or directory, though its manifest lists it"
says "ring@2.1.0: DAMAGED"
says "ring@1.1.0: ok"
says "3 of 5 snapshots are damaged"
run 0 snapshots verify ring@1.1.0
run 78 snapshots verify
says "give snapshots, or --all"
mv split.npy $snapshots/ring@2.0.0
sed -i 's/"nodes": 20/"nodes": 21/' $snapshots/ring@2.1.0/manifest.json
run 0 snapshots verify ring@2.0.0 ring@2.1.0

# --- what is done by hand: the directory is the truth
cp -r $snapshots/ring@1.1.0 keep
mv $snapshots/ring@1.1.0 $snapshots/ring@2.0.0 .
mkdir -p other/snapshots
mv ring@2.0.0 other/snapshots
run 0 snapshots list
matches '^ring@1\.1\.0 .*  missing$'
says "ring@1.1.0 is missing: it was removed by hand; \`graphps snapshots rm ring@1.1.0\` forgets it"
run 70 snapshots verify ring@1.1.0
says "is missing"
run 0 snapshots rm ring@1.1.0
says "forgot ring@1.1.0, which was missing"
run 0 snapshots list
silent "ring@1.1.0"
run 0 snapshots list --root other
matches '^ring@2\.0\.0 .* 22 +22 +2 +2 '
run 0 snapshots show ring --root other
says "it was put there by hand"
sed -i 's/{/[/' other/snapshots/ring@2.0.0/manifest.json
run 0 snapshots list --root other
matches '^ring@2\.0\.0 .*  damaged$'
says "ring@2.0.0 is damaged: other/snapshots/ring@2.0.0/manifest.json:"
run 0 snapshots rm ring --root other
says "removed ring@2.0.0"
[ -z "$(ls other/snapshots)" ] || fail "something stayed"
ln -s "$dir/keep" other/snapshots/ring@9.0.0
mv $snapshots/ring@2.1.0 . && sed -i 's/"version": "2.1.0"/"version": "9.0.0"/' ring@2.1.0/manifest.json
run 0 snapshots rm ring@9.0.0 --root other
[ -f keep/manifest.json ] || fail "rm followed a link"
mv ring@2.1.0 $snapshots
run 0 snapshots list
says "in a directory of another name"

# --- rm
run 78 snapshots rm ring
says "name one of them: ring@1.0.0, ring@1.0.5"
run 78 snapshots rm circle
run 78 snapshots rm ring@1.0.0 --partition 3x1
says 'ring@1.0.0 has no partitioning "3x1"; there is: 2x1'
run 0 snapshots rm ring@1.0.0 --partition 2x1
says "removed ring@1.0.0 partitioning 2x1"
[ -z "$(ls $snapshots/ring@1.0.0/partitions)" ] || fail "something of the partitioning stayed"
run 0 snapshots show ring@1.0.0
says "partitions  none"
rm -rf $snapshots/ring@2.1.0
for version in 1.0.0 2.1.0 2.0.0; do run 0 snapshots rm ring@$version; done
[ "$(ls $snapshots)" = ring@1.0.5 ] || fail "not all went"

# A run and its model hold their snapshot, until they are gone themselves.
cat >job.yaml <<'END'
data: {snapshot: ring}
model: {hidden: 4}
train: {epochs: 2}
servers: {count: 1}
workers: {count: 1}
END
run 0 train job.yaml
run 0 snapshots list
matches '^ring@1\.0\.5 .* 1 +1x2$'
run 0 snapshots show ring
matches '^  [a-z]+: done, started 20.*Z, ended 20.*Z, .*partitioning 1x2; graphps-data/runs/'
says "models"
run 77 snapshots rm ring
says "2 runs and models refer to it: run graphps-data/runs/"
run 0 snapshots rm ring --partition 1x2
mv graphps-data elsewhere
run 77 snapshots rm ring --root elsewhere
says "run elsewhere/runs/"
mv elsewhere graphps-data
rm -rf graphps-data/runs
cp -r $snapshots/ring@1.0.5 whole
run 0 snapshots rm ring
cp -r whole $snapshots/ring@1.0.5
run 0 train job.yaml
run 0 snapshots rm ring --force

# A catalog of before its schema was numbered, and one of the future.
cp -r whole $snapshots/ring@1.0.5
printf 'no database at all, but long enough to be looked at\n' >graphps-data/catalog.db
run 0 snapshots list
says "warning: the catalog cannot be read: graphps-data/catalog.db: "
matches '^ring@1\.0\.5 '
run 70 snapshots rm ring
says "nobody knows which runs refer to ring@1.0.5"
rm graphps-data/catalog.db

# --- rm, killed at every system call that changes something: all is there, or nothing that opens;
# and the next rm leaves nothing.
kill_at() {
    cp -r whole $snapshots/ring@1.0.5
    code=0
    strace -f -qq -o trace -E ASAN_OPTIONS=detect_leaks=0 -e "inject=$1:signal=SIGKILL:when=$2" \
        "$graphps" snapshots rm ring --force >out 2>&1 || code=$?
}
if command -v strace >/dev/null && strace -o trace true 2>/dev/null; then
    rm -rf whole/partitions
    run 0 partition ring --parts 2 --halo 1
    rm -rf whole && cp -r $snapshots/ring@1.0.5 whole
    run 0 snapshots rm ring
    kills=0
    asides=0
    for call in rename unlink rmdir fsync pwrite64; do
        n=0
        while n=$((n + 1)) && kill_at $call $n && [ "$code" != 0 ]; do
            [ "$code" = 137 ] || fail "rm killed at $call $n: exit code $code"
            kills=$((kills + 1))
            if [ -e $snapshots/ring@1.0.5 ]; then
                run 0 snapshots verify ring
            else
                run 78 inspect ring
                for aside in $snapshots/*; do
                    [ -e "$aside" ] || continue
                    asides=$((asides + 1))
                    [ ! -e "$aside/manifest.json" ] || run 0 inspect "$aside"
                    run 0 snapshots list
                    says "left of an interrupted removal"
                done
            fi
            "$graphps" snapshots rm ring --force >out 2>&1 || [ $? = 78 ] || fail "the next rm fails"
            [ -z "$(ls $snapshots)" ] || fail "after rm killed at $call $n the next one leaves $(ls $snapshots)"
            run 78 snapshots show ring
        done
    done
    [ $kills -gt 30 ] && [ $asides -gt 20 ] || fail "killed $kills times only, $asides times half-way"
else
    echo "SKIPPED: rm killed half-way: strace is not there or may not trace here"
fi

for command in list show verify diff rm; do
    run 0 snapshots $command --help
    says "Usage: graphps snapshots $command"
done
run 0 snapshots --help
says "Exit codes: 0 done"
run 0 help snapshots
run 78 snapshots
run 78 snapshots lst
says 'did you mean "list"?'
echo "graphps snapshots: passed"
