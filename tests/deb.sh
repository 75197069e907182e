#!/bin/bash
# Builds the packages on a minimal Debian, and installs them on a clean one.
# Both systems are folders below target/matrix, which the first run creates
# and which no run changes. deb-inside.sh has the checks. The network is used
# only to download packages of Debian.
#
#   deb.sh [RELEASE...]

set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p target/matrix
cargo fetch --locked --quiet

[ $# != 0 ] || set -- bookworm

for release do
    echo "Debian $release"
    folder=target/matrix/$release
    rm -rf "$folder-fresh.target" "$folder-clean.target"
    tests/root.sh -fn "$release-fresh" tests/deb-inside.sh build

    mkdir -p "$folder-clean.target"
    cp -r "$folder-fresh.target/deb" "$folder-clean.target/deb"
    tests/root.sh "$release-clean" tests/deb-inside.sh fetch

    unshare --net bash -c '
        ip link set lo up
        exec tests/root.sh -f "$0-clean" tests/deb-inside.sh use
    ' "$release"
done
