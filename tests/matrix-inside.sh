#!/bin/sh
# A line of tests/matrix.sh, inside of its release: the nginx tests with the
# modules loaded into the packaged nginx, or linked into one from its source.
# Or only a build with the release's own Rust; that of Debian 13 is the oldest
# supported.
#
#   matrix-inside.sh loaded|linked|built

set -eu

if [ "$1" = built ]; then
    tests/fresh-inside.sh module
    make build
    nginx -v
    echo "remark: built with Rust $(rustc --version | cut -d ' ' -f 2)"
    exit
fi

# Debian 11 has no package of nginx's headers, whose needs are these, and none
# of mptcpize.
. /etc/os-release
case $VERSION_CODENAME in
    bullseye) more="libpcre3-dev libssl-dev zlib1g-dev" ;;
    *) more="mptcpize nginx-dev" ;;
esac

tests/packages.sh binutils curl gcc iproute2 libc6-dev libnginx-mod-mail \
    libnginx-mod-stream make nftables nginx openssl procps prometheus strace \
    valgrind $more

case $1 in
    loaded)
        if [ "$VERSION_CODENAME" = bullseye ]; then
            export NGINX_SOURCE="$PWD/target/nginx-source"
            tests/nginx-source.sh "$NGINX_SOURCE"
        fi
        make module
        ;;
    linked)
        export NGX_RS_NGINX="$PWD/target/nginx-static/nginx"
        make static
        ;;
esac

# Before its version 1.0.2, nft cannot take an option from a packet.
skip=
if [ "$VERSION_CODENAME" = bullseye ]; then
    skip="--skip fallback:: --skip falls_back --skip never_mptcp --skip preload::"
    echo "remark: no mptcpize, and nft is too old for tests with a middlebox"
fi

"${NGX_RS_NGINX:-nginx}" -v
cargo test --locked --test nginx -- $skip
