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

# Debian 11 has no package of nginx's headers, and what they want besides.
. /etc/os-release
case $VERSION_CODENAME in
    bullseye) headers="libpcre3-dev libssl-dev zlib1g-dev" ;;
    *) headers=nginx-dev ;;
esac

tests/packages.sh binutils curl gcc iproute2 libc6-dev libnginx-mod-mail \
    libnginx-mod-stream make nftables nginx openssl procps prometheus strace \
    valgrind $headers

case $1 in
    loaded)
        if [ "$headers" != nginx-dev ]; then
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
    skip="--skip fallback:: --skip falls_back --skip never_mptcp"
    echo "remark: nft is too old for the tests with a middlebox"
fi

"${NGX_RS_NGINX:-nginx}" -v
cargo test --locked --test nginx -- $skip
