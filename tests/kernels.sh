#!/bin/bash
# Runs the tests of the library and of nginx on the kernels of several releases
# of Debian, one after the other, each in QEMU: see tests/kernel.sh. The tests
# are built before, on the kernel of this machine. If a kernel cannot be
# downloaded, booted or tested, the table at the end reports it, and the script
# fails.
#
#   kernels.sh [RELEASE...]
#
# TESTS are arguments for the test programs, for example a part of a test name.

set -euo pipefail
cd "$(dirname "$0")/.."

# The kernel version of each release. sid changes with Debian's unstable
# release.
declare -A versions=([bullseye]=5.10 [bookworm]=6.1 [trixie]=6.12 [sid]=7.)

# The tests that depend on the kernel. The others have the same result on each.
suites='ngx_rs_listen|agreement|capi|connection|handover|nginx|open'
# The emulated processor is too slow for these.
skipped="memory:: soak:: sweep:: threads two_links_carry_a_download_faster
         we_accept_what_nginx_accepts a_worker_that_cannot_watch_an_old_socket
         over_two_links"

logs=target/kernels
list=$logs/tests
format='%-9s %-22s %7s %7s %6s  %s\n'
table=
left_out=
failed=0

# The sum of the numbers that a pattern captures in a log.
sum() {
    sed -n "s/$2/\1/p" "$1" | awk '{ n += $1 } END { print NR ? n : "-" }'
}

# Shows progress: each suite, each failed test, and some of the other tests.
progress() {
    awk '{ sub(/\r$/, "") }
         /^suite: / { suite = $2; tests = 0 }
         / \.\.\. FAILED$/ { print "    failed: " suite " " $2 }
         / \.\.\. ok$/ && ++tests % 50 == 0 { print "    " suite ": " tests " passed" }
         /^test result: / { print "    " suite ": " $4, $5, $6, $7 }
         { fflush() }'
}

run() {
    local release=$1 began=$SECONDS log=$logs/$1.log version note=
    echo "kernel of Debian $release: see $log"
    tests/kernel.sh "$release" tests/kernels-inside.sh "$list" $TESTS $options \
        < /dev/null 2>&1 | tee "$log" | progress || {
        failed=1
        note=$(sed -n 's/^kernel.sh: \(.*\)/failed: \1; /p' "$log" | tail -n 1)
    }
    version=$(sed -n 's/^kernel: //p' "$log")
    note+=$(sed -n 's/^lacks: //p' "$log")
    for protocol in sctp smc; do
        if grep -q "this kernel lacks $protocol" "$log"; then
            note+=${note:+; }$protocol
        fi
    done
    left_out+=$(sed -n "s/^left out\(.*\)/$release: left out\1/p" "$log")$'\n'
    [[ -z $version || $version = "${versions[$release]:-}"* ]] \
        || note="$note (no longer ${versions[$release]})"
    table+=$(printf "$format" "$release" "${version:--}" \
        "$(sum "$log" '^test result: .* \([0-9]*\) passed.*')" \
        "$(sum "$log" '^test result: .* \([0-9]*\) failed.*')" \
        "$(((SECONDS - began) / 60)) min" "$note")$'\n'
}

mkdir -p "$logs"
TESTS=${TESTS:-}
# The libraries that the tests link. The tests would otherwise build them in
# the guest.
cargo rustc --quiet --locked --release --lib --crate-type cdylib,staticlib
cargo test --locked --no-run --message-format=json \
    | sed -n 's/.*"name":"\([^"]*\)".*"executable":"\([^"]*\)".*/\1 \2/p' \
    | grep -E "^($suites) " > "$list"

[ $# != 0 ] || set -- bullseye bookworm trixie sid
echo "left out, as too slow in QEMU:" $skipped
options=$(printf -- '--skip %s ' $skipped)

for release do
    run "$release"
done

echo
printf "$format" Debian kernel passed failed time 'what the kernel lacks'
printf '%s' "$table"
echo
echo "left out on all, as too slow in QEMU:" $skipped
printf '%s' "$left_out" | grep . || true
exit "$failed"
