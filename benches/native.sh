#!/bin/sh
# Compares the module with the `multipath` of nginx 1.29.7 and later in one
# run. This runs inside of a Debian release that has such an nginx, see
# tests/root.sh.

set -eu

tests/packages.sh binutils gcc iproute2 libc6-dev libnginx-mod-mail \
    libnginx-mod-stream make mptcpize nginx nginx-dev openssl procps strace wrk

make module
nginx -v

failed=0
cargo bench --locked --no-fail-fast --bench nginx --bench http -- --native \
    || failed=1
cargo test --locked --test nginx native::ours_loses_nobody -- --ignored \
    --nocapture || failed=1
exit "$failed"
