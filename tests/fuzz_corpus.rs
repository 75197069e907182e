//! Runs each fuzz target with every input of fuzz/corpus and every line of tests/data. `make
//! fuzz` has collected the inputs, which reach different parts of the code.

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;

use test_support::table;

/// Runs a target with its inputs. Each input is a line of hexadecimal digits.
fn replay(corpus: &str, run: fn(&[u8])) {
    for line in corpus.lines() {
        // If the target aborts the process, this line is the only record of the input.
        println!("{line}");
        run(&bytes(line).expect("hexadecimal digits"));
    }
    let count = corpus.lines().count();
    assert!(count > 100, "{count} inputs only");
}

fn bytes(line: &str) -> Option<Vec<u8>> {
    let pair = |at| u8::from_str_radix(line.get(at..at + 2)?, 16).ok();
    (0..line.len()).step_by(2).map(pair).collect()
}

/// Runs a target with the lines of tests/data.
fn lines(run: fn(&[u8])) {
    for text in [
        include_str!("data/accepted.txt"),
        include_str!("data/rejected.txt"),
    ] {
        for line in table::lines(text) {
            for first in b'0'..b'6' {
                run(&[&[first], line.words.join("\n").as_bytes()].concat());
            }
        }
    }
}

#[test]
fn parse() {
    lines(bodies::parse::run);
    replay(include_str!("../fuzz/corpus/parse.hex"), bodies::parse::run);
}

#[test]
fn print() {
    lines(bodies::print::run);
    replay(include_str!("../fuzz/corpus/print.hex"), bodies::print::run);
}

#[test]
fn capi() {
    replay(include_str!("../fuzz/corpus/capi.hex"), bodies::capi::run);
}

#[test]
fn open() {
    replay(include_str!("../fuzz/corpus/open.hex"), bodies::open::run);
}
