#!/bin/sh
# Builds the modules for an installed nginx.
#
#   NGINX         its binary (default: the nginx on PATH)
#   NGINX_SOURCE  its source or headers: a release, a checkout, or OpenResty's
#                 bundle (default: those of Debian's package nginx-dev)
#   OUT           the folder for the modules (default: target/nginx)

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

[ -x "$NGINX" ] || die "$NGINX is not a program: pass NGINX=/path/to/nginx"

# forks print their own name first: "Angie version: Angie/1.13.0"

binary=$("$NGINX" -v 2>&1 | sed -n 's,^[^ ]* version: *,,p' | head -n 1)
[ -n "$binary" ] \
    || die "$NGINX -v prints no version, so it is not an nginx:" \
           "pass NGINX=/path/to/nginx"

# the source may be a release, Debian's headers, a checkout, or inside of
# OpenResty's bundle

source=
for tree in "$NGINX_SOURCE" "$NGINX_SOURCE"/bundle/nginx-*; do
    [ ! -f "$tree/src/core/nginx.h" ] || source=$tree
done

configure=configure
[ -f "$source/configure" ] || configure=auto/configure

[ -n "$source" ] && [ -f "$source/$configure" ] \
    || die "no nginx source in $NGINX_SOURCE: $NGINX is $binary, so install" \
           "its headers (Debian: apt-get install nginx-dev), or pass" \
           "NGINX_SOURCE=/path/to/source of $binary"

headers=$(sed -n 's,^#define \([A-Z]*\)_VERSION  *"\(.*\)".*,\1/\2,p' \
              "$source"/src/core/*.h | tr A-Z a-z | xargs)
versions="$NGINX is $binary, and $source has the headers of"
versions="$versions ${headers:-an unknown version}"
remedy="install nginx-dev of the same version as $binary, or pass the source"
remedy="$remedy of $binary as NGINX_SOURCE"

# the options of the binary, without third-party modules and without dynamic
# modules, which may need libraries that are not installed

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

# modules of nginx that were built separately from the binary, as in Debian 11

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

# configure writes to its working directory, which must not be the source

mkdir -p "$OUT/build"
OUT=$(cd "$OUT" && pwd)
work=$OUT/build
rm -rf "$work/auto" "$work/src" "$work/configure" "$work/objs/probe.so"
cp -r "$source/auto" "$source/src" "$source/$configure" "$work"
cd "$work"

echo "configuring for $binary"
bash "./${configure##*/}" "$@" --with-cc-opt="${CFLAGS:--O2} -fPIC" \
    --with-ld-opt="${LDFLAGS:-} -fPIC" \
    --add-dynamic-module="$here" > configure.log 2>&1 \
    || {
        tail -n 20 configure.log >&2
        die "configure failed. $versions: if these differ, $remedy"
    }

# nginx compares its nginx_version and its signature with those of a module. An
# empty module has both, so nginx can check them before the modules are built.

signature() {
    grep -a -o '[0-9],[0-9],[0-9],[01]\{30,\}' "$1" | head -n 1 | grep . \
        || echo unknown
}

printf 'objs/probe.so:\n\t$(CC) $(CFLAGS) $(ALL_INCS) -shared -o $@ %s\n' \
    "$here/probe.c" >> objs/Makefile
make -f objs/Makefile objs/probe.so > make.log 2>&1 \
    || { tail -n 20 make.log >&2; die "cannot compile. $versions"; }

cat > objs/probe.conf << END
load_module $work/objs/probe.so;
user root;
pid $work/objs/probe.pid;
events { }
END

# without NGINX in its environment, where nginx would look for inherited sockets
case $("$NGINX" -h 2>&1) in *" -e "*) log="-e stderr" ;; *) log= ;; esac
answer=$(env -u NGINX "$NGINX" -t $log -p "$work/objs" \
             -c "$work/objs/probe.conf" 2>&1) || {
    echo "$answer" >&2
    case $answer in
        *"not binary compatible"*)
            die "$versions, but their signatures differ:" \
                "$(signature "$NGINX") and $(signature objs/probe.so)." \
                "Pass the source that $binary was built from as NGINX_SOURCE," \
                "and build on the system that it was built for"
            ;;
        *) die "$versions: $remedy" ;;
    esac
}

# builds only these modules, because there may be headers without sources

modules=$(sed -n 's,^modules:.*\(objs/ngx_[a-z]*_rs_listen_module\.so\),\1,p' \
              objs/Makefile)
[ -n "$modules" ] \
    || die "$NGINX has neither stream, http nor mail: there is nothing to build"

echo "building $(echo $modules | sed 's,objs/,,g')"
make -f objs/Makefile $modules > make.log 2>&1 \
    || { tail -n 20 make.log >&2; die "make failed"; }

# A running nginx may have mapped the old file, so a new file replaces it.
for module in $modules; do
    name=${module#objs/}
    strip --strip-unneeded -o "$OUT/.$name.new" "$module"
    mv -f "$OUT/.$name.new" "$OUT/$name"
    ls -l "$OUT/$name"
done
