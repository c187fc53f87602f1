# What deploy/quickstart and tests/run share: the Debian packages that graphps needs, a function that
# installs what is missing of them, and one that sets a build directory up. Sourced in the clone's root.
packages_build="meson ninja-build gcc pkg-config protobuf-c-compiler libuv1-dev libprotobuf-c-dev
    libopenblas-openmp-dev libyaml-dev libjansson-dev libmicrohttpd-dev libssl-dev libmetis-dev
    libsqlite3-dev zlib1g-dev libzip-dev libxxhash-dev"
packages_test="check curl python3 strace"

# packages_install NAME... : says what it installs; does nothing when all are there.
packages_install() {
    missing=
    for package in "$@"; do
        status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) || status=
        [ "$status" = "install ok installed" ] || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    echo "installing Debian packages:$missing"
    as_root=
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "this needs root, and there is no sudo; as root, run: apt-get install$missing" >&2
            return 77
        fi
        as_root=sudo
    fi
    # shellcheck disable=SC2086
    $as_root apt-get -qq -o DPkg::Lock::Timeout=400 update &&
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
            -o DPkg::Lock::Timeout=400 -o Dpkg::Use-Pty=0 install $missing >/dev/null
}

# build_setup DIR OPTION... : `meson setup`, unless that is done. A build directory that came along when a
# clone was copied or moved points at where it came from: ninja would build there, so it is made anew.
build_setup() {
    build_dir=$1
    shift
    if [ -f "$build_dir/build.ninja" ]; then
        python3 -c '
import json, os, sys
with open(sys.argv[1]) as info:
    source = json.load(info)["directories"]["source"]
sys.exit(not os.path.samefile(source, "."))' "$build_dir/meson-info/meson-info.json" 2>/dev/null &&
            return 0
        echo "$build_dir was set up for another directory than $PWD: setting it up anew"
        rm -rf "$build_dir"
    fi
    mkdir -p "$build_dir"
    meson setup "$build_dir" "$@" >"$build_dir/setup.log" 2>&1 || {
        cat "$build_dir/setup.log"
        return 70
    }
}
