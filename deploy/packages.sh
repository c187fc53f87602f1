# Debian packages that graphps needs, and a function that installs what is missing of them. Sourced by
# deploy/quickstart and tests/run.
packages_build="meson ninja-build gcc pkg-config protobuf-c-compiler libuv1-dev libprotobuf-c-dev
    libopenblas-openmp-dev libyaml-dev libjansson-dev libmicrohttpd-dev libssl-dev libmetis-dev
    libsqlite3-dev zlib1g-dev libxxhash-dev"
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
