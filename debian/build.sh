#!/bin/sh
# Builds the Debian packages in FOLDER, from a copy of the source: nothing is
# written beside it.
#
#   build.sh FOLDER

set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
rm -rf "$1"
mkdir -p "$1/source"
cd "$1/source"

tar -c -C "$root" --exclude=./target --exclude=./fuzz/target \
    --exclude=./.git . | tar -x

# Debian 12 gets 0.1.0-1~deb12, and so on: an upgrade of the distribution also
# upgrades the packages.
. /etc/os-release
[ -z "${VERSION_ID:-}" ] || sed -i debian/changelog -e \
    "1s/(\(.*\)) unstable;/(\1~deb$VERSION_ID) $VERSION_CODENAME;/"

echo "building the packages of $(dpkg-parsechangelog -S Version)"
unset CARGO_TARGET_DIR
export DEB_BUILD_OPTIONS="noautodbgsym parallel=$(nproc)"
dpkg-buildpackage --build=binary --no-sign > ../build.log 2>&1 || {
    tail -n 20 ../build.log >&2
    exit 1
}
cd ..
rm -rf source
ls -l -- *.deb
