#!/bin/sh
# Prints the Debian mirror that DEBIAN_MIRROR names, or else the mirror that
# apt uses on this machine.

set -eu

mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' \
    'Origin: Debian' 'Component: main' 'Created-By: Packages' \
    | grep -v -e '-security/*$' | head -n 1)} || true
[ -n "$mirror" ] || {
    echo "mirror.sh: apt knows no mirror of Debian: set DEBIAN_MIRROR" >&2
    exit 1
}
echo "$mirror"
