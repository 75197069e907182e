#!/bin/bash
# Runs a command as root in another release of Debian. The release is a folder
# below target/matrix, which the first run creates. The kernel, the checkout,
# the Rust and the crates are those of this machine.
#
#   root.sh [-f] [-n] RELEASE[-NAME] COMMAND...
#
#   -f  discards changes to the folder, except target/, when the command ends
#   -n  uses the Rust of the release, which must be new enough
#
# With a NAME the command gets a separate folder of the release. The folder
# RELEASE-arm64 has the programs of another architecture, which qemu-user-static
# emulates. Each folder has its own target/. All processes in the folder end
# with the command. Downloaded packages stay in a neighbouring folder.

set -euo pipefail

fresh=
lend=
while getopts fn option; do
    case $option in
        f) fresh=yes ;;
        n) lend=no ;;
        *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
release=$1
shift
checkout=$(cd "$(dirname "$0")/.." && pwd)
root=$checkout/target/matrix/$release
target=$root.target

die() {
    echo "root.sh: $*" >&2
    exit 1
}

make_root() {
    local mirror
    mirror=$("$checkout/tests/mirror.sh")

    echo "making a folder with Debian $release"
    rm -rf "$root.new"
    mkdir -p "$root.new/etc/apt/apt.conf.d"
    apt-config dump | sed -n '/::IndexTargets/d; /^Acquire::/p' \
        > "$root.new/etc/apt/apt.conf.d/machine"
    cp /etc/hosts "$root.new/etc/hosts"
    debootstrap --variant=minbase $arch "${release%-*}" "$root.new" "$mirror" \
        > "$root.log" 2>&1 || {
        tail -n 5 "$root.log" >&2
        die "Debian $release cannot be fetched"
    }
    mv "$root.new" "$root"
}

# The package registers the emulator only if systemd runs, so this does it.
register_emulator() {
    local formats=/proc/sys/fs/binfmt_misc
    mountpoint -q "$formats" || mount -t binfmt_misc binfmt_misc "$formats"
    [ -e "$formats/qemu-aarch64" ] \
        || cat /usr/lib/binfmt.d/qemu-aarch64.conf > "$formats/register"
}

[ "$(id -u)" = 0 ] || die "run as root"
arch=
case $release in
    *-arm64)
        arch=--arch=arm64
        lend=no
        register_emulator
        ;;
esac
mkdir -p "$target" "$root.debs/partial"
[ -d "$root" ] || make_root

cargo=${CARGO_HOME:-$HOME/.cargo}
rust=
case $lend$release in
    *-arm64) ;;
    nobullseye* | nobookworm*) lend= ;;
esac
if [ -z "$lend" ]; then
    rust=$(rustc --print sysroot)
    [ "$rust" != /usr ] || die "the Rust of /usr cannot be lent: get rustup's"
fi

# The processes, the mounts and /tmp disappear when the command ends.
inside='
set -e
root=$1 target=$2 checkout=$3 rust=$4 cargo=$5 fresh=$6
shift 6
if [ -n "$fresh" ]; then
    mkdir -p "$root.upper"
    mount -t tmpfs tmpfs "$root.upper"
    mkdir "$root.upper/files" "$root.upper/work"
    mount -t overlay overlay "$root" \
        -o "lowerdir=$root,upperdir=$root.upper/files,workdir=$root.upper/work"
fi
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount --bind "$root.debs" "$root/var/cache/apt/archives"
for folder in "$checkout" "$cargo" ${rust:+"$rust"}; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
done
mount --bind "$target" "$root$checkout/target"
chroot "$root" /usr/bin/env -i HOME=/root LANG=C.UTF-8 CARGO_HOME="$cargo" \
    PATH="${rust:+$rust/bin:}/usr/sbin:/usr/bin:/sbin:/bin" CARGO_NET_OFFLINE=true \
    sh -c "cd \"\$0\" && exec \"\$@\"" "$checkout" "$@"
'
exec unshare --mount --pid --fork --kill-child bash -c "$inside" root.sh \
    "$root" "$target" "$checkout" "$rust" "$cargo" "$fresh" "$@"
