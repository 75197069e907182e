#!/bin/bash
# A line of tests/kernels.sh, inside the guest: runs the test programs of a
# list, each line of which is a name and a path.
#
#   kernels-inside.sh LIST [ARGUMENT OF THE TEST PROGRAMS...]

set -u

list=$1
shift
status=0

echo "kernel: $(uname -r)"
while read -r name program <&3; do
    echo "suite: $name"
    # Most tests wait more than they compute.
    timeout 2400 "$program" --color never --test-threads 4 "$@" || status=1
done 3< "$list"
exit "$status"
