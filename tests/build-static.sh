#!/bin/sh
# Builds FOLDER/nginx: Debian's nginx source with our modules linked in, by
# nginx's own ./configure --add-module.

set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)

"$root/tests/nginx-source.sh" "$folder/source"

echo "building nginx with the modules linked in"
cd "$folder/source"
{
    ./configure --with-stream --with-stream_ssl_module --with-http_ssl_module \
        --with-http_v2_module --with-mail --with-mail_ssl_module \
        --without-http_gzip_module --with-debug --error-log-path=stderr \
        --add-module="$root/nginx-module" \
        && make -j "$(nproc)"
} > "$folder/build.log" 2>&1 || {
    tail -n 20 "$folder/build.log" >&2
    exit 1
}
cp objs/nginx "$folder/nginx"
