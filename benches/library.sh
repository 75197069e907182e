#!/bin/bash
#
# Measures the library: opening sockets, compared with a bare loop of system
# calls, and parsing.

set -eu -o pipefail

cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
out=$target/bench

for tool in cargo cc valgrind; do
    command -v $tool > /dev/null || { echo "$0: $tool is needed" >&2; exit 1; }
done

cargo rustc --quiet --release --locked --lib --crate-type cdylib,staticlib
mkdir -p "$out"
for name in open parse; do
    cc -std=c99 -O2 -Wall -Wextra -Wpedantic -Werror -Iinclude \
        benches/$name.c "$target/release/libngx_rs_listen.a" \
        -o "$out/$name" -lpthread -ldl
done

# Valgrind counts the instructions of N and of 2N rounds. The difference is the
# number for N rounds without start and end of the program.
instructions() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null \
        "$out/parse" "$1" 2>&1 | sed -n 's/.*Collected : \([0-9]*\).*/\1/p'
}
allocations() {
    valgrind "$out/parse" "$1" 2>&1 \
        | sed -n 's/.*total heap usage: \([0-9,]*\) allocs.*/\1/p' | tr -d ,
}
per_round() {
    local once twice
    once=$($1 1000)
    twice=$($1 2000)
    echo $(((twice - once) / 1000))
}

nanoseconds=$("$out/parse")
echo "parse a listen directive of 6 words: $nanoseconds ns," \
    "$(per_round instructions) instructions," \
    "$(per_round allocations) allocations"

"$out/open"
