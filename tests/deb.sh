#!/bin/bash
# Installs the packages of target/deb on a clean Debian 12, in a folder that
# is made once below target/matrix and that a run leaves as it was; for what
# is asked of them there see deb-inside.sh. The network is used only to fetch
# what they depend on.

set -euo pipefail
cd "$(dirname "$0")/.."

# The bug to be closed is Debian's request for a new package.
lintian --allow-root --fail-on error,warning \
    --suppress-tags initial-upload-closes-no-bugs target/deb/*.changes

# That of the nginx that they were built for: with another they would not load.
abi=$(dpkg-query -W -f '${Provides}' nginx | grep -o 'nginx-abi-[^ ,]*')
for module in stream http mail; do
    dpkg-deb -f target/deb/libnginx-mod-$module-rs-listen_*.deb Depends \
        | tr , '\n' | grep -q "^ *$abi *\$" || {
            echo "deb.sh: the package for $module does not depend on $abi" >&2
            exit 1
        }
done

echo "building them again, in another folder: every byte is the same"
debian/build.sh target/deb-again > /dev/null
for package in target/deb/*.deb; do
    cmp "$package" "target/deb-again/${package##*/}"
done

# Where the folder has its target/, see root.sh.
root=$PWD/target/matrix/bookworm-clean
mkdir -p "$root.target"
rm -rf "$root.target/deb"
cp -r target/deb "$root.target/deb"

tests/root.sh bookworm-clean tests/deb-inside.sh fetch

inside='
set -e
root=$1 upper=$1.upper
ip link set lo up
mkdir -p "$upper"
mount -t tmpfs tmpfs "$upper"
mkdir "$upper/files" "$upper/work"
mount -t overlay overlay "$root" \
    -o "lowerdir=$root,upperdir=$upper/files,workdir=$upper/work"
exec tests/root.sh bookworm-clean tests/deb-inside.sh use
'
unshare --net --mount bash -c "$inside" deb.sh "$root"
