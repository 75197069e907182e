#!/bin/sh
# Unpacks Debian's source of the installed nginx into a folder, unless the
# folder exists. The source comes from the same mirrors as the packages.
#
#   nginx-source.sh FOLDER      creates FOLDER with configure and the source

set -eu

folder=$1
[ ! -f "$folder/configure" ] || exit 0

version=$(dpkg-query -W -f '${source:Version}' nginx)
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
chmod 755 "$work"

# The package sources of this machine, changed to sources of source packages.
apt-get indextargets --format '$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)' \
    'Created-By: Packages' | sed -n 's/^Debian /deb-src /p' | sort -u \
    > "$work/sources.list"

apt="apt-get -q -o Dir::Etc::SourceList=$work/sources.list
     -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists=$work/lists"
cd "$work"
mkdir -p lists/partial
$apt update > log 2>&1 || { tail log >&2; exit 1; }
# Only the upstream tar file, because nginx's own configure needs nothing else.
$apt source --download-only --tar-only "nginx=$version" > log 2>&1 \
    || {
        tail log >&2
        echo "nginx-source.sh: no source of nginx $version to fetch" >&2
        exit 1
    }
tar -x -f nginx_*.orig.tar.* -C "$folder" --strip-components=1
