#!/bin/sh
# Installs the given Debian packages that are missing, but starts no service,
# so a web server that runs already is not disturbed. On a system without apt
# this only prints the names, and a command that is missing fails later.

set -eu

missing=
for package do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || state=
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

command -v apt-get > /dev/null || {
    echo "packages.sh: no apt-get here, so install by hand:$missing" >&2
    exit 0
}
if [ "$(id -u)" != 0 ]; then
    command -v sudo > /dev/null || {
        echo "packages.sh: run as root to install:$missing" >&2
        exit 1
    }
    exec sudo "$0" "$@"
fi

# Packages run this program to find out whether they may start their service.
policy=/usr/sbin/policy-rc.d
aside=
restore() {
    rm -f "$policy"
    [ -z "$aside" ] || mv "$aside" "$policy"
}
if [ -e "$policy" ]; then
    aside=$policy.ngx-rs-listen
    mv "$policy" "$aside"
fi
trap restore EXIT
trap 'exit 1' HUP INT TERM
printf '#!/bin/sh\nexit 101\n' > "$policy"
chmod 755 "$policy"

echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
{
    apt-get -q update \
        && apt-get -q -y --no-install-recommends \
            -o DPkg::Lock::Timeout=120 install $missing
} > "$log" 2>&1 || {
    tail -n 20 "$log" >&2
    rm -f "$log"
    echo "packages.sh: could not install$missing" >&2
    exit 1
}
rm -f "$log"
