#!/bin/bash
# Runs a command in another release of Debian, as root: in a folder below
# target/matrix that is made once, with a kernel, a checkout and a Rust that
# are the machine's own.
#
#   root.sh RELEASE[-NAME] COMMAND...
#
# With a NAME it is a folder of its own, apart from others of the release.
# What runs in there finds a target/ of its own, and ends with the command.

set -euo pipefail

release=$1
shift
checkout=$(cd "$(dirname "$0")/.." && pwd)
root=$checkout/target/matrix/$release
target=$root.target

die() {
    echo "root.sh: $*" >&2
    exit 1
}

# The machine's own mirror and its way there; to another one, DEBIAN_MIRROR.
make_root() {
    local mirror
    mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' \
        'Origin: Debian' 'Component: main' 'Created-By: Packages' \
        | grep -v -e '-security/*$' | head -n 1)} || true
    [ -n "$mirror" ] || die "apt knows no Debian, set DEBIAN_MIRROR"

    echo "making a folder with Debian $release"
    rm -rf "$root.new"
    mkdir -p "$root.new/etc/apt/apt.conf.d"
    apt-config dump | sed -n '/::IndexTargets/d; /^Acquire::/p' \
        > "$root.new/etc/apt/apt.conf.d/machine"
    cp /etc/hosts "$root.new/etc/hosts"
    debootstrap --variant=minbase "${release%-*}" "$root.new" "$mirror" \
        > "$root.log" 2>&1 || {
        tail -n 5 "$root.log" >&2
        die "Debian $release cannot be fetched"
    }
    mv "$root.new" "$root"
}

[ "$(id -u)" = 0 ] || die "run as root"
mkdir -p "$target"
[ -d "$root" ] || make_root

rust=$(rustc --print sysroot)
cargo=${CARGO_HOME:-$HOME/.cargo}
[ "$rust" != /usr ] || die "the Rust of /usr cannot be lent: get rustup's"

# All of it goes with the command: the processes, the mounts and /tmp.
inside='
set -e
root=$1 target=$2 checkout=$3 rust=$4 cargo=$5
shift 5
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
for folder in "$checkout" "$rust" "$cargo"; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
done
mount --bind "$target" "$root$checkout/target"
chroot "$root" /usr/bin/env -i HOME=/root LANG=C.UTF-8 CARGO_HOME="$cargo" \
    PATH="$rust/bin:/usr/sbin:/usr/bin:/sbin:/bin" CARGO_NET_OFFLINE=true \
    sh -c "cd \"\$0\" && exec \"\$@\"" "$checkout" "$@"
'
exec unshare --mount --pid --fork --kill-child bash -c "$inside" root.sh \
    "$root" "$target" "$checkout" "$rust" "$cargo" "$@"
