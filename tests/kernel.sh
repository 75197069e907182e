#!/bin/bash
# Runs a command as root on the kernel of another release of Debian. QEMU boots
# that kernel with the files of this machine. The guest can read all files, and
# its changes are discarded when the command, and with it the guest, ends.
#
#   kernel.sh RELEASE COMMAND...
#
# The first run downloads the kernel to a folder below target/kernels. The
# kernel is not installed. To download it again, remove the folder. After
# KERNEL_SECONDS the guest is killed. Do not install packages while the guest
# runs, because it uses the libraries of this machine.

set -euo pipefail

release=$1
shift
checkout=$(cd "$(dirname "$0")/.." && pwd)
kernel=$checkout/target/kernels/$release
seconds=${KERNEL_SECONDS:-3600}

die() {
    echo "kernel.sh: $*" >&2
    exit 1
}

# Runs apt with one release as its only source and without installed packages.
apt_of_release() {
    apt-get -q -o Dir::State="$kernel.new/apt" -o Dir::Cache="$kernel.new/apt" \
        -o Dir::State::status=/dev/null -o APT::Sandbox::User=root \
        -o Dir::Etc::sourcelist="$kernel.new/apt/sources.list" \
        -o Dir::Etc::sourceparts=- "$@"
}

# Debian's unstable release splits the kernel into several packages.
fetch_packages() {
    local packages
    cd "$kernel.new/apt"
    apt_of_release update
    packages=$(apt_of_release --simulate install linux-image-amd64 \
        | sed -n 's/^Inst \(linux-[a-z]*-[0-9][^ ]*\) .*/\1/p')
    [ -n "$packages" ]
    apt_of_release download $packages
    for package in *.deb; do
        dpkg-deb --extract "$package" "$kernel.new"
    done
    mkdir -p "$kernel.new/boot"
    [ -d "$kernel.new/lib" ] || ln -s usr/lib "$kernel.new/lib"
}

fetch_kernel() {
    local mirror
    mirror=$("$checkout/tests/mirror.sh")
    echo "fetching the kernel of Debian $release"
    rm -rf "$kernel.new"
    mkdir -p "$kernel.new/apt/lists/partial" "$kernel.new/apt/archives/partial"
    echo "deb [target=Packages] $mirror $release main" \
        > "$kernel.new/apt/sources.list"
    # A separate shell, because set -e has no effect within a condition.
    export -f fetch_packages apt_of_release
    kernel=$kernel release=$release bash -euo pipefail -c fetch_packages \
        > "$kernel.fetched" 2>&1 || {
        tail -n 5 "$kernel.fetched" >&2
        die "the kernel of Debian $release cannot be fetched"
    }
    rm -r "$kernel.new/apt"
    make_initramfs "$kernel.new"
    mv "$kernel.new" "$kernel"
}

# Mounts the files of the machine read-only, with a file system in memory above
# them that receives all changes.
init='#!/bin/busybox sh
PATH=/bin
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
while read -r module; do
    insmod "/modules/$module"
done < /modules/order
options=trans=virtio,version=9p2000.L,msize=262144
mount -t 9p -o "$options,ro,cache=loose" host /host
mount -t tmpfs -o mode=755 tmpfs /changes
mkdir /changes/upper /changes/work
mount -t overlay overlay /new \
    -o lowerdir=/host,upperdir=/changes/upper,workdir=/changes/work
mount -t tmpfs -o mode=755 tmpfs /new/run
mkdir /new/run/guest
mount -t 9p -o "$options" guest /new/run/guest
exec switch_root /new /bin/bash /run/guest/inside
'

make_initramfs() {
    local version files=$1/initramfs module
    version=$(ls "$1/lib/modules")
    depmod --basedir "$1" "$version"
    mkdir -p "$files"/{bin,proc,host,changes,new,modules}
    cp /bin/busybox "$files/bin"
    printf '%s' "$init" > "$files/init"
    chmod 755 "$files/init"
    modprobe --dirname "$1" --set-version "$version" --all --show-depends \
        virtio_pci 9pnet_virtio 9p overlay \
        | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' \
        | while read -r module; do
            name=$(basename "${module%.xz}")
            case $module in
                *.xz) xz --decompress --stdout "$module" ;;
                *) cat "$module" ;;
            esac > "$files/modules/$name"
            echo "$name" >> "$files/modules/order"
        done
    (cd "$files" && find . | cpio --quiet --create --format newc) \
        | gzip > "$1/initramfs.gz"
    rm -r "$files"
    mv "$(find "$1/boot" "$1/lib/" -name 'vmlinuz*')" "$1/vmlinuz"
}

# Completes the boot with the files of the machine, and runs the command.
inside='
PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /lib/modules
mount -t devpts -o ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount --bind "$kernel/lib/modules" /lib/modules
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
# No udev runs in the guest, so the module is loaded to get /dev/net/tun.
modprobe tun
stty -F /dev/ttyS1 $terminal
ulimit -n 20000
cd "$checkout"
setsid --ctty --wait env -i HOME=/root LANG=C.UTF-8 TERM="$term" \
    CARGO_HOME="$cargo" CARGO_NET_OFFLINE=true \
    PATH="$rust/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
    "${command[@]}" < /dev/ttyS1 > /dev/ttyS1 2>&1
status=$?
echo "$status" > /run/guest/status
sync
echo o > /proc/sysrq-trigger
sleep 60
'

[ "$(id -u)" = 0 ] || die "run as root"
mkdir -p "$checkout/target/kernels"
[ -d "$kernel" ] || fetch_kernel

rust=$(rustc --print sysroot)
cargo=${CARGO_HOME:-$HOME/.cargo}
term=${TERM:-dumb}
command=("$@")
# If this is no terminal, the lines are written unchanged.
if [ -t 0 ]; then
    terminal=$(stty size | sed 's/\(.*\) \(.*\)/rows \1 cols \2/')
else
    terminal="-opost -echo"
fi

guest=$(mktemp -d "$kernel.run.XXXXXX")
trap 'rm -rf "$guest"' EXIT
{
    declare -p kernel checkout rust cargo term terminal command
    printf '%s' "$inside"
} > "$guest/inside"

timeout --foreground "$seconds" qemu-system-x86_64 \
    -accel "${KERNEL_ACCEL:-tcg}" -cpu max -smp 2 -m "${KERNEL_MEMORY:-4096}" \
    -nodefaults -no-reboot -display none -device virtio-rng-pci \
    -kernel "$kernel/vmlinuz" -initrd "$kernel/initramfs.gz" \
    -append "console=ttyS0 panic=-1" \
    -serial "file:$guest/console" \
    -chardev stdio,id=terminal,signal=off -serial chardev:terminal \
    -virtfs "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap" \
    -virtfs "local,path=$guest,mount_tag=guest,security_model=none" \
    || echo "kernel.sh: QEMU ended with status $?, 124 means after $seconds s" >&2

[ -s "$guest/status" ] || {
    cp "$guest/console" "$kernel.console"
    die "the kernel of Debian $release ended before the command"
}
exit "$(cat "$guest/status")"
