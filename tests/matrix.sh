#!/bin/bash
# Runs the nginx tests with the nginx of several releases of Debian. Each
# release is a folder below target/matrix, which later runs use again. To
# download a release again, remove its folder. If a release cannot be
# downloaded, built or tested, the table at the end reports it, and the script
# fails.
#
#   matrix.sh [RELEASE...]

set -euo pipefail
cd "$(dirname "$0")/.."

# The nginx version of each release. sid changes with Debian's unstable
# release.
declare -A versions=([bullseye]=1.18 [bookworm]=1.22 [trixie]=1.26 [sid]=1.30)
logs=target/matrix
format='%-9s %-9s %-8s %7s %7s %6s  %s\n'
table=
failed=0

# Prints what a pattern captures in the last matching line of a log.
captured() {
    sed -n "s,$2,\1,p" "$1" | tail -n 1
}

run() {
    local release=$1 modules=$2 began=$SECONDS log=$logs/$1-$2.log
    local version passed broken note= root=$1
    case $modules in
        built)
            root="-fn $release-fresh"
            rm -rf "$logs/$release-fresh.target"
            ;;
        arm64)
            root=$release-arm64
            tests/packages.sh qemu-user-static
            ;;
    esac
    echo "nginx of Debian $release, modules $modules: see $log"
    tests/root.sh $root tests/matrix-inside.sh "$modules" > "$log" 2>&1 || {
        failed=1
        note="failed: $(grep -v '^make: ' "$log" | tail -n 1)"
        sed -n 's/^test \(.*\) \.\.\. FAILED$/    failed: \1/p' "$log"
    }
    note+=$(captured "$log" '^remark: \(.*\)')
    version=$(captured "$log" '^nginx version: nginx/\([0-9.]*\).*')
    passed=$(captured "$log" '^test result: .* \([0-9]*\) passed.*')
    broken=$(captured "$log" '^test result: .* \([0-9]*\) failed.*')
    [[ -z $version || $version = "${versions[$release]:-}"* ]] \
        || note="$note (no longer ${versions[$release]})"
    table+=$(printf "$format" "${version:--}" "$release" "$modules" \
        "${passed:--}" "${broken:--}" "$((SECONDS - began)) s" "$note")$'\n'
}

mkdir -p "$logs"
cargo fetch --locked --quiet

[ $# != 0 ] || set -- bullseye bookworm trixie sid

for release do
    run "$release" loaded
    case $release in
        bookworm | sid) run "$release" linked ;;
        trixie)
            run "$release" built
            run "$release" arm64
            ;;
    esac
done

echo
printf "$format" nginx Debian modules passed failed time ''
printf '%s' "$table"
exit "$failed"
