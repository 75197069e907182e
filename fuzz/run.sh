#!/usr/bin/env bash
# Fuzzes the targets that are named, or all, for FUZZ_SECONDS each, beginning
# with fuzz/corpus and the lines of tests/data, and says how many inputs that
# were: all targets in all of the usual time have to execute 10 million. What
# makes a target fail is kept in fuzz/artifacts. With FUZZ_SAVE=1 fuzz/corpus is
# made anew: as few inputs as reach all that was reached, a line each.

set -euo pipefail
cd "$(dirname "$0")"

# libFuzzer's instrumentation is an unstable option of rustc; a stable rustc has
# it with this.
export RUSTC_BOOTSTRAP=1
# A later version may need a later Rust.
command -v cargo-fuzz > /dev/null \
    || cargo install --quiet --locked cargo-fuzz --version 0.13.2

usual=120
seconds=${FUZZ_SECONDS:-$usual}
least=0
[ $# -gt 0 ] || [ "$seconds" -lt $usual ] || least=10000000
executed=0

# Writes each input of a corpus to a file of its own.
unpack() {
    local number=0
    sed 's/../\\x&/g' "$1" | while read -r bytes; do
        number=$((number + 1))
        printf "$bytes" > "$2/$number"
    done
}

# The other way round.
pack() {
    for file in "$1"/*; do
        od -An -v -tx1 "$file" | tr -d ' \n'
        echo
    done | sort
}

# The lines of tests/data, quotes aside: the subsystem, then a word a line.
seed() {
    local number=0
    sed -n 's/^[a-z,]*: \(.*\) => .*/\1/p' ../tests/data/*.txt | tr -d '"' \
        | while read -r words; do
            number=$((number + 1))
            printf '%s%s' $((number % 3)) "${words// /$'\n'}" > "$1/seed-$number"
        done
}

for target in ${*:-parse print capi open}; do
    found=target/found/$target
    mkdir -p "$found"
    unpack "corpus/$target.hex" "$found"
    case $target in parse | print) seed "$found" ;; esac
    cargo fuzz build --fuzz-dir . "$target"
    # What the kernel says of MPTCP connections depends on its version.
    case $target in capi) kernels="5.6 5.16 6.5" ;; *) kernels=6.5 ;; esac
    for kernel in $kernels; do
        FUZZ_KERNEL=$kernel cargo fuzz run --fuzz-dir . "$target" "$found" -- \
            -max_total_time="$seconds" -timeout=5 -max_len=512 \
            -print_funcs=0 -print_final_stats=1 2>&1 \
            | grep -v -e '^#[0-9]*\s*\(NEW\|REDUCE\|pulse\|RELOAD\)' \
                -e '# Uses:' \
            | tee target/said
        units=$(sed -n 's/^stat::number_of_executed_units: *//p' target/said)
        executed=$((executed + units))
    done
    [ -n "${FUZZ_SAVE:-}" ] || continue
    rm -rf target/minimal
    mkdir target/minimal
    cargo fuzz run --fuzz-dir . "$target" target/minimal "$found" -- \
        -merge=1 -max_len=512 -use_counters=0 2>&1 | tail -n 1
    pack target/minimal > "corpus/$target.hex"
done

echo "executed $executed inputs"
[ $executed -ge $least ] || {
    echo "run.sh: these are fewer than $least" >&2
    exit 1
}
