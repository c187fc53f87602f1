#!/bin/sh
# Fails when an include points down or sideways, and prints the lines. An include only ever points up:
# common <- proto <- server | worker <- cli; tests and bench are free. Does not compile anything.
#   includes.sh ROOT          checks the sources below ROOT
#   includes.sh --self-check  shows that planted violations are found, and nothing else
set -eu

# check_folder ROOT FOLDER "ALLOWED|FOLDERS": prints what is wrong. In quotes only what is allowed, written
# from the root; in angle brackets nothing of ours; and no path that climbs.
check_folder() {
    (cd "$1" && find "$2" -type f \( -name '*.[ch]' -o -name '*.def' \) -exec \
        grep -nHE '^[[:space:]]*#[[:space:]]*include[[:space:]]' {} +) |
        awk -v allowed="^($3)/" -v ours='^(common|proto|server|worker|cli|tests|bench)/' '
            match($0, /#[ \t]*include[ \t]*["<][^">]*/) {
                path = substr($0, RSTART, RLENGTH)
                quoted = path ~ /"/
                sub(/.*["<]/, "", path)
                if (path ~ /\.\./ || (quoted ? path !~ allowed : path ~ ours))
                    print
            }'
}

check() {
    for folder in common proto server worker cli; do
        [ -d "$1/$folder" ] || { echo "no folder $1/$folder" && return; }
    done
    check_folder "$1" common 'common'
    check_folder "$1" proto 'common|proto'
    check_folder "$1" server 'common|proto|server'
    check_folder "$1" worker 'common|proto|worker'
    check_folder "$1" cli 'common|proto|server|worker|cli'
}

self_check() {
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    mkdir -p "$root/common" "$root/proto" "$root/server" "$root/worker/graph" "$root/cli" "$root/tests"
    good='#include <stdio.h>\n#include <sys/stat.h>\n#include "common/a.h"\n'
    printf "$good" >"$root/common/good.c"
    printf "$good"'#include "proto/a.h"\n' >"$root/proto/good.c"
    printf "$good"'#include "proto/a.h"\n#include "server/a.h"\n' >"$root/server/good.c"
    printf "$good"'# include "worker/graph/a.h" /* not "server/a.h" */\n' >"$root/worker/graph/good.h"
    printf "$good"'#include "server/a.h"\n#include "worker/a.h"\n' >"$root/cli/good.c"
    printf '#include "server/a.h"\n' >"$root/tests/free.c"
    wrong=$(check "$root")
    [ -z "$wrong" ] || { echo "called wrong, but right: $wrong" && exit 1; }

    printf '#include "proto/a.h"\n' >"$root/common/down.h"
    printf '#include "server/a.h"\n' >"$root/proto/down.c"
    printf '\n  #  include "worker/a.h"\n' >"$root/server/sideways.c"
    printf '#include "server/a.h"\n' >"$root/worker/graph/sideways.c"
    printf '#include "cli/a.h"\n' >"$root/worker/down.def"
    printf '#include "tests/a.h"\n' >"$root/cli/tests.c"
    printf '#include "a.h"\n' >"$root/server/unrooted.c"
    printf '#include <server/a.h>\n' >"$root/worker/brackets.c"
    printf '#include "common/../server/a.h"\n' >"$root/common/climbs.c"
    found=$(check "$root" | sed 's/:.*//' | sort | tr '\n' ' ')
    expected='cli/tests.c common/climbs.c common/down.h proto/down.c server/sideways.c '
    expected="$expected"'server/unrooted.c worker/brackets.c worker/down.def worker/graph/sideways.c '
    if [ "$found" != "$expected" ]; then
        printf 'planted: %s\nfound:   %s\n' "$expected" "$found"
        exit 1
    fi
    if "$0" "$root" >"$root/out"; then
        echo "violations were printed, but the exit code is 0"
        exit 1
    fi
}

if [ "$1" = --self-check ]; then
    self_check
    exit 0
fi
wrong=$(check "$1")
if [ -n "$wrong" ]; then
    printf '%s\nincludes point only up: common <- proto <- server | worker <- cli\n' "$wrong"
    exit 1
fi
