#!/usr/bin/env bash
# Fuzzes the named targets, or all of them, for FUZZ_SECONDS each, and prints
# the number of executed inputs. The first inputs are fuzz/corpus and the
# lines of tests/data. If all targets run for the default time, they must
# execute 10 million inputs. An input that makes a target fail is stored in
# fuzz/artifacts. FUZZ_SAVE=1 replaces fuzz/corpus by the smallest set of
# inputs that reaches the same code, with one input on each line.

set -euo pipefail
cd "$(dirname "$0")"

# The instrumentation for libFuzzer is an unstable option of rustc, which a
# stable rustc accepts with this variable.
export RUSTC_BOOTSTRAP=1
# The version is fixed, because a later one may need a later Rust.
command -v cargo-fuzz > /dev/null \
    || cargo install --quiet --locked cargo-fuzz --version 0.13.2

usual=120
seconds=${FUZZ_SECONDS:-$usual}
least=0
[ $# -gt 0 ] || [ "$seconds" -lt $usual ] || least=10000000
executed=0

# Writes each input of a corpus file to a separate file.
unpack() {
    local number=0
    sed 's/../\\x&/g' "$1" | while read -r bytes; do
        number=$((number + 1))
        printf "$bytes" > "$2/$number"
    done
}

# Writes separate input files to a corpus file.
pack() {
    for file in "$1"/*; do
        od -An -v -tx1 "$file" | tr -d ' \n'
        echo
    done | sort
}

# Makes inputs of the lines of tests/data without quotes: the subsystem, then
# one word on each line.
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
    # What the kernel reports of MPTCP connections depends on its version.
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
