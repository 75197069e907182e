#!/bin/bash
# The part of tests/kernels.sh that runs inside of the guest: runs the test
# programs of a list. Each line of the list is a name and a path.
#
#   kernels-inside.sh LIST [ARGUMENT OF THE TEST PROGRAMS...]

set -u

list=$1
shift
status=0

# More threads than processors, because most tests wait more than they compute.
threads=4
run() {
    echo "suite: $1"
    timeout 2400 "$2" --color never --test-threads "$threads" "${@:3}" || status=1
}

leave_out() {
    printf 'left out: %s\n' "$@"
}

# Leaves out the tests that can only fail on a kernel without MPTCP, because
# they or threads that they start open MPTCP sockets.
run_without_mptcp() {
    case $1 in
        ngx_rs_listen)
            leave_out "ngx_rs_listen capi::tests::"
            run "$@" --skip capi::tests::
            ;;
        nginx)
            leave_out "nginx changes::" "nginx together::"
            run "$@" --skip changes:: --skip together::
            ;;
        open)
            leave_out "open, but for not_built_in, too_old, other_protocols"
            run "$1" "$2" not_built_in too_old other_protocols
            ;;
        *) leave_out "$1" ;;
    esac
}

# The names of the tests that ended early in this way, without the subsystem.
ended() {
    sed -n "s/^$1: //p" "$NGX_RS_WITHOUT_MPTCP" \
        | sed 's/::\(stream\|http\|mail\)$//' | sort -u
}

count() {
    grep -c "^$1: " "$NGX_RS_WITHOUT_MPTCP"
}

echo "kernel: $(uname -r)"
run=run
if [ ! -e /proc/sys/net/mptcp ]; then
    run=run_without_mptcp
    export NGX_RS_WITHOUT_MPTCP=/run/without_mptcp
    touch "$NGX_RS_WITHOUT_MPTCP"
fi

# Compares the version as tests/support/src/linux.rs does.
is_before() {
    [ "$(printf '%s\n' "$1" "$(uname -r)" | sort -V | head -n 1)" != "$1" ]
}

# The features that this kernel must have. IPPROTO_SMC is new in Linux 6.11.
export NGX_RS_KERNEL_HAS="sctp vrf"
is_before 6.11 || NGX_RS_KERNEL_HAS+=" smc"

# These tests compare times and speeds of the kernel with those of a link, so a
# complete run executes them after the others and one at a time.
alone="bonding:: per_path::"
case ${1:---skip} in
    --skip) whole=$(printf -- '--skip %s ' $alone) ;;
    *) whole= ;;
esac

while read -r name program <&3; do
    "$run" "$name" "$program" $whole "$@"
done 3< "$list"

if [ -n "$whole" ] && [ "$run" = run ]; then
    threads=1
    run nginx "$(sed -n 's/^nginx //p' "$list")" $alone "$@"
fi

if [ -v NGX_RS_WITHOUT_MPTCP ]; then
    echo "lacks: MPTCP: nginx refused it in $(count refused) tests," \
        "$(count 'not run') ended where they need it"
    ended 'not run' | sed 's/^/left out, from where it needs MPTCP: /'
    ended refused | sed 's/^/left out, from where nginx refuses MPTCP: /'
elif is_before 6.5; then
    echo "lacks: counts of bytes, segments, subflows; times; TCP_FASTOPEN"
elif is_before 6.10; then
    echo "lacks: times"
fi
exit "$status"
