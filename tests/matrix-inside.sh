#!/bin/sh
# The part of tests/matrix.sh that runs inside of a release: runs the nginx
# tests with modules that the packaged nginx loads, or with modules that are
# linked into an nginx from Debian's source. With "built" it only builds the
# library with the Rust of the release. The Rust of Debian 13 is the oldest
# supported. With "arm64" it builds on an emulated arm64, checks that nginx
# accepts the modules, and runs the tests of the library that need no MPTCP
# socket, because the emulator has none.
#
#   matrix-inside.sh loaded|linked|built|arm64

set -eu

if [ "$1" = built ]; then
    tests/fresh-inside.sh module
    make build
    nginx -v
    echo "remark: built with Rust $(rustc --version | cut -d ' ' -f 2)"
    exit
fi

if [ "$1" = arm64 ]; then
    tests/packages.sh cargo libclang-dev libnginx-mod-mail make
    make module build
    nginx -v
    cat > target/nginx.conf <<END
load_module modules/ngx_stream_module.so;
load_module modules/ngx_mail_module.so;
load_module $PWD/target/nginx/ngx_stream_rs_listen_module.so;
load_module $PWD/target/nginx/ngx_http_rs_listen_module.so;
load_module $PWD/target/nginx/ngx_mail_rs_listen_module.so;
events { }
http { server { listen 127.0.0.1:8080 mptcp=auto; } }
stream { server { listen 127.0.0.1:8081 mptcp=auto; return ""; } }
END
    nginx -t -c "$PWD/target/nginx.conf"
    cargo test --locked --lib --test parse --test assign
    echo "remark: $(uname -m), emulated"
    exit
fi

# Debian 11 has no package of nginx's headers, so the packages that the headers
# need are listed. It has no mptcpize either.
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

# nft cannot remove an option from a packet before version 1.0.2.
skip=
if [ "$VERSION_CODENAME" = bullseye ]; then
    skip="--skip fallback:: --skip falls_back --skip never_mptcp --skip preload::"
    echo "remark: no mptcpize, and nft is too old for tests with a middlebox"
fi

"${NGX_RS_NGINX:-nginx}" -v
cargo test --locked --test nginx -- $skip
