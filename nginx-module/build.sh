#!/bin/sh
# Builds the modules for an installed nginx.
#
#   NGINX         its binary (default: the nginx on PATH)
#   NGINX_SOURCE  source or headers of the same version (default: those of
#                 Debian's package nginx-dev)
#   OUT           where the modules go (default: target/nginx)

set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")

die() {
    echo "build.sh: $*" >&2
    exit 1
}

NGINX=${NGINX:-$(PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin command -v nginx)} \
    || die "no nginx found: install it (Debian: apt-get install nginx)," \
           "or pass NGINX=/path/to/nginx"
NGINX_SOURCE=${NGINX_SOURCE:-/usr/share/nginx/src}
OUT=${OUT:-$root/target/nginx}

[ -x "$NGINX" ] || die "$NGINX is no program"
[ -f "$NGINX_SOURCE/configure" ] \
    || die "no nginx source in $NGINX_SOURCE: install the headers (Debian:" \
           "apt-get install nginx-dev), or pass NGINX_SOURCE=/path/to/source"

# the version of both

binary=$("$NGINX" -v 2>&1 | sed -n 's,^nginx version: [^/]*/\([0-9.]*\).*,\1,p')
headers=$(sed -n 's,^#define NGINX_VERSION  *"\([0-9.]*\)".*,\1,p' \
              "$NGINX_SOURCE/src/core/nginx.h")

[ "$binary" = "$headers" ] \
    || die "$NGINX is version $binary, but $NGINX_SOURCE has the headers of" \
           "$headers: install nginx-dev of version $binary, or pass the" \
           "source of $binary as NGINX_SOURCE"

# the options of the binary, but for other modules: those that are not nginx's
# own, and those that are loaded and want libraries that we do not need

eval "set -- $("$NGINX" -V 2>&1 | sed -n 's/^configure arguments: //p')"

for option do
    shift
    case $option in
        --add-module=* | --add-dynamic-module=* | --with-openssl=*) ;;
        --with-pcre=* | --with-zlib=* | --with-*_geoip_module*) ;;
        --with-http_xslt_module* | --with-http_image_filter_module*) ;;
        --with-http_perl_module* | --with-google_perftools_module*) ;;
        --with-cc-opt=* | --with-ld-opt=* | --builddir=*) ;;
        *) set -- "$@" "$option" ;;
    esac
done

# modules of nginx that were built apart from the binary, as in Debian 11

for option do
    case $option in
        --modules-path=*) folder=${option#*=} ;;
    esac
done

for name in stream mail; do
    case " $* " in *" --with-$name "* | *" --with-$name=dynamic "*) continue ;; esac
    [ ! -f "${folder:-}/ngx_${name}_module.so" ] \
        || set -- "$@" "--with-$name=dynamic"
done

# configure writes where it runs: never into the source

mkdir -p "$OUT/build"
OUT=$(cd "$OUT" && pwd)
work=$OUT/build
rm -rf "$work/auto" "$work/src" "$work/conf"
cp -r "$NGINX_SOURCE/auto" "$NGINX_SOURCE/configure" "$NGINX_SOURCE/src" "$work"
cd "$work"

echo "configuring for nginx $binary"
bash ./configure "$@" --with-cc-opt="${CFLAGS:--O2} -fPIC" \
    --with-ld-opt="${LDFLAGS:-} -fPIC" \
    --add-dynamic-module="$here" > configure.log 2>&1 \
    || { tail -n 20 configure.log >&2; die "configure failed"; }

# only our modules, as there may be headers alone

modules=$(sed -n 's,^modules:.*\(objs/ngx_[a-z]*_rs_listen_module\.so\),\1,p' \
              objs/Makefile)
[ -n "$modules" ] \
    || die "$NGINX has neither stream, http nor mail: there is nothing to build"

echo "building $(echo $modules | sed 's,objs/,,g')"
make -f objs/Makefile $modules > make.log 2>&1 \
    || { tail -n 20 make.log >&2; die "make failed"; }

# A running nginx may have the old file mapped: never write into that one.
for module in $modules; do
    name=${module#objs/}
    strip --strip-unneeded -o "$OUT/.$name.new" "$module"
    mv -f "$OUT/.$name.new" "$OUT/$name"
    ls -l "$OUT/$name"
done
