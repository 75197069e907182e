//! Every input of fuzz/corpus, and every line of tests/data, goes through what
//! the fuzz target does with it: `make fuzz` has found them worth keeping.

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;

use test_support::table;

/// The inputs of a target: a line of hexadecimal digits each.
fn replay(corpus: &str, run: fn(&[u8])) {
    for line in corpus.lines() {
        // A failure that aborts leaves no other trace of its input.
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

/// The lines of tests/data as inputs.
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
