#!/bin/sh
# Builds FOLDER/nginx from Debian's source by nginx's own ./configure, with
# stream and mail linked in. The modules of this project are linked in too, or
# built as files that nginx can load.
#
#   build-nginx.sh FOLDER --add-module|--add-dynamic-module

set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)

"$root/tests/nginx-source.sh" "$folder/source"

echo "building nginx with $2"
cd "$folder/source"
{
    ./configure --with-stream --with-stream_ssl_module \
        --with-stream_ssl_preread_module --with-http_ssl_module \
        --with-http_v2_module --with-http_realip_module \
        --with-http_auth_request_module --with-mail \
        --with-mail_ssl_module --without-http_gzip_module \
        --with-poll_module --with-select_module \
        --with-debug --error-log-path=stderr \
        "$2=$root/nginx-module" \
        && make -j "$(nproc)"
} > "$folder/build.log" 2>&1 || {
    tail -n 20 "$folder/build.log" >&2
    exit 1
}

# Installs new files, because a running nginx may have mapped the old ones.
for file in objs/*.so objs/nginx; do
    [ ! -f "$file" ] || install "$file" "$folder"
done
