#!/bin/sh
# Prints the mirror of Debian that the machine's own apt uses, or the one that
# DEBIAN_MIRROR names.

set -eu

mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' \
    'Origin: Debian' 'Component: main' 'Created-By: Packages' \
    | grep -v -e '-security/*$' | head -n 1)} || true
[ -n "$mirror" ] || {
    echo "mirror.sh: apt knows no mirror of Debian: set DEBIAN_MIRROR" >&2
    exit 1
}
echo "$mirror"
