#!/bin/bash
# Runs targets of the Makefile on a minimal Debian with nothing installed
# except `make`, each target in its own folder. Debian 12 uses the Rust of
# this machine, later releases use the Rust that apt installs.
#
#   fresh.sh [RELEASE...]       with TARGETS in the environment

set -euo pipefail
cd "$(dirname "$0")/.."

logs=target/matrix
format='%-9s %-8s %-8s %6s  %s\n'
table=
failed=0

run() {
    local release=$1 target=$2 began=$SECONDS log=$logs/fresh-$1-$2.log
    local rust note=
    echo "make $target on a minimal Debian $release: see $log"
    rm -rf "$logs/$release-fresh.target"
    tests/root.sh -fn "$release-fresh" tests/fresh-inside.sh "$target" \
        > "$log" 2>&1 || {
        failed=1
        note="failed: $(grep -v '^make: ' "$log" | tail -n 1)"
    }
    rust=$(sed -n 's/^rustc \([0-9.]*\).*/\1/p' "$log" | head -n 1)
    table+=$(printf "$format" "$release" "${rust:--}" "$target" \
        "$((SECONDS - began)) s" "$note")$'\n'
}

mkdir -p "$logs"
cargo fetch --locked --quiet

[ $# != 0 ] || set -- bookworm trixie

for release do
    for target in ${TARGETS:-build install module deb demo test}; do
        run "$release" "$target"
    done
done

echo
printf "$format" Debian Rust target time ''
printf '%s' "$table"
exit "$failed"
