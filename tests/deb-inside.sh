#!/bin/bash
# The steps of tests/deb.sh that run inside of a Debian release.
#
#   deb-inside.sh build     builds the packages twice on a minimal system
#   deb-inside.sh fetch     downloads the packages on which they depend
#   deb-inside.sh use       installs, uses and removes them without a network

set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
modules="./target/deb/libnginx-mod-*-rs-listen_*.deb"
library="./target/deb/libngx-rs-listen*.deb"
compiler="gcc libc6-dev pkg-config"
folder=/etc/nginx/modules-enabled

die() {
    echo "deb-inside.sh: $*" >&2
    exit 1
}

# Runs apt, and shows its output only if it fails.
quietly() {
    "$@" > /tmp/apt.log 2>&1 || {
        cat /tmp/apt.log >&2
        die "$* failed"
    }
}

build() {
    local module package abi
    tests/fresh-inside.sh deb

    # The suppressed tag concerns only packages in Debian, whose first
    # changelog entry closes the request to package the software.
    tests/packages.sh lintian
    lintian --allow-root --fail-on error,warning \
        --suppress-tags initial-upload-closes-no-bugs target/deb/*.changes

    # The version ends in the release, so that an upgrade of the system to the
    # next release also upgrades the packages. unstable has no VERSION_ID.
    . /etc/os-release
    for package in target/deb/*.deb; do
        [[ ${VERSION_ID:-} = "" \
            || $(dpkg-deb -f "$package" Version) = *~deb$VERSION_ID ]] \
            || die "$package is not for Debian $VERSION_ID"
    done

    # The ABI of the nginx for which the packages were built. Another nginx
    # would not load the modules.
    abi=$(dpkg-query -W -f '${Provides}' nginx | grep -o 'nginx-abi-[^ ,]*')
    for module in stream http mail; do
        dpkg-deb -f target/deb/libnginx-mod-$module-rs-listen_*.deb Depends \
            | tr , '\n' | grep -q "^ *$abi *\$" \
            || die "the package for $module does not depend on $abi"
    done

    echo "building them again, in another folder: every byte is the same"
    debian/build.sh target/deb-again > /dev/null
    for package in target/deb/*.deb; do
        cmp "$package" "target/deb-again/${package##*/}"
    done
}

fetch() {
    apt-get -q -y --download-only install $modules \
        && apt-get -q -y --download-only install $library $compiler
}

# Prints whether a connection is MPTCP, and the first line of the answer.
# MPTCP_INFO fails on a connection that has fallen back to TCP.
request() {
    perl -MSocket -e '
        my ($protocol, $port, $words) = @ARGV;
        alarm 10;
        socket(my $socket, AF_INET, SOCK_STREAM, $protocol) or die "socket: $!";
        connect($socket, pack_sockaddr_in($port, INADDR_LOOPBACK))
            or die "connect to port $port: $!";
        syswrite $socket, $words;
        my $line = <$socket> // die "port $port gives no answer";
        my ($SOL_MPTCP, $MPTCP_INFO) = (284, 1);
        my $info = getsockopt($socket, $SOL_MPTCP, $MPTCP_INFO);
        print defined $info ? "MPTCP: " : "TCP: ", $line;
    ' "$@"
}

answers() {
    local answer
    answer=$(request "$1" "$2" "$3" | tr -d '\r')
    [ "$answer" = "$4" ] || die "port $2 answers \"$answer\", not \"$4\""
}

# Checks that TCP and MPTCP clients are served. The argument is the protocol
# that MPTCP clients get: MPTCP or TCP.
serves() {
    local request=$'HEAD / HTTP/1.0\r\n\r\n' mptcp=$1
    answers 6 80 "$request" "TCP: HTTP/1.1 200 OK"
    answers 262 80 "$request" "$mptcp: HTTP/1.1 200 OK"
    answers 6 12345 "" "TCP: stream"
    answers 262 12345 "" "$mptcp: stream"
    answers 6 110 "" "TCP: +OK POP3 ready"
    answers 262 110 "" "$mptcp: +OK POP3 ready"
    echo "http, stream and mail answer over $mptcp"
}

# Waits until exactly the given ports have a listening MPTCP socket.
listening() {
    local ports tries
    for tries in {1..100}; do
        ports=$(ss -HlnM | awk '{ sub(".*:", "", $4); print $4 }' \
                    | sort -nu | xargs)
        [ "$ports" != "$1" ] || return 0
        sleep 0.1
    done
    die "MPTCP sockets listen on \"$ports\", not on \"$1\": $(nginx -t 2>&1)"
}

# Checks which modules are enabled. nginx loads the files that end in .conf.
# The file of a package that was removed but not purged has another ending.
enabled() {
    [ "$(cd $folder && find . -name '*rs-listen.conf' | sort | xargs)" = "$*" ] \
        || die "$folder has $(ls $folder)"
}

all_enabled() {
    enabled ./50-mod-http-rs-listen.conf ./70-mod-mail-rs-listen.conf \
        ./70-mod-stream-rs-listen.conf
}

case $1 in
    build)
        build
        exit
        ;;
    fetch)
        # Later runs use the downloaded packages.
        fetch > /tmp/apt.log 2>&1 || {
            quietly apt-get -q update
            quietly fetch
        }
        exit
        ;;
esac

# Without an init system, packages start their service only if this program
# allows it.
printf '#!/bin/sh\nexit 0\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d

echo "installing the modules, and with them nginx"
quietly apt -y install $modules
all_enabled
[ -f /run/nginx.pid ] || die "nginx was not started"
listening ""

echo "reading their manual"
for module in http stream mail; do
    page=$(dpkg -L libnginx-mod-$module-rs-listen | grep "/man5/") \
        || die "the package for $module has no manual page"
    [ "$page" = /usr/share/man/man5/ngx_${module}_rs_listen_module.5.gz ] \
        || die "the manual page for $module is $page"
done

echo "adding a word to its configuration"
sed -i 's/listen 80 default_server;/listen 80 default_server mptcp;/' \
    /etc/nginx/sites-available/default
cat >> /etc/nginx/nginx.conf << 'END'
stream {
    server {
        listen 12345 mptcp;
        return "stream\n";
    }
}
mail {
    server_name localhost;
    auth_http 127.0.0.1:80/;
    server {
        listen 110 mptcp;
        protocol pop3;
    }
}
END
nginx -t -q
quietly nginx -s reload
listening "80 110 12345"
serves MPTCP

echo "removing the modules: the running nginx goes on"
quietly apt -y remove 'libnginx-mod-*-rs-listen'
enabled
nginx -t -q 2> /tmp/refused && die "the word is known without the module"
grep -q 'invalid parameter "mptcp"' /tmp/refused || die "$(cat /tmp/refused)"
serves MPTCP

echo "installing them again"
quietly apt -y install $modules
all_enabled
nginx -t -q
serves MPTCP

echo "purging them: nginx starts without"
quietly apt -y purge 'libnginx-mod-*-rs-listen'
left=$(find /etc /usr /var/lib/dpkg -name '*rs[-_]listen*')
[ -z "$left" ] || die "purged, but there is still $left"
sed -i 's/ mptcp;/;/' /etc/nginx/nginx.conf /etc/nginx/sites-available/default
nginx -t -q
quietly service nginx restart
listening ""
serves TCP

echo "installing the library: the C program of the manual"
quietly apt -y install $library $compiler
sed -n '/^```c$/,/^```$/{ /^```c$/d; /^```$/q; p }' docs/library.md > /tmp/program.c
pages=$(dpkg -L libngx-rs-listen-dev | grep -c '/man[35]/ngx_rs_listen') \
    || die "the manual pages are missing"
[ "$pages" = 2 ] || die "there are $pages manual pages instead of 2"
flags=$(pkg-config --cflags --libs ngx_rs_listen)
cc -Wall -Wextra -Werror -o /tmp/shared /tmp/program.c $flags
flags=$(pkg-config --cflags --libs --static ngx_rs_listen)
cc -Wall -Wextra -Werror -o /tmp/static /tmp/program.c \
    ${flags/-lngx_rs_listen/-l:libngx_rs_listen.a}
[[ $(ldd /tmp/shared) = *libngx_rs_listen.so* ]] || die "linked without the .so"
[[ $(ldd /tmp/static) != *libngx_rs_listen* ]] || die "linked with the .so"
for program in shared static; do
    [ "$("/tmp/$program" | grep -c 'listens, over MPTCP$')" = 4 ] \
        || die "the program, linked $program, does not listen over MPTCP"
done
